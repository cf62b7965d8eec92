//! Reading back what is said about an image: is it whole, is it about this image, does it agree with the lock?
//!
//! Statements come from a registry, where others can write too: every one is untrusted until a signature names its
//! digest. All problems are returned, not only the first.

use std::collections::BTreeMap;

use aiot_package::Digest;
use aiot_plan::lock::Lock;
use serde::Deserialize;

use crate::provenance::{BUILD_TYPE, PROVENANCE_TYPE, STATEMENT_TYPE};
use crate::signature::SIGN_TYPE;

/// The address under which provenance names the lock.
pub const LOCK_DEPENDENCY: &str = "file:aiot.lock";
/// Digits of a git commit: SHA-1 and SHA-256.
const COMMIT_DIGITS: [usize; 2] = [40, 64];

/// An in-toto statement.
#[derive(Deserialize)]
struct Statement<Predicate> {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Resource>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

/// A resource descriptor of in-toto; what else it may hold says nothing here.
#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uri: String,
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

impl Resource {
    fn sha256(&self) -> Option<Digest> {
        Digest::from_hex(self.digest.get("sha256")?).ok()
    }
}

/// SLSA provenance v1, as far as it is looked at. Readers must ignore fields that they do not know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provenance {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    #[serde(default)]
    external_parameters: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    internal_parameters: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    resolved_dependencies: Vec<Resource>,
}

#[derive(Deserialize)]
struct RunDetails {
    builder: Builder,
}

#[derive(Deserialize)]
struct Builder {
    id: String,
}

/// What provenance says, once it is whole and about the right image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenanceFacts {
    /// The commit, hexadecimal; `None` where the release was made outside of git.
    pub commit: Option<String>,
    /// Whether tracked files differed from the commit.
    pub is_modified: bool,
    /// Who built: a URI.
    pub builder: String,
    /// Address → SHA-256 of every input that has one.
    pub dependencies: BTreeMap<String, Digest>,
}

/// What kind of statement some bytes are: the predicate type, or why they are no statement.
///
/// # Errors
/// What is wrong with them.
pub fn predicate_type(bytes: &[u8]) -> Result<String, String> {
    let statement: Statement<serde::de::IgnoredAny> =
        serde_json::from_slice(bytes).map_err(|error| format!("it is no in-toto statement: {error}"))?;
    Ok(statement.predicate_type)
}

/// Reads SLSA provenance of a release of ours about `image`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_provenance(bytes: &[u8], image: &Digest) -> Result<ProvenanceFacts, Vec<String>> {
    let statement: Statement<Provenance> = serde_json::from_slice(bytes).map_err(|error| {
        vec![format!(
            "it is no SLSA provenance v1 in an in-toto statement: {error}"
        )]
    })?;
    let mut problems = Vec::new();
    let mut expect = |what: &str, found: &str, expected: &str| {
        if found != expected {
            problems.push(format!("its {what} is `{}`, not `{expected}`", short(found)));
        }
    };
    expect("type", &statement.kind, STATEMENT_TYPE);
    expect("predicate type", &statement.predicate_type, PROVENANCE_TYPE);
    let Provenance {
        build_definition: build,
        run_details,
    } = statement.predicate;
    expect("build type", &build.build_type, BUILD_TYPE);
    match statement.subject.as_slice() {
        [subject] if subject.sha256() == Some(*image) => {}
        [subject] => problems.push(format!("it is about another image, `{}`", short(&subject.name))),
        other => problems.push(format!("it has {} subjects, not one", other.len())),
    }
    for parameter in ["model", "target", "version"] {
        if !build
            .external_parameters
            .get(parameter)
            .is_some_and(serde_json::Value::is_string)
        {
            problems.push(format!("it does not say which {parameter} was built"));
        }
    }
    if !run_details.builder.id.contains(':') {
        problems.push("it does not say who built, as a URI".to_owned());
    }
    let mut facts = ProvenanceFacts {
        commit: None,
        is_modified: build.internal_parameters.get("modifiedSources") == Some(&serde_json::Value::Bool(true)),
        builder: run_details.builder.id,
        dependencies: BTreeMap::new(),
    };
    for dependency in &build.resolved_dependencies {
        let uri = short(&dependency.uri);
        if let Some(commit) = dependency.digest.get("gitCommit") {
            let is_commit = COMMIT_DIGITS.contains(&commit.len())
                && commit
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if !is_commit {
                problems.push(format!("`{}` is no commit", short(commit)));
            } else if facts.commit.replace(commit.clone()).is_some() {
                problems.push("it names two commits".to_owned());
            }
        } else if let Some(digest) = dependency.sha256() {
            if facts
                .dependencies
                .insert(dependency.uri.clone(), digest)
                .is_some()
            {
                problems.push(format!("it names `{uri}` twice"));
            }
        } else {
            problems.push(format!("it names `{uri}` without a digest"));
        }
    }
    if !facts.dependencies.contains_key(LOCK_DEPENDENCY) {
        problems.push("it does not name aiot.lock by digest".to_owned());
    }
    if problems.is_empty() {
        Ok(facts)
    } else {
        Err(problems)
    }
}

