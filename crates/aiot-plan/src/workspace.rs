//! The workspace: what the declarations mean, names checked and defaults applied. Plain data.

use std::collections::BTreeMap;

use aiot_package::{Activation, Digest, InputSpec, Metric, Precision, Task};

use crate::architecture::Architecture;
use crate::declare::{
    BuilderKind, ExecutionProviderName, GpuScheme, Granularity, ImageBase, LayerCompression, Processor,
    Scheme,
};
use crate::diagnose::Site;
use crate::names::{EnvironmentName, ModelName, ModuleName, TargetName};

/// Everything that was declared.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    /// `models.toml`
    pub models: BTreeMap<ModelName, Model>,
    /// `targets.toml`
    pub targets: BTreeMap<TargetName, Target>,
    /// `deployments/*.toml`
    pub environments: BTreeMap<EnvironmentName, Environment>,
}

/// One model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name.
    pub name: ModelName,
    /// One sentence for people.
    pub description: String,
    /// Its version.
    pub version: String,
    /// Path of the float model, relative to the workspace.
    pub path: String,
    /// Digest that the file must have.
    pub digest: Digest,
    /// Files beside it that hold the data of its tensors, by path relative to its folder.
    pub data: BTreeMap<String, DataFile>,
    /// What the outputs mean.
    pub task: Task,
    /// The crate below `modules/` that serves it.
    pub module: ModuleName,
    /// How an input becomes a tensor.
    pub input: InputSpec,
    /// File with one label a line.
    pub labels_path: Option<String>,
    /// What turns logits into probabilities.
    pub activation: Activation,
    /// Least probability or anomaly threshold.
    pub threshold: Option<f32>,
    /// On processors.
    pub scheme: Scheme,
    /// On GPUs.
    pub gpu_scheme: GpuScheme,
    /// Scales of the weights.
    pub granularity: Granularity,
    /// Whether `int8` is wanted even where it is slower than float.
    pub allow_slower: bool,
    /// Folder of calibration inputs.
    pub calibration_path: Option<String>,
    /// Folder of evaluation inputs.
    pub evaluation_path: String,
    /// What is measured.
    pub metric: Metric,
    /// Where it goes, and how good it must be there.
    pub targets: BTreeMap<TargetName, ModelOnTarget>,
    /// It is a challenger: it rides in the images of another model on these targets, and gets none of its own.
    pub shadow: Option<Shadow>,
    /// The IoT Edge module around it.
    pub edge: Edge,
    /// Where things stand in `models.toml`.
    pub sites: ModelSites,
}

/// What a challenger is compared with.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// The model in whose images it rides.
    pub of: ModelName,
    /// Share of that model's inputs, above 0 and at most 1.
    pub share: f64,
    /// Regression: the difference up to which two values agree.
    pub tolerance: Option<f64>,
    /// `shadow.of`
    pub site: Site,
}

/// Places in `models.toml` that later checks point at.
#[derive(Clone, Debug)]
pub struct ModelSites {
    /// The model's name.
    pub name: Site,
    /// `source.file.path`
    pub path: Site,
    /// `source.file.sha256`
    pub sha256: Site,
    /// `output.labels`
    pub labels: Option<Site>,
    /// `quantization.calibration`
    pub calibration: Option<Site>,
    /// `acceptance.evaluation`
    pub evaluation: Site,
    /// `module`
    pub module: Site,
    /// `input`
    pub input: Site,
    /// `edge.condition`
    pub condition: Option<Site>,
    /// `edge.routes`, by name
    pub routes: BTreeMap<String, Site>,
}

/// The place of a file that is named relative to the folder of `model`, relative to the workspace.
pub(crate) fn beside(model: &str, path: &str) -> String {
    match model.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{path}"),
        None => path.to_owned(),
    }
}

/// A file that holds the data of a model's tensors.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Digest that it must have.
    pub digest: Digest,
    /// Where it is declared.
    pub site: Site,
}

/// A model on one target.
#[derive(Clone, Debug)]
pub struct ModelOnTarget {
    /// Its name in the model's `targets`.
    pub site: Site,
    /// Least value (largest for an error metric).
    pub at_least: f64,
    /// Largest drop against float.
    pub max_drop: f64,
}

/// The IoT Edge module around a model.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    /// Extra device condition.
    pub condition: Option<String>,
    /// Route name → route, `{module}` not yet replaced.
    pub routes: BTreeMap<String, String>,
    /// Environment; strings, numbers and booleans.
    pub env: BTreeMap<String, serde_json::Value>,
    /// Desired properties of the module twin.
    pub desired: serde_json::Value,
    /// Joined over the target's create options.
    pub create_options: serde_json::Value,
    /// Lower starts earlier.
    pub startup_order: Option<u32>,
}

