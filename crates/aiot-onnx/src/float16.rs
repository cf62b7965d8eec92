//! Conversion to half precision, for GPUs.
//!
//! Weights and the values between nodes become float16; graph inputs and outputs stay float32, with a Cast at the
//! edge. Nodes whose kernels need float32, and those of unknown types, stay as they are between Casts. Every Cast
//! stands before its first reader, so the graph stays topologically sorted.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;

use crate::check::domain;
use crate::error::OnnxError;
use crate::graph::{Names, attribute, int, int_attribute, is, new_node, node_label, subgraphs};
use crate::model::Model;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::tensor;
use crate::types::{declared_type, element_types};

/// Operators whose half kernels are missing or lose too much: coordinates, running sums, integer steps.
const BLOCKED: &[&str] = &[
    "CumSum",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "NonMaxSuppression",
    "QuantizeLinear",
    "Range",
    "Resize",
    "RoiAlign",
    "TopK",
    "Upsample",
];

/// Converts a prepared model to float16 with float32 inputs and outputs.
///
/// Constants beyond ±65504, infinities included, become ±65504: masks of -1e9 keep their meaning. A model without
/// float32 values comes out byte-identical.
///
/// # Errors
/// [`OnnxError::Unsupported`] for control flow, whose bodies would need the same treatment.
pub fn to_float16(prepared: &Model) -> Result<Model, OnnxError> {
    let graph = prepared.graph();
    if let Some(node) = graph.node.iter().find(|node| subgraphs(node).next().is_some()) {
        return Err(OnnxError::Unsupported {
            place: node_label(node),
            reason: "models with control flow cannot be converted to float16; use `float32`".to_owned(),
        });
    }
    let types = element_types(graph);
    let is_float = |name: &String| types.get(name) == Some(&DataType::Float);
    let is_half = |node: &NodeProto| {
        domain(node.domain()).is_empty()
            && !BLOCKED.contains(&node.op_type())
            && node
                .input
                .iter()
                .chain(&node.output)
                .all(|name| name.is_empty() || types.contains_key(name))
            && node.input.iter().chain(&node.output).any(is_float)
    };
    if !graph.node.iter().any(is_half) {
        return Ok(prepared.clone());
    }
    let mut converter = Converter {
        constants: graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name(), tensor))
            .collect(),
        names: Names::new(graph),
        nodes: Vec::new(),
        initializers: Vec::new(),
        halves: BTreeMap::new(),
        floats: BTreeMap::new(),
    };
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
    for node in &graph.node {
        let mut written = node.clone();
        if !is_half(node) {
            for input in written.input.iter_mut().filter(|name| is_float(name)) {
                *input = converter.float(input);
            }
            converter.nodes.push(written);
            continue;
        }
        for input in written.input.iter_mut().filter(|name| is_float(name)) {
            *input = converter.half(input)?;
        }
        convert_attributes(&mut written)?;
        let mut casts = Vec::new();
        for output in written.output.iter_mut().filter(|name| is_float(name)) {
            let name = output.clone();
            if outputs.contains(&name.as_str()) {
                *output = converter.names.fresh(&format!("{name}_half"));
                casts.push(cast(output, &name, DataType::Float));
                converter.floats.insert(name.clone(), name.clone());
            }
            converter.halves.insert(name, output.clone());
        }
        converter.nodes.push(written);
        converter.nodes.extend(casts);
    }

    let (nodes, initializers) = (converter.nodes, converter.initializers);
    let mut proto = prepared.proto().clone();
    let written = proto.graph.as_mut().expect("a checked model has a graph");
    written.node = nodes;
    written
        .value_info
        .retain(|value| declared_type(value) != Some(DataType::Float));
    written.initializer.extend(initializers);
    drop_unread(written);
    proto.producer_name = Some("aiot-onnx".to_owned());
    proto.producer_version = None;
    Model::from_proto(proto)
}

fn drop_unread(graph: &mut GraphProto) {
    let mut read: BTreeSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.input)
        .map(String::as_str)
        .collect();
    read.extend(graph.output.iter().map(|output| output.name()));
    graph.initializer.retain(|tensor| read.contains(tensor.name()));
}

struct Converter<'a> {
    constants: BTreeMap<&'a str, &'a TensorProto>,
    names: Names,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// The float16 name of each float32 value that has one.
    halves: BTreeMap<String, String>,
    /// The float32 name of each value that was computed in float16 and cast back.
    floats: BTreeMap<String, String>,
}

impl Converter<'_> {
    fn half(&mut self, name: &str) -> Result<String, OnnxError> {
        if let Some(half) = self.halves.get(name) {
            return Ok(half.clone());
        }
        let half = self.names.fresh(&format!("{name}_half"));
        match self.constants.get(name) {
            Some(constant) => self.initializers.push(to_half(constant, &half)?),
            None => self.nodes.push(cast(name, &half, DataType::Float16)),
        }
        self.halves.insert(name.to_owned(), half.clone());
        Ok(half)
    }

    fn float(&mut self, name: &str) -> String {
        if let Some(float) = self.floats.get(name) {
            return float.clone();
        }
        // Only values that a half node made exist in float16 alone; those keep their name there.
        if self.halves.get(name).is_none_or(|half| half != name) {
            return name.to_owned();
        }
        let float = self.names.fresh(&format!("{name}_float"));
        self.nodes.push(cast(name, &float, DataType::Float));
        self.floats.insert(name.to_owned(), float.clone());
        float
    }
}

fn cast(from: &str, to: &str, data_type: DataType) -> NodeProto {
    let mut node = new_node("Cast", &format!("{to}_Cast"), &[from], &[to]);
    node.attribute
        .push(int_attribute("to", i64::from(data_type as i32)));
    node
}

fn to_half(constant: &TensorProto, name: &str) -> Result<TensorProto, OnnxError> {
    let values = tensor::floats(constant).ok_or_else(|| OnnxError::BadTensor {
        name: constant.name().to_owned(),
        reason: "expected float32".to_owned(),
    })?;
    let largest = f16::MAX.to_f32();
    let halves: Vec<f16> = values
        .iter()
        .map(|value| f16::from_f32(value.clamp(-largest, largest)))
        .collect();
    Ok(tensor::from_halves(name, &constant.dims, &halves))
}

/// Changes the attributes that fix a node's output type to float32.
fn convert_attributes(node: &mut NodeProto) -> Result<(), OnnxError> {
    if is(node, "Cast") && int(node, "to", 0) == i64::from(DataType::Float as i32) {
        node.attribute.retain(|attribute| attribute.name() != "to");
        node.attribute
            .push(int_attribute("to", i64::from(DataType::Float16 as i32)));
    }
    if is(node, "ConstantOfShape") {
        let value = match attribute(node, "value").and_then(|attribute| attribute.t.as_ref()) {
            Some(value) => to_half(value, value.name())?,
            None => tensor::from_halves("", &[1], &[f16::ZERO]),
        };
        node.attribute.retain(|attribute| attribute.name() != "value");
        node.attribute.push(AttributeProto {
            name: Some("value".to_owned()),
            r#type: Some(AttributeType::Tensor as i32),
            t: Some(value),
            ..AttributeProto::default()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
