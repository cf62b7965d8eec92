//! Push: blobs, configs, manifests, index, and the tag last, so that a cut leaves the old tag whole.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aiot_package::Digest;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use tokio::task::JoinSet;

use super::auth::Access;
use super::http::{Body, Request};
use super::pull::MANIFEST_TYPES;
use super::upload::Mount;
use super::{RegistryClient, RegistryError};
use crate::document::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::image;
use crate::layout::MAX_INDEX_DEPTH;
use crate::reference::{Repository, is_tag};
use crate::store::Store;

/// Uploads at the same time, unless asked otherwise or refused.
pub(super) const DEFAULT_UPLOADS: usize = 4;

/// Is told what happens during a push.
pub type PushListener = Arc<dyn Fn(&PushEvent) + Send + Sync>;

/// How to push.
#[derive(Clone)]
pub struct PushOptions {
    /// Whether a tag that names another image may be moved.
    pub overwrite_tag: bool,
    /// Uploads at the same time, at least 1.
    pub uploads_in_parallel: usize,
    /// Whether what a push put under the root's name is fetched again and compared at the end. Without it that is
    /// done only where the registry's answer does not name the digest that it took.
    pub read_back: bool,
    /// Whether the caller has just seen that the tag names nothing, which then is not asked again.
    pub tag_is_free: bool,
    /// Told what happens, from any thread; must return fast.
    pub on_event: Option<PushListener>,
}

impl Default for PushOptions {
    /// Four uploads; tags do not move; the root is read back.
    fn default() -> PushOptions {
        PushOptions {
            overwrite_tag: false,
            uploads_in_parallel: DEFAULT_UPLOADS,
            read_back: true,
            tag_is_free: false,
            on_event: None,
        }
    }
}

impl fmt::Debug for PushOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushOptions")
            .field("overwrite_tag", &self.overwrite_tag)
            .field("uploads_in_parallel", &self.uploads_in_parallel)
            .field("read_back", &self.read_back)
            .field("tag_is_free", &self.tag_is_free)
            .finish_non_exhaustive()
    }
}

impl PushOptions {
    pub(super) fn tell(&self, event: PushEvent) {
        if let Some(on_event) = &self.on_event {
            on_event(&event);
        }
    }
}

/// What happens during a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushEvent {
    /// How much of a blob is on its way. A position, not an increment: it falls back when an upload starts again, so
    /// that nothing is counted twice.
    Sent {
        /// The blob.
        digest: Digest,
        /// Bytes sent so far.
        position_bytes: u64,
        /// Bytes in all.
        size_bytes: u64,
    },
    /// The registry has the blob.
    Delivered {
        /// The blob.
        digest: Digest,
        /// Bytes of the blob.
        size_bytes: u64,
        /// How it got there.
        how: BlobDelivery,
    },
    /// The registry has the manifest or index.
    Manifest {
        /// Its digest.
        digest: Digest,
    },
}

/// How a blob got into its repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobDelivery {
    /// It was there.
    Present,
    /// Taken over from another repository of the registry.
    Mounted,
    /// Sent.
    Uploaded,
}

/// What a push did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushReceipt {
    /// Blobs that were there.
    pub blobs_present: usize,
    /// Blobs taken over from another repository.
    pub blobs_mounted: usize,
    /// Blobs sent.
    pub blobs_uploaded: usize,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Manifests and indexes sent.
    pub manifests_uploaded: usize,
}

impl std::ops::AddAssign<&PushReceipt> for PushReceipt {
    fn add_assign(&mut self, other: &PushReceipt) {
        self.blobs_present += other.blobs_present;
        self.blobs_mounted += other.blobs_mounted;
        self.blobs_uploaded += other.blobs_uploaded;
        self.uploaded_bytes += other.uploaded_bytes;
        self.manifests_uploaded += other.manifests_uploaded;
    }
}

/// What is below the root of a push, children before parents, each once.
#[derive(Default)]
pub(super) struct Graph {
    pub images: Vec<Image>,
    pub inner_indexes: Vec<Descriptor>,
}

