//! Checks an OCI image layout, ours or not, from `index.json` to the last byte of the last layer.
//!
//! Returns everything that is wrong and not only the first thing. It reads and decompresses every layer, so it takes
//! as long as the images are large.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use aiot_package::Digest;

use crate::document::{Descriptor, MAX_DOCUMENT_BYTES, Platform};
use crate::image;
use crate::layer::{LayerLimits, visit_layer};
use crate::layout::{LayoutError, MAX_INDEX_DEPTH, read_layout};
use crate::store::Store;

/// One thing that is wrong with a layout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where, from the entry's name down: `m:1 / linux/arm64 / layer 2`.
    pub place: String,
    /// The blob at fault.
    pub digest: Digest,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.place, self.digest, self.message)
    }
}

/// Walks a layout and checks digests, sizes, media types, diff ids, that every archive can be read, and that
/// platforms agree between index and config. Returns all problems, ordered by place.
///
/// # Errors
/// [`LayoutError::NotALayout`] when there is nothing to walk; [`LayoutError::Store`] when a folder cannot be read.
pub fn validate_layout(dir: &Path) -> Result<Vec<Problem>, LayoutError> {
    let entries = read_layout(dir)?;
    let mut walk = Walk {
        store: Store::open_read_only(dir)?,
        problems: BTreeSet::new(),
        layers: BTreeMap::new(),
    };
    for (position, (name, descriptor)) in entries.iter().enumerate() {
        let place = if name.is_empty() {
            format!("entry {position}")
        } else {
            name.clone()
        };
        walk.node(&place, descriptor, 0);
    }
    Ok(walk.problems.into_iter().collect())
}

struct Walk {
    store: Store,
    problems: BTreeSet<Problem>,
    /// Blob → diff id of the layers seen; `None` when it could not be read, which is reported once.
    layers: BTreeMap<Digest, Option<Digest>>,
}

impl Walk {
    fn problem(&mut self, place: &str, digest: Digest, message: impl Into<String>) {
        self.problems.insert(Problem {
            place: place.to_owned(),
            digest,
            message: message.into(),
        });
    }

    fn node(&mut self, place: &str, descriptor: &Descriptor, depth: usize) {
        if descriptor.media_type.is_index() {
            if depth >= MAX_INDEX_DEPTH {
                return self.problem(place, descriptor.digest, "indexes are nested too deep");
            }
            let Some(bytes) = self.document(place, descriptor) else {
                return;
            };
            match image::parse_index(&bytes) {
                Ok(index) => {
                    for (position, manifest) in index.manifests.iter().enumerate() {
                        let name = manifest
                            .platform
                            .as_ref()
                            .map_or(format!("manifest {position}"), Platform::to_string);
                        self.node(&format!("{place} / {name}"), manifest, depth + 1);
                    }
                }
                Err(reason) => self.problem(place, descriptor.digest, reason),
            }
        } else if descriptor.media_type.is_manifest() {
            self.image(place, descriptor);
        } else {
            let message = format!(
                "media type `{}` is neither an image nor an index",
                descriptor.media_type
            );
            self.problem(place, descriptor.digest, message);
        }
    }

    fn image(&mut self, place: &str, descriptor: &Descriptor) {
        let Some(bytes) = self.document(place, descriptor) else {
            return;
        };
        let manifest = match image::parse_manifest(&bytes) {
            Ok(manifest) => manifest,
            Err(reason) => return self.problem(place, descriptor.digest, reason),
        };
        if manifest
            .media_type
            .as_ref()
            .is_some_and(|media_type| *media_type != descriptor.media_type)
        {
            let message = format!(
                "is listed as `{}` but calls itself another",
                descriptor.media_type
            );
            self.problem(place, descriptor.digest, message);
        }
        let config_place = format!("{place} / config");
        if !manifest.config.media_type.is_config() {
            let message = format!("media type `{}` is no image config", manifest.config.media_type);
            return self.problem(&config_place, manifest.config.digest, message);
        }
        let config = self.document(&config_place, &manifest.config).and_then(|bytes| {
            match serde_json::from_slice::<crate::ImageConfig>(&bytes) {
                Ok(config) => Some(config),
                Err(error) => {
                    self.problem(&config_place, manifest.config.digest, error.to_string());
                    None
                }
            }
        });
        let diff_ids = config
            .as_ref()
            .map(|config| config.rootfs.diff_ids.clone())
            .unwrap_or_default();
        if let Some(config) = &config {
            if let Some(platform) = descriptor
                .platform
                .as_ref()
                .filter(|platform| **platform != config.platform())
            {
                let message = format!("the index says {platform}, the config {}", config.platform());
                self.problem(place, descriptor.digest, message);
            }
            if diff_ids.len() != manifest.layers.len() {
                let message = format!("{} layers but {} diff ids", manifest.layers.len(), diff_ids.len());
                self.problem(place, descriptor.digest, message);
            }
        }
        for (position, layer) in manifest.layers.iter().enumerate() {
            let place = format!("{place} / layer {}", position + 1);
            let diff_id = self.layer(&place, layer);
            if let (Some(found), Some(expected)) = (diff_id, diff_ids.get(position))
                && found != *expected
            {
                self.problem(
                    &place,
                    layer.digest,
                    format!("its diff id is {found}, the config says {expected}"),
                );
            }
        }
    }

