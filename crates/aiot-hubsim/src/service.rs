//! The service: deployments, device twins and what becomes of them.
//!
//! Sources: docs of IoT Hub (quotas and throttling, device twins, automatic deployments at scale) and the service
//! description of its REST interface. What is inferred says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use aiot_iothub::Condition;
use aiot_iothub::ring::WAVE_TAG;
use aiot_iothub::rollout::declared::images;
use aiot_iothub::rollout::{
    Device, Hub, HubDeployment, HubError, HubErrorKind, Snapshot, WaveTag, effective,
};
use serde_json::{Value, json};
use thiserror::Error;

use crate::fleet::{Behaviour, Desired, Fleet};

/// Calls that create, change, list or delete deployments, per minute and unit of S1.
pub const CONFIGURATION_CALLS_PER_MINUTE: usize = 20;
/// Lines that the log keeps.
pub const LOG_LIMIT_LINES: usize = 100_000;
/// Merged contents that are kept; a fleet has few sets of deployments at a time.
const MERGED_LIMIT: usize = 10_000;

/// An answer other than success.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{status} {code}: {message}")]
pub struct ServiceError {
    /// HTTP status.
    pub status: u16,
    /// The hub's name of the error.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

fn error(status: u16, code: &'static str, message: impl Into<String>) -> ServiceError {
    ServiceError {
        status,
        code,
        message: message.into(),
    }
}

impl ServiceError {
    /// As a caller of [`Hub`] sees it.
    pub fn to_hub_error(&self, call: &str) -> HubError {
        let kind = match (self.status, self.code) {
            (409, "ConfigurationAlreadyExists") => HubErrorKind::Exists,
            (412, _) => HubErrorKind::Stale,
            (404, _) => HubErrorKind::Missing,
            (429 | 500..=599, _) => HubErrorKind::Retry,
            _ => HubErrorKind::Refused,
        };
        HubError {
            kind,
            call: call.to_owned(),
            message: self.to_string(),
        }
    }
}

/// A deployment before and after a call that was obeyed.
#[derive(Clone, Debug)]
pub struct Change {
    /// None: it was created.
    pub before: Option<HubDeployment>,
    /// None: it was deleted.
    pub after: Option<HubDeployment>,
}

/// A hub with its fleet.
#[derive(Clone, Debug)]
pub struct Service {
    /// The hub's clock, seconds since 1970.
    pub now_secs: u64,
    /// Most deployments.
    pub deployment_limit: u64,
    /// The devices.
    pub fleet: Fleet,
    /// Calls that were refused since there were too many.
    pub throttled: u64,
    /// Calls to deployments that are taken in a minute of the hub's clock.
    pub calls_per_minute: usize,
    /// One line per change, for the story of a failure; the oldest are dropped beyond [`LOG_LIMIT_LINES`].
    pub log: VecDeque<String>,
    /// Every change of a deployment, for whoever judges callers; none: nobody does.
    pub journal: Option<Vec<Change>>,
    deployments: BTreeMap<String, HubDeployment>,
    conditions: BTreeMap<String, Option<Condition>>,
    /// Merged contents by the deployments that match: contents never change, so neither does this.
    merged: BTreeMap<Vec<(String, u32)>, Arc<Desired>>,
    etag: u64,
    calls: VecDeque<u64>,
}

impl Service {
    /// A hub without deployments.
    pub fn new(fleet: Fleet, now_secs: u64) -> Service {
        Service {
            now_secs,
            deployment_limit: aiot_iothub::limits::DEPLOYMENTS,
            fleet,
            throttled: 0,
            calls_per_minute: CONFIGURATION_CALLS_PER_MINUTE,
            log: VecDeque::new(),
            journal: None,
            deployments: BTreeMap::new(),
            conditions: BTreeMap::new(),
            merged: BTreeMap::new(),
            etag: 0,
            calls: VecDeque::new(),
        }
    }

    /// All deployments, without counting as a call.
    pub fn peek(&self) -> impl Iterator<Item = &HubDeployment> {
        self.deployments.values()
    }

    fn call(&mut self) -> Result<(), ServiceError> {
        while self.calls.front().is_some_and(|time| time + 60 <= self.now_secs) {
            self.calls.pop_front();
        }
        if self.calls.len() >= self.calls_per_minute {
            self.throttled += 1;
            return Err(error(429, "ThrottlingException", "too many requests"));
        }
        self.calls.push_back(self.now_secs);
        Ok(())
    }

