//! A change set as a file: decided, read by people, and obeyed later exactly as it was read, or not at all.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::decide::Intent;
use super::step::{Action, Step};

/// Version of the file's form.
const SCHEMA: u32 = 1;
/// Labels that say when a step is made, and so are others whenever it is decided anew.
const TIMES: [&str; 2] = ["aiot-since", "aiot-finished"];

/// Steps that were decided for a hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SavedPlan {
    schema: u32,
    /// Name of the environment.
    pub environment: String,
    /// Host name of the hub.
    pub hub: String,
    /// The commit that it was decided for.
    pub commit: String,
    /// [`super::fingerprint`] of the hub and the declarations.
    pub fingerprint: String,
    /// [`Intent::approve`]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<String>,
    /// [`Intent::resume`]
    pub resume: bool,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
}

/// Why a saved plan is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SavedPlanError {
    /// Not a plan of ours.
    #[error("the plan cannot be read: {0}; make it with `cargo xtask deploy plan --out FILE`")]
    Format(String),
    /// Of another hub.
    #[error("the plan is for hub {of}, and this is {here}")]
    Hub {
        /// The plan's.
        of: String,
        /// The one that is connected.
        here: String,
    },
    /// Of another commit.
    #[error(
        "the plan is for commit {of}, and this checkout is at {here}: plan again, or check that commit out"
    )]
    Commit {
        /// The plan's.
        of: String,
        /// This one.
        here: String,
    },
    /// What would be done now is not what the plan says.
    #[error("the hub has moved since the plan was made ({what}): nothing was changed; plan again and look")]
    Moved {
        /// The first difference.
        what: String,
    },
}

impl SavedPlan {
    /// A plan of `steps`.
    pub fn new(
        environment: &str,
        hub: &str,
        commit: &str,
        fingerprint: String,
        intent: &Intent,
        steps: Vec<Step>,
    ) -> SavedPlan {
        SavedPlan {
            schema: SCHEMA,
            environment: environment.to_owned(),
            hub: hub.to_owned(),
            commit: commit.to_owned(),
            fingerprint,
            approve: intent.approve.clone(),
            resume: intent.resume,
            steps,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`SavedPlanError::Format`]
    pub fn parse(bytes: &[u8]) -> Result<SavedPlan, SavedPlanError> {
        let plan: SavedPlan =
            serde_json::from_slice(bytes).map_err(|error| SavedPlanError::Format(error.to_string()))?;
        match plan.schema {
            SCHEMA => Ok(plan),
            other => Err(SavedPlanError::Format(format!("it has schema {other}"))),
        }
    }

    /// What the person said who made it.
    pub fn intent(&self) -> Intent {
        Intent {
            approve: self.approve.clone(),
            resume: self.resume,
        }
    }

    /// Whether the steps that a new look decides on, `now`, are those of the plan: the same deployments at the same
    /// ETags, the same conditions, priorities and labels, as many devices; only times may differ.
    ///
    /// # Errors
    /// [`SavedPlanError`], what differs.
    pub fn check(
        &self,
        hub: &str,
        commit: &str,
        fingerprint: &str,
        now: &[Step],
    ) -> Result<(), SavedPlanError> {
        if self.hub != hub {
            return Err(SavedPlanError::Hub {
                of: self.hub.clone(),
                here: hub.to_owned(),
            });
        }
        if self.commit != commit {
            return Err(SavedPlanError::Commit {
                of: self.commit.clone(),
                here: commit.to_owned(),
            });
        }
        let moved = |what: String| Err(SavedPlanError::Moved { what });
        for (planned, now) in self.steps.iter().zip(now) {
            if timeless(planned) != timeless(now) {
                return moved(format!(
                    "`{}` was to be: {}, {} → {} devices; now `{}`: {}, {} → {}",
                    planned.action.subject(),
                    planned.why,
                    planned.devices_before,
                    planned.devices_after,
                    now.action.subject(),
                    now.why,
                    now.devices_before,
                    now.devices_after
                ));
            }
        }
        if self.steps.len() != now.len() {
            return moved(format!(
                "{} steps were planned, {} are due",
                self.steps.len(),
                now.len()
            ));
        }
        if self.fingerprint != fingerprint {
            return moved("a deployment that no step touches has another ETag".to_owned());
        }
        Ok(())
    }
}

/// The step without times, and without the words for people, which hold counts of the moment.
fn timeless(step: &Step) -> Step {
    let mut step = Step {
        why: String::new(),
        ..step.clone()
    };
    let labels = match &mut step.action {
        Action::Update { labels, .. } => labels,
        Action::Create { deployment } => {
            deployment.created_secs = 0;
            &mut deployment.labels
        }
        // The twin may have been written for other reasons; the wave is the same.
        Action::Tag { etag, .. } => {
            *etag = None;
            return step;
        }
        Action::Delete { .. } => return step,
    };
    labels.retain(|name, _| !TIMES.contains(&name.as_str()));
    step
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn update(etag: &str, since: &str, devices_after: usize) -> Step {
        Step {
            action: Action::Update {
                id: "prod-a".to_owned(),
                etag: Some(etag.to_owned()),
                condition: "*".to_owned(),
                priority: 1,
                labels: BTreeMap::from([
                    ("aiot-ring".to_owned(), "all".to_owned()),
                    ("aiot-since".to_owned(), since.to_owned()),
                ]),
            },
            why: format!("widen at {since}"),
            devices_before: 1,
            devices_after,
        }
    }

    #[test]
    fn obeyed_as_it_was_read_or_not_at_all() {
        let plan = SavedPlan::new(
            "prod",
            "hub",
            "c1",
            "f".to_owned(),
            &Intent::default(),
            vec![update("1", "then", 9)],
        );
        let plan = SavedPlan::parse(&serde_json::to_vec(&plan).unwrap()).unwrap();
        let check = |hub: &str, commit: &str, fingerprint: &str, now: &[Step], expected: Option<&str>| {
            let got = plan
                .check(hub, commit, fingerprint, now)
                .err()
                .map(|error| error.to_string());
            match (got, expected) {
                (None, None) => {}
                (Some(got), Some(expected)) => assert!(got.contains(expected), "{got}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        };
        let same = [update("1", "now", 9)];
        check("hub", "c1", "f", &same, None);
        check(
            "other",
            "c1",
            "f",
            &same,
            Some("is for hub hub, and this is other"),
        );
        check("hub", "c2", "f", &same, Some("is for commit c1"));
        check("hub", "c1", "g", &same, Some("no step touches"));
        check("hub", "c1", "f", &[update("2", "now", 9)], Some("has moved"));
        check(
            "hub",
            "c1",
            "f",
            &[update("1", "now", 10)],
            Some("1 → 9 devices; now"),
        );
        check("hub", "c1", "f", &[], Some("1 steps were planned, 0 are due"));
    }

    #[test]
    fn files_that_are_no_plans() {
        for bad in ["", "{}", "[]", "{\"schema\": 1}"] {
            assert!(
                matches!(SavedPlan::parse(bad.as_bytes()), Err(SavedPlanError::Format(_))),
                "{bad}"
            );
        }
        let mut plan = SavedPlan::new("prod", "hub", "c", String::new(), &Intent::default(), vec![]);
        plan.schema = 2;
        let error = SavedPlan::parse(&serde_json::to_vec(&plan).unwrap()).unwrap_err();
        assert!(error.to_string().contains("schema 2"), "{error}");
    }
}
