//! Which files a module is built from, and nothing that it is not built from.
//!
//! Reads the workspace's `Cargo.toml` files and `Cargo.lock` (no cargo is started: a release that has nothing to do
//! asks this too, and has a third of a second) and returns, for one module, the path dependencies that it reaches,
//! their files, and a *reduced* root manifest and lock: only those members, the dependencies that they use, the lock
//! entries that they reach. So a change elsewhere in the workspace is no change of the module. Development
//! dependencies, tests, benches, examples and lints are left out for the same reason: they do not reach the binary.
//!
//! What it refuses rather than guesses: `[patch]`, `[replace]`, a root manifest that is a package itself, path
//! dependencies outside the workspace.

mod files;
mod lock;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::Table;

pub(crate) use lock::{LockEntry, read_lock_entries};
use manifest::{Member, RootManifest};

/// The profile that modules are compiled with; the root manifest must define it.
pub const MODULE_PROFILE: &str = "module";

/// Everything that one module is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleSources {
    /// The folder that all paths are relative to.
    pub workspace_root: PathBuf,
    /// The module's package name.
    pub module: String,
    /// The module's package and the path dependencies that it reaches, sorted by folder.
    pub packages: Vec<SourcePackage>,
    /// The reduced root `Cargo.toml`.
    pub root_manifest: String,
    /// The reduced `Cargo.lock`: the entries that the packages reach. A superset of what cargo will need, since
    /// cargo's own file is resolved with the features of the whole workspace.
    pub lock_excerpt: String,
    /// The reduced `rust-toolchain.toml`, if the workspace pins a toolchain.
    pub toolchain_file: Option<String>,
    /// The version in it, `1.95.0`.
    pub toolchain_channel: Option<String>,
    /// `Cross.toml`, which names the container images of the builder `cross`; belongs into the key only there.
    pub cross_config: Option<String>,
}

/// One package of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePackage {
    /// The package's name.
    pub name: String,
    /// Its folder, relative to the workspace, with `/`.
    pub dir: String,
    /// Its reduced `Cargo.toml`.
    pub manifest: String,
    /// Its other files, relative to the workspace, sorted.
    pub files: Vec<String>,
}

impl ModuleSources {
    /// The files that are made up here, as (path in the stage, text), sorted: manifests, lock, toolchain.
    ///
    /// With the content of [`source_files`](Self::source_files) this is the whole input of a compile, except for
    /// `Cross.toml`.
    pub fn generated_files(&self) -> BTreeMap<String, &str> {
        let mut files = BTreeMap::from([
            ("Cargo.toml".to_owned(), self.root_manifest.as_str()),
            ("Cargo.lock".to_owned(), self.lock_excerpt.as_str()),
        ]);
        if let Some(text) = &self.toolchain_file {
            files.insert("rust-toolchain.toml".to_owned(), text);
        }
        for package in &self.packages {
            files.insert(format!("{}/Cargo.toml", package.dir), &package.manifest);
        }
        files
    }

    /// The files that are taken as they are, relative to the workspace, sorted.
    pub fn source_files(&self) -> BTreeSet<&str> {
        self.packages
            .iter()
            .flat_map(|package| &package.files)
            .map(String::as_str)
            .collect()
    }
}

/// Why a module's sources could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// A file or folder could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Longer than any manifest, lock or source tree of a module should be.
    #[error("{path} is beyond the limit of {limit} {unit}")]
    TooLarge {
        /// The file or folder.
        path: PathBuf,
        /// How much is read.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// Not TOML.
    #[error("{path} is not valid TOML: {source}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// Something that the reduced workspace cannot express.
    #[error("{path}: {what}")]
    Unsupported {
        /// The manifest.
        path: PathBuf,
        /// What, and what to do instead.
        what: String,
    },
    /// No such member.
    #[error("the workspace has no package `{module}`; its packages are {}", known.join(", "))]
    UnknownModule {
        /// The name as asked for.
        module: String,
        /// The members' names, sorted.
        known: Vec<String>,
    },
    /// `Cargo.lock` is older than a manifest.
    #[error("{path} has no entry for {missing}; run `cargo metadata` once to bring it up to date")]
    LockStale {
        /// The lock.
        path: PathBuf,
        /// Which package, and who needs it.
        missing: String,
    },
}

/// The manifests and the lock of a workspace, read once for any number of modules.
#[derive(Clone, Debug)]
pub struct SourceWorkspace {
    root: PathBuf,
    manifest: RootManifest,
    /// Package name → member.
    members: BTreeMap<String, Member>,
    lock: lock::Lock,
    toolchain: Option<(String, String)>,
    cross_config: Option<String>,
}

