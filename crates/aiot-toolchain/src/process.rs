//! Running the tools: a declared environment in, lines as they come, the tail of stderr when it goes wrong.
//!
//! The child stays in our process group, so that Ctrl-C on the terminal reaches it as well.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// How much of stderr an error keeps.
const TAIL_LIMIT_BYTES: usize = 8 * 1024;
/// The longest answer that is read from stdout (a list of files).
const STDOUT_LIMIT_BYTES: u64 = 16 << 20;
/// A line longer than this is passed on in pieces.
const LINE_LIMIT_BYTES: usize = 4 * 1024;

/// A tool that could not be started or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not there.
    #[error("`{program}` is not on the PATH")]
    NotFound {
        /// The program's name.
        program: String,
    },
    /// The system refused to start or to read it.
    #[error("`{command}` could not be run: {source}")]
    Io {
        /// The command line.
        command: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It ran and reported failure.
    #[error("`{command}` failed ({status}):\n{stderr_tail}")]
    Failed {
        /// The command line.
        command: String,
        /// Exit code or signal.
        status: String,
        /// The end of what it wrote to stderr.
        stderr_tail: String,
    },
}

impl ProcessError {
    /// The tail of stderr, empty when the program did not run.
    pub fn stderr_tail(&self) -> &str {
        match self {
            ProcessError::Failed { stderr_tail, .. } => stderr_tail,
            _ => "",
        }
    }
}

/// Variables that the tools need from outside: where things are, how the network is reached, and which certificates
/// are trusted. Everything else could change the output and is dropped.
const KEPT_VARIABLES: [&str; 23] = [
    "ALL_PROXY",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
    "CARGO_NET_GIT_FETCH_WITH_CLI",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "RUSTUP_DIST_SERVER",
    "RUSTUP_HOME",
    "RUSTUP_UPDATE_ROOT",
    "SSH_AUTH_SOCK",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "USER",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// A command that sees only the declared variables, in a neutral locale and time zone.
///
/// `keep` says which further variables pass (`CARGO_REGISTRIES_…`, `CROSS_…`).
pub(crate) fn clean_command(program: impl AsRef<OsStr>, keep: &dyn Fn(&str) -> bool) -> Command {
    clean_command_with(program, std::env::vars_os(), keep)
}

fn clean_command_with(
    program: impl AsRef<OsStr>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    keep: &dyn Fn(&str) -> bool,
) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for (name, value) in environment {
        let passes = name
            .to_str()
            .is_some_and(|name| KEPT_VARIABLES.contains(&name) || keep(name));
        if passes {
            command.env(name, value);
        }
    }
    command
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", "0");
    command
}

/// Runs to the end and returns stdout. Every line of stderr goes to `on_line` as it comes.
///
/// # Errors
/// [`ProcessError`].
pub(crate) fn run(command: &mut Command, on_line: &mut dyn FnMut(&str)) -> Result<String, ProcessError> {
    let line = command_line(command);
    let io_error = |source| ProcessError::Io {
        command: line.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| not_started(command, &line, source))?;

    // Two pipes, one of them in a thread: a child that fills the unread one would wait for ever.
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let mut kept = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.by_ref().take(STDOUT_LIMIT_BYTES).read_to_end(&mut kept)?;
            if std::io::copy(&mut stdout, &mut std::io::sink())? > 0 {
                return Err(std::io::Error::other("it wrote more than 16 MiB to stdout"));
            }
        }
        Ok(kept)
    });
    let tail = match child.stderr.take() {
        Some(mut stderr) => pass_lines(&mut stderr, on_line),
        None => Ok(Vec::new()),
    };
    let status = child.wait().map_err(io_error)?;
    let stdout = reader
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("reading its output failed")));
    if !status.success() {
        let tail = tail.unwrap_or_default();
        let stderr_tail = String::from_utf8_lossy(&tail).trim_end().to_owned();
        return Err(ProcessError::Failed {
            command: line,
            status: status.to_string(),
            stderr_tail,
        });
    }
    tail.map_err(io_error)?;
    Ok(String::from_utf8_lossy(&stdout.map_err(io_error)?).into_owned())
}

