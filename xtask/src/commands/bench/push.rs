//! Push: an image of 130 MiB by `cargo xtask push` in a process of its own to a real registry on this machine, against
//! `curl` with one PUT for each blob, and against skopeo.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aiot_build::BuildError;
use aiot_oci::{Descriptor, image};

use super::bake::{self, Baked, IMAGE};
use super::curl::{self, CURL};
use super::measure::{Aim, Ran, Row, ran};

/// The program of Debian's package `docker-registry`.
pub const REGISTRY: &str = "docker-registry";
/// How long a registry may take to start, in steps of 20 ms.
const START_STEPS: usize = 500;
/// Repository of all images.
const REPOSITORY: &str = "bench/image";

/// What is pushed, and where the sides work.
pub(super) struct Subject {
    place: PathBuf,
    /// The image, in `place/baked`.
    pub(super) baked: Baked,
    /// The same with another model, in `place/changed`.
    changed: Baked,
}

/// What one side took in one round.
#[derive(Default)]
struct Round {
    first: f64,
    first_cpu: f64,
    peak_bytes: f64,
    again: f64,
    elsewhere: f64,
    changed: f64,
}

/// Who pushes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours = 0,
    Floor = 1,
    /// All blobs at the same time, and no manifest.
    ParallelFloor = 2,
    Skopeo = 3,
}

/// Measures; no rows where there is no registry to push to.
pub fn run(runs: usize) -> Result<Vec<Row>, BuildError> {
    for program in [REGISTRY, CURL] {
        if !is_installed(program) {
            eprintln!("push: skipped, since {program} is not installed");
            return Ok(Vec::new());
        }
    }
    let with_skopeo = is_installed("skopeo");
    if !with_skopeo {
        eprintln!("push: not compared with skopeo, which is not installed");
    }
    eprintln!("push: 130 MiB, {runs} rounds, each to fresh registries");
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let subject = Subject::make(temporary.path())?;
    let mut rounds: Vec<[Round; 4]> = Vec::new();
    let mut starts = Vec::new();
    for round in 0..=runs {
        let mut sides = [Side::Ours, Side::Floor, Side::ParallelFloor, Side::Skopeo];
        sides.rotate_left(round % 4);
        let mut taken = [(); 4].map(|()| Round::default());
        for side in sides {
            if side != Side::Skopeo || with_skopeo {
                taken[side as usize] = side.measure(&subject)?;
            }
        }
        // The first round only fills the caches.
        if round > 0 {
            starts.push(ran(subject.xtask()?.arg("--help"))?.seconds);
            rounds.push(taken);
        }
    }
    Ok(rows(&rounds, &starts, with_skopeo))
}

fn rows(rounds: &[[Round; 4]], starts: &[f64], with_skopeo: bool) -> Vec<Row> {
    let pairs = |figure: fn(&Round) -> f64, against: Side| -> Vec<(f64, f64)> {
        let pair = |round: &[Round; 4]| (figure(&round[0]), figure(&round[against as usize]));
        rounds.iter().map(pair).collect()
    };
    let ours =
        |figure: fn(&Round) -> f64| -> Vec<f64> { rounds.iter().map(|round| figure(&round[0])).collect() };
    let again: Vec<f64> = ours(|round| round.again)
        .iter()
        .zip(starts)
        .map(|(again, start)| (again - start).max(0.0))
        .collect();
    let floor = Some(Aim::Ratio(1.1));
    let mut rows = vec![
        Row::pairs(
            "push, all new",
            "curl",
            &pairs(|round| round.first, Side::Floor),
            floor,
        ),
        Row::pairs(
            "push, all new",
            "curl, blobs only, all at once",
            &pairs(|round| round.first, Side::ParallelFloor),
            floor,
        ),
        Row::pairs(
            "push, all new: CPU",
            "curl, with starts of uploads",
            &pairs(|round| round.first_cpu, Side::Floor),
            Some(Aim::Here(0.05)),
        ),
        Row::memory(
            "push, all new: memory",
            &ours(|round| round.peak_bytes),
            Some(Aim::Here(32e6 / 1_048_576.0)),
        ),
        Row::alone("push, all there, beyond start", &again, Some(Aim::Here(0.015))),
        Row::alone(
            "push to another repository",
            &ours(|round| round.elsewhere),
            Some(Aim::Here(0.1)),
        ),
        Row::pairs(
            "push, model changed",
            "curl",
            &pairs(|round| round.changed, Side::Floor),
            floor,
        ),
    ];
    if with_skopeo {
        let first = pairs(|round| round.first, Side::Skopeo);
        rows.push(Row::pairs(
            "push, all new",
            "skopeo",
            &first,
            Some(Aim::Ratio(1.0)),
        ));
        let again = pairs(|round| round.again, Side::Skopeo);
        rows.push(Row::pairs(
            "push, all there",
            "skopeo",
            &again,
            Some(Aim::Ratio(1.0)),
        ));
    }
    rows
}

