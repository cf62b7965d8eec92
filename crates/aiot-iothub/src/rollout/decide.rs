//! Declared, hub and time → the next steps. One safe step per lineage and run, made for cron.

use std::collections::BTreeMap;

use serde::Serialize;
use thiserror::Error;

use super::declared::{Declared, Lineage, images, leaves_over};
use super::health::{Tally, standing};
use super::labels::Place;
use super::state::{HubDeployment, Snapshot};
use super::step::{Action, Step};
use super::working::{Ours, Working};
use crate::limits::UsedOf;
use crate::render::{Deployment, DeploymentKind, FIRST_LAYER_PRIORITY};
use crate::ring::Ring;

/// What a person says with a run.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    /// Who agrees that releases enter rings that ask for it.
    pub approve: Option<String>,
    /// Stopped releases may go on, if their ring is well again.
    pub resume: bool,
}

/// What is to be done, and how everything stands.
#[derive(Clone, Debug)]
pub struct Decision {
    /// In the order in which they must be made; cut anywhere, every device still has what it should have.
    pub steps: Vec<Step>,
    /// One per declared lineage, in the order of the declarations.
    pub lineages: Vec<LineageReport>,
    /// Limits of the hub after the steps.
    pub used: Vec<UsedOf>,
}

/// How one lineage stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LineageReport {
    /// The lineage.
    pub lineage: Lineage,
    /// The declared deployment.
    pub id: String,
    /// The last ring that has it; none: not on the hub yet.
    pub ring: Option<String>,
    /// Its devices.
    pub tally: Tally,
    /// What follows.
    pub verdict: Verdict,
}

/// What follows for a lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A step is made: which.
    Acts(String),
    /// All rings have it, and it is good.
    Finished,
    /// Time has not passed yet, or devices have not reported: what is waited for.
    Waits(String),
    /// A person must look: too many devices are in trouble.
    Stopped(String),
    /// A person has taken it back, and the declarations still ask for it.
    RolledBack(String),
    /// A rule forbids the step: which.
    Refused(String),
}

impl Verdict {
    /// Whether somebody must do something.
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Verdict::Stopped(_) | Verdict::RolledBack(_) | Verdict::Refused(_)
        )
    }
}

/// Why nothing can be decided.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The hub has seen a newer commit.
    #[error(
        "the hub has deployment `{id}` of the newer commit {commit}: this checkout is out of date; pull, and run again"
    )]
    OutOfDate {
        /// A deployment that a newer run has made.
        id: String,
        /// Its commit.
        commit: String,
    },
    /// A label of ours cannot be read.
    #[error("{0}")]
    Labels(String),
}

/// Decides the next steps.
///
/// # Errors
/// [`Refusal`]; then the hub must be left alone.
pub fn decide(declared: &Declared, snapshot: &Snapshot, intent: &Intent) -> Result<Decision, Refusal> {
    let mut run = Run::new(declared, snapshot, intent)?;
    run.working.tag_waves();
    let declared_ones: Vec<Deployment> = declared.list().deployments.clone();
    let mut lineages = Vec::new();
    for deployment in &declared_ones {
        let report = run.lineage(deployment, snapshot);
        lineages.push(report);
    }
    run.clean_up(&mut lineages);
    run.leave_a_mark();
    let working = run.working;
    let mut steps = working.steps;
    steps.sort_by_key(|step| step.action.rank());
    let used = vec![UsedOf {
        what: "deployments on the hub".to_owned(),
        used: working.count,
        limit: snapshot.deployment_limit,
    }];
    Ok(Decision {
        steps,
        lineages,
        used,
    })
}

/// Refuses a checkout that is older than what the hub has seen.
pub(super) fn refuse_out_of_date(working: &Working<'_>) -> Result<(), Refusal> {
    for entry in working.ours.values().flatten() {
        if entry.place.sequence > working.declared.sequence {
            return Err(Refusal::OutOfDate {
                id: entry.deployment.id.clone(),
                commit: entry.place.commit.clone(),
            });
        }
    }
    Ok(())
}

struct Run<'a> {
    working: Working<'a>,
    intent: &'a Intent,
    limit: u64,
    /// Lineages whose declared deployment was finished before this run, with nothing above it.
    settled: BTreeMap<Lineage, bool>,
}

