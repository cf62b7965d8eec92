//! What a registry says about the tags of one repository, in as few requests as it takes.

use std::collections::{BTreeMap, BTreeSet};

use aiot_oci::{Digest, RegistryClient, RegistryError, Repository};

/// What a registry says about the tags of one repository.
#[derive(Default)]
pub(super) struct Tags {
    /// What the tags of its indexes name.
    pub indexes: BTreeMap<String, Option<Digest>>,
    /// All tags, where it was asked and lists them.
    all: Option<BTreeSet<String>>,
    /// Requests that the asking took.
    pub requests: u64,
}

impl Tags {
    /// Whether a tag is known to name nothing.
    pub fn is_free(&self, tag: &str) -> bool {
        match self.indexes.get(tag) {
            Some(found) => found.is_none(),
            None => self.all.as_ref().is_some_and(|all| !all.contains(tag)),
        }
    }
}

/// Asks for the tags of a repository's indexes and, where one is not there and several images have tags too (their
/// number is `images`), which tags are: one request instead of one for each image.
pub(super) async fn ask(
    client: &RegistryClient,
    to: &Repository,
    indexes: Vec<String>,
    images: usize,
) -> Result<Tags, RegistryError> {
    let mut tags = Tags::default();
    for tag in indexes {
        tags.requests += 1;
        let found = client.tag_digest(to, &tag).await?;
        tags.indexes.insert(tag, found);
    }
    if images > 1 && tags.indexes.values().any(Option::is_none) {
        tags.requests += 1;
        tags.all = client.tags(to).await?;
    }
    Ok(tags)
}
