//! Python wheels as parcels: zig, cargo-zigbuild and ONNX Runtime come in them, for every host, through whatever
//! index this machine's pip is set up with.
//!
//! pip downloads (`--no-deps --only-binary :all:`) and installs nothing. A wheel that was used once is locked by file
//! name and SHA-256 ([`LockedWheel`]); fetching it again asks for exactly that file. Unpacking is in [`archive`].

pub mod archive;
mod error;
mod tags;
pub mod zig;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use archive::{ArchiveError, EngineLibrary, engine_library, extract};
pub use error::WheelError;
pub use tags::{WheelTags, manylinux_platforms};
pub use zig::{ZigTools, zig_tools};

use crate::process::{ProcessError, run};

/// The version of the wheel `ziglang` that a new lock starts with.
pub const ZIG_VERSION: &str = "0.17.1";
/// The version of the wheel `cargo-zigbuild` that a new lock starts with.
pub const CARGO_ZIGBUILD_VERSION: &str = "0.24.0";
/// The Python version whose engine wheel is taken. The library inside does not depend on it, a choice must be made.
pub const ENGINE_PYTHON_VERSION: &str = "3.12";

/// Longest wheel, 4 GiB.
const WHEEL_LIMIT_BYTES: u64 = 4 << 30;

/// One wheel, down to its bytes; stands in `aiot.lock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedWheel {
    /// The package's name as it was asked for, `ziglang`.
    pub package: String,
    /// Its version, `0.17.1`.
    pub version: String,
    /// The wheel's file name; it tells for which Python, C library and processor the wheel is.
    pub filename: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length of the file in bytes.
    pub size_bytes: u64,
}

impl LockedWheel {
    /// Whether this machine can run what is inside. A lock made elsewhere may hold tools for another machine.
    pub fn fits_host(&self) -> bool {
        WheelTags::parse(&self.filename)
            .is_some_and(|tags| tags.fits(std::env::consts::OS, std::env::consts::ARCH))
    }
}

/// Which wheel is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelRequest {
    /// The package, `onnxruntime`.
    pub package: String,
    /// Its exact version, `1.32.0`.
    pub version: String,
    /// For which machine; `None` for the one that pip runs on.
    pub machine: Option<WheelMachine>,
}

/// A machine other than the one that pip runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelMachine {
    /// `3.12`.
    pub python_version: String,
    /// Platform tags that it accepts, best first; see [`manylinux_platforms`].
    pub platforms: Vec<String>,
}

/// Downloads a wheel into the folder `dest` and says what came.
///
/// # Errors
/// [`WheelError`], telling apart a missing Python or pip, an unreachable index, and a wheel that does not exist.
pub fn pip_download(request: &WheelRequest, dest: &Path) -> Result<(LockedWheel, PathBuf), WheelError> {
    let is_name = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte))
            && text
                .bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_alphanumeric())
    };
    for (text, what) in [
        (&request.package, "package name"),
        (&request.version, "exact version"),
    ] {
        if !is_name(text) {
            return Err(WheelError::BadRequest {
                text: text.clone(),
                what,
            });
        }
    }
    let mut flags = Vec::new();
    let mut machine = "this machine".to_owned();
    if let Some(wanted) = &request.machine {
        flags.extend(["--python-version".to_owned(), wanted.python_version.clone()]);
        flags.extend(
            wanted
                .platforms
                .iter()
                .flat_map(|it| ["--platform".to_owned(), it.clone()]),
        );
        let platforms = wanted
            .platforms
            .first()
            .map(String::as_str)
            .unwrap_or("any platform");
        machine = format!("Python {} on {platforms} or older", wanted.python_version);
    }
    let path = pip(
        &format!("{}=={}", request.package, request.version),
        &machine,
        &flags,
        dest,
    )?;
    let (sha256, size_bytes) = digest(&path)?;
    let filename = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let locked = LockedWheel {
        package: request.package.clone(),
        version: request.version.clone(),
        filename,
        sha256,
        size_bytes,
    };
    Ok((locked, path))
}

