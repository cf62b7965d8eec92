//! A company that lives for some weeks: commits, cron, people, a fleet, and bad luck.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use std::sync::Arc;

use aiot_hubsim::{Behaviour, Faults, Fleet, Quality, Random, Service, Trouble};
use aiot_iothub::rollout::Declared;
use aiot_iothub::{
    AccuracySummary, Amount, ModuleRelease, Release, Ring, SystemModule, SystemModules, TargetRelease, render,
};
use aiot_package::{Digest, Precision};
use serde_json::{Map, json};

use crate::oracle::Oracle;
use crate::road::Road;

const HOUR_SECS: u64 = 3600;
pub const TICK_SECS: u64 = 6 * HOUR_SECS;
const START_SECS: u64 = 1_780_000_000;

/// What happened, so that a suite in which nothing happens fails.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub releases: u64,
    pub runs: u64,
    pub widened: u64,
    pub finished: u64,
    pub stopped: u64,
    pub rolled_back: u64,
    pub killed: u64,
    pub moved: u64,
    pub out_of_date: u64,
    pub two: u64,
    pub planned: u64,
    pub obeyed: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.releases += other.releases;
        self.runs += other.runs;
        self.widened += other.widened;
        self.finished += other.finished;
        self.stopped += other.stopped;
        self.rolled_back += other.rolled_back;
        self.killed += other.killed;
        self.moved += other.moved;
        self.out_of_date += other.out_of_date;
        self.two += other.two;
        self.planned += other.planned;
        self.obeyed += other.obeyed;
    }
}

pub struct World {
    seed: u64,
    pub random: Random,
    pub road: Road,
    pub oracle: Oracle,
    pub commits: Vec<(Release, Arc<Declared>)>,
    /// A plan that somebody has saved, and for which commit.
    pub plan: Option<(usize, Vec<u8>)>,
    /// When the tool last ran.
    pub ran_secs: u64,
    /// Counts images, so that each is new.
    images: u64,
    pub faults: Faults,
    story: String,
    pub totals: Totals,
}

impl World {
    /// `far`: with the real client over https.
    pub fn new(seed: u64, far: bool) -> World {
        let mut random = Random::new(seed);
        let mut fleet = Fleet {
            seed,
            ..Fleet::default()
        };
        let targets = 1 + random.below(2);
        for number in 0..3 + random.below(25) {
            let target = random.below(targets);
            let tags = json!({
                "kind": format!("kind-{target}"),
                "ring": *random.pick(&["canary", "early", "none", "none", "none"]),
                "line": *random.pick(&["press", "paint"]),
            });
            let behaviour = if random.chance(50) {
                Behaviour::GOOD
            } else {
                Behaviour::random(&mut random)
            };
            fleet.add(&format!("device-{number}"), tags, behaviour);
        }
        let mut service = Service::new(fleet, START_SECS);
        if random.chance(20) {
            // Little more than a release, its fall-back and one that is superseded for each lineage.
            service.deployment_limit = targets * 3 * 3 + 1;
        }
        let road = match far {
            true => Road::far(service, 1, seed),
            false => Road::near(service),
        };
        let mut world = World {
            seed,
            road,
            oracle: Oracle::default(),
            commits: Vec::new(),
            plan: None,
            ran_secs: 0,
            images: 0,
            faults: Faults {
                refused_percent: *random.pick(&[0, 5, 15]),
                cut_percent: *random.pick(&[0, 5, 15]),
                // Near, a look is one call; far, it is four.
                kill_percent: *random.pick(if far { &[0, 2, 6] } else { &[0, 5, 20] }),
                lost_percent: *random.pick(&[0, 5, 15]),
                touched_percent: *random.pick(&[0, 0, 10]),
            },
            story: String::new(),
            totals: Totals::default(),
            random,
        };
        let rings = world.rings();
        let targets = (0..targets).map(|number| world.target(number)).collect();
        let release = Release {
            environment: "prod".to_owned(),
            registry_prefix: "localhost/aiot".to_owned(),
            system: world.system(),
            rings,
            targets,
        };
        world.commit(release, "first");
        world
    }

    pub fn story(&self) -> String {
        let simulator = self.road.simulator();
        let service = &simulator.service;
        let mut devices = String::new();
        for device in service.fleet.devices.values() {
            let (id, behaviour) = (&device.id, &device.behaviour);
            let _ = writeln!(devices, "{id} {} {behaviour:?}", device.tags);
            let _ = writeln!(devices, "  shall run {:?}", device.desired_images());
            let _ = writeln!(devices, "  runs      {:?}", device.running);
            let _ = writeln!(devices, "  says      {:?}", device.heard());
        }
        let log = service.log.iter().cloned().collect::<Vec<_>>().join("\n");
        let (seed, faults, story) = (self.seed, self.faults, &self.story);
        format!("seed {seed}, {faults:?}\n{story}\nhub:\n{log}\ndevices:\n{devices}")
    }

    pub fn tell(&mut self, text: String) {
        let now_secs = self.now_secs();
        let _ = writeln!(self.story, "{} {text}", aiot_iothub::quiet::time_text(now_secs));
    }

    pub fn now_secs(&self) -> u64 {
        self.road.simulator().service.now_secs
    }