impl<'a> Run<'a> {
    fn new(declared: &'a Declared, snapshot: &Snapshot, intent: &'a Intent) -> Result<Run<'a>, Refusal> {
        let working = Working::new(declared, snapshot).map_err(Refusal::Labels)?;
        refuse_out_of_date(&working)?;
        let settled = declared
            .list()
            .deployments
            .iter()
            .map(|deployment| {
                let lineage = Lineage::of(deployment);
                let top = working.ours.get(&lineage).and_then(|list| list.last());
                let settled = top.is_some_and(|top| {
                    top.deployment.id == deployment.id && top.place.is_fall_back() && !top.place.parked
                });
                (lineage, settled)
            })
            .collect();
        Ok(Run {
            working,
            intent,
            limit: snapshot.deployment_limit,
            settled,
        })
    }

    fn rings(&self) -> &'a [Ring] {
        &self.working.declared.list().rings
    }

    /// A place of now, as this run writes it.
    fn place(&self, deployment: &Deployment, ring: usize) -> Place {
        let declared = self.working.declared;
        Place {
            environment: declared.list().environment.clone(),
            lineage: Lineage::of(deployment),
            ring: self.rings()[ring].name.clone(),
            since_secs: self.working.now_secs,
            sequence: declared.sequence,
            commit: declared.commit.clone(),
            size_bytes: deployment
                .modules
                .iter()
                .fold(0, |sum: u64, module| sum.saturating_add(module.size_bytes)),
            finished_secs: None,
            stopped: None,
            rolled_back: None,
            parked: false,
            approved_by: self.approver(ring),
        }
    }

    fn approver(&self, ring: usize) -> Option<String> {
        let approver = self
            .intent
            .approve
            .as_ref()
            .filter(|_| self.rings()[ring].approval)?;
        Some(format!("{approver} for {}", self.rings()[ring].name))
    }

    /// The same place, changed by this run.
    fn touched(&self, entry: &Ours) -> Place {
        let mut place = entry.place.clone();
        place.sequence = self.working.declared.sequence;
        place.commit = self.working.declared.commit.clone();
        place
    }

    /// Whether a release may enter a ring now.
    fn may_enter(&self, ring: usize) -> Result<(), Verdict> {
        let ring = &self.rings()[ring];
        if ring.approval && self.intent.approve.is_none() {
            return Err(Verdict::Waits(format!(
                "approval for ring `{}`: advance with --approve",
                ring.name
            )));
        }
        self.quiet(ring)
    }

    fn quiet(&self, ring: &Ring) -> Result<(), Verdict> {
        match ring
            .quiet_hours
            .as_ref()
            .map(|hours| hours.contains(self.working.now_secs))
        {
            None | Some(Ok(false)) => Ok(()),
            Some(Ok(true)) => Err(Verdict::Waits(format!("ring `{}` has quiet hours", ring.name))),
            Some(Err(error)) => Err(Verdict::Refused(error.to_string())),
        }
    }

    /// The runtime and the models on it never change at the same time.
    fn alone(&self, deployment: &Deployment) -> Result<(), Verdict> {
        let siblings = self
            .working
            .declared
            .list()
            .deployments
            .iter()
            .filter(|other| other.target == deployment.target);
        for other in siblings {
            let lineage = Lineage::of(other);
            match (deployment.kind, other.kind) {
                (DeploymentKind::Layered, DeploymentKind::Base) if !self.settled[&lineage] => {
                    return Err(Verdict::Waits(format!("the runtime `{}` first", other.id)));
                }
                (DeploymentKind::Base, DeploymentKind::Layered) => {
                    let on_hub = self.working.find(&lineage, &other.id);
                    let moving = |entry: &Ours| {
                        entry.place.finished_secs.is_none() && entry.place.rolled_back.is_none()
                    };
                    if on_hub.is_some_and(moving) {
                        return Err(Verdict::Waits(format!("`{}` rolls out first", other.id)));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lineage(&mut self, deployment: &Deployment, snapshot: &Snapshot) -> LineageReport {
        let lineage = Lineage::of(deployment);
        let mut report = LineageReport {
            lineage: lineage.clone(),
            id: deployment.id.clone(),
            ring: None,
            tally: Tally::default(),
            verdict: Verdict::Finished,
        };
        self.tidy(deployment, &lineage);
        let Some(current) = self.working.find(&lineage, &deployment.id).cloned() else {
            report.verdict = self.create(deployment).unwrap_or_else(|verdict| verdict);
            return report;
        };
        report.ring = Some(current.place.ring.clone());
        report.tally = self.tally(&current, snapshot);
        let result = self.on_hub(deployment, &lineage, &current, &report.tally);
        report.verdict = result.unwrap_or_else(|verdict| verdict);
        report
    }

    fn tally(&self, current: &Ours, snapshot: &Snapshot) -> Tally {
        let images = images(&current.deployment.content);
        let soak_secs = self
            .working
            .declared
            .ring_index(&current.place.ring)
            .map_or(0, |ring| u64::from(self.rings()[ring].soak_hours) * 3600);
        let late = self.working.now_secs >= current.place.since_secs.saturating_add(soak_secs);
        let mut tally = Tally::default();
        let targeted = self.working.targeted(&current.deployment.condition);
        for (device, _) in snapshot
            .devices
            .iter()
            .zip(targeted.iter())
            .filter(|(_, targeted)| **targeted)
        {
            tally.add(standing(device, &current.deployment.id, &images, late));
        }
        tally
    }

    fn create(&mut self, deployment: &Deployment) -> Result<Verdict, Verdict> {
        self.alone(deployment)?;
        self.may_enter(0)?;
        let working = &self.working;
        if working.count >= self.limit {
            let (used, limit) = (working.count, self.limit);
            return Err(Verdict::Refused(format!(
                "the hub has {used} of {limit} deployments: delete what nobody needs"
            )));
        }
        let content = working
            .declared
            .content(&deployment.id)
            .cloned()
            .unwrap_or_default();
        let place = self.place(deployment, 0);
        self.fits_on_disk(deployment, &place)?;
        let priority = working.priority_above(deployment.kind == DeploymentKind::Base, deployment.priority);
        if deployment.kind == DeploymentKind::Base && priority >= FIRST_LAYER_PRIORITY {
            return Err(Verdict::Refused(format!(
                "no priority below {FIRST_LAYER_PRIORITY} is left for a base"
            )));
        }
        let new = HubDeployment {
            id: deployment.id.clone(),
            metrics: metrics(&deployment.id, &content),
            content,
            condition: deployment.rings[0].condition.clone(),
            priority,
            labels: place.to_labels(),
            etag: String::new(),
            created_secs: working.now_secs,
        };
        let why = format!("create for ring `{}`{}", place.ring, self.download(deployment));
        self.working.create(new, place, why.clone());
        Ok(Verdict::Acts(why))
    }

    /// Old and new images must fit together: the agent pulls all before it removes one.
    fn fits_on_disk(&self, deployment: &Deployment, place: &Place) -> Result<(), Verdict> {
        let facts = self
            .working
            .declared
            .list()
            .targets
            .iter()
            .find(|target| target.name == deployment.target);
        let Some(disk_bytes) = facts.and_then(|facts| facts.disk_bytes) else {
            return Ok(());
        };
        let old = self.working.ours.get(&place.lineage).and_then(|list| list.last());
        let both = place
            .size_bytes
            .saturating_add(old.map_or(0, |old| old.place.size_bytes));
        if both > disk_bytes {
            let problem = format!(
                "old and new images are {} MiB, and the devices have {} MiB for them: they must fit together",
                both >> 20,
                disk_bytes >> 20
            );
            return Err(Verdict::Refused(problem));
        }
        Ok(())
    }

    /// What a device without any of the images downloads, and how long that takes.
    fn download(&self, deployment: &Deployment) -> String {
        let bytes: u64 = deployment.modules.iter().map(|module| module.size_bytes).sum();
        let facts = self
            .working
            .declared
            .list()
            .targets
            .iter()
            .find(|target| target.name == deployment.target);
        match facts
            .and_then(|facts| facts.link_kbit_per_s)
            .filter(|speed| *speed > 0 && bytes > 0)
        {
            Some(speed) => {
                let minutes = (bytes.saturating_mul(8) / 1000 / speed).div_ceil(60);
                format!(
                    ", at most {} MiB or {minutes} minutes per device",
                    bytes.div_ceil(1 << 20)
                )
            }
            None => String::new(),
        }
    }

    fn on_hub(
        &mut self,
        deployment: &Deployment,
        lineage: &Lineage,
        current: &Ours,
        tally: &Tally,
    ) -> Result<Verdict, Verdict> {
        let id = &deployment.id;
        let list = self.working.ours.get(lineage).cloned().unwrap_or_default();
        let position = list
            .iter()
            .position(|entry| entry.deployment.id == *id)
            .unwrap_or(0);
        let above = &list[position + 1..];
        if let Some(reason) = &current.place.rolled_back {
            return Err(Verdict::RolledBack(format!("{reason}; revert the change in git")));
        }
        // An older release is declared again, and a newer one is all over the fleet: ring by ring, as any other.
        // One that has not been cleaned up after is not all over the fleet, whatever its own rings say: what it leaves
        // out still runs from here.
        let all_over = |entry: &Ours| {
            let leaves = leaves_over(
                deployment.kind,
                &current.deployment.content,
                &entry.deployment.content,
            );
            entry.place.is_fall_back() && !leaves
        };
        if above.iter().any(all_over) || current.place.parked {
            self.alone(deployment)?;
            self.may_enter(0)?;
            let place = self.place(deployment, 0);
            let why = format!("bring back, from ring `{}` on", place.ring);
            let floor = current.deployment.priority;
            let priority = self.working.priority_above(lineage.is_base(), floor);
            let condition = &deployment.rings[0].condition;
            self.working
                .update(id, condition, priority, place, why.clone())
                .map_err(Verdict::Refused)?;
            return Ok(Verdict::Acts(why));
        }
        if !above.is_empty() {
            return self.withdraw(lineage, current, above);
        }
        let last = self.rings().len() - 1;
        if current.place.finished_secs.is_some() {
            let full = &deployment.rings[last].condition;
            if current.deployment.condition != *full {
                return self.retarget(current, full, current.place.since_secs);
            }
            return Ok(Verdict::Finished);
        }
        let Some(ring) = self.working.declared.ring_index(&current.place.ring) else {
            let ring = &current.place.ring;
            return Err(Verdict::Refused(format!(
                "it stands in ring `{ring}`, which is not declared: declare it until it is through"
            )));
        };
        if let (Some(reason), false) = (&current.place.stopped, self.intent.resume) {
            return Err(Verdict::Stopped(reason.clone()));
        }
        let policy = &self.rings()[ring];
        if let Some(reason) = tally.stop_reason(policy) {
            if current.place.stopped.as_ref() != Some(&reason) {
                let mut place = self.touched(current);
                place.stopped = Some(reason.clone());
                let (condition, priority) = (&current.deployment.condition, current.deployment.priority);
                self.working
                    .update_unchecked(id, condition, priority, place, format!("stop: {reason}"));
            }
            return Err(Verdict::Stopped(reason));
        }
        if current.place.stopped.is_some() {
            let mut place = self.touched(current);
            (place.stopped, place.since_secs) = (None, self.working.now_secs);
            let (condition, priority) = (&current.deployment.condition, current.deployment.priority);
            let why = "go on: the ring is well again".to_owned();
            self.working
                .update_unchecked(id, condition, priority, place, why.clone());
            return Ok(Verdict::Acts(why));
        }
        if current.deployment.condition != deployment.rings[ring].condition {
            return self.retarget(current, &deployment.rings[ring].condition, self.working.now_secs);
        }
        let until_secs = current
            .place
            .since_secs
            .saturating_add(u64::from(policy.soak_hours) * 3600);
        if self.working.now_secs < until_secs {
            return Ok(Verdict::Waits(format!(
                "soaks in ring `{}` until {}",
                policy.name,
                crate::quiet::time_text(until_secs)
            )));
        }
        if let Some(reason) = tally.wait_reason(policy) {
            return Ok(Verdict::Waits(reason));
        }
        if ring == last {
            let mut place = self.touched(current);
            place.finished_secs = Some(self.working.now_secs);
            let why = format!(
                "finish: {} of {} devices are good",
                tally.reported(),
                tally.targeted
            );
            let (condition, priority) = (&current.deployment.condition, current.deployment.priority);
            self.working
                .update_unchecked(id, condition, priority, place, why.clone());
            return Ok(Verdict::Acts(why));
        }
        self.may_enter(ring + 1)?;
        let place = self.place(deployment, ring + 1);
        let why = format!("widen from ring `{}` to `{}`", policy.name, place.ring);
        let (condition, priority) = (&deployment.rings[ring + 1].condition, current.deployment.priority);
        self.working
            .update(id, condition, priority, place, why.clone())
            .map_err(Verdict::Refused)?;
        Ok(Verdict::Acts(why))
    }

    /// Takes newer releases away that are not declared any more and never finished.
    fn withdraw(&mut self, lineage: &Lineage, current: &Ours, above: &[Ours]) -> Result<Verdict, Verdict> {
        // A model that moved to another layer stays until that layer is through.
        let stays = images(&current.deployment.content);
        for name in above
            .iter()
            .flat_map(|entry| images(&entry.deployment.content).into_keys())
        {
            let declared = self.working.declared.list().deployments.iter();
            let mut elsewhere = declared.filter(|other| {
                other.target == lineage.target && other.modules.iter().any(|module| module.name == name)
            });
            let pending = elsewhere.find(|other| !self.settled[&Lineage::of(other)]);
            if let Some(other) = pending.filter(|_| !stays.contains_key(&name)) {
                return Ok(Verdict::Waits(format!(
                    "`{}` brings `{name}` instead, and is not through",
                    other.id
                )));
            }
        }
        if current.place.sequence < self.working.declared.sequence {
            // First, so that a run of the older commit does not make them again.
            let place = self.touched(current);
            let (condition, priority) = (current.deployment.condition.clone(), current.deployment.priority);
            let why = "the newer commit asks for this release".to_owned();
            self.working
                .update_unchecked(&current.deployment.id, &condition, priority, place, why);
        }
        for entry in above {
            let why = format!(
                "withdraw `{}`, which is not declared any more",
                entry.deployment.id
            );
            self.working
                .delete(lineage, &entry.deployment.id, why)
                .map_err(Verdict::Refused)?;
        }
        Ok(Verdict::Acts(
            "withdraw newer releases that are not declared any more".to_owned(),
        ))
    }

    /// The declared condition of the ring has changed.
    fn retarget(&mut self, current: &Ours, condition: &str, since_secs: u64) -> Result<Verdict, Verdict> {
        let ring = self.working.declared.ring_index(&current.place.ring);
        self.quiet(&self.rings()[ring.unwrap_or(self.rings().len() - 1)])?;
        let mut place = self.touched(current);
        place.since_secs = since_secs;
        let why = format!("ring `{}` has another condition now", place.ring);
        let priority = current.deployment.priority;
        self.working
            .update(&current.deployment.id, condition, priority, place, why.clone())
            .map_err(Verdict::Refused)?;
        Ok(Verdict::Acts(why))
    }

    /// Deletes what nobody falls back to any more: what was taken back and is not declared, and what lies beneath a
    /// release that has reached the same ring, unless a device still has a model from there that it should have.
    fn tidy(&mut self, deployment: &Deployment, lineage: &Lineage) {
        let list = self.working.ours.get(lineage).cloned().unwrap_or_default();
        let current = list.iter().position(|entry| entry.deployment.id == deployment.id);
        // What is newer than the declared release is withdrawn in its own order.
        let list = &list[..current.map_or(list.len(), |current| current + 1)];
        let is_fall_back =
            |(index, entry): &(usize, &Ours)| Some(*index) != current && entry.place.is_fall_back();
        let fall_back = list
            .iter()
            .enumerate()
            .rfind(is_fall_back)
            .map(|(index, _)| index);
        let reach = |entry: &Ours| match entry.place.finished_secs {
            Some(_) => usize::MAX,
            None => self.working.declared.ring_index(&entry.place.ring).unwrap_or(0),
        };
        let mut gone = Vec::new();
        for (index, entry) in list.iter().enumerate() {
            if Some(index) == current || Some(index) == fall_back {
                continue;
            }
            let live = |above: &&Ours| above.place.rolled_back.is_none() && !above.place.parked;
            let mut above = list[index + 1..].iter().filter(live);
            if entry.place.rolled_back.is_some() || above.any(|above| reach(above) >= reach(entry)) {
                gone.push(entry.deployment.id.clone());
            }
        }
        for id in gone {
            // Where it would strand a device it stays, until a release above brings what it brings.
            let _ = self.working.delete(lineage, &id, format!("retire `{id}`"));
        }
    }

    /// A run that only deletes says its commit on what stays; else a run of an older commit would make it all again.
    fn leave_a_mark(&mut self) {
        let deletes = self
            .working
            .steps
            .iter()
            .any(|step| matches!(step.action, Action::Delete { .. }));
        let says = |step: &Step| matches!(step.action, Action::Update { .. });
        if !deletes || self.working.steps.iter().any(says) {
            return;
        }
        let mut all = self.working.ours.values().flatten();
        let Some(entry) = all.find(|entry| !entry.deployment.etag.is_empty()).cloned() else {
            return;
        };
        if entry.place.sequence < self.working.declared.sequence {
            let place = self.touched(&entry);
            let (id, condition) = (&entry.deployment.id, &entry.deployment.condition);
            let why = "the newer commit was here".to_owned();
            self.working
                .update_unchecked(id, condition, entry.deployment.priority, place, why);
        }
    }

    /// When everything of a target is through: keeps one fall-back beneath each release, and deletes the rest.
    fn clean_up(&mut self, reports: &mut [LineageReport]) {
        if !self.working.steps.is_empty() {
            return;
        }
        let deployments = &self.working.declared.list().deployments;
        let all_settled = self.settled.values().all(|settled| *settled);
        for deployment in deployments {
            let mut siblings = deployments
                .iter()
                .filter(|other| other.target == deployment.target);
            if siblings.all(|other| self.settled[&Lineage::of(other)])
                && let Err(verdict) = self.clean_up_lineage(deployment)
                && let Some(report) = reports.iter_mut().find(|report| report.id == deployment.id)
            {
                report.verdict = verdict;
            }
        }
        if !all_settled {
            return;
        }
        let undeclared: Vec<(Lineage, String)> = self
            .working
            .ours
            .iter()
            .filter(|(lineage, _)| self.working.declared.of_lineage(lineage).is_none())
            .flat_map(|(lineage, list)| {
                list.iter()
                    .map(|entry| (lineage.clone(), entry.deployment.id.clone()))
            })
            .collect();
        for (lineage, id) in undeclared {
            // Nothing of an undeclared lineage is wanted, so nothing can be stranded.
            let _ = self
                .working
                .delete(&lineage, &id, format!("{lineage} is not declared any more"));
        }
    }

    fn clean_up_lineage(&mut self, deployment: &Deployment) -> Result<(), Verdict> {
        let lineage = Lineage::of(deployment);
        let mut list = self.working.ours.get(&lineage).cloned().unwrap_or_default();
        let Some(current) = list.pop() else { return Ok(()) };
        let fall_back = list.iter().rposition(|entry| entry.place.is_fall_back());
        for (index, entry) in list.iter().enumerate() {
            let id = &entry.deployment.id;
            if Some(index) != fall_back {
                self.working
                    .delete(&lineage, id, format!("retire `{id}`"))
                    .map_err(Verdict::Refused)?;
                continue;
            }
            if entry.place.parked {
                continue;
            }
            let rings = self.rings();
            let mut place = self.touched(entry);
            let leaves = leaves_over(
                deployment.kind,
                &entry.deployment.content,
                &current.deployment.content,
            );
            let (condition, why) = if leaves {
                place.parked = true;
                (
                    "",
                    format!("park `{id}`: it brings what is not declared any more"),
                )
            } else if entry.deployment.condition != current.deployment.condition {
                (
                    current.deployment.condition.as_str(),
                    format!("`{id}` lies beneath the same devices again"),
                )
            } else {
                continue;
            };
            self.quiet(&rings[rings.len() - 1])?;
            let priority = entry.deployment.priority;
            self.working
                .update(id, condition, priority, place, why)
                .map_err(Verdict::Refused)?;
        }
        Ok(())
    }
}

/// Longest metric query that is written, in bytes.
const QUERY_LIMIT_BYTES: usize = 4000;

/// Custom metrics of a deployment: devices that run exactly its images, that failed, and that it has not reached.
fn metrics(id: &str, content: &serde_json::Value) -> BTreeMap<String, String> {
    let from = "SELECT deviceId FROM devices.modules WHERE moduleId = '$edgeAgent'";
    let has = format!("configurations.[[{id}]].status = 'Applied'");
    let system = |name: &str| matches!(name, "edgeAgent" | "edgeHub");
    let runs: Vec<String> = images(content)
        .iter()
        .map(|(name, image)| {
            let section = if system(name) { "systemModules" } else { "modules" };
            let module = format!("properties.reported.{section}.[[{name}]]");
            format!("{module}.settings.image = '{image}' AND {module}.runtimeStatus = 'running'")
        })
        .collect();
    let reached = "properties.desired.$version = properties.reported.lastDesiredVersion";
    let mut running = format!("{from} AND {has} AND {}", runs.join(" AND "));
    if runs.is_empty() || running.len() > QUERY_LIMIT_BYTES {
        running =
            format!("{from} AND {has} AND {reached} AND properties.reported.lastDesiredStatus.code = 200");
    }
    BTreeMap::from([
        ("running".to_owned(), running),
        (
            "failed".to_owned(),
            format!("{from} AND {has} AND {reached} AND properties.reported.lastDesiredStatus.code != 200"),
        ),
        (
            "silent".to_owned(),
            format!(
                "{from} AND {has} AND properties.desired.$version != properties.reported.lastDesiredVersion"
            ),
        ),
    ])
}
