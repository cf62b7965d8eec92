//! Push to and pull from registries (OCI distribution specification 1.1): the only asynchronous part of the crate.
//!
//! One [`RegistryClient`] serves a whole run: it keeps connections and tokens, and remembers which repository has
//! which blob, so that a blob shared by many images is sent once and mounted elsewhere. Every request is tried again
//! with growing pauses where that may help, signs in again when its token has died, and ends when nothing moved for
//! the idle time-out; no request has a total time-out, since a slow link is not a broken one.
//!
//! Credentials go to the registry that they are for and to the token service that it names; never to another host,
//! into an error or into a log. Plain HTTP is spoken with this machine only, unless asked for.
//!
//! Must be driven by a tokio runtime with time and IO enabled. Not here: deletion.

mod auth;
mod body;
mod check;
mod chunks;
mod credentials;
mod http;
mod pace;
mod places;
mod pull;
mod push;
mod referrers;
mod survey;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use aiot_package::Digest;

use crate::document::{MediaType, Platform};
use crate::image::ImageError;
use crate::reference::Repository;
use crate::store::StoreError;

pub use check::CheckedBlob;
pub use credentials::{Credentials, CredentialsError};
pub use places::Places;
pub use pull::{PullLayers, PulledImage, ResolvedReference};
pub use push::{BlobDelivery, PushEvent, PushListener, PushOptions, PushReceipt};
pub use referrers::Artifact;
pub use survey::{PlannedBlobs, PushSurvey};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Who we are, per registry.
    pub credentials: Credentials,
    /// Registries that are spoken to in plain HTTP, as `host` or `host:port`. This machine (`localhost`,
    /// `127.0.0.1`, `[::1]`) always is.
    pub plain_http: BTreeSet<String>,
    /// When to give up.
    pub retry: RetryPolicy,
    /// A request during which nothing is sent or received for this long has failed.
    pub idle_timeout: Duration,
    /// Registries that refuse whole blobs, with the length of the pieces that they take, as an earlier client found
    /// out; see [`RegistryClient::chunk_bytes`].
    pub chunk_bytes: BTreeMap<String, u64>,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            credentials: Credentials::anonymous(),
            plain_http: BTreeSet::new(),
            retry: RetryPolicy::default(),
            idle_timeout: Duration::from_secs(120),
            chunk_bytes: BTreeMap::new(),
        }
    }
}

/// How often and after which pauses a failed request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, at least 1.
    pub attempts: u32,
    /// Pause before the second try; it doubles from try to try, and up to half of it is taken off at random.
    pub first_pause: Duration,
    /// The longest pause, also when the registry asks for a longer one with `Retry-After`.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 7,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// What can go wrong with a registry. URLs are shown without their query, which may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry answered with a status that means failure.
    #[error("{method} {url}: the registry answered {status}{}", shown_message(message))]
    Status {
        /// HTTP method.
        method: String,
        /// Address without query.
        url: String,
        /// HTTP status.
        status: u16,
        /// Codes and messages of the registry, shortened.
        message: String,
        /// Whether it may pass, and the pause that the registry asked for.
        retry: Retry,
    },
    /// No answer: connection refused, reset, TLS, name resolution.
    #[error("{method} {url}: {reason}")]
    Transport {
        /// HTTP method.
        method: String,
        /// Address without query.
        url: String,
        /// The causes, outermost first.
        reason: String,
    },
    /// Nothing moved for the idle time-out.
    #[error("{method} {url}: nothing was sent or received for {idle_timeout:?}")]
    Idle {
        /// HTTP method.
        method: String,
        /// Address without query.
        url: String,
        /// The time-out.
        idle_timeout: Duration,
    },
    /// The registry wants to know who we are, or does not like the answer.
    #[error(
        "{registry} refuses access to `{repository}`: {reason}; sign in with `docker login {registry}` or `podman login {registry}`"
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What was tried.
        reason: String,
    },
    /// An answer that breaks the protocol.
    #[error("{url}: the registry's answer makes no sense: {reason}")]
    Protocol {
        /// Address without query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry has or gave other bytes than those that were named.
    #[error("{url}: expected {expected}, the registry has {found}")]
    WrongDigest {
        /// Address without query.
        url: String,
        /// The digest that was named.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The tag names another image and may not be moved.
    #[error("{repository}:{tag} already names {found}, not {wanted}; use another tag, or allow overwriting")]
    TagExists {
        /// The repository.
        repository: Box<Repository>,
        /// The tag.
        tag: String,
        /// What it names.
        found: Digest,
        /// What it should have named.
        wanted: Digest,
    },
    /// There is no such image.
    #[error("there is no image {0}")]
    NotFound(String),
    /// An index has nothing for the platform.
    #[error("{reference} has no image for {platform}; it has {available}")]
    NoSuchPlatform {
        /// The image.
        reference: String,
        /// The platform asked for.
        platform: Box<Platform>,
        /// What there is.
        available: String,
    },
    /// Something that this client does not transfer.
    #[error("{what} has media type `{media_type}`, which is not supported here")]
    MediaType {
        /// The manifest or blob.
        what: String,
        /// Its type.
        media_type: MediaType,
    },
    /// The HTTP client could not be set up.
    #[error(
        "cannot set up HTTPS: {0}; is a bundle of certificate authorities installed (package ca-certificates)?"
    )]
    Setup(String),
    /// A document.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A blob.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether trying again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No.
    Never,
    /// After our own pause.
    Later,
    /// After the pause that the registry asked for.
    After(Duration),
}

