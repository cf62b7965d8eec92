//! The layout on disk.

use std::fs;
use std::path::Path;

use aiot_oci::image::{ImageSpec, assemble_image};
use aiot_oci::{Compression, Digest, FileMode, FileSource, LayerBuilder, validate_layout, write_layout};

use crate::support::{Workplace, have, run};

#[test]
fn skopeo_and_umoci_accept_the_layout() {
    if !have(&["skopeo", "umoci"]) {
        return;
    }
    let place = Workplace::new();
    let (index, arm, amd64) = place.index();
    let entries = [
        ("defects", &index),
        ("defects-arm", &arm),
        ("defects-amd64", &amd64),
    ]
    .map(|(name, descriptor)| (name.to_owned(), descriptor.clone()));
    write_layout(&place.path().join("layout"), &place.store, &entries).unwrap();
    assert_eq!(validate_layout(&place.path().join("layout")).unwrap(), []);

    let raw = run(
        place.path(),
        "skopeo",
        &["inspect", "--raw", "oci:layout:defects"],
    );
    assert_eq!(Digest::of(raw.as_bytes()), index.digest);
    let inspected = run(
        place.path(),
        "skopeo",
        &[
            "--override-arch",
            "arm",
            "--override-variant",
            "v7",
            "inspect",
            "oci:layout:defects",
        ],
    );
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Digest"], index.digest.to_string());
    assert_eq!(inspected["Architecture"], "arm");
    assert_eq!(inspected["Labels"]["model"], "defects");

    run(
        place.path(),
        "umoci",
        &["unpack", "--rootless", "--image", "layout:defects-arm", "bundle"],
    );
    let root = place.path().join("bundle/rootfs");
    assert_eq!(
        fs::read(root.join("model/model.onnx")).unwrap(),
        "a".repeat(300_000).into_bytes()
    );
    assert_eq!(
        fs::read_link(root.join("usr/lib/libengine.so")).unwrap(),
        Path::new("libengine.so.1")
    );
    let mode = |path: &str| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(root.join(path)).unwrap().permissions())
            & 0o7777
    };
    assert_eq!(
        [
            mode("usr/bin/vision"),
            mode("model/model.onnx"),
            mode("usr"),
            mode("tmp")
        ],
        [0o755, 0o644, 0o755, 0o1777]
    );
    // umoci made folders that this user must be able to remove.
    let runtime: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path().join("bundle/config.json")).unwrap()).unwrap();
    assert_eq!(runtime["process"]["user"]["uid"], 65532);
}

#[test]
fn skopeo_unpacks_zstandard_to_the_same_archive() {
    if !have(&["skopeo"]) {
        return;
    }
    let place = Workplace::new();
    let mut library = LayerBuilder::new();
    let content: Vec<u8> = (0..900_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    library
        .file(
            "usr/lib/libengine.so",
            FileSource::Bytes(content),
            FileMode::Plain,
        )
        .unwrap();
    let layer = library.build(&place.store, Compression::Zstd).unwrap();
    let mut spec = ImageSpec::new("linux/amd64".parse().unwrap());
    spec.layers.push(layer.clone());
    let image = assemble_image(&place.store, &spec).unwrap();
    let layout = place.path().join("layout");
    write_layout(&layout, &place.store, &[("m".to_owned(), image)]).unwrap();
    assert_eq!(validate_layout(&layout).unwrap(), []);
    let copy = ["copy", "--dest-decompress", "oci:layout:m", "dir:plain"];
    run(place.path(), "skopeo", &copy);
    let plain = fs::read(place.path().join("plain").join(layer.diff_id.hex())).unwrap();
    assert_eq!(Digest::of(&plain), layer.diff_id);
}
