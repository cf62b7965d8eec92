//! `aiot.lock`: every outside input by digest. Text in, values out, and back without a byte of difference.
//!
//! Calibration ranges and measurements are outside inputs too (another processor computes other ones); they stand in
//! files of their own beside the model, `calibration.toml` and `measured.json`, and the lock names their digests.

use std::collections::BTreeMap;

use aiot_package::Digest;
use serde::{Deserialize, Serialize};

use crate::names::ModelName;

/// The version of the file that this code reads and writes.
pub const LOCK_VERSION: u32 = 1;

const HEADER: &str = "\
# Every outside input of the release by digest. Written by `cargo xtask release` and `cargo xtask update`; review it
# like code. `--locked` refuses to change it.
";

/// The content of `aiot.lock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    /// [`LOCK_VERSION`]
    pub version: u32,
    /// The compiler, as `rustc` names its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rustc: Option<String>,
    /// The models and what was found out about them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub model: BTreeMap<ModelName, LockedModel>,
    /// Python wheels: engines and build tools. Sorted by package, then platform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wheel: Vec<LockedWheel>,
    /// Closures of Debian packages. Sorted by suite, architecture, roots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub debian: Vec<LockedClosure>,
}

impl Default for Lock {
    fn default() -> Self {
        Lock {
            version: LOCK_VERSION,
            rustc: None,
            model: BTreeMap::new(),
            wheel: Vec::new(),
            debian: Vec::new(),
        }
    }
}

/// What every version of the file has.
#[derive(Deserialize)]
struct LockVersion {
    version: u32,
}

/// A model's inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedModel {
    /// The float file.
    pub source: Digest,
    /// `models/<name>/calibration.toml`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Digest>,
    /// `models/<name>/measured.json`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Digest>,
}

/// A Python wheel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedWheel {
    /// Package name.
    pub package: String,
    /// Platform tag that it was asked for.
    pub platform: String,
    /// Version.
    pub version: String,
    /// File name.
    pub filename: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Digest of the file.
    pub digest: Digest,
}

/// The closure of some Debian packages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedClosure {
    /// Code name of the release.
    pub suite: String,
    /// Debian's word for the architecture.
    pub architecture: String,
    /// What was asked for, sorted.
    pub roots: Vec<String>,
    /// What was left out, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// All packages, sorted by name.
    pub package: Vec<LockedPackage>,
}

/// One Debian package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedPackage {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// The package's own architecture, or `all`.
    pub architecture: String,
    /// Path in the archive, relative to the mirror.
    pub filename: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Digest of the `.deb`.
    pub digest: Digest,
}

/// A lock that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Not a lock at all.
    #[error("aiot.lock:{line}: {message}; restore it from git, or delete it and run `cargo xtask update`")]
    Parse {
        /// Line, counted from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// Written by another version of this tool.
    #[error(
        "aiot.lock has version {found}, this tool knows {LOCK_VERSION}; use the tool that wrote it, or delete it and run `cargo xtask update`"
    )]
    Version {
        /// What it says.
        found: u32,
    },
}

impl Lock {
    /// Reads the text of `aiot.lock`; an empty text is an empty lock.
    ///
    /// # Errors
    /// [`LockError`] with the line.
    pub fn parse(text: &str) -> Result<Lock, LockError> {
        if text.trim().is_empty() {
            return Ok(Lock::default());
        }
        let failed = |error: toml::de::Error| LockError::Parse {
            line: 1 + error
                .span()
                .map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count()),
            message: error.message().trim().replace('\n', "; "),
        };
        // The version first: another one may have keys that are unknown here.
        let version: LockVersion = toml::from_str(text).map_err(failed)?;
        if version.version != LOCK_VERSION {
            return Err(LockError::Version {
                found: version.version,
            });
        }
        toml::from_str(text).map_err(failed)
    }

    /// The text of `aiot.lock`: sorted, so that equal locks are equal bytes.
    pub fn render(&self) -> String {
        let mut sorted = self.clone();
        sorted.wheel.sort();
        sorted.debian.sort();
        for closure in &mut sorted.debian {
            closure.package.sort();
        }
        let body = toml::to_string(&sorted).expect("a lock is plain tables and strings");
        format!("{HEADER}{body}")
    }

    /// The wheel of a package for a platform tag.
    pub fn wheel(&self, package: &str, platform: &str) -> Option<&LockedWheel> {
        self.wheel
            .iter()
            .find(|wheel| wheel.package == package && wheel.platform == platform)
    }

    /// The wheel that was locked for a request, its version included: two may stand beside each other.
    pub fn requested_wheel(&self, wanted: &WheelRequest) -> Option<&LockedWheel> {
        self.wheel.iter().find(|wheel| {
            wheel.package == wanted.package
                && wheel.version == wanted.version
                && wheel.platform == wanted.platform
        })
    }

    /// The closure that was resolved for exactly these roots.
    pub fn closure(&self, wanted: &ClosureRequest) -> Option<&LockedClosure> {
        self.debian.iter().find(|closure| {
            closure.suite == wanted.suite
                && closure.architecture == wanted.architecture
                && closure.roots == wanted.roots
                && closure.exclude == wanted.exclude
        })
    }
}

