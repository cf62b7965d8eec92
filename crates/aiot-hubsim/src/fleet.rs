//! The devices: what they were told, what they run, what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aiot_iothub::merge::Merged;
use aiot_iothub::rollout::{Agent, Device, ModuleReport, RuntimeStatus};
use serde_json::Value;

use crate::random::{Random, stable};

/// What is wrong with an image on the devices that it fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Ends, and is not started again.
    Crashes,
    /// Ends again and again: sometimes it is seen running, sometimes waiting for its next start.
    CrashLoops,
    /// Its health check fails.
    Unhealthy,
    /// Its model computes something else.
    SelfCheck,
}

/// How good an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Share of devices that it fails on, 0 to 100; the same devices each time.
    pub fails_percent: u64,
    /// How.
    pub trouble: Trouble,
}

/// How an agent says something else than what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It says that it has applied what it has only been given.
    Boasts,
    /// It never says which version it has looked at.
    Forgets,
    /// It reports, and names no module.
    Empty,
    /// What it reports has other types than documented.
    Garbled,
}

/// What a device is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Seconds to pull one image.
    pub pull_secs: u64,
    /// Percent of the days on which it is offline.
    pub offline_percent: u64,
    /// Days that it is offline, or there, at a time.
    pub offline_days: u64,
    /// Percent of the passes in which a pull fails.
    pub pull_fails_percent: u64,
    /// Seconds that a report takes to arrive.
    pub late_secs: u64,
    /// No new image fits.
    pub full: bool,
    /// What its agent says is not what is.
    pub wrong: Option<Wrong>,
}

impl Behaviour {
    /// Always there, quick, never in trouble.
    pub const GOOD: Behaviour = Behaviour {
        pull_secs: 60,
        offline_percent: 0,
        offline_days: 1,
        pull_fails_percent: 0,
        late_secs: 0,
        full: false,
        wrong: None,
    };

    /// One of a real fleet.
    pub fn random(random: &mut Random) -> Behaviour {
        Behaviour {
            pull_secs: *random.pick(&[30, 60, 600, 3600, 4 * 3600]),
            offline_percent: *random.pick(&[0, 0, 0, 10, 40, 90]),
            pull_fails_percent: *random.pick(&[0, 0, 0, 20]),
            late_secs: *random.pick(&[0, 0, 600, 7200]),
            full: random.chance(2),
            offline_days: *random.pick(&[1, 1, 3, 9]),
            wrong: match random.below(40) {
                0 => Some(Wrong::Boasts),
                1 => Some(Wrong::Forgets),
                2 => Some(Wrong::Empty),
                3 => Some(Wrong::Garbled),
                _ => None,
            },
        }
    }
}

/// What the hub merges for devices that the same deployments match.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Ids of the deployments, without a base none.
    pub deployments: BTreeSet<String>,
    /// Images by module.
    pub images: BTreeMap<String, String>,
    /// All desired properties by module.
    pub merged: Merged,
}

/// One device.
#[derive(Clone, Debug)]
pub struct SimulatedDevice {
    /// Its id.
    pub id: String,
    /// Tags of its twin.
    pub tags: Value,
    /// What it is like.
    pub behaviour: Behaviour,
    /// Whether it was there at the last pass.
    pub online: bool,
    /// What it really runs, by module.
    pub running: BTreeMap<String, String>,
    desired_version: u64,
    desired: Arc<Desired>,
    images: BTreeMap<String, String>,
    pulled_secs: u64,
    /// What it has said, with the time at which the hub hears it.
    pending: Option<(u64, Agent)>,
    heard: Agent,
    /// Passes since the images that run were started.
    started_passes: u32,
}

impl SimulatedDevice {
    /// A device that runs nothing yet.
    pub fn new(id: &str, tags: Value, behaviour: Behaviour) -> SimulatedDevice {
        SimulatedDevice {
            id: id.to_owned(),
            tags,
            behaviour,
            online: true,
            running: BTreeMap::new(),
            desired_version: 1,
            desired: Arc::default(),
            images: BTreeMap::new(),
            pulled_secs: 0,
            pending: None,
            heard: Agent::default(),
            started_passes: 0,
        }
    }

    /// Images that the hub wants it to run, by module.
    pub fn desired_images(&self) -> &BTreeMap<String, String> {
        &self.images
    }

    pub(crate) fn desire(&mut self, desired: Arc<Desired>) {
        if Arc::ptr_eq(&self.desired, &desired) {
            return;
        }
        // A device without any deployment keeps what it has, and what it was told.
        if desired.deployments.is_empty() {
            if !self.desired.deployments.is_empty() {
                self.desired = Arc::new(Desired {
                    deployments: BTreeSet::new(),
                    ..(*self.desired).clone()
                });
            }
            return;
        }
        self.give(desired);
    }

    /// Gives it content, from whatever deployments or from none.
    pub(crate) fn give(&mut self, desired: Arc<Desired>) {
        if desired.images != self.images {
            self.images = desired.images.clone();
            self.desired_version += 1;
            self.pulled_secs = 0;
        }
        self.desired = desired;
    }

    /// What the hub has merged for it.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// `$version` of the edge agent's desired properties.
    pub fn desired_version(&self) -> u64 {
        self.desired_version
    }

