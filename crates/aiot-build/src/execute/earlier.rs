//! A base whose packages no mirror has any more: its layers from an image that an earlier release has pushed.
//!
//! Debian's mirrors drop a package when a point release replaces it. The committed manifests name images by digest that
//! were built from this lock or an older one; what their layers hold says which. A layer is taken only where every package
//! in it is one of the lock's, in the same version, and its archive is what the image's config says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use aiot_iothub::DeploymentList;
use aiot_oci::layer::visit_layer;
use aiot_oci::{Descriptor, Digest, LayerError, LayerLimits, MediaType, PullLayers, Reference};
use aiot_plan::action::Output;
use aiot_plan::declare::LayerCompression;
use aiot_plan::lock::LockedPackage;
use aiot_plan::workspace::{Base, Environment, Target};

use super::Task;
use super::image::oci_platform;
use crate::error::BuildError;
use crate::events::Event;

/// The longest control stanza that is read.
const MAX_STANZA_BYTES: u64 = 64 << 10;

/// The longest list of deployments that is read.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// What the base is to be.
pub(super) struct Wanted<'a> {
    /// Debian's word.
    pub(super) architecture: &'a str,
    pub(super) packages: &'a [LockedPackage],
    /// File name of the engine's library, where the distribution packages it.
    pub(super) engine_library: Option<&'a str>,
    pub(super) compression: LayerCompression,
}

/// An image of an earlier release.
struct Earlier<'a> {
    reference: String,
    target: &'a Target,
}

