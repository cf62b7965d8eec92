//! The hub as it will be after the steps so far: what decisions are made on, step by step.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::declared::{Declared, Lineage, images};
use super::labels::Place;
use super::state::{Device, HubDeployment, Snapshot};
use super::step::{Action, Step};
use crate::condition::Condition;
use crate::ring::{WAVE_TAG, wave};

/// A deployment of ours, with its labels read.
#[derive(Clone, Debug)]
pub(super) struct Ours {
    pub place: Place,
    pub deployment: HubDeployment,
    /// Names of the modules that it brings, system modules too.
    pub modules: BTreeSet<String>,
}

impl Ours {
    fn new(place: Place, deployment: HubDeployment) -> Ours {
        let modules = images(&deployment.content).into_keys().collect();
        Ours {
            place,
            deployment,
            modules,
        }
    }
}

pub(super) struct Working<'a> {
    pub declared: &'a Declared,
    pub now_secs: u64,
    pub devices: Vec<Device>,
    /// By environment's lineage, lowest order first.
    pub ours: BTreeMap<Lineage, Vec<Ours>>,
    /// All deployments of the hub, others' too.
    pub count: u64,
    pub steps: Vec<Step>,
    matches: RefCell<BTreeMap<String, Rc<Vec<bool>>>>,
}

