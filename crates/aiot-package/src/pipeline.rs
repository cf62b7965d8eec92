//! What a module takes in and where its predictions go: `[model.<name>.edge.sources]`, `.sinks`, `.queue`,
//! `.drift` and `.capture` of `models.toml`, and the variable [`PIPELINE_VARIABLE`] that carries them into the module. Plain data; the code that
//! obeys it is `edge-runtime`.

use serde::{Deserialize, Serialize};

use crate::drift::DriftSpec;
use crate::endpoint::Endpoint;

/// The variable with a [`Pipeline`] as JSON. Absent: [`Pipeline::default`].
pub const PIPELINE_VARIABLE: &str = "AIOT_PIPELINE";

/// The bounds of what a bound on disk may be, in MiB.
const QUEUE_MIB: std::ops::RangeInclusive<u32> = 1..=65_536;

/// Where inputs come from and where predictions go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pipeline {
    /// Where inputs come from.
    #[serde(default)]
    pub sources: Sources,
    /// Where predictions go.
    #[serde(default)]
    pub sinks: Sinks,
    /// Where predictions wait for a sink that is away.
    #[serde(default)]
    pub queue: QueueSpec,
    /// How inputs are compared with the evaluation set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftSpec>,
    /// Where inputs are kept when the twin or a direct method asks for some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureSpec>,
}

/// Where inputs come from. HTTP always answers who asks; what is declared here is published to the sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sources {
    /// Messages that the edge hub routes to inputs of the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_hub: Option<EdgeHubSource>,
    /// `POST /v1/predict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// Files that appear in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectorySource>,
}

impl Default for Sources {
    /// The edge hub's inputs, all of them.
    fn default() -> Sources {
        Sources {
            edge_hub: Some(EdgeHubSource::default()),
            http: None,
            directory: None,
        }
    }
}

/// `edge-hub` of the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EdgeHubSource {
    /// Names of inputs; empty: all that routes lead to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
}

/// `http` of the sources: declared, what HTTP clients ask for goes to the sinks too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HttpSource {}

/// `directory` of the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectorySource {
    /// Absolute path in the container. Writers must rename complete files into it, or use names that begin with a
    /// dot until they are complete.
    pub path: String,
    /// Milliseconds between two looks, 50 to 3 600 000.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u32,
}

fn default_interval_ms() -> u32 {
    500
}

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
}

/// `stdout` of the sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StdoutSink {}

/// `[model.<name>.edge.queue]`: where predictions wait, one queue a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct QueueSpec {
    /// Absolute path of a writable folder in the container, a volume that outlives it. Without one predictions wait
    /// in memory, and are lost when the module ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The bound of each sink's queue, in MiB; beyond it the oldest are dropped and counted.
    #[serde(default = "default_queue_mib")]
    pub max_mib: u32,
}

fn default_queue_mib() -> u32 {
    8
}

impl Default for QueueSpec {
    fn default() -> QueueSpec {
        QueueSpec {
            directory: None,
            max_mib: default_queue_mib(),
        }
    }
}

/// `[model.<name>.edge.capture]`: where inputs are kept for retraining. Nothing is kept until the twin's `capture` or
/// the direct method `capture` says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CaptureSpec {
    /// Absolute path of a writable folder in the container, a volume.
    pub directory: String,
    /// The bound of what is kept, in MiB, 1 to 65 536; beyond it the oldest are removed.
    #[serde(default = "default_capture_mib")]
    pub max_mib: u32,
}

fn default_capture_mib() -> u32 {
    64
}

