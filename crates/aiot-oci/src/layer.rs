//! Layers: tar archives whose every byte follows from their entries.
//!
//! [`LayerBuilder`] takes paths with files, folders and symbolic links and writes a USTAR archive into a store: names
//! sorted, owner 0, time 0, modes from a fixed choice, every parent folder an entry of its own (engines disagree on
//! folders that a layer leaves out). [`list_layer`] and [`visit_layer`] read layers of any origin, with bounds.
//!
//! Not here: deleting files of lower layers, hard links, devices, extended attributes. Images of this project never
//! need them, and each is a way for two layers to disagree.

mod encode;
mod header;
mod read;
mod whiteout;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use aiot_package::Digest;
use sha2::{Digest as _, Sha256};

use crate::document::{Descriptor, MediaType};
use crate::store::{self, BlobWriter, Store, StoreError};

use encode::{BlockWriter, Encoder};
pub use header::MAX_NAME_BYTES;
pub use read::{EntryKind, LayerEntry, LayerLimits, list_layer, uncompressed_reader, visit_layer};
pub use whiteout::Whiteout;

/// Part of every cache key of a layer: changes when the same entries would give other bytes (header fields, encoder,
/// level).
pub const LAYER_FORMAT_VERSION: u32 = 1;

/// How a layer is stored and transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// As it is: right for quantized weights, which hardly shrink.
    None,
    /// gzip, one fixed encoder and level: right for programs and libraries, and understood by every engine.
    Gzip,
    /// Zstandard, one fixed encoder and level: smaller, and faster to unpack; engines before Docker 23 cannot read it.
    Zstd,
}

impl Compression {
    /// The name in keys and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Where the bytes of a file come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource {
    /// Memory.
    Bytes(Vec<u8>),
    /// A file on disk; must not change while the layer is built.
    Path(PathBuf),
    /// A blob of the store that the layer is built into; verified while it is read.
    Blob(Digest),
}

/// Mode of a file. Nothing is writable by anyone but root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileMode {
    /// 0644
    Plain,
    /// 0755
    Executable,
}

impl FileMode {
    /// The mode with the same use as a file found elsewhere: executable where anybody may execute it.
    pub fn from_unix(mode: u32) -> FileMode {
        if mode & 0o111 == 0 {
            FileMode::Plain
        } else {
            FileMode::Executable
        }
    }

    /// Permission bits.
    pub fn bits(self) -> u32 {
        match self {
            FileMode::Plain => 0o644,
            FileMode::Executable => 0o755,
        }
    }
}

/// Mode of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryMode {
    /// 0755
    Plain,
    /// 1777, for `/tmp`.
    Sticky,
}

impl DirectoryMode {
    /// Permission bits with the sticky bit.
    pub fn bits(self) -> u32 {
        match self {
            DirectoryMode::Plain => 0o755,
            DirectoryMode::Sticky => 0o1777,
        }
    }
}

/// A layer in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob: its media type says how it is compressed, its digest is of the compressed bytes.
    pub descriptor: Descriptor,
    /// Digest of the tar archive.
    pub diff_id: Digest,
    /// Length of the tar archive in bytes.
    pub uncompressed_size_bytes: u64,
}

/// What can be wrong with a layer's entries or bytes.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A path that cannot stand in a layer.
    #[error("path `{path}` cannot stand in a layer: {reason}")]
    Path {
        /// The path as given.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// Two entries contradict each other.
    #[error("path `{path}` is in the layer twice: as {first} and as {second}")]
    Conflict {
        /// The path.
        path: String,
        /// The entry that was there.
        first: &'static str,
        /// The entry that came.
        second: &'static str,
    },
    /// A file is not as long as it was when it was opened.
    #[error("file {} changed while the layer was built: it had {expected} bytes", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened.
        expected: u64,
    },
    /// A layer from elsewhere that cannot or must not be read.
    #[error("layer {digest}: {reason}")]
    Unreadable {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// The store or the disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Debug)]
enum Entry {
    File { source: FileSource, mode: FileMode },
    Directory { mode: DirectoryMode, implied: bool },
    Symlink { target: String },
}

impl Entry {
    fn noun(&self) -> &'static str {
        match self {
            Entry::File { .. } => "a file",
            Entry::Directory {
                mode: DirectoryMode::Plain,
                ..
            } => "a directory",
            Entry::Directory {
                mode: DirectoryMode::Sticky,
                ..
            } => "a sticky directory",
            Entry::Symlink { .. } => "a symbolic link",
        }
    }
}

