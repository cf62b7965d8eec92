//! Where things lie below the workspace.

use std::path::{Path, PathBuf};

/// The environment variable that moves the store, so that checkouts and CI runs can share it.
pub const STORE_VARIABLE: &str = "AIOT_STORE";

/// The folders of a workspace.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The folder with `models.toml`.
    pub root: PathBuf,
    /// Blobs and action results: everything in it can be made again.
    pub state: PathBuf,
}

impl Paths {
    /// The folders for the workspace at `root`; `store` overrides where results are kept.
    pub fn new(root: &Path, store: Option<PathBuf>) -> Paths {
        Paths {
            root: root.to_owned(),
            state: store.unwrap_or_else(|| root.join(".aiot")),
        }
    }

    /// A file of the workspace by its path in a declaration.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Blobs.
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }

    /// Action results.
    pub fn actions(&self) -> PathBuf {
        self.state.join("actions")
    }

    /// What pushes found out about registries.
    pub fn registries(&self) -> PathBuf {
        self.state.join("registries.json")
    }

    /// Layers of the last release with their sizes.
    pub fn sizes(&self) -> PathBuf {
        self.state.join("sizes.json")
    }

    /// Wheels as pip left them, and what was unpacked from them.
    pub fn downloads(&self) -> PathBuf {
        self.state.join("downloads")
    }

    /// Folders of running actions; emptied at the start.
    pub fn work(&self) -> PathBuf {
        self.state.join("work")
    }

    /// Staged module sources and cargo's target folders.
    pub fn modules(&self) -> PathBuf {
        self.state.join("modules")
    }

    /// The OCI layout.
    pub fn images(&self) -> PathBuf {
        self.root.join("dist").join("images")
    }

    /// Bills of materials, provenance and signatures, a folder an image.
    pub fn supply_chain(&self) -> PathBuf {
        self.root.join("dist").join("supply-chain")
    }

    /// Generated manifests of an environment.
    pub fn deployments(&self, environment: &str) -> PathBuf {
        self.root.join("deployments").join(environment)
    }

    /// The lock.
    pub fn lock(&self) -> PathBuf {
        self.root.join("aiot.lock")
    }
}
