//! Release → files.
//!
//! Per target one base deployment (the runtime) and one layered deployment for each condition that modules share:
//! a hub holds 100 deployments, so modules are packed. The content of a deployment can never be changed on a hub,
//! so its id carries a hash of it, and equal content keeps its id from release to release. Rings and priorities
//! stand beside the content, in `deployments.json`.

use std::collections::BTreeMap;

use aiot_package::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::condition::{Condition, overlap};
use crate::error::{ManifestError, Problem};
use crate::json::pretty;
use crate::limits::{self, UsedOf};
use crate::pin::{self, Pins};
use crate::release::{AccuracySummary, ModuleRelease, Release, TargetRelease};
use crate::ring::Ring;
use crate::validate::{self, Conditions};
use crate::{manifest, merge, secrets, summary};

/// Least priority of a base deployment.
pub const BASE_PRIORITY: u32 = 10;

/// Least priority of a target's first layer; the next has one more. Far above the bases: every new release of a base
/// or layer gets a higher priority on the hub, and no base may ever outrank a layer.
pub const FIRST_LAYER_PRIORITY: u32 = 1_000_000;

/// Version of the form of `deployments.json`.
pub const DEPLOYMENTS_FORMAT_VERSION: u32 = 2;

/// Name of the only ring where none is declared.
const ONLY_RING: &str = "all";

/// The rings of a release: as declared, or the only one.
pub(crate) fn rings(release: &Release) -> Vec<Ring> {
    match release.rings.is_empty() {
        true => vec![Ring::new(ONLY_RING, None)],
        false => release.rings.clone(),
    }
}

/// What a release is to a hub.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Files by path relative to `deployments/<environment>/`, `/` as separator.
    pub files: BTreeMap<String, Vec<u8>>,
    /// All deployments, by id.
    pub deployments: Vec<Deployment>,
    /// Used-of for every limit, the hub's first, then by target.
    pub limits: Vec<TargetLimits>,
}

/// Used-of of one target, or of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetLimits {
    /// The target; none: the hub.
    pub target: Option<String>,
    /// Limits in a fixed order.
    pub used: Vec<UsedOf>,
}

/// `deployments.json`: all of a release but the contents, as it is reviewed and as it is rolled out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeploymentList {
    /// [`DEPLOYMENTS_FORMAT_VERSION`].
    pub format_version: u32,
    /// Name of the environment.
    pub environment: String,
    /// Rings in the order of the roll-out; never empty.
    pub rings: Vec<Ring>,
    /// Kinds of device, by name.
    pub targets: Vec<TargetFacts>,
    /// By id.
    pub deployments: Vec<Deployment>,
}

/// What a roll-out must know of a kind of device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TargetFacts {
    /// The target's name.
    pub name: String,
    /// Disk that the images of a device may take together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Speed of the devices' link, in kbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_kbit_per_s: Option<u64>,
}

/// One deployment: content in a file, and what stands beside it on the hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Deployment {
    /// Id on the hub, `<environment>-<target>-base-<12 hexadecimal digits of the content's hash>`.
    pub id: String,
    /// Base or layered.
    pub kind: DeploymentKind,
    /// The target.
    pub target: String,
    /// What its releases have in common besides the target: `base`, `models` or `models-<slug>`.
    pub stem: String,
    /// File with the content, relative to `deployments/<environment>/`.
    pub file: String,
    /// Of the file.
    pub content_digest: Digest,
    /// Least priority on the hub; greater wins there, and layers are above their base.
    pub priority: u32,
    /// Which devices it is for when all rings have it, in canonical spelling.
    pub devices: String,
    /// Modules that it brings, by name; none for a base.
    pub modules: Vec<ModuleFacts>,
    /// Target condition in each ring, in the order of the roll-out; each holds the devices of those before it.
    pub rings: Vec<RingCondition>,
}

/// One module of a deployment, in the words of people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModuleFacts {
    /// Id of the edge module.
    pub name: String,
    /// The model's name in `models.toml`.
    pub model: String,
    /// The model's version in `models.toml`.
    pub version: String,
    /// Digest of the image manifest.
    pub image_digest: Digest,
    /// Compressed size of the image in bytes.
    pub size_bytes: u64,
    /// How good the model is.
    pub accuracy: AccuracySummary,
    /// Why it is held at an earlier release; none: it is what `models.toml` declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
}

/// Whether a deployment stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentKind {
    /// System modules; a device takes exactly one.
    Base,
    /// Added to the base.
    Layered,
}

/// Which devices a deployment is for in one ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RingCondition {
    /// Name of the ring.
    pub ring: String,
    /// Target condition in canonical spelling: the target's, the ring's and the modules', all of them.
    pub condition: String,
}

