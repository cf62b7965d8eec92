//! What is: the deployments on a hub and what its devices say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::condition::Condition;

/// A hub at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The hub's clock, seconds since 1970. Never the clock of the machine that asks.
    pub now_secs: u64,
    /// All deployments of edge devices, also those of others.
    pub deployments: Vec<HubDeployment>,
    /// All edge devices.
    pub devices: Vec<Device>,
    /// Most deployments that this hub takes.
    pub deployment_limit: u64,
}

/// A deployment as the hub has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HubDeployment {
    /// Its id.
    pub id: String,
    /// `{"modulesContent": …}`; can never be changed, so it is shared and not copied.
    #[serde(with = "shared")]
    pub content: Arc<Value>,
    /// Target condition; empty means no device.
    pub condition: String,
    /// Greater wins.
    pub priority: u32,
    /// Labels, see [`super::labels`].
    pub labels: BTreeMap<String, String>,
    /// Custom metrics: name → query.
    pub metrics: BTreeMap<String, String>,
    /// Changes with each update; empty before the first answer of the hub.
    pub etag: String,
    /// When it was created; of two with the same priority the later wins.
    pub created_secs: u64,
}

impl HubDeployment {
    /// Greater is nearer to the device.
    pub fn order(&self) -> (u32, u64, &str) {
        (self.priority, self.created_secs, &self.id)
    }

    /// Whether the content has system modules: of these a device takes only the one with the highest order.
    pub fn is_base(&self) -> bool {
        self.content
            .pointer("/modulesContent/$edgeAgent/properties.desired")
            .is_some()
    }

    /// The condition, parsed; none: matches nothing, as an empty or unreadable one does.
    pub fn parsed_condition(&self) -> Option<Condition> {
        self.condition.parse().ok()
    }
}

/// A device as its twins show it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// `tags` of the device twin.
    pub tags: Value,
    /// ETag of the device twin; empty where it is not known.
    pub etag: String,
    /// What the edge agent says.
    pub agent: Agent,
}

/// The `$edgeAgent` twin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// `properties.desired.$version`
    pub desired_version: u64,
    /// `properties.reported.lastDesiredVersion`
    pub reported_version: u64,
    /// `properties.reported.lastDesiredStatus.code`; 0: never reported.
    pub code: u32,
    /// Deployments that the hub has merged into the desired properties.
    pub deployments: BTreeSet<String>,
    /// By module; the system modules are `edgeAgent` and `edgeHub`.
    pub modules: BTreeMap<String, ModuleReport>,
}

/// What is known of one module on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleReport {
    /// `settings.image`, as the agent runs it.
    pub image: String,
    /// `runtimeStatus`
    pub status: RuntimeStatus,
    /// `restartCount`
    pub restart_count: u32,
    /// Of the module's own twin: whether its model computes what it should; none: it does not say.
    pub self_check: Option<bool>,
    /// Of the module's own twin: inputs are unlike the training data.
    pub drifting: bool,
}

/// `runtimeStatus` of the edge agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuntimeStatus {
    /// Not known yet, or a word that this code does not know.
    #[default]
    Unknown,
    /// Waits for the next start.
    Backoff,
    /// Runs.
    Running,
    /// Runs, and its health check fails.
    Unhealthy,
    /// Ended with 0.
    Stopped,
    /// Ended with another code.
    Failed,
    /// Given up.
    Dead,
}

impl RuntimeStatus {
    /// The agent's word.
    pub fn as_str(self) -> &'static str {
        match self {
            RuntimeStatus::Unknown => "unknown",
            RuntimeStatus::Backoff => "backoff",
            RuntimeStatus::Running => "running",
            RuntimeStatus::Unhealthy => "unhealthy",
            RuntimeStatus::Stopped => "stopped",
            RuntimeStatus::Failed => "failed",
            RuntimeStatus::Dead => "dead",
        }
    }

    /// From the agent's word.
    pub fn of(word: &str) -> RuntimeStatus {
        use RuntimeStatus::*;
        [Backoff, Running, Unhealthy, Stopped, Failed, Dead]
            .into_iter()
            .find(|status| status.as_str() == word)
            .unwrap_or(Unknown)
    }
}

/// A shared value is written as the value itself.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(value: &Arc<Value>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Value>, D::Error> {
        Value::deserialize(deserializer).map(Arc::new)
    }
}
