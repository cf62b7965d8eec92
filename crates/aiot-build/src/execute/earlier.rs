//! Base layers of an earlier release, for locked packages that are no longer to be had.
//!
//! A distribution's mirror drops old versions at its next point release, and the commit that locked them must still
//! make the same bytes. What an earlier release baked of them is in its images, which the manifests below
//! `deployments/` name by digest: in the store, else in the registry that it was pushed to. A layer is believed when
//!
//! - its image's digest stands in a manifest of this checkout, which people reviewed, and everything from there to the
//!   layer's files has the digest that names it;
//! - every package in it (`var/lib/dpkg/status.d`) has the version and architecture that the lock says;
//! - it has the libraries that are asked for, and comes out with the same digest when it is baked again from its files.
//!
//! What is not seen here: a package whose maker put other bytes under the same version. Debian never does.

use std::collections::{BTreeMap, BTreeSet};

use aiot_debian::Stanza;
use aiot_iothub::rollout::declared;
use aiot_oci::image::{read_config, read_manifest};
use aiot_oci::layer::visit_layer;
use aiot_oci::{
    Descriptor, Digest, DirectoryMode, EntryKind, FileMode, FileSource, ImageConfig, ImageManifest, Layer,
    LayerBuilder, LayerError, LayerLimits, Platform, PullLayers, Reference, RegistryClient, RegistryError,
    Store,
};
use aiot_plan::action::Output;
use aiot_plan::architecture::Architecture;
use aiot_plan::declare::LayerCompression;
use aiot_plan::lock::LockedPackage;
use aiot_plan::workspace::Base;

use super::Task;
use super::image::{codec, layer_output, oci_platform};
use crate::environment::generated;
use crate::error::BuildError;
use crate::network::Network;

/// Images that are looked into before giving up: those of one release share their base.
const MAX_IMAGES: usize = 32;
/// Reasons in a message.
const SHOWN: usize = 5;
/// The largest layer that is fetched, in bytes; a base has 5 MB, one with an engine 30 MB.
const MAX_LAYER_BYTES: u64 = 1 << 30;
/// The files of a layer are held in memory while it is baked again.
const LIMITS: LayerLimits = LayerLimits {
    uncompressed_size_bytes: 2 << 30,
    entries: 100_000,
    names_size_bytes: 16 << 20,
};
/// Where a layer says what its packages are.
const STATUS_FOLDER: &str = "var/lib/dpkg/status.d/";

/// The base that cannot be baked.
pub(super) struct Wanted<'a> {
    pub architecture: Architecture,
    pub packages: &'a [LockedPackage],
    /// File names of the libraries that each layer must have: the base's, then the engine's where there is one.
    pub libraries: Vec<Vec<String>>,
    pub compression: LayerCompression,
}

/// The layers that were found.
pub(super) struct Found {
    /// In the order of [`Wanted::libraries`].
    pub layers: Vec<Output>,
    /// `repository@digest` of the image that has them.
    pub image: String,
}

/// An image that a manifest names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Images of the store come first.
    is_elsewhere: bool,
    text: String,
    digest: Digest,
    /// Whether it was for a registry.
    has_registry: bool,
    platform: Platform,
}

/// Registries that are asked, and those that answered with an error: they are not asked again.
#[derive(Default)]
struct Registries {
    client: Option<RegistryClient>,
    silent: BTreeSet<String>,
}

