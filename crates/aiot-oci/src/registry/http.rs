//! One request: its address, its tries, its time-outs, its streamed body, its bounded answer.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Access;
use super::body::FileBody;
use super::{RegistryClient, RegistryError, Retry, RetryPolicy};
use crate::reference::Repository;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 5;
const MAX_ERROR_BODY_BYTES: usize = 64 << 10;
const MAX_SHOWN_MESSAGE_BYTES: usize = 500;

/// Docker Hub's name in references and the host that serves its API.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// What to ask. May be sent several times.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub method: Method,
    pub url: Url,
    pub accept: Option<&'static str>,
    pub content_type: Option<String>,
    pub range_start: u64,
    /// Headers that only one kind of request has.
    pub headers: Vec<(HeaderName, String)>,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    None,
    Bytes(Bytes),
    /// A file or a part of it, streamed, and opened anew for every try.
    File {
        path: PathBuf,
        start: u64,
        size: u64,
        on_sent: SentCallback,
        /// How long to wait after the first bytes for a refusal.
        pause: Duration,
    },
}

/// Called with the number of bytes of this body that were handed to the connection in this try.
#[derive(Clone)]
pub(super) struct SentCallback(pub Arc<dyn Fn(u64) + Send + Sync>);

impl std::fmt::Debug for SentCallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SentCallback")
    }
}

impl Request {
    pub fn new(method: Method, url: Url) -> Request {
        Request {
            method,
            url,
            accept: None,
            content_type: None,
            range_start: 0,
            headers: Vec::new(),
            body: Body::None,
        }
    }

    fn shown_url(&self) -> String {
        shown(&self.url)
    }
}

/// An address without what may be secret: user, password, query, fragment.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!(
        "{}://{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

impl RegistryClient {
    /// `path` below `/v2/<repository>/`.
    pub(super) fn url(&self, repository: &Repository, path: &str) -> Result<Url, RegistryError> {
        let text = format!(
            "{}v2/{}/{path}",
            self.registry_url(repository.registry())?,
            repository.name()
        );
        Url::parse(&text).map_err(|error| RegistryError::Protocol {
            url: text,
            reason: error.to_string(),
        })
    }

    pub(super) fn registry_url(&self, registry: &str) -> Result<Url, RegistryError> {
        let host = if registry == DOCKER_HUB.0 {
            DOCKER_HUB.1
        } else {
            registry
        };
        let scheme = if self.is_plain(registry) { "http" } else { "https" };
        let text = format!("{scheme}://{host}/");
        Url::parse(&text).map_err(|error| RegistryError::Protocol {
            url: text,
            reason: error.to_string(),
        })
    }

    pub(super) fn is_plain(&self, registry: &str) -> bool {
        let host = registry
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .map_or(registry, |(host, _)| host);
        matches!(host, "localhost" | "127.0.0.1" | "[::1]")
            || self.inner.options.plain_http.contains(registry)
    }

    /// Sends until there is an answer that trying again would not change, whatever its status.
    ///
    /// # Errors
    /// As [`RegistryClient::exchange`], after the last try.
    pub(super) async fn send(&self, access: &Access, request: &Request) -> Result<Response, RegistryError> {
        let mut backoff = Backoff::new(self.inner.options.retry);
        loop {
            match self.exchange(access, request).await {
                Err(error) if backoff.again(&error).await => {}
                result => return result,
            }
        }
    }

