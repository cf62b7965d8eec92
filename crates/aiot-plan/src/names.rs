//! Strings with a meaning, so that a model's name cannot be passed where a target's is wanted.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps `text` where [`is_name`] holds.
            pub fn new(text: &str) -> Option<Self> {
                is_name(text).then(|| Self(text.to_owned()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A key of `models.toml`; also the image's repository and the IoT Edge module's name.
    ModelName
);
name_type!(
    /// A key of `targets.toml`; also the image's tag suffix.
    TargetName
);
name_type!(
    /// The crate below `modules/` that serves models.
    ModuleName
);
name_type!(
    /// The file name of a `deployments/<environment>.toml`.
    EnvironmentName
);

/// Lower-case letters, digits and single hyphens, starting with a letter, at most 40 characters: what OCI
/// repositories, IoT Edge module names, deployment ids and file systems all accept.
pub fn is_name(text: &str) -> bool {
    text.len() <= 40
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && !text.contains("--")
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Whether `text` is a path below the workspace: relative, `/` only, without `.`, `..`, empty parts and control
/// characters, so that each file has one spelling.
pub fn is_workspace_path(text: &str) -> bool {
    !text.contains(|c: char| c == '\\' || c.is_control())
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "surface-defects", "rpi-arm32", "x86-gateway"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "1a", "a_b", "a--b", "a-", "-a", "ä", &"a".repeat(41)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn paths() {
        for good in ["models/a.onnx", "a"] {
            assert!(is_workspace_path(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../a",
            "a/../b",
            "./a",
            "a/./b",
            "a//b",
            "a\\b",
            "a/",
            "a\0",
            "a\nb",
        ] {
            assert!(!is_workspace_path(bad), "{bad}");
        }
    }
}
