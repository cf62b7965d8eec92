//! What a registry lacks of what is said about images that it has: a bill, provenance or signature that was made after
//! the push.
//!
//! Compared by kind: each commit says anew where an image comes from, and an image that stays the same would else get
//! another statement with every commit. Of signatures, the key counts. What was found is remembered, so that pushing
//! again asks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aiot_oci::{Artifact, Descriptor, RegistryClient, RegistryError, Repository};
use aiot_supply::signature::{BUNDLE_TYPE, MAX_BUNDLE_BYTES, key_hint};
use serde::Deserialize;

use super::kept::kept;
use crate::error::BuildError;
use crate::lockfile::write_if_changed;

/// File beside the registries' habits.
const FILE: &str = "attached.json";
/// Signatures of one image that are looked at.
const MAX_SIGNATURES: usize = 32;

/// What images are known to have: `registry/repository@digest` → kinds of statements.
#[derive(Debug, Default)]
pub(super) struct Known {
    path: Option<PathBuf>,
    images: BTreeMap<String, BTreeSet<String>>,
    is_changed: bool,
}

impl Known {
    /// What earlier pushes found out, kept beside `habits`; nothing where there is no such file or it is damaged.
    pub(super) fn read(habits: Option<&Path>) -> Known {
        let (path, images) = kept(habits, FILE);
        Known {
            images,
            path,
            is_changed: false,
        }
    }

    /// Keeps what is new.
    pub(super) fn write(&self) -> Result<(), BuildError> {
        match &self.path {
            Some(path) if self.is_changed => {
                let bytes = serde_json::to_vec(&self.images).expect("plain data");
                write_if_changed(path, &bytes).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// An image has all of these now.
    pub(super) fn add(&mut self, repository: &Repository, image: &Descriptor, artifacts: &[Artifact]) {
        let has = self.images.entry(place(repository, image)).or_default();
        for artifact in artifacts {
            self.is_changed |= has.insert(kind(&artifact.artifact_type, &artifact.bytes));
        }
    }

    /// How many of these an image in a registry lacks. Asks the registry only where that is not known.
    pub(super) async fn missing(
        &mut self,
        client: &RegistryClient,
        repository: &Repository,
        image: &Descriptor,
        artifacts: &[Artifact],
    ) -> Result<usize, RegistryError> {
        let wanted: BTreeSet<String> = artifacts
            .iter()
            .map(|artifact| kind(&artifact.artifact_type, &artifact.bytes))
            .collect();
        let known = self.images.get(&place(repository, image));
        if known.is_some_and(|known| wanted.is_subset(known)) {
            return Ok(0);
        }
        let wants_signature = artifacts
            .iter()
            .any(|artifact| artifact.artifact_type == BUNDLE_TYPE);
        let mut there = BTreeSet::new();
        let mut signatures = 0;
        for entry in client.referrers(repository, &image.digest).await? {
            match entry.artifact_type.as_deref() {
                Some(BUNDLE_TYPE) if wants_signature && signatures < MAX_SIGNATURES => {
                    signatures += 1;
                    // One that cannot be read is none.
                    if let Ok(bytes) = document(client, repository, &entry).await {
                        there.insert(kind(BUNDLE_TYPE, &bytes));
                    }
                }
                Some(other) => {
                    there.insert(other.to_owned());
                }
                None => {}
            }
        }
        let missing = wanted.difference(&there).count();
        if missing == 0 {
            self.add(repository, image, artifacts);
        }
        Ok(missing)
    }
}

fn place(repository: &Repository, image: &Descriptor) -> String {
    format!("{repository}@{}", image.digest)
}

/// What makes a statement another one: its type, and of a signature its key.
fn kind(artifact_type: &str, bytes: &[u8]) -> String {
    match artifact_type {
        BUNDLE_TYPE => format!("{BUNDLE_TYPE} {}", key_hint(bytes).unwrap_or_default()),
        other => other.to_owned(),
    }
}

/// The only part of an artifact.
async fn document(
    client: &RegistryClient,
    repository: &Repository,
    entry: &Descriptor,
) -> Result<Vec<u8>, RegistryError> {
    #[derive(Deserialize)]
    struct Parts {
        layers: Vec<Descriptor>,
    }
    let reference = aiot_oci::Reference {
        repository: repository.clone(),
        tag: None,
        digest: Some(entry.digest),
    };
    let (_, bytes) = client.fetch_manifest(&reference).await?;
    let parts: Option<Parts> = serde_json::from_slice(&bytes).ok();
    match parts.and_then(|parts| parts.layers.into_iter().next()) {
        Some(part) => {
            client
                .fetch_blob(repository, &part, MAX_BUNDLE_BYTES as u64)
                .await
        }
        None => Err(RegistryError::NotFound(format!("{reference} (its part)"))),
    }
}
