//! What the lock says of a package, and what moving the lock changes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dependency::is_package_name;
use crate::version::compare_versions;

/// The largest .deb that is fetched.
pub(crate) const PACKAGE_LIMIT_BYTES: u64 = 2 << 30;

/// One package of a base, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedPackage {
    /// Binary package name.
    pub name: String,
    /// Version with epoch and revision.
    pub version: String,
    /// The architecture of the package itself: a Debian architecture or `all`.
    pub architecture: String,
    /// Path below the mirror, `pool/main/…`.
    pub filename: String,
    /// Length of the .deb in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the .deb, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A lock entry or index stanza that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("package `{name}`: `{field}` is `{value}`, expected {expected}; run `cargo xtask update base`")]
pub struct LockedPackageError {
    /// The package.
    pub name: String,
    /// The field at fault.
    pub field: &'static str,
    /// What it says.
    pub value: String,
    /// What it should be.
    pub expected: &'static str,
}

impl LockedPackage {
    /// Checks what becomes part of a URL, a path or a comparison.
    ///
    /// # Errors
    /// [`LockedPackageError`], with the first field that is wrong.
    pub fn check(&self) -> Result<(), LockedPackageError> {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._~:/%".contains(&byte);
        let path_ok = self.filename.starts_with("pool/")
            && self.filename.bytes().all(plain)
            && self
                .filename
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."));
        let checks = [
            (
                "name",
                &self.name,
                is_package_name(&self.name),
                "a Debian package name",
            ),
            (
                "version",
                &self.version,
                !self.version.is_empty() && self.version.bytes().all(|byte| plain(byte) && byte != b'/'),
                "a Debian version",
            ),
            (
                "architecture",
                &self.architecture,
                is_package_name(&self.architecture),
                "an architecture",
            ),
            (
                "filename",
                &self.filename,
                path_ok,
                "a path that begins with `pool/`",
            ),
            (
                "sha256",
                &self.sha256,
                self.sha256.len() == 64 && self.sha256.bytes().all(hexadecimal),
                "64 lower-case hexadecimal digits",
            ),
        ];
        let size = self.size_bytes.to_string();
        let size_check = (
            "size-bytes",
            &size,
            (1..=PACKAGE_LIMIT_BYTES).contains(&self.size_bytes),
            "between 1 byte and 2 GiB",
        );
        for (field, value, ok, expected) in checks.into_iter().chain([size_check]) {
            if !ok {
                let value = value.chars().take(200).collect();
                return Err(LockedPackageError {
                    name: self.name.chars().take(100).collect(),
                    field,
                    value,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// One line of what `cargo xtask update base` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackageChange {
    /// Not in the old lock.
    Added(LockedPackage),
    /// Not in the new lock.
    Removed(LockedPackage),
    /// In both, with another version or other bytes.
    Moved {
        /// As it was.
        from: LockedPackage,
        /// As it is.
        to: LockedPackage,
    },
}

impl fmt::Display for PackageChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackageChange::Added(package) => write!(f, "+ {} {}", package.name, package.version),
            PackageChange::Removed(package) => write!(f, "- {} {}", package.name, package.version),
            PackageChange::Moved { from, to } => {
                let note = match compare_versions(&from.version, &to.version) {
                    Ordering::Less => "",
                    Ordering::Equal => " (same version, other bytes)",
                    Ordering::Greater => " (downgrade)",
                };
                write!(f, "~ {} {} -> {}{note}", to.name, from.version, to.version)
            }
        }
    }
}

/// What changes from one closure to another, sorted by package name.
pub fn package_changes(from: &[LockedPackage], to: &[LockedPackage]) -> Vec<PackageChange> {
    let mut pairs: BTreeMap<&str, (Option<&LockedPackage>, Option<&LockedPackage>)> = BTreeMap::new();
    for package in from {
        pairs.entry(&package.name).or_default().0 = Some(package);
    }
    for package in to {
        pairs.entry(&package.name).or_default().1 = Some(package);
    }
    let change = |pair| match pair {
        (Some(from), None) => Some(PackageChange::Removed(LockedPackage::clone(from))),
        (None, Some(to)) => Some(PackageChange::Added(LockedPackage::clone(to))),
        (Some(from), Some(to)) if from != to => Some(PackageChange::Moved {
            from: LockedPackage::clone(from),
            to: LockedPackage::clone(to),
        }),
        _ => None,
    };
    pairs.into_values().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: "armhf".into(),
            filename: format!("pool/main/x/{name}_{version}_armhf.deb"),
            size_bytes: 10,
            sha256: "0".repeat(64),
        }
    }

    #[test]
    fn is_kebab_case_toml_and_back() {
        let locked = package("libc6", "2.41-12+deb13u4");
        let text = toml::to_string(&locked).unwrap();
        assert_eq!(
            text,
            "name = \"libc6\"\nversion = \"2.41-12+deb13u4\"\narchitecture = \"armhf\"\n\
             filename = \"pool/main/x/libc6_2.41-12+deb13u4_armhf.deb\"\nsize-bytes = 10\n\
             sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n"
        );
        assert_eq!(toml::from_str::<LockedPackage>(&text).unwrap(), locked);
        assert!(toml::from_str::<LockedPackage>(&format!("{text}other = 1\n")).is_err());
    }

    #[test]
    fn refuses_what_must_not_become_a_path() {
        type Edit = fn(&mut LockedPackage);
        let edits: [(&str, Edit); 10] = [
            ("name", |package| package.name = "../x".into()),
            ("version", |package| package.version = "1/2".into()),
            ("version", |package| package.version = String::new()),
            ("architecture", |package| package.architecture = "x y".into()),
            ("filename", |package| package.filename = "pool/../../x".into()),
            ("filename", |package| package.filename = "/etc/passwd".into()),
            ("filename", |package| package.filename = "pool/a?b".into()),
            ("sha256", |package| package.sha256 = "A".repeat(64)),
            ("size-bytes", |package| package.size_bytes = 0),
            ("size-bytes", |package| package.size_bytes = u64::MAX),
        ];
        assert_eq!(package("a", "1:2~3").check(), Ok(()));
        for (field, edit) in edits {
            let mut locked = package("a", "1");
            edit(&mut locked);
            assert_eq!(locked.check().unwrap_err().field, field);
        }
    }

    #[test]
    fn shows_what_changes() {
        let mut rebuilt = package("e", "1");
        rebuilt.sha256 = "1".repeat(64);
        let from = [
            package("a", "1"),
            package("b", "1"),
            package("d", "2"),
            package("e", "1"),
            package("f", "1"),
        ];
        let to = [
            package("f", "1"),
            package("b", "1.1"),
            package("c", "1"),
            package("d", "1"),
            rebuilt,
        ];
        let lines: Vec<_> = package_changes(&from, &to)
            .iter()
            .map(PackageChange::to_string)
            .collect();
        let expected = [
            "- a 1",
            "~ b 1 -> 1.1",
            "+ c 1",
            "~ d 2 -> 1 (downgrade)",
            "~ e 1 -> 1 (same version, other bytes)",
        ];
        assert_eq!(lines, expected);
    }
}
