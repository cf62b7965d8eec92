//! Whose signature an environment asks for: `[signatures]` of `deployments/<environment>.toml`.
//!
//! An image without one of these signatures gets no line in the manifests of that environment. A release that signs
//! with a trusted key may write them; any other release only where every new image carries such a signature in the
//! environment's registry already.

use std::collections::BTreeMap;
use std::path::Path;

use aiot_oci::{Digest, Repository};
use aiot_plan::diagnose::ConfigError;
use aiot_plan::workspace::Environment;
use aiot_plan::{EnvironmentName, Workspace};
use aiot_supply::{Signer, Verifier};

use crate::error::BuildError;
use crate::network::Network;
use crate::observe::read_small;
use crate::paths::Paths;
use crate::registry::client;
use crate::verify_images::statements;

/// A public key that somebody trusts.
#[derive(Clone, Debug)]
pub struct TrustedKey {
    /// Its file, as it was named.
    pub name: String,
    /// The key.
    pub verifier: Verifier,
}

/// Reads a public key.
///
/// # Errors
/// What is wrong with the file, without its path.
fn read_key(path: &Path) -> Result<Verifier, String> {
    let bytes = read_small(path)
        .map_err(|error| error.to_string())?
        .ok_or("no such file")?;
    let text = String::from_utf8(bytes).map_err(|_| "it is no key in PEM")?;
    Verifier::from_pem(&text).map_err(|error| error.to_string())
}

/// Reads public keys by their paths.
///
/// # Errors
/// A file that is no public key.
pub fn read_keys(paths: &[std::path::PathBuf]) -> Result<Vec<TrustedKey>, BuildError> {
    let read = |path: &std::path::PathBuf| {
        let verifier =
            read_key(path).map_err(|reason| BuildError::Other(format!("{}: {reason}", path.display())))?;
        Ok(TrustedKey {
            name: path.display().to_string(),
            verifier,
        })
    };
    paths.iter().map(read).collect()
}

/// The keys that an environment trusts; none where it asks for no signature.
///
/// # Errors
/// A file that is no public key.
pub fn keys(paths: &Paths, environment: &Environment) -> Result<Vec<TrustedKey>, BuildError> {
    let read = |key: &aiot_plan::workspace::SignatureKey| {
        let verifier = read_key(&paths.file(&key.path))
            .map_err(|reason| BuildError::Other(format!("{}: {reason}", key.path)))?;
        Ok(TrustedKey {
            name: key.path.clone(),
            verifier,
        })
    };
    environment.signature_keys.iter().map(read).collect()
}

/// Key files that are missing or no keys.
pub(crate) fn check_keys(paths: &Paths, workspace: &Workspace, errors: &mut Vec<ConfigError>) {
    for environment in workspace.environments.values() {
        for key in &environment.signature_keys {
            if let Err(reason) = read_key(&paths.file(&key.path)) {
                errors.push(
                    ConfigError::new(
                        "files::signature_key",
                        key.site.clone(),
                        format!("environment `{}`: a trusted key cannot be used", environment.name),
                        reason,
                    )
                    .with_help("commit the public half only: `openssl pkey -in KEY -pubout -out FILE`"),
                );
            }
        }
    }
}

/// Refuses a push towards environments that would not take its images: asked before anything is built or sent.
///
/// # Errors
/// Every environment whose keys the signer's is none of.
pub(crate) fn require_signer(
    paths: &Paths,
    workspace: &Workspace,
    environments: &[EnvironmentName],
    signer: Option<&Signer>,
) -> Result<(), BuildError> {
    let mut refused = Vec::new();
    for name in environments {
        let keys = keys(paths, &workspace.environments[name])?;
        if keys.is_empty() || is_trusted(&keys, signer) {
            continue;
        }
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let found = match signer {
            Some(signer) => format!("key {} is none of them", signer.verifier().key_id()),
            None => "there is no signing key".to_owned(),
        };
        refused.push(BuildError::Other(format!(
            "environment `{name}` takes images signed with {} only, and {found}; sign with --sign-key FILE or \
             AIOT_SIGNING_KEY, or name other environments with --environment",
            names.join(" or ")
        )));
    }
    many(refused)
}

fn is_trusted(keys: &[TrustedKey], signer: Option<&Signer>) -> bool {
    signer.is_some_and(|signer| keys.iter().any(|key| key.verifier == signer.verifier()))
}

/// Refuses manifests with images that nobody signed whom the environment trusts. `images`: repository below the prefix
/// and digest of every image that the manifests name.
///
/// # Errors
/// Every image without such a signature, and what the registry says where it cannot be asked.
pub(crate) fn require_signatures(
    paths: &Paths,
    environment: &Environment,
    images: &BTreeMap<(String, Digest), String>,
    signer: Option<&Signer>,
    network: Option<&Network>,
) -> Result<(), BuildError> {
    let keys = keys(paths, environment)?;
    if keys.is_empty() || is_trusted(&keys, signer) {
        return Ok(());
    }
    let refuse = |why: &str| {
        BuildError::Other(format!(
            "the manifests of `{0}` would name images without a signature that it asks for: {why}\nSign with --sign-key \
             FILE, or write those of other environments with --environment; a release without a key may write `{0}` \
             once its images are signed in its registry",
            environment.name
        ))
    };
    if environment.registry.is_none() {
        return Err(refuse("there is no signing key, and no registry to look in"));
    }
    let network = network.ok_or_else(|| refuse("there is no signing key, and --offline"))?;
    let prefix: Repository = environment.image_prefix().parse().map_err(BuildError::other)?;
    let client = client()?;
    let mut refused = Vec::new();
    for ((repository, digest), name) in images {
        let repository = prefix.join(repository).map_err(BuildError::other)?;
        let (attached, problems) = statements::attached(network, &client, &repository, digest);
        let (signed, reasons) = statements::signed_by(&attached, digest, &keys);
        if signed.is_empty() {
            let why = reasons.into_iter().chain(problems).next();
            let why = why.unwrap_or_else(|| "not signed".to_owned());
            refused.push(format!("\n  {name} ({repository}@{digest}): {why}"));
        }
    }
    match refused.is_empty() {
        true => Ok(()),
        false => Err(refuse(&refused.concat())),
    }
}

fn many(mut errors: Vec<BuildError>) -> Result<(), BuildError> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(BuildError::Many(errors)),
    }
}
