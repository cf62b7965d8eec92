//! What images hold, which bytes they share, and what differs between two of them: `cargo xtask images`.

use std::collections::BTreeMap;
use std::path::Path;

use aiot_oci::compare::{Change, changes, image_files};
use aiot_oci::image::{read_config, read_index, read_manifest};
use aiot_oci::{Descriptor, Digest, Platform, PullLayers, Reference, Store};
use serde::Serialize;

use crate::error::BuildError;
use crate::network::Network;
use crate::paths::Paths;
use crate::registry::client;

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;
/// Digits of a digest that name an image at least.
const MIN_DIGITS: usize = 8;

/// One image of a layout.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageRow {
    /// Its name in the layout.
    pub name: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// `linux/arm/v7`
    pub platform: String,
    /// Manifest, config and layers as they are sent, bytes.
    pub size_bytes: u64,
    /// Lowest first.
    pub layers: Vec<LayerRow>,
}

/// One layer of an image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LayerRow {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Length of the blob, bytes.
    pub size_bytes: u64,
    /// Images of the layout that have it.
    pub images: usize,
}

/// All images of a layout.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImagesReport {
    /// By name.
    pub images: Vec<ImageRow>,
    /// Bytes of all images as if each stood alone.
    pub separate_bytes: u64,
    /// Bytes of all different blobs.
    pub distinct_bytes: u64,
}

/// Lists the images of a layout with their layers.
///
/// # Errors
/// When the folder is no layout, or a document in it cannot be read.
pub fn list(layout: &Path) -> Result<ImagesReport, BuildError> {
    let store = Store::open_read_only(layout).map_err(BuildError::other)?;
    let found = all_images(layout, &store)?;
    let mut blobs: BTreeMap<Digest, (u64, usize)> = BTreeMap::new();
    let mut images = Vec::new();
    for (digest, (name, descriptor)) in found {
        let manifest = read_manifest(&store, &digest).map_err(BuildError::other)?;
        let parts = manifest.layers.iter().chain([&manifest.config]);
        let own = Descriptor::new(descriptor.media_type.clone(), digest, descriptor.size);
        let mut size_bytes = 0;
        for blob in parts.chain([&own]) {
            size_bytes += blob.size;
            blobs.entry(blob.digest).or_insert((blob.size, 0)).1 += 1;
        }
        images.push(ImageRow {
            name,
            digest,
            platform: platform(&store, &descriptor)?.to_string(),
            size_bytes,
            layers: manifest
                .layers
                .iter()
                .map(|layer| LayerRow {
                    digest: layer.digest,
                    media_type: layer.media_type.to_string(),
                    size_bytes: layer.size,
                    images: 0,
                })
                .collect(),
        });
    }
    for image in &mut images {
        for layer in &mut image.layers {
            layer.images = blobs[&layer.digest].1;
        }
    }
    images.sort_by(|a, b| (&a.name, a.digest).cmp(&(&b.name, b.digest)));
    Ok(ImagesReport {
        separate_bytes: images.iter().map(|image| image.size_bytes).sum(),
        distinct_bytes: blobs.values().map(|(size, _)| size).sum(),
        images,
    })
}

/// Digest → name and descriptor of every image that a layout reaches. A name of its own wins over one in an index.
fn all_images(layout: &Path, store: &Store) -> Result<BTreeMap<Digest, (String, Descriptor)>, BuildError> {
    let mut entries = aiot_oci::read_layout(layout).map_err(BuildError::other)?;
    entries.sort_by_key(|(_, descriptor)| descriptor.media_type.is_index());
    let mut found = BTreeMap::new();
    let mut waiting: Vec<(String, Descriptor, usize)> = entries
        .into_iter()
        .rev()
        .map(|(name, descriptor)| (name, descriptor, 0))
        .collect();
    while let Some((name, descriptor, depth)) = waiting.pop() {
        if descriptor.media_type.is_manifest() {
            found.entry(descriptor.digest).or_insert((name, descriptor));
        } else if descriptor.media_type.is_index() && depth < MAX_DEPTH {
            let index = read_index(store, &descriptor.digest).map_err(BuildError::other)?;
            for child in index.manifests {
                let place = child
                    .platform
                    .as_ref()
                    .map(Platform::to_string)
                    .unwrap_or_default();
                waiting.insert(0, (format!("{name} {place}"), child, depth + 1));
            }
        }
    }
    Ok(found)
}

