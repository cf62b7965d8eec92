//! What merging a change would change on the devices of an environment, in the words of a reviewer.
//!
//! In: the files of `deployments/<environment>/` before and after. Out: [`Difference`], data that prints as Markdown.
//! Meaning is compared, not text: createOptions are joined and decoded, a new image is told as model, version, size
//! and accuracy, and what did not change is not mentioned. Files of an older format are read as far as they go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::create_options;
use crate::manifest::DESIRED;
use crate::summary::{code, escape, size};
use crate::syntax::shortened;

/// Longest value that is shown, in characters.
const VALUE_LIMIT_CHARACTERS: usize = 120;
/// Deepest value that is taken apart; below it, values are compared whole.
const DEPTH_LIMIT: usize = 24;

/// The files of one environment: path relative to `deployments/<environment>/` → bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A file that cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{side} {file}: {problem}")]
pub struct DiffError {
    /// `before` or `after`.
    pub side: &'static str,
    /// Its path.
    pub file: String,
    /// What is wrong.
    pub problem: String,
}

/// What changes in one environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// By target.
    pub targets: BTreeMap<String, TargetDifference>,
    /// Rings, in the order of the roll-out after the change.
    pub rings: Vec<ValueChange>,
}

/// What changes on one kind of device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TargetDifference {
    /// The target comes (`after` only), goes (`before` only) or is for other devices.
    pub devices: Option<ValueChange>,
    /// By module; the runtime is `edgeAgent` and `edgeHub`.
    pub modules: BTreeMap<String, ModuleDifference>,
    /// Routes by name, and settings of the runtime.
    pub settings: Vec<ValueChange>,
    /// What a device downloads at most: the images that are new to it, in bytes.
    pub download_bytes: u64,
}

/// What changes of one module.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModuleDifference {
    /// Before; none: the module is new.
    pub before: Option<ModuleState>,
    /// After; none: the module goes.
    pub after: Option<ModuleState>,
    /// Settings other than the image and version.
    pub settings: Vec<ValueChange>,
}

/// A module in the words of people.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModuleState {
    /// Full reference of the image.
    pub image: String,
    /// Human version, `1.2.0+int8`.
    pub version: String,
    /// Compressed size of the image in bytes; 0: not known.
    pub size_bytes: u64,
    /// Metric and value as shipped.
    pub accuracy: Option<(String, f64)>,
    /// Which devices have it; `*`: all of the target.
    pub devices: String,
    /// Why it is pinned to an earlier release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ValueChange {
    /// `env.LOG_LEVEL`
    pub what: String,
    /// None: it was not there.
    pub before: Option<String>,
    /// None: it is no longer there.
    pub after: Option<String>,
}

/// Compares two states of an environment. A side without files is an environment that is not there.
///
/// # Errors
/// [`DiffError`]: a file that is no JSON, or is listed and missing.
pub fn diff(before: &Files, after: &Files) -> Result<Difference, DiffError> {
    let (before, after) = (read("before", before)?, read("after", after)?);
    let mut difference = Difference {
        rings: changes(&before.rings, &after.rings),
        ..Difference::default()
    };
    let names: BTreeSet<&String> = before.targets.keys().chain(after.targets.keys()).collect();
    let nothing = Target::default();
    for name in names {
        let (old, new) = (before.targets.get(name), after.targets.get(name));
        let devices = |target: Option<&Target>| target.map(|target| target.devices.clone());
        let mut target = TargetDifference {
            devices: (devices(old) != devices(new)).then(|| ValueChange {
                what: "devices".to_owned(),
                before: devices(old),
                after: devices(new),
            }),
            ..TargetDifference::default()
        };
        // Of a target that comes or goes, the modules say enough.
        let both = old.is_some() && new.is_some();
        let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
        // A module on all devices of the target follows them; that is told once.
        let state = |module: &Module, of: &Target| {
            let mut state = module.state.clone();
            if state.devices == of.devices {
                "*".clone_into(&mut state.devices);
            }
            state
        };
        if both {
            target.settings = changes(&old.settings, &new.settings);
        }
        let modules: BTreeSet<&String> = old.modules.keys().chain(new.modules.keys()).collect();
        for module in modules {
            let empty = Module::default();
            let (was, is) = (old.modules.get(module), new.modules.get(module));
            let change = ModuleDifference {
                before: was.map(|module| state(module, old)),
                after: is.map(|module| state(module, new)),
                settings: changes(&was.unwrap_or(&empty).settings, &is.unwrap_or(&empty).settings),
            };
            if change.before == change.after && change.settings.is_empty() {
                continue;
            }
            let image = |state: &Option<ModuleState>| state.as_ref().map(|state| state.image.clone());
            if let Some(state) = change
                .after
                .as_ref()
                .filter(|_| image(&change.before) != image(&change.after))
            {
                target.download_bytes = target.download_bytes.saturating_add(state.size_bytes);
            }
            target.modules.insert(module.clone(), change);
        }
        if target != TargetDifference::default() {
            difference.targets.insert(name.clone(), target);
        }
    }
    Ok(difference)
}

