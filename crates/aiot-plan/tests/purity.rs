//! Crates that compute and touch nothing: no async runtime, network, file or process crate is in what they are
//! built from.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand, PackageId};

/// The crates whose stages may touch nothing.
const PURE: [&str; 2] = ["aiot-plan", "aiot-iothub"];

/// What would let them.
const IMPURE: [&str; 11] = [
    "async-std",
    "hyper",
    "mio",
    "oci-client",
    "reqwest",
    "socket2",
    "tempfile",
    "tokio",
    "ureq",
    "walkdir",
    "xshell",
];

#[test]
fn pure_crates_stay_pure() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        // What was built for this test is all that is needed: no look at the network, no change of the lock.
        .other_options([
            "--locked".to_owned(),
            "--filter-platform".to_owned(),
            host_triple(),
        ])
        .exec()
        .expect("cargo metadata");
    let names: BTreeMap<&PackageId, &str> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.as_str()))
        .collect();
    let resolve = metadata.resolve.as_ref().expect("dependencies are resolved");
    let edges: BTreeMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node.deps.iter().filter(|dependency| {
                dependency
                    .dep_kinds
                    .iter()
                    .any(|info| info.kind == DependencyKind::Normal)
            });
            (&node.id, normal.map(|dependency| &dependency.pkg).collect())
        })
        .collect();
    for pure in PURE {
        let root = names.iter().find(|(_, name)| **name == pure).map(|(id, _)| *id);
        let root = root.unwrap_or_else(|| panic!("no crate `{pure}`"));
        // Package → the one that brought it in.
        let mut reached: BTreeMap<&PackageId, Option<&PackageId>> = BTreeMap::from([(root, None)]);
        let mut open = vec![root];
        while let Some(package) = open.pop() {
            for dependency in &edges[package] {
                if !reached.contains_key(*dependency) {
                    reached.insert(dependency, Some(package));
                    open.push(dependency);
                }
            }
        }
        let found = reached.keys().find(|package| IMPURE.contains(&names[**package]));
        let mut chain: Vec<&str> = Vec::new();
        let mut at = found.copied();
        while let Some(package) = at {
            chain.insert(0, names[package]);
            at = reached[package];
        }
        assert!(
            chain.is_empty(),
            "`{pure}` must touch nothing, but is built from {}",
            chain.join(" → ")
        );
        assert!(reached.len() > 5, "`{pure}`: the dependencies were followed");
    }
}

/// The triple of this machine, by cargo's word.
fn host_triple() -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["--version", "--verbose"])
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("cargo names its host").to_owned()
}
