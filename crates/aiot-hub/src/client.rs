//! One call to a hub: signed, paced below the throttle, tried again where that may help, its answer bounded. Which
//! calls there are stands in `calls`.

mod calls;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, IF_MATCH, RETRY_AFTER};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::clock::{Clock, SystemClock};
use crate::connection::Connection;
use crate::error::CallError;
use crate::throttle::{Kind, Window};

/// Version of the service's interface that is documented publicly.
pub const API_VERSION: &str = "2021-04-12";
/// Tries per call.
const TRIES: u32 = 4;
/// First pause after an answer that was cut, or trouble of the service; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// First pause after the hub has said that there were too many calls; it doubles.
const FIRST_THROTTLED_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause that a hub may ask for; after a longer one the caller shall decide.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(300);
/// Longest wait for a connection, and for the next bytes of an answer.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Largest answer, in bytes: 1,000 twins of 64 KiB.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;
/// Most pages of one query: a million devices, and half of the pages full.
const PAGE_LIMIT: usize = 2_000;
/// Rows asked for in a page.
const PAGE_ROWS: usize = 1_000;
/// How long a signed token is valid, and how long before the end of any a new one is made (at most a fifth of its life).
const TOKEN_SECS: u64 = 3_600;
const TOKEN_RENEWAL_SECS: u64 = 600;

/// How a hub is called.
#[derive(Clone, Debug)]
pub struct Options {
    /// PEM file of further authorities that the hub's certificate may be from, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Units of the hub; throttles grow with them.
    pub units: u32,
    /// Hears of pauses of [`TOLD_PAUSE`] and more, before them: for people who would think that nothing happens.
    pub on_pause: Option<fn(Duration)>,
}

/// Shortest pause that is told.
pub const TOLD_PAUSE: Duration = Duration::from_secs(2);

impl Default for Options {
    fn default() -> Self {
        Options {
            ca_file: None,
            units: 1,
            on_pause: None,
        }
    }
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The file of authorities.
    #[error("the authorities in {path} cannot be used: {reason}; expected certificates as PEM")]
    Authorities {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Threads, or the system's trust store.
    #[error("the hub's client cannot start: {0}")]
    Start(String),
}

/// An answer of the hub.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The hub's clock, seconds since 1970; none where it does not say.
    pub date_secs: Option<u64>,
    /// Of what was asked for or written, without quotes.
    pub etag: Option<String>,
    /// Where the next page begins; none: this was the last.
    pub continuation: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What is sent.
struct Request<'a> {
    kind: Kind,
    method: Method,
    path: String,
    query: &'a str,
    if_match: Option<&'a str>,
    continuation: Option<&'a str>,
    body: Option<&'a Value>,
}

impl<'a> Request<'a> {
    fn new(kind: Kind, method: Method, path: String) -> Request<'a> {
        Request {
            kind,
            method,
            path,
            query: "",
            if_match: None,
            continuation: None,
            body: None,
        }
    }

    /// For messages.
    fn call(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// A client of one hub, for synchronous code.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    /// For a machine's metadata service: plain http, no proxy.
    metadata: reqwest::Client,
    connection: Connection,
    clock: Arc<dyn Clock>,
    windows: Mutex<Vec<(Kind, Window)>>,
    units: u32,
    /// When it is time for a new one, and the header.
    token: tokio::sync::Mutex<Option<(u64, String)>>,
    on_pause: Option<fn(Duration)>,
}

impl Client {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn new(connection: Connection, options: &Options) -> Result<Client, ClientError> {
        Client::with_clock(connection, options, Arc::new(SystemClock::default()))
    }

