//! The input of a rendering: one release to one environment, every default applied and every digest known.
//!
//! The types are plain data. What they may hold is checked by [`render`](crate::render::render), which names the
//! place of everything that is wrong; so building them never fails.

use std::collections::BTreeMap;

use aiot_package::{Digest, Precision};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ring::Ring;

/// What one environment shall run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Release {
    /// Name of the environment: lower-case letters, digits and `-`. Part of every deployment id.
    pub environment: String,
    /// Registry and path that all image repositories stand below: `registry.example.com/aiot`, `localhost/aiot`.
    pub registry_prefix: String,
    /// The runtime, the same for all targets.
    pub system: SystemModules,
    /// Rings in the order of the roll-out. Empty means one ring, `all`, without a condition of its own.
    pub rings: Vec<Ring>,
    /// Kinds of device, any order.
    pub targets: Vec<TargetRelease>,
}

/// The two modules that make a device an IoT Edge device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SystemModules {
    /// Starts and stops all modules.
    pub edge_agent: SystemModule,
    /// The broker between modules and cloud.
    pub edge_hub: SystemModule,
}

/// One system module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SystemModule {
    /// Full image reference, `name@sha256:…` or `name:1.2.3`. A rolling tag (`1.6`, `latest`) is an error, since a
    /// device would then run whatever stood there when it pulled.
    pub image: String,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, EnvValue>,
    /// Body of the container engine's create call.
    #[serde(default)]
    pub create_options: Map<String, Value>,
}

/// What one kind of device runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TargetRelease {
    /// The target's name: lower-case letters, digits and `-`. Folder of its files and part of its ids.
    pub name: String,
    /// Target condition over twin tags that says which devices these are.
    pub condition: String,
    /// Disk that the images of a device may take together, in bytes.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Speed of the devices' link, in kbit/s.
    #[serde(default)]
    pub link_kbit_per_s: Option<u64>,
    /// createOptions of every module of this target (devices, runtime, memory limit, log size). A module's own
    /// are laid over them, see [`create_options::overlay`](crate::create_options::overlay).
    #[serde(default)]
    pub create_options: Map<String, Value>,
    /// Variables of the edge hub on this target, over those of [`Release::system`]. Small devices want
    /// `OptimizeForPerformance = false`.
    #[serde(default)]
    pub edge_hub_env: BTreeMap<String, EnvValue>,
    /// Modules that other deployments bring and that routes may name.
    #[serde(default)]
    pub external_modules: Vec<String>,
    /// The modules, any order.
    pub modules: Vec<ModuleRelease>,
}

/// One model on one kind of device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModuleRelease {
    /// Id of the edge module: letters, digits, `_` and `-`. Unique within the target.
    pub name: String,
    /// The model's name in `models.toml`.
    pub model: String,
    /// The model's version in `models.toml`.
    pub model_version: String,
    /// Repository below [`Release::registry_prefix`].
    pub image_repository: String,
    /// Of the image manifest, not of an index, so that a device runs what was evaluated for it.
    pub image_digest: Digest,
    /// OCI platform, `linux/arm/v7`; for people.
    pub platform: String,
    /// Compressed size of all layers, config and manifest in bytes: what a device without any of them downloads.
    pub size_bytes: u64,
    /// createOptions of this module, over the target's.
    #[serde(default)]
    pub create_options: Map<String, Value>,
    /// Environment variables. Secrets are placeholders, `${NAME}`.
    #[serde(default)]
    pub env: BTreeMap<String, EnvValue>,
    /// Lower starts earlier; none: last.
    #[serde(default)]
    pub startup_order: Option<u32>,
    /// What happens after the module has ended.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Routes by name. A name is unique within the target.
    #[serde(default)]
    pub routes: BTreeMap<String, RouteSpec>,
    /// Condition beside the target's: modules that share one share a layered deployment.
    #[serde(default)]
    pub condition: Option<String>,
    /// How good the model is, for the summary.
    pub accuracy: AccuracySummary,
    /// Desired properties of the module twin; empty: the deployment leaves the twin alone.
    #[serde(default)]
    pub desired: Map<String, Value>,
}

/// Value of an environment variable; the edge agent makes a string of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvValue {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text, or a placeholder.
    Text(String),
}

impl EnvValue {
    pub(crate) fn to_json(&self) -> Value {
        match self {
            EnvValue::Flag(value) => Value::Bool(*value),
            EnvValue::Number(value) => Value::Number(value.clone()),
            EnvValue::Text(value) => Value::String(value.clone()),
        }
    }
}

/// The two restart policies that the runtime implements in full.
///
/// The schema also knows `on-failure` and `on-unhealthy`; the docs (limits and restrictions) ask not to use them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Restarted with growing pauses.
    #[default]
    Always,
    /// Left as it ended.
    Never,
}

impl RestartPolicy {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            RestartPolicy::Always => "always",
            RestartPolicy::Never => "never",
        }
    }
}

/// One route of the edge hub. Written as a plain string where priority and time to live are not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteSpec {
    /// `FROM source [WHERE condition] INTO sink`.
    pub route: String,
    /// 0 (first) to 9.
    #[serde(default)]
    pub priority: Option<u8>,
    /// How long undelivered messages are kept, in seconds; 0: as long as the edge hub's own setting says.
    #[serde(default)]
    pub time_to_live_secs: Option<u32>,
}

impl From<&str> for RouteSpec {
    fn from(route: &str) -> Self {
        RouteSpec {
            route: route.to_owned(),
            priority: None,
            time_to_live_secs: None,
        }
    }
}

/// A model's accuracy before and after it was made smaller, as measured on the evaluation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AccuracySummary {
    /// Name of the metric, `top-1`, `f1`.
    pub metric: String,
    /// As trained.
    pub float: f64,
    /// As shipped.
    pub quantized: f64,
    /// How the shipped numbers are stored.
    pub precision: Precision,
}
