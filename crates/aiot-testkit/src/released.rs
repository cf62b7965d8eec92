//! The release that `cargo xtask test` made before the tests, and copies of its workspace to do things to.
//!
//! The release is shared by all tests and only read. A copy has files of its own; blobs of the store and downloads
//! are hard links, so a test that damages one puts another file in its place.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::generate::{copy_workspace, share_store};
use crate::tools::{self, Ended};

/// Variables of this process that a release may see: where tools and the network are.
const KEPT_VARIABLES: [&str; 17] = [
    "AIOT_DEBIAN_MIRROR",
    "ALL_PROXY",
    "CARGO_HOME",
    "CURL_CA_BUNDLE",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "RUSTUP_AUTO_INSTALL",
    "RUSTUP_HOME",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// A workspace that is released.
#[derive(Clone, Debug)]
pub struct Released {
    /// The folder with `models.toml`.
    pub root: PathBuf,
    /// Its store, downloads and action results.
    pub state: PathBuf,
}

impl Released {
    /// The release that `cargo xtask test` made; without it a test says `SKIPPED`.
    ///
    /// # Panics
    /// Where there is none and tools are required.
    pub fn find() -> Option<Released> {
        let root = std::env::var_os("AIOT_TEST_WORKSPACE").map(PathBuf::from);
        let found = root.map(|root| Released {
            state: std::env::var_os("AIOT_TEST_STATE").map_or_else(|| root.join(".aiot"), PathBuf::from),
            root,
        });
        let found = found.filter(|released| released.images().join("index.json").is_file());
        if found.is_none() {
            tools::skip("needs a release; `cargo xtask test` makes it");
        }
        found
    }

    /// The OCI layout.
    pub fn images(&self) -> PathBuf {
        self.root.join("dist/images")
    }

    /// A copy of the sources with a store where everything is done already.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn copy(&self) -> Copy {
        let copy = self.copy_sources();
        share_store(&self.state, &copy.state).unwrap();
        for entry in fs::read_dir(self.state.join("downloads")).unwrap() {
            let entry = entry.unwrap();
            let link = copy.state.join("downloads").join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                // Unpacked tools: large, and complete once they are there.
                std::os::unix::fs::symlink(entry.path(), link).unwrap();
            } else {
                link_file(&entry.path(), &link);
            }
        }
        copy
    }

    /// A copy of the sources with an empty store and the downloaded wheels.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn copy_with_wheels(&self) -> Copy {
        let copy = self.copy_sources();
        for entry in fs::read_dir(self.state.join("downloads")).unwrap() {
            let entry = entry.unwrap();
            if entry.path().extension() == Some(OsStr::new("whl")) {
                link_file(
                    &entry.path(),
                    &copy.state.join("downloads").join(entry.file_name()),
                );
            }
        }
        copy
    }

    /// A copy of the sources with an empty store.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn copy_sources(&self) -> Copy {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("workspace");
        copy_workspace(&self.root, &root).unwrap();
        let state = root.join(".aiot");
        fs::create_dir_all(state.join("downloads")).unwrap();
        Copy { folder, root, state }
    }
}

fn link_file(from: &Path, to: &Path) {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(|_| ()))
        .unwrap();
}

/// A workspace in a temporary folder, gone when it is dropped.
#[derive(Debug)]
pub struct Copy {
    folder: tempfile::TempDir,
    /// The folder with `models.toml`.
    pub root: PathBuf,
    /// Its store.
    pub state: PathBuf,
}

impl Copy {
    /// A folder beside the workspace for whatever a test needs.
    pub fn beside(&self) -> &Path {
        self.folder.path()
    }

    /// `xtask ARGUMENTS…` in this workspace, with nothing of this process's environment but where tools are.
    pub fn command(&self, xtask: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(xtask);
        command.args(arguments).current_dir(&self.root);
        clean(&mut command);
        command
    }

    /// Runs `xtask ARGUMENTS…` here.
    pub fn run(&self, xtask: &str, arguments: &[&str]) -> Ended {
        tools::run(&mut self.command(xtask, arguments))
    }

    /// A file's text.
    ///
    /// # Panics
    /// When it cannot be read.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let path = self.root.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }

    /// Replaces the first `from` of a file.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn replace(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no `{from}`:\n{text}");
        self.write(path, text.replacen(from, to, 1));
    }

    /// Everything that people review: lock, records, manifests. Path → content.
    ///
    /// # Panics
    /// When a file cannot be read.
    pub fn committed(&self) -> BTreeMap<String, String> {
        committed(&self.root)
    }

    /// The layout's list of images.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn index(&self) -> String {
        self.read("dist/images/index.json")
    }

    /// Puts other bytes in the place of a blob, as a failing disk would.
    ///
    /// # Panics
    /// When the blob is not there.
    pub fn damage_blob(&self, digest: &str) {
        let path = self.blob(digest);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        // The file may be a link to another store's.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    /// Where a blob is.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.state
            .join("store/blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    }
}

/// Everything of a workspace that people review: lock, records, manifests. Path → content.
///
/// # Panics
/// When a file cannot be read.
pub fn committed(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("deployments"), root.join("models")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if path.starts_with(root.join("deployments"))
                || name == "calibration.toml"
                || name == "measured.json"
            {
                let relative = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(relative, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found.insert(
        "aiot.lock".to_owned(),
        fs::read_to_string(root.join("aiot.lock")).unwrap(),
    );
    found
}

/// Takes everything out of a command's environment but where tools and the network are.
pub fn clean(command: &mut Command) {
    command.env_clear().env("PATH", tools::path());
    for (name, value) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| KEPT_VARIABLES.contains(&name) || name.starts_with("PIP_"))
        {
            command.env(name, value);
        }
    }
}
