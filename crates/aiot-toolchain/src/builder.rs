//! Who compiles and links: zig, the system's cross compiler, or a container.
//!
//! zig is the default everywhere, also for the host's own processor: it comes in a pinned wheel, needs no root
//! rights, links against the C library version that the target asks for, and gives the same bytes on any machine. The
//! system's linkers and libraries differ from machine to machine; they are for targets that zig does not serve well.

use std::path::PathBuf;

use crate::process::find_program;
use crate::triple::TripleFacts;
use crate::wheels::ZigTools;

/// A [builder](aiot_plan::declare::BuilderKind) that is ready to work for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linker {
    /// zig, unpacked.
    Zig(ZigTools),
    /// The system's C compiler for the target.
    System(SystemLinker),
    /// `cross` with a container engine.
    Container(ContainerBuilder),
}

/// The system's C compiler for one target, used as linker and for C in dependencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemLinker {
    /// `…/aarch64-linux-gnu-gcc`.
    pub gcc: PathBuf,
    /// The archiver beside it, if there is one of its own.
    pub ar: Option<PathBuf>,
}

/// `cross` and the engine that it drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerBuilder {
    /// The program `cross`.
    pub cross: PathBuf,
    /// `podman` or `docker`.
    pub engine: PathBuf,
}

/// Why a builder cannot work here. `zigbuild` has no such reasons: its errors are those of its wheels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuilderError {
    /// No cross compiler.
    #[error(
        "no C compiler for {triple} is on the PATH (looked for {}); on Debian: `apt-get install {packages}`; or leave \
         out `builder = \"cargo\"`: the default, zig, needs no packages",
        looked_for.join(", ")
    )]
    NoCompiler {
        /// The target.
        triple: &'static str,
        /// The programs that would do.
        looked_for: Vec<String>,
        /// The Debian packages that bring the first.
        packages: &'static str,
    },
    /// No `cross`.
    #[error(
        "`cross` is not on the PATH; `cargo install --locked cross` brings it; or leave out `builder = \"cross\"`: the \
         default, zig, needs no container"
    )]
    NoCross,
    /// No container engine.
    #[error(
        "`builder = \"cross\"` needs a container engine, and neither podman nor docker is on the PATH; install one, or \
         leave out the key: the default, zig, needs no container"
    )]
    NoEngine,
}

/// Finds the system's C compiler for a target. `host` is the machine that compiles, as a Rust target.
///
/// # Errors
/// [`BuilderError::NoCompiler`], naming the package that brings it.
pub fn system_linker(triple: &TripleFacts, host: &str) -> Result<SystemLinker, BuilderError> {
    system_linker_with(triple, host, &find_program)
}

fn system_linker_with(
    triple: &TripleFacts,
    host: &str,
    find: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<SystemLinker, BuilderError> {
    // Debian's prefix, then the prefix of toolchains that are named by the whole target.
    let mut prefixes = vec![format!("{}-", triple.gnu_prefix)];
    let unknown = triple.gnu_prefix.replacen("-linux-", "-unknown-linux-", 1);
    prefixes.push(format!("{unknown}-"));
    if triple.triple == host {
        prefixes.push(String::new());
    }
    let found = prefixes.iter().find_map(|prefix| {
        let gcc = find(&format!("{prefix}gcc"))?;
        Some(SystemLinker {
            gcc,
            ar: find(&format!("{prefix}ar")),
        })
    });
    found.ok_or_else(|| BuilderError::NoCompiler {
        triple: triple.triple,
        looked_for: prefixes.iter().map(|prefix| format!("{prefix}gcc")).collect(),
        packages: triple.debian_packages,
    })
}

/// Finds `cross` and a container engine; podman first, since it needs no daemon.
///
/// # Errors
/// [`BuilderError::NoCross`] or [`BuilderError::NoEngine`].
pub fn container_builder() -> Result<ContainerBuilder, BuilderError> {
    container_builder_with(&find_program)
}

fn container_builder_with(find: &dyn Fn(&str) -> Option<PathBuf>) -> Result<ContainerBuilder, BuilderError> {
    let cross = find("cross").ok_or(BuilderError::NoCross)?;
    let engine = find("podman")
        .or_else(|| find("docker"))
        .ok_or(BuilderError::NoEngine)?;
    Ok(ContainerBuilder { cross, engine })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triple::triple_facts;

    fn machine_with(programs: &'static [&'static str]) -> impl Fn(&str) -> Option<PathBuf> {
        move |name| programs.contains(&name).then(|| PathBuf::from("/bin").join(name))
    }

    #[track_caller]
    fn linker(triple: &str, host: &str, programs: &'static [&'static str], expected: Result<&str, &str>) {
        let found = system_linker_with(triple_facts(triple).unwrap(), host, &machine_with(programs));
        let found = found
            .map(|linker| linker.gcc.display().to_string())
            .map_err(|error| error.to_string());
        match (&found, expected) {
            (Ok(gcc), Ok(expected)) => assert_eq!(gcc, expected),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            _ => panic!("{found:?}"),
        }
    }

    const ARM64: &str = "aarch64-unknown-linux-gnu";
    const ARMV7: &str = "armv7-unknown-linux-gnueabihf";
    const X86: &str = "x86_64-unknown-linux-gnu";

    #[test]
    fn compilers_are_found_by_prefix() {
        linker(
            ARM64,
            X86,
            &["gcc", "aarch64-linux-gnu-gcc"],
            Ok("/bin/aarch64-linux-gnu-gcc"),
        );
        linker(
            ARMV7,
            X86,
            &["arm-unknown-linux-gnueabihf-gcc"],
            Ok("/bin/arm-unknown-linux-gnueabihf-gcc"),
        );
        linker(X86, X86, &["gcc"], Ok("/bin/gcc"));
        linker(
            ARM64,
            X86,
            &["gcc"],
            Err("apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        );
        linker(
            ARMV7,
            X86,
            &[],
            Err("arm-linux-gnueabihf-gcc, arm-unknown-linux-gnueabihf-gcc"),
        );
    }

    #[test]
    fn cross_needs_an_engine() {
        assert_eq!(
            container_builder_with(&machine_with(&["podman"])),
            Err(BuilderError::NoCross)
        );
        assert_eq!(
            container_builder_with(&machine_with(&["cross"])),
            Err(BuilderError::NoEngine)
        );
        let both = container_builder_with(&machine_with(&["cross", "podman", "docker"])).unwrap();
        assert_eq!(both.engine, PathBuf::from("/bin/podman"));
    }
}
