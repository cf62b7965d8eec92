//! Direct methods: `ping`, `selfCheck`, `stats`, `predict`, `capture`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::link::{Publication, Work};
use crate::serve::Service;

/// What a caller may send, and get.
const MAX_PAYLOAD_BYTES: usize = 128 * 1024;

/// Inputs that one call may ask to be kept.
const MAX_CAPTURED: u32 = 1000;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) request: String,
    pub(crate) payload: Vec<u8>,
}

impl Call {
    pub(crate) fn answer(&self, status: u16, body: &Value) -> Publication {
        let mut payload = body.to_string().into_bytes();
        let mut status = status;
        if payload.len() > MAX_PAYLOAD_BYTES {
            status = 413;
            payload = json!({"error": "the answer is larger than a method may give"})
                .to_string()
                .into_bytes();
        }
        Publication {
            topic: format!("$iothub/methods/res/{status}/?$rid={}", self.request),
            payload,
        }
    }
}

/// Answers calls one after the other until the hub's side has gone.
pub(crate) async fn serve(service: Arc<Service>, mut calls: mpsc::Receiver<Call>, work: mpsc::Sender<Work>) {
    while let Some(call) = calls.recv().await {
        let (status, body) = answer(&service, &call).await;
        if work
            .send(Work::Publish(call.answer(status, &body)))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn answer(service: &Arc<Service>, call: &Call) -> (u16, Value) {
    if call.payload.len() > MAX_PAYLOAD_BYTES {
        return (
            413,
            json!({"error": "the payload is larger than a method may take"}),
        );
    }
    match call.name.as_str() {
        "ping" => (
            200,
            json!({"answer": "pong", "model": service.flow().model_name()}),
        ),
        "stats" => (200, service.flow().statistics()),
        "selfCheck" => match service.self_check().await {
            Ok(check) => (200, serde_json::to_value(check).unwrap_or_default()),
            Err(message) => (503, json!({"error": message})),
        },
        "predict" => predict(service, &call.payload).await,
        "capture" => capture(service, &call.payload),
        other => {
            let name: String = other.chars().take(64).collect();
            (
                404,
                json!({"error": format!("no method `{name}`: ping, selfCheck, stats, predict, capture")}),
            )
        }
    }
}

/// Keeps the next inputs in the declared folder.
fn capture(service: &Arc<Service>, payload: &[u8]) -> (u16, Value) {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        count: u32,
    }
    match serde_json::from_slice(payload) {
        Ok(Wanted { count }) if (1..=MAX_CAPTURED).contains(&count) => {
            match service.flow().want_captured(count) {
                Ok(()) => (200, json!({"wanted": count})),
                Err(message) => (409, json!({"error": message})),
            }
        }
        _ => (
            400,
            json!({"error": format!("{{\"count\": n}} is wanted, n from 1 to {MAX_CAPTURED}")}),
        ),
    }
}

async fn predict(service: &Arc<Service>, payload: &[u8]) -> (u16, Value) {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        /// The file's bytes, base64.
        data: String,
    }
    let wanted: Wanted = match serde_json::from_slice(payload) {
        Ok(wanted) => wanted,
        Err(error) => {
            return (
                400,
                json!({"error": format!("{{\"data\": \"<base64>\"}} is wanted: {error}")}),
            );
        }
    };
    let bytes = match STANDARD.decode(&wanted.data) {
        Ok(bytes) => bytes,
        Err(error) => return (400, json!({"error": format!("data is not base64: {error}")})),
    };
    match service.predict_once(bytes).await {
        Ok(predictions) => (200, json!({"predictions": predictions})),
        Err((status, message)) => (status, json!({"error": message})),
    }
}
