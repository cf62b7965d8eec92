//! Packages of Python's index that tests hold this project's work against: official clients, checkers, peers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::tools::{have, skip};

/// A folder for `PYTHONPATH` with these packages (`name==version`), as [`install`] makes it, kept in `AIOT_TEST_CACHE`,
/// which `cargo xtask test` sets; in the system's temporary folder without. `None` where they cannot be had, said as a
/// skipped test.
///
/// # Panics
/// When they cannot be had and tools are required.
pub fn packages(name: &str, packages: &[&str]) -> Option<PathBuf> {
    if !have(&["python3"]) {
        return None;
    }
    let cache = std::env::var_os("AIOT_TEST_CACHE").map_or_else(std::env::temp_dir, Into::into);
    install(&cache, name, packages)
        .map_err(|reason| skip(&format!("needs {reason}")))
        .ok()
}

/// Packages (`name==version`) in a folder of `cache` for `PYTHONPATH`, installed once. A folder and `PYTHONPATH` are
/// enough: pip is there wherever releases are made, and `venv` is not.
///
/// # Errors
/// What pip says.
pub fn install(cache: &Path, name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    // Another list is another folder; Python's own version is part of what compiled packages fit.
    let version =
        started(Command::new("python3").args(["-c", "import sys; print(sys.implementation.cache_tag)"]))?;
    let mut folder = format!("{name}-{}", String::from_utf8_lossy(&version.stdout).trim());
    for package in packages {
        let (_, version) = package.split_once("==").unwrap_or((package, ""));
        folder.push_str(&format!("-{version}"));
    }
    let folder = cache.join(folder);
    if !folder.is_dir() {
        // Beside and renamed: two at once, or one that is killed, do no harm.
        let beside = std::fs::create_dir_all(cache)
            .and_then(|()| tempfile::tempdir_in(cache))
            .map_err(|error| format!("a cache at {}: {error}", cache.display()))?;
        let installed = started(
            Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .arg("--root-user-action=ignore")
                .arg("--target")
                .arg(beside.path())
                .args(packages),
        )?;
        if !installed.status.success() {
            return Err(format!(
                "{}, which pip cannot install: {}",
                packages.join(", "),
                String::from_utf8_lossy(&installed.stderr)
            ));
        }
        if std::fs::rename(beside.path(), &folder).is_ok() {
            // Nothing is left to be removed.
            let _ = beside.keep();
        }
    }
    Ok(folder)
}

fn started(command: &mut Command) -> Result<Output, String> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("python3, which cannot be started: {error}"))
}
