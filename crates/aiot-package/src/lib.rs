//! The model package: what a module needs to know about the model that it serves.
//!
//! These types are written once, in `models.toml` by people and in `/model/package.json` by the release, and read
//! by the build host (to calibrate and evaluate) and by the device (to serve). They are plain data: no file, engine
//! or network here. The code that obeys them is `aiot-inference`.
//!
//! Inside an image the package is a folder, `/model`:
//!
//! | file | content |
//! | --- | --- |
//! | `package.json` | [`ModelPackage`] |
//! | `model.onnx` | the graph that [`ModelFile`] describes |
//! | `golden.json` | [`Golden`]: inputs and the outputs that this model must give for them |
//! | `golden/…` | the input files that `golden.json` names |
//! | `baseline.json` | [`Baseline`]: what the inputs of the evaluation set look like, for the drift watch |

mod digest;
mod drift;
mod endpoint;
mod pipeline;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use digest::{Digest, DigestError};
pub use drift::{BASELINE_FILE, BASELINE_FORMAT_VERSION, Baseline, Bins, DriftSpec, Statistic};
pub use endpoint::Endpoint;
pub use pipeline::{
    CameraSource, CaptureSpec, DirectorySource, EdgeHubSink, EdgeHubSource, HttpSource, MqttSink,
    PIPELINE_VARIABLE, Pipeline, QueueSpec, ReplaySource, RequestsSpec, Sinks, Sources, StdoutSink,
    WebhookSink, WhenFull,
};

/// The version of `package.json` that this code writes and the only one that it reads.
pub const PACKAGE_FORMAT_VERSION: u32 = 1;

/// Where an image keeps its model package.
pub const PACKAGE_DIR: &str = "/model";

/// Where an image keeps the package of a challenger, which sees a share of the inputs and is never published.
pub const SHADOW_DIR: &str = "/shadow";

/// The variable with the share of the inputs that the challenger sees, above 0 and at most 1. Absent: there is none.
pub const SHADOW_SHARE_VARIABLE: &str = "AIOT_SHADOW_SHARE";

/// The variable with the difference up to which the values of two regressions agree.
pub const SHADOW_TOLERANCE_VARIABLE: &str = "AIOT_SHADOW_TOLERANCE";

/// Version of the code that prepares inputs, `aiot-inference`'s `preprocess`: part of every
/// [`InputSpec::preprocessing_digest`], raised when the same specification gives other tensors.
const PREPROCESSING_VERSION: u32 = 1;

/// Everything a module must know to serve one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelPackage {
    /// [`PACKAGE_FORMAT_VERSION`].
    pub format_version: u32,
    /// The model's name in `models.toml`.
    pub name: String,
    /// The model's version in `models.toml`.
    pub version: String,
    /// One sentence for people.
    pub description: String,
    /// What the outputs mean.
    pub task: Task,
    /// The graph.
    pub model: ModelFile,
    /// How an input file or message becomes the input tensor.
    pub input: InputSpec,
    /// How the output tensors become a result.
    pub output: OutputSpec,
}

/// The ONNX file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelFile {
    /// Path relative to the package, `model.onnx`.
    pub path: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// How its numbers are stored.
    pub precision: Precision,
}

/// How a graph's weights and activations are stored: the variant of a model that a kind of device gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As trained.
    Float32,
    /// IEEE half precision, inputs and outputs stay float32. For GPUs.
    Float16,
    /// Static QDQ: u8 asymmetric activations, s8 symmetric per-channel weights. For CPUs.
    Int8,
    /// Static QDQ: s8 symmetric activations and weights, all zero points 0. For TensorRT.
    Int8Symmetric,
    /// s8 weights of products, recurrent nets and embeddings; activations become u8 when the model runs.
    Int8Dynamic,
    /// s8 weights in the file, float32 when the model runs.
    Int8Weights,
    /// Matrices in 4 bits by blocks, other weights in 8, float32 arithmetic.
    Int4Weights,
}

