//! The whole way with real parts: wheels by pip, zig, cargo, two machines' worth of folders.
//!
//! Downloads 100 MB; `AIOT_TEST_CACHE` names a folder that keeps the wheels and the unpacked tools.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use aiot_toolchain::GlibcVersion;
use aiot_toolchain::builder::{Linker, system_linker};
use aiot_toolchain::compile::{CompileError, CompileRequest, CompiledModule, compile};
use aiot_toolchain::elf::Machine;
use aiot_toolchain::sources::module_sources;
use aiot_toolchain::stage::stage;
use aiot_toolchain::triple::triple_facts;
use aiot_toolchain::versions::rustc_version;
use aiot_toolchain::wheels::{
    CARGO_ZIGBUILD_VERSION, WheelRequest, ZIG_VERSION, ZigTools, fetch_locked, pip_download, zig_tools,
};

const FLOOR: GlibcVersion = GlibcVersion::new(2, 31);

fn real_zig_tools(cache: &Path) -> ZigTools {
    let [zig, zigbuild] = [
        ("ziglang", ZIG_VERSION),
        ("cargo-zigbuild", CARGO_ZIGBUILD_VERSION),
    ]
    .map(|(package, version)| {
        let request = WheelRequest {
            package: package.to_owned(),
            version: version.to_owned(),
            machine: None,
        };
        let (locked, path) = pip_download(&request, cache).unwrap();
        assert!(locked.fits_host(), "{locked:?}");
        assert_eq!(fetch_locked(&locked, cache).unwrap(), path);
        path
    });
    zig_tools(&zig, &zigbuild, &cache.join("tools")).unwrap()
}

/// One machine: a workspace, a stage, a target folder and a cargo home of its own.
struct Host {
    workspace: PathBuf,
    stage: PathBuf,
    target: PathBuf,
    cargo_home: Option<PathBuf>,
    linker: Linker,
}

impl Host {
    fn new(root: &Path, name: &str, linker: Linker) -> Host {
        let workspace = root.join(name).join("work space");
        common::probe_workspace(&workspace);
        let stage = root.join(name).join("st age");
        Host {
            workspace,
            stage,
            target: root.join(name).join("built"),
            cargo_home: None,
            linker,
        }
    }

    fn compile(&self, triple: &str, glibc_floor: GlibcVersion) -> Result<CompiledModule, CompileError> {
        let sources = module_sources(&self.workspace, "probe").unwrap();
        stage(&self.stage, &sources).unwrap();
        let request = CompileRequest {
            stage_dir: &self.stage,
            module: "probe",
            triple: triple_facts(triple).unwrap(),
            glibc_floor,
            linker: &self.linker,
            target_dir: &self.target,
            cargo_home: self.cargo_home.as_deref(),
            toolchain_channel: sources.toolchain_channel.as_deref(),
            is_offline: false,
        };
        compile(&request, &mut |line| println!("{line}"))
    }
}

#[test]
fn real_compile_is_the_same_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let cache = std::env::var_os("AIOT_TEST_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| root.path().join("cache"));
    let tools = real_zig_tools(&cache);
    let here = Host::new(root.path(), "here", Linker::Zig(tools.clone()));
    let mut there = Host::new(
        root.path(),
        "over/there",
        Linker::Zig(ZigTools {
            cache_dir: root.path().join("other cache"),
            ..tools
        }),
    );
    there.cargo_home = Some(root.path().join("other home"));

    for (triple, machine) in [
        ("aarch64-unknown-linux-gnu", Machine::Aarch64),
        ("armv7-unknown-linux-gnueabihf", Machine::Arm),
    ] {
        let first = here.compile(triple, FLOOR).unwrap();
        assert_eq!(first.elf.machine, machine);
        let need = first.elf.highest_glibc.clone().unwrap();
        assert!(need.version <= FLOOR && !need.symbols.is_empty(), "{need}");
        assert!(
            first.elf.needed.contains(&"libc.so.6".to_owned()),
            "{:?}",
            first.elf.needed
        );

        let bytes = fs::read(&first.path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for name in ["modules/probe/src/main.rs", "native.c", "/target/"] {
            assert!(text.contains(name), "{triple}: {name} is not in the program");
        }
        assert!(
            !text.contains(root.path().to_str().unwrap()),
            "{triple}: names a folder of this machine"
        );

        let second = there.compile(triple, FLOOR).unwrap();
        assert!(
            bytes == fs::read(&second.path).unwrap(),
            "{triple}: other folders, other bytes"
        );
    }

    // Compiling again changes nothing, and a path that slips through is found.
    let triple = "aarch64-unknown-linux-gnu";
    let main = here.workspace.join("modules/probe/src/main.rs");
    fs::write(
        main,
        "fn main() { println!(\"{} {}\", env!(\"CARGO_MANIFEST_DIR\"), native::c_file()) }",
    )
    .unwrap();
    let error = here.compile(triple, FLOOR).unwrap_err();
    assert!(matches!(error, CompileError::HostPath { .. }), "{error}");
    assert!(error.to_string().contains("st age/modules/probe"), "{error}");
}

#[test]
fn a_program_for_a_newer_c_library_is_refused() {
    let host = rustc_version(&common::repository(), None).unwrap().host;
    let Ok(triple) = triple_facts(&host) else {
        println!("skipped: this host compiles no modules for itself");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let here = Host::new(
        root.path(),
        "here",
        Linker::System(system_linker(triple, &host).unwrap()),
    );
    let compiled = here.compile(&host, GlibcVersion::new(2, 999)).unwrap();
    let need = compiled.elf.highest_glibc.unwrap();
    let message = here
        .compile(&host, GlibcVersion::new(2, 2))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&need.symbols[0]) && message.contains("C library 2.2;"),
        "{message}"
    );

    fs::write(
        here.workspace.join("modules/probe/src/main.rs"),
        "fn main() { missing() }",
    )
    .unwrap();
    let message = here.compile(&host, FLOOR).unwrap_err().to_string();
    assert!(message.contains("cannot find function `missing`"), "{message}");
}
