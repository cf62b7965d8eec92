//! `POST` of each prediction to a URL, in order, until the server has taken it.
//!
//! 2xx: taken. 408, 425, 429, 5xx, no answer: tried again with growing pauses. Any other status is the server's last
//! word on this message: it is logged, counted as refused and left out, so that it does not hold up the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aiot_package::{Endpoint, WebhookSink};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::link::{Backoff, LinkState, Message, Stop, http, stopped_within, tls};
use crate::log;
use crate::outbox::Outbox;

/// The server and what it wants to see.
pub(crate) struct Webhook {
    url: Endpoint,
    connector: Option<TlsConnector>,
    authorization: Option<String>,
    /// How long the server may take for one message.
    timeout: Duration,
}

impl Webhook {
    /// # Errors
    /// What is wrong with the URL or the file of authorities.
    pub(crate) fn new(sink: &WebhookSink, authorization: Option<String>) -> Result<Webhook, String> {
        let url = Endpoint::parse_http(&sink.url)?;
        let connector = match (&sink.authorities, url.tls) {
            (Some(path), true) => {
                let config =
                    tls::config(&tls::read(path)?, None).map_err(|error| format!("`{path}`: {error}"))?;
                Some(TlsConnector::from(config))
            }
            _ => None,
        };
        Ok(Webhook {
            url,
            connector,
            authorization,
            timeout: Duration::from_secs(sink.timeout_s.into()),
        })
    }

    async fn post(&self, message: &Message<'_>) -> Result<StatusCode, String> {
        let Endpoint { host, port, path, .. } = &self.url;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", message.id)
            .header(header::CONNECTION, "close");
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(message.body)))
            .map_err(|error| error.to_string())?;
        let sent = async {
            let stream = TcpStream::connect((host.as_str(), *port))
                .await
                .map_err(|error| error.to_string())?;
            let (status, _) = match &self.connector {
                None => http::send(stream, request).await?,
                Some(connector) => {
                    let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                    let stream = connector
                        .connect(name, stream)
                        .await
                        .map_err(|error| format!("TLS: {error}"))?;
                    http::send(stream, request).await?
                }
            };
            Ok(status)
        };
        tokio::time::timeout(self.timeout, sent)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", self.timeout.as_secs())))
    }
}

/// Sends what waits in `outbox` until `stop`.
pub(crate) async fn run(webhook: Webhook, outbox: Arc<Outbox>, state: Arc<LinkState>, stop: Stop) {
    let host = &webhook.url.host;
    let mut backoff = Backoff::new();
    let mut ended = stop.clone();
    loop {
        let record = match outbox.next() {
            Ok(Some(record)) => record,
            Ok(None) => {
                if let Err(error) = outbox.sync() {
                    log::error(&error.to_string());
                }
                tokio::select! {
                    () = outbox.pushed() => continue,
                    _ = ended.wait_for(|stop| *stop) => return,
                }
            }
            Err(error) => {
                log::error(&error.to_string());
                if stopped_within(&stop, backoff.next_pause()).await {
                    return;
                }
                continue;
            }
        };
        let done = match Message::of(&record.bytes) {
            None => true,
            Some(message) => {
                let answer = tokio::select! {
                    answer = webhook.post(&message) => answer,
                    () = after(&stop) => return,
                };
                state.connected.store(answer.is_ok(), Relaxed);
                let reason = match answer {
                    Ok(status) if status.is_success() => {
                        state.sent.fetch_add(1, Relaxed);
                        None
                    }
                    Ok(status) if may_help(status) => Some(format!("status {status}")),
                    Ok(status) => {
                        state.oversized.fetch_add(1, Relaxed);
                        log::error(&format!(
                            "webhook at {host}: message {} is refused: {status}",
                            message.id
                        ));
                        None
                    }
                    Err(reason) => Some(reason),
                };
                if let Some(reason) = &reason {
                    let pause = backoff.next_pause();
                    log::warn(&format!(
                        "webhook at {host}: {reason}; trying again in {:.1} s",
                        pause.as_secs_f64()
                    ));
                    if stopped_within(&stop, pause).await {
                        return;
                    }
                }
                reason.is_none()
            }
        };
        if done {
            backoff.reset();
            if let Err(error) = outbox.confirm(record.sequence) {
                log::error(&error.to_string());
            }
        } else {
            // The same one again: order is kept.
            outbox.rewind();
        }
    }
}

/// A while after the end is wanted: what is under way may still be answered.
async fn after(stop: &Stop) {
    let mut stop = stop.clone();
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
}

/// Whether the same request may be taken later.
fn may_help(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}
