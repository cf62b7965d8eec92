//! The workload API of the device's daemon: signatures and the certificates to trust.
//!
//! Requests go one at a time, so that the daemon's bound of ten is never reached by one module; a daemon that closes
//! the connection without an answer is asked again.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use serde::Deserialize;
use tokio::net::{TcpStream, UnixStream};

use super::EdgeEnvironment;
use super::names::encode;
use crate::link::{Backoff, http};

/// How often a request is made before it has failed.
const ATTEMPTS: u32 = 5;
/// How long the daemon may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A daemon that does not give what is needed.
#[derive(Debug, thiserror::Error)]
#[error("the workload API does not {what}: {reason}")]
pub(super) struct WorkloadError {
    what: &'static str,
    reason: String,
}

/// The signature of `text` with the module's key, base64.
pub(super) async fn sign(edge: &EdgeEnvironment, text: &str) -> Result<String, WorkloadError> {
    #[derive(Deserialize)]
    struct Answer {
        digest: String,
    }
    let path = format!(
        "/modules/{}/genid/{}/sign",
        encode(&edge.module),
        encode(&edge.generation)
    );
    let body = serde_json::json!({"keyId": "primary", "algo": "HMACSHA256", "data": STANDARD.encode(text)});
    let answer: Answer = ask(edge, "sign", Method::POST, &path, body.to_string()).await?;
    Ok(answer.digest)
}

/// The certificates that edgeHub's is checked against, as PEM text.
pub(super) async fn trust_bundle(edge: &EdgeEnvironment) -> Result<String, WorkloadError> {
    #[derive(Deserialize)]
    struct Answer {
        certificate: String,
    }
    let answer: Answer = ask(
        edge,
        "give the trust bundle",
        Method::GET,
        "/trust-bundle",
        String::new(),
    )
    .await?;
    Ok(answer.certificate)
}

async fn ask<T: serde::de::DeserializeOwned>(
    edge: &EdgeEnvironment,
    what: &'static str,
    method: Method,
    path: &str,
    body: String,
) -> Result<T, WorkloadError> {
    let mut backoff = Backoff::new();
    let mut attempt = 1;
    loop {
        let asked = once(edge, method.clone(), path, body.clone());
        let reason = match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok((StatusCode::OK, answer))) => {
                return serde_json::from_slice(&answer).map_err(|error| WorkloadError {
                    what,
                    reason: format!("its answer cannot be read: {error}"),
                });
            }
            Ok(Ok((status, answer))) => {
                let text = String::from_utf8_lossy(&answer);
                let reason = format!("status {status}: {}", text.chars().take(200).collect::<String>());
                // Asking again would not change the daemon's mind.
                if status.is_client_error() {
                    return Err(WorkloadError { what, reason });
                }
                reason
            }
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        };
        if attempt == ATTEMPTS {
            return Err(WorkloadError { what, reason });
        }
        attempt += 1;
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

async fn once(
    edge: &EdgeEnvironment,
    method: Method,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes), String> {
    let request = |host: &str| {
        Request::builder()
            .method(method)
            .uri(format!("{path}?api-version={}", encode(&edge.api_version)))
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())
    };
    match edge.workload.strip_prefix("unix://") {
        Some(socket) => {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|error| format!("`{socket}`: {error}"))?;
            http::send(stream, request("workload")?).await
        }
        None => {
            let authority = edge.workload.trim_start_matches("http://").trim_end_matches('/');
            let stream = TcpStream::connect(authority)
                .await
                .map_err(|error| format!("`{authority}`: {error}"))?;
            http::send(stream, request(authority)?).await
        }
    }
}
