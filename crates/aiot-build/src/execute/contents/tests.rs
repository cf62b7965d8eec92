//! Layers as other tools write them, with what must not be in an image.

use std::sync::Arc;

use aiot_oci::MediaType;
use serde_json::json;

use super::*;

/// One entry of an archive: path, type of entry, mode, owner, content or target.
type Entry<'a> = (&'a str, u8, u32, u64, &'a [u8]);

/// A plain layer, written by hand: our own writer cannot write most of this.
fn layer(store: &Store, entries: &[Entry<'_>]) -> Descriptor {
    let mut tar = Vec::new();
    for (path, kind, mode, owner, content) in entries {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        let is_file = *kind == b'0';
        let size = if is_file { content.len() } else { 0 };
        let mut number = |at: usize, length: usize, value: u64| {
            let text = format!("{value:0width$o}\0", width = length - 1);
            header[at..at + length].copy_from_slice(text.as_bytes());
        };
        number(100, 8, u64::from(*mode));
        number(108, 8, *owner);
        number(116, 8, *owner);
        number(124, 12, size as u64);
        number(136, 12, 0);
        header[156] = *kind;
        if !is_file {
            header[157..157 + content.len()].copy_from_slice(content);
        }
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(header);
        if is_file {
            tar.extend(*content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
    }
    tar.resize(tar.len() + 1024, 0);
    let blob = store.put_bytes(&tar).unwrap();
    Descriptor::new(MediaType::LayerTar, blob.digest, blob.size)
}

/// The problems of an image of these layers; `programs` are `app` and nothing else.
fn found(layers: &[&[Entry<'_>]], platform: &str, mounts: &[&Value]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    let programs = ["app".to_owned()];
    let contents: Vec<Arc<LayerContent>> = layers
        .iter()
        .map(|entries| {
            let layer = layer(&store, entries);
            Arc::new(LayerContent::read(&store, &layer, &programs, true).unwrap())
        })
        .collect();
    problems(
        &contents,
        &programs,
        &platform.parse().unwrap(),
        &mount_points(mounts),
    )
}

#[track_caller]
fn check(layers: &[&[Entry<'_>]], expected: &[&str]) {
    check_with(layers, &[], expected);
}

#[track_caller]
fn check_with(layers: &[&[Entry<'_>]], mounts: &[&Value], expected: &[&str]) {
    let found = found(layers, "linux/amd64", mounts);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}

const FILE: u8 = b'0';
const LINK: u8 = b'2';
const DIR: u8 = b'5';
const APP: Entry<'static> = ("app", FILE, 0o755, 0, b"#!");

#[test]
fn what_the_run_user_could_change_is_named() {
    let with = |entry: Entry<'static>| [APP, entry];
    check(&[&with(("f", FILE, 0o644, 0, b""))], &[]);
    check(&[&with(("f", FILE, 0o664, 0, b""))], &[]);
    check(&[&with(("f", FILE, 0o444, RUN_USER, b""))], &[]);
    check(
        &[&with(("f", FILE, 0o666, 0, b""))],
        &["could change /f (1 in all)"],
    );
    check(&[&with(("f", FILE, 0o644, RUN_USER, b""))], &["could change /f"]);
    check(&[&with(("f", FILE, 0o464, RUN_USER, b""))], &["could change /f"]);
    check(&[&with(("d/", DIR, 0o777, 0, b""))], &["could change /d"]);
    check(&[&with(("d/", DIR, 0o1777, 0, b""))], &[]);
    check(&[&with(("l", LINK, 0o777, 0, b"app"))], &[]);
    // A later layer puts it right, or wrong.
    let (bad, good): (Entry<'_>, Entry<'_>) = (("f", FILE, 0o666, 0, b""), ("f", FILE, 0o644, 0, b""));
    check(&[&[APP, bad], &[good]], &[]);
    check(&[&[APP, good], &[bad]], &["could change /f"]);
}

#[test]
fn mount_points_may_be_writable() {
    let layer: &[Entry<'_>] = &[APP, ("var/queue/", DIR, 0o755, RUN_USER, b"")];
    let check = |options: Value, is_covered: bool| {
        let expected: &[&str] = if is_covered {
            &[]
        } else {
            &["could change /var/queue"]
        };
        check_with(&[layer], &[&json!({}), &options], expected);
    };
    check(json!({}), false);
    check(
        json!({ "HostConfig": { "Binds": ["queue:/var/queue:rw"] } }),
        true,
    );
    check(
        json!({ "HostConfig": { "Binds": ["/var/queue:/elsewhere"] } }),
        false,
    );
    check(
        json!({ "HostConfig": { "Mounts": [{ "Target": "/var/queue/" }] } }),
        true,
    );
    check(json!({ "HostConfig": { "Tmpfs": { "/var": "" } } }), true);
    check(json!({ "Volumes": { "/var/que": {} } }), false);
    check(json!({ "Volumes": { "/": {} } }), false);
}

/// This test's own program: a real one, with a loader and libraries.
fn program() -> (Vec<u8>, elf::ElfFacts) {
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let facts = elf::inspect(&bytes).unwrap();
    (bytes, facts)
}

#[test]
fn programs_are_for_the_platform() {
    let (bytes, facts) = program();
    let layer: &[Entry<'_>] = &[("app", FILE, 0o755, 0, &bytes)];
    let own = if facts.machine == Machine::X86_64 {
        "linux/amd64"
    } else {
        "linux/arm64"
    };
    for platform in ["linux/amd64", "linux/arm64", "linux/arm/v7"] {
        let found = found(&[layer], platform, &[]);
        let is_wrong = found.iter().any(|problem| problem.contains("but /app is for"));
        assert_eq!(is_wrong, platform != own, "{platform}: {found:?}");
    }
}

#[test]
fn loader_and_libraries_are_in_the_layers() {
    let (bytes, facts) = program();
    let own = if facts.machine == Machine::X86_64 {
        "linux/amd64"
    } else {
        "linux/arm64"
    };
    let loader = facts.interpreter.clone().unwrap();
    let (folder, name) = loader.trim_start_matches('/').split_once('/').unwrap();
    let real = format!("usr/{folder}/{name}");
    let link = format!("usr/{folder}");
    let libraries: Vec<String> = facts
        .needed
        .iter()
        .filter(|library| *library != name)
        .map(|name| format!("lib/any/{name}"))
        .collect();
    let app: Entry<'_> = ("app", FILE, 0o755, 0, &bytes);
    let mut base: Vec<Entry<'_>> = vec![
        (&real, FILE, 0o755, 0, b"loader"),
        (folder, LINK, 0o777, 0, link.as_bytes()),
    ];
    base.extend(
        libraries
            .iter()
            .map(|path| (path.as_str(), FILE, 0o644, 0, b"".as_slice())),
    );
    assert_eq!(found(&[&base, &[app]], own, &[]), [""; 0]);
    // Each of them is missed.
    for gone in 0..base.len() {
        let mut less = base.clone();
        let path = less.remove(gone).0;
        let found = found(&[&less, &[app]], own, &[]);
        assert!(!found.is_empty(), "{path}");
        assert!(
            found.iter().all(|problem| problem.contains("the image lacks")),
            "{found:?}"
        );
    }
    // A library's own libraries, too: this program as a library needs the same ones.
    let library: Entry<'_> = (&libraries[0], FILE, 0o644, 0, &bytes);
    let found = found(&[&[library], &[app]], own, &[]);
    assert!(
        found.iter().any(|problem| problem.contains(&libraries[0])),
        "{found:?}"
    );
    // Links that lead in circles.
    let circle: &[Entry<'_>] = &[("app", LINK, 0o777, 0, b"b"), ("b", LINK, 0o777, 0, b"app")];
    check(&[circle], &["no /app"]);
}

#[test]
fn of_a_path_that_comes_twice_the_last_entry_counts() {
    let (bytes, _) = program();
    // The program is replaced by a text, a writable file by one that is not, a link by a file.
    let layer: &[Entry<'_>] = &[
        ("app", FILE, 0o755, 0, &bytes),
        APP,
        ("f", FILE, 0o666, 0, b""),
        ("f", FILE, 0o644, 0, b""),
    ];
    check(&[layer], &[]);
    let layer: &[Entry<'_>] = &[("app", LINK, 0o777, 0, b"nowhere"), APP];
    check(&[layer], &[]);
    let layer: &[Entry<'_>] = &[APP, ("app", LINK, 0o777, 0, b"nowhere")];
    check(&[layer], &["no /app"]);
}

#[test]
fn what_a_later_layer_hides_is_not_there() {
    let whiteout = |path: &'static str| -> Entry<'static> { (path, FILE, 0o644, 0, b"") };
    let below: &[Entry<'_>] = &[
        APP,
        ("f", FILE, 0o666, 0, b""),
        ("d", DIR, 0o777, 0, b""),
        ("d/f", FILE, 0o666, 0, b""),
    ];
    check(&[below], &["could change /d, /d/f, /f (3 in all)"]);
    check(
        &[below, &[whiteout(".wh.f"), whiteout("d/.wh.f")]],
        &["could change /d (1 in all)"],
    );
    // A whole folder; all that was in it.
    check(&[below, &[whiteout(".wh.d")]], &["could change /f (1 in all)"]);
    check(
        &[below, &[("d", DIR, 0o755, 0, b""), whiteout("d/.wh..wh..opq")]],
        &["could change /f (1 in all)"],
    );
    check(&[below, &[whiteout(".wh.app")]], &["no /app", "could change"]);
    // The layer's own entries stay, wherever they are in it, and what the next one brings.
    check(&[below, &[APP, whiteout(".wh..wh..opq")]], &[]);
    check(&[&[APP], &[whiteout(".wh.app")], &[APP]], &[]);
}
