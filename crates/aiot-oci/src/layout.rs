//! The OCI image layout on disk that a release leaves: `oci-layout`, `index.json` and the blobs that it reaches.
//!
//! Blobs are hard links into the store where the file system can, so a layout costs no space. `index.json` is renamed
//! into place after all blobs are there and before old ones go: a kill leaves the old or the new index, each whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aiot_package::Digest;

use crate::document::{self, Descriptor, ImageIndex, REF_NAME_ANNOTATION};
use crate::image::{self, ImageError};
use crate::store::{Store, StoreError, io_error};

/// The content of the file `oci-layout`.
pub(crate) const LAYOUT_MARKER: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";

/// The largest `index.json`: some 100,000 images.
pub(crate) const MAX_LAYOUT_INDEX_BYTES: u64 = 64 << 20;

/// How deep indexes may stand in indexes.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;

/// What can go wrong with a layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A name that the specification does not allow.
    #[error("`{0}` cannot name an image in a layout: letters and digits, joined by one of `-._:@/+`")]
    RefName(String),
    /// Two entries have one name.
    #[error("two images of the layout have the name `{0}`")]
    DuplicateRefName(String),
    /// The folder is no layout.
    #[error("{} is not an OCI image layout: {reason}", path.display())]
    NotALayout {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Indexes stand in indexes without end.
    #[error("index {0} is nested more than {MAX_INDEX_DEPTH} deep")]
    TooDeep(Digest),
    /// A manifest or index.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A blob or file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What [`write_layout`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayoutReport {
    /// Whether `index.json` is new or another than before.
    pub index_changed: bool,
    /// Blobs that were added or replaced.
    pub blobs_added: usize,
    /// Blobs of earlier runs that were removed.
    pub blobs_removed: usize,
    /// Blobs in the layout now.
    pub blobs: usize,
    /// Their bytes together.
    pub size_bytes: u64,
}

/// Writes a layout with the images or indexes `entries`, each under its name, and everything that they reach.
/// Blobs of earlier runs that nothing reaches any more are removed. Nothing is written where nothing changed.
///
/// Only one process may write a layout at a time.
///
/// # Errors
/// [`LayoutError`]. The layout is then the old one, or the new one with some old blobs left.
pub fn write_layout(
    dir: &Path,
    store: &Store,
    entries: &[(String, Descriptor)],
) -> Result<LayoutReport, LayoutError> {
    let mut named: BTreeMap<&str, Descriptor> = BTreeMap::new();
    for (name, descriptor) in entries {
        if !is_ref_name(name) {
            return Err(LayoutError::RefName(name.clone()));
        }
        let mut descriptor = descriptor.clone();
        descriptor
            .annotations
            .insert(REF_NAME_ANNOTATION.to_owned(), name.clone());
        if named.insert(name, descriptor).is_some() {
            return Err(LayoutError::DuplicateRefName(name.clone()));
        }
    }
    let mut reachable = BTreeMap::new();
    for descriptor in named.values() {
        collect(store, descriptor, 0, &mut reachable)?;
    }
    let index = document::to_bytes(&ImageIndex::new(named.into_values().collect(), BTreeMap::new()));

    let blobs = dir.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(io_error("create", &blobs))?;
    write_if_changed(dir, "oci-layout", LAYOUT_MARKER)?;
    let mut report = LayoutReport {
        blobs: reachable.len(),
        size_bytes: reachable.values().sum(),
        ..LayoutReport::default()
    };
    for (digest, size) in &reachable {
        if link_blob(store, digest, *size, &blobs)? {
            report.blobs_added += 1;
        }
    }
    report.index_changed = write_if_changed(dir, "index.json", &index)?;
    for entry in fs::read_dir(&blobs).map_err(io_error("list", &blobs))? {
        let entry = entry.map_err(io_error("list", &blobs))?;
        let digest = entry
            .file_name()
            .to_str()
            .and_then(|name| Digest::from_hex(name).ok());
        if !digest.is_some_and(|digest| reachable.contains_key(&digest)) {
            fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
            report.blobs_removed += 1;
        }
    }
    Ok(report)
}

