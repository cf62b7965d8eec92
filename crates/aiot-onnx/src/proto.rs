//! The protobuf types of an ONNX file, generated from `proto/onnx.proto`; the field meanings are documented there.

#![allow(missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
