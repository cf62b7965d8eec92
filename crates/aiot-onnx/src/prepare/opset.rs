//! Raises an old opset to 13, the first whose QuantizeLinear has an axis.
//!
//! Only where the meaning of every node is known to stay: operators whose versions up to 13 differ in accepted types
//! alone, and those whose attributes became inputs. Everything else is the exporter's job.

use std::collections::BTreeSet;

use crate::check::domain;
use crate::error::OnnxError;
use crate::graph::{Names, attribute, float, int_attribute, node_label, subgraphs};
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, type_proto};
use crate::tensor;

/// The first opset whose QuantizeLinear and DequantizeLinear take an axis.
const NEEDED: i64 = 13;
/// The first IR version that may carry it.
const NEEDED_IR: i64 = 7;
/// Older ones changed broadcasting and batch normalization.
const OLDEST: i64 = 9;

/// Operators that mean the same from opset 9 to 13, sorted.
const UNCHANGED: &[&str] = &[
    "Abs",
    "Add",
    "ArgMax",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Cos",
    "DepthToSpace",
    "Div",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "HardSigmoid",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "LeakyRelu",
    "Less",
    "Log",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "PRelu",
    "Pow",
    "RNN",
    "Reciprocal",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "Relu",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Sqrt",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Where",
];

/// Operators that mean the same from a later opset on.
const UNCHANGED_SINCE: &[(&str, i64)] = &[
    ("GatherElements", 11),
    ("GatherND", 11),
    ("NonMaxSuppression", 10),
    ("Pad", 11),
    ("Resize", 11),
    ("Slice", 10),
    ("TopK", 10),
];

/// Raises the default opset to 13 where it is older and that is safe.
pub(super) fn raise(model: &mut ModelProto, opset: i64) -> Result<(), OnnxError> {
    if opset >= NEEDED || model.graph.as_ref().is_none_or(|graph| graph.node.is_empty()) {
        return Ok(());
    }
    let too_old = |place: String, reason: &str| OnnxError::OpsetTooOld {
        place,
        opset,
        reason: reason.to_owned(),
    };
    if opset < OLDEST {
        return Err(too_old(
            "the model".to_owned(),
            "operators changed before opset 9",
        ));
    }
    let graph = model.graph.as_mut().expect("checked above");
    let mut names = Names::new(graph);
    let read: BTreeSet<String> = {
        let by_nodes = graph.node.iter().flat_map(|node| node.input.iter().cloned());
        let shown = graph.output.iter().map(|output| output.name().to_owned());
        by_nodes.chain(shown).collect()
    };
    let mut nodes = std::mem::take(&mut graph.node);
    for node in nodes.iter_mut().filter(|node| domain(node.domain()).is_empty()) {
        if subgraphs(node).next().is_some() {
            return Err(too_old(node_label(node), "it has a subgraph"));
        }
        let since = |&(operator, first): &(&str, i64)| operator == node.op_type() && first <= opset;
        if UNCHANGED.binary_search(&node.op_type()).is_ok() || UNCHANGED_SINCE.iter().any(since) {
            continue;
        }
        let constants = match node.op_type() {
            "Clip" => clip_bounds(node, opset, &mut names),
            "Squeeze" | "Unsqueeze" | "ReduceSum" => axes(node, &mut names),
            "Split" => inputs_from(node, &["split"], &mut names),
            "Slice" => inputs_from(node, &["starts", "ends", "axes"], &mut names),
            "Pad" => {
                let value = float(node, "value", 0.0);
                node.attribute.retain(|attribute| attribute.name() != "value");
                let mut constants = inputs_from(node, &["pads"], &mut names);
                let constant = names.fresh(&format!("{}_value", result(node)));
                node.input.push(constant.clone());
                constants.push(tensor::from_floats(&constant, &[], &[value]));
                constants
            }
            "Dropout" => {
                let mask = node.output.get(1).filter(|mask| !mask.is_empty());
                if opset < 10 && mask.is_some_and(|mask| read.contains(mask)) {
                    return Err(too_old(node_label(node), "its mask was of the input's type"));
                }
                // An input since opset 12, and of no effect at inference.
                node.attribute.retain(|attribute| attribute.name() != "ratio");
                Vec::new()
            }
            "Upsample" | "Resize" => {
                enlarge(graph, node).ok_or_else(|| {
                    too_old(
                        node_label(node),
                        "old opsets leave open how a picture becomes smaller, and its scales are not constants of 1 or \
                         more",
                    )
                })?;
                Vec::new()
            }
            "Softmax" | "LogSoftmax" => {
                flat_softmax(graph, node).ok_or_else(|| {
                    too_old(
                        node_label(node),
                        "it flattens its input in old opsets, and the input's rank is unknown",
                    )
                })?;
                Vec::new()
            }
            _ => return Err(too_old(node_label(node), "its meaning or its inputs changed")),
        };
        graph.initializer.extend(constants);
    }
    graph.node = nodes;
    for import in model
        .opset_import
        .iter_mut()
        .filter(|import| domain(import.domain()).is_empty())
    {
        import.version = Some(NEEDED);
    }
    model.ir_version = Some(model.ir_version().max(NEEDED_IR));
    Ok(())
}