/// Writes a release as deployments.
///
/// # Errors
/// Everything that is wrong with it: names, images, conditions, routes, secrets, limits of the service.
pub fn render(release: &Release) -> Result<Rendered, Vec<ManifestError>> {
    render_pinned(release.clone(), &Pins::new())
}

/// As [`render`], with some modules held at an earlier release.
///
/// # Errors
/// As [`render`].
pub fn render_pinned(mut release: Release, pins: &Pins) -> Result<Rendered, Vec<ManifestError>> {
    pin::lay_over(&mut release, pins);
    let release = &release;
    let mut errors = Vec::new();
    let conditions = validate::check(release, &mut errors);
    secrets::lint(release, &mut errors);

    let mut rendering = Rendering {
        release,
        pins,
        conditions: &conditions,
        files: BTreeMap::new(),
        deployments: Vec::new(),
    };
    let mut order: Vec<usize> = (0..release.targets.len()).collect();
    order.sort_by_key(|index| &release.targets[*index].name);
    let mut target_limits = Vec::new();
    for index in order {
        target_limits.push(rendering.target(index, &mut errors));
    }
    let Rendering {
        mut files,
        mut deployments,
        ..
    } = rendering;
    deployments.sort_by(|a, b| a.id.cmp(&b.id));

    let hub = limits::check_deployments(deployments.len(), &mut errors);
    let mut limits = vec![TargetLimits {
        target: None,
        used: vec![hub],
    }];
    limits.append(&mut target_limits);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut targets: Vec<_> = release
        .targets
        .iter()
        .map(|target| TargetFacts {
            name: target.name.clone(),
            disk_bytes: target.disk_bytes,
            link_kbit_per_s: target.link_kbit_per_s,
        })
        .collect();
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    let list = DeploymentList {
        format_version: DEPLOYMENTS_FORMAT_VERSION,
        environment: release.environment.clone(),
        rings: rings(release),
        targets,
        deployments: deployments.clone(),
    };
    // Plain data without maps that could fail.
    let list = serde_json::to_value(&list).unwrap_or_default();
    files.insert("deployments.json".to_owned(), pretty(&list));
    let mut rendered = Rendered {
        files,
        deployments,
        limits,
    };
    let text = summary::summary(release, &rendered);
    rendered.files.insert("summary.md".to_owned(), text.into_bytes());
    Ok(rendered)
}

/// Modules of a target that share a condition.
struct Layer<'a> {
    condition: Condition,
    /// Name of the file without ending, `models` or `models-<slug>`.
    stem: String,
    modules: Vec<&'a ModuleRelease>,
}

struct Rendering<'a> {
    release: &'a Release,
    pins: &'a Pins,
    conditions: &'a Conditions,
    files: BTreeMap<String, Vec<u8>>,
    deployments: Vec<Deployment>,
}

impl<'a> Rendering<'a> {
    fn target(&mut self, index: usize, errors: &mut Vec<ManifestError>) -> TargetLimits {
        let release = self.release;
        let target = &release.targets[index];
        let devices = self.conditions.targets[index].devices.clone();

        let base = manifest::base(release, target, errors);
        self.add(
            target,
            DeploymentKind::Base,
            "base",
            BASE_PRIORITY,
            &base,
            Vec::new(),
            vec![devices.clone()],
            errors,
        );
        let (mut contents, mut layer_conditions) = (Vec::new(), Vec::new());
        for (number, layer) in self.layers(index).into_iter().enumerate() {
            let priority = FIRST_LAYER_PRIORITY + number as u32;
            let mut content = manifest::layer(release, target, &layer.modules, errors);
            for (name, settings) in pin::with_settings(self.pins, &target.name, &layer.modules) {
                pin::lay(&mut content, &name, settings);
            }
            let names = layer
                .modules
                .iter()
                .map(|module| facts(module, self.pins.get(&(target.name.clone(), module.name.clone()))))
                .collect();
            layer_conditions.push(Condition::all_of([devices.clone(), layer.condition.clone()]));
            let parts = vec![devices.clone(), layer.condition];
            self.add(
                target,
                DeploymentKind::Layered,
                &layer.stem,
                priority,
                &content,
                names,
                parts,
                errors,
            );
            contents.push((priority, content));
        }

        // Keys made of refused names would only be reported again.
        let named = !errors
            .iter()
            .any(|error| matches!(error.problem, Problem::Name { .. }));
        let mut used: Vec<UsedOf> = Vec::new();
        // A device has the most where it matches all conditions that can be true together: what fits those fits all.
        for group in overlap::groups(&layer_conditions) {
            let layers: Vec<_> = group
                .iter()
                .map(|&index| (contents[index].0, &contents[index].1))
                .collect();
            let Ok(merged) = merge::merge(&base, &layers) else {
                continue;
            };
            if named {
                let mut found = Vec::new();
                limits::take_most(&mut used, limits::check_device(&target.name, &merged, &mut found));
                // Groups share layers, and so their mistakes.
                for error in found {
                    if !errors.contains(&error) {
                        errors.push(error);
                    }
                }
            }
        }
        TargetLimits {
            target: Some(target.name.clone()),
            used,
        }
    }