impl Precision {
    /// Whether its scales of activations are found by calibration.
    pub fn needs_ranges(self) -> bool {
        matches!(self, Precision::Int8 | Precision::Int8Symmetric)
    }

    /// The name in files, labels and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Float32 => "float32",
            Precision::Float16 => "float16",
            Precision::Int8 => "int8",
            Precision::Int8Symmetric => "int8-symmetric",
            Precision::Int8Dynamic => "int8-dynamic",
            Precision::Int8Weights => "int8-weights",
            Precision::Int4Weights => "int4-weights",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a model is for; decides postprocessing and the metrics that make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One of a list of labels. Output: `[1, labels]` logits (or probabilities, see [`Activation`]).
    Classification,
    /// Is this window unlike the training data? Output: the reconstruction, same shape as the input;
    /// score = mean squared error between input and reconstruction; anomaly when above the threshold.
    AnomalyDetection,
    /// Numbers. Output: `[1, n]`, named by the labels.
    Regression,
}

/// How an input becomes a tensor. Batch size is 1 everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputSpec {
    /// A picture.
    Image(ImageInput),
    /// A window of a sensor recording.
    Signal(SignalInput),
}

impl InputSpec {
    /// Digest of the specification as compact JSON, with the version of the code that obeys it: equal digests, equal
    /// preparation. In the image's labels, in the module's twin and in every prediction.
    pub fn preprocessing_digest(&self) -> Digest {
        // Plain data in declared order; a map or a NaN, which JSON cannot hold, is not among it.
        let spec = serde_json::to_string(self).unwrap_or_default();
        Digest::of(format!("{PREPROCESSING_VERSION}\n{spec}").as_bytes())
    }
}

/// Preparation of a picture: decode → colour → resize → `(pixel * scale - mean) / std` → layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageInput {
    /// Width of the input tensor in pixels.
    pub width: u32,
    /// Height of the input tensor in pixels.
    pub height: u32,
    /// Channels and their order.
    pub colour: Colour,
    /// Filter for resizing; pixels are taken as they are where the size already fits.
    #[serde(default)]
    pub resize: ResizeFilter,
    /// What happens to the aspect ratio.
    #[serde(default)]
    pub fit: Fit,
    /// Factor for the 0..=255 pixel value, 1/255 unless given.
    #[serde(default = "default_scale")]
    pub scale: f32,
    /// Subtracted per channel after scaling; empty = 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f32>,
    /// Divisor per channel after the mean; empty = 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f32>,
    /// Order of the axes.
    #[serde(default)]
    pub layout: ImageLayout,
}

fn default_scale() -> f32 {
    1.0 / 255.0
}

/// Channels of a picture in the order in which the model wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red (OpenCV's habit).
    Bgr,
    /// One channel, 0.299 R + 0.587 G + 0.114 B as Pillow and OpenCV compute it.
    Grey,
}

impl Colour {
    /// Channels of the tensor.
    pub fn channels(self) -> usize {
        match self {
            Colour::Rgb | Colour::Bgr => 3,
            Colour::Grey => 1,
        }
    }
}

/// Resampling filters by Pillow's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeFilter {
    /// Mean of the covered pixels.
    Box,
    /// Linear, antialiased when shrinking.
    #[default]
    Bilinear,
    /// Cubic (a = -0.5), antialiased when shrinking.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

/// What happens when the aspect ratios of picture and model differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Each axis is scaled on its own.
    #[default]
    Stretch,
    /// Scaled until both axes are covered, then cut in the middle.
    Cover,
    /// Scaled until all fits, the rest filled with grey level 114.
    Contain,
}

/// Order of an image tensor's axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageLayout {
    /// `[1, channel, height, width]`
    #[default]
    Nchw,
    /// `[1, height, width, channel]`
    Nhwc,
}

/// Preparation of a sensor recording (`[samples, channels]`): windows → normalization → layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SignalInput {
    /// Channels of the recording.
    pub channels: u32,
    /// Samples per window.
    pub window: u32,
    /// Samples between the starts of two windows; the last incomplete window is dropped.
    pub stride: u32,
    /// How values are brought to the model's range.
    #[serde(default)]
    pub normalization: Normalization,
    /// Order of the axes.
    #[serde(default)]
    pub layout: SignalLayout,
}

