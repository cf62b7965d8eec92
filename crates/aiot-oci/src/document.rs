//! The JSON documents of the OCI image specification as plain structs.
//!
//! Fields are written in the order in which they stand here and maps are ordered, so a value has exactly one JSON
//! text and one digest. Unknown fields of foreign documents are ignored when read, which is safe because a foreign
//! document is always kept and pushed as the bytes that came; it is never written again from these structs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use aiot_package::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest manifest, index or config that is read: registries refuse manifests beyond 4 MiB, and what is small
/// may be held in memory.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Annotation of an entry in a layout's `index.json` that names it.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The media types that images consist of, with Docker's names for the same content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaType {
    /// Manifest of one image.
    ImageManifest,
    /// List of manifests by platform.
    ImageIndex,
    /// Config of a runnable image.
    ImageConfig,
    /// A tar archive.
    LayerTar,
    /// A tar archive, gzip.
    LayerGzip,
    /// A tar archive, Zstandard.
    LayerZstd,
    /// Docker's image manifest, schema 2.
    DockerManifest,
    /// Docker's manifest list.
    DockerManifestList,
    /// Docker's image config; same content as OCI's.
    DockerConfig,
    /// Docker's name for a plain layer.
    DockerLayerTar,
    /// Docker's name for a gzip layer; same bytes as OCI's.
    DockerLayerGzip,
    /// Anything else, kept as it was.
    Other(String),
}

