//! An image's bytes in a registry: manifest, config and every layer, streamed through their hashes and not kept.

use std::collections::{BTreeMap, BTreeSet};

use aiot_oci::document::MAX_DOCUMENT_BYTES;
use aiot_oci::image::{parse_index, parse_manifest};
use aiot_oci::{
    CheckedBlob, Descriptor, Digest, ImageConfig, ImageManifest, Platform, Reference, RegistryClient,
    Repository,
};
use tokio::task::JoinSet;

use super::Check;
use crate::network::Network;

/// Layers that are read at the same time.
const IN_PARALLEL: usize = 3;

/// Layers that were read already: an image's layers are shared, and a registry keeps a blob once.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Registry, digest and announced length → what was found.
    layers: BTreeMap<(String, Digest, u64), Result<CheckedBlob, String>>,
    /// Repository and tag → entries of the index there; `None` where there is none.
    indexes: BTreeMap<(Repository, String), Option<Vec<Descriptor>>>,
}

/// What reading an image found.
#[derive(Debug)]
pub(crate) struct Read {
    pub digests: Check,
    pub faults: Vec<String>,
    /// Labels of the image: which model, which version.
    pub labels: BTreeMap<String, String>,
    /// What its config says.
    pub platform: Option<Platform>,
}

/// Reads an image by its digest. `platform`: what it must be for.
pub(crate) fn read(
    network: &Network,
    client: &RegistryClient,
    repository: &Repository,
    digest: Digest,
    platform: Option<&Platform>,
    seen: &mut Seen,
) -> Read {
    let mut found = Read {
        digests: Check::fault(),
        faults: Vec::new(),
        labels: BTreeMap::new(),
        platform: None,
    };
    let reference = Reference {
        repository: repository.clone(),
        tag: None,
        digest: Some(digest),
    };
    let manifest: ImageManifest = match network.block_on(client.fetch_manifest(&reference)) {
        Ok((descriptor, bytes)) if descriptor.media_type.is_manifest() => match parse_manifest(&bytes) {
            Ok(manifest) => manifest,
            Err(reason) => {
                found
                    .faults
                    .push(format!("its manifest cannot be read: {reason}"));
                return found;
            }
        },
        Ok((descriptor, _)) => {
            found
                .faults
                .push(format!("it is no image but `{}`", descriptor.media_type));
            return found;
        }
        Err(error) => {
            found.faults.push(error.to_string());
            return found;
        }
    };
    found.labels.clone_from(&manifest.annotations);
    let config = network
        .block_on(client.fetch_blob(repository, &manifest.config, MAX_DOCUMENT_BYTES))
        .map_err(|error| error.to_string())
        .and_then(|bytes| {
            serde_json::from_slice::<ImageConfig>(&bytes)
                .map_err(|error| format!("it cannot be read: {error}"))
        });
    let config = match config {
        Ok(config) => Some(config),
        Err(reason) => {
            found.faults.push(format!("config: {reason}"));
            None
        }
    };
    let layers = read_layers(network, client, repository, &manifest.layers, seen);
    let mut size_bytes = manifest.config.size;
    for (position, (layer, result)) in manifest.layers.iter().zip(&layers).enumerate() {
        size_bytes += layer.size;
        let place = format!("layer {} ({})", position + 1, layer.digest.short());
        match result {
            Err(reason) => found.faults.push(format!("{place}: {reason}")),
            Ok(checked) => {
                let said = config
                    .as_ref()
                    .and_then(|config| config.rootfs.diff_ids.get(position));
                if let (Some(said), Some(diff_id)) = (said, checked.diff_id)
                    && *said != diff_id
                {
                    found.faults.push(format!(
                        "{place}: its diff id is {diff_id}, the config says {said}"
                    ));
                }
            }
        }
    }
    if let Some(config) = &config {
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            found.faults.push(format!(
                "{} layers but {} diff ids",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            ));
        }
        let own = config.platform();
        if let Some(platform) = platform.filter(|platform| **platform != own) {
            found
                .faults
                .push(format!("its config is for {own}, not {platform}"));
        }
        found.platform = Some(own);
    }
    if found.faults.is_empty() {
        let mib = size_bytes as f64 / f64::from(1 << 20);
        found.digests = Check::ok(format!("{} layers, {mib:.1} MiB", layers.len()));
    }
    found
}

