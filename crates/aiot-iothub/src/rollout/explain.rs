//! What one device gets: which deployments match it, which win, and what is left when they are laid over each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::declared::{Declared, Lineage};
use super::labels::Place;
use super::state::{Device, HubDeployment};
use crate::condition::Condition;
use crate::limits;
use crate::merge::{MergeError, Merged, merge};
use crate::ring::{WAVE_TAG, wave};

/// Why a device runs what it runs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// The device.
    pub device: String,
    /// Deployments that match it, lowest first.
    pub matching: Vec<Matching>,
    /// One per declared lineage that wants the device.
    pub rings: Vec<RingOf>,
    /// The device's wave: as tagged, else the one that it will get.
    pub wave: u8,
    /// Whether the wave stands in its tags.
    pub tagged: bool,
    /// The final desired properties by module, as one manifest; shared by all devices that the same deployments match.
    #[serde(serialize_with = "shared")]
    pub merged: Arc<serde_json::Value>,
    /// Bytes as the hub counts them: module, used; of [`limits::DESIRED_BYTES`] each.
    #[serde(serialize_with = "list")]
    pub desired_bytes: Arc<[(String, u64)]>,
}

fn shared<S: Serializer>(value: &Arc<serde_json::Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

fn list<S: Serializer>(value: &Arc<[(String, u64)]>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

/// A deployment that matches a device.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Matching {
    /// Its id.
    pub id: String,
    /// Its priority.
    pub priority: u32,
    /// Its condition.
    pub condition: String,
    /// What it is to the device: `base`, `layer`, `base, outranked`.
    pub role: &'static str,
    /// Ring, if it is ours.
    pub ring: Option<String>,
}

/// When a lineage's declared release comes to a device.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RingOf {
    /// The lineage.
    pub lineage: Lineage,
    /// The declared deployment.
    pub id: String,
    /// The first ring that holds the device.
    pub ring: String,
    /// Its condition.
    pub condition: String,
}

/// What the hub makes of `deployments` for one device: ids from the base up, and the result. Without a base the
/// device is left alone, whatever layers match.
///
/// # Errors
/// Contents that are no deployments.
pub fn effective<'a>(
    deployments: impl Iterator<Item = &'a HubDeployment>,
) -> Result<Option<(Vec<&'a HubDeployment>, Merged)>, MergeError> {
    let mut ordered: Vec<&HubDeployment> = deployments.collect();
    ordered.sort_by(|a, b| a.order().cmp(&b.order()));
    let Some(base) = ordered.iter().rposition(|deployment| deployment.is_base()) else {
        return Ok(None);
    };
    let base = ordered[base];
    let layers: Vec<&HubDeployment> = ordered
        .into_iter()
        .filter(|deployment| !deployment.is_base() && deployment.order() > base.order())
        .collect();
    // In order already; equal priorities keep it.
    let contents: Vec<_> = layers
        .iter()
        .map(|layer| (layer.priority, &*layer.content))
        .collect();
    let merged = merge(&base.content, &contents)?;
    Ok(Some((std::iter::once(base).chain(layers).collect(), merged)))
}

/// Deployments with their conditions read once, for many devices.
pub struct Readable<'a>(Vec<(&'a HubDeployment, Option<Condition>)>);

impl<'a> Readable<'a> {
    /// Reads the conditions.
    pub fn new(deployments: &'a [HubDeployment]) -> Readable<'a> {
        let mut list: Vec<_> = deployments
            .iter()
            .map(|one| (one, one.parsed_condition()))
            .collect();
        list.sort_by(|a, b| a.0.order().cmp(&b.0.order()));
        Readable(list)
    }

    /// Those that match a device, lowest first.
    pub fn matching(&self, device: &Device) -> Vec<&'a HubDeployment> {
        let matches = |condition: &Option<Condition>| {
            condition
                .as_ref()
                .is_some_and(|condition| condition.matches(&device.id, &device.tags))
        };
        self.0
            .iter()
            .filter(|(_, condition)| matches(condition))
            .map(|(one, _)| *one)
            .collect()
    }
}

