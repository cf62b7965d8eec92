//! The one small place for ONNX Runtime.
//!
//! The library is loaded at run time from a path that the caller names, so that the same binary runs with the
//! wheel's library on a gateway, Debian's on a Raspberry Pi and NVIDIA's on a Jetson. In: an ONNX file's bytes and
//! [`SessionOptions`]. Out: [`Session`], which maps one float32 tensor to named float32 tensors.
//!
//! It never downloads, never guesses a path, and reads no environment variable of its own.

mod graph;
mod library;
mod session;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use aiot_package::Precision;
use serde::{Deserialize, Serialize};

pub use graph::{Array, Graph, GraphInput, Numbers, Optimize};
pub use library::LibraryFault;
pub use session::Session;

/// The oldest engine that we can speak to: 1.21, which Debian 13 ships for ARM32.
pub const OLDEST_ENGINE_MINOR_VERSION: u32 = ort::MINOR_VERSION;

/// What can go wrong with the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No library at the path.
    #[error("no inference engine at `{path}`: {source}; name the path of libonnxruntime.so", path = path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file cannot be loaded into this process.
    #[error("the inference engine `{path}` is not a usable library: {fault}; fetch it again for this processor", path = path.display())]
    Damaged {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        fault: LibraryFault,
    },
    /// The library speaks an older interface.
    #[error("the inference engine `{path}` is ONNX Runtime {found}; 1.{oldest} or newer is needed", path = path.display())]
    TooOld {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest minor version that works.
        oldest: u32,
    },
    /// A process holds one engine.
    #[error("this process runs the inference engine `{loaded}` already; it cannot load `{asked}` beside it", loaded = loaded.display(), asked = asked.display())]
    AnotherLoaded {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        asked: PathBuf,
    },
    /// The library was loaded and refuses to start.
    #[error("the inference engine `{path}` does not start: {message}", path = path.display())]
    Start {
        /// The library.
        path: PathBuf,
        /// Its message.
        message: String,
    },
    /// None of the providers takes the model.
    #[error("no execution provider accepts the model: {}", reasons.join("; "))]
    NoProvider {
        /// What each provider said, in the order tried.
        reasons: Vec<String>,
    },
    /// The provider that must run the model does not.
    #[error("execution provider `{required}` is required and not available: {}", reasons.join("; "))]
    RequiredProvider {
        /// The provider asked for.
        required: ExecutionProvider,
        /// What was tried.
        reasons: Vec<String>,
    },
    /// The graph has a tensor that is not float32.
    #[error("{side} `{name}` of the model is {found}; inputs and outputs must be float32 tensors")]
    NotFloat32 {
        /// `input` or `output`.
        side: &'static str,
        /// Name in the graph.
        name: String,
        /// What it is.
        found: String,
    },
    /// The graph does not have exactly one input.
    #[error("the model has {count} inputs; exactly one is supported")]
    InputCount {
        /// How many it has.
        count: usize,
    },
    /// The tensor does not fit the graph's input.
    #[error("the model's input is {expected}; got a tensor of shape {got:?}")]
    InputShape {
        /// The graph's input.
        expected: String,
        /// The shape given.
        got: Vec<usize>,
    },
    /// A run failed.
    #[error("inference failed: {message}")]
    Run {
        /// The engine's message.
        message: String,
    },
}

/// Where ONNX Runtime computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutionProvider {
    /// NVIDIA TensorRT.
    Tensorrt,
    /// NVIDIA CUDA.
    Cuda,
    /// The processor; in every library.
    Cpu,
}

impl ExecutionProvider {
    /// The name in declarations and environment variables.
    pub fn as_str(self) -> &'static str {
        match self {
            ExecutionProvider::Tensorrt => "tensorrt",
            ExecutionProvider::Cuda => "cuda",
            ExecutionProvider::Cpu => "cpu",
        }
    }
}

impl fmt::Display for ExecutionProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no execution provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an execution provider; known are tensorrt, cuda, cpu")]
pub struct UnknownProvider(pub String);

impl FromStr for ExecutionProvider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, UnknownProvider> {
        [
            ExecutionProvider::Tensorrt,
            ExecutionProvider::Cuda,
            ExecutionProvider::Cpu,
        ]
        .into_iter()
        .find(|provider| provider.as_str() == name)
        .ok_or_else(|| UnknownProvider(name.chars().take(80).collect()))
    }
}

