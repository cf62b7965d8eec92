//! Unpacking wheels: zip files from outside, so every name, kind and size is checked.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

/// Most members of a wheel.
const MEMBER_COUNT_LIMIT: usize = 100_000;
/// Longest member, unpacked.
const MEMBER_LIMIT_BYTES: u64 = 2 << 30;
/// Longest wheel, unpacked.
const TOTAL_LIMIT_BYTES: u64 = 8 << 30;

/// Why a wheel could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No zip file, or a damaged one.
    #[error("{path} is no whole wheel: {source}; delete it and fetch again")]
    Zip {
        /// The wheel.
        path: PathBuf,
        /// What is wrong.
        source: ZipError,
    },
    /// A member that must not be unpacked.
    #[error("{path} holds the member `{member}`, which is refused: {reason}")]
    Refused {
        /// The wheel.
        path: PathBuf,
        /// The member's name.
        member: String,
        /// Why.
        reason: &'static str,
    },
    /// What is wanted is not in it.
    #[error("{path} does not hold {wanted}; is it the right package and version?")]
    Missing {
        /// The wheel.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
    },
}

/// Unpacks the members that `wanted` accepts (by their name with `/`) into the new folder `dest`.
///
/// `dest` appears at the end, whole; if it is there already, it is kept and nothing is done. Programs are executable:
/// those that the wheel marks so, and everything in a `.data/scripts` folder.
///
/// # Errors
/// [`ArchiveError`]; `dest` is then absent.
pub fn extract(wheel: &Path, wanted: &dyn Fn(&str) -> bool, dest: &Path) -> Result<(), ArchiveError> {
    if dest.is_dir() {
        return Ok(());
    }
    let parent = dest.parent().unwrap_or(Path::new("."));
    let error = |action, path: &Path, source| ArchiveError::Io {
        action,
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(parent).map_err(|source| error("create", parent, source))?;
    let folder = tempfile::Builder::new()
        .prefix(".unpacking")
        .tempdir_in(parent)
        .map_err(|source| error("create", parent, source))?;
    let content = folder.path().join("content");
    fs::create_dir(&content).map_err(|source| error("create", &content, source))?;

    let mut archive = open(wheel)?;
    let mut budget = TOTAL_LIMIT_BYTES;
    for index in 0..archive.len() {
        unpack_member(wheel, &mut archive, index, wanted, &content, &mut budget)?;
    }
    match fs::rename(&content, dest) {
        // Someone else unpacked the same wheel meanwhile.
        Err(_) if dest.is_dir() => Ok(()),
        renamed => renamed.map_err(|source| error("create", dest, source)),
    }
}

fn unpack_member(
    wheel: &Path,
    archive: &mut ZipArchive<fs::File>,
    index: usize,
    wanted: &dyn Fn(&str) -> bool,
    content: &Path,
    budget: &mut u64,
) -> Result<(), ArchiveError> {
    let zip_error = |source| ArchiveError::Zip {
        path: wheel.to_owned(),
        source,
    };
    let member = archive.by_index(index).map_err(zip_error)?;
    let name = member.name().map_err(zip_error)?.into_owned();
    let refused = |reason| ArchiveError::Refused {
        path: wheel.to_owned(),
        member: shorten(&name),
        reason,
    };
    if let Err(reason) = check_name(&name) {
        return Err(refused(reason));
    }
    if member.is_symlink() {
        return Err(refused("it is a symbolic link"));
    }
    if name.ends_with('/') || !wanted(&name) {
        return Ok(());
    }
    let path = content.join(&name);
    let error = |source| ArchiveError::Io {
        action: "write",
        path: path.clone(),
        source,
    };
    fs::create_dir_all(path.parent().unwrap_or(content)).map_err(error)?;
    let is_program = member.unix_mode().is_some_and(|mode| mode & 0o111 != 0)
        || name.split('/').next().is_some_and(|top| top.ends_with(".data"))
            && name.contains(".data/scripts/");
    let limit = MEMBER_LIMIT_BYTES.min(*budget);
    // `create_new`: two members of one name (also names that differ by case on some file systems) are an attack.
    let mut file = match fs::File::create_new(&path) {
        Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {
            return Err(refused("another member has the same name"));
        }
        file => file.map_err(error)?,
    };
    let written =
        io::copy(&mut member.take(limit + 1), &mut file).map_err(|source| zip_error(ZipError::Io(source)))?;
    if written > limit {
        return Err(refused("it is too large"));
    }
    *budget -= written;
    if is_program {
        make_executable(&file).map_err(error)?;
    }
    Ok(())
}

#[cfg(unix)]
fn make_executable(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &fs::File) -> io::Result<()> {
    Ok(())
}

/// The engine's library out of an `onnxruntime` wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLibrary {
    /// `libonnxruntime.so.1.32.0`.
    pub filename: String,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Reads `onnxruntime/capi/libonnxruntime.so.VERSION` out of an `onnxruntime` wheel.
///
/// # Errors
/// [`ArchiveError`]; [`ArchiveError::Missing`] for wheels of other systems, whose library has another name.
pub fn engine_library(wheel: &Path) -> Result<EngineLibrary, ArchiveError> {
    const PREFIX: &str = "onnxruntime/capi/libonnxruntime.so.";
    let zip_error = |source| ArchiveError::Zip {
        path: wheel.to_owned(),
        source,
    };
    let mut archive = open(wheel)?;
    let mut names = Vec::new();
    for name in archive.file_names() {
        let name = name.map_err(zip_error)?;
        if name
            .strip_prefix(PREFIX)
            .is_some_and(|version| version.bytes().all(|it| it.is_ascii_digit() || it == b'.'))
        {
            names.push(name.into_owned());
        }
    }
    let [name] = names.as_slice() else {
        let wanted = format!("exactly one {PREFIX}VERSION (but {})", names.len());
        return Err(ArchiveError::Missing {
            path: wheel.to_owned(),
            wanted,
        });
    };
    let member = archive.by_name(name).map_err(zip_error)?;
    let mut bytes = Vec::new();
    member
        .take(MEMBER_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| zip_error(ZipError::Io(source)))?;
    if bytes.len() as u64 > MEMBER_LIMIT_BYTES {
        let member = name.clone();
        return Err(ArchiveError::Refused {
            path: wheel.to_owned(),
            member,
            reason: "it is too large",
        });
    }
    let filename = name.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(EngineLibrary { filename, bytes })
}

fn open(wheel: &Path) -> Result<ZipArchive<fs::File>, ArchiveError> {
    let file = fs::File::open(wheel);
    let file = file.map_err(|source| ArchiveError::Io {
        action: "read",
        path: wheel.to_owned(),
        source,
    })?;
    let archive = ZipArchive::new(file).map_err(|source| ArchiveError::Zip {
        path: wheel.to_owned(),
        source,
    })?;
    if archive.len() > MEMBER_COUNT_LIMIT {
        let member = format!("number {MEMBER_COUNT_LIMIT}");
        return Err(ArchiveError::Refused {
            path: wheel.to_owned(),
            member,
            reason: "it has too many members",
        });
    }
    Ok(archive)
}

/// Whether a member's name stays inside the folder on every system.
fn check_name(name: &str) -> Result<(), &'static str> {
    const NAME_LIMIT_BYTES: usize = 1024;
    if name.len() > NAME_LIMIT_BYTES {
        return Err("its name is too long");
    }
    if name.chars().any(|it| it.is_control() || it == '\\' || it == ':') {
        return Err("its name has characters that no wheel needs");
    }
    let folder = name.strip_suffix('/').unwrap_or(name);
    if folder.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("its name leaves the folder");
    }
    Ok(())
}

fn shorten(name: &str) -> String {
    name.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expected: bool| assert_eq!(check_name(name).is_ok(), expected, "{name:?}");
        check("ziglang/zig", true);
        check("onnxruntime/capi/", true);
        check("../x", false);
        check("a/../../x", false);
        check("/etc/passwd", false);
        check("a//b", false);
        check("a\\..\\b", false);
        check("C:x", false);
        check("", false);
        check("a\0b", false);
        check("./a", false);
    }
}
