//! Moving what is pinned: the lock's packages and wheels, and the records beside the models.

use aiot_plan::records::{CALIBRATION_FILE, MEASURED_FILE};

use crate::error::{BuildError, io};
use crate::events::Sink;
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
