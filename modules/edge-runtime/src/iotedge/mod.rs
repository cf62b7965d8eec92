//! The module as a citizen of Azure IoT Edge: what edgeAgent's environment says, tokens from the workload API, and
//! edgeHub's dialect of MQTT (inputs, outputs, twin, direct methods).
//!
//! Formats and traps: IoT Edge's own sources (`edge-hub` of `Azure/iotedge`); where the official clients differ, what
//! edgeHub reads counts. What it does not do: predict, or decide what to publish.

mod environment;
mod hub;
pub(crate) mod methods;
mod names;
mod token;
mod twin;
mod workload;

pub(crate) use environment::EdgeEnvironment;
pub(crate) use hub::{EdgeHub, Input, report_once};
