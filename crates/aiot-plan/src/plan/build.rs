//! The graph: models, modules, images and indexes.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::{Digest, Precision, SHADOW_SHARE_VARIABLE, SHADOW_TOLERANCE_VARIABLE};

use super::target::image_env;
use super::{Facts, Node, Plan, Selection, Source, Unlocked};
use crate::action::Action;
use crate::declare::BuilderKind;
use crate::lock::{Lock, WheelRequest};
use crate::names::{ModelName, ModuleName};
use crate::tools;
use crate::workspace::{Model, Target, Workspace};

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
    let challenged = |model: &Model, target: &Target| {
        let challenger = workspace.challenger(model, target);
        challenger.is_some_and(|(challenger, _)| selection.has(&challenger.name, &target.name))
    };
    for model in workspace.models.values().filter(|model| model.shadow.is_none()) {
        let targets: Vec<&Target> = model
            .targets
            .keys()
            .map(|target| &workspace.targets[target])
            .filter(|target| selection.has(&model.name, &target.name) || challenged(model, target))
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

pub(super) struct Builder<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) facts: &'a Facts,
    pub(super) lock: &'a Lock,
    pub(super) plan: Plan,
    /// Actions that serve several pairs, by id.
    pub(super) known: BTreeMap<String, usize>,
    pub(super) unlocked: Unlocked,
}

impl Builder<'_> {
    pub(super) fn add(
        &mut self,
        id: String,
        action: Action,
        inputs: Vec<(&str, Source)>,
        code: &[&str],
    ) -> usize {
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
        self.plan.nodes.push(Node {
            id,
            action,
            inputs,
            recorded: BTreeMap::new(),
        });
        self.plan.nodes.len() - 1
    }

    pub(super) fn file(&self, path: &str) -> Source {
        // A missing file was reported before the plan is built; the digest of nothing stands in where it was not.
        Source::Given(
            self.facts
                .files
                .get(path)
                .copied()
                .unwrap_or_else(|| Digest::of(b"")),
        )
    }

    pub(super) fn dataset(&self, path: &str) -> Digest {
        self.facts
            .datasets
            .get(path)
            .copied()
            .unwrap_or_else(|| Digest::of(b""))
    }

    pub(super) fn engine(&mut self, request: &WheelRequest) -> Option<usize> {
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

    /// The packages of the variants that the targets get.
    fn packages(&mut self, model: &Model, targets: &[&Target]) -> BTreeMap<Precision, usize> {
        let name = &model.name;
        let source = self.add(
            format!("fetch {name}"),
            Action::FetchModel {
                path: model.path.clone(),
                data: model
                    .data
                    .iter()
                    .map(|(path, file)| (path.clone(), file.digest))
                    .collect(),
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
        packages
    }

    pub(super) fn model(&mut self, model: &Model, targets: &[&Target]) {
        let name = &model.name;
        let packages = self.packages(model, targets);
        let mut challengers: BTreeMap<&ModelName, (&Model, Vec<&Target>)> = BTreeMap::new();
        for &target in targets {
            if let Some((challenger, _)) = self.workspace.challenger(model, target) {
                let on = &mut challengers
                    .entry(&challenger.name)
                    .or_insert((challenger, Vec::new()))
                    .1;
                on.push(target);
                let key = (challenger.name.clone(), target.name.clone());
                self.plan.shadows.insert(key, name.clone());
            }
        }
        let mut rides = BTreeMap::new();
        for (challenger, on) in challengers.into_values() {
            let packages = self.packages(challenger, &on);
            for target in on {
                rides.insert(
                    &target.name,
                    (challenger, packages[&challenger.precision_on(target)]),
                );
            }
        }
        let mut images = Vec::new();
        for target in targets {
            let package = packages[&model.precision_on(target)];
            if let Some(image) = self.image(model, target, package, rides.get(&target.name).copied()) {
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

    /// `challenger`: the model that rides along, and its package.
    pub(super) fn image(
        &mut self,
        model: &Model,
        target: &Target,
        package: usize,
        challenger: Option<(&Model, usize)>,
    ) -> Option<usize> {
        // Both are asked even where the first fails, so that all that is unlocked is found in one go.
        let parts = self.target_parts(target);
        let module = self.module_layer(&model.module, target);
        let (parts, module) = (parts?, module?);
        let mut inputs = parts.base;
        let mut layers = parts.layers;
        layers.push(("model layer".to_owned(), output(package, "layer")));
        layers.push(("module layer".to_owned(), output(module, "layer")));
        let mut env = image_env(target, &parts.engine_path);
        let mut labels = labels(model, Some(model.precision_on(target)));
        if let Some((challenger, package)) = challenger {
            layers.push(("shadow layer".to_owned(), output(package, "layer")));
            env.extend(shadow_env(challenger));
            labels.extend(shadow_labels(challenger));
        }
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
            env,
            labels,
            glibc: target.glibc.clone(),
        };
        let inputs = inputs
            .iter()
            .map(|(name, source)| (name.as_str(), source.clone()))
            .collect();
        let id = format!("assemble image {} {}", model.name, target.name);
        Some(self.add(id, action, inputs, &["aiot-oci"]))
    }

    pub(super) fn module_layer(&mut self, module: &ModuleName, target: &Target) -> Option<usize> {
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
            compression: target.layer_compression,
        };
        let inputs = vec![("file", output(binary, "binary"))];
        let id = format!("assemble layer {place}{}", target.layer_compression.suffix());
        Some(self.add(id, action, inputs, &["aiot-oci"]))
    }
}

pub(super) fn output(node: usize, output: &str) -> Source {
    Source::Output {
        node,
        output: output.to_owned(),
    }
}

pub(super) fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
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
            model.source().to_string(),
        ),
    ]);
    if let Some(precision) = precision {
        labels.insert("dev.aiot-ops.model.precision".to_owned(), precision.to_string());
        labels.insert(
            "dev.aiot-ops.model.preprocessing-digest".to_owned(),
            model.input.preprocessing_digest().to_string(),
        );
    }
    labels
}

/// What an image says of its challenger.
fn shadow_labels(challenger: &Model) -> [(String, String); 3] {
    let label = |what: &str, value: String| (format!("dev.aiot-ops.shadow.{what}"), value);
    [
        label("name", challenger.name.to_string()),
        label("version", challenger.version.clone()),
        label("source-digest", challenger.source().to_string()),
    ]
}

/// How the module runs its challenger.
fn shadow_env(challenger: &Model) -> BTreeMap<String, String> {
    let Some(shadow) = &challenger.shadow else {
        return BTreeMap::new();
    };
    let share = (SHADOW_SHARE_VARIABLE.to_owned(), shadow.share.to_string());
    let tolerance = shadow
        .tolerance
        .map(|tolerance| (SHADOW_TOLERANCE_VARIABLE.to_owned(), tolerance.to_string()));
    [share].into_iter().chain(tolerance).collect()
}
