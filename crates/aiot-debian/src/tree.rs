//! Unpacked packages as one tree in memory, with symbolic links that are followed inside it only.
//!
//! Debian 13's packages are merged-/usr; older ones are put there: `lib/x` becomes `usr/lib/x`.

use std::collections::BTreeMap;
use std::sync::Arc;

use aiot_plan::lock::LockedPackage;

use crate::archive::{ArchiveError, Entry, EntryKind, read_package};
use crate::stanza::Stanza;

/// As many symbolic links as the kernel follows.
const LINK_LIMIT: usize = 40;
const MERGED_DIRS: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32"];

/// Packages, unpacked.
#[derive(Clone, Debug, Default)]
pub struct FileTree {
    nodes: BTreeMap<String, Node>,
    /// Package name → control stanza.
    controls: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Node {
    package: String,
    kind: EntryKind,
}

/// A file found in a [`FileTree`], with links followed.
#[derive(Clone, Debug)]
pub(crate) struct FoundFile<'a> {
    pub(crate) package: &'a str,
    pub(crate) content: &'a Arc<[u8]>,
}

/// Why a package cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It cannot be unpacked.
    #[error("package {package}: {source}")]
    Archive {
        /// The package.
        package: String,
        /// Why.
        source: ArchiveError,
    },
    /// It is not the package that the lock names.
    #[error("package {package}: its control file says `{field}: {found}`, the lock says `{expected}`")]
    Mismatch {
        /// The package, as locked.
        package: String,
        /// The field.
        field: &'static str,
        /// What the package says.
        found: String,
        /// What the lock says.
        expected: String,
    },
    /// Two packages bring the same path with different content.
    #[error("packages {first} and {second} both bring {path}: they conflict; take one of them out")]
    Conflict {
        /// The path.
        path: String,
        /// The package that was there.
        first: String,
        /// The package that comes.
        second: String,
    },
}

impl FileTree {
    /// An empty tree.
    pub fn new() -> Self {
        FileTree::default()
    }

    /// Unpacks one `.deb` into the tree. `bytes` have been checked against the lock already
    /// ([`crate::fetch_package`] does); here the control file is checked against it too. Where two packages bring
    /// the same bytes under one path, the first owns them: add in the lock's order.
    ///
    /// # Errors
    /// [`TreeError`], with the package's name; the tree is as before then.
    pub fn add_package(&mut self, locked: &LockedPackage, bytes: &[u8]) -> Result<(), TreeError> {
        let package = read_package(bytes).map_err(|source| TreeError::Archive {
            package: locked.name.clone(),
            source,
        })?;
        let control = Stanza::new(&package.control);
        let fields = [
            ("Package", &locked.name),
            ("Version", &locked.version),
            ("Architecture", &locked.architecture),
        ];
        for (field, expected) in fields {
            let found = control.field(field).unwrap_or_default();
            if found != expected {
                return Err(TreeError::Mismatch {
                    package: locked.name.clone(),
                    field,
                    found: found.chars().take(200).collect(),
                    expected: expected.clone(),
                });
            }
        }
        let mut added: BTreeMap<String, Node> = BTreeMap::new();
        for Entry { path, kind, .. } in package.entries {
            if MERGED_DIRS.contains(&path.as_str()) && matches!(kind, EntryKind::Symlink(_)) {
                // base-files brings `lib -> usr/lib`, which this tree has by itself.
                continue;
            }
            let path = merged_path(path);
            // An unmerged package's own `lib` folder may name a folder that is there already.
            let before = added.get(&path).or_else(|| self.nodes.get(&path));
            if let Some(before) = before
                && before.kind != kind
            {
                return Err(TreeError::Conflict {
                    path,
                    first: before.package.clone(),
                    second: locked.name.clone(),
                });
            }
            if before.is_none() {
                added.insert(
                    path,
                    Node {
                        package: locked.name.clone(),
                        kind,
                    },
                );
            }
        }
        self.nodes.extend(added);
        self.controls.insert(locked.name.clone(), package.control);
        Ok(())
    }

    /// The content of the file at `path` (no leading slash), symbolic links followed inside the tree.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.find(path).map(|found| found.content.as_ref())
    }

    /// The paths of all entries, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Bytes of all files together.
    pub fn size_bytes(&self) -> u64 {
        let size = |node: &Node| match &node.kind {
            EntryKind::File(content) => content.len() as u64,
            EntryKind::Directory | EntryKind::Symlink(_) => 0,
        };
        self.nodes.values().map(size).sum()
    }

    /// The control stanza of an added package.
    pub fn control(&self, package: &str) -> Option<&str> {
        self.controls.get(package).map(String::as_str)
    }

    /// The file at `path`, links followed as in a root folder: an absolute target starts at the tree's root, and
    /// `..` stops there.
    pub(crate) fn find(&self, path: &str) -> Option<FoundFile<'_>> {
        let mut waiting: Vec<String> = path.split('/').rev().map(str::to_string).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = waiting.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            // The links that base-files would bring: `lib -> usr/lib`.
            let here = if done.len() == 1 {
                merged_path(done[0].clone())
            } else {
                done.join("/")
            };
            done = here.split('/').map(str::to_string).collect();
            if let Some(Node {
                kind: EntryKind::Symlink(target),
                ..
            }) = self.nodes.get(&here)
            {
                links += 1;
                if links > LINK_LIMIT {
                    return None;
                }
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                waiting.extend(target.split('/').rev().map(str::to_string));
            }
        }
        match self.nodes.get(&done.join("/"))? {
            Node {
                kind: EntryKind::File(content),
                package,
            } => Some(FoundFile { package, content }),
            _ => None,
        }
    }
}

