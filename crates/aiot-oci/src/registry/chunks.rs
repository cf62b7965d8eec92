//! A blob in pieces, for registries that refuse it whole and for links that break: each piece is acknowledged, and
//! after a break the upload goes on from the byte that the registry says it has.
//!
//! Not every registry keeps what it got when a connection breaks: Debian's `docker-registry` throws the whole upload
//! away. Where pieces are only meant to make the best of a bad link, a first small one finds that out.
//!
//! An acknowledged piece counts as there, whatever `Range` its answer names: one large registry leaves that at the
//! first piece. Only after a break, or when a piece is refused as out of order (416), the registry is asked.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, HeaderName, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Access;
use super::http::{Backoff, Body, Request, SentCallback};
use super::push::{PushEvent, PushOptions};
use super::{RegistryClient, RegistryError, Retry, lock};
use crate::document::Descriptor;
use crate::store::Store;

/// The length of a piece where nothing else is known: the largest that every known registry takes.
pub(super) const CHUNK_BYTES: u64 = 4 << 20;
/// Pieces do not get smaller than this, and larger ones are halved down to it when they are refused.
const MIN_CHUNK_BYTES: u64 = 16 << 10;
/// The length of the first piece when it is not known whether an upload goes on after a break.
const PROBE_BYTES: u64 = 128 << 10;

/// How pieces are to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    /// The length of all but the last.
    pub chunk_bytes: u64,
    /// The least length that the registry takes.
    pub least_bytes: u64,
    /// Whether the registry wants pieces; otherwise they are of use only if it goes on after a break.
    pub are_wanted: bool,
}

/// How an upload in pieces ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PiecesEnd {
    /// The registry has the blob.
    Whole,
    /// The registry does not go on after a break: the session is lost, and pieces are of no use.
    CannotResume,
}

/// The header with which a registry asks for pieces of a least length.
pub(super) const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

impl RegistryClient {
    /// The length of pieces that is known to work with a registry; `None` where whole blobs are sent.
    pub(super) fn known_chunk(&self, access: &Access) -> Option<u64> {
        lock(&self.inner.chunk_bytes)
            .get(access.repository.registry())
            .copied()
    }

    pub(super) fn remember_chunk(&self, access: &Access, chunk_bytes: u64) {
        lock(&self.inner.chunk_bytes).insert(access.repository.registry().to_owned(), chunk_bytes);
    }

    /// The length of pieces to try after `tried` was refused (`None` = the whole blob); `None` when none is left.
    pub(super) fn smaller_chunk(tried: Option<u64>, size_bytes: u64) -> Option<u64> {
        let next = match tried {
            None if size_bytes > CHUNK_BYTES => CHUNK_BYTES,
            None => size_bytes.div_ceil(2).max(MIN_CHUNK_BYTES),
            Some(chunk) if chunk / 2 >= MIN_CHUNK_BYTES => chunk / 2,
            Some(_) => return None,
        };
        Some(next)
    }

