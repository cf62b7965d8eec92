//! The plan: every action of a release, complete before anything runs.
//!
//! `build` turns declarations, facts and lock into a graph. `status` says of one action whether its result is known,
//! and if not why; it is asked for all actions when the plan is shown, and again by the executor as results come in,
//! so that an action whose input came out unchanged does not run after all.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::{Digest, Precision};
use serde::Serialize;

use crate::action::{Action, DirtyReason, Lookup, Output, PackageParameters, Record, Results, compare, key};
use crate::declare::{BuilderKind, Granularity};
use crate::lock::{ClosureRequest, Lock, WheelRequest};
use crate::names::{ModelName, ModuleName, TargetName};
use crate::records::{Budget, calibration_subject, measured_subject};
use crate::tools;
use crate::workspace::{Base, EngineFrom, Model, Target, Workspace};

/// The version of the plan's JSON.
pub const PLAN_SCHEMA_VERSION: u32 = 1;

/// Where the wheel's engine stands in an image.
const ENGINE_PATH: &str = "usr/lib/libonnxruntime.so";

/// What was observed about files and tools. No paths of the machine.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Architecture of this host as in `x86_64`; decides which host engine is run.
    pub host_architecture: String,
    /// `rustc`'s release.
    pub rustc: String,
    /// The version of the linker that is no wheel, by builder and Rust target: the system's C compiler, or `cross`
    /// with its container. A linker that is not here has none: compiling with it fails and says what to install.
    pub linkers: BTreeMap<(BuilderKind, String), String>,
    /// Files by path below the workspace: models and labels.
    pub files: BTreeMap<String, Digest>,
    /// Data sets by path below the workspace: a digest over names, contents and labels.
    pub datasets: BTreeMap<String, Digest>,
    /// Modules: a digest over everything that they are built from.
    pub modules: BTreeMap<ModuleName, Digest>,
    /// Our own code that makes outputs, by crate: a digest of its sources.
    pub code: BTreeMap<String, Digest>,
    /// Committed calibration records: subject, and digest of the file.
    pub calibrations: BTreeMap<ModelName, (Digest, Digest)>,
    /// Committed measurements: subject, and digest of the entry.
    pub measurements: BTreeMap<(ModelName, Precision), (Digest, Digest)>,
}

/// Outside inputs that the lock does not have yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlocked {
    /// Wheels to look up.
    pub wheels: BTreeSet<WheelRequest>,
    /// Package closures to resolve.
    pub closures: BTreeSet<ClosureRequest>,
}

impl Unlocked {
    /// Nothing to look up.
    pub fn is_empty(&self) -> bool {
        self.wheels.is_empty() && self.closures.is_empty()
    }
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A content that is known.
    Given(Digest),
    /// What another action makes.
    Output {
        /// Place of that action in the plan.
        node: usize,
        /// Name of its output.
        output: String,
    },
}

/// An action in the plan.
#[derive(Clone, Debug)]
pub struct Node {
    /// Words that name it, the same from run to run.
    pub id: String,
    /// What it does.
    pub action: Action,
    /// Its inputs by name.
    pub inputs: BTreeMap<String, Source>,
}

/// All actions, each after those that it needs.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The actions.
    pub nodes: Vec<Node>,
    /// (model, target) → its image.
    pub images: BTreeMap<(ModelName, TargetName), usize>,
    /// Model → its index.
    pub indexes: BTreeMap<ModelName, usize>,
    /// (model, variant) → its measurement.
    pub measures: BTreeMap<(ModelName, Precision), usize>,
    /// Models whose calibration must be made.
    pub calibrations: BTreeMap<ModelName, usize>,
    /// Where an engine or base is not what the declaration says, for the log.
    pub notes: Vec<String>,
}

/// What is known of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Its result is there.
    Done(Box<Record>),
    /// It must run.
    Run {
        /// Its key.
        key: Digest,
        /// Why.
        reasons: Vec<DirtyReason>,
    },
    /// An action before it must run first.
    Waiting {
        /// Those actions' ids.
        reasons: Vec<DirtyReason>,
    },
}

