//! Blobs by digest in a folder, verified when they are read.
//!
//! The folder is shaped like an OCI image layout (`blobs/sha256/<hex>`), so a layout can be read as a store and a
//! store's blobs can be hard-linked into a layout. A blob appears under its name only when it is whole: it is written
//! and hashed beside, then renamed. So a crash leaves nothing but an unfinished file in `incoming/`, which
//! [`Store::create`] removes, and two processes may write at once. Nothing is flushed to the disk by force: what a
//! power cut tears is found by its length or, on reading, by its digest.
//!
//! The store knows nothing about what the blobs mean.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use aiot_package::Digest;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// Length of the buffer for copying: large enough that system calls cost nothing, small enough for the cache.
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The blob is not there.
    #[error("the store has no blob {digest} (looked for {})", path.display())]
    Missing {
        /// The digest asked for.
        digest: Digest,
        /// Where it would be.
        path: PathBuf,
    },
    /// The bytes of a blob are not those of its name.
    #[error("blob {digest} is corrupt: its bytes have the digest {found}; they are now in {}, building again makes it anew", path.display())]
    Corrupt {
        /// The name.
        digest: Digest,
        /// What the bytes hash to.
        found: Digest,
        /// Where the bad bytes are now: moved aside in a writable store, in place in a read-only one.
        path: PathBuf,
    },
    /// What was written is not what was announced.
    #[error(
        "expected a blob {expected} of {expected_size_bytes} bytes, got {found} of {found_size_bytes} bytes"
    )]
    Mismatch {
        /// The digest announced.
        expected: Digest,
        /// The length announced.
        expected_size_bytes: u64,
        /// The digest of what came.
        found: Digest,
        /// The length of what came.
        found_size_bytes: u64,
    },
    /// A document is larger than what is held in memory.
    #[error(
        "blob {digest} has {size_bytes} bytes, more than the {limit_bytes} that such a document may have"
    )]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
        /// The bound.
        limit_bytes: u64,
    },
    /// The folder is no store.
    #[error("{} is not a blob store or OCI layout: it has no folder `blobs/sha256`", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
}

/// Digest and length of a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Number of bytes.
    pub size: u64,
}

/// A folder of blobs. Cheap to clone; clones and other processes may use the same folder at once.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    writable: bool,
}

