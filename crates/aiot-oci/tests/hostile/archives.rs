//! Layers of a base image that lead elsewhere, never end, or lie about their sizes.

use aiot_oci::layer::list_layer;
use aiot_oci::{EntryKind, LayerLimits, MediaType, image_files};

use crate::support::{END, Place, entry, gzip, header, link, octal, pax};

const FILE: u8 = b'0';
const HARD: u8 = b'1';
const SYMBOLIC: u8 = b'2';

/// A layer of these blocks, plain and with gzip, is refused with this message.
#[track_caller]
fn refused(blocks: &[Vec<u8>], expected: &str) {
    refused_within(LayerLimits::default(), blocks, expected);
}

#[track_caller]
fn refused_within(limits: LayerLimits, blocks: &[Vec<u8>], expected: &str) {
    let mut tar = blocks.concat();
    tar.extend(END);
    let place = Place::new();
    for layer in [
        place.blob(MediaType::LayerTar, &tar),
        place.blob(MediaType::LayerGzip, &gzip(&tar)),
    ] {
        let error = list_layer(&place.store, &layer, limits).unwrap_err().to_string();
        assert!(error.contains(expected), "expected `{expected}`: {error}");
        assert!(error.starts_with(&format!("layer {}", layer.digest)), "{error}");
        assert!(error.len() < 500, "{error}");
    }
    place.is_clean();
}

/// What a layer of these blocks holds: path and kind.
fn listed(blocks: &[Vec<u8>]) -> Vec<(String, EntryKind)> {
    let mut tar = blocks.concat();
    tar.extend(END);
    let place = Place::new();
    let layer = place.blob(MediaType::LayerTar, &tar);
    let entries = list_layer(&place.store, &layer, LayerLimits::default()).unwrap();
    place.is_clean();
    entries
        .into_iter()
        .map(|entry| (entry.path, entry.kind))
        .collect()
}

#[test]
fn paths_outside_the_image() {
    for name in ["../etc/passwd", "a/../../b", "..", "a/..", "/../x", "./../x"] {
        refused(&[entry(name.as_bytes(), FILE, b"x")], "leads outside the image");
        // By way of the extensions that carry long names.
        let long = [
            entry(b"././@LongLink", b'L', name.as_bytes()),
            entry(b"a", FILE, b""),
        ];
        refused(&long, "leads outside the image");
        let pax = [
            entry(b"p", b'x', &pax("path", name.as_bytes())),
            entry(b"a", FILE, b""),
        ];
        refused(&pax, "leads outside the image");
    }
    // Absolute ones are names inside the image.
    let found = listed(&[entry(b"//etc/./passwd", FILE, b"x"), entry(b"/", b'5', b"")]);
    assert_eq!(found[0].0, "etc/passwd");
    assert_eq!(found[1], (String::new(), EntryKind::Directory));
}

#[test]
fn links() {
    refused(
        &[link(b"a", HARD, b"../../etc/shadow")],
        "leads outside the image",
    );
    let long = [
        entry(b"././@LongLink", b'K', b"x/../../y"),
        link(b"a", HARD, b"z"),
    ];
    refused(&long, "leads outside the image");
    let pax = [
        entry(b"p", b'x', &pax("linkpath", b"../y")),
        link(b"a", HARD, b"z"),
    ];
    refused(&pax, "leads outside the image");
    // A symbolic link may say anything, and what later seems to lie below it is a path and nothing more: nothing is
    // ever written through it.
    let found = listed(&[
        link(b"out", SYMBOLIC, b"../../../../tmp"),
        entry(b"out/file", FILE, b"x"),
        link(b"etc/x", HARD, b"/etc/passwd"),
    ]);
    let target = "../../../../tmp".to_owned();
    assert_eq!(found[0], ("out".to_owned(), EntryKind::Symlink { target }));
    assert_eq!(found[1].0, "out/file");
    let target = "etc/passwd".to_owned();
    assert_eq!(found[2], ("etc/x".to_owned(), EntryKind::HardLink { target }));
}

#[test]
fn devices_are_names_without_content() {
    for kind in [b'3', b'4', b'6', b'V', b'?'] {
        let found = listed(&[link(b"dev/sda", kind, b"")]);
        assert_eq!(found, [("dev/sda".to_owned(), EntryKind::Special)], "{kind}");
    }
}

#[test]
fn names_that_are_none() {
    let nul = [entry(b"p", b'x', &pax("path", b"a\0b")), entry(b"a", FILE, b"")];
    refused(&nul, "NUL byte");
    let long = vec![b'n'; 5000];
    let named = [entry(b"././@LongLink", b'L', &long), entry(b"a", FILE, b"")];
    refused(&named, "a path has 5000 bytes");
    let pax = [entry(b"p", b'x', &pax("path", &long)), entry(b"a", FILE, b"")];
    refused(&pax, "a path has 5000 bytes");
    // Bytes of other encodings are shown, not refused.
    let found = listed(&[entry(b"caf\xe9", FILE, b"")]);
    assert_eq!(found[0].0, "caf\u{fffd}");
    // Every name by itself is short enough: all together they are not.
    let many: Vec<Vec<u8>> = (0..200).map(|_| entry(&[b'n'; 90], FILE, b"")).collect();
    let limits = LayerLimits {
        names_size_bytes: 10_000,
        ..LayerLimits::default()
    };
    refused_within(limits, &many, "its names have more than 10000 bytes");
}

