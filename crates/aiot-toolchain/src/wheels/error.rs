//! Why a wheel could not be had, read from what pip says.

use std::io;
use std::path::PathBuf;

use super::ArchiveError;
use crate::process::ProcessError;

/// Why a wheel could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// No Python.
    #[error(
        "`python3` is not on the PATH; install Python 3 with pip: `{requirement}` comes as a Python wheel"
    )]
    NoPython {
        /// What was wanted.
        requirement: String,
    },
    /// Python without pip.
    #[error(
        "`python3 -m pip` is missing; install pip (Debian: `apt-get install python3-pip`): `{requirement}` comes as a \
         Python wheel"
    )]
    NoPip {
        /// What was wanted.
        requirement: String,
    },
    /// The index did not answer.
    #[error(
        "pip cannot reach its package index for `{requirement}`; check the network and `pip config list`, or fetch \
         once while online: a locked wheel is kept in the store\n{source}"
    )]
    Unreachable {
        /// What was wanted.
        requirement: String,
        /// What pip said.
        source: ProcessError,
    },
    /// The index has no such wheel.
    #[error("pip's package index has no wheel `{requirement}` for {machine}\n{source}")]
    NoSuchWheel {
        /// What was wanted.
        requirement: String,
        /// For which machine.
        machine: String,
        /// What pip said.
        source: ProcessError,
    },
    /// pip failed otherwise.
    #[error("pip could not download `{requirement}`: {source}")]
    Pip {
        /// What was wanted.
        requirement: String,
        /// What pip said.
        source: ProcessError,
    },
    /// The bytes are not the locked ones.
    #[error(
        "{path} is not the locked wheel: {field} is {found}, the lock says {expected}; delete the file and fetch \
         again; if it stays so, the index serves other bytes than before: find out why before you update the lock"
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// `sha256`, `size` or `file name`.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A name or version with characters that no package has.
    #[error("`{text}` is no {what}")]
    BadRequest {
        /// What was read.
        text: String,
        /// What it should be.
        what: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read`, `create`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What came is no wheel that can be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// What pip's failure means.
pub(super) fn explain(source: ProcessError, requirement: &str, machine: &str) -> WheelError {
    let requirement = requirement.to_owned();
    let said = source.stderr_tail();
    // Without a network pip retries, then reports that no version was found.
    let is_unreachable = [
        "Retrying (",
        "NewConnectionError",
        "Could not fetch URL",
        "ConnectTimeout",
        "ProxyError",
    ]
    .iter()
    .any(|sign| said.contains(sign));
    if matches!(source, ProcessError::NotFound { .. }) {
        WheelError::NoPython { requirement }
    } else if said.contains("No module named pip") {
        WheelError::NoPip { requirement }
    } else if is_unreachable {
        WheelError::Unreachable { requirement, source }
    } else if said.contains("No matching distribution") {
        WheelError::NoSuchWheel {
            requirement,
            machine: machine.to_owned(),
            source,
        }
    } else {
        WheelError::Pip { requirement, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(stderr_tail: &str) -> ProcessError {
        let stderr_tail = stderr_tail.to_owned();
        ProcessError::Failed {
            command: "python3".to_owned(),
            status: "exit status: 1".to_owned(),
            stderr_tail,
        }
    }

    #[test]
    fn pip_failures_are_told_apart() {
        let check = |source: ProcessError, expected: &str| {
            let message = explain(source, "ziglang==0.17.1", "this machine").to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        check(
            ProcessError::NotFound {
                program: "python3".to_owned(),
            },
            "`python3` is not on the PATH",
        );
        check(
            failed("/usr/bin/python3: No module named pip"),
            "`python3 -m pip` is missing",
        );
        check(
            failed(
                "WARNING: Retrying (Retry(total=1, connect=None)) after connection broken by 'NewConnectionError'\n\
                 ERROR: No matching distribution found for ziglang==0.17.1",
            ),
            "pip cannot reach its package index",
        );
        check(
            failed("ERROR: No matching distribution found for ziglang==0.17.1"),
            "pip's package index has no wheel `ziglang==0.17.1` for this machine",
        );
        check(failed("ERROR: disk full"), "pip could not download");
    }
}
