use super::*;
use proptest::prelude::*;

fn new_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    (dir, store)
}

fn bytes(text: &str) -> FileSource {
    FileSource::Bytes(text.as_bytes().to_vec())
}

/// Known content: a program, its library, a link, a temporary folder; compressible and not.
fn known() -> LayerBuilder {
    let noise: Vec<u8> = (0..40_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut layer = LayerBuilder::new();
    layer
        .file(
            "/usr/bin/vision",
            bytes(&"program ".repeat(50_000)),
            FileMode::Executable,
        )
        .and_then(|layer| layer.file("model/model.onnx", FileSource::Bytes(noise), FileMode::Plain))
        .and_then(|layer| layer.symlink("usr/lib/libonnxruntime.so", "libonnxruntime.so.1"))
        .and_then(|layer| layer.directory("tmp", DirectoryMode::Sticky))
        .unwrap();
    layer
}

fn listing(store: &Store, layer: &Layer) -> Vec<String> {
    list_layer(store, &layer.descriptor, LayerLimits::default())
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!((entry.uid, entry.gid), (0, 0));
            let kind = match &entry.kind {
                EntryKind::File { size_bytes } => format!("file {size_bytes}"),
                EntryKind::Directory => "directory".to_owned(),
                EntryKind::Symlink { target } => format!("-> {target}"),
                other => panic!("{other:?}"),
            };
            format!("{:04o} {} {kind}", entry.mode, entry.path)
        })
        .collect()
}

#[test]
fn known_bytes_have_known_digests() {
    let (_dir, store) = new_store();
    let plain = known().build(&store, Compression::None).unwrap();
    let gzip = known().build(&store, Compression::Gzip).unwrap();
    let zstd = known().build(&store, Compression::Zstd).unwrap();
    let expected = [
        "1777 tmp directory",
        "0755 usr directory",
        "0755 usr/bin directory",
        "0755 usr/bin/vision file 400000",
        "0755 usr/lib directory",
        "0777 usr/lib/libonnxruntime.so -> libonnxruntime.so.1",
    ];
    for layer in [&plain, &gzip, &zstd] {
        let listing = listing(&store, layer);
        assert_eq!(
            listing[..2],
            ["0755 model directory", "0644 model/model.onnx file 40000"]
        );
        assert_eq!(listing[2..], expected);
    }
    // If only these differ, the header or the encoder changed: then LAYER_FORMAT_VERSION must grow.
    assert_eq!(plain.diff_id.hex(), PLAIN);
    assert_eq!(plain.descriptor.digest, plain.diff_id);
    for (compressed, digest) in [(gzip, GZIP), (zstd, ZSTD)] {
        assert_eq!(compressed.diff_id, plain.diff_id);
        assert_eq!(compressed.uncompressed_size_bytes, plain.uncompressed_size_bytes);
        assert_eq!(compressed.descriptor.digest.hex(), digest);
    }
}

const PLAIN: &str = "02caf7a03665cbe76e6a52595b9cb7908f212ab50e207d2c71b07c118e897bf4";
const GZIP: &str = "8a77317a34d7c184052e5ae13b5830185a776666a853bcb46a363f79c1a1fea2";
const ZSTD: &str = "31facc71c3da6a98a8d3820eba1d85b716aff27d00f4e21b6d6f437e37cb8bf5";

#[test]
fn gnu_tar_reads_it() {
    let (_dir, store) = new_store();
    let plain = known().build(&store, Compression::None).unwrap();
    let out = std::process::Command::new("tar")
        .args(["--numeric-owner", "--utc", "-tvf"])
        .arg(store.path(&plain.descriptor.digest))
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{:?}", out.stderr);
    assert!(
        text.contains("drwxrwxrwt 0/0") && text.contains("1970-01-01 00:00 usr/bin/vision"),
        "{text}"
    );
}

#[test]
fn all_sources_give_the_same_layer() {
    let (dir, store) = new_store();
    let path = dir.path().join("input");
    std::fs::write(&path, b"weights").unwrap();
    let blob = store.put_bytes(b"weights").unwrap();
    let layers: Vec<Layer> = [
        bytes("weights"),
        FileSource::Path(path),
        FileSource::Blob(blob.digest),
    ]
    .into_iter()
    .map(|source| {
        let mut layer = LayerBuilder::new();
        layer.file("a", source, FileMode::Plain).unwrap();
        layer.build(&store, Compression::Gzip).unwrap()
    })
    .collect();
    assert!(layers.iter().all(|layer| *layer == layers[0]));
}

#[test]
fn a_corrupt_source_blob_gives_no_layer() {
    let (_dir, store) = new_store();
    let blob = store.put_bytes(b"weights").unwrap();
    let path = store.path(&blob.digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"weightS").unwrap();
    let mut layer = LayerBuilder::new();
    layer
        .file("a", FileSource::Blob(blob.digest), FileMode::Plain)
        .unwrap();
    let result = layer.build(&store, Compression::None);
    assert!(
        matches!(result, Err(LayerError::Store(StoreError::Corrupt { digest, .. })) if digest == blob.digest)
    );
    assert!(store.digests().unwrap().is_empty());
}

