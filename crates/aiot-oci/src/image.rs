//! Config, manifest and index of images, from layers that are in the store.
//!
//! Pure but for reading a base image and writing the documents. What stands in an image follows from its
//! [`ImageSpec`] only: commit, branch and time belong to the provenance, or every commit would be a new image.

use std::collections::BTreeMap;

use aiot_package::Digest;

use crate::document::{
    self, Descriptor, Empty, ExecutionConfig, ImageConfig, ImageIndex, ImageManifest, MAX_DOCUMENT_BYTES,
    MediaType, Platform, RootFs,
};
use crate::layer::Layer;
use crate::store::{Store, StoreError};

/// What can be wrong with an image's parts.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A document is no JSON of its kind.
    #[error("{what} {digest} cannot be read: {reason}")]
    Document {
        /// `manifest`, `config`, `index`.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// The base image is for other machines.
    #[error("the base image is for {base}, the image for {image}")]
    BasePlatform {
        /// The base's platform.
        base: Box<Platform>,
        /// The image's.
        image: Box<Platform>,
    },
    /// A layer of the base image cannot stand in an OCI image.
    #[error("layer {digest} of the base image has media type `{media_type}`, which no OCI image can hold")]
    BaseLayer {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: MediaType,
    },
    /// A value that would not mean what it says.
    #[error("{field} `{value}` {reason}")]
    Value {
        /// Which part of the spec.
        field: &'static str,
        /// The value.
        value: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// An entry of an index without a platform.
    #[error("manifest {digest} has no platform and cannot be chosen from an index")]
    NoPlatform {
        /// The manifest.
        digest: Digest,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image to build on. Its layers need not be in the store to assemble an image on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// Its manifest.
    pub manifest: ImageManifest,
    /// Its config.
    pub config: ImageConfig,
}

impl BaseImage {
    /// Reads manifest and config of an image in the store.
    ///
    /// # Errors
    /// [`ImageError::Document`] when they are no such documents or contradict each other; [`ImageError::Store`].
    pub fn read(store: &Store, manifest: &Descriptor) -> Result<BaseImage, ImageError> {
        let digest = manifest.digest;
        let manifest = read_manifest(store, &digest)?;
        let config = read_config(store, &manifest.config.digest)?;
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            let reason = format!(
                "it has {} layers, its config {} diff ids",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            );
            return Err(ImageError::Document {
                what: "manifest",
                digest,
                reason,
            });
        }
        Ok(BaseImage { manifest, config })
    }
}

/// Everything that an image is made of.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// The machines that it runs on.
    pub platform: Platform,
    /// The image to build on; `None` starts from nothing.
    pub base: Option<BaseImage>,
    /// Layers above the base's, lowest first: what changes most comes last.
    pub layers: Vec<Layer>,
    /// Program and fixed arguments; empty takes the base's.
    pub entrypoint: Vec<String>,
    /// Default arguments; empty takes the base's, but only together with its entry point.
    pub cmd: Vec<String>,
    /// Environment, over the base's.
    pub env: BTreeMap<String, String>,
    /// `uid`, `uid:gid` or names; `None` takes the base's.
    pub user: Option<String>,
    /// Folder to start in; `None` takes the base's.
    pub working_dir: Option<String>,
    /// Ports such as `9600/tcp`, beside the base's.
    pub exposed_ports: Vec<String>,
    /// Notes in the config, over the base's.
    pub labels: BTreeMap<String, String>,
    /// Notes in the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Signal that asks the program to end; `None` takes the base's.
    pub stop_signal: Option<String>,
}

impl ImageSpec {
    /// An image of nothing for `platform`.
    pub fn new(platform: Platform) -> ImageSpec {
        ImageSpec {
            platform,
            base: None,
            layers: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: BTreeMap::new(),
            user: None,
            working_dir: None,
            exposed_ports: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            stop_signal: None,
        }
    }
}

/// Writes config and manifest of an image into the store and returns the manifest's descriptor, with the platform.
///
/// # Errors
/// [`ImageError`]; nothing that matters is written then.
pub fn assemble_image(store: &Store, spec: &ImageSpec) -> Result<Descriptor, ImageError> {
    let (mut layers, mut diff_ids, base) = base_parts(spec)?;
    for layer in &spec.layers {
        layers.push(layer.descriptor.clone());
        diff_ids.push(layer.diff_id);
    }
    let config = ImageConfig {
        architecture: spec.platform.architecture().to_owned(),
        os: spec.platform.os().to_owned(),
        variant: spec.platform.variant().map(str::to_owned),
        config: execution_config(spec, base)?,
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids,
        },
    };
    let config = store.put_bytes(&document::to_bytes(&config))?;
    let manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(MediaType::ImageManifest),
        config: Descriptor::new(MediaType::ImageConfig, config.digest, config.size),
        layers,
        annotations: spec.annotations.clone(),
    };
    let manifest = store.put_bytes(&document::to_bytes(&manifest))?;
    let mut descriptor = Descriptor::new(MediaType::ImageManifest, manifest.digest, manifest.size);
    descriptor.platform = Some(spec.platform.clone());
    Ok(descriptor)
}

