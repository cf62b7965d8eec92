//! What can go wrong, with the place in the graph and what to do next.

use thiserror::Error;

/// A model that cannot be read, checked or prepared.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OnnxError {
    /// The bytes end inside a field.
    #[error("the ONNX file ends inside `{path}`: it is truncated or damaged; fetch it again")]
    Truncated {
        /// Where the bytes ran out, as a path of field names.
        path: String,
    },
    /// The bytes are no protobuf message of this type.
    #[error("not an ONNX file: {reason}")]
    NotProtobuf {
        /// What the decoder stumbled over.
        reason: String,
    },
    /// A field that the vendored `onnx.proto` does not have.
    #[error(
        "`{path}` has field number {number}, which this version does not know and would lose: the file comes from a \
         newer ONNX; export it with IR version 14 or older, or update `crates/aiot-onnx/proto`"
    )]
    UnknownField {
        /// The message, as a path of field names from the model.
        path: String,
        /// The protobuf field number.
        number: u32,
    },
    /// More messages than any real graph has.
    #[error("the file holds more than {limit} messages; refused to bound memory")]
    TooManyMessages {
        /// The bound.
        limit: usize,
    },
    /// Nested too deeply.
    #[error("the file nests messages more than {limit} deep; refused to bound recursion")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// A part that every model needs is absent or out of range.
    #[error("the model is incomplete: {what}")]
    Incomplete {
        /// What is missing.
        what: String,
    },
    /// Two values of one graph have the same name.
    #[error("the name `{name}` is defined twice ({place}); every value of a graph needs its own name")]
    DuplicateName {
        /// The name.
        name: String,
        /// The second definition.
        place: String,
    },
    /// A node or the graph's outputs use a value that nothing defines.
    #[error("{place} uses `{name}`, which no graph input, initializer or node defines")]
    MissingValue {
        /// The name.
        name: String,
        /// Who uses it.
        place: String,
    },
    /// A node uses a value that is defined only later: a cycle, or an unsorted graph.
    #[error(
        "{place} uses `{name}` before it is computed: the nodes are not topologically sorted, or form a cycle"
    )]
    NotSorted {
        /// The name.
        name: String,
        /// Who uses it.
        place: String,
    },
    /// A tensor whose dims or data make no sense.
    #[error("tensor `{name}`: {reason}")]
    BadTensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Data outside of the file.
    #[error(
        "initializer `{name}` keeps its data in another file (`{location}`), and only one file was given"
    )]
    ExternalData {
        /// The initializer.
        name: String,
        /// The other file, as the model says.
        location: String,
    },
    /// The opset is too old to be quantized and cannot be raised safely.
    #[error(
        "{place} cannot be brought from opset {opset} to 13, which per-channel quantization needs: {reason}; export \
         the model again with `opset_version=17`, or convert it with `onnx.version_converter`"
    )]
    OpsetTooOld {
        /// The node, or the model.
        place: String,
        /// The model's opset.
        opset: i64,
        /// What stands in the way.
        reason: String,
    },
    /// A transformation that does not know what to do with this model.
    #[error("{place}: {reason}")]
    Unsupported {
        /// The node or tensor.
        place: String,
        /// What is not supported, and what to do instead.
        reason: String,
    },
}

/// A model that cannot be quantized.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum QuantizeError {
    /// A weight or bias holds NaN or infinity.
    #[error(
        "initializer `{tensor}` holds {value} at index {index}: the training run diverged; export a sound model"
    )]
    NotFinite {
        /// The initializer.
        tensor: String,
        /// Row-major index of the first such element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// A tensor that must be quantized has no calibrated range.
    #[error(
        "no range for tensor `{tensor}`: the ranges belong to another version of the model, or calibration saw no \
         sample; calibrate again"
    )]
    MissingRange {
        /// The tensor.
        tensor: String,
    },
    /// A calibrated range is not a range.
    #[error("the range of tensor `{tensor}` is {min}..{max}; both ends must be finite and in order")]
    BadRange {
        /// The tensor.
        tensor: String,
        /// Its lower end.
        min: f32,
        /// Its upper end.
        max: f32,
    },
    /// The model was not prepared, or is otherwise unfit.
    #[error(transparent)]
    Model(#[from] OnnxError),
}