const MEDIA_TYPES: [(MediaType, &str); 11] = [
    (
        MediaType::ImageManifest,
        "application/vnd.oci.image.manifest.v1+json",
    ),
    (MediaType::ImageIndex, "application/vnd.oci.image.index.v1+json"),
    (MediaType::ImageConfig, "application/vnd.oci.image.config.v1+json"),
    (MediaType::LayerTar, "application/vnd.oci.image.layer.v1.tar"),
    (
        MediaType::LayerGzip,
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        MediaType::LayerZstd,
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    (
        MediaType::DockerManifest,
        "application/vnd.docker.distribution.manifest.v2+json",
    ),
    (
        MediaType::DockerManifestList,
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ),
    (
        MediaType::DockerConfig,
        "application/vnd.docker.container.image.v1+json",
    ),
    (
        MediaType::DockerLayerTar,
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
    (
        MediaType::DockerLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
];

impl MediaType {
    /// The name in documents and HTTP headers.
    pub fn as_str(&self) -> &str {
        if let MediaType::Other(name) = self {
            return name;
        }
        MEDIA_TYPES
            .iter()
            .find(|(media_type, _)| media_type == self)
            .map_or("", |(_, name)| *name)
    }

    /// Whether this is the manifest of one image.
    pub fn is_manifest(&self) -> bool {
        matches!(self, MediaType::ImageManifest | MediaType::DockerManifest)
    }

    /// Whether this is a list of manifests.
    pub fn is_index(&self) -> bool {
        matches!(self, MediaType::ImageIndex | MediaType::DockerManifestList)
    }

    /// Whether this is the config of a runnable image.
    pub fn is_config(&self) -> bool {
        matches!(self, MediaType::ImageConfig | MediaType::DockerConfig)
    }

    /// OCI's name for a layer that Docker named; `None` where the content is no ordinary layer.
    pub fn as_oci_layer(&self) -> Option<MediaType> {
        match self {
            MediaType::LayerTar | MediaType::DockerLayerTar => Some(MediaType::LayerTar),
            MediaType::LayerGzip | MediaType::DockerLayerGzip => Some(MediaType::LayerGzip),
            MediaType::LayerZstd => Some(MediaType::LayerZstd),
            _ => None,
        }
    }
}

impl From<&str> for MediaType {
    fn from(name: &str) -> MediaType {
        match MEDIA_TYPES.iter().find(|(_, known)| *known == name) {
            Some((media_type, _)) => media_type.clone(),
            None => MediaType::Other(name.to_owned()),
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MediaType, D::Error> {
        Ok(MediaType::from(String::deserialize(deserializer)?.as_str()))
    }
}

/// Which machines an image runs on.
///
/// Written in one way only, since `linux/arm` and `linux/arm/v7` name the same machines and would give two digests:
/// 32-bit ARM always carries a variant (`v7` when none is given), arm64 never says `v8` (containerd drops it).
/// [`Platform::new`] and parsing bring every spelling to that form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Platform {
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

/// Text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a platform: expected `os/architecture` or `os/architecture/variant`, such as `linux/arm/v7`"
)]
pub struct PlatformError(pub String);

impl Platform {
    /// Builds the one spelling of a platform. Names are Go's: `linux`, `amd64`, `arm64`, `arm`.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let variant = match (architecture, variant.filter(|variant| !variant.is_empty())) {
            ("arm", None) => Some("v7"),
            ("arm64", Some("v8" | "8")) => None,
            ("arm", Some("7")) => Some("v7"),
            (_, variant) => variant,
        };
        Platform {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Operating system, `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Processor architecture by Go's name, `arm64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Variant of the architecture; see the type for which ones are written.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        match parts.as_slice() {
            parts if !parts.iter().all(plain) => Err(PlatformError(text.chars().take(80).collect())),
            [os, architecture] => Ok(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(text.chars().take(80).collect())),
        }
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Platform, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            #[serde(default)]
            architecture: String,
            #[serde(default)]
            os: String,
            variant: Option<String>,
        }
        let written = Written::deserialize(deserializer)?;
        Ok(Platform::new(
            &written.os,
            &written.architecture,
            written.variant.as_deref(),
        ))
    }
}

/// Names a blob: what it is, its digest, its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: MediaType,
    /// SHA-256 of the bytes as stored and transferred (the compressed ones).
    pub digest: Digest,
    /// Length in bytes of the same bytes.
    pub size: u64,
    /// In an index: the machines that the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes, ordered by key.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// In a list of referrers: what the artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type,
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            artifact_type: None,
        }
    }
}

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// The manifest's own media type; optional in foreign OCI documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes, ordered by key.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// A list of images, usually one per platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// The index's own media type; optional in foreign OCI documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The images; a client takes the first whose platform fits.
    pub manifests: Vec<Descriptor>,
    /// Notes, ordered by key.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl ImageIndex {
    /// An OCI index of `manifests` in this order.
    pub fn new(manifests: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> ImageIndex {
        ImageIndex {
            schema_version: 2,
            media_type: Some(MediaType::ImageIndex),
            manifests,
            annotations,
        }
    }
}

/// The config of a runnable image. It carries no creation time and no history: both are optional, and a time would
/// change the image on every build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Processor architecture by Go's name.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// How a container starts.
    #[serde(default)]
    pub config: ExecutionConfig,
    /// The layers by the digests of their tar archives.
    pub rootfs: RootFs,
}

impl ImageConfig {
    /// The platform in its one spelling.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }
}

/// How a container of an image starts. Empty values are left out of the JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecutionConfig {
    /// `user`, `uid`, `uid:gid`; empty means root.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub user: String,
    /// `8080/tcp` → `{}`.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`, sorted by name.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Program and fixed arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// Default arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Folders that an engine mounts a volume over; only ever taken over from a base image.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Folder that the program starts in.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub working_dir: String,
    /// Notes, ordered by key.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the program to end, `SIGTERM` when empty.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub stop_signal: String,
}

/// The `{}` that stands for "present" in Go's sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The layers of an image by the digests of their tar archives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One per layer of the manifest, in the same order; digest of the *uncompressed* tar.
    pub diff_ids: Vec<Digest>,
}

/// The bytes of a document, as they are hashed, stored and pushed.
pub fn to_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document)
        .expect("structs of strings, numbers and string-keyed maps always have a JSON text")
}

/// Go writes empty lists and maps as `null`.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