impl Store {
    /// Opens a store for writing, making its folders where needed, and removes what crashed writers left.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(root: &Path) -> Result<Store, StoreError> {
        let store = Store {
            root: root.to_owned(),
            writable: true,
        };
        for folder in [store.blobs_dir(), store.incoming_dir()] {
            fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        }
        store.remove_unfinished()?;
        Ok(store)
    }

    /// Opens an existing store or OCI layout for reading only; a corrupt blob is reported and left where it is.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`].
    pub fn open_read_only(root: &Path) -> Result<Store, StoreError> {
        let store = Store {
            root: root.to_owned(),
            writable: false,
        };
        if !store.blobs_dir().is_dir() {
            return Err(StoreError::NotAStore {
                path: root.to_owned(),
            });
        }
        Ok(store)
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    /// Whether a blob of this digest and length is there; looks at the length only.
    pub fn contains(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.path(digest))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Stores bytes from memory.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        let blob = Blob {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        if self.contains(&blob.digest, blob.size) {
            return Ok(blob);
        }
        let mut writer = self.writer()?;
        writer
            .write_all(bytes)
            .map_err(io_error("write", &self.incoming_dir()))?;
        writer.commit()
    }

    /// Stores everything that `reader` gives, hashing while writing.
    ///
    /// # Errors
    /// [`StoreError::Io`], also for the reader's own errors.
    pub fn put_reader(&self, reader: &mut dyn Read) -> Result<Blob, StoreError> {
        let mut writer = self.writer()?;
        copy(reader, &mut writer).map_err(io_error("copy into", &self.incoming_dir()))?;
        writer.commit()
    }

    /// Stores a copy of a file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_file(&self, path: &Path) -> Result<Blob, StoreError> {
        let mut file = File::open(path).map_err(io_error("open", path))?;
        let mut writer = self.writer()?;
        copy(&mut file, &mut writer).map_err(io_error("read", path))?;
        writer.commit()
    }

    /// A writer for a blob whose digest is not known yet.
    ///
    /// # Errors
    /// [`StoreError::Io`]; a store opened for reading only refuses with `PermissionDenied`.
    pub fn writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let folder = self.incoming_dir();
        if !self.writable {
            let source = io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the store was opened for reading only",
            );
            return Err(StoreError::Io {
                action: "write into",
                path: folder,
                source,
            });
        }
        loop {
            let file = tempfile::Builder::new()
                .prefix("blob-")
                .tempfile_in(&folder)
                .map_err(io_error("create a file in", &folder))?;
            // The lock tells `remove_unfinished` of other processes that the writer lives.
            file.as_file().lock().map_err(io_error("lock", file.path()))?;
            if file.path().exists() {
                return Ok(BlobWriter {
                    store: self,
                    file,
                    hasher: Sha256::new(),
                    size: 0,
                });
            }
        }
    }

    /// Opens a blob; the bytes are compared with the digest when the reader reaches the end.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`].
    pub fn open_verified(&self, digest: &Digest) -> Result<VerifiedReader, StoreError> {
        let path = self.path(digest);
        // In a layout from elsewhere a pipe would block for ever, and a device never end.
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io_error("open", &path)(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            )));
        }
        match File::open(&path) {
            Ok(file) => Ok(VerifiedReader {
                store: self.clone(),
                digest: *digest,
                file,
                hasher: Sha256::new(),
                verified: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing {
                digest: *digest,
                path,
            }),
            Err(source) => Err(StoreError::Io {
                action: "open",
                path,
                source,
            }),
        }
    }

    /// Reads a whole, verified blob of at most `limit_bytes`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Missing`], [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn read_verified(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let mut reader = self.open_verified(digest)?;
        let path = self.path(digest);
        let size_bytes = reader.file.metadata().map_err(io_error("look at", &path))?.len();
        if size_bytes > limit_bytes {
            return Err(StoreError::TooLarge {
                digest: *digest,
                size_bytes,
                limit_bytes,
            });
        }
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        match (&mut reader).take(limit_bytes + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > limit_bytes => Err(StoreError::TooLarge {
                digest: *digest,
                size_bytes: bytes.len() as u64,
                limit_bytes,
            }),
            Ok(_) => Ok(bytes),
            Err(error) => Err(StoreError::from_read(&path, error)),
        }
    }

    /// Reads every blob. Returns the corrupt ones (moved aside in a writable store), ordered by digest.
    ///
    /// # Errors
    /// [`StoreError::Io`] when a folder or file cannot be read at all.
    pub fn verify_all(&self) -> Result<Vec<StoreError>, StoreError> {
        let mut corrupt = Vec::new();
        for digest in self.digests()? {
            match self.open_verified(&digest).and_then(VerifiedReader::finish) {
                Ok(()) | Err(StoreError::Missing { .. }) => {}
                Err(error @ StoreError::Corrupt { .. }) => corrupt.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(corrupt)
    }

    /// The digests of all blobs, ordered. Files whose names are no digests are not blobs.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        let folder = self.blobs_dir();
        let mut digests = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let entry = entry.map_err(io_error("list", &folder))?;
            if let Some(Ok(digest)) = entry.file_name().to_str().map(Digest::from_hex) {
                digests.push(digest);
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }

    fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs").join("sha256")
    }

    fn incoming_dir(&self) -> PathBuf {
        self.root.join("incoming")
    }

    fn remove_unfinished(&self) -> Result<(), StoreError> {
        let folder = self.incoming_dir();
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let path = entry.map_err(io_error("list", &folder))?.path();
            // Whoever still writes holds the lock; a file that vanishes meanwhile is no concern of ours.
            if let Ok(file) = File::open(&path)
                && file.try_lock().is_ok()
            {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// Called with a digest whose bytes hash to `found`.
    fn corrupt(&self, digest: Digest, found: Digest) -> StoreError {
        let mut path = self.path(&digest);
        if self.writable {
            let folder = self.root.join("corrupt");
            let aside = folder.join(digest.hex());
            if fs::create_dir_all(&folder).is_ok() && fs::rename(&path, &aside).is_ok() {
                path = aside;
            }
        }
        StoreError::Corrupt { digest, found, path }
    }
}

impl StoreError {
    /// Finds the store's own error in one that came through [`Read`], or wraps it with the path.
    pub fn from_read(path: &Path, error: io::Error) -> StoreError {
        match error.downcast::<StoreError>() {
            Ok(error) => error,
            Err(source) => StoreError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            },
        }
    }
}

pub(crate) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Copies until the end of `from`; returns the number of bytes.
pub(crate) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                copied += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes one new blob. Dropped without [`BlobWriter::commit`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    file: NamedTempFile,
    hasher: Sha256,
    size: u64,
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.as_file_mut().write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter<'_> {
    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives the blob its name.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn commit(self) -> Result<Blob, StoreError> {
        let blob = Blob {
            digest: Digest::from_bytes(self.hasher.finalize().into()),
            size: self.size,
        };
        let path = self.store.path(&blob.digest);
        // A blob that is there already stays: layouts are linked to it.
        if !self.store.contains(&blob.digest, blob.size) {
            let mut permissions = self
                .file
                .as_file()
                .metadata()
                .map_err(io_error("look at", &path))?
                .permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o444);
            self.file
                .as_file()
                .set_permissions(permissions)
                .map_err(io_error("set the mode of", &path))?;
            self.file
                .persist(&path)
                .map_err(|error| io_error("write", &path)(error.error))?;
        }
        Ok(blob)
    }

    /// Gives the blob its name if it is the announced one.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`]; nothing is stored then. [`StoreError::Io`].
    pub fn commit_expected(self, expected: &Digest, expected_size_bytes: u64) -> Result<Blob, StoreError> {
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found != *expected || self.size != expected_size_bytes {
            return Err(StoreError::Mismatch {
                expected: *expected,
                expected_size_bytes,
                found,
                found_size_bytes: self.size,
            });
        }
        self.commit()
    }
}

/// Reads a blob and compares it with its digest at the end.
///
/// Only a reader that saw the end (`read` returned 0, or [`VerifiedReader::finish`]) has vouched for the bytes. A bad
/// blob shows as an [`io::Error`] that holds a [`StoreError::Corrupt`]; see [`StoreError::from_read`].
#[derive(Debug)]
pub struct VerifiedReader {
    store: Store,
    digest: Digest,
    file: File,
    hasher: Sha256,
    verified: bool,
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.verified {
            return Ok(0);
        }
        let length = self.file.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        if length == 0 {
            let found = Digest::from_bytes(self.hasher.clone().finalize().into());
            if found != self.digest {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    self.store.corrupt(self.digest, found),
                ));
            }
            self.verified = true;
        }
        Ok(length)
    }
}

impl VerifiedReader {
    /// Reads what is left and vouches for the whole.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn finish(mut self) -> Result<(), StoreError> {
        let path = self.store.path(&self.digest);
        copy(&mut self, &mut io::sink()).map_err(|error| StoreError::from_read(&path, error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