/// Collects the entries of one layer. The order of the calls does not matter.
///
/// Paths are those inside the image, with or without a leading `/`, at most [`MAX_NAME_BYTES`] long.
#[derive(Clone, Debug, Default)]
pub struct LayerBuilder {
    entries: BTreeMap<String, Entry>,
}

impl LayerBuilder {
    /// A layer without entries.
    pub fn new() -> LayerBuilder {
        LayerBuilder::default()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`LayerError::Path`], [`LayerError::Conflict`].
    pub fn file(&mut self, path: &str, source: FileSource, mode: FileMode) -> Result<&mut Self, LayerError> {
        self.insert(path, Entry::File { source, mode })
    }

    /// Adds a folder. Parents need not be added; the same folder with the same mode may be added again.
    ///
    /// # Errors
    /// [`LayerError::Path`], [`LayerError::Conflict`].
    pub fn directory(&mut self, path: &str, mode: DirectoryMode) -> Result<&mut Self, LayerError> {
        self.insert(path, Entry::Directory { mode, implied: false })
    }

    /// Adds a symbolic link that points to `target`, which need not exist.
    ///
    /// # Errors
    /// [`LayerError::Path`], [`LayerError::Conflict`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self, LayerError> {
        let fail = |reason| LayerError::Path {
            path: target.to_owned(),
            reason,
        };
        if target.is_empty() || target.len() > MAX_NAME_BYTES {
            return Err(fail("the target of a symbolic link has 1 to 100 bytes"));
        }
        if target.chars().any(char::is_control) {
            return Err(fail("it holds a control character"));
        }
        self.insert(
            path,
            Entry::Symlink {
                target: target.to_owned(),
            },
        )
    }

    fn insert(&mut self, path: &str, entry: Entry) -> Result<&mut Self, LayerError> {
        let name = normalize(path, matches!(entry, Entry::Directory { .. }))?;
        for (end, _) in name.match_indices('/') {
            let parent = &name[..end];
            match self.entries.get(parent) {
                Some(Entry::Directory { .. }) => {}
                Some(other) => {
                    let first = other.noun();
                    return Err(LayerError::Conflict {
                        path: parent.to_owned(),
                        first,
                        second: "a directory",
                    });
                }
                None => {
                    let implied = Entry::Directory {
                        mode: DirectoryMode::Plain,
                        implied: true,
                    };
                    self.entries.insert(parent.to_owned(), implied);
                }
            }
        }
        match (self.entries.get(&name), &entry) {
            (None, _) | (Some(Entry::Directory { implied: true, .. }), Entry::Directory { .. }) => {
                self.entries.insert(name, entry);
            }
            (Some(Entry::Directory { mode: first, .. }), Entry::Directory { mode: second, .. })
                if first == second => {}
            (Some(first), second) => {
                return Err(LayerError::Conflict {
                    path: name,
                    first: first.noun(),
                    second: second.noun(),
                });
            }
        }
        Ok(self)
    }

    /// Writes the layer into the store. Memory does not grow with the files: they are read once and hashed, plain and
    /// compressed, while they are written.
    ///
    /// # Errors
    /// [`LayerError::FileChanged`], [`LayerError::Store`]; [`LayerError::Path`] for a file of 8 GiB or more.
    pub fn build(&self, store: &Store, compression: Compression) -> Result<Layer, LayerError> {
        let mut blob = store.writer()?;
        match compression {
            Compression::None => {
                self.write_tar(store, &mut blob)?;
                let blob = blob.commit()?;
                let descriptor = Descriptor::new(MediaType::LayerTar, blob.digest, blob.size);
                Ok(Layer {
                    descriptor,
                    diff_id: blob.digest,
                    uncompressed_size_bytes: blob.size,
                })
            }
            Compression::Gzip => self.write_compressed(store, encode::gzip(blob), MediaType::LayerGzip),
            Compression::Zstd => {
                let encoder = encode::zstd(blob).map_err(store::io_error("compress into", store.root()))?;
                self.write_compressed(store, encoder, MediaType::LayerZstd)
            }
        }
    }

    fn write_compressed<'a, E: Encoder<Inner = BlobWriter<'a>>>(
        &self,
        store: &Store,
        encoder: BlockWriter<E>,
        media_type: MediaType,
    ) -> Result<Layer, LayerError> {
        let mut tar = HashingWriter {
            inner: encoder,
            hasher: Sha256::new(),
            size: 0,
        };
        self.write_tar(store, &mut tar)?;
        let HashingWriter { inner, hasher, size } = tar;
        let blob = inner
            .finish()
            .map_err(store::io_error("write", store.root()))?
            .commit()?;
        Ok(Layer {
            descriptor: Descriptor::new(media_type, blob.digest, blob.size),
            diff_id: Digest::from_bytes(hasher.finalize().into()),
            uncompressed_size_bytes: size,
        })
    }

    fn write_tar(&self, store: &Store, tar: &mut dyn Write) -> Result<(), LayerError> {
        for (name, entry) in &self.entries {
            match entry {
                Entry::Directory { mode, .. } => {
                    let header =
                        header::encode(&format!("{name}/"), header::Kind::Directory, mode.bits(), 0, "");
                    write(store, tar, &header)?;
                }
                Entry::Symlink { target } => {
                    let header = header::encode(name, header::Kind::Symlink, 0o777, 0, target);
                    write(store, tar, &header)?;
                }
                Entry::File { source, mode } => write_file(store, tar, name, source, *mode)?,
            }
        }
        write(store, tar, &[0; 2 * header::BLOCK_BYTES])
    }
}