/// What in the inputs of provenance contradicts a lock with these bytes; empty when nothing does. Wheels, packages and
/// models must stand in it with their digests, and an image that is named by digest must be that one.
pub fn check_dependencies(dependencies: &BTreeMap<String, Digest>, lock: &[u8]) -> Vec<String> {
    let expected = Digest::of(lock);
    match dependencies.get(LOCK_DEPENDENCY) {
        Some(digest) if *digest == expected => {}
        Some(digest) => {
            return vec![format!(
                "it was made with another aiot.lock ({digest}, not {expected})"
            )];
        }
        None => return vec!["it does not name aiot.lock by digest".to_owned()],
    }
    let text = String::from_utf8_lossy(lock);
    let lock = match Lock::parse(&text) {
        Ok(lock) => lock,
        Err(error) => return vec![format!("the aiot.lock that it names cannot be read: {error}")],
    };
    let has = |uri: &str, digest: &Digest| match uri.split_once(':') {
        Some(("pkg", rest)) if rest.starts_with("pypi/") => {
            lock.wheel.iter().any(|wheel| wheel.digest == *digest)
        }
        Some(("pkg", rest)) if rest.starts_with("deb/") => lock
            .debian
            .iter()
            .flat_map(|closure| &closure.package)
            .any(|package| package.digest == *digest),
        Some(("file", _)) if uri != LOCK_DEPENDENCY => {
            lock.model.values().any(|model| model.source == *digest)
        }
        Some(("oci", rest)) => rest.contains(&format!("@{digest}")),
        // Module sources: a digest over files of the commit, which no lock names.
        _ => true,
    };
    dependencies
        .iter()
        .filter(|(uri, digest)| !has(uri, digest))
        .map(|(uri, digest)| {
            format!(
                "`{}` with {digest} is not in the aiot.lock that it names",
                short(uri)
            )
        })
        .collect()
}

/// What a signed statement speaks of, by name; the image comes first.
///
/// # Errors
/// When it is no statement that signs an image.
pub fn signed_subjects(statement: &[u8]) -> Result<Vec<(String, Digest)>, String> {
    let statement: Statement<serde::de::IgnoredAny> = serde_json::from_slice(statement)
        .map_err(|error| format!("it signs no in-toto statement: {error}"))?;
    if statement.kind != STATEMENT_TYPE || statement.predicate_type != SIGN_TYPE {
        return Err(format!(
            "it signs a statement of type `{}`, not `{SIGN_TYPE}`",
            short(&statement.predicate_type)
        ));
    }
    statement
        .subject
        .into_iter()
        .map(|subject| match subject.sha256() {
            Some(digest) => Ok((subject.name, digest)),
            None => Err(format!("it signs `{}` without a SHA-256", short(&subject.name))),
        })
        .collect()
}

