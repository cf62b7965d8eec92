//! The content of one deployment as JSON, base or layered.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::create_options::{self, CreateOptionsError};
use crate::error::ManifestError;
use crate::release::{EnvValue, ModuleRelease, Release, RouteSpec, SystemModule, TargetRelease};

/// Schema version of `$edgeAgent`: 1.1 brings `startupOrder`; the edge agent refuses anything newer.
pub const EDGE_AGENT_SCHEMA_VERSION: &str = "1.1";

/// Schema version of `$edgeHub`: 1.1 brings priorities and time to live of routes.
pub const EDGE_HUB_SCHEMA_VERSION: &str = "1.1";

/// How long the edge hub keeps messages while it is offline, in seconds.
pub const STORE_AND_FORWARD_SECS: u32 = 7200;

/// Oldest API version of the container engine; what all official manifests ask for.
const MIN_DOCKER_VERSION: &str = "v1.25";

/// Variable of the edge agent, and its value, unless the declarations say otherwise.
const UPDATE_MODE: [&str; 2] = ["ModuleUpdateMode", "WaitForAllPulls"];

/// Key of a whole desired section.
pub(crate) const DESIRED: &str = "properties.desired";

/// Place of a module in error messages.
pub(crate) fn module_place(target: &TargetRelease, module: &ModuleRelease) -> String {
    format!("target `{}`, module `{}`", target.name, module.name)
}

/// The base deployment of one target: the runtime, no modules.
pub(crate) fn base(release: &Release, target: &TargetRelease, errors: &mut Vec<ManifestError>) -> Value {
    let system = &release.system;
    let mut hub_env = system.edge_hub.env.clone();
    hub_env.extend(target.edge_hub_env.clone());
    // All images are pulled before the first module is stopped, so that a slow link costs no time of service.
    let mut agent_env =
        BTreeMap::from([UPDATE_MODE.map(str::to_owned)].map(|[name, value]| (name, EnvValue::Text(value))));
    agent_env.extend(system.edge_agent.env.clone());
    let mut agent = system_module("edgeAgent", &system.edge_agent, &agent_env, errors);
    let mut hub = system_module("edgeHub", &system.edge_hub, &hub_env, errors);
    agent.insert("type".to_owned(), json!("docker"));
    hub.insert("type".to_owned(), json!("docker"));
    hub.insert("status".to_owned(), json!("running"));
    hub.insert("restartPolicy".to_owned(), json!("always"));
    json!({"modulesContent": {
        "$edgeAgent": {DESIRED: {
            "schemaVersion": EDGE_AGENT_SCHEMA_VERSION,
            "runtime": {"type": "docker", "settings": {"minDockerVersion": MIN_DOCKER_VERSION}},
            "systemModules": {"edgeAgent": agent, "edgeHub": hub},
            "modules": {},
        }},
        "$edgeHub": {DESIRED: {
            "schemaVersion": EDGE_HUB_SCHEMA_VERSION,
            "routes": {},
            "storeAndForwardConfiguration": {"timeToLiveSecs": STORE_AND_FORWARD_SECS},
        }},
    }})
}

/// A layered deployment: dotted keys that add `modules` to what the base brings.
///
/// `$edgeAgent` is always there; the hub never counts a layer without it as applied.
pub(crate) fn layer(
    release: &Release,
    target: &TargetRelease,
    modules: &[&ModuleRelease],
    errors: &mut Vec<ManifestError>,
) -> Value {
    let mut content = Map::new();
    let mut agent = Map::new();
    let mut hub = Map::new();
    for module in modules {
        let options = create_options::overlay(&target.create_options, &module.create_options);
        let image = format!(
            "{}/{}@{}",
            release.registry_prefix, module.image_repository, module.image_digest
        );
        let settings = settings(&image, &options).unwrap_or_else(|error| {
            errors.push(ManifestError::new(module_place(target, module), error));
            Map::new()
        });
        let mut entry = Map::from_iter([
            ("type".to_owned(), json!("docker")),
            ("status".to_owned(), json!("running")),
            ("restartPolicy".to_owned(), json!(module.restart_policy.as_str())),
            ("version".to_owned(), json!(version(module))),
            ("settings".to_owned(), Value::Object(settings)),
        ]);
        if !module.env.is_empty() {
            entry.insert("env".to_owned(), env(&module.env));
        }
        if let Some(order) = module.startup_order {
            entry.insert("startupOrder".to_owned(), json!(order));
        }
        agent.insert(format!("{DESIRED}.modules.{}", module.name), Value::Object(entry));
        for (name, spec) in &module.routes {
            hub.insert(format!("{DESIRED}.routes.{name}"), route(spec));
        }
        if !module.desired.is_empty() {
            content.insert(module.name.clone(), json!({DESIRED: module.desired}));
        }
    }
    content.insert("$edgeAgent".to_owned(), Value::Object(agent));
    if !hub.is_empty() {
        content.insert("$edgeHub".to_owned(), Value::Object(hub));
    }
    json!({"modulesContent": content})
}

/// What people read in the module's `version`: model version and how its numbers are stored, `1.2.0+int8`.
pub(crate) fn version(module: &ModuleRelease) -> String {
    format!("{}+{}", module.model_version, module.accuracy.precision)
}

fn system_module(
    name: &str,
    module: &SystemModule,
    variables: &BTreeMap<String, EnvValue>,
    errors: &mut Vec<ManifestError>,
) -> Map<String, Value> {
    let settings = settings(&module.image, &module.create_options).unwrap_or_else(|error| {
        errors.push(ManifestError::new(format!("system module `{name}`"), error));
        Map::new()
    });
    let mut entry = Map::from_iter([("settings".to_owned(), Value::Object(settings))]);
    if !variables.is_empty() {
        entry.insert("env".to_owned(), env(variables));
    }
    entry
}

fn settings(image: &str, options: &Map<String, Value>) -> Result<Map<String, Value>, CreateOptionsError> {
    let mut settings = Map::from_iter([("image".to_owned(), json!(image))]);
    for (key, piece) in create_options::split(options)? {
        settings.insert(key, Value::String(piece));
    }
    Ok(settings)
}

fn env(variables: &BTreeMap<String, EnvValue>) -> Value {
    variables
        .iter()
        .map(|(name, value)| (name.clone(), json!({"value": value.to_json()})))
        .collect()
}

fn route(spec: &RouteSpec) -> Value {
    if spec.priority.is_none() && spec.time_to_live_secs.is_none() {
        return json!(spec.route);
    }
    let mut entry = Map::from_iter([("route".to_owned(), json!(spec.route))]);
    if let Some(priority) = spec.priority {
        entry.insert("priority".to_owned(), json!(priority));
    }
    if let Some(seconds) = spec.time_to_live_secs {
        entry.insert("timeToLiveSecs".to_owned(), json!(seconds));
    }
    Value::Object(entry)
}
