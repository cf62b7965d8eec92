//! The whole way with real parts: wheels by pip, zig, cargo, two machines' worth of folders.
//!
//! Downloads 100 MB; `AIOT_TEST_CACHE` names a folder that keeps the wheels and the unpacked tools.

mod common;

use common::Host;
use std::fs;
use std::path::{Path, PathBuf};

use aiot_plan::tools::zig_wheels;
use aiot_toolchain::GlibcVersion;
use aiot_toolchain::builder::Linker;
use aiot_toolchain::compile::CompileError;
use aiot_toolchain::crates::{CrateKind, CrateList};
use aiot_toolchain::elf::Machine;
use aiot_toolchain::wheels::{WheelTags, ZigTools, fetch_locked, pip_download, zig_tools};

const FLOOR: GlibcVersion = GlibcVersion::new(2, 31);

fn real_zig_tools(cache: &Path) -> ZigTools {
    use std::env::consts::{ARCH, OS};
    let [zig, zigbuild] = zig_wheels(ARCH).map(|request| {
        let (locked, path) = pip_download(&request, cache).unwrap();
        let tags = WheelTags::parse(&locked.filename).unwrap();
        assert!(tags.fits(OS, ARCH), "{locked:?}");
        assert_eq!(fetch_locked(&locked, cache).unwrap(), path);
        path
    });
    zig_tools(&zig, &zigbuild, &cache.join("tools")).unwrap()
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

        let crates = CrateList::read(&bytes).unwrap();
        let names: Vec<(&str, CrateKind, bool)> = crates
            .packages
            .iter()
            .map(|package| (package.name.as_str(), package.kind, package.root))
            .collect();
        let expected = [
            ("native", CrateKind::Runtime, false),
            ("probe", CrateKind::Runtime, true),
        ];
        let runs: Vec<_> = names
            .iter()
            .filter(|it| it.1 == CrateKind::Runtime)
            .copied()
            .collect();
        assert_eq!(runs, expected);
        assert!(names.contains(&("cc", CrateKind::Build, false)), "{names:?}");

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