    /// `GET /configurations`
    ///
    /// # Errors
    /// 429.
    pub fn list(&mut self) -> Result<Vec<HubDeployment>, ServiceError> {
        self.call()?;
        Ok(self.deployments.values().cloned().collect())
    }

    /// `PUT /configurations/{id}`: creates without `if_match`, else replaces all but the content.
    ///
    /// # Errors
    /// 400, 409, 412, 413, 429, each with the hub's code.
    pub fn put(
        &mut self,
        wanted: &HubDeployment,
        if_match: Option<&str>,
    ) -> Result<HubDeployment, ServiceError> {
        self.call()?;
        let id = &wanted.id;
        let allowed =
            |c: char| !c.is_ascii_uppercase() && !c.is_whitespace() && !"&^[]{}\\|\"<>/".contains(c);
        if id.is_empty() || id.chars().count() > 128 || !id.chars().all(allowed) {
            return Err(error(400, "ArgumentInvalid", format!("id `{id}`")));
        }
        if !wanted.condition.is_empty()
            && let Err(reason) = wanted.condition.parse::<Condition>()
        {
            return Err(error(
                400,
                "InvalidConfigurationTargetCondition",
                reason.to_string(),
            ));
        }
        if wanted.metrics.len() > 5 {
            return Err(error(
                400,
                "InvalidConfigurationCustomMetricsQuery",
                "more than 5 metrics",
            ));
        }
        if wanted.content.pointer("/modulesContent/$edgeAgent").is_none() {
            return Err(error(400, "InvalidConfigurationContent", "no $edgeAgent"));
        }
        let created_secs = match (self.deployments.get(id), if_match) {
            // An update without a usable If-Match counts as a create (inferred from the SDK's issue 983).
            (Some(_), None) => {
                return Err(error(409, "ConfigurationAlreadyExists", format!("`{id}` exists")));
            }
            (Some(there), Some(etag)) if etag != "*" && etag != there.etag => {
                return Err(error(
                    412,
                    "PreconditionFailed",
                    format!("ETag mismatch for `{id}`"),
                ));
            }
            (Some(there), Some(_)) if there.content != wanted.content => {
                return Err(error(
                    400,
                    "CannotModifyImmutableConfigurationContent",
                    format!("`{id}`"),
                ));
            }
            (Some(there), Some(_)) => there.created_secs,
            (None, Some(_)) => return Err(error(412, "PreconditionFailed", format!("`{id}` is gone"))),
            (None, None) if self.deployments.len() as u64 >= self.deployment_limit => {
                return Err(error(
                    413,
                    "ConfigurationCountLimitExceeded",
                    "too many configurations",
                ));
            }
            (None, None) => self.now_secs,
        };
        self.etag += 1;
        let stored = HubDeployment {
            etag: format!("e{}", self.etag),
            created_secs,
            ..wanted.clone()
        };
        let text = format!(
            "put {id} `{}` priority {} {:?}",
            stored.condition, stored.priority, stored.labels
        );
        let before = self.deployments.insert(id.clone(), stored.clone());
        self.note(before, Some(stored.clone()));
        self.changed(text);
        Ok(stored)
    }

    /// `DELETE /configurations/{id}`
    ///
    /// # Errors
    /// 404, 412, 429.
    pub fn delete(&mut self, id: &str, if_match: Option<&str>) -> Result<(), ServiceError> {
        self.call()?;
        let there = self
            .deployments
            .get(id)
            .ok_or_else(|| error(404, "ConfigurationNotFound", id))?;
        if if_match.is_some_and(|etag| etag != "*" && etag != there.etag) {
            return Err(error(
                412,
                "PreconditionFailed",
                format!("ETag mismatch for `{id}`"),
            ));
        }
        let before = self.deployments.remove(id);
        self.note(before, None);
        self.changed(format!("delete {id}"));
        Ok(())
    }

    /// `PATCH /twins/{id}`: lays `tags` over the device's; null deletes.
    ///
    /// # Errors
    /// 404.
    pub fn patch_tags(&mut self, device: &str, tags: &Value) -> Result<(), ServiceError> {
        let found = self
            .fleet
            .devices
            .get_mut(device)
            .ok_or_else(|| error(404, "DeviceNotFound", device))?;
        overlay(&mut found.tags, tags);
        self.told(format!("tags of {device} {tags}"));
        self.evaluate(device);
        Ok(())
    }