fn write(store: &Store, tar: &mut dyn Write, bytes: &[u8]) -> Result<(), LayerError> {
    Ok(tar
        .write_all(bytes)
        .map_err(store::io_error("write", store.root()))?)
}

fn write_file(
    store: &Store,
    tar: &mut dyn Write,
    name: &str,
    source: &FileSource,
    mode: FileMode,
) -> Result<(), LayerError> {
    let (mut reader, path, size): (Box<dyn Read + '_>, PathBuf, u64) = match source {
        FileSource::Bytes(bytes) => (
            Box::new(bytes.as_slice()),
            PathBuf::from(name),
            bytes.len() as u64,
        ),
        FileSource::Path(path) => {
            let file = File::open(path).map_err(store::io_error("open", path))?;
            let metadata = file.metadata().map_err(store::io_error("look at", path))?;
            if !metadata.is_file() {
                return Err(LayerError::Path {
                    path: path.display().to_string(),
                    reason: "it is no regular file",
                });
            }
            (Box::new(file), path.clone(), metadata.len())
        }
        FileSource::Blob(digest) => {
            let path = store.path(digest);
            let reader = store.open_verified(digest)?;
            let size = path.metadata().map_err(store::io_error("look at", &path))?.len();
            (Box::new(reader), path, size)
        }
    };
    if size > header::MAX_FILE_BYTES {
        return Err(LayerError::Path {
            path: name.to_owned(),
            reason: "the file has 8 GiB or more",
        });
    }
    write(
        store,
        tar,
        &header::encode(name, header::Kind::File, mode.bits(), size, ""),
    )?;
    // One byte more than announced is asked for, so that a growing file shows and a verified blob reaches its end.
    let copied = store::copy(
        &mut reader.by_ref().take(size + 1),
        &mut LimitedWriter {
            inner: tar,
            left: size,
        },
    )
    .map_err(|error| match error.kind() {
        io::ErrorKind::WriteZero => LayerError::FileChanged {
            path: path.clone(),
            expected: size,
        },
        _ => LayerError::Store(StoreError::from_read(&path, error)),
    })?;
    if copied != size {
        return Err(LayerError::FileChanged { path, expected: size });
    }
    let padding = (header::BLOCK_BYTES - (size % header::BLOCK_BYTES as u64) as usize) % header::BLOCK_BYTES;
    write(store, tar, &[0; header::BLOCK_BYTES][..padding])
}

/// Passes on at most `left` bytes and refuses the next one with `WriteZero`.
struct LimitedWriter<'a> {
    inner: &'a mut dyn Write,
    left: u64,
}

impl Write for LimitedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let written = self.inner.write(&bytes[..length])?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Brings a path to its form in the archive: relative, `/` between parts, no part empty, `.` or `..`.
fn normalize(path: &str, directory: bool) -> Result<String, LayerError> {
    let fail = |reason| {
        Err(LayerError::Path {
            path: path.to_owned(),
            reason,
        })
    };
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return fail("it holds a control character or a backslash");
    }
    let mut name = String::with_capacity(path.len());
    for part in path.split('/') {
        match part {
            "" | "." => continue,
            ".." => return fail("it holds `..`"),
            part if part.starts_with(whiteout::PREFIX) => {
                return fail("engines read a name that begins with `.wh.` as a deletion");
            }
            part => {
                if !name.is_empty() {
                    name.push('/');
                }
                name.push_str(part);
            }
        }
    }
    if name.is_empty() {
        return fail("it is empty");
    }
    if !directory && path.ends_with('/') {
        return fail("it ends with `/` but is no directory");
    }
    if name.len() + usize::from(directory) > MAX_NAME_BYTES {
        return fail("it is longer than the 100 bytes that every tar reader understands");
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