/// Text of others, short enough for a message and without control characters.
pub(crate) fn short(text: &str) -> String {
    let clean = text.chars().filter(|character| !character.is_control());
    clean.take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ProvenanceInput, SourceCommit, image_statement, provenance};

    fn lock() -> String {
        let hex = Digest::of(b"model").hex();
        format!("version = 1\n\n[model.m]\nsource = \"sha256:{hex}\"\n")
    }

    fn made(dependencies: &[(&str, Digest)], commit: &str) -> Vec<u8> {
        let source = SourceCommit {
            commit: commit.to_owned(),
            is_modified: true,
            ..SourceCommit::default()
        };
        let mut all: BTreeMap<String, Digest> = dependencies
            .iter()
            .map(|(uri, d)| ((*uri).to_owned(), *d))
            .collect();
        all.insert(LOCK_DEPENDENCY.to_owned(), Digest::of(lock().as_bytes()));
        provenance(&ProvenanceInput {
            name: "m:1-t",
            image: Digest::of(b"image"),
            parameters: ["model", "target", "version"]
                .map(|name| (name, "x".to_owned()))
                .into(),
            source: (!commit.is_empty()).then_some(&source),
            dependencies: all,
            rustc: None,
            builder: "urn:b",
        })
    }

    #[test]
    fn provenance_of_ours_is_read_back() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let bytes = made(&[("file:m.onnx", Digest::of(b"model"))], commit);
        let facts = check_provenance(&bytes, &Digest::of(b"image")).unwrap();
        assert_eq!(facts.commit.as_deref(), Some(commit));
        assert!(facts.is_modified);
        assert_eq!(
            check_dependencies(&facts.dependencies, lock().as_bytes()),
            [""; 0]
        );
        assert_eq!(predicate_type(&bytes).as_deref(), Ok(PROVENANCE_TYPE));
    }

    #[test]
    fn what_is_wrong_with_provenance_is_named() {
        let good = String::from_utf8(made(&[], "")).unwrap();
        let check = |from: &str, to: &str, expected: &str| {
            assert!(good.contains(from), "{from}");
            let changed = good.replacen(from, to, 1);
            let problems = check_provenance(changed.as_bytes(), &Digest::of(b"image")).unwrap_err();
            assert!(
                problems.len() <= 2 && problems[0].contains(expected),
                "{expected}: {problems:?}"
            );
        };
        check(
            &Digest::of(b"image").hex(),
            &"0".repeat(64),
            "about another image",
        );
        check(
            PROVENANCE_TYPE,
            "https://slsa.dev/provenance/v0.2",
            "predicate type",
        );
        check(BUILD_TYPE, "urn:other", "build type");
        check(STATEMENT_TYPE, "x", "its type is `x`");
        check("urn:b", "me", "who built");
        check("\"model\":\"x\"", "\"model\":1", "which model");
        check(LOCK_DEPENDENCY, "file:other.lock", "does not name aiot.lock");
        check("\"sha256\":\"", "\"sha512\":\"", "without a digest");
        check("{", "[", "no SLSA provenance");
        for at in 0..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] ^= 4;
            let _ = check_provenance(&changed, &Digest::of(b"image"));
            let _ = signed_subjects(&changed);
            assert!(
                at + 1 >= good.len()
                    || check_provenance(&good.as_bytes()[..at], &Digest::of(b"image")).is_err()
            );
        }
        let commit = String::from_utf8(made(&[], "--upload-pack=x")).unwrap();
        let problems = check_provenance(commit.as_bytes(), &Digest::of(b"image")).unwrap_err();
        assert!(problems[0].contains("is no commit"), "{problems:?}");
    }

    #[test]
    fn inputs_that_the_lock_does_not_have_are_named() {
        let other = Digest::of(b"other");
        let named = format!("oci:r/x@{other}?platform=p");
        let check = |uri: &str, digest: Digest, expected: usize| {
            let bytes = made(&[(uri, digest)], "");
            let facts = check_provenance(&bytes, &Digest::of(b"image")).unwrap();
            let problems = check_dependencies(&facts.dependencies, lock().as_bytes());
            assert_eq!(problems.len(), expected, "{uri}: {problems:?}");
        };
        check("file:m.onnx", Digest::of(b"model"), 0);
        check("file:m.onnx", other, 1);
        check("pkg:pypi/onnxruntime@1", other, 1);
        check("pkg:deb/debian/libc6@1", other, 1);
        check("urn:aiot-ops:module-sources:vision", other, 0);
        check(&named, other, 0);
        check(&named, Digest::of(b"third"), 1);
        let facts = check_provenance(&made(&[], ""), &Digest::of(b"image")).unwrap();
        let problems = check_dependencies(&facts.dependencies, b"version = 1\n");
        assert!(problems[0].contains("another aiot.lock"), "{problems:?}");
    }

    #[test]
    fn signed_statements_say_what_they_sign() {
        let subjects = [("a", Digest::of(b"a")), ("b", Digest::of(b"b"))];
        let found = signed_subjects(&image_statement(&subjects)).unwrap();
        assert_eq!(found[1], ("b".to_owned(), Digest::of(b"b")));
        assert!(
            signed_subjects(&made(&[], ""))
                .unwrap_err()
                .contains("not `https://sigstore.dev")
        );
        assert!(signed_subjects(b"{}").is_err());
    }
}
