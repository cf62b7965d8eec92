//! Bakes and pushes that end at any moment, as by kill -9: the next one finishes them, and nothing half is trusted.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aiot_oci::{
    ClientOptions, Descriptor, MediaType, PushOptions, PushReceipt, Reference, RegistryClient, Repository,
    Store, validate_layout, write_layout,
};

use crate::chunks::is_whole;
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
    let (store, rest) = job.split_once('|').unwrap();
    let (digest, repository) = rest.split_once('|').unwrap();
    let store = Store::create(Path::new(store)).unwrap();
    let digest = digest.parse().unwrap();
    let size = std::fs::metadata(store.path(&digest)).unwrap().len();
    let index = Descriptor::new(MediaType::ImageIndex, digest, size);
    let repository: Repository = repository.parse().unwrap();
    let client = RegistryClient::new(ClientOptions {
        chunk_bytes: BTreeMap::from([(repository.registry().to_owned(), 64 << 10)]),
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
            &format!("{store}|{}|{}", index.digest, repository()),
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
