//! The layers of images, as a release writes them beside its manifests: what a device must fetch, less what it has, and
//! what old and new take on its disk together.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::Digest;
use serde::{Deserialize, Serialize};

/// The file's name in `deployments/<environment>/`.
pub const LAYERS_FILE: &str = "layers.json";

/// The only version that is read.
const FORMAT_VERSION: u32 = 1;

/// Images and their layers. Files of several releases may be laid over each other: a digest means the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LayerBook {
    format_version: u32,
    /// Digest of the image's manifest → its layers.
    images: BTreeMap<Digest, Vec<Digest>>,
    layers: BTreeMap<Digest, LayerSize>,
}

/// How large one layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LayerSize {
    /// On the wire, bytes.
    pub compressed_bytes: u64,
    /// On the disk, bytes; none: it was not looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpacked_bytes: Option<u64>,
}

impl Default for LayerBook {
    fn default() -> LayerBook {
        LayerBook {
            format_version: FORMAT_VERSION,
            images: BTreeMap::new(),
            layers: BTreeMap::new(),
        }
    }
}

impl LayerBook {
    /// Reads the file; `None` where it is of another version or damaged: sizes are then not known.
    pub fn parse(bytes: &[u8]) -> Option<LayerBook> {
        let book: LayerBook = serde_json::from_slice(bytes).ok()?;
        let known = |layer| book.layers.contains_key(layer);
        let is_whole = book.images.values().flatten().all(known);
        (book.format_version == FORMAT_VERSION && is_whole).then_some(book)
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("plain data");
        bytes.push(b'\n');
        bytes
    }

    /// Notes an image.
    pub fn add(&mut self, image: Digest, layers: impl IntoIterator<Item = (Digest, LayerSize)>) {
        let layers: Vec<_> = layers.into_iter().collect();
        self.images
            .insert(image, layers.iter().map(|(digest, _)| *digest).collect());
        self.layers.extend(layers);
    }

    /// Takes over what another file knows.
    pub fn merge(&mut self, other: LayerBook) {
        self.images.extend(other.images);
        self.layers.extend(other.layers);
    }

    /// Whether an image is known.
    pub fn knows(&self, image: &Digest) -> bool {
        self.images.contains_key(image)
    }

    /// All layers of these images, each once; `None` where one of the images is not known.
    pub fn of<'a>(&self, images: impl IntoIterator<Item = &'a Digest>) -> Option<BTreeSet<Digest>> {
        let mut layers = BTreeSet::new();
        for image in images {
            layers.extend(self.images.get(image)?);
        }
        Some(layers)
    }

    /// What layers are on the wire, bytes.
    pub fn compressed_bytes<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>) -> u64 {
        let size = |layer| self.layers.get(layer).map_or(0, |size| size.compressed_bytes);
        layers.into_iter().map(size).fold(0, u64::saturating_add)
    }

    /// What layers are on the disk, bytes; `None` where the size of one is not known.
    pub fn unpacked_bytes<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>) -> Option<u64> {
        let mut sum = 0u64;
        for layer in layers {
            sum = sum.saturating_add(self.layers.get(layer)?.unpacked_bytes?);
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(compressed_bytes: u64, unpacked_bytes: Option<u64>) -> LayerSize {
        LayerSize {
            compressed_bytes,
            unpacked_bytes,
        }
    }

    #[test]
    fn shared_layers_count_once_and_unknown_images_are_unknown() {
        let [a, b, base, own, other] =
            ["a", "b", "base", "own", "other"].map(|text| Digest::of(text.as_bytes()));
        let mut book = LayerBook::default();
        book.add(a, [(base, size(10, Some(30))), (own, size(5, Some(6)))]);
        let mut later = LayerBook::default();
        later.add(b, [(base, size(10, Some(30))), (other, size(7, None))]);
        assert!(book.knows(&a) && !book.knows(&b));
        assert_eq!(book.of([&a, &b]), None);
        book.merge(later);
        let both = book.of([&a, &b]).unwrap();
        assert_eq!(book.compressed_bytes(&both), 22);
        assert_eq!(book.unpacked_bytes(&both), None);
        assert_eq!(book.unpacked_bytes(&book.of([&a]).unwrap()), Some(36));
        assert_eq!(LayerBook::parse(&book.to_bytes()), Some(book));
    }

    #[test]
    fn damaged_files_are_no_knowledge() {
        let image = Digest::of(b"a");
        let missing = format!(r#"{{"format-version":1,"images":{{"{image}":["{image}"]}},"layers":{{}}}}"#);
        for text in [
            "",
            "{",
            "[]",
            &missing,
            r#"{"format-version":2,"images":{},"layers":{}}"#,
        ] {
            assert_eq!(LayerBook::parse(text.as_bytes()), None, "{text}");
        }
        let empty = r#"{"format-version":1,"images":{},"layers":{}}"#;
        assert_eq!(LayerBook::parse(empty.as_bytes()), Some(LayerBook::default()));
    }
}
