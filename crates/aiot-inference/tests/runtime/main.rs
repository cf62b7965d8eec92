//! Everything that needs a real ONNX Runtime, whose path is in `AIOT_TEST_ENGINE`.

mod common;
mod drift;
mod engine;
mod model;
