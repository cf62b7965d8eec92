//! What the lock says of a package, and what moving the lock changes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use aiot_plan::lock::LockedPackage;

use crate::dependency::is_package_name;
use crate::version::compare_versions;

/// The largest .deb that is fetched.
pub(crate) const PACKAGE_LIMIT_BYTES: u64 = 2 << 30;

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

impl LockedPackageError {
    pub(crate) fn new(name: &str, field: &'static str, value: &str, expected: &'static str) -> Self {
        LockedPackageError {
            name: name.chars().take(100).collect(),
            field,
            value: value.chars().take(200).collect(),
            expected,
        }
    }
}

/// Checks what becomes part of a URL, a path or a comparison.
///
/// # Errors
/// [`LockedPackageError`], with the first field that is wrong.
pub fn check_package(package: &LockedPackage) -> Result<(), LockedPackageError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._~:/%".contains(&byte);
    let version_ok =
        !package.version.is_empty() && package.version.bytes().all(|byte| plain(byte) && byte != b'/');
    let path_ok = package.filename.starts_with("pool/")
        && package.filename.bytes().all(plain)
        && package
            .filename
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."));
    let size = package.size_bytes.to_string();
    let size_ok = (1..=PACKAGE_LIMIT_BYTES).contains(&package.size_bytes);
    let checks = [
        (
            "name",
            &package.name,
            is_package_name(&package.name),
            "a Debian package name",
        ),
        ("version", &package.version, version_ok, "a Debian version"),
        (
            "architecture",
            &package.architecture,
            is_package_name(&package.architecture),
            "an architecture",
        ),
        (
            "filename",
            &package.filename,
            path_ok,
            "a path that begins with `pool/`",
        ),
        ("size-bytes", &size, size_ok, "between 1 byte and 2 GiB"),
    ];
    for (field, value, ok, expected) in checks {
        if !ok {
            return Err(LockedPackageError::new(&package.name, field, value, expected));
        }
    }
    Ok(())
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
    use aiot_package::Digest;

    use super::*;

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: "armhf".into(),
            filename: format!("pool/main/x/{name}_{version}_armhf.deb"),
            size_bytes: 10,
            digest: Digest::from_bytes([0; 32]),
        }
    }

    #[test]
    fn refuses_what_must_not_become_a_path() {
        type Edit = fn(&mut LockedPackage);
        let edits: [(&str, Edit); 9] = [
            ("name", |package| package.name = "../x".into()),
            ("version", |package| package.version = "1/2".into()),
            ("version", |package| package.version = String::new()),
            ("architecture", |package| package.architecture = "x y".into()),
            ("filename", |package| package.filename = "pool/../../x".into()),
            ("filename", |package| package.filename = "/etc/passwd".into()),
            ("filename", |package| package.filename = "pool/a?b".into()),
            ("size-bytes", |package| package.size_bytes = 0),
            ("size-bytes", |package| package.size_bytes = u64::MAX),
        ];
        assert_eq!(check_package(&package("a", "1:2~3")), Ok(()));
        for (field, edit) in edits {
            let mut locked = package("a", "1");
            edit(&mut locked);
            assert_eq!(check_package(&locked).unwrap_err().field, field);
        }
    }

    #[test]
    fn shows_what_changes() {
        let mut rebuilt = package("e", "1");
        rebuilt.digest = Digest::from_bytes([1; 32]);
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
