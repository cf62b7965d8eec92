//! The layout on disk.

use std::fs;
use std::path::Path;

use aiot_oci::{Digest, validate_layout, write_layout};

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
