//! What is in a model, as plain data: for people, and for the plan to check against an engine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::domain;
use crate::graph::subgraphs;
use crate::model::Model;
use crate::proto::tensor_proto::DataType;
use crate::proto::tensor_shape_proto::dimension;
use crate::proto::{GraphProto, TypeProto, ValueInfoProto, type_proto};
use crate::tensor;

/// The facts of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModelFacts {
    /// Version of the file format.
    pub ir_version: i64,
    /// Opset of the default domain; 0 where none is imported.
    pub opset: i64,
    /// Every imported opset, by domain; the default domain is the empty string.
    pub opsets: BTreeMap<String, i64>,
    /// Operators with the number of their nodes, subgraphs included, sorted by domain and name.
    pub operators: Vec<OperatorUse>,
    /// Numbers in initializers, whatever their type.
    pub parameters: u64,
    /// Bytes that the initializers' data takes.
    pub weight_bytes: u64,
    /// Graph inputs that have no default value.
    pub inputs: Vec<TensorFacts>,
    /// Graph outputs.
    pub outputs: Vec<TensorFacts>,
}

/// How often a model uses one operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OperatorUse {
    /// Empty for the default domain.
    pub domain: String,
    /// `Conv`, `Gemm`, …
    pub operator: String,
    /// Number of nodes.
    pub count: u64,
    /// Whether the model brings the operator itself, as a function.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_function: bool,
}

/// A graph input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TensorFacts {
    /// Its name.
    pub name: String,
    /// ONNX's name of the element type in lower case, `float` for float32; `sequence`, `map`, … for what is no tensor.
    pub element_type: String,
    /// The dimensions, `None` where even their number is open.
    pub shape: Option<Vec<Dimension>>,
}

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dimension {
    /// A fixed length.
    Fixed(i64),
    /// A named open length, or the empty name.
    Symbolic(String),
}

/// An initializer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InitializerFacts {
    /// Its name.
    pub name: String,
    /// ONNX's name of the element type in lower case.
    pub element_type: String,
    /// Its dimensions.
    pub dims: Vec<i64>,
    /// Bytes that its data takes.
    pub size_bytes: u64,
}

/// The graph's initializers, largest first, those of equal size by name.
pub fn initializers_by_size(model: &Model) -> Vec<InitializerFacts> {
    let facts = |tensor: &crate::proto::TensorProto| {
        let count = tensor::element_count(&tensor.dims).unwrap_or(0);
        InitializerFacts {
            name: tensor.name().to_owned(),
            element_type: element_type(tensor.data_type()),
            dims: tensor.dims.clone(),
            size_bytes: tensor::data_bytes(tensor.data_type(), count) as u64,
        }
    };
    let mut all: Vec<InitializerFacts> = model.graph().initializer.iter().map(facts).collect();
    all.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.name.cmp(&b.name)));
    all
}

/// Collects the facts of a model.
pub fn inspect(model: &Model) -> ModelFacts {
    let proto = model.proto();
    let graph = model.graph();
    let mut counts = BTreeMap::new();
    count_operators(graph, &mut counts);
    for function in &proto.functions {
        for node in &function.node {
            *counts
                .entry((domain(node.domain()).to_owned(), node.op_type().to_owned()))
                .or_default() += 1;
        }
    }
    let is_function = |domain_name: &str, operator: &str| {
        let mut functions = proto.functions.iter();
        functions.any(|function| domain(function.domain()) == domain_name && function.name() == operator)
    };
    let operators = counts
        .into_iter()
        .map(|((domain, operator), count)| {
            let is_function = is_function(&domain, &operator);
            OperatorUse {
                domain,
                operator,
                count,
                is_function,
            }
        })
        .collect();
    let (mut parameters, mut weight_bytes) = (0u64, 0u64);
    for initializer in &graph.initializer {
        let count = tensor::element_count(&initializer.dims).unwrap_or(0);
        parameters = parameters.saturating_add(count as u64);
        weight_bytes = weight_bytes.saturating_add(tensor::data_bytes(initializer.data_type(), count) as u64);
    }
    let has_default = |name: &str| {
        graph
            .initializer
            .iter()
            .any(|initializer| initializer.name() == name)
    };
    ModelFacts {
        ir_version: proto.ir_version(),
        opset: model.opset(),
        opsets: proto
            .opset_import
            .iter()
            .map(|opset| (domain(opset.domain()).to_owned(), opset.version()))
            .collect(),
        operators,
        parameters,
        weight_bytes,
        inputs: graph
            .input
            .iter()
            .filter(|input| !has_default(input.name()))
            .map(tensor_facts)
            .collect(),
        outputs: graph.output.iter().map(tensor_facts).collect(),
    }
}

