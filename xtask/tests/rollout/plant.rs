//! A company: its workspace in git, its hub and fleet served over https, and the real program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aiot_build::environment::generated;
use aiot_build::paths::Paths;
use aiot_hubsim::{Server, Service, population};
use aiot_iothub::rollout::Declared;
use aiot_iothub::rollout::declared::images;
use aiot_iothub::{LayerBook, LayerSize};
use aiot_package::Digest;
use aiot_testkit::tools::{Ended, run};
use serde_json::Value;
use tempfile::TempDir;

/// The program that is tested.
const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const HOUR_SECS: u64 = 3600;

pub struct Plant {
    /// Deleted with the plant, unless the workspace is somebody else's.
    _folder: Option<TempDir>,
    root: PathBuf,
    beside: PathBuf,
    pub server: Server,
}

impl Plant {
    /// The sample workspace with `devices` devices, on a hub whose throttles are far away.
    pub fn new(devices: usize) -> Plant {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("workspace");
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        copy(&here.join("deployments"), &root.join("deployments"));
        for file in ["models.toml", "targets.toml"] {
            fs::copy(here.join(file), root.join(file)).unwrap();
        }
        // The declarations name modules, which are folders with a program.
        for module in ["vision", "signal"] {
            let source = root.join("modules").join(module).join("src");
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join("main.rs"), "").unwrap();
        }
        let beside = folder.path().to_owned();
        Plant::around(Some(folder), root, beside, devices)
    }

    /// A workspace that is there already; files of the plant itself go to `beside`.
    pub fn of_workspace(root: &Path, beside: &Path, devices: usize) -> Plant {
        Plant::around(None, root.to_owned(), beside.to_owned(), devices)
    }

    fn around(folder: Option<TempDir>, root: PathBuf, beside: PathBuf, devices: usize) -> Plant {
        git(&root, &["init", "-q"]);
        commit(&root);
        let declared = generated(&Paths::new(&root, None), "prod", 1, "c").unwrap();
        let fleet = population(&declared, devices);
        assert_eq!(fleet.devices.len(), devices);
        let server = Server::start(Service::new(fleet, 1_780_000_000), 0, 10_000, 0.0).unwrap();
        fs::write(beside.join("ca.pem"), server.ca_pem()).unwrap();
        Plant {
            _folder: folder,
            root,
            beside,
            server,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.beside.join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(XTASK);
        command
            .args(arguments)
            .current_dir(self.root())
            .env("AIOT_HUB_CONNECTION_STRING", self.server.connection_string())
            .env("AIOT_HUB_CA_FILE", self.file("ca.pem"))
            .env("AIOT_HUB_UNITS", "10000");
        command
    }

    /// Runs `cargo xtask …` for the environment.
    pub fn xtask(&self, arguments: &[&str]) -> Ended {
        run(self.command(arguments).args(["--environment", "prod"]))
    }

    /// As [`Plant::xtask`] with another variable.
    pub fn xtask_with(&self, arguments: &[&str], name: &str, value: &str) -> Ended {
        run(self
            .command(arguments)
            .args(["--environment", "prod"])
            .env(name, value))
    }

    /// Starts `cargo xtask …` for the environment.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .args(["--environment", "prod"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// A commit with another image of a model, everywhere.
    pub fn new_image(&self, model: &str, seed: &str) {
        let folder = self.root().join("deployments/prod");
        let list_path = folder.join("deployments.json");
        let mut list: Value = serde_json::from_slice(&fs::read(&list_path).unwrap()).unwrap();
        for deployment in list["deployments"].as_array_mut().unwrap() {
            let file = folder.join(deployment["file"].as_str().unwrap());
            let mut content = fs::read_to_string(&file).unwrap();
            for module in deployment["modules"].as_array_mut().unwrap() {
                if module["model"] == model {
                    let old = module["image-digest"].as_str().unwrap().to_owned();
                    let new = Digest::of(format!("{seed} {old}").as_bytes()).to_string();
                    content = content.replace(&old, &new);
                    module["image-digest"] = new.into();
                }
            }
            let digest = Digest::of(content.as_bytes());
            let id = deployment["id"].as_str().unwrap();
            let (lineage, _) = id.rsplit_once('-').unwrap();
            deployment["id"] = format!("{lineage}-{}", &digest.hex()[..12]).into();
            deployment["content-digest"] = digest.to_string().into();
            fs::write(&file, content).unwrap();
        }
        let list = serde_json::to_vec_pretty(&list).unwrap();
        fs::write(list_path, list).unwrap();
        commit(&self.root());
    }

    /// A commit of what a release says of the declared images' layers, and of no others: each has one of its own, of
    /// 10 MiB, on one of 40 MiB that all share.
    pub fn write_layers(&self) {
        let size = |mib: u64| LayerSize {
            compressed_bytes: mib << 20,
            unpacked_bytes: Some(mib << 21),
        };
        let mut book = LayerBook::default();
        for module in self
            .declared()
            .list()
            .deployments
            .iter()
            .flat_map(|one| &one.modules)
        {
            let image = module.image_digest;
            let own = Digest::of(format!("layer of {image}").as_bytes());
            book.add(image, [(Digest::of(b"shared"), size(40)), (own, size(10))]);
        }
        fs::write(self.root().join("deployments/prod/layers.json"), book.to_bytes()).unwrap();
        commit(&self.root());
    }

    /// What is committed.
    pub fn declared(&self) -> Declared {
        generated(&Paths::new(&self.root(), None), "prod", 1, "c").unwrap()
    }

    pub fn pass_hours(&self, hours: u64) {
        let mut simulator = self.server.simulator();
        for _ in 0..hours {
            simulator.service.pass(HOUR_SECS);
        }
    }

    /// Images that each device really runs.
    pub fn running(&self) -> BTreeMap<String, BTreeSet<String>> {
        let simulator = self.server.simulator();
        let devices = simulator.service.fleet.devices.values();
        devices
            .map(|device| (device.id.clone(), device.running.values().cloned().collect()))
            .collect()
    }

    /// Images that each device is declared to run when all rings have everything.
    pub fn wanted(&self) -> BTreeMap<String, BTreeSet<String>> {
        let declared = self.declared();
        let simulator = self.server.simulator();
        let devices = simulator.service.fleet.devices.values();
        devices
            .map(|device| {
                let wanted = declared
                    .list()
                    .deployments
                    .iter()
                    .filter(|one| declared.wants(&one.id, &device.id, &device.tags));
                let images = wanted.flat_map(|one| images(declared.content(&one.id).unwrap()).into_values());
                (device.id.clone(), images.collect())
            })
            .collect()
    }

    /// Cron: a step every 25 hours, until there is nothing to do. Gives how many runs did something.
    pub fn advance_to_the_end(&self) -> usize {
        for runs in 0..80 {
            let ended = self.xtask(&["deploy", "advance"]).expect(0);
            if ended.stdout.contains("Nothing to do.") && !ended.stdout.contains("waits") {
                return runs;
            }
            self.pass_hours(25);
        }
        panic!("it never comes to an end");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn git(root: &Path, arguments: &[&str]) {
    let identity = [
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@localhost",
        "-c",
        "commit.gpgsign=false",
    ];
    run(Command::new("git")
        .arg("-C")
        .arg(root)
        .args(identity)
        .args(arguments))
    .expect(0);
}

pub fn commit(root: &Path) {
    git(root, &["add", "-A"]);
    git(root, &["commit", "-q", "-m", "test"]);
}
