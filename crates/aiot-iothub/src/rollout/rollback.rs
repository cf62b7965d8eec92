//! Back to the release before: no new build, no canary, all devices at once.

use std::collections::BTreeSet;

use super::decide::{Decision, LineageReport, Refusal, Verdict, refuse_out_of_date};
use super::declared::{Declared, images};
use super::health::Tally;
use super::labels::Place;
use super::state::Snapshot;
use super::working::Working;
use crate::limits::UsedOf;

/// The steps that take the newest release of `model` back, on every target that has it.
///
/// What lies beneath is made to cover its devices first, then the release is narrowed to nothing and says why in its
/// labels. Made twice, it does nothing the second time. Where the release brought other models as well, they go back
/// with it: one deployment carries them all.
///
/// # Errors
/// [`Refusal`], as for [`super::decide()`].
pub fn rollback(
    declared: &Declared,
    snapshot: &Snapshot,
    model: &str,
    reason: &str,
) -> Result<Decision, Refusal> {
    let mut working = Working::new(declared, snapshot).map_err(Refusal::Labels)?;
    refuse_out_of_date(&working)?;
    let facts = declared
        .list()
        .deployments
        .iter()
        .flat_map(|deployment| &deployment.modules);
    let mut modules: BTreeSet<&str> = facts
        .filter(|module| module.model == model)
        .map(|module| module.name.as_str())
        .collect();
    modules.insert(model);
    let mut lineages = Vec::new();
    let all: Vec<_> = working
        .ours
        .iter()
        .map(|(lineage, list)| (lineage.clone(), list.clone()))
        .collect();
    for (lineage, list) in all {
        let Some(newest) = list.last() else { continue };
        let brings = images(&newest.deployment.content)
            .keys()
            .any(|name| modules.contains(name.as_str()));
        if !brings || lineage.is_base() {
            continue;
        }
        let verdict = |verdict| LineageReport {
            lineage: lineage.clone(),
            id: newest.deployment.id.clone(),
            ring: Some(newest.place.ring.clone()),
            tally: Tally::default(),
            preflight: None,
            verdict,
        };
        if let Some(reason) = &newest.place.rolled_back {
            lineages.push(verdict(Verdict::RolledBack(reason.clone())));
            continue;
        }
        let fall_back = list[..list.len() - 1]
            .iter()
            .rposition(|entry| entry.place.is_fall_back());
        if newest.place.finished_secs.is_some() && fall_back.is_none() {
            let problem = "nothing lies beneath it to go back to: roll out a release that is good";
            lineages.push(verdict(Verdict::Refused(problem.to_owned())));
            continue;
        }
        let touched = |place: &Place| {
            let mut place = place.clone();
            (place.sequence, place.commit) = (declared.sequence, declared.commit.clone());
            place
        };
        if let Some(index) = fall_back {
            let entry = &list[index];
            let finished = newest.place.finished_secs.is_some();
            if finished && entry.deployment.condition != newest.deployment.condition {
                let mut place = touched(&entry.place);
                place.parked = false;
                let (id, condition) = (&entry.deployment.id, &newest.deployment.condition);
                let why = format!("`{id}` covers the devices again");
                working.update_unchecked(id, condition, entry.deployment.priority, place, why);
            }
        }
        // The newest last: as long as it stands, a run that was cut is made again.
        for entry in &list[fall_back.map_or(0, |index| index + 1)..] {
            if entry.place.rolled_back.is_some() {
                continue;
            }
            let mut place = touched(&entry.place);
            place.rolled_back = Some(reason.to_owned());
            place.stopped = None;
            let id = &entry.deployment.id;
            let why = format!("take `{id}` back: {reason}");
            working.update_unchecked(id, "", entry.deployment.priority, place, why);
        }
        let to = fall_back.map_or("the state before it", |index| list[index].deployment.id.as_str());
        lineages.push(verdict(Verdict::Acts(format!("back to {to}"))));
    }
    let used = vec![UsedOf {
        what: "deployments on the hub".to_owned(),
        used: working.count,
        limit: snapshot.deployment_limit,
    }];
    Ok(Decision {
        steps: working.steps,
        lineages,
        used,
    })
}
