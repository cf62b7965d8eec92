//! Reading layers of any origin: ours, a base image's, a hostile one's.
//!
//! Everything is streamed, and every count has a bound ([`LayerLimits`]), so a bomb ends in an error and not in a
//! full memory. Nothing is ever unpacked to disk here.

use std::io::{self, BufReader, Read};

use aiot_package::Digest;
use flate2::read::MultiGzDecoder;
use tar::{Archive, PaxExtensions};

use super::LayerError;
use crate::document::{Descriptor, MediaType};
use crate::store::{Store, StoreError};

/// The longest name or link target, and the longest extension record that carries one.
const MAX_PATH_BYTES: u64 = 4096;
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// Largest window of a Zstandard layer, as a power of two: 8 MiB, which its specification (RFC 8878, 3.1.1.1.2) asks
/// every decoder to support. A hostile frame may ask for terabytes.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;

/// Bounds for reading one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerLimits {
    /// Length of the tar archive in bytes.
    pub uncompressed_size_bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all names and link targets together: whoever lists a layer holds them in memory.
    pub names_size_bytes: u64,
}

impl Default for LayerLimits {
    /// 16 GiB, a million entries, 128 MiB of names: several times the largest base image for edge devices.
    fn default() -> LayerLimits {
        LayerLimits {
            uncompressed_size_bytes: 16 << 30,
            entries: 1_000_000,
            names_size_bytes: 128 << 20,
        }
    }
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntry {
    /// Path inside the image, without a leading `/`; the root folder is the empty path. Bytes that are not UTF-8 are
    /// replaced by U+FFFD.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
}

/// What an entry of a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Length in bytes.
        size_bytes: u64,
    },
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points, as written.
        target: String,
    },
    /// A second name for a file of the same image.
    HardLink {
        /// Path of the file, without a leading `/`.
        target: String,
    },
    /// A device, pipe or other thing without content.
    Special,
}

/// The tar archive of a layer blob, decompressed while it is read; the blob is verified at its end.
///
/// # Errors
/// [`LayerError::Unreadable`] for what is no layer; [`LayerError::Store`].
pub fn uncompressed_reader(store: &Store, layer: &Descriptor) -> Result<Box<dyn Read>, LayerError> {
    let fail = |reason: &str| LayerError::Unreadable {
        digest: layer.digest,
        reason: reason.to_owned(),
    };
    match layer.media_type.as_oci_layer() {
        Some(MediaType::LayerTar) => Ok(Box::new(store.open_verified(&layer.digest)?)),
        Some(MediaType::LayerGzip) => {
            let blob = BufReader::with_capacity(64 << 10, store.open_verified(&layer.digest)?);
            Ok(Box::new(GzipReader {
                decoder: MultiGzDecoder::new(blob),
            }))
        }
        Some(MediaType::LayerZstd) => {
            let blob = BufReader::with_capacity(64 << 10, store.open_verified(&layer.digest)?);
            let mut decoder = zstd::Decoder::with_buffer(blob).map_err(|error| fail(&error.to_string()))?;
            decoder
                .window_log_max(MAX_ZSTD_WINDOW_LOG)
                .map_err(|error| fail(&error.to_string()))?;
            Ok(Box::new(decoder))
        }
        _ => Err(fail(&format!("media type `{}` is no layer", layer.media_type))),
    }
}

/// At the end of the archive, sees to it that the blob was read to its end and thus verified.
struct GzipReader<R: io::BufRead> {
    decoder: MultiGzDecoder<R>,
}

impl<R: io::BufRead> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        if length == 0 && !buffer.is_empty() {
            let mut rest = [0; 1];
            if self.decoder.get_mut().read(&mut rest)? != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "bytes follow the gzip stream",
                ));
            }
        }
        Ok(length)
    }
}

/// The entries of a layer in the order of the archive.
///
/// # Errors
/// As [`visit_layer`].
pub fn list_layer(
    store: &Store,
    layer: &Descriptor,
    limits: LayerLimits,
) -> Result<Vec<LayerEntry>, LayerError> {
    let mut entries = Vec::new();
    visit_layer(store, layer, limits, |entry, _| {
        entries.push(entry.clone());
        Ok(())
    })?;
    Ok(entries)
}

