//! What a release takes on its devices: bytes over the link and on the disk, per target, against the target's limits and
//! as a difference to the last release.
//!
//! A layer that several images share is sent and unpacked once. Sizes are of all images of a target together: which of
//! them a device gets hangs on its tags.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aiot_iothub::{LayerBook, LayerSize};
use aiot_oci::{Digest, Store};
use aiot_plan::Workspace;
use aiot_plan::action::Output;
use aiot_plan::plan::Plan;
use serde::{Deserialize, Serialize};

use crate::error::BuildError;
use crate::execute::UNPACKED_OUTPUT;
use crate::lockfile::write_if_changed;

/// The longest list of unpacked sizes, and of the last release's.
const MAX_SIZES_BYTES: u64 = 64 << 20;

/// The images of one target.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SizeRow {
    /// The target.
    pub target: String,
    /// Images for it.
    pub images: usize,
    /// What a device without any of them fetches, bytes.
    pub download_bytes: u64,
    /// What a device with all images of the last release fetches, bytes; `None` where there was no release here.
    pub new_bytes: Option<u64>,
    /// The speed of the target's link, kbit/s.
    pub link_kbit_per_s: Option<u64>,
    /// Layers on the disk, bytes; `None` where a base image's size is not known here.
    pub unpacked_bytes: Option<u64>,
    /// How much more that is than at the last release.
    pub unpacked_change_bytes: Option<i64>,
    /// What the target's devices have for it, bytes.
    pub disk_bytes: u64,
}

impl SizeRow {
    /// Minutes that bytes take over the link.
    pub fn minutes(&self, bytes: u64) -> Option<f64> {
        let link = self.link_kbit_per_s.filter(|speed| *speed > 0)?;
        Some(bytes as f64 * 8.0 / 1000.0 / link as f64 / 60.0)
    }
}

/// Layers of all images, by target, then digest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sizes {
    targets: BTreeMap<String, BTreeMap<Digest, LayerSize>>,
}

impl Sizes {
    /// Of a plan that was run.
    pub(crate) fn of(
        plan: &Plan,
        outputs: &[BTreeMap<String, Output>],
        store: &Store,
    ) -> Result<Sizes, BuildError> {
        let mut sizes = Sizes::default();
        for ((_, target), &node) in &plan.images {
            let layers = sizes.targets.entry(target.to_string()).or_default();
            layers.extend(layers_of(&outputs[node], store)?);
        }
        Ok(sizes)
    }

    /// Of the last release; `None` where there was none here or what it left cannot be read.
    pub(crate) fn read(path: &Path) -> Option<Sizes> {
        let length = std::fs::metadata(path).ok()?.len();
        let bytes = std::fs::read(path).ok().filter(|_| length <= MAX_SIZES_BYTES)?;
        serde_json::from_slice(&bytes).ok()
    }

    /// For the next release.
    pub(crate) fn write(&self, path: &Path) -> Result<(), BuildError> {
        let bytes = serde_json::to_vec(self).expect("plain data");
        write_if_changed(path, &bytes).map(|_| ())
    }

    /// A row for each target.
    pub(crate) fn rows(&self, workspace: &Workspace, plan: &Plan, last: Option<&Sizes>) -> Vec<SizeRow> {
        let mut rows = Vec::new();
        for target in workspace.targets.values() {
            let name = target.name.as_str();
            let Some(layers) = self.targets.get(name) else {
                continue;
            };
            let before = last.map(|last| last.targets.get(name).cloned().unwrap_or_default());
            let known: BTreeSet<Digest> = before.iter().flatten().map(|(digest, _)| *digest).collect();
            let new = layers.iter().filter(|(digest, _)| !known.contains(digest));
            let unpacked_bytes = unpacked(layers);
            let before_bytes = before.as_ref().and_then(unpacked);
            rows.push(SizeRow {
                target: name.to_owned(),
                images: plan.images.keys().filter(|(_, of)| of == &target.name).count(),
                download_bytes: layers.values().map(|layer| layer.compressed_bytes).sum(),
                new_bytes: last.map(|_| new.map(|(_, layer)| layer.compressed_bytes).sum()),
                link_kbit_per_s: target.link_kbit_per_s,
                unpacked_bytes,
                unpacked_change_bytes: unpacked_bytes
                    .zip(before_bytes)
                    .map(|(now, before)| now as i64 - before as i64),
                disk_bytes: target.disk_bytes,
            });
        }
        rows
    }
}

