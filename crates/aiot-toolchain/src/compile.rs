//! One module for one target: the staged sources → an ELF program that is right, or an error that says what is not.
//!
//! Four steps: the target's standard library is there (`rustup target add` otherwise), the crates are there
//! (`cargo fetch`), cargo's lock holds nothing that the excerpt does not, then one build with a declared environment
//! (`flags` holds what makes the bytes independent of folders). The list of its crates is written into the program
//! ([`crates`](crate::crates)). The result is read: machine, loader, C library version, and that no folder of this
//! machine is left in it.

mod error;
mod flags;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::GlibcVersion;
use crate::builder::Linker;
use crate::crates::CrateList;
use crate::elf::{ElfFacts, Expectation, check, inspect};
use crate::process::{clean_command, find_program, run};
use crate::sources::{LockEntry, MODULE_PROFILE, read_lock_entries};
use crate::stage::MARKER;
use crate::triple::TripleFacts;
use crate::versions::{VersionError, rustc_version};
pub use error::CompileError;
use flags::Folders;

/// What to compile, and with what.
#[derive(Clone, Copy, Debug)]
pub struct CompileRequest<'a> {
    /// The folder that [`stage`](crate::stage::stage) filled.
    pub stage_dir: &'a Path,
    /// The module's package; its program has the same name.
    pub module: &'a str,
    /// The Rust target.
    pub triple: &'static TripleFacts,
    /// The oldest C library that the program will meet. zig links against it; with other builders it is only checked.
    pub glibc_floor: GlibcVersion,
    /// Who links.
    pub linker: &'a Linker,
    /// Where cargo keeps what it compiled; may be shared by targets and modules.
    pub target_dir: &'a Path,
    /// Where cargo keeps downloaded crates; `None` for the usual place.
    pub cargo_home: Option<&'a Path>,
    /// The pinned toolchain, from [`ModuleSources`](crate::sources::ModuleSources).
    pub toolchain_channel: Option<&'a str>,
    /// Whether the network is off limits.
    pub is_offline: bool,
}

/// A module's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledModule {
    /// The program, in the target folder; the next compile of the same module and target replaces it.
    pub path: PathBuf,
    /// What the ELF file says about itself.
    pub elf: ElfFacts,
    /// Length of the file in bytes.
    pub size_bytes: u64,
}

/// Compiles a staged module. Every line that rustup, cargo or rustc write goes to `on_line` as it comes.
///
/// # Errors
/// [`CompileError`]; process errors carry the tail of stderr.
pub fn compile(
    request: &CompileRequest<'_>,
    on_line: &mut dyn FnMut(&str),
) -> Result<CompiledModule, CompileError> {
    let rustc = rustc_version(request.stage_dir, request.toolchain_channel)?;
    let cargo_home = match request.cargo_home {
        Some(folder) => folder.to_owned(),
        None => default_cargo_home(),
    };
    for folder in [request.target_dir, &cargo_home] {
        let error = |source| CompileError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(error)?;
    }
    let sysroot = sysroot(request, &cargo_home)?;
    if !matches!(request.linker, Linker::Container(_)) {
        ensure_target(request, &sysroot, &cargo_home, on_line)?;
    }
    fetch(request, &rustc.host, &cargo_home, on_line)?;
    check_lock(request)?;

    let folders = Folders {
        stage: request.stage_dir.to_owned(),
        cargo_home: cargo_home.clone(),
        target: request.target_dir.to_owned(),
        rust_sources: (
            sysroot.join("lib/rustlib/src/rust"),
            format!("/rustc/{}", rustc.commit_hash),
        ),
        is_container: matches!(request.linker, Linker::Container(_)),
    };
    let mut command = build_command(request, &rustc.release, &cargo_home);
    flags::set(&mut command, request.triple.triple, &folders);
    run(&mut command, on_line).map_err(|source| CompileError::Build {
        module: request.module.to_owned(),
        triple: request.triple.triple,
        source,
    })?;
    read_program(request, &cargo_home)
}