/// The entries of a layout with their names; an entry without one has the empty name.
///
/// # Errors
/// [`LayoutError::NotALayout`], [`LayoutError::Store`].
pub fn read_layout(dir: &Path) -> Result<Vec<(String, Descriptor)>, LayoutError> {
    let fail = |reason: String| LayoutError::NotALayout {
        path: dir.to_owned(),
        reason,
    };
    let read = |name: &str, limit: u64| {
        let path = dir.join(name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(fail(format!("it has no `{name}`")));
            }
            Ok(metadata) if !metadata.is_file() => {
                return Err(fail(format!("`{name}` is no regular file")));
            }
            Ok(metadata) if metadata.len() > limit => {
                return Err(fail(format!("`{name}` has {} bytes", metadata.len())));
            }
            _ => {}
        }
        Ok(fs::read(&path).map_err(io_error("read", &path))?)
    };
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = serde_json::from_slice(&read("oci-layout", 64 << 10)?)
        .map_err(|error| fail(format!("`oci-layout`: {error}")))?;
    if !marker.image_layout_version.starts_with("1.") {
        return Err(fail(format!(
            "its version is `{}`, not 1",
            marker.image_layout_version
        )));
    }
    let index = image::parse_index(&read("index.json", MAX_LAYOUT_INDEX_BYTES)?)
        .map_err(|reason| fail(format!("`index.json`: {reason}")))?;
    let named = |descriptor: Descriptor| {
        (
            descriptor
                .annotations
                .get(REF_NAME_ANNOTATION)
                .cloned()
                .unwrap_or_default(),
            descriptor,
        )
    };
    Ok(index.manifests.into_iter().map(named).collect())
}

/// Adds the blob and all that it reaches to `reachable`: digest → size.
fn collect(
    store: &Store,
    descriptor: &Descriptor,
    depth: usize,
    reachable: &mut BTreeMap<Digest, u64>,
) -> Result<(), LayoutError> {
    if reachable.insert(descriptor.digest, descriptor.size).is_some() {
        return Ok(());
    }
    if descriptor.media_type.is_index() {
        if depth >= MAX_INDEX_DEPTH {
            return Err(LayoutError::TooDeep(descriptor.digest));
        }
        for manifest in image::read_index(store, &descriptor.digest)?.manifests {
            collect(store, &manifest, depth + 1, reachable)?;
        }
    } else if descriptor.media_type.is_manifest() {
        let manifest = image::read_manifest(store, &descriptor.digest)?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            reachable.insert(blob.digest, blob.size);
        }
    }
    Ok(())
}

/// Sees to it that the layout has the store's blob. Returns whether it had to do anything.
fn link_blob(store: &Store, digest: &Digest, size: u64, blobs: &Path) -> Result<bool, LayoutError> {
    let (from, to) = (store.path(digest), blobs.join(digest.hex()));
    let source = match fs::symlink_metadata(&from) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::Missing {
                digest: *digest,
                path: from,
            }
            .into());
        }
        Err(error) => return Err(io_error("look at", &from)(error).into()),
    };
    if source.len() != size {
        // A torn blob: reading it names it and moves it aside.
        store.open_verified(digest)?.finish()?;
    }
    if let Ok(present) = fs::symlink_metadata(&to) {
        // On one disk it must be the same file, so that a blob that was corrupt and made anew replaces the bad one.
        if present.len() == size && (present.ino() == source.ino() || present.dev() != source.dev()) {
            return Ok(false);
        }
        fs::remove_file(&to).map_err(io_error("remove", &to))?;
    }
    if fs::hard_link(&from, &to).is_err() {
        // Another disk, or a file system without links or with too many of them.
        let mut copy = tempfile::NamedTempFile::new_in(blobs).map_err(io_error("create a file in", blobs))?;
        let mut reader = store.open_verified(digest)?;
        crate::store::copy(&mut reader, copy.as_file_mut())
            .map_err(|error| StoreError::from_read(&from, error))?;
        let permissions = source.permissions();
        copy.as_file()
            .set_permissions(permissions)
            .map_err(io_error("set the mode of", &to))?;
        copy.persist(&to)
            .map_err(|error| io_error("write", &to)(error.error))?;
    }
    Ok(true)
}

fn write_if_changed(dir: &Path, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|present| present == bytes) {
        return Ok(false);
    }
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(io_error("create a file in", dir))?;
    file.write_all(bytes).map_err(io_error("write", &path))?;
    file.persist(&path)
        .map_err(|error| io_error("write", &path)(error.error))?;
    Ok(true)
}

/// `ref` of the image layout specification: alphanumeric parts joined by single separators.
fn is_ref_name(name: &str) -> bool {
    let separator = |c: char| "-._:@/+".contains(c);
    name.len() <= 255
        && name
            .split(separator)
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests;