/// What a node's new constants are named after.
fn result(node: &NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

/// Clip's bounds were attributes before opset 11.
fn clip_bounds(node: &mut NodeProto, opset: i64, names: &mut Names) -> Vec<TensorProto> {
    if opset >= 11 {
        return Vec::new();
    }
    let mut constants = Vec::new();
    let bounds =
        [("min", f32::MIN), ("max", f32::MAX)].map(|(name, default)| (name, float(node, name, default)));
    for (name, bound) in bounds {
        let constant = names.fresh(&format!("{}_{name}", result(node)));
        node.input.push(constant.clone());
        constants.push(tensor::from_floats(&constant, &[], &[bound]));
    }
    node.attribute.clear();
    constants
}

/// The axes were an attribute before opset 13.
fn axes(node: &mut NodeProto, names: &mut Names) -> Vec<TensorProto> {
    let Some(axes) = attribute(node, "axes").map(|attribute| attribute.ints.clone()) else {
        return Vec::new();
    };
    node.attribute.retain(|attribute| attribute.name() != "axes");
    let constant = names.fresh(&format!("{}_axes", result(node)));
    node.input.push(constant.clone());
    vec![tensor::from_i64(&constant, &[axes.len() as i64], &axes)]
}

/// Turns lists that were attributes into inputs, in the order given; an absent one is left out with all after it.
fn inputs_from(node: &mut NodeProto, lists: &[&str], names: &mut Names) -> Vec<TensorProto> {
    let mut constants = Vec::new();
    for &list in lists {
        let Some(place) = node
            .attribute
            .iter()
            .position(|attribute| attribute.name() == list)
        else {
            break;
        };
        let values = node.attribute.remove(place).ints;
        let constant = names.fresh(&format!("{}_{list}", result(node)));
        node.input.push(constant.clone());
        constants.push(tensor::from_i64(&constant, &[values.len() as i64], &values));
    }
    constants
}

/// Upsample, and Resize of opset 10, as the Resize that computes the same: positions are multiplied by the scale and
/// rounded down. `None` where a picture may become smaller: engines round up there.
fn enlarge(graph: &GraphProto, node: &mut NodeProto) -> Option<()> {
    let [_, scales] = node.input.as_slice() else {
        return None;
    };
    let constant = graph.initializer.iter().find(|tensor| tensor.name() == scales)?;
    if !tensor::floats(constant)?.iter().all(|&scale| scale >= 1.0) {
        return None;
    }
    node.op_type = Some("Resize".to_owned());
    // In between is the region of interest, which other modes alone read.
    node.input.insert(1, String::new());
    node.attribute
        .push(text_attribute("coordinate_transformation_mode", "asymmetric"));
    node.attribute.push(text_attribute("nearest_mode", "floor"));
    Some(())
}

fn text_attribute(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec()),
        ..AttributeProto::default()
    }
}

/// Before opset 13 Softmax normalized over all axes from `axis` (1 by default) on: the same as over that axis alone
/// where it is the last one. `None` when the rank, looked up among the declared shapes, does not say so.
fn flat_softmax(graph: &GraphProto, node: &mut NodeProto) -> Option<()> {
    let axis = crate::graph::int(node, "axis", 1);
    let names = [node.input.first()?.as_str(), node.output.first()?.as_str()];
    let mut values = graph.input.iter().chain(&graph.output).chain(&graph.value_info);
    let value = values.find(|value| names.contains(&value.name()))?;
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()? else {
        return None;
    };
    let rank = i64::try_from(tensor.shape.as_ref()?.dim.len()).ok()?;
    if axis != -1 && axis != rank - 1 {
        return None;
    }
    node.attribute.retain(|attribute| attribute.name() != "axis");
    node.attribute.push(int_attribute("axis", -1));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::UNCHANGED;

    #[test]
    fn unchanged_operators_are_sorted() {
        assert!(UNCHANGED.is_sorted());
    }
}
