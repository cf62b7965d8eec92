//! The closure of root packages over `Pre-Depends` and `Depends`.
//!
//! Greedy, like a first installation by apt without recommendations: the first alternative that the index can
//! satisfy is taken and never taken back. `Conflicts` and `Breaks` are not looked at (see the crate's page). The
//! answer depends on the set of roots only, not on their order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aiot_plan::lock::LockedPackage;

use crate::dependency::Relation;
use crate::index::{Index, IndexError, PackageRecord};

/// A closure larger than this is no base of an edge image.
const CLOSURE_LIMIT: usize = 4096;

/// Why there is no closure.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A root that the index does not have.
    #[error(
        "there is no package `{name}` for {architecture} in the index{}",
        did_you_mean(similar)
    )]
    UnknownRoot {
        /// As declared.
        name: String,
        /// For which architecture.
        architecture: String,
        /// Names that begin alike.
        similar: Vec<String>,
    },
    /// A root that is excluded as well.
    #[error("package `{name}` is asked for and excluded: remove it from one of the two lists")]
    ExcludedRoot {
        /// The package.
        name: String,
    },
    /// A dependency that nothing in the index satisfies.
    #[error("{chain} needs `{dependency}`, which the index cannot satisfy: {reason}")]
    Unsatisfiable {
        /// From a root to the package with the dependency: `a → b → c`.
        chain: String,
        /// The dependency as written.
        dependency: String,
        /// What is there in place of it.
        reason: String,
    },
    /// The closure is too large.
    #[error(
        "the closure has more than {CLOSURE_LIMIT} packages: too many for a base; name libraries, not programs"
    )]
    TooLarge,
    /// A stanza cannot be used.
    #[error(transparent)]
    Index(#[from] IndexError),
}

fn did_you_mean(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!("; it has {}", names.join(", ")),
    }
}

/// Resolves `roots` to their closure, sorted by name.
///
/// Packages in `exclude` count as installed: neither they nor what only they need get in. An exclusion that is
/// never met is no error, since one declaration serves several architectures.
///
/// # Errors
/// [`ResolveError`]; an unsatisfiable dependency comes with the chain that leads to it.
pub fn resolve(
    index: &Index,
    roots: &[String],
    exclude: &BTreeSet<String>,
) -> Result<Vec<LockedPackage>, ResolveError> {
    let mut closure = Closure {
        index,
        exclude,
        selected: BTreeMap::new(),
        queue: VecDeque::new(),
    };
    for root in roots.iter().collect::<BTreeSet<_>>() {
        if exclude.contains(root) {
            return Err(ResolveError::ExcludedRoot { name: root.clone() });
        }
        let Some(record) = index.packages(root).into_iter().next() else {
            return Err(ResolveError::UnknownRoot {
                name: root.clone(),
                architecture: index.architecture().to_string(),
                similar: index
                    .similar_names(root)
                    .into_iter()
                    .map(str::to_string)
                    .collect(),
            });
        };
        closure.select(record, None);
    }
    while let Some(record) = closure.queue.pop_front() {
        for alternatives in record.dependencies()? {
            if alternatives.iter().any(|relation| closure.holds(relation)) {
                continue;
            }
            let Some(candidate) = alternatives
                .iter()
                .find_map(|relation| closure.candidate(relation))
            else {
                let shown: Vec<_> = alternatives.iter().map(Relation::to_string).collect();
                let reasons: Vec<_> = alternatives
                    .iter()
                    .map(|relation| closure.reason(relation))
                    .collect();
                return Err(ResolveError::Unsatisfiable {
                    chain: closure.chain(record.name()),
                    dependency: shown.join(" | "),
                    reason: reasons.join("; "),
                });
            };
            closure.select(candidate, Some(record.name()));
        }
        if closure.selected.len() > CLOSURE_LIMIT {
            return Err(ResolveError::TooLarge);
        }
    }
    let records = closure.selected.values().map(|selected| selected.record);
    records
        .map(|record| record.locked().map_err(ResolveError::from))
        .collect()
}

