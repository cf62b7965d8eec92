//! What a push would do, asked without sending anything: `--dry-run`.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::Digest;
use reqwest::header::LINK;
use reqwest::{Method, StatusCode};

use super::auth::Access;
use super::http::Request;
use super::push::Graph;
use super::{RegistryClient, RegistryError};
use crate::document::Descriptor;
use crate::reference::Repository;
use crate::store::Store;

/// What a push would find and send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushSurvey {
    /// What the tag names now.
    pub tag: Option<Digest>,
    /// Blobs that are there, in this repository.
    pub blobs_present: usize,
    /// Blobs that another repository of the registry has, or gets before, and that are taken over from there.
    pub blobs_mountable: usize,
    /// Blobs that would be sent.
    pub blobs_missing: usize,
    /// Their bytes.
    pub missing_bytes: u64,
    /// Manifests and indexes that would be sent, the tag included.
    pub manifests_missing: usize,
    /// What the repository has, of blobs and manifests that were asked for.
    pub has: BTreeSet<Digest>,
    /// Blobs that another repository has.
    pub elsewhere: BTreeSet<Digest>,
}

/// Blob → repositories that get it, of pushes that are planned.
pub type PlannedBlobs = BTreeMap<Digest, BTreeSet<Repository>>;

/// The longest list of tags that is read.
const MAX_TAG_LIST_BYTES: usize = 4 << 20;

impl RegistryClient {
    /// All tags of a repository, asked with one request: none of a repository that is not there; `None` where the
    /// registry does not list them, or not all at once.
    ///
    /// # Errors
    /// Those of a failed request.
    pub async fn tags(&self, of: &Repository) -> Result<Option<BTreeSet<String>>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct List {
            // `null` is what some registries say when there is none.
            tags: Option<Vec<String>>,
        }
        let access = Access::push(of);
        let request = Request::new(Method::GET, self.url(of, "tags/list")?);
        let response = self.send(&access, &request).await?;
        match response.status() {
            StatusCode::OK if !response.headers().contains_key(LINK) => {}
            StatusCode::NOT_FOUND => return Ok(Some(BTreeSet::new())),
            _ => return Ok(None),
        }
        let Ok(bytes) = self.read_body(&request, response, MAX_TAG_LIST_BYTES).await else {
            return Ok(None);
        };
        let list: Option<List> = serde_json::from_slice(&bytes).ok();
        Ok(list.map(|list| list.tags.unwrap_or_default().into_iter().collect()))
    }

    /// Asks what a push of `root` would send. `planned`: blobs that other pushes of the same run send to this registry
    /// before; those of this one are added. No blob is asked for twice.
    ///
    /// # Errors
    /// As [`RegistryClient::push`], but a tag that names another image is reported and no error.
    pub async fn survey(
        &self,
        store: &Store,
        root: &Descriptor,
        to: &Repository,
        tag: Option<&str>,
        planned: &mut PlannedBlobs,
    ) -> Result<PushSurvey, RegistryError> {
        let access = Access::pull(to);
        let mut survey = PushSurvey::default();
        if let Some(tag) = tag {
            survey.tag = self.manifest_digest(&access, tag).await?;
            if survey.tag == Some(root.digest) {
                return Ok(survey);
            }
            survey.manifests_missing += 1;
        }
        if self.manifest_digest(&access, &root.digest.to_string()).await? == Some(root.digest) {
            survey.has.insert(root.digest);
            return Ok(survey);
        }
        survey.manifests_missing += usize::from(tag.is_none());
        let graph = Graph::below(store, root)?;
        survey.manifests_missing += graph.inner_indexes.len();
        let mut blobs: BTreeSet<(Digest, u64)> = BTreeSet::new();
        for image in &graph.images {
            let digest = image.descriptor.digest;
            if digest != root.digest {
                if self.manifest_digest(&access, &digest.to_string()).await? == Some(digest) {
                    survey.has.insert(digest);
                    continue;
                }
                survey.manifests_missing += 1;
            }
            let all = image.layers.iter().chain([&image.config]);
            blobs.extend(all.map(|blob| (blob.digest, blob.size)));
        }
        for (digest, size) in blobs {
            let blob = Descriptor::new(crate::document::MediaType::Other(String::new()), digest, size);
            let getting = planned.entry(digest).or_default();
            if !getting.is_empty() {
                survey.blobs_present += usize::from(getting.contains(to));
                survey.blobs_mountable += usize::from(!getting.contains(to));
            } else if self.has_blob(&access, &blob).await? {
                survey.blobs_present += 1;
                survey.has.insert(digest);
            } else if self.is_at_hinted_place(to, &blob).await {
                survey.blobs_mountable += 1;
                survey.elsewhere.insert(digest);
            } else {
                survey.blobs_missing += 1;
                survey.missing_bytes += size;
            }
            getting.insert(to.clone());
        }
        Ok(survey)
    }
}