    /// Sends a blob into an open session, piece by piece. Pieces that the registry does not want end when it turns out
    /// that it loses an upload whose connection breaks.
    ///
    /// # Errors
    /// Of the last try of a piece. One that says [`Retry::Later`] means that the session is lost and that a new one
    /// may do.
    pub(super) async fn put_chunks(
        &self,
        store: &Store,
        access: &Access,
        blob: &Descriptor,
        mut url: Url,
        pieces: Pieces,
        options: &PushOptions,
    ) -> Result<PiecesEnd, RegistryError> {
        let registry = access.repository.registry();
        let chunk_bytes = pieces.chunk_bytes.max(pieces.least_bytes);
        let mut is_probe = !pieces.are_wanted && self.resumes(registry).is_none();
        let mut offset = 0;
        let mut backoff = Backoff::new(self.inner.options.retry);
        // The furthest byte that was acknowledged: only going beyond it counts as progress.
        let mut furthest = 0;
        let mut out_of_order = false;
        loop {
            if offset == blob.size {
                let broken = match self.close(access, blob, url.clone()).await {
                    Ok(()) => return Ok(PiecesEnd::Whole),
                    Err(error) => error,
                };
                if !backoff.again(&broken).await {
                    return Err(broken);
                }
                // It may have been closed and only the answer got lost; otherwise all pieces are there still.
                if self.has_blob(access, blob).await? {
                    return Ok(PiecesEnd::Whole);
                }
                (url, offset) = match self.progress(access, &url, blob.size).await? {
                    Some((next, has)) => (next.unwrap_or(url), has),
                    None => return Err(later(broken)),
                };
                continue;
            }
            let length = match is_probe {
                true => PROBE_BYTES.max(pieces.least_bytes),
                false => chunk_bytes,
            };
            let end = blob.size.min(offset + length);
            let pause = self.pause_for_refusal(registry, end - offset);
            let request = chunk_request(store, blob, url.clone(), offset..end, pause, options);
            let broken = match self.exchange(access, &request).await {
                Ok(response) => match response.status() {
                    StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                        let next = self.upload_location(access, &request, &response)?;
                        offset = end;
                        out_of_order = false;
                        if offset > furthest {
                            furthest = offset;
                            backoff = Backoff::new(self.inner.options.retry);
                        }
                        if is_probe {
                            // As after a lost answer: what does the address say that was valid before the piece?
                            is_probe = false;
                            let found = self.progress(access, &url, blob.size).await?;
                            let resumes = matches!(found, Some((_, has)) if has == end);
                            self.remember_resuming(registry, resumes);
                            if !resumes {
                                return Ok(PiecesEnd::CannotResume);
                            }
                        }
                        url = next;
                        continue;
                    }
                    StatusCode::RANGE_NOT_SATISFIABLE if !out_of_order => {
                        out_of_order = true;
                        later(self.status_error(&request, response).await)
                    }
                    // A second time: what the registry says that it has is not what it wants. Begin again.
                    StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_FOUND => {
                        return Err(later(self.status_error(&request, response).await));
                    }
                    _ => return Err(self.status_error(&request, response).await),
                },
                Err(error) => error,
            };
            if !backoff.again(&broken).await {
                return Err(broken);
            }
            (url, offset) = match self.progress(access, &url, blob.size).await? {
                Some((next, has)) => (next.unwrap_or(url), has),
                None if pieces.are_wanted => return Err(later(broken)),
                None => {
                    self.remember_resuming(registry, false);
                    return Ok(PiecesEnd::CannotResume);
                }
            };
        }
    }

    /// Where to go on and from which byte; `None` when the session is gone.
    async fn progress(
        &self,
        access: &Access,
        url: &Url,
        size_bytes: u64,
    ) -> Result<Option<(Option<Url>, u64)>, RegistryError> {
        let request = Request::new(Method::GET, url.clone());
        let response = self.send(access, &request).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let Some(has) = uploaded(&response).filter(|has| *has <= size_bytes) else {
            return Ok(None);
        };
        Ok(Some((
            self.upload_location(access, &request, &response).ok(),
            has,
        )))
    }

    async fn close(&self, access: &Access, blob: &Descriptor, mut url: Url) -> Result<(), RegistryError> {
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let request = Request::new(Method::PUT, url);
        let response = self.exchange(access, &request).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(later(self.status_error(&request, response).await));
            }
            _ => return Err(self.status_error(&request, response).await),
        }
        // Pieces may have been put together wrongly; a registry that checks the digest has checked the length too.
        if self.has_blob(access, blob).await? {
            Ok(())
        } else {
            Err(self.protocol_error(&request, "it took a blob in pieces and does not have it"))
        }
    }
}

fn chunk_request(
    store: &Store,
    blob: &Descriptor,
    url: Url,
    range: std::ops::Range<u64>,
    pause: Duration,
    options: &PushOptions,
) -> Request {
    let mut request = Request::new(Method::PATCH, url);
    request.content_type = Some("application/octet-stream".to_owned());
    // Both ends inclusive, and without the word `bytes`.
    request.headers = vec![(CONTENT_RANGE, format!("{}-{}", range.start, range.end - 1))];
    let (options, digest, size_bytes) = (options.clone(), blob.digest, blob.size);
    let on_sent = move |sent_bytes| {
        options.tell(PushEvent::Sent {
            digest,
            position_bytes: range.start + sent_bytes,
            size_bytes,
        })
    };
    request.body = Body::File {
        path: store.path(&digest),
        start: range.start,
        size: range.end - range.start,
        on_sent: SentCallback(Arc::new(on_sent)),
        pause,
    };
    request
}

/// `Range: 0-99`, with or without `bytes=` → 100. A session without bytes says `0-0` or nothing, and one byte says
/// `0-0` too: then the upload begins at 0, which a registry with that byte refuses and a new session cures.
fn uploaded(response: &Response) -> Option<u64> {
    let Some(range) = response.headers().get(RANGE) else {
        return Some(0);
    };
    let text = range.to_str().ok()?.trim();
    let (start, last) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    match (start.trim().parse().ok()?, last) {
        (0u64, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

/// The same error, as one that another session may cure.
pub(super) fn later(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Status {
            method,
            url,
            status,
            message,
            ..
        } => RegistryError::Status {
            method,
            url,
            status,
            message,
            retry: Retry::Later,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_pieces_get_smaller_until_none_is_left() {
        let mut tried = None;
        let mut all = Vec::new();
        while let Some(chunk) = RegistryClient::smaller_chunk(tried, 100 << 20) {
            all.push(chunk);
            tried = Some(chunk);
        }
        assert_eq!(all.first(), Some(&(4 << 20)));
        assert_eq!(all.last(), Some(&MIN_CHUNK_BYTES));
        assert!(all.windows(2).all(|pair| pair[0] == 2 * pair[1]));
        assert_eq!(RegistryClient::smaller_chunk(None, 300_000), Some(150_000));
        assert_eq!(RegistryClient::smaller_chunk(None, 3), Some(MIN_CHUNK_BYTES));
    }
}