/// Returns the locked wheel in the folder `dest`, downloading it if it is not there.
///
/// # Errors
/// As [`pip_download`], and [`WheelError::Mismatch`] when the bytes differ from the lock.
pub fn fetch_locked(locked: &LockedWheel, dest: &Path) -> Result<PathBuf, WheelError> {
    let Some(tags) = WheelTags::parse(&locked.filename) else {
        return Err(WheelError::BadRequest {
            text: locked.filename.clone(),
            what: "file name of a wheel",
        });
    };
    let path = dest.join(&locked.filename);
    if !path.is_file() {
        let requirement = format!("{}=={}", locked.package, locked.version);
        let got = pip(&requirement, &locked.filename, &tags.pip_flags(), dest)?;
        if got != path {
            return Err(WheelError::Mismatch {
                found: got.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                path: got,
                field: "file name",
                expected: locked.filename.clone(),
            });
        }
    }
    verify(locked, &path)?;
    Ok(path)
}

/// Compares a file with the lock.
///
/// # Errors
/// [`WheelError::Mismatch`] or [`WheelError::Io`].
pub fn verify(locked: &LockedWheel, path: &Path) -> Result<(), WheelError> {
    let mismatch = |field, found: String, expected: String| WheelError::Mismatch {
        path: path.to_owned(),
        field,
        found,
        expected,
    };
    let (sha256, size_bytes) = digest(path)?;
    if size_bytes != locked.size_bytes {
        return Err(mismatch(
            "size",
            size_bytes.to_string(),
            locked.size_bytes.to_string(),
        ));
    }
    if sha256 != locked.sha256 {
        return Err(mismatch("sha256", sha256, locked.sha256.clone()));
    }
    Ok(())
}

/// Runs pip in an empty folder inside `dest` and moves the one wheel that it leaves to `dest`.
fn pip(requirement: &str, machine: &str, flags: &[String], dest: &Path) -> Result<PathBuf, WheelError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| WheelError::Io { action, path, source }
    };
    fs::create_dir_all(dest).map_err(io("create", dest))?;
    let folder = tempfile::Builder::new()
        .prefix(".pip")
        .tempdir_in(dest)
        .map_err(io("create", dest))?;
    // pip keeps its own environment (index, proxies, certificates); the SHA-256 guards what comes out.
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]);
    command.args(["--no-deps", "--only-binary", ":all:", "--retries", "2"]);
    command
        .args(flags)
        .arg("--dest")
        .arg(folder.path())
        .arg(requirement)
        .env("LC_ALL", "C");
    run(&mut command, &mut |_| {}).map_err(|source| error::explain(source, requirement, machine))?;

    let wheels: Vec<PathBuf> = fs::read_dir(folder.path())
        .map_err(io("read", folder.path()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    let [wheel] = wheels.as_slice() else {
        let source = ProcessError::Failed {
            command: "pip download".to_owned(),
            status: "success".to_owned(),
            stderr_tail: format!("it left {} wheels instead of one", wheels.len()),
        };
        return Err(WheelError::Pip {
            requirement: requirement.to_owned(),
            source,
        });
    };
    let path = dest.join(wheel.file_name().unwrap_or_default());
    fs::rename(wheel, &path).map_err(io("move", &path))?;
    Ok(path)
}

/// (SHA-256 in hexadecimal, length) of a file.
fn digest(path: &Path) -> Result<(String, u64), WheelError> {
    let error = |source| WheelError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(error)?;
    let mut hasher = HashWriter(Sha256::new());
    let size_bytes = io::copy(&mut io::Read::take(file, WHEEL_LIMIT_BYTES), &mut hasher).map_err(error)?;
    hasher.flush().map_err(error)?;
    let sha256 = hasher
        .0
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((sha256, size_bytes))
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_requests_are_refused_before_pip_sees_them() {
        let folder = tempfile::tempdir().unwrap();
        for (package, version) in [
            ("--index-url=x", "1"),
            ("zig lang", "1"),
            ("ziglang", ""),
            ("ziglang", "1;x"),
        ] {
            let request = WheelRequest {
                package: package.to_owned(),
                version: version.to_owned(),
                machine: None,
            };
            let error = pip_download(&request, folder.path()).unwrap_err();
            assert!(matches!(error, WheelError::BadRequest { .. }), "{error}");
        }
    }

    #[test]
    fn other_bytes_than_locked_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let locked = LockedWheel {
            package: "a".to_owned(),
            version: "1".to_owned(),
            filename: "a-1-py3-none-any.whl".to_owned(),
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
            size_bytes: 3,
        };
        let path = folder.path().join(&locked.filename);
        fs::write(&path, "abc").unwrap();
        assert_eq!(fetch_locked(&locked, folder.path()).unwrap(), path);
        for (content, field) in [("abcd", "size is 4"), ("abd", "sha256 is ")] {
            fs::write(&path, content).unwrap();
            let message = fetch_locked(&locked, folder.path()).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }
}
