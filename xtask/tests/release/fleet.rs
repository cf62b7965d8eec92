//! Fleets to a real registry: how many requests and bytes they take, planned and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aiot_oci::{
    Compression, FileMode, FileSource, ImageSpec, Layer, LayerBuilder, Platform, Store, assemble_image,
    assemble_index, write_layout,
};
use aiot_testkit::bad_link::{BadLink, Badness};
use aiot_testkit::registry::Registry;
use aiot_testkit::tools::{have, run};
use serde_json::Value;

use crate::common::XTASK;

const MODELS: usize = 12;
/// More than all manifests and indices of the fleet have.
const DOCUMENTS_BYTES: u64 = 100_000;
const TARGETS: [(&str, Option<&str>); 4] = [
    ("amd64", None),
    ("arm64", None),
    ("arm", Some("v7")),
    ("riscv64", None),
];

fn layer(store: &Store, name: &str, size_bytes: usize) -> Layer {
    let mut layer = LayerBuilder::new();
    let bytes = name.as_bytes().iter().copied().cycle().take(size_bytes).collect();
    layer
        .file(name, FileSource::Bytes(bytes), FileMode::Plain)
        .unwrap();
    layer.build(store, Compression::None).unwrap()
}

/// A layout with images of [`MODELS`] models for [`TARGETS`]; returns the bytes of its blobs. `shares`: whether they
/// share a layer per target, or each has its own.
fn write_fleet(dir: &Path, shares: bool) -> u64 {
    let store = Store::create(&dir.join("store")).unwrap();
    let (mut entries, mut blobs) = (Vec::new(), BTreeMap::new());
    for number in 0..MODELS {
        let model = layer(&store, &format!("m{number}"), 20_000);
        let of = if shares {
            String::new()
        } else {
            format!("-m{number}")
        };
        let targets = TARGETS.map(|(target, _)| layer(&store, &format!("{target}{of}"), 200_000));
        let mut images = Vec::new();
        for ((target, variant), own) in TARGETS.into_iter().zip(&targets) {
            let mut spec = ImageSpec::new(Platform::new("linux", target, variant));
            spec.layers = vec![own.clone(), model.clone()];
            // A config of its own for each.
            spec.labels = BTreeMap::from([("model".to_owned(), format!("m{number}"))]);
            let image = assemble_image(&store, &spec).unwrap();
            let manifest = aiot_oci::image::read_manifest(&store, &image.digest).unwrap();
            let parts = manifest.layers.into_iter().chain([manifest.config]);
            blobs.extend(parts.map(|blob| (blob.digest, blob.size)));
            entries.push((format!("m{number}:1-{target}"), image.clone()));
            images.push(image);
        }
        let index = assemble_index(&store, &images, BTreeMap::new()).unwrap();
        entries.push((format!("m{number}:1"), index));
    }
    write_layout(&dir.join("layout"), &store, &entries).unwrap();
    blobs.values().sum()
}

/// A machine that pushes the fleet in `dir`.
fn pushing(dir: &Path, machine: &str, to: &str, more: &[&str]) -> Command {
    let machine = dir.join(machine);
    std::fs::create_dir_all(&machine).unwrap();
    let mut command = Command::new(XTASK);
    command
        .args(["push", "--format", "json", "--to", to, "--layout"])
        .arg(dir.join("layout"))
        .args(more)
        .arg("--workspace")
        .arg(&machine)
        .current_dir(&machine)
        .env("AIOT_STORE", machine.join("state"))
        .env("HOME", &machine)
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    command
}

fn push(dir: &Path, machine: &str, to: &str, more: &[&str]) -> Value {
    let mut command = pushing(dir, machine, to, more);
    serde_json::from_str(&run(&mut command).expect(0).stdout).unwrap()
}

/// A link on which every request waits, and none fails.
fn link(registry: &Registry, latency: Duration) -> BadLink {
    let badness = Badness {
        failing_per_mille: 0,
        latency,
        seed: 0,
        keeps_uploads: false,
    };
    BadLink::start(&registry.address, badness)
}