pub(super) struct Image {
    pub descriptor: Descriptor,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Graph {
    /// What is below `root` in a store.
    pub fn below(store: &Store, root: &Descriptor) -> Result<Graph, RegistryError> {
        let mut graph = Graph::default();
        collect(store, root, 0, &mut graph)?;
        Ok(graph)
    }
}

impl RegistryClient {
    /// Pushes the image or index `root` of a store or layout to a repository, and names it `tag` if one is given.
    ///
    /// What the registry has is not sent again: a tag that names the image already costs one request, and an image
    /// that is there proves its blobs. A blob that this client put into or found in another repository of the same
    /// registry is mounted from there.
    ///
    /// # Errors
    /// [`RegistryError::TagExists`] unless overwriting is allowed; [`RegistryError::Unauthorized`];
    /// [`RegistryError::Store`] for blobs that are missing or corrupt here; the last failure of a request that was
    /// tried often enough. Pushing again continues.
    pub async fn push(
        &self,
        store: &Store,
        root: &Descriptor,
        to: &Repository,
        tag: Option<&str>,
        options: &PushOptions,
    ) -> Result<PushReceipt, RegistryError> {
        let access = Access::push(to);
        let mut receipt = PushReceipt::default();
        if let Some(tag) = tag {
            if !is_tag(tag) {
                return Err(RegistryError::NotFound(format!("{to}:{tag}: that is no tag")));
            }
            let found = if options.tag_is_free {
                None
            } else {
                self.manifest_digest(&access, tag).await?
            };
            match found {
                Some(found) if found == root.digest => {
                    self.remember_below(to, &Graph::below(store, root)?.images);
                    return Ok(receipt);
                }
                Some(found) if !options.overwrite_tag => {
                    let (repository, tag) = (Box::new(to.clone()), tag.to_owned());
                    return Err(RegistryError::TagExists {
                        repository,
                        tag,
                        found,
                        wanted: root.digest,
                    });
                }
                _ => {}
            }
        }
        let graph = Graph::below(store, root)?;
        if !self.root_is_there(&access, root, &graph, tag.is_some()).await? {
            self.push_children(store, &access, root, &graph, options, &mut receipt)
                .await?;
        } else {
            self.remember_below(to, &graph.images);
            if tag.is_none() {
                return Ok(receipt);
            }
        }
        let name = tag.map_or(root.digest.to_string(), str::to_owned);
        let is_confirmed = self
            .put_manifest(store, &access, &name, root, options, &mut receipt)
            .await?;
        if options.read_back || !is_confirmed {
            self.read_back(&access, &name, root).await?;
        }
        Ok(receipt)
    }

    /// Whether the repository has the root, asked only where the answer may save more than it costs: of one image under
    /// a free tag whose layers are all known, nothing is left but its config.
    async fn root_is_there(
        &self,
        access: &Access,
        root: &Descriptor,
        graph: &Graph,
        has_free_tag: bool,
    ) -> Result<bool, RegistryError> {
        let is_known = |layer: &Descriptor| {
            !self
                .repositories_with(&access.repository, &layer.digest)
                .is_empty()
        };
        let mut layers = graph.images.iter().flat_map(|image| &image.layers);
        if has_free_tag && root.media_type.is_manifest() && layers.all(is_known) {
            return Ok(self.knows_manifest(&access.repository, &root.digest));
        }
        self.has_manifest(access, &root.digest).await
    }

    /// Images that a repository has prove their blobs: other repositories can mount them from there.
    fn remember_below(&self, repository: &Repository, images: &[Image]) {
        for blob in images
            .iter()
            .flat_map(|image| image.layers.iter().chain([&image.config]))
        {
            self.remember_blob(repository, &blob.digest);
        }
    }

    /// Whether the repository has a manifest or index; not asked where this client put it there or saw it.
    async fn has_manifest(&self, access: &Access, digest: &Digest) -> Result<bool, RegistryError> {
        if self.knows_manifest(&access.repository, digest) {
            return Ok(true);
        }
        let is_there = self.manifest_digest(access, &digest.to_string()).await? == Some(*digest);
        if is_there {
            self.remember_manifest(&access.repository, digest);
        }
        Ok(is_there)
    }

    /// The digest that a tag names in a repository, asked with one request; `None` when it names nothing.
    ///
    /// # Errors
    /// Those of a failed request.
    pub async fn tag_digest(
        &self,
        repository: &Repository,
        tag: &str,
    ) -> Result<Option<Digest>, RegistryError> {
        self.manifest_digest(&Access::push(repository), tag).await
    }

