//! What every inference module shares: command line, self-test, HTTP service, metrics, IoT Edge client, sources and
//! sinks.
//!
//! A module is a `main` of a few lines that says its name and what it accepts; the model package in its image says
//! the rest. Special logic is a function that looks at each prediction and adds a remark of its own:
//!
//! ```no_run
//! use edge_runtime::{InputKind, ModuleSpec, Prediction, PredictionResult, Value};
//!
//! /// Tells the line's controller what to do.
//! fn decide(prediction: &Prediction) -> Option<Value> {
//!     match &prediction.result {
//!         PredictionResult::Classification { label: Some(label), .. } if label != "ok" => Some("reject".into()),
//!         _ => None,
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     edge_runtime::run(ModuleSpec { name: "sorter", accepts: InputKind::Picture, annotate: Some(decide) })
//! }
//! ```
//!
//! Data goes to stdout, talk to stderr. The module needs no writable file system and no root rights.

mod command;
mod flow;
mod health;
mod iotedge;
mod link;
mod log;
mod once;
mod outbox;
mod quiet;
mod serve;
mod settings;

use std::io::Write;
use std::process::ExitCode;

use aiot_inference::{Engine, Model};
use aiot_package::InputSpec;
use serde::Serialize;

pub use aiot_inference::postprocess::LabelProbability;
pub use aiot_inference::{Prediction, PredictionResult};
pub use serde_json::Value;

use command::Command;
use settings::Settings;

/// The guide's module compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/modules.md")]
struct Guide;

/// Exit code: done.
pub const EXIT_DONE: u8 = 0;
/// Exit code: an input could not be predicted, or the service is not ready.
pub const EXIT_FAILED: u8 = 1;
/// Exit code: the command line or the environment is wrong.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: the engine or the model package is unusable, or an address is taken.
pub const EXIT_SETUP: u8 = 3;
/// Exit code: the self-test found other outputs than the build.
pub const EXIT_SELF_TEST: u8 = 4;

/// A module: what differs between the binaries.
#[derive(Clone, Copy, Debug)]
pub struct ModuleSpec {
    /// Name in messages and in `/v2`.
    pub name: &'static str,
    /// The inputs that the module is made for; a package for others is refused.
    pub accepts: InputKind,
    /// Adds `annotation` to a prediction's JSON.
    pub annotate: Option<Annotate>,
}

/// Special logic: what to add to a prediction. Runs on the inference thread, so it should be quick.
pub type Annotate = fn(&Prediction) -> Option<Value>;

/// What a module takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// PNG and JPEG pictures.
    Picture,
    /// `.npy` and CSV sensor recordings.
    Signal,
    /// Whatever the package says.
    Any,
}

/// Runs the module: reads command line and environment, does what they say. The result is the process's exit code.
pub fn run(spec: ModuleSpec) -> ExitCode {
    let arguments: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(|text| text.into_string())
        .collect();
    let outcome = arguments
        .map_err(|text| Stop::usage(format!("the argument {text:?} is not UTF-8")))
        .and_then(|arguments| command::parse(&arguments).map_err(Stop::usage))
        .and_then(|invocation| {
            let environment = |name: &str| std::env::var(name).ok();
            let settings = Settings::new(environment, invocation.overrides).map_err(Stop::usage)?;
            execute(spec, &settings, invocation.command)
        });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(stop) => {
            log::error(&stop.message);
            ExitCode::from(stop.code)
        }
    }
}

/// Why the module ends early.
#[derive(Debug)]
struct Stop {
    code: u8,
    message: String,
}

impl Stop {
    fn usage(message: impl ToString) -> Stop {
        Stop {
            code: EXIT_USAGE,
            message: message.to_string(),
        }
    }

    fn setup(message: impl ToString) -> Stop {
        Stop {
            code: EXIT_SETUP,
            message: message.to_string(),
        }
    }
}

fn execute(spec: ModuleSpec, settings: &Settings, command: Command) -> Result<u8, Stop> {
    match command {
        Command::Help => {
            let _ = write!(std::io::stdout(), "{}", command::help(spec.name));
            Ok(EXIT_DONE)
        }
        Command::Version => {
            let _ = writeln!(std::io::stdout(), "{} {}", spec.name, env!("CARGO_PKG_VERSION"));
            Ok(EXIT_DONE)
        }
        Command::Health => health::probe(settings.http_address),
        Command::Predict(files) => once::predict(spec, &open(spec, settings)?.1, &files),
        Command::SelfTest => once::self_test(&open(spec, settings)?.1, &settings.model_dir),
        Command::Serve => {
            let (engine, model) = open(spec, settings)?;
            serve::serve(spec, settings, &engine, model)
        }
    }
}

fn open(spec: ModuleSpec, settings: &Settings) -> Result<(Engine, Model), Stop> {
    // Debian's library prints its noise when it opens the first model.
    let (engine, model) = quiet::without_schema_noise(|| {
        let engine = Engine::load(&settings.engine_library).map_err(Stop::setup)?;
        let model = Model::open(&settings.model_dir, &engine, &settings.session).map_err(Stop::setup)?;
        Ok::<_, Stop>((engine, model))
    })?;
    let fits = match model.package().input {
        InputSpec::Image(_) => spec.accepts != InputKind::Signal,
        InputSpec::Signal(_) => spec.accepts != InputKind::Picture,
    };
    if !fits {
        return Err(Stop::setup(format!(
            "model `{}` takes other inputs than module `{}`: choose the module for it in models.toml",
            model.package().name,
            spec.name
        )));
    }
    for warning in model.warnings() {
        log::warn(&format!("execution provider passed over: {warning}"));
    }
    log::info(&format!(
        "model `{}` {} ({}, {}) on ONNX Runtime {}, EXECUTION PROVIDER IN USE: {}",
        model.package().name,
        model.package().version,
        model.package().model.precision,
        model.digest().short(),
        engine.version(),
        model.provider_in_use()
    ));
    Ok((engine, model))
}

/// A prediction as it is published.
#[derive(Debug, Serialize)]
struct Published<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(flatten)]
    prediction: &'a Prediction,
    /// Whether inputs drift from the evaluation set; absent where nothing watches that.
    #[serde(skip_serializing_if = "Option::is_none")]
    drifting: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotation: Option<Value>,
}

impl<'a> Published<'a> {
    fn new(spec: ModuleSpec, prediction: &'a Prediction, drifting: Option<bool>) -> Self {
        Published {
            file: None,
            prediction,
            drifting,
            annotation: spec.annotate.and_then(|annotate| annotate(prediction)),
        }
    }
}
