//! What pushes keep beside the registries' habits for the pushes after them.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::registry::read_kept;

/// The longest such file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The path of `file` beside `habits`, and what it holds; nothing where there is no such file or it is damaged.
pub(super) fn kept<T: DeserializeOwned + Default>(habits: Option<&Path>, file: &str) -> (Option<PathBuf>, T) {
    let path = habits.map(|path| path.with_file_name(file));
    let content = path.as_deref().map(|path| read_kept(path, MAX_FILE_BYTES));
    (path, content.unwrap_or_default())
}
