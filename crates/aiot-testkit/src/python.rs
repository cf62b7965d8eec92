//! Packages of Python's index that tests hold this project's work against: official clients, checkers, peers.

use std::path::PathBuf;
use std::process::Command;

use crate::tools::{have, run, skip};

/// A folder for `PYTHONPATH` with these packages (`name==version`), installed once and kept in `AIOT_TEST_CACHE`, which
/// `cargo xtask test` sets; in the system's temporary folder without. `None` where they cannot be had, said as a
/// skipped test. A folder and `PYTHONPATH` are enough: pip is there wherever releases are made, and `venv` is not.
///
/// # Panics
/// When they cannot be had and tools are required.
pub fn packages(name: &str, packages: &[&str]) -> Option<PathBuf> {
    if !have(&["python3"]) {
        return None;
    }
    let cache = std::env::var_os("AIOT_TEST_CACHE").map_or_else(std::env::temp_dir, Into::into);
    // Another list is another folder; Python's own version is part of what compiled packages fit.
    let version =
        run(Command::new("python3").args(["-c", "import sys; print(sys.implementation.cache_tag)"]));
    let mut folder = format!("{name}-{}", version.stdout.trim());
    for package in packages {
        let (_, version) = package.split_once("==").unwrap_or((package, ""));
        folder.push_str(&format!("-{version}"));
    }
    let folder = cache.join(folder);
    if !folder.is_dir() {
        // Beside and renamed: two tests at once, or one that is killed, do no harm.
        std::fs::create_dir_all(&cache).expect("the cache can be written");
        let beside = tempfile::tempdir_in(&cache).expect("the cache can be written");
        let installed = run(Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg("--root-user-action=ignore")
            .arg("--target")
            .arg(beside.path())
            .args(packages));
        if installed.code != Some(0) {
            skip(&format!(
                "needs {}, which pip cannot install: {}",
                packages.join(", "),
                installed.stderr
            ));
            return None;
        }
        if std::fs::rename(beside.path(), &folder).is_ok() {
            // Nothing is left to be removed.
            let _ = beside.keep();
        }
    }
    Some(folder)
}
