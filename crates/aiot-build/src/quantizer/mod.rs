//! The quantizer's edge: runs models on the host's engine to choose how to quantize them, and to judge the result.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`samples`] | calibration inputs, from a declared data set or from `.npy` files |
//! | [`observe`] | histograms and channel means of a graph's tensors, streaming |
//! | [`direct`] | variants that need no calibration |
//! | [`compare`] | outputs against the float model's: signal to noise, agreement, latency |
//! | [`judge`] | a variant's metric on data that was not calibrated with |
//! | [`record`] | decisions to and from the calibration record |
//! | [`search`] | which improvements a model keeps, and which nodes stay float |
//!
//! The arithmetic is `aiot-onnx`'s; the engine is `aiot-inference`'s. What is found here goes into the calibration
//! record, so that a rebuild neither runs nor decides anything again.

pub mod compare;
pub mod direct;
pub mod judge;
pub mod observe;
pub mod record;
pub mod samples;
pub mod search;
