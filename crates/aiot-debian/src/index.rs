//! The package index of one suite and architecture: fetched, checked, searchable.
//!
//! `InRelease` (signed) names the SHA-256 of `Packages.xz`, which names the SHA-256 of every package: so the
//! signature reaches each byte that gets into an image. Stanzas are read when they are asked for.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use aiot_package::Digest;
use aiot_plan::architecture::Architecture;
use aiot_plan::lock::LockedPackage;

use crate::compression::{self, Limited};
use crate::dependency::{Alternatives, DependencyError, is_package_name, parse_dependencies};
use crate::fetch::{Fetch, FetchError, check_bytes, redact_url};
use crate::lock::{LockedPackageError, check_package};
use crate::signature::{Signature, SignatureError, Verifier};
use crate::stanza::{Stanza, stanzas};
use crate::version::compare_versions;

const RELEASE_LIMIT_BYTES: u64 = 4 << 20;
const COMPRESSED_INDEX_LIMIT_BYTES: u64 = 128 << 20;
const INDEX_LIMIT_BYTES: u64 = 512 << 20;

/// Why there is no index, or a stanza of it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file of the mirror is not to be had.
    #[error("cannot fetch {url}: {source}; is the mirror's URL the folder that has `dists` and `pool`?")]
    Fetch {
        /// Which file, without credentials.
        url: String,
        /// Why not.
        source: FetchError,
    },
    /// The signature is refused.
    #[error("{url}: {source}")]
    Signature {
        /// The `InRelease`, without credentials.
        url: String,
        /// Why.
        source: SignatureError,
    },
    /// A file of the mirror is not what it should be.
    #[error("{url}: {reason}")]
    Content {
        /// Which file, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The index is not the one that the signed `InRelease` of the same mirror lists.
    #[error(
        "{url}: {reason}; the mirror is between two updates, or a proxy changed the file; try again later"
    )]
    Unlisted {
        /// The index, without credentials.
        url: String,
        /// How it differs.
        reason: String,
    },
    /// Not a suite's name.
    #[error("`{0}` is not the name of a Debian suite (letters, digits, `-`), like trixie")]
    Suite(String),
    /// A stanza has a dependency field that cannot be read.
    #[error("the index's stanza of package {package}: {source}")]
    Dependencies {
        /// The package.
        package: String,
        /// What is wrong.
        source: DependencyError,
    },
    /// A stanza lacks what the lock needs.
    #[error("the index's stanza is unusable: {0}")]
    Stanza(#[from] LockedPackageError),
}

/// The packages of one suite and architecture.
pub struct Index {
    text: String,
    architecture: Architecture,
    /// Package name → stanzas.
    by_name: BTreeMap<String, Vec<Range<usize>>>,
    /// Virtual package → stanzas that provide it.
    providers: BTreeMap<String, Vec<Range<usize>>>,
}

/// One package of an index.
#[derive(Clone, Copy, Debug)]
pub struct PackageRecord<'a> {
    stanza: Stanza<'a>,
}

