//! Reading what a registry has without keeping it: documents in memory, layers streamed through their hashes.
//!
//! Nothing is written to disk. A blob that breaks off is read again from its beginning, since hashes and decompression
//! cannot go back; a bound on what a layer unpacks to ends bombs.

use std::io::{self, Write};

use aiot_package::Digest;
use flate2::write::MultiGzDecoder;
use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};

use super::auth::Access;
use super::http::{Backoff, Request, shown};
use super::{RegistryClient, RegistryError};
use crate::document::{Descriptor, MediaType};
use crate::layer::LayerLimits;
use crate::reference::{Reference, Repository};

/// What streaming a blob found out; digest and length of the blob itself are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedBlob {
    /// Digest of the archive in a layer that can be unpacked here; of a plain one that of the blob.
    pub diff_id: Option<Digest>,
    /// Length of that archive in bytes, 0 where it is not known.
    pub unpacked_size_bytes: u64,
}

impl RegistryClient {
    /// Fetches manifest or index that a reference names, as bytes with their descriptor. Named by digest, these are
    /// the right ones.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::WrongDigest`], and those of a failed request.
    pub async fn fetch_manifest(
        &self,
        reference: &Reference,
    ) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        self.get_manifest(reference).await
    }

    /// Fetches a blob of at most `limit_bytes` into memory; digest and length are right.
    ///
    /// # Errors
    /// [`RegistryError::Protocol`] for a blob that announces or has other bytes in number,
    /// [`RegistryError::WrongDigest`], [`RegistryError::NotFound`], and those of a failed request.
    pub async fn fetch_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        if blob.size > limit_bytes {
            return Err(RegistryError::Protocol {
                url: format!("{repository}@{}", blob.digest),
                reason: format!("it announces {} bytes, at most {limit_bytes} are read", blob.size),
            });
        }
        let mut bytes = Vec::new();
        self.stream(repository, blob, &mut bytes, |bytes, chunk| match chunk {
            Some(chunk) => bytes.extend_from_slice(chunk),
            None => bytes.clear(),
        })
        .await?;
        Ok(bytes)
    }

    /// Reads a blob to its end and keeps nothing: is it there, as long as its descriptor says, with its digest, and,
    /// if it is a plain or gzip layer, what is the digest of the archive in it?
    ///
    /// # Errors
    /// As [`RegistryClient::fetch_blob`]; [`RegistryError::Protocol`] also for a layer that cannot be unpacked.
    pub async fn check_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<CheckedBlob, RegistryError> {
        let is_gzip = blob.media_type.as_oci_layer() == Some(MediaType::LayerGzip);
        let start = || Ok(is_gzip.then(|| MultiGzDecoder::new(Measured::default())));
        // Bytes that cannot be unpacked are read to the end all the same: their digest says more.
        let mut unpacked: Result<Option<MultiGzDecoder<Measured>>, io::Error> = start();
        self.stream(repository, blob, &mut unpacked, |unpacked, chunk| {
            let Some(chunk) = chunk else {
                *unpacked = start();
                return;
            };
            if let Ok(Some(decoder)) = unpacked
                && let Err(error) = decoder.write_all(chunk)
            {
                *unpacked = Err(error);
            }
        })
        .await?;
        let failed = |error: io::Error| RegistryError::Protocol {
            url: format!("{repository}@{}", blob.digest),
            reason: format!("it cannot be unpacked: {error}"),
        };
        let Some(decoder) = unpacked.map_err(failed)? else {
            let is_plain = blob.media_type.as_oci_layer() == Some(MediaType::LayerTar);
            return Ok(CheckedBlob {
                diff_id: is_plain.then_some(blob.digest),
                unpacked_size_bytes: if is_plain { blob.size } else { 0 },
            });
        };
        let measured = decoder.finish().map_err(failed)?;
        Ok(CheckedBlob {
            diff_id: Some(Digest::from_bytes(measured.hasher.finalize().into())),
            unpacked_size_bytes: measured.size_bytes,
        })
    }

    /// Whether the repository says that it has a blob; its bytes are not asked for.
    ///
    /// # Errors
    /// Those of a failed request.
    pub async fn tells_of_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<bool, RegistryError> {
        self.has_blob(&Access::pull(repository), blob).await
    }

    /// Hands the pieces of a blob to `take`, `None` first of each try, and compares length and digest.
    async fn stream<State>(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        state: &mut State,
        mut take: impl FnMut(&mut State, Option<&[u8]>),
    ) -> Result<(), RegistryError> {
        let access = Access::pull(repository);
        let url = self.url(repository, &format!("blobs/{}", blob.digest))?;
        let request = Request::new(Method::GET, url);
        let mut backoff = Backoff::new(self.inner.options.retry);
        'tries: loop {
            take(state, None);
            let mut response = self.send(&access, &request).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    let what = format!("{repository}@{} (a blob)", blob.digest);
                    return Err(RegistryError::NotFound(what));
                }
                _ => return Err(self.status_error(&request, response).await),
            }
            let (mut hasher, mut size_bytes) = (Sha256::new(), 0);
            loop {
                match self.next_chunk(&request, &mut response).await {
                    Ok(Some(chunk)) => {
                        size_bytes += chunk.len() as u64;
                        if size_bytes > blob.size {
                            let reason = format!("the blob is longer than the {} bytes announced", blob.size);
                            return Err(self.protocol_error(&request, reason));
                        }
                        hasher.update(&chunk);
                        take(state, Some(&chunk));
                    }
                    Ok(None) => break,
                    Err(error) if backoff.again(&error).await => continue 'tries,
                    Err(error) => return Err(error),
                }
            }
            if size_bytes != blob.size {
                let reason = format!(
                    "the blob has {size_bytes} bytes, its descriptor says {}",
                    blob.size
                );
                return Err(self.protocol_error(&request, reason));
            }
            let found = Digest::from_bytes(hasher.finalize().into());
            if found != blob.digest {
                return Err(RegistryError::WrongDigest {
                    url: shown(&request.url),
                    expected: blob.digest,
                    found,
                });
            }
            return Ok(());
        }
    }
}

