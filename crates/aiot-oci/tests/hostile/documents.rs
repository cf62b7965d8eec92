//! Manifests, configs, indexes and layouts that are huge, endless or no files at all.

use std::fmt::Write as _;
use std::fs;

use aiot_oci::image::{parse_index, parse_manifest, read_config, read_manifest};
use aiot_oci::{BaseImage, Digest, MediaType, Store, read_layout, validate_layout};

use crate::support::{END, Place, entry};

/// An index with as many entries as told; each is as short as it can be.
fn index_of(entries: usize) -> String {
    let mut text = String::from("{\"schemaVersion\":2,\"manifests\":[");
    for number in 0..entries {
        let comma = if number == 0 { "" } else { "," };
        let digest = Digest::of(&number.to_be_bytes());
        write!(
            text,
            "{comma}{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{digest}\",\"size\":1}}"
        )
        .unwrap();
    }
    text + "]}"
}

#[test]
fn documents_beyond_four_mebibytes_are_not_read() {
    let place = Place::new();
    let index = place.blob(MediaType::ImageIndex, index_of(100_000).as_bytes());
    assert!(index.size > 10 << 20);
    let error = aiot_oci::image::read_index(&place.store, &index.digest).unwrap_err();
    assert!(error.to_string().contains("4194304"), "{error}");
    let spaces = place.blob(MediaType::ImageManifest, &vec![b' '; (4 << 20) + 1]);
    for error in [
        read_manifest(&place.store, &spaces.digest).unwrap_err(),
        read_config(&place.store, &spaces.digest).unwrap_err(),
        BaseImage::read(&place.store, &spaces).unwrap_err(),
    ] {
        assert!(error.to_string().contains("4194304"), "{error}");
    }
    place.is_clean();
}

#[test]
fn json_nested_without_end_is_no_stack_overflow() {
    for open in [
        "[",
        "{\"a\":",
        "{\"config\":",
        "{\"manifests\":[",
        "{\"layers\":[{\"annotations\":{\"a\":",
    ] {
        let text = open.repeat((4 << 20) / open.len());
        assert!(parse_manifest(text.as_bytes()).is_err());
        assert!(parse_index(text.as_bytes()).is_err());
        let deep = format!(
            "{{\"schemaVersion\":2,\"manifests\":[],\"extra\":{}",
            open.repeat(100_000)
        );
        let error = parse_index(deep.as_bytes()).unwrap_err();
        assert!(
            error.contains("recursion limit") || error.contains("EOF"),
            "{error}"
        );
    }
    for sizes in ["-1", "1e30", "18446744073709551616", "\"1\"", "null", "1.5"] {
        let text = index_of(1).replace(":1}", &format!(":{sizes}}}"));
        assert!(parse_index(text.as_bytes()).is_err(), "{sizes}");
    }
    for digest in [
        "md5:00",
        "sha256:../../x",
        "sha256:",
        "sha256:zz",
        "../../../etc/passwd",
    ] {
        let text = index_of(1).replace(&Digest::of(&0_usize.to_be_bytes()).to_string(), digest);
        assert!(parse_index(text.as_bytes()).is_err(), "{digest}");
    }
}

/// The layout of one folder with this index.
fn layout(place: &Place, index: &[u8]) -> std::path::PathBuf {
    let dir = place.path("layout");
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    fs::write(dir.join("index.json"), index).unwrap();
    dir
}

#[test]
fn a_layout_with_a_hundred_thousand_entries_is_read_and_a_larger_one_is_not() {
    let place = Place::new();
    let dir = layout(&place, index_of(100_000).as_bytes());
    assert_eq!(read_layout(&dir).unwrap().len(), 100_000);
    let file = fs::File::options()
        .write(true)
        .open(dir.join("index.json"))
        .unwrap();
    // Sparse: it has the length and takes no space.
    file.set_len(40 << 30).unwrap();
    let error = read_layout(&dir).unwrap_err().to_string();
    assert!(error.contains("`index.json` has 42949672960 bytes"), "{error}");
}

#[test]
fn files_that_never_end_are_not_opened() {
    let place = Place::new();
    let dir = layout(&place, b"{}");
    let index = dir.join("index.json");
    fs::remove_file(&index).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &index).unwrap();
    let error = read_layout(&dir).unwrap_err().to_string();
    assert!(error.contains("`index.json` is no regular file"), "{error}");
    let digest = Digest::of(b"x");
    let blob = dir.join("blobs/sha256").join(digest.hex());
    let store = Store::open_read_only(&dir).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &blob).unwrap();
    let error = store.read_verified(&digest, 100).unwrap_err();
    assert!(format!("{error:?}").contains("no regular file"), "{error:?}");
    fs::remove_file(&blob).unwrap();
    // A pipe that nobody writes into: opening it would wait for ever.
    let made = std::process::Command::new("mkfifo").arg(&blob).status().unwrap();
    assert!(made.success());
    let error = store.open_verified(&digest).unwrap_err();
    assert!(format!("{error:?}").contains("no regular file"), "{error:?}");
}

#[test]
fn layouts_that_contradict_themselves_are_told() {
    let place = Place::new();
    let mut tar = entry(b"../x", b'0', b"x");
    tar.extend(END);
    let layer = place.blob(MediaType::LayerTar, &tar);
    let diff_id = Digest::of(b"another");
    let config = format!(
        "{{\"architecture\":\"arm64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{diff_id}\"]}}}}"
    );
    let config = place.blob(MediaType::ImageConfig, config.as_bytes());
    let manifest = aiot_oci::ImageManifest {
        schema_version: 2,
        media_type: None,
        config,
        layers: vec![layer],
        annotations: Default::default(),
    };
    let manifest = place.blob(MediaType::ImageManifest, &aiot_oci::document::to_bytes(&manifest));
    let dir = place.path("layout");
    aiot_oci::write_layout(&dir, &place.store, &[("m".to_owned(), manifest)]).unwrap();
    let problems = validate_layout(&dir).unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].message.contains("leads outside"), "{problems:?}");
}
