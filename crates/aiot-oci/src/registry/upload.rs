//! One blob into one repository: is it there, can it be mounted, and if neither, one PUT streamed from disk; or pieces,
//! where the registry refuses that or the link breaks in the middle of it.

use std::sync::Arc;

use reqwest::header::LOCATION;
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Access;
use super::chunks::{CHUNK_BYTES, CHUNK_MIN_LENGTH, Pieces, PiecesEnd, later};
use super::http::{Backoff, Body, Request, SentCallback};
use super::push::{PushEvent, PushOptions};
use super::{RegistryClient, RegistryError, Retry};
use crate::document::Descriptor;
use crate::store::Store;

/// Breaks of one whole blob after which pieces are tried in turn also where they are of no use after a break.
const BREAKS_OF_WHOLE: u32 = 4;

/// How an offer to take a blob over from another repository ended.
pub(super) enum Mount {
    Done,
    Session(Url),
    Refused,
}

impl RegistryClient {
    pub(super) async fn has_blob(&self, access: &Access, blob: &Descriptor) -> Result<bool, RegistryError> {
        let url = self.url(&access.repository, &format!("blobs/{}", blob.digest))?;
        let request = Request::new(Method::HEAD, url);
        let response = self.send(access, &request).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            // 405: a registry that cannot tell; then it gets the blob.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            _ => Err(self.status_error(&request, response).await),
        }
    }

    pub(super) async fn mount(
        &self,
        access: &Access,
        blob: &Descriptor,
        from: &str,
    ) -> Result<Mount, RegistryError> {
        let access = Access {
            mount_from: Some(from.to_owned()),
            ..access.clone()
        };
        let mut url = self.url(&access.repository, "blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .append_pair("from", from);
        let request = Request::new(Method::POST, url);
        match self.send(&access, &request).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(Mount::Done),
            Ok(response) if response.status() == StatusCode::ACCEPTED => Ok(Mount::Session(
                self.upload_location(&access, &request, &response)?,
            )),
            // Whoever may not read the other repository, or meets a registry that cannot mount, uploads.
            Ok(_) | Err(RegistryError::Unauthorized { .. }) => Ok(Mount::Refused),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob, as often as it takes: in one PUT, or in pieces where that is what works.
    pub(super) async fn upload(
        &self,
        store: &Store,
        access: &Access,
        blob: &Descriptor,
        mut session: Option<Url>,
        options: &PushOptions,
    ) -> Result<(), RegistryError> {
        if !store.contains(&blob.digest, blob.size) {
            verify(store, blob).await?;
        }
        let mut backoff = Backoff::new(self.inner.options.retry);
        let known = self.known_chunk(access);
        let mut chunk_bytes = known;
        // Whether pieces are what the registry wants, and not only what a bad link makes better.
        let mut wanted = false;
        let (mut breaks, mut lost_sessions) = (0, 0);
        let registry = access.repository.registry();
        loop {
            let (url, least_bytes) = match session.take() {
                Some(url) => (url, 0),
                None => self.start_upload(access).await?,
            };
            let are_wanted = chunk_bytes.is_some();
            // On a bad link: so that a break costs a piece. Where a break costs the upload, the fewer requests the
            // better; but a registry may be one that hangs up on whole blobs.
            let of_use = match self.resumes(registry) {
                Some(false) => breaks >= BREAKS_OF_WHOLE && breaks % 2 == 0,
                _ => breaks > 0 || self.link_is_bad(registry),
            };
            let unasked = (of_use && !are_wanted && blob.size > CHUNK_BYTES).then_some(CHUNK_BYTES);
            let result = match chunk_bytes.or(unasked) {
                Some(chunk_bytes) => {
                    let pieces = Pieces {
                        chunk_bytes,
                        least_bytes,
                        are_wanted,
                    };
                    self.put_chunks(store, access, blob, url, pieces, options).await
                }
                None => {
                    let sent = self.put_blob(store, access, blob, url, options).await;
                    sent.map(|()| PiecesEnd::Whole)
                }
            };
            match result {
                Ok(PiecesEnd::CannotResume) => breaks += u32::from(breaks >= BREAKS_OF_WHOLE),
                // Some know no pieces at all.
                Err(RegistryError::Status {
                    status: 400 | 404 | 405 | 416 | 501,
                    ..
                }) if unasked.is_some() => {
                    self.remember_resuming(registry, false);
                    breaks += u32::from(breaks >= BREAKS_OF_WHOLE);
                }
                Ok(PiecesEnd::Whole) => {
                    if let Some(chunk) = chunk_bytes.filter(|chunk| wanted && known != Some(*chunk)) {
                        self.remember_chunk(access, chunk);
                    }
                    return Ok(());
                }
                Err(RegistryError::Status { status: 413, .. })
                    if RegistryClient::smaller_chunk(chunk_bytes, blob.size).is_some() =>
                {
                    chunk_bytes = RegistryClient::smaller_chunk(chunk_bytes, blob.size);
                    wanted = true;
                }
                Err(RegistryError::Status {
                    status: 400 | 405 | 416,
                    ..
                }) if chunk_bytes.is_none() && blob.size > 0 => {
                    // It may be right about the bytes: then the fault is ours, and named.
                    verify(store, blob).await?;
                    chunk_bytes = Some(CHUNK_BYTES);
                    wanted = true;
                }
                Err(error) if error.retry() != Retry::Never => {
                    if !backoff.again(&error).await {
                        return Err(error);
                    }
                    match &error {
                        RegistryError::Status { status: 404, .. } => lost_sessions += 1,
                        RegistryError::Transport { .. } | RegistryError::Idle { .. } => breaks += 1,
                        _ => {}
                    }
                    // Some refuse a whole blob by losing its session.
                    if chunk_bytes.is_none() && lost_sessions >= 2 {
                        chunk_bytes = Some(CHUNK_BYTES);
                        wanted = breaks == 0;
                    }
                    // The blob may have arrived and only the answer got lost.
                    if self.has_blob(access, blob).await? {
                        return Ok(());
                    }
                }
                Err(error) => {
                    // A registry that refuses the bytes may be right: then the fault is ours, and named.
                    if matches!(error, RegistryError::Status { status: 400, .. }) {
                        verify(store, blob).await?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Opens a session; returns its address and the least length of a piece.
    async fn start_upload(&self, access: &Access) -> Result<(Url, u64), RegistryError> {
        let request = Request::new(Method::POST, self.url(&access.repository, "blobs/uploads/")?);
        let response = self.send(access, &request).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.status_error(&request, response).await);
        }
        let least = response
            .headers()
            .get(CHUNK_MIN_LENGTH)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .unwrap_or(0);
        Ok((self.upload_location(access, &request, &response)?, least))
    }

    async fn put_blob(
        &self,
        store: &Store,
        access: &Access,
        blob: &Descriptor,
        mut url: Url,
        options: &PushOptions,
    ) -> Result<(), RegistryError> {
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let mut request = Request::new(Method::PUT, url);
        request.content_type = Some("application/octet-stream".to_owned());
        let (options, digest, size_bytes) = (options.clone(), blob.digest, blob.size);
        let on_sent = move |position_bytes| {
            options.tell(PushEvent::Sent {
                digest,
                position_bytes,
                size_bytes,
            })
        };
        request.body = Body::File {
            path: store.path(&digest),
            start: 0,
            size: size_bytes,
            on_sent: SentCallback(Arc::new(on_sent)),
            pause: self.pause_for_refusal(access.repository.registry(), size_bytes),
        };
        let response = self.exchange(access, &request).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            // The session is gone (a proxy changed, a replica lags): a new one may do.
            StatusCode::NOT_FOUND => Err(later(self.status_error(&request, response).await)),
            _ => Err(self.status_error(&request, response).await),
        }
    }

    pub(super) fn upload_location(
        &self,
        access: &Access,
        request: &Request,
        response: &Response,
    ) -> Result<Url, RegistryError> {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .ok_or_else(|| self.protocol_error(request, "it accepted an upload without saying where"))?;
        let mut url = request
            .url
            .join(location)
            .map_err(|_| self.protocol_error(request, "the address for the upload is no URL"))?;
        let registry = self.registry_url(access.repository.registry())?;
        if registry.scheme() == "https" && url.scheme() == "http" && url.host_str() == registry.host_str() {
            // A registry behind a proxy that ends TLS does not know that it is reached by HTTPS.
            let port = registry.port();
            let upgraded = url.set_scheme("https").and_then(|()| url.set_port(port));
            upgraded.map_err(|()| self.protocol_error(request, "the address for the upload is no URL"))?;
        }
        if url.scheme() != registry.scheme() && url.scheme() != "https" {
            return Err(self.protocol_error(request, "it wants the upload over an unprotected connection"));
        }
        Ok(url)
    }
}

/// Reads a blob to its end, off the runtime's thread; the error names what is wrong with it.
async fn verify(store: &Store, blob: &Descriptor) -> Result<(), RegistryError> {
    let (store, digest) = (store.clone(), blob.digest);
    match tokio::task::spawn_blocking(move || store.open_verified(&digest)?.finish()).await {
        Ok(result) => Ok(result?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
