//! Base images from registries, and the client that pulls and pushes share.

use std::collections::BTreeMap;
use std::path::Path;

use aiot_oci::{
    ClientOptions, Credentials, Descriptor, MediaType, Places, PullLayers, Reference, RegistryClient, Store,
};
use aiot_plan::action::{Action, Output};
use aiot_plan::plan::Plan;
use aiot_plan::workspace::Platform;
use serde::de::DeserializeOwned;

use crate::error::{BuildError, io};
use crate::execute::oci_platform;
use crate::network::Network;

/// A client with this machine's credentials.
pub(crate) fn client() -> Result<RegistryClient, BuildError> {
    client_that_knows(BTreeMap::new())
}

/// The same, with the length of the pieces that registries want; see [`read_habits`].
pub(crate) fn client_that_knows(chunk_bytes: BTreeMap<String, u64>) -> Result<RegistryClient, BuildError> {
    let credentials = Credentials::from_environment().map_err(BuildError::other)?;
    Ok(RegistryClient::new(ClientOptions {
        credentials,
        chunk_bytes,
        ..ClientOptions::default()
    }))
}

/// The longest file of habits that is read.
const MAX_HABITS_BYTES: u64 = 1 << 20;

/// What earlier pushes found out about registries, see [`read_kept`].
pub(crate) fn read_habits(path: &Path) -> BTreeMap<String, u64> {
    read_kept(path, MAX_HABITS_BYTES)
}

/// What a file keeps from earlier pushes; nothing where there is no such file, it is longer than `limit_bytes` or
/// damaged, since it can be found out again.
pub(crate) fn read_kept<T: DeserializeOwned + Default>(path: &Path, limit_bytes: u64) -> T {
    let fits = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= limit_bytes);
    let bytes = if fits { std::fs::read(path).ok() } else { None };
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Keeps what a client found out about registries.
pub(crate) fn write_habits(path: &Path, habits: &BTreeMap<String, u64>) -> Result<(), BuildError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(io("create", dir))?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io("create a file in", dir))?;
    serde_json::to_writer(file.as_file_mut(), habits).map_err(BuildError::other)?;
    file.persist(path)
        .map_err(|error| io("write", path)(error.error))?;
    Ok(())
}

/// The outputs of [`pull_base`] that are layers begin like this.
const LAYER_OUTPUT: &str = "layer-";

/// Pulls an image to build on: manifest, config and layers, as an action's outputs.
///
/// The layers, too: whether a program finds its loader and libraries, and what an image takes on a device, is known
/// only from what is in them. They are fetched once and stay in the store; a push to the registry that they come from
/// mounts them (see [`base_places`]).
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
        outputs.insert(format!("{LAYER_OUTPUT}{index}"), output(layer));
    }
    Ok(outputs)
}

/// Which repositories have the layers of a plan's base images. `outputs`: of all actions, in the plan's order.
///
/// # Errors
/// A reference that cannot be read.
pub(crate) fn base_places(plan: &Plan, outputs: &[BTreeMap<String, Output>]) -> Result<Places, BuildError> {
    let mut places = Places::new();
    for (node, outputs) in plan.nodes.iter().zip(outputs) {
        let Action::FetchBaseImage { reference, .. } = &node.action else {
            continue;
        };
        let Reference { repository, .. } = reference.parse().map_err(BuildError::other)?;
        let layers = outputs.iter().filter(|(name, _)| name.starts_with(LAYER_OUTPUT));
        places
            .entry(repository.registry().to_owned())
            .or_default()
            .extend(layers.map(|(_, layer)| (layer.digest, repository.name().to_owned())));
    }
    Ok(places)
}

/// A descriptor from an action's output.
pub fn descriptor(output: &Output) -> Descriptor {
    let media_type = output.media_type.as_deref().unwrap_or_default();
    Descriptor::new(MediaType::from(media_type), output.digest, output.size_bytes)
}
