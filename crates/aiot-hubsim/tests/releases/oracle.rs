//! What must hold, computed a second time and in another way than the roll-out does, from the hub's own journal: so it
//! is the same whatever way the calls came, and whether their answers arrived or not.

use std::collections::{BTreeMap, BTreeSet};

use aiot_hubsim::{Change, Service, Trouble};
use aiot_iothub::rollout::declared::images;
use aiot_iothub::rollout::{Declared, HubDeployment, effective};
use aiot_iothub::{Condition, Ring};

/// One run of the tool, as far as it must be known to judge it.
pub struct Run<'a> {
    /// What the devices should run: of the commit whose tool calls.
    pub declared: &'a Declared,
    /// A rollback takes new models away again; what a finished release brought must stay even then.
    pub rolling_back: bool,
    /// ETags that it has seen, in its look at the hub.
    pub seen: BTreeSet<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Happened {
    pub widened: u64,
    pub finished: u64,
    pub stopped: u64,
}

/// The hub's deployments as they were when it was last judged.
#[derive(Default)]
pub struct Oracle {
    pub deployments: BTreeMap<String, HubDeployment>,
    merged: BTreeMap<Vec<(String, u32)>, BTreeMap<String, String>>,
}

type Runs = BTreeMap<String, BTreeMap<String, String>>;

impl Oracle {
    /// Judges what a run has changed, call by call.
    pub fn judge(&mut self, service: &Service, changes: &[Change], run: &mut Run<'_>) -> Happened {
        let mut happened = Happened::default();
        for Change { before, after } in changes {
            let id = &before.as_ref().or(after.as_ref()).expect("one of both").id;
            if let Some(before) = before {
                assert!(
                    run.seen.contains(&before.etag),
                    "`{id}` is overwritten as {}, which this run has never seen",
                    before.etag
                );
            }
            let runs = self.runs(service);
            match after {
                Some(after) => {
                    run.seen.insert(after.etag.clone());
                    self.deployments.insert(id.clone(), after.clone());
                }
                None => {
                    self.deployments.remove(id);
                }
            }
            let (used, limit) = (self.deployments.len() as u64, service.deployment_limit);
            assert!(used <= limit, "{used} of {limit} deployments");
            self.check_nothing_lost(service, &runs, run);
            let (Some(before), Some(after)) = (before, after) else {
                continue;
            };
            let ring = |one: &HubDeployment| {
                let name = one.labels.get("aiot-ring").map_or("", String::as_str);
                run.declared.ring_index(name)
            };
            if let (Some(from), Some(to)) = (ring(before), ring(after))
                && from < to
            {
                happened.widened += 1;
                assert_eq!(from + 1, to, "a ring is skipped");
                Self::check_healthy(service, before, &run.declared.list().rings[from]);
            }
            let gets = |label: &str| {
                u64::from(!before.labels.contains_key(label) && after.labels.contains_key(label))
            };
            happened.finished += gets("aiot-finished");
            happened.stopped += gets("aiot-stopped");
        }
        happened
    }

    /// What each device shall run by the deployments as they stand here.
    fn runs(&mut self, service: &Service) -> Runs {
        let conditions: Vec<(&HubDeployment, Condition)> = self
            .deployments
            .values()
            .filter_map(|one| Some((one, one.condition.parse().ok()?)))
            .collect();
        let merged = &mut self.merged;
        let mut of = |id: &String, tags: &serde_json::Value| {
            let matching: Vec<&HubDeployment> = conditions
                .iter()
                .filter(|(_, condition)| condition.matches(id, tags))
                .map(|(one, _)| *one)
                .collect();
            let key = matching
                .iter()
                .map(|one| (one.id.clone(), one.priority))
                .collect();
            let merge = || match effective(matching.iter().copied()) {
                Ok(Some((_, merged))) => images(&merged.to_content()),
                _ => BTreeMap::new(),
            };
            (id.clone(), merged.entry(key).or_insert_with(merge).clone())
        };
        let devices = &service.fleet.devices;
        devices.iter().map(|(id, device)| of(id, &device.tags)).collect()
    }

    /// Modules that a device should have: declared for it, and already there before.
    fn check_nothing_lost(&mut self, service: &Service, before: &Runs, run: &Run<'_>) {
        let after = self.runs(service);
        let finished: Vec<(Option<Condition>, BTreeSet<String>)> = self
            .deployments
            .values()
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
        let declared: Vec<(Condition, BTreeSet<String>)> = run
            .declared
            .list()
            .deployments
            .iter()
            .map(|one| {
                let full = one.rings.last().unwrap().condition.parse().unwrap();
                (
                    full,
                    images(run.declared.content(&one.id).unwrap())
                        .into_keys()
                        .collect(),
                )
            })
            .collect();
        for (id, had) in before {
            let device = &service.fleet.devices[id];
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
                if run.rolling_back && !finished.iter().any(there) {
                    continue;
                }
                assert!(
                    after[id].contains_key(module),
                    "device {id} loses {module}, which it should run"
                );
            }
        }
    }

    fn check_healthy(service: &Service, before: &HubDeployment, ring: &Ring) {
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
                    Trouble::Crashes | Trouble::CrashLoops => "a crashes",
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
}
