use super::*;
use std::os::unix::fs::PermissionsExt;

fn new_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn what_goes_in_comes_out() {
    let (_dir, store) = new_store();
    let blob = store.put_bytes(b"hello").unwrap();
    assert_eq!(
        blob,
        Blob {
            digest: Digest::of(b"hello"),
            size: 5
        }
    );
    assert_eq!(store.put_reader(&mut &b"hello"[..]).unwrap(), blob);
    assert!(store.contains(&blob.digest, 5) && !store.contains(&blob.digest, 6));
    assert_eq!(store.read_verified(&blob.digest, 5).unwrap(), b"hello");
    assert!(matches!(
        store.read_verified(&blob.digest, 4),
        Err(StoreError::TooLarge { size_bytes: 5, .. })
    ));
    assert_eq!(
        fs::metadata(store.path(&blob.digest))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o444
    );
    assert_eq!(fs::read_dir(store.incoming_dir()).unwrap().count(), 0);
    assert!(matches!(
        store.read_verified(&Digest::of(b"x"), 9),
        Err(StoreError::Missing { .. })
    ));
}

#[test]
fn a_corrupt_blob_is_named_moved_aside_and_made_anew() {
    let (dir, store) = new_store();
    let good = store.put_bytes(b"good").unwrap();
    let blob = store.put_bytes(b"hello").unwrap();
    let path = store.path(&blob.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"hellO").unwrap();

    let read_only = Store::open_read_only(dir.path()).unwrap();
    assert!(matches!(
        read_only.read_verified(&blob.digest, 9),
        Err(StoreError::Corrupt { .. })
    ));
    assert!(path.exists(), "a reader moves nothing");

    match store.read_verified(&blob.digest, 9) {
        Err(StoreError::Corrupt {
            digest,
            found,
            path: aside,
        }) => {
            assert_eq!((digest, found), (blob.digest, Digest::of(b"hellO")));
            assert_eq!(fs::read(aside).unwrap(), b"hellO");
        }
        other => panic!("{other:?}"),
    }
    assert!(!store.contains(&blob.digest, 5));
    store.put_bytes(b"hello").unwrap();
    assert_eq!(store.read_verified(&blob.digest, 9).unwrap(), b"hello");
    assert!(store.verify_all().unwrap().is_empty());
    assert_eq!(store.digests().unwrap().len(), 2);

    fs::remove_file(store.path(&good.digest)).unwrap();
    fs::write(store.path(&good.digest), b"").unwrap();
    assert_eq!(store.verify_all().unwrap().len(), 1);
}

#[test]
fn nothing_is_stored_unless_it_is_the_announced_blob() {
    let (_dir, store) = new_store();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"evil").unwrap();
    assert!(matches!(
        writer.commit_expected(&Digest::of(b"good"), 4),
        Err(StoreError::Mismatch { .. })
    ));
    assert!(store.digests().unwrap().is_empty());
    assert!(Store::open_read_only(store.root()).unwrap().writer().is_err());
    assert!(matches!(
        Store::open_read_only(&store.root().join("x")),
        Err(StoreError::NotAStore { .. })
    ));
}

#[test]
fn a_crashed_writers_file_goes_and_a_living_ones_stays() {
    let (dir, store) = new_store();
    fs::write(store.incoming_dir().join("blob-dead"), b"half").unwrap();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"alive").unwrap();
    Store::create(dir.path()).unwrap();
    assert_eq!(fs::read_dir(store.incoming_dir()).unwrap().count(), 1);
    assert_eq!(writer.commit().unwrap().digest, Digest::of(b"alive"));
}

#[test]
fn many_writers_of_the_same_blobs() {
    let (dir, _) = new_store();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::create(dir.path()).unwrap();
                for number in 0..50u32 {
                    store.put_bytes(&number.to_le_bytes()).unwrap();
                }
            });
        }
    });
    let store = Store::open_read_only(dir.path()).unwrap();
    assert_eq!(store.digests().unwrap().len(), 50);
    assert!(store.verify_all().unwrap().is_empty());
}
