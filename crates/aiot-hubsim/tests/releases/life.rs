//! What people and cron do in a world: runs of the tool with bad luck, devices that come and go, a rollback, and the
//! end, when all is repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use aiot_hubsim::{Behaviour, Change, Faults, Random, Service};
use aiot_iothub::Condition;
use aiot_iothub::rollout::declared::images;
use aiot_iothub::rollout::{Action, ApplyError, HubDeployment, Intent, Refusal, Verdict};
use serde_json::json;

use crate::oracle::Run;
use crate::road::{Interruption, Road};
use crate::tool::{How, Trace, tool};
use crate::world::{TICK_SECS, World};

/// Where in the hub's journal the second operator's changes stand.
type Span = Arc<Mutex<Option<(usize, usize)>>>;

fn journal(road: &Road) -> usize {
    road.simulator().service.journal.as_ref().map_or(0, Vec::len)
}

/// A second operator, who comes while the first is at work; nothing befalls this one.
pub fn second(
    road: &Road,
    random: Random,
    run: impl FnOnce(&mut dyn aiot_iothub::rollout::Hub) + Send + 'static,
    span: Span,
) -> crate::road::Meanwhile {
    let road = road.clone();
    Box::new(move || {
        let (faults, kill_at) = {
            let mut simulator = road.simulator();
            (simulator.faults, simulator.kill_at.take())
        };
        let from = journal(&road);
        road.run(Faults::default(), random, &Interruption::default(), run);
        *span.lock().expect("no panic holds it") = Some((from, journal(&road)));
        let mut simulator = road.simulator();
        (simulator.faults, simulator.kill_at) = (faults, kill_at);
    })
}

impl World {
    /// One run of the tool, judged. None: it was killed.
    fn run(&mut self, commit: usize, how: &How, two: bool) -> Option<Trace> {
        self.totals.runs += 1;
        self.tell(format!("commit {}: {how:?}", commit + 1));
        let declared = Arc::clone(&self.commits[commit].1);
        let newest = self.commits.len() - 1;
        let (span, other) = (Span::default(), Arc::new(Mutex::new(Trace::default())));
        let mut interruption = Interruption::default();
        let other_commit = match self.random.chance(30) {
            true => newest.saturating_sub(1),
            false => newest,
        };
        if two {
            self.totals.two += 1;
            let (declared, how) = (Arc::clone(&self.commits[other_commit].1), how.clone());
            let trace = Arc::clone(&other);
            let random = Random::new(self.random.number());
            let run = move |hub: &mut dyn aiot_iothub::rollout::Hub| tool(hub, &declared, &how, &trace);
            let meanwhile = second(&self.road, random, run, Arc::clone(&span));
            interruption = Interruption::new(self.random.below(12), meanwhile);
        }
        let alone = !two && self.now_secs() >= self.ran_secs + 60;
        let throttled = self.throttled();
        let trace = Mutex::new(Trace::default());
        let random = Random::new(self.random.number());
        let came_through = self
            .road
            .run(self.faults, random, &interruption, |hub| {
                tool(hub, &declared, how, &trace);
            })
            .is_some();
        drop(interruption);
        let trace = trace.into_inner().expect("no panic holds it");
        let changes = {
            let mut simulator = self.road.simulator();
            std::mem::take(simulator.service.journal.as_mut().expect("it is kept"))
        };
        if alone {
            assert_eq!(self.throttled(), throttled, "one run alone is never throttled");
        }
        self.ran_secs = self.now_secs();
        for step in trace.decision.iter().flat_map(|decision| &decision.steps) {
            self.tell(format!("  {} {}", step.action.subject(), step.why));
        }
        // The second operator's part lies in the middle.
        let (from, to) = span.lock().expect("no panic holds it").unwrap_or((0, 0));
        let other = std::mem::take(&mut *other.lock().expect("no panic holds it"));
        let rolling_back = matches!(how, How::Rollback(_));
        let other_declared = Arc::clone(&self.commits[other_commit].1);
        let (mut first, mut second) = (
            Run {
                declared: &declared,
                rolling_back,
                seen: trace.seen.clone(),
            },
            Run {
                declared: &other_declared,
                rolling_back,
                seen: other.seen.clone(),
            },
        );
        let before = self.oracle.deployments.clone();
        for (range, run) in [
            (&changes[..from], 0),
            (&changes[from..to], 1),
            (&changes[to..], 0),
        ] {
            let run = if run == 0 { &mut first } else { &mut second };
            let simulator = self.road.simulator();
            let happened = self.oracle.judge(&simulator.service, range, run);
            drop(simulator);
            self.totals.widened += happened.widened;
            self.totals.finished += happened.finished;
            self.totals.stopped += happened.stopped;
        }
        self.check_word(&trace, &before, &changes);
        self.check_word(&other, &before, &changes);
        if let Some(refusal) = &trace.refusal {
            assert!(
                matches!(refusal, Refusal::OutOfDate { .. }) && commit != newest,
                "the newest commit is refused: {refusal}"
            );
            self.totals.out_of_date += 1;
        }
        if trace.plan_refused.is_some() || trace.refusal.is_some() || trace.plan.is_some() {
            assert!(
                changes.len() == to - from,
                "a run that does nothing has changed something"
            );
        }
        if !came_through {
            self.totals.killed += 1;
            self.tell("  the tool was killed".to_owned());
            return None;
        }
        for (who, trace) in [("it", &trace), ("the other", &other)] {
            match &trace.result {
                Some(Err(error)) => {
                    self.totals.moved += u64::from(matches!(error, ApplyError::Moved { .. }));
                    self.tell(format!("  {who} ends: {error}"));
                }
                Some(Ok(steps)) => self.tell(format!("  {who} has made {steps} steps")),
                None => {}
            }
        }
        Some(trace)
    }

