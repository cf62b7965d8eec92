//! What can go wrong between a staged module and a program that is right.

use std::path::PathBuf;

use crate::crates::CratesError;
use crate::elf::{ElfError, ElfProblem};
use crate::process::ProcessError;
use crate::sources::SourcesError;
use crate::versions::VersionError;

/// Why a module could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// No compiler.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The standard library of the target is missing and cannot be fetched.
    #[error("the Rust standard library for {triple} is not installed: {hint}")]
    NoTarget {
        /// The target.
        triple: &'static str,
        /// What to do.
        hint: String,
    },
    /// The dependencies could not be fetched.
    #[error("cannot fetch what `{module}` depends on{}: {source}", if *.is_offline {
        " (offline; run once with a network, the crates stay in cargo's home)"
    } else {
        ""
    })]
    Fetch {
        /// The module.
        module: String,
        /// Whether the network was off limits.
        is_offline: bool,
        /// What cargo said.
        source: ProcessError,
    },
    /// cargo wants a crate that the workspace's lock does not hold.
    #[error(
        "`{module}` would be built with `{package}`, which the workspace's Cargo.lock does not hold; run `cargo \
         metadata` once to bring the lock up to date, and review its diff"
    )]
    LockDrift {
        /// The module.
        module: String,
        /// Name and version.
        package: String,
    },
    /// The stage's lock could not be read.
    #[error(transparent)]
    Lock(#[from] SourcesError),
    /// cargo failed.
    #[error("`{module}` does not compile for {triple}: {source}")]
    Build {
        /// The module.
        module: String,
        /// The target.
        triple: &'static str,
        /// What cargo said.
        source: ProcessError,
    },
    /// A folder or the program could not be read or made.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The program is no ELF file.
    #[error("{path}: {source}")]
    Elf {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        source: ElfError,
    },
    /// What the program is made of could not be asked.
    #[error("cannot list what `{module}` is made of for {triple}: {source}")]
    Metadata {
        /// The module.
        module: String,
        /// The target.
        triple: &'static str,
        /// What cargo said.
        source: ProcessError,
    },
    /// The list of the program's crates could not be made or written into it.
    #[error("the crates of `{module}`: {source}")]
    Crates {
        /// The module.
        module: String,
        /// What is wrong.
        source: CratesError,
    },
    /// The program does not run on the target.
    #[error("`{module}` compiled for {triple} would not run there:{}", list(.problems))]
    Unfit {
        /// The module.
        module: String,
        /// The target.
        triple: &'static str,
        /// Why, at least one reason.
        problems: Vec<ElfProblem>,
    },
    /// The program names a folder of this machine, so its bytes depend on where it was built.
    #[error(
        "`{module}` compiled for {triple} holds `{text}`, a path of this machine; another machine would give other \
         bytes: look for env!(\"CARGO_MANIFEST_DIR\"), env!(\"OUT_DIR\") or a build script that writes a path"
    )]
    HostPath {
        /// The module.
        module: String,
        /// The target.
        triple: &'static str,
        /// The path as it stands in the program.
        text: String,
    },
}

fn list(problems: &[ElfProblem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  - {problem}"))
        .collect()
}