    /// `POST /devices/{id}/applyConfigurationContent`: content for one device, without a deployment. The next deployment
    /// that the hub finds for the device takes its place (inferred; docs say that both must not be mixed).
    ///
    /// # Errors
    /// 404, and 400 for content without an agent.
    pub fn apply_content(&mut self, device: &str, content: &Value) -> Result<(), ServiceError> {
        let found = self
            .fleet
            .devices
            .get_mut(device)
            .ok_or_else(|| error(404, "DeviceNotFound", device))?;
        let alone = HubDeployment {
            content: Arc::new(content.clone()),
            condition: "*".to_owned(),
            ..HubDeployment::default()
        };
        let invalid = || {
            error(
                400,
                "InvalidConfigurationContent",
                "The content provided for configuration is invalid. Please check and try again",
            )
        };
        let Ok(Some((_, merged))) = effective(std::iter::once(&alone)) else {
            return Err(invalid());
        };
        found.give(Arc::new(Desired {
            deployments: BTreeSet::new(),
            images: images(&merged.to_content()),
            merged,
        }));
        self.told(format!("content for {device} alone"));
        Ok(())
    }

    /// Devices as their twins show them.
    pub fn devices(&self) -> Vec<Device> {
        self.fleet.devices.values().map(|device| device.twin()).collect()
    }

    /// Lets virtual time pass; devices pull, start, fail and report.
    pub fn pass(&mut self, secs: u64) {
        self.now_secs += secs;
        self.fleet.pass(self.now_secs, secs);
    }

    /// A device's tags change by somebody else's hand: it moves to another plant.
    pub fn move_device(&mut self, device: &str, key: &str, value: Value) {
        // A device that is not there stays so.
        let _ = self.patch_tags(device, &json!({ key: value }));
    }

    /// Ids of the deployments that the hub merges for a device, and the images it then shall run, by module.
    pub fn desired(&mut self, device: &str) -> (BTreeSet<String>, BTreeMap<String, String>) {
        let desired = self.desired_of(device);
        (desired.deployments.clone(), desired.images.clone())
    }

    fn desired_of(&mut self, device: &str) -> Arc<Desired> {
        let Some(found) = self.fleet.devices.get(device) else {
            return Default::default();
        };
        let conditions = &mut self.conditions;
        let matching: Vec<&HubDeployment> = self
            .deployments
            .values()
            .filter(|deployment| match conditions.get(&deployment.condition) {
                Some(condition) => condition
                    .as_ref()
                    .is_some_and(|one| one.matches(&found.id, &found.tags)),
                None => {
                    let condition: Option<Condition> = deployment.condition.parse().ok();
                    let matches = condition
                        .as_ref()
                        .is_some_and(|one| one.matches(&found.id, &found.tags));
                    conditions.insert(deployment.condition.clone(), condition);
                    matches
                }
            })
            .collect();
        let key = matching
            .iter()
            .map(|one| (one.id.clone(), one.priority))
            .collect();
        let merge = || match effective(matching.iter().copied()) {
            Ok(Some((used, merged))) => Arc::new(Desired {
                deployments: used.iter().map(|one| one.id.clone()).collect(),
                images: images(&merged.to_content()),
                merged,
            }),
            _ => Arc::default(),
        };
        if self.merged.len() > MERGED_LIMIT {
            self.merged.clear();
        }
        Arc::clone(self.merged.entry(key).or_insert_with(merge))
    }

    fn note(&mut self, before: Option<HubDeployment>, after: Option<HubDeployment>) {
        if let Some(journal) = &mut self.journal {
            journal.push(Change { before, after });
        }
    }

    /// Somebody saves a deployment as it is, in the portal: it gets another ETag, and nothing else changes.
    pub fn touch(&mut self, id: &str) {
        if let Some(found) = self.deployments.get_mut(id) {
            self.etag += 1;
            found.etag = format!("e{}", self.etag);
            self.told(format!("somebody saves {id} as it is"));
        }
    }

    /// A device joins the hub.
    pub fn join(&mut self, id: &str, tags: Value, behaviour: Behaviour) {
        self.fleet.add(id, tags, behaviour);
        self.told(format!("{id} joins"));
        self.evaluate(id);
    }

    /// A device leaves the hub.
    pub fn leave(&mut self, id: &str) {
        self.fleet.devices.remove(id);
        self.told(format!("{id} leaves"));
    }

