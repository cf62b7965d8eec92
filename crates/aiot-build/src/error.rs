//! What can go wrong outside of the declarations.

use std::path::{Path, PathBuf};

use aiot_plan::ConfigError;
use aiot_plan::lock::LockError;

/// An error of the build, with what to do next in its text.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Mistakes in the declarations.
    #[error("{} in the declarations", count(.0.len(), "mistake"))]
    Config(Vec<ConfigError>),
    /// A file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `--locked`, and the lock or a record would have to change.
    #[error("--locked: {}", lines(.0))]
    Locked(Vec<String>),
    /// An action failed.
    #[error("`{action}` failed: {reason}")]
    Action {
        /// Its id.
        action: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Several actions failed.
    #[error("{}", lines(&.0.iter().map(ToString::to_string).collect::<Vec<_>>()))]
    Many(Vec<BuildError>),
    /// Models beyond their budget.
    #[error("{} not as good as models.toml asks for; make it better, or change its `acceptance`", lines(.0))]
    Acceptance(Vec<String>),
    /// A measurement contradicts the committed one.
    #[error("{}; if that is right, run `cargo xtask update records` and have the change reviewed", lines(.0))]
    Contradiction(Vec<String>),
    /// Committed files are not what the release makes.
    #[error("{} not up to date; run `cargo xtask release` and commit the result", .0.join(", "))]
    Drift(Vec<String>),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl BuildError {
    /// An action's failure from any error.
    pub fn action(action: &str, reason: impl ToString) -> BuildError {
        BuildError::Action {
            action: action.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// Any error that explains itself.
    pub fn other(reason: impl ToString) -> BuildError {
        BuildError::Other(reason.to_string())
    }
}

/// For `map_err`: an IO error with its path.
pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::Io { action, path, source }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

fn lines(list: &[String]) -> String {
    list.join("\n")
}
