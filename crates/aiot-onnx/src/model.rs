//! One ONNX model in memory.

use bytes::Bytes;
use prost::Message;

use crate::check;
use crate::error::OnnxError;
use crate::proto::{GraphProto, ModelProto};
use crate::wire;

/// A checked ONNX model.
///
/// Holds what the rest of the crate relies on: there is a graph; every value is defined once and before its use;
/// initializers are in the file and hold what their dims promise; nothing in the file was dropped by reading it.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    proto: ModelProto,
}

impl Model {
    /// Reads and checks a model. Weights stay slices of `bytes`.
    ///
    /// A model written by protobuf's own serializer, as all exporters do, comes out of [`Model::to_bytes`] byte by
    /// byte as it went in.
    ///
    /// # Errors
    /// See [`OnnxError`]: truncated or foreign bytes, fields that this version would lose, names defined twice or
    /// never, unsorted graphs, tensors whose data does not fit, external data.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<Model, OnnxError> {
        let bytes = bytes.into();
        wire::check_fields(&bytes)?;
        let proto = ModelProto::decode(bytes).map_err(|error| OnnxError::NotProtobuf {
            reason: error.to_string(),
        })?;
        Model::from_proto(proto)
    }

    /// Checks a model that was put together in memory.
    ///
    /// # Errors
    /// As [`Model::parse`], from the check of the structure on.
    pub fn from_proto(proto: ModelProto) -> Result<Model, OnnxError> {
        check::check(&proto)?;
        Ok(Model { proto })
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Length of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.proto.encoded_len() as u64
    }

    /// The protobuf message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The message, to be changed and checked again with [`Model::from_proto`].
    pub fn into_proto(self) -> ModelProto {
        self.proto
    }

    /// The graph; [`Model::from_proto`] made sure that there is one.
    pub(crate) fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("a checked model has a graph")
    }

    /// The imported opset of the default domain; 0 where it imports none.
    pub(crate) fn opset(&self) -> i64 {
        let default = self
            .proto
            .opset_import
            .iter()
            .find(|opset| check::domain(opset.domain()).is_empty());
        default.map_or(0, |opset| opset.version())
    }
}

#[cfg(test)]
mod tests;
