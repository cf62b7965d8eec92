//! Brings a float model into the form that quantization understands, without changing what it computes.
//!
//! Opset 13 or newer; initializers are constant, constants are initializers, and so is what hangs on them alone; no
//! Identity, Dropout, dead node or unused initializer; batch normalization folded into the convolution before it, zeros
//! padded by the one after; Gemm without factors; means over all positions as pooling. Outputs stay within float
//! rounding (1e-5). What a pass does not recognize stays as it is: preparing never fails on an operator that it does
//! not know, except where an old opset cannot be raised.

mod constants;
mod fold;
mod opset;
mod spatial;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::OnnxError;
use crate::graph::{Index, captures, is};
use crate::model::Model;
use crate::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::tensor;

/// Prepares a model for [`crate::calibration_tensors`], [`crate::quantize_static`] and [`crate::to_float16`].
///
/// Inputs that are initializers at the same time (optional inputs with a default, as IR version 3 wrote all weights)
/// become constants: the prepared model no longer takes them. A model with nothing to do comes out byte-identical.
///
/// # Errors
/// [`OnnxError::OpsetTooOld`] when the opset is below 13 and a node's meaning changed on the way.
pub fn prepare(model: &Model) -> Result<Model, OnnxError> {
    let mut proto = model.proto().clone();
    let graph = proto.graph.as_mut().expect("a checked model has a graph");
    close_defaults(graph);
    lift_constants(graph);
    // Afterwards, since whether a node can be raised may depend on its constants.
    opset::raise(&mut proto, model.opset())?;
    let graph = proto.graph.as_mut().expect("a checked model has a graph");
    constants::fold_constants(graph);
    drop_pass_throughs(graph);
    while fold::fold_batch_normalizations(graph) {}
    fold::fold_gemm_factors(graph);
    spatial::fold_pads(graph);
    spatial::pool_means(graph);
    drop_dead(graph);
    if proto.ir_version() < 4 && proto != *model.proto() {
        // Before IR version 4 every initializer had to be a graph input as well.
        proto.ir_version = Some(4);
    }
    finish(proto)
}

/// Checks the result of a transformation; a failure here is our own mistake, but a model is no place to panic.
fn finish(proto: ModelProto) -> Result<Model, OnnxError> {
    Model::from_proto(proto)
}

/// Adds or replaces an initializer.
pub(crate) fn set_initializer(graph: &mut GraphProto, tensor: TensorProto) {
    match graph
        .initializer
        .iter_mut()
        .find(|existing| existing.name == tensor.name)
    {
        Some(existing) => *existing = tensor,
        None => graph.initializer.push(tensor),
    }
}

fn close_defaults(graph: &mut GraphProto) {
    let defaults: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    graph.input.retain(|input| !defaults.contains(input.name()));
}

/// Turns `Constant` nodes into initializers.
fn lift_constants(graph: &mut GraphProto) {
    let mut lifted = Vec::new();
    graph.node.retain(|node| {
        let constant = is(node, "Constant").then(|| constant_value(node)).flatten();
        let keep = constant.is_none();
        lifted.extend(constant);
        keep
    });
    graph.initializer.extend(lifted);
}

fn constant_value(node: &NodeProto) -> Option<TensorProto> {
    let name = node.output.first().filter(|name| !name.is_empty())?;
    let [attribute] = node.attribute.as_slice() else {
        return None;
    };
    Some(match attribute.name() {
        "value" => TensorProto {
            name: Some(name.clone()),
            ..attribute.t.clone()?
        },
        "value_float" => tensor::from_floats(name, &[], &[attribute.f?]),
        "value_floats" => tensor::from_floats(name, &[attribute.floats.len() as i64], &attribute.floats),
        "value_int" => tensor::from_i64(name, &[], &[attribute.i?]),
        "value_ints" => tensor::from_i64(name, &[attribute.ints.len() as i64], &attribute.ints),
        _ => return None,
    })
}

/// Removes nodes that hand on their input at inference: Identity and Dropout.
fn drop_pass_throughs(graph: &mut GraphProto) {
    let index = Index::new(graph);
    let droppable: Vec<bool> = graph
        .node
        .iter()
        .map(|node| is_pass_through(node, &index))
        .collect();
    let made_by_nodes: BTreeSet<String> = index.producer.keys().map(|&name| name.to_owned()).collect();
    let mut outputs: BTreeSet<String> = index.outputs.iter().map(|&name| name.to_owned()).collect();
    let mut alias: BTreeMap<String, String> = BTreeMap::new();
    let mut kept: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for (mut node, droppable) in std::mem::take(&mut graph.node).into_iter().zip(droppable) {
        for input in &mut node.input {
            if let Some(name) = alias.get(input) {
                input.clone_from(name);
            }
        }
        if !droppable {
            kept.push(node);
            continue;
        }
        let (from, to) = (node.input[0].clone(), node.output[0].clone());
        if !outputs.contains(&to) {
            alias.insert(to, from);
        } else if made_by_nodes.contains(&from) && !outputs.contains(&from) {
            // The graph's output keeps its name, so the node before takes it over.
            for earlier in &mut kept {
                for name in earlier
                    .input
                    .iter_mut()
                    .chain(&mut earlier.output)
                    .filter(|name| **name == from)
                {
                    name.clone_from(&to);
                }
            }
            for name in alias.values_mut().filter(|name| **name == from) {
                name.clone_from(&to);
            }
            outputs.insert(from.clone());
            alias.insert(from, to);
        } else {
            kept.push(node);
        }
    }
    graph.node = kept;
}

fn is_pass_through(node: &NodeProto, index: &Index<'_>) -> bool {
    let (Some(input), Some(output)) = (node.input.first(), node.output.first()) else {
        return false;
    };
    if input.is_empty()
        || output.is_empty()
        || [input, output]
            .iter()
            .any(|name| index.captured.contains(name.as_str()))
    {
        return false;
    }
    if is(node, "Identity") {
        return true;
    }
    let mask_unread = node.output.iter().skip(1).all(|mask| {
        mask.is_empty() || (index.readers(mask).is_empty() && !index.outputs.contains(mask.as_str()))
    });
    let inference = match node.input.get(2).filter(|name| !name.is_empty()) {
        None => true,
        Some(flag) => {
            index
                .constants
                .get(flag.as_str())
                .and_then(|tensor| tensor::boolean(tensor))
                == Some(false)
        }
    };
    is(node, "Dropout") && mask_unread && inference
}

/// Removes nodes whose outputs nobody reads, unused initializers, and what is said about values that are gone.
fn drop_dead(graph: &mut GraphProto) {
    let mut live: BTreeSet<String> = graph
        .output
        .iter()
        .map(|output| output.name().to_owned())
        .collect();
    let mut keep: Vec<bool> = graph
        .node
        .iter()
        .rev()
        .map(|node| {
            let alive = node.output.is_empty() || node.output.iter().any(|output| live.contains(output));
            if alive {
                live.extend(node.input.iter().cloned());
                live.extend(captures(node).into_iter().map(str::to_owned));
            }
            alive
        })
        .collect();
    keep.reverse();
    let mut flags = keep.into_iter();
    graph.node.retain(|_| flags.next().unwrap_or(true));
    graph.initializer.retain(|tensor| live.contains(tensor.name()));
    let made: BTreeSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .map(String::as_str)
        .collect();
    graph.value_info.retain(|value| made.contains(value.name()));
}

#[cfg(test)]
mod tests;