impl Task<'_> {
    /// Looks for the layers of a base in images of earlier releases.
    ///
    /// # Errors
    /// Why each image that was looked into does not do, as one text.
    pub(super) fn earlier_layers(&self, wanted: &Wanted<'_>) -> Result<Found, String> {
        let mut reasons = Vec::new();
        let candidates = self.candidates(wanted, &mut reasons);
        if candidates.is_empty() {
            reasons.push("no manifest below deployments/ names an image on it".to_owned());
        }
        let mut registries = Registries::default();
        for one in candidates.iter().take(MAX_IMAGES) {
            match self.layers_of(one, wanted, &mut registries) {
                Ok(layers) => {
                    return Ok(Found {
                        layers,
                        image: one.text.clone(),
                    });
                }
                Err(reason) => reasons.push(format!("{}: {reason}", one.text)),
            }
        }
        let more = reasons.len().saturating_sub(SHOWN) + candidates.len().saturating_sub(MAX_IMAGES);
        reasons.truncate(SHOWN);
        if more > 0 {
            reasons.push(format!("and {more} more"));
        }
        Err(reasons.join("; "))
    }

    /// The images of all environments whose target has a Debian base of that architecture and compression.
    fn candidates(&self, wanted: &Wanted<'_>, reasons: &mut Vec<String>) -> BTreeSet<Candidate> {
        let workspace = self.context.workspace;
        let mut found = BTreeSet::new();
        for environment in workspace.environments.values() {
            let name = environment.name.as_str();
            if !self.context.paths.deployments(name).is_dir() {
                continue;
            }
            let read = match generated(self.context.paths, name, 0, "") {
                Ok(read) => read,
                Err(error) => {
                    reasons.push(error.to_string());
                    continue;
                }
            };
            for deployment in &read.list().deployments {
                let target = workspace.targets.values().find(|target| {
                    target.name.as_str() == deployment.target
                        && matches!(target.base, Base::Debian { .. })
                        && target.platform.debian_architecture() == wanted.architecture
                        && target.layer_compression == wanted.compression
                });
                let (Some(target), Some(content)) = (target, read.content(&deployment.id)) else {
                    continue;
                };
                let images = declared::images(content);
                for module in &deployment.modules {
                    let Some(text) = images.get(&module.name) else {
                        continue;
                    };
                    let Some(digest) = text.parse::<Reference>().ok().and_then(|image| image.digest) else {
                        continue;
                    };
                    found.insert(Candidate {
                        is_elsewhere: read_image(self.context.store, &digest).is_err(),
                        text: text.clone(),
                        digest,
                        has_registry: environment.registry.is_some(),
                        platform: oci_platform(&target.platform),
                    });
                }
            }
        }
        found
    }

    fn layers_of(
        &self,
        one: &Candidate,
        wanted: &Wanted<'_>,
        registries: &mut Registries,
    ) -> Result<Vec<Output>, String> {
        let store = self.context.store;
        let platform = &one.platform;
        let (manifest, config) = match read_image(store, &one.digest) {
            Ok(image) => image,
            Err(_) => {
                self.ask(one, registries, |network, client, reference| {
                    let pulled = client.pull_image(store, reference, platform, PullLayers::None);
                    network.block_on(pulled).map(|_| ())
                })?;
                read_image(store, &one.digest)?
            }
        };
        if config.platform() != *platform {
            return Err(format!("it is for {}, not {platform}", config.platform()));
        }
        // What changes least is lowest: the base, then the engine.
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        let mut outputs = Vec::new();
        for ((layer, diff_id), libraries) in layers.zip(&wanted.libraries) {
            if layer.size > MAX_LAYER_BYTES {
                return Err(format!("layer {} has {} bytes", layer.digest.short(), layer.size));
            }
            if !store.contains(&layer.digest, layer.size) {
                self.ask(one, registries, |network, client, reference| {
                    network.block_on(client.pull_blob(store, &reference.repository, layer))
                })?;
            }
            let baked = check_layer(store, (layer, diff_id), wanted, libraries)
                .map_err(|reason| format!("layer {} {reason}", layer.digest.short()))?;
            outputs.push(layer_output(&baked));
        }
        if outputs.len() < wanted.libraries.len() {
            return Err(format!("it has {} layers", outputs.len()));
        }
        Ok(outputs)
    }

    /// Asks the registry of an image for something, once it is clear that it may be asked.
    fn ask(
        &self,
        one: &Candidate,
        registries: &mut Registries,
        question: impl FnOnce(&Network, &RegistryClient, &Reference) -> Result<(), RegistryError>,
    ) -> Result<(), String> {
        if !one.has_registry {
            return Err("it is not in the store, and its environment has no `registry`".to_owned());
        }
        let Some(network) = self.context.network else {
            return Err("--offline, and it is not in the store".to_owned());
        };
        let reference: Reference = one.text.parse().map_err(|error| format!("{error}"))?;
        let registry = reference.repository.registry().to_owned();
        if registries.silent.contains(&registry) {
            return Err("its registry failed before".to_owned());
        }
        if registries.client.is_none() {
            registries.client =
                Some(crate::registry::client().map_err(|error: BuildError| error.to_string())?);
        }
        let client = registries.client.as_ref().expect("just made");
        question(network, client, &reference).map_err(|error| {
            if !matches!(error, RegistryError::NotFound(_)) {
                registries.silent.insert(registry);
            }
            error.to_string()
        })
    }
}