    fn rings(&mut self) -> Vec<Ring> {
        let limit = *self.random.pick(&[
            Amount::Percent(10),
            Amount::Percent(25),
            Amount::Count(0),
            Amount::Count(1),
        ]);
        let soak = *self.random.pick(&[1, 12, 30]);
        let mut canary = Ring::new("canary", None);
        match self.random.below(3) {
            0 => canary.condition = Some("tags.ring = 'canary'".to_owned()),
            1 => canary.percent = Some(15),
            _ => canary.devices = vec!["device-0".to_owned(), "device-1".to_owned()],
        }
        let mut early = Ring::new("early", None);
        match self.random.below(2) {
            0 => early.condition = Some("tags.ring = 'early'".to_owned()),
            _ => early.percent = Some(40),
        }
        let mut rings = vec![canary, early, Ring::new("all", None)];
        if self.random.chance(30) {
            rings.remove(1);
        }
        for ring in &mut rings {
            ring.soak_hours = soak;
            (
                ring.at_most.failed,
                ring.at_most.unhealthy,
                ring.at_most.self_check_failed,
            ) = (limit, limit, limit);
            ring.approval = self.random.chance(20);
        }
        rings
    }

    pub fn digest(&mut self) -> Digest {
        self.images += 1;
        Digest::of(format!("{} {}", self.seed, self.images).as_bytes())
    }

    pub fn system(&mut self) -> SystemModules {
        let mut one = |name: &str| SystemModule {
            image: format!("localhost/azureiotedge-{name}@{}", self.digest()),
            env: BTreeMap::new(),
            create_options: Map::new(),
        };
        SystemModules {
            edge_agent: one("agent"),
            edge_hub: one("hub"),
        }
    }

    fn target(&mut self, number: u64) -> TargetRelease {
        let modules = (0..1 + self.random.below(3))
            .map(|module| self.module(&format!("m{module}")))
            .collect();
        TargetRelease {
            name: format!("kind-{number}"),
            condition: format!("tags.kind = 'kind-{number}'"),
            disk_bytes: None,
            link_kbit_per_s: Some(8000),
            create_options: Map::new(),
            edge_hub_env: BTreeMap::new(),
            external_modules: Vec::new(),
            modules,
        }
    }

    fn module(&mut self, name: &str) -> ModuleRelease {
        ModuleRelease {
            name: name.to_owned(),
            model: name.to_owned(),
            model_version: format!("1.0.{}", self.images),
            image_repository: name.to_owned(),
            image_digest: self.digest(),
            platform: "linux/arm64".to_owned(),
            size_bytes: 10 << 20,
            create_options: Map::new(),
            env: BTreeMap::new(),
            startup_order: None,
            restart_policy: Default::default(),
            routes: BTreeMap::new(),
            condition: self.random.chance(25).then(|| "tags.line = 'press'".to_owned()),
            accuracy: AccuracySummary {
                metric: "accuracy".to_owned(),
                float: 0.9,
                quantized: 0.9,
                precision: Precision::Int8,
            },
            desired: Map::new(),
        }
    }

    pub fn commit(&mut self, release: Release, what: &str) {
        let rendered = render(&release).expect("a release of this suite is well-formed");
        let sequence = self.commits.len() as u64 + 1;
        let list = &rendered.files["deployments.json"];
        let content = |path: &str| rendered.files.get(path).cloned();
        let declared =
            Declared::parse(list, &content, sequence, &format!("c{sequence}")).expect("what was rendered");
        self.tell(format!("commit {sequence}: {what}"));
        self.commits.push((release, Arc::new(declared)));
        self.totals.releases += 1;
    }

    /// Somebody changes something.
    pub fn change(&mut self) {
        let mut release = self.commits[self.commits.len() - 1].0.clone();
        let target = self.random.below(release.targets.len() as u64) as usize;
        let module = self.random.below(release.targets[target].modules.len() as u64) as usize;
        let what = match self.random.below(12) {
            0..=4 => {
                let digest = self.digest();
                release.targets[target].modules[module].image_digest = digest;
                let name = release.targets[target].modules[module].name.clone();
                self.judge(&format!("localhost/aiot/{name}@{digest}"));
                format!("new {name} on {target}")
            }
            5 => {
                let name = format!("m{}", 3 + self.random.below(3));
                let new = self.module(&name);
                let modules = &mut release.targets[target].modules;
                modules.retain(|module| module.name != name);
                modules.push(new);
                format!("{name} comes to {target}")
            }
            6 if release.targets[target].modules.len() > 1 => {
                let gone = release.targets[target].modules.remove(module);
                format!("{} leaves {target}", gone.name)
            }
            7 => {
                release.system = self.system();
                let image = release.system.edge_hub.image.clone();
                if self.random.chance(30) {
                    self.judge(&image);
                }
                "new runtime".to_owned()
            }
            8 => {
                let module = &mut release.targets[target].modules[module];
                module.condition = match module.condition {
                    Some(_) => None,
                    None => Some("tags.line = 'press'".to_owned()),
                };
                format!("{} has condition {:?} on {target}", module.name, module.condition)
            }
            9 => {
                for ring in &mut release.rings {
                    ring.percent = ring.percent.map(|percent| (percent + 10).min(60));
                }
                "wider rings".to_owned()
            }
            _ => {
                let earlier = self.random.below(self.commits.len() as u64) as usize;
                release = self.commits[earlier].0.clone();
                format!("revert to commit {}", earlier + 1)
            }
        };
        self.commit(release, &what);
    }

    /// Decides how good a new image is.
    fn judge(&mut self, image: &str) {
        if self.random.chance(50) {
            return;
        }
        let kinds = [
            Trouble::Crashes,
            Trouble::CrashLoops,
            Trouble::Unhealthy,
            Trouble::SelfCheck,
        ];
        // The runtime has no model that it could check.
        let kinds = &kinds[..if image.contains("azureiotedge") { 3 } else { 4 }];
        let trouble = *self.random.pick(kinds);
        let quality = Quality {
            fails_percent: *self.random.pick(&[20, 60, 100, 100]),
            trouble,
        };
        self.tell(format!("{image} is bad: {quality:?}"));
        let mut simulator = self.road.simulator();
        simulator
            .service
            .fleet
            .qualities
            .insert(image.to_owned(), quality);
    }
}
