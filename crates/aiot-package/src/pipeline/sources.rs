//! `[model.<name>.edge.sources]`: where inputs come from.

use serde::{Deserialize, Serialize};

use super::{is_absolute, is_plain};

/// Milliseconds between two inputs.
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 0..=3_600_000;

/// Width and height of a camera's frames.
const SIDE: std::ops::RangeInclusive<u32> = 16..=8192;

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
    /// Frames of a camera.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera: Option<CameraSource>,
    /// Recorded inputs, played again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplaySource>,
}

impl Default for Sources {
    /// The edge hub's inputs, all of them.
    fn default() -> Sources {
        Sources {
            edge_hub: Some(EdgeHubSource::default()),
            http: None,
            directory: None,
            camera: None,
            replay: None,
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

/// `camera` of the sources: a Video4Linux device that gives Motion-JPEG or YUYV, as USB cameras do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CameraSource {
    /// Absolute path of the device in the container; create options must pass it in.
    #[serde(default = "default_device")]
    pub device: String,
    /// Width of the frames in pixels, 16 to 8192; the camera must have frames of that size.
    #[serde(default = "default_width")]
    pub width: u32,
    /// Height of the frames in pixels, 16 to 8192.
    #[serde(default = "default_height")]
    pub height: u32,
    /// Milliseconds between two predictions, 0 to 3 600 000; 0: as fast as frames and model allow. Frames between are
    /// dropped: the newest is taken.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u32,
}

fn default_device() -> String {
    "/dev/video0".to_owned()
}

fn default_width() -> u32 {
    640
}

fn default_height() -> u32 {
    480
}

/// `replay` of the sources: the files of a folder in the order of their names, which stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReplaySource {
    /// Absolute path in the container. Names that begin with a dot and `.json` files (which `capture` writes) are left
    /// out.
    pub path: String,
    /// Milliseconds between two inputs, 0 to 3 600 000.
    #[serde(default)]
    pub interval_ms: u32,
    /// How often all are played; 0: without end.
    #[serde(default = "once")]
    pub rounds: u32,
}

fn once() -> u32 {
    1
}

impl Sources {
    /// Tells `check` of each value whether it is good, and what is wrong otherwise.
    pub(super) fn check(&self, check: &mut impl FnMut(bool, String)) {
        for input in self.edge_hub.iter().flat_map(|source| &source.inputs) {
            let message =
                format!("sources.edge-hub.inputs: `{input}` has other than letters, digits, `_`, `-`");
            check(is_plain(input), message);
        }
        if let Some(source) = &self.directory {
            let path = &source.path;
            check(
                is_absolute(path),
                format!("sources.directory.path: `{path}` is not an absolute path"),
            );
            let message = "sources.directory.interval-ms: from 50 to 3600000".to_owned();
            check((50..=3_600_000).contains(&source.interval_ms), message);
        }
        let path = |check: &mut dyn FnMut(bool, String), key: &str, path: &str| {
            check(
                is_absolute(path),
                format!("sources.{key}: `{path}` is not an absolute path"),
            );
        };
        let interval = |check: &mut dyn FnMut(bool, String), source: &str, interval_ms: u32| {
            check(
                INTERVAL_MS.contains(&interval_ms),
                format!("sources.{source}.interval-ms: from 0 to {}", INTERVAL_MS.end()),
            );
        };
        if let Some(source) = &self.camera {
            path(check, "camera.device", &source.device);
            for (side, pixels) in [("width", source.width), ("height", source.height)] {
                check(
                    SIDE.contains(&pixels),
                    format!("sources.camera.{side}: from {} to {}", SIDE.start(), SIDE.end()),
                );
            }
            interval(check, "camera", source.interval_ms);
        }
        if let Some(source) = &self.replay {
            path(check, "replay.path", &source.path);
            interval(check, "replay", source.interval_ms);
        }
    }
}
