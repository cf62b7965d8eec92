//! Pull: an image for one platform, by tag or digest, into a store. Every byte is checked against the digest that
//! named it, and no answer is longer than what was announced.

use std::io::Write;

use aiot_package::Digest;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use tokio::task::JoinSet;

use super::auth::Access;
use super::http::{Backoff, Request, shown};
use super::{RegistryClient, RegistryError};
use crate::document::{Descriptor, MAX_DOCUMENT_BYTES, MediaType, Platform};
use crate::image::{self, ImageError};
use crate::reference::{Reference, Repository};
use crate::store::{Store, StoreError, io_error};

pub(super) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

const DOWNLOADS_IN_PARALLEL: usize = 3;

/// The largest layer that is fetched: what a manifest announces is written to the disk before it can be verified.
const MAX_LAYER_BYTES: u64 = 16 << 30;

/// Whether a pull fetches the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullLayers {
    /// Manifest, config and all layers.
    All,
    /// Manifest and config only: enough to build on an image.
    None,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledImage {
    /// What the reference names: the index, or the manifest where there is none. This is what a lock should hold.
    pub named: Descriptor,
    /// The manifest of the image for the platform, with the platform.
    pub manifest: Descriptor,
    /// Its config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a reference names at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedReference {
    /// Manifest or index.
    pub descriptor: Descriptor,
    /// The platforms of an index, in its order; of a single image, none.
    pub platforms: Vec<Platform>,
}

impl RegistryClient {
    /// Asks what a tag names, without fetching an image.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::WrongDigest`], and those of a failed request.
    pub async fn resolve(&self, reference: &Reference) -> Result<ResolvedReference, RegistryError> {
        let (descriptor, bytes) = self.get_manifest(reference).await?;
        let mut platforms = Vec::new();
        if descriptor.media_type.is_index() {
            let index = image::parse_index(&bytes).map_err(document_error("index", descriptor.digest))?;
            platforms = index
                .manifests
                .into_iter()
                .filter_map(|manifest| manifest.platform)
                .collect();
        }
        Ok(ResolvedReference {
            descriptor,
            platforms,
        })
    }

    /// Fetches the image of a reference for a platform. An index is followed to the first image that fits. What the
    /// store has is not fetched: an image named by digest and stored whole needs no network.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::NoSuchPlatform`]; [`RegistryError::WrongDigest`] or
    /// [`StoreError::Mismatch`] when the registry gives other bytes; those of a failed request.
    pub async fn pull_image(
        &self,
        store: &Store,
        reference: &Reference,
        platform: &Platform,
        layers: PullLayers,
    ) -> Result<PulledImage, RegistryError> {
        let named = self.pull_manifest(store, reference).await?;
        let mut manifest = named.clone();
        if named.media_type.is_index() {
            let index = image::read_index(store, &named.digest)?;
            let fits = |manifest: &&Descriptor| {
                manifest.media_type.is_manifest() && manifest.platform.as_ref() == Some(platform)
            };
            let Some(chosen) = index.manifests.iter().find(fits) else {
                return Err(no_such_platform(reference, platform, &index.manifests));
            };
            let repository = reference.repository.clone();
            let by_digest = Reference {
                repository,
                tag: None,
                digest: Some(chosen.digest),
            };
            manifest = self.pull_manifest(store, &by_digest).await?;
        }
        if !manifest.media_type.is_manifest() {
            let (what, media_type) = (reference.to_string(), manifest.media_type);
            return Err(RegistryError::MediaType { what, media_type });
        }
        let document = image::read_manifest(store, &manifest.digest)?;
        if document.config.size > MAX_DOCUMENT_BYTES {
            let (digest, size_bytes) = (document.config.digest, document.config.size);
            return Err(StoreError::TooLarge {
                digest,
                size_bytes,
                limit_bytes: MAX_DOCUMENT_BYTES,
            }
            .into());
        }
        if !document.config.media_type.is_config() {
            let (what, media_type) = (format!("the config of {reference}"), document.config.media_type);
            return Err(RegistryError::MediaType { what, media_type });
        }
        self.pull_blob(store, &reference.repository, &document.config)
            .await?;
        let config = image::read_config(store, &document.config.digest)?;
        if config.platform() != *platform {
            let mut only = manifest.clone();
            only.platform = Some(config.platform());
            return Err(no_such_platform(reference, platform, &[only]));
        }
        manifest.platform = Some(platform.clone());
        if layers == PullLayers::All {
            if let Some(layer) = document.layers.iter().find(|layer| layer.size > MAX_LAYER_BYTES) {
                let (digest, size_bytes, limit_bytes) = (layer.digest, layer.size, MAX_LAYER_BYTES);
                return Err(StoreError::TooLarge {
                    digest,
                    size_bytes,
                    limit_bytes,
                }
                .into());
            }
            self.pull_blobs(store, &reference.repository, &document.layers)
                .await?;
        }
        Ok(PulledImage {
            named,
            manifest,
            config: document.config,
            layers: document.layers,
        })
    }

