//! The ranges of a graph's tensors over a calibration set, for the quantizer.
//!
//! Memory stays that of one inference, whatever the set's size: only the least and largest value are kept. The graph
//! runs unoptimized on one thread, so that the tensors are those that the file names and their order of summation is
//! fixed. Float results still differ by a few units in the last place between kinds of processor; the caller rounds
//! and locks the ranges.

use std::collections::BTreeMap;

use aiot_package::{InputSpec, Precision};

use crate::dataset::Dataset;
use crate::engine::{Engine, EngineError, SessionOptions};
use crate::file::FileError;
use crate::preprocess::{Preparation, PrepareError, SpecError};

/// Why there are no ranges.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The input specification cannot be obeyed.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The engine refuses the graph or a run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A sample cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A sample is no usable input.
    #[error("sample `{file}`: {source}")]
    Prepare {
        /// The sample.
        file: String,
        /// What is wrong.
        source: PrepareError,
    },
    /// A tensor became NaN or infinite.
    #[error("sample `{file}`: tensor `{tensor}` holds NaN or infinity")]
    NotFinite {
        /// The sample.
        file: String,
        /// The tensor.
        tensor: String,
    },
}

/// Least and largest value of the graph's input and of every output of `onnx` over all samples (and all windows) of
/// `dataset`. To observe a tensor inside the graph, make it an output first. Empty tensors have no range.
///
/// # Errors
/// [`CalibrateError`] names the sample, and the tensor where one is at fault.
pub fn observe_ranges(
    engine: &Engine,
    onnx: &[u8],
    input: &InputSpec,
    dataset: &Dataset,
) -> Result<BTreeMap<String, (f32, f32)>, CalibrateError> {
    let preparation = Preparation::new(input)?;
    let options = SessionOptions {
        optimize: false,
        ..SessionOptions::default()
    };
    let mut session = engine.session(onnx, Precision::Float32, &options)?;
    let input_name = session.input().name.clone();
    let mut ranges = BTreeMap::new();
    for sample in dataset.samples() {
        let bytes = dataset.read(sample)?;
        let prepared = preparation
            .prepare(&bytes)
            .map_err(|source| CalibrateError::Prepare {
                file: sample.file.clone(),
                source,
            })?;
        for (_, tensor) in prepared {
            let mut fault = None;
            let mut observe = |name: &str, values: &[f32]| match range(values) {
                Ok(Some(range)) => widen(&mut ranges, name, range),
                Ok(None) => {}
                Err(NotFinite) => fault = fault.take().or(Some(name.to_owned())),
            };
            observe(&input_name, tensor.values());
            session.run_with(&tensor, |name, _, values| observe(name, values))?;
            if let Some(tensor) = fault {
                return Err(CalibrateError::NotFinite {
                    file: sample.file.clone(),
                    tensor,
                });
            }
        }
    }
    Ok(ranges)
}

struct NotFinite;

fn range(values: &[f32]) -> Result<Option<(f32, f32)>, NotFinite> {
    if values.is_empty() {
        return Ok(None);
    }
    let (mut least, mut largest, mut finite) = (f32::INFINITY, f32::NEG_INFINITY, true);
    for &value in values {
        finite &= value.is_finite();
        least = least.min(value);
        largest = largest.max(value);
    }
    if finite {
        Ok(Some((least, largest)))
    } else {
        Err(NotFinite)
    }
}

fn widen(ranges: &mut BTreeMap<String, (f32, f32)>, name: &str, (least, largest): (f32, f32)) {
    match ranges.get_mut(name) {
        Some(range) => *range = (range.0.min(least), range.1.max(largest)),
        None => {
            ranges.insert(name.to_owned(), (least, largest));
        }
    }
}
