//! Small models for tests, with weights from a fixed generator.

pub(crate) mod interpreter;

pub(crate) use crate::graph::ints_attribute;
use crate::graph::{int_attribute, new_node};
use crate::model::Model;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use crate::tensor;

/// Puts a model together node by node.
pub(crate) struct Builder {
    pub graph: GraphProto,
    opset: i64,
    state: u64,
}

impl Builder {
    pub fn new(opset: i64) -> Self {
        Builder {
            graph: GraphProto {
                name: Some("g".to_owned()),
                ..GraphProto::default()
            },
            opset,
            state: 1,
        }
    }

    /// The next number of the generator, in -1..1.
    pub fn number(&mut self) -> f32 {
        self.state = self
            .state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn numbers(&mut self, count: i64) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    pub fn input(&mut self, name: &str, dims: &[i64]) {
        self.graph.input.push(value(name, dims));
    }

    pub fn output(&mut self, name: &str, dims: &[i64]) {
        self.graph.output.push(value(name, dims));
    }

    pub fn constant(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        self.graph
            .initializer
            .push(tensor::from_floats(name, dims, values));
    }

    /// A constant list of integers: axes, positions, amounts.
    pub fn integers(&mut self, name: &str, values: &[i64]) {
        let list = tensor::from_i64(name, &[values.len() as i64], values);
        self.graph.initializer.push(list);
    }

    /// A constant with generated values.
    pub fn random(&mut self, name: &str, dims: &[i64]) {
        let values = self.numbers(dims.iter().product());
        self.constant(name, dims, &values);
    }

    pub fn node(&mut self, operator: &str, inputs: &[&str], output: &str) -> &mut NodeProto {
        self.graph.node.push(new_node(
            operator,
            &format!("{output}_{operator}"),
            inputs,
            &[output],
        ));
        self.graph.node.last_mut().unwrap()
    }

    /// A square convolution with generated weight `<output>_w` and bias `<output>_b`.
    pub fn conv(&mut self, input: &str, output: &str, weight: [i64; 4], group: i64, pad: i64) {
        let (w, b) = (format!("{output}_w"), format!("{output}_b"));
        self.random(&w, &weight);
        self.random(&b, &weight[..1]);
        let node = self.node("Conv", &[input, &w, &b], output);
        node.attribute.push(int_attribute("group", group));
        node.attribute.push(ints_attribute("pads", &[pad; 4]));
    }

    /// A Gemm with transposed weight `[outputs, inputs]`.
    pub fn gemm(&mut self, input: &str, output: &str, outputs: i64, inputs: i64) {
        let (w, b) = (format!("{output}_w"), format!("{output}_b"));
        self.random(&w, &[outputs, inputs]);
        self.random(&b, &[outputs]);
        self.node("Gemm", &[input, &w, &b], output)
            .attribute
            .push(int_attribute("transB", 1));
    }

    /// BatchNormalization with generated statistics.
    pub fn batch_normalization(&mut self, input: &str, output: &str, channels: i64) {
        let names = ["scale", "offset", "mean", "variance"].map(|part| format!("{output}_{part}"));
        for name in &names[..3] {
            self.random(name, &[channels]);
        }
        let variance: Vec<f32> = self
            .numbers(channels)
            .iter()
            .map(|value| value.abs() + 0.1)
            .collect();
        self.constant(&names[3], &[channels], &variance);
        self.node(
            "BatchNormalization",
            &[input, &names[0], &names[1], &names[2], &names[3]],
            output,
        );
    }

    pub fn proto(&self) -> ModelProto {
        ModelProto {
            ir_version: Some(8),
            producer_name: Some("test".to_owned()),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(self.opset),
            }],
            graph: Some(self.graph.clone()),
            ..ModelProto::default()
        }
    }

    pub fn model(&self) -> Model {
        Model::from_proto(self.proto()).unwrap()
    }
}

pub(crate) fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value),
        ..AttributeProto::default()
    }
}

pub(crate) fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dimension = |&dim: &i64| Dimension {
        value: Some(dimension::Value::DimValue(dim)),
        ..Dimension::default()
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(DataType::Float as i32),
                shape: Some(TensorShapeProto {
                    dim: dims.iter().map(dimension).collect(),
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// The nodes of a graph, one a line: `Operator(inputs) outputs`.
pub(crate) fn listing(model: &Model) -> Vec<String> {
    let line = |node: &NodeProto| {
        format!(
            "{}({}) {}",
            node.op_type(),
            node.input.join(" "),
            node.output.join(" ")
        )
    };
    model.graph().node.iter().map(line).collect()
}