fn read_image(store: &Store, digest: &Digest) -> Result<(ImageManifest, ImageConfig), String> {
    let manifest = read_manifest(store, digest).map_err(|error| error.to_string())?;
    let config = read_config(store, &manifest.config.digest).map_err(|error| error.to_string())?;
    Ok((manifest, config))
}

/// Whether a layer of the store is what baking the locked packages would give; the reason why not continues
/// `layer DIGEST …`.
fn check_layer(
    store: &Store,
    (layer, diff_id): (&Descriptor, &Digest),
    wanted: &Wanted<'_>,
    libraries: &[String],
) -> Result<Layer, String> {
    let mut again = LayerBuilder::new();
    let mut paths = BTreeSet::new();
    let mut statuses: BTreeMap<String, String> = BTreeMap::new();
    let failed = |reason: String| LayerError::Unreadable {
        digest: layer.digest,
        reason,
    };
    visit_layer(store, layer, LIMITS, |entry, reader| {
        match &entry.kind {
            EntryKind::File { .. } => {
                let mut bytes = Vec::new();
                reader
                    .read_to_end(&mut bytes)
                    .map_err(|error| failed(error.to_string()))?;
                if let Some(package) = entry.path.strip_prefix(STATUS_FOLDER) {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    statuses.insert(package.to_owned(), text);
                }
                again.file(
                    &entry.path,
                    FileSource::Bytes(bytes),
                    FileMode::from_unix(entry.mode),
                )?;
            }
            EntryKind::Directory => {
                let is_sticky = entry.mode == DirectoryMode::Sticky.bits();
                let mode = if is_sticky {
                    DirectoryMode::Sticky
                } else {
                    DirectoryMode::Plain
                };
                again.directory(&entry.path, mode)?;
            }
            EntryKind::Symlink { target } => {
                again.symlink(&entry.path, target)?;
            }
            EntryKind::HardLink { .. } | EntryKind::Special => {
                return Err(failed(format!("/{} is a hard link or a device", entry.path)));
            }
        }
        paths.insert(entry.path.clone());
        Ok(())
    })
    .map_err(|error| format!("cannot be read: {error}"))?;
    if statuses.is_empty() {
        return Err("does not say what packages are in it".to_owned());
    }
    for text in statuses.values() {
        fits_lock(text, wanted.packages)?;
    }
    let folder = format!("usr/lib/{}", wanted.architecture.multiarch());
    if let Some(library) = libraries
        .iter()
        .find(|name| !paths.contains(&format!("{folder}/{name}")))
    {
        return Err(format!("lacks {library}"));
    }
    let baked = again
        .build(store, codec(wanted.compression))
        .map_err(|error| format!("cannot be baked again: {error}"))?;
    if baked.descriptor.digest != layer.digest || baked.diff_id != *diff_id {
        return Err(format!(
            "comes out as {} when it is baked again",
            baked.descriptor.digest.short()
        ));
    }
    Ok(baked)
}

/// Whether a package's control stanza is that of a locked package.
fn fits_lock(status: &str, packages: &[LockedPackage]) -> Result<(), String> {
    let stanza = Stanza::new(status);
    let field = |name| stanza.field(name).unwrap_or_default();
    let (name, version, architecture) = (field("Package"), field("Version"), field("Architecture"));
    match packages.iter().find(|package| package.name == name) {
        None => Err(format!("holds `{name}`, which is not locked")),
        Some(locked)
            if (locked.version.as_str(), locked.architecture.as_str()) != (version, architecture) =>
        {
            Err(format!(
                "holds {name} {version} ({architecture}), locked is {} ({})",
                locked.version, locked.architecture
            ))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