/// What a base asks of a distribution.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ClosureRequest {
    /// Code name of the release.
    pub suite: String,
    /// Debian's word for the architecture.
    pub architecture: String,
    /// Root packages, sorted.
    pub roots: Vec<String>,
    /// Left out, sorted.
    pub exclude: Vec<String>,
}

/// What a target or tool asks of the Python package index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WheelRequest {
    /// Package name.
    pub package: String,
    /// Exact version.
    pub version: String,
    /// Platform tag.
    pub platform: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let digest = Digest::of(b"x");
        let package = |name: &str| LockedPackage {
            name: name.into(),
            version: "1".into(),
            architecture: "arm64".into(),
            filename: format!("pool/main/{name}.deb"),
            size_bytes: 3,
            digest,
        };
        Lock {
            rustc: Some("1.95.0".into()),
            model: [(
                ModelName::new("m").unwrap(),
                LockedModel {
                    source: digest,
                    calibration: Some(digest),
                    measured: None,
                },
            )]
            .into(),
            wheel: vec![LockedWheel {
                package: "onnxruntime".into(),
                platform: "manylinux_2_28_aarch64".into(),
                version: "1.32.0".into(),
                filename: "onnxruntime.whl".into(),
                size_bytes: 1,
                digest,
            }],
            debian: vec![LockedClosure {
                suite: "trixie".into(),
                architecture: "arm64".into(),
                roots: vec!["libc6".into()],
                exclude: vec![],
                package: vec![package("b"), package("a")],
            }],
            ..Lock::default()
        }
    }

    #[test]
    fn comes_back_the_same() {
        let text = sample().render();
        let again = Lock::parse(&text).unwrap();
        assert_eq!(again.render(), text);
        assert_eq!(again.debian[0].package[0].name, "a", "sorted");
    }

    #[test]
    fn a_package_is_kebab_case_toml_and_back() {
        let locked = LockedPackage {
            name: "libc6".into(),
            version: "2.41-12+deb13u4".into(),
            architecture: "armhf".into(),
            filename: "pool/main/x/libc6_2.41-12+deb13u4_armhf.deb".into(),
            size_bytes: 10,
            digest: Digest::from_bytes([0; 32]),
        };
        let text = toml::to_string(&locked).unwrap();
        assert_eq!(
            text,
            "name = \"libc6\"\nversion = \"2.41-12+deb13u4\"\narchitecture = \"armhf\"\n\
             filename = \"pool/main/x/libc6_2.41-12+deb13u4_armhf.deb\"\nsize-bytes = 10\n\
             digest = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"\n"
        );
        assert_eq!(toml::from_str::<LockedPackage>(&text).unwrap(), locked);
        for wrong in [format!("{text}other = 1\n"), text.replace("000\"", "00A\"")] {
            assert!(toml::from_str::<LockedPackage>(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn empty_is_empty_and_errors_name_the_line() {
        assert_eq!(Lock::parse("").unwrap(), Lock::default());
        assert_eq!(
            Lock::parse("version = 9\nnew = 1").unwrap_err(),
            LockError::Version { found: 9 }
        );
        let error = Lock::parse("version = 1\n\nwrong = 2\n").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("aiot.lock:3: unknown field `wrong`"),
            "{error}"
        );
    }
}
