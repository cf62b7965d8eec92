//! Moving what is pinned: the lock's packages and wheels, and the records beside the models.

use std::collections::BTreeMap;

use aiot_plan::records::{CALIBRATION_FILE, MEASURED_FILE};

use aiot_oci::Reference;
use aiot_plan::workspace::Base;

use crate::error::{BuildError, io};
use crate::events::{Event, Sink};
use crate::lockfile;
use crate::network::Network;
use crate::observe::record_dir;
use crate::paths::Paths;
use crate::release::{Alone, prepare};
use crate::workspace::find_model;

/// What to look up anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// Debian packages of the bases.
    Base,
    /// Wheels: engines and build tools. Their versions stand in the declarations; this refreshes files and digests.
    Wheels,
}

/// Looks up everything of one kind anew and writes the lock; returns what changed, a line each.
///
/// # Errors
/// When an index cannot be reached; the lock then stays as it is.
pub fn lock(
    paths: &Paths,
    pinned: Pinned,
    network: &Network,
    events: Sink<'_>,
) -> Result<Vec<String>, BuildError> {
    let _alone = Alone::wait(paths, events)?;
    let old = lockfile::read(paths)?;
    let mut emptied = old.clone();
    match pinned {
        Pinned::Base => emptied.debian.clear(),
        Pinned::Wheels => emptied.wheel.clear(),
    }
    lockfile::write(paths, &emptied)?;
    let prepared = prepare(paths, &Default::default(), false, Some(network), events);
    if prepared.is_err() {
        lockfile::write(paths, &old)?;
    }
    let new = prepared?.lock;
    let mut changes = Vec::new();
    for closure in &new.debian {
        let before = old.debian.iter().find(|known| {
            (&known.suite, &known.architecture, &known.roots, &known.exclude)
                == (
                    &closure.suite,
                    &closure.architecture,
                    &closure.roots,
                    &closure.exclude,
                )
        });
        let none = Vec::new();
        let before = before.map_or(&none, |known| &known.package);
        for change in aiot_debian::package_changes(before, &closure.package) {
            changes.push(format!("{} {}: {change}", closure.suite, closure.architecture));
        }
    }
    for wheel in &new.wheel {
        let before = old.wheel(&wheel.package, &wheel.platform);
        if before != Some(wheel) {
            let was = before.map_or("none".to_owned(), |before| before.filename.clone());
            changes.push(format!(
                "{} {}: {was} -> {}",
                wheel.package, wheel.platform, wheel.filename
            ));
        }
    }
    Ok(changes)
}

/// Asks what the tags of base images name now, and writes newer digests into `targets.toml`; returns what changed, a line
/// each. A reference follows a tag when it has one beside its digest: `registry/repository:tag@sha256:…`.
///
/// # Errors
/// A registry that cannot be asked or has no such tag; nothing is written then.
pub fn base_images(paths: &Paths, network: &Network, events: Sink<'_>) -> Result<Vec<String>, BuildError> {
    let _alone = Alone::wait(paths, events)?;
    let workspace = crate::workspace::check(paths, &mut crate::observe::FileIndex::open(paths))?;
    let mut moved = BTreeMap::new();
    let mut client = None;
    for target in workspace.targets.values() {
        let Base::Image {
            reference, digest, ..
        } = &target.base
        else {
            continue;
        };
        let mut tagged: Reference = reference.parse().map_err(BuildError::other)?;
        if tagged.tag.is_none() {
            events(Event::Note(format!(
                "base image {reference} has no tag to follow; write registry/repository:tag@sha256:… in targets.toml"
            )));
            continue;
        }
        if client.is_none() {
            client = Some(crate::registry::client()?);
        }
        tagged.digest = None;
        let asked = client.as_ref().expect("just made").resolve(&tagged);
        let named = network
            .block_on(asked)
            .map_err(BuildError::other)?
            .descriptor
            .digest;
        if named != *digest {
            let new = format!("{tagged}@{named}");
            moved.insert(reference.clone(), (new, format!("{tagged}: {digest} -> {named}")));
        }
    }
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    let path = paths.file("targets.toml");
    let mut text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
    for (old, (new, _)) in &moved {
        // With its quotes: a reference may be the end of another one.
        for quote in ['"', '\''] {
            text = text.replace(&format!("{quote}{old}{quote}"), &format!("{quote}{new}{quote}"));
        }
    }
    lockfile::write_if_changed(&path, text.as_bytes())?;
    Ok(moved.into_values().map(|(_, change)| change).collect())
}

/// Takes the records of models away (all, where none is named), so that the next release makes them anew.
///
/// # Errors
/// An unknown model, or a file that cannot be removed.
pub fn forget_records(paths: &Paths, models: &[String]) -> Result<Vec<String>, BuildError> {
    let mut files = crate::observe::FileIndex::open(paths);
    let workspace = crate::workspace::check(paths, &mut files)?;
    let names: Vec<_> = if models.is_empty() {
        workspace.models.keys().cloned().collect()
    } else {
        models
            .iter()
            .map(|name| find_model(&workspace, name).map(|model| model.name.clone()))
            .collect::<Result<_, _>>()?
    };
    let mut removed = Vec::new();
    for name in names {
        for file in [CALIBRATION_FILE, MEASURED_FILE] {
            let path = record_dir(paths, &name).join(file);
            match std::fs::remove_file(&path) {
                Ok(()) => removed.push(format!("models/{name}/{file}")),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(io("remove", &path)(error)),
            }
        }
    }
    Ok(removed)
}
