//! Starting the real programs, and the images that they get to see.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aiot_oci::{
    ClientOptions, Compression, Descriptor, DirectoryMode, FileMode, FileSource, ImageSpec, LayerBuilder,
    RegistryClient, Repository, RetryPolicy, Store, assemble_image, assemble_index,
};

/// Whether all programs are there. Must be the first line of a test.
pub fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = programs
        .iter()
        .filter(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
        .copied()
        .collect();
    if missing.is_empty() {
        return true;
    }
    let message = format!("SKIPPED: a test with real tools needs {}", missing.join(", "));
    assert!(
        std::env::var_os("AIOT_TEST_REQUIRE_TOOLS").is_none_or(|value| value != "1"),
        "{message}"
    );
    eprintln!("{message}");
    false
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Runs a program and returns what it printed.
pub fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{program} {arguments:?}\n{stdout}\n{stderr}"
    );
    stdout.into_owned()
}

pub struct Registry {
    child: Child,
    pub address: String,
    log: PathBuf,
}

impl Registry {
    /// A real registry on a free port of this machine, with `auth` as the section `auth:` of its configuration.
    pub fn start(dir: &Path, auth: &str) -> Registry {
        let root = dir.join("registry");
        fs::create_dir_all(&root).unwrap();
        for _ in 0..5 {
            // The port may be taken between our looking and its binding; then another one is tried.
            let address = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .to_string();
            let config = dir.join("registry.yml");
            let text = format!(
                "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\nhttp:\n  addr: {address}\n{auth}",
                root.display()
            );
            fs::write(&config, text).unwrap();
            let log = dir.join("registry.log");
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(fs::File::create(&log).unwrap())
                .stderr(fs::File::create(dir.join("registry.err")).unwrap())
                .spawn()
                .unwrap();
            for _ in 0..200 {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(&address).is_ok() {
                    return Registry { child, address, log };
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!(
            "docker-registry does not start: {}",
            fs::read_to_string(dir.join("registry.err")).unwrap()
        );
    }

    pub fn repository(&self, name: &str) -> Repository {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    /// `METHOD path` of every request so far.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines()
            .filter_map(|line| line.split('"').nth(1))
            .filter(|request| request.ends_with("HTTP/1.1"))
            .map(|request| request.trim_end_matches(" HTTP/1.1").to_owned())
            .collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn client() -> RegistryClient {
    RegistryClient::new(ClientOptions {
        retry: RetryPolicy {
            attempts: 3,
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(50),
        },
        ..ClientOptions::default()
    })
}

/// A model image for a platform: a module, a model, a folder for temporary files, a link.
pub fn image(store: &Store, platform: &str, model: &str) -> Descriptor {
    let mut module = LayerBuilder::new();
    module
        .file(
            "usr/bin/vision",
            FileSource::Bytes(b"#!/bin/sh\n".to_vec()),
            FileMode::Executable,
        )
        .and_then(|layer| layer.directory("tmp", DirectoryMode::Sticky))
        .and_then(|layer| layer.symlink("usr/lib/libengine.so", "libengine.so.1"))
        .unwrap();
    let mut weights = LayerBuilder::new();
    weights
        .file(
            "model/model.onnx",
            FileSource::Bytes(model.repeat(300_000).into()),
            FileMode::Plain,
        )
        .unwrap();
    let mut spec = ImageSpec::new(platform.parse().unwrap());
    spec.layers.push(module.build(store, Compression::Gzip).unwrap());
    spec.layers.push(weights.build(store, Compression::None).unwrap());
    spec.entrypoint = vec!["/usr/bin/vision".into()];
    spec.user = Some("65532:65532".into());
    spec.labels = BTreeMap::from([("model".to_owned(), "defects".to_owned())]);
    spec.annotations = BTreeMap::from([("org.opencontainers.image.title".to_owned(), "defects".to_owned())]);
    assemble_image(store, &spec).unwrap()
}

pub struct Workplace {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Workplace {
    pub fn new() -> Workplace {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        Workplace { dir, store }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Two images and their index.
    pub fn index(&self) -> (Descriptor, Descriptor, Descriptor) {
        let (arm, amd64) = (
            image(&self.store, "linux/arm", "a"),
            image(&self.store, "linux/amd64", "a"),
        );
        let index = assemble_index(&self.store, &[arm.clone(), amd64.clone()], BTreeMap::new()).unwrap();
        (index, arm, amd64)
    }
}