/// How a session computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads inside one operator; 0 lets the engine take all cores.
    pub intra_threads: usize,
    /// Tried in this order; the first that accepts the model runs it.
    pub providers: Vec<ExecutionProvider>,
    /// A fall-back to another provider than this is an error.
    pub require_provider: Option<ExecutionProvider>,
    /// Whether the engine may rewrite the graph. Off only to observe tensors as the file names them.
    pub optimize: bool,
}

impl Default for SessionOptions {
    /// One thread on the processor, optimized.
    fn default() -> Self {
        SessionOptions {
            intra_threads: 1,
            providers: vec![ExecutionProvider::Cpu],
            require_provider: None,
            optimize: true,
        }
    }
}

/// ONNX Runtime, loaded into this process.
#[derive(Clone, Debug)]
pub struct Engine {
    environment: ort::environment::Environment,
    path: PathBuf,
    version: String,
}

/// ONNX Runtime keeps state per process, so this crate does too.
static LOADED: Mutex<Option<Engine>> = Mutex::new(None);

impl Engine {
    /// Loads the library at `path`; loading the same one again gives the same engine.
    ///
    /// # Errors
    /// [`EngineError::Missing`], [`EngineError::Damaged`] and [`EngineError::TooOld`] name the path, and after each of
    /// them another path may be tried. [`EngineError::AnotherLoaded`] when this process runs another library.
    pub fn load(path: &Path) -> Result<Engine, EngineError> {
        let missing = |source| EngineError::Missing {
            path: path.to_owned(),
            source,
        };
        let path = path.canonicalize().map_err(missing)?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*loaded {
            if engine.path == path {
                return Ok(engine.clone());
            }
            return Err(EngineError::AnotherLoaded {
                loaded: engine.path.clone(),
                asked: path,
            });
        }
        library::check(&path).map_err(|fault| EngineError::Damaged {
            path: path.clone(),
            fault,
        })?;
        let builder = ort::init_from(&path).map_err(|error| match error {
            ort::LoadDynamicError::BadVersion { version_str, .. } => EngineError::TooOld {
                path: path.clone(),
                found: version_str,
                oldest: OLDEST_ENGINE_MINOR_VERSION,
            },
            other => EngineError::Damaged {
                path: path.clone(),
                fault: LibraryFault::Refused(other.to_string()),
            },
        })?;
        let environment = builder
            .with_name("aiot")
            .with_telemetry(false)
            .build()
            .map_err(|error| EngineError::Start {
                path: path.clone(),
                message: error.to_string(),
            })?;
        let version = match ort::util::probe(&path) {
            Some(minor) => format!("1.{minor}"),
            None => "unknown".to_owned(),
        };
        let engine = Engine {
            environment,
            path,
            version,
        };
        *loaded = Some(engine.clone());
        Ok(engine)
    }

    /// Major and minor version of the library, as in `1.32`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The library's path, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A session for the ONNX file `onnx`, whose numbers are stored as `precision` says (TensorRT must be told).
    ///
    /// # Errors
    /// [`EngineError::NoProvider`] with every provider's reason, [`EngineError::RequiredProvider`],
    /// [`EngineError::InputCount`] and [`EngineError::NotFloat32`] for graphs outside of this crate's scope.
    pub fn session(
        &self,
        onnx: &[u8],
        precision: Precision,
        options: &SessionOptions,
    ) -> Result<Session, EngineError> {
        session::open(&self.environment, onnx, precision, options)
    }

    /// The ONNX file `onnx` with any number of inputs, on one thread of the processor.
    ///
    /// # Errors
    /// [`EngineError::NoProvider`] with the engine's reason, [`EngineError::Run`] for inputs that are no tensors.
    pub fn graph(&self, onnx: &[u8], optimize: Optimize) -> Result<Graph, EngineError> {
        graph::open(&self.environment, onnx, optimize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_have_names() {
        for provider in [
            ExecutionProvider::Tensorrt,
            ExecutionProvider::Cuda,
            ExecutionProvider::Cpu,
        ] {
            assert_eq!(provider.as_str().parse(), Ok(provider));
        }
        assert!("CPU".parse::<ExecutionProvider>().is_err());
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = Engine::load(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
        assert!(matches!(error, EngineError::Missing { .. }));
        assert!(
            error.to_string().contains("/nowhere/libonnxruntime.so"),
            "{error}"
        );
    }
}