    /// Checks a layer once, however many images share it, and returns its diff id.
    fn layer(&mut self, place: &str, layer: &Descriptor) -> Option<Digest> {
        self.size(place, layer);
        if let Some(checked) = self.layers.get(&layer.digest) {
            return *checked;
        }
        let checked = match visit_layer(&self.store, layer, LayerLimits::default(), |_, _| Ok(())) {
            Ok((diff_id, _)) => Some(diff_id),
            Err(error) => {
                self.problem(place, layer.digest, error.to_string());
                None
            }
        };
        self.layers.insert(layer.digest, checked);
        checked
    }

    fn document(&mut self, place: &str, descriptor: &Descriptor) -> Option<Vec<u8>> {
        self.size(place, descriptor);
        match self.store.read_verified(&descriptor.digest, MAX_DOCUMENT_BYTES) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.problem(place, descriptor.digest, error.to_string());
                None
            }
        }
    }

    fn size(&mut self, place: &str, descriptor: &Descriptor) {
        if let Ok(metadata) = std::fs::metadata(self.store.path(&descriptor.digest))
            && metadata.len() != descriptor.size
        {
            let message = format!(
                "it has {} bytes, its descriptor says {}",
                metadata.len(),
                descriptor.size
            );
            self.problem(place, descriptor.digest, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{self, ImageConfig, ImageManifest, MediaType};
    use crate::image::{ImageSpec, assemble_image};
    use crate::layer::{Compression, FileMode, FileSource, LayerBuilder};
    use crate::layout::write_layout;
    use std::fs;

    /// Writes a layout of one image that `change` had its way with, and checks the problems found.
    fn check(change: impl FnOnce(&mut ImageConfig, &mut ImageManifest, &mut Descriptor), expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        let mut layer = LayerBuilder::new();
        layer
            .file("a", FileSource::Bytes(b"a".into()), FileMode::Plain)
            .unwrap();
        let mut spec = ImageSpec::new("linux/arm".parse().unwrap());
        spec.layers.push(layer.build(&store, Compression::Gzip).unwrap());
        let mut descriptor = assemble_image(&store, &spec).unwrap();
        let mut manifest = image::read_manifest(&store, &descriptor.digest).unwrap();
        let mut config = image::read_config(&store, &manifest.config.digest).unwrap();
        change(&mut config, &mut manifest, &mut descriptor);
        let blob = store.put_bytes(&document::to_bytes(&config)).unwrap();
        (manifest.config.digest, manifest.config.size) = (blob.digest, blob.size);
        let blob = store.put_bytes(&document::to_bytes(&manifest)).unwrap();
        (descriptor.digest, descriptor.size) = (blob.digest, blob.size);
        let layout = dir.path().join("layout");
        write_layout(&layout, &store, &[("m".to_owned(), descriptor)]).unwrap();
        let problems = validate_layout(&layout).unwrap();
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.to_string().contains(expected), "{problem}");
        }
    }

    #[test]
    fn contradictions_between_documents_are_found() {
        check(|_, _, _| {}, &[]);
        check(
            |config, _, _| config.rootfs.diff_ids[0] = Digest::of(b"x"),
            &["its diff id is"],
        );
        check(
            |config, _, _| config.rootfs.diff_ids.clear(),
            &["1 layers but 0 diff ids"],
        );
        check(
            |config, _, _| config.variant = Some("v6".into()),
            &["index says linux/arm/v7, the config linux/arm/v6"],
        );
        check(
            |_, _, descriptor| descriptor.platform = "linux/amd64".parse().ok(),
            &["index says linux/amd64"],
        );
        check(
            |_, manifest, _| manifest.layers[0].media_type = MediaType::LayerTar,
            &["m / layer 1"],
        );
        check(
            |_, manifest, _| manifest.layers[0].media_type = MediaType::LayerZstd,
            &["Unknown frame descriptor"],
        );
        check(
            |_, manifest, _| manifest.config.media_type = MediaType::LayerTar,
            &["is no image config"],
        );
        check(
            |_, manifest, _| manifest.media_type = Some(MediaType::DockerManifest),
            &["calls itself another"],
        );
        check(
            |_, _, descriptor| descriptor.media_type = MediaType::LayerTar,
            &["neither an image nor an index"],
        );
    }

    #[test]
    fn missing_and_corrupt_blobs_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        let mut layer = LayerBuilder::new();
        layer
            .file("a", FileSource::Bytes(b"a".into()), FileMode::Plain)
            .unwrap();
        let mut spec = ImageSpec::new("linux/arm".parse().unwrap());
        let layer = layer.build(&store, Compression::Gzip).unwrap();
        spec.layers.push(layer.clone());
        let image = assemble_image(&store, &spec).unwrap();
        let layout = dir.path().join("layout");
        write_layout(&layout, &store, &[("m".to_owned(), image)]).unwrap();
        let path = layout.join("blobs/sha256").join(layer.descriptor.digest.hex());
        let bytes = fs::read(&path).unwrap();
        let problems = |content: Option<&[u8]>| {
            fs::remove_file(&path).ok();
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            validate_layout(&layout)
                .unwrap()
                .iter()
                .map(Problem::to_string)
                .collect::<Vec<_>>()
        };
        assert!(problems(Some(&bytes)).is_empty());
        assert_eq!(problems(None).len(), 1);
        let cut = problems(Some(&bytes[..bytes.len() - 3]));
        assert_eq!(cut.len(), 2, "{cut:?}");
        let mut flipped = bytes.clone();
        flipped[4] ^= 1; // the header's time, which decompression ignores
        let found = problems(Some(&flipped));
        assert!(found.len() == 1 && found[0].contains("is corrupt"), "{found:?}");
        assert!(path.exists(), "validation moves nothing");
        let mut longer = bytes.clone();
        longer.extend(b"tail");
        assert!(!problems(Some(&longer)).is_empty());
    }
}
