//! The tool's commands as `xtask` runs them: look, decide, obey.

use std::collections::BTreeSet;
use std::sync::Mutex;

use aiot_iothub::rollout::{
    ApplyError, Decision, Declared, Hub, HubError, Intent, Refusal, SavedPlan, SavedPlanError, apply, decide,
    fingerprint, rollback,
};

use crate::life::etags;

/// A command.
#[derive(Clone)]
pub enum How {
    /// `deploy advance`
    Advance(Intent),
    /// `deploy plan --out FILE`
    Plan(Intent),
    /// `deploy apply FILE`
    Obey(Vec<u8>),
    /// `deploy rollback MODEL`
    Rollback(String),
}

impl std::fmt::Debug for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            How::Advance(intent) => write!(f, "advance {intent:?}"),
            How::Plan(intent) => write!(f, "plan {intent:?}"),
            How::Obey(_) => f.write_str("apply"),
            How::Rollback(model) => write!(f, "rollback {model}"),
        }
    }
}

/// What is known of a run, also if it was killed.
#[derive(Debug, Default)]
pub struct Trace {
    /// ETags in its look at the hub.
    pub seen: BTreeSet<String>,
    /// Why it could not look.
    pub blind: Option<HubError>,
    pub decision: Option<Decision>,
    pub refusal: Option<Refusal>,
    pub plan: Option<Vec<u8>>,
    pub plan_refused: Option<SavedPlanError>,
    pub result: Option<Result<usize, ApplyError>>,
}

/// Runs a command.
pub fn tool(hub: &mut dyn Hub, declared: &Declared, how: &How, trace: &Mutex<Trace>) {
    let note = |work: &mut dyn FnMut(&mut Trace)| work(&mut trace.lock().expect("no panic holds it"));
    let snapshot = match hub.snapshot() {
        Ok(snapshot) => snapshot,
        Err(error) => return note(&mut |trace| trace.blind = Some(error.clone())),
    };
    note(&mut |trace| trace.seen = etags(&snapshot.deployments));
    let print = fingerprint(
        &snapshot.deployments,
        declared.list().deployments.iter().map(|one| one.id.as_str()),
    );
    let plan = match how {
        How::Obey(bytes) => Some(SavedPlan::parse(bytes).expect("a plan that was saved can be read")),
        _ => None,
    };
    let decided = match (how, &plan) {
        (How::Rollback(model), _) => rollback(declared, &snapshot, model, "it is bad"),
        (How::Advance(intent) | How::Plan(intent), _) => decide(declared, &snapshot, intent),
        (_, Some(plan)) => decide(declared, &snapshot, &plan.intent()),
        (How::Obey(_), None) => unreachable!("it was parsed above"),
    };
    let decision = match decided {
        Ok(decision) => decision,
        Err(refusal) => return note(&mut |trace| trace.refusal = Some(refusal.clone())),
    };
    note(&mut |trace| trace.decision = Some(decision.clone()));
    if let How::Plan(intent) = how {
        let environment = &declared.list().environment;
        let steps = decision.steps.clone();
        let plan = SavedPlan::new(environment, "hub", &declared.commit, print, intent, steps);
        let bytes = serde_json::to_vec(&plan).expect("a plan can be written");
        return note(&mut |trace| trace.plan = Some(bytes.clone()));
    }
    if let Some(plan) = plan
        && let Err(error) = plan.check("hub", &declared.commit, &print, &decision.steps)
    {
        return note(&mut |trace| trace.plan_refused = Some(error.clone()));
    }
    let result = apply(hub, &decision.steps, &mut |_| {});
    note(&mut |trace| trace.result = Some(result.clone()));
}