/// Calls `visit` with every entry of a layer and a reader of its content, in the order of the archive, and returns
/// the digest and length of the tar archive. The reader is empty for everything but files and need not be read.
///
/// A path may come more than once, in base images of some tools it does: as for engines, the last one counts.
///
/// # Errors
/// [`LayerError::Unreadable`] when the archive is broken, leads outside the image or exceeds the limits;
/// [`LayerError::Store`] when the blob is missing or corrupt; the first error of `visit`.
pub fn visit_layer(
    store: &Store,
    layer: &Descriptor,
    limits: LayerLimits,
    mut visit: impl FnMut(&LayerEntry, &mut dyn Read) -> Result<(), LayerError>,
) -> Result<(Digest, u64), LayerError> {
    let digest = layer.digest;
    let fail = |reason: String| LayerError::Unreadable { digest, reason };
    let path = store.path(&digest);
    let from_read = |error: io::Error| match StoreError::from_read(&path, error) {
        StoreError::Io { source, .. } => fail(source.to_string()),
        error => LayerError::Store(error),
    };

    let mut tar = MeasuringReader::new(uncompressed_reader(store, layer)?, limits.uncompressed_size_bytes);
    let mut archive = Archive::new(&mut tar);
    let (mut count, mut names_size_bytes) = (0, 0);
    let (mut long_name, mut long_target): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    // `raw`: the library would hold extension records of any length in memory; we bound them.
    for entry in archive.entries().map_err(from_read)?.raw(true) {
        let mut entry = entry.map_err(from_read)?;
        count += 1;
        if count > limits.entries {
            return Err(fail(format!("it has more than {} entries", limits.entries)));
        }
        let kind = entry.header().entry_type();
        let size_bytes = entry.header().entry_size().map_err(from_read)?;
        if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
            if size_bytes > MAX_EXTENSION_BYTES {
                return Err(fail(format!("an extension record has {size_bytes} bytes")));
            }
            let mut record = Vec::new();
            entry.read_to_end(&mut record).map_err(from_read)?;
            if kind.is_pax_local_extensions() {
                for extension in PaxExtensions::new(&record) {
                    let extension = extension.map_err(from_read)?;
                    match extension.key_bytes() {
                        b"path" => long_name = Some(extension.value_bytes().to_vec()),
                        b"linkpath" => long_target = Some(extension.value_bytes().to_vec()),
                        b"size" => return Err(fail("it has a file of 8 GiB or more".to_owned())),
                        key if key.starts_with(b"GNU.sparse") => {
                            return Err(fail("it has a sparse file".to_owned()));
                        }
                        _ => {}
                    }
                }
            } else {
                let text = record
                    .split(|&byte| byte == 0)
                    .next()
                    .unwrap_or_default()
                    .to_vec();
                *(if kind.is_gnu_longname() {
                    &mut long_name
                } else {
                    &mut long_target
                }) = Some(text);
            }
            continue;
        }
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = long_name
            .take()
            .unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let target = long_target
            .take()
            .or_else(|| entry.header().link_name_bytes().map(|target| target.into_owned()))
            .unwrap_or_default();
        names_size_bytes += (name.len() + target.len()) as u64;
        if names_size_bytes > limits.names_size_bytes {
            let limit = limits.names_size_bytes;
            return Err(fail(format!("its names have more than {limit} bytes")));
        }
        let header = entry.header();
        let layer_entry = LayerEntry {
            path: inside(&name).map_err(fail)?,
            mode: header.mode().map_err(from_read)? & 0o7777,
            uid: header.uid().map_err(from_read)?,
            gid: header.gid().map_err(from_read)?,
            kind: if kind.is_file() || kind.is_contiguous() {
                EntryKind::File { size_bytes }
            } else if kind.is_dir() {
                EntryKind::Directory
            } else if kind.is_symlink() {
                EntryKind::Symlink {
                    target: String::from_utf8_lossy(&target).into_owned(),
                }
            } else if kind.is_hard_link() {
                EntryKind::HardLink {
                    target: inside(&target).map_err(fail)?,
                }
            } else if kind.is_gnu_sparse() {
                return Err(fail("it has a sparse file".to_owned()));
            } else {
                EntryKind::Special
            },
        };
        match layer_entry.kind {
            EntryKind::File { .. } => visit(&layer_entry, &mut entry)?,
            _ => visit(&layer_entry, &mut io::empty())?,
        }
    }
    tar.finish().map_err(from_read)
}

/// A name of an archive as a path inside the image.
fn inside(name: &[u8]) -> Result<String, String> {
    let shown = String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
    if name.len() as u64 > MAX_PATH_BYTES {
        return Err(format!("a path has {} bytes: `{shown}…`", name.len()));
    }
    if name.contains(&0) {
        return Err(format!("a path holds a NUL byte: `{shown}`"));
    }
    let name = String::from_utf8_lossy(name);
    let parts: Vec<&str> = name
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return Err(format!("path `{shown}` leads outside the image"));
    }
    Ok(parts.join("/"))
}

/// Hashes, counts and bounds what is read.
struct MeasuringReader {
    inner: Box<dyn Read>,
    hasher: sha2::Sha256,
    size_bytes: u64,
    limit_bytes: u64,
}

impl MeasuringReader {
    fn new(inner: Box<dyn Read>, limit_bytes: u64) -> MeasuringReader {
        MeasuringReader {
            inner,
            hasher: sha2::Digest::new(),
            size_bytes: 0,
            limit_bytes,
        }
    }

    /// Reads what follows the end mark of the archive.
    fn finish(mut self) -> io::Result<(Digest, u64)> {
        crate::store::copy(&mut self, &mut io::sink())?;
        Ok((
            Digest::from_bytes(sha2::Digest::finalize(self.hasher).into()),
            self.size_bytes,
        ))
    }
}

impl Read for MeasuringReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.size_bytes += length as u64;
        if self.size_bytes > self.limit_bytes {
            let message = format!("it unpacks to more than {} bytes", self.limit_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        sha2::Digest::update(&mut self.hasher, &buffer[..length]);
        Ok(length)
    }
}
