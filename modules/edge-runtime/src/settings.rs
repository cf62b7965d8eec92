//! What the environment and the command line set.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aiot_inference::{ExecutionProvider, SessionOptions};
use aiot_package::{
    PACKAGE_DIR, PIPELINE_VARIABLE, Pipeline, SHADOW_DIR, SHADOW_SHARE_VARIABLE, SHADOW_TOLERANCE_VARIABLE,
};

use crate::command::Overrides;
use crate::flow::ShadowSettings;
use crate::iotedge::EdgeEnvironment;

/// Seconds that an HTTP client may be silent unless the environment says otherwise.
const HTTP_TIMEOUT_S: u64 = 10;

/// Where everything is.
#[derive(Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) model_dir: PathBuf,
    pub(crate) engine_library: PathBuf,
    pub(crate) http_address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    /// How long an HTTP client may be silent.
    pub(crate) http_timeout: Duration,
    pub(crate) session: SessionOptions,
    /// Where inputs come from and predictions go.
    pub(crate) pipeline: Pipeline,
    /// Where the image has a challenger.
    pub(crate) shadow: Option<ShadowSettings>,
    /// Under IoT Edge only.
    pub(crate) edge: Option<EdgeEnvironment>,
    pub(crate) secrets: Secrets,
}

/// Values of the variables that the pipeline names; never shown.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Secrets {
    pub(crate) mqtt_password: Option<String>,
    pub(crate) webhook_authorization: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Settings {
    /// From `environment` (name → value) with `overrides` above it. An empty variable counts as absent, since a
    /// deployment manifest cannot remove one.
    pub(crate) fn new(
        environment: impl Fn(&str) -> Option<String>,
        overrides: Overrides,
    ) -> Result<Settings, String> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let address = |given: Option<String>, name: &str, default: &str| {
            let text = given
                .or_else(|| variable(name))
                .unwrap_or_else(|| default.to_owned());
            text.parse::<SocketAddr>()
                .map_err(|_| format!("{name}: `{text}` is not an address like `0.0.0.0:8080`"))
        };
        let provider = |name: &str, text: &str| {
            text.trim()
                .parse::<ExecutionProvider>()
                .map_err(|error| format!("{name}: {error}"))
        };
        let mut session = SessionOptions::default();
        if let Some(list) = variable("AIOT_EXECUTION_PROVIDERS") {
            session.providers = list
                .split(',')
                .map(|text| provider("AIOT_EXECUTION_PROVIDERS", text))
                .collect::<Result<_, _>>()?;
        }
        if let Some(text) = variable("AIOT_REQUIRE_PROVIDER") {
            session.require_provider = Some(provider("AIOT_REQUIRE_PROVIDER", &text)?);
        }
        if let Some(text) = variable("AIOT_INTRA_THREADS") {
            session.intra_threads = text
                .parse::<u8>()
                .map_err(|_| format!("AIOT_INTRA_THREADS: `{text}` is not a number from 0 to 255"))?
                .into();
        }
        let http_timeout = match variable("AIOT_HTTP_TIMEOUT_S") {
            None => HTTP_TIMEOUT_S,
            Some(text) => text
                .parse::<u64>()
                .ok()
                .filter(|seconds| (1..=3600).contains(seconds))
                .ok_or_else(|| format!("AIOT_HTTP_TIMEOUT_S: `{text}` is not a number from 1 to 3600"))?,
        };
        let pipeline = match variable(PIPELINE_VARIABLE) {
            None => Pipeline::default(),
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| format!("{PIPELINE_VARIABLE}: {error}"))?
            }
        };
        if let Some(problem) = pipeline.problems().first() {
            return Err(format!("{PIPELINE_VARIABLE}: {problem}"));
        }
        let secret = |name: Option<&String>| match name {
            None => Ok(None),
            Some(name) => variable(name)
                .map(Some)
                .ok_or_else(|| format!("{name} is not set, and {PIPELINE_VARIABLE} names it")),
        };
        let sinks = &pipeline.sinks;
        let secrets = Secrets {
            mqtt_password: secret(
                sinks
                    .mqtt
                    .as_ref()
                    .and_then(|sink| sink.password_variable.as_ref()),
            )?,
            webhook_authorization: secret(
                sinks
                    .webhook
                    .as_ref()
                    .and_then(|sink| sink.authorization_variable.as_ref()),
            )?,
        };
        let number = |name: &str, good: fn(f64) -> bool, wanted: &str| match variable(name) {
            None => Ok(None),
            Some(text) => match text.parse::<f64>().ok().filter(|number| good(*number)) {
                Some(number) => Ok(Some(number)),
                None => Err(format!("{name}: `{text}` is not a number {wanted}")),
            },
        };
        let share = number(
            SHADOW_SHARE_VARIABLE,
            |share| share > 0.0 && share <= 1.0,
            "above 0 and at most 1",
        )?;
        let tolerance = number(
            SHADOW_TOLERANCE_VARIABLE,
            |tolerance| tolerance.is_finite() && tolerance >= 0.0,
            "of 0 or more",
        )?;
        let shadow = share.map(|share| ShadowSettings {
            dir: variable("AIOT_SHADOW_DIR")
                .unwrap_or_else(|| SHADOW_DIR.to_owned())
                .into(),
            share,
            tolerance: tolerance.unwrap_or(0.0),
        });
        let path = |given: Option<PathBuf>, name: &str, default: &str| {
            given
                .or_else(|| variable(name).map(PathBuf::from))
                .unwrap_or_else(|| default.into())
        };
        Ok(Settings {
            model_dir: path(overrides.model_dir, "AIOT_MODEL_DIR", PACKAGE_DIR),
            engine_library: path(
                overrides.engine_library,
                "AIOT_ENGINE_LIBRARY",
                "/usr/lib/libonnxruntime.so",
            ),
            http_address: address(overrides.http_address, "AIOT_HTTP_ADDRESS", "0.0.0.0:8080")?,
            http_timeout: Duration::from_secs(http_timeout),
            metrics_address: address(overrides.metrics_address, "AIOT_METRICS_ADDRESS", "0.0.0.0:9600")?,
            session,
            pipeline,
            shadow,
            edge: EdgeEnvironment::new(&environment)?,
            secrets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], overrides: Overrides) -> Result<Settings, String> {
        let find = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_string())
        };
        Settings::new(find, overrides)
    }

    #[test]
    fn defaults_environment_command_line() {
        let plain = settings(&[], Overrides::default()).unwrap();
        assert_eq!(plain.model_dir, PathBuf::from("/model"));
        assert_eq!(plain.http_address.to_string(), "0.0.0.0:8080");
        assert_eq!(plain.session, SessionOptions::default());
        assert_eq!(plain.shadow, None);

        let variables = [
            ("AIOT_SHADOW_SHARE", "0.25"),
            ("AIOT_MODEL_DIR", "/a"),
            ("AIOT_EXECUTION_PROVIDERS", "tensorrt, cuda,cpu"),
            ("AIOT_REQUIRE_PROVIDER", "cuda"),
            ("AIOT_INTRA_THREADS", "4"),
            ("AIOT_HTTP_ADDRESS", ""),
        ];
        let overrides = Overrides {
            model_dir: Some("/b".into()),
            ..Overrides::default()
        };
        let set = settings(&variables, overrides).unwrap();
        assert_eq!(set.model_dir, PathBuf::from("/b"));
        assert_eq!(set.session.providers.len(), 3);
        assert_eq!(set.session.require_provider, Some(ExecutionProvider::Cuda));
        assert_eq!(set.session.intra_threads, 4);
        assert_eq!(set.http_address.port(), 8080);
        let shadow = set.shadow.unwrap();
        assert_eq!((shadow.dir, shadow.share), (PathBuf::from("/shadow"), 0.25));
    }

    #[test]
    fn mistakes_name_the_variable() {
        for (name, value) in [
            ("AIOT_EXECUTION_PROVIDERS", "gpu"),
            ("AIOT_REQUIRE_PROVIDER", "npu"),
            ("AIOT_INTRA_THREADS", "many"),
            ("AIOT_HTTP_ADDRESS", "8080"),
            ("AIOT_METRICS_ADDRESS", "here:9600"),
            ("AIOT_HTTP_TIMEOUT_S", "0"),
            ("AIOT_SHADOW_SHARE", "0"),
            ("AIOT_SHADOW_SHARE", "NaN"),
            ("AIOT_SHADOW_TOLERANCE", "-1"),
            ("AIOT_PIPELINE", "{"),
            ("AIOT_PIPELINE", r#"{"sinks": {"fax": {}}}"#),
            ("AIOT_PIPELINE", r#"{"queue": {"directory": "q"}}"#),
        ] {
            let error = settings(&[(name, value)], Overrides::default()).unwrap_err();
            assert!(error.starts_with(name), "{error}");
            assert!(name == "AIOT_PIPELINE" || error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_pipeline_and_its_secrets() {
        let pipeline = r#"{"sinks": {"mqtt": {"broker": "mqtt://b", "topic": "t", "user": "u", "password-variable": "P"}}}"#;
        let error = settings(&[("AIOT_PIPELINE", pipeline)], Overrides::default()).unwrap_err();
        assert!(error.starts_with("P is not set"), "{error}");
        let set = settings(
            &[("AIOT_PIPELINE", pipeline), ("P", "hidden")],
            Overrides::default(),
        )
        .unwrap();
        assert_eq!(set.secrets.mqtt_password.as_deref(), Some("hidden"));
        assert!(!format!("{set:?}").contains("hidden"));
        // What is declared is all there is; the edge hub's inputs stay, since no sources are declared.
        assert!(set.pipeline.sinks.edge_hub.is_none() && set.pipeline.sources.edge_hub.is_some());
        assert_eq!(set.edge, None);
    }
}