    /// Sends once, signing in where asked to.
    ///
    /// # Errors
    /// For no answer, for answers that may pass, and for 401.
    pub(super) async fn exchange(
        &self,
        access: &Access,
        request: &Request,
    ) -> Result<Response, RegistryError> {
        let registry = self.registry_url(access.repository.registry())?;
        let is_registry = registry.origin() == request.url.origin();
        let mut authorization = if is_registry {
            self.authorization(access).await?
        } else {
            None
        };
        let mut renewed = false;
        loop {
            if is_registry {
                self.hold_back(access.repository.registry()).await;
            }
            let start = Instant::now();
            let response = match self.send_once(request, authorization.as_ref()).await {
                Ok(response) => {
                    if is_registry && matches!(request.body, Body::None) {
                        self.answered_after(access.repository.registry(), start.elapsed());
                    }
                    response
                }
                Err(error) => {
                    if is_registry && error.retry() != Retry::Never {
                        self.link_broke(access.repository.registry());
                    }
                    return Err(error);
                }
            };
            if response.status() != StatusCode::UNAUTHORIZED {
                let retry = retry_of(&response);
                if retry == Retry::Never {
                    return Ok(response);
                }
                if is_registry {
                    self.refused_for_now(access.repository.registry());
                }
                if matches!(
                    response.status(),
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::FORBIDDEN
                ) {
                    self.too_fast(access.repository.registry(), retry);
                }
                return Err(self.status_error(request, response).await);
            }
            if !is_registry || renewed {
                let error = self.status_error(request, response).await;
                return Err(access.unauthorized(match authorization {
                    Some(_) => format!("the credentials were not accepted ({error})"),
                    None => error.to_string(),
                }));
            }
            let challenges: Vec<String> = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect();
            drop(response);
            authorization = Some(self.sign_in(access, &challenges, authorization.as_ref()).await?);
            renewed = true;
        }
    }

    pub(super) async fn send_once(
        &self,
        request: &Request,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let sent = Arc::new(AtomicU64::new(0));
        let mut stop = None;
        let mut builder = self
            .http(request.url.scheme())?
            .request(request.method.clone(), request.url.clone());
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(accept) = request.accept {
            builder = builder.header(ACCEPT, accept);
        }
        if let Some(content_type) = &request.content_type {
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        if request.range_start > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", request.range_start));
        }
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        builder = match &request.body {
            Body::None if matches!(request.method, Method::POST | Method::PUT) => builder.body(Bytes::new()),
            Body::None => builder,
            Body::Bytes(bytes) => builder.body(bytes.clone()),
            Body::File {
                path,
                start,
                size,
                on_sent,
                pause,
            } => {
                let body = FileBody::open(path, *start, *size, sent.clone(), on_sent.clone())?
                    .pause_after_first(*pause);
                stop = Some(body.stop_on_drop());
                builder.body(reqwest::Body::wrap(body))
            }
        };
        match self.until_idle(&sent, builder.send()).await {
            Some(Ok(mut response)) => {
                // Who refuses a blob before its end gets no more of it than until the refusal is read.
                if let Some(stop) = stop {
                    response.extensions_mut().insert(stop);
                }
                Ok(response)
            }
            Some(Err(error)) => Err(transport_error(request, error)),
            None => Err(self.idle_error(request)),
        }
    }

    /// Waits for `future` as long as `progress` keeps changing.
    async fn until_idle<T>(&self, progress: &AtomicU64, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let mut before = progress.load(Ordering::Relaxed);
        loop {
            if let Ok(output) = tokio::time::timeout(self.inner.options.idle_timeout, &mut future).await {
                return Some(output);
            }
            let now = progress.load(Ordering::Relaxed);
            if now == before {
                return None;
            }
            before = now;
        }
    }

    /// The next piece of an answer's body; `None` at its end.
    pub(super) async fn next_chunk(
        &self,
        request: &Request,
        response: &mut Response,
    ) -> Result<Option<Bytes>, RegistryError> {
        match tokio::time::timeout(self.inner.options.idle_timeout, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(transport_error(request, error)),
            Err(_) => Err(self.idle_error(request)),
        }
    }

