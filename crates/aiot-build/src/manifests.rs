//! Outputs of the plan → deployment manifests of an environment.

use std::collections::BTreeMap;

use aiot_iothub::quiet::QuietHours;
use aiot_iothub::{
    AccuracySummary, Amount, EnvValue, LAYERS_FILE, ModuleRelease, Pin, Pins, Release, RestartPolicy, Ring,
    RouteSpec, SystemModule, SystemModules, TargetRelease, render_pinned,
};
use aiot_oci::Store;
use aiot_package::Precision;
use aiot_plan::action::Output;
use aiot_plan::plan::Plan;
use aiot_plan::workspace::{Environment, Model, Target};
use aiot_plan::{ModelName, Workspace};
use serde_json::{Map, Value};

use crate::error::BuildError;
use crate::records::Measurements;

/// What one environment's folder holds besides `<environment>.toml`: path below it → bytes.
///
/// # Errors
/// Everything that the hub would refuse.
pub fn files(
    workspace: &Workspace,
    environment: &Environment,
    plan: &Plan,
    outputs: &[BTreeMap<String, Output>],
    measurements: &Measurements,
    store: &Store,
) -> Result<BTreeMap<String, Vec<u8>>, BuildError> {
    let release = release(workspace, environment, plan, outputs, measurements, store)?;
    let rendered = render_pinned(release, &pins(environment)).map_err(|errors| {
        BuildError::Many(
            errors
                .iter()
                .map(|error| BuildError::Other(format!("deployments/{}: {error}", environment.name)))
                .collect(),
        )
    })?;
    let mut files = rendered.files;
    files.insert(
        LAYERS_FILE.to_owned(),
        crate::sizes::book(plan, outputs, store)?.to_bytes(),
    );
    Ok(files)
}

/// What the environment holds at an earlier release. A module has the name of its model.
fn pins(environment: &Environment) -> Pins {
    let each = environment.pins.iter().flat_map(|pin| {
        pin.images.iter().map(move |(target, image)| {
            let (metric, float, quantized) = image.accuracy.clone();
            let pinned = Pin {
                reason: pin.reason.clone(),
                version: pin.version.clone(),
                image_digest: image.digest,
                size_bytes: image.size_bytes,
                accuracy: AccuracySummary {
                    metric,
                    float,
                    quantized,
                    precision: image.precision,
                },
                settings: image.settings.clone(),
            };
            ((target.to_string(), pin.model.to_string()), pinned)
        })
    });
    each.collect()
}

fn release(
    workspace: &Workspace,
    environment: &Environment,
    plan: &Plan,
    outputs: &[BTreeMap<String, Output>],
    measurements: &Measurements,
    store: &Store,
) -> Result<Release, BuildError> {
    let system = |image: &str| SystemModule {
        image: image.to_owned(),
        env: BTreeMap::new(),
        create_options: Map::new(),
    };
    let mut targets: BTreeMap<&str, TargetRelease> = BTreeMap::new();
    for ((model, target), &node) in &plan.images {
        let (model, target) = (&workspace.models[model], &workspace.targets[target]);
        let entry = targets
            .entry(target.name.as_str())
            .or_insert_with(|| target_release(target));
        entry
            .modules
            .push(module(model, target, &outputs[node], measurements, store)?);
    }
    Ok(Release {
        environment: environment.name.to_string(),
        registry_prefix: environment.image_prefix(),
        system: SystemModules {
            edge_agent: system(&environment.edge_agent.image),
            edge_hub: system(&environment.edge_hub.image),
        },
        rings: environment.rings.iter().map(ring).collect(),
        targets: targets.into_values().collect(),
    })
}

/// What is not declared keeps the roll-out's default.
fn ring(declared: &aiot_plan::workspace::Ring) -> Ring {
    let amount = |amount: aiot_plan::workspace::Amount| match amount {
        aiot_plan::workspace::Amount::Count(count) => Amount::Count(count),
        aiot_plan::workspace::Amount::Percent(percent) => Amount::Percent(percent),
    };
    let mut ring = Ring::new(&declared.name, declared.condition.as_deref());
    ring.devices.clone_from(&declared.devices);
    ring.percent = declared.percent;
    ring.soak_hours = declared.soak_hours.unwrap_or(ring.soak_hours);
    ring.minimum_reported = declared.minimum_reported.map_or(ring.minimum_reported, amount);
    for (kind, limit) in &declared.at_most {
        let limits = &mut ring.at_most;
        let place = match *kind {
            "failed" => &mut limits.failed,
            "unhealthy" => &mut limits.unhealthy,
            "self-check-failed" => &mut limits.self_check_failed,
            "drifting" => &mut limits.drifting,
            _ => &mut limits.silent,
        };
        *place = amount(*limit);
    }
    ring.approval = declared.approval;
    ring.quiet_hours = declared
        .quiet_hours
        .clone()
        .map(|[from, to, time_zone]| QuietHours { from, to, time_zone });
    ring
}

