//! Looking things up in a graph: who makes a value, who uses it, what an attribute says.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::domain;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::tensor;

/// A node's name, its first output where it has none.
pub(crate) fn node_name(node: &NodeProto) -> &str {
    match node.name() {
        "" => node.output.first().map_or("", String::as_str),
        name => name,
    }
}

/// How people and errors call a node.
pub(crate) fn node_label(node: &NodeProto) -> String {
    format!("node `{}` ({})", node_name(node), node.op_type())
}

/// Whether a node is this operator of the default domain.
pub(crate) fn is(node: &NodeProto, operator: &str) -> bool {
    node.op_type() == operator && domain(node.domain()).is_empty()
}

/// The bodies of a control-flow node.
pub(crate) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// The same, to be changed.
pub(crate) fn subgraphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute
        .iter_mut()
        .flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}

/// Every name that a subgraph mentions as a value read, its own ones included: a safe superset of what it captures.
fn reads_of_graph<'a>(graph: &'a GraphProto, reads: &mut Vec<&'a str>) {
    for node in &graph.node {
        reads.extend(node.input.iter().map(String::as_str));
        subgraphs(node).for_each(|graph| reads_of_graph(graph, reads));
    }
    reads.extend(graph.output.iter().map(|output| output.name()));
}

/// The names that a node's subgraphs may take from around it.
pub(crate) fn captures(node: &NodeProto) -> Vec<&str> {
    let mut reads = Vec::new();
    subgraphs(node).for_each(|graph| reads_of_graph(graph, &mut reads));
    reads
}

/// An attribute by name.
pub(crate) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

/// An integer attribute, or its default.
pub(crate) fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name)
        .and_then(|attribute| attribute.i)
        .unwrap_or(default)
}

/// A float attribute, or its default.
pub(crate) fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name)
        .and_then(|attribute| attribute.f)
        .unwrap_or(default)
}

/// A text attribute, if it is one.
pub(crate) fn text<'a>(node: &'a NodeProto, name: &str) -> Option<&'a str> {
    std::str::from_utf8(attribute(node, name)?.s.as_deref()?).ok()
}

/// An integer attribute to put into a node.
pub(crate) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

/// A text attribute to put into a node.
pub(crate) fn text_attribute(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec()),
        ..AttributeProto::default()
    }
}

/// An attribute of several integers to put into a node.
pub(crate) fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

/// A node of the default domain.
pub(crate) fn new_node(operator: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(operator.to_owned()),
        name: Some(name.to_owned()),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: outputs.iter().map(|&output| output.to_owned()).collect(),
        ..NodeProto::default()
    }
}

/// Lookups over one graph; borrows it, so it is made anew after a change.
pub(crate) struct Index<'a> {
    /// Constants by name; those that are also graph inputs are not constant and left out.
    pub constants: BTreeMap<&'a str, &'a TensorProto>,
    /// The node that makes a value.
    pub producer: BTreeMap<&'a str, usize>,
    /// The nodes that read a value, once per reading input.
    pub consumers: BTreeMap<&'a str, Vec<usize>>,
    /// Values that a subgraph may capture.
    pub captured: BTreeSet<&'a str>,
    /// The graph's outputs.
    pub outputs: BTreeSet<&'a str>,
}

impl<'a> Index<'a> {
    /// Reads a graph once.
    pub fn new(graph: &'a GraphProto) -> Self {
        let inputs: BTreeSet<&str> = graph.input.iter().map(|input| input.name()).collect();
        let constants = graph.initializer.iter().map(|tensor| (tensor.name(), tensor));
        let mut index = Index {
            constants: constants.filter(|(name, _)| !inputs.contains(name)).collect(),
            producer: BTreeMap::new(),
            consumers: BTreeMap::new(),
            captured: BTreeSet::new(),
            outputs: graph.output.iter().map(|output| output.name()).collect(),
        };
        for (position, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                index.producer.insert(output, position);
            }
            let captures = captures(node);
            index.captured.extend(&captures);
            for input in node
                .input
                .iter()
                .map(String::as_str)
                .chain(captures)
                .filter(|name| !name.is_empty())
            {
                index.consumers.entry(input).or_default().push(position);
            }
        }
        index
    }

    /// The nodes that read a value.
    pub fn readers(&self, name: &str) -> &[usize] {
        self.consumers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a value is read exactly once, by a node of this graph, and is no graph output.
    pub fn read_once(&self, name: &str) -> bool {
        self.readers(name).len() == 1 && !self.outputs.contains(name) && !self.captured.contains(name)
    }
}

/// Hands out names that no value of the graph has yet.
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    /// Collects the names in use, those of subgraphs included.
    pub fn new(graph: &GraphProto) -> Self {
        let mut names = BTreeSet::new();
        collect_names(graph, &mut names);
        Names(names)
    }

    /// `wanted`, or `wanted_2`, `wanted_3`, … where it is taken.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.0.insert(name.clone()) {
            name = format!("{wanted}_{number}");
            number += 1;
        }
        name
    }
}

fn collect_names(graph: &GraphProto, names: &mut BTreeSet<String>) {
    names.extend(graph.input.iter().map(|value| value.name().to_owned()));
    names.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
        subgraphs(node).for_each(|graph| collect_names(graph, names));
    }
}

/// Whether a Pad adds the number 0, and no other one nor values that are there already.
pub(crate) fn pads_with_zeros(node: &NodeProto, index: &Index<'_>) -> bool {
    let value = node.input.get(2).filter(|name| !name.is_empty());
    matches!(text(node, "mode"), None | Some("constant"))
        && value.is_none_or(|name| {
            let constant = index.constants.get(name.as_str()).copied();
            constant
                .and_then(tensor::floats)
                .is_some_and(|value| value == [0.0])
        })
}
