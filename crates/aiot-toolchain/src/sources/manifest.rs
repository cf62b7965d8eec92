//! `Cargo.toml` files: what they point to, and their reduced forms.
//!
//! Reduced manifests are written from the parsed table with sorted keys: comments, order and formatting of the
//! original do not matter.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use toml::{Table, Value};

use super::{MODULE_PROFILE, SourcesError, files};

/// Most members that a pattern may match.
const MEMBER_LIMIT: usize = 10_000;
/// Deepest chain of `inherits` between profiles.
const PROFILE_LIMIT: usize = 8;

/// The tables of a manifest that hold dependencies which reach the binary.
const DEPENDENCY_TABLES: [&str; 2] = ["dependencies", "build-dependencies"];

#[derive(Clone, Debug)]
pub(super) struct RootManifest {
    workspace: Table,
    profiles: Table,
}

impl RootManifest {
    pub(super) fn read(root: &Path) -> Result<Self, SourcesError> {
        let path = root.join("Cargo.toml");
        let mut table = files::read_toml(&path)?;
        let unsupported = |what: &str| SourcesError::Unsupported {
            path: path.clone(),
            what: what.to_owned(),
        };
        for key in ["patch", "replace"] {
            if table.contains_key(key) {
                return Err(unsupported(&format!(
                    "`[{key}]` is not carried over to a module's build; depend on the replacement itself, by git \
                     revision or by path"
                )));
            }
        }
        if table.contains_key("package") {
            return Err(unsupported(
                "a module's workspace must be virtual; move the root package to its own folder",
            ));
        }
        let Some(Value::Table(workspace)) = table.remove("workspace") else {
            return Err(unsupported("it has no [workspace]"));
        };
        let profiles = match table.remove("profile") {
            Some(Value::Table(profiles)) => profiles,
            _ => Table::new(),
        };
        if !profiles.contains_key(MODULE_PROFILE) {
            return Err(unsupported(&format!(
                "it has no [profile.{MODULE_PROFILE}], with which modules are compiled; add one that inherits \
                 \"release\""
            )));
        }
        Ok(RootManifest { workspace, profiles })
    }

    /// The folders that `members` names, `exclude` taken out, sorted, each with a `Cargo.toml`.
    pub(super) fn member_dirs(&self, root: &Path) -> Result<BTreeSet<String>, SourcesError> {
        let excluded = strings(self.workspace.get("exclude"));
        let mut dirs = BTreeSet::new();
        for pattern in strings(self.workspace.get("members")) {
            expand(root, &pattern, &mut dirs)?;
        }
        dirs.retain(|dir| {
            let is_excluded = excluded
                .iter()
                .any(|it| dir == it || dir.strip_prefix(it).is_some_and(|it| it.starts_with('/')));
            !is_excluded && root.join(dir).join("Cargo.toml").is_file()
        });
        Ok(dirs)
    }

    fn dependency(&self, name: &str) -> Option<&Value> {
        self.workspace.get("dependencies")?.get(name)
    }

    /// The root manifest of a workspace with only these members and these inherited dependencies.
    pub(super) fn reduced(&self, members: &[&str], used: &BTreeSet<String>) -> String {
        let mut workspace = Table::new();
        let members: Vec<Value> = members.iter().copied().map(Value::from).collect();
        workspace.insert("members".to_owned(), members.into());
        for key in ["resolver", "package"] {
            if let Some(value) = self.workspace.get(key) {
                workspace.insert(key.to_owned(), value.clone());
            }
        }
        let dependencies: Table = used
            .iter()
            .filter_map(|name| Some((name.clone(), self.dependency(name)?.clone())))
            .collect();
        workspace.insert("dependencies".to_owned(), dependencies.into());

        let mut profiles = Table::new();
        let mut name = MODULE_PROFILE;
        for _ in 0..PROFILE_LIMIT {
            let Some(profile) = self.profiles.get(name) else {
                break;
            };
            profiles.insert(name.to_owned(), profile.clone());
            let Some(parent) = profile.get("inherits").and_then(Value::as_str) else {
                break;
            };
            name = parent;
        }
        let root = [
            ("workspace".to_owned(), workspace.into()),
            ("profile".to_owned(), profiles.into()),
        ];
        render(&Table::from_iter(root))
    }
}