fn read_layers(
    network: &Network,
    client: &RegistryClient,
    repository: &Repository,
    layers: &[Descriptor],
    seen: &mut Seen,
) -> Vec<Result<CheckedBlob, String>> {
    let key = |layer: &Descriptor| (repository.registry().to_owned(), layer.digest, layer.size);
    let new: BTreeSet<_> = layers
        .iter()
        .map(key)
        .filter(|key| !seen.layers.contains_key(key))
        .collect();
    let mut waiting: Vec<Descriptor> = Vec::new();
    for layer in layers {
        if new.contains(&key(layer)) && waiting.iter().all(|known| known.digest != layer.digest) {
            waiting.push(layer.clone());
        }
    }
    let results = network.block_on(async {
        let mut waiting = waiting.into_iter();
        let mut running = JoinSet::new();
        let mut results = Vec::new();
        loop {
            while running.len() < IN_PARALLEL
                && let Some(layer) = waiting.next()
            {
                let (client, repository) = (client.clone(), repository.clone());
                running.spawn(async move {
                    let result = client.check_blob(&repository, &layer).await;
                    (layer, result.map_err(|error| error.to_string()))
                });
            }
            match running.join_next().await {
                None => return results,
                Some(Ok(result)) => results.push(result),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    });
    for (layer, result) in results {
        seen.layers.insert(key(&layer), result);
    }
    layers
        .iter()
        .map(|layer| {
            let key = key(layer);
            let known = seen.layers.get(&key).cloned();
            let known = known.unwrap_or_else(|| Err("it is listed twice, with two lengths".to_owned()))?;
            // Its bytes were right in another repository of the registry: here it must be there too.
            if !new.contains(&key)
                && !network
                    .block_on(client.tells_of_blob(repository, layer))
                    .map_err(|error| error.to_string())?
            {
                return Err("the repository does not have it".to_owned());
            }
            Ok(known)
        })
        .collect()
}

/// What the index under a tag says about an image: its faults, or a note where it does not name it.
pub(crate) fn check_index(
    network: &Network,
    client: &RegistryClient,
    repository: &Repository,
    tag: &str,
    (digest, platform): (Digest, Option<&Platform>),
    seen: &mut Seen,
) -> Result<Option<String>, String> {
    let key = (repository.clone(), tag.to_owned());
    if !seen.indexes.contains_key(&key) {
        let reference = Reference {
            repository: repository.clone(),
            tag: Some(tag.to_owned()),
            digest: None,
        };
        let entries = match network.block_on(client.fetch_manifest(&reference)) {
            Ok((descriptor, bytes)) if descriptor.media_type.is_index() => {
                let index = parse_index(&bytes).map_err(|reason| format!("index `{tag}`: {reason}"))?;
                Some(index.manifests)
            }
            Ok(_) | Err(aiot_oci::RegistryError::NotFound(_)) => None,
            Err(error) => return Err(format!("index `{tag}`: {error}")),
        };
        seen.indexes.insert(key.clone(), entries);
    }
    let Some(entries) = &seen.indexes[&key] else {
        return Ok(Some(format!("there is no index under the tag `{tag}`")));
    };
    let Some(entry) = entries.iter().find(|entry| entry.digest == digest) else {
        return Ok(Some(format!(
            "the index under the tag `{tag}` names a newer or older image"
        )));
    };
    match (&entry.platform, platform) {
        (Some(said), Some(platform)) if said != platform => {
            Err(format!("index `{tag}` lists it for {said}, not {platform}"))
        }
        (None, _) => Err(format!("index `{tag}` lists it without a platform")),
        _ => Ok(None),
    }
}
