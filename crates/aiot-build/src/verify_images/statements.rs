//! What hangs on an image in a registry: bills of materials, provenance, signatures; and whether to believe it.
//!
//! Whoever may push to a repository may attach anything. So where a trusted signature names bill and provenance by
//! digest, only these count; without one, everything attached must be right.

use std::collections::{BTreeMap, BTreeSet};

use aiot_oci::{Descriptor, Digest, MediaType, Reference, RegistryClient, Repository};
use aiot_supply::{
    ProvenanceFacts, check_bill, check_dependencies, check_provenance, predicate_type, provenance, signature,
    signed_subjects,
};
use serde::Deserialize;

use super::Check;
use crate::network::Network;
use crate::policy::TrustedKey;
use crate::supply::{BOM_FILE, BOM_TYPE, PROVENANCE_FILE};

/// Statements of one image that are read.
const MAX_ATTACHED: usize = 256;
/// The longest statement, and all statements of one image together.
const MAX_STATEMENT_BYTES: u64 = 16 << 20;
const MAX_ALL_BYTES: u64 = 64 << 20;
/// Digits of a commit that people read.
const COMMIT_SHOWN: usize = 12;

/// What a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Bill,
    Provenance,
    Signature,
}

impl Kind {
    fn of(artifact_type: &str) -> Option<Kind> {
        match artifact_type {
            BOM_TYPE => Some(Kind::Bill),
            signature::PAYLOAD_TYPE => Some(Kind::Provenance),
            signature::BUNDLE_TYPE => Some(Kind::Signature),
            _ => None,
        }
    }
}