fn default_cargo_home() -> PathBuf {
    let declared = std::env::var_os("CARGO_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from);
    declared
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .unwrap_or_else(|| PathBuf::from(".cargo"))
}

/// A tool in the stage, with the declared environment and this cargo home. Which registries cargo may ask and with
/// which token is the user's affair; everything else that could steer the build is dropped.
fn tool(program: &Path, request: &CompileRequest<'_>, cargo_home: &Path) -> Command {
    let is_container = matches!(request.linker, Linker::Container(_));
    let keep = |name: &str| {
        let prefixes = ["CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_NET_"];
        let engine_prefixes = [
            "CROSS_",
            "DOCKER_",
            "CONTAINER_",
            "CONTAINERS_",
            "XDG_RUNTIME_DIR",
        ];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
            || is_container && engine_prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut command = clean_command(program, &keep);
    command
        .current_dir(request.stage_dir)
        .env("CARGO_HOME", cargo_home);
    // A wrapper in the user's cargo settings (sccache) would stand between; an empty value switches it off.
    command
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_TERM_COLOR", "never");
    command
}

fn sysroot(request: &CompileRequest<'_>, cargo_home: &Path) -> Result<PathBuf, CompileError> {
    let mut command = tool(Path::new("rustc"), request, cargo_home);
    let answer = run(command.args(["--print", "sysroot"]), &mut |_| {}).map_err(VersionError::Rustc)?;
    Ok(PathBuf::from(answer.trim()))
}

fn ensure_target(
    request: &CompileRequest<'_>,
    sysroot: &Path,
    cargo_home: &Path,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), CompileError> {
    let triple = request.triple.triple;
    if sysroot.join("lib/rustlib").join(triple).join("lib").is_dir() {
        return Ok(());
    }
    let no_target = |hint: String| CompileError::NoTarget { triple, hint };
    if request.is_offline {
        return Err(no_target(format!(
            "offline; run `rustup target add {triple}` while online"
        )));
    }
    if find_program("rustup").is_none() {
        let hint =
            "this Rust does not come from rustup; install the target's `rust-std` the way Rust was installed";
        return Err(no_target(hint.to_owned()));
    }
    on_line(&format!("rustup target add {triple}"));
    let mut command = tool(Path::new("rustup"), request, cargo_home);
    run(command.args(["target", "add", triple]), on_line).map_err(|error| no_target(error.to_string()))?;
    Ok(())
}

/// Downloads what is missing. The first try is offline: it is quick, and enough on every compile but the first.
fn fetch(
    request: &CompileRequest<'_>,
    host: &str,
    cargo_home: &Path,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), CompileError> {
    let command = |is_offline: bool| {
        let mut command = tool(Path::new("cargo"), request, cargo_home);
        // Build scripts and macros run on the host.
        command.args(["fetch", "--target", request.triple.triple, "--target", host]);
        command.args(is_offline.then_some("--offline"));
        command
    };
    let mut fetched = run(&mut command(true), &mut |_| {});
    if fetched.is_err() && !request.is_offline {
        fetched = run(&mut command(false), on_line);
    }
    let module = request.module.to_owned();
    let is_offline = request.is_offline;
    fetched.map(drop).map_err(|source| CompileError::Fetch {
        module,
        is_offline,
        source,
    })
}

/// The stage's lock, as cargo cut it down, holds only what the excerpt holds: what `--locked` means, made to work for
/// an excerpt that may be larger than needed.
fn check_lock(request: &CompileRequest<'_>) -> Result<(), CompileError> {
    let identity = |entry: LockEntry| (entry.name, entry.version, entry.source, entry.checksum);
    let allowed: BTreeSet<_> = read_lock_entries(&request.stage_dir.join(MARKER))?
        .into_iter()
        .map(identity)
        .collect();
    let used = read_lock_entries(&request.stage_dir.join("Cargo.lock"))?
        .into_iter()
        .map(identity);
    match used.into_iter().find(|entry| !allowed.contains(entry)) {
        None => Ok(()),
        Some((name, version, ..)) => {
            let module = request.module.to_owned();
            Err(CompileError::LockDrift {
                module,
                package: format!("{name} {version}"),
            })
        }
    }
}

fn build_command(request: &CompileRequest<'_>, release: &str, cargo_home: &Path) -> Command {
    let triple = request.triple.triple;
    let variable = flags::variable_name(triple);
    let mut command;
    let mut target = triple.to_owned();
    match request.linker {
        Linker::Zig(zig) => {
            command = tool(&zig.cargo_zigbuild, request, cargo_home);
            command.arg("zigbuild");
            target = format!("{triple}.{}", request.glibc_floor);
            command.env("CARGO_ZIGBUILD_ZIG_PATH", &zig.zig);
            command.env("CARGO_ZIGBUILD_CACHE_DIR", zig.cache_dir.join("zigbuild"));
            command.env("ZIG_GLOBAL_CACHE_DIR", zig.cache_dir.join("zig"));
            command.env("ZIG_LOCAL_CACHE_DIR", zig.cache_dir.join("zig"));
        }
        Linker::System(system) => {
            command = tool(Path::new("cargo"), request, cargo_home);
            command.arg("build");
            command.env(
                format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()),
                &system.gcc,
            );
            command.env(format!("CC_{variable}"), &system.gcc);
            if let Some(ar) = &system.ar {
                command.env(format!("AR_{variable}"), ar);
            }
        }
        Linker::Container(container) => {
            command = tool(&container.cross, request, cargo_home);
            // cross 0.2.5 does not understand the names that rustup gives its default toolchain, and appends the
            // host to the name itself: a bare version is what works.
            command
                .arg(format!("+{}", request.toolchain_channel.unwrap_or(release)))
                .arg("build");
            command.env("CROSS_CONTAINER_ENGINE", &container.engine);
            let passed = format!(
                "CARGO_ENCODED_RUSTFLAGS CFLAGS_{variable} CXXFLAGS_{variable} CC_SHELL_ESCAPED_FLAGS SOURCE_DATE_EPOCH"
            );
            command.env("CROSS_BUILD_ENV_PASSTHROUGH", passed);
        }
    }
    command.args(["--profile", MODULE_PROFILE, "--locked", "--target", &target]);
    command.args(["--package", request.module, "--bin", request.module]);
    command.args(request.is_offline.then_some("--offline"));
    // By variable and not by flag: cross maps the folder into the container.
    command.env("CARGO_TARGET_DIR", request.target_dir);
    command
}

/// The program with the list of its crates, as cargo resolves them for its target.
fn with_crates(
    request: &CompileRequest<'_>,
    cargo_home: &Path,
    program: &[u8],
) -> Result<Vec<u8>, CompileError> {
    let (module, triple) = (request.module.to_owned(), request.triple.triple);
    let mut command = tool(Path::new("cargo"), request, cargo_home);
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    command.args(["--filter-platform", triple]);
    let json = match run(&mut command, &mut |_| {}) {
        Ok(json) => json,
        Err(source) => {
            return Err(CompileError::Metadata {
                module,
                triple,
                source,
            });
        }
    };
    CrateList::of_metadata(&json, request.module)
        .and_then(|crates| crates.embed(program))
        .map_err(|source| CompileError::Crates { module, source })
}

fn read_program(request: &CompileRequest<'_>, cargo_home: &Path) -> Result<CompiledModule, CompileError> {
    let triple = request.triple.triple;
    let built = request
        .target_dir
        .join(triple)
        .join(MODULE_PROFILE)
        .join(request.module);
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| CompileError::Io { action, path, source }
    };
    let bytes = fs::read(&built).map_err(io("read", &built))?;
    let bytes = with_crates(request, cargo_home, &bytes)?;
    // Beside cargo's own file, which it takes up again the next time.
    let path = built.with_file_name(format!("{}.whole", request.module));
    let folder = built.parent().unwrap_or(request.target_dir);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io("create a file in", folder))?;
    std::io::Write::write_all(&mut file, &bytes).map_err(io("write", &path))?;
    file.persist(&path)
        .map_err(|error| io("write", &path)(error.error))?;
    let elf = inspect(&bytes).map_err(|source| CompileError::Elf {
        path: path.clone(),
        source,
    })?;
    let expectation = Expectation {
        triple: request.triple,
        glibc_floor: request.glibc_floor,
        is_program: true,
    };
    let problems = check(&elf, &expectation);
    let module = request.module.to_owned();
    if !problems.is_empty() {
        return Err(CompileError::Unfit {
            module,
            triple,
            problems,
        });
    }
    if let Some(text) = flags::host_path(&bytes, &[request.stage_dir, request.target_dir, cargo_home]) {
        return Err(CompileError::HostPath { module, triple, text });
    }
    Ok(CompiledModule {
        path,
        elf,
        size_bytes: bytes.len() as u64,
    })
}
