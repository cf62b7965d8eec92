//! Images from and to registries.

use std::collections::BTreeMap;

use aiot_oci::{
    ClientOptions, Credentials, Descriptor, MediaType, PullLayers, PushOptions, PushReceipt, Reference,
    RegistryClient, Repository, Store,
};
use aiot_plan::action::Output;
use aiot_plan::workspace::Platform;

use crate::error::BuildError;
use crate::execute::oci_platform;
use crate::network::Network;

fn client() -> Result<RegistryClient, BuildError> {
    let credentials = Credentials::from_environment().map_err(BuildError::other)?;
    Ok(RegistryClient::new(ClientOptions {
        credentials,
        ..ClientOptions::default()
    }))
}

/// Pulls an image to build on: manifest, config and layers, as an action's outputs.
///
/// # Errors
/// From the registry, or when the image is not for the platform.
pub fn pull_base(
    network: &Network,
    store: &Store,
    reference: &str,
    platform: &Platform,
) -> Result<BTreeMap<String, Output>, BuildError> {
    let reference: Reference = reference.parse().map_err(BuildError::other)?;
    let client = client()?;
    let pulled = network
        .block_on(client.pull_image(store, &reference, &oci_platform(platform), PullLayers::All))
        .map_err(BuildError::other)?;
    let output = |descriptor: &Descriptor| Output {
        digest: descriptor.digest,
        size_bytes: descriptor.size,
        // Base layers come by way of the manifest, not as layers of ours.
        diff_id: None,
        media_type: Some(descriptor.media_type.to_string()),
    };
    let mut outputs = BTreeMap::from([
        ("manifest".to_owned(), output(&pulled.manifest)),
        ("config".to_owned(), output(&pulled.config)),
    ]);
    for (index, layer) in pulled.layers.iter().enumerate() {
        outputs.insert(format!("layer-{index}"), output(layer));
    }
    Ok(outputs)
}

/// One thing to push: what, below the prefix where to, under which tag.
#[derive(Clone, Debug)]
pub struct PushItem {
    /// Repository below the prefix.
    pub repository: String,
    /// Tag; `None` = by digest only.
    pub tag: Option<String>,
    /// Manifest or index.
    pub descriptor: Descriptor,
}

/// Pushes items one after the other; blobs of one that another needs are mounted or skipped.
///
/// # Errors
/// The first that fails, with registry, repository and what to do.
pub fn push(
    network: &Network,
    store: &Store,
    prefix: &str,
    items: &[PushItem],
    on_item: &dyn Fn(&PushItem, &PushReceipt),
) -> Result<PushReceipt, BuildError> {
    let prefix: Repository = prefix.parse().map_err(|error| {
        BuildError::Other(format!(
            "--push {prefix}: {error}; expected REGISTRY/PREFIX, for example localhost:5000/aiot"
        ))
    })?;
    let client = client()?;
    let options = PushOptions {
        overwrite_tag: true,
        ..PushOptions::default()
    };
    let mut sum = PushReceipt::default();
    for item in items {
        let to = prefix.join(&item.repository).map_err(BuildError::other)?;
        let receipt = network
            .block_on(client.push(store, &item.descriptor, &to, item.tag.as_deref(), &options))
            .map_err(BuildError::other)?;
        on_item(item, &receipt);
        sum.blobs_present += receipt.blobs_present;
        sum.blobs_mounted += receipt.blobs_mounted;
        sum.blobs_uploaded += receipt.blobs_uploaded;
        sum.uploaded_bytes += receipt.uploaded_bytes;
        sum.manifests_uploaded += receipt.manifests_uploaded;
    }
    Ok(sum)
}

/// A descriptor from an action's output.
pub fn descriptor(output: &Output) -> Descriptor {
    let media_type = output.media_type.as_deref().unwrap_or_default();
    Descriptor::new(MediaType::from(media_type), output.digest, output.size_bytes)
}