#[test]
fn sizes_that_are_none() {
    // Base 256: negative, huge, and more than 64 bits.
    let mut negative = [0xff; 12];
    refused(&[header(b"a", FILE, &negative, b"")], "");
    negative[11] = 0;
    refused(&[header(b"a", FILE, &negative, b"")], "");
    let mut huge = [0; 12];
    (huge[0], huge[4]) = (0x80, 0x7f);
    refused(&[header(b"a", FILE, &huge, b"")], "");
    refused(&[header(b"a", FILE, b"77777777777\0", b"")], "");
    refused(&[header(b"a", FILE, b"-0000000001\0", b"")], "not a number");
    refused(&[header(b"a", FILE, b"0000000000x\0", b"")], "not a number");
    // By PAX, past what a header can say.
    let by_pax = [
        entry(b"p", b'x', &pax("size", b"18446744073709551615")),
        entry(b"a", FILE, b""),
    ];
    refused(&by_pax, "8 GiB or more");
    let sparse = [
        entry(b"p", b'x', &pax("GNU.sparse.major", b"1")),
        entry(b"a", FILE, b""),
    ];
    refused(&sparse, "sparse");
}

#[test]
fn extension_records_of_gigabytes() {
    for kind in [b'x', b'L', b'K'] {
        // Announced only: nothing is read or kept.
        refused(
            &[header(b"a", kind, &octal(7 << 30), b"")],
            "an extension record has 7516192768 bytes",
        );
        refused(
            &[entry(b"a", kind, &vec![b'1'; 65_537])],
            "an extension record has 65537 bytes",
        );
    }
    refused(&[entry(b"a", b'x', b"99999999999999999999 path=x\n")], "");
    refused(&[entry(b"a", b'x', b"no record")], "");
    // Global ones mean nothing here and are passed over, however long, within the limit of the whole archive.
    let limits = LayerLimits {
        uncompressed_size_bytes: 1 << 20,
        ..LayerLimits::default()
    };
    refused_within(
        limits,
        &[entry(b"g", b'g', &vec![b'1'; 2 << 20])],
        "unpacks to more than 1048576 bytes",
    );
}

#[test]
fn bombs() {
    let limits = LayerLimits {
        uncompressed_size_bytes: 8 << 20,
        ..LayerLimits::default()
    };
    let zeros = entry(b"zeros", FILE, &vec![0; 32 << 20]);
    assert!(gzip(&zeros).len() * 500 < zeros.len());
    refused_within(
        limits,
        std::slice::from_ref(&zeros),
        "unpacks to more than 8388608 bytes",
    );
    // Many gzip streams in a row, and an archive that has its end early and goes on for ever after it.
    let place = Place::new();
    let mut streams = gzip(&entry(b"a", FILE, b""));
    streams.extend(gzip(&END));
    (0..40).for_each(|_| streams.extend(gzip(&vec![0; 1 << 20])));
    let layer = place.blob(MediaType::LayerGzip, &streams);
    let error = list_layer(&place.store, &layer, limits).unwrap_err().to_string();
    assert!(error.contains("unpacks to more than"), "{error}");
    let limits = LayerLimits {
        entries: 100,
        ..LayerLimits::default()
    };
    let many: Vec<Vec<u8>> = (0..101).map(|_| entry(b"a", FILE, b"")).collect();
    refused_within(limits, &many, "more than 100 entries");
}

#[test]
fn a_path_that_comes_twice_is_the_last_one() {
    let place = Place::new();
    let mut tar = [
        link(b"app", SYMBOLIC, b"/elsewhere"),
        entry(b"app", FILE, b"first"),
        entry(b"app", FILE, b"second"),
    ]
    .concat();
    tar.extend(END);
    let layer = place.blob(MediaType::LayerTar, &tar);
    // Every whiteout of the second layer hides a folder that is not there, and one that is.
    let mut hiding: Vec<u8> = (0..20_000)
        .flat_map(|i| entry(format!("f{i}/.wh.x").as_bytes(), FILE, b""))
        .collect();
    hiding.extend(entry(b"d/.wh..wh..opq", FILE, b""));
    hiding.extend(entry(b".wh.", FILE, b""));
    hiding.extend(END);
    let below = [
        entry(b"d/a", FILE, b""),
        entry(b"d.b", FILE, b""),
        entry(b"d", b'5', b""),
    ]
    .concat();
    let layers = vec![
        place.blob(MediaType::LayerTar, &below),
        layer,
        place.blob(MediaType::LayerTar, &hiding),
    ];
    let config = place.blob(MediaType::ImageConfig, b"{}");
    let manifest = aiot_oci::ImageManifest {
        schema_version: 2,
        media_type: None,
        config,
        layers,
        annotations: Default::default(),
    };
    let files = image_files(&place.store, &manifest).unwrap();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, [".wh.", "app", "d", "d.b"]);
    assert_eq!(files["app"].size_bytes(), 6);
    place.is_clean();
}
