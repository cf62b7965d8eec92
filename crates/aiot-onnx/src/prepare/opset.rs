//! Raises an old opset to 13, the first whose QuantizeLinear has an axis.
//!
//! Only where the meaning of every node is known to stay: operators whose versions up to 13 differ in accepted types
//! alone, and three whose attributes became inputs. Everything else is the exporter's job.

use crate::check::domain;
use crate::error::OnnxError;
use crate::graph::{Names, attribute, float, int_attribute, node_label, subgraphs};
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
    "Div",
    "Dropout",
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
    "HardSigmoid",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "LeakyRelu",
    "Log",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mul",
    "Neg",
    "PRelu",
    "Pow",
    "RNN",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "Relu",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Softplus",
    "Sqrt",
    "Sub",
    "Tanh",
    "Transpose",
    "Where",
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
    let mut nodes = std::mem::take(&mut graph.node);
    for node in nodes.iter_mut().filter(|node| domain(node.domain()).is_empty()) {
        if subgraphs(node).next().is_some() {
            return Err(too_old(node_label(node), "it has a subgraph"));
        }
        if UNCHANGED.binary_search(&node.op_type()).is_ok() {
            continue;
        }
        let constants = match node.op_type() {
            "Clip" => clip_bounds(node, opset, &mut names),
            "Squeeze" | "Unsqueeze" | "ReduceSum" => axes(node, &mut names),
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
        let constant = names.fresh(&format!("{}_{name}", node.output[0]));
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
    let constant = names.fresh(&format!("{}_axes", node.output[0]));
    node.input.push(constant.clone());
    vec![tensor::from_i64(&constant, &[axes.len() as i64], &axes)]
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
