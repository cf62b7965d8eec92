//! What a call ends with when it is not obeyed: the hub's words, and what to do about them.

use aiot_iothub::rollout::{HubError, HubErrorKind};
use serde::Deserialize;
use thiserror::Error;

/// Longest part of an answer that is quoted, in characters.
const QUOTE_LIMIT_CHARACTERS: usize = 500;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{call}: {}{message}{}; {}", status_text(*.status, .code), request_text(.request_id), advice(*.status, .code))]
pub struct CallError {
    /// Method and path, without query and secrets.
    pub call: String,
    /// HTTP status; 0: there was no answer, or not all of it.
    pub status: u16,
    /// The hub's name of the error, `PreconditionFailed`; empty where it gave none.
    pub code: String,
    /// For people.
    pub message: String,
    /// By which the service's support finds the call; empty where there is none.
    pub request_id: String,
    /// How long the hub asks to wait before the next try; none: it does not say.
    pub retry_after_secs: Option<u64>,
}

fn status_text(status: u16, code: &str) -> String {
    match (status, code) {
        (0, _) => String::new(),
        (status, "") => format!("{status}: "),
        (status, code) => format!("{status} {code}: "),
    }
}

fn request_text(request_id: &str) -> String {
    match request_id {
        "" => String::new(),
        id => format!(" (request {id})"),
    }
}

/// The service's form of an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(rename = "Message", alias = "message")]
    message: String,
    #[serde(rename = "ExceptionMessage", alias = "exceptionMessage")]
    exception_message: String,
}

impl CallError {
    /// From an answer: its body is `{"Message": "ErrorCode:<code>;<text>", "ExceptionMessage": "Tracking ID:…"}`, and
    /// a header may say the code as well.
    pub fn of(
        call: &str,
        status: u16,
        code: Option<&str>,
        request_id: Option<&str>,
        body: &[u8],
    ) -> CallError {
        let parsed: Body = serde_json::from_slice(body).unwrap_or_else(|_| Body {
            message: String::from_utf8_lossy(body).into_owned(),
            exception_message: String::new(),
        });
        let (mut said, mut text) = (None, parsed.message.as_str());
        if let Some(rest) = text.strip_prefix("ErrorCode:") {
            let (name, rest) = rest.split_once(';').unwrap_or((rest, ""));
            (said, text) = (Some(name), rest);
        }
        // A code is a word; anything else is not worth repeating.
        let word = |code: &&str| code.len() <= 80 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let tracking = parsed
            .exception_message
            .strip_prefix("Tracking ID:")
            .and_then(|rest| rest.split("-TimeStamp").next());
        CallError {
            call: call.to_owned(),
            status,
            code: code.or(said).filter(word).unwrap_or_default().to_owned(),
            message: quoted(if text.is_empty() { "no reason given" } else { text }),
            request_id: quoted(request_id.or(tracking).unwrap_or_default()),
            retry_after_secs: None,
        }
    }

    /// From a connection that failed.
    pub fn transport(call: &str, message: String) -> CallError {
        CallError {
            call: call.to_owned(),
            status: 0,
            code: String::new(),
            message,
            request_id: String::new(),
            retry_after_secs: None,
        }
    }

    /// [`CallError::code`] of a sign-in that another try does not better.
    pub const SIGN_IN: &'static str = "SignInRefused";

    /// From a sign-in to Entra ID that was refused.
    pub fn sign_in(call: &str, message: String) -> CallError {
        CallError {
            code: CallError::SIGN_IN.to_owned(),
            ..CallError::transport(call, quoted(&message))
        }
    }

    /// From an answer that came and makes no sense.
    pub fn answer(call: &str, message: String) -> CallError {
        CallError {
            code: "UnexpectedAnswer".to_owned(),
            ..CallError::transport(call, message)
        }
    }

    /// What a caller can do.
    pub fn kind(&self) -> HubErrorKind {
        match (self.status, self.code.as_str()) {
            (0, "UnexpectedAnswer" | CallError::SIGN_IN) => HubErrorKind::Refused,
            (409, "ConfigurationAlreadyExists") => HubErrorKind::Exists,
            (412, _) => HubErrorKind::Stale,
            (404, _) => HubErrorKind::Missing,
            (0 | 408 | 429 | 500..=599, _) => HubErrorKind::Retry,
            _ => HubErrorKind::Refused,
        }
    }