/// Normalization of a signal window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Values as recorded.
    #[default]
    None,
    /// Per window and channel: zero mean, unit variance (population variance; a constant window becomes 0).
    PerWindow,
    /// `(value - mean) / std`, one entry per channel.
    Fixed {
        /// Subtracted, one per channel.
        mean: Vec<f32>,
        /// Divisor, one per channel, not 0.
        std: Vec<f32>,
    },
}

/// Order of a signal tensor's axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignalLayout {
    /// `[1, channel, time]`
    #[default]
    Nct,
    /// `[1, time, channel]`
    Ntc,
}

/// How the output tensors become a result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OutputSpec {
    /// Names of the classes (classification) or of the values (regression), in the tensor's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Applied to the logits of a classifier.
    #[serde(default)]
    pub activation: Activation,
    /// Classification: least probability for an answer, below it the label is null. Anomaly detection: the score
    /// above which a window is an anomaly (required there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

/// What turns a classifier's last tensor into probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// The tensor holds logits.
    #[default]
    Softmax,
    /// The tensor holds probabilities already.
    None,
}

/// Inputs with the outputs that a model of this package must give: replayed by `self-test` on the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Golden {
    /// How close an output must be.
    pub tolerance: Tolerance,
    /// The inputs.
    pub cases: Vec<GoldenCase>,
}

/// One golden input: the first window of a signal, the whole of a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GoldenCase {
    /// Path relative to the package.
    pub file: String,
    /// Output name → values in row-major order.
    pub outputs: BTreeMap<String, Vec<f32>>,
}

/// `|got - expected| <= absolute + relative * |expected|`; both 0 = the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tolerance {
    /// Absolute part, in the output's unit.
    pub absolute: f32,
    /// Part relative to the expected value.
    pub relative: f32,
}

impl Tolerance {
    /// The same bits.
    pub const EXACT: Tolerance = Tolerance {
        absolute: 0.0,
        relative: 0.0,
    };

    /// Whether `got` is close enough to `expected`. NaN never is, except to itself bit for bit.
    pub fn accepts(self, expected: f32, got: f32) -> bool {
        if expected.to_bits() == got.to_bits() {
            return true;
        }
        (got - expected).abs() <= self.absolute + self.relative * expected.abs()
            && (self.absolute > 0.0 || self.relative > 0.0)
    }
}

/// What an evaluation measures. Larger is better for all but [`Metric::MeanAbsoluteError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Share of inputs with the right label, 0..=1.
    Accuracy,
    /// Mean over the classes of the F1 score, 0..=1.
    MacroF1,
    /// Area under the ROC curve of the anomaly score, 0..=1 (ties count half).
    RocAuc,
    /// Mean absolute error of a regression; smaller is better.
    MeanAbsoluteError,
}

impl Metric {
    /// The name in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::MacroF1 => "macro-f1",
            Metric::RocAuc => "roc-auc",
            Metric::MeanAbsoluteError => "mean-absolute-error",
        }
    }

    /// How much worse `quantized` is than `float`; negative when it is better.
    pub fn drop(self, float: f64, quantized: f64) -> f64 {
        match self {
            Metric::MeanAbsoluteError => quantized - float,
            _ => float - quantized,
        }
    }

    /// Whether `value` reaches `bound`.
    pub fn reaches(self, value: f64, bound: f64) -> bool {
        match self {
            Metric::MeanAbsoluteError => value <= bound,
            _ => value >= bound,
        }
    }

    /// Whether the metric can be computed for the task.
    pub fn fits(self, task: Task) -> bool {
        match self {
            Metric::Accuracy => matches!(task, Task::Classification | Task::AnomalyDetection),
            Metric::MacroF1 => task == Task::Classification,
            Metric::RocAuc => task == Task::AnomalyDetection,
            Metric::MeanAbsoluteError => task == Task::Regression,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
