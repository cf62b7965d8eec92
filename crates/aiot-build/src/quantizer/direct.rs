//! Variants that need no calibration: half precision, dynamic, and weights only.

use aiot_onnx::{Model, NodeReport, QuantizeError, WeightBits};
use aiot_package::Precision;

/// The variant of a prepared model, and what became of its nodes (nothing is told of float16); `None` for one that
/// needs ranges.
///
/// # Errors
/// Weights that are not finite, and models that this form cannot be made of.
pub fn direct(
    prepared: &Model,
    precision: Precision,
) -> Result<Option<(Model, Vec<NodeReport>)>, QuantizeError> {
    let (model, report) = match precision {
        Precision::Int8 | Precision::Int8Symmetric => return Ok(None),
        Precision::Float32 => return Ok(Some((prepared.clone(), Vec::new()))),
        Precision::Float16 => return Ok(Some((aiot_onnx::to_float16(prepared)?, Vec::new()))),
        Precision::Int8Dynamic => aiot_onnx::quantize_dynamic(prepared)?,
        Precision::Int8Weights => aiot_onnx::quantize_weights(prepared, WeightBits::Eight)?,
        Precision::Int4Weights => aiot_onnx::quantize_weights(prepared, WeightBits::Four)?,
    };
    Ok(Some((model, report.nodes)))
}
