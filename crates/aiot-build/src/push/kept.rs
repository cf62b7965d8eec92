//! What pushes keep beside the registries' habits for the pushes after them.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// The longest such file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The path of `file` beside `habits`, and what it holds; nothing where there is no such file or it is damaged.
pub(super) fn kept<T: DeserializeOwned + Default>(habits: Option<&Path>, file: &str) -> (Option<PathBuf>, T) {
    let path = habits.map(|path| path.with_file_name(file));
    let fits = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|found| found.len() <= MAX_FILE_BYTES);
    let bytes = path
        .as_ref()
        .filter(fits)
        .and_then(|path| std::fs::read(path).ok());
    let content = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    (path, content.unwrap_or_default())
}
