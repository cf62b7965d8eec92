//! What a person should know before a roll-out and no step can repair: deployments of others that are in the way, and
//! a runtime that is supported no longer.

use std::collections::BTreeSet;

use super::declared::{Declared, images};
use super::labels::Place;
use super::state::{HubDeployment, Snapshot};
use super::support::ended_support;
use crate::condition::Condition;
use crate::render::DeploymentKind;

/// Everything worth knowing, in the words of people.
pub fn notes(declared: &Declared, snapshot: &Snapshot) -> Vec<String> {
    let mut notes = runtime_support(declared, snapshot.now_secs);
    for foreign in snapshot
        .deployments
        .iter()
        .filter(|one| is_foreign(declared, one))
    {
        notes.extend(conflict(declared, snapshot, foreign));
    }
    notes
}

/// Whether a deployment is of nobody, or of another environment.
fn is_foreign(declared: &Declared, deployment: &HubDeployment) -> bool {
    match Place::of(deployment) {
        None => true,
        Some(Ok(place)) => place.environment != declared.list().environment,
        // Decided elsewhere, as an error.
        Some(Err(_)) => false,
    }
}

fn runtime_support(declared: &Declared, now_secs: u64) -> Vec<String> {
    let bases = declared
        .list()
        .deployments
        .iter()
        .filter(|one| one.kind == DeploymentKind::Base);
    let all: BTreeSet<String> = bases
        .filter_map(|one| declared.content(&one.id))
        .flat_map(|content| images(content).into_values())
        .collect();
    all.iter()
        .filter_map(|image| ended_support(image, now_secs))
        .collect()
}

/// What a deployment of somebody else does to devices of ours.
fn conflict(declared: &Declared, snapshot: &Snapshot, foreign: &HubDeployment) -> Option<String> {
    let condition = foreign.parsed_condition()?;
    let brings: BTreeSet<String> = images(&foreign.content).into_keys().collect();
    let is_base = foreign.is_base();
    // Of ours on the hub, or as they will be when they come.
    let above = |priority: u32| foreign.priority >= priority;
    let mut modules: BTreeSet<String> = BTreeSet::new();
    let mut devices: BTreeSet<&str> = BTreeSet::new();
    for deployment in &declared.list().deployments {
        if is_base != (deployment.kind == DeploymentKind::Base) {
            continue;
        }
        let on_hub = snapshot.deployments.iter().find(|one| one.id == deployment.id);
        if !above(on_hub.map_or(deployment.priority, |one| one.priority)) {
            continue;
        }
        let own: BTreeSet<String> = declared
            .content(&deployment.id)
            .map(|content| images(content).into_keys().collect())
            .unwrap_or_default();
        let shared: Vec<String> = own.intersection(&brings).cloned().collect();
        let Ok(ours) = deployment.devices.parse::<Condition>() else {
            continue;
        };
        if shared.is_empty() {
            continue;
        }
        let both = snapshot.devices.iter().filter(|device| {
            condition.matches(&device.id, &device.tags) && ours.matches(&device.id, &device.tags)
        });
        let before = devices.len();
        devices.extend(both.map(|device| device.id.as_str()));
        if devices.len() > before {
            modules.extend(shared);
        }
    }
    if devices.is_empty() {
        return None;
    }
    let (id, priority, count) = (&foreign.id, foreign.priority, devices.len());
    Some(if is_base {
        format!(
            "deployment `{id}` of somebody else (priority {priority}) outranks the runtime of {count} devices: they take \
             nothing of ours that lies beneath it; delete it, or take the devices out of its condition"
        )
    } else {
        let names: Vec<&str> = modules.iter().map(String::as_str).collect();
        format!(
            "deployment `{id}` of somebody else (priority {priority}) brings its own {} on {count} devices, and wins \
             there; rename the module, or take the devices out of its condition",
            names.join(", ")
        )
    })
}