fn platform(store: &Store, image: &Descriptor) -> Result<Platform, BuildError> {
    if let Some(platform) = &image.platform {
        return Ok(platform.clone());
    }
    let manifest = read_manifest(store, &image.digest).map_err(BuildError::other)?;
    let config = read_config(store, &manifest.config.digest).map_err(BuildError::other)?;
    Ok(config.platform())
}

/// What differs between two images.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageDiff {
    /// The other image.
    pub before: Digest,
    /// The image of the layout.
    pub after: Digest,
    /// The layout's name for it.
    pub name: String,
    /// Settings of the config that differ: name, before, after.
    pub settings: Vec<(String, String, String)>,
    /// Layers of the other image that this one lacks.
    pub layers_removed: Vec<Digest>,
    /// Layers that the other image lacks, and their bytes: what a device downloads.
    pub layers_added: Vec<(Digest, u64)>,
    /// Paths that differ.
    pub files: Vec<FileDiff>,
}

/// How one path differs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileDiff {
    /// Absolute path in the image.
    pub path: String,
    /// `added`, `removed`, `changed`.
    pub change: &'static str,
    /// Bytes before.
    pub before_bytes: u64,
    /// Bytes after.
    pub after_bytes: u64,
    /// First bytes that differ, where the content does.
    pub first_difference: Option<std::ops::Range<u64>>,
}

/// Compares an image of a layout with another one: of the layout, or of a registry.
///
/// `name` and `other` are names in the layout, digests or their first digits; `other` may be a reference. Without
/// `name` the image of the layout is taken that the other one is a version of.
///
/// # Errors
/// When one of them is not to be found or cannot be read.
pub fn diff(
    paths: &Paths,
    layout: &Path,
    name: Option<&str>,
    other: &str,
    network: Option<&Network>,
) -> Result<ImageDiff, BuildError> {
    let store = Store::open_read_only(layout).map_err(BuildError::other)?;
    let images = all_images(layout, &store)?;
    let mut chosen = match name {
        Some(name) => Some(find(&images, name).ok_or_else(|| {
            let known: Vec<&str> = images.values().map(|(name, _)| name.as_str()).collect();
            BuildError::Other(format!(
                "the layout has no image `{name}`; it has {}",
                known.join(", ")
            ))
        })?),
        None => None,
    };
    let (other_store, before) = match find(&images, other) {
        Some((_, descriptor)) => (store.clone(), descriptor.clone()),
        None => {
            let reference: Reference = other.parse().map_err(|error| {
                BuildError::Other(format!("`{other}` is no image of the layout, and {error}"))
            })?;
            let network = network
                .ok_or_else(|| BuildError::Other(format!("--offline, but {other} must be fetched")))?;
            if chosen.is_none()
                && let Some(tag) = &reference.tag
            {
                let model = reference.repository.name().rsplit('/').next().unwrap_or_default();
                chosen = find(&images, &format!("{model}-{tag}"));
            }
            let Some((_, ours)) = chosen else {
                return Err(BuildError::Other(format!(
                    "which image shall be compared with {other}? Name one: `images NAME --diff {other}`"
                )));
            };
            let platform = platform(&store, ours)?;
            let kept = Store::create(&paths.store()).map_err(BuildError::other)?;
            let client = client()?;
            let pulled = network
                .block_on(client.pull_image(&kept, &reference, &platform, PullLayers::All))
                .map_err(BuildError::other)?;
            (kept, pulled.manifest)
        }
    };
    let (name, after) = match chosen {
        Some(chosen) => chosen,
        None => {
            return Err(BuildError::Other(format!(
                "which image shall be compared with {other}? Name one: `images NAME --diff {other}`"
            )));
        }
    };
    compare(&other_store, &before.digest, &store, &after.digest, name)
}

