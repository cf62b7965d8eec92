//! What all forms without calibration share: which weights can take 8 bits, and putting the changed graph together.

use std::collections::{BTreeMap, BTreeSet};

use super::weights::{Layout, finite, quantize_weight};
use super::{Granularity, NodeOutcome, NodeReport, QuantizeReport};
use crate::check::domain;
use crate::error::{OnnxError, QuantizeError};
use crate::graph::{Index, Names, captures, float, int, int_attribute, is, new_node, node_name};
use crate::model::Model;
use crate::proto::tensor_proto::DataType;
use crate::proto::{GraphProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::tensor;

/// The name that quantized files carry as their producer.
const PRODUCER: &str = "aiot-onnx";

/// Domain of ONNX Runtime's own operators.
pub(super) const RUNTIME_DOMAIN: &str = "com.microsoft";

/// `prepared` with other nodes and further constants; constants that nobody reads any more are gone.
pub(super) fn assemble(
    prepared: &Model,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
) -> Result<Model, OnnxError> {
    let mut proto = prepared.proto().clone();
    let uses = |name: &str| nodes.iter().any(|node| node.domain() == name);
    let imports = |name: &str| {
        let mut imports = prepared.proto().opset_import.iter();
        imports.any(|import| import.domain() == name)
    };
    if uses(RUNTIME_DOMAIN) && !imports(RUNTIME_DOMAIN) {
        proto.opset_import.push(OperatorSetIdProto {
            domain: Some(RUNTIME_DOMAIN.to_owned()),
            version: Some(1),
        });
    }
    let written = proto.graph.as_mut().expect("a checked model has a graph");
    written.node = nodes;
    written.initializer.extend(initializers);
    drop_unread(written);
    proto.producer_name = Some(PRODUCER.to_owned());
    proto.producer_version = None;
    Model::from_proto(proto)
}

/// Removes float constants that have another form now, and what is said about values that are gone.
fn drop_unread(graph: &mut GraphProto) {
    let mut read: BTreeSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.input)
        .map(String::as_str)
        .collect();
    read.extend(graph.node.iter().flat_map(captures));
    read.extend(graph.output.iter().map(|output| output.name()));
    graph.initializer.retain(|tensor| read.contains(tensor.name()));
    let made: BTreeSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .map(String::as_str)
        .collect();
    graph.value_info.retain(|value| made.contains(value.name()));
}

/// A graph that is written anew, node by node.
pub(super) struct Rewrite<'a> {
    graph: &'a GraphProto,
    index: Index<'a>,
    names: Names,
    pub nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Table → its rows in 8 bits and their scales.
    tables: BTreeMap<&'a str, [String; 2]>,
}

/// A product of an activation with a constant matrix: MatMul, or a Gemm that is one.
pub(super) struct Product<'a> {
    /// The weight as it stands in the file.
    pub weight: &'a TensorProto,
    /// Whether the file has it as outputs × inputs.
    pub transposed: bool,
    /// What is added to the product.
    pub bias: Option<&'a str>,
}

impl<'a> Rewrite<'a> {
    pub fn new(graph: &'a GraphProto) -> Rewrite<'a> {
        Rewrite {
            graph,
            index: Index::new(graph),
            names: Names::new(graph),
            nodes: Vec::new(),
            initializers: Vec::new(),
            tables: BTreeMap::new(),
        }
    }

    /// The float constant behind a node's input.
    pub fn constant(&self, node: &NodeProto, position: usize) -> Option<&'a TensorProto> {
        let name = node.input.get(position)?;
        let constant = *self.index.constants.get(name.as_str())?;
        (constant.data_type() == DataType::Float as i32).then_some(constant)
    }

    /// The product that a node is; else why it is none.
    pub fn product(&self, node: &'a NodeProto) -> Result<Product<'a>, String> {
        let weight = self.constant(node, 1).filter(|weight| weight.dims.len() == 2);
        let weight = weight.ok_or("its second input is no constant matrix")?;
        if weight.dims.iter().any(|&dim| dim < 1) {
            return Err("its weight is empty".to_owned());
        }
        let (mut transposed, mut bias) = (false, None);
        if is(node, "Gemm") {
            bias = node
                .input
                .get(2)
                .map(String::as_str)
                .filter(|name| !name.is_empty());
            transposed = int(node, "transB", 0) != 0;
            let plain = int(node, "transA", 0) == 0
                && float(node, "alpha", 1.0) == 1.0
                && (bias.is_none() || float(node, "beta", 1.0) == 1.0);
            if !plain {
                return Err("it scales or transposes its inputs".to_owned());
            }
        }
        Ok(Product {
            weight,
            transposed,
            bias,
        })
    }

    /// The constant table of a Gather along the first axis that nothing but such nodes reads; else why it has none.
    pub fn table(&self, node: &NodeProto) -> Result<&'a TensorProto, String> {
        let matrix = |table: &&TensorProto| table.dims.len() == 2 && table.dims.iter().all(|&dim| dim > 0);
        let table = self.constant(node, 0).filter(matrix);
        let table = table.ok_or("it reads no constant table")?;
        let gathers = |position: &usize| {
            let reader = &self.graph.node[*position];
            let indices = reader.input.get(1);
            is(reader, "Gather")
                && int(reader, "axis", 0) == 0
                && indices.is_some_and(|indices| indices != table.name())
        };
        let name = table.name();
        let plain = int(node, "axis", 0) == 0
            && self.index.readers(name).iter().all(gathers)
            && !self.index.captured.contains(name)
            && !self.index.outputs.contains(name);
        match plain {
            true => Ok(table),
            false => Err("its table is read by others too".to_owned()),
        }
    }

