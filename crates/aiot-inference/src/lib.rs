//! Preprocessing, engine, postprocessing, evaluation: the same code on the build host and on the device.
//!
//! A [`ModelPackage`](aiot_package::ModelPackage) says how an input file becomes a tensor and what the outputs
//! mean; this crate obeys it:
//!
//! ```text
//! file --preprocess--> Tensor [1, …] --engine (ONNX Runtime)--> outputs --postprocess--> Outcome, Prediction
//! ```
//!
//! [`Model`] is the four together. The build host uses it through [`evaluate()`] and [`golden::record`], the device
//! through [`Model::predict_bytes`] and [`golden::replay`]. The quantizer runs graphs of any form ([`engine::Graph`]).
//!
//! Everything here is synchronous and without network; batch size is 1. Reads are bounded (see [`limits`]), hostile
//! inputs give errors, never panics. What it does not do: train, quantize, or read a camera.

pub mod dataset;
pub mod drift;
pub mod engine;
pub mod evaluate;
mod file;
pub mod golden;
pub mod limits;
pub mod model;
pub mod postprocess;
pub mod preprocess;
mod tensor;

pub use dataset::{Dataset, DatasetError, Sample};
pub use engine::{Engine, EngineError, ExecutionProvider, SessionOptions};
pub use evaluate::{EvaluateError, Evaluation, evaluate};
pub use file::{FileError, read_input};
pub use model::{Model, ModelError, PredictError};
pub use postprocess::{Outcome, Prediction, PredictionResult};
pub use tensor::{ShapeError, Tensor, TensorSpec};
