//! `cargo xtask verify-images`: is what a registry has what the declarations, the lock and the commit say?
//!
//! | module | question |
//! | --- | --- |
//! | `bytes` | do manifest, config and every layer have the digests and lengths that name them? For the right platform? |
//! | `statements` | are bill and provenance whole and about this image, and has somebody signed whom we trust? |
//! | `rebuild` | do the declarations of this folder make the same bytes? |
//!
//! Nothing is trusted because it is there, nothing is kept, and one fault hides no other.

mod bytes;
mod rebuild;
mod select;
pub(crate) mod statements;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aiot_oci::{Digest, Platform, RegistryClient, Repository};
use aiot_supply::{LOCK_DEPENDENCY, ProvenanceFacts};
use serde::Serialize;

use crate::environment::git;
use crate::error::BuildError;
use crate::events::{Event, Sink};
use crate::network::Network;
use crate::observe::FileIndex;
use crate::paths::Paths;
use crate::policy::TrustedKey;
use crate::registry::client;
use crate::workspace::check;

/// The longest `aiot.lock` of an earlier commit that is read.
const MAX_LOCK_BYTES: usize = 64 << 20;

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Environments: their images, or with `references` their policies; empty = all with a registry.
    pub environments: Vec<String>,
    /// `REGISTRY/REPOSITORY:TAG` or `…@DIGEST`, image or index; empty = the images of the environments' manifests.
    pub references: Vec<String>,
    /// Public keys that count instead of the environments'.
    pub keys: Vec<PathBuf>,
    /// Whether to build and compare.
    pub rebuild: bool,
    /// Threads of that build.
    pub jobs: usize,
}

/// What came of one question about one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// The answer.
    pub state: State,
    /// What was found, for people; may be empty.
    pub detail: String,
}

/// The answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not as it should be; the faults say why.
    Fault,
    /// Nobody asked.
    NotAsked,
}

impl Check {
    fn new(state: State, detail: impl Into<String>) -> Check {
        let detail = detail.into();
        Check { state, detail }
    }

    fn ok(detail: impl Into<String>) -> Check {
        Check::new(State::Ok, detail)
    }

    fn fault() -> Check {
        Check::new(State::Fault, "")
    }

    fn not_asked(detail: impl Into<String>) -> Check {
        Check::new(State::NotAsked, detail)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.state {
            State::Ok => "ok",
            State::Fault => "FAULT",
            State::NotAsked => "-",
        };
        match self.detail.as_str() {
            "" => f.write_str(word),
            detail => write!(f, "{word} ({detail})"),
        }
    }
}

/// What was found out about one image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// The environment whose manifests or policy it was checked for.
    pub environment: Option<String>,
    /// `registry/repository@digest`
    pub image: String,
    /// The target that it is for, where that is known.
    pub target: Option<String>,
    /// All bytes, and the platform.
    pub digests: Check,
    /// The bill of materials.
    pub bill_of_materials: Check,
    /// Where it comes from.
    pub provenance: Check,
    /// Who says so.
    pub signature: Check,
    /// Whether the declarations make it.
    pub rebuild: Check,
    /// Everything that is not as it should be.
    pub faults: Vec<String>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
}

/// What was found out about all of them.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// One per image and environment.
    pub images: Vec<Verdict>,
}

impl Report {
    /// Whether everything is as it should be.
    pub fn is_good(&self) -> bool {
        self.images.iter().all(|image| image.faults.is_empty())
    }
}

/// One image to look at.
struct Wanted {
    environment: Option<String>,
    repository: Repository,
    digest: Digest,
    model: Option<String>,
    /// The tag of the model's index.
    version: Option<String>,
    target: Option<String>,
    platform: Option<Platform>,
    keys: Arc<Vec<TrustedKey>>,
    /// Why the environment holds it at an earlier release.
    pinned: Option<String>,
}

/// Verifies images.
///
/// # Errors
/// Mistakes in the declarations, environments and references that do not exist or name nothing, a rebuild that fails.
/// What is wrong with an image is no error: the report says it.
pub fn verify(
    paths: &Paths,
    request: &Request,
    network: &Network,
    events: Sink<'_>,
) -> Result<Report, BuildError> {
    let workspace = check(paths, &mut FileIndex::open(paths))?;
    let client = client()?;
    let wanted = select::select(paths, &workspace, request, network, &client)?;
    let rebuilt = match request.rebuild {
        true => Some(rebuild::Rebuilt::build(paths, network, request.jobs, events)?),
        false => None,
    };
    let mut seen = bytes::Seen::default();
    let mut report = Report::default();
    let locks = Locks::new(paths);
    for (position, one) in wanted.iter().enumerate() {
        let image = format!("{}@{}", one.repository, one.digest);
        events(Event::Note(format!(
            "{} of {}: {image}",
            position + 1,
            wanted.len()
        )));
        let mut looked = look(one, image, (network, &client), &locks, &mut seen);
        if let Some(reason) = &one.pinned {
            let verdict = &mut looked.verdict;
            verdict.rebuild = Check::not_asked("pinned");
            verdict.notes.push(format!(
                "pinned ({reason}): an earlier commit makes it; `verify-images --rebuild` there compares it"
            ));
        } else if let Some(rebuilt) = &rebuilt {
            compare(paths, one, &mut looked, (network, &client), rebuilt);
        }
        report.images.push(looked.verdict);
    }
    Ok(report)
}

