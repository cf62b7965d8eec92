//! What another machine would compute differently, and is therefore computed once, committed and reviewed:
//! calibration ranges (`models/<name>/calibration.toml`) and measurements with golden outputs
//! (`models/<name>/measured.json`).
//!
//! A record names its *subject*: a digest over everything that it was made from. While the subject is what the
//! declarations say, the record is the truth and nobody computes it again into the image; when it is not, the release
//! makes a new one, and `--locked` refuses.

use std::collections::BTreeMap;

use aiot_package::{BASELINE_FORMAT_VERSION, Baseline, Digest, Golden, Metric, Precision};
use serde::{Deserialize, Serialize};

use crate::action::PackageParameters;
use crate::declare::Granularity;

/// File beside the model with the ranges.
pub const CALIBRATION_FILE: &str = "calibration.toml";
/// File beside the model with the measurements.
pub const MEASURED_FILE: &str = "measured.json";
/// How calibration decides; part of the subject.
pub const CALIBRATION_METHOD: &str = "search-5";

/// `models/<name>/calibration.toml`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Calibration {
    /// What the ranges were made from.
    pub subject: Digest,
    /// [`CALIBRATION_METHOD`]
    pub method: String,
    /// Version of ONNX Runtime that observed them.
    pub engine: String,
    /// Where the scales of activations come from on processors.
    #[serde(default, skip_serializing_if = "Scales::are_static")]
    pub scales: Scales,
    /// Inputs that were run.
    pub samples: usize,
    /// How ranges were cut out of what was seen. Files of before had one way only.
    #[serde(default = "min_max")]
    pub range_method: String,
    /// Whether weights are evened out between weighted nodes before quantizing; ranges are of that graph.
    #[serde(default)]
    pub equalized: bool,
    /// Whether channels are put into an order in which neighbouring weights fit 16 bits together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permuted: bool,
    /// Nodes that stay float, since the budget needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub float_nodes: Vec<String>,
    /// Model, data sets and labels that it was made from, so that a stale record says what changed since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made_from: BTreeMap<String, Digest>,
    /// What was tried, for the reviewer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<Tried>,
    /// Tensor → smallest and largest value, rounded outwards to 12 mantissa bits.
    pub ranges: BTreeMap<String, [f32; 2]>,
    /// Input of a weighted node → mean of each channel, for bias correction; empty where that did not help.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub means: BTreeMap<String, Vec<f32>>,
    /// Input of a weighted node → what each channel is multiplied by before quantizing, so that small channels use more
    /// of the range; ranges and means are of that graph. Empty where that did not help.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channel_factors: BTreeMap<String, Vec<f32>>,
}

/// Where the scales of 8-bit activations come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scales {
    /// The ranges of the record.
    #[default]
    Static,
    /// Each input's own range, found at run time.
    Dynamic,
}

impl Scales {
    fn are_static(&self) -> bool {
        *self == Scales::Static
    }
}

/// An improvement that calibration tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tried {
    /// In words.
    pub what: String,
    /// Signal to noise of the outputs over the calibration set, dB.
    pub sqnr_db: f64,
    /// Drop of the metric against float, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<f64>,
    /// Whether it stayed.
    pub kept: bool,
}

/// How much worse than float a quantized model may be, and how that is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Budget {
    /// What is measured.
    pub metric: Metric,
    /// Largest drop against float.
    pub max_drop: f64,
    /// Whether a variant may be slower than float.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_slower: bool,
    /// How the model is run.
    pub package: PackageParameters,
}

fn min_max() -> String {
    "min-max".to_owned()
}

impl Calibration {
    /// The file's text.
    pub fn render(&self) -> String {
        let body = toml::to_string(self).expect("ranges are plain tables");
        format!(
            "# What quantizing this model obeys, found on its calibration set. Written by `cargo xtask release`, reviewed like\n\
             # code: with it, every machine makes the same quantized model. `cargo xtask update records` makes it anew.\n{body}"
        )
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Calibration, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

/// `models/<name>/measured.json`: variant → measurement.
pub type MeasuredFile = BTreeMap<Precision, Measured>;

/// What one variant of a model was measured to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Measured {
    /// What it was made from.
    pub subject: Digest,
    /// What was measured.
    pub metric: Metric,
    /// The metric's value.
    pub value: f64,
    /// Inputs that were run.
    pub samples: usize,
    /// Length of the variant's file.
    pub size_bytes: u64,
    /// Golden inputs (files of the evaluation set) and outputs.
    pub golden: Golden,
    /// What the evaluation set looks like, for the drift watch. Files of before had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
}

impl Measured {
    /// The bytes that stand for it in the store: the same however the file around it is laid out.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a measurement is plain data")
    }