#[test]
fn paths_are_normalized_or_refused() {
    let check = |path: &str, expected: Result<&str, &str>| match (normalize(path, false), expected) {
        (Ok(name), Ok(expected)) => assert_eq!(name, expected),
        (Err(LayerError::Path { reason, .. }), Err(part)) => assert!(reason.contains(part), "{reason}"),
        (got, _) => panic!("{path}: {got:?}"),
    };
    check("a", Ok("a"));
    check("/a//./b", Ok("a/b"));
    check("./a", Ok("a"));
    check("ä/ß", Ok("ä/ß"));
    check("..a/b..", Ok("..a/b.."));
    check("", Err("empty"));
    check("/", Err("empty"));
    check("a/../b", Err("`..`"));
    check("..", Err("`..`"));
    check("a\nb", Err("control"));
    check("a\0", Err("control"));
    check("a\\b", Err("backslash"));
    check("a/", Err("no directory"));
    check("a/.wh.b", Err("deletion"));
    check(&"x".repeat(100), Ok(&"x".repeat(100)));
    check(&"x".repeat(101), Err("100 bytes"));
    assert!(normalize(&"x".repeat(99), true).is_ok());
    assert!(normalize(&"x".repeat(100), true).is_err());
}

#[test]
fn contradictions_are_refused() {
    let build = |add: &dyn Fn(&mut LayerBuilder) -> Result<(), LayerError>| add(&mut LayerBuilder::new());
    let conflict = |result: Result<(), LayerError>| matches!(result, Err(LayerError::Conflict { .. }));
    let file = |layer: &mut LayerBuilder, path: &str| layer.file(path, bytes(""), FileMode::Plain).map(drop);
    assert!(conflict(build(
        &|layer| file(layer, "a").and_then(|()| file(layer, "/a"))
    )));
    assert!(conflict(build(
        &|layer| file(layer, "a").and_then(|()| file(layer, "a/b"))
    )));
    assert!(conflict(build(
        &|layer| file(layer, "a/b").and_then(|()| file(layer, "a"))
    )));
    assert!(conflict(build(&|layer| layer
        .symlink("a", "b")
        .map(drop)
        .and_then(|()| file(layer, "a/b")))));
    let mut layer = LayerBuilder::new();
    layer.file("a/b", bytes(""), FileMode::Plain).unwrap();
    layer.directory("a", DirectoryMode::Sticky).unwrap();
    layer.directory("a", DirectoryMode::Sticky).unwrap();
    assert!(layer.directory("a", DirectoryMode::Plain).is_err());
    assert!(layer.symlink("l", "").is_err() && layer.symlink("l", &"x".repeat(101)).is_err());
}

#[test]
fn a_file_that_changes_length_is_refused() {
    let (dir, store) = new_store();
    let mut layer = LayerBuilder::new();
    layer
        .file("a", FileSource::Path("/proc/self/status".into()), FileMode::Plain)
        .unwrap();
    assert!(matches!(
        layer.build(&store, Compression::None),
        Err(LayerError::FileChanged { expected: 0, .. })
    ));
    let mut layer = LayerBuilder::new();
    layer
        .file("a", FileSource::Path(dir.path().into()), FileMode::Plain)
        .unwrap();
    assert!(layer.build(&store, Compression::None).is_err());
}

/// A tar archive made by the library, as a blob with the given media type.
fn foreign(
    store: &Store,
    media_type: MediaType,
    make: impl FnOnce(&mut tar::Builder<Vec<u8>>),
) -> Descriptor {
    let mut builder = tar::Builder::new(Vec::new());
    make(&mut builder);
    let mut bytes = builder.into_inner().unwrap();
    if media_type == MediaType::LayerGzip {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        bytes = encoder.finish().unwrap();
    }
    let blob = store.put_bytes(&bytes).unwrap();
    Descriptor::new(media_type, blob.digest, blob.size)
}

fn raw_entry(builder: &mut tar::Builder<Vec<u8>>, name: &[u8], kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

#[test]
fn foreign_layers_are_read_with_their_extensions() {
    let (_dir, store) = new_store();
    let long = "d/".repeat(120) + "name";
    let layer = foreign(&store, MediaType::DockerLayerTar, |builder| {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(0);
        builder.append_data(&mut header, &long, &b"abc"[..]).unwrap();
        builder
            .append_pax_extensions([("path", "from/pax".as_bytes())])
            .unwrap();
        raw_entry(builder, b"short", tar::EntryType::Regular, b"x");
        raw_entry(builder, b"/dev/null", tar::EntryType::Char, b"");
        raw_entry(builder, b"./", tar::EntryType::Directory, b"");
    });
    let entries = list_layer(&store, &layer, LayerLimits::default()).unwrap();
    let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, [long.as_str(), "from/pax", "dev/null", ""]);
    assert_eq!((entries[0].mode, entries[0].uid), (0o4755, 1000));
    assert_eq!(entries[2].kind, EntryKind::Special);
}

