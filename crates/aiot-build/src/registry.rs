//! Base images from registries, and the client that pulls and pushes share.

use std::collections::BTreeMap;

use aiot_oci::{
    ClientOptions, Credentials, Descriptor, MediaType, PullLayers, Reference, RegistryClient, Store,
};
use aiot_plan::action::Output;
use aiot_plan::workspace::Platform;

use crate::error::BuildError;
use crate::execute::oci_platform;
use crate::network::Network;

/// A client with this machine's credentials.
pub(crate) fn client() -> Result<RegistryClient, BuildError> {
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

/// A descriptor from an action's output.
pub fn descriptor(output: &Output) -> Descriptor {
    let media_type = output.media_type.as_deref().unwrap_or_default();
    Descriptor::new(MediaType::from(media_type), output.digest, output.size_bytes)
}
