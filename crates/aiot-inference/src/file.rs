//! Reading files with a bound, and refusing names that leave their folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::limits::MAX_INPUT_BYTES;

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The file is larger than its kind may be.
    #[error("`{path}` is larger than the {max_bytes} bytes that are read at most", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        max_bytes: u64,
    },
    /// A listed name is absolute or climbs out of its folder.
    #[error("`{name}` leaves the folder `{folder}`: only relative paths below it are allowed", folder = folder.display())]
    Outside {
        /// The name as listed.
        name: String,
        /// The folder that it must stay in.
        folder: PathBuf,
    },
}

/// The bytes of an input file, at most [`MAX_INPUT_BYTES`] of them.
///
/// # Errors
/// [`FileError`] when it cannot be read or is larger.
pub fn read_input(path: &Path) -> Result<Vec<u8>, FileError> {
    read_bounded(path, MAX_INPUT_BYTES)
}

/// The file's bytes, at most `max_bytes` of them.
pub(crate) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    let fail = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    // The length is a hint only: the file may grow, or be a pipe.
    let length = file.metadata().map_err(fail)?.len();
    if length > max_bytes {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            max_bytes,
        });
    }
    bytes.reserve(usize::try_from(length).unwrap_or(0));
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > max_bytes {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            max_bytes,
        });
    }
    Ok(bytes)
}

/// `folder/name` where `name` is a list's entry: plain components only.
pub(crate) fn inside(folder: &Path, name: &str) -> Result<PathBuf, FileError> {
    let path = Path::new(name);
    let plain = path
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if name.is_empty() || !plain {
        return Err(FileError::Outside {
            name: name.to_owned(),
            folder: folder.to_owned(),
        });
    }
    Ok(folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        let folder = Path::new("data");
        for (name, fine) in [
            ("a.png", true),
            ("a/b.png", true),
            ("", false),
            ("/etc/passwd", false),
            ("../a", false),
            ("a/../../b", false),
            ("./a", false),
        ] {
            assert_eq!(inside(folder, name).is_ok(), fine, "{name}");
        }
    }
}