/// Writes an index of images into the store.
///
/// The images are ordered by platform; images for the same platform keep the order of `manifests`, and since clients
/// take the first that fits, the more general one must come first. An image that is given twice stands there once.
///
/// # Errors
/// [`ImageError::NoPlatform`], [`ImageError::Store`].
pub fn assemble_index(
    store: &Store,
    manifests: &[Descriptor],
    annotations: BTreeMap<String, String>,
) -> Result<Descriptor, ImageError> {
    if let Some(manifest) = manifests.iter().find(|manifest| manifest.platform.is_none()) {
        return Err(ImageError::NoPlatform {
            digest: manifest.digest,
        });
    }
    let mut entries: Vec<Descriptor> = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        if !entries.contains(manifest) {
            entries.push(manifest.clone());
        }
    }
    entries.sort_by(|a, b| a.platform.cmp(&b.platform));
    let index = store.put_bytes(&document::to_bytes(&ImageIndex::new(entries, annotations)))?;
    Ok(Descriptor::new(MediaType::ImageIndex, index.digest, index.size))
}

type BaseParts = (Vec<Descriptor>, Vec<Digest>, ExecutionConfig);

fn base_parts(spec: &ImageSpec) -> Result<BaseParts, ImageError> {
    let Some(base) = &spec.base else {
        return Ok((Vec::new(), Vec::new(), ExecutionConfig::default()));
    };
    if base.config.platform() != spec.platform {
        return Err(ImageError::BasePlatform {
            base: Box::new(base.config.platform()),
            image: Box::new(spec.platform.clone()),
        });
    }
    let mut layers = Vec::new();
    for layer in &base.manifest.layers {
        let Some(media_type) = layer.media_type.as_oci_layer() else {
            return Err(ImageError::BaseLayer {
                digest: layer.digest,
                media_type: layer.media_type.clone(),
            });
        };
        layers.push(Descriptor::new(media_type, layer.digest, layer.size));
    }
    Ok((
        layers,
        base.config.rootfs.diff_ids.clone(),
        base.config.config.clone(),
    ))
}

fn execution_config(spec: &ImageSpec, base: ExecutionConfig) -> Result<ExecutionConfig, ImageError> {
    let mut config = base;
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for variable in &config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        env.insert(name.to_owned(), value.to_owned());
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains('=') || name.contains('\0') || value.contains('\0') {
            let reason = "is no name of an environment variable with a value";
            return Err(ImageError::Value {
                field: "env",
                value: name.clone(),
                reason,
            });
        }
        env.insert(name.clone(), value.clone());
    }
    config.env = env
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    for port in &spec.exposed_ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
        if number.parse::<u16>().is_err() || !matches!(protocol, "tcp" | "udp") {
            let reason = "is no port: expected a number and a protocol, such as `9600/tcp`";
            return Err(ImageError::Value {
                field: "exposed port",
                value: port.clone(),
                reason,
            });
        }
        config.exposed_ports.insert(port.clone(), Empty {});
    }
    if let Some(folder) = &spec.working_dir {
        if !folder.starts_with('/') {
            let reason = "is no absolute path";
            return Err(ImageError::Value {
                field: "working directory",
                value: folder.clone(),
                reason,
            });
        }
        config.working_dir = folder.clone();
    }
    if !spec.entrypoint.is_empty() {
        // As engines do: default arguments belong to the program that they were written for.
        config.entrypoint = spec.entrypoint.clone();
        config.cmd = Vec::new();
    }
    if !spec.cmd.is_empty() {
        config.cmd = spec.cmd.clone();
    }
    config.labels.extend(spec.labels.clone());
    if let Some(user) = &spec.user {
        config.user = user.clone();
    }
    if let Some(signal) = &spec.stop_signal {
        config.stop_signal = signal.clone();
    }
    Ok(config)
}

/// Reads and checks an image manifest of any origin.
///
/// # Errors
/// [`ImageError::Document`], [`ImageError::Store`].
pub fn read_manifest(store: &Store, digest: &Digest) -> Result<ImageManifest, ImageError> {
    parse_manifest(&store.read_verified(digest, MAX_DOCUMENT_BYTES)?).map_err(|reason| ImageError::Document {
        what: "manifest",
        digest: *digest,
        reason,
    })
}

/// Reads an image config of any origin.
///
/// # Errors
/// [`ImageError::Document`], [`ImageError::Store`].
pub fn read_config(store: &Store, digest: &Digest) -> Result<ImageConfig, ImageError> {
    serde_json::from_slice(&store.read_verified(digest, MAX_DOCUMENT_BYTES)?).map_err(|error| {
        ImageError::Document {
            what: "config",
            digest: *digest,
            reason: error.to_string(),
        }
    })
}

/// Reads and checks an image index of any origin.
///
/// # Errors
/// [`ImageError::Document`], [`ImageError::Store`].
pub fn read_index(store: &Store, digest: &Digest) -> Result<ImageIndex, ImageError> {
    parse_index(&store.read_verified(digest, MAX_DOCUMENT_BYTES)?).map_err(|reason| ImageError::Document {
        what: "index",
        digest: *digest,
        reason,
    })
}

/// Reads an image manifest of any origin from its bytes.
///
/// # Errors
/// What is wrong with it.
pub fn parse_manifest(bytes: &[u8]) -> Result<ImageManifest, String> {
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match &manifest.media_type {
        _ if manifest.schema_version != 2 => {
            Err(format!("schemaVersion is {}, not 2", manifest.schema_version))
        }
        Some(media_type) if !media_type.is_manifest() => Err(format!("its mediaType is `{media_type}`")),
        _ => Ok(manifest),
    }
}

/// Reads an image index of any origin from its bytes.
///
/// # Errors
/// What is wrong with it.
pub fn parse_index(bytes: &[u8]) -> Result<ImageIndex, String> {
    let index: ImageIndex = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match &index.media_type {
        _ if index.schema_version != 2 => Err(format!("schemaVersion is {}, not 2", index.schema_version)),
        Some(media_type) if !media_type.is_index() => Err(format!("its mediaType is `{media_type}`")),
        _ => Ok(index),
    }
}

#[cfg(test)]
mod tests;