impl<'a> Working<'a> {
    /// # Errors
    /// A label of ours that cannot be read.
    pub fn new(declared: &'a Declared, snapshot: &Snapshot) -> Result<Working<'a>, String> {
        let mut ours: BTreeMap<Lineage, Vec<Ours>> = BTreeMap::new();
        for deployment in &snapshot.deployments {
            let Some(place) = Place::of(deployment).transpose()? else {
                continue;
            };
            if place.environment == declared.list().environment {
                let entry = Ours::new(place, deployment.clone());
                ours.entry(entry.place.lineage.clone()).or_default().push(entry);
            }
        }
        for list in ours.values_mut() {
            list.sort_by(|a, b| a.deployment.order().cmp(&b.deployment.order()));
        }
        Ok(Working {
            declared,
            now_secs: snapshot.now_secs,
            devices: snapshot.devices.clone(),
            ours,
            count: snapshot.deployments.len() as u64,
            steps: Vec::new(),
            matches: RefCell::default(),
        })
    }

    /// Gives each device of the environment that has no wave yet its own, if a ring asks for a share of the fleet.
    pub fn tag_waves(&mut self) {
        let list = self.declared.list();
        if list.rings.iter().all(|ring| ring.percent.is_none()) {
            return;
        }
        let conditions: Vec<Condition> = list
            .deployments
            .iter()
            .filter_map(|one| one.devices.parse().ok())
            .collect();
        for device in &mut self.devices {
            let tagged = device.tags.get(WAVE_TAG).is_some_and(|value| value.is_number());
            if tagged
                || !conditions
                    .iter()
                    .any(|condition| condition.matches(&device.id, &device.tags))
            {
                continue;
            }
            let number = wave(&list.environment, &device.id);
            if !device.tags.is_object() {
                device.tags = serde_json::json!({});
            }
            if let Some(tags) = device.tags.as_object_mut() {
                tags.insert(WAVE_TAG.to_owned(), number.into());
            }
            self.steps.push(Step {
                action: Action::Tag {
                    device: device.id.clone(),
                    wave: number,
                    etag: (!device.etag.is_empty()).then(|| device.etag.clone()),
                },
                why: format!("device `{}` gets its wave", device.id),
                devices_before: 0,
                devices_after: 1,
            });
        }
    }

    /// Which devices a condition targets, in the order of `devices`.
    pub fn targeted(&self, condition: &str) -> Rc<Vec<bool>> {
        if let Some(known) = self.matches.borrow().get(condition) {
            return Rc::clone(known);
        }
        let parsed = condition.parse::<Condition>().ok();
        let of = |device: &Device| {
            parsed
                .as_ref()
                .is_some_and(|parsed| parsed.matches(&device.id, &device.tags))
        };
        let matches = Rc::new(self.devices.iter().map(of).collect::<Vec<bool>>());
        self.matches
            .borrow_mut()
            .insert(condition.to_owned(), Rc::clone(&matches));
        matches
    }

    /// How many devices a condition targets.
    pub fn count_targeted(&self, condition: &str) -> usize {
        self.targeted(condition)
            .iter()
            .filter(|matches| **matches)
            .count()
    }

    pub fn find(&self, lineage: &Lineage, id: &str) -> Option<&Ours> {
        self.ours
            .get(lineage)?
            .iter()
            .find(|entry| entry.deployment.id == id)
    }

    /// Devices that would lose a module that they are declared to run, if deployment `id` matched `condition`: no
    /// other deployment of ours brings it to them.
    fn stranded(&self, lineage: &Lineage, id: &str, condition: &str) -> usize {
        let Some(now) = self.find(lineage, id) else {
            return 0;
        };
        let (before, after) = (self.targeted(&now.deployment.condition), self.targeted(condition));
        if !(0..self.devices.len()).any(|n| before[n] && !after[n]) {
            return 0;
        }
        let mut stranded = vec![false; self.devices.len()];
        for module in &now.modules {
            let declared = self.declared.list().deployments.iter();
            let wanted: Vec<_> = declared
                .filter(|one| {
                    self.declared
                        .content(&one.id)
                        .is_some_and(|content| images(content).contains_key(module))
                })
                .filter_map(|one| one.rings.last())
                .map(|ring| self.targeted(&ring.condition))
                .collect();
            let others: Vec<_> = self
                .ours
                .values()
                .flatten()
                .filter(|entry| entry.deployment.id != id && entry.modules.contains(module))
                .map(|entry| self.targeted(&entry.deployment.condition))
                .collect();
            for n in (0..self.devices.len()).filter(|&n| before[n] && !after[n]) {
                stranded[n] |= wanted.iter().any(|wanted| wanted[n]) && !others.iter().any(|other| other[n]);
            }
        }
        stranded.into_iter().filter(|stranded| *stranded).count()
    }

    /// Updates a deployment of ours to `condition`, `priority` and `place`.
    ///
    /// # Errors
    /// Says how many devices would have nothing beneath; then no step is made.
    pub fn update(
        &mut self,
        id: &str,
        condition: &str,
        priority: u32,
        place: Place,
        why: String,
    ) -> Result<(), String> {
        let lineage = place.lineage.clone();
        let stranded = self.stranded(&lineage, id, condition);
        if stranded > 0 {
            return Err(strand(stranded, &why));
        }
        self.update_unchecked(id, condition, priority, place, why);
        Ok(())
    }

    /// As [`Working::update`], whoever is left without.
    pub fn update_unchecked(&mut self, id: &str, condition: &str, priority: u32, place: Place, why: String) {
        let (lineage, after) = (place.lineage.clone(), self.count_targeted(condition));
        let Some(list) = self.ours.get_mut(&lineage) else {
            return;
        };
        let Some(entry) = list.iter_mut().find(|entry| entry.deployment.id == id) else {
            return;
        };
        let before_condition = std::mem::replace(&mut entry.deployment.condition, condition.to_owned());
        let etag = std::mem::take(&mut entry.deployment.etag);
        entry.deployment.priority = priority;
        entry.deployment.labels = place.to_labels();
        entry.place = place;
        let labels = entry.deployment.labels.clone();
        list.sort_by(|a, b| a.deployment.order().cmp(&b.deployment.order()));
        let step = Step {
            action: Action::Update {
                id: id.to_owned(),
                etag: (!etag.is_empty()).then_some(etag),
                condition: condition.to_owned(),
                priority,
                labels,
            },
            why,
            devices_before: self.count_targeted(&before_condition),
            devices_after: after,
        };
        self.steps.push(step);
    }

    /// Deletes a deployment of ours.
    ///
    /// # Errors
    /// As [`Working::update`].
    pub fn delete(&mut self, lineage: &Lineage, id: &str, why: String) -> Result<(), String> {
        let stranded = self.stranded(lineage, id, "");
        if stranded > 0 {
            return Err(strand(stranded, &why));
        }
        let Some(list) = self.ours.get_mut(lineage) else {
            return Ok(());
        };
        let Some(position) = list.iter().position(|entry| entry.deployment.id == id) else {
            return Ok(());
        };
        let deployment = list.remove(position).deployment;
        self.count -= 1;
        let devices_before = self.count_targeted(&deployment.condition);
        self.steps.push(Step {
            action: Action::Delete {
                id: deployment.id,
                etag: (!deployment.etag.is_empty()).then_some(deployment.etag),
            },
            why,
            devices_before,
            devices_after: 0,
        });
        Ok(())
    }

    /// Creates a deployment of ours.
    pub fn create(&mut self, deployment: HubDeployment, place: Place, why: String) {
        let devices_after = self.count_targeted(&deployment.condition);
        self.count += 1;
        let entry = Ours::new(place, deployment.clone());
        self.ours
            .entry(entry.place.lineage.clone())
            .or_default()
            .push(entry);
        self.steps.push(Step {
            action: Action::Create { deployment },
            why,
            devices_before: 0,
            devices_after,
        });
    }

    /// A priority above everything of ours of the same kind, so that what is new wins whatever moved between
    /// lineages; at least `floor`.
    pub fn priority_above(&self, base: bool, floor: u32) -> u32 {
        let highest = self
            .ours
            .iter()
            .filter(|(lineage, _)| lineage.is_base() == base)
            .flat_map(|(_, list)| list.iter().map(|entry| entry.deployment.priority))
            .max();
        highest.map_or(floor, |highest| floor.max(highest.saturating_add(1)))
    }
}

fn strand(devices: usize, why: &str) -> String {
    format!(
        "{why}: {devices} devices would lose a model that they are declared to run, and nothing beneath brings it"
    )
}