fn merged_path(path: String) -> String {
    let top = path.split('/').next().unwrap_or_default();
    if MERGED_DIRS.contains(&top) {
        format!("usr/{path}")
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Deb;

    fn tree(packages: &[Deb]) -> Result<FileTree, TreeError> {
        let mut tree = FileTree::new();
        for package in packages {
            tree.add_package(&package.locked(), &package.build())?;
        }
        Ok(tree)
    }

    #[track_caller]
    fn check(package: Deb, path: &str, expected: Option<&str>) {
        let tree = tree(&[package]).unwrap();
        assert_eq!(
            tree.file(path)
                .map(|content| std::str::from_utf8(content).unwrap()),
            expected,
            "{path}"
        );
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let file = || Deb::new("a").file("usr/lib/m/real", b"x");
        check(file(), "usr/lib/m/real", Some("x"));
        check(file(), "lib/m/real", Some("x"));
        check(file(), "usr/lib/m", None);
        check(file(), "usr/lib/absent", None);
        check(file().link("usr/lib/m/l", "real"), "usr/lib/m/l", Some("x"));
        check(file().link("usr/lib/l", "m/real"), "usr/lib/l", Some("x"));
        check(
            file().link("usr/lib/l", "/usr/lib/m/real"),
            "usr/lib/l",
            Some("x"),
        );
        check(file().link("usr/lib/l", "/lib/m/real"), "usr/lib/l", Some("x"));
        check(
            file().link("usr/lib/l", "../../lib/./m//real"),
            "usr/lib/l",
            Some("x"),
        );
        check(
            file().link("usr/lib/l", "../../../../../usr/lib/m/real"),
            "usr/lib/l",
            Some("x"),
        );
        check(file().link("usr/folder", "lib/m"), "usr/folder/real", Some("x"));
        check(
            file().link("usr/a", "b").link("usr/b", "lib/m/real"),
            "usr/a",
            Some("x"),
        );
        check(file().link("usr/l", "absent"), "usr/l", None);
    }

    #[test]
    fn link_loops_end() {
        check(Deb::new("a").link("usr/a", "b").link("usr/b", "a"), "usr/a", None);
        check(Deb::new("a").link("usr/a", "a/a/a/a"), "usr/a", None);
        check(Deb::new("a").link("usr/a", "."), "usr/a", None);
    }

    #[test]
    fn unmerged_packages_are_merged() {
        let tree = tree(&[Deb::new("a")
            .dir("lib/")
            .file("lib/x", b"1")
            .dir("usr/lib/")
            .file("sbin/y", b"2")]);
        let tree = tree.unwrap();
        assert_eq!(
            tree.paths().collect::<Vec<_>>(),
            ["usr/lib", "usr/lib/x", "usr/sbin/y"]
        );
        assert_eq!(tree.size_bytes(), 2);
    }

    #[test]
    fn the_links_of_base_files_change_nothing() {
        let base_files = Deb::new("base-files")
            .link("./lib", "usr/lib")
            .dir("./usr/")
            .file("usr/lib/os-release", b"d");
        let tree = tree(&[
            Deb::new("a").dir("usr/").dir("usr/lib/").file("usr/lib/x", b"1"),
            base_files,
        ])
        .unwrap();
        assert_eq!(tree.file("lib/x"), Some(b"1".as_slice()));
        assert_eq!(tree.file("lib/os-release"), Some(b"d".as_slice()));
    }

    #[test]
    fn packages_must_agree_with_the_lock_and_with_each_other() {
        let deb = Deb::new("a").dir("usr/").file("usr/x", b"1");
        let mut tree = tree(std::slice::from_ref(&deb)).unwrap();
        tree.add_package(&Deb::new("b").locked(), &deb.build())
            .unwrap_err();
        let mut locked = deb.locked();
        locked.version = "2".into();
        let error = tree.add_package(&locked, &deb.build()).unwrap_err().to_string();
        assert_eq!(
            error,
            "package a: its control file says `Version: 1`, the lock says `2`"
        );
        let same = Deb::new("b").dir("usr/").file("usr/x", b"1");
        tree.add_package(&same.locked(), &same.build()).unwrap();
        let other = Deb::new("c").file("usr/new", b"1").file("usr/x", b"2");
        let error = tree
            .add_package(&other.locked(), &other.build())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "packages a and c both bring usr/x: they conflict; take one of them out"
        );
        assert_eq!(tree.file("usr/new"), None, "the tree is as before");
    }
}
