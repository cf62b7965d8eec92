//! Raises an old opset to 13, the first whose QuantizeLinear has an axis.
//!
//! Only where the meaning of every node is known to stay: operators whose versions up to 13 differ in accepted types
//! alone, those whose attributes became inputs, and resizing, whose one old way has a name now. Everything else is the
//! exporter's job.

use std::collections::BTreeSet;

use crate::check::domain;
use crate::error::OnnxError;
use crate::graph::{Names, attribute, float, int_attribute, node_label, subgraphs, text_attribute};
use crate::proto::{GraphProto, ModelProto, NodeProto, TensorProto, type_proto};
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
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "BitShift",
    "Cast",
    "Ceil",
    "Celu",
    "Compress",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RNN",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "ReverseSequence",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Sqrt",
    "Sub",
    "Sum",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "Transpose",
    "Unique",
    "Where",
    "Xor",
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
        if UNCHANGED.binary_search(&node.op_type()).is_ok() {
            continue;
        }
        let constants = match node.op_type() {
            "Dropout" => {
                let mask = node.output.get(1).filter(|mask| !mask.is_empty());
                if opset < 10 && mask.is_some_and(|mask| read.contains(mask)) {
                    return Err(too_old(node_label(node), "its mask was of the input's type"));
                }
                // Of no meaning outside of training, and an input today.
                node.attribute.retain(|attribute| attribute.name() != "ratio");
                Vec::new()
            }
            "Clip" => clip_bounds(node, opset, &mut names),
            "Squeeze" | "Unsqueeze" | "ReduceSum" => integers(node, &["axes"], &mut names),
            "Split" => integers(node, &["split"], &mut names),
            "Slice" if opset < 10 => integers(node, &["starts", "ends", "axes"], &mut names),
            "Slice" => Vec::new(),
            "Pad" if opset < 11 => pads(node, &mut names),
            "Pad" => Vec::new(),
            "TopK" if opset < 10 => integers(node, &["k"], &mut names),
            "TopK" => Vec::new(),
            "Upsample" | "Resize" if opset < 11 => {
                grow(graph, node).ok_or_else(|| {
                    too_old(
                        node_label(node),
                        "old opsets leave open how a picture becomes smaller, and its scales are not constants of 1 or \
                         more",
                    )
                })?;
                Vec::new()
            }
            "Resize" if !is_gone(node) => Vec::new(),
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

/// What a node's new constants are named after.
fn result(node: &NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

/// Integer attributes that became inputs, in this order; those that are missing are missing as inputs too.
fn integers(node: &mut NodeProto, attributes: &[&str], names: &mut Names) -> Vec<TensorProto> {
    let mut constants = Vec::new();
    for name in attributes {
        let Some(values) = attribute(node, name).map(|attribute| match attribute.ints.is_empty() {
            true => attribute.i.into_iter().collect(),
            false => attribute.ints.clone(),
        }) else {
            continue;
        };
        node.attribute.retain(|attribute| attribute.name() != *name);
        let constant = names.fresh(&format!("{}_{name}", result(node)));
        node.input.push(constant.clone());
        constants.push(tensor::from_i64(&constant, &[values.len() as i64], &values));
    }
    constants
}

/// Widths and value were attributes before opset 11.
fn pads(node: &mut NodeProto, names: &mut Names) -> Vec<TensorProto> {
    let value = float(node, "value", 0.0);
    node.attribute.retain(|attribute| attribute.name() != "value");
    let mut constants = integers(node, &["pads"], names);
    // Zero is what a missing value means, of whatever type.
    if value != 0.0 {
        let constant = names.fresh(&format!("{}_value", result(node)));
        node.input.push(constant.clone());
        constants.push(tensor::from_floats(&constant, &[], &[value]));
    }
    constants
}

/// Upsample, and Resize of opset 10, take `x / scale` without half pixels, and the lower neighbour where they grow:
/// what later opsets call `asymmetric` and `floor`. `None` where the factors are not known to be at least 1.
fn grow(graph: &GraphProto, node: &mut NodeProto) -> Option<()> {
    let scales = node.input.get(1)?.clone();
    let constant = graph.initializer.iter().find(|tensor| tensor.name() == scales)?;
    if !tensor::floats(constant)?.iter().all(|scale| *scale >= 1.0) {
        return None;
    }
    node.op_type = Some("Resize".to_owned());
    node.input = vec![node.input[0].clone(), String::new(), scales];
    for (name, value) in [
        ("coordinate_transformation_mode", "asymmetric"),
        ("nearest_mode", "floor"),
    ] {
        node.attribute.push(text_attribute(name, value));
    }
    Some(())
}

/// Whether Resize does something that opset 13 has no longer.
fn is_gone(node: &NodeProto) -> bool {
    attribute(node, "coordinate_transformation_mode")
        .is_some_and(|attribute| attribute.s() == b"tf_half_pixel_for_nn")
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