#[derive(Default)]
struct Side {
    targets: BTreeMap<String, Target>,
    rings: BTreeMap<String, String>,
}

#[derive(Default)]
struct Target {
    devices: String,
    modules: BTreeMap<String, Module>,
    settings: BTreeMap<String, String>,
}

#[derive(Default)]
struct Module {
    state: ModuleState,
    settings: BTreeMap<String, String>,
}

fn read(side: &'static str, files: &Files) -> Result<Side, DiffError> {
    let mut result = Side::default();
    if files.is_empty() {
        return Ok(result);
    }
    let json = |file: &str| -> Result<Value, DiffError> {
        let error = |problem: String| DiffError {
            side,
            file: file.to_owned(),
            problem,
        };
        let bytes = files.get(file).ok_or_else(|| error("is missing".to_owned()))?;
        serde_json::from_slice(bytes).map_err(|reason| error(format!("cannot be read: {reason}")))
    };
    let list = json("deployments.json")?;
    for (index, ring) in entries(&list, "rings").enumerate() {
        let name = text(ring, "name");
        for (key, value) in ring
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != "name")
        {
            flatten(
                &format!("{}. {name}: {key}", index + 1),
                value,
                1,
                &mut result.rings,
            );
        }
    }
    for deployment in entries(&list, "deployments") {
        let target = result.targets.entry(text(deployment, "target")).or_default();
        let last_ring = entries(deployment, "rings").last();
        let devices = match text(deployment, "devices") {
            // Format 1 has the conditions of the rings only.
            none if none.is_empty() => last_ring.map(|ring| text(ring, "condition")).unwrap_or_default(),
            devices => devices,
        };
        if text(deployment, "kind") == "base" {
            target.devices.clone_from(&devices);
        }
        let facts: BTreeMap<String, &Value> = entries(deployment, "modules")
            .map(|module| (text(module, "name"), module))
            .collect();
        let content = json(&text(deployment, "file"))?;
        let sections = content.get("modulesContent").and_then(Value::as_object);
        for (module, keys) in sections.into_iter().flatten() {
            for (key, value) in keys.as_object().into_iter().flatten() {
                let path = key.strip_prefix(DESIRED).unwrap_or(key).trim_start_matches('.');
                target.take(module, path, value, &facts, &devices);
            }
        }
    }
    Ok(result)
}

