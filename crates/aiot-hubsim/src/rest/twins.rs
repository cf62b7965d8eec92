//! Twins of devices and modules, and queries over them.

use std::collections::BTreeMap;

use aiot_iothub::rollout::ModuleReport;
use base64::Engine;
use serde_json::{Map, Value, json};

use super::clients::connection_state;
use super::{PAGE_LIMIT_ROWS, Reply, Request, Simulator, body_of, error, if_match, ok};
use crate::fleet::{SimulatedDevice, Wrong};
use crate::mqtt::Identity;
use crate::query::{Collection, Document, Query, Selection};
use crate::service::{ServiceError, overlay};

/// Modules of the runtime, which every edge device has.
pub(super) const SYSTEM: [&str; 2] = ["$edgeAgent", "$edgeHub"];
/// Limit of a twin's tags, in bytes as the service counts them.
const TAGS_LIMIT_BYTES: u64 = 8 << 10;

/// Desired properties that somebody has patched, by device and module (empty: the device), with their version; and how
/// often each device's twin was written.
#[derive(Debug, Default)]
pub(super) struct Patched {
    desired: BTreeMap<(String, String), (Value, u64)>,
    versions: BTreeMap<String, u64>,
}

/// A twin that is looked into without being built as a whole.
pub(super) struct Twin<'a> {
    pub hub: &'a Simulator,
    pub device: &'a SimulatedDevice,
    /// None: the device's own.
    pub module: Option<&'a str>,
}

impl Document for Twin<'_> {
    fn get(&self, path: &[String]) -> Option<Value> {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let within = |value: Value, rest: &[String]| Document::get(&value, rest);
        match words.as_slice() {
            ["deviceId"] => Some(self.device.id.as_str().into()),
            ["moduleId"] => Some(self.module?.into()),
            ["etag"] => Some(etag(self.version()).into()),
            ["tags", ..] if self.module.is_none() => path[1..]
                .iter()
                .try_fold(&self.device.tags, |value, key| value.get(key))
                .cloned(),
            ["properties", "reported", key, ..] => within(self.reported(key)?, &path[3..]),
            ["properties", "desired", "$version"] => Some(self.desired_version().into()),
            ["configurations", id, ..] if self.module == Some("$edgeAgent") => {
                let found = self.device.desired().deployments.contains(*id);
                found.then(|| within(json!({"status": "Applied"}), &path[2..]))?
            }
            ["configurations"] => Some(self.configurations()),
            _ => Document::get(&self.whole(), path),
        }
    }

    fn whole(&self) -> Value {
        let version = self.version();
        let keys = [
            "schemaVersion",
            "runtime",
            "lastDesiredVersion",
            "lastDesiredStatus",
            "systemModules",
            "modules",
            "selfCheck",
            "drift",
        ];
        let mut reported: Map<String, Value> = keys
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), self.reported(key)?)))
            .collect();
        let by_client = self.by_client();
        if let Some(Value::Object(entries)) = by_client.map(|(entries, _)| entries) {
            reported.extend(entries.clone());
        }
        let version_reported = by_client.map_or(1, |(_, version)| *version);
        reported.insert("$version".to_owned(), version_reported.into());
        let mut desired = self.desired();
        if let Some(desired) = desired.as_object_mut() {
            desired.insert("$version".to_owned(), self.desired_version().into());
        }
        let mut twin = json!({
            "deviceId": self.device.id, "etag": etag(version), "deviceEtag": "MQ==", "version": version,
            "status": "enabled",
            "connectionState": connection_state(self.hub, self.device, self.module),
            "authenticationType": "sas", "capabilities": {"iotEdge": true},
            "configurations": self.configurations(),
            "properties": {"desired": desired, "reported": reported},
        });
        match self.module {
            Some(module) => twin["moduleId"] = module.into(),
            None => twin["tags"] = self.device.tags.clone(),
        }
        twin
    }
}