/// Hashes and counts what is unpacked, and ends it at the bound for layers.
#[derive(Default)]
struct Measured {
    hasher: Sha256,
    size_bytes: u64,
}

impl Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let limit_bytes = LayerLimits::default().uncompressed_size_bytes;
        self.size_bytes += bytes.len() as u64;
        if self.size_bytes > limit_bytes {
            let message = format!("it unpacks to more than {limit_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;
    use crate::registry::{ClientOptions, RetryPolicy};

    /// Asks a server that answers every question with these bytes for a blob, once.
    fn ask(status: &str, body: &[u8], blob: &Descriptor) -> Result<CheckedBlob, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let repository: Repository = format!("{}/a", listener.local_addr().unwrap()).parse().unwrap();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let body = body.to_vec();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            // The client may hang up on too long an answer.
            let _ = stream
                .write_all(answer.as_bytes())
                .and_then(|()| stream.write_all(&body));
        });
        let client = RegistryClient::new(ClientOptions {
            retry: RetryPolicy {
                attempts: 1,
                ..RetryPolicy::default()
            },
            ..ClientOptions::default()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(client.check_blob(&repository, blob));
        server.join().unwrap();
        result.map_err(|error| error.to_string())
    }

    fn layer(media_type: MediaType, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    #[test]
    fn blobs_are_what_their_descriptors_say() {
        let archive = b"an archive".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&archive).unwrap();
        let gzip = gzip.finish().unwrap();
        let expected = CheckedBlob {
            diff_id: Some(Digest::of(&archive)),
            unpacked_size_bytes: archive.len() as u64,
        };
        let blob = layer(MediaType::LayerGzip, &gzip);
        assert_eq!(ask("200 OK", &gzip, &blob), Ok(expected));
        assert_eq!(
            ask("200 OK", &archive, &layer(MediaType::LayerTar, &archive)),
            Ok(expected)
        );
        let other = layer(MediaType::ImageConfig, &archive);
        assert_eq!(ask("200 OK", &archive, &other).unwrap().diff_id, None);

        let fails = |status: &str, body: &[u8], blob: &Descriptor, expected: &str| {
            let error = ask(status, body, blob).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        };
        fails("200 OK", &[&gzip[..], b"more"].concat(), &blob, "longer than the");
        fails("200 OK", &gzip[..gzip.len() - 1], &blob, "its descriptor says");
        let mut changed = gzip.clone();
        changed[4] ^= 1;
        fails("200 OK", &changed, &blob, "expected sha256:");
        // What cannot be unpacked either is first of all other bytes.
        changed[20] ^= 255;
        fails("200 OK", &changed, &blob, "expected sha256:");
        fails(
            "200 OK",
            &archive,
            &layer(MediaType::LayerGzip, &archive),
            "cannot be unpacked",
        );
        let cut = &gzip[..gzip.len() - 4];
        fails(
            "200 OK",
            cut,
            &layer(MediaType::LayerGzip, cut),
            "cannot be unpacked",
        );
        fails("404 Not Found", b"", &blob, "there is no image");
    }
}
