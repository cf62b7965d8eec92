//! `aiot.lock` on disk: reading, looking up what it lacks, moving it, writing.

use std::collections::BTreeSet;

use aiot_debian::{MIRROR_VARIABLE, Mirror, Verifier};
use aiot_plan::Workspace;
use aiot_plan::lock::{ClosureRequest, Lock, LockedClosure, LockedWheel, WheelRequest};
use aiot_plan::plan::Unlocked;
use aiot_toolchain::wheels;

use crate::error::{BuildError, io};
use crate::events::{Event, Sink};
use crate::network::Network;
use crate::observe::read_small;
use crate::paths::Paths;

/// The lock of the workspace; empty where there is none.
///
/// # Errors
/// When it cannot be read or understood.
pub fn read(paths: &Paths) -> Result<Lock, BuildError> {
    let bytes = read_small(&paths.lock())?.unwrap_or_default();
    let text =
        String::from_utf8(bytes).map_err(|_| BuildError::Other("aiot.lock is not UTF-8 text".to_owned()))?;
    Ok(Lock::parse(&text)?)
}

/// Writes the lock where it changed; returns whether it did.
///
/// # Errors
/// When it cannot be written.
pub fn write(paths: &Paths, lock: &Lock) -> Result<bool, BuildError> {
    write_if_changed(&paths.lock(), lock.render().as_bytes())
}

/// Writes a file beside and renames it, only where its content changes; returns whether it did.
///
/// # Errors
/// When it cannot be written.
pub fn write_if_changed(path: &std::path::Path, bytes: &[u8]) -> Result<bool, BuildError> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(std::path::Path::new("."));
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let temporary = folder.join(format!(
        ".{}.new",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    std::fs::write(&temporary, bytes).map_err(io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(io("write", path))?;
    Ok(true)
}

/// The lines that `--locked` refuses to change: `- old` and `+ new`, with the line number in the old file.
pub fn difference(old: &str, new: &str) -> Vec<String> {
    let diff = similar::TextDiff::from_lines(old, new);
    diff.iter_all_changes()
        .filter_map(|change| {
            let line = change.value().trim_end();
            match change.tag() {
                similar::ChangeTag::Delete => {
                    Some(format!("aiot.lock:{}: - {line}", change.old_index()? + 1))
                }
                similar::ChangeTag::Insert => {
                    Some(format!("aiot.lock:{}: + {line}", change.new_index()? + 1))
                }
                similar::ChangeTag::Equal => None,
            }
        })
        .take(40)
        .collect()
}

/// Looks up what the lock lacks.
///
/// # Errors
/// When an index cannot be reached or has not what is wanted.
pub fn look_up(
    paths: &Paths,
    workspace: &Workspace,
    lock: &mut Lock,
    unlocked: &Unlocked,
    network: &Network,
    events: Sink<'_>,
) -> Result<(), BuildError> {
    for request in &unlocked.wheels {
        events(Event::Note(format!(
            "lock: looking up {} {} ({})",
            request.package, request.version, request.platform
        )));
        let wheel = look_up_wheel(paths, request)?;
        lock.wheel.retain(|old| {
            (&old.package, &old.platform, &old.version) != (&wheel.package, &wheel.platform, &wheel.version)
        });
        lock.wheel.push(wheel);
    }
    let mut indexes: Vec<(String, String, aiot_debian::Index)> = Vec::new();
    for request in &unlocked.closures {
        let known = |(suite, architecture, _): &&(String, String, _)| {
            *suite == request.suite && *architecture == request.architecture
        };
        if indexes.iter().find(known).is_none() {
            let index = fetch_index(workspace, request, network, events)?;
            indexes.push((request.suite.clone(), request.architecture.clone(), index));
        }
        let (_, _, index) = indexes.iter().find(known).expect("just fetched");
        let closure = resolve_closure(index, request)?;
        lock.debian.retain(|old| {
            (&old.suite, &old.architecture, &old.roots, &old.exclude)
                != (
                    &closure.suite,
                    &closure.architecture,
                    &closure.roots,
                    &closure.exclude,
                )
        });
        lock.debian.push(closure);
    }
    Ok(())
}

fn look_up_wheel(paths: &Paths, request: &WheelRequest) -> Result<LockedWheel, BuildError> {
    let (wheel, _) = wheels::pip_download(request, &paths.downloads()).map_err(BuildError::other)?;
    Ok(wheel)
}

/// The mirror: an environment file's key, the variable, or what the host's apt uses.
///
/// # Errors
/// When there is none, with what to set.
pub fn mirror(workspace: &Workspace) -> Result<Mirror, BuildError> {
    let declared = workspace
        .environments
        .values()
        .find_map(|environment| environment.debian_mirror.as_deref());
    let variable = std::env::var(MIRROR_VARIABLE).ok();
    let apt = aiot_debian::read_apt_sources(std::path::Path::new("/etc/apt")).map_err(BuildError::other)?;
    aiot_debian::choose_mirror(declared, variable.as_deref(), &apt).map_err(BuildError::other)
}

fn fetch_index(
    workspace: &Workspace,
    request: &ClosureRequest,
    network: &Network,
    events: Sink<'_>,
) -> Result<aiot_debian::Index, BuildError> {
    let mirror = mirror(workspace)?;
    events(Event::Note(format!(
        "lock: resolving Debian {} for {} ({})",
        request.suite, request.architecture, mirror.origin
    )));
    let (index, signature) = aiot_debian::fetch_index(
        network,
        &mirror.url,
        &request.suite,
        request.architecture.parse().map_err(BuildError::Other)?,
        &Verifier::default(),
    )
    .map_err(BuildError::other)?;
    if matches!(signature, aiot_debian::Signature::Unverified { .. }) {
        events(Event::Warning(format!(
            "Debian {}: {signature}; the lock pins what came",
            request.suite
        )));
    }
    Ok(index)
}

fn resolve_closure(
    index: &aiot_debian::Index,
    request: &ClosureRequest,
) -> Result<LockedClosure, BuildError> {
    let exclude: BTreeSet<String> = request.exclude.iter().cloned().collect();
    let package = aiot_debian::resolve(index, &request.roots, &exclude).map_err(BuildError::other)?;
    Ok(LockedClosure {
        suite: request.suite.clone(),
        architecture: request.architecture.clone(),
        roots: request.roots.clone(),
        exclude: request.exclude.clone(),
        package,
    })
}