impl Twin<'_> {
    fn version(&self) -> u64 {
        let versions = &self.hub.patched.versions;
        versions.get(&self.device.id).copied().unwrap_or(1)
    }

    fn configurations(&self) -> Value {
        if self.module != Some("$edgeAgent") {
            return json!({});
        }
        let ids = self.device.desired().deployments.iter();
        Value::Object(ids.map(|id| (id.clone(), json!({"status": "Applied"}))).collect())
    }

    fn patched(&self) -> Option<&(Value, u64)> {
        let key = (self.device.id.clone(), self.module.unwrap_or_default().to_owned());
        self.hub.patched.desired.get(&key)
    }

    pub(super) fn desired(&self) -> Value {
        let mut desired = self
            .module
            .and_then(|module| self.device.desired().merged.desired.get(module))
            .map_or_else(|| json!({}), |desired| Value::Object(desired.clone()));
        if let Some((patch, _)) = self.patched() {
            overlay(&mut desired, patch);
        }
        desired
    }

    pub(super) fn desired_version(&self) -> u64 {
        match self.module {
            Some("$edgeAgent") => self.device.desired_version(),
            _ => {
                self.patched_version()
                    + self
                        .client()
                        .map_or(0, |client| self.hub.clients.deployed(&client))
            }
        }
    }

    pub(super) fn patched_version(&self) -> u64 {
        self.patched().map_or(1, |(_, version)| *version)
    }

    /// As whom a client may have been here; none while there was no client at all, as in most fleets.
    fn client(&self) -> Option<Identity> {
        (!self.hub.clients.is_unused()).then(|| Identity::new(&self.device.id, self.module))
    }

    /// What a client of a user has reported in this place, and its version.
    fn by_client(&self) -> Option<&(Value, u64)> {
        self.hub.clients.reported(&self.client()?)
    }

    /// One entry of the reported properties.
    fn reported(&self, key: &str) -> Option<Value> {
        if let Some(value) = self.by_client().and_then(|(entries, _)| entries.get(key)) {
            return Some(value.clone());
        }
        let agent = self.device.heard();
        if self.device.behaviour.wrong == Some(Wrong::Garbled) && self.module == Some("$edgeAgent") {
            return garbled(key);
        }
        match (self.module?, key) {
            (_, "schemaVersion") => Some("1.1".into()),
            ("$edgeAgent", "runtime") => Some(json!({"type": "docker", "platform": {"os": "linux"}})),
            ("$edgeAgent", "lastDesiredVersion") => Some(agent.reported_version.into()),
            ("$edgeAgent", "lastDesiredStatus") => Some(json!({"code": agent.code, "description": ""})),
            ("$edgeAgent", "systemModules" | "modules") => {
                let wanted = key == "systemModules";
                let modules = agent
                    .modules
                    .iter()
                    .filter(|(name, _)| is_system(name) == wanted)
                    .map(|(name, report)| (name.clone(), module_report(report)));
                Some(Value::Object(modules.collect()))
            }
            (module, "selfCheck") => {
                let passed = agent.modules.get(module)?.self_check?;
                Some(json!({ "passed": passed }))
            }
            (module, "drift") => Some(json!({ "drifting": agent.modules.get(module)?.drifting })),
            _ => None,
        }
    }
}

/// What an agent says that has gone mad: each entry of a type that it must not have.
fn garbled(key: &str) -> Option<Value> {
    match key {
        "lastDesiredVersion" => Some("seven".into()),
        "lastDesiredStatus" => Some(json!([200])),
        "systemModules" => {
            Some(json!({"edgeAgent": "runs", "edgeHub": {"settings": [], "restartCount": "many"}}))
        }
        "modules" => {
            Some(json!({"m0": null, "m1": {"settings": {"image": 7}, "runtimeStatus": {"is": "running"}}}))
        }
        _ => None,
    }
}

fn is_system(name: &str) -> bool {
    matches!(name, "edgeAgent" | "edgeHub")
}

fn module_report(report: &ModuleReport) -> Value {
    json!({
        "type": "docker", "status": "running", "runtimeStatus": report.status.as_str(), "exitCode": 0,
        "restartCount": report.restart_count, "restartPolicy": "always",
        "settings": {"image": report.image, "createOptions": "{}"},
    })
}

fn etag(version: u64) -> String {
    format!("v{version}")
}

