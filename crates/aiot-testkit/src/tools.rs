//! Programs that tests run. A test whose programs are missing says `SKIPPED` and passes; where
//! `AIOT_TEST_REQUIRE_TOOLS=1` it fails instead, so that nothing is skipped unseen.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The variable that turns skipping into failing.
pub const REQUIRE_TOOLS_VARIABLE: &str = "AIOT_TEST_REQUIRE_TOOLS";

/// Folders of programs: `PATH`, and those of root's programs, which users' paths often lack.
fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .collect()
}

/// [`folders`] as a value of `PATH`.
pub(crate) fn path() -> OsString {
    std::env::join_paths(folders()).expect("they came from PATH")
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    folders()
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Whether all programs are there. For the first lines of a test: `if !have(&["skopeo"]) { return; }`
///
/// # Panics
/// When one is missing and tools are required.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|program| find(program).is_none())
        .copied()
        .collect();
    missing.is_empty() || skip(&format!("needs {}", missing.join(", ")))
}

/// Whether the test runs as root, which some programs ask for.
///
/// # Panics
/// When not and tools are required.
pub fn have_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0) || skip("needs root")
}

/// Says that a test is skipped, and is `false`.
///
/// # Panics
/// When tools are required.
pub fn skip(reason: &str) -> bool {
    let is_required = std::env::var_os(REQUIRE_TOOLS_VARIABLE).is_some_and(|value| value == "1");
    assert!(
        !is_required,
        "{reason}, and {REQUIRE_TOOLS_VARIABLE}=1 forbids to skip"
    );
    // `cargo xtask test` counts lines that begin like this.
    println!("SKIPPED: {reason}");
    false
}

/// What a program wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its data.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl Ended {
    /// This, when the exit code is `code`.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(
            self.code,
            Some(code),
            "\n-- stdout\n{}\n-- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Runs a program to its end, without input.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("{:?} cannot be started: {error}", command.get_program()));
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
