//! Unpacking wheels: well-made ones, hostile ones, and real ones by pip.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use aiot_plan::lock::WheelRequest;
use aiot_toolchain::GlibcVersion;
use aiot_toolchain::elf::{Expectation, check, inspect};
use aiot_toolchain::triple::triple_facts;
use aiot_toolchain::wheels::{WheelError, engine_library, extract, fetch_locked, pip_download, zig_tools};
use proptest::prelude::*;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn zip_of(members: &[(&str, &str, u32)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content, mode) in members {
        writer
            .start_file(*name, SimpleFileOptions::default().unix_permissions(*mode))
            .unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn wheel(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("probe-1-py3-none-any.whl");
    fs::write(&path, bytes).unwrap();
    path
}

/// Every file below a folder, with `x` for programs.
fn listing(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, relative: &str, found: &mut Vec<String>) {
        use std::os::unix::fs::PermissionsExt as _;
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{relative}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                let is_program = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
                found.push(name + if is_program { " x" } else { "" });
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}

#[test]
fn wanted_members_are_unpacked_and_programs_can_run() {
    let root = tempfile::tempdir().unwrap();
    let bytes = zip_of(&[
        ("zig/zig", "program", 0o755),
        ("zig/lib/a.zig", "text", 0o644),
        ("zig/lib/b.zig", "unwanted", 0o644),
        ("probe-1.data/scripts/tool", "script", 0o644),
    ]);
    let wheel = wheel(root.path(), &bytes);
    let dest = root.path().join("out");
    extract(&wheel, &|name| !name.ends_with("b.zig"), &dest).unwrap();
    assert_eq!(
        listing(&dest),
        ["probe-1.data/scripts/tool x", "zig/lib/a.zig", "zig/zig x"]
    );
    assert_eq!(fs::read_to_string(dest.join("zig/lib/a.zig")).unwrap(), "text");

    fs::write(dest.join("kept"), "").unwrap();
    extract(&wheel, &|_| true, &dest).unwrap();
    assert!(dest.join("kept").is_file(), "a folder that is there is kept");
    assert_eq!(
        fs::read_dir(root.path()).unwrap().count(),
        2,
        "nothing is left beside"
    );
}

#[track_caller]
fn refused(members: &[(&str, &str, u32)], expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let wheel = wheel(root.path(), &zip_of(members));
    let message = extract(&wheel, &|_| true, &root.path().join("deep/out"))
        .unwrap_err()
        .to_string();
    assert!(message.contains(expected), "{message}");
    assert_eq!(listing(root.path()), ["probe-1-py3-none-any.whl"]);
}

#[test]
fn hostile_members_are_refused_and_nothing_is_left() {
    refused(
        &[("fine", "", 0o644), ("../escape", "", 0o644)],
        "`../escape`, which is refused: its name leaves",
    );
    refused(&[("/etc/passwd", "", 0o644)], "its name leaves the folder");
    refused(&[("a/../../b", "", 0o644)], "its name leaves the folder");
    refused(&[("a\\..\\b", "", 0o644)], "characters that no wheel needs");
    refused(&[("a", "", 0o644), ("a/b", "", 0o644)], "");
}

#[test]
fn a_symbolic_link_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .add_symlink("lib/link", "/etc/passwd", SimpleFileOptions::default())
        .unwrap();
    let wheel = wheel(root.path(), &writer.finish().unwrap().into_inner());
    let message = extract(&wheel, &|_| true, &root.path().join("out"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("it is a symbolic link"), "{message}");
}

#[test]
fn a_damaged_wheel_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut bytes = zip_of(&[("a", &"text ".repeat(500), 0o644)]);
    bytes[60] ^= 0xff;
    let wheel = wheel(root.path(), &bytes);
    let message = extract(&wheel, &|_| true, &root.path().join("out"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("probe-1-py3-none-any.whl is no whole wheel"),
        "{message}"
    );
}

#[test]
fn the_engine_is_the_one_versioned_library() {
    let root = tempfile::tempdir().unwrap();
    let capi = |name: &str| format!("onnxruntime/capi/{name}");
    let [library, shared, other] = [
        "libonnxruntime.so.1.32.0",
        "libonnxruntime_providers_shared.so",
        "libonnxruntime.so.1.31.0",
    ]
    .map(capi);
    let path = wheel(
        root.path(),
        &zip_of(&[(&library, "engine", 0o755), (&shared, "no", 0o755)]),
    );
    let engine = engine_library(&path).unwrap();
    assert_eq!(
        (engine.filename.as_str(), engine.bytes.as_slice()),
        ("libonnxruntime.so.1.32.0", &b"engine"[..])
    );
    for members in [
        vec![(shared.as_str(), "no", 0o755)],
        vec![(library.as_str(), "a", 0o755), (&other, "b", 0o755)],
    ] {
        let path = wheel(root.path(), &zip_of(&members));
        let message = engine_library(&path).unwrap_err().to_string();
        assert!(message.contains("does not hold exactly one"), "{message}");
    }
}

#[test]
fn a_wheel_without_its_program_is_named() {
    let root = tempfile::tempdir().unwrap();
    let wheel = wheel(root.path(), &zip_of(&[("readme", "", 0o644)]));
    let message = zig_tools(&wheel, &wheel, &root.path().join("tools"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("does not hold the program ziglang/zig"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hostile_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
                                 cut in any::<prop::sample::Index>()) {
        let mut bytes = zip_of(&[("onnxruntime/capi/libonnxruntime.so.1", "engine", 0o755), ("a/b", "text", 0o644)]);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(2 * bytes.len()));
        let root = tempfile::tempdir().unwrap();
        let path = wheel(root.path(), &bytes);
        let _ = engine_library(&path);
        let _ = extract(&path, &|_| true, &root.path().join("inner/out"));
        prop_assert!(fs::read_dir(root.path()).unwrap().count() <= 2);
    }
}

/// Downloads 23 MB for a processor that this machine need not have, kept in `AIOT_TEST_CACHE`.
#[test]
fn real_engine_wheel_of_another_processor() {
    let root = tempfile::tempdir().unwrap();
    let cache = std::env::var_os("AIOT_TEST_CACHE").map_or_else(|| root.path().to_owned(), PathBuf::from);
    let triple = triple_facts("aarch64-unknown-linux-gnu").unwrap();
    let request = |version: &str| WheelRequest {
        package: "onnxruntime".to_owned(),
        version: version.to_owned(),
        platform: "manylinux_2_28_aarch64".to_owned(),
    };
    let (locked, path) = pip_download(&request("1.32.0"), &cache).unwrap();
    assert_eq!(
        locked.filename,
        "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_aarch64.whl"
    );

    // Asking for exactly this file again, on any machine, gives the same bytes.
    let again = fetch_locked(&locked, &root.path().join("again")).unwrap();
    assert_eq!(fs::read(again).unwrap(), fs::read(&path).unwrap());

    let engine = engine_library(&path).unwrap();
    let facts = inspect(&engine.bytes).unwrap();
    assert_eq!(engine.filename, "libonnxruntime.so.1.32.0");
    assert!(
        facts.needed.contains(&"libstdc++.so.6".to_owned()),
        "{:?}",
        facts.needed
    );
    let expectation = |glibc_floor| Expectation {
        triple,
        glibc_floor,
        is_program: false,
    };
    assert_eq!(check(&facts, &expectation(GlibcVersion::new(2, 28))), []);
    let problems = check(&facts, &expectation(GlibcVersion::new(2, 17)));
    assert_eq!(problems.len(), 1, "{problems:?}");

    let error = pip_download(&request("0.0.1"), &cache).unwrap_err();
    assert!(matches!(error, WheelError::NoSuchWheel { .. }), "{error}");
}