/// Names of a device's modules: the runtime's, and those that its agent has reported.
fn modules(device: &SimulatedDevice) -> impl Iterator<Item = &str> {
    let own = device.heard().modules.keys().map(String::as_str);
    SYSTEM.into_iter().chain(own.filter(|name| !is_system(name)))
}

pub(super) fn find<'a>(hub: &'a Simulator, parts: &[&'a str]) -> Result<Twin<'a>, ServiceError> {
    let (id, module) = match parts {
        [id] => (*id, None),
        [id, "modules", module] => (*id, Some(*module)),
        _ => return Err(error(404, "InvalidOperation", "no such path below twins")),
    };
    let device = hub
        .service
        .fleet
        .devices
        .get(id)
        .ok_or_else(|| error(404, "DeviceNotFound", format!("device `{id}` is not registered")))?;
    if let Some(module) = module
        && !modules(device).any(|name| name == module)
    {
        return Err(error(
            404,
            "ModuleNotFound",
            format!("device `{id}` has no module `{module}`"),
        ));
    }
    Ok(Twin { hub, device, module })
}

pub(super) fn read(hub: &Simulator, parts: &[&str]) -> Result<Reply, ServiceError> {
    let twin = find(hub, parts)?.whole();
    Ok(tagged(&twin))
}

fn tagged(twin: &Value) -> Reply {
    let mut reply = ok(twin);
    let etag = format!("\"{}\"", twin["etag"].as_str().unwrap_or_default());
    reply.headers.insert("etag".to_owned(), etag);
    reply
}

/// PATCH merges, PUT replaces; of what can be written: a device's tags, and desired properties.
pub(super) fn write(hub: &mut Simulator, request: &Request, parts: &[&str]) -> Result<Reply, ServiceError> {
    let body = body_of(request)?;
    let before = find(hub, parts)?;
    let (id, module) = (before.device.id.clone(), before.module.map(str::to_owned));
    if module.as_deref().is_some_and(|module| SYSTEM.contains(&module)) {
        let text = "Unauthorized to modify reserved module.";
        return Err(error(401, "SystemModuleModifyUnauthorizedAccess", text));
    }
    let version = hub.patched.versions.get(&id).copied().unwrap_or(1);
    if if_match(request).is_some_and(|wanted| wanted != "*" && wanted != etag(version)) {
        return Err(error(
            412,
            "PreconditionFailed",
            format!("ETag mismatch for device ID '{id}'"),
        ));
    }
    let replaces = request.method == "PUT";
    if body.get("tags").is_some_and(Value::is_object) && module.is_none() {
        let mut tags = if replaces {
            json!({})
        } else {
            before.device.tags.clone()
        };
        overlay(&mut tags, &body["tags"]);
        if aiot_iothub::limits::twin_size_bytes(&tags) > TAGS_LIMIT_BYTES {
            let text = format!("'Tags' size should be less than {TAGS_LIMIT_BYTES} bytes.");
            return Err(error(403, "DeviceModelMaxPropertiesExceeded", text));
        }
        let mut patch = body["tags"].clone();
        if replaces {
            let gone = hub.service.fleet.devices[&id]
                .tags
                .as_object()
                .cloned()
                .unwrap_or_default();
            for key in gone.keys().filter(|key| body["tags"].get(key.as_str()).is_none()) {
                patch[key.as_str()] = Value::Null;
            }
        }
        hub.service.patch_tags(&id, &patch)?;
    }
    if let Some(desired) = body
        .pointer("/properties/desired")
        .filter(|desired| desired.is_object())
    {
        let key = (id.clone(), module.clone().unwrap_or_default());
        let entry = hub.patched.desired.entry(key).or_insert_with(|| (json!({}), 1));
        if replaces {
            entry.0 = json!({});
        }
        overlay(&mut entry.0, desired);
        entry.1 += 1;
    }
    hub.patched.versions.insert(id, version + 1);
    Ok(tagged(&find(hub, parts)?.whole()))
}

/// `GET /devices/{id}` and `/devices/{id}/modules`
pub(super) fn identities(hub: &Simulator, parts: &[&str]) -> Result<Reply, ServiceError> {
    let device = find(hub, &parts[..parts.len().min(1)])?.device;
    let identity = |module: Option<&str>| {
        let keys = hub.keys(&Identity::new(&device.id, module));
        let [primary, secondary] = keys.map(|key| base64::engine::general_purpose::STANDARD.encode(key));
        let mut identity = json!({
            "deviceId": device.id, "generationId": "1", "etag": "MQ==", "status": "enabled",
            "connectionState": connection_state(hub, device, module),
            "authentication": {"type": "sas", "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}},
            "capabilities": {"iotEdge": true},
        });
        if let Some(module) = module {
            identity["moduleId"] = module.into();
            identity["managedBy"] = "iotEdge".into();
        }
        identity
    };
    match parts {
        [_] => Ok(ok(&identity(None))),
        [_, "modules"] => Ok(ok(&modules(device)
            .map(|module| identity(Some(module)))
            .collect())),
        [_, "modules", module] => {
            find(hub, parts)?;
            Ok(ok(&identity(Some(module))))
        }
        _ => Err(error(404, "InvalidOperation", "no such path below devices")),
    }
}

/// Looks at the twins of a collection in order, from (device, module) on, until `each` says to stop.
fn scan<'a>(
    hub: &'a Simulator,
    collection: Collection,
    from: (&str, usize),
    each: &mut dyn FnMut(&Twin<'a>, usize) -> bool,
) {
    for (id, device) in hub.service.fleet.devices.range(from.0.to_owned()..) {
        let skip = if id == from.0 { from.1 } else { 0 };
        let all: Vec<Option<&str>> = match collection {
            Collection::Devices => vec![None],
            Collection::Modules => modules(device).map(Some).collect(),
        };
        for (index, module) in all.into_iter().enumerate().skip(skip) {
            if !each(&Twin { hub, device, module }, index) {
                return;
            }
        }
    }
}

/// How many twins match.
pub(super) fn count(hub: &Simulator, query: &Query) -> u64 {
    let mut count = 0;
    scan(hub, query.collection, ("", 0), &mut |twin, _| {
        count += u64::from(query.matches(twin));
        true
    });
    count
}

/// `POST /devices/query`; the continuation names the twin with which the next page begins.
pub(super) fn query(hub: &Simulator, request: &Request) -> Result<Reply, ServiceError> {
    let body = body_of(request)?;
    let text = body["query"].as_str().unwrap_or_default();
    let query = Query::parse(text).map_err(|reason| error(400, "ArgumentInvalid", reason))?;
    if let Selection::Count(name) = &query.selection {
        let mut row = Map::new();
        row.insert(name.clone(), count(hub, &query).into());
        return Ok(ok(&json!([row])));
    }
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    let rows_wanted = match header("x-ms-max-item-count") {
        None | Some("") => PAGE_LIMIT_ROWS,
        Some(text) => text
            .parse::<usize>()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| error(400, "ArgumentInvalid", "x-ms-max-item-count"))?
            .min(PAGE_LIMIT_ROWS),
    };
    let from = match header("x-ms-continuation") {
        None | Some("") => (String::new(), 0),
        Some(text) => text
            .split_once(' ')
            .and_then(|(index, id)| Some((id.to_owned(), index.parse().ok()?)))
            .ok_or_else(|| error(400, "ArgumentInvalid", "x-ms-continuation"))?,
    };
    let (mut rows, mut next) = (Vec::new(), None);
    scan(hub, query.collection, (&from.0, from.1), &mut |twin, index| {
        if !query.matches(twin) {
            return true;
        }
        if rows.len() == rows_wanted {
            next = Some(format!("{index} {}", twin.device.id));
            return false;
        }
        rows.push(query.row(twin));
        true
    });
    let mut reply = ok(&Value::Array(rows));
    let kind = if query.selection == Selection::All {
        "Twin"
    } else {
        "Raw"
    };
    reply.headers.insert("x-ms-item-type".to_owned(), kind.to_owned());
    if let Some(next) = next {
        reply.headers.insert("x-ms-continuation".to_owned(), next);
    }
    Ok(reply)
}