/// What the same deployments come to on every device that they match.
struct Sum {
    matching: Vec<Matching>,
    merged: Arc<serde_json::Value>,
    desired_bytes: Arc<[(String, u64)]>,
}

impl Sum {
    fn of(found: &[&HubDeployment]) -> Result<Sum, MergeError> {
        let (used, merged) = effective(found.iter().copied())?.unwrap_or_default();
        let matching = found
            .iter()
            .map(|deployment| Matching {
                id: deployment.id.clone(),
                priority: deployment.priority,
                condition: deployment.condition.clone(),
                role: match (
                    deployment.is_base(),
                    used.iter().any(|one| one.id == deployment.id),
                ) {
                    (true, true) => "base",
                    (true, false) => "base, outranked",
                    (false, true) => "layer",
                    (false, false) => "layer without a base beneath",
                },
                ring: Place::of(deployment).and_then(Result::ok).map(|place| place.ring),
            })
            .collect();
        let desired_bytes = merged
            .desired
            .iter()
            .map(|(module, desired)| {
                let size = limits::twin_size_bytes(&serde_json::Value::Object(desired.clone()));
                (module.clone(), size)
            })
            .collect();
        Ok(Sum {
            matching,
            merged: Arc::new(merged.to_content()),
            desired_bytes,
        })
    }
}

/// Explains many devices: deployments are laid over each other once for each set that matches a device, and a fleet
/// has few such sets.
pub struct Explainer<'a> {
    declared: &'a Declared,
    readable: &'a Readable<'a>,
    /// By the ids of the deployments that match.
    known: BTreeMap<Vec<&'a str>, Arc<Sum>>,
}

impl<'a> Explainer<'a> {
    /// Nothing is explained yet.
    pub fn new(declared: &'a Declared, readable: &'a Readable<'a>) -> Explainer<'a> {
        Explainer {
            declared,
            readable,
            known: BTreeMap::new(),
        }
    }

    /// Explains one device.
    ///
    /// # Errors
    /// As [`effective`].
    pub fn explain(&mut self, device: &Device) -> Result<Explanation, MergeError> {
        let found = self.readable.matching(device);
        let ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
        let sum = match self.known.get(&ids) {
            Some(known) => Arc::clone(known),
            None => {
                let sum = Arc::new(Sum::of(&found)?);
                self.known.insert(ids, Arc::clone(&sum));
                sum
            }
        };
        Ok(explanation(self.declared, device, &sum))
    }
}

/// Explains one device.
///
/// # Errors
/// As [`effective`].
pub fn explain(
    declared: &Declared,
    deployments: &Readable<'_>,
    device: &Device,
) -> Result<Explanation, MergeError> {
    let sum = Sum::of(&deployments.matching(device))?;
    Ok(explanation(declared, device, &sum))
}

fn explanation(declared: &Declared, device: &Device, sum: &Sum) -> Explanation {
    let rings = declared
        .list()
        .deployments
        .iter()
        .filter_map(|deployment| {
            let ring = &deployment.rings[declared.first_ring(&deployment.id, &device.id, &device.tags)?];
            Some(RingOf {
                lineage: Lineage::of(deployment),
                id: deployment.id.clone(),
                ring: ring.ring.clone(),
                condition: ring.condition.clone(),
            })
        })
        .collect();
    let tag = device
        .tags
        .get(WAVE_TAG)
        .and_then(serde_json::Value::as_u64)
        .and_then(|tag| u8::try_from(tag).ok());
    Explanation {
        device: device.id.clone(),
        matching: sum.matching.clone(),
        rings,
        wave: tag.unwrap_or_else(|| wave(&declared.list().environment, &device.id)),
        tagged: tag.is_some(),
        merged: Arc::clone(&sum.merged),
        desired_bytes: Arc::clone(&sum.desired_bytes),
    }
}
