//! Compiling for this machine with the system's compiler: what is refused, and what cross is handed.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aiot_toolchain::GlibcVersion;
use aiot_toolchain::builder::{ContainerBuilder, Linker, SystemLinker, system_linker};
use aiot_toolchain::compile::CompileError;
use aiot_toolchain::triple::triple_facts;
use aiot_toolchain::versions::rustc_version;
use common::Host;

const NEWEST: GlibcVersion = GlibcVersion::new(2, 999);

/// This machine as a target, with its compiler.
fn this_machine() -> (String, SystemLinker) {
    let host = rustc_version(&common::repository(), None).unwrap().host;
    let linker = system_linker(triple_facts(&host).unwrap(), &host).unwrap();
    (host, linker)
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
    let compiled = here.compile(&host, NEWEST).unwrap();
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
    let message = here.compile(&host, NEWEST).unwrap_err().to_string();
    assert!(message.contains("cannot find function `missing`"), "{message}");
}

#[test]
fn without_a_network_the_missing_part_is_named() {
    let (host, linker) = this_machine();
    let root = tempfile::tempdir().unwrap();
    let mut here = Host::new(root.path(), "here", Linker::System(linker));
    here.is_offline = true;
    here.cargo_home = Some(root.path().join("empty"));
    let error = here.compile(&host, NEWEST).unwrap_err();
    assert!(matches!(error, CompileError::Fetch { .. }), "{error}");
    assert!(
        error.to_string().contains("(offline; run once with a network"),
        "{error}"
    );
}

#[test]
fn a_crate_that_the_lock_does_not_hold_is_refused() {
    let (host, linker) = this_machine();
    let root = tempfile::tempdir().unwrap();
    let here = Host::new(root.path(), "here", Linker::System(linker));
    let lock = here.workspace.join("Cargo.lock");
    let text = fs::read_to_string(&lock).unwrap();
    let at = text.find("name = \"cc\"").unwrap();
    let version = text[at..].split('"').nth(3).unwrap();
    let checksum = text[at..]
        .split("checksum = \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();

    // Another hash for the same version: someone's index serves other bytes.
    fs::write(&lock, text.replace(checksum, &"0".repeat(64))).unwrap();
    let error = here.compile(&host, NEWEST).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");

    // An older version than the manifests ask for: cargo would choose anew.
    fs::write(
        &lock,
        text.replacen(&format!("version = \"{version}\""), "version = \"0.0.1\"", 1),
    )
    .unwrap();
    let error = here.compile(&host, NEWEST).unwrap_err();
    assert!(matches!(error, CompileError::LockDrift { .. }), "{error}");
    assert!(error.to_string().contains(&format!("`cc {version}`")), "{error}");
}

/// cross and its 500 MB image have no place in a test; what it is handed has. The stand-in checks that and calls
/// cargo on this machine, as cross does in a container.
#[test]
fn cross_is_handed_a_bare_version_and_the_flags() {
    let (host, linker) = this_machine();
    let release = rustc_version(&common::repository(), None).unwrap().release;
    let root = tempfile::tempdir().unwrap();
    let script = root.path().join("cross");
    let text = format!(
        "#!/bin/sh\nset -e\n[ \"$1 $2\" = '+{release} build' ]\nshift\n\
         [ \"$CROSS_CONTAINER_ENGINE\" = /bin/no-engine ]\n\
         for name in $CROSS_BUILD_ENV_PASSTHROUGH; do eval \"[ -n \\\"\\$$name\\\" ]\"; done\n\
         case $CARGO_ENCODED_RUSTFLAGS in *--remap-path-prefix=/project=/src*) ;; *) exit 9;; esac\n\
         CARGO_TARGET_{}_LINKER='{}' exec cargo \"$@\"\n",
        host.to_uppercase().replace('-', "_"),
        linker.gcc.display()
    );
    write_program(&script, &text);
    let container = ContainerBuilder {
        cross: script,
        engine: PathBuf::from("/bin/no-engine"),
    };
    let here = Host::new(root.path(), "here", Linker::Container(container));
    let compiled = here.compile(&host, NEWEST).unwrap();
    assert!(compiled.path.starts_with(&here.target));
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
