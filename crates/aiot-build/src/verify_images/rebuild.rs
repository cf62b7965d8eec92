//! The images that the declarations of this folder make, built here, to compare with those of a registry.

use std::collections::BTreeMap;
use std::path::Path;

use aiot_oci::{Digest, Platform, PullLayers, Reference, RegistryClient, Repository, Store};
use aiot_plan::plan::Selection;

use super::Check;
use crate::error::BuildError;
use crate::events::Sink;
use crate::images::{FileDiff, ImageDiff, compare};
use crate::network::Network;
use crate::paths::Paths;
use crate::registry::descriptor;
use crate::release::{Alone, prepare, run};

/// Differing files that are counted and not listed.
const SHOWN: usize = 1;

/// What a build made.
pub(crate) struct Rebuilt {
    /// Model and target → digest of the image's manifest.
    images: BTreeMap<(String, String), Digest>,
    store: Store,
    /// Nobody else builds while images are compared.
    _alone: Alone,
}

impl Rebuilt {
    /// Builds; what the store has already is not made again, since its keys say that it would come out the same.
    /// Changes no committed file.
    pub(crate) fn build(
        paths: &Paths,
        network: &Network,
        jobs: usize,
        events: Sink<'_>,
    ) -> Result<Rebuilt, BuildError> {
        let alone = Alone::wait(paths, events)?;
        let planned = prepare(paths, &Selection::default(), true, Some(network), events)?;
        let outcome = run(paths, &planned, Some(network), jobs, events)?;
        let images = planned.plan.images.iter().map(|((model, target), &node)| {
            let digest = descriptor(&outcome.outputs[node]["manifest"]).digest;
            ((model.to_string(), target.to_string()), digest)
        });
        Ok(Rebuilt {
            images: images.collect(),
            store: planned.store.clone(),
            _alone: alone,
        })
    }

    /// The targets that the declarations have a model for.
    pub(crate) fn targets(&self, model: &str) -> impl Iterator<Item = &str> {
        let of_model = self.images.keys().filter(move |(known, _)| known == model);
        of_model.map(|(_, target)| target.as_str())
    }

    /// The target of a model whose image has this digest.
    pub(crate) fn target_of(&self, model: &str, digest: &Digest) -> Option<&str> {
        let found = self
            .images
            .iter()
            .find(|((known, _), built)| known == model && *built == digest);
        found.map(|((_, target), _)| target.as_str())
    }

    /// Compares an image of a registry with the one that was built. Only one that differs is fetched, into a folder
    /// below `scratch` that is gone afterwards.
    pub(crate) fn compare(
        &self,
        (network, client): (&Network, &RegistryClient),
        (repository, digest): (&Repository, Digest),
        (model, target): (&str, &str),
        platform: &Platform,
        scratch: &Path,
    ) -> (Check, Vec<String>) {
        let Some(built) = self.images.get(&(model.to_owned(), target.to_owned())) else {
            let fault = format!("rebuild: the declarations make no image of {model} for {target}");
            return (Check::fault(), vec![fault]);
        };
        if *built == digest {
            return (Check::ok("same"), Vec::new());
        }
        let diff = || -> Result<ImageDiff, BuildError> {
            let dir = tempfile::tempdir_in(scratch).map_err(BuildError::other)?;
            let store = Store::create(dir.path()).map_err(BuildError::other)?;
            let reference = Reference {
                repository: repository.clone(),
                tag: None,
                digest: Some(digest),
            };
            network
                .block_on(client.pull_image(&store, &reference, platform, PullLayers::All))
                .map_err(BuildError::other)?;
            compare(&store, &digest, &self.store, built, target)
        };
        let text = match diff() {
            Ok(diff) => describe(&diff),
            Err(error) => error.to_string(),
        };
        let fault = format!("rebuild: the declarations make {}: {text}", built.short());
        (Check::fault(), vec![fault])
    }
}

/// The first difference between the registry's image and ours, and how many there are.
fn describe(diff: &ImageDiff) -> String {
    let one = |file: &FileDiff| match &file.first_difference {
        Some(range) => format!("{} differs in bytes {} to {}", file.path, range.start, range.end),
        None => format!(
            "{} is {} ({} bytes there, {} here)",
            file.path, file.change, file.before_bytes, file.after_bytes
        ),
    };
    // Content first: what was added or removed is named only where nothing else differs.
    let first = diff.files.iter().find(|file| file.first_difference.is_some());
    match (first.or(diff.files.first()), diff.settings.first()) {
        (Some(file), _) if diff.files.len() > SHOWN => {
            format!("{}; {} paths differ in all", one(file), diff.files.len())
        }
        (Some(file), _) => one(file),
        (None, Some((name, before, after))) => format!("setting `{name}` is {before} there and {after} here"),
        (None, None) => "the files are the same, the documents around them differ".to_owned(),
    }
}
