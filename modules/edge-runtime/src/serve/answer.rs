//! Reading request bodies, and the JSON of answers and refusals.

use std::time::Duration;

use aiot_inference::PredictError;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::Serialize;

use super::metrics::Reason;

/// The largest request body: a picture of 16 MiB, or a tensor of about a million values as JSON.
pub(crate) const MAX_BODY_BYTES: usize = 16 << 20;

/// How long a sender may take for its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request that is not answered with a result.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal {
            status: StatusCode::BAD_REQUEST,
            reason: Reason::BadRequest,
            message: message.into(),
        }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Refusal {
        Refusal {
            status: StatusCode::NOT_FOUND,
            reason: Reason::BadRequest,
            message: message.into(),
        }
    }

    fn too_many(message: &str) -> Refusal {
        Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            reason: Reason::QueueFull,
            message: message.to_owned(),
        }
    }

    pub(crate) fn queue_full() -> Refusal {
        Refusal::too_many("all places in the queue are taken, try again later")
    }

    pub(crate) fn displaced() -> Refusal {
        Refusal::too_many("newer requests took this one's place in the queue, try again later")
    }

    pub(crate) fn stopped() -> Refusal {
        let message = "the module is stopping".to_owned();
        Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: Reason::Failed,
            message,
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Refusal {
        Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            reason: Reason::Failed,
            message: message.into(),
        }
    }
}

impl From<PredictError> for Refusal {
    fn from(error: PredictError) -> Refusal {
        Refusal {
            status: match error {
                PredictError::Prepare(_) => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            reason: Reason::of(&error),
            message: error.to_string(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Error {
            error: String,
        }
        let retry = self.status == StatusCode::TOO_MANY_REQUESTS;
        let mut response = json(self.status, &Error { error: self.message });
        if retry {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// `value` as a JSON response.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The whole body, bounded in size and time: `patience` between two pieces, [`BODY_TIMEOUT`] for all of it, since a body
/// holds a place in the queue while it is read.
pub(crate) async fn read(mut body: Body, patience: Duration) -> Result<Vec<u8>, Refusal> {
    let slow = |seconds: Duration| Refusal {
        status: StatusCode::REQUEST_TIMEOUT,
        reason: Reason::BadRequest,
        message: format!("the body did not come within {} seconds", seconds.as_secs()),
    };
    let whole = async {
        let mut bytes = Vec::new();
        loop {
            let frame = tokio::time::timeout(patience, body.frame()).await;
            let frame = match frame.map_err(|_| slow(patience))? {
                None => return Ok(bytes),
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Err(Refusal::bad_request("the body was cut off")),
            };
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY_BYTES {
                return Err(Refusal {
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    reason: Reason::TooLarge,
                    message: format!("the body is larger than {MAX_BODY_BYTES} bytes"),
                });
            }
            bytes.extend_from_slice(&data);
        }
    };
    tokio::time::timeout(BODY_TIMEOUT, whole)
        .await
        .unwrap_or_else(|_| Err(slow(BODY_TIMEOUT)))
}