/// The layers of all images, for the environments' roll-outs.
///
/// # Errors
/// A manifest or a list of sizes that cannot be read.
pub(crate) fn book(
    plan: &Plan,
    outputs: &[BTreeMap<String, Output>],
    store: &Store,
) -> Result<LayerBook, BuildError> {
    let mut book = LayerBook::default();
    for &node in plan.images.values() {
        let image = outputs[node]["manifest"].digest;
        book.add(image, layers_of(&outputs[node], store)?);
    }
    Ok(book)
}

/// The layers of one image, lowest first.
fn layers_of(
    image: &BTreeMap<String, Output>,
    store: &Store,
) -> Result<Vec<(Digest, LayerSize)>, BuildError> {
    let manifest =
        aiot_oci::image::read_manifest(store, &image["manifest"].digest).map_err(BuildError::other)?;
    let unpacked: BTreeMap<Digest, u64> = match image.get(UNPACKED_OUTPUT) {
        Some(output) => {
            let bytes = store
                .read_verified(&output.digest, MAX_SIZES_BYTES)
                .map_err(BuildError::other)?;
            serde_json::from_slice(&bytes).map_err(BuildError::other)?
        }
        None => BTreeMap::new(),
    };
    let size = |layer: &aiot_oci::Descriptor| LayerSize {
        compressed_bytes: layer.size,
        unpacked_bytes: unpacked.get(&layer.digest).copied(),
    };
    let layers = manifest.layers.iter().map(|layer| (layer.digest, size(layer)));
    Ok(layers.collect())
}

fn unpacked(layers: &BTreeMap<Digest, LayerSize>) -> Option<u64> {
    layers.values().map(|layer| layer.unpacked_bytes).sum()
}

/// Refuses images that no device of their target has the disk for.
///
/// # Errors
/// Every target whose images are too large together.
pub(crate) fn judge(rows: &[SizeRow]) -> Result<(), BuildError> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let refused: Vec<BuildError> = rows
        .iter()
        .filter_map(|row| {
            let unpacked = row.unpacked_bytes.filter(|bytes| *bytes > row.disk_bytes)?;
            Some(BuildError::Other(format!(
                "the {} images for {} take {:.1} MiB unpacked, the target has {:.1} MiB for them; give it fewer models, \
                 or raise `limits.disk-mib` in targets.toml where the devices have more",
                row.images,
                row.target,
                mib(unpacked),
                mib(row.disk_bytes)
            )))
        })
        .collect();
    match refused.len() {
        0 => Ok(()),
        _ => Err(BuildError::Many(refused)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(unpacked: Option<u64>) -> SizeRow {
        SizeRow {
            target: "t".to_owned(),
            images: 2,
            download_bytes: 0,
            new_bytes: None,
            link_kbit_per_s: Some(2000),
            unpacked_bytes: unpacked,
            unpacked_change_bytes: None,
            disk_bytes: 100,
        }
    }

    #[test]
    fn what_does_not_fit_on_the_disk_is_refused() {
        assert!(judge(&[row(Some(100)), row(None)]).is_ok());
        let refused = judge(&[row(Some(101)), row(Some(100)), row(Some(102))]).unwrap_err();
        assert_eq!(refused.to_string().lines().count(), 2, "{refused}");
        assert!(refused.to_string().contains("limits.disk-mib"));
    }

    #[test]
    fn minutes_follow_from_the_link() {
        // 15 MB at 2 Mbit/s: 60 seconds.
        assert_eq!(row(None).minutes(15_000_000), Some(1.0));
        let no_link = SizeRow {
            link_kbit_per_s: None,
            ..row(None)
        };
        assert_eq!(no_link.minutes(1), None);
    }

    #[test]
    fn sizes_are_read_back_and_damage_is_no_release() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sizes.json");
        let layer = LayerSize {
            compressed_bytes: 3,
            unpacked_bytes: Some(5),
        };
        let sizes = Sizes {
            targets: BTreeMap::from([("t".to_owned(), BTreeMap::from([(Digest::of(b"a"), layer)]))]),
        };
        assert_eq!(Sizes::read(&path), None);
        sizes.write(&path).unwrap();
        assert_eq!(Sizes::read(&path), Some(sizes));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Sizes::read(&path), None);
    }
}