    /// What a tool says that it has done was so, be it by its own hand or by somebody's who wanted the same.
    fn check_word(&self, trace: &Trace, before: &BTreeMap<String, HubDeployment>, changes: &[Change]) {
        let (Some(Ok(_)), Some(decision)) = (&trace.result, &trace.decision) else {
            return;
        };
        for step in &decision.steps {
            let was = |condition: &str, priority: u32, labels: &BTreeMap<String, String>| {
                before
                    .get(step.action.subject())
                    .into_iter()
                    .chain(changes.iter().filter_map(|change| change.after.as_ref()))
                    .any(|one| {
                        (one.id.as_str(), one.condition.as_str(), one.priority, &one.labels)
                            == (step.action.subject(), condition, priority, labels)
                    })
            };
            let true_word = match &step.action {
                Action::Update {
                    condition,
                    priority,
                    labels,
                    ..
                } => was(condition, *priority, labels),
                Action::Create { deployment } => {
                    was(&deployment.condition, deployment.priority, &deployment.labels)
                }
                Action::Delete { id, .. } => {
                    let gone = |change: &Change| {
                        change.after.is_none() && change.before.as_ref().is_some_and(|one| one.id == *id)
                    };
                    changes.iter().any(gone)
                }
                Action::Tag { device, .. } => {
                    let simulator = self.road.simulator();
                    let found = simulator.service.fleet.devices.get(device);
                    found.is_none_or(|device| device.tags["aiotWave"].is_number())
                }
            };
            assert!(
                true_word,
                "said to be done, and never was: {} {}",
                step.action.subject(),
                step.why
            );
        }
    }

    fn throttled(&self) -> u64 {
        let simulator = self.road.simulator();
        simulator.throttled + simulator.service.throttled
    }

