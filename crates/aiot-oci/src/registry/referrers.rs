//! What is said about an image, attached to it: artifacts whose manifest names the image as its subject (OCI 1.1).
//!
//! A registry that does not keep the list of an image's referrers gets it as an index under the tag `sha256-<digest>`,
//! as the specification asks. Two writers of that index could lose each other's entry: it is read back and written
//! again until ours is in it, with all that we have seen there before. What nobody can see is an entry that was written
//! and lost between two looks of ours; pushing again brings it back.

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::Digest;
use reqwest::header::LINK;
use reqwest::{Method, StatusCode, Url};
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
const INDEX_TRIES: u32 = 8;
/// Pages of a list of referrers that are read.
const MAX_PAGES: usize = 64;
/// Referrers of one image that are kept.
const MAX_REFERRERS: usize = 16_384;

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
        self.referrers_of_type(of, subject, None).await
    }

    /// As [`RegistryClient::referrers`], but only those of one type: a registry that can, sends no others.
    ///
    /// # Errors
    /// As [`RegistryClient::referrers`].
    pub async fn referrers_of_type(
        &self,
        of: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let access = Access::pull(of);
        let mut url = self.url(of, &format!("referrers/{subject}"))?;
        if let Some(artifact_type) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", artifact_type);
        }
        let mut found = match self.fetch_pages(&access, url, subject).await? {
            Some(found) => found,
            None => {
                let path = format!("manifests/{}", fallback_tag(subject));
                let list = self.fetch_index(&access, self.url(of, &path)?, subject).await?;
                list.map(|(list, _)| list.manifests).unwrap_or_default()
            }
        };
        // Registries need not filter.
        found.retain(|entry| {
            artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
        });
        Ok(found)
    }

    /// A list of referrers, page by page; `None` where the registry keeps none.
    async fn fetch_pages(
        &self,
        access: &Access,
        first: Url,
        subject: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let mut found: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        let mut next = Some(first);
        for page in 0..MAX_PAGES {
            let Some(url) = next else {
                break;
            };
            let Some((list, link)) = self.fetch_index(access, url, subject).await? else {
                // A page that is gone: what was read before it is not all.
                return Ok((page > 0).then(|| found.into_values().collect()));
            };
            found.extend(list.manifests.into_iter().map(|entry| (entry.digest, entry)));
            next = link;
            if found.len() > MAX_REFERRERS || (page + 1 == MAX_PAGES && next.is_some()) {
                let request = Request::new(Method::GET, self.url(&access.repository, "referrers/")?);
                return Err(self.protocol_error(&request, "the list of referrers does not end"));
            }
        }
        Ok(Some(found.into_values().collect()))
    }

    /// Whether the registry itself lists referrers; asked once per registry.
    async fn keeps_referrers(&self, access: &Access, subject: &Digest) -> Result<bool, RegistryError> {
        let registry = access.repository.registry().to_owned();
        if let Some(known) = lock(&self.inner.keeps_referrers).get(&registry) {
            return Ok(*known);
        }
        let url = self.url(&access.repository, &format!("referrers/{subject}"))?;
        let list = self.fetch_index(access, url, subject).await?;
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
        // Ours, and every other entry that was there at one of our looks.
        let mut wanted = BTreeMap::from([(entry.digest, entry.clone())]);
        for _ in 0..INDEX_TRIES {
            let url = self.url(&access.repository, &path)?;
            let list = self.fetch_index(access, url, subject).await?;
            let there = list.map(|(list, _)| list.manifests).unwrap_or_default();
            let has: BTreeSet<Digest> = there.iter().map(|known| known.digest).collect();
            if wanted.keys().all(|digest| has.contains(digest)) {
                return Ok(());
            }
            wanted.extend(there.into_iter().map(|known| (known.digest, known)));
            let manifests = wanted.values().cloned().collect();
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

    /// An index and where the next page of it is; `None` where there is none.
    async fn fetch_index(
        &self,
        access: &Access,
        url: Url,
        subject: &Digest,
    ) -> Result<Option<(ImageIndex, Option<Url>)>, RegistryError> {
        let mut request = Request::new(Method::GET, url);
        request.accept = Some("application/vnd.oci.image.index.v1+json");
        let response = self.send(access, &request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
            _ => return Err(self.status_error(&request, response).await),
        }
        let next = response
            .headers()
            .get(LINK)
            .and_then(|link| next_page(&request.url, link.to_str().ok()?));
        let bytes = self
            .read_body(&request, response, MAX_DOCUMENT_BYTES as usize)
            .await?;
        let index = image::parse_index(&bytes).map_err(|reason| image::ImageError::Document {
            what: "list of referrers",
            digest: *subject,
            reason,
        })?;
        Ok(Some((index, next)))
    }
}

/// `Link: <address>; rel="next"`, an address of the same host; none of another, which would get our token.
fn next_page(here: &Url, link: &str) -> Option<Url> {
    let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|parameter| {
        let parameter = parameter.trim().replace('"', "");
        parameter.eq_ignore_ascii_case("rel=next")
    });
    let url = here.join(address).ok()?;
    (is_next && url.origin() == here.origin()).then_some(url)
}

fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_host() {
        let here = Url::parse("https://r.example/v2/a/referrers/sha256:0").unwrap();
        let check = |link: &str, expected: Option<&str>| {
            assert_eq!(
                next_page(&here, link).as_ref().map(Url::as_str),
                expected,
                "{link}"
            );
        };
        check("</v2/a?n=2>; rel=\"next\"", Some("https://r.example/v2/a?n=2"));
        check(
            " <?last=x>;rel=next",
            Some("https://r.example/v2/a/referrers/sha256:0?last=x"),
        );
        check(
            "<https://r.example/b>; rel=\"next\"; n=1",
            Some("https://r.example/b"),
        );
        check("<https://other.example/b>; rel=\"next\"", None);
        check("<http://r.example/b>; rel=\"next\"", None);
        check("</v2/a>; rel=\"prev\"", None);
        for broken in ["", "<", "</v2/a", "/v2/a; rel=next", "<http://[>; rel=next", "<>"] {
            check(broken, None);
        }
    }
}
