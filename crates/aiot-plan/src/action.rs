//! Actions: the steps of a release as plain data, and the key under which a step's result is kept.
//!
//! An action sees its parameters (the fields here) and its inputs (digests) and nothing else. Its key is a hash of
//! both, so equal keys mean equal results, on any machine. Never a time, an absolute path or the environment.

use std::collections::BTreeMap;
use std::fmt;

use aiot_package::{Activation, Digest, InputSpec, Metric, Precision, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::declare::{BuilderKind, Granularity, LayerCompression};
use crate::lock::{LockedPackage, LockedWheel};
use crate::names::{ModelName, ModuleName, TargetName};
use crate::records::Budget;
use crate::workspace::Platform;

/// Part of every key: raise it when results of before must not be used any more.
const KEY_FORMAT: u32 = 1;

/// One kind of step with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Action {
    /// Takes a model file into the store, whole: with the data that lies beside it. Output: `model`.
    FetchModel {
        /// Path below the workspace.
        path: String,
        /// Its data files, by path relative to its folder.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        data: BTreeMap<String, Digest>,
    },
    /// Takes an engine library out of a wheel. Output: `library`.
    FetchEngine {
        /// The wheel.
        wheel: LockedWheel,
    },
    /// Unpacks the files of Debian packages that the runtime needs. Outputs: `layer`, and `engine-layer` where the
    /// engine is packaged.
    AssembleBase {
        /// Debian's word for the architecture.
        architecture: String,
        /// The packages.
        packages: Vec<LockedPackage>,
        /// File name of the engine's library, where the distribution packages it.
        engine_library: Option<String>,
        /// Of the layers.
        #[serde(skip_serializing_if = "LayerCompression::is_default")]
        compression: LayerCompression,
    },
    /// Takes an OCI image as base. Outputs: `manifest`, `config`, and `layer-<n>` in order.
    FetchBaseImage {
        /// `registry/repository@sha256:…`
        reference: String,
        /// Which of the index's images.
        platform: Platform,
    },
    /// Observes a model's tensors over the calibration set and decides how it is quantized. Output: `ranges`.
    Calibrate {
        /// The model.
        model: ModelName,
        /// What the record must be made from, see [`crate::records`].
        subject: Digest,
        /// For which variant.
        precision: Precision,
        /// Scales of the weights.
        granularity: Granularity,
        /// How good it must stay.
        budget: Budget,
    },
    /// Makes a variant of a model. Output: `model`.
    Quantize {
        /// Which variant.
        precision: Precision,
        /// Scales of the weights.
        granularity: Granularity,
    },
    /// Evaluates a variant and records golden outputs. Output: `measured`.
    Measure {
        /// The model.
        model: ModelName,
        /// Which variant.
        precision: Precision,
        /// What the record must be made from, see [`crate::records`].
        subject: Digest,
        /// What is measured.
        metric: Metric,
        /// How to run it.
        package: PackageParameters,
    },
    /// Writes the model package. Output: `layer`.
    AssemblePackage {
        /// The model.
        model: ModelName,
        /// Its version.
        version: String,
        /// One sentence for people.
        description: String,
        /// Which variant.
        precision: Precision,
        /// How to run it.
        package: PackageParameters,
        /// Whether it is the package of a challenger, which has another place in the image.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        shadow: bool,
    },
    /// Compiles a module. Output: `binary`.
    CompileModule {
        /// The crate.
        module: ModuleName,
        /// For which machine.
        triple: String,
        /// Least C library version.
        glibc: String,
        /// With what.
        builder: BuilderKind,
        /// Versions of the tools that decide the bytes.
        tools: BTreeMap<String, String>,
    },
    /// Puts one file in a layer. Output: `layer`.
    AssembleLayer {
        /// Path in the image.
        path: String,
        /// Mode of the file.
        mode: u32,
        /// Of the layer.
        #[serde(skip_serializing_if = "LayerCompression::is_default")]
        compression: LayerCompression,
    },
    /// Puts layers together. Outputs: `manifest`, `config`.
    AssembleImage {
        /// The model.
        model: ModelName,
        /// The target.
        target: TargetName,
        /// The platform.
        platform: Platform,
        /// The program.
        entrypoint: Vec<String>,
        /// Environment.
        env: BTreeMap<String, String>,
        /// Labels and annotations.
        labels: BTreeMap<String, String>,
        /// The module's C library floor, checked against what the image has.
        glibc: String,
    },
    /// Joins a model's images. Output: `index`.
    AssembleIndex {
        /// Target, platform, in the order of the index.
        platforms: Vec<(TargetName, Platform)>,
        /// Annotations.
        annotations: BTreeMap<String, String>,
    },
}

/// What running a model needs to know beside the graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackageParameters {
    /// What the outputs mean.
    pub task: Task,
    /// How inputs become tensors.
    pub input: InputSpec,
    /// What turns logits into probabilities.
    pub activation: Activation,
    /// Least probability or anomaly threshold.
    pub threshold: Option<f32>,
}