fn not_started(command: &Command, line: &str, source: std::io::Error) -> ProcessError {
    // A missing working folder gives the same error kind; the folder is ours, the program is not.
    let folder_is_there = command.get_current_dir().is_none_or(Path::is_dir);
    if source.kind() == std::io::ErrorKind::NotFound && folder_is_there {
        return ProcessError::NotFound {
            program: command.get_program().to_string_lossy().into_owned(),
        };
    }
    ProcessError::Io {
        command: line.to_owned(),
        source,
    }
}

/// Feeds whole lines to `on_line` and returns the last [`TAIL_LIMIT_BYTES`].
fn pass_lines(from: &mut dyn Read, on_line: &mut dyn FnMut(&str)) -> std::io::Result<Vec<u8>> {
    let mut tail: Vec<u8> = Vec::new();
    let mut line: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let chunk = &buffer[..length];
        tail.extend_from_slice(chunk);
        if tail.len() > 2 * TAIL_LIMIT_BYTES {
            tail.drain(..tail.len() - TAIL_LIMIT_BYTES);
        }
        for &byte in chunk {
            if byte == b'\n' || line.len() >= LINE_LIMIT_BYTES {
                on_line(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
            if byte != b'\n' {
                line.push(byte);
            }
        }
    }
    if !line.is_empty() {
        on_line(String::from_utf8_lossy(&line).trim_end());
    }
    let start = tail.len().saturating_sub(TAIL_LIMIT_BYTES);
    Ok(tail.split_off(start))
}

/// The command line for messages: program and arguments, without the environment.
fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// The full path of a program on the PATH, if it is there and a file.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_variables_pass() {
        let given = [
            ("PATH", "/bin"),
            ("RUSTFLAGS", "-g"),
            ("CROSS_X", "1"),
            ("LC_ALL", "tr_TR"),
            ("PYTHONPATH", "x"),
        ];
        let environment = given
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let command = clean_command_with("true", environment, &|name| name.starts_with("CROSS_"));
        let mut seen: Vec<String> = command
            .get_envs()
            .map(|(name, value)| format!("{}={}", name.display(), value.unwrap_or_default().display()))
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "CROSS_X=1",
                "LC_ALL=C",
                "PATH=/bin",
                "SOURCE_DATE_EPOCH=0",
                "TZ=UTC"
            ]
        );
    }

    fn shell(script: &str) -> Command {
        let mut command = clean_command("sh", &|_| false);
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_lines_are_kept_apart() {
        let mut lines = Vec::new();
        let stdout = run(
            &mut shell("echo out; echo one >&2; printf 'two\\nthree' >&2"),
            &mut |line| {
                lines.push(line.to_owned());
            },
        );
        assert_eq!(stdout.unwrap(), "out\n");
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn a_failure_shows_the_end_of_stderr() {
        let script = "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; exit 7";
        let error = run(&mut shell(script), &mut |_| {}).unwrap_err();
        assert!(error.stderr_tail().ends_with("line 2999"), "{error}");
        assert!(error.stderr_tail().len() <= TAIL_LIMIT_BYTES);
        assert!(error.to_string().contains("exit status: 7"), "{error}");
    }

    #[test]
    fn a_full_stdout_does_not_block() {
        let print = |count: u64| {
            run(
                &mut shell(&format!("head -c {count} /dev/zero | tr '\\0' x")),
                &mut |_| {},
            )
        };
        assert_eq!(print(3_000_000).unwrap().len(), 3_000_000);
        let error = print(STDOUT_LIMIT_BYTES + 1).unwrap_err().to_string();
        assert!(error.contains("more than 16 MiB"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut clean_command("no-such-tool-here", &|_| false), &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "`no-such-tool-here` is not on the PATH");
    }
}
