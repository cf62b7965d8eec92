//! The change in git that makes a rollback last: `[[pin]]` entries for `deployments/<environment>.toml`.
//!
//! In: the ways back that the hub offers, and the history. Out: the text to append, and what pins cannot bring back.
//! The text is only ever appended, so comments and order of the file stay as people wrote them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aiot_iothub::Deployment;
use aiot_iothub::DeploymentList;
use aiot_iothub::pin::{HeldModule, hold};
use aiot_iothub::rollout::{Declared, WayBack};
use serde_json::Value;

use crate::environment::git;
use crate::error::BuildError;
use crate::lockfile::write_if_changed;
use crate::paths::Paths;
use crate::workspace::read_texts;

/// Most commits of the history that are looked into for one deployment.
const COMMIT_LIMIT: &str = "50";

/// What a person commits after a rollback.
#[derive(Clone, Debug, Default)]
pub struct PinChange {
    /// Name of the environment.
    pub environment: String,
    /// What is appended to `deployments/<environment>.toml`; empty: it is there already, or there is nothing to pin.
    pub text: String,
    /// What pins cannot bring back, with what to do.
    pub left: Vec<String>,
}

impl PinChange {
    /// The file, relative to the workspace.
    pub fn file(&self) -> String {
        format!("deployments/{}.toml", self.environment)
    }

    /// The change as people read it: the appended lines after a `+`.
    pub fn diff(&self) -> String {
        let mut out = format!("--- {0}\n+++ {0}\n", self.file());
        for line in self.text.lines() {
            let _ = writeln!(out, "+{line}");
        }
        out
    }

    /// Appends the text to the file.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn write(&self, paths: &Paths) -> Result<(), BuildError> {
        let path = paths.file(&self.file());
        let before = std::fs::read_to_string(&path).map_err(crate::error::io("read", &path))?;
        write_if_changed(&path, appended(&before, &self.text).as_bytes()).map(|_| ())
    }
}

/// Works out what must be pinned so that a release renders the deployments again that the hub went back to.
///
/// # Errors
/// A fall-back that is nowhere in the history; declarations that would be wrong with the pins.
pub fn change(
    paths: &Paths,
    declared: &Declared,
    ways: &[WayBack],
    reason: &str,
) -> Result<PinChange, BuildError> {
    let environment = declared.list().environment.clone();
    let mut texts = read_texts(paths)?;
    let workspace = aiot_plan::resolve(&texts).map_err(BuildError::Config)?;
    let mut there: BTreeMap<(String, String), String> = BTreeMap::new();
    for one in workspace
        .environments
        .values()
        .filter(|one| one.name.as_str() == environment)
    {
        for pin in &one.pins {
            for (target, image) in &pin.images {
                there.insert(
                    (pin.model.to_string(), target.to_string()),
                    image.digest.to_string(),
                );
            }
        }
    }
    let mut change = PinChange {
        environment: environment.clone(),
        ..PinChange::default()
    };
    let mut groups: BTreeMap<[String; 3], BTreeMap<String, HeldModule>> = BTreeMap::new();
    for way in ways {
        let (Some(bad), Some(content)) = (declared.of_lineage(&way.lineage), declared.content(&way.bad))
        else {
            continue;
        };
        let Some((good, commit)) = &way.good else {
            change.left.push(format!(
                "nothing lies beneath `{}` on the hub: revert the commit that brought it, or take {} out of the model's targets",
                way.bad, way.lineage.target
            ));
            continue;
        };
        let (good, good_content) = deployment_in_history(paths, &environment, good, commit)?;
        let held = hold((bad, content), (&good, &good_content));
        change.left.extend(held.left);
        for held in held.pins.into_values() {
            let model = held.facts.model.clone();
            match there.get(&(model.clone(), bad.target.clone())) {
                Some(digest) if *digest == held.facts.image_digest.to_string() => continue,
                Some(digest) => change.left.push(format!(
                    "{model} is pinned to {digest} on {} already: remove that pin, and run this again",
                    bad.target
                )),
                None => {
                    let key = [model, held.facts.version.clone(), held.instead_of.clone()];
                    groups.entry(key).or_default().insert(bad.target.clone(), held);
                }
            }
        }
    }
    change.left.dedup();
    if groups.is_empty() {
        return Ok(change);
    }
    change.text = rendered(&groups, reason);
    // What is written must be taken by the next command.
    if let Some(text) = texts.environments.get_mut(&environment) {
        *text = appended(text, &change.text);
    }
    aiot_plan::resolve(&texts).map_err(BuildError::Config)?;
    Ok(change)
}

