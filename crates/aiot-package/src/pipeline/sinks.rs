//! `[model.<name>.edge.sinks]`: where predictions go.

use serde::{Deserialize, Serialize};

use super::is_plain;
use crate::endpoint::Endpoint;

/// Seconds that a webhook may take.
const TIMEOUT_S: std::ops::RangeInclusive<u16> = 1..=600;

/// Where predictions go; several at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sinks {
    /// An output of the module, for the edge hub's routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_hub: Option<EdgeHubSink>,
    /// A topic of the plant's own broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSink>,
    /// `POST` to a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSink>,
    /// One JSON line a prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<StdoutSink>,
}

impl Default for Sinks {
    /// The edge hub, output `predictions`.
    fn default() -> Sinks {
        Sinks {
            edge_hub: Some(EdgeHubSink::default()),
            mqtt: None,
            webhook: None,
            stdout: None,
        }
    }
}

/// `edge-hub` of the sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EdgeHubSink {
    /// Name of the output, for routes `FROM /messages/modules/{module}/outputs/<output>`.
    #[serde(default = "default_output")]
    pub output: String,
}

fn default_output() -> String {
    "predictions".to_owned()
}

impl Default for EdgeHubSink {
    fn default() -> EdgeHubSink {
        EdgeHubSink {
            output: default_output(),
        }
    }
}

/// `mqtt` of the sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MqttSink {
    /// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    pub broker: String,
    /// Topic, without wildcards.
    pub topic: String,
    /// Client id; the module's name and model unless given. Unique on the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// User name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the environment variable with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_variable: Option<String>,
    /// PEM file with the authorities that the broker's certificate is checked against; needed for `mqtts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<String>,
    /// PEM file with the client's certificate chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// PEM file with the client's private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

/// `webhook` of the sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WebhookSink {
    /// `http://host[:port]/path` or `https://…`.
    pub url: String,
    /// PEM file with the authorities that the server's certificate is checked against; needed for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<String>,
    /// Name of the environment variable with the value of the `Authorization` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_variable: Option<String>,
    /// Seconds that the server may take for one message, 1 to 600; then it is sent again.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u16,
}

fn default_timeout_s() -> u16 {
    30
}

/// `stdout` of the sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StdoutSink {}

impl Sinks {
    /// Tells `check` of each value whether it is good, and what is wrong otherwise.
    pub(super) fn check(&self, check: &mut impl FnMut(bool, String)) {
        if let Some(EdgeHubSink { output }) = &self.edge_hub {
            let message =
                format!("sinks.edge-hub.output: `{output}` has other than letters, digits, `_`, `-`");
            check(is_plain(output), message);
        }
        if let Some(sink) = &self.mqtt {
            match Endpoint::parse_mqtt(&sink.broker) {
                Ok(broker) => check(
                    !broker.tls || sink.authorities.is_some(),
                    "sinks.mqtt.authorities: `mqtts` needs the file with the authorities to trust".to_owned(),
                ),
                Err(error) => check(false, format!("sinks.mqtt.broker: {error}")),
            }
            let topic = &sink.topic;
            let good = !topic.is_empty()
                && topic.len() <= 1024
                && !topic.chars().any(|c| matches!(c, '#' | '+') || c.is_control());
            check(
                good,
                format!("sinks.mqtt.topic: `{topic}` is not a topic to publish on"),
            );
            check(
                sink.certificate.is_some() == sink.private_key.is_some(),
                "sinks.mqtt: `certificate` and `private-key` belong together".to_owned(),
            );
            check(
                sink.password_variable.is_none() || sink.user.is_some(),
                "sinks.mqtt: `password-variable` needs `user`".to_owned(),
            );
        }
        if let Some(sink) = &self.webhook {
            match Endpoint::parse_http(&sink.url) {
                Ok(url) => check(
                    !url.tls || sink.authorities.is_some(),
                    "sinks.webhook.authorities: `https` needs the file with the authorities to trust"
                        .to_owned(),
                ),
                Err(error) => check(false, format!("sinks.webhook.url: {error}")),
            }
            let message = format!(
                "sinks.webhook.timeout-s: from {} to {}",
                TIMEOUT_S.start(),
                TIMEOUT_S.end()
            );
            check(TIMEOUT_S.contains(&sink.timeout_s), message);
        }
    }
}
