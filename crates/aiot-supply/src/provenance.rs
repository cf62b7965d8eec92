//! Where an image comes from: SLSA provenance v1 as an in-toto statement.

use std::collections::BTreeMap;

use aiot_package::Digest;
use serde_json::{Value, json};

/// The statement type of in-toto.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The predicate type of SLSA provenance.
pub const PROVENANCE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// What kind of build this is: external parameters name model, version and target of a workspace.
pub const BUILD_TYPE: &str = "urn:aiot-ops:release:1";

/// The state of the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceCommit {
    /// Address of the repository, without credentials; empty = not known.
    pub repository: String,
    /// The commit, hexadecimal.
    pub commit: String,
    /// The branch; empty = none.
    pub branch: String,
    /// Whether tracked files differ from the commit.
    pub is_modified: bool,
}

/// Everything that a statement is made from.
#[derive(Clone, Debug)]
pub struct ProvenanceInput<'a> {
    /// Name of the image, `<model>:<version>-<target>`.
    pub name: &'a str,
    /// Digest of its manifest.
    pub image: Digest,
    /// Model, version, target and the like.
    pub parameters: BTreeMap<&'a str, String>,
    /// The sources; `None` outside of git.
    pub source: Option<&'a SourceCommit>,
    /// Address → digest of every outside input.
    pub dependencies: BTreeMap<String, Digest>,
    /// The compiler, as the lock names it.
    pub rustc: Option<&'a str>,
    /// Who built: a URI.
    pub builder: &'a str,
}

/// The bytes of the statement.
pub fn provenance(input: &ProvenanceInput<'_>) -> Vec<u8> {
    let mut resolved: Vec<Value> = Vec::new();
    let mut internal = serde_json::Map::new();
    if let Some(source) = input.source {
        let mut uri = format!(
            "git+{}",
            if source.repository.is_empty() {
                "urn:aiot-ops:workspace"
            } else {
                &source.repository
            }
        );
        if !source.branch.is_empty() {
            uri = format!("{uri}@refs/heads/{}", source.branch);
        }
        resolved.push(json!({ "uri": uri, "digest": { "gitCommit": source.commit } }));
        internal.insert("modifiedSources".to_owned(), Value::from(source.is_modified));
    }
    resolved.extend(
        input
            .dependencies
            .iter()
            .map(|(uri, digest)| json!({ "uri": uri, "digest": { "sha256": digest.hex() } })),
    );
    if let Some(rustc) = input.rustc {
        internal.insert("rustc".to_owned(), Value::from(rustc));
    }
    crate::to_bytes(&json!({
        "_type": STATEMENT_TYPE,
        "subject": [{ "name": input.name, "digest": { "sha256": input.image.hex() } }],
        "predicateType": PROVENANCE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": input.parameters,
                "internalParameters": internal,
                "resolvedDependencies": resolved,
            },
            "runDetails": {
                "builder": { "id": input.builder, "version": { "aiot-ops": env!("CARGO_PKG_VERSION") } },
            },
        },
    }))
}