fn appended(before: &str, text: &str) -> String {
    let gap = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{before}{gap}{text}")
}

fn rendered(groups: &BTreeMap<[String; 3], BTreeMap<String, HeldModule>>, reason: &str) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    // A reason is one line: control characters would make it hard to read in a review.
    let reason: String = reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut out = String::new();
    for ([model, version, instead_of], images) in groups {
        let _ = write!(
            out,
            "\n# Written by `deploy rollback`. Remove it, with its images, once {model} is good again.\n[[pin]]\n\
             model = {}\nversion = {}\ninstead-of = {}\nreason = {}\n",
            quoted(model),
            quoted(version),
            quoted(instead_of),
            quoted(reason.trim())
        );
        for (target, held) in images {
            let (facts, accuracy) = (&held.facts, &held.facts.accuracy);
            let number = |value: f64| toml::Value::Float(value).to_string();
            let _ = write!(
                out,
                "\n[pin.image.{target}]\ndigest = \"{}\"\nsize-bytes = {}\nprecision = \"{}\"\n\
                 accuracy = {{ metric = {}, float = {}, shipped = {} }}\n",
                facts.image_digest,
                facts.size_bytes,
                accuracy.precision,
                quoted(&accuracy.metric),
                number(accuracy.float),
                number(accuracy.quantized)
            );
            if let Some(settings) = &held.settings {
                let json = format!("{:#}", Value::Object(settings.clone()));
                let _ = writeln!(out, "settings = {}", quoted(&json));
            }
        }
    }
    out
}

/// A deployment as it was committed, and its content. The hub names the last commit that changed it there, which need
/// not be one that declared it: then the commits that brought it or took it away are looked for.
fn deployment_in_history(
    paths: &Paths,
    environment: &str,
    id: &str,
    commit: &str,
) -> Result<(Deployment, Value), BuildError> {
    let list = format!("deployments/{environment}/deployments.json");
    let mut candidates = Vec::new();
    if !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        candidates.push(commit.to_owned());
    }
    let needle = format!("-S{id}");
    let found = git(
        paths,
        &["log", "-n", COMMIT_LIMIT, "--format=%H", &needle, "--", &list],
    )?;
    for commit in String::from_utf8_lossy(&found).lines() {
        candidates.extend([commit.to_owned(), format!("{commit}^")]);
    }
    for commit in candidates {
        let show = |file: &str| git(paths, &["show", &format!("{commit}:./{file}")]);
        // A parent of the first commit, or one that was never fetched, knows nothing.
        let Ok(bytes) = show(&list) else { continue };
        let Ok(read) = serde_json::from_slice::<DeploymentList>(&bytes) else {
            continue;
        };
        let Some(deployment) = read.deployments.into_iter().find(|one| one.id == id) else {
            continue;
        };
        let file = format!("deployments/{environment}/{}", deployment.file);
        let content = serde_json::from_slice(&show(&file)?)
            .map_err(|error| BuildError::Other(format!("{file} at {commit} cannot be read: {error}")))?;
        return Ok((deployment, content));
    }
    Err(BuildError::Other(format!(
        "no commit of this branch declares `{id}`, which the hub went back to: revert the change of the model by hand"
    )))
}