impl Target {
    /// Takes what a content sets at `path` of a module's desired properties.
    fn take(
        &mut self,
        module: &str,
        path: &str,
        value: &Value,
        facts: &BTreeMap<String, &Value>,
        devices: &str,
    ) {
        if module != "$edgeAgent" {
            let (map, name) = match module {
                "$edgeHub" => (&mut self.settings, "edgeHub"),
                _ => (
                    &mut self.modules.entry(module.to_owned()).or_default().settings,
                    "desired",
                ),
            };
            let place = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{name}.{path}")
            };
            return flatten(place.trim_start_matches("edgeHub."), value, 0, map);
        }
        if let Some(name) = path.strip_prefix("modules.") {
            return self.module(name, value, facts.get(name).copied(), devices);
        }
        if !path.is_empty() {
            return flatten(path, value, 0, &mut self.settings);
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            if key != "modules" && key != "systemModules" {
                flatten(key, value, 0, &mut self.settings);
                continue;
            }
            for (name, value) in value.as_object().into_iter().flatten() {
                self.module(name, value, facts.get(name).copied(), devices);
            }
        }
    }

    fn module(&mut self, name: &str, value: &Value, facts: Option<&Value>, devices: &str) {
        let module = self.modules.entry(name.to_owned()).or_default();
        let accuracy = facts.and_then(|facts| facts.get("accuracy"));
        module.state = ModuleState {
            image: value
                .pointer("/settings/image")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            version: text(value, "version"),
            size_bytes: facts
                .and_then(|facts| facts.get("size-bytes")?.as_u64())
                .unwrap_or(0),
            accuracy: accuracy.and_then(|one| Some((text(one, "metric"), one.get("quantized")?.as_f64()?))),
            devices: devices.to_owned(),
            pinned: facts
                .map(|facts| text(facts, "pinned"))
                .filter(|reason| !reason.is_empty()),
        };
        let Some(value) = value.as_object() else { return };
        for (key, value) in value.iter().filter(|(key, _)| *key != "version") {
            match (key.as_str(), value.as_object()) {
                ("settings", Some(settings)) => {
                    flatten("createOptions", &decoded(settings), 0, &mut module.settings);
                }
                ("env", Some(variables)) => {
                    for (name, variable) in variables {
                        let value = variable.get("value").unwrap_or(variable);
                        flatten(&format!("env.{name}"), value, 0, &mut module.settings);
                    }
                }
                _ => flatten(key, value, 0, &mut module.settings),
            }
        }
    }
}

/// createOptions of a module's settings as the object that they are; as they stand if they are none.
fn decoded(settings: &Map<String, Value>) -> Value {
    let pieces: BTreeMap<String, String> = settings
        .iter()
        .filter(|(key, _)| key.to_ascii_lowercase().starts_with("createoptions"))
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    match create_options::join(&pieces) {
        Ok(options) => Value::Object(options),
        Err(_) => Value::String(pieces.into_values().collect()),
    }
}

/// Leaves of a value by dotted path. Lists are compared whole: their order has a meaning.
fn flatten(path: &str, value: &Value, depth: usize, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) if depth < DEPTH_LIMIT => {
            for (key, value) in map {
                flatten(&format!("{path}.{key}"), value, depth + 1, leaves);
            }
        }
        Value::String(text) => {
            leaves.insert(path.to_owned(), text.clone());
        }
        other => {
            leaves.insert(path.to_owned(), crate::json::minified(other));
        }
    }
}

fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<ValueChange> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| ValueChange {
            what: key.clone(),
            before: before.get(key).cloned(),
            after: after.get(key).cloned(),
        })
        .collect()
}

fn entries<'a>(value: &'a Value, key: &str) -> impl DoubleEndedIterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

impl Difference {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }

    /// For a pull request: one heading per target, one line per fact. Empty if nothing changes.
    pub fn to_markdown(&self, environment: &str) -> String {
        let mut out = String::new();
        if self.is_empty() {
            return out;
        }
        let _ = writeln!(out, "## Environment `{environment}`");
        for (name, target) in &self.targets {
            let _ = writeln!(out, "\n### Target `{name}`\n");
            if let Some(devices) = &target.devices {
                let _ = writeln!(out, "- {}", value_line(devices));
            }
            for (module, change) in &target.modules {
                module_lines(&mut out, module, change);
            }
            for change in &target.settings {
                let _ = writeln!(out, "- {}", value_line(change));
            }
            if target.download_bytes > 0 {
                let _ = writeln!(
                    out,
                    "- a device downloads at most {}",
                    size(target.download_bytes)
                );
            }
        }
        if !self.rings.is_empty() {
            let _ = writeln!(out, "\n### Rings\n");
        }
        for change in &self.rings {
            let _ = writeln!(out, "- {}", value_line(change));
        }
        out
    }
}