impl SourceWorkspace {
    /// Reads all manifests and the lock below `root`.
    ///
    /// # Errors
    /// [`SourcesError`], with the file at fault.
    pub fn read(root: &Path) -> Result<Self, SourcesError> {
        let manifest = RootManifest::read(root)?;
        let mut members = BTreeMap::new();
        for dir in manifest.member_dirs(root)? {
            let member = Member::read(root, &dir)?;
            members.insert(member.name.clone(), member);
        }
        let lock = lock::Lock::read(root)?;
        let toolchain = read_toolchain(root)?;
        let cross_config = files::read_optional(&root.join("Cross.toml"))?;
        Ok(SourceWorkspace {
            root: root.to_owned(),
            manifest,
            members,
            lock,
            toolchain,
            cross_config,
        })
    }

    /// What `module`, a member's package name, is built from.
    ///
    /// # Errors
    /// [`SourcesError`], with the file at fault.
    pub fn module(&self, module: &str) -> Result<ModuleSources, SourcesError> {
        let Some(start) = self.members.get(module) else {
            let known = self.members.keys().cloned().collect();
            return Err(SourcesError::UnknownModule {
                module: module.to_owned(),
                known,
            });
        };
        let members = self.closure(start)?;
        let dirs: Vec<&str> = members.keys().map(String::as_str).collect();
        let mut listed = files::list(&self.root, &dirs)?;

        let mut packages = Vec::new();
        let mut used = BTreeSet::new();
        let mut roots = Vec::new();
        for (dir, member) in &members {
            used.extend(member.inherited_dependencies());
            roots.push((member.name.clone(), self.locked_names(member)));
            packages.push(SourcePackage {
                name: member.name.clone(),
                dir: dir.clone(),
                manifest: member.reduced(),
                files: listed.remove(dir).unwrap_or_default(),
            });
        }
        let (toolchain_channel, toolchain_file) = self.toolchain.clone().unzip();
        Ok(ModuleSources {
            workspace_root: self.root.clone(),
            module: module.to_owned(),
            packages,
            root_manifest: self.manifest.reduced(&dirs, &used),
            lock_excerpt: self.lock.excerpt(&roots)?,
            toolchain_file,
            toolchain_channel,
            cross_config: self.cross_config.clone(),
        })
    }

    /// Folder → package, for the package and every path dependency that it reaches.
    fn closure(&self, start: &Member) -> Result<BTreeMap<String, Member>, SourcesError> {
        let mut found = BTreeMap::from([(start.dir.clone(), start.clone())]);
        let mut open = vec![start.clone()];
        while let Some(member) = open.pop() {
            for dir in member.path_dependencies(&self.root, &self.manifest)? {
                if found.contains_key(&dir) {
                    continue;
                }
                let known = self.members.values().find(|member| member.dir == dir).cloned();
                let dependency = match known {
                    Some(member) => member,
                    None => Member::read(&self.root, &dir)?,
                };
                found.insert(dir, dependency.clone());
                open.push(dependency);
            }
        }
        Ok(found)
    }

    /// The package names under which the lock knows a member's dependencies.
    fn locked_names(&self, member: &Member) -> BTreeSet<String> {
        member.dependency_packages(&self.manifest)
    }
}

/// [`SourceWorkspace::read`] and [`SourceWorkspace::module`] in one, for one module.
///
/// # Errors
/// [`SourcesError`], with the file at fault.
pub fn module_sources(workspace_root: &Path, module: &str) -> Result<ModuleSources, SourcesError> {
    SourceWorkspace::read(workspace_root)?.module(module)
}

/// (channel, reduced file) of `rust-toolchain.toml`. Its components and targets are for people's tools: left out.
fn read_toolchain(root: &Path) -> Result<Option<(String, String)>, SourcesError> {
    let path = root.join("rust-toolchain.toml");
    let Some(text) = files::read_optional(&path)? else {
        return Ok(None);
    };
    let table = files::parse_toml(&path, &text)?;
    let channel = table
        .get("toolchain")
        .and_then(|toolchain| toolchain.get("channel"))
        .and_then(|it| it.as_str());
    let Some(channel) = channel else {
        let what =
            "it pins no `toolchain.channel`; name one, so that everyone compiles with the same".to_owned();
        return Err(SourcesError::Unsupported { path, what });
    };
    let mut toolchain = Table::new();
    toolchain.insert("channel".to_owned(), channel.into());
    toolchain.insert("profile".to_owned(), "minimal".into());
    let file = manifest::render(&Table::from_iter([("toolchain".to_owned(), toolchain.into())]));
    Ok(Some((channel.to_owned(), file)))
}
