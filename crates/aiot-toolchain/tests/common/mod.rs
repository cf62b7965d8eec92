//! A small workspace with everything that could carry a folder's name into a program: macros that name files,
//! generated code, C code in a dependency's build script.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_toolchain::GlibcVersion;
use aiot_toolchain::builder::Linker;
use aiot_toolchain::compile::{CompileError, CompileRequest, CompiledModule, compile};
use aiot_toolchain::sources::module_sources;
use aiot_toolchain::stage::stage;
use aiot_toolchain::triple::triple_facts;

/// Writes files below `root`, creating folders.
pub fn write_files(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A workspace with the module `probe`, its path dependency `native` (C code) and the unrelated member `other`.
pub fn probe_workspace(root: &Path) {
    write_files(
        root,
        &[
            (
                "Cargo.toml",
                "[workspace]\nresolver = '3'\nmembers = ['modules/*', 'crates/*']\n\n\
                 [workspace.package]\nversion = '0.1.0'\nedition = '2024'\n\n\
                 [workspace.dependencies]\nnative = { path = 'crates/native' }\nother = { path = 'crates/other' }\n\
                 cc = { version = '1', default-features = false }\n\n\
                 [workspace.lints.rust]\nunsafe_code = 'deny'\n\n\
                 [profile.module]\ninherits = 'release'\nlto = 'thin'\ncodegen-units = 1\npanic = 'abort'\n\
                 strip = 'symbols'\n",
            ),
            (
                "modules/probe/Cargo.toml",
                "[package]\nname = 'probe'\nversion.workspace = true\nedition.workspace = true\n\n\
                 [lints]\nworkspace = true\n\n[dependencies]\nnative.workspace = true\n\n\
                 [dev-dependencies]\nother.workspace = true\n",
            ),
            (
                "modules/probe/src/main.rs",
                "fn main() {\n    let count = std::env::args().count();\n    \
                 println!(\"{} {} {}\", file!(), native::c_file(), native::generated_file());\n    \
                 println!(\"{}\", native::checked(&vec![1, 2, 3], count));\n}\n",
            ),
            ("modules/probe/tests/broken.rs", "this does not compile\n"),
            (
                "crates/native/Cargo.toml",
                "[package]\nname = 'native'\nversion.workspace = true\nedition.workspace = true\n\n\
                 [build-dependencies]\ncc.workspace = true\n",
            ),
            (
                "crates/native/build.rs",
                "fn main() {\n    cc::Build::new().file(\"native.c\").compile(\"native\");\n    \
                 let out = std::path::PathBuf::from(std::env::var(\"OUT_DIR\").unwrap());\n    \
                 std::fs::write(out.join(\"generated.rs\"), \"pub fn generated_file() -> &'static str { file!() }\")\
                 .unwrap();\n}\n",
            ),
            (
                "crates/native/native.c",
                "const char *native_file(void) { return __FILE__; }\n",
            ),
            (
                "crates/native/src/lib.rs",
                "include!(concat!(env!(\"OUT_DIR\"), \"/generated.rs\"));\n\
                 unsafe extern \"C\" { fn native_file() -> *const std::ffi::c_char; }\n\
                 pub fn c_file() -> &'static str {\n    \
                 unsafe { std::ffi::CStr::from_ptr(native_file()) }.to_str().unwrap()\n}\n\
                 pub fn checked(values: &[u32], at: usize) -> u32 { values[at] }\n",
            ),
            (
                "crates/other/Cargo.toml",
                "[package]\nname = 'other'\nversion = '0.1.0'\nedition = '2024'\n\n\
                 [lints]\nworkspace = true\n",
            ),
            ("crates/other/src/lib.rs", ""),
        ],
    );
    cargo(root, &["generate-lockfile"]);
}

/// Runs cargo, without the network if that is enough.
pub fn cargo(dir: &Path, args: &[&str]) -> String {
    let run = |offline: &[&str]| {
        Command::new("cargo")
            .args(args)
            .args(offline)
            .current_dir(dir)
            .output()
            .unwrap()
    };
    let mut output = run(&["--offline"]);
    if !output.status.success() {
        output = run(&[]);
    }
    assert!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// One machine: a workspace, a stage, a target folder and a cargo home of its own.
pub struct Host {
    pub workspace: PathBuf,
    pub stage: PathBuf,
    pub target: PathBuf,
    pub cargo_home: Option<PathBuf>,
    pub linker: Linker,
    pub is_offline: bool,
}

impl Host {
    pub fn new(root: &Path, name: &str, linker: Linker) -> Host {
        let workspace = root.join(name).join("work space");
        probe_workspace(&workspace);
        let stage = root.join(name).join("st age");
        Host {
            workspace,
            stage,
            target: root.join(name).join("built"),
            cargo_home: None,
            linker,
            is_offline: false,
        }
    }

    pub fn compile(&self, triple: &str, glibc_floor: GlibcVersion) -> Result<CompiledModule, CompileError> {
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
            is_offline: self.is_offline,
        };
        compile(&request, &mut |line| println!("{line}"))
    }
}
