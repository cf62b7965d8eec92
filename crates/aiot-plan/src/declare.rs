//! The declarations as people write them: `models.toml`, `targets.toml`, `deployments/<environment>.toml`.
//!
//! Text in, spanned structs out. Nothing is checked here but the shape (unknown keys, types); names, paths and pairs
//! are checked in [`mod@crate::resolve`]. Serde's `flatten`, `untagged` and `tag` are not used, since spans do not survive
//! them.

use std::collections::BTreeMap;

use aiot_package::{
    Activation, CaptureSpec, DriftSpec, InputSpec, Metric, QueueSpec, RequestsSpec, Sinks, Sources, Task,
};
use serde::Deserialize;
use toml::Spanned;

/// `models.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelsFile {
    /// `[model.<name>]`
    #[serde(default)]
    pub model: BTreeMap<Spanned<String>, ModelDeclaration>,
}

/// One `[model.<name>]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelDeclaration {
    /// One sentence for people.
    pub description: String,
    /// Version of the model, free of the code's version.
    pub version: Spanned<String>,
    /// Where the float model comes from.
    pub source: ModelSource,
    /// What its outputs mean.
    pub task: Spanned<Task>,
    /// The crate below `modules/` that serves it.
    pub module: Spanned<String>,
    /// Names of targets.
    pub targets: Vec<Spanned<String>>,
    /// How an input becomes a tensor.
    pub input: Spanned<InputSpec>,
    /// How tensors become a result.
    #[serde(default)]
    pub output: OutputDeclaration,
    /// How it is made smaller.
    #[serde(default)]
    pub quantization: QuantizationDeclaration,
    /// How good it must stay.
    pub acceptance: AcceptanceDeclaration,
    /// It is a challenger: it rides in the images of another model, and gets none of its own.
    pub shadow: Option<Spanned<ShadowDeclaration>>,
    /// The IoT Edge module around it.
    #[serde(default)]
    pub edge: EdgeDeclaration,
}

/// `[model.<name>.shadow]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ShadowDeclaration {
    /// The model that it is compared with.
    pub of: Spanned<String>,
    /// Share of that model's inputs that it sees too, above 0 and at most 1.
    pub share: Spanned<f64>,
    /// Regression: the difference up to which two values agree.
    pub tolerance: Option<Spanned<f64>>,
}

/// Where a model comes from. Externally tagged, so that `[model.x.source.url]`, `.oci` and `.mlflow` can follow.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelSource {
    /// A file of the repository.
    File(FileSource),
}

/// A file and the digest that it must have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileSource {
    /// Path relative to the workspace, `/` as separator.
    pub path: Spanned<String>,
    /// 64 hexadecimal digits.
    pub sha256: Spanned<String>,
    /// Files that hold the data of its tensors, as exporters write large models: path relative to the model's folder →
    /// 64 hexadecimal digits.
    #[serde(default)]
    pub data: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// `[model.<name>.output]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OutputDeclaration {
    /// A text file with one label a line.
    pub labels: Option<Spanned<String>>,
    /// Softmax unless given.
    #[serde(default)]
    pub activation: Activation,
    /// Least probability, or the score above which a window is an anomaly.
    pub threshold: Option<Spanned<f32>>,
}

/// `[model.<name>.quantization]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuantizationDeclaration {
    /// On processors: `int8` unless given.
    #[serde(default)]
    pub scheme: Scheme,
    /// On GPUs: `float16` unless given.
    #[serde(default)]
    pub gpu_scheme: GpuScheme,
    /// One scale per output channel, or one per tensor.
    #[serde(default)]
    pub granularity: Granularity,
    /// Folder of calibration inputs with `labels.csv`; needed for the int8 schemes.
    pub calibration: Option<Spanned<String>>,
    /// Whether `int8` is wanted even where it is slower than float, for its size.
    #[serde(default)]
    pub allow_slower: bool,
}

/// What a model becomes on a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Stays float32.
    None,
    /// u8 activations, s8 weights: with fixed scales, or for recurrent nets and transformers as [`Scheme::Int8Dynamic`]
    /// where that is measured to be better.
    #[default]
    Int8,
    /// s8 weights of products, recurrent nets and embeddings; activations are quantized at run time.
    Int8Dynamic,
    /// s8 weights in the file, float arithmetic.
    Int8Weights,
    /// Matrices in 4 bits by blocks, float arithmetic.
    Int4Weights,
}

