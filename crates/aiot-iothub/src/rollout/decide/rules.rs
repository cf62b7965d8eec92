//! What forbids or delays a step: approval, quiet hours, the runtime's turn, room on the disk.

use std::collections::BTreeSet;

use super::super::declared::{Lineage, image_digests};
use super::super::labels::Place;
use super::super::working::Ours;
use super::verdict::Preflight;
use super::{Run, Verdict};
use crate::render::{Deployment, DeploymentKind, TargetFacts};
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
        let Some(disk_bytes) = self.facts(deployment).and_then(|facts| facts.disk_bytes) else {
            return Ok(());
        };
        let old = self.working.ours.get(&place.lineage).and_then(|list| list.last());
        // Without knowledge of layers, what is on the wire is the least that is on the disk.
        let (both_bytes, unpacked) = match self
            .preflight(deployment)
            .and_then(|preflight| preflight.disk_bytes)
        {
            Some(bytes) => (bytes, " unpacked"),
            None => {
                let old_bytes = old.map_or(0, |old| old.place.size_bytes);
                (place.size_bytes.saturating_add(old_bytes), "")
            }
        };
        if both_bytes > disk_bytes {
            let problem = format!(
                "old and new images are {} MiB{unpacked}, and the devices have {} MiB for them: they must fit together",
                both_bytes >> 20,
                disk_bytes >> 20
            );
            return Err(Verdict::Refused(problem));
        }
        Ok(())
    }

    /// What a deployment takes from its devices; `None` of a base, and where the layers of the images are
    /// not known.
    pub(super) fn preflight(&self, deployment: &Deployment) -> Option<Preflight> {
        let book = self.working.declared.layers();
        if deployment.modules.is_empty() {
            return None;
        }
        let new = book.of(deployment.modules.iter().map(|module| &module.image_digest))?;
        // Of the devices' other images, the highest of each lineage that shares a device: those run there, or soon will.
        // The runtime's are not ours.
        let own = Lineage::of(deployment);
        let mine = self.working.targeted(&deployment.devices);
        let meets = |entry: &Ours| {
            let theirs = self.working.targeted(&entry.deployment.condition);
            mine.iter()
                .zip(theirs.iter())
                .any(|(mine, theirs)| *mine && *theirs)
        };
        let others = self
            .working
            .ours
            .iter()
            .filter(|(lineage, _)| lineage.target == deployment.target && !lineage.is_base())
            .filter_map(|(lineage, list)| Some((lineage, list.last()?)))
            .filter(|(_, entry)| entry.deployment.id != deployment.id)
            .filter(|(lineage, entry)| **lineage == own || meets(entry))
            .map(|(_, entry)| entry);
        let (mut known, mut all_known) = (BTreeSet::new(), true);
        for image in others.flat_map(|entry| image_digests(&entry.deployment.content)) {
            match book.of([&image]) {
                Some(layers) => known.extend(layers),
                None => all_known = false,
            }
        }
        let (whole_bytes, missing_bytes) = (
            book.compressed_bytes(&new),
            book.compressed_bytes(new.difference(&known)),
        );
        Some(Preflight {
            fetch_bytes: missing_bytes,
            fetch_minutes: self.minutes(deployment, missing_bytes),
            whole_bytes,
            whole_minutes: self.minutes(deployment, whole_bytes),
            disk_bytes: book.unpacked_bytes(new.union(&known)).filter(|_| all_known),
        })
    }

    fn facts(&self, deployment: &Deployment) -> Option<&TargetFacts> {
        let targets = &self.working.declared.list().targets;
        targets.iter().find(|target| target.name == deployment.target)
    }

    /// How long bytes take over the target's declared link.
    fn minutes(&self, deployment: &Deployment, bytes: u64) -> Option<u64> {
        let link = self.facts(deployment)?.link_kbit_per_s?;
        (link > 0).then(|| (bytes.saturating_mul(8) / 1000 / link).div_ceil(60))
    }

    /// What a device downloads, and how long that takes.
    pub(super) fn download(&self, deployment: &Deployment) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        if let Some(preflight) = self.preflight(deployment) {
            let takes = |bytes: u64, minutes: Option<u64>| match minutes {
                Some(minutes) => format!("{} MiB or {minutes} min", mib(bytes)),
                None => format!("{} MiB", mib(bytes)),
            };
            let whole = takes(preflight.whole_bytes, preflight.whole_minutes);
            return if preflight.fetch_bytes == preflight.whole_bytes {
                format!(", {whole} per device")
            } else {
                format!(
                    ", {} per device with the images before, {whole} without",
                    takes(preflight.fetch_bytes, preflight.fetch_minutes)
                )
            };
        }
        let bytes: u64 = deployment.modules.iter().map(|module| module.size_bytes).sum();
        match self.minutes(deployment, bytes).filter(|_| bytes > 0) {
            Some(minutes) => format!(", at most {} MiB or {minutes} min per device", mib(bytes)),
            None => String::new(),
        }
    }
}