/// Which pairs to build.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Models; empty = all.
    pub models: BTreeSet<ModelName>,
    /// Targets; empty = all.
    pub targets: BTreeSet<TargetName>,
}

impl Selection {
    /// Whether a pair is selected.
    pub fn has(&self, model: &ModelName, target: &TargetName) -> bool {
        (self.models.is_empty() || self.models.contains(model))
            && (self.targets.is_empty() || self.targets.contains(target))
    }
}

/// Builds the graph.
///
/// # Errors
/// What must be locked first.
pub fn build(
    workspace: &Workspace,
    facts: &Facts,
    lock: &Lock,
    selection: &Selection,
) -> Result<Plan, Unlocked> {
    let mut builder = Builder {
        workspace,
        facts,
        lock,
        plan: Plan::default(),
        known: BTreeMap::new(),
        unlocked: Unlocked::default(),
    };
    for model in workspace.models.values() {
        let targets: Vec<&Target> = model
            .targets
            .keys()
            .filter(|target| selection.has(&model.name, target))
            .map(|target| &workspace.targets[target])
            .collect();
        if !targets.is_empty() {
            builder.model(model, &targets);
        }
    }
    if builder.unlocked.is_empty() {
        Ok(builder.plan)
    } else {
        Err(builder.unlocked)
    }
}

/// What is known of `node`, given the outputs of the actions before it.
pub fn status(
    plan: &Plan,
    node: usize,
    outputs: &[Option<BTreeMap<String, Output>>],
    results: &dyn Results,
) -> Status {
    let node = &plan.nodes[node];
    let mut inputs = BTreeMap::new();
    let mut waiting = Vec::new();
    for (name, source) in &node.inputs {
        match source {
            Source::Given(digest) => {
                inputs.insert(name.clone(), *digest);
            }
            Source::Output { node: before, output } => match &outputs[*before] {
                Some(made) => {
                    inputs.insert(name.clone(), made[output].digest);
                }
                None => waiting.push(DirtyReason::Upstream {
                    action: plan.nodes[*before].id.clone(),
                }),
            },
        }
    }
    if !waiting.is_empty() {
        waiting.dedup();
        return Status::Waiting { reasons: waiting };
    }
    let parameters = node.action.parameters();
    let key = key(&parameters, &inputs);
    match results.result(&key) {
        Lookup::Hit(record) => Status::Done(Box::new(record)),
        Lookup::Lost { digest } => Status::Run {
            key,
            reasons: vec![DirtyReason::OutputLost { digest }],
        },
        Lookup::Miss => {
            let previous = results.previous(&node.id);
            Status::Run {
                key,
                reasons: compare(previous.as_ref(), &parameters, &inputs),
            }
        }
    }
}

/// What is known of all actions before anything runs.
pub fn statuses(plan: &Plan, results: &dyn Results) -> Vec<Status> {
    let mut outputs: Vec<Option<BTreeMap<String, Output>>> = Vec::with_capacity(plan.nodes.len());
    let mut statuses = Vec::with_capacity(plan.nodes.len());
    for node in 0..plan.nodes.len() {
        let status = status(plan, node, &outputs, results);
        outputs.push(match &status {
            Status::Done(record) => Some(record.outputs.clone()),
            _ => None,
        });
        statuses.push(status);
    }
    statuses
}

struct Builder<'a> {
    workspace: &'a Workspace,
    facts: &'a Facts,
    lock: &'a Lock,
    plan: Plan,
    /// Actions that serve several pairs, by id.
    known: BTreeMap<String, usize>,
    unlocked: Unlocked,
}

/// The ranges of a model's tensors.
struct Ranges {
    source: Source,
    /// What they are made from: known before they are made, so that a measurement that stands on them is the same
    /// before and after they are committed.
    subject: Digest,
}

/// The parts of a target that all its images share.
struct TargetParts {
    /// Layers in order, each an input name and where it comes from.
    layers: Vec<(String, Source)>,
    /// Further inputs of the image: manifest and config of a base image.
    base: Vec<(String, Source)>,
    /// Absolute path of the engine's library in the image.
    engine_path: String,
}