    /// Layers of a target, the one without a condition first, then by condition.
    fn layers(&self, index: usize) -> Vec<Layer<'a>> {
        let target = &self.release.targets[index];
        let mut layers: BTreeMap<(bool, String), Layer<'a>> = BTreeMap::new();
        for (module, condition) in target.modules.iter().zip(&self.conditions.targets[index].modules) {
            let key = (*condition != Condition::All, condition.to_string());
            let stem = match condition {
                Condition::All => "models".to_owned(),
                other => format!("models-{}", other.slug()),
            };
            layers
                .entry(key)
                .or_insert_with(|| Layer {
                    condition: condition.clone(),
                    stem,
                    modules: Vec::new(),
                })
                .modules
                .push(module);
        }
        let mut layers: Vec<_> = layers.into_values().collect();
        let stems: Vec<_> = layers.iter().map(|layer| layer.stem.clone()).collect();
        for layer in &mut layers {
            layer.modules.sort_by(|a, b| a.name.cmp(&b.name));
            // Different conditions with the same words are told apart by a hash of the condition.
            if stems.iter().filter(|stem| **stem == layer.stem).count() > 1 {
                let hash = Digest::of(layer.condition.to_string().as_bytes()).hex();
                layer.stem = format!("{}-{}", layer.stem, &hash[..6]);
            }
        }
        layers
    }

    #[allow(clippy::too_many_arguments)] // one deployment's facts, all needed once
    fn add(
        &mut self,
        target: &TargetRelease,
        kind: DeploymentKind,
        stem: &str,
        priority: u32,
        content: &Value,
        modules: Vec<ModuleFacts>,
        conditions: Vec<Condition>,
        errors: &mut Vec<ManifestError>,
    ) {
        let bytes = pretty(content);
        let content_digest = Digest::of(&bytes);
        let id = format!(
            "{}-{}-{stem}-{}",
            self.release.environment,
            target.name,
            content_digest.short()
        );
        let used = id.chars().count() as u64;
        if used > limits::DEPLOYMENT_ID_CHARACTERS {
            let help = "shorten the names of environment and target";
            let limit = limits::DEPLOYMENT_ID_CHARACTERS;
            let problem = Problem::Limit {
                what: "characters of the deployment's id",
                used,
                limit,
                help,
            };
            errors.push(ManifestError::new(
                format!("target `{}`, {stem}", target.name),
                problem,
            ));
        }
        let file = format!("{}/{stem}.json", target.name);
        self.files.insert(file.clone(), bytes);
        self.deployments.push(Deployment {
            id,
            kind,
            target: target.name.clone(),
            stem: stem.to_owned(),
            file,
            content_digest,
            priority,
            devices: Condition::all_of(conditions.iter().cloned()).to_string(),
            modules,
            rings: self.rings(&conditions),
        });
    }

    /// The target condition of each ring: of the devices (first of `conditions`), the ring and the modules.
    fn rings(&self, conditions: &[Condition]) -> Vec<RingCondition> {
        let joined = |ring: &Condition| {
            let (devices, modules) = conditions.split_at(conditions.len().min(1));
            Condition::all_of(devices.iter().chain([ring]).chain(modules).cloned()).to_string()
        };
        let rings = self.release.rings.iter().zip(&self.conditions.rings);
        let mut list: Vec<_> = rings
            .map(|(ring, condition)| RingCondition {
                ring: ring.name.clone(),
                condition: joined(condition),
            })
            .collect();
        if list.is_empty() {
            list.push(RingCondition {
                ring: ONLY_RING.to_owned(),
                condition: joined(&Condition::All),
            });
        }
        list
    }
}

fn facts(module: &ModuleRelease, pin: Option<&pin::Pin>) -> ModuleFacts {
    ModuleFacts {
        name: module.name.clone(),
        model: module.model.clone(),
        version: module.model_version.clone(),
        image_digest: module.image_digest,
        size_bytes: module.size_bytes,
        accuracy: module.accuracy.clone(),
        pinned: pin.map(|pin| pin.reason.clone()),
    }
}
