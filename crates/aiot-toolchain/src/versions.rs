//! The tool versions that belong into the key of a compile.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::builder::Linker;
use crate::process::{ProcessError, clean_command, find_program, run};
use crate::wheels::LockedWheel;

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

/// Everything besides sources and target that decides the bytes of a module: tool → version, for the key.
///
/// zig's and cargo-zigbuild's versions come from `wheels` and not from their hashes: a host of another kind takes
/// other wheels of the same version and gives the same bytes. A system's compiler is asked, since it is what it is.
///
/// # Errors
/// [`VersionError::Linker`].
pub fn tool_versions(
    rustc: &RustcVersion,
    linker: &Linker,
    wheels: &[LockedWheel],
) -> Result<BTreeMap<String, String>, VersionError> {
    let mut versions = BTreeMap::from([("rustc".to_owned(), rustc.to_string())]);
    let asked = |program: &Path| {
        let mut command = clean_command(program, &|_| false);
        let answer = run(command.arg("--version"), &mut |_| {}).map_err(VersionError::Linker)?;
        Ok::<_, VersionError>(answer.lines().next().unwrap_or_default().trim().to_owned())
    };
    match linker {
        Linker::Zig(_) => {
            let tools = wheels
                .iter()
                .filter(|wheel| ["cargo-zigbuild", "ziglang"].contains(&&*wheel.package));
            versions.extend(tools.map(|wheel| (wheel.package.clone(), wheel.version.clone())));
        }
        Linker::System(system) => drop(versions.insert("gcc".to_owned(), asked(&system.gcc)?)),
        Linker::Container(container) => drop(versions.insert("cross".to_owned(), asked(&container.cross)?)),
    }
    Ok(versions)
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
    use crate::builder::SystemLinker;
    use crate::wheels::ZigTools;

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
    fn versions_of_wheels_and_of_the_systems_compiler() {
        let rustc = rustc_version(Path::new(env!("CARGO_MANIFEST_DIR")), None).unwrap();
        let wheel = |package: &str, version: &str| LockedWheel {
            package: package.to_owned(),
            version: version.to_owned(),
            filename: String::new(),
            sha256: String::new(),
            size_bytes: 0,
        };
        let wheels = [
            wheel("ziglang", "0.17.1"),
            wheel("onnxruntime", "1.32.0"),
            wheel("cargo-zigbuild", "0.24.0"),
        ];
        let nowhere = PathBuf::new();
        let zig = ZigTools {
            zig: nowhere.clone(),
            cargo_zigbuild: nowhere.clone(),
            cache_dir: nowhere,
        };
        let versions = tool_versions(&rustc, &Linker::Zig(zig), &wheels).unwrap();
        let names: Vec<String> = versions
            .into_iter()
            .map(|(tool, version)| format!("{tool} {version}"))
            .collect();
        assert_eq!(
            names,
            [
                "cargo-zigbuild 0.24.0".to_owned(),
                format!("rustc {rustc}"),
                "ziglang 0.17.1".to_owned()
            ]
        );

        let system = Linker::System(SystemLinker {
            gcc: PathBuf::from("rustc"),
            ar: None,
        });
        assert!(tool_versions(&rustc, &system, &wheels).unwrap()["gcc"].contains(&rustc.release));
    }

    #[test]
    fn the_compiler_of_this_build_answers() {
        let version = rustc_version(Path::new(env!("CARGO_MANIFEST_DIR")), None).unwrap();
        assert!(version.release.starts_with("1."), "{version}");
    }
}