    /// What the hub has heard of its agent.
    pub fn heard(&self) -> &Agent {
        &self.heard
    }

    /// As its twins show it.
    pub fn twin(&self) -> Device {
        let agent = Agent {
            desired_version: self.desired_version,
            deployments: self.desired.deployments.clone(),
            ..self.heard.clone()
        };
        Device {
            id: self.id.clone(),
            tags: self.tags.clone(),
            etag: String::new(),
            agent,
        }
    }

    /// What it says where `agent` is.
    fn told(&self, agent: Agent) -> Agent {
        match self.behaviour.wrong {
            None => agent,
            Some(Wrong::Boasts) => Agent {
                reported_version: self.desired_version,
                code: 200,
                ..agent
            },
            Some(Wrong::Forgets) => Agent {
                reported_version: 0,
                code: 0,
                ..agent
            },
            Some(Wrong::Empty) => Agent {
                modules: BTreeMap::new(),
                ..agent
            },
            // Nothing of it can be read; its twin shows it as it is.
            Some(Wrong::Garbled) => Agent::default(),
        }
    }

    fn pass(&mut self, now_secs: u64, secs: u64, seed: u64, quality: &dyn Fn(&str) -> Option<Quality>) {
        if let Some((at_secs, agent)) = self.pending.take_if(|(at_secs, _)| *at_secs <= now_secs) {
            let _ = at_secs;
            self.heard = agent;
        }
        let day = (now_secs / 86_400 / self.behaviour.offline_days.max(1)).to_string();
        let seed = seed.to_string();
        self.online = stable(&[&seed, &self.id, &day, "offline"]) % 100 >= self.behaviour.offline_percent;
        if !self.online {
            return;
        }
        let mut code = 200;
        let missing = self
            .images
            .values()
            .filter(|image| !self.running.values().any(|runs| runs == *image))
            .count();
        let pass = (now_secs / secs.max(1)).to_string();
        if missing > 0 {
            let fails = stable(&[&seed, &self.id, &pass, "pull"]) % 100 < self.behaviour.pull_fails_percent;
            if self.behaviour.full || fails {
                code = 500;
            } else {
                self.pulled_secs += secs;
            }
        }
        // All images are pulled before the first module is stopped.
        if code == 200 && self.pulled_secs >= self.behaviour.pull_secs * missing as u64 {
            if self.running != self.images {
                self.started_passes = 0;
            }
            self.started_passes = self.started_passes.saturating_add(1);
            self.running = self.images.clone();
        } else if code == 200 {
            code = 0;
        }
        let report = |module: (&String, &String)| {
            let (name, image) = module;
            let fails =
                quality(image).filter(|quality| stable(&[&self.id, image]) % 100 < quality.fails_percent);
            let status = match fails.map(|quality| quality.trouble) {
                Some(Trouble::Crashes) => RuntimeStatus::Failed,
                Some(Trouble::CrashLoops) if stable(&[&self.id, image, &pass]).is_multiple_of(2) => {
                    RuntimeStatus::Backoff
                }
                Some(Trouble::Unhealthy) => RuntimeStatus::Unhealthy,
                _ => RuntimeStatus::Running,
            };
            let report = ModuleReport {
                image: image.clone(),
                status,
                // The agent starts it some times in a pass, and forgets only what has run for ten minutes.
                restart_count: match fails.map(|quality| quality.trouble) {
                    Some(Trouble::CrashLoops) => self.started_passes.saturating_mul(4),
                    _ => 0,
                },
                self_check: Some(fails.is_none_or(|quality| quality.trouble != Trouble::SelfCheck)),
                drifting: false,
            };
            (name.clone(), report)
        };
        let agent = Agent {
            desired_version: 0,
            reported_version: if code == 0 {
                self.heard.reported_version
            } else {
                self.desired_version
            },
            code: if code == 0 { self.heard.code } else { code },
            deployments: BTreeSet::new(),
            modules: self.running.iter().map(report).collect(),
        };
        let agent = self.told(agent);
        if self.behaviour.late_secs == 0 {
            self.heard = agent;
        } else if self.pending.is_none() {
            self.pending = Some((now_secs + self.behaviour.late_secs, agent));
        }
    }
}

/// All devices of a hub.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// By id.
    pub devices: BTreeMap<String, SimulatedDevice>,
    /// How good images are; those that are neither here nor in `repositories` are good.
    pub qualities: BTreeMap<String, Quality>,
    /// How good images of a repository are, by the last part of its name.
    pub repositories: BTreeMap<String, Quality>,
    /// Decides offline days and failing pulls.
    pub seed: u64,
}

impl Fleet {
    /// Adds a device.
    pub fn add(&mut self, id: &str, tags: Value, behaviour: Behaviour) {
        self.devices
            .insert(id.to_owned(), SimulatedDevice::new(id, tags, behaviour));
    }

    pub(crate) fn pass(&mut self, now_secs: u64, secs: u64) {
        for device in self.devices.values_mut() {
            let quality = |image: &str| {
                let by_repository = || {
                    let repository = image.split('@').next()?.rsplit('/').next()?;
                    self.repositories.get(repository)
                };
                self.qualities.get(image).or_else(by_repository).copied()
            };
            device.pass(now_secs, secs, self.seed, &quality);
        }
    }
}
