use aiot_oci::Compression;

use super::*;

fn locked(name: &str, version: &str) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: "arm64".to_owned(),
        filename: format!("pool/main/{name}.deb"),
        size_bytes: 1,
        digest: Digest::of(name.as_bytes()),
    }
}

/// `alter`: what is added to a base layer with one package and its library; `compression`: how it was baked;
/// `diff_id`: what the config says of it.
fn outcome(
    alter: impl FnOnce(&mut LayerBuilder),
    compression: Compression,
    diff_id: impl FnOnce(Digest) -> Digest,
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let mut layer = LayerBuilder::new();
    layer.directory("tmp", DirectoryMode::Sticky).unwrap();
    layer.symlink("lib", "usr/lib").unwrap();
    for (path, text) in [
        (
            "var/lib/dpkg/status.d/libc6",
            "Package: libc6\nVersion: 2.41-12\nArchitecture: arm64\n\n",
        ),
        ("usr/lib/aarch64-linux-gnu/libc.so.6", "library"),
    ] {
        let source = FileSource::Bytes(text.as_bytes().to_vec());
        layer.file(path, source, FileMode::Plain).unwrap();
    }
    alter(&mut layer);
    let built = layer.build(&store, compression).unwrap();
    let wanted = Wanted {
        architecture: Architecture::Arm64,
        packages: &[locked("gcc-14-base", "14"), locked("libc6", "2.41-12")],
        libraries: vec![],
        compression: LayerCompression::Gzip,
    };
    let said = diff_id(built.diff_id);
    let libraries = ["libc.so.6".to_owned()];
    match check_layer(&store, (&built.descriptor, &said), &wanted, &libraries) {
        Ok(baked) => {
            assert_eq!(baked, built);
            "the same".to_owned()
        }
        Err(reason) => reason,
    }
}

fn add<'a>(path: &'a str, text: &'a str) -> impl FnOnce(&mut LayerBuilder) + 'a {
    move |layer| {
        let source = FileSource::Bytes(text.as_bytes().to_vec());
        layer.file(path, source, FileMode::Executable).unwrap();
    }
}

#[test]
fn a_layer_of_locked_packages_is_taken() {
    assert_eq!(outcome(|_| {}, Compression::Gzip, |same| same), "the same");
    let loader = add("usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", "loader");
    assert_eq!(outcome(loader, Compression::Gzip, |same| same), "the same");
}

#[test]
fn a_layer_that_we_would_not_bake_is_refused() {
    let cut = outcome(|_| {}, Compression::Gzip, |_| Digest::of(b"other"));
    assert!(cut.starts_with("comes out as "), "{cut}");
    let zstd = outcome(|_| {}, Compression::Zstd, |same| same);
    assert!(zstd.starts_with("comes out as "), "{zstd}");
}

#[test]
fn other_packages_are_refused() {
    for (status, expected) in [
        (
            "Package: libc6\nVersion: 2.40-1\nArchitecture: arm64\n",
            "holds libc6 2.40-1 (arm64), locked is 2.41-12 (arm64)",
        ),
        (
            "Package: libc6\nVersion: 2.41-12\nArchitecture: armhf\n",
            "holds libc6 2.41-12 (armhf), locked is 2.41-12 (arm64)",
        ),
        (
            "Package: libevil\nVersion: 1\n",
            "holds `libevil`, which is not locked",
        ),
        ("no stanza", "holds ``, which is not locked"),
    ] {
        let more = add("var/lib/dpkg/status.d/more", status);
        assert_eq!(outcome(more, Compression::Gzip, |same| same), expected);
    }
}

#[test]
fn a_layer_without_its_libraries_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let wanted = Wanted {
        architecture: Architecture::Armhf,
        packages: &[locked("libc6", "1")],
        libraries: vec![],
        compression: LayerCompression::Gzip,
    };
    let mut layer = LayerBuilder::new();
    add("etc/passwd", "root")(&mut layer);
    let built = layer.build(&store, Compression::Gzip).unwrap();
    let check = |built: &Layer| {
        check_layer(
            &store,
            (&built.descriptor, &built.diff_id),
            &wanted,
            &["libc.so.6".to_owned()],
        )
        .unwrap_err()
    };
    assert_eq!(check(&built), "does not say what packages are in it");
    add(
        "var/lib/dpkg/status.d/libc6",
        "Package: libc6\nVersion: 1\nArchitecture: arm64\n",
    )(&mut layer);
    let built = layer.build(&store, Compression::Gzip).unwrap();
    assert_eq!(check(&built), "lacks libc.so.6");
}