fn target_release(target: &Target) -> TargetRelease {
    TargetRelease {
        name: target.name.to_string(),
        condition: target.condition.clone(),
        disk_bytes: Some(target.disk_bytes),
        link_kbit_per_s: target.link_kbit_per_s,
        create_options: object(&target.create_options),
        edge_hub_env: BTreeMap::new(),
        external_modules: Vec::new(),
        modules: Vec::new(),
    }
}

fn module(
    model: &Model,
    target: &Target,
    image: &BTreeMap<String, Output>,
    measurements: &Measurements,
    store: &Store,
) -> Result<ModuleRelease, BuildError> {
    let precision = model.precision_on(target);
    let value = |precision: Precision| {
        measurements
            .effective
            .get(&(model.name.clone(), precision))
            .map_or(f64::NAN, |measured| measured.value)
    };
    let manifest = &image["manifest"];
    let read = aiot_oci::image::read_manifest(store, &manifest.digest).map_err(BuildError::other)?;
    let layers: u64 = read.layers.iter().map(|layer| layer.size).sum();
    let routes = model.edge.routes.iter().map(|(name, route)| {
        let route = route.replace("{module}", model.name.as_str());
        (name.clone(), RouteSpec::from(route.as_str()))
    });
    Ok(ModuleRelease {
        name: model.name.to_string(),
        model: model.name.to_string(),
        model_version: model.version.clone(),
        image_repository: model.name.to_string(),
        image_digest: manifest.digest,
        platform: target.platform.to_string(),
        size_bytes: manifest.size_bytes + read.config.size + layers,
        create_options: object(&model.edge.create_options),
        env: model
            .edge
            .env
            .iter()
            .map(|(name, value)| (name.clone(), env_value(value)))
            .collect(),
        startup_order: model.edge.startup_order,
        restart_policy: RestartPolicy::Always,
        routes: routes.collect(),
        condition: model.edge.condition.clone(),
        accuracy: AccuracySummary {
            metric: model.metric.to_string(),
            float: value(Precision::Float32),
            quantized: value(precision),
            precision,
        },
        desired: object(&model.edge.desired),
    })
}

fn env_value(value: &Value) -> EnvValue {
    match value {
        Value::Bool(flag) => EnvValue::Flag(*flag),
        Value::Number(number) => EnvValue::Number(number.clone()),
        Value::String(text) => EnvValue::Text(text.clone()),
        other => EnvValue::Text(other.to_string()),
    }
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// One row of the table at the end of a release.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// The model.
    pub model: ModelName,
    /// The target.
    pub target: String,
    /// The variant.
    pub precision: Precision,
    /// Digest of the image's manifest.
    pub digest: aiot_oci::Digest,
    /// Compressed size of the whole image, bytes.
    pub size_bytes: u64,
    /// What was measured.
    pub metric: String,
    /// As trained.
    pub float: f64,
    /// As shipped.
    pub shipped: f64,
    /// Why the image, or something that it stands on, was made anew; empty = nothing was.
    pub rebuilt: Vec<String>,
}

/// The rows for all images of the plan.
///
/// # Errors
/// A manifest that cannot be read.
pub fn rows(
    workspace: &Workspace,
    plan: &Plan,
    outcome: &crate::execute::Outcome,
    measurements: &Measurements,
    store: &Store,
) -> Result<Vec<Row>, BuildError> {
    let ran: BTreeMap<&str, &Vec<aiot_plan::action::DirtyReason>> = outcome
        .ran
        .iter()
        .map(|(id, reasons)| (id.as_str(), reasons))
        .collect();
    let mut rows = Vec::new();
    for ((model, target), &node) in &plan.images {
        let (model, target) = (&workspace.models[model], &workspace.targets[target]);
        let module = module(model, target, &outcome.outputs[node], measurements, store)?;
        rows.push(Row {
            model: model.name.clone(),
            target: target.name.to_string(),
            precision: module.accuracy.precision,
            digest: module.image_digest,
            size_bytes: module.size_bytes,
            metric: module.accuracy.metric,
            float: module.accuracy.float,
            shipped: module.accuracy.quantized,
            rebuilt: rebuilt(plan, node, &ran),
        });
    }
    Ok(rows)
}

/// The roots of what was rebuilt below a node: actions that ran although nothing before them did.
fn rebuilt(
    plan: &Plan,
    node: usize,
    ran: &BTreeMap<&str, &Vec<aiot_plan::action::DirtyReason>>,
) -> Vec<String> {
    use aiot_plan::plan::Source;
    let mut roots = std::collections::BTreeSet::new();
    let mut stack = vec![node];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(node) = stack.pop() {
        if !seen.insert(node) {
            continue;
        }
        let before: Vec<usize> = plan.nodes[node]
            .inputs
            .values()
            .filter_map(|source| match source {
                Source::Output { node, .. } => Some(*node),
                Source::Given(_) => None,
            })
            .collect();
        if let Some(reasons) = ran.get(plan.nodes[node].id.as_str())
            && !before
                .iter()
                .any(|before| ran.contains_key(plan.nodes[*before].id.as_str()))
        {
            let words: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            roots.insert(format!("{}: {}", plan.nodes[node].id, words.join(", ")));
        }
        stack.extend(before);
    }
    roots.into_iter().collect()
}