impl Builder<'_> {
    fn add(&mut self, id: String, action: Action, inputs: Vec<(&str, Source)>, code: &[&str]) -> usize {
        if let Some(&node) = self.known.get(&id) {
            return node;
        }
        let mut inputs: BTreeMap<String, Source> = inputs
            .into_iter()
            .map(|(name, source)| (name.to_owned(), source))
            .collect();
        for name in code {
            let digest = self
                .facts
                .code
                .get(*name)
                .copied()
                .unwrap_or_else(|| Digest::of(b""));
            inputs.insert(format!("code of {name}"), Source::Given(digest));
        }
        self.known.insert(id.clone(), self.plan.nodes.len());
        self.plan.nodes.push(Node { id, action, inputs });
        self.plan.nodes.len() - 1
    }

    fn file(&self, path: &str) -> Source {
        // A missing file was reported before the plan is built; the digest of nothing stands in where it was not.
        Source::Given(
            self.facts
                .files
                .get(path)
                .copied()
                .unwrap_or_else(|| Digest::of(b"")),
        )
    }

    fn dataset(&self, path: &str) -> Digest {
        self.facts
            .datasets
            .get(path)
            .copied()
            .unwrap_or_else(|| Digest::of(b""))
    }

    fn engine(&mut self, request: &WheelRequest) -> Option<usize> {
        let Some(wheel) = self.lock.requested_wheel(request).cloned() else {
            self.unlocked.wheels.insert(request.clone());
            return None;
        };
        let id = format!(
            "fetch {} {} {}",
            request.package, request.version, request.platform
        );
        Some(self.add(id, Action::FetchEngine { wheel }, vec![], &["aiot-toolchain"]))
    }

    fn model(&mut self, model: &Model, targets: &[&Target]) {
        let name = &model.name;
        let source = self.add(
            format!("fetch {name}"),
            Action::FetchModel {
                path: model.path.clone(),
            },
            vec![("model", Source::Given(model.digest))],
            &[],
        );
        let host_engine = self.engine(&tools::host_engine(&self.facts.host_architecture.clone()));
        let calibration = self.calibration(model, source, host_engine);
        let mut packages = BTreeMap::new();
        let precisions: BTreeSet<Precision> =
            targets.iter().map(|target| model.precision_on(target)).collect();
        // Float is measured too: the drop is against it.
        for precision in precisions
            .iter()
            .copied()
            .chain([Precision::Float32])
            .collect::<BTreeSet<_>>()
        {
            let (variant, measure, golden) =
                self.variant(model, precision, source, calibration.as_ref(), host_engine);
            self.plan.measures.insert((name.clone(), precision), measure);
            if precisions.contains(&precision) {
                packages.insert(precision, self.package(model, precision, variant, golden));
            }
        }
        let mut images = Vec::new();
        for target in targets {
            let package = packages[&model.precision_on(target)];
            if let Some(image) = self.image(model, target, package) {
                self.plan
                    .images
                    .insert((name.clone(), target.name.clone()), image);
                images.push((*target, image));
            }
        }
        // An engine takes the first entry that fits its platform: plain devices before those with a GPU.
        images.sort_by_key(|(target, _)| {
            (
                &target.platform,
                target.processor != crate::declare::Processor::Cpu,
            )
        });
        let platforms = images
            .iter()
            .map(|(target, _)| (target.name.clone(), target.platform.clone()))
            .collect::<Vec<_>>();
        let inputs: Vec<(String, Source)> = images
            .iter()
            .map(|(target, image)| (format!("image for {}", target.name), output(*image, "manifest")))
            .collect();
        let index = self.add(
            format!("assemble index {name}"),
            Action::AssembleIndex {
                platforms,
                annotations: labels(model, None),
            },
            inputs
                .iter()
                .map(|(name, source)| (name.as_str(), source.clone()))
                .collect(),
            &["aiot-oci"],
        );
        self.plan.indexes.insert(name.clone(), index);
    }

    /// The ranges: the committed record where it was made from what is declared, else an action.
    fn calibration(&mut self, model: &Model, source: usize, engine: Option<usize>) -> Option<Ranges> {
        let precision = model.calibration_precision(self.workspace)?;
        let samples = self.dataset(model.calibration_path.as_deref().unwrap_or_default());
        let subject = calibration_subject_of(model, self.workspace, self.facts)?;
        if let Some((recorded, file)) = self.facts.calibrations.get(&model.name)
            && *recorded == subject
        {
            return Some(Ranges {
                source: Source::Given(*file),
                subject,
            });
        }
        let mut inputs = vec![
            ("model", output(source, "model")),
            ("calibration set", Source::Given(samples)),
            (
                "evaluation set",
                Source::Given(self.dataset(&model.evaluation_path)),
            ),
            ("engine", output(engine?, "library")),
        ];
        inputs.extend(
            model
                .labels_path
                .as_deref()
                .map(|path| ("labels", self.file(path))),
        );
        let node = self.add(
            format!("calibrate {}", model.name),
            Action::Calibrate {
                model: model.name.clone(),
                subject,
                precision,
                granularity: model.granularity,
                budget: budget(model, precision, self.workspace),
            },
            inputs,
            &["aiot-onnx", "aiot-inference"],
        );
        self.plan.calibrations.insert(model.name.clone(), node);
        Some(Ranges {
            source: output(node, "ranges"),
            subject,
        })
    }

    /// The variant's file, its measurement, and the golden outputs to bake: the committed ones where they were made
    /// from what is declared, else the measurement's own.
    fn variant(
        &mut self,
        model: &Model,
        precision: Precision,
        source: usize,
        calibration: Option<&Ranges>,
        engine: Option<usize>,
    ) -> (Source, usize, Source) {
        let name = &model.name;
        let is_int8 = matches!(precision, Precision::Int8 | Precision::Int8Symmetric);
        let ranges = is_int8.then_some(calibration).flatten();
        // Other variants have no scales: how they are cut must not make these anew.
        let granularity = if is_int8 {
            model.granularity
        } else {
            Granularity::default()
        };
        let variant = if precision == Precision::Float32 {
            output(source, "model")
        } else {
            let mut inputs = vec![("model", output(source, "model"))];
            inputs.extend(ranges.map(|ranges| ("calibration ranges", ranges.source.clone())));
            let action = Action::Quantize {
                precision,
                granularity,
            };
            output(
                self.add(
                    format!("quantize {name} {precision}"),
                    action,
                    inputs,
                    &["aiot-onnx"],
                ),
                "model",
            )
        };
        let evaluation = self.dataset(&model.evaluation_path);
        let labels = model
            .labels_path
            .as_deref()
            .and_then(|path| self.facts.files.get(path).copied());
        let parameters = package_parameters(model);
        let subject = measured_subject(
            model.digest,
            ranges.map(|ranges| ranges.subject),
            evaluation,
            labels,
            precision,
            granularity,
            model.metric,
            &parameters,
            tools::HOST_ENGINE_VERSION,
        );
        let mut inputs = vec![
            ("model", variant.clone()),
            ("evaluation set", Source::Given(evaluation)),
        ];
        inputs.extend(engine.map(|engine| ("engine", output(engine, "library"))));
        inputs.extend(labels.map(|labels| ("labels", Source::Given(labels))));
        let action = Action::Measure {
            model: name.clone(),
            precision,
            subject,
            metric: model.metric,
            package: parameters,
        };
        let measure = self.add(
            format!("evaluate {name} {precision}"),
            action,
            inputs,
            &["aiot-inference"],
        );
        let golden = match self.facts.measurements.get(&(name.clone(), precision)) {
            // Ranges that are made now may be others than those that the measurement stands on.
            _ if self.plan.calibrations.contains_key(name) && is_int8 => output(measure, "measured"),
            Some((recorded, entry)) if *recorded == subject => Source::Given(*entry),
            _ => output(measure, "measured"),
        };
        (variant, measure, golden)
    }

    fn package(&mut self, model: &Model, precision: Precision, variant: Source, golden: Source) -> usize {
        let mut inputs = vec![
            ("model", variant),
            ("golden outputs", golden),
            (
                "evaluation set",
                Source::Given(self.dataset(&model.evaluation_path)),
            ),
        ];
        inputs.extend(
            model
                .labels_path
                .as_deref()
                .map(|path| ("labels", self.file(path))),
        );
        let action = Action::AssemblePackage {
            model: model.name.clone(),
            version: model.version.clone(),
            description: model.description.clone(),
            precision,
            package: package_parameters(model),
        };
        self.add(
            format!("assemble package {} {precision}", model.name),
            action,
            inputs,
            &["aiot-oci"],
        )
    }

    fn image(&mut self, model: &Model, target: &Target, package: usize) -> Option<usize> {
        // Both are asked even where the first fails, so that all that is unlocked is found in one go.
        let parts = self.target_parts(target);
        let module = self.module_layer(&model.module, target);
        let (parts, module) = (parts?, module?);
        let mut inputs = parts.base;
        let mut layers = parts.layers;
        layers.push(("model layer".to_owned(), output(package, "layer")));
        layers.push(("module layer".to_owned(), output(module, "layer")));
        inputs.extend(
            layers
                .into_iter()
                .enumerate()
                .map(|(n, (name, source))| (format!("{n}: {name}"), source)),
        );
        let action = Action::AssembleImage {
            model: model.name.clone(),
            target: target.name.clone(),
            platform: target.platform.clone(),
            entrypoint: vec![format!("/app/{}", model.module)],
            env: image_env(target, &parts.engine_path),
            labels: labels(model, Some(model.precision_on(target))),
            glibc: target.glibc.clone(),
        };
        let inputs = inputs
            .iter()
            .map(|(name, source)| (name.as_str(), source.clone()))
            .collect();
        let id = format!("assemble image {} {}", model.name, target.name);
        Some(self.add(id, action, inputs, &["aiot-oci"]))
    }

    fn module_layer(&mut self, module: &ModuleName, target: &Target) -> Option<usize> {
        let builder = target.builder.unwrap_or_default();
        let mut tool_versions = BTreeMap::from([("rustc".to_owned(), self.facts.rustc.clone())]);
        if builder == BuilderKind::Zigbuild {
            for request in tools::zig_wheels(&self.facts.host_architecture) {
                if self.lock.requested_wheel(&request).is_none() {
                    self.unlocked.wheels.insert(request.clone());
                }
                tool_versions.insert(request.package, request.version);
            }
        } else if let Some(version) = self.facts.linkers.get(&(builder, target.triple.clone())) {
            tool_versions.insert("linker".to_owned(), version.clone());
        }
        let sources = self
            .facts
            .modules
            .get(module)
            .copied()
            .unwrap_or_else(|| Digest::of(b""));
        let place = format!(
            "{module} {} glibc {} {}",
            target.triple,
            target.glibc,
            builder.as_str()
        );
        let binary = self.add(
            format!("compile {place}"),
            Action::CompileModule {
                module: module.clone(),
                triple: target.triple.clone(),
                glibc: target.glibc.clone(),
                builder,
                tools: tool_versions,
            },
            vec![("module sources", Source::Given(sources))],
            &["aiot-toolchain"],
        );
        let action = Action::AssembleLayer {
            path: format!("app/{module}"),
            mode: 0o755,
        };
        let inputs = vec![("file", output(binary, "binary"))];
        Some(self.add(format!("assemble layer {place}"), action, inputs, &["aiot-oci"]))
    }

    fn target_parts(&mut self, target: &Target) -> Option<TargetParts> {
        match &target.base {
            Base::Debian {
                suite,
                packages,
                exclude,
            } => self.debian_parts(target, suite, packages, exclude),
            Base::Image { reference, .. } => self.image_parts(target, reference),
            Base::Scratch => None,
        }
    }

    fn debian_parts(
        &mut self,
        target: &Target,
        suite: &str,
        packages: &[String],
        exclude: &[String],
    ) -> Option<TargetParts> {
        let architecture = target.platform.debian_architecture();
        let mut roots = packages.to_vec();
        let library = match &target.engine.source {
            EngineFrom::Debian { package, library } => {
                roots.push(package.clone());
                Some(library.clone())
            }
            _ => None,
        };
        let request = ClosureRequest {
            suite: suite.to_owned(),
            architecture: architecture.to_string(),
            roots: sorted(roots),
            exclude: sorted(exclude.to_vec()),
        };
        let wheel_engine = match &target.engine.source {
            EngineFrom::Wheel { .. } => Some(self.wheel_engine_layer(target)),
            _ => None,
        };
        let Some(closure) = self.lock.closure(&request) else {
            self.unlocked.closures.insert(request);
            return None;
        };
        // The library is part of the name: the same packages with and without an engine are two bases.
        let digest = Digest::of(
            serde_json::to_string(&(&request, &library))
                .unwrap_or_default()
                .as_bytes(),
        );
        let node = self.add(
            format!(
                "assemble base {suite} {} {}",
                request.architecture,
                digest.short()
            ),
            Action::AssembleBase {
                architecture: request.architecture.clone(),
                packages: closure.package.clone(),
                engine_library: library.clone(),
            },
            vec![],
            &["aiot-debian", "aiot-oci"],
        );
        let mut layers = vec![("base layer".to_owned(), output(node, "layer"))];
        let engine_path = match (wheel_engine, library) {
            (Some(engine), _) => {
                layers.push(("engine layer".to_owned(), output(engine?, "layer")));
                format!("/{ENGINE_PATH}")
            }
            (None, library) => {
                layers.push(("engine layer".to_owned(), output(node, "engine-layer")));
                format!(
                    "/usr/lib/{}/{}",
                    architecture.multiarch(),
                    library.unwrap_or_default()
                )
            }
        };
        Some(TargetParts {
            layers,
            base: vec![],
            engine_path,
        })
    }

    fn image_parts(&mut self, target: &Target, reference: &str) -> Option<TargetParts> {
        let node = self.add(
            format!("fetch base {} {}", reference, target.platform),
            Action::FetchBaseImage {
                reference: reference.to_owned(),
                platform: target.platform.clone(),
            },
            vec![],
            &["aiot-oci"],
        );
        let base = vec![
            ("base manifest".to_owned(), output(node, "manifest")),
            ("base config".to_owned(), output(node, "config")),
        ];
        let (layers, engine_path) = match &target.engine.source {
            EngineFrom::BaseImage { library } => (vec![], library.clone()),
            _ => {
                let engine = self.wheel_engine_layer(target)?;
                (
                    vec![("engine layer".to_owned(), output(engine, "layer"))],
                    format!("/{ENGINE_PATH}"),
                )
            }
        };
        Some(TargetParts {
            layers,
            base,
            engine_path,
        })
    }

    fn wheel_engine_layer(&mut self, target: &Target) -> Option<usize> {
        let EngineFrom::Wheel { package, platform } = &target.engine.source else {
            return None;
        };
        let request = WheelRequest {
            package: package.clone(),
            version: target.engine.version.clone(),
            platform: platform.clone(),
        };
        let library = self.engine(&request)?;
        let id = format!("assemble engine {package} {} {platform}", request.version);
        let action = Action::AssembleLayer {
            path: ENGINE_PATH.to_owned(),
            mode: 0o644,
        };
        Some(self.add(
            id,
            action,
            vec![("file", output(library, "library"))],
            &["aiot-oci"],
        ))
    }
}

