//! Moving what is pinned: the lock's packages and wheels, and the records beside the models.

use std::collections::BTreeMap;

use aiot_oci::Reference;
use aiot_plan::lock::Lock;
use aiot_plan::records::{CALIBRATION_FILE, MEASURED_FILE};
use aiot_plan::workspace::Base;

use crate::error::{BuildError, io};
use crate::events::{Event, Sink};
use crate::lockfile;
use crate::network::Network;
use crate::observe::record_dir;
use crate::paths::Paths;
use crate::release::{Alone, prepare};
use crate::workspace::find_model;

/// What an update has changed, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Base images, in `targets.toml`.
    pub images: Vec<String>,
    /// Packages or wheels, in `aiot.lock`.
    pub locked: Vec<String>,
}

/// Moves the bases: `targets.toml` to what the tags of base images name now, and `aiot.lock` to the Debian packages that
/// the mirror has now. A base image follows a tag when it has one beside its digest:
/// `registry/repository:tag@sha256:…`.
///
/// # Errors
/// A registry that cannot be asked or has no such tag, or an index that cannot be reached; both files then stay as they
/// are.
pub fn bases(paths: &Paths, network: &Network, events: Sink<'_>) -> Result<Changes, BuildError> {
    let _alone = Alone::wait(paths, events)?;
    let path = paths.file("targets.toml");
    let old = std::fs::read_to_string(&path).map_err(io("read", &path))?;
    let moved = moved_images(paths, network, events)?;
    let mut new = old.clone();
    for (old, (new_reference, _)) in &moved {
        // With its quotes: a reference may be the end of another one.
        for quote in ['"', '\''] {
            new = new.replace(
                &format!("{quote}{old}{quote}"),
                &format!("{quote}{new_reference}{quote}"),
            );
        }
    }
    lockfile::write_if_changed(&path, new.as_bytes())?;
    let locked = look_up(paths, network, events, |lock| lock.debian.clear());
    if locked.is_err() {
        lockfile::write_if_changed(&path, old.as_bytes())?;
    }
    Ok(Changes {
        locked: locked?,
        images: moved.into_values().map(|(_, change)| change).collect(),
    })
}

/// Looks up wheels anew, of engines and build tools. Their versions stand in the declarations; this refreshes files and
/// digests in `aiot.lock`.
///
/// # Errors
/// When an index cannot be reached; the lock then stays as it is.
pub fn wheels(paths: &Paths, network: &Network, events: Sink<'_>) -> Result<Changes, BuildError> {
    let _alone = Alone::wait(paths, events)?;
    Ok(Changes {
        locked: look_up(paths, network, events, |lock| lock.wheel.clear())?,
        images: Vec::new(),
    })
}

/// Looks up what `empty` takes out of the lock, and writes it; what changed, a line each. The lock stays as it is where
/// that fails.
fn look_up(
    paths: &Paths,
    network: &Network,
    events: Sink<'_>,
    empty: impl FnOnce(&mut Lock),
) -> Result<Vec<String>, BuildError> {
    let old = lockfile::read(paths)?;
    let mut emptied = old.clone();
    empty(&mut emptied);
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

/// Base images whose tags name something else now: the reference → the new one, and what changed in words.
fn moved_images(
    paths: &Paths,
    network: &Network,
    events: Sink<'_>,
) -> Result<BTreeMap<String, (String, String)>, BuildError> {
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
    Ok(moved)
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
