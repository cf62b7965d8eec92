//! Which files and lock entries a module is built from, and what makes them change.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use aiot_toolchain::sources::{ModuleSources, SourcesError, module_sources};
use aiot_toolchain::stage::{StageChanges, StageError, stage};
use common::write_files;

/// A lock with two versions of one crate and entries that the module does not reach.
const LOCK: &str = r#"version = 4

[[package]]
name = "app"
version = "0.1.0"
dependencies = [
 "digest 2.0.0",
 "helper",
 "only-for-tests",
]

[[package]]
name = "digest"
version = "1.0.0"
source = "registry+https://index.invalid/"
checksum = "11"

[[package]]
name = "digest"
version = "2.0.0"
source = "registry+https://index.invalid/"
checksum = "22"
dependencies = [
 "bytes",
]

[[package]]
name = "bytes"
version = "1.0.0"
source = "registry+https://index.invalid/"
checksum = "33"

[[package]]
name = "helper"
version = "0.1.0"

[[package]]
name = "only-for-tests"
version = "1.0.0"
source = "registry+https://index.invalid/"
checksum = "44"

[[package]]
name = "unrelated"
version = "0.1.0"
dependencies = [
 "digest 1.0.0",
]
"#;

fn workspace(root: &Path) {
    write_files(
        root,
        &[
            (
                "Cargo.toml",
                "[workspace]\nresolver = '3'\nmembers = ['apps/*', 'helper', 'unrelated']\n\
                 [workspace.package]\nedition = '2024'\n\
                 [workspace.dependencies]\nhash = { package = 'digest', version = '2' }\n\
                 helper = { path = 'helper' }\nold-digest = { package = 'digest', version = '1' }\n\
                 only-for-tests = '1'\n\
                 [workspace.lints.clippy]\nall = 'warn'\n\
                 [profile.dev]\ndebug = 1\n[profile.release]\nlto = true\n\
                 [profile.module]\ninherits = 'release'\n",
            ),
            ("Cargo.lock", LOCK),
            (
                "rust-toolchain.toml",
                "[toolchain]\nchannel = '1.95.0'\ncomponents = ['clippy']\n",
            ),
            (
                "apps/app/Cargo.toml",
                "[package]\nname = 'app'\nversion = '0.1.0'\nedition.workspace = true\n\
                 [lints]\nworkspace = true\n\
                 [target.'cfg(unix)'.dependencies]\nhash.workspace = true\n\
                 [target.'cfg(unix)'.dev-dependencies]\nonly-for-tests.workspace = true\n\
                 [dependencies]\nhelper = { path = '../../helper' }\n\
                 [dev-dependencies]\nonly-for-tests.workspace = true\n\
                 [[test]]\nname = 'slow'\npath = 'tests/slow.rs'\n",
            ),
            ("apps/app/src/main.rs", "fn main() {}\n"),
            ("apps/app/src/deep/data.bin", "x"),
            ("apps/app/tests/slow.rs", ""),
            ("apps/app/.hidden", ""),
            ("apps/not-a-package/readme", ""),
            (
                "helper/Cargo.toml",
                "[package]\nname = 'helper'\nversion = '0.1.0'\nedition.workspace = true\n",
            ),
            ("helper/src/lib.rs", "\n"),
            (
                "unrelated/Cargo.toml",
                "[package]\nname = 'unrelated'\nversion = '0.1.0'\n[dependencies]\nold-digest.workspace = true\n",
            ),
            ("unrelated/src/lib.rs", "\n"),
        ],
    );
}

fn read(root: &Path) -> ModuleSources {
    module_sources(root, "app").unwrap()
}

#[test]
fn a_module_is_its_closure_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    workspace(root.path());
    let sources = read(root.path());
    let packages: Vec<(&str, &str)> = sources
        .packages
        .iter()
        .map(|package| (package.name.as_str(), package.dir.as_str()))
        .collect();
    assert_eq!(packages, [("app", "apps/app"), ("helper", "helper")]);
    let files: Vec<&str> = sources.source_files().into_iter().collect();
    assert_eq!(
        files,
        [
            "apps/app/src/deep/data.bin",
            "apps/app/src/main.rs",
            "helper/src/lib.rs"
        ]
    );
    assert_eq!(sources.toolchain_channel.as_deref(), Some("1.95.0"));
    assert_eq!(
        sources.root_manifest,
        "[profile.module]\ninherits = \"release\"\n\n[profile.release]\nlto = true\n\n\
         [workspace]\nmembers = [\"apps/app\", \"helper\"]\nresolver = \"3\"\n\n\
         [workspace.dependencies.hash]\npackage = \"digest\"\nversion = \"2\"\n\n\
         [workspace.package]\nedition = \"2024\"\n"
    );
    assert_eq!(
        sources.packages[0].manifest,
        "[dependencies.helper]\npath = \"../../helper\"\n\n\
         [package]\nname = \"app\"\nversion = \"0.1.0\"\n\n[package.edition]\nworkspace = true\n\n\
         [target.\"cfg(unix)\".dependencies.hash]\nworkspace = true\n"
    );
    let names: Vec<&str> = sources
        .lock_excerpt
        .lines()
        .filter_map(|line| line.strip_prefix("checksum = "))
        .collect();
    assert_eq!(names, ["\"33\"", "\"22\""], "{}", sources.lock_excerpt);
    assert!(
        sources
            .lock_excerpt
            .contains("dependencies = [\n \"digest 2.0.0\",\n \"helper\",\n]\n")
    );
}

