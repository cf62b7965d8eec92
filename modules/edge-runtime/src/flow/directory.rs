//! Files that appear in a folder: predicted in the order of their names and removed when their predictions are in
//! the queues. A file that gives none is moved to `.refused` in the folder, where the newest hundred stay.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aiot_inference::read_input;
use aiot_package::DirectorySource;

use super::Origin;
use super::intake::{Taken, take};
use crate::link::{Stop, stopped_within};
use crate::log;
use crate::serve::Service;

/// Files that are looked at in one pass.
const MAX_FILES: usize = 1000;
const REFUSED: &str = ".refused";
const MAX_REFUSED: usize = 100;

pub(crate) async fn watch(service: Arc<Service>, source: DirectorySource, stop: Stop) {
    let folder = PathBuf::from(&source.path);
    let pause = Duration::from_millis(source.interval_ms.into());
    // Files that can be neither removed nor moved, and what was said last: each is said once.
    let (mut stuck, mut said) = (BTreeSet::new(), None);
    let mut refusals = log::Seldom::new();
    loop {
        let files = match files(&folder, &stuck) {
            Ok(files) => files,
            Err(error) => {
                let message = format!("source `{}`: {error}", folder.display());
                if said.as_ref() != Some(&message) {
                    log::error(&message);
                    said = Some(message);
                }
                Vec::new()
            }
        };
        let idle = files.is_empty();
        for name in files {
            let path = folder.join(&name);
            let origin = Origin {
                kind: "directory",
                name: name.clone(),
                message_id: String::new(),
            };
            let file = path.clone();
            let result = match take(&service, origin, &mut refusals, &stop, move || {
                Ok(read_input(&file)?)
            })
            .await
            {
                Taken::Done => fs::remove_file(&path),
                Taken::Refused => refuse(&folder, &name),
                Taken::Stopped => return,
            };
            if let Err(error) = result {
                log::error(&format!(
                    "`{}` stays and is left alone from now on: {error}",
                    path.display()
                ));
                if stuck.len() < MAX_FILES {
                    stuck.insert(name);
                }
            }
            if *stop.borrow() {
                return;
            }
        }
        let pause = if idle { pause } else { Duration::ZERO };
        if stopped_within(&stop, pause).await {
            return;
        }
    }
}

/// Names of complete files, first by name.
fn files(folder: &Path, stuck: &BTreeSet<String>) -> io::Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with('.') && !stuck.contains(&name) && entry.file_type()?.is_file() {
            names.insert(name);
            if names.len() > MAX_FILES {
                names.pop_last();
            }
        }
    }
    Ok(names.into_iter().collect())
}

fn refuse(folder: &Path, name: &str) -> io::Result<()> {
    let refused = folder.join(REFUSED);
    fs::create_dir_all(&refused)?;
    fs::rename(folder.join(name), refused.join(name))?;
    let mut kept: Vec<_> = fs::read_dir(&refused)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .collect();
    kept.sort();
    for (_, path) in kept.iter().take(kept.len().saturating_sub(MAX_REFUSED)) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_files_by_name_and_the_newest_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".writing", "stuck"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("folder")).unwrap();
        let stuck = BTreeSet::from(["stuck".to_owned()]);
        assert_eq!(files(folder.path(), &stuck).unwrap(), ["a", "b"]);
        refuse(folder.path(), "a").unwrap();
        assert_eq!(files(folder.path(), &stuck).unwrap(), ["b"]);
        for number in 0..MAX_REFUSED + 5 {
            let name = format!("bad{number}");
            fs::write(folder.path().join(&name), "").unwrap();
            refuse(folder.path(), &name).unwrap();
        }
        assert_eq!(
            fs::read_dir(folder.path().join(REFUSED)).unwrap().count(),
            MAX_REFUSED
        );
        assert!(files(&folder.path().join("none"), &stuck).is_err());
    }
}