    /// Cron comes round, perhaps twice at once, perhaps with an old checkout, perhaps with a plan that somebody has read.
    fn cron(&mut self) {
        let intent = Intent {
            approve: self.random.chance(60).then(|| "somebody".to_owned()),
            resume: false,
        };
        let newest = self.commits.len() - 1;
        let mut commit = match self.random.chance(10) {
            true => newest.saturating_sub(1),
            false => newest,
        };
        let mut how = How::Advance(intent.clone());
        if let Some((of, plan)) = self.plan.take_if(|_| self.random.chance(60)) {
            (commit, how) = (of, How::Obey(plan));
        } else if self.random.chance(10) {
            how = How::Plan(intent);
        }
        let two = self.random.chance(12);
        let Some(trace) = self.run(commit, &how, two) else {
            return;
        };
        if let Some(plan) = trace.plan {
            self.totals.planned += 1;
            self.plan = Some((commit, plan));
        }
        if matches!(how, How::Obey(_)) && matches!(trace.result, Some(Ok(_))) {
            self.totals.obeyed += 1;
        }
        let Some(decision) = trace.decision else { return };
        let stopped = decision
            .lineages
            .iter()
            .find(|one| matches!(one.verdict, Verdict::Stopped(_)));
        if let Some(stopped) = stopped
            && commit == newest
            && self.random.chance(50)
        {
            let deployments = &self.commits[newest].1.list().deployments;
            let module = deployments.iter().find(|one| one.id == stopped.id);
            if let Some(model) = module.and_then(|one| Some(one.modules.first()?.model.clone())) {
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
        for one in self.road.simulator().service.peek() {
            if label(one, "aiot-stem") && one.labels["aiot-stem"] != "base" {
                let key = (one.labels["aiot-target"].clone(), one.labels["aiot-stem"].clone());
                lineages.entry(key).or_default().push(one.clone());
            }
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
        for attempt in 0.. {
            assert!(attempt < 200, "a rollback does not come through");
            let two = self.random.chance(10);
            let trace = self.run(newest, &How::Rollback(model.to_owned()), two);
            let Some(Trace {
                decision: Some(decision),
                result: Some(Ok(_)),
                ..
            }) = trace
            else {
                continue;
            };
            if decision.steps.is_empty() {
                break;
            }
        }
        self.totals.rolled_back += 1;
        let mut simulator = self.road.simulator();
        let service = &mut simulator.service;
        // How often each device was there.
        let mut there: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..24 {
            service.pass(TICK_SECS);
            for device in service.fleet.devices.values().filter(|device| device.online) {
                *there.entry(device.id.clone()).or_default() += 1;
            }
        }
        let devices: Vec<String> = service.fleet.devices.keys().cloned().collect();
        for (top, good) in &expected {
            let condition: Condition = top.condition.parse().expect("it had devices");
            for id in &devices {
                if !condition.matches(id, &service.fleet.devices[id].tags) {
                    continue;
                }
                let desired = service.desired(id).1;
                for (module, image) in images(&good.content) {
                    // Another lineage may have taken the module over meanwhile.
                    let others = lineages_have(service, good, &module);
                    assert!(
                        others || desired.get(&module) == Some(&image),
                        "{id} shall not run {module} of {}",
                        good.id
                    );
                }
                let device = &service.fleet.devices[id];
                let reachable = there.get(id).is_some_and(|ticks| *ticks >= 12);
                if !device.behaviour.full && reachable {
                    assert_eq!(&device.running, device.desired_images(), "{id} did not come back");
                }
            }
        }
    }

    /// Devices come, go, move to another line, plant or kind, fill their disks and are cleaned up.
    fn fleet_changes(&mut self) {
        let mut simulator = self.road.simulator();
        let service = &mut simulator.service;
        let devices: Vec<String> = service.fleet.devices.keys().cloned().collect();
        let device = self.random.pick(&devices).clone();
        match self.random.below(12) {
            0..=3 => {
                let line = *self.random.pick(&["press", "paint"]);
                service.move_device(&device, "line", json!(line));
            }
            4 => {
                let ring = *self.random.pick(&["canary", "early", "none"]);
                service.move_device(&device, "ring", json!(ring));
            }
            5 => {
                let kind = format!("kind-{}", self.random.below(2));
                service.move_device(&device, "kind", json!(kind));
            }
            6 => {
                let id = format!("device-{}", 100 + self.random.below(20));
                let tags = json!({"kind": "kind-0", "ring": "none", "line": "press"});
                if !service.fleet.devices.contains_key(&id) {
                    service.join(&id, tags, Behaviour::random(&mut self.random));
                }
            }
            7 if devices.len() > 2 => service.leave(&device),
            8 => {
                let behaviour = Behaviour::random(&mut self.random);
                if let Some(device) = service.fleet.devices.get_mut(&device) {
                    device.behaviour = behaviour;
                }
            }
            _ => {
                if let Some(device) = service.fleet.devices.get_mut(&device) {
                    device.behaviour.full = !device.behaviour.full;
                }
            }
        }
    }

    /// Some weeks.
    pub fn live(&mut self) {
        self.road.simulator().service.pass(TICK_SECS);
        let ticks = 40 + self.random.below(60);
        for _ in 0..ticks {
            self.road.simulator().service.pass(TICK_SECS);
            if self.random.chance(8) {
                self.change();
            }
            if self.random.chance(4) {
                self.fleet_changes();
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
        for device in self.road.simulator().service.fleet.devices.values_mut() {
            device.behaviour = Behaviour::GOOD;
        }
        let newest = self.commits.len() - 1;
        let intent = Intent {
            approve: Some("somebody".to_owned()),
            resume: true,
        };
        for round in 0.. {
            assert!(round < 200, "it never comes to rest");
            self.road.simulator().service.pass(TICK_SECS);
            let trace = self.run(newest, &How::Advance(intent.clone()), false);
            let Some(Trace {
                decision: Some(decision),
                result: Some(Ok(_)),
                ..
            }) = trace
            else {
                panic!("a run without faults comes through: {trace:?}");
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
            let finished = |one: &aiot_iothub::rollout::LineageReport| one.verdict == Verdict::Finished;
            if decision.steps.is_empty() && decision.lineages.iter().all(finished) {
                break;
            }
        }
        let declared = Arc::clone(&self.commits[newest].1);
        let simulator = self.road.simulator();
        let service = &simulator.service;
        assert!(
            service.peek().count() <= declared.list().deployments.len() * 2,
            "old deployments are left"
        );
        for (id, device) in &service.fleet.devices {
            let mut wanted: BTreeMap<String, String> = BTreeMap::new();
            for one in &declared.list().deployments {
                if declared.wants(&one.id, id, &device.tags) {
                    wanted.extend(images(declared.content(&one.id).expect("declared")));
                }
            }
            // A device that has moved to where nothing is meant for it keeps what it has: the agent is told nothing.
            if wanted.is_empty() {
                continue;
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

/// ETags in a look at the hub.
pub fn etags(deployments: &[HubDeployment]) -> BTreeSet<String> {
    deployments.iter().map(|one| one.etag.clone()).collect()
}
