//! What is asked of one device: direct methods, and content for it alone (`applyConfigurationContent`).
//!
//! Sources: the service's REST description; docs on the agent's built-in methods. Throttles of both are not in the
//! sources: methods have none here, content counts as a call to configurations, which is the tightest.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Reply, Request, Simulator, body_of, error, ok};
use crate::mqtt::Identity;
use crate::service::ServiceError;

/// Seconds that an answer may be waited for.
const RESPONSE_SECS: std::ops::RangeInclusive<u64> = 5..=300;
/// Seconds that an answer is waited for without a word about it.
const DEFAULT_SECS: u64 = 30;
/// Seconds that a device may be waited for.
const CONNECT_SECS: std::ops::RangeInclusive<u64> = 0..=300;

/// `POST /devices/{id}/applyConfigurationContent`
pub(super) fn apply_content(
    hub: &mut Simulator,
    request: &Request,
    device: &str,
) -> Result<Reply, ServiceError> {
    let content = body_of(request)?;
    hub.service.apply_content(device, &content)?;
    Ok(Reply {
        status: 204,
        ..Reply::default()
    })
}

/// `POST /twins/{id}/methods` and `/twins/{id}/modules/{module}/methods`
pub(super) fn invoke(
    hub: &mut Simulator,
    request: &Request,
    device: &str,
    module: Option<&str>,
) -> Result<Reply, ServiceError> {
    let body = body_of(request)?;
    let invalid = |what: &str| error(400, "ArgumentInvalid", what.to_owned());
    let name = body["methodName"]
        .as_str()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| invalid("methodName"))?;
    for (field, allowed) in [
        ("responseTimeoutInSeconds", RESPONSE_SECS),
        ("connectTimeoutInSeconds", CONNECT_SECS),
    ] {
        let fits =
            |value: &Value| value.is_null() || value.as_u64().is_some_and(|secs| allowed.contains(&secs));
        if !fits(&body[field]) {
            return Err(invalid(field));
        }
    }
    let found = hub.service.fleet.devices.get(device).ok_or_else(|| {
        error(
            404,
            "DeviceNotFound",
            format!("device `{device}` is not registered"),
        )
    })?;
    // A client that listens comes first; of a device that is simulated, only the agent listens.
    let identity = Identity::new(device, module);
    let wait_secs = body["responseTimeoutInSeconds"].as_u64().unwrap_or(DEFAULT_SECS);
    let call = hub
        .clients
        .call(&identity, name, &body["payload"], Duration::from_secs(wait_secs));
    if call.is_some() {
        return Ok(Reply {
            call,
            ..Reply::default()
        });
    }
    if !found.online {
        return Err(error(
            404,
            "DeviceNotOnline",
            format!("device `{device}` is not connected"),
        ));
    }
    let runs = |module: &str| found.running.contains_key(module);
    let (status, payload) = match (module, name) {
        (Some("$edgeAgent"), "ping") => (200, Value::Null),
        (Some("$edgeAgent"), "RestartModule") => {
            let id = body["payload"]["id"].as_str().unwrap_or_default();
            match body["payload"]["schemaVersion"] == "1.0" && runs(id) {
                true => (200, Value::Null),
                false => (
                    400,
                    json!({"message": format!("no module `{id}`, or another schemaVersion than 1.0")}),
                ),
            }
        }
        (Some("$edgeAgent"), _) => (400, json!({"message": format!("no method `{name}`")})),
        (Some(module), _) if !runs(module) => {
            let text = format!("module `{module}` of `{device}` is not connected");
            return Err(error(404, "DeviceNotOnline", text));
        }
        // Neither our modules nor the device itself listen to methods.
        _ => (501, Value::Null),
    };
    Ok(ok(&json!({ "status": status, "payload": payload })))
}