    pub(crate) fn told(&mut self, text: String) {
        let line = format!("{} {text}", aiot_iothub::quiet::time_text(self.now_secs));
        self.log.push_back(line);
        if self.log.len() > LOG_LIMIT_LINES {
            self.log.pop_front();
        }
    }

    /// Gives a device what now is meant for it.
    fn evaluate(&mut self, id: &str) {
        let desired = self.desired_of(id);
        if let Some(device) = self.fleet.devices.get_mut(id) {
            device.desire(desired);
        }
    }

    /// The hub evaluates all conditions again, at once; the real one takes up to five minutes.
    fn changed(&mut self, text: String) {
        self.told(text);
        let ids: Vec<String> = self.fleet.devices.keys().cloned().collect();
        for id in ids {
            self.evaluate(&id);
        }
    }
}

/// Lays a patch over a document as twins do: null removes.
pub(crate) fn overlay(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(entries) => {
            if !target.is_object() {
                *target = json!({});
            }
            let Value::Object(map) = target else { return };
            for (key, value) in entries {
                if value.is_null() {
                    map.remove(key);
                } else {
                    overlay(map.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        other => *target = other.clone(),
    }
}

/// A hub that is called without a network in between, with calls paced below the throttle.
pub struct Direct<'a> {
    /// The hub.
    pub service: &'a mut Service,
    /// Whether calls keep below the throttle by themselves.
    pub pacer: Option<Pacer>,
}

/// Keeps calls below a rate: the rate of the service, counted by the caller.
#[derive(Clone, Debug, Default)]
pub struct Pacer {
    calls: VecDeque<u64>,
}

impl Pacer {
    /// Seconds to wait before a call at `now_secs`; counts the call as made then.
    pub fn pause_secs(&mut self, now_secs: u64) -> u64 {
        while self.calls.front().is_some_and(|time| time + 60 <= now_secs) {
            self.calls.pop_front();
        }
        let pause = match self.calls.len() >= CONFIGURATION_CALLS_PER_MINUTE {
            true => self.calls[self.calls.len() - CONFIGURATION_CALLS_PER_MINUTE] + 60 - now_secs,
            false => 0,
        };
        self.calls.push_back(now_secs + pause);
        pause
    }
}

impl Direct<'_> {
    fn pace(&mut self) {
        if let Some(pacer) = &mut self.pacer {
            let pause_secs = pacer.pause_secs(self.service.now_secs);
            self.service.now_secs += pause_secs;
        }
    }
}

impl Hub for Direct<'_> {
    fn snapshot(&mut self) -> Result<Snapshot, HubError> {
        let deployments = self.deployments()?;
        Ok(Snapshot {
            now_secs: self.service.now_secs,
            deployments,
            devices: self.service.devices(),
            deployment_limit: self.service.deployment_limit,
        })
    }

    fn deployments(&mut self) -> Result<Vec<HubDeployment>, HubError> {
        self.pace();
        self.service.list().map_err(|error| error.to_hub_error("list"))
    }

    fn create(&mut self, deployment: &HubDeployment) -> Result<(), HubError> {
        self.pace();
        let call = format!("create {}", deployment.id);
        self.service
            .put(deployment, None)
            .map(|_| ())
            .map_err(|error| error.to_hub_error(&call))
    }

    fn update(&mut self, deployment: &HubDeployment) -> Result<String, HubError> {
        self.pace();
        let call = format!("update {}", deployment.id);
        let result = self.service.put(deployment, Some(&deployment.etag));
        result
            .map(|stored| stored.etag)
            .map_err(|error| error.to_hub_error(&call))
    }

    fn delete(&mut self, id: &str, etag: &str) -> Result<(), HubError> {
        self.pace();
        self.service
            .delete(id, Some(etag))
            .map_err(|error| error.to_hub_error(&format!("delete {id}")))
    }

    fn tag_waves(&mut self, waves: &[WaveTag<'_>], done: &mut dyn FnMut(usize)) -> Result<(), HubError> {
        for (index, tag) in waves.iter().enumerate() {
            let result = self
                .service
                .patch_tags(tag.device, &json!({ WAVE_TAG: tag.wave }));
            match result.map_err(|error| error.to_hub_error(&format!("tag {}", tag.device))) {
                Err(error) if error.kind != HubErrorKind::Missing => return Err(error),
                _ => done(index),
            }
        }
        Ok(())
    }

    fn wait(&mut self, secs: u64) {
        self.service.now_secs += secs;
    }
}