/// A verdict, and what a rebuild must know of the image.
struct Looked {
    verdict: Verdict,
    model: Option<String>,
    platform: Option<Platform>,
}

fn look(
    wanted: &Wanted,
    image: String,
    (network, client): (&Network, &RegistryClient),
    locks: &Locks<'_>,
    seen: &mut bytes::Seen,
) -> Looked {
    let (repository, digest) = (&wanted.repository, wanted.digest);
    let read = bytes::read(
        network,
        client,
        repository,
        digest,
        wanted.platform.as_ref(),
        seen,
    );
    let (mut digests, mut faults, mut notes) = (read.digests, read.faults, Vec::new());
    if let Some(tag) = &wanted.version {
        let platform = wanted.platform.as_ref().or(read.platform.as_ref());
        match bytes::check_index(network, client, repository, tag, (digest, platform), seen) {
            Ok(note) => notes.extend(note),
            Err(fault) => {
                digests = Check::fault();
                faults.push(fault);
            }
        }
    }
    let (attached, problems) = statements::attached(network, client, repository, &digest);
    faults.extend(problems);
    let judged = statements::judge(&attached, &digest, &wanted.keys, &|facts| locks.of(facts));
    faults.extend(judged.faults);
    notes.extend(judged.notes);
    Looked {
        model: wanted
            .model
            .clone()
            .or_else(|| read.labels.get("dev.aiot-ops.model.name").cloned()),
        platform: read.platform,
        verdict: Verdict {
            environment: wanted.environment.clone(),
            image,
            target: wanted.target.clone(),
            digests,
            bill_of_materials: judged.bill,
            provenance: judged.provenance,
            signature: judged.signature,
            rebuild: Check::not_asked(""),
            faults,
            notes,
        },
    }
}

fn compare(
    paths: &Paths,
    wanted: &Wanted,
    looked: &mut Looked,
    (network, client): (&Network, &RegistryClient),
    rebuilt: &rebuild::Rebuilt,
) {
    let verdict = &mut looked.verdict;
    let model = looked.model.as_deref().unwrap_or_default();
    let targets: Vec<&str> = rebuilt.targets(model).collect();
    // An image that was named by itself does not say for which target it is: the one that makes it, else the one in
    // its index, else the only one.
    let target = wanted
        .target
        .as_deref()
        .or_else(|| rebuilt.target_of(model, &wanted.digest))
        .or(if targets.len() == 1 {
            Some(targets[0])
        } else {
            None
        });
    let (Some(target), Some(platform)) = (target, &looked.platform) else {
        verdict.rebuild = Check::fault();
        verdict.faults.push(format!(
            "rebuild: it is not known what to compare it with; the declarations make {}",
            match targets.as_slice() {
                [] => "no image of its model".to_owned(),
                some => format!("another image of {model} for each of {}", some.join(", ")),
            }
        ));
        return;
    };
    let (check, faults) = rebuilt.compare(
        (network, client),
        (&wanted.repository, wanted.digest),
        (model, target),
        platform,
        &paths.state,
    );
    verdict.rebuild = check;
    verdict.faults.extend(faults);
}

/// The locks that provenance names: of its commit, else of this folder.
struct Locks<'a> {
    paths: &'a Paths,
    of_commit: std::cell::RefCell<BTreeMap<String, Result<Vec<u8>, String>>>,
}

impl<'a> Locks<'a> {
    fn new(paths: &'a Paths) -> Locks<'a> {
        Locks {
            paths,
            of_commit: std::cell::RefCell::default(),
        }
    }

    /// The bytes of the lock with which an image was made, found where the provenance says that it is.
    fn of(&self, facts: &ProvenanceFacts) -> Result<Vec<u8>, String> {
        let here = || {
            std::fs::read(self.paths.lock())
                .map_err(|error| format!("{}: {error}", self.paths.lock().display()))
        };
        let Some(commit) = &facts.commit else {
            return here();
        };
        // Modified sources may have had a modified lock, which only this folder can have.
        if facts.is_modified
            && let Ok(lock) = here()
            && facts.dependencies.get(LOCK_DEPENDENCY) == Some(&Digest::of(&lock))
        {
            return Ok(lock);
        }
        let mut known = self.of_commit.borrow_mut();
        let lock = known.entry(commit.clone()).or_insert_with(|| {
            // A commit that was read from a statement is hexadecimal, so it is no option of git.
            match git(self.paths, &["show", &format!("{commit}:./aiot.lock")]) {
                Ok(lock) if lock.len() <= MAX_LOCK_BYTES => Ok(lock),
                Ok(lock) => Err(format!("the aiot.lock of commit {commit} has {} bytes", lock.len())),
                Err(error) => Err(format!(
                    "the aiot.lock of commit {commit} is not to be had ({error}); fetch the whole history, or verify in \
                     the repository that the image was released from"
                )),
            }
        });
        lock.clone()
    }
}
