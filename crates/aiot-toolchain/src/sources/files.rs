//! Reading manifests within bounds, and listing the files of packages.
//!
//! In a git checkout git says which files count (tracked, or new and not ignored by the repository's `.gitignore`
//! files; a person's own ignore rules have no say). In an unpacked archive everything that is not hidden counts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::Table;

use super::SourcesError;
use crate::process::{clean_command, run};

/// Longest manifest or lock that is read.
const TEXT_LIMIT_BYTES: u64 = 16 << 20;
/// Most files of all packages of a module.
const FILE_COUNT_LIMIT: usize = 100_000;
/// Deepest folder.
const DEPTH_LIMIT: usize = 32;

/// Folders at a package's top that never reach its library or binary.
const LEFT_OUT: [&str; 4] = ["benches", "examples", "target", "tests"];

pub(super) fn read_text(path: &Path) -> Result<String, SourcesError> {
    let error = |source| SourcesError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(error)?;
    file.take(TEXT_LIMIT_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(error)?;
    if text.len() as u64 > TEXT_LIMIT_BYTES {
        return Err(SourcesError::TooLarge {
            path: path.to_owned(),
            limit: TEXT_LIMIT_BYTES,
            unit: "bytes",
        });
    }
    Ok(text)
}

pub(super) fn read_optional(path: &Path) -> Result<Option<String>, SourcesError> {
    match read_text(path) {
        Err(SourcesError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

pub(super) fn parse_toml(path: &Path, text: &str) -> Result<Table, SourcesError> {
    text.parse().map_err(|source| SourcesError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

pub(super) fn read_toml(path: &Path) -> Result<Table, SourcesError> {
    parse_toml(path, &read_text(path)?)
}

/// Package folder → its files relative to the workspace, sorted, without its `Cargo.toml`.
pub(super) fn list(root: &Path, dirs: &[&str]) -> Result<BTreeMap<String, Vec<String>>, SourcesError> {
    let all = match git_files(root, dirs) {
        Some(files) => files,
        None => walked_files(root, dirs)?,
    };
    let too_many = || SourcesError::TooLarge {
        path: root.to_owned(),
        limit: FILE_COUNT_LIMIT as u64,
        unit: "files",
    };
    let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut count = 0;
    for file in all {
        // A package inside a package belongs to itself: the longest folder wins.
        let owner = dirs
            .iter()
            .filter(|dir| is_below(&file, dir))
            .max_by_key(|dir| dir.len());
        let Some(owner) = owner else { continue };
        if !counts(&file[owner.len() + 1..]) {
            continue;
        }
        let path = root.join(&file);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                count += 1;
                if count > FILE_COUNT_LIMIT {
                    return Err(too_many());
                }
                listed.entry((*owner).to_owned()).or_default().push(file);
            }
            Ok(_) => {
                let what =
                    "it is a link to a folder, or a repository of its own; copy its files or add it as a \
                            package"
                        .to_owned();
                return Err(SourcesError::Unsupported { path, what });
            }
            // Tracked by git, removed here.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(SourcesError::Read { path, source }),
        }
    }
    for files in listed.values_mut() {
        files.sort();
        files.dedup();
    }
    Ok(listed)
}

fn is_below(file: &str, dir: &str) -> bool {
    file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a file, relative to its package, can reach the package's library or binary.
fn counts(file: &str) -> bool {
    let mut parts = file.split('/');
    let top = parts.next().unwrap_or_default();
    let is_left_out = LEFT_OUT.contains(&top) && file.len() > top.len();
    file != "Cargo.toml" && !is_left_out && !file.split('/').any(|part| part.starts_with('.'))
}

/// What git counts as the packages' files; `None` where there is no checkout or no git.
fn git_files(root: &Path, dirs: &[&str]) -> Option<Vec<String>> {
    if !root.ancestors().any(|folder| folder.join(".git").exists()) {
        return None;
    }
    let mut command = clean_command("git", &|_| false);
    // The checkout may belong to someone else (a container's volume); reading a list of names is harmless.
    command.args([
        "-c",
        "safe.directory=*",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.quotePath=false",
    ]);
    command.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-per-directory=.gitignore",
        "--",
    ]);
    command.args(dirs).current_dir(root);
    let listed = run(&mut command, &mut |_| {}).ok()?;
    let files: Vec<String> = listed.split_terminator('\0').map(str::to_owned).collect();
    // A folder that git ignores as a whole (a stage, a copy) is no checkout.
    (!files.is_empty()).then_some(files)
}

fn walked_files(root: &Path, dirs: &[&str]) -> Result<Vec<String>, SourcesError> {
    let mut files = Vec::new();
    for dir in dirs {
        walk(&root.join(dir), dir, true, DEPTH_LIMIT, &mut files)?;
    }
    Ok(files)
}

fn walk(
    folder: &Path,
    relative: &str,
    is_top: bool,
    depth: usize,
    files: &mut Vec<String>,
) -> Result<(), SourcesError> {
    let error = |source| SourcesError::Read {
        path: folder.to_owned(),
        source,
    };
    let too_large = |limit, unit| SourcesError::TooLarge {
        path: folder.to_owned(),
        limit,
        unit,
    };
    if depth == 0 {
        return Err(too_large(DEPTH_LIMIT as u64, "folders inside each other"));
    }
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let Ok(name) = entry.file_name().into_string() else {
            let path = PathBuf::from(entry.file_name());
            return Err(SourcesError::Unsupported {
                path,
                what: "its name is not UTF-8; rename it".to_owned(),
            });
        };
        let is_folder = entry.file_type().map_err(error)?.is_dir();
        let is_left_out = is_top && is_folder && LEFT_OUT.contains(&name.as_str());
        if is_left_out || name.starts_with('.') || name == "__pycache__" {
            continue;
        }
        let relative = format!("{relative}/{name}");
        if is_folder {
            walk(&entry.path(), &relative, false, depth - 1, files)?;
        } else {
            files.push(relative);
            if files.len() > FILE_COUNT_LIMIT {
                return Err(too_large(FILE_COUNT_LIMIT as u64, "files"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_reach_the_binary() {
        let check = |file: &str, expected: bool| assert_eq!(counts(file), expected, "{file}");
        check("src/main.rs", true);
        check("build.rs", true);
        check("proto/onnx.proto", true);
        check("src/tests/mod.rs", true);
        check("tests", true);
        check("tests/real.rs", false);
        check("examples/a/b.rs", false);
        check("target/module/x", false);
        check("Cargo.toml", false);
        check(".env", false);
        check("src/.swp", false);
    }
}