/// One kind of device.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: TargetName,
    /// One sentence for people.
    pub description: String,
    /// Rust target triple.
    pub triple: String,
    /// OCI platform.
    pub platform: Platform,
    /// What runs the models.
    pub processor: Processor,
    /// Least C library version, `2.31`.
    pub glibc: String,
    /// What compiles the modules, if declared.
    pub builder: Option<BuilderKind>,
    /// How layers of programs and libraries are compressed.
    pub layer_compression: LayerCompression,
    /// The engine.
    pub engine: Engine,
    /// What the images stand on.
    pub base: Base,
    /// Memory for a module, bytes.
    pub memory_bytes: u64,
    /// Disk for all images, bytes.
    pub disk_bytes: u64,
    /// Speed of the link, kbit/s.
    pub link_kbit_per_s: Option<u64>,
    /// Body of Docker's container-create call.
    pub create_options: serde_json::Value,
    /// Which devices these are.
    pub condition: String,
    /// Place of the condition.
    pub condition_site: Site,
    /// Place of the name.
    pub site: Site,
}

/// An OCI platform.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, `arm`
    pub architecture: String,
    /// `v7` on 32-bit ARM
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// What Debian calls it.
    pub fn debian_architecture(&self) -> Architecture {
        match self.architecture.as_str() {
            "amd64" => Architecture::Amd64,
            "arm64" => Architecture::Arm64,
            _ => Architecture::Armhf,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

/// The inference engine of a target.
#[derive(Clone, Debug)]
pub struct Engine {
    /// `major.minor[.patch]`
    pub version: String,
    /// Where the library comes from.
    pub source: EngineFrom,
    /// Tried in this order; never empty.
    pub execution_providers: Vec<ExecutionProviderName>,
    /// Threads within a node.
    pub intra_threads: Option<u16>,
}

/// Where an engine's library comes from, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineFrom {
    /// A wheel.
    Wheel {
        /// Package name.
        package: String,
        /// Platform tag.
        platform: String,
    },
    /// A package of the base's distribution.
    Debian {
        /// Package name.
        package: String,
        /// File name of the library.
        library: String,
    },
    /// The base image has it.
    BaseImage {
        /// Absolute path in the image.
        library: String,
    },
}

/// What images of a target stand on, checked.
#[derive(Clone, Debug)]
pub enum Base {
    /// Files of Debian packages.
    Debian {
        /// Code name of the release.
        suite: String,
        /// Root packages.
        packages: Vec<String>,
        /// Left out.
        exclude: Vec<String>,
    },
    /// An OCI image.
    Image {
        /// `registry/repository@sha256:…`
        reference: String,
        /// The digest in it.
        digest: Digest,
        /// Its place.
        site: Site,
    },
    /// Nothing.
    Scratch,
}

impl Base {
    pub(crate) fn image(base: &ImageBase, digest: Digest, site: Site) -> Base {
        Base::Image {
            reference: base.reference.get_ref().clone(),
            digest,
            site,
        }
    }
}

/// One `deployments/<environment>.toml`.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Its name.
    pub name: EnvironmentName,
    /// One sentence for people.
    pub description: String,
    /// Host name of the hub.
    pub hub: Option<String>,
    /// Registry host and port.
    pub registry: Option<String>,
    /// Prefix of all repositories.
    pub repository_prefix: String,
    /// Image of edgeAgent.
    pub edge_agent: SystemImage,
    /// Image of edgeHub.
    pub edge_hub: SystemImage,
    /// Base URL of a Debian mirror.
    pub debian_mirror: Option<String>,
    /// Base URL of an archive of old packages.
    pub debian_snapshot: Option<String>,
    /// Public keys, one of which must have signed an image before a manifest may name it; empty = no signature is
    /// asked for.
    pub signature_keys: Vec<SignatureKey>,
    /// Rings, in order.
    pub rings: Vec<Ring>,
    /// Models held at an earlier release; each model at most once per target.
    pub pins: Vec<Pin>,
}

/// An image of the runtime, as written.
#[derive(Clone, Debug)]
pub struct SystemImage {
    /// The reference.
    pub image: String,
    /// Its place.
    pub site: Site,
}

/// A model that an environment holds at an earlier release.
#[derive(Clone, Debug)]
pub struct Pin {
    /// The model.
    pub model: ModelName,
    /// Version that runs.
    pub version: String,
    /// Version in `models.toml` that is held back.
    pub instead_of: String,
    /// Why.
    pub reason: String,
    /// By target.
    pub images: BTreeMap<TargetName, PinnedImage>,
    /// Its place.
    pub site: Site,
}

/// One image of a pin.
#[derive(Clone, Debug)]
pub struct PinnedImage {
    /// Of the image manifest.
    pub digest: Digest,
    /// Compressed size, bytes.
    pub size_bytes: u64,
    /// Variant of the model.
    pub precision: Precision,
    /// Metric, as trained, as shipped.
    pub accuracy: (String, f64, f64),
    /// The module's part of the deployment; none: as declared.
    pub settings: Option<serde_json::Map<String, serde_json::Value>>,
    /// Its place.
    pub site: Site,
}

impl Environment {
    /// What stands before `/<model>` in image names; `localhost/…` where there is no registry.
    pub fn image_prefix(&self) -> String {
        format!(
            "{}/{}",
            self.registry.as_deref().unwrap_or("localhost"),
            self.repository_prefix
        )
    }
}

/// A public key that an environment trusts.
#[derive(Clone, Debug)]
pub struct SignatureKey {
    /// Path below the workspace.
    pub path: String,
    /// Its place.
    pub site: Site,
}