    /// Fetches what a name stands for and compares its bytes with what was pushed.
    async fn read_back(&self, access: &Access, name: &str, wanted: &Descriptor) -> Result<(), RegistryError> {
        let mut request = Request::new(
            Method::GET,
            self.url(&access.repository, &format!("manifests/{name}"))?,
        );
        request.accept = Some(MANIFEST_TYPES);
        let response = self.send(access, &request).await?;
        if response.status() != StatusCode::OK {
            return Err(self.status_error(&request, response).await);
        }
        let bytes = self
            .read_body(&request, response, MAX_DOCUMENT_BYTES as usize)
            .await?;
        let (url, expected, found) = (
            super::http::shown(&request.url),
            wanted.digest,
            Digest::of(&bytes),
        );
        if found == expected {
            Ok(())
        } else {
            Err(RegistryError::WrongDigest { url, expected, found })
        }
    }

    /// Everything that `root` needs to be there before it.
    async fn push_children(
        &self,
        store: &Store,
        access: &Access,
        root: &Descriptor,
        graph: &Graph,
        options: &PushOptions,
        receipt: &mut PushReceipt,
    ) -> Result<(), RegistryError> {
        let mut missing = Vec::new();
        for image in &graph.images {
            let digest = image.descriptor.digest;
            if digest == root.digest || !self.has_manifest(access, &digest).await? {
                missing.push(image);
            } else {
                self.remember_below(&access.repository, std::slice::from_ref(image));
            }
        }
        let by_digest = |blobs: &mut dyn Iterator<Item = &Descriptor>| -> BTreeMap<Digest, Descriptor> {
            blobs.map(|blob| (blob.digest, blob.clone())).collect()
        };
        let layers = by_digest(&mut missing.iter().flat_map(|image| &image.layers));
        let configs = by_digest(&mut missing.iter().map(|image| &image.config));
        let before = (receipt.blobs_uploaded, receipt.blobs_mounted);
        self.push_blobs(store, access, layers, true, options, receipt)
            .await?;
        // Configs come after all layers: where one was missing, no earlier push came as far as these small blobs.
        let all_there = before == (receipt.blobs_uploaded, receipt.blobs_mounted);
        self.push_blobs(store, access, configs, all_there, options, receipt)
            .await?;
        let manifests = missing
            .iter()
            .map(|image| &image.descriptor)
            .chain(&graph.inner_indexes);
        for manifest in manifests.filter(|manifest| manifest.digest != root.digest) {
            self.put_manifest(
                store,
                access,
                &manifest.digest.to_string(),
                manifest,
                options,
                receipt,
            )
            .await?;
        }
        Ok(())
    }