impl Action {
    /// The step in a word.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::FetchModel { .. } | Action::FetchEngine { .. } | Action::FetchBaseImage { .. } => "fetch",
            Action::Calibrate { .. } => "calibrate",
            Action::Quantize { .. } => "quantize",
            Action::Measure { .. } => "evaluate",
            Action::CompileModule { .. } => "compile",
            Action::AssembleBase { .. }
            | Action::AssemblePackage { .. }
            | Action::AssembleLayer { .. }
            | Action::AssembleImage { .. }
            | Action::AssembleIndex { .. } => "assemble",
        }
    }

    /// The parameters as they enter the key.
    pub fn parameters(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            other => unreachable!("an action is an object: {other:?}"),
        }
    }
}

/// The key of an action: a hash of its parameters and input digests.
pub fn key(parameters: &Map<String, Value>, inputs: &BTreeMap<String, Digest>) -> Digest {
    let whole = serde_json::json!({ "format": KEY_FORMAT, "action": parameters, "inputs": inputs });
    Digest::of(canonical(&whole).as_bytes())
}

/// JSON with sorted keys, whichever order serde_json was built to keep.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let fields: Vec<String> = sorted
                .iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// One output of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Output {
    /// Digest of the blob in the store.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// For layers: digest of the uncompressed tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// For blobs that an image names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

/// What is kept of an action that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// The action's place in the plan, the same from run to run.
    pub id: String,
    /// Its key.
    pub key: Digest,
    /// Its parameters.
    pub parameters: Map<String, Value>,
    /// Its inputs.
    pub inputs: BTreeMap<String, Digest>,
    /// What it made.
    pub outputs: BTreeMap<String, Output>,
}

/// What is known of earlier runs.
pub trait Results {
    /// The result under a key.
    fn result(&self, key: &Digest) -> Lookup;
    /// What the action with this id was the last time, under whatever key.
    fn previous(&self, id: &str) -> Option<Record>;
}

/// The answer to a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// There, with all its blobs.
    Hit(Record),
    /// It ran, but a blob is gone or damaged.
    Lost {
        /// The blob.
        digest: Digest,
    },
    /// Never ran.
    Miss,
}

/// Why an action must run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum DirtyReason {
    /// It never ran here.
    New,
    /// An input has another content.
    InputChanged {
        /// Which.
        input: String,
    },
    /// There is an input that was not there before, or the other way round.
    InputSetChanged {
        /// Which.
        input: String,
    },
    /// A parameter has another value.
    ParameterChanged {
        /// Which.
        parameter: String,
        /// Before, as JSON.
        before: String,
        /// After, as JSON.
        after: String,
    },
    /// The result's blob is gone or damaged.
    OutputLost {
        /// Which.
        digest: Digest,
    },
    /// An action before it runs; whether this one must is known when that is done.
    Upstream {
        /// The action's id.
        action: String,
    },
}

impl fmt::Display for DirtyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DirtyReason::New => f.write_str("not built before"),
            DirtyReason::InputChanged { input } => write!(f, "{input} changed"),
            DirtyReason::InputSetChanged { input } => write!(f, "{input} added or removed"),
            DirtyReason::ParameterChanged {
                parameter,
                before,
                after,
            } => {
                if before.len() + after.len() <= 60 {
                    write!(f, "{parameter} changed: {before} → {after}")
                } else {
                    write!(f, "{parameter} changed")
                }
            }
            DirtyReason::OutputLost { digest } => write!(f, "blob {} is gone or damaged", digest.short()),
            DirtyReason::Upstream { action } => write!(f, "after `{action}`"),
        }
    }
}

/// What differs between an action's last run and now.
pub fn compare(
    previous: &Record,
    parameters: &Map<String, Value>,
    inputs: &BTreeMap<String, Digest>,
) -> Vec<DirtyReason> {
    let mut reasons = Vec::new();
    let names: std::collections::BTreeSet<&String> = previous.inputs.keys().chain(inputs.keys()).collect();
    for name in names {
        match (previous.inputs.get(name), inputs.get(name)) {
            (Some(before), Some(after)) if before == after => {}
            (Some(_), Some(_)) => reasons.push(DirtyReason::InputChanged { input: name.clone() }),
            _ => reasons.push(DirtyReason::InputSetChanged { input: name.clone() }),
        }
    }
    let fields: std::collections::BTreeSet<&String> =
        previous.parameters.keys().chain(parameters.keys()).collect();
    for field in fields {
        let (before, after) = (previous.parameters.get(field), parameters.get(field));
        if before != after {
            let text = |value: Option<&Value>| value.map_or("none".to_owned(), canonical);
            reasons.push(DirtyReason::ParameterChanged {
                parameter: field.clone(),
                before: text(before),
                after: text(after),
            });
        }
    }
    if reasons.is_empty() {
        // The same key as last time, so its record was thrown away.
        reasons.push(DirtyReason::New);
    }
    reasons
}

/// What differs between a committed record that is stale and now, where the action never ran on this machine.
pub fn compare_recorded(
    recorded: &BTreeMap<String, Digest>,
    inputs: &BTreeMap<String, Digest>,
) -> Vec<DirtyReason> {
    let changed = inputs
        .iter()
        .filter(|(name, digest)| recorded.get(*name).is_some_and(|before| before != *digest));
    let reasons: Vec<DirtyReason> = changed
        .map(|(input, _)| DirtyReason::InputChanged { input: input.clone() })
        .collect();
    if reasons.is_empty() {
        return vec![DirtyReason::New];
    }
    reasons
}