/// Compares two images.
pub(crate) fn compare(
    before_store: &Store,
    before: &Digest,
    after_store: &Store,
    after: &Digest,
    name: &str,
) -> Result<ImageDiff, BuildError> {
    let old = read_manifest(before_store, before).map_err(BuildError::other)?;
    let new = read_manifest(after_store, after).map_err(BuildError::other)?;
    let old_files = image_files(before_store, &old).map_err(BuildError::other)?;
    let new_files = image_files(after_store, &new).map_err(BuildError::other)?;
    let mut files = Vec::new();
    for (path, change) in changes(&old_files, &new_files) {
        let (word, before_bytes, after_bytes, first_difference) = match &change {
            Change::Added(facts) => ("added", 0, facts.size_bytes(), None),
            Change::Removed(facts) => ("removed", facts.size_bytes(), 0, None),
            Change::Changed(old_facts, new_facts) => {
                let range = match (old_facts.content, new_facts.content) {
                    (Some(a), Some(b)) if a != b => aiot_oci::first_difference(
                        &path,
                        (before_store, &old.layers[old_facts.layer]),
                        (after_store, &new.layers[new_facts.layer]),
                    )
                    .map_err(BuildError::other)?,
                    _ => None,
                };
                ("changed", old_facts.size_bytes(), new_facts.size_bytes(), range)
            }
        };
        files.push(FileDiff {
            path: format!("/{path}"),
            change: word,
            before_bytes,
            after_bytes,
            first_difference,
        });
    }
    let config = |store: &Store, digest: &Digest| -> Result<_, BuildError> {
        let config = read_config(store, digest).map_err(BuildError::other)?;
        serde_json::to_value(&config.config).map_err(BuildError::other)
    };
    let settings = settings(
        &config(before_store, &old.config.digest)?,
        &config(after_store, &new.config.digest)?,
    );
    let lacks =
        |layers: &[Descriptor], layer: &Descriptor| layers.iter().all(|own| own.digest != layer.digest);
    Ok(ImageDiff {
        before: *before,
        after: *after,
        name: name.to_owned(),
        settings,
        layers_removed: old
            .layers
            .iter()
            .filter(|layer| lacks(&new.layers, layer))
            .map(|layer| layer.digest)
            .collect(),
        layers_added: new
            .layers
            .iter()
            .filter(|layer| lacks(&old.layers, layer))
            .map(|layer| (layer.digest, layer.size))
            .collect(),
        files,
    })
}

fn settings(before: &serde_json::Value, after: &serde_json::Value) -> Vec<(String, String, String)> {
    let text = |value: Option<&serde_json::Value>| value.map_or("-".to_owned(), ToString::to_string);
    let names = [before, after].map(|value| value.as_object().cloned().unwrap_or_default());
    let all: std::collections::BTreeSet<&String> = names.iter().flat_map(|map| map.keys()).collect();
    all.into_iter()
        .filter(|name| before.get(name) != after.get(name))
        .map(|name| (name.clone(), text(before.get(name)), text(after.get(name))))
        .collect()
}

/// An image by its name, its digest, or the first digits of that.
fn find<'a>(
    images: &'a BTreeMap<Digest, (String, Descriptor)>,
    name: &str,
) -> Option<(&'a str, &'a Descriptor)> {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let mut fits = images.iter().filter(|(digest, (known, _))| {
        known == name || (digits.len() >= MIN_DIGITS && digest.hex().starts_with(digits))
    });
    match (fits.next(), fits.next()) {
        (Some((_, (name, descriptor))), None) => Some((name, descriptor)),
        _ => None,
    }
}
