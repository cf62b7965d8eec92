//! A company that lives for some weeks: commits, cron, people, a fleet, and bad luck.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aiot_hubsim::service::Pacer;
use aiot_hubsim::{Behaviour, Direct, Faults, Faulty, Fleet, Quality, Random, Service, Trouble};
use aiot_iothub::rollout::declared::images;
use aiot_iothub::rollout::{
    ApplyError, Decision, Declared, HubDeployment, Intent, Refusal, Snapshot, Verdict, apply, decide,
    rollback,
};
use aiot_iothub::{
    AccuracySummary, Amount, Condition, ModuleRelease, Release, Ring, SystemModule, SystemModules,
    TargetRelease, render,
};
use aiot_package::{Digest, Precision};
use serde_json::{Map, json};

use crate::oracle::Watched;

const HOUR_SECS: u64 = 3600;
const TICK_SECS: u64 = 6 * HOUR_SECS;
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
    }
}

pub struct World {
    seed: u64,
    random: Random,
    service: Service,
    commits: Vec<(Release, Declared)>,
    /// Counts images, so that each is new.
    images: u64,
    faults: Faults,
    story: String,
    pub totals: Totals,
}

impl World {
    pub fn new(seed: u64) -> World {
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
        let mut world = World {
            seed,
            service,
            commits: Vec::new(),
            images: 0,
            faults: Faults {
                refused_percent: *random.pick(&[0, 5, 15]),
                cut_percent: *random.pick(&[0, 5, 15]),
                kill_percent: *random.pick(&[0, 5, 20]),
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
        format!(
            "seed {}\n{}\nhub:\n{}\n",
            self.seed,
            self.story,
            self.service.log.iter().cloned().collect::<Vec<_>>().join("\n")
        )
    }

    fn tell(&mut self, text: String) {
        let _ = writeln!(
            self.story,
            "{} {text}",
            aiot_iothub::quiet::time_text(self.service.now_secs)
        );
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

    fn digest(&mut self) -> Digest {
        self.images += 1;
        Digest::of(format!("{} {}", self.seed, self.images).as_bytes())
    }

    fn system(&mut self) -> SystemModules {
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

    fn commit(&mut self, release: Release, what: &str) {
        let rendered = render(&release).expect("a release of this suite is well-formed");
        let sequence = self.commits.len() as u64 + 1;
        let list = &rendered.files["deployments.json"];
        let content = |path: &str| rendered.files.get(path).cloned();
        let declared =
            Declared::parse(list, &content, sequence, &format!("c{sequence}")).expect("what was rendered");
        self.tell(format!("commit {sequence}: {what}"));
        self.commits.push((release, declared));
        self.totals.releases += 1;
    }

    /// Somebody changes something.
    fn change(&mut self) {
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
        let trouble = *self
            .random
            .pick(&[Trouble::Crashes, Trouble::Unhealthy, Trouble::SelfCheck]);
        let quality = Quality {
            fails_percent: *self.random.pick(&[20, 60, 100, 100]),
            trouble,
        };
        self.tell(format!("{image} is bad: {quality:?}"));
        self.service.fleet.qualities.insert(image.to_owned(), quality);
    }

    /// Runs a decision against the hub, faults and all. Gives whether it came through.
    fn obey(&mut self, commit: usize, decision: &Decision, rolling_back: bool) -> bool {
        let declared = self.commits[commit].1.clone();
        let random = Random::new(self.random.number());
        let watched = Watched {
            direct: Direct {
                service: &mut self.service,
                pacer: Some(Pacer::default()),
            },
            declared: &declared,
            rolling_back,
            widened: 0,
            finished: 0,
            stopped: 0,
        };
        let mut hub = Faulty {
            hub: watched,
            faults: self.faults,
            random,
            killed: false,
        };
        let result = apply(&mut hub, &decision.steps, &mut |_| {});
        self.totals.killed += u64::from(hub.killed);
        self.totals.widened += hub.hub.widened;
        self.totals.finished += hub.hub.finished;
        self.totals.stopped += hub.hub.stopped;
        if let Err(error) = &result {
            self.totals.moved += u64::from(matches!(error, ApplyError::Moved { .. }));
            self.tell(format!("run of commit {} ends: {error}", commit + 1));
        }
        result.is_ok()
    }

    fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            now_secs: self.service.now_secs,
            deployments: self.service.peek().cloned().collect(),
            devices: self.service.devices(),
            deployment_limit: self.service.deployment_limit,
        }
    }

    fn decide(&mut self, commit: usize, snapshot: &Snapshot, intent: &Intent) -> Option<Decision> {
        self.totals.runs += 1;
        match decide(&self.commits[commit].1, snapshot, intent) {
            Ok(decision) => {
                for step in &decision.steps {
                    self.tell(format!(
                        "commit {}: {} {}",
                        commit + 1,
                        step.action.subject(),
                        step.why
                    ));
                }
                Some(decision)
            }
            Err(Refusal::OutOfDate { .. }) => {
                assert_ne!(
                    commit + 1,
                    self.commits.len(),
                    "the newest commit is never out of date"
                );
                self.totals.out_of_date += 1;
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Cron comes round, perhaps twice at once, perhaps with an old checkout.
    fn cron(&mut self) {
        let intent = Intent {
            approve: self.random.chance(60).then(|| "somebody".to_owned()),
            resume: false,
        };
        let newest = self.commits.len() - 1;
        let commit = if self.random.chance(10) {
            newest.saturating_sub(1)
        } else {
            newest
        };
        let snapshot = self.snapshot();
        let Some(decision) = self.decide(commit, &snapshot, &intent) else {
            return;
        };
        if self.random.chance(10) {
            // A second run that began at the same moment and is faster.
            let other = if self.random.chance(30) {
                newest.saturating_sub(1)
            } else {
                newest
            };
            if let Some(faster) = self.decide(other, &snapshot, &intent) {
                self.obey(other, &faster, false);
            }
        }
        self.obey(commit, &decision, false);
        let stopped = decision
            .lineages
            .iter()
            .find(|one| matches!(one.verdict, Verdict::Stopped(_)));
        if let Some(stopped) = stopped
            && commit == newest
            && self.random.chance(50)
        {
            let module = self.commits[newest]
                .1
                .list()
                .deployments
                .iter()
                .find(|one| one.id == stopped.id);
            if let Some(module) = module.and_then(|one| one.modules.first()) {
                let model = module.model.clone();
                self.roll_back(&model);
            }
        }
    }

    /// A person takes a model back, again and again until it works, and then looks whether it did.
    fn roll_back(&mut self, model: &str) {
        let newest = self.commits.len() - 1;
        let label = |one: &HubDeployment, name: &str| one.labels.contains_key(name);
        // What each lineage with the model must fall back to.
        let mut lineages: BTreeMap<(String, String), Vec<HubDeployment>> = BTreeMap::new();
        for one in self
            .service
            .peek()
            .filter(|one| label(one, "aiot-stem") && one.labels["aiot-stem"] != "base")
        {
            let key = (one.labels["aiot-target"].clone(), one.labels["aiot-stem"].clone());
            lineages.entry(key).or_default().push(one.clone());
        }
        let mut expected: Vec<(HubDeployment, HubDeployment)> = Vec::new();
        for list in lineages.values_mut() {
            list.sort_by_key(|one| one.priority);
            let Some(top) = list.pop() else { continue };
            if !images(&top.content).contains_key(model) || label(&top, "aiot-rolled-back") {
                continue;
            }
            let good = |one: &&HubDeployment| label(one, "aiot-finished") && !label(one, "aiot-rolled-back");
            if let Some(good) = list.iter().rev().find(good) {
                expected.push((top, good.clone()));
            }
        }
        self.tell(format!("roll back {model}"));
        for attempt in 0.. {
            assert!(attempt < 200, "a rollback does not come through");
            let snapshot = self.snapshot();
            let decision = match rollback(&self.commits[newest].1, &snapshot, model, "it is bad") {
                Ok(decision) => decision,
                Err(error) => panic!("{error}"),
            };
            for step in &decision.steps {
                self.tell(format!("{} {}", step.action.subject(), step.why));
            }
            if decision.steps.is_empty() {
                break;
            }
            self.obey(newest, &decision, true);
        }
        self.totals.rolled_back += 1;
        // How often each device was there.
        let mut there: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..24 {
            self.service.pass(TICK_SECS);
            for device in self.service.fleet.devices.values().filter(|device| device.online) {
                *there.entry(device.id.clone()).or_default() += 1;
            }
        }
        let devices: Vec<String> = self.service.fleet.devices.keys().cloned().collect();
        for (top, good) in &expected {
            let condition: Condition = top.condition.parse().expect("it had devices");
            for id in &devices {
                let tags = self.service.fleet.devices[id].tags.clone();
                if !condition.matches(id, &tags) {
                    continue;
                }
                let desired = self.service.desired(id).1;
                for (module, image) in images(&good.content) {
                    // Another lineage may have taken the module over meanwhile.
                    let others: bool = lineages_have(&self.service, good, &module);
                    assert!(
                        others || desired.get(&module) == Some(&image),
                        "{id} shall not run {module} of {}",
                        good.id
                    );
                }
                let device = &self.service.fleet.devices[id];
                let reachable = there.get(id).is_some_and(|ticks| *ticks >= 12);
                if !device.behaviour.full && reachable {
                    assert_eq!(&device.running, device.desired_images(), "{id} did not come back");
                }
            }
        }
    }

    /// Some weeks.
    pub fn live(&mut self) {
        self.service.pass(TICK_SECS);
        let ticks = 40 + self.random.below(60);
        for _ in 0..ticks {
            self.service.pass(TICK_SECS);
            if self.random.chance(8) {
                self.change();
            }
            if self.random.chance(2) {
                let devices: Vec<String> = self.service.fleet.devices.keys().cloned().collect();
                let device = self.random.pick(&devices).clone();
                let line = *self.random.pick(&["press", "paint"]);
                self.service.move_device(&device, "line", json!(line));
            }
            self.cron();
        }
        self.settle();
    }

    /// Everything is repaired, the release is good: then all comes to rest, and the fleet runs what is declared.
    fn settle(&mut self) {
        self.faults = Faults::default();
        let mut release = self.commits[self.commits.len() - 1].0.clone();
        release.system = self.system();
        for target in &mut release.targets {
            for module in &mut target.modules {
                module.image_digest = self.digest();
            }
        }
        self.commit(release, "all anew, and good");
        for device in self.service.fleet.devices.values_mut() {
            device.behaviour = Behaviour::GOOD;
        }
        let newest = self.commits.len() - 1;
        let intent = Intent {
            approve: Some("somebody".to_owned()),
            resume: true,
        };
        let throttled = self.service.throttled;
        for round in 0.. {
            assert!(round < 200, "it never comes to rest");
            self.service.pass(TICK_SECS);
            let snapshot = self.snapshot();
            let Some(decision) = self.decide(newest, &snapshot, &intent) else {
                unreachable!("asserted in decide")
            };
            for report in &decision.lineages {
                // A full hub gets room when other releases are through.
                let full = matches!(&report.verdict, Verdict::Refused(why) if why.contains("delete what nobody needs"));
                assert!(
                    full || !report.verdict.needs_a_person(),
                    "{}: {:?}",
                    report.id,
                    report.verdict
                );
            }
            if decision.steps.is_empty()
                && decision
                    .lineages
                    .iter()
                    .all(|one| one.verdict == Verdict::Finished)
            {
                break;
            }
            assert!(
                self.obey(newest, &decision, false),
                "a run without faults comes through"
            );
        }
        assert_eq!(
            self.service.throttled, throttled,
            "one run alone is never throttled"
        );
        let declared = self.commits[newest].1.clone();
        assert!(
            self.service.peek().count() <= declared.list().deployments.len() * 2,
            "old deployments are left"
        );
        let devices: Vec<String> = self.service.fleet.devices.keys().cloned().collect();
        for id in devices {
            let device = &self.service.fleet.devices[&id];
            let mut wanted: BTreeMap<String, String> = BTreeMap::new();
            for one in &declared.list().deployments {
                if declared.wants(&one.id, &id, &device.tags) {
                    wanted.extend(images(declared.content(&one.id).expect("declared")));
                }
            }
            assert_eq!(device.running, wanted, "{id} does not run what is declared");
        }
    }
}

/// Whether a deployment above, of another lineage, brings the module.
fn lineages_have(service: &Service, good: &HubDeployment, module: &str) -> bool {
    service.peek().any(|one| {
        one.priority > good.priority
            && !one.condition.is_empty()
            && one.labels.get("aiot-stem") != good.labels.get("aiot-stem")
            && images(&one.content).contains_key(module)
    })
}
