//! `cargo xtask inspect`: what is in a model file, and what could be made of it.

use std::path::Path;

pub use aiot_onnx::{Dimension, NodeOutcome, OperatorUse, TensorFacts};
use aiot_onnx::{InitializerFacts, Model, ModelFacts, NodeReport, Range, Ranges, StaticOptions};
use aiot_package::Precision;
use serde::Serialize;

use crate::error::BuildError;
use crate::model_file::read_model;
use crate::quantizer::activations;
use crate::quantizer::direct::direct;
use crate::quantizer::side_by_side::SWEEP;

/// What `inspect` tells of a model.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// Length of the file.
    pub size_bytes: u64,
    /// Inputs, outputs, opset, operators.
    pub facts: ModelFacts,
    /// Largest first.
    pub initializers: Vec<InitializerFacts>,
    /// What becomes of each node in 8 bits, as far as it does not hang on ranges; empty where the model cannot be
    /// prepared.
    pub nodes: Vec<NodeReport>,
    /// Variant → length of its file.
    pub sizes: Vec<(Precision, u64)>,
    /// Why there is no variant, or not this one.
    pub obstacles: Vec<String>,
    /// Versions of the engine, oldest first, with what they cannot take; only those where something is wrong.
    pub engine_problems: Vec<(String, Vec<String>)>,
}

/// Looks at a model file.
///
/// # Errors
/// When it is no sound ONNX file.
pub fn inspect(path: &Path) -> Result<Inspection, BuildError> {
    let model = read_model(path)?;
    let facts = aiot_onnx::inspect(&model);
    let mut inspection = Inspection {
        size_bytes: model.size_bytes(),
        initializers: aiot_onnx::initializers_by_size(&model),
        nodes: Vec::new(),
        sizes: Vec::new(),
        obstacles: Vec::new(),
        engine_problems: Vec::new(),
        facts,
    };
    for minor in ENGINE_MINORS {
        let problems: Vec<String> = aiot_onnx::problems(&inspection.facts, minor)
            .iter()
            .map(ToString::to_string)
            .collect();
        if !problems.is_empty() {
            inspection.engine_problems.push((format!("1.{minor}"), problems));
        }
    }
    match aiot_onnx::prepare(&model) {
        Ok(prepared) => try_variants(&prepared, &mut inspection),
        Err(error) => inspection.obstacles.push(error.to_string()),
    }
    Ok(inspection)
}

/// Engine versions that are checked: Debian 13's and the build host's.
const ENGINE_MINORS: [u32; 2] = [21, 32];

/// Sizes do not hang on ranges, so any will do.
fn try_variants(prepared: &Model, inspection: &mut Inspection) {
    let mut ranges = Ranges::new();
    for tensor in aiot_onnx::calibration_tensors(prepared) {
        ranges.insert(tensor, Range { min: -1.0, max: 1.0 });
    }
    for precision in [Precision::Int8, Precision::Int8Symmetric] {
        let options = StaticOptions::new(activations(precision));
        match aiot_onnx::quantize_static(prepared, &ranges, &options) {
            Ok((variant, report)) => {
                if precision == Precision::Int8 {
                    inspection.nodes = report.nodes;
                }
                inspection.sizes.push((precision, variant.size_bytes()));
            }
            Err(error) => inspection.obstacles.push(format!("{precision}: {error}")),
        }
    }
    for precision in SWEEP {
        match direct(prepared, precision) {
            Ok(Some((variant, _))) => inspection.sizes.push((precision, variant.size_bytes())),
            Ok(None) => {}
            Err(error) => inspection.obstacles.push(format!("{precision}: {error}")),
        }
    }
}
