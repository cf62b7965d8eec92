//! The plan: every action of a release, complete before anything runs.
//!
//! `build` turns declarations, facts and lock into a graph. `status` says of one action whether its result is known,
//! and if not why; it is asked for all actions when the plan is shown, and again by the executor as results come in,
//! so that an action whose input came out unchanged does not run after all.
//!
//! | module | what it does |
//! | --- | --- |
//! | `build` | the graph of models, images and modules |
//! | `variant` | calibration, quantizing, measuring and the package of one variant |
//! | `target` | base and engine: the layers that all images of a target share |
//! | `show` | the plan as JSON |

mod build;
mod show;
mod target;
mod variant;

use std::collections::{BTreeMap, BTreeSet};

use aiot_package::{Digest, Precision};

use crate::action::{Action, DirtyReason, Lookup, Output, Record, Results, compare, compare_recorded, key};
use crate::declare::BuilderKind;
use crate::lock::{ClosureRequest, WheelRequest};
use crate::names::{ModelName, ModuleName, TargetName};

pub use build::build;
pub use show::{PLAN_SCHEMA_VERSION, source_text, to_json};
pub use variant::{calibration_inputs_of, calibration_subject_of, package_parameters};

/// What was observed about files and tools. No paths of the machine.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Architecture of this host as in `x86_64`; decides which host engine is run.
    pub host_architecture: String,
    /// `rustc`'s release.
    pub rustc: String,
    /// The version of the linker that is no wheel, by builder and Rust target: the system's C compiler, or `cross`
    /// with its container. A linker that is not here has none: compiling with it fails and says what to install.
    pub linkers: BTreeMap<(BuilderKind, String), String>,
    /// Files by path below the workspace: models and labels.
    pub files: BTreeMap<String, Digest>,
    /// Data sets by path below the workspace: a digest over names, contents and labels.
    pub datasets: BTreeMap<String, Digest>,
    /// Modules: a digest over everything that they are built from.
    pub modules: BTreeMap<ModuleName, Digest>,
    /// Our own code that makes outputs, by crate: a digest of its sources.
    pub code: BTreeMap<String, Digest>,
    /// Committed calibration records.
    pub calibrations: BTreeMap<ModelName, CalibrationRecord>,
    /// Committed measurements: subject, and digest of the entry.
    pub measurements: BTreeMap<(ModelName, Precision), (Digest, Digest)>,
}

/// What the plan needs to know of a committed calibration record.
#[derive(Clone, Debug)]
pub struct CalibrationRecord {
    /// What it was made from, and how, as one digest.
    pub subject: Digest,
    /// What it was made from, by name of the input.
    pub made_from: BTreeMap<String, Digest>,
    /// The file.
    pub file: Digest,
}

/// Outside inputs that the lock does not have yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlocked {
    /// Wheels to look up.
    pub wheels: BTreeSet<WheelRequest>,
    /// Package closures to resolve.
    pub closures: BTreeSet<ClosureRequest>,
}

impl Unlocked {
    /// Nothing to look up.
    pub fn is_empty(&self) -> bool {
        self.wheels.is_empty() && self.closures.is_empty()
    }
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A content that is known.
    Given(Digest),
    /// What another action makes.
    Output {
        /// Place of that action in the plan.
        node: usize,
        /// Name of its output.
        output: String,
    },
}

/// An action in the plan.
#[derive(Clone, Debug)]
pub struct Node {
    /// Words that name it, the same from run to run.
    pub id: String,
    /// What it does.
    pub action: Action,
    /// Its inputs by name.
    pub inputs: BTreeMap<String, Source>,
    /// Where its result is a committed record that is stale: what that was made from. It stands in for an earlier run
    /// on a machine that never ran the action.
    pub recorded: BTreeMap<String, Digest>,
}

/// All actions, each after those that it needs.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The actions.
    pub nodes: Vec<Node>,
    /// (model, target) → its image.
    pub images: BTreeMap<(ModelName, TargetName), usize>,
    /// Model → its index.
    pub indexes: BTreeMap<ModelName, usize>,
    /// (challenger, target) → the model in whose image it rides.
    pub shadows: BTreeMap<(ModelName, TargetName), ModelName>,
    /// (model, variant) → its measurement.
    pub measures: BTreeMap<(ModelName, Precision), usize>,
    /// Models whose calibration must be made.
    pub calibrations: BTreeMap<ModelName, usize>,
    /// Where an engine or base is not what the declaration says, for the log.
    pub notes: Vec<String>,
}

/// What is known of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Its result is there.
    Done(Box<Record>),
    /// It must run.
    Run {
        /// Its key.
        key: Digest,
        /// Why.
        reasons: Vec<DirtyReason>,
    },
    /// An action before it must run first.
    Waiting {
        /// Those actions' ids.
        reasons: Vec<DirtyReason>,
    },
}

/// Which pairs to build.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Models; empty = all.
    pub models: BTreeSet<ModelName>,
    /// Targets; empty = all.
    pub targets: BTreeSet<TargetName>,
}

impl Selection {
    /// Whether a pair is selected.
    pub fn has(&self, model: &ModelName, target: &TargetName) -> bool {
        (self.models.is_empty() || self.models.contains(model))
            && (self.targets.is_empty() || self.targets.contains(target))
    }
}

/// What is known of `node`, given the outputs of the actions before it.
pub fn status(
    plan: &Plan,
    node: usize,
    outputs: &[Option<BTreeMap<String, Output>>],
    results: &dyn Results,
) -> Status {
    let node = &plan.nodes[node];
    let mut inputs = BTreeMap::new();
    let mut waiting = Vec::new();
    for (name, source) in &node.inputs {
        match source {
            Source::Given(digest) => {
                inputs.insert(name.clone(), *digest);
            }
            Source::Output { node: before, output } => match &outputs[*before] {
                Some(made) => {
                    inputs.insert(name.clone(), made[output].digest);
                }
                None => waiting.push(DirtyReason::Upstream {
                    action: plan.nodes[*before].id.clone(),
                }),
            },
        }
    }
    if !waiting.is_empty() {
        waiting.dedup();
        return Status::Waiting { reasons: waiting };
    }
    let parameters = node.action.parameters();
    let key = key(&parameters, &inputs);
    match results.result(&key) {
        Lookup::Hit(record) => Status::Done(Box::new(record)),
        Lookup::Lost { digest } => Status::Run {
            key,
            reasons: vec![DirtyReason::OutputLost { digest }],
        },
        Lookup::Miss => {
            let reasons = match results.previous(&node.id) {
                Some(previous) => compare(&previous, &parameters, &inputs),
                None => compare_recorded(&node.recorded, &inputs),
            };
            Status::Run { key, reasons }
        }
    }
}

/// What is known of all actions before anything runs.
pub fn statuses(plan: &Plan, results: &dyn Results) -> Vec<Status> {
    let mut outputs: Vec<Option<BTreeMap<String, Output>>> = Vec::with_capacity(plan.nodes.len());
    let mut statuses = Vec::with_capacity(plan.nodes.len());
    for node in 0..plan.nodes.len() {
        let status = status(plan, node, &outputs, results);
        outputs.push(match &status {
            Status::Done(record) => Some(record.outputs.clone()),
            _ => None,
        });
        statuses.push(status);
    }
    statuses
}