fn module_lines(out: &mut String, name: &str, change: &ModuleDifference) {
    let version = |state: &ModuleState| match state.version.is_empty() {
        true => code(state.image.rsplit('/').next().unwrap_or_default()),
        false => escape(&state.version),
    };
    let facts = |state: &ModuleState| {
        let mut facts = vec![version(state)];
        if state.size_bytes > 0 {
            facts.push(size(state.size_bytes));
        }
        if let Some((metric, value)) = &state.accuracy {
            facts.push(format!("{} {value:.4}", escape(metric)));
        }
        if let Some(reason) = &state.pinned {
            facts.push(format!("pinned: {}", escape(reason)));
        }
        facts.join(", ")
    };
    let _ = match (&change.before, &change.after) {
        (None, Some(after)) => writeln!(out, "- **{name}** comes: {}", facts(after)),
        (Some(before), None) => writeln!(out, "- **{name}** goes: {}", facts(before)),
        (Some(before), Some(after)) => {
            let mut facts = Vec::new();
            if before.version != after.version {
                facts.push(format!("{} → {}", version(before), version(after)));
            }
            if before.image != after.image {
                facts.push(if after.version.is_empty() {
                    format!("{} → {}", code(&before.image), code(&after.image))
                } else {
                    "new image".to_owned()
                });
            }
            if before.size_bytes != after.size_bytes && before.size_bytes > 0 {
                facts.push(format!(
                    "{} → {}",
                    size(before.size_bytes),
                    size(after.size_bytes)
                ));
            }
            if let (Some((metric, was)), Some((_, is))) = (&before.accuracy, &after.accuracy)
                && was != is
            {
                facts.push(format!(
                    "{} {was:.4} → {is:.4} ({:+.4})",
                    escape(metric),
                    is - was
                ));
            }
            if before.devices != after.devices {
                facts.push(format!(
                    "devices {} → {}",
                    code(&before.devices),
                    code(&after.devices)
                ));
            }
            match (&before.pinned, &after.pinned) {
                (was, Some(reason)) if was.as_ref() != Some(reason) => {
                    facts.push(format!("**pinned**: {}", escape(reason)));
                }
                (Some(_), Some(_)) => facts.push("still pinned".to_owned()),
                (Some(_), None) => facts.push("no longer pinned".to_owned()),
                (None, _) => {}
            }
            let facts = if facts.is_empty() {
                "same image".to_owned()
            } else {
                facts.join(", ")
            };
            writeln!(out, "- **{name}**: {facts}")
        }
        (None, None) => writeln!(out, "- **{name}**"),
    };
    // All settings of a module that comes or goes are new or gone: nobody needs the list.
    let settings = match (&change.before, &change.after) {
        (Some(_), None) => &[][..],
        _ => &change.settings[..],
    };
    for setting in settings.iter().filter(|setting| !is_default(setting)) {
        let _ = writeln!(out, "  - {}", value_line(setting));
    }
}

/// What every module has.
fn is_default(change: &ValueChange) -> bool {
    change.before.is_none()
        && matches!(
            (change.what.as_str(), change.after.as_deref()),
            ("type", Some("docker")) | ("status", Some("running")) | ("restartPolicy", Some("always"))
        )
}

fn value_line(change: &ValueChange) -> String {
    let shown = |value: &str| code(&shortened(value, VALUE_LIMIT_CHARACTERS));
    let what = code(&change.what);
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => format!("{what}: {} → {}", shown(before), shown(after)),
        (None, Some(after)) => format!("{what}: {} (new)", shown(after)),
        (Some(before), None) => format!("{what}: {} (gone)", shown(before)),
        (None, None) => what,
    }
}