/// One package of the workspace.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Relative to the workspace, with `/`.
    pub(super) dir: String,
    table: Table,
}

impl Member {
    pub(super) fn read(root: &Path, dir: &str) -> Result<Self, SourcesError> {
        let path = root.join(dir).join("Cargo.toml");
        let table = files::read_toml(&path)?;
        let name = table
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(Value::as_str);
        match name {
            Some(name) => Ok(Member {
                name: name.to_owned(),
                dir: dir.to_owned(),
                table,
            }),
            None => Err(SourcesError::Unsupported {
                path,
                what: "it names no package".to_owned(),
            }),
        }
    }

    /// (key, value) of every dependency that reaches the binary on some platform.
    fn dependencies(&self) -> impl Iterator<Item = (&String, &Value)> {
        let targets = self
            .table
            .get("target")
            .and_then(Value::as_table)
            .into_iter()
            .flat_map(Table::values);
        std::iter::once(&self.table)
            .chain(targets.filter_map(Value::as_table))
            .flat_map(|table| {
                DEPENDENCY_TABLES
                    .iter()
                    .filter_map(|key| table.get(*key)?.as_table())
            })
            .flatten()
    }

    /// Names of the dependencies that are written in `[workspace.dependencies]`.
    pub(super) fn inherited_dependencies(&self) -> impl Iterator<Item = String> {
        self.dependencies()
            .filter(|(_, value)| is_inherited(value))
            .map(|(name, _)| name.clone())
    }

    /// The package names of all dependencies: a renamed one stands in the lock under its own name.
    pub(super) fn dependency_packages(&self, root: &RootManifest) -> BTreeSet<String> {
        self.dependencies()
            .map(|(name, value)| {
                let declared = if is_inherited(value) {
                    root.dependency(name)
                } else {
                    Some(value)
                };
                let renamed = declared.and_then(|it| it.get("package")).and_then(Value::as_str);
                renamed.unwrap_or(name).to_owned()
            })
            .collect()
    }

    /// The folders of its path dependencies.
    pub(super) fn path_dependencies(
        &self,
        root: &Path,
        manifest: &RootManifest,
    ) -> Result<BTreeSet<String>, SourcesError> {
        let mut dirs = BTreeSet::new();
        for (name, value) in self.dependencies() {
            let (base, declared) = match is_inherited(value) {
                true => ("", manifest.dependency(name)),
                false => (self.dir.as_str(), Some(value)),
            };
            let path = declared.and_then(|it| it.get("path")).and_then(Value::as_str);
            let Some(path) = path else { continue };
            let Some(dir) = join(base, path) else {
                let what = format!(
                    "its dependency `{name}` is at `{path}`, outside the workspace; move it in, or depend on a \
                     released version"
                );
                let path = root.join(&self.dir).join("Cargo.toml");
                return Err(SourcesError::Unsupported { path, what });
            };
            dirs.insert(dir);
        }
        Ok(dirs)
    }

    /// The manifest without what does not reach the binary.
    pub(super) fn reduced(&self) -> String {
        let mut table = self.table.clone();
        for key in [
            "dev-dependencies",
            "test",
            "bench",
            "example",
            "lints",
            "workspace",
        ] {
            table.remove(key);
        }
        if let Some(Value::Table(targets)) = table.get_mut("target") {
            for target in targets.iter_mut().filter_map(|(_, target)| target.as_table_mut()) {
                target.remove("dev-dependencies");
            }
            targets.retain(|_, target| target.as_table().is_none_or(|target| !target.is_empty()));
        }
        render(&table)
    }
}

