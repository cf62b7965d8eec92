//! Results of earlier runs on disk: one small JSON file per key, and per action id the key that it had last.
//!
//! A result counts only while all its blobs are in the store. A blob whose file was touched after it was written is
//! hashed again before it is believed, so a damaged one is noticed, named and made anew.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use aiot_oci::{Digest, Store};
use aiot_plan::action::{Lookup, Output, Record, Results};
use serde::{Deserialize, Serialize};

use crate::error::{BuildError, io};

/// The results below a folder.
pub struct Cache {
    dir: PathBuf,
    store: Store,
    /// Blobs that were hashed, by the state of their file then.
    verified: Mutex<BTreeMap<Digest, FileState>>,
    verified_path: PathBuf,
    changed: Mutex<bool>,
}

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    size_bytes: u64,
    modified_nanos: u128,
    inode: u64,
}

impl FileState {
    /// The state of a file; `None` where there is none.
    pub fn of(metadata: &std::fs::Metadata) -> FileState {
        use std::os::unix::fs::MetadataExt;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        FileState {
            size_bytes: metadata.len(),
            modified_nanos: modified.map_or(0, |time| time.as_nanos()),
            inode: metadata.ino(),
        }
    }
}

impl Cache {
    /// Opens the results in `dir`, whose blobs are in `store`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(dir: PathBuf, store: Store) -> Result<Cache, BuildError> {
        for folder in [dir.join("results"), dir.join("last")] {
            std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        }
        let verified_path = dir.join("verified.json");
        // A list that cannot be read costs a second hashing, nothing more.
        let verified = std::fs::read(&verified_path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Cache {
            dir,
            store,
            verified: Mutex::new(verified.unwrap_or_default()),
            verified_path,
            changed: Mutex::new(false),
        })
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, record: &Record) -> Result<(), BuildError> {
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        self.write(self.result_path(&record.key), &bytes)?;
        self.write(self.last_path(&record.id), record.key.to_string().as_bytes())?;
        for output in record.outputs.values() {
            // Just written, so known to be right: no need to hash it at the next run.
            if let Ok(metadata) = std::fs::metadata(self.store.path(&output.digest)) {
                self.remember(output.digest, FileState::of(&metadata));
            }
        }
        Ok(())
    }

    /// Writes down which blobs were hashed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), BuildError> {
        if *self.changed.lock().expect("no panic while held") {
            let list = self.verified.lock().expect("no panic while held");
            self.write(
                self.verified_path.clone(),
                &serde_json::to_vec(&*list).expect("plain data"),
            )?;
        }
        Ok(())
    }

    fn write(&self, path: PathBuf, bytes: &[u8]) -> Result<(), BuildError> {
        let file = tempfile::NamedTempFile::new_in(&self.dir).map_err(io("create a file in", &self.dir))?;
        std::fs::write(file.path(), bytes).map_err(io("write", file.path()))?;
        file.persist(&path).map_err(|error| BuildError::Io {
            action: "write",
            path,
            source: error.error,
        })?;
        Ok(())
    }

    fn result_path(&self, key: &Digest) -> PathBuf {
        self.dir.join("results").join(key.hex())
    }

    fn last_path(&self, id: &str) -> PathBuf {
        self.dir.join("last").join(Digest::of(id.as_bytes()).hex())
    }

    fn read(&self, key: &Digest) -> Option<Record> {
        let bytes = std::fs::read(self.result_path(key)).ok()?;
        serde_json::from_slice(&bytes)
            .ok()
            .filter(|record: &Record| record.key == *key)
    }

    fn remember(&self, digest: Digest, state: FileState) {
        let before = self
            .verified
            .lock()
            .expect("no panic while held")
            .insert(digest, state);
        if before != Some(state) {
            *self.changed.lock().expect("no panic while held") = true;
        }
    }

    /// Whether the blob is there and right.
    fn is_good(&self, output: &Output) -> bool {
        let Ok(metadata) = std::fs::metadata(self.store.path(&output.digest)) else {
            return false;
        };
        if metadata.len() != output.size_bytes {
            return false;
        }
        let state = FileState::of(&metadata);
        if self
            .verified
            .lock()
            .expect("no panic while held")
            .get(&output.digest)
            == Some(&state)
        {
            return true;
        }
        let good = self
            .store
            .open_verified(&output.digest)
            .and_then(|reader| reader.finish())
            .is_ok();
        if good {
            self.remember(output.digest, state);
        }
        good
    }
}

impl Results for Cache {
    fn result(&self, key: &Digest) -> Lookup {
        let Some(record) = self.read(key) else {
            return Lookup::Miss;
        };
        match record.outputs.values().find(|output| !self.is_good(output)) {
            Some(output) => Lookup::Lost {
                digest: output.digest,
            },
            None => Lookup::Hit(record),
        }
    }

    fn previous(&self, id: &str) -> Option<Record> {
        let key = std::fs::read_to_string(self.last_path(id)).ok()?;
        self.read(&key.parse().ok()?)
    }
}
