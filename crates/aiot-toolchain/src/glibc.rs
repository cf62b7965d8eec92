//! Versions of the GNU C library, as in a target's floor (`2.31`) and in symbol versions (`GLIBC_2.31`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `major.minor` of a GNU C library; a third number (`2.2.5`) says nothing about a device and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GlibcVersion {
    /// 2 for every C library in use.
    pub major: u16,
    /// 31 in `2.31`.
    pub minor: u16,
}

impl GlibcVersion {
    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        GlibcVersion { major, minor }
    }

    /// The version that a symbol version such as `GLIBC_2.34` asks for. `None` for names that say nothing about the
    /// version (`GLIBC_PRIVATE`) or belong to another library (`GCC_3.0`).
    pub fn of_symbol_version(name: &str) -> Option<Self> {
        let version = name.strip_prefix("GLIBC_")?;
        match version {
            // Written by linkers that pack relative relocations; loaders before 2.36 refuse the file.
            "ABI_DT_RELR" => Some(GlibcVersion::new(2, 36)),
            _ => version.parse().ok(),
        }
    }
}

impl fmt::Display for GlibcVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A text that is no C library version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no C library version; write major.minor, for example \"2.31\"")]
pub struct GlibcVersionError {
    /// What was read.
    pub text: String,
}

impl FromStr for GlibcVersion {
    type Err = GlibcVersionError;

    fn from_str(text: &str) -> Result<Self, GlibcVersionError> {
        let number = |part: Option<&str>| -> Option<u16> {
            part.filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))?
                .parse()
                .ok()
        };
        let mut parts = text.split('.');
        let version = (number(parts.next()), number(parts.next()));
        let rest_is_fine = match parts.next() {
            None => true,
            patch => number(patch).is_some() && parts.next().is_none(),
        };
        match version {
            (Some(major), Some(minor)) if rest_is_fine => Ok(GlibcVersion { major, minor }),
            _ => Err(GlibcVersionError {
                text: text.chars().take(40).collect(),
            }),
        }
    }
}

impl TryFrom<String> for GlibcVersion {
    type Error = GlibcVersionError;

    fn try_from(text: String) -> Result<Self, GlibcVersionError> {
        text.parse()
    }
}

impl From<GlibcVersion> for String {
    fn from(version: GlibcVersion) -> String {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let check = |text: &str, expected: Option<(u16, u16)>| {
            let got = text
                .parse::<GlibcVersion>()
                .ok()
                .map(|version| (version.major, version.minor));
            assert_eq!(got, expected, "{text}");
        };
        check("2.31", Some((2, 31)));
        check("2.2.5", Some((2, 2)));
        check("2", None);
        check("", None);
        check("2.", None);
        check("2.31.", None);
        check("2.31.1.1", None);
        check("+2.31", None);
        check("2.x", None);
        check("2.99999999", None);
    }

    #[test]
    fn reads_symbol_versions() {
        let check = |name: &str, expected: Option<&str>| {
            let got = GlibcVersion::of_symbol_version(name).map(|version| version.to_string());
            assert_eq!(got.as_deref(), expected, "{name}");
        };
        check("GLIBC_2.34", Some("2.34"));
        check("GLIBC_2.2.5", Some("2.2"));
        check("GLIBC_ABI_DT_RELR", Some("2.36"));
        check("GLIBC_PRIVATE", None);
        check("GCC_3.0", None);
        check("GLIBCXX_3.4", None);
    }

    #[test]
    fn orders_by_number_not_by_text() {
        assert!(GlibcVersion::new(2, 9) < GlibcVersion::new(2, 31));
    }
}