#[test]
fn hostile_layers_end_in_an_error() {
    let (_dir, store) = new_store();
    let check = |layer: Descriptor, limits: LayerLimits, part: &str| {
        let error = list_layer(&store, &layer, limits).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!error.is_empty() && store.contains(&layer.digest, layer.size));
    };
    let limits = LayerLimits::default();
    let of = |name: &'static [u8], kind| {
        foreign(&store, MediaType::LayerTar, move |builder| {
            raw_entry(builder, name, kind, b"")
        })
    };
    check(
        of(b"../etc/passwd", tar::EntryType::Regular),
        limits,
        "leads outside",
    );
    check(of(b"a/../../b", tar::EntryType::Regular), limits, "leads outside");
    let link = foreign(&store, MediaType::LayerTar, |builder| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.as_mut_bytes()[157..170].copy_from_slice(b"../etc/shadow");
        header.set_size(0);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.as_mut_bytes()[..1].copy_from_slice(b"l");
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
    });
    check(link, limits, "leads outside");
    let long = foreign(&store, MediaType::LayerTar, |builder| {
        raw_entry(builder, b"l", tar::EntryType::GNULongName, &vec![b'x'; 70_000]);
    });
    check(long, limits, "extension record");
    let bomb = foreign(&store, MediaType::LayerGzip, |builder| {
        raw_entry(builder, b"zeros", tar::EntryType::Regular, &vec![0; 4 << 20]);
    });
    assert!(bomb.size < 100_000);
    check(
        bomb,
        LayerLimits {
            uncompressed_size_bytes: 1 << 20,
            ..limits
        },
        "unpacks to more than",
    );
    let many = foreign(&store, MediaType::LayerTar, |builder| {
        (0..20).for_each(|_| raw_entry(builder, b"a", tar::EntryType::Regular, b""));
    });
    check(
        many,
        LayerLimits {
            entries: 10,
            ..limits
        },
        "more than 10 entries",
    );
    let blob = store.put_bytes(b"no archive at all").unwrap();
    check(
        Descriptor::new(MediaType::LayerGzip, blob.digest, blob.size),
        limits,
        "",
    );
    check(
        Descriptor::new(MediaType::LayerZstd, blob.digest, blob.size),
        limits,
        "Unknown frame descriptor",
    );
    // A frame that asks for a window of 4 GiB: magic number, frame header, window, an empty last block.
    let blob = store
        .put_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xb0, 0x01, 0x00, 0x00])
        .unwrap();
    check(
        Descriptor::new(MediaType::LayerZstd, blob.digest, blob.size),
        limits,
        "too much memory",
    );
    let mut zeros = LayerBuilder::new();
    zeros
        .file("zeros", FileSource::Bytes(vec![0; 4 << 20]), FileMode::Plain)
        .unwrap();
    let bomb = zeros.build(&store, Compression::Zstd).unwrap().descriptor;
    assert!(bomb.size < 2_000);
    check(
        bomb,
        LayerLimits {
            uncompressed_size_bytes: 1 << 20,
            ..limits
        },
        "unpacks to more than",
    );
    check(
        Descriptor::new(MediaType::ImageConfig, blob.digest, blob.size),
        limits,
        "is no layer",
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_of_entries_and_threads_never_change_a_digest(
        names in proptest::collection::btree_set("[a-c]{1,2}(/[d-f]{1,2}){0,3}", 1..12),
        seed in any::<u64>(),
    ) {
        // A name that is another's parent would be a contradiction: make every file's last part unique to files.
        let files: Vec<String> = names.iter().map(|name| format!("{name}/file")).collect();
        let mut shuffled = files.clone();
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, (seed.rotate_left(i as u32) % (i as u64 + 1)) as usize);
        }
        let (_dir, store) = new_store();
        let build = |files: &[String]| {
            let mut layer = LayerBuilder::new();
            for file in files {
                layer.file(file, bytes(file), FileMode::Plain).unwrap();
            }
            layer.build(&store, Compression::Gzip).unwrap()
        };
        let expected = build(&files);
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..3).map(|_| scope.spawn(|| build(&shuffled))).collect();
            for handle in handles {
                assert_eq!(handle.join().unwrap(), expected);
            }
        });
    }

    #[test]
    fn reading_random_bytes_never_panics(content in proptest::collection::vec(any::<u8>(), 0..3000), kind in 0..3usize) {
        let (_dir, store) = new_store();
        let blob = store.put_bytes(&content).unwrap();
        let media_type = [MediaType::LayerTar, MediaType::LayerGzip, MediaType::LayerZstd][kind].clone();
        let _ = list_layer(&store, &Descriptor::new(media_type, blob.digest, blob.size), LayerLimits::default());
    }
}
