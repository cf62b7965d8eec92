//! What forbids or delays a step: approval, quiet hours, the runtime's turn, room on the disk.

use super::super::declared::Lineage;
use super::super::labels::Place;
use super::super::working::Ours;
use super::{Run, Verdict};
use crate::render::{Deployment, DeploymentKind};
use crate::ring::Ring;

impl Run<'_> {
    /// Whether a release may enter a ring now.
    pub(super) fn may_enter(&self, ring: usize) -> Result<(), Verdict> {
        let ring = &self.rings()[ring];
        if ring.approval && self.intent.approve.is_none() {
            return Err(Verdict::Waits(format!(
                "approval for ring `{}`: advance with --approve",
                ring.name
            )));
        }
        self.quiet(ring)
    }

    pub(super) fn quiet(&self, ring: &Ring) -> Result<(), Verdict> {
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
    pub(super) fn alone(&self, deployment: &Deployment) -> Result<(), Verdict> {
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

    /// Old and new images must fit together: the agent pulls all before it removes one.
    pub(super) fn fits_on_disk(&self, deployment: &Deployment, place: &Place) -> Result<(), Verdict> {
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
    pub(super) fn download(&self, deployment: &Deployment) -> String {
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
}