    /// The whole body of an answer, which must not exceed `limit_bytes`.
    pub(super) async fn read_body(
        &self,
        request: &Request,
        mut response: Response,
        limit_bytes: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk(request, &mut response).await? {
            if body.len() + chunk.len() > limit_bytes {
                let reason = format!("it has more than {limit_bytes} bytes");
                return Err(RegistryError::Protocol {
                    url: request.shown_url(),
                    reason,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// An answer as an error, with what the registry says about it.
    pub(super) async fn status_error(&self, request: &Request, response: Response) -> RegistryError {
        let (status, retry) = (response.status().as_u16(), retry_of(&response));
        let body = self
            .read_body(request, response, MAX_ERROR_BODY_BYTES)
            .await
            .unwrap_or_default();
        RegistryError::Status {
            method: request.method.to_string(),
            url: request.shown_url(),
            status,
            message: error_message(&body),
            retry,
        }
    }

    pub(super) fn protocol_error(&self, request: &Request, reason: impl Into<String>) -> RegistryError {
        RegistryError::Protocol {
            url: request.shown_url(),
            reason: reason.into(),
        }
    }

    fn idle_error(&self, request: &Request) -> RegistryError {
        RegistryError::Idle {
            method: request.method.to_string(),
            url: request.shown_url(),
            idle_timeout: self.inner.options.idle_timeout,
        }
    }

    /// The connections for a scheme. Plain ones need no certificates, which a machine may lack and which take time.
    fn http(&self, scheme: &str) -> Result<&reqwest::Client, RegistryError> {
        let secure = scheme == "https";
        let cell = if secure {
            &self.inner.secure
        } else {
            &self.inner.plain
        };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        // Fails only when the process has chosen a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redirects = reqwest::redirect::Policy::custom(|attempt| {
            let from_secure = attempt
                .previous()
                .last()
                .is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS || (from_secure && attempt.url().scheme() != "https")
            {
                return attempt.error("too many redirects, or one from HTTPS to HTTP");
            }
            attempt.follow()
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("aiot-ops/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirects);
        if !secure {
            builder = builder.tls_certs_only([]);
        }
        let client = builder
            .build()
            .map_err(|error| RegistryError::Setup(causes(&error)))?;
        Ok(cell.get_or_init(|| client))
    }
}

fn transport_error(request: &Request, error: reqwest::Error) -> RegistryError {
    RegistryError::Transport {
        method: request.method.to_string(),
        url: request.shown_url(),
        reason: causes(&error.without_url()),
    }
}

/// An error with its causes on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

fn retry_of(response: &Response) -> Retry {
    let status = response.status();
    let asked = response.headers().get(RETRY_AFTER);
    // GHCR reports its secondary rate limit as 403 with a pause.
    let may_pass = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY
        )
        || (status == StatusCode::FORBIDDEN && asked.is_some());
    if !may_pass || status == StatusCode::NOT_IMPLEMENTED {
        return Retry::Never;
    }
    match asked
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().parse().ok())
    {
        Some(seconds) => Retry::After(Duration::from_secs(seconds)),
        None => Retry::Later,
    }
}

/// `{"errors":[{"code":…,"message":…}]}` as one line; other bodies as their first printable text.
fn error_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => {
            let items: Vec<String> = envelope
                .errors
                .iter()
                .map(|item| format!("{} {}", item.code, item.message))
                .collect();
            items.join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let printable: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut end = printable.len().min(MAX_SHOWN_MESSAGE_BYTES);
    while !printable.is_char_boundary(end) {
        end -= 1;
    }
    printable[..end].trim().to_owned()
}

/// The pauses between the tries of one piece of work.
pub(super) struct Backoff {
    policy: RetryPolicy,
    tried: u32,
}

impl Backoff {
    pub fn new(policy: RetryPolicy) -> Backoff {
        Backoff { policy, tried: 0 }
    }

    /// Whether to try again after `error`; returns after the pause.
    pub async fn again(&mut self, error: &RegistryError) -> bool {
        self.tried += 1;
        if self.tried >= self.policy.attempts || error.retry() == Retry::Never {
            return false;
        }
        tokio::time::sleep(self.pause(error.retry(), RandomState::new().hash_one(0) as u16)).await;
        true
    }

    /// `random` spreads clients that failed together.
    fn pause(&self, retry: Retry, random: u16) -> Duration {
        let doubled = self
            .policy
            .first_pause
            .saturating_mul(1 << (self.tried - 1).min(16));
        let own = doubled.min(self.policy.longest_pause);
        let own = own - own.mul_f64(f64::from(random) / f64::from(u16::MAX) / 2.0);
        match retry {
            Retry::After(asked) => asked.min(self.policy.longest_pause).max(own),
            _ => own,
        }
    }
}

#[cfg(test)]
mod tests;