    /// As [`Client::new`], in a time of its own.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn with_clock(
        connection: Connection,
        options: &Options,
        clock: Arc<dyn Clock>,
    ) -> Result<Client, ClientError> {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let start = |error: &dyn std::error::Error| ClientError::Start(with_causes(error));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| start(&error))?;
        let builder = || {
            reqwest::Client::builder()
                .connect_timeout(IDLE_LIMIT)
                .read_timeout(IDLE_LIMIT)
                // A hub never sends elsewhere, and a token must not follow.
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("aiot-ops/", env!("CARGO_PKG_VERSION")))
        };
        let (mut builder, mut metadata) = (builder().https_only(true), builder().no_proxy());
        if connection.is_loopback() {
            builder = builder.no_proxy();
        }
        if let Some(path) = &options.ca_file {
            let failed = |reason: String| ClientError::Authorities {
                path: path.display().to_string(),
                reason,
            };
            let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&bytes).map_err(|error| failed(with_causes(&error)))?;
            if certificates.is_empty() {
                return Err(failed("it holds no certificate".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates.clone());
            metadata = metadata.tls_certs_merge(certificates);
        }
        let windows = [
            Kind::Configuration,
            Kind::Query,
            Kind::TwinRead,
            Kind::TwinWrite,
            Kind::Registry,
        ];
        Ok(Client {
            runtime,
            http: builder.build().map_err(|error| start(&error))?,
            metadata: metadata.build().map_err(|error| start(&error))?,
            connection,
            clock,
            windows: Mutex::new(
                windows
                    .into_iter()
                    .map(|kind| (kind, Window::new(kind.rate(options.units))))
                    .collect(),
            ),
            units: options.units,
            token: tokio::sync::Mutex::new(None),
            on_pause: options.on_pause,
        })
    }

    /// The hub's host name.
    pub fn host(&self) -> &str {
        self.connection.authority()
    }

    /// Units of the hub, as [`Options::units`] says.
    pub fn units(&self) -> u32 {
        self.units
    }

    fn parsed<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, CallError> {
        let answer = self.send(request)?;
        serde_json::from_slice(&answer.body)
            .map_err(|error| CallError::answer(&request.call(), error.to_string()))
    }

    /// Sends until there is an answer that another try does not better.
    fn send(&self, request: &Request<'_>) -> Result<Answer, CallError> {
        let (mut pause, mut throttled_pause) = (FIRST_PAUSE, FIRST_THROTTLED_PAUSE);
        let mut tries = 1;
        loop {
            self.pace(request.kind);
            let result = self.runtime.block_on(self.once(request));
            self.answered(request.kind);
            let error = match result {
                Err(error) if tries < TRIES && error.kind() == aiot_iothub::rollout::HubErrorKind::Retry => {
                    error
                }
                result => return result,
            };
            tries += 1;
            let longest = if error.is_throttled() {
                &mut throttled_pause
            } else {
                &mut pause
            };
            // What the hub asks for is the least; without it all who were refused would come back at once.
            let asked = error.retry_after_secs.map_or(Duration::ZERO, Duration::from_secs);
            self.sleep(asked.min(LONGEST_ASKED_PAUSE) + self.clock.jittered(*longest));
            *longest *= 2;
        }
    }

    /// Does something with the window of a kind, and the time.
    fn window<T>(&self, kind: Kind, work: impl FnOnce(&mut Window, Duration) -> T) -> Option<T> {
        let mut windows = self.windows.lock().unwrap_or_else(|poison| poison.into_inner());
        let (_, window) = windows.iter_mut().find(|(of, _)| *of == kind)?;
        // Within the lock, so that no caller comes with an earlier time than the one before.
        Some(work(window, self.clock.elapsed()))
    }

    /// Waits until the throttle has room, and takes it.
    fn pace(&self, kind: Kind) {
        while let Some(Err(pause)) = self.window(kind, Window::reserve) {
            self.sleep(pause);
        }
    }

    fn answered(&self, kind: Kind) {
        self.window(kind, Window::answered);
    }

    /// Pauses, and tells whoever wants to hear of it.
    fn sleep(&self, pause: Duration) {
        if let Some(on_pause) = self.on_pause.filter(|_| pause >= TOLD_PAUSE) {
            on_pause(pause);
        }
        self.clock.sleep(pause);
    }

    /// Waits for about `longest` before a call is made again.
    pub fn wait(&self, longest: Duration) {
        self.sleep(self.clock.jittered(longest));
    }

    /// What proves who we are, and whether it was kept from an earlier call.
    async fn authorization(&self) -> Result<(String, bool), CallError> {
        let now_secs = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut kept = self.token.lock().await;
        if let Some((renewal_secs, header)) = &*kept
            && now_secs < *renewal_secs
        {
            return Ok((header.clone(), true));
        }
        let (lifetime_secs, header) = match &self.connection {
            Connection::Key(key) => (TOKEN_SECS, key.token(now_secs + TOKEN_SECS)),
            Connection::Entra { credential, .. } => {
                let token = credential.sign_in(&self.http, &self.metadata, now_secs).await?;
                (token.lifetime_secs, format!("Bearer {}", token.text))
            }
        };
        let early_secs = TOKEN_RENEWAL_SECS.min(lifetime_secs / 5);
        let renewal_secs = now_secs.saturating_add(lifetime_secs - early_secs);
        *kept = Some((renewal_secs, header.clone()));
        Ok((header, false))
    }

    /// One request; a kept token that the hub does not take any more (revoked, or a clock that is off) is renewed once.
    async fn once(&self, request: &Request<'_>) -> Result<Answer, CallError> {
        let (authorization, was_kept) = self.authorization().await?;
        match self.exchange(request, &authorization).await {
            Err(error) if error.status == 401 && was_kept => {
                *self.token.lock().await = None;
                let (authorization, _) = self.authorization().await?;
                self.exchange(request, &authorization).await
            }
            result => result,
        }
    }

    async fn exchange(&self, request: &Request<'_>, authorization: &str) -> Result<Answer, CallError> {
        let call = request.call();
        let url = format!(
            "https://{}{}?{}api-version={API_VERSION}",
            self.connection.authority(),
            request.path,
            request.query
        );
        let mut builder = self
            .http
            .request(request.method.clone(), url)
            .header(AUTHORIZATION, authorization);
        if let Some(etag) = request.if_match {
            // Without quotes the service takes an update for a creation.
            builder = builder.header(IF_MATCH, format!("\"{etag}\""));
        }
        if request.kind == Kind::Query {
            builder = builder.header("x-ms-max-item-count", PAGE_ROWS);
        }
        if let Some(continuation) = request.continuation {
            builder = builder.header("x-ms-continuation", continuation);
        }
        if let Some(body) = request.body {
            builder = builder
                .header(CONTENT_TYPE, "application/json; charset=utf-8")
                .body(body.to_string());
        }
        let cut = |error: reqwest::Error| CallError::transport(&call, with_causes(&error.without_url()));
        let mut answer = builder.send().await.map_err(cut)?;
        let status = answer.status();
        let header = |name: &str| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        let date_secs = header(DATE.as_str()).and_then(|text| http_date(&text));
        let etag = header(ETAG.as_str()).map(|etag| etag.trim_matches('"').to_owned());
        let continuation = header("x-ms-continuation");
        let (code, request_id) = (header("iothub-errorcode"), header("x-ms-request-id"));
        // In seconds; the form with a date is not read, the pause then is our own.
        let retry_after_secs = header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(cut)? {
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                let reason = format!("it is larger than {ANSWER_LIMIT_BYTES} bytes");
                return Err(CallError::answer(&call, reason));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let (code, request_id) = (code.as_deref(), request_id.as_deref());
            return Err(CallError {
                retry_after_secs,
                ..CallError::of(&call, status.as_u16(), code, request_id, &body)
            });
        }
        Ok(Answer {
            date_secs,
            etag,
            continuation,
            body,
        })
    }
}

fn http_date(text: &str) -> Option<u64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    u64::try_from(time.as_second()).ok()
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_answers() {
        assert_eq!(http_date("Mon, 05 Jan 2026 12:00:00 GMT"), Some(1_767_614_400));
        assert_eq!((http_date("yesterday"), http_date("")), (None, None));
    }

    #[test]
    fn authorities_that_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let client = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let connection = "HostName=localhost:1;SharedAccessKeyName=a;SharedAccessKey=eA==";
            let options = Options {
                ca_file: Some(file.clone()),
                ..Options::default()
            };
            Client::new(connection.parse().unwrap(), &options)
                .err()
                .map(|error| error.to_string())
        };
        assert!(client(None).unwrap().contains("ca.pem cannot be used"));
        assert!(client(Some("")).unwrap().contains("holds no certificate"));
    }
}