    /// Whether the hub said that there were too many calls.
    pub fn is_throttled(&self) -> bool {
        self.status == 429
    }
}

impl From<CallError> for HubError {
    fn from(error: CallError) -> HubError {
        let text = error.to_string();
        let message = text
            .strip_prefix(&format!("{}: ", error.call))
            .unwrap_or(&text)
            .to_owned();
        HubError {
            kind: error.kind(),
            call: error.call,
            message,
        }
    }
}

/// Shortened, and without what a terminal would obey.
fn quoted(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(QUOTE_LIMIT_CHARACTERS)
        .collect();
    clean.trim().to_owned()
}

/// What to do.
fn advice(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (0, "UnexpectedAnswer") => "is this an IoT Hub, and no proxy in between?",
        (0, CallError::SIGN_IN) => {
            "look at AIOT_HUB_CREDENTIAL and the AZURE_ variables that it needs, and whether the identity exists"
        }
        (0, _) => "look whether the hub's name is right and this machine reaches it, and run again",
        (_, "OperationNotAvailableInCurrentTier") => {
            "deployments and twins need a hub of the standard or free tier"
        }
        (_, "IotHubQuotaExceeded") => {
            "the hub's messages of today are used up: add units, or wait until midnight UTC"
        }
        (_, "ConfigurationCountLimitExceeded") => "delete deployments that nobody needs",
        (_, "InvalidConfigurationTargetCondition") => "the condition is not one that this hub takes",
        (_, "CannotModifyImmutableConfigurationContent") => {
            "content cannot change: make a release with a new id"
        }
        (_, "DeviceModelMaxPropertiesExceeded") => {
            "a twin has too many properties: make modules or settings fewer"
        }
        (401, _) => {
            "look whether the policy's key is still valid and may write the registry and connect as service, or the \
             Entra identity has the role IoT Hub Data Contributor, and whether this machine's clock is right"
        }
        (403, _) => {
            "look which rights the shared access policy, or which role the Entra identity has on this hub"
        }
        (404, _) => "it may be gone: run again",
        (409 | 412, _) => "somebody else was faster: run again",
        (429, _) => {
            "too many calls on this hub: wait a minute, or set AIOT_HUB_UNITS to the units that it has"
        }
        (500..=599 | 408, _) => "the service is in trouble: run again later",
        _ => "the call was refused, and running it again does not help",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_service() {
        let check = |status: u16, body: &str, kind: HubErrorKind, parts: &[&str]| {
            let error = CallError::of("PUT /configurations/a", status, None, None, body.as_bytes());
            assert_eq!(error.kind(), kind, "{error}");
            for part in parts {
                assert!(error.to_string().contains(part), "{error} lacks {part}");
            }
        };
        // As recorded from the service.
        check(
            412,
            r#"{"Message":"ErrorCode:PreconditionFailed;ETag mismatch for device ID 'a'","ExceptionMessage":"Tracking ID:f00-TimeStamp:07/07/2021 20:47:33"}"#,
            HubErrorKind::Stale,
            &[
                "412 PreconditionFailed: ETag mismatch",
                "(request f00)",
                "somebody else was faster",
            ],
        );
        check(
            409,
            r#"{"Message":"ErrorCode:ConfigurationAlreadyExists;it exists"}"#,
            HubErrorKind::Exists,
            &["ConfigurationAlreadyExists"],
        );
        check(
            429,
            "{}",
            HubErrorKind::Retry,
            &["429: no reason given", "too many calls"],
        );
        check(
            503,
            "<html>\u{1b}[31m",
            HubErrorKind::Retry,
            &["503: <html> [31m"],
        );
        check(401, "", HubErrorKind::Refused, &["clock"]);
        check(404, "\u{fffd}", HubErrorKind::Missing, &["404"]);
        check(
            400,
            r#"{"Message":"ErrorCode:<b>;x"}"#,
            HubErrorKind::Refused,
            &["400: x"],
        );
        check(400, &"x".repeat(9000), HubErrorKind::Refused, &["xxx"]);
        let cut = CallError::transport("GET /configurations", "connection reset".to_owned());
        assert_eq!(cut.kind(), HubErrorKind::Retry);
        let hub: HubError = cut.clone().into();
        assert_eq!(hub.to_string(), cut.to_string());
    }
}
