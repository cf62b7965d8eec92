//! Tells the kernel which emulator runs the programs of another architecture, for containers. Needs root, and is the
//! one thing that tests leave behind: the kernel's list lasts until the machine starts again.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tools;

const FOLDER: &str = "/proc/sys/fs/binfmt_misc";

/// Registers the emulator of an architecture (OCI's word) unless the kernel knows one; nothing for the host's own.
///
/// # Panics
/// When the kernel refuses, or the emulator is missing.
pub fn register(architecture: &str) {
    // Start of a program file: class, byte order, ABI (any of GNU's), executable or shared, machine.
    let (name, class, machine) = match architecture {
        "arm64" => ("aarch64", "\\x02", "\\xb7\\x00"),
        "arm" => ("arm", "\\x01", "\\x28\\x00"),
        _ => return,
    };
    if std::env::consts::ARCH == name {
        return;
    }
    let folder = Path::new(FOLDER);
    if !folder.join("register").exists() {
        // It may have been mounted by another test in between; what counts is that it is there.
        tools::run(Command::new("mount").args(["-t", "binfmt_misc", "binfmt_misc", FOLDER]));
    }
    let entry = format!("qemu-{name}");
    if folder.join(&entry).exists() {
        return;
    }
    let emulator = tools::find(&format!("{entry}-static")).expect("looked for before");
    let magic = format!(
        "\\x7fELF{class}\\x01\\x01{}\\x02\\x00{machine}",
        "\\x00".repeat(9)
    );
    let mask = format!(
        "\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00{}\\xfe\\xff\\xff\\xff",
        "\\xff".repeat(8)
    );
    // F: the kernel keeps the emulator open, so that it is found from within containers too.
    let line = format!(":{entry}:M::{magic}:{mask}:{}:OCF", emulator.display());
    let result = fs::write(folder.join("register"), line);
    assert!(
        result.is_ok() || folder.join(&entry).exists(),
        "binfmt_misc refuses {entry}: {result:?}"
    );
}
