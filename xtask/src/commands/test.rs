//! `cargo xtask test`: tools, a release of this workspace, then every test of every crate with both at hand.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_build::release::{Options, release};

use crate::output::Format;
use crate::progress::Progress;

/// Debian's packages of the programs that tests run images, registries and signatures with.
const PACKAGES: [&str; 11] = [
    "ca-certificates",
    "catatonit",
    "docker-registry",
    "gpgv",
    "mosquitto",
    "openssl",
    "podman",
    "qemu-user-static",
    "runc",
    "skopeo",
    "umoci",
];

/// What to test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Install no tools, also as root on Debian; tests without their tools say that they are skipped
    #[arg(long)]
    no_install: bool,
    /// Only tests whose name contains one of these
    filter: Vec<String>,
}

/// Runs the tests; the last line is `N passed, N failed, N skipped`, or the same as JSON.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let has_all_tools = tools(arguments.no_install)?;
    let progress = Progress::new();
    let options = Options {
        locked: true,
        jobs: super::jobs(None),
        ..Options::default()
    };
    let result = release(paths, &options, &|event| progress.show(event));
    progress.finish();
    let report = result?;
    let engine = report.host_engine.ok_or_else(|| {
        BuildError::Other(
            "models.toml declares no model, and the tests use those that it declares".to_owned(),
        )
    })?;

    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "test",
            "--locked",
            "--workspace",
            "--profile",
            "xtask",
            "--no-fail-fast",
            "--",
            "--show-output",
        ])
        .args(&arguments.filter)
        .current_dir(&paths.root)
        .env("AIOT_TEST_ENGINE", engine)
        .env("AIOT_TEST_WORKSPACE", &paths.root)
        .env("AIOT_TEST_STATE", &paths.state)
        // What tests download stays for the next run, beside what releases download.
        .env("AIOT_TEST_CACHE", paths.downloads());
    if has_all_tools {
        command.env("AIOT_TEST_REQUIRE_TOOLS", "1");
    }
    let failed = |error: std::io::Error| BuildError::Other(format!("cannot run cargo test: {error}"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut summary = Summary::default();
    for line in BufReader::new(child.stdout.take().expect("piped")).split(b'\n') {
        if let Some(shown) = summary.read(&String::from_utf8_lossy(&line.map_err(failed)?)) {
            println!("{shown}");
        }
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() && summary.failed == 0 {
        return Err(BuildError::Other(format!(
            "cargo test ended with {status} before all tests had run"
        )));
    }
    let Summary {
        passed,
        failed,
        skipped,
        ..
    } = summary;
    match format {
        Format::Text => println!("{passed} passed, {failed} failed, {skipped} skipped"),
        Format::Json => println!(
            "{}",
            serde_json::json!({ "schema": 1, "passed": passed, "failed": failed, "skipped": skipped })
        ),
    }
    Ok(if status.success() {
        crate::EXIT_OK
    } else {
        crate::EXIT_ERROR
    })
}

/// Sees to the tools; returns whether all are there, so that no test may be skipped.
fn tools(no_install: bool) -> Result<bool, BuildError> {
    let is_debian = Path::new("/etc/debian_version").is_file();
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    if no_install || !is_debian || !is_root {
        let why = match (no_install, is_debian) {
            (true, _) => "--no-install",
            (false, false) => "this is not Debian",
            (false, true) => "not root",
        };
        eprintln!(
            "{why}: no tools are installed; tests without theirs are skipped and say so. All of them: {}",
            PACKAGES.join(", ")
        );
        return Ok(false);
    }
    let missing = missing_packages()?;
    if !missing.is_empty() {
        eprintln!("installing with apt-get, for the tests: {}", missing.join(", "));
        // Without lists of packages, or with old ones, only the second try can work.
        if !install(&missing)? {
            apt(&["update", "--quiet"])?;
            if !install(&missing)? {
                return Err(BuildError::Other(format!(
                    "apt-get cannot install {}; see above, or run with --no-install and have the tests skipped",
                    missing.join(", ")
                )));
            }
        }
    }
    Ok(true)
}

fn missing_packages() -> Result<Vec<&'static str>, BuildError> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(PACKAGES)
        .output()
        .map_err(|error| BuildError::Other(format!("cannot run dpkg-query: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_installed = |package: &str| text.lines().any(|line| line == format!("{package} installed"));
    Ok(PACKAGES
        .into_iter()
        .filter(|package| !is_installed(package))
        .collect())
}

fn install(packages: &[&str]) -> Result<bool, BuildError> {
    let mut arguments = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<bool, BuildError> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| BuildError::Other(format!("cannot run apt-get: {error}")))?;
    Ok(status.success())
}

/// Sums up what test programs print. Of tests that passed, only what they skipped is shown.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests of the running program that said so.
    skipped_here: u64,
    /// Within the output of tests that passed.
    is_in_successes: bool,
    /// The test there whose output follows, until it has said that it is skipped.
    test: Option<String>,
}

impl Summary {
    /// Takes a line; returns what to show of it.
    fn read(&mut self, line: &str) -> Option<String> {
        if line == "successes:" {
            self.is_in_successes = true;
            return None;
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.is_in_successes = false;
            self.count(counts);
        } else if line == "failures:" {
            self.is_in_successes = false;
        }
        if !self.is_in_successes {
            return Some(line.to_owned());
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.test = Some(name.to_owned());
        } else if line.starts_with("SKIPPED")
            && let Some(name) = self.test.take()
        {
            // It counts as passed for the test program, whose sum comes at its end.
            self.skipped_here += 1;
            return Some(format!("test {name}: {line}"));
        }
        None
    }

    /// `ok. 5 passed; 0 failed; 1 ignored; …`
    fn count(&mut self, counts: &str) {
        let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number.saturating_sub(self.skipped_here),
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
        self.skipped += std::mem::take(&mut self.skipped_here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 4 tests
test a ... ok
test b ... FAILED
test c ... ignored
test d ... ok

successes:

---- a stdout ----
much talk

---- d stdout ----
SKIPPED: needs skopeo
SKIPPED: needs umoci

successes:
    a
    d

failures:

---- b stdout ----
SKIPPED is but a word here

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s
";

    #[test]
    fn counts_and_shows_what_matters() {
        let mut summary = Summary::default();
        let shown: Vec<String> = OUTPUT.lines().filter_map(|line| summary.read(line)).collect();
        assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 1, 2));
        assert!(
            shown.contains(&"test d: SKIPPED: needs skopeo".to_owned()),
            "{shown:?}"
        );
        assert!(
            !shown
                .iter()
                .any(|line| line.contains("talk") || line.contains("umoci")),
            "{shown:?}"
        );
        assert!(
            shown.contains(&"SKIPPED is but a word here".to_owned()),
            "{shown:?}"
        );
    }

    #[test]
    fn sums_over_programs() {
        let mut summary = Summary::default();
        for _ in 0..3 {
            summary.read(
                "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1s",
            );
        }
        assert_eq!((summary.passed, summary.failed, summary.skipped), (6, 0, 0));
    }
}