fn is_inherited(dependency: &Value) -> bool {
    dependency.get("workspace").and_then(Value::as_bool) == Some(true)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let values = value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    values
        .iter()
        .filter_map(Value::as_str)
        .map(|text| text.trim_end_matches('/').to_owned())
        .collect()
}

/// Resolves `path` against `base` by its letters; `None` when it leaves the workspace or is its root.
fn join(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Adds the folders that a member pattern matches; `*` stands for one whole folder name.
fn expand(root: &Path, pattern: &str, dirs: &mut BTreeSet<String>) -> Result<(), SourcesError> {
    let unsupported = |what: String| SourcesError::Unsupported {
        path: root.join("Cargo.toml"),
        what,
    };
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|part| !matches!(*part, "" | ".")) {
        let extended = |folder: &str, part: &str| match folder {
            "" => part.to_owned(),
            _ => format!("{folder}/{part}"),
        };
        let mut next = Vec::new();
        for folder in &found {
            if part != "*" {
                if part.contains(['*', '?', '[']) || part == ".." {
                    return Err(unsupported(format!(
                        "the member pattern `{pattern}` is not understood; use whole folder names or `*`"
                    )));
                }
                next.push(extended(folder, part));
                continue;
            }
            let path = root.join(folder);
            let error = |source| SourcesError::Read {
                path: path.clone(),
                source,
            };
            if !path.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(&path).map_err(error)? {
                let entry = entry.map_err(error)?;
                if let Ok(name) = entry.file_name().into_string()
                    && !name.starts_with('.')
                    && entry.path().is_dir()
                {
                    next.push(extended(folder, &name));
                }
            }
        }
        if next.len() > MEMBER_LIMIT {
            return Err(unsupported(format!(
                "`{pattern}` matches more than {MEMBER_LIMIT} folders"
            )));
        }
        found = next;
    }
    dirs.extend(found.into_iter().filter(|dir| !dir.is_empty()));
    Ok(())
}

/// TOML with sorted keys, whatever order the parser keeps.
pub(super) fn render(table: &Table) -> String {
    sorted(table).to_string()
}

fn sorted(table: &Table) -> Table {
    let mut keys: Vec<&String> = table.keys().collect();
    keys.sort();
    keys.into_iter()
        .map(|key| {
            let value = match &table[key] {
                Value::Table(table) => Value::Table(sorted(table)),
                Value::Array(values) => {
                    let values = values.iter().map(|value| match value {
                        Value::Table(table) => Value::Table(sorted(table)),
                        other => other.clone(),
                    });
                    Value::Array(values.collect())
                }
                other => other.clone(),
            };
            (key.clone(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_by_letters() {
        let check = |base: &str, path: &str, expected: Option<&str>| {
            assert_eq!(join(base, path).as_deref(), expected, "{base} + {path}");
        };
        check("modules/vision", "../edge-runtime", Some("modules/edge-runtime"));
        check("", "crates/aiot-oci", Some("crates/aiot-oci"));
        check("", "./crates//a/", Some("crates/a"));
        check("a", "../../b", None);
        check("a", "/b", None);
        check("a", "..", None);
    }

    #[test]
    fn rendering_sorts_keys_and_puts_tables_last() {
        let table: Table = "[b]\nz = 1\na = { y = 2, x = 1 }\n[a]\nk = 'v'\n"
            .parse()
            .unwrap();
        let text = render(&table);
        assert_eq!(text.parse::<Table>().unwrap(), table);
        assert!(text.find("[a]").unwrap() < text.find("[b]").unwrap(), "{text}");
        let other: Table = "[a]\nk = 'v'\n[b]\na = { x = 1, y = 2 }\nz = 1\n"
            .parse()
            .unwrap();
        assert_eq!(text, render(&other));
    }
}
