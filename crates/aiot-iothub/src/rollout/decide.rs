//! Declared, hub and time → the next steps. One safe step per lineage and run, made for cron.
//!
//! `verdict` has what goes in and out, `rules` what forbids or delays a step, `tidy` what is deleted and parked,
//! `metrics` the queries that a deployment carries.

mod metrics;
mod rules;
mod tidy;
mod verdict;

use std::collections::BTreeMap;

use super::declared::{Declared, Lineage, images, leaves_over};
use super::health::{Tally, standing};
use super::labels::Place;
use super::state::{HubDeployment, Snapshot};
use super::working::{Ours, Working};
use crate::limits::UsedOf;
use crate::render::{Deployment, DeploymentKind, FIRST_LAYER_PRIORITY};
use crate::ring::Ring;
use metrics::metrics;
pub use verdict::{Decision, Intent, LineageReport, Preflight, Refusal, Verdict};

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

    fn lineage(&mut self, deployment: &Deployment, snapshot: &Snapshot) -> LineageReport {
        let lineage = Lineage::of(deployment);
        let mut report = LineageReport {
            lineage: lineage.clone(),
            id: deployment.id.clone(),
            ring: None,
            tally: Tally::default(),
            preflight: self.preflight(deployment),
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
}
