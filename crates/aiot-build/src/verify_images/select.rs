//! Which images are meant: those of environments' manifests, or those that references name.

use std::collections::BTreeMap;
use std::sync::Arc;

use aiot_iothub::rollout::declared;
use aiot_oci::image::parse_index;
use aiot_oci::{Digest, Platform, Reference, RegistryClient};
use aiot_plan::workspace::{Environment, Workspace};

use super::{Request, Wanted};
use crate::environment::generated;
use crate::error::BuildError;
use crate::execute::oci_platform;
use crate::network::Network;
use crate::paths::Paths;
use crate::policy::{self, TrustedKey};

/// The images that were asked for, each once per environment.
pub(super) fn select(
    paths: &Paths,
    workspace: &Workspace,
    request: &Request,
    network: &Network,
    client: &RegistryClient,
) -> Result<Vec<Wanted>, BuildError> {
    let given = Arc::new(policy::read_keys(&request.keys)?);
    let keys = |environment: &Environment| -> Result<Arc<Vec<TrustedKey>>, BuildError> {
        match given.is_empty() {
            true => Ok(Arc::new(policy::keys(paths, environment)?)),
            false => Ok(Arc::clone(&given)),
        }
    };
    let mut environments: Vec<&Environment> = Vec::new();
    for name in &request.environments {
        let found = workspace
            .environments
            .values()
            .find(|one| one.name.as_str() == name);
        environments.push(found.ok_or_else(|| {
            let known = workspace
                .environments
                .keys()
                .map(aiot_plan::EnvironmentName::as_str);
            BuildError::Other(format!(
                "there is no environment `{name}`: {}",
                aiot_plan::diagnose::suggest("deployments/", name, known)
            ))
        })?);
    }
    let mut wanted = Vec::new();
    if !request.references.is_empty() {
        let mut policies = Vec::new();
        for environment in &environments {
            policies.push((Some(environment.name.to_string()), keys(environment)?));
        }
        if policies.is_empty() {
            policies.push((None, given));
        }
        for reference in &request.references {
            for (environment, keys) in &policies {
                wanted.extend(named(network, client, reference, environment.as_deref(), keys)?);
            }
        }
        return Ok(wanted);
    }
    if environments.is_empty() {
        environments.extend(
            workspace
                .environments
                .values()
                .filter(|one| one.registry.is_some()),
        );
    }
    if environments.is_empty() {
        return Err(BuildError::Other(
            "no environment has a `registry`; name images, for example localhost:5000/aiot/MODEL:VERSION"
                .to_owned(),
        ));
    }
    for environment in environments {
        if environment.registry.is_none() {
            return Err(BuildError::Other(format!(
                "environment `{}` has no `registry`, so there is nothing to look at",
                environment.name
            )));
        }
        wanted.extend(deployed(paths, workspace, environment, &keys(environment)?)?);
    }
    Ok(wanted)
}

/// The images that an environment's manifests name.
fn deployed(
    paths: &Paths,
    workspace: &Workspace,
    environment: &Environment,
    keys: &Arc<Vec<TrustedKey>>,
) -> Result<Vec<Wanted>, BuildError> {
    let name = environment.name.as_str();
    let read = generated(paths, name, 0, "")?;
    let mut found: BTreeMap<(String, String), Wanted> = BTreeMap::new();
    for deployment in &read.list().deployments {
        let Some(content) = read.content(&deployment.id) else {
            continue;
        };
        let images = declared::images(content);
        for module in &deployment.modules {
            let image = images.get(&module.name).ok_or_else(|| {
                BuildError::Other(format!("deployments/{name}: `{}` has no image", module.name))
            })?;
            let reference: Reference = image.parse().map_err(BuildError::other)?;
            let digest = reference.digest.ok_or_else(|| {
                BuildError::Other(format!("deployments/{name}: {image} is not named by digest"))
            })?;
            let target = workspace
                .targets
                .values()
                .find(|one| one.name.as_str() == deployment.target);
            found
                .entry((image.clone(), deployment.target.clone()))
                .or_insert_with(|| Wanted {
                    environment: Some(name.to_owned()),
                    repository: reference.repository.clone(),
                    digest,
                    model: Some(module.model.clone()),
                    version: Some(module.version.clone()),
                    target: Some(deployment.target.clone()),
                    platform: target.map(|target| oci_platform(&target.platform)),
                    keys: Arc::clone(keys),
                    pinned: module.pinned.clone(),
                });
        }
    }
    Ok(found.into_values().collect())
}

/// The image that a reference names, or all images of an index.
fn named(
    network: &Network,
    client: &RegistryClient,
    text: &str,
    environment: Option<&str>,
    keys: &Arc<Vec<TrustedKey>>,
) -> Result<Vec<Wanted>, BuildError> {
    let reference: Reference = text.parse().map_err(BuildError::other)?;
    let (descriptor, bytes) = network
        .block_on(client.fetch_manifest(&reference))
        .map_err(BuildError::other)?;
    let wanted = |digest: Digest, target: Option<String>, platform: Option<Platform>| Wanted {
        environment: environment.map(str::to_owned),
        repository: reference.repository.clone(),
        digest,
        model: None,
        version: None,
        target,
        platform,
        keys: Arc::clone(keys),
        pinned: None,
    };
    if !descriptor.media_type.is_index() {
        return Ok(vec![wanted(descriptor.digest, None, None)]);
    }
    let index = parse_index(&bytes)
        .map_err(|reason| BuildError::Other(format!("{text}: its index cannot be read: {reason}")))?;
    let images = index.manifests.into_iter().map(|entry| {
        let target = entry.annotations.get("dev.aiot-ops.target").cloned();
        wanted(entry.digest, target, entry.platform)
    });
    Ok(images.collect())
}