struct Selected<'a> {
    record: PackageRecord<'a>,
    /// Who brought it in; none = a root.
    needed_by: Option<&'a str>,
}

struct Closure<'a> {
    index: &'a Index,
    exclude: &'a BTreeSet<String>,
    selected: BTreeMap<&'a str, Selected<'a>>,
    queue: VecDeque<PackageRecord<'a>>,
}

impl<'a> Closure<'a> {
    fn select(&mut self, record: PackageRecord<'a>, needed_by: Option<&'a str>) {
        self.selected
            .insert(record.name(), Selected { record, needed_by });
        self.queue.push_back(record);
    }

    /// Whether what is selected or excluded satisfies the relation already.
    fn holds(&self, relation: &Relation) -> bool {
        self.exclude.contains(&relation.name)
            || self
                .selected
                .get(relation.name.as_str())
                .is_some_and(|selected| self.is(selected.record, relation))
            || self.index.providers(&relation.name).into_iter().any(|provider| {
                self.exclude.contains(provider.name())
                    || (self
                        .selected
                        .get(provider.name())
                        .is_some_and(|selected| selected.record.version() == provider.version())
                        && provides(provider, relation))
            })
    }

    /// The package to add for the relation: the latest of that name that will do, else the first provider.
    fn candidate(&self, relation: &Relation) -> Option<PackageRecord<'a>> {
        // A second version of a selected package would leave the first one's dependents alone.
        let free = |record: &PackageRecord<'a>| !self.selected.contains_key(record.name());
        self.index
            .packages(&relation.name)
            .into_iter()
            .find(|record| self.is(*record, relation))
            .or_else(|| {
                let mut providers = self.index.providers(&relation.name).into_iter();
                providers.find(|provider| provides(*provider, relation))
            })
            .filter(free)
    }

    /// Whether a package of the relation's name satisfies it.
    fn is(&self, record: PackageRecord<'_>, relation: &Relation) -> bool {
        let architecture_ok = match relation.qualifier.as_deref() {
            None | Some("any" | "native") => true,
            Some(name) => name == self.index.architecture().as_str(),
        };
        architecture_ok
            && relation
                .constraint
                .as_ref()
                .is_none_or(|asked| asked.accepts(record.version()))
    }

    fn reason(&self, relation: &Relation) -> String {
        let versions: Vec<_> = self
            .index
            .packages(&relation.name)
            .into_iter()
            .map(|record| record.version())
            .collect();
        if let Some(selected) = self.selected.get(relation.name.as_str()) {
            return format!(
                "{} is taken in version {}",
                relation.name,
                selected.record.version()
            );
        }
        let providers: Vec<_> = self
            .index
            .providers(&relation.name)
            .into_iter()
            .map(|record| record.name())
            .collect();
        match (versions.as_slice(), providers.as_slice()) {
            ([], []) => format!("it has no package `{}`", relation.name),
            ([], _) => format!(
                "`{relation}` is provided by {} in another version",
                providers.join(", ")
            ),
            _ => format!("it has {} {}", relation.name, versions.join(", ")),
        }
    }

    /// `root → … → name`.
    fn chain(&self, name: &str) -> String {
        let mut names = vec![name];
        let mut current = name;
        while let Some(needed_by) = self.selected.get(current).and_then(|selected| selected.needed_by) {
            names.push(needed_by);
            current = needed_by;
        }
        names.reverse();
        names.join(" → ")
    }
}

/// Whether a package's `Provides` satisfies the relation: a versioned one only with `= version`.
fn provides(record: PackageRecord<'_>, relation: &Relation) -> bool {
    record
        .provides()
        .into_iter()
        .filter(|provided| provided.name == relation.name)
        .any(|provided| match (&relation.constraint, provided.constraint) {
            (None, _) => true,
            (Some(asked), Some(given)) => asked.accepts(&given.version),
            (Some(_), None) => false,
        })
}

#[cfg(test)]
mod tests;