#[test]
fn what_does_not_reach_the_binary_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    workspace(root.path());
    let before = read(root.path());
    let same = |path: &str, from: &str, to: &str| {
        let path = root.path().join(path);
        let old = fs::read_to_string(&path).unwrap();
        let new = old.replace(from, to);
        assert_ne!(old, new, "{} has no {from:?}", path.display());
        fs::write(&path, new).unwrap();
        assert_eq!(read(root.path()), before, "{} {from:?} -> {to:?}", path.display());
    };
    same("Cargo.toml", "all = 'warn'", "all = 'deny'");
    same("Cargo.toml", "debug = 1", "debug = 2");
    same("Cargo.toml", "only-for-tests = '1'", "only-for-tests = '1.0'");
    same("Cargo.toml", "[profile.dev]", "# a comment\n[profile.dev]");
    same("Cargo.lock", "checksum = \"44\"", "checksum = \"55\"");
    same("Cargo.lock", "checksum = \"11\"", "checksum = \"66\"");
    same("apps/app/Cargo.toml", "name = 'slow'", "name = 'quick'");
    same("unrelated/Cargo.toml", "0.1.0", "0.2.0");
    same("rust-toolchain.toml", "'clippy'", "'rustfmt'");
}

#[test]
fn what_reaches_the_binary_changes_the_sources() {
    let root = tempfile::tempdir().unwrap();
    let differs = |path: &str, from: &str, to: &str| {
        workspace(root.path());
        let before = read(root.path());
        let path = root.path().join(path);
        let old = fs::read_to_string(&path).unwrap();
        assert!(old.contains(from), "{} has no {from:?}", path.display());
        fs::write(&path, old.replace(from, to)).unwrap();
        assert_ne!(read(root.path()), before, "{} {from:?} -> {to:?}", path.display());
    };
    differs("Cargo.toml", "lto = true", "lto = false");
    differs("Cargo.toml", "edition = '2024'", "edition = '2021'");
    differs("Cargo.toml", "version = '2' }", "version = '2.0' }");
    differs("Cargo.lock", "checksum = \"33\"", "checksum = \"77\"");
    differs("helper/Cargo.toml", "0.1.0", "0.2.0");
    differs("rust-toolchain.toml", "1.95.0", "1.96.0");
}

#[track_caller]
fn refused(path: &str, from: &str, to: &str, expected: &str) {
    let root = tempfile::tempdir().unwrap();
    workspace(root.path());
    let path = root.path().join(path);
    let old = fs::read_to_string(&path).unwrap();
    assert!(old.contains(from));
    fs::write(&path, old.replacen(from, to, 1)).unwrap();
    let message = module_sources(root.path(), "app").unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn what_cannot_be_reduced_is_refused() {
    refused(
        "Cargo.toml",
        "[workspace]",
        "[package]\nname = 'x'\n[workspace]",
        "must be virtual",
    );
    refused(
        "Cargo.toml",
        "[profile.dev]",
        "[patch.x]\na = '1'\n[profile.dev]",
        "`[patch]` is not carried over",
    );
    refused(
        "Cargo.toml",
        "[profile.module]",
        "[profile.other]",
        "no [profile.module]",
    );
    refused("Cargo.toml", "'apps/*'", "'app*'", "member pattern `app*`");
    refused("Cargo.toml", "[workspace]", "[workspace", "is not valid TOML");
    refused(
        "apps/app/Cargo.toml",
        "../../helper",
        "../../../helper",
        "outside the workspace",
    );
    refused("apps/app/Cargo.toml", "../../helper", "../../gone", "cannot read");
    refused(
        "Cargo.lock",
        "name = \"helper\"",
        "name = \"helped\"",
        "has no entry for the member `helper`",
    );
    refused(
        "Cargo.lock",
        " \"digest 2.0.0\",\n",
        "",
        "has no entry for `digest`, on which `app` depends",
    );
    refused(
        "Cargo.lock",
        "name = \"bytes\"",
        "name = \"bites\"",
        "`bytes`, on which `digest` depends",
    );
    refused(
        "rust-toolchain.toml",
        "channel",
        "canal",
        "pins no `toolchain.channel`",
    );
}

#[test]
fn an_unknown_module_lists_the_known() {
    let root = tempfile::tempdir().unwrap();
    workspace(root.path());
    let error = module_sources(root.path(), "apq").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the workspace has no package `apq`; its packages are app, helper, unrelated"
    );
    assert!(matches!(error, SourcesError::UnknownModule { .. }));
}