impl Task<'_> {
    /// The base's layers, as its action's outputs.
    ///
    /// # Errors
    /// Why no image of an earlier release has them, in words.
    pub(super) fn base_of_earlier_release(
        &self,
        wanted: &Wanted<'_>,
    ) -> Result<BTreeMap<String, Output>, String> {
        let (mut problems, mut silent, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for environment in self.context.workspace.environments.values() {
            let prefix = environment.image_prefix();
            for Earlier { reference, target } in self.earlier_images(environment, wanted) {
                // One answer of a registry that cannot be reached is enough.
                if silent.contains(&prefix) || !seen.insert(reference.clone()) {
                    continue;
                }
                match self.layers_of(&reference, target, wanted) {
                    Ok(outputs) => {
                        (self.context.events)(Event::Note(format!(
                            "`{}`: its layers come from {reference}, which an earlier release has pushed",
                            self.id
                        )));
                        return Ok(outputs);
                    }
                    Err((problem, is_silent)) => {
                        problems.push(format!("{reference}: {problem}"));
                        if is_silent {
                            silent.insert(prefix.clone());
                        }
                    }
                }
            }
        }
        Err(match problems.as_slice() {
            [] => "no committed manifest names an image with this base".to_owned(),
            problems => problems.join("; "),
        })
    }

    /// The images with such a base that an environment's committed manifests name.
    fn earlier_images<'b>(&'b self, environment: &Environment, wanted: &Wanted<'_>) -> Vec<Earlier<'b>> {
        let path = self
            .context
            .paths
            .deployments(environment.name.as_str())
            .join("deployments.json");
        let fits = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_LIST_BYTES);
        // A file that is not there or not of this version names nothing.
        let list = std::fs::read(&path).ok().filter(|_| fits);
        let list: Option<DeploymentList> = list.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut images = Vec::new();
        for deployment in list.iter().flat_map(|list| &list.deployments) {
            let target = self
                .context
                .workspace
                .targets
                .values()
                .find(|target| target.name.as_str() == deployment.target);
            let Some(target) = target.filter(|target| has_such_a_base(target, wanted)) else {
                continue;
            };
            for module in &deployment.modules {
                images.push(Earlier {
                    reference: format!(
                        "{}/{}@{}",
                        environment.image_prefix(),
                        module.model,
                        module.image_digest
                    ),
                    target,
                });
            }
        }
        images
    }

    /// Pulls what is needed of one image. An error says whether its registry did not answer.
    fn layers_of(
        &self,
        reference: &str,
        target: &Target,
        wanted: &Wanted<'_>,
    ) -> Result<BTreeMap<String, Output>, (String, bool)> {
        let (store, plain) = (self.context.store, |error: &dyn std::fmt::Display| {
            (error.to_string(), false)
        });
        let network = self.context.network.ok_or_else(|| plain(&"--offline"))?;
        let reference: Reference = reference.parse().map_err(|error| plain(&error))?;
        let client = crate::registry::client().map_err(|error| plain(&error))?;
        let pulled = network
            .block_on(client.pull_image(
                store,
                &reference,
                &oci_platform(&target.platform),
                PullLayers::None,
            ))
            .map_err(|error| {
                let answered = matches!(error, aiot_oci::RegistryError::NotFound(_));
                (error.to_string(), !answered)
            })?;
        let config =
            aiot_oci::image::read_config(store, &pulled.config.digest).map_err(|error| plain(&error))?;
        let media_type = match wanted.compression {
            LayerCompression::Gzip => MediaType::LayerGzip,
            LayerCompression::Zstd => MediaType::LayerZstd,
        };
        // The order in which a release puts them together.
        let names = ["layer", "engine-layer"];
        let count = 1 + usize::from(wanted.engine_library.is_some());
        let mut outputs = BTreeMap::new();
        for ((name, layer), diff_id) in names
            .into_iter()
            .zip(&pulled.layers)
            .zip(&config.rootfs.diff_ids)
            .take(count)
        {
            if layer.media_type != media_type {
                return Err(plain(&"its layers are compressed in another way"));
            }
            network
                .block_on(client.pull_blob(store, &reference.repository, layer))
                .map_err(|error| plain(&error))?;
            let library = wanted.engine_library.filter(|_| name == "engine-layer");
            self.check_layer(layer, diff_id, wanted.packages, library)
                .map_err(|error| plain(&error))?;
            let output = Output {
                digest: layer.digest,
                size_bytes: layer.size,
                diff_id: Some(*diff_id),
                media_type: Some(layer.media_type.to_string()),
            };
            outputs.insert(name.to_owned(), output);
        }
        if outputs.len() == count {
            Ok(outputs)
        } else {
            Err(plain(&"it has too few layers"))
        }
    }

    /// Whether a layer holds what the lock says and nothing else.
    fn check_layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        packages: &[LockedPackage],
        library: Option<&str>,
    ) -> Result<(), String> {
        let (mut stanzas, mut has_library) = (Vec::new(), library.is_none());
        let visited = visit_layer(
            self.context.store,
            layer,
            LayerLimits::default(),
            |entry, reader| {
                has_library |= library.is_some_and(|library| entry.path.ends_with(library));
                if entry.path.starts_with("var/lib/dpkg/status.d/") {
                    let mut bytes = Vec::new();
                    let read = reader.take(MAX_STANZA_BYTES).read_to_end(&mut bytes);
                    read.map_err(|error| LayerError::Unreadable {
                        digest: layer.digest,
                        reason: error.to_string(),
                    })?;
                    stanzas.push(String::from_utf8_lossy(&bytes).into_owned());
                }
                Ok(())
            },
        );
        let (found, _) = visited.map_err(|error| error.to_string())?;
        if found != *diff_id {
            return Err(format!(
                "layer {} is not what the image's config says",
                layer.digest
            ));
        }
        let mut held = 0;
        for (name, version) in stanzas.iter().filter_map(|stanza| package_of(stanza)) {
            let Some(locked) = packages.iter().find(|package| package.name == name) else {
                return Err(format!("it holds {name}, which the lock does not"));
            };
            if locked.version != version {
                return Err(format!(
                    "it holds {name} {version}, and the lock {}",
                    locked.version
                ));
            }
            held += 1;
        }
        if held == 0 || !has_library {
            return Err("it does not hold what the base needs".to_owned());
        }
        Ok(())
    }

    /// What is told where neither mirror nor earlier release has a package.
    pub(super) fn nowhere(&self, error: &BuildError, why: &str) -> BuildError {
        BuildError::Other(format!("{error}\nNor does an earlier release help: {why}"))
    }
}

fn has_such_a_base(target: &Target, wanted: &Wanted<'_>) -> bool {
    matches!(target.base, Base::Debian { .. })
        && target.platform.debian_architecture().to_string() == wanted.architecture
}

/// Name and version of a control stanza.
fn package_of(stanza: &str) -> Option<(&str, &str)> {
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    Some((field("Package")?, field("Version")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_names_its_package() {
        let stanza = "Package: libc6\nSource: glibc\nVersion: 2.41-12\nDescription: x\n Version: none\n";
        assert_eq!(package_of(stanza), Some(("libc6", "2.41-12")));
        assert_eq!(package_of("Package: libc6\n"), None);
        assert_eq!(package_of(""), None);
    }
}
