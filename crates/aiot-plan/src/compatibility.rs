//! Pairs of model and target that cannot work: refused before anything is built.
//!
//! What a graph needs and whether an engine has it is found out elsewhere (`aiot-onnx`) and comes in as facts.

use std::collections::BTreeMap;

use crate::diagnose::ConfigError;
use crate::names::ModelName;
use crate::workspace::{Base, Model, Target, Workspace};

/// What must be known about a model's file.
#[derive(Clone, Debug, Default)]
pub struct ModelFacts {
    /// Length of the float file.
    pub size_bytes: u64,
    /// Engine version → what that version lacks for this graph, each a sentence.
    pub engine_problems: BTreeMap<String, Vec<String>>,
}

/// Refuses pairs that cannot work. Models without facts (their file is missing) are skipped: that is an error already.
pub fn check(workspace: &Workspace, facts: &BTreeMap<ModelName, ModelFacts>) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (model, target) in workspace.pairs() {
        if let Some(facts) = facts.get(&model.name) {
            check_pair(model, target, facts, &mut errors);
        }
    }
    for target in workspace.targets.values() {
        if matches!(target.base, Base::Scratch) {
            errors.push(
                ConfigError::new(
                    "plan::scratch",
                    target.site.clone(),
                    format!(
                        "target `{}`: engine and modules need a C library, which an empty base has not",
                        target.name
                    ),
                    "base is scratch",
                )
                .with_help("use base.debian or base.image"),
            );
        }
    }
    errors
}

fn check_pair(model: &Model, target: &Target, facts: &ModelFacts, errors: &mut Vec<ConfigError>) {
    let site = &model.targets[&target.name].site;
    for (bound, what) in [(target.memory_bytes, "memory"), (target.disk_bytes, "disk")] {
        if facts.size_bytes > bound {
            errors.push(
                ConfigError::new(
                    "plan::too_large",
                    site.clone(),
                    format!("model `{}` does not fit `{}`", model.name, target.name),
                    format!(
                        "{} MiB of model, {} MiB of {what}",
                        facts.size_bytes.div_ceil(1 << 20),
                        bound >> 20
                    ),
                )
                .with_help("take the target out, or make the model smaller"),
            );
        }
    }
    for problem in facts
        .engine_problems
        .get(&target.engine.version)
        .into_iter()
        .flatten()
    {
        errors.push(
            ConfigError::new(
                "plan::engine_lacks",
                site.clone(),
                format!("model `{}` cannot run on `{}`", model.name, target.name),
                problem.clone(),
            )
            .with_help(format!(
                "{} has ONNX Runtime {} ({}): export the model for it, or take the target out",
                target.name,
                target.engine.version,
                target.site.line()
            )),
        );
    }
}