fn count_operators(graph: &GraphProto, counts: &mut BTreeMap<(String, String), u64>) {
    for node in &graph.node {
        *counts
            .entry((domain(node.domain()).to_owned(), node.op_type().to_owned()))
            .or_default() += 1;
        subgraphs(node).for_each(|graph| count_operators(graph, counts));
    }
}

fn tensor_facts(value: &ValueInfoProto) -> TensorFacts {
    let kind = value
        .r#type
        .as_ref()
        .and_then(|kind: &TypeProto| kind.value.as_ref());
    let (element_type, shape) = match kind {
        Some(type_proto::Value::TensorType(tensor)) => {
            (element_type(tensor.elem_type()), tensor.shape.as_ref())
        }
        Some(type_proto::Value::SparseTensorType(_)) => ("sparse-tensor".to_owned(), None),
        Some(type_proto::Value::SequenceType(_)) => ("sequence".to_owned(), None),
        Some(type_proto::Value::MapType(_)) => ("map".to_owned(), None),
        Some(type_proto::Value::OptionalType(_)) => ("optional".to_owned(), None),
        Some(type_proto::Value::OpaqueType(_)) => ("opaque".to_owned(), None),
        None => ("unknown".to_owned(), None),
    };
    let shape = shape.map(|shape| {
        let dimension = |dim: &crate::proto::tensor_shape_proto::Dimension| match &dim.value {
            Some(dimension::Value::DimValue(length)) => Dimension::Fixed(*length),
            Some(dimension::Value::DimParam(name)) => Dimension::Symbolic(name.clone()),
            None => Dimension::Symbolic(String::new()),
        };
        shape.dim.iter().map(dimension).collect()
    });
    TensorFacts {
        name: value.name().to_owned(),
        element_type,
        shape,
    }
}

fn element_type(number: i32) -> String {
    DataType::try_from(number).map_or_else(
        |_| format!("type-{number}"),
        |data_type| data_type.as_str_name().to_lowercase(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Builder;

    #[test]
    fn facts_of_a_small_net() {
        let mut builder = Builder::new(17);
        builder.input("x", &[1, 3, 8, 8]);
        builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
        builder.node("Relu", &["a"], "y");
        builder.output("y", &[1, 4, 8, 8]);
        let facts = inspect(&builder.model());
        assert_eq!((facts.ir_version, facts.opset), (8, 17));
        let operators: Vec<_> = facts
            .operators
            .iter()
            .map(|u| (u.operator.as_str(), u.count))
            .collect();
        assert_eq!(operators, [("Conv", 1), ("Relu", 1)]);
        assert_eq!((facts.parameters, facts.weight_bytes), (112, 448));
        assert_eq!(facts.inputs[0].element_type, "float");
        assert_eq!(facts.inputs[0].shape.as_ref().unwrap()[1], Dimension::Fixed(3));
        let sizes = initializers_by_size(&builder.model());
        let sizes: Vec<_> = sizes
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor.size_bytes))
            .collect();
        assert_eq!(sizes, [("a_w", 432), ("a_b", 16)]);
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<ModelFacts>(&json).unwrap(), facts);
    }
}
