use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;

/// A store in memory.
#[derive(Default)]
struct Shelf(RefCell<BTreeMap<Digest, Vec<u8>>>);

impl Store for Shelf {
    fn get(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.borrow().get(digest).cloned())
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().insert(*digest, bytes.to_vec());
        Ok(())
    }
}

/// URL → bytes, or why not.
struct Web(BTreeMap<String, Result<Vec<u8>, FetchError>>);

impl Fetch for Web {
    fn fetch(&self, url: &str, _: u64) -> Result<Vec<u8>, FetchError> {
        self.0.get(url).cloned().unwrap_or(Err(FetchError::NotFound))
    }
}

const GOOD: &[u8] = b"good";

fn locked() -> LockedPackage {
    LockedPackage {
        name: "libc6".into(),
        version: "2.41-12".into(),
        architecture: "armhf".into(),
        filename: "pool/main/g/libc6.deb".into(),
        size_bytes: GOOD.len() as u64,
        digest: Digest::of(GOOD),
    }
}

/// `stored`, `mirror`, `snapshot`: what each has; shows the origin, or the error.
fn outcome(stored: Option<&[u8]>, mirror: Result<&[u8], FetchError>, snapshot: Option<&[u8]>) -> String {
    let shelf = Shelf::default();
    if let Some(stored) = stored {
        shelf.put(&locked().digest, stored).unwrap();
    }
    let found = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec).ok_or(FetchError::NotFound);
    let web = Web(BTreeMap::from([
        (
            "http://m.example/debian/pool/main/g/libc6.deb".to_string(),
            mirror.map(<[u8]>::to_vec),
        ),
        (
            "http://s.example/1/pool/main/g/libc6.deb".to_string(),
            found(snapshot),
        ),
    ]));
    let sources = PackageSources {
        store: &shelf,
        fetch: Some(&web),
        mirror: Some("http://m.example/debian/"),
        snapshot: snapshot.map(|_| "http://s.example/1"),
    };
    match fetch_package(&locked(), &sources) {
        Ok(fetched) => {
            assert_eq!(fetched.bytes, GOOD);
            assert_eq!(shelf.get(&locked().digest).unwrap().as_deref(), Some(GOOD));
            format!(
                "{}{}",
                fetched.origin,
                if fetched.store_was_corrupt {
                    ", store repaired"
                } else {
                    ""
                }
            )
        }
        Err(error) => format!("retry {}: {error}", error.retry_may_help()),
    }
}

#[test]
fn asks_store_then_mirror_then_snapshot() {
    let gone = || Err(FetchError::NotFound);
    assert_eq!(outcome(Some(GOOD), gone(), None), "store");
    assert_eq!(outcome(None, Ok(GOOD), None), "mirror");
    assert_eq!(outcome(None, gone(), Some(GOOD)), "snapshot archive");
    assert_eq!(outcome(None, Ok(b"evil"), Some(GOOD)), "snapshot archive");
    assert_eq!(outcome(Some(b"evil"), Ok(GOOD), None), "mirror, store repaired");
}

#[test]
fn the_error_names_package_sources_and_the_next_step() {
    let error = outcome(None, Err(FetchError::NotFound), None);
    assert_eq!(
        error,
        "retry false: libc6 2.41-12 (armhf) is not to be had: store: not found; mirror \
         (http://m.example/debian/pool/main/g/libc6.deb): not found. Old versions leave a mirror after a point \
         release: declare a snapshot archive that has it, or run `cargo xtask update base` to move the lock to \
         what the mirror has now"
    );
    let busy = FetchError::Failed {
        reason: "HTTP 503".into(),
        retry_may_help: true,
    };
    let error = outcome(Some(b"evil"), Err(busy), None);
    assert!(
        error.starts_with("retry true:") && error.contains("store: corrupt: SHA-256 is"),
        "{error}"
    );
    assert!(outcome(None, Ok(b"long answer"), None).contains("11 bytes came, expected 4"));
}

#[test]
fn offline_only_the_store_is_asked() {
    let shelf = Shelf::default();
    let sources = PackageSources {
        store: &shelf,
        fetch: None,
        mirror: Some("http://m.example"),
        snapshot: None,
    };
    let error = fetch_package(&locked(), &sources).unwrap_err().to_string();
    assert!(error.ends_with("run once online"), "{error}");
    shelf.put(&locked().digest, GOOD).unwrap();
    assert_eq!(
        fetch_package(&locked(), &sources).unwrap().origin,
        PackageOrigin::Store
    );
}

#[test]
fn urls_lose_their_secrets() {
    for (url, expected) in [
        ("http://m.example/debian", "http://m.example/debian"),
        (
            "https://user:pass@m.example/debian/a@b",
            "https://m.example/debian/a@b",
        ),
        ("https://m.example/x?sig=secret#f", "https://m.example/x"),
        ("nonsense", "nonsense"),
    ] {
        assert_eq!(redact_url(url), expected);
    }
}