/// Fetches the index of `main` from a mirror: `InRelease`, its signature, then `Packages.xz` by its hash.
///
/// # Errors
/// [`IndexError`] with the URL of the file at fault.
pub fn fetch_index(
    fetch: &dyn Fetch,
    mirror: &str,
    suite: &str,
    architecture: Architecture,
    verifier: &Verifier,
) -> Result<(Index, Signature), IndexError> {
    if !is_package_name(suite) {
        return Err(IndexError::Suite(suite.chars().take(100).collect()));
    }
    let root = format!("{}/dists/{suite}", mirror.trim_end_matches('/'));
    let get = |url: &str, limit_bytes: u64| {
        fetch.fetch(url, limit_bytes).map_err(|source| IndexError::Fetch {
            url: redact_url(url),
            source,
        })
    };
    let release_url = format!("{root}/InRelease");
    let content_error = |url: &str, reason: String| IndexError::Content {
        url: redact_url(url),
        reason,
    };
    let signed = get(&release_url, RELEASE_LIMIT_BYTES)?;
    let (release, signature) = verifier.verify(&signed).map_err(|source| IndexError::Signature {
        url: redact_url(&release_url),
        source,
    })?;
    let path = format!("main/binary-{architecture}/Packages.xz");
    let (digest, size_bytes) =
        listed_file(&release, suite, &path).map_err(|reason| content_error(&release_url, reason))?;
    if size_bytes > COMPRESSED_INDEX_LIMIT_BYTES {
        return Err(content_error(
            &release_url,
            format!("{path} has {size_bytes} bytes, too many for an index"),
        ));
    }
    // By hash first: a mirror that is just being updated then still gives the file that this InRelease means.
    let by_hash = format!(
        "{root}/main/binary-{architecture}/by-hash/SHA256/{}",
        digest.hex()
    );
    let (url, compressed) = match get(&by_hash, size_bytes) {
        Err(IndexError::Fetch {
            source: FetchError::NotFound,
            ..
        }) => {
            let url = format!("{root}/{path}");
            let bytes = get(&url, size_bytes)?;
            (url, bytes)
        }
        result => (by_hash, result?),
    };
    check_bytes(&compressed, size_bytes, &digest).map_err(|reason| IndexError::Unlisted {
        url: redact_url(&url),
        reason,
    })?;
    let mut text = String::new();
    let stream = compression::open("Packages.xz", &compressed).expect("the name ends in .xz");
    Limited::new(stream, INDEX_LIMIT_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| content_error(&url, error.to_string()))?;
    Ok((Index::new(text, architecture), signature))
}

/// Digest and size of `path` in a `Release` text for `suite`; the error is the sentence to show.
fn listed_file(release: &str, suite: &str, path: &str) -> Result<(Digest, u64), String> {
    let release = Stanza::new(release);
    let names: Vec<_> = ["Codename", "Suite"]
        .into_iter()
        .filter_map(|name| release.field(name))
        .collect();
    if !names.contains(&suite) {
        return Err(format!(
            "this is the release file of `{}`, not of `{suite}`",
            names.join("`, `")
        ));
    }
    let list = release
        .field("SHA256")
        .ok_or("no SHA256 list in the release file")?;
    let line = list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (sha256, size, name) = (words.next()?, words.next()?, words.next()?);
        (name == path).then_some((sha256, size))
    });
    let (sha256, size) = line.ok_or_else(|| {
        let architectures = release.field("Architectures").unwrap_or_default();
        format!("{path} is not in the release file (its architectures: {architectures})")
    })?;
    let size_bytes = size
        .parse()
        .map_err(|_| format!("the size of {path} is `{size}`"))?;
    let digest = Digest::from_hex(&sha256.to_ascii_lowercase())
        .map_err(|_| format!("the SHA-256 of {path} is `{sha256}`"))?;
    Ok((digest, size_bytes))
}

impl Index {
    /// Takes the text of a `Packages` file. Stanzas without a name or version are skipped, and so are `Provides`
    /// that cannot be read: a package that nobody asks for must not stop a release.
    pub fn new(text: String, architecture: Architecture) -> Self {
        let mut by_name: BTreeMap<String, Vec<Range<usize>>> = BTreeMap::new();
        let mut providers: BTreeMap<String, Vec<Range<usize>>> = BTreeMap::new();
        for stanza in stanzas(&text) {
            let record = PackageRecord { stanza };
            if record.name().is_empty() || record.version().is_empty() {
                continue;
            }
            let start = stanza.text().as_ptr() as usize - text.as_ptr() as usize;
            let range = start..start + stanza.text().len();
            by_name
                .entry(record.name().to_string())
                .or_default()
                .push(range.clone());
            for relation in record.provides() {
                providers.entry(relation.name).or_default().push(range.clone());
            }
        }
        Index {
            text,
            architecture,
            by_name,
            providers,
        }
    }