    /// A name that is free.
    pub fn fresh(&mut self, wanted: &str) -> String {
        self.names.fresh(wanted)
    }

    /// Adds a constant under a name that is free.
    pub fn add_constant(&mut self, wanted: &str, make: impl FnOnce(&str) -> TensorProto) -> String {
        let name = self.names.fresh(wanted);
        self.initializers.push(make(&name));
        name
    }

    /// Adds a node with one new output.
    pub fn add_node(&mut self, operator: &str, inputs: &[&str], wanted: &str) -> String {
        let output = self.names.fresh(wanted);
        self.add_node_to(operator, inputs, &output);
        output
    }

    /// Adds a node whose output has this name.
    pub fn add_node_to(&mut self, operator: &str, inputs: &[&str], output: &str) -> &mut NodeProto {
        let node = new_node(operator, &format!("{output}_{operator}"), inputs, &[output]);
        self.nodes.push(node);
        self.nodes.last_mut().expect("just added")
    }

    /// Adds a Cast to float32.
    pub fn add_cast(&mut self, input: &str, wanted: &str) -> String {
        let output = self.add_node("Cast", &[input], wanted);
        let cast = self.nodes.last_mut().expect("just added");
        cast.attribute.push(int_attribute("to", DataType::Float as i64));
        output
    }

    /// Writes a Gather from a table that is kept in 8 bits, each row with a scale of its own.
    pub fn gather(&mut self, node: &NodeProto, table: &'a TensorProto) -> Result<(), QuantizeError> {
        let [rows, scales] = match self.tables.get(table.name()) {
            Some(known) => known.clone(),
            None => {
                let numbers = finite(table)?;
                let layout = Layout::rows(table.dims[0] as usize, table.dims[1] as usize);
                let least = vec![0.0; layout.channels];
                let quantized = quantize_weight(&numbers, &layout, &least, Granularity::PerChannel, false);
                let rows = self.add_constant(&format!("{}_rows", table.name()), |name| {
                    tensor::from_i8(name, &table.dims, &quantized.values)
                });
                let scales = self.add_constant(&format!("{}_row_scales", table.name()), |name| {
                    tensor::from_floats(name, &[table.dims[0], 1], &quantized.scales)
                });
                self.tables.insert(table.name(), [rows.clone(), scales.clone()]);
                [rows, scales]
            }
        };
        let (output, indices) = (&node.output[0], node.input[1].as_str());
        let row = self.add_node("Gather", &[&rows, indices], &format!("{output}_row"));
        let scale = self.add_node("Gather", &[&scales, indices], &format!("{output}_row_scale"));
        let float = self.add_cast(&row, &format!("{output}_row_float"));
        self.add_node_to("Mul", &[&float, &scale], output);
        Ok(())
    }

    /// The finished model, and what became of each node of the graph.
    pub fn finish(
        self,
        prepared: &Model,
        outcomes: Vec<NodeOutcome>,
    ) -> Result<(Model, QuantizeReport), QuantizeError> {
        let model = match outcomes.contains(&NodeOutcome::Quantized) {
            true => assemble(prepared, self.nodes, self.initializers)?,
            false => prepared.clone(),
        };
        let report = report(prepared, &model, &outcomes);
        Ok((model, report))
    }
}

/// Says what became of each node of `prepared`.
pub(super) fn report(prepared: &Model, quantized: &Model, outcomes: &[NodeOutcome]) -> QuantizeReport {
    let report_of = |(node, outcome): (&NodeProto, &NodeOutcome)| NodeReport {
        node: node_name(node).to_owned(),
        operator: node.op_type().to_owned(),
        outcome: outcome.clone(),
    };
    QuantizeReport {
        nodes: prepared
            .graph()
            .node
            .iter()
            .zip(outcomes)
            .map(report_of)
            .collect(),
        bytes_before: prepared.size_bytes(),
        bytes_after: quantized.size_bytes(),
    }
}

/// Whether a node's operator is one of the default domain's.
pub(super) fn is_any(node: &NodeProto, operators: &[&str]) -> bool {
    domain(node.domain()).is_empty() && operators.contains(&node.op_type())
}