impl Subject {
    pub(super) fn make(place: &Path) -> Result<Subject, BuildError> {
        let mut files = bake::write_files(place)?;
        let baked = bake::bake(&place.join("baked"), &[], &files)?;
        let model = files.last_mut().expect("it writes some");
        let other = place.join("other").join(model.file_name().unwrap_or_default());
        fs::create_dir_all(place.join("other")).map_err(BuildError::other)?;
        let size_bytes = fs::metadata(&*model).map_err(BuildError::other)?.len();
        bake::write_noise(&other, size_bytes as usize, 77)?;
        *model = other;
        let changed = bake::bake(&place.join("changed"), &[], &files)?;
        Ok(Subject {
            place: place.to_owned(),
            baked,
            changed,
        })
    }

    /// This program, without a past.
    fn xtask(&self) -> Result<Command, BuildError> {
        let mut command = Command::new(std::env::current_exe().map_err(BuildError::other)?);
        command
            .current_dir(&self.place)
            .env(aiot_build::paths::STORE_VARIABLE, self.place.join("state"))
            .env("HOME", &self.place);
        Ok(command)
    }

    /// `to` = `host:port/prefix`; the layout's image goes to `<to>/image` as `latest`.
    pub(super) fn push(&self, baked: &str, to: &str) -> Result<Ran, BuildError> {
        let layout = self.place.join(baked).join("layout");
        let mut command = self.xtask()?;
        command.args([
            "push",
            "--move-tags",
            "--to",
            &format!("{to}/{IMAGE}"),
            "--layout",
        ]);
        command.arg(layout).arg("--workspace").arg(&self.place);
        ran(&mut command)
    }

    /// One PUT for each of these blobs and, unless only they count, for the manifest; uploads are started before.
    fn curl(
        &self,
        address: &str,
        baked: &Baked,
        blobs: &[Descriptor],
        parallel: usize,
    ) -> Result<(f64, f64), BuildError> {
        let started: Vec<_> = blobs
            .iter()
            .map(|_| curl::start(address, REPOSITORY, None))
            .collect();
        let (start, locations) = curl::send(&self.place, &started, 1)?;
        let puts = locations.iter().zip(blobs);
        let mut puts: Vec<_> = puts
            .map(|(location, blob)| curl::blob(location, &baked.store, blob))
            .collect();
        if parallel == 1 {
            let manifest = curl::manifest(address, REPOSITORY, "latest", &baked.store, &baked.image);
            puts.push(manifest);
        }
        let (sent, _) = curl::send(&self.place, &puts, parallel)?;
        Ok((sent.seconds, start.cpu_seconds + sent.cpu_seconds))
    }
}

/// Its layers and its config.
pub(super) fn blobs(baked: &Baked) -> Result<Vec<Descriptor>, BuildError> {
    let manifest = image::read_manifest(&baked.store, &baked.image.digest).map_err(BuildError::other)?;
    Ok(manifest.layers.into_iter().chain([manifest.config]).collect())
}

impl Side {
    fn measure(self, subject: &Subject) -> Result<Round, BuildError> {
        let place = &subject.place;
        let _ = fs::remove_dir_all(place.join("state"));
        let registry = Registry::start(&place.join("registry"))?;
        let address = registry.address.as_str();
        let all = blobs(&subject.baked)?;
        let mut round = Round::default();
        match self {
            Side::Ours => {
                let first = subject.push("baked", &format!("{address}/bench"))?;
                (round.first, round.first_cpu, round.peak_bytes) =
                    (first.seconds, first.cpu_seconds, first.peak_bytes);
                round.again = subject.push("baked", &format!("{address}/bench"))?.seconds;
                round.elsewhere = subject.push("baked", &format!("{address}/other"))?.seconds;
                round.changed = subject.push("changed", &format!("{address}/bench"))?.seconds;
            }
            Side::Floor => {
                (round.first, round.first_cpu) = subject.curl(address, &subject.baked, &all, 1)?;
                let mut new = blobs(&subject.changed)?;
                new.retain(|blob| all.iter().all(|known| known.digest != blob.digest));
                round.changed = subject.curl(address, &subject.changed, &new, 1)?.0;
            }
            Side::ParallelFloor => {
                round.first = subject.curl(address, &subject.baked, &all, all.len())?.0;
            }
            Side::Skopeo => {
                let layout = format!("oci:{}:{IMAGE}", place.join("baked/layout").display());
                let copy = || {
                    let mut command = Command::new("skopeo");
                    command.args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
                    command.arg(&layout);
                    command.arg(format!("docker://{address}/{REPOSITORY}:latest"));
                    command.env("HOME", place);
                    ran(&mut command)
                };
                round.first = copy()?.seconds;
                round.again = copy()?.seconds;
            }
        }
        Ok(round)
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
