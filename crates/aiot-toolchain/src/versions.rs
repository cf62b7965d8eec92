//! The tool versions that belong into the key of a compile: the compiler, and a linker that comes from no wheel.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::process::{ProcessError, clean_command, find_program, run};

/// The compiler, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustcVersion {
    /// `1.95.0`.
    pub release: String,
    /// The commit of rustc's own sources.
    pub commit_hash: String,
    /// The machine that it runs on, as a Rust target.
    pub host: String,
    /// The LLVM that generates code.
    pub llvm: String,
}

impl fmt::Display for RustcVersion {
    /// The part that decides the bytes: the host is left out on purpose, the output must not depend on it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rustc {} ({}), LLVM {}",
            self.release, self.commit_hash, self.llvm
        )
    }
}

/// Why a tool could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The linker is missing or refuses.
    #[error("the linker does not answer: {0}")]
    Linker(ProcessError),
    /// rustc is missing or refuses.
    #[error(
        "the Rust compiler does not answer: {0}; install the pinned toolchain with `rustup toolchain install`"
    )]
    Rustc(#[from] ProcessError),
    /// It answered something else.
    #[error("`rustc -vV` says nothing about `{field}`; is the `rustc` on the PATH a Rust compiler?")]
    Field {
        /// The line that is missing.
        field: &'static str,
    },
}

/// Asks the compiler that a workspace pins.
///
/// Takes some milliseconds where rustup keeps the pinned toolchain, since its compiler is asked directly; else
/// rustup is asked, which takes tens of milliseconds.
///
/// # Errors
/// [`VersionError`].
pub fn rustc_version(workspace_root: &Path, channel: Option<&str>) -> Result<RustcVersion, VersionError> {
    let rustc = channel
        .and_then(pinned_rustc)
        .unwrap_or_else(|| PathBuf::from("rustc"));
    let mut command = clean_command(rustc, &|name| name == "CARGO_HOME");
    command.arg("-vV").current_dir(workspace_root);
    parse(&run(&mut command, &mut |_| {})?)
}

/// The version of a linker that comes from no wheel (the system's compiler, `cross`), as it says itself, for the key.
///
/// # Errors
/// [`VersionError::Linker`].
pub fn linker_version(program: &Path) -> Result<String, VersionError> {
    let mut command = clean_command(program, &|_| false);
    let answer = run(command.arg("--version"), &mut |_| {}).map_err(VersionError::Linker)?;
    Ok(answer.lines().next().unwrap_or_default().trim().to_owned())
}

/// `rustc` of an installed toolchain, without rustup in between.
fn pinned_rustc(channel: &str) -> Option<PathBuf> {
    let is_name = channel
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    find_program("rustup").filter(|_| is_name)?;
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".rustup")))?;
    let os = match std::env::consts::OS {
        "linux" => "unknown-linux-gnu",
        "macos" => "apple-darwin",
        _ => return None,
    };
    let toolchain = format!("{channel}-{}-{os}", std::env::consts::ARCH);
    Some(home.join("toolchains").join(toolchain).join("bin").join("rustc")).filter(|path| path.is_file())
}

fn parse(answer: &str) -> Result<RustcVersion, VersionError> {
    let field = |name: &'static str| {
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value
            .map(|value| value.trim().to_owned())
            .ok_or(VersionError::Field { field: name })
    };
    Ok(RustcVersion {
        release: field("release")?,
        commit_hash: field("commit-hash")?,
        host: field("host")?,
        llvm: field("LLVM version")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_rustc_says() {
        let answer = "rustc 1.95.0 (5980 2026-04-14)\nbinary: rustc\ncommit-hash: 5980\ncommit-date: 2026-04-14\n\
                      host: x86_64-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        let version = parse(answer).unwrap();
        assert_eq!(version.to_string(), "rustc 1.95.0 (5980), LLVM 22.1.2");
        assert_eq!(version.host, "x86_64-unknown-linux-gnu");
        assert!(parse("gcc 12").unwrap_err().to_string().contains("`release`"));
    }

    #[test]
    fn a_linker_says_its_version() {
        let rustc = rustc_version(Path::new(env!("CARGO_MANIFEST_DIR")), None).unwrap();
        let version = linker_version(Path::new("rustc")).unwrap();
        assert!(version.contains(&rustc.release), "{version}");
        let error = linker_version(Path::new("no-such-linker"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("the linker does not answer"), "{error}");
    }

    #[test]
    fn the_compiler_of_this_build_answers() {
        let version = rustc_version(Path::new(env!("CARGO_MANIFEST_DIR")), None).unwrap();
        assert!(version.release.starts_with("1."), "{version}");
    }
}
