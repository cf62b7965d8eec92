//! A module held at an earlier release: what makes a rollback last.
//!
//! In: the deployment that was taken back and the one beneath it, both as they were committed. Out: what must be laid
//! over the newer declarations so that they render the older deployment again, byte for byte; and what no pin can
//! bring back, in words. Nothing here reads git: the caller has both deployments.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::Digest;
use serde_json::{Map, Value, json};

use crate::manifest::DESIRED;
use crate::release::{AccuracySummary, ModuleRelease, Release};
use crate::render::{Deployment, ModuleFacts};
use crate::route;

/// What one module is held at.
#[derive(Clone, Debug, PartialEq)]
pub struct Pin {
    /// Why, in the words of who did it.
    pub reason: String,
    /// Version of the model that runs.
    pub version: String,
    /// Of the image manifest.
    pub image_digest: Digest,
    /// Compressed size of the image in bytes.
    pub size_bytes: u64,
    /// How good that model is.
    pub accuracy: AccuracySummary,
    /// The module's part of the deployment as it was ([`part`]); none: as it is declared today, but for image and
    /// version.
    pub settings: Option<Map<String, Value>>,
}

/// Pins of an environment, by target and module.
pub type Pins = BTreeMap<(String, String), Pin>;

/// Puts what is pinned in the place of what was built.
pub(crate) fn lay_over(release: &mut Release, pins: &Pins) {
    for target in &mut release.targets {
        for module in &mut target.modules {
            let Some(pin) = pins.get(&(target.name.clone(), module.name.clone())) else {
                continue;
            };
            module.model_version.clone_from(&pin.version);
            module.image_digest = pin.image_digest;
            module.size_bytes = pin.size_bytes;
            module.accuracy = pin.accuracy.clone();
        }
    }
}

/// The pins of a layer's modules that bring settings of their own.
pub(crate) fn with_settings<'a>(
    pins: &'a Pins,
    target: &str,
    modules: &[&ModuleRelease],
) -> Vec<(String, &'a Map<String, Value>)> {
    let of = |module: &&ModuleRelease| {
        let pin = pins.get(&(target.to_owned(), module.name.clone()))?;
        Some((module.name.clone(), pin.settings.as_ref()?))
    };
    modules.iter().filter_map(of).collect()
}

/// A module's part of a layered deployment's content: its entry in `$edgeAgent`, the routes that begin at it, and its
/// twin; by section, then key.
pub fn part(content: &Value, module: &str) -> Map<String, Value> {
    let mut part = Map::new();
    let sections = content.get("modulesContent").and_then(Value::as_object);
    for (section, entries) in sections.into_iter().flatten() {
        let own: Map<String, Value> = entries
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| belongs(section, key, value, module))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !own.is_empty() {
            part.insert(section.clone(), Value::Object(own));
        }
    }
    part
}

/// Puts a part in the place of what a content has of the module. Sections that become empty go, but `$edgeAgent`.
pub(crate) fn lay(content: &mut Value, module: &str, part: &Map<String, Value>) {
    let Some(sections) = content.get_mut("modulesContent").and_then(Value::as_object_mut) else {
        return;
    };
    for (section, entries) in sections.iter_mut() {
        if let Some(entries) = entries.as_object_mut() {
            entries.retain(|key, value| !belongs(section, key, value, module));
        }
    }
    for (section, own) in part {
        let place = sections.entry(section.clone()).or_insert_with(|| json!({}));
        if let (Some(place), Some(own)) = (place.as_object_mut(), own.as_object()) {
            place.extend(own.clone());
        }
    }
    sections.retain(|section, entries| {
        section == "$edgeAgent" || entries.as_object().is_none_or(|entries| !entries.is_empty())
    });
}

fn belongs(section: &str, key: &str, value: &Value, module: &str) -> bool {
    match section {
        "$edgeAgent" => key == entry_key(module),
        "$edgeHub" => {
            let text = value.as_str().or_else(|| value.get("route")?.as_str());
            key.starts_with(&format!("{DESIRED}.routes."))
                && text
                    .and_then(|text| route::parse(text).ok())
                    .is_some_and(|route| route.source_module.as_deref() == Some(module))
        }
        other => other == module,
    }
}

fn entry_key(module: &str) -> String {
    format!("{DESIRED}.modules.{module}")
}

/// What goes back with one deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// By module.
    pub pins: BTreeMap<String, HeldModule>,
    /// What pins cannot bring back, one sentence each, with what to do instead.
    pub left: Vec<String>,
}

/// A module that goes back.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldModule {
    /// As it was.
    pub facts: ModuleFacts,
    /// The version that is held back.
    pub instead_of: String,
    /// As [`Pin::settings`].
    pub settings: Option<Map<String, Value>>,
}

/// What must be pinned so that the declarations of `bad` render `good` again. Both with their content.
pub fn hold(bad: (&Deployment, &Value), good: (&Deployment, &Value)) -> Held {
    let ((bad, bad_content), (good, good_content)) = (bad, good);
    let mut held = Held::default();
    let target = &bad.target;
    for module in &bad.modules {
        let Some(facts) = good.modules.iter().find(|one| one.name == module.name) else {
            held.left.push(format!(
                "model `{}` comes to {target} with the release that was taken back: take {target} out of its targets in models.toml",
                module.model
            ));
            continue;
        };
        let (now, then) = (part(bad_content, &module.name), part(good_content, &module.name));
        if now == then && module.image_digest == facts.image_digest {
            continue;
        }
        let pinned = HeldModule {
            facts: facts.clone(),
            instead_of: module.version.clone(),
            settings: (with_image_of(now, &then, module, facts) != then).then_some(then),
        };
        held.pins.insert(module.name.clone(), pinned);
    }
    let names: BTreeSet<&String> = bad.modules.iter().map(|module| &module.name).collect();
    for module in good.modules.iter().filter(|module| !names.contains(&module.name)) {
        held.left.push(format!(
            "model `{}` ran on {target} before and is not declared there any more: give it {target} again in models.toml",
            module.model
        ));
    }
    if bad.devices != good.devices {
        held.left.push(format!(
            "the release for {target} is for other devices than the one before (`{}`, before: `{}`): change the \
             conditions in models.toml and targets.toml back",
            bad.devices, good.devices
        ));
    }
    let mut laid = bad_content.clone();
    for name in held.pins.keys() {
        lay(&mut laid, name, &part(good_content, name));
    }
    if held.left.is_empty() && laid != *good_content {
        held.left.push(format!(
            "routes of the release for {target} that begin at no single model changed as well: change them back in models.toml"
        ));
    }
    held
}

/// `part` with image and version of the earlier release, as today's declarations would render it.
fn with_image_of(
    mut part: Map<String, Value>,
    then: &Map<String, Value>,
    module: &ModuleFacts,
    facts: &ModuleFacts,
) -> Map<String, Value> {
    let key = entry_key(&module.name);
    let version = then
        .get("$edgeAgent")
        .and_then(|agent| agent.get(&key)?.get("version").cloned());
    if let Some(entry) = part.get_mut("$edgeAgent").and_then(|agent| agent.get_mut(&key)) {
        if let Some(image) = entry.pointer_mut("/settings/image")
            && let Some(text) = image.as_str()
        {
            // Only the digest: a registry that has changed is a setting.
            *image = json!(text.replace(&module.image_digest.to_string(), &facts.image_digest.to_string()));
        }
        if let Some(version) = version {
            entry["version"] = version;
        }
    }
    part
}
