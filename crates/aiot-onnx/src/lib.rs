//! ONNX graphs: read, check, prepare, quantize, write.
//!
//! Bytes go in, bytes come out: no file, engine or network here, and the same input gives the same bytes on every
//! processor. The way of a model through this crate:
//!
//! ```text
//! bytes --Model::parse--> Model --inspect--> ModelFacts --problems--> what an engine version cannot take
//!       Model --prepare--> Model, same outputs, normal form
//!       calibration_tensors + with_outputs --(an engine runs it)--> Ranges
//!       Model + Ranges --quantize_static--> Model (QDQ) + QuantizeReport
//!       Model --quantize_dynamic, quantize_weights--> Model + QuantizeReport, without ranges
//!       Model --to_float16--> Model
//! ```
//!
//! Running a graph, choosing samples and judging accuracy belong to `aiot-inference`.

mod check;
mod engine;
mod equalize;
mod error;
mod exact;
mod external;
mod float16;
mod graph;
mod histogram;
mod inspect;
mod model;
mod operators;
mod parallel;
mod permute;
mod prepare;
pub mod proto;
mod quantize;
mod ranges;
mod tensor;
#[cfg(test)]
mod testing;
mod types;
mod wire;

pub use engine::{EngineLimits, Problem, engine_limits, problems};
pub use equalize::{channel_factors, equalize, scale_channels};
pub use error::{OnnxError, QuantizeError};
pub use exact::{Exactness, exactness};
pub use float16::to_float16;
pub use histogram::{Histogram, Parts, survey};
pub use inspect::{
    Dimension, InitializerFacts, ModelFacts, OperatorUse, TensorFacts, initializers_by_size, inspect,
};
pub use model::Model;
pub use prepare::prepare;
pub use quantize::{
    Activations, ChannelAxis, Granularity, NodeOutcome, NodeReport, QuantizeReport, StaticOptions,
    WeightBits, calibration_tensors, input_channels, is_sequence_model, quantize_dynamic, quantize_static,
    quantize_weights, with_outputs,
};
pub use ranges::{Range, Ranges};
