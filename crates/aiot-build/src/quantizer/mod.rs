//! The quantizer's edge: runs models on the host's engine to choose how to quantize them, and to judge the result.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`samples`] | calibration inputs, from a declared data set or from `.npy` files |
//! | [`observe`] | histograms and channel means of a graph's tensors, streaming |
//! | [`direct`] | variants that need no calibration |
//! | [`compare`] | outputs against the float model's: signal to noise, agreement, latency |
//! | [`goal`] | what a variant must reach, and which of two forms is better |
//! | [`judge`] | a variant's metric on data that was not calibrated with |
//! | [`pareto`] | which variants no other one beats |
//! | [`plot`] | pictures of nodes and variants |
//! | [`record`] | decisions to and from the calibration record |
//! | [`side_by_side`] | variants of one model in a table |
//! | [`search`] | which improvements a model keeps, and which nodes stay float |
//! | [`variant`] | one variant: decisions, and how it is made from them |
//!
//! The arithmetic is `aiot-onnx`'s; the engine is `aiot-inference`'s. What is found here goes into the calibration
//! record, so that a rebuild neither runs nor decides anything again.

pub mod compare;
pub mod direct;
pub mod goal;
pub mod judge;
pub mod observe;
pub mod pareto;
pub mod plot;
pub mod record;
pub mod samples;
pub mod search;
pub mod side_by_side;
pub mod variant;

use aiot_onnx::Activations;
use aiot_package::Precision;

/// How a static variant stores activations.
pub fn activations(precision: Precision) -> Activations {
    match precision {
        Precision::Int8Symmetric => Activations::S8Symmetric,
        _ => Activations::U8Asymmetric,
    }
}