impl RegistryError {
    /// Whether trying again may help.
    pub fn retry(&self) -> Retry {
        match self {
            RegistryError::Status { retry, .. } => *retry,
            RegistryError::Transport { .. } | RegistryError::Idle { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }
}

fn shown_message(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// Turns that are kept before those are looked for that nobody holds.
const MAX_IDLE_TURNS: usize = 256;

/// A client for any number of registries. Cheap to clone; clones share connections, tokens and knowledge.
#[derive(Clone)]
pub struct RegistryClient {
    inner: Arc<Inner>,
}

/// Held by whoever sends a blob; gone when nobody does.
type Turn = Weak<tokio::sync::Mutex<()>>;

struct Inner {
    options: ClientOptions,
    plain: OnceLock<reqwest::Client>,
    secure: OnceLock<reqwest::Client>,
    /// Held while signing in, so that parallel requests sign in once.
    signing_in: tokio::sync::Mutex<()>,
    sessions: Mutex<auth::Sessions>,
    /// Registry and digest → repositories that have the blob.
    known_blobs: Mutex<BTreeMap<(String, Digest), BTreeSet<String>>>,
    /// Registry and digest → a repository that had the blob when an earlier client looked.
    hinted_places: Mutex<BTreeMap<(String, Digest), String>>,
    /// Repository and digest of manifests and indexes that are there.
    known_manifests: Mutex<BTreeSet<(Repository, Digest)>>,
    /// Registry and digest → held by whoever sends the blob.
    turns: Mutex<BTreeMap<(String, Digest), Turn>>,
    /// Registry → length of the pieces in which it wants blobs.
    chunk_bytes: Mutex<BTreeMap<String, u64>>,
    paces: Mutex<pace::Paces>,
    /// Registry → whether it lists referrers.
    keeps_referrers: Mutex<BTreeMap<String, bool>>,
}

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryClient")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// A client that has not spoken to anybody yet.
    pub fn new(options: ClientOptions) -> RegistryClient {
        let known = options.chunk_bytes.iter().filter(|(_, chunk)| **chunk > 0);
        RegistryClient {
            inner: Arc::new(Inner {
                chunk_bytes: Mutex::new(known.map(|(name, chunk)| (name.clone(), *chunk)).collect()),
                paces: Mutex::default(),
                keeps_referrers: Mutex::default(),
                options,
                plain: OnceLock::new(),
                secure: OnceLock::new(),
                signing_in: tokio::sync::Mutex::new(()),
                sessions: Mutex::default(),
                known_blobs: Mutex::default(),
                hinted_places: Mutex::default(),
                known_manifests: Mutex::default(),
                turns: Mutex::default(),
            }),
        }
    }

    /// Registries that want blobs in pieces, and how long these may be: what was known at the start and what was
    /// found out since. For [`ClientOptions::chunk_bytes`] of the next client.
    pub fn chunk_bytes(&self) -> BTreeMap<String, u64> {
        lock(&self.inner.chunk_bytes).clone()
    }

    fn remember_blob(&self, repository: &Repository, digest: &Digest) {
        let key = (repository.registry().to_owned(), *digest);
        lock(&self.inner.known_blobs)
            .entry(key)
            .or_default()
            .insert(repository.name().to_owned());
    }

    fn remember_manifest(&self, repository: &Repository, digest: &Digest) {
        lock(&self.inner.known_manifests).insert((repository.clone(), *digest));
    }

    fn knows_manifest(&self, repository: &Repository, digest: &Digest) -> bool {
        lock(&self.inner.known_manifests).contains(&(repository.clone(), *digest))
    }

    /// What to hold while a blob is sent to a registry.
    fn turn(&self, repository: &Repository, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.inner.turns);
        // Those of blobs that nobody sends any more would only pile up.
        if turns.len() >= MAX_IDLE_TURNS {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let key = (repository.registry().to_owned(), *digest);
        let turn = turns.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    /// Repositories of the same registry that are known to have the blob.
    fn repositories_with(&self, repository: &Repository, digest: &Digest) -> BTreeSet<String> {
        let key = (repository.registry().to_owned(), *digest);
        lock(&self.inner.known_blobs)
            .get(&key)
            .cloned()
            .unwrap_or_default()
    }
}

/// The maps behind these locks are whole between any two statements, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
