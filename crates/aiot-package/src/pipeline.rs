//! What a module takes in and where its predictions go: `[model.<name>.edge.sources]`, `.sinks`, `.queue`, `.requests`,
//! `.drift` and `.capture` of `models.toml`, and the variable [`PIPELINE_VARIABLE`] that carries them into the module.
//! Plain data; the code that obeys it is `edge-runtime`.

mod sinks;
mod sources;

use serde::{Deserialize, Serialize};

use crate::drift::DriftSpec;

pub use sinks::{EdgeHubSink, MqttSink, Sinks, StdoutSink, WebhookSink};
pub use sources::{CameraSource, DirectorySource, EdgeHubSource, HttpSource, ReplaySource, Sources};

/// The variable with a [`Pipeline`] as JSON. Absent: [`Pipeline::default`].
pub const PIPELINE_VARIABLE: &str = "AIOT_PIPELINE";

/// The bounds of what a bound on disk may be, in MiB.
const QUEUE_MIB: std::ops::RangeInclusive<u32> = 1..=65_536;

/// Requests that may wait.
const PLACES: std::ops::RangeInclusive<u8> = 1..=64;

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
    /// How many HTTP requests may wait, and who is refused then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestsSpec>,
}

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

/// `[model.<name>.edge.requests]`: HTTP requests that are read, wait or run at the same time. Inputs of other sources
/// wait for a place, however long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RequestsSpec {
    /// Places, 1 to 64; each may hold a body of 16 MiB.
    #[serde(default = "default_places")]
    pub places: u8,
    /// What happens to a request when all places are taken.
    #[serde(default)]
    pub when_full: WhenFull,
}

fn default_places() -> u8 {
    16
}

impl Default for RequestsSpec {
    fn default() -> RequestsSpec {
        RequestsSpec {
            places: default_places(),
            when_full: WhenFull::default(),
        }
    }
}

/// Who is answered 429 when all places are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The request that comes: what was accepted is answered in order.
    #[default]
    Refuse,
    /// The request that has waited longest: the newest inputs matter most.
    DropOldest,
}

/// Letters that need no escaping in topics and routes.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
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
        self.sources.check(&mut check);
        self.sinks.check(&mut check);
        if let Some(directory) = &self.queue.directory {
            let message = format!("queue.directory: `{directory}` is not an absolute path");
            check(is_absolute(directory), message);
        }
        let message = format!("queue.max-mib: from {} to {}", QUEUE_MIB.start(), QUEUE_MIB.end());
        check(QUEUE_MIB.contains(&self.queue.max_mib), message);
        if let Some(CaptureSpec { directory, max_mib }) = &self.capture {
            let message = format!("capture.directory: `{directory}` is not an absolute path");
            check(is_absolute(directory), message);
            let message = format!(
                "capture.max-mib: from {} to {}",
                QUEUE_MIB.start(),
                QUEUE_MIB.end()
            );
            check(QUEUE_MIB.contains(max_mib), message);
        }
        if let Some(RequestsSpec { places, .. }) = &self.requests {
            let message = format!("requests.places: from {} to {}", PLACES.start(), PLACES.end());
            check(PLACES.contains(places), message);
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
        pipeline.sources.camera = Some(CameraSource {
            device: "video0".into(),
            width: 8,
            height: 10_000,
            interval_ms: 3_600_001,
        });
        pipeline.sources.replay = Some(ReplaySource {
            path: "r".into(),
            interval_ms: 3_600_001,
            rounds: 0,
        });
        pipeline.requests = Some(RequestsSpec {
            places: 0,
            ..RequestsSpec::default()
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
            timeout_s: 0,
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
            "sources.camera.device",
            "sources.camera.width",
            "sources.camera.height",
            "sources.camera.interval-ms",
            "sources.replay.path",
            "sources.replay.interval-ms",
            "sinks.edge-hub.output",
            "sinks.mqtt.authorities",
            "sinks.mqtt.topic",
            "`certificate`",
            "`password-variable`",
            "sinks.webhook.authorities",
            "sinks.webhook.timeout-s",
            "queue.directory",
            "queue.max-mib",
            "capture.directory",
            "capture.max-mib",
            "requests.places",
            "drift.window",
        ];
        assert_eq!(problems.len(), keys.len(), "{problems:#?}");
        for (problem, key) in problems.iter().zip(keys) {
            assert!(problem.contains(key), "{problem}: {key}");
        }
    }
}