    /// How `now`, measured on this machine, contradicts this record; `None` where it does not.
    pub fn contradiction(&self, now: &Measured) -> Option<String> {
        // One sample may fall on the other side where float arithmetic differs in the last bits.
        let slack = if self.golden.tolerance == aiot_package::Tolerance::EXACT {
            0.0
        } else {
            1.0
        };
        let share = slack / self.samples.max(1) as f64 + 1e-9;
        if self.samples != now.samples || (self.value - now.value).abs() > share {
            return Some(format!(
                "recorded {} {} over {} samples, measured here {} over {}",
                self.metric, self.value, self.samples, now.value, now.samples
            ));
        }
        if let (Some(old), Some(new)) = (&self.baseline, &now.baseline)
            && let Some(reason) = old.contradiction(new)
        {
            return Some(reason);
        }
        for (old, new) in self.golden.cases.iter().zip(&now.golden.cases) {
            for (name, expected) in &old.outputs {
                let got = new.outputs.get(name).map(Vec::as_slice).unwrap_or_default();
                let wrong = expected.len() != got.len() || old.file != new.file;
                let at = expected
                    .iter()
                    .zip(got)
                    .position(|(e, g)| !self.golden.tolerance.accepts(*e, *g));
                if wrong || at.is_some() {
                    let index = at.unwrap_or(0);
                    return Some(format!(
                        "output `{name}` of {} differs at {index}: recorded {:?}, here {:?}",
                        old.file,
                        expected.get(index),
                        got.get(index)
                    ));
                }
            }
        }
        (self.golden.cases.len() != now.golden.cases.len())
            .then(|| "another number of golden inputs".to_owned())
    }
}

/// Renders `measured.json`: sorted, one entry a variant, one golden case a line.
pub fn render_measured(file: &MeasuredFile) -> String {
    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).expect("a measurement is plain data")
    }
    let entries: Vec<String> = file
        .iter()
        .map(|(precision, measured)| {
            let Measured { subject, metric, value, samples, size_bytes, golden, baseline } = measured;
            let cases: Vec<String> = golden.cases.iter().map(|case| format!("        {}", json(case))).collect();
            let baseline = baseline.as_ref().map_or_else(String::new, |baseline| {
                let statistics: Vec<String> =
                    baseline.statistics.iter().map(|statistic| format!("        {}", json(statistic))).collect();
                format!(
                    ",\n    \"baseline\": {{\n      \"format-version\": {},\n      \"statistics\": [\n{}\n      ]\n    }}",
                    baseline.format_version,
                    statistics.join(",\n"),
                )
            });
            format!(
                "  {}: {{\n    \"subject\": {},\n    \"metric\": {},\n    \"value\": {},\n    \"samples\": {samples},\n    \
                 \"size-bytes\": {size_bytes},\n    \"golden\": {{\n      \"tolerance\": {},\n      \"cases\": [\n{}\n      ]\n    }}{baseline}\n  }}",
                json(precision),
                json(subject),
                json(metric),
                json(value),
                json(&golden.tolerance),
                cases.join(",\n"),
            )
        })
        .collect();
    format!("{{\n{}\n}}\n", entries.join(",\n"))
}

/// What a calibration is made from, by the names that its action gives these inputs.
pub fn calibration_inputs(
    source: Digest,
    samples: Digest,
    evaluation: Digest,
    labels: Option<Digest>,
) -> BTreeMap<String, Digest> {
    let mut inputs = BTreeMap::from([
        ("model".to_owned(), source),
        ("calibration set".to_owned(), samples),
        ("evaluation set".to_owned(), evaluation),
    ]);
    inputs.extend(labels.map(|labels| ("labels".to_owned(), labels)));
    inputs
}

/// The subject of a calibration made from [`calibration_inputs`].
pub fn calibration_subject(
    inputs: &BTreeMap<String, Digest>,
    precision: Precision,
    granularity: Granularity,
    budget: &Budget,
    engine_version: &str,
) -> Digest {
    subject(&serde_json::json!({
        "source": inputs.get("model"), "samples": inputs.get("calibration set"),
        "evaluation": inputs.get("evaluation set"), "labels": inputs.get("labels"), "precision": precision,
        "granularity": granularity, "budget": budget, "method": CALIBRATION_METHOD, "engine": engine_version,
    }))
}

/// The subject of a measurement; `calibration` is the subject of the ranges, for the variants that have some.
#[allow(
    clippy::too_many_arguments,
    reason = "a list of everything that a measurement depends on"
)]
pub fn measured_subject(
    source: Digest,
    calibration: Option<Digest>,
    evaluation: Digest,
    labels: Option<Digest>,
    precision: Precision,
    granularity: Granularity,
    metric: Metric,
    package: &PackageParameters,
    engine_version: &str,
) -> Digest {
    subject(&serde_json::json!({
        "source": source, "calibration": calibration, "evaluation": evaluation, "labels": labels,
        "precision": precision, "granularity": granularity, "metric": metric, "package": package,
        "engine": engine_version, "baseline": BASELINE_FORMAT_VERSION,
    }))
}

fn subject(value: &serde_json::Value) -> Digest {
    Digest::of(crate::action::canonical(value).as_bytes())
}
