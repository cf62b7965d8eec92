//! What can be wrong with a release.

use thiserror::Error;

use crate::create_options::CreateOptionsError;
use crate::syntax::SyntaxError;

/// One thing that is wrong, and where. A release is reported with all of them.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{place}: {problem}")]
pub struct ManifestError {
    /// In the words of the declarations: ``target `rpi-arm64`, module `digits`, route `out` ``.
    pub place: String,
    /// What is wrong and what to do next.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Problem {
    /// A name has characters that ids, files or schemas do not take.
    #[error("`{name}` is not a name: use {allowed}")]
    Name {
        /// As given.
        name: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// The same name twice where one is asked for.
    #[error("the name is used again in {other}: {why}")]
    Repeated {
        /// The other place.
        other: String,
        /// What would happen.
        why: &'static str,
    },
    /// Two targets want the same devices.
    #[error(
        "the condition is that of target `{other}`: a device takes one base deployment, so tell the two apart"
    )]
    SameDevices {
        /// The other target.
        other: String,
    },
    /// An image reference that the edge agent refuses or that does not say which bytes.
    #[error("image `{image}` {problem}")]
    Image {
        /// As given.
        image: String,
        /// What is wrong with it and what to write.
        problem: &'static str,
    },
    /// A target condition that cannot be read.
    #[error("condition `{text}`: {error}")]
    Condition {
        /// As given.
        text: String,
        /// Where and why.
        error: SyntaxError,
    },
    /// A route that cannot be read.
    #[error("route `{text}`: {error}")]
    Route {
        /// As given.
        text: String,
        /// Where and why.
        error: SyntaxError,
    },
    /// A route names a module that need not be on the device.
    #[error("the route names module `{module}`, which {problem}")]
    RouteModule {
        /// The module.
        module: String,
        /// Why it may be missing, and what to do.
        problem: String,
    },
    /// A ring's policy that cannot be obeyed.
    #[error("{problem}")]
    Ring {
        /// What is wrong and what to write.
        problem: String,
    },
    /// createOptions that do not fit.
    #[error(transparent)]
    CreateOptions(#[from] CreateOptionsError),
    /// A variable is set twice, or belongs to the runtime.
    #[error("variable `{name}` {problem}")]
    Variable {
        /// Name of the variable.
        name: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// A value looks like a secret.
    #[error(
        "the value looks like {kind}: put a placeholder such as ${{{suggestion}}} there; \
             deployments are committed and every reader of the hub sees them"
    )]
    Secret {
        /// What it looks like.
        kind: &'static str,
        /// A name for the placeholder.
        suggestion: String,
    },
    /// A limit of the service.
    #[error("{what}: {used} of {limit}; {help}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How much there is.
        used: u64,
        /// How much there may be.
        limit: u64,
        /// What to do.
        help: &'static str,
    },
    /// A key or value that a twin does not take.
    #[error("`{path}` {problem}")]
    TwinValue {
        /// Keys from the desired section down, joined by `.`; long ones are cut.
        path: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
}

impl ManifestError {
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<Problem>) -> Self {
        ManifestError {
            place: place.into(),
            problem: problem.into(),
        }
    }
}
