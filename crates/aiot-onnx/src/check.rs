//! The structure that the rest of the crate relies on: every value is defined once, before its use, and every
//! initializer holds what its dims promise. Shapes and operator semantics are the engine's to check.

use std::collections::BTreeSet;

use crate::error::OnnxError;
use crate::graph::{node_label, subgraphs};
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto};
use crate::tensor;

/// Checks a decoded model.
pub(crate) fn check(model: &ModelProto) -> Result<(), OnnxError> {
    let incomplete = |what: &str| OnnxError::Incomplete {
        what: what.to_owned(),
    };
    if model.ir_version.is_none_or(|version| version < 1) {
        return Err(incomplete(
            "it has no IR version; this is probably not an ONNX file",
        ));
    }
    let graph = model
        .graph
        .as_ref()
        .ok_or_else(|| incomplete("it has no graph"))?;
    let mut domains = BTreeSet::new();
    for opset in &model.opset_import {
        if !domains.insert(domain(opset.domain())) {
            let name = opset.domain().to_owned();
            return Err(OnnxError::DuplicateName {
                name,
                place: "opset imports".to_owned(),
            });
        }
    }
    if !domains.contains("") && uses_default_domain(graph) {
        return Err(incomplete("it imports no opset of the default domain"));
    }
    check_graph(graph, &BTreeSet::new())
}

/// The default domain has two spellings.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

fn uses_default_domain(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| domain(node.domain()).is_empty())
}

fn check_graph(graph: &GraphProto, outer: &BTreeSet<&str>) -> Result<(), OnnxError> {
    let mut known = outer.clone();
    let mut here: BTreeSet<&str> = BTreeSet::new();
    for input in &graph.input {
        define(input.name(), "graph input", &mut here)?;
    }
    let mut initializers = BTreeSet::new();
    let sparse = graph
        .sparse_initializer
        .iter()
        .filter_map(|sparse| sparse.values.as_ref());
    for initializer in graph.initializer.iter().chain(sparse) {
        // An initializer may repeat a graph input's name: it is that input's default value.
        define(initializer.name(), "initializer", &mut initializers)?;
        tensor::check(initializer)?;
    }
    here.extend(&initializers);
    let produced: BTreeSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .map(String::as_str)
        .collect();
    known.extend(&here);
    for node in &graph.node {
        if node.op_type().is_empty() {
            let what = format!("{} has no operator", node_label(node));
            return Err(OnnxError::Incomplete { what });
        }
        for input in node
            .input
            .iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
        {
            if !known.contains(input) {
                let (name, place) = (input.to_owned(), node_label(node));
                return Err(match produced.contains(input) {
                    true => OnnxError::NotSorted { name, place },
                    false => OnnxError::MissingValue { name, place },
                });
            }
        }
        check_attributes(node, &known)?;
        for output in node
            .output
            .iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
        {
            define(output, &node_label(node), &mut here)?;
            known.insert(output);
        }
    }
    let mut outputs = BTreeSet::new();
    for output in &graph.output {
        define(output.name(), "graph output", &mut outputs)?;
        if !known.contains(output.name()) {
            let name = output.name().to_owned();
            return Err(OnnxError::MissingValue {
                name,
                place: "the graph's outputs".to_owned(),
            });
        }
    }
    Ok(())
}

fn define<'a>(name: &'a str, place: &str, names: &mut BTreeSet<&'a str>) -> Result<(), OnnxError> {
    if name.is_empty() {
        return Err(OnnxError::Incomplete {
            what: format!("{place} without a name"),
        });
    }
    if !names.insert(name) {
        return Err(OnnxError::DuplicateName {
            name: name.to_owned(),
            place: place.to_owned(),
        });
    }
    Ok(())
}

fn check_attributes(node: &NodeProto, known: &BTreeSet<&str>) -> Result<(), OnnxError> {
    let tensors = |attribute: &'_ AttributeProto| -> Vec<_> {
        attribute.t.iter().chain(&attribute.tensors).cloned().collect()
    };
    for tensor in node.attribute.iter().flat_map(tensors) {
        tensor::check(&tensor)?;
    }
    subgraphs(node).try_for_each(|graph| check_graph(graph, known))
}