/// One ring of a roll-out. What is not declared is left to the roll-out's defaults.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Short name.
    pub name: String,
    /// Twin-tag condition. Without condition, devices and percent: all devices.
    pub condition: Option<String>,
    /// Devices by id.
    pub devices: Vec<String>,
    /// Share of the fleet, 0 to 100.
    pub percent: Option<u8>,
    /// Hours that a release stays in this ring.
    pub soak_hours: Option<u32>,
    /// Devices that must have reported before a release goes on.
    pub minimum_reported: Option<Amount>,
    /// Devices that may be in trouble, by kind of trouble: `failed`, `unhealthy`, `self-check-failed`, `drifting`,
    /// `silent`.
    pub at_most: BTreeMap<&'static str, Amount>,
    /// Whether a person must agree.
    pub approval: bool,
    /// From, to and time zone of the hours in which nothing is rolled out to this ring.
    pub quiet_hours: Option<[String; 3]>,
    /// Its place.
    pub site: Site,
}

/// A number of devices, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Devices.
    Count(u32),
    /// Percent, 0 to 100.
    Percent(u8),
}

impl Model {
    /// The model's files, by path relative to the workspace, with the digests that they must have: the model first.
    pub fn files(&self) -> impl Iterator<Item = (String, Digest)> {
        let data = self.data.iter();
        let data = data.map(|(path, file)| (beside(&self.path, path), file.digest));
        [(self.path.clone(), self.digest)].into_iter().chain(data)
    }

    /// What stands for the whole float model: its file's digest; where data lies beside it, that of the lines that
    /// `sha256sum` prints of all its files in the model's folder, the model first.
    pub fn source(&self) -> Digest {
        if self.data.is_empty() {
            return self.digest;
        }
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let data = self.data.iter().map(|(path, file)| (path.as_str(), file.digest));
        let lines = [(name, self.digest)].into_iter().chain(data);
        let lines: String = lines
            .map(|(name, digest)| format!("{}  {name}\n", digest.hex()))
            .collect();
        Digest::of(lines.as_bytes())
    }

    /// The variant that a target gets.
    pub fn precision_on(&self, target: &Target) -> Precision {
        match target.processor {
            Processor::Cpu => match self.scheme {
                Scheme::None => Precision::Float32,
                Scheme::Int8 => Precision::Int8,
                Scheme::Int8Dynamic => Precision::Int8Dynamic,
                Scheme::Int8Weights => Precision::Int8Weights,
                Scheme::Int4Weights => Precision::Int4Weights,
            },
            Processor::Gpu => match self.gpu_scheme {
                GpuScheme::None => Precision::Float32,
                GpuScheme::Float16 => Precision::Float16,
                GpuScheme::Int8 => Precision::Int8Symmetric,
            },
        }
    }

    /// All variants that its targets get, sorted.
    pub fn precisions(&self, workspace: &Workspace) -> Vec<Precision> {
        let mut precisions: Vec<Precision> = self
            .targets
            .keys()
            .map(|name| self.precision_on(&workspace.targets[name]))
            .collect();
        precisions.sort();
        precisions.dedup();
        precisions
    }

    /// The variant that calibration is made for: the processors' where both kinds need ranges, `None` where none does.
    pub fn calibration_precision(&self, workspace: &Workspace) -> Option<Precision> {
        let precisions = self.precisions(workspace);
        let wanted = [Precision::Int8, Precision::Int8Symmetric];
        wanted
            .into_iter()
            .find(|precision| precisions.contains(precision))
    }

    /// Whether any of its variants needs calibration ranges.
    pub fn needs_calibration(&self, workspace: &Workspace) -> bool {
        self.calibration_precision(workspace).is_some()
    }

    /// The smallest drop that one of the targets allows that take this variant.
    pub fn max_drop(&self, precision: Precision, workspace: &Workspace) -> f64 {
        let takers = self
            .targets
            .iter()
            .filter(|(name, _)| self.precision_on(&workspace.targets[*name]) == precision);
        takers.map(|(_, target)| target.max_drop).fold(f64::MAX, f64::min)
    }
}

impl Workspace {
    /// The (model, target) pairs that get an image: all but those of challengers.
    pub fn images(&self) -> impl Iterator<Item = (&Model, &Target)> {
        self.pairs().filter(|(model, _)| model.shadow.is_none())
    }

    /// The challenger that rides in the image of a model for a target.
    pub fn challenger(&self, model: &Model, target: &Target) -> Option<(&Model, &Shadow)> {
        self.models.values().find_map(|challenger| {
            let shadow = challenger.shadow.as_ref()?;
            let rides = shadow.of == model.name && challenger.targets.contains_key(&target.name);
            rides.then_some((challenger, shadow))
        })
    }

    /// All (model, target) pairs in order, those of challengers among them.
    pub fn pairs(&self) -> impl Iterator<Item = (&Model, &Target)> {
        let targets = &self.targets;
        self.models
            .values()
            .flat_map(move |model| model.targets.keys().map(move |name| (model, &targets[name])))
    }
}
