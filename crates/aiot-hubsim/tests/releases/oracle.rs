//! What must hold, computed a second time and in another way than the roll-out does.

use std::collections::{BTreeMap, BTreeSet};

use aiot_hubsim::{Direct, Service, Trouble};
use aiot_iothub::rollout::declared::images;
use aiot_iothub::rollout::{Declared, Hub, HubDeployment, HubError, Snapshot};
use aiot_iothub::{Condition, Ring};

/// A hub that checks after every call that no device lost what it should run, and before every widening that the
/// ring was well.
pub struct Watched<'a> {
    pub direct: Direct<'a>,
    /// What the devices should run: of the commit whose tool calls.
    pub declared: &'a Declared,
    /// A rollback takes new models away again; what a finished release brought must stay even then.
    pub rolling_back: bool,
    pub widened: u64,
    pub finished: u64,
    pub stopped: u64,
}

type Runs = BTreeMap<String, BTreeMap<String, String>>;

impl Watched<'_> {
    fn runs(&mut self) -> Runs {
        let ids: Vec<String> = self.direct.service.fleet.devices.keys().cloned().collect();
        ids.into_iter()
            .map(|id| (id.clone(), self.direct.service.desired(&id).1))
            .collect()
    }

    /// Modules that a device should have: declared for it, and already there before.
    fn check_nothing_lost(&mut self, before: &Runs) {
        let after = self.runs();
        let finished: Vec<(Option<Condition>, BTreeSet<String>)> = self
            .direct
            .service
            .peek()
            .filter(|one| {
                one.labels.contains_key("aiot-finished") && !one.labels.contains_key("aiot-rolled-back")
            })
            .map(|one| {
                (
                    one.condition.parse().ok(),
                    images(&one.content).into_keys().collect(),
                )
            })
            .collect();
        let declared: Vec<(Condition, BTreeSet<String>)> = self
            .declared
            .list()
            .deployments
            .iter()
            .map(|one| {
                let full = one.rings.last().unwrap().condition.parse().unwrap();
                (
                    full,
                    images(self.declared.content(&one.id).unwrap())
                        .into_keys()
                        .collect(),
                )
            })
            .collect();
        for (id, had) in before {
            let device = &self.direct.service.fleet.devices[id];
            let wanted: BTreeSet<&String> = declared
                .iter()
                .filter(|(condition, _)| condition.matches(id, &device.tags))
                .flat_map(|(_, modules)| modules)
                .collect();
            for module in had.keys().filter(|module| wanted.contains(*module)) {
                let there = |(condition, modules): &(Option<Condition>, BTreeSet<String>)| {
                    modules.contains(module)
                        && condition
                            .as_ref()
                            .is_some_and(|one| one.matches(id, &device.tags))
                };
                if self.rolling_back && !finished.iter().any(there) {
                    continue;
                }
                assert!(
                    after[id].contains_key(module),
                    "device {id} loses {module}, which it should run"
                );
            }
        }
    }

    fn check_healthy(&self, before: &HubDeployment, ring: &Ring) {
        let service: &Service = self.direct.service;
        let condition: Condition = before.condition.parse().expect("a ring's condition");
        let wanted = images(&before.content);
        let (mut targeted, mut reported) = (0usize, 0usize);
        let mut troubled: BTreeMap<&str, usize> = BTreeMap::new();
        for device in service
            .fleet
            .devices
            .values()
            .filter(|device| condition.matches(&device.id, &device.tags))
        {
            targeted += 1;
            let said = device.twin().agent.modules;
            // The worst of what is wrong with the images that the device says it runs.
            let worst = wanted
                .iter()
                .filter(|(module, image)| said.get(*module).is_some_and(|report| report.image == **image))
                .filter_map(|(_, image)| service.fleet.qualities.get(image).map(|quality| (image, quality)))
                .filter(|(image, quality)| {
                    aiot_hubsim::random::stable(&[&device.id, image]) % 100 < quality.fails_percent
                })
                .map(|(_, quality)| match quality.trouble {
                    Trouble::Crashes => "a crashes",
                    Trouble::Unhealthy => "b unhealthy",
                    Trouble::SelfCheck => "c self-check",
                })
                .min();
            if let Some(worst) = worst {
                *troubled.entry(worst).or_default() += 1;
                reported += 1;
            } else if wanted
                .iter()
                .all(|(module, image)| said.get(module).is_some_and(|report| report.image == *image))
            {
                reported += 1;
            }
        }
        // Agents that cannot pull count as failed for the tool and as not reported here: the tool is the stricter one.
        for (what, count) in troubled {
            let limit = ring.at_most.failed.at_most_of(targeted);
            assert!(
                count <= limit,
                "`{}` leaves ring `{}` with {count} of {targeted} {what}, {limit} allowed",
                before.id,
                ring.name
            );
        }
        let _ = reported;
    }

    fn label(deployment: &HubDeployment, name: &str) -> Option<String> {
        deployment.labels.get(name).cloned()
    }
}

impl Hub for Watched<'_> {
    fn snapshot(&mut self) -> Result<Snapshot, HubError> {
        self.direct.snapshot()
    }

    fn deployments(&mut self) -> Result<Vec<HubDeployment>, HubError> {
        self.direct.deployments()
    }

    fn create(&mut self, deployment: &HubDeployment) -> Result<(), HubError> {
        let before = self.runs();
        self.direct.create(deployment)?;
        let (used, limit) = (
            self.direct.service.peek().count() as u64,
            self.direct.service.deployment_limit,
        );
        assert!(used <= limit, "{used} of {limit} deployments");
        self.check_nothing_lost(&before);
        Ok(())
    }

    fn update(&mut self, deployment: &HubDeployment) -> Result<String, HubError> {
        let there = self
            .direct
            .service
            .peek()
            .find(|one| one.id == deployment.id)
            .cloned();
        let before = self.runs();
        let etag = self.direct.update(deployment)?;
        let there = there.expect("an update that the hub takes is of something");
        let (from, to) = (
            Self::label(&there, "aiot-ring"),
            Self::label(deployment, "aiot-ring"),
        );
        let index = |name: &Option<String>| self.declared.ring_index(name.as_deref().unwrap_or_default());
        if let (Some(from), Some(to)) = (index(&from), index(&to))
            && from < to
        {
            self.widened += 1;
            assert_eq!(from + 1, to, "a ring is skipped");
            self.check_healthy(&there, &self.declared.list().rings[from]);
        }
        self.finished += u64::from(
            !there.labels.contains_key("aiot-finished") && deployment.labels.contains_key("aiot-finished"),
        );
        self.stopped += u64::from(
            !there.labels.contains_key("aiot-stopped") && deployment.labels.contains_key("aiot-stopped"),
        );
        self.check_nothing_lost(&before);
        Ok(etag)
    }

    fn delete(&mut self, id: &str, etag: &str) -> Result<(), HubError> {
        let before = self.runs();
        self.direct.delete(id, etag)?;
        self.check_nothing_lost(&before);
        Ok(())
    }

    fn tag_wave(&mut self, device: &str, wave: u8) -> Result<(), HubError> {
        self.direct.tag_wave(device, wave)
    }

    fn wait(&mut self, secs: u64) {
        self.direct.wait(secs);
    }
}