/// What a model becomes on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuScheme {
    /// Stays float32.
    None,
    /// Half precision.
    #[default]
    Float16,
    /// Static int8 with symmetric activations, as TensorRT wants it.
    Int8,
}

/// Scales of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// One scale per output channel.
    #[default]
    PerChannel,
    /// One scale per weight tensor.
    PerTensor,
}

/// `[model.<name>.acceptance]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AcceptanceDeclaration {
    /// Folder of evaluation inputs with `labels.csv`.
    pub evaluation: Spanned<String>,
    /// What is measured on it.
    pub metric: Spanned<Metric>,
    /// Least value (largest for an error metric) that any variant of the model must reach.
    pub at_least: f64,
    /// Largest drop of a quantized variant against float.
    pub max_drop: f64,
    /// Stricter or looser bounds per target.
    #[serde(default)]
    pub target: BTreeMap<Spanned<String>, TargetAcceptance>,
}

/// `[model.<name>.acceptance.target.<target>]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TargetAcceptance {
    /// Overrides `at-least`.
    pub at_least: Option<f64>,
    /// Overrides `max-drop`.
    pub max_drop: Option<f64>,
}

/// `[model.<name>.edge]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EdgeDeclaration {
    /// Extra device condition, joined to the target's by AND.
    pub condition: Option<Spanned<String>>,
    /// Route name → route; `{module}` stands for the IoT Edge module's name.
    #[serde(default)]
    pub routes: BTreeMap<String, Spanned<String>>,
    /// Environment of the module.
    #[serde(default)]
    pub env: BTreeMap<Spanned<String>, toml::Value>,
    /// Desired properties of the module twin.
    #[serde(default)]
    pub desired: toml::Table,
    /// Where inputs come from; the edge hub's inputs unless given.
    pub sources: Option<Spanned<Sources>>,
    /// Where predictions go; the edge hub's output `predictions` unless given.
    pub sinks: Option<Spanned<Sinks>>,
    /// Where predictions wait for a sink that is away; in memory unless given.
    pub queue: Option<Spanned<QueueSpec>>,
    /// How inputs are compared with the evaluation set.
    pub drift: Option<Spanned<DriftSpec>>,
    /// Where inputs are kept when the twin or a direct method asks for some.
    pub capture: Option<Spanned<CaptureSpec>>,
    /// How many HTTP requests may wait, and who is refused then.
    pub requests: Option<Spanned<RequestsSpec>>,
    /// Joined over the target's create-options.
    pub create_options: Option<Spanned<toml::Table>>,
    /// Lower starts earlier.
    pub startup_order: Option<u32>,
}

/// `targets.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TargetsFile {
    /// `[target.<name>]`
    #[serde(default)]
    pub target: BTreeMap<Spanned<String>, TargetDeclaration>,
}

/// One `[target.<name>]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TargetDeclaration {
    /// One sentence for people.
    pub description: String,
    /// Rust target triple.
    pub triple: Spanned<String>,
    /// OCI platform, `os/architecture[/variant]`.
    pub platform: Spanned<String>,
    /// What runs the models.
    #[serde(default)]
    pub processor: Processor,
    /// Least C library version on which the module must run.
    pub glibc: Spanned<String>,
    /// What compiles the modules; chosen automatically unless given.
    pub builder: Option<BuilderKind>,
    /// How layers of programs and libraries are compressed.
    #[serde(default)]
    pub layer_compression: LayerCompression,
    /// The inference engine.
    pub engine: EngineDeclaration,
    /// What the images stand on.
    pub base: BaseSource,
    /// What the device has.
    pub limits: LimitsDeclaration,
    /// Docker's create options, see [`crate::create_options`].
    pub create_options: Option<Spanned<toml::Table>>,
    /// Twin-tag condition that says which devices these are.
    pub condition: Spanned<String>,
}

/// What runs the models of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Processor {
    /// The processor's own cores.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Gpu,
}

/// What compiles a module.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, serde::Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum BuilderKind {
    /// cargo with the system's (cross) linker.
    Cargo,
    /// cargo-zigbuild with the pip package `ziglang`: the same bytes on any machine.
    #[default]
    Zigbuild,
    /// `cross` in a container.
    Cross,
}