/// One statement.
#[derive(Debug)]
pub(crate) struct Attached {
    pub kind: Kind,
    /// Of its bytes.
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

/// The manifest of a referrer, as far as it is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactManifest {
    subject: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

/// All statements of an image that we know the kind of, and what went wrong while they were read.
pub(crate) fn attached(
    network: &Network,
    client: &RegistryClient,
    repository: &Repository,
    image: &Digest,
) -> (Vec<Attached>, Vec<String>) {
    let mut problems = Vec::new();
    let list = match network.block_on(client.referrers(repository, image)) {
        Ok(list) => list,
        Err(error) => return (Vec::new(), vec![error.to_string()]),
    };
    let mut found = Vec::new();
    let (mut seen, mut all_bytes) = (BTreeSet::new(), 0);
    for entry in list {
        let Some(kind) = entry.artifact_type.as_deref().and_then(Kind::of) else {
            continue;
        };
        if !seen.insert(entry.digest) {
            continue;
        }
        if seen.len() > MAX_ATTACHED || all_bytes > MAX_ALL_BYTES {
            problems.push(format!(
                "more is attached to it than is read ({MAX_ATTACHED} statements, {MAX_ALL_BYTES} bytes)"
            ));
            break;
        }
        match network.block_on(read_one(client, repository, image, &entry)) {
            Ok((digest, bytes)) => {
                all_bytes += bytes.len() as u64;
                found.push(Attached { kind, digest, bytes });
            }
            Err(reason) => problems.push(format!("attached {}: {reason}", entry.digest)),
        }
    }
    (found, problems)
}

async fn read_one(
    client: &RegistryClient,
    repository: &Repository,
    image: &Digest,
    entry: &Descriptor,
) -> Result<(Digest, Vec<u8>), String> {
    let reference = Reference {
        repository: repository.clone(),
        tag: None,
        digest: Some(entry.digest),
    };
    let (_, bytes) = client
        .fetch_manifest(&reference)
        .await
        .map_err(|error| error.to_string())?;
    let manifest: ArtifactManifest =
        serde_json::from_slice(&bytes).map_err(|error| format!("it is no artifact: {error}"))?;
    if manifest.subject.is_none_or(|subject| subject.digest != *image) {
        return Err("it is about another image".to_owned());
    }
    let [layer] = manifest.layers.as_slice() else {
        return Err(format!("it has {} parts, not one", manifest.layers.len()));
    };
    if entry.artifact_type.as_deref() != Some(layer.media_type.as_str())
        && layer.media_type != MediaType::from("application/octet-stream")
    {
        return Err(format!("its part is of type `{}`", layer.media_type));
    }
    let bytes = client
        .fetch_blob(repository, layer, MAX_STATEMENT_BYTES)
        .await
        .map_err(|error| error.to_string())?;
    Ok((layer.digest, bytes))
}

/// A signature that holds: whose, and what it names.
#[derive(Debug)]
pub(crate) struct Signed {
    /// The key's short name.
    pub key_id: String,
    /// The file that the key came from.
    pub key_name: String,
    /// By name, after the image.
    named: BTreeMap<String, Digest>,
}

/// The signatures that one of the keys made over this image, and why the others do not count.
pub(crate) fn signed_by(
    attached: &[Attached],
    image: &Digest,
    keys: &[TrustedKey],
) -> (Vec<Signed>, Vec<String>) {
    let (mut signed, mut reasons) = (Vec::new(), Vec::new());
    for one in attached.iter().filter(|one| one.kind == Kind::Signature) {
        let mut fit = None;
        let mut why = signature::SignatureError::Wrong;
        for key in keys {
            match key.verifier.verify(&one.bytes) {
                Ok(statement) => fit = Some((key, statement)),
                Err(error) => why = error,
            }
        }
        let Some((key, statement)) = fit else {
            reasons.push(format!("signature {}: {why}", one.digest.short()));
            continue;
        };
        match signed_subjects(&statement) {
            Ok(subjects) if subjects.first().is_some_and(|(_, digest)| digest == image) => {
                signed.push(Signed {
                    key_id: key.verifier.key_id(),
                    key_name: key.name.clone(),
                    named: subjects.into_iter().skip(1).collect(),
                });
            }
            Ok(_) => reasons.push(format!(
                "signature {}: it is of another image",
                one.digest.short()
            )),
            Err(reason) => reasons.push(format!("signature {}: {reason}", one.digest.short())),
        }
    }
    (signed, reasons)
}

/// What came of an image's statements.
#[derive(Debug)]
pub(crate) struct Judged {
    pub bill: Check,
    pub provenance: Check,
    pub signature: Check,
    pub faults: Vec<String>,
    pub notes: Vec<String>,
}

/// Judges the statements of an image. `keys`: whose signature is asked for, empty = nobody's. `lock_of` finds the
/// `aiot.lock` that provenance names.
pub(crate) fn judge(
    attached: &[Attached],
    image: &Digest,
    keys: &[TrustedKey],
    lock_of: &dyn Fn(&ProvenanceFacts) -> Result<Vec<u8>, String>,
) -> Judged {
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    let (signed, reasons) = signed_by(attached, image, keys);
    let signature = if keys.is_empty() {
        let count = attached.iter().filter(|one| one.kind == Kind::Signature).count();
        match count {
            0 => Check::not_asked("no policy"),
            _ => Check::not_asked(format!("no policy, {count} attached")),
        }
    } else if let Some(first) = signed.first() {
        let ids: BTreeSet<&str> = signed.iter().map(|one| one.key_id.as_str()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        notes.extend(reasons);
        Check::ok(format!("{}, key {}", first.key_name, ids.join(", ")))
    } else {
        if reasons.is_empty() {
            faults.push("it is not signed".to_owned());
        }
        faults.extend(reasons);
        Check::fault()
    };
    let named = |file: &str| -> BTreeSet<Digest> {
        let digests = signed.iter().filter_map(|one| one.named.get(file));
        digests.copied().collect()
    };
    let mut one_kind = |kind: Kind, what: &str, named: BTreeSet<Digest>| -> Vec<&Attached> {
        let all = attached.iter().filter(|one| one.kind == kind);
        if named.is_empty() {
            return all.collect();
        }
        let (counts, others): (Vec<&Attached>, Vec<&Attached>) =
            all.partition(|one| named.contains(&one.digest));
        if !others.is_empty() {
            notes.push(format!(
                "{} {what} that no trusted signature names, not looked at",
                others.len()
            ));
        }
        if counts.is_empty() {
            faults.push(format!("the {what} that its signature names is not attached"));
        }
        counts
    };
    let bills = one_kind(Kind::Bill, "bill of materials", named(BOM_FILE));
    let mut statements = one_kind(Kind::Provenance, "provenance", named(PROVENANCE_FILE));
    // Other tools attach other statements of the same type.
    statements.retain(|one| match predicate_type(&one.bytes) {
        Ok(kind) => kind == provenance::PROVENANCE_TYPE,
        Err(_) => true,
    });

    let mut bill = Check::ok("");
    if bills.is_empty() {
        bill = Check::fault();
        if named(BOM_FILE).is_empty() {
            faults.push("it has no bill of materials".to_owned());
        }
    }
    for one in bills {
        for problem in check_bill(&one.bytes, image) {
            bill = Check::fault();
            faults.push(format!("bill of materials {}: {problem}", one.digest.short()));
        }
    }
    let mut commits = BTreeSet::new();
    let mut is_wrong = false;
    if statements.is_empty() {
        is_wrong = true;
        if named(PROVENANCE_FILE).is_empty() {
            faults.push("it has no provenance".to_owned());
        }
    }
    for one in statements {
        let problems = match check_provenance(&one.bytes, image) {
            Ok(facts) => {
                let commit = facts.commit.as_deref().unwrap_or("no commit");
                let shown = commit.chars().take(COMMIT_SHOWN).collect::<String>();
                commits.insert(format!(
                    "{shown}{}",
                    if facts.is_modified { " (modified)" } else { "" }
                ));
                match lock_of(&facts) {
                    Ok(lock) => check_dependencies(&facts.dependencies, &lock),
                    Err(reason) => vec![reason],
                }
            }
            Err(problems) => problems,
        };
        is_wrong |= !problems.is_empty();
        faults.extend(
            problems
                .iter()
                .map(|problem| format!("provenance {}: {problem}", one.digest.short())),
        );
    }
    let commits: Vec<String> = commits.into_iter().collect();
    Judged {
        bill,
        provenance: if is_wrong {
            Check::fault()
        } else {
            Check::ok(commits.join(", "))
        },
        signature,
        faults,
        notes,
    }
}
