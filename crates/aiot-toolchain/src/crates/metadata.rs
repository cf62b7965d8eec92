//! `cargo metadata` → the crates of one package, as far as cargo resolved them for one target.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{CompiledCrate, CrateKind, CrateList};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Option<Resolve>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    source: Option<String>,
    #[serde(default)]
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for ordinary dependencies, else `build` or `dev`.
    kind: Option<String>,
}

pub(super) fn crates(json: &str, module: &str) -> Result<CrateList, String> {
    let metadata: Metadata = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| (node.id.as_str(), node))
        .collect();
    let own = |package: &&Package| package.name == module && package.source.is_none();
    let root = metadata
        .packages
        .iter()
        .find(own)
        .ok_or_else(|| format!("it has no package `{module}`"))?;

    // A crate may be reached both ways: then it runs.
    let mut found: BTreeMap<&str, CrateKind> = BTreeMap::new();
    let mut waiting = vec![(root.id.as_str(), CrateKind::Runtime)];
    while let Some((id, kind)) = waiting.pop() {
        if found.get(id).is_some_and(|known| *known <= kind) {
            continue;
        }
        found.insert(id, kind);
        for (dependency, is_build) in used_by(&nodes, id) {
            let package = package(&packages, dependency)?;
            let builds = kind == CrateKind::Build || is_build || package.is_macro();
            waiting.push((
                dependency,
                if builds {
                    CrateKind::Build
                } else {
                    CrateKind::Runtime
                },
            ));
        }
    }

    let mut sorted: Vec<(CompiledCrate, &str)> = Vec::with_capacity(found.len());
    for (id, kind) in &found {
        let package = package(&packages, id)?;
        let entry = CompiledCrate {
            name: package.name.clone(),
            version: package.version.clone(),
            source: source(package.source.as_deref()).to_owned(),
            kind: *kind,
            dependencies: Vec::new(),
            root: *id == root.id,
        };
        sorted.push((entry, id));
    }
    sorted.sort();
    let places: BTreeMap<&str, usize> = sorted
        .iter()
        .enumerate()
        .map(|(place, (_, id))| (*id, place))
        .collect();
    let packages = sorted
        .iter()
        .map(|(package, id)| {
            let dependencies: BTreeSet<usize> = used_by(&nodes, id)
                .filter_map(|(id, _)| places.get(id).copied())
                .collect();
            CompiledCrate {
                dependencies: dependencies.into_iter().collect(),
                ..package.clone()
            }
        })
        .collect();
    Ok(CrateList { packages })
}

impl Package {
    fn is_macro(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "proc-macro")
    }
}

/// The packages that a package uses, and whether only for its build script. Those of its tests do not count.
fn used_by<'a>(
    nodes: &BTreeMap<&'a str, &'a Node>,
    id: &str,
) -> impl Iterator<Item = (&'a str, bool)> + use<'a> {
    let node = nodes.get(id).copied();
    node.into_iter()
        .flat_map(|node| &node.deps)
        .filter_map(|dependency| {
            let is = |name: Option<&str>| {
                let mut kinds = dependency.dep_kinds.iter();
                kinds.any(|kind| kind.kind.as_deref() == name)
            };
            let (runs, builds) = (is(None), is(Some("build")));
            (runs || builds).then_some((dependency.pkg.as_str(), !runs))
        })
}

fn package<'a>(packages: &BTreeMap<&str, &'a Package>, id: &str) -> Result<&'a Package, String> {
    packages
        .get(id)
        .copied()
        .ok_or_else(|| format!("a dependency, `{id}`, is not among its packages"))
}

/// The format's word for where a crate comes from.
fn source(source: Option<&str>) -> &'static str {
    match source {
        None => "local",
        Some(source) if source.ends_with("/crates.io-index") => "crates.io",
        Some(source) if source.starts_with("git+") => "git",
        Some(_) => "registry",
    }
}
