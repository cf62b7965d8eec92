//! Push: an image of 130 MiB to a real registry on this machine, against bare uploads and skopeo.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aiot_build::BuildError;
use aiot_build::network::Network;
use aiot_build::push::{PushItem, PushSettings, push};

use super::bake::{self, Baked, IMAGE};
use super::floor;
use super::measure::{Aim, Row, ran, timed};

/// The program of Debian's package `docker-registry`.
pub const REGISTRY: &str = "docker-registry";
/// How long a registry may take to start, in steps of 20 ms.
const START_STEPS: usize = 500;

/// Measures; no rows where there is no registry to push to.
pub fn run(runs: usize) -> Result<Vec<Row>, BuildError> {
    if !is_installed(REGISTRY) {
        eprintln!("push: skipped, since {REGISTRY} is not installed");
        return Ok(Vec::new());
    }
    let with_skopeo = is_installed("skopeo");
    if !with_skopeo {
        eprintln!("push: not compared with skopeo, which is not installed");
    }
    eprintln!("push: 130 MiB, {runs} rounds, each to fresh registries");
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let files = bake::write_files(temporary.path())?;
    let baked = bake::bake(&temporary.path().join("baked"), &[], &files)?;
    let network = Network::new()?;
    let place = temporary.path();
    let (mut first, mut again) = (Vec::new(), Vec::new());
    let (mut peer_first, mut peer_again) = (Vec::new(), Vec::new());
    for round in 0..=runs {
        let sides: [Side; 3] = if round % 2 == 0 {
            [Side::Ours, Side::Floor, Side::Skopeo]
        } else {
            [Side::Skopeo, Side::Floor, Side::Ours]
        };
        let mut times = [(0.0, 0.0); 3];
        for side in sides {
            if side != Side::Skopeo || with_skopeo {
                times[side as usize] = side.measure(place, &baked, &network)?;
            }
        }
        // The first round only fills the caches.
        if round > 0 {
            let [ours, floor, skopeo] = times;
            first.push((ours.0, floor.0));
            again.push((ours.1, floor.1));
            peer_first.push((ours.0, skopeo.0));
            peer_again.push((ours.1, skopeo.1));
        }
    }
    let mut rows = vec![
        Row::pairs(
            "push, all new",
            "one upload per blob",
            &first,
            Some(Aim::Ratio(1.15)),
        ),
        Row::pairs("push, all there", "one HEAD", &again, None),
    ];
    if with_skopeo {
        rows.push(Row::pairs("push, all new", "skopeo", &peer_first, None));
        rows.push(Row::pairs("push, all there", "skopeo", &peer_again, None));
    }
    Ok(rows)
}

/// Who pushes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours = 0,
    Floor = 1,
    Skopeo = 2,
}

impl Side {
    /// Seconds of a push to an empty registry and of the same again.
    fn measure(self, place: &Path, baked: &Baked, network: &Network) -> Result<(f64, f64), BuildError> {
        let registry = Registry::start(&place.join("registry"))?;
        let address = registry.address.as_str();
        let manifest =
            aiot_oci::image::read_manifest(&baked.store, &baked.image.digest).map_err(BuildError::other)?;
        let blobs: Vec<_> = manifest
            .layers
            .iter()
            .chain([&manifest.config])
            .cloned()
            .collect();
        let items = [PushItem {
            repository: IMAGE.to_owned(),
            tag: Some("latest".to_owned()),
            descriptor: baked.image.clone(),
            artifacts: Vec::new(),
        }];
        let repository = format!("bench/{IMAGE}");
        let once = |is_again: bool| match self {
            Side::Ours => push(
                network,
                &baked.store,
                &format!("{address}/bench"),
                &items,
                PushSettings::default(),
                &|_| {},
            )
            .map(|_| ()),
            Side::Floor if is_again => floor::head(address, &repository, &baked.image),
            Side::Floor => floor::push(address, &repository, &baked.store, &blobs, &baked.image),
            Side::Skopeo => {
                let layout = format!("oci:{}:{IMAGE}", place.join("baked/layout").display());
                let mut command = Command::new("skopeo");
                command.args([
                    "copy",
                    "--quiet",
                    "--preserve-digests",
                    "--dest-tls-verify=false",
                    &layout,
                ]);
                command.arg(format!("docker://{address}/{repository}:latest"));
                ran(&mut command).map(|_| ())
            }
        };
        Ok((timed(|| once(false))?.0, timed(|| once(true))?.0))
    }
}

/// A registry of its own, gone with its files when it is dropped.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    dir: std::path::PathBuf,
}

impl Registry {
    /// Starts it with empty folders below `dir`.
    ///
    /// # Errors
    /// When it does not listen soon.
    pub fn start(dir: &Path) -> Result<Registry, BuildError> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).map_err(BuildError::other)?;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(BuildError::other)?.to_string();
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.join("data").display()
        );
        fs::write(&config, text).map_err(BuildError::other)?;
        let mut command = Command::new(REGISTRY);
        command
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().map_err(BuildError::other)?;
        let registry = Registry {
            process,
            address,
            dir: dir.to_owned(),
        };
        for _ in 0..START_STEPS {
            if TcpStream::connect(&registry.address).is_ok() {
                return Ok(registry);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(BuildError::Other(format!(
            "{REGISTRY} does not listen at {}",
            registry.address
        )))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether a program is in a folder of `PATH`.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