impl BuilderKind {
    /// The name in declarations and names of actions.
    pub fn as_str(self) -> &'static str {
        match self {
            BuilderKind::Cargo => "cargo",
            BuilderKind::Zigbuild => "zigbuild",
            BuilderKind::Cross => "cross",
        }
    }
}

/// How layers of programs and libraries are compressed; a model's layer is plain, since weights hardly shrink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerCompression {
    /// For every container engine.
    #[default]
    Gzip,
    /// Smaller; for container engines from Docker 23 on.
    Zstd,
}

impl LayerCompression {
    /// Whether it is the default, which keys of actions do not name.
    pub fn is_default(&self) -> bool {
        *self == LayerCompression::default()
    }

    /// What it adds to the name of an action.
    pub fn suffix(self) -> &'static str {
        match self {
            LayerCompression::Gzip => "",
            LayerCompression::Zstd => " zstd",
        }
    }
}

/// `[target.<name>.engine]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EngineDeclaration {
    /// Version of ONNX Runtime, `major.minor[.patch]`.
    pub version: Spanned<String>,
    /// Where the library comes from.
    pub source: EngineSource,
    /// Tried in this order.
    #[serde(default = "cpu_only")]
    pub execution_providers: Vec<Spanned<ExecutionProviderName>>,
    /// Threads within a node; the engine decides unless given.
    pub intra_threads: Option<u16>,
}

fn cpu_only() -> Vec<Spanned<ExecutionProviderName>> {
    vec![Spanned::new(0..0, ExecutionProviderName::Cpu)]
}

/// Execution providers of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutionProviderName {
    /// NVIDIA TensorRT.
    Tensorrt,
    /// NVIDIA CUDA.
    Cuda,
    /// The processor.
    Cpu,
}

impl ExecutionProviderName {
    /// The name in files and environment variables.
    pub fn as_str(self) -> &'static str {
        match self {
            ExecutionProviderName::Tensorrt => "tensorrt",
            ExecutionProviderName::Cuda => "cuda",
            ExecutionProviderName::Cpu => "cpu",
        }
    }
}

/// Where `libonnxruntime.so` comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineSource {
    /// A Python wheel.
    Wheel(WheelSource),
    /// A package of the base's distribution.
    Debian(DebianEngine),
    /// The base image brings it.
    BaseImage(BaseImageEngine),
}

/// A Python wheel by package name and platform tag.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WheelSource {
    /// Package name.
    pub package: String,
    /// Platform tag, for example `manylinux_2_28_aarch64`.
    pub platform: Spanned<String>,
}

/// An engine that the distribution packages.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DebianEngine {
    /// Package name.
    pub package: String,
    /// The library's file name.
    pub library: String,
}

/// An engine inside the base image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BaseImageEngine {
    /// Absolute path of the library in the image.
    pub library: Spanned<String>,
}

/// What images of a target stand on.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseSource {
    /// Files of Debian packages.
    Debian(DebianBase),
    /// An OCI image, pinned by digest.
    Image(ImageBase),
    /// Nothing.
    Scratch(ScratchBase),
}

/// `[target.<name>.base.debian]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DebianBase {
    /// The release's code name.
    pub suite: String,
    /// Root packages; dependencies follow.
    pub packages: Vec<Spanned<String>>,
    /// Packages to leave out although something depends on them.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// `[target.<name>.base.image]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageBase {
    /// `registry/repository@sha256:…`, the digest of an index or a manifest.
    pub reference: Spanned<String>,
}

/// `[target.<name>.base.scratch]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchBase {}

/// `[target.<name>.limits]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsDeclaration {
    /// Memory that a module may use, MiB.
    pub memory_mib: u64,
    /// Disk that the images may take together, MiB.
    pub disk_mib: u64,
    /// Speed of the link, kbit/s.
    pub link_kbit_per_s: Option<u64>,
}

