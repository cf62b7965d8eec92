//! Twice is once: another folder, home, cargo home, umask, time zone, locale, user and job count, an empty store, and
//! everything compiled anew give the same images and the same reviewed files to the last byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_testkit::released::{Released, clean, committed};
use aiot_testkit::tools::run;

use crate::common::{Report, XTASK};

/// A cargo home elsewhere: settings, index and downloads of this one, nothing unpacked.
fn other_cargo_home(to: &Path) {
    let from = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let from = from.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    fs::create_dir_all(to.join("registry")).unwrap();
    for file in ["config.toml", "config", "credentials.toml"] {
        if from.join(file).is_file() {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
    for folder in ["registry/index", "registry/cache"] {
        if from.join(folder).is_dir() {
            run(Command::new("cp")
                .arg("-R")
                .args([from.join(folder), to.join(folder)]))
            .expect(0);
        }
    }
}

#[test]
fn elsewhere_and_otherwise_the_same_bytes() {
    let Some(released) = Released::find() else { return };
    // Wheels are given, since their digests are locked; Debian's packages are fetched again.
    let copy = released.copy_with_wheels();
    for generated in committed(&released.root)
        .keys()
        // Generated is what lies below an environment's folder, not the declaration beside it.
        .filter(|path| path.starts_with("deployments/") && path.matches('/').count() > 1)
    {
        fs::remove_file(copy.root.join(generated)).ok();
    }
    let elsewhere = copy.beside().join("a rather longer folder name, with spaces");
    fs::rename(&copy.root, &elsewhere).unwrap();
    let home = copy.beside().join("home");
    other_cargo_home(&home.join("cargo"));

    let mut command = Command::new("sh");
    command.args([
        "-c",
        "umask 0077; exec \"$@\"",
        "sh",
        XTASK,
        "release",
        "--locked",
        "--jobs",
        "1",
        "--format",
        "json",
    ]);
    clean(&mut command);
    let rustup = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let rustup = rustup.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".rustup"));
    command
        .current_dir(&elsewhere)
        .env("HOME", &home)
        .env("CARGO_HOME", home.join("cargo"))
        .env("RUSTUP_HOME", rustup)
        .env("USER", "someone-else")
        .env("LOGNAME", "someone-else")
        .env("HOSTNAME", "other-host")
        .env("LC_ALL", "C.UTF-8")
        .env("LANG", "tr_TR.UTF-8")
        .env("TZ", "Pacific/Kiritimati")
        .env("RUST_BACKTRACE", "1");
    let report = Report::of(run(&mut command));
    assert!(report.ran() > 0);
    let compiled = report
        .stderr
        .lines()
        .filter(|line| line.starts_with("compile ") && line.contains("not built before"));
    assert!(compiled.count() > 0, "{}", report.stderr);

    // Contents before digests, so that a difference explains itself.
    let (ours, theirs) = (committed(&elsewhere), committed(&released.root));
    for (path, text) in &theirs {
        assert_eq!(ours.get(path), Some(text), "{path}");
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let list = |root: &Path| {
        let mut names: Vec<_> = fs::read_dir(root.join("dist/images/blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(list(&elsewhere), list(&released.root));
    let index = |root: &Path| fs::read_to_string(root.join("dist/images/index.json")).unwrap();
    assert_eq!(index(&elsewhere), index(&released.root));
}