    /// The architecture that the index is for.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// How many package names there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The packages of that name for this architecture, latest version first.
    pub fn packages(&self, name: &str) -> Vec<PackageRecord<'_>> {
        let mut records = self.records(self.by_name.get(name));
        records.sort_by(|left, right| compare_versions(right.version(), left.version()));
        records
    }

    /// The packages that provide the virtual package `name`, by their own name, latest version first.
    pub fn providers(&self, name: &str) -> Vec<PackageRecord<'_>> {
        let mut records = self.records(self.providers.get(name));
        records.sort_by(|left, right| {
            left.name()
                .cmp(right.name())
                .then_with(|| compare_versions(right.version(), left.version()))
        });
        records
    }

    /// Names that begin as `name` does before its version number, at most eight: what a wrong name may have meant.
    pub fn similar_names(&self, name: &str) -> Vec<&str> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        if stem.len() < 3 {
            return Vec::new();
        }
        let from = self
            .by_name
            .range(stem.to_string()..)
            .map(|(name, _)| name.as_str());
        from.take_while(|name| name.starts_with(stem)).take(8).collect()
    }

    fn records(&self, ranges: Option<&Vec<Range<usize>>>) -> Vec<PackageRecord<'_>> {
        let records = ranges.into_iter().flatten().map(|range| PackageRecord {
            stanza: Stanza::new(&self.text[range.clone()]),
        });
        records
            .filter(|record| ["all", self.architecture.as_str()].contains(&record.architecture()))
            .collect()
    }
}

impl<'a> PackageRecord<'a> {
    /// Package name.
    pub fn name(self) -> &'a str {
        self.stanza.field("Package").unwrap_or_default()
    }

    /// Version.
    pub fn version(self) -> &'a str {
        self.stanza.field("Version").unwrap_or_default()
    }

    /// The package's own architecture, `all` included.
    pub fn architecture(self) -> &'a str {
        self.stanza.field("Architecture").unwrap_or_default()
    }

    /// `Pre-Depends`, then `Depends`.
    ///
    /// # Errors
    /// [`IndexError::Dependencies`] on a field that cannot be read.
    pub fn dependencies(self) -> Result<Vec<Alternatives>, IndexError> {
        let mut dependencies = Vec::new();
        for field in ["Pre-Depends", "Depends"] {
            let parsed = parse_dependencies(self.stanza.field(field).unwrap_or_default());
            dependencies.extend(parsed.map_err(|source| IndexError::Dependencies {
                package: self.name().to_string(),
                source,
            })?);
        }
        Ok(dependencies)
    }

    /// The virtual packages that it is, each with `= version` where it says so; none where the field is unreadable.
    pub fn provides(self) -> Alternatives {
        let field = self.stanza.field("Provides").unwrap_or_default();
        parse_dependencies(field)
            .unwrap_or_default()
            .into_iter()
            .flatten()
            .collect()
    }

    /// The lock entry.
    ///
    /// # Errors
    /// [`IndexError::Stanza`] where a field is missing or unusable.
    pub fn locked(self) -> Result<LockedPackage, IndexError> {
        let text = |field| self.stanza.field(field).unwrap_or_default().to_string();
        let sha256 = text("SHA256");
        let digest = Digest::from_hex(&sha256).map_err(|_| {
            let expected = "64 lower-case hexadecimal digits";
            LockedPackageError::new(self.name(), "sha256", &sha256, expected)
        });
        let locked = LockedPackage {
            name: text("Package"),
            version: text("Version"),
            architecture: text("Architecture"),
            filename: text("Filename"),
            size_bytes: text("Size").parse().unwrap_or(0),
            // Filled in when the rest is right: a stanza without a file is told of its file name.
            digest: Digest::of(b""),
        };
        check_package(&locked)?;
        Ok(LockedPackage {
            digest: digest?,
            ..locked
        })
    }
}

#[cfg(test)]
mod tests;
