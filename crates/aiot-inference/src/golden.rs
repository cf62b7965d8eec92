//! Golden cases: inputs with the outputs that the build computed for them.
//!
//! The build records them into the image; the device replays them at its self-test and so proves that it computes
//! what the build computed. Of a recording the first window counts.

use std::collections::BTreeMap;
use std::path::Path;

use aiot_package::{Golden, GoldenCase, Tolerance};

use crate::file::{FileError, inside, read_bounded};
use crate::limits::{MAX_INPUT_BYTES, MAX_LIST_BYTES};
use crate::model::{Model, PredictError};
use crate::postprocess::NotFinite;
use crate::tensor::Tensor;

/// The list's name in the package.
pub const GOLDEN_FILE: &str = "golden.json";

/// Why golden cases cannot be recorded or read.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A file cannot be read, or its name leaves the package.
    #[error(transparent)]
    File(#[from] FileError),
    /// `golden.json` is not what this code writes.
    #[error("`golden.json` is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// An input gives no outputs.
    #[error("golden input `{file}`: {source}")]
    Predict {
        /// The input.
        file: String,
        /// Why.
        source: PredictError,
    },
}

/// A case that this device does not reproduce.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// The input gives no outputs here.
    #[error(transparent)]
    Failed(#[from] GoldenError),
    /// An output is missing or has another length.
    #[error("golden input `{file}`: output `{output}` has {got} values, recorded were {expected}")]
    Length {
        /// The input.
        file: String,
        /// The output.
        output: String,
        /// Recorded number of values.
        expected: usize,
        /// Number of values here; 0 when there is no such output.
        got: usize,
    },
    /// A value is too far off.
    #[error("golden input `{file}`: output `{output}`[{index}] is {got:?}, recorded was {expected:?}")]
    Value {
        /// The input.
        file: String,
        /// The output.
        output: String,
        /// Position in row-major order.
        index: usize,
        /// As recorded.
        expected: f32,
        /// As computed here.
        got: f32,
    },
}

/// Computes the outputs for `files` (relative to `dir`) and keeps them to be replayed within `tolerance`.
///
/// # Errors
/// [`GoldenError`] names the file that cannot be used.
pub fn record(
    model: &Model,
    dir: &Path,
    files: &[String],
    tolerance: Tolerance,
) -> Result<Golden, GoldenError> {
    let mut cases = Vec::with_capacity(files.len());
    for file in files {
        cases.push(GoldenCase {
            file: file.clone(),
            outputs: outputs(model, dir, file)?,
        });
    }
    Ok(Golden { tolerance, cases })
}

/// Reads the golden cases of the package in `dir`.
///
/// # Errors
/// [`GoldenError`] when the list is missing or malformed.
pub fn read(dir: &Path) -> Result<Golden, GoldenError> {
    Ok(serde_json::from_slice(&read_bounded(
        &dir.join(GOLDEN_FILE),
        MAX_LIST_BYTES,
    )?)?)
}

/// Replays all cases; their files are relative to `dir`.
///
/// # Errors
/// The first [`Mismatch`].
pub fn replay(model: &Model, dir: &Path, golden: &Golden) -> Result<(), Mismatch> {
    golden
        .cases
        .iter()
        .try_for_each(|case| replay_case(model, dir, case, golden.tolerance))
}

/// Replays one case.
///
/// # Errors
/// The [`Mismatch`] at the first value that is too far off.
pub fn replay_case(
    model: &Model,
    dir: &Path,
    case: &GoldenCase,
    tolerance: Tolerance,
) -> Result<(), Mismatch> {
    let got = outputs(model, dir, &case.file)?;
    for (output, expected) in &case.outputs {
        let got = got.get(output).map_or(&[][..], Vec::as_slice);
        if got.len() != expected.len() {
            return Err(Mismatch::Length {
                file: case.file.clone(),
                output: output.clone(),
                expected: expected.len(),
                got: got.len(),
            });
        }
        for (index, (&expected, &got)) in expected.iter().zip(got).enumerate() {
            if !tolerance.accepts(expected, got) {
                let (file, output) = (case.file.clone(), output.clone());
                return Err(Mismatch::Value {
                    file,
                    output,
                    index,
                    expected,
                    got,
                });
            }
        }
    }
    Ok(())
}

fn outputs(model: &Model, dir: &Path, file: &str) -> Result<BTreeMap<String, Vec<f32>>, GoldenError> {
    let fail = |source: PredictError| GoldenError::Predict {
        file: file.to_owned(),
        source,
    };
    let bytes = read_bounded(&inside(dir, file)?, MAX_INPUT_BYTES)?;
    let mut prepared = model
        .preparation()
        .prepare(&bytes)
        .map_err(|error| fail(error.into()))?;
    let Some((_, tensor)) = prepared.next() else {
        return Ok(BTreeMap::new());
    };
    let outputs = model.run(&tensor).map_err(|error| fail(error.into()))?;
    if outputs
        .values()
        .flat_map(Tensor::values)
        .any(|value| !value.is_finite())
    {
        // JSON has no word for them.
        return Err(fail(NotFinite.into()));
    }
    Ok(outputs
        .into_iter()
        .map(|(name, tensor)| (name, tensor.into_values()))
        .collect())
}
