//! Downloads over HTTP: system trust store, proxies from the environment, bounded answers, a few retries.

use std::sync::OnceLock;
use std::time::Duration;

use aiot_debian::{Fetch, FetchError};

use crate::error::BuildError;

/// Tries per download.
const TRIES: u32 = 4;
/// Longest wait for a connection, and for the next bytes of an answer. There is no limit on the whole: links are slow.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// An HTTP client for synchronous code.
pub struct Network {
    runtime: tokio::runtime::Runtime,
    /// Made when it is first needed: reading the trust store takes longer than a push that has nothing to do.
    client: OnceLock<reqwest::Client>,
}

impl Network {
    /// Makes the client.
    ///
    /// # Errors
    /// When threads are not to be had.
    pub fn new() -> Result<Network, BuildError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(BuildError::other)?;
        Ok(Network {
            runtime,
            client: OnceLock::new(),
        })
    }

    fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(IDLE_LIMIT)
            .read_timeout(IDLE_LIMIT)
            .user_agent(concat!("aiot-ops/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Runs a future of a registry client to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    async fn get(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let failed = |error: reqwest::Error| FetchError::Failed {
            // The URL stands in the message of whoever asked, without its secrets.
            reason: with_causes(&error.without_url()),
            retry_may_help: true,
        };
        let mut answer = self
            .client()
            .map_err(failed)?
            .get(url)
            .send()
            .await
            .map_err(failed)?;
        let status = answer.status();
        if matches!(status.as_u16(), 404 | 410) {
            return Err(FetchError::NotFound);
        }
        if !status.is_success() {
            let retry_may_help = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            return Err(FetchError::Failed {
                reason: format!("the server answers {status}"),
                retry_may_help,
            });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if (bytes.len() + chunk.len()) as u64 > limit_bytes {
                let reason = format!("more than the expected {limit_bytes} bytes");
                return Err(FetchError::Failed {
                    reason,
                    retry_may_help: false,
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl Fetch for Network {
    fn fetch(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        self.runtime.block_on(async {
            let mut attempt = 0;
            loop {
                attempt += 1;
                match self.get(url, limit_bytes).await {
                    Err(FetchError::Failed {
                        retry_may_help: true, ..
                    }) if attempt < TRIES => {
                        tokio::time::sleep(Duration::from_millis(250) * 2u32.pow(attempt)).await;
                    }
                    result => return result,
                }
            }
        })
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
