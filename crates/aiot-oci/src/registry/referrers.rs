//! What is said about an image, attached to it: artifacts whose manifest names the image as its subject (OCI 1.1).
//!
//! A registry that does not keep the list of an image's referrers gets it as an index under the tag `sha256-<digest>`,
//! as the specification asks. Two writers of that index could lose each other's entry: it is read back and written
//! again until ours is in it.

use std::collections::BTreeMap;

use aiot_package::Digest;
use reqwest::{Method, StatusCode};
use serde::Serialize;

use super::auth::Access;
use super::http::{Body, Request};
use super::push::{PushOptions, PushReceipt};
use super::{RegistryClient, RegistryError, lock};
use crate::document::{self, Descriptor, Empty, ImageIndex, MAX_DOCUMENT_BYTES, MediaType};
use crate::image;
use crate::reference::Repository;
use crate::store::Store;

/// The config of an artifact: `{}`.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Tries to get an entry into an index that others write too.
const INDEX_TRIES: u32 = 5;

/// Something that is said about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// What it is: media type of the bytes and type of the artifact.
    pub artifact_type: String,
    /// File name for people.
    pub title: String,
    /// The document.
    pub bytes: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactManifest {
    schema_version: u32,
    media_type: MediaType,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    subject: Descriptor,
    annotations: BTreeMap<String, String>,
}

impl Artifact {
    /// Puts the artifact's blobs and its manifest for `subject` into a store; returns the manifest and its parts. The
    /// same artifact of the same image has the same digest.
    fn store(
        &self,
        store: &Store,
        subject: &Descriptor,
    ) -> Result<(Descriptor, [Descriptor; 2]), RegistryError> {
        let put = |bytes: &[u8], media_type: &str| -> Result<Descriptor, RegistryError> {
            let blob = store.put_bytes(bytes)?;
            Ok(Descriptor::new(
                MediaType::from(media_type),
                blob.digest,
                blob.size,
            ))
        };
        let config = put(&document::to_bytes(&Empty {}), EMPTY_TYPE)?;
        let layer = put(&self.bytes, &self.artifact_type)?;
        let title = BTreeMap::from([("org.opencontainers.image.title".to_owned(), self.title.clone())]);
        let manifest = ArtifactManifest {
            schema_version: 2,
            media_type: MediaType::ImageManifest,
            artifact_type: self.artifact_type.clone(),
            config: config.clone(),
            layers: vec![layer.clone()],
            subject: Descriptor::new(subject.media_type.clone(), subject.digest, subject.size),
            annotations: title.clone(),
        };
        let mut manifest = put(&document::to_bytes(&manifest), MediaType::ImageManifest.as_str())?;
        manifest.artifact_type = Some(self.artifact_type.clone());
        manifest.annotations = title;
        Ok((manifest, [config, layer]))
    }
}

impl RegistryClient {
    /// Attaches an artifact to an image that the repository has; `store` takes its documents. What is
    /// there is not sent again.
    ///
    /// # Errors
    /// As [`RegistryClient::push`].
    pub async fn attach(
        &self,
        store: &Store,
        to: &Repository,
        subject: &Descriptor,
        artifact: &Artifact,
        options: &PushOptions,
    ) -> Result<PushReceipt, RegistryError> {
        let access = Access::push(to);
        let mut receipt = PushReceipt::default();
        let (manifest, blobs) = artifact.store(store, subject)?;
        let name = manifest.digest.to_string();
        if self.manifest_digest(&access, &name).await? != Some(manifest.digest) {
            let blobs = blobs.into_iter().map(|blob| (blob.digest, blob)).collect();
            self.push_blobs(store, &access, blobs, true, options, &mut receipt)
                .await?;
            self.put_manifest(store, &access, &name, &manifest, options, &mut receipt)
                .await?;
        }
        // Also of one that is there: a push may have been cut before this.
        if !self.keeps_referrers(&access, &subject.digest).await? {
            self.list_under_tag(&access, &subject.digest, &manifest).await?;
        }
        Ok(receipt)
    }

    /// The artifacts that are attached to an image: manifests, with the type of what they hold.
    ///
    /// # Errors
    /// Those of a failed request, and [`RegistryError::Image`] for a list that is none.
    pub async fn referrers(
        &self,
        of: &Repository,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let access = Access::pull(of);
        if let Some(list) = self
            .fetch_index(&access, &format!("referrers/{subject}"), subject)
            .await?
        {
            return Ok(list.manifests);
        }
        let list = self
            .fetch_index(&access, &format!("manifests/{}", fallback_tag(subject)), subject)
            .await?;
        Ok(list.map(|list| list.manifests).unwrap_or_default())
    }

    /// Whether the registry itself lists referrers; asked once per registry.
    async fn keeps_referrers(&self, access: &Access, subject: &Digest) -> Result<bool, RegistryError> {
        let registry = access.repository.registry().to_owned();
        if let Some(known) = lock(&self.inner.keeps_referrers).get(&registry) {
            return Ok(*known);
        }
        let list = self
            .fetch_index(access, &format!("referrers/{subject}"), subject)
            .await?;
        lock(&self.inner.keeps_referrers).insert(registry, list.is_some());
        Ok(list.is_some())
    }

    async fn list_under_tag(
        &self,
        access: &Access,
        subject: &Digest,
        entry: &Descriptor,
    ) -> Result<(), RegistryError> {
        let path = format!("manifests/{}", fallback_tag(subject));
        for _ in 0..INDEX_TRIES {
            let list = self.fetch_index(access, &path, subject).await?;
            let mut manifests = list.map(|list| list.manifests).unwrap_or_default();
            if manifests.iter().any(|known| known.digest == entry.digest) {
                return Ok(());
            }
            manifests.push(entry.clone());
            manifests.sort_by_key(|known| known.digest);
            let mut request = Request::new(Method::PUT, self.url(&access.repository, &path)?);
            request.content_type = Some(MediaType::ImageIndex.to_string());
            let index = ImageIndex::new(manifests, BTreeMap::new());
            request.body = Body::Bytes(document::to_bytes(&index).into());
            let response = self.send(access, &request).await?;
            if !response.status().is_success() {
                return Err(self.status_error(&request, response).await);
            }
        }
        let request = Request::new(Method::PUT, self.url(&access.repository, &path)?);
        Err(self.protocol_error(
            &request,
            "the list of referrers does not keep an entry; does somebody else push there?",
        ))
    }

    /// An index; `None` where there is none.
    async fn fetch_index(
        &self,
        access: &Access,
        path: &str,
        subject: &Digest,
    ) -> Result<Option<ImageIndex>, RegistryError> {
        let mut request = Request::new(Method::GET, self.url(&access.repository, path)?);
        request.accept = Some("application/vnd.oci.image.index.v1+json");
        let response = self.send(access, &request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
            _ => return Err(self.status_error(&request, response).await),
        }
        let bytes = self
            .read_body(&request, response, MAX_DOCUMENT_BYTES as usize)
            .await?;
        let index = image::parse_index(&bytes).map_err(|reason| image::ImageError::Document {
            what: "list of referrers",
            digest: *subject,
            reason,
        })?;
        Ok(Some(index))
    }
}

fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}