    pub(super) async fn push_blobs(
        &self,
        store: &Store,
        access: &Access,
        blobs: BTreeMap<Digest, Descriptor>,
        ask: bool,
        options: &PushOptions,
        receipt: &mut PushReceipt,
    ) -> Result<(), RegistryError> {
        let mut waiting = blobs.into_values();
        // Dropped on an error, which ends the uploads that still run.
        let mut running: JoinSet<Result<(Descriptor, BlobDelivery), RegistryError>> = JoinSet::new();
        loop {
            let registry = access.repository.registry();
            while running.len() < self.uploads_now(registry, options.uploads_in_parallel)
                && let Some(blob) = waiting.next()
            {
                let (client, store) = (self.clone(), store.clone());
                let (access, options) = (access.clone(), options.clone());
                running.spawn(async move {
                    let how = client.push_blob(&store, &access, &blob, ask, &options).await?;
                    Ok((blob, how))
                });
            }
            let Some(finished) = running.join_next().await else {
                return Ok(());
            };
            let (blob, how) = match finished {
                Ok(result) => result?,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            match how {
                BlobDelivery::Present => receipt.blobs_present += 1,
                BlobDelivery::Mounted => receipt.blobs_mounted += 1,
                BlobDelivery::Uploaded => {
                    self.upload_succeeded(registry);
                    receipt.blobs_uploaded += 1;
                    receipt.uploaded_bytes += blob.size;
                }
            }
            options.tell(PushEvent::Delivered {
                digest: blob.digest,
                size_bytes: blob.size,
                how,
            });
        }
    }

    async fn push_blob(
        &self,
        store: &Store,
        access: &Access,
        blob: &Descriptor,
        ask: bool,
        options: &PushOptions,
    ) -> Result<BlobDelivery, RegistryError> {
        // Of several repositories that lack a blob one sends it, and the others wait and mount it.
        let turn = self.turn(&access.repository, &blob.digest);
        let _turn = turn.lock().await;
        let having = self.repositories_with(&access.repository, &blob.digest);
        if having.contains(access.repository.name()) {
            return Ok(BlobDelivery::Present);
        }
        // What an earlier client found may be gone, or nothing new about this repository.
        let is_sure = !having.is_empty();
        let from = having
            .into_iter()
            .next()
            .or_else(|| self.hinted_place(&access.repository, &blob.digest))
            .filter(|from| from != access.repository.name());
        let mut session = None;
        let how = match from {
            Some(from) => match self.mount(access, blob, &from).await? {
                Mount::Done => Some(BlobDelivery::Mounted),
                Mount::Session(url) => {
                    session = Some(url);
                    None
                }
                Mount::Refused => None,
            },
            None => None,
        };
        let how = match how {
            Some(how) => how,
            None if ask && (session.is_none() || !is_sure) && self.has_blob(access, blob).await? => {
                BlobDelivery::Present
            }
            None => {
                self.upload(store, access, blob, session, options).await?;
                BlobDelivery::Uploaded
            }
        };
        self.remember_blob(&access.repository, &blob.digest);
        Ok(how)
    }

    /// Sends a manifest or index; returns whether the answer names its digest.
    pub(super) async fn put_manifest(
        &self,
        store: &Store,
        access: &Access,
        name: &str,
        manifest: &Descriptor,
        options: &PushOptions,
        receipt: &mut PushReceipt,
    ) -> Result<bool, RegistryError> {
        // The bytes that were hashed, never a document written anew.
        let bytes = Bytes::from(store.read_verified(&manifest.digest, MAX_DOCUMENT_BYTES)?);
        let mut request = Request::new(
            Method::PUT,
            self.url(&access.repository, &format!("manifests/{name}"))?,
        );
        request.content_type = Some(manifest.media_type.to_string());
        request.body = Body::Bytes(bytes);
        let response = self.send(access, &request).await?;
        if !matches!(
            response.status(),
            StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::OK
        ) {
            return Err(self.status_error(&request, response).await);
        }
        let named = content_digest(response.headers());
        if let Some(found) = named.filter(|found| *found != manifest.digest) {
            let (url, expected) = (super::http::shown(&request.url), manifest.digest);
            return Err(RegistryError::WrongDigest { url, expected, found });
        }
        self.remember_manifest(&access.repository, &manifest.digest);
        receipt.manifests_uploaded += 1;
        options.tell(PushEvent::Manifest {
            digest: manifest.digest,
        });
        Ok(named.is_some())
    }

    /// The digest that a tag or digest names in the registry; `None` when it names nothing.
    pub(super) async fn manifest_digest(
        &self,
        access: &Access,
        name: &str,
    ) -> Result<Option<Digest>, RegistryError> {
        let mut request = Request::new(
            Method::HEAD,
            self.url(&access.repository, &format!("manifests/{name}"))?,
        );
        request.accept = Some(MANIFEST_TYPES);
        let response = self.send(access, &request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.status_error(&request, response).await),
        }
        if let Some(digest) = content_digest(response.headers()) {
            return Ok(Some(digest));
        }
        // Older registries leave the header out.
        request.method = Method::GET;
        let response = self.send(access, &request).await?;
        if response.status() != StatusCode::OK {
            return Err(self.status_error(&request, response).await);
        }
        Ok(Some(Digest::of(
            &self
                .read_body(&request, response, MAX_DOCUMENT_BYTES as usize)
                .await?,
        )))
    }
}

/// `Docker-Content-Digest`, which registries of the specification use too.
fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// Reads what is below `node`; an image that is the node itself is among the images.
fn collect(store: &Store, node: &Descriptor, depth: usize, graph: &mut Graph) -> Result<(), RegistryError> {
    if node.media_type.is_manifest() {
        if graph
            .images
            .iter()
            .all(|image| image.descriptor.digest != node.digest)
        {
            let manifest = image::read_manifest(store, &node.digest)?;
            let (config, layers) = (manifest.config, manifest.layers);
            graph.images.push(Image {
                descriptor: node.clone(),
                config,
                layers,
            });
        }
        return Ok(());
    }
    if !node.media_type.is_index() || depth >= MAX_INDEX_DEPTH {
        let what = node.digest.to_string();
        return Err(RegistryError::MediaType {
            what,
            media_type: node.media_type.clone(),
        });
    }
    for child in image::read_index(store, &node.digest)?.manifests {
        collect(store, &child, depth + 1, graph)?;
    }
    if depth > 0
        && graph
            .inner_indexes
            .iter()
            .all(|index| index.digest != node.digest)
    {
        graph.inner_indexes.push(node.clone());
    }
    Ok(())
}