#[test]
fn a_fleet_takes_the_requests_that_were_planned_and_then_one_for_each_model() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    let blob_bytes = write_fleet(dir, true);
    let registry = Registry::start(dir);
    let link = link(&registry, Duration::ZERO);
    let to = format!("{}/fleet", link.address);

    let planned = push(dir, "first", &to, &["--dry-run"]);
    assert_eq!(link.counts().body_bytes, 0, "asking sends nothing");
    let number = |field: &str| planned["requests"][field].as_u64().unwrap();
    assert_eq!(number("sent-bytes"), blob_bytes);
    let asked = blobs_asked_for(&link.requests());
    assert!(asked.values().all(|times| *times == 1), "{asked:?}");

    let before = link.requests().len();
    push(dir, "first", &to, &[]);
    let requests = link.requests()[before..].to_vec();
    let count = |wanted: &[&str]| {
        let methods = requests.iter().map(|line| line.split(' ').next().unwrap());
        methods.filter(|method| wanted.contains(method)).count() as u64
    };
    // Repositories at the same time find a little more or less done by the others than one after the other.
    let (reads, writes) = (count(&["HEAD", "GET"]), count(&["POST", "PUT"]));
    assert!(reads.abs_diff(number("reads")) <= 16, "{reads}: {planned:#}");
    assert!(writes.abs_diff(number("writes")) <= 4, "{writes}: {planned:#}");
    let documents = link.counts().body_bytes - blob_bytes;
    assert!(documents < 200_000, "each blob once, and manifests: {documents}");
    let asked = blobs_asked_for(&requests);
    assert!(asked.values().all(|times| *times == 1), "{asked:?}");

    // Again, also from a machine that never pushed: one request for each model, whatever the number of its targets.
    for machine in ["first", "second"] {
        let before = link.requests().len();
        push(dir, machine, &to, &[]);
        let requests: BTreeSet<String> = link.requests()[before..].iter().cloned().collect();
        let expected: BTreeSet<String> = (0..MODELS)
            .map(|number| format!("HEAD /v2/fleet/m{number}/manifests/1"))
            .collect();
        assert_eq!(requests, expected);
        assert_eq!(link.requests().len() - before, MODELS);
    }

    // To other repositories: what the first machine knows to be in these is not sent.
    let sent = |machine: &str, prefix: &str| {
        let (before, to) = (link.counts().body_bytes, format!("{}/{prefix}", link.address));
        let planned = push(dir, machine, &to, &["--dry-run"]);
        push(dir, machine, &to, &[]);
        (
            planned["requests"]["sent-bytes"].as_u64().unwrap(),
            link.counts().body_bytes - before,
        )
    };
    let (planned, mounted) = sent("first", "other");
    assert!(planned == 0 && mounted < 200_000, "{planned} {mounted}");
    let (planned, uploaded) = sent("third", "more");
    assert!(
        planned == blob_bytes && uploaded > blob_bytes,
        "{planned} {uploaded}"
    );
}

/// Bytes of all blobs that the registry in `dir` has taken.
fn stored_bytes(dir: &Path) -> u64 {
    let mut folders = vec![dir.join("registry/docker/registry/v2/blobs")];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => bytes += entry.metadata().unwrap().len(),
            }
        }
    }
    bytes
}

/// The same, once what the link still had of a client that is gone has arrived.
fn settled_bytes(dir: &Path) -> u64 {
    let mut known = stored_bytes(dir);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = stored_bytes(dir);
        if now == known {
            return now;
        }
        known = now;
    }
}

#[test]
fn a_push_that_is_interrupted_goes_on_where_it_was() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    let blob_bytes = write_fleet(dir, false);
    let registry = Registry::start(dir);
    // So slow that the push is in the middle of its blobs for seconds.
    let link = link(&registry, Duration::from_millis(100));
    let to = format!("{}/fleet", link.address);
    for percent in [25, 50, 50] {
        let (before, missing) = (link.counts().body_bytes, blob_bytes - settled_bytes(dir));
        let mut child = pushing(dir, "one", &to, &[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while link.counts().body_bytes - before < missing * percent / 100 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(5));
        }
        run(Command::new("kill").args(["-INT", &child.id().to_string()])).expect(0);
        let ended = child.wait().unwrap();
        assert!(!ended.success(), "{ended}");
    }
    // What the registry has is not sent again.
    let stored = settled_bytes(dir);
    let before = link.counts().body_bytes;
    assert!(stored > blob_bytes / 2, "{stored} of {blob_bytes}");
    push(dir, "one", &to, &[]);
    let sent = link.counts().body_bytes - before;
    assert!(
        sent <= blob_bytes.saturating_sub(stored) + DOCUMENTS_BYTES,
        "{sent}: {stored} of {blob_bytes}"
    );
    let before = link.requests().len();
    push(dir, "one", &to, &[]);
    assert_eq!(link.requests().len() - before, MODELS, "all is there");
}

/// Blob → how often it was asked for.
fn blobs_asked_for(requests: &[String]) -> BTreeMap<String, u32> {
    let mut asked = BTreeMap::new();
    for line in requests {
        if let Some((_, digest)) = line.split_once("/blobs/sha256:")
            && line.starts_with("HEAD")
        {
            *asked.entry(digest.to_owned()).or_default() += 1;
        }
    }
    asked
}
