//! What is deleted, parked and marked: the roll-out keeps one fall-back beneath each release, and no more.

use super::super::declared::{Lineage, leaves_over};
use super::super::step::{Action, Step};
use super::super::working::Ours;
use super::{LineageReport, Run, Verdict};
use crate::render::Deployment;

impl Run<'_> {
    /// Deletes what nobody falls back to any more: what was taken back and is not declared, and what lies beneath a
    /// release that has reached the same ring, unless a device still has a model from there that it should have.
    pub(super) fn tidy(&mut self, deployment: &Deployment, lineage: &Lineage) {
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
    pub(super) fn leave_a_mark(&mut self) {
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
    pub(super) fn clean_up(&mut self, reports: &mut [LineageReport]) {
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