fn output(node: usize, output: &str) -> Source {
    Source::Output {
        node,
        output: output.to_owned(),
    }
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

/// How a model of the workspace is run.
pub fn package_parameters(model: &Model) -> PackageParameters {
    PackageParameters {
        task: model.task,
        input: model.input.clone(),
        activation: model.activation,
        threshold: model.threshold,
    }
}

fn budget(model: &Model, precision: Precision, workspace: &Workspace) -> Budget {
    Budget {
        metric: model.metric,
        max_drop: model.max_drop(precision, workspace),
        package: package_parameters(model),
    }
}

/// What a model's calibration record must be made from; `None` where it needs none.
pub fn calibration_subject_of(model: &Model, workspace: &Workspace, facts: &Facts) -> Option<Digest> {
    let precision = model.calibration_precision(workspace)?;
    let nothing = || Digest::of(b"");
    let dataset = |path: &str| facts.datasets.get(path).copied().unwrap_or_else(nothing);
    let labels = model
        .labels_path
        .as_deref()
        .and_then(|path| facts.files.get(path).copied());
    Some(calibration_subject(
        model.digest,
        dataset(model.calibration_path.as_deref().unwrap_or_default()),
        dataset(&model.evaluation_path),
        labels,
        precision,
        model.granularity,
        &budget(model, precision, workspace),
        tools::HOST_ENGINE_VERSION,
    ))
}

fn image_env(target: &Target, engine_path: &str) -> BTreeMap<String, String> {
    let providers: Vec<&str> = target
        .engine
        .execution_providers
        .iter()
        .map(|provider| provider.as_str())
        .collect();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), "/usr/bin".to_owned()),
        ("AIOT_ENGINE_LIBRARY".to_owned(), engine_path.to_owned()),
        ("AIOT_EXECUTION_PROVIDERS".to_owned(), providers.join(",")),
    ]);
    if let Some(threads) = target.engine.intra_threads {
        env.insert("AIOT_INTRA_THREADS".to_owned(), threads.to_string());
    }
    env
}

