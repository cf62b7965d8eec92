//! The folder in which a module is compiled: its own files and nothing else.
//!
//! [`stage`] may run again and again on one folder: only files whose content changed are written and strangers are
//! removed, so cargo's own incremental rebuilds keep working. A folder that holds something else is refused, since
//! strangers are deleted. Different targets of one module may share a stage, also at the same time.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::sources::ModuleSources;

/// Marks a folder as ours. Holds the lock excerpt from which the stage's `Cargo.lock` came: cargo cuts that file down
/// to what it needs, and it is written anew only when the excerpt changes.
pub(crate) const MARKER: &str = ".aiot-stage";
/// Longest source file.
const FILE_LIMIT_BYTES: u64 = 256 << 20;
/// Deepest folder.
const DEPTH_LIMIT: usize = 40;

/// Why a stage could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read`, `write`, `remove`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder holds something else.
    #[error(
        "{dir} holds files but is no stage; name an empty folder, since a stage deletes what does not belong to it"
    )]
    NotAStage {
        /// The folder.
        dir: PathBuf,
    },
    /// Longer than any source file should be.
    #[error("{path} is larger than {FILE_LIMIT_BYTES} bytes; keep data out of a module's package")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// What [`stage`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageChanges {
    /// Files written because they were new or different.
    pub written: usize,
    /// Files removed because the module has them no more.
    pub removed: usize,
}

/// Makes `dir` hold the module's files and nothing else.
///
/// # Errors
/// [`StageError`]; after one, staging again repairs the folder.
pub fn stage(dir: &Path, sources: &ModuleSources) -> Result<StageChanges, StageError> {
    claim(dir)?;
    let mut changes = StageChanges::default();
    let mut expected: BTreeSet<PathBuf> = BTreeSet::from([PathBuf::from(MARKER)]);
    let mut put = |relative: &str, content: &[u8]| -> Result<(), StageError> {
        changes.written += usize::from(write_if_changed(&dir.join(relative), content)?);
        expected.insert(PathBuf::from(relative));
        Ok(())
    };
    for file in sources.source_files() {
        put(file, &read(&sources.workspace_root.join(file))?)?;
    }
    if let Some(text) = &sources.cross_config {
        put("Cross.toml", text.as_bytes())?;
    }
    for (file, text) in sources.generated_files() {
        if file != "Cargo.lock" {
            put(&file, text.as_bytes())?;
        }
    }
    let lock = dir.join("Cargo.lock");
    let seed = fs::read(dir.join(MARKER)).unwrap_or_default();
    if seed != sources.lock_excerpt.as_bytes() || !lock.is_file() {
        put("Cargo.lock", sources.lock_excerpt.as_bytes())?;
        write_if_changed(&dir.join(MARKER), sources.lock_excerpt.as_bytes())?;
    }
    expected.insert(PathBuf::from("Cargo.lock"));
    changes.removed = remove_strangers(dir, Path::new(""), &expected, DEPTH_LIMIT)?;
    Ok(changes)
}

/// Creates the folder, or makes sure that it is a stage.
fn claim(dir: &Path) -> Result<(), StageError> {
    let io = |action| {
        move |source| StageError::Io {
            action,
            path: dir.to_owned(),
            source,
        }
    };
    fs::create_dir_all(dir).map_err(io("create"))?;
    let marker = dir.join(MARKER);
    if marker.is_file() {
        return Ok(());
    }
    if fs::read_dir(dir).map_err(io("read"))?.next().is_some() {
        return Err(StageError::NotAStage { dir: dir.to_owned() });
    }
    fs::write(&marker, "").map_err(io("write"))
}

fn read(path: &Path) -> Result<Vec<u8>, StageError> {
    let error = |source| StageError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(error)?.len() > FILE_LIMIT_BYTES {
        return Err(StageError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(error)
}

/// Writes beside and renames: a compile of another target that reads this file sees the old or the new one.
fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool, StageError> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let error = |source| StageError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(path);
    if path.is_dir() {
        fs::remove_dir_all(path).map_err(error)?;
    }
    if let Err(source) = fs::create_dir_all(folder) {
        return Err(StageError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        });
    }
    let mut file = tempfile::Builder::new()
        .prefix(".aiot-new")
        .tempfile_in(folder)
        .map_err(error)?;
    file.write_all(content).map_err(error)?;
    file.persist(path).map_err(|failed| error(failed.error))?;
    Ok(true)
}

/// Removes files and then-empty folders that are not expected; returns how many files.
fn remove_strangers(
    dir: &Path,
    relative: &Path,
    expected: &BTreeSet<PathBuf>,
    depth: usize,
) -> Result<usize, StageError> {
    let folder = dir.join(relative);
    let error = |action, path: &Path, source| StageError::Io {
        action,
        path: path.to_owned(),
        source,
    };
    let mut removed = 0;
    for entry in fs::read_dir(&folder).map_err(|source| error("read", &folder, source))? {
        let entry = entry.map_err(|source| error("read", &folder, source))?;
        let path = entry.path();
        let relative = relative.join(entry.file_name());
        let is_folder = entry
            .file_type()
            .map_err(|source| error("read", &path, source))?
            .is_dir();
        if is_folder && depth > 0 && has_below(expected, &relative) {
            removed += remove_strangers(dir, &relative, expected, depth - 1)?;
        } else if is_folder {
            fs::remove_dir_all(&path).map_err(|source| error("remove", &path, source))?;
            removed += 1;
        } else if !expected.contains(&relative) && !is_being_written(&relative) {
            fs::remove_file(&path).map_err(|source| error("remove", &path, source))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn has_below(expected: &BTreeSet<PathBuf>, folder: &Path) -> bool {
    expected
        .range(folder.to_owned()..)
        .next()
        .is_some_and(|path| path.starts_with(folder))
}

/// Another process may be staging the same files right now.
fn is_being_written(relative: &Path) -> bool {
    relative
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(".aiot-new"))
}
