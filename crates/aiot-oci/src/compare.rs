//! What an image holds, file by file, and where two images differ: by path, and within a file by byte.
//!
//! Layers are applied in order, with their whiteouts, so this is what a container sees. Nothing is unpacked to disk;
//! the bounds of [`LayerLimits`] hold for every layer.

use std::collections::BTreeMap;
use std::io::{self, Read};

use aiot_package::Digest;

use crate::document::{Descriptor, ImageManifest};
use crate::layer::{EntryKind, LayerError, LayerLimits, Whiteout, visit_layer};
use crate::store::Store;

/// The longest file that is compared byte by byte.
const MAX_COMPARED_BYTES: u64 = 1 << 30;

/// One path of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Numeric owner and group.
    pub owner: (u64, u64),
    /// Digest of the content; only of files.
    pub content: Option<Digest>,
    /// Which layer it comes from, counted from 0.
    pub layer: usize,
}

impl FileFacts {
    /// Length of a file in bytes, 0 of everything else.
    pub fn size_bytes(&self) -> u64 {
        match self.kind {
            EntryKind::File { size_bytes } => size_bytes,
            _ => 0,
        }
    }

    fn is_same(&self, other: &FileFacts) -> bool {
        (&self.kind, self.mode, self.owner, self.content)
            == (&other.kind, other.mode, other.owner, other.content)
    }
}

/// How a path differs between two images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second has it.
    Added(FileFacts),
    /// Only the first has it.
    Removed(FileFacts),
    /// Both have it: content, kind, mode or owner are others.
    Changed(FileFacts, FileFacts),
}

/// The paths of an image, without a leading `/`.
///
/// # Errors
/// As [`visit_layer`].
pub fn image_files(
    store: &Store,
    manifest: &ImageManifest,
) -> Result<BTreeMap<String, FileFacts>, LayerError> {
    let mut files: BTreeMap<String, FileFacts> = BTreeMap::new();
    for (position, layer) in manifest.layers.iter().enumerate() {
        let mut here: BTreeMap<String, FileFacts> = BTreeMap::new();
        let mut whiteouts = Vec::new();
        visit_layer(store, layer, LayerLimits::default(), |entry, reader| {
            if let Some(whiteout) = Whiteout::of(&entry.path) {
                whiteouts.push(whiteout);
                return Ok(());
            }
            let content = match entry.kind {
                EntryKind::File { .. } => Some(digest_of(reader, layer)?),
                _ => None,
            };
            here.insert(
                entry.path.clone(),
                FileFacts {
                    kind: entry.kind.clone(),
                    mode: entry.mode,
                    owner: (entry.uid, entry.gid),
                    content,
                    layer: position,
                },
            );
            Ok(())
        })?;
        for whiteout in whiteouts {
            whiteout.apply(&mut files);
        }
        files.extend(here);
    }
    Ok(files)
}

fn digest_of(reader: &mut dyn Read, layer: &Descriptor) -> Result<Digest, LayerError> {
    let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(sha2::Digest::finalize(hasher).into())),
            Ok(length) => sha2::Digest::update(&mut hasher, &buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(layer, &error)),
        }
    }
}

fn unreadable(layer: &Descriptor, error: &io::Error) -> LayerError {
    LayerError::Unreadable {
        digest: layer.digest,
        reason: error.to_string(),
    }
}

/// What differs between the paths of two images, by path.
pub fn changes(
    before: &BTreeMap<String, FileFacts>,
    after: &BTreeMap<String, FileFacts>,
) -> BTreeMap<String, Change> {
    let mut changes = BTreeMap::new();
    for (path, old) in before {
        match after.get(path) {
            None => {
                changes.insert(path.clone(), Change::Removed(old.clone()));
            }
            Some(new) if !old.is_same(new) => {
                changes.insert(path.clone(), Change::Changed(old.clone(), new.clone()));
            }
            Some(_) => {}
        }
    }
    for (path, new) in after.iter().filter(|(path, _)| !before.contains_key(*path)) {
        changes.insert(path.clone(), Change::Added(new.clone()));
    }
    changes
}

/// The first run of bytes in which a file differs between two layers, as `start..end`; where one file is the beginning
/// of the other, the run is what follows. `None` when they are equal.
///
/// # Errors
/// As [`visit_layer`]; [`LayerError::Unreadable`] when a layer lacks the file or it is longer than 1 GiB.
pub fn first_difference(
    path: &str,
    first: (&Store, &Descriptor),
    second: (&Store, &Descriptor),
) -> Result<Option<std::ops::Range<u64>>, LayerError> {
    let (a, b) = (content(path, first)?, content(path, second)?);
    let common = a.len().min(b.len());
    let Some(start) = (0..common).find(|&at| a[at] != b[at]) else {
        let end = a.len().max(b.len());
        return Ok((common < end).then_some(common as u64..end as u64));
    };
    let end = (start..common).find(|&at| a[at] == b[at]).unwrap_or(common);
    Ok(Some(start as u64..end as u64))
}

fn content(path: &str, (store, layer): (&Store, &Descriptor)) -> Result<Vec<u8>, LayerError> {
    let mut found = None;
    visit_layer(store, layer, LayerLimits::default(), |entry, reader| {
        if entry.path == path {
            let mut bytes = Vec::new();
            reader
                .take(MAX_COMPARED_BYTES + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| unreadable(layer, &error))?;
            found = Some(bytes);
        }
        Ok(())
    })?;
    let fail = |reason: String| LayerError::Unreadable {
        digest: layer.digest,
        reason,
    };
    match found {
        Some(bytes) if bytes.len() as u64 <= MAX_COMPARED_BYTES => Ok(bytes),
        Some(_) => Err(fail(format!("{path} is too long to be compared"))),
        None => Err(fail(format!("it has no {path}"))),
    }
}

#[cfg(test)]
mod tests;