/// Annotations of an image or index: what it is, never when, by whom or from which commit.
fn labels(model: &Model, precision: Option<Precision>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (
            "org.opencontainers.image.title".to_owned(),
            model.name.to_string(),
        ),
        (
            "org.opencontainers.image.description".to_owned(),
            model.description.clone(),
        ),
        (
            "org.opencontainers.image.version".to_owned(),
            model.version.clone(),
        ),
        ("dev.aiot-ops.model.name".to_owned(), model.name.to_string()),
        ("dev.aiot-ops.model.version".to_owned(), model.version.clone()),
        (
            "dev.aiot-ops.model.source-digest".to_owned(),
            model.digest.to_string(),
        ),
    ]);
    if let Some(precision) = precision {
        labels.insert("dev.aiot-ops.model.precision".to_owned(), precision.to_string());
    }
    labels
}

/// The plan as JSON for other tools: `{"schema": 1, "actions": [...]}`.
pub fn to_json(plan: &Plan, statuses: &[Status]) -> serde_json::Value {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Entry<'a> {
        id: &'a str,
        parameters: serde_json::Map<String, serde_json::Value>,
        inputs: BTreeMap<&'a str, String>,
        state: &'static str,
        key: Option<Digest>,
        reasons: Vec<&'a DirtyReason>,
    }
    let entries: Vec<Entry<'_>> = plan
        .nodes
        .iter()
        .zip(statuses)
        .map(|(node, status)| {
            let (state, key, reasons) = match status {
                Status::Done(record) => ("done", Some(record.key), Vec::new()),
                Status::Run { key, reasons } => ("run", Some(*key), reasons.iter().collect()),
                Status::Waiting { reasons } => ("waiting", None, reasons.iter().collect()),
            };
            let inputs = node
                .inputs
                .iter()
                .map(|(name, source)| (name.as_str(), source_text(plan, source)))
                .collect();
            Entry {
                id: &node.id,
                parameters: node.action.parameters(),
                inputs,
                state,
                key,
                reasons,
            }
        })
        .collect();
    serde_json::json!({ "schema": PLAN_SCHEMA_VERSION, "actions": entries })
}

/// A source in words: a digest, or `output of action`.
pub fn source_text(plan: &Plan, source: &Source) -> String {
    match source {
        Source::Given(digest) => digest.to_string(),
        Source::Output { node, output } => format!("{output} of {}", plan.nodes[*node].id),
    }
}
