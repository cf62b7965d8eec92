//! Fetching a locked package: from the store, else the mirror, else a declared snapshot archive.
//!
//! The network and the store are the caller's ([`Fetch`], [`Store`]); what comes from either is checked here against
//! the lock's size and digest before anybody sees it.

use std::fmt;
use std::io;

use aiot_package::Digest;
use aiot_plan::lock::LockedPackage;

use crate::lock::{LockedPackageError, check_package};

/// Gets files from the network.
pub trait Fetch {
    /// The bytes at `url`, at most `limit_bytes` of them (longer answers are errors, not cut).
    ///
    /// # Errors
    /// [`FetchError::NotFound`] only where the server answers that it has no such file, since another source is
    /// asked then; all else is [`FetchError::Failed`].
    fn fetch(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError>;
}

/// Keeps blobs by digest.
pub trait Store {
    /// The blob with that digest, if it is there.
    ///
    /// # Errors
    /// The store's own.
    fn get(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>>;

    /// Keeps a blob whose digest has been checked, in place of what is kept under it.
    ///
    /// # Errors
    /// The store's own.
    fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()>;
}

/// Why a URL gave no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The server has no such file (404, 410).
    #[error("not found")]
    NotFound,
    /// Anything else.
    #[error("{reason}")]
    Failed {
        /// What happened, with status or cause, without the URL.
        reason: String,
        /// Whether the same request may succeed later.
        retry_may_help: bool,
    },
}

/// Where packages may come from, in the order in which they are asked.
pub struct PackageSources<'a> {
    /// Asked first, and given what the network gave.
    pub store: &'a dyn Store,
    /// The network; `None` = offline.
    pub fetch: Option<&'a dyn Fetch>,
    /// The mirror's URL.
    pub mirror: Option<&'a str>,
    /// A snapshot archive's URL, with its time stamp: the folder that has `pool` as it was then.
    pub snapshot: Option<&'a str>,
}

/// A package's bytes, checked against the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedPackage {
    /// The .deb.
    pub bytes: Vec<u8>,
    /// Who had it.
    pub origin: PackageOrigin,
    /// The store had other bytes under this digest; they have been replaced.
    pub store_was_corrupt: bool,
}

/// Who had a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageOrigin {
    /// The local store.
    Store,
    /// The mirror.
    Mirror,
    /// The declared snapshot archive.
    Snapshot,
}

impl fmt::Display for PackageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PackageOrigin::Store => "store",
            PackageOrigin::Mirror => "mirror",
            PackageOrigin::Snapshot => "snapshot archive",
        })
    }
}

/// One source that did not have the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Who was asked.
    pub origin: PackageOrigin,
    /// Where, without credentials; empty for the store.
    pub url: String,
    /// What came of it.
    pub outcome: FetchError,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.url.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.outcome),
            url => write!(f, "{} ({url}): {}", self.origin, self.outcome),
        }
    }
}

/// Why a locked package is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The lock entry itself is wrong.
    #[error(transparent)]
    Locked(#[from] LockedPackageError),
    /// No source has it.
    #[error("{} {} ({}) is not to be had: {}. {}", package.name, package.version, package.architecture,
        join(attempts), advice(attempts))]
    Gone {
        /// What was asked for.
        package: Box<LockedPackage>,
        /// Who was asked, in order.
        attempts: Vec<Attempt>,
    },
    /// The store fails.
    #[error("the store fails for package {name}: {source}")]
    Store {
        /// The package.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl PackageError {
    /// Whether the same request may succeed later.
    pub fn retry_may_help(&self) -> bool {
        matches!(self, PackageError::Gone { attempts, .. } if attempts.iter().any(may_help))
    }
}

fn may_help(attempt: &Attempt) -> bool {
    matches!(
        attempt.outcome,
        FetchError::Failed {
            retry_may_help: true,
            ..
        }
    )
}

fn join(attempts: &[Attempt]) -> String {
    attempts
        .iter()
        .map(Attempt::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn advice(attempts: &[Attempt]) -> &'static str {
    if attempts.iter().any(may_help) {
        "Trying again may help"
    } else if attempts
        .iter()
        .all(|attempt| attempt.origin == PackageOrigin::Store)
    {
        "Without a network or a mirror only the store can have it: run once online"
    } else {
        "Old versions leave a mirror after a point release: declare a snapshot archive that has it, or run \
         `cargo xtask update base` to move the lock to what the mirror has now"
    }
}

/// Gets one locked package; what came from the network is put in the store.
///
/// # Errors
/// [`PackageError::Gone`] names the package, its version and every source that was asked.
pub fn fetch_package(
    package: &LockedPackage,
    sources: &PackageSources<'_>,
) -> Result<FetchedPackage, PackageError> {
    check_package(package)?;
    let store_error = |source| PackageError::Store {
        name: package.name.clone(),
        source,
    };
    let mut attempts = Vec::new();
    let stored = sources.store.get(&package.digest).map_err(store_error)?;
    let store_was_corrupt = match stored {
        None => {
            attempts.push(Attempt {
                origin: PackageOrigin::Store,
                url: String::new(),
                outcome: FetchError::NotFound,
            });
            false
        }
        Some(bytes) => match check_bytes(&bytes, package.size_bytes, &package.digest) {
            Ok(()) => {
                return Ok(FetchedPackage {
                    bytes,
                    origin: PackageOrigin::Store,
                    store_was_corrupt: false,
                });
            }
            Err(reason) => {
                let outcome = FetchError::Failed {
                    reason: format!("corrupt: {reason}"),
                    retry_may_help: false,
                };
                attempts.push(Attempt {
                    origin: PackageOrigin::Store,
                    url: String::new(),
                    outcome,
                });
                true
            }
        },
    };
    let remote = [
        (PackageOrigin::Mirror, sources.mirror),
        (PackageOrigin::Snapshot, sources.snapshot),
    ];
    for (origin, base) in remote {
        let (Some(fetch), Some(base)) = (sources.fetch, base) else {
            continue;
        };
        let url = format!("{}/{}", base.trim_end_matches('/'), package.filename);
        let outcome = fetch.fetch(&url, package.size_bytes).and_then(|bytes| {
            // Other bytes under the same name: not a hiccup, but another source may have the right ones.
            check_bytes(&bytes, package.size_bytes, &package.digest)
                .map(|()| bytes)
                .map_err(|reason| FetchError::Failed {
                    reason,
                    retry_may_help: false,
                })
        });
        match outcome {
            Ok(bytes) => {
                sources.store.put(&package.digest, &bytes).map_err(store_error)?;
                return Ok(FetchedPackage {
                    bytes,
                    origin,
                    store_was_corrupt,
                });
            }
            Err(outcome) => attempts.push(Attempt {
                origin,
                url: redact_url(&url),
                outcome,
            }),
        }
    }
    Err(PackageError::Gone {
        package: Box::new(package.clone()),
        attempts,
    })
}

/// Checks bytes against a size and a digest; the error is the sentence to show.
pub(crate) fn check_bytes(bytes: &[u8], size_bytes: u64, digest: &Digest) -> Result<(), String> {
    if bytes.len() as u64 != size_bytes {
        return Err(format!("{} bytes came, expected {size_bytes}", bytes.len()));
    }
    let found = Digest::of(bytes);
    if found != *digest {
        return Err(format!("SHA-256 is {}, expected {}", found.hex(), digest.hex()));
    }
    Ok(())
}

/// `url` without user name, password and query, for messages.
pub fn redact_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        None => url.to_string(),
        Some((scheme, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
    }
}

#[cfg(test)]
mod tests;
