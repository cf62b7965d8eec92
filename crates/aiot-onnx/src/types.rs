//! The element type of every value of a graph, as far as it can be told without shapes.

use std::collections::BTreeMap;

use crate::check::domain;
use crate::graph::{attribute, int};
use crate::proto::tensor_proto::DataType;
use crate::proto::{GraphProto, NodeProto, ValueInfoProto, type_proto};

/// Types by value name; a value without an entry has an unknown one.
pub(crate) fn element_types(graph: &GraphProto) -> BTreeMap<String, DataType> {
    let mut types = BTreeMap::new();
    for value in graph.value_info.iter().chain(&graph.output).chain(&graph.input) {
        if let Some(data_type) = declared_type(value) {
            types.insert(value.name().to_owned(), data_type);
        }
    }
    for tensor in &graph.initializer {
        if let Ok(data_type) = DataType::try_from(tensor.data_type()) {
            types.insert(tensor.name().to_owned(), data_type);
        }
    }
    for node in &graph.node {
        for (position, output) in node
            .output
            .iter()
            .enumerate()
            .filter(|(_, output)| !output.is_empty())
        {
            if !types.contains_key(output)
                && let Some(data_type) = output_type(node, position, &types)
            {
                types.insert(output.clone(), data_type);
            }
        }
    }
    types
}

/// The element type that a graph says one of its values has.
pub(crate) fn declared_type(value: &ValueInfoProto) -> Option<DataType> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => DataType::try_from(tensor.elem_type()).ok(),
        _ => None,
    }
}

fn output_type(node: &NodeProto, position: usize, types: &BTreeMap<String, DataType>) -> Option<DataType> {
    if !domain(node.domain()).is_empty() {
        return None;
    }
    let input = |position: usize| node.input.get(position).and_then(|name| types.get(name)).copied();
    match node.op_type() {
        "Cast" => DataType::try_from(i32::try_from(int(node, "to", 0)).ok()?).ok(),
        "Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression" => Some(DataType::Int64),
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Not" | "Xor"
        | "IsNaN" | "IsInf" => Some(DataType::Bool),
        "Where" | "CastLike" => input(1),
        "OneHot" => input(2),
        "ConstantOfShape" => {
            let value = attribute(node, "value").and_then(|attribute| attribute.t.as_ref());
            value.map_or(Some(DataType::Float), |tensor| {
                DataType::try_from(tensor.data_type()).ok()
            })
        }
        "ConvInteger" | "MatMulInteger" => Some(DataType::Int32),
        "QuantizeLinear" => input(2).or(Some(DataType::Uint8)),
        "DequantizeLinear" => input(1),
        "TopK" | "MaxPool" if position > 0 => Some(DataType::Int64),
        "Dropout" if position > 0 => Some(DataType::Bool),
        "If"
        | "Loop"
        | "Scan"
        | "Constant"
        | "Unique"
        | "EyeLike"
        | "Multinomial"
        | "Bernoulli"
        | "RandomNormal"
        | "RandomNormalLike"
        | "RandomUniform"
        | "RandomUniformLike"
        | "DynamicQuantizeLinear"
        | "QLinearConv"
        | "QLinearMatMul"
        | "Optional"
        | "OptionalGetElement"
        | "OptionalHasElement"
        | "BitCast" => None,
        operator if operator.contains("Sequence") || operator.contains("String") => None,
        _ => input(0),
    }
}
