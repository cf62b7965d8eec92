//! One environment as it is committed: what a hub is to be told, and which commit says so.
//!
//! Only committed manifests are rolled out: the hub remembers commits, and what nobody can check out again nobody can
//! go back to.

use std::collections::BTreeSet;
use std::process::Command;

use aiot_iothub::rollout::Declared;
use aiot_iothub::{LAYERS_FILE, LayerBook};
use aiot_package::Digest;

use crate::error::{BuildError, io};
use crate::paths::Paths;
use crate::workspace::read_texts;

/// Largest generated file that is read, in bytes.
const FILE_LIMIT_BYTES: u64 = 64 << 20;

/// Commits that are looked into for the sizes of earlier images.
const COMMIT_LIMIT: &str = "200";

/// A declared environment with its hub.
#[derive(Clone, Debug)]
pub struct CommittedEnvironment {
    /// Host name of the hub that it is for; none: any.
    pub hub: Option<String>,
    /// Its generated manifests.
    pub declared: Declared,
}

/// Reads `deployments/<name>.toml` and what a release has generated for it, all of it committed.
///
/// # Errors
/// No such environment, mistakes in the declarations, changes that are not committed, a history that is cut short.
pub fn committed(paths: &Paths, name: &str) -> Result<CommittedEnvironment, BuildError> {
    let folder = format!("deployments/{name}");
    let workspace = declared_workspace(paths)?;
    let found = workspace
        .environments
        .values()
        .find(|one| one.name.as_str() == name);
    let hub = found.ok_or_else(|| unknown(&workspace, name))?.hub.clone();
    let changed = git_text(
        paths,
        &["status", "--porcelain", "--untracked-files=all", "--", &folder],
    )?;
    if let Some(first) = changed.lines().next() {
        return Err(BuildError::Other(format!(
            "{folder} has changes that are not committed ({}): commit what `cargo xtask release` wrote, and run again",
            first.trim()
        )));
    }
    if git_text(paths, &["rev-parse", "--is-shallow-repository"])?.trim() == "true" {
        return Err(BuildError::Other(
            "this checkout has only a part of the history, so its place in it is not known: fetch all of it \
             (`git fetch --unshallow`; in CI, `fetch-depth: 0`)"
                .to_owned(),
        ));
    }
    let sequence = git_text(paths, &["rev-list", "--count", "HEAD"])?;
    let sequence = sequence.trim().parse().map_err(BuildError::other)?;
    let commit = git_text(paths, &["rev-parse", "--short=12", "HEAD"])?;
    generated(paths, name, sequence, commit.trim()).map(|declared| CommittedEnvironment { hub, declared })
}

/// Reads what a release has generated for an environment, committed or not.
///
/// # Errors
/// Files that are missing or not those of one release.
pub fn generated(paths: &Paths, name: &str, sequence: u64, commit: &str) -> Result<Declared, BuildError> {
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(BuildError::Other(format!(
            "`{name}` is not the name of an environment"
        )));
    }
    let folder = paths.deployments(name);
    let list = read(&folder.join("deployments.json"))?;
    // The list is checked as text first: a path in it must not lead out of the folder.
    let content = |file: &str| {
        let inside = file
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
        inside.then(|| read(&folder.join(file)).ok()).flatten()
    };
    Declared::parse(&list, &content, sequence, commit)
        .map_err(|error| BuildError::Other(format!("deployments/{name}: {error}")))
}

/// The layers of images of earlier releases, as far as this branch's history tells: `layers.json` of the commits that
/// changed it, the newest first, until all of `wanted` are known.
pub fn layers_in_history(paths: &Paths, environment: &str, wanted: &BTreeSet<Digest>) -> LayerBook {
    let mut found = LayerBook::default();
    if wanted.is_empty() {
        return found;
    }
    let file = format!("deployments/{environment}/{LAYERS_FILE}");
    // What cannot be asked is not known: sizes are shown, and nothing hangs on them that is not checked again.
    let commits = git_text(paths, &["log", "-n", COMMIT_LIMIT, "--format=%H", "--", &file]);
    for commit in commits.unwrap_or_default().lines() {
        if wanted.iter().all(|image| found.knows(image)) {
            break;
        }
        let bytes = git(paths, &["show", &format!("{commit}:./{file}")]);
        if let Some(book) = bytes.ok().and_then(|bytes| LayerBook::parse(&bytes)) {
            found.merge(book);
        }
    }
    found
}

fn declared_workspace(paths: &Paths) -> Result<aiot_plan::Workspace, BuildError> {
    aiot_plan::resolve(&read_texts(paths)?).map_err(BuildError::Config)
}

fn unknown(workspace: &aiot_plan::Workspace, name: &str) -> BuildError {
    let names: Vec<&str> = workspace
        .environments
        .values()
        .map(|one| one.name.as_str())
        .collect();
    BuildError::Other(format!(
        "there is no environment `{name}`; deployments/*.toml declare {}",
        names.join(", ")
    ))
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, BuildError> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => BuildError::Other(format!(
            "{} is missing; run `cargo xtask release` and commit what it writes",
            path.display()
        )),
        _ => io("open", path)(error),
    })?;
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io("read", path))?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(BuildError::Other(format!(
            "{} is larger than {FILE_LIMIT_BYTES} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

/// What git says in a workspace.
///
/// # Errors
/// When it cannot be run, or says no.
pub fn git(paths: &Paths, arguments: &[&str]) -> Result<Vec<u8>, BuildError> {
    let output = Command::new("git")
        .arg("-C")
        .arg(&paths.root)
        .args(arguments)
        .output()
        .map_err(|error| BuildError::Other(format!("git cannot be run: {error}; it must be on the PATH")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(BuildError::Other(format!(
        "git {}: {}",
        arguments.join(" "),
        reason.trim()
    )))
}

fn git_text(paths: &Paths, arguments: &[&str]) -> Result<String, BuildError> {
    Ok(String::from_utf8_lossy(&git(paths, arguments)?).into_owned())
}