/// `deployments/<environment>.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EnvironmentFile {
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// Host name of the hub, without scheme; none = no hub.
    pub hub: Option<Spanned<String>>,
    /// Registry host (and port); none = the layout on disk.
    pub registry: Option<Spanned<String>>,
    /// Prefix of all repositories in the registry.
    pub repository_prefix: Spanned<String>,
    /// The edge runtime.
    pub system: SystemDeclaration,
    /// Base URL of a Debian mirror, where the host's own is not to be used.
    pub debian_mirror: Option<String>,
    /// Base URL of an archive of old packages.
    pub debian_snapshot: Option<String>,
    /// Who must have signed the images; none = nobody.
    pub signatures: Option<SignaturesDeclaration>,
    /// Roll-out rings, in order.
    #[serde(default)]
    pub ring: Vec<RingDeclaration>,
    /// Models that are held at an earlier release.
    #[serde(default)]
    pub pin: Vec<PinDeclaration>,
}

/// One `[[pin]]`: written by `deploy rollback`, reviewed and removed by people.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PinDeclaration {
    /// The model.
    pub model: Spanned<String>,
    /// Version that runs.
    pub version: String,
    /// Version in `models.toml` that must not run; with another one there, the pin has outlived its purpose.
    pub instead_of: Spanned<String>,
    /// Why.
    pub reason: Spanned<String>,
    /// `[pin.image.<target>]`
    pub image: Spanned<BTreeMap<Spanned<String>, PinnedImageDeclaration>>,
}

/// One `[pin.image.<target>]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PinnedImageDeclaration {
    /// Of the image manifest, `sha256:…`.
    pub digest: Spanned<String>,
    /// Compressed size of the image, bytes.
    pub size_bytes: u64,
    /// Variant of the model in it.
    pub precision: aiot_package::Precision,
    /// As it was measured.
    pub accuracy: PinnedAccuracyDeclaration,
    /// The module's part of the deployment, where it was not as `models.toml` declares it: a JSON object of sections.
    pub settings: Option<Spanned<String>>,
}

/// `accuracy = { metric = "accuracy", float = 0.98, shipped = 0.97 }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PinnedAccuracyDeclaration {
    /// Name of the metric.
    pub metric: String,
    /// As trained.
    pub float: f64,
    /// As shipped.
    pub shipped: f64,
}

/// `[signatures]` of an environment: its images are signed with one of these keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SignaturesDeclaration {
    /// Paths of public keys, ECDSA P-256 in PEM; one of them is enough.
    pub public_keys: Spanned<Vec<Spanned<String>>>,
}

/// `[system]` of an environment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SystemDeclaration {
    /// Image of edgeAgent, by exact version or digest.
    pub edge_agent: Spanned<String>,
    /// Image of edgeHub, by exact version or digest.
    pub edge_hub: Spanned<String>,
}

/// One `[[ring]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RingDeclaration {
    /// Short name.
    pub name: Spanned<String>,
    /// Twin-tag condition. Without condition, devices and percent: all devices.
    pub condition: Option<Spanned<String>>,
    /// Devices by id.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Share of the fleet, 0 to 100.
    pub percent: Option<Spanned<u8>>,
    /// Hours that a release stays in this ring.
    pub soak_hours: Option<u32>,
    /// Devices that must have reported before a release goes on, `3` or `"50 %"`.
    pub minimum_reported: Option<Spanned<toml::Value>>,
    /// Devices that may be in trouble.
    #[serde(default)]
    pub at_most: ThresholdsDeclaration,
    /// Whether a person must agree.
    #[serde(default)]
    pub approval: bool,
    /// When nothing is rolled out to this ring.
    pub quiet_hours: Option<QuietHoursDeclaration>,
}

/// `[ring.at-most]`: a number of devices, `3`, or a share of them, `"5 %"`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ThresholdsDeclaration {
    /// A module ended, or the agent could not apply the release.
    pub failed: Option<Spanned<toml::Value>>,
    /// A health check fails.
    pub unhealthy: Option<Spanned<toml::Value>>,
    /// A model does not compute what it should.
    pub self_check_failed: Option<Spanned<toml::Value>>,
    /// Inputs are unlike the training data.
    pub drifting: Option<Spanned<toml::Value>>,
    /// Not heard of.
    pub silent: Option<Spanned<toml::Value>>,
}

/// `quiet-hours = { from = "06:00", to = "22:00", time-zone = "Europe/Berlin" }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuietHoursDeclaration {
    /// First minute, local time.
    pub from: Spanned<String>,
    /// First minute after.
    pub to: Spanned<String>,
    /// Name in the time zone database.
    pub time_zone: Spanned<String>,
}
