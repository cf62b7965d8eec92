//! Where blobs are, from one run to the next: an image that goes to another repository of a registry is mounted from
//! the one that has it. Only hints: what is no longer there is sent.

use std::collections::BTreeMap;

use aiot_package::Digest;

use super::auth::Access;
use super::{RegistryClient, lock};
use crate::document::Descriptor;
use crate::reference::Repository;

/// Registry → blob → a repository that has it, without the registry's name.
pub type Places = BTreeMap<String, BTreeMap<Digest, String>>;

impl RegistryClient {
    /// Tells where blobs were when an earlier client put or found them there.
    pub fn hint_places(&self, places: &Places) {
        let mut hinted = lock(&self.inner.hinted_places);
        for (registry, blobs) in places {
            let blobs = blobs.iter();
            hinted.extend(blobs.map(|(digest, name)| ((registry.clone(), *digest), name.clone())));
        }
    }

    /// Where this client put or found blobs: for [`RegistryClient::hint_places`] of the next one.
    pub fn places(&self) -> Places {
        let mut places = Places::new();
        for ((registry, digest), repositories) in lock(&self.inner.known_blobs).iter() {
            if let Some(name) = repositories.first() {
                let blobs = places.entry(registry.clone()).or_default();
                blobs.insert(*digest, name.clone());
            }
        }
        places
    }

    pub(super) fn hinted_place(&self, repository: &Repository, digest: &Digest) -> Option<String> {
        let key = (repository.registry().to_owned(), *digest);
        lock(&self.inner.hinted_places).get(&key).cloned()
    }

    /// Whether another repository has a blob that a hint says it has. A place that cannot be asked is none.
    pub(super) async fn is_at_hinted_place(&self, repository: &Repository, blob: &Descriptor) -> bool {
        let other = self
            .hinted_place(repository, &blob.digest)
            .filter(|name| name != repository.name())
            .and_then(|name| format!("{}/{name}", repository.registry()).parse().ok());
        match other {
            Some(other) => self.has_blob(&Access::pull(&other), blob).await.unwrap_or(false),
            None => false,
        }
    }
}
