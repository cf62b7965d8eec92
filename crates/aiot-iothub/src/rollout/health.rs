//! Is a release good? "The right digest runs and its self-check passed", not "applied".

use std::collections::BTreeMap;

use serde::Serialize;

use super::state::{Device, RuntimeStatus};
use crate::ring::Ring;

/// A module has failed, not only stumbled, after this many restarts: whether it waits for its next start or happens to
/// run between two. The agent forgets restarts of what has run for ten minutes.
const RESTART_LIMIT: u32 = 3;

/// How a device stands to one release, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// A module ended or crashes again and again, or the agent cannot apply what it got.
    Failed,
    /// A module's health check fails.
    Unhealthy,
    /// A model does not compute what it should.
    SelfCheckFailed,
    /// Has not said yet that it runs the release.
    Silent,
    /// Runs it, and its inputs drift.
    Drifting,
    /// Runs it.
    Good,
}

/// How `device` stands to the deployment `id` with `images` by module.
///
/// `late`: the release has been there for its soak time, so that an agent that still fails to pull counts as failed.
/// A module that never reports a self-check passes by running.
pub fn standing(device: &Device, id: &str, images: &BTreeMap<String, String>, late: bool) -> Standing {
    let agent = &device.agent;
    let mut worst = Standing::Good;
    for (module, image) in images {
        let of_module = match agent.modules.get(module) {
            Some(report) if report.image == *image => match report.status {
                RuntimeStatus::Failed | RuntimeStatus::Dead | RuntimeStatus::Stopped => Standing::Failed,
                RuntimeStatus::Backoff | RuntimeStatus::Running if report.restart_count >= RESTART_LIMIT => {
                    Standing::Failed
                }
                RuntimeStatus::Unhealthy => Standing::Unhealthy,
                RuntimeStatus::Unknown | RuntimeStatus::Backoff => Standing::Silent,
                RuntimeStatus::Running if report.self_check == Some(false) => Standing::SelfCheckFailed,
                RuntimeStatus::Running if report.drifting => Standing::Drifting,
                RuntimeStatus::Running => Standing::Good,
            },
            _ => Standing::Silent,
        };
        worst = worst.min(of_module);
    }
    // Of what the agent has been given, and has looked at.
    let told = agent.deployments.contains(id) && agent.reported_version == agent.desired_version;
    let refused = matches!(agent.code, 400 | 412 | 417) || (agent.code == 500 && late);
    if worst == Standing::Silent && told && refused {
        Standing::Failed
    } else {
        worst
    }
}

/// Devices of a release by standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tally {
    /// All that the release targets.
    pub targeted: usize,
    /// See [`Standing`].
    pub good: usize,
    /// See [`Standing`].
    pub drifting: usize,
    /// See [`Standing`].
    pub silent: usize,
    /// See [`Standing`].
    pub self_check_failed: usize,
    /// See [`Standing`].
    pub unhealthy: usize,
    /// See [`Standing`].
    pub failed: usize,
}

impl Tally {
    /// Counts one device.
    pub fn add(&mut self, standing: Standing) {
        self.targeted += 1;
        *match standing {
            Standing::Failed => &mut self.failed,
            Standing::Unhealthy => &mut self.unhealthy,
            Standing::SelfCheckFailed => &mut self.self_check_failed,
            Standing::Silent => &mut self.silent,
            Standing::Drifting => &mut self.drifting,
            Standing::Good => &mut self.good,
        } += 1;
    }

    /// Devices that have said how the release does.
    pub fn reported(&self) -> usize {
        self.targeted - self.silent
    }

    /// Kinds of trouble with their thresholds; silence is not among them.
    fn troubles(&self, ring: &Ring) -> [(&'static str, usize, crate::ring::Amount); 4] {
        let limits = &ring.at_most;
        [
            ("failed", self.failed, limits.failed),
            ("unhealthy", self.unhealthy, limits.unhealthy),
            (
                "with a failed self-check",
                self.self_check_failed,
                limits.self_check_failed,
            ),
            ("drifting", self.drifting, limits.drifting),
        ]
    }

    /// Why the release must stop: so many are in trouble that the rest cannot make up for it.
    pub fn stop_reason(&self, ring: &Ring) -> Option<String> {
        let beyond =
            |(_, count, limit): &(&str, usize, crate::ring::Amount)| *count > limit.at_most_of(self.targeted);
        let (what, count, limit) = self.troubles(ring).into_iter().find(beyond)?;
        Some(format!(
            "{count} of {} devices in ring `{}` are {what}, more than {limit}",
            self.targeted, ring.name
        ))
    }

    /// Why the release must not go on yet, besides time: too few have reported, or too many of those are in trouble.
    pub fn wait_reason(&self, ring: &Ring) -> Option<String> {
        let reported = self.reported();
        let minimum = ring.minimum_reported.at_least_of(self.targeted);
        if reported < minimum {
            return Some(format!(
                "{reported} of {} devices have reported, {minimum} must",
                self.targeted
            ));
        }
        if self.silent > ring.at_most.silent.at_most_of(self.targeted) {
            let limit = ring.at_most.silent;
            return Some(format!(
                "{} of {} devices are silent, more than {limit}",
                self.silent, self.targeted
            ));
        }
        let beyond =
            |(_, count, limit): &(&str, usize, crate::ring::Amount)| *count > limit.at_most_of(reported);
        let (what, count, limit) = self.troubles(ring).into_iter().find(beyond)?;
        Some(format!(
            "{count} of {reported} devices that have reported are {what}, more than {limit}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{Agent, ModuleReport};
    use super::*;

    #[test]
    fn a_crash_loop_is_seen_whenever_one_looks() {
        let check = |status: RuntimeStatus, restart_count: u32, expected: Standing| {
            let report = ModuleReport {
                image: "r/m:1".to_owned(),
                status,
                restart_count,
                self_check: None,
                drifting: false,
            };
            let device = Device {
                agent: Agent {
                    modules: BTreeMap::from([("m".to_owned(), report)]),
                    ..Agent::default()
                },
                ..Device::default()
            };
            let images = BTreeMap::from([("m".to_owned(), "r/m:1".to_owned())]);
            assert_eq!(
                standing(&device, "d", &images, false),
                expected,
                "{status:?} {restart_count}"
            );
        };
        check(RuntimeStatus::Running, 0, Standing::Good);
        check(RuntimeStatus::Running, RESTART_LIMIT - 1, Standing::Good);
        // Between two crashes it runs, and is no better for it.
        check(RuntimeStatus::Running, RESTART_LIMIT, Standing::Failed);
        check(RuntimeStatus::Backoff, RESTART_LIMIT, Standing::Failed);
        check(RuntimeStatus::Backoff, 1, Standing::Silent);
        check(RuntimeStatus::Unhealthy, 0, Standing::Unhealthy);
    }
}
