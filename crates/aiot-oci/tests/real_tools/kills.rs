//! Bakes and pushes that end at any moment, as by kill -9: the next one finishes them, and nothing half is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aiot_oci::{
    ClientOptions, Descriptor, MediaType, PushOptions, PushReceipt, Reference, RegistryClient, Repository,
    Store, validate_layout, write_layout,
};

use crate::chunks::is_whole;
use crate::faults::{Fault, Rule, proxy};
use crate::support::{Registry, Workplace, block_on, client, have, image};

/// How often each test kills.
const KILLS: u64 = 50;

/// This program again, as a process that does one job.
fn child(name: &str, job: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("kills::{name}")])
        .env("AIOT_TEST_JOB", job)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills what `start` starts, at moments that are spread over `duration`, until it was killed [`KILLS`] times while it
/// ran; `look` sees what is left each time and whether the job had ended well by then.
fn kill_often(duration: Duration, start: impl Fn() -> Child, mut look: impl FnMut(bool)) {
    let (mut killed, mut state) = (0, 0x9E37_79B9_u64);
    for _ in 0..4 * KILLS {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let part = (state >> 40) as f64 / f64::from(1 << 24);
        let mut child = start();
        std::thread::sleep(duration.mul_f64(part));
        let ended = child.try_wait().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
        assert!(ended.is_none_or(|status| status.success()));
        killed += u64::from(ended.is_none());
        look(ended.is_some());
        if killed == KILLS {
            return;
        }
    }
    panic!("killed only {killed} times while it ran");
}

/// How long a job takes that nobody kills.
fn duration_of(mut child: Child) -> Duration {
    let start = Instant::now();
    assert!(child.wait().unwrap().success());
    start.elapsed()
}

/// Not a test of its own: the process that [`a_killed_push_goes_on`] kills.
#[test]
fn child_that_pushes() {
    let Ok(job) = std::env::var("AIOT_TEST_JOB") else {
        return;
    };
    let parts: Vec<&str> = job.split('|').collect();
    let [store, digest, repository, piece_bytes] = parts[..] else {
        panic!("{job}");
    };
    let store = Store::create(Path::new(store)).unwrap();
    let digest = digest.parse().unwrap();
    let size = std::fs::metadata(store.path(&digest)).unwrap().len();
    let index = Descriptor::new(MediaType::ImageIndex, digest, size);
    let repository: Repository = repository.parse().unwrap();
    let client = RegistryClient::new(ClientOptions {
        // 0: whole blobs.
        chunk_bytes: BTreeMap::from([(repository.registry().to_owned(), piece_bytes.parse().unwrap())]),
        ..ClientOptions::default()
    });
    block_on(client.push(&store, &index, &repository, Some("1"), &PushOptions::default())).unwrap();
}

#[test]
fn a_killed_push_goes_on() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let number = std::cell::Cell::new(0);
    let repository = || registry.repository(&format!("m{}", number.get()));
    let start = || {
        let store = place.store.root().display();
        child(
            "child_that_pushes",
            &format!("{store}|{}|{}|{}", index.digest, repository(), 64 << 10),
        )
    };
    let duration = duration_of(start());
    number.set(1);
    kill_often(duration, start, |_| {
        let reference: Reference = format!("{}:1", repository()).parse().unwrap();
        // The tag names the whole image or nothing. Once it does, another repository is next.
        if block_on(client().resolve(&reference)).is_ok() {
            is_whole(&place, &repository(), &index.digest);
            number.set(number.get() + 1);
        }
    });
    assert!(start().wait().unwrap().success());
    is_whole(&place, &repository(), &index.digest);
    let (to, options) = (repository(), PushOptions::default());
    let again = block_on(client().push(&place.store, &index, &to, Some("1"), &options));
    assert_eq!(again.unwrap(), PushReceipt::default());
}

/// What a proxy saw of one repository's uploads.
#[derive(Default)]
struct Seen {
    /// Blobs that the registry had when a client asked for them.
    known: BTreeSet<String>,
    /// Blobs that were sent although a client had been told that they are there.
    repeated: Vec<String>,
    /// Bytes of all uploads that began.
    begun_bytes: u64,
}

