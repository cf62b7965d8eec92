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

use aiot_package::Digest;
use aiot_plan::lock::{LockedWheel, WheelRequest};
use aiot_plan::tools::HOST_PLATFORM;
use sha2::{Digest as _, Sha256};

pub use archive::{ArchiveError, EngineLibrary, engine_library, extract};
pub use error::WheelError;
pub use tags::WheelTags;
pub use zig::{ZigTools, zig_tools};

use crate::process::{ProcessError, run};

/// The Python version whose engine wheel is taken. The library inside does not depend on it, a choice must be made.
const ENGINE_PYTHON_VERSION: &str = "3.12";

/// Longest wheel, 4 GiB.
const WHEEL_LIMIT_BYTES: u64 = 4 << 30;

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
        (&request.platform, "platform tag"),
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
    if !request.platform.starts_with(HOST_PLATFORM) {
        flags.extend(
            [
                "--python-version",
                ENGINE_PYTHON_VERSION,
                "--platform",
                &request.platform,
            ]
            .map(str::to_owned),
        );
        machine = format!("Python {ENGINE_PYTHON_VERSION} on {}", request.platform);
    }
    let path = pip(
        &format!("{}=={}", request.package, request.version),
        &machine,
        &flags,
        dest,
    )?;
    let (digest, size_bytes) = read_digest(&path)?;
    let filename = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let locked = LockedWheel {
        package: request.package.clone(),
        platform: request.platform.clone(),
        version: request.version.clone(),
        filename,
        size_bytes,
        digest,
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
    let (digest, size_bytes) = read_digest(path)?;
    if size_bytes != locked.size_bytes {
        return Err(mismatch(
            "size",
            size_bytes.to_string(),
            locked.size_bytes.to_string(),
        ));
    }
    if digest != locked.digest {
        return Err(mismatch("sha256", digest.hex(), locked.digest.hex()));
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

/// Digest and length of a file.
fn read_digest(path: &Path) -> Result<(Digest, u64), WheelError> {
    let error = |source| WheelError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(error)?;
    let mut hasher = HashWriter(Sha256::new());
    let size_bytes = io::copy(&mut io::Read::take(file, WHEEL_LIMIT_BYTES), &mut hasher).map_err(error)?;
    hasher.flush().map_err(error)?;
    Ok((Digest::from_bytes(hasher.0.finalize().into()), size_bytes))
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
        for (package, version, platform) in [
            ("--index-url=x", "1", "host_x86_64"),
            ("zig lang", "1", "host_x86_64"),
            ("ziglang", "", "host_x86_64"),
            ("ziglang", "1;x", "host_x86_64"),
            ("ziglang", "1", "--index-url=x"),
        ] {
            let request = WheelRequest {
                package: package.to_owned(),
                version: version.to_owned(),
                platform: platform.to_owned(),
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
            platform: "host_x86_64".to_owned(),
            version: "1".to_owned(),
            filename: "a-1-py3-none-any.whl".to_owned(),
            size_bytes: 3,
            digest: Digest::from_hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
                .unwrap(),
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
