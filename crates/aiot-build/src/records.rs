//! Calibration and measurement files beside the models: written when they are new, compared when they are not.

use std::collections::BTreeMap;

use aiot_oci::Store;
use aiot_package::Precision;
use aiot_plan::action::Output;
use aiot_plan::plan::{Facts, Plan, Source};
use aiot_plan::records::{CALIBRATION_FILE, MEASURED_FILE, Measured, MeasuredFile, render_measured};
use aiot_plan::{ModelName, Workspace};

use crate::error::BuildError;
use crate::lockfile::write_if_changed;
use crate::observe::{Observation, record_dir};
use crate::paths::Paths;

/// Largest record in the store.
const RECORD_LIMIT_BYTES: u64 = 256 << 20;

/// What this machine measured, and what counts.
pub struct Measurements {
    /// The measurement that counts for each variant: the committed one where it is fresh, else this machine's.
    pub effective: BTreeMap<(ModelName, Precision), Measured>,
    /// Where a fresh committed measurement says otherwise than this machine.
    pub contradictions: Vec<String>,
}

/// Reads what this machine measured and compares it with fresh committed measurements.
///
/// # Errors
/// A result that cannot be read.
pub fn measurements(
    plan: &Plan,
    facts: &Facts,
    observation: &Observation,
    outputs: &[BTreeMap<String, Output>],
    store: &Store,
) -> Result<Measurements, BuildError> {
    let mut found = Measurements {
        effective: BTreeMap::new(),
        contradictions: Vec::new(),
    };
    for ((model, precision), &node) in &plan.measures {
        let bytes = store
            .read_verified(&outputs[node]["measured"].digest, RECORD_LIMIT_BYTES)
            .map_err(BuildError::other)?;
        let now: Measured = serde_json::from_slice(&bytes).map_err(BuildError::other)?;
        let committed = facts
            .measurements
            .get(&(model.clone(), *precision))
            .filter(|(subject, _)| *subject == now.subject)
            .and_then(|_| observation.measured.get(model)?.get(precision));
        if let Some(reason) = committed.and_then(|committed| committed.contradiction(&now)) {
            found
                .contradictions
                .push(format!("models/{model}/{MEASURED_FILE}, {precision}: {reason}"));
        }
        found
            .effective
            .insert((model.clone(), *precision), committed.cloned().unwrap_or(now));
    }
    Ok(found)
}

/// The record files as they should be: path below the workspace → bytes. Variants that no target gets any more go.
///
/// # Errors
/// A result that cannot be read.
pub fn files(
    paths: &Paths,
    workspace: &Workspace,
    plan: &Plan,
    measurements: &Measurements,
    outputs: &[BTreeMap<String, Output>],
    store: &Store,
) -> Result<BTreeMap<std::path::PathBuf, Vec<u8>>, BuildError> {
    let mut files = BTreeMap::new();
    let mut measured: BTreeMap<&ModelName, MeasuredFile> = BTreeMap::new();
    for ((model, precision), entry) in &measurements.effective {
        measured
            .entry(model)
            .or_default()
            .insert(*precision, entry.clone());
    }
    for (model, file) in measured {
        if workspace.models.contains_key(model) {
            files.insert(
                record_dir(paths, model).join(MEASURED_FILE),
                render_measured(&file).into_bytes(),
            );
        }
    }
    for (model, &node) in &plan.calibrations {
        let digest = outputs[node]["ranges"].digest;
        let bytes = store
            .read_verified(&digest, RECORD_LIMIT_BYTES)
            .map_err(BuildError::other)?;
        files.insert(record_dir(paths, model).join(CALIBRATION_FILE), bytes);
    }
    Ok(files)
}

/// Writes record files; returns those that changed.
///
/// # Errors
/// When one cannot be written.
pub fn write(files: &BTreeMap<std::path::PathBuf, Vec<u8>>) -> Result<Vec<std::path::PathBuf>, BuildError> {
    let mut changed = Vec::new();
    for (path, bytes) in files {
        if write_if_changed(path, bytes)? {
            changed.push(path.clone());
        }
    }
    Ok(changed)
}

/// Records that the declarations have outrun, in words: what `--locked` refuses to make anew.
pub fn stale(plan: &Plan) -> Vec<String> {
    let mut stale: Vec<String> = plan
        .calibrations
        .keys()
        .map(|model| format!("models/{model}/{CALIBRATION_FILE} is missing or made from other inputs"))
        .collect();
    for node in &plan.nodes {
        if let (
            aiot_plan::action::Action::AssemblePackage { model, precision, .. },
            Some(Source::Output { .. }),
        ) = (&node.action, node.inputs.get("golden outputs"))
        {
            stale.push(format!(
                "models/{model}/{MEASURED_FILE} has no fresh measurement for {precision}"
            ));
        }
    }
    stale
}