#[test]
fn after_a_kill_only_what_is_missing_is_sent() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let seen: Arc<Mutex<BTreeMap<String, Seen>>> = Arc::default();
    let (watching, upstream) = (Arc::clone(&seen), registry.address.clone());
    let rule: Rule = Box::new(move |head| {
        let Some((repository, _)) = head.path.split_once("/blobs/") else {
            return Fault::Pass;
        };
        let mut watching = watching.lock().unwrap();
        let seen = watching.entry(repository.to_owned()).or_default();
        if head.method == "HEAD" {
            let digest = head.path.rsplit('/').next().unwrap();
            if is_there(&upstream, &head.path) {
                seen.known.insert(digest.to_owned());
            }
        } else if let Some((_, digest)) = head.path.split_once("digest=") {
            let digest = digest.replace("%3A", ":");
            seen.begun_bytes += head.headers["content-length"].parse::<u64>().unwrap();
            if seen.known.contains(&digest) {
                seen.repeated.push(digest);
            }
        }
        Fault::Pass
    });
    let gate = proxy(&registry.address, rule);
    let number = std::cell::Cell::new(0);
    let start = || {
        let (store, to) = (place.store.root().display(), format!("{gate}/k{}", number.get()));
        child("child_that_pushes", &format!("{store}|{}|{to}|0", index.digest))
    };
    let duration = duration_of(start());
    let sent = |number: u32| seen.lock().unwrap()[&format!("/v2/k{number}")].begun_bytes;
    let image_bytes = sent(0);
    number.set(1);
    kill_often(duration, start, |_| {
        let reference: Reference = format!("{}/k{}:1", registry.address, number.get())
            .parse()
            .unwrap();
        if block_on(client().resolve(&reference)).is_ok() {
            number.set(number.get() + 1);
        }
    });
    assert!(start().wait().unwrap().success());
    is_whole(
        &place,
        &registry.repository(&format!("k{}", number.get())),
        &index.digest,
    );
    let seen = seen.lock().unwrap();
    for (repository, seen) in seen.iter() {
        assert!(seen.repeated.is_empty(), "{repository}: {:?}", seen.repeated);
        assert!(seen.begun_bytes >= image_bytes, "{repository}");
    }
    assert!(
        seen.values().any(|seen| !seen.known.is_empty()),
        "no kill left a blob behind"
    );
}

/// Whether a registry has a blob.
fn is_there(address: &str, path: &str) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "HEAD {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.starts_with("HTTP/1.1 200")
}

/// Two images into `dir/store` and `dir/layout`.
fn bake(dir: &Path) -> Vec<Descriptor> {
    let store = Store::create(&dir.join("store")).unwrap();
    let images: Vec<_> = ["a", "b"].map(|model| image(&store, "linux/arm", model)).into();
    let entries = [
        ("a".to_owned(), images[0].clone()),
        ("b".to_owned(), images[1].clone()),
    ];
    write_layout(&dir.join("layout"), &store, &entries).unwrap();
    images
}

/// Not a test of its own: the process that [`a_killed_bake_goes_on`] kills.
#[test]
fn child_that_bakes() {
    if let Ok(job) = std::env::var("AIOT_TEST_JOB") {
        bake(Path::new(&job));
    }
}

#[test]
fn a_killed_bake_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole");
    let wanted = bake(&whole);
    let start = || {
        child(
            "child_that_bakes",
            &place.path().join("killed").display().to_string(),
        )
    };
    let duration = duration_of(start());
    let killed = place.path().join("killed");
    std::fs::remove_dir_all(&killed).unwrap();
    let mut ended = 0;
    kill_often(duration, start, |is_whole| {
        // Whatever stands under its digest is whole: the store reads and compares it.
        if let Ok(store) = Store::open_read_only(&killed.join("store")) {
            for image in &wanted {
                if store.path(&image.digest).exists() {
                    store.read_verified(&image.digest, 1 << 20).unwrap();
                }
            }
        }
        if is_whole {
            ended += 1;
            assert_eq!(validate_layout(&killed.join("layout")).unwrap(), []);
            std::fs::remove_dir_all(&killed).unwrap();
        }
    });
    assert_eq!(bake(&killed), wanted);
    assert_eq!(validate_layout(&killed.join("layout")).unwrap(), []);
    let index = |dir: &Path| std::fs::read(dir.join("layout/index.json")).unwrap();
    assert_eq!(index(&killed), index(&whole), "after {ended} bakes that ended");
}