#[test]
fn git_decides_in_a_checkout() {
    let root = tempfile::tempdir().unwrap();
    workspace(root.path());
    let before = read(root.path());
    let git = |args: &[&str]| {
        let status = Command::new("git")
            .args(args)
            .current_dir(root.path())
            .env_remove("GIT_DIR")
            .status()
            .unwrap();
        assert!(status.success(), "git {args:?}");
    };
    git(&["init", "--quiet"]);
    write_files(
        root.path(),
        &[
            (".gitignore", "*.log\n/helper/big/\n"),
            ("helper/src/a.log", ""),
            ("helper/big/model.onnx", ""),
        ],
    );
    assert_eq!(read(root.path()), before, "new files count, ignored ones do not");
    git(&["add", "."]);
    assert_eq!(read(root.path()), before, "tracked files count");
    fs::remove_file(root.path().join("apps/app/src/deep/data.bin")).unwrap();
    let files: Vec<String> = read(root.path()).packages[0].files.clone();
    assert_eq!(files, ["apps/app/src/main.rs"], "removed but still tracked");
}

#[test]
fn a_stage_is_written_once_and_follows_changes() {
    let root = tempfile::tempdir().unwrap();
    let (workspace_root, dir) = (root.path().join("workspace"), root.path().join("stage"));
    workspace(&workspace_root);
    let staged = || stage(&dir, &read(&workspace_root)).unwrap();
    assert_eq!(
        staged(),
        StageChanges {
            written: 8,
            removed: 0
        }
    );
    assert_eq!(
        staged(),
        StageChanges {
            written: 0,
            removed: 0
        }
    );

    write_files(
        &workspace_root,
        &[("helper/src/lib.rs", "// new\n"), ("helper/src/more.rs", "")],
    );
    assert_eq!(
        staged(),
        StageChanges {
            written: 2,
            removed: 0
        }
    );
    fs::remove_file(workspace_root.join("helper/src/more.rs")).unwrap();
    write_files(&dir, &[("stranger", ""), ("helper/target/x/y", "")]);
    assert_eq!(
        staged(),
        StageChanges {
            written: 0,
            removed: 3
        }
    );

    // cargo cuts the lock down; that stays until the excerpt changes.
    fs::write(dir.join("Cargo.lock"), "version = 4\n").unwrap();
    assert_eq!(
        staged(),
        StageChanges {
            written: 0,
            removed: 0
        }
    );
    write_files(&workspace_root, &[("Cargo.lock", &LOCK.replace("33", "77"))]);
    assert_eq!(
        staged(),
        StageChanges {
            written: 1,
            removed: 0
        }
    );
    assert!(fs::read_to_string(dir.join("Cargo.lock")).unwrap().contains("77"));
}

#[test]
fn a_folder_with_other_things_is_no_stage() {
    let root = tempfile::tempdir().unwrap();
    let (workspace_root, dir) = (root.path().join("workspace"), root.path().join("home"));
    workspace(&workspace_root);
    write_files(&dir, &[("thesis.txt", "do not delete")]);
    let error = stage(&dir, &read(&workspace_root)).unwrap_err();
    assert!(matches!(error, StageError::NotAStage { .. }), "{error}");
    assert!(dir.join("thesis.txt").is_file());
}

#[test]
fn cargo_understands_the_stage_of_the_real_modules() {
    for module in ["vision", "signal"] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("stage");
        let sources = module_sources(&common::repository(), module).unwrap();
        assert!(sources.packages.iter().all(|package| package.name != "xtask"));
        stage(&dir, &sources).unwrap();
        let metadata = common::cargo(&dir, &["metadata", "--format-version", "1"]);
        assert!(metadata.contains(&format!("modules/{module}/Cargo.toml")));
        let lock = fs::read_to_string(dir.join("Cargo.lock")).unwrap();
        assert!(
            !lock.contains("name = \"proptest\""),
            "{module}: development dependencies were resolved"
        );
        let checksums = |lock: &str| -> BTreeSet<String> {
            lock.lines()
                .filter(|line| line.starts_with("checksum = "))
                .map(str::to_owned)
                .collect()
        };
        assert!(
            checksums(&lock).is_subset(&checksums(&sources.lock_excerpt)),
            "{module}: cargo chose other crates"
        );
    }
}
