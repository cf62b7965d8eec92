//! A push over a bad link ends, and sends little more than the image has.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aiot_oci::{
    ClientOptions, Compression, Descriptor, FileMode, FileSource, ImageSpec, LayerBuilder, PushEvent,
    PushOptions, RegistryClient, Repository, RetryPolicy, Store, assemble_image, image,
};
use aiot_testkit::bad_link::{BadLink, Badness, Counts};
use aiot_testkit::registry::Registry;
use aiot_testkit::tools::have;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// An image of two layers, 1 and 12 MiB.
fn bake(store: &Store) -> Descriptor {
    let mut spec = ImageSpec::new("linux/arm64".parse().unwrap());
    for (name, size_mib) in [("module", 1), ("model", 12)] {
        let mut layer = LayerBuilder::new();
        let bytes = name
            .as_bytes()
            .iter()
            .copied()
            .cycle()
            .take(size_mib << 20)
            .collect();
        layer
            .file(name, FileSource::Bytes(bytes), FileMode::Plain)
            .unwrap();
        spec.layers.push(layer.build(store, Compression::None).unwrap());
    }
    assemble_image(store, &spec).unwrap()
}

/// Pushes over a link that is this bad; returns what came through, and the bytes of the image's blobs.
fn push(badness: Badness) -> (Counts, u64) {
    let place = tempfile::tempdir().unwrap();
    let registry = Registry::start(place.path());
    let link = BadLink::start(&registry.address, badness);
    let store = Store::create(&place.path().join("store")).unwrap();
    let root = bake(&store);
    let manifest = image::read_manifest(&store, &root.digest).unwrap();
    let sizes = manifest.layers.iter().chain([&manifest.config]);
    let image_bytes: u64 = sizes.map(|blob| blob.size).sum();
    let positions: Arc<Mutex<std::collections::BTreeMap<_, u64>>> = Arc::default();
    let seen = Arc::clone(&positions);
    let options = PushOptions {
        on_event: Some(Arc::new(move |event| {
            let (digest, position) = match event {
                PushEvent::Sent {
                    digest,
                    position_bytes,
                    ..
                } => (*digest, *position_bytes),
                PushEvent::Delivered {
                    digest, size_bytes, ..
                } => (*digest, *size_bytes),
                PushEvent::Manifest { .. } => return,
            };
            let mut positions = seen.lock().unwrap();
            positions.insert(digest, position);
            assert!(positions.values().sum::<u64>() <= image_bytes);
        })),
        // One by one, so that the seed decides which request fails.
        uploads_in_parallel: 1,
        ..PushOptions::default()
    };
    let client = |attempts| {
        RegistryClient::new(ClientOptions {
            retry: RetryPolicy {
                attempts,
                first_pause: Duration::from_millis(2),
                longest_pause: Duration::from_millis(20),
            },
            ..ClientOptions::default()
        })
    };
    let to: Repository = format!("{}/m", link.address).parse().unwrap();
    block_on(client(12).push(&store, &root, &to, Some("1"), &options)).unwrap();
    // However often a part was sent: told is what the registry has.
    assert_eq!(positions.lock().unwrap().values().sum::<u64>(), image_bytes);
    let direct: Repository = format!("{}/m", registry.address).parse().unwrap();
    let found = block_on(client(1).tag_digest(&direct, "1")).unwrap();
    assert_eq!(found, Some(root.digest));
    (link.counts(), image_bytes)
}

#[test]
fn a_good_link_carries_each_byte_once() {
    if !have(&["docker-registry"]) {
        return;
    }
    for keeps_uploads in [false, true] {
        let (counts, image_bytes) = push(Badness {
            failing_per_mille: 0,
            latency: Duration::ZERO,
            seed: 0,
            keeps_uploads,
        });
        assert_eq!((counts.refused, counts.cut), (0, 0));
        // The manifest, too.
        let more = counts.body_bytes - image_bytes;
        assert!(more < 4096, "{more}");
    }
}

#[test]
fn a_third_of_all_requests_fails_and_half_as_much_again_is_sent_at_most() {
    if !have(&["docker-registry"]) {
        return;
    }
    let run = |keeps_uploads: bool, seeds: std::ops::Range<u64>| -> (f64, u64) {
        let (mut ratios, mut failed) = (0.0, 0);
        let count = (seeds.end - seeds.start) as f64;
        for seed in seeds {
            let (counts, image_bytes) = push(Badness {
                failing_per_mille: 300,
                latency: Duration::from_millis(1),
                seed,
                keeps_uploads,
            });
            failed += counts.refused + counts.cut;
            ratios += counts.body_bytes as f64 / image_bytes as f64;
        }
        (ratios / count, failed)
    };
    for keeps_uploads in [false, true] {
        let (ratio, failed) = run(keeps_uploads, 0..8);
        eprintln!("uploads go on: {keeps_uploads}: {ratio:.2}× sent, {failed} requests failed");
        assert!(failed >= 16, "{failed}");
        assert!(ratio <= 1.5, "{ratio}");
    }
}