    async fn pull_blobs(
        &self,
        store: &Store,
        repository: &Repository,
        blobs: &[Descriptor],
    ) -> Result<(), RegistryError> {
        let mut waiting = blobs.iter().cloned();
        let mut running: JoinSet<Result<(), RegistryError>> = JoinSet::new();
        loop {
            while running.len() < DOWNLOADS_IN_PARALLEL
                && let Some(blob) = waiting.next()
            {
                let (client, store, repository) = (self.clone(), store.clone(), repository.clone());
                running.spawn(async move { client.pull_blob(&store, &repository, &blob).await });
            }
            match running.join_next().await {
                None => return Ok(()),
                Some(Ok(result)) => result?,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// Fetches one blob into the store, going on where a broken download ended.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`]; [`StoreError::Mismatch`] when the registry gives other bytes; those of a failed
    /// request.
    pub async fn pull_blob(
        &self,
        store: &Store,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<(), RegistryError> {
        if store.contains(&blob.digest, blob.size) {
            return Ok(());
        }
        let access = Access::pull(repository);
        let mut request = Request::new(
            Method::GET,
            self.url(repository, &format!("blobs/{}", blob.digest))?,
        );
        let mut backoff = Backoff::new(self.inner.options.retry);
        let mut writer = store.writer()?;
        loop {
            request.range_start = writer.size();
            match self.exchange(&access, &request).await {
                Ok(mut response) => {
                    match response.status() {
                        StatusCode::PARTIAL_CONTENT if request.range_start > 0 => {}
                        StatusCode::OK if request.range_start > 0 => writer = store.writer()?,
                        StatusCode::OK => {}
                        StatusCode::NOT_FOUND => {
                            return Err(RegistryError::NotFound(format!(
                                "{repository}@{} (a blob)",
                                blob.digest
                            )));
                        }
                        _ => return Err(self.status_error(&request, response).await),
                    }
                    let error = loop {
                        match self.next_chunk(&request, &mut response).await {
                            Ok(Some(chunk)) if writer.size() + chunk.len() as u64 > blob.size => {
                                let reason =
                                    format!("the blob is longer than the {} bytes announced", blob.size);
                                return Err(self.protocol_error(&request, reason));
                            }
                            Ok(Some(chunk)) => {
                                writer
                                    .write_all(&chunk)
                                    .map_err(io_error("write into", store.root()))?;
                            }
                            Ok(None) => {
                                writer.commit_expected(&blob.digest, blob.size)?;
                                self.remember_blob(repository, &blob.digest);
                                return Ok(());
                            }
                            Err(error) => break error,
                        }
                    };
                    if !backoff.again(&error).await {
                        return Err(error);
                    }
                }
                Err(error) if backoff.again(&error).await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts manifest or index of a reference into the store.
    async fn pull_manifest(&self, store: &Store, reference: &Reference) -> Result<Descriptor, RegistryError> {
        if let Some(digest) = reference.digest {
            match store.read_verified(&digest, MAX_DOCUMENT_BYTES) {
                Ok(bytes) => {
                    return Ok(Descriptor::new(
                        media_type_of(&bytes, ""),
                        digest,
                        bytes.len() as u64,
                    ));
                }
                // Not there, or bad and moved aside: the registry has it.
                Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (descriptor, bytes) = self.get_manifest(reference).await?;
        store.put_bytes(&bytes)?;
        Ok(descriptor)
    }

    pub(super) async fn get_manifest(
        &self,
        reference: &Reference,
    ) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let name = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => {
                return Err(RegistryError::NotFound(format!(
                    "{reference}: it has neither tag nor digest"
                )));
            }
        };
        let access = Access::pull(&reference.repository);
        let mut request = Request::new(
            Method::GET,
            self.url(&reference.repository, &format!("manifests/{name}"))?,
        );
        request.accept = Some(MANIFEST_TYPES);
        let mut backoff = Backoff::new(self.inner.options.retry);
        let (content_type, bytes) = loop {
            let response = self.send(&access, &request).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(RegistryError::NotFound(reference.to_string())),
                _ => return Err(self.status_error(&request, response).await),
            }
            let content_type = response
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .map(|text| text.split(';').next().unwrap_or_default().trim().to_owned())
                .unwrap_or_default();
            match self
                .read_body(&request, response, MAX_DOCUMENT_BYTES as usize)
                .await
            {
                Ok(bytes) => break (content_type, bytes),
                Err(error) if backoff.again(&error).await => {}
                Err(error) => return Err(error),
            }
        };
        let found = Digest::of(&bytes);
        if let Some(expected) = reference.digest.filter(|expected| *expected != found) {
            return Err(RegistryError::WrongDigest {
                url: shown(&request.url),
                expected,
                found,
            });
        }
        Ok((
            Descriptor::new(media_type_of(&bytes, &content_type), found, bytes.len() as u64),
            bytes,
        ))
    }
}

/// What a document calls itself, else what the registry called it, else what it looks like.
fn media_type_of(bytes: &[u8], content_type: &str) -> MediaType {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Looks {
        media_type: Option<MediaType>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let looks = serde_json::from_slice::<Looks>(bytes).unwrap_or(Looks {
        media_type: None,
        manifests: None,
    });
    let named = MediaType::from(content_type);
    match (looks.media_type, looks.manifests) {
        (Some(media_type), _) => media_type,
        (None, _) if named.is_index() || named.is_manifest() => named,
        (None, Some(_)) => MediaType::ImageIndex,
        (None, None) => MediaType::ImageManifest,
    }
}

fn document_error(what: &'static str, digest: Digest) -> impl FnOnce(String) -> ImageError {
    move |reason| ImageError::Document { what, digest, reason }
}

fn no_such_platform(reference: &Reference, platform: &Platform, manifests: &[Descriptor]) -> RegistryError {
    let mut available: Vec<String> = manifests
        .iter()
        .filter_map(|manifest| manifest.platform.as_ref().map(Platform::to_string))
        .collect();
    available.sort();
    available.dedup();
    RegistryError::NoSuchPlatform {
        reference: reference.to_string(),
        platform: Box::new(platform.clone()),
        available: if available.is_empty() {
            "none".to_owned()
        } else {
            available.join(", ")
        },
    }
}