impl Pipeline {
    /// Everything that is wrong with the values, as `key: what is wanted`; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |good: bool, message: String| {
            if !good {
                problems.push(message);
            }
        };
        // Letters that need no escaping in topics and routes.
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        };
        let absolute = |path: &str| path.starts_with('/') && !path.contains('\0');
        for input in self.sources.edge_hub.iter().flat_map(|source| &source.inputs) {
            let message =
                format!("sources.edge-hub.inputs: `{input}` has other than letters, digits, `_`, `-`");
            check(plain(input), message);
        }
        if let Some(source) = &self.sources.directory {
            let path = &source.path;
            check(
                absolute(path),
                format!("sources.directory.path: `{path}` is not an absolute path"),
            );
            let message = "sources.directory.interval-ms: from 50 to 3600000".to_owned();
            check((50..=3_600_000).contains(&source.interval_ms), message);
        }
        if let Some(EdgeHubSink { output }) = &self.sinks.edge_hub {
            let message =
                format!("sinks.edge-hub.output: `{output}` has other than letters, digits, `_`, `-`");
            check(plain(output), message);
        }
        if let Some(sink) = &self.sinks.mqtt {
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
        if let Some(sink) = &self.sinks.webhook {
            match Endpoint::parse_http(&sink.url) {
                Ok(url) => check(
                    !url.tls || sink.authorities.is_some(),
                    "sinks.webhook.authorities: `https` needs the file with the authorities to trust"
                        .to_owned(),
                ),
                Err(error) => check(false, format!("sinks.webhook.url: {error}")),
            }
        }
        if let Some(directory) = &self.queue.directory {
            let message = format!("queue.directory: `{directory}` is not an absolute path");
            check(absolute(directory), message);
        }
        let message = format!("queue.max-mib: from {} to {}", QUEUE_MIB.start(), QUEUE_MIB.end());
        check(QUEUE_MIB.contains(&self.queue.max_mib), message);
        if let Some(CaptureSpec { directory, max_mib }) = &self.capture {
            let message = format!("capture.directory: `{directory}` is not an absolute path");
            check(absolute(directory), message);
            let message = format!(
                "capture.max-mib: from {} to {}",
                QUEUE_MIB.start(),
                QUEUE_MIB.end()
            );
            check(QUEUE_MIB.contains(max_mib), message);
        }
        if let Some((key, wanted)) = self.drift.as_ref().and_then(DriftSpec::problem) {
            check(false, format!("drift.{key}: {wanted}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_edge_hub() {
        assert_eq!(Pipeline::default().problems(), Vec::<String>::new());
        let sinks = Sinks::default();
        assert_eq!(sinks.edge_hub.unwrap().output, "predictions");
        assert!(sinks.mqtt.is_none() && sinks.webhook.is_none() && sinks.stdout.is_none());
    }

    #[test]
    fn mistakes_name_the_key() {
        let mut pipeline = Pipeline::default();
        pipeline.sources.edge_hub = Some(EdgeHubSource {
            inputs: vec!["a/b".into()],
        });
        pipeline.sources.directory = Some(DirectorySource {
            path: "in".into(),
            interval_ms: 1,
        });
        pipeline.sinks.edge_hub = Some(EdgeHubSink {
            output: String::new(),
        });
        pipeline.sinks.mqtt = Some(MqttSink {
            broker: "mqtts://b".into(),
            topic: "a/#".into(),
            client_id: None,
            user: None,
            password_variable: Some("P".into()),
            authorities: None,
            certificate: Some("/c".into()),
            private_key: None,
        });
        pipeline.sinks.webhook = Some(WebhookSink {
            url: "https://x".into(),
            authorities: None,
            authorization_variable: None,
        });
        pipeline.queue = QueueSpec {
            directory: Some("q".into()),
            max_mib: 0,
        };
        pipeline.capture = Some(CaptureSpec {
            directory: "c".into(),
            max_mib: 0,
        });
        pipeline.drift = Some(DriftSpec {
            window: 0,
            ..DriftSpec::default()
        });
        let problems = pipeline.problems();
        let keys = [
            "sources.edge-hub.inputs",
            "sources.directory.path",
            "sources.directory.interval-ms",
            "sinks.edge-hub.output",
            "sinks.mqtt.authorities",
            "sinks.mqtt.topic",
            "`certificate`",
            "`password-variable`",
            "sinks.webhook.authorities",
            "queue.directory",
            "queue.max-mib",
            "capture.directory",
            "capture.max-mib",
            "drift.window",
        ];
        assert_eq!(problems.len(), keys.len(), "{problems:#?}");
        for (problem, key) in problems.iter().zip(keys) {
            assert!(problem.contains(key), "{problem}: {key}");
        }
    }
}
