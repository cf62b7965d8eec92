//! The program as a person runs it, a process of its own towards the simulated hub: what memory it takes, and when its
//! first line comes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aiot_build::BuildError;
use aiot_hubsim::Server;

use super::measure::status_bytes;

/// Between two looks at a process's memory.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What is declared besides the generated manifests.
const ENVIRONMENT: &str = r#"description = "A bench"
repository-prefix = "aiot"

[system]
edge-agent = "mcr.microsoft.com/azureiotedge-agent:1.6.1"
edge-hub = "mcr.microsoft.com/azureiotedge-hub:1.6.1"

[[ring]]
name = "all"
"#;

/// A checkout in which releases are committed, one after the other.
pub(super) struct Checkout {
    folder: tempfile::TempDir,
}

/// One run.
pub(super) struct Watched {
    /// Until the first line of stdout.
    pub(super) first_line_seconds: f64,
    /// Most resident memory.
    pub(super) peak_bytes: f64,
    /// Lines of stdout.
    pub(super) lines: usize,
}

impl Checkout {
    /// `releases`: the generated files of `prod`, by commit.
    pub(super) fn new(releases: &[&BTreeMap<String, Vec<u8>>]) -> Result<Checkout, BuildError> {
        let folder = tempfile::tempdir().map_err(BuildError::other)?;
        let root = folder.path();
        let write = |path: &str, bytes: &[u8]| -> Result<(), BuildError> {
            let path = root.join(path);
            let parent = path.parent().unwrap_or(root);
            std::fs::create_dir_all(parent)
                .and_then(|()| std::fs::write(&path, bytes))
                .map_err(BuildError::other)
        };
        std::fs::create_dir_all(root.join("modules")).map_err(BuildError::other)?;
        write("models.toml", b"")?;
        write("targets.toml", b"")?;
        write("deployments/prod.toml", ENVIRONMENT.as_bytes())?;
        git(root, &["init", "--quiet"])?;
        for files in releases {
            for (path, bytes) in *files {
                write(&format!("deployments/prod/{path}"), bytes)?;
            }
            git(root, &["add", "--all"])?;
            git(
                root,
                &[
                    "-c",
                    "user.name=bench",
                    "-c",
                    "user.email=bench@localhost",
                    "commit",
                    "--quiet",
                    "-m",
                    "release",
                ],
            )?;
        }
        Ok(Checkout { folder })
    }

    /// Runs `cargo xtask …` towards the hub. It ends with one of the codes 0 and 2.
    pub(super) fn run(&self, server: &Server, arguments: &[&str]) -> Result<Watched, BuildError> {
        let ca_file = self.folder.path().join("ca.pem");
        std::fs::write(&ca_file, server.ca_pem()).map_err(BuildError::other)?;
        let mut command = Command::new(std::env::current_exe().map_err(BuildError::other)?);
        command
            .args(["--workspace".as_ref(), self.folder.path().as_os_str()])
            .args(arguments)
            .args(["--environment", "prod"])
            .env("AIOT_HUB_CONNECTION_STRING", server.connection_string())
            .env("AIOT_HUB_CA_FILE", &ca_file)
            .env("AIOT_HUB_UNITS", "10000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().map_err(BuildError::other)?;
        let (stdout, mut stderr) = (
            child.stdout.take().expect("piped"),
            child.stderr.take().expect("piped"),
        );
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let read = std::thread::spawn(move || {
            let (mut first, mut lines, mut last) = (None, 0, Vec::new());
            for line in BufReader::new(stdout).split(b'\n') {
                let Ok(line) = line else { break };
                first.get_or_insert_with(|| start.elapsed().as_secs_f64());
                lines += 1;
                last = line;
            }
            (first.unwrap_or_default(), lines, last)
        });
        let status_path = format!("/proc/{}/status", child.id());
        let mut peak_bytes = 0.0;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(BuildError::other)? {
                break status;
            }
            let text = std::fs::read_to_string(&status_path).unwrap_or_default();
            peak_bytes = f64::max(peak_bytes, status_bytes(&text, "VmHWM:").unwrap_or_default());
            std::thread::sleep(LOOK_EVERY);
        };
        let said = said.join().expect("no panic");
        let (first_line_seconds, lines, last) = read.join().expect("no panic");
        if !matches!(status.code(), Some(0 | 2)) {
            let last = String::from_utf8_lossy(&last);
            return Err(BuildError::Other(format!(
                "{arguments:?}: {status}\n{said}{last}"
            )));
        }
        Ok(Watched {
            first_line_seconds,
            peak_bytes,
            lines,
        })
    }
}

fn git(root: &Path, arguments: &[&str]) -> Result<(), BuildError> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output();
    let output = output.map_err(|error| BuildError::Other(format!("git cannot be run: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(BuildError::Other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )),
    }
}
