//! Whether a quantized graph computes the same bits on every processor.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::check::domain;
use crate::model::Model;
use crate::proto::NodeProto;

/// How far the outputs of one file may be apart on two processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exactness {
    /// The same bits everywhere: integer kernels, and operators that only move or compare values.
    Exact,
    /// Float arithmetic at the end only: last bits differ.
    FloatAtTheEnd,
    /// Float arithmetic whose results are quantized again: a last bit can move a value to the next step.
    FloatInside,
}

/// Operators that run on integers where all that they read comes out of DequantizeLinear.
const KERNELS: [&str; 9] = [
    "Add",
    "AveragePool",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "LeakyRelu",
    "MatMul",
    "Mul",
    "Sigmoid",
];

/// Operators that move, choose or compare values, and compute no new ones.
const MOVES: [&str; 28] = [
    "ArgMax",
    "ArgMin",
    "Cast",
    "Clip",
    "Concat",
    "DepthToSpace",
    "DequantizeLinear",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Max",
    "MaxPool",
    "Min",
    "Neg",
    "Pad",
    "QuantizeLinear",
    "Relu",
    "Reshape",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Looks at every node of a quantized file for processors (u8 activations).
///
/// Follows the placement of [`crate::quantize_static`]: a kernel whose operands are all dequantized is fused into an
/// integer one. Operators that are not known count as float arithmetic.
pub fn exactness(quantized: &Model) -> Exactness {
    let graph = quantized.graph();
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let mut dequantized: BTreeSet<&str> = BTreeSet::new();
    // What float arithmetic had a part in.
    let mut inexact: BTreeSet<&str> = BTreeSet::new();
    let mut worst = Exactness::Exact;
    for node in &graph.node {
        let operator = match domain(node.domain()) {
            "" => node.op_type(),
            _ => "",
        };
        let mut reads = node
            .input
            .iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty());
        let taints = reads.clone().any(|name| inexact.contains(name));
        let integers = KERNELS.contains(&operator)
            && reads.all(|name| dequantized.contains(name) || constants.contains(name));
        let exact = integers || MOVES.contains(&operator) || moves_nearest(node, operator);
        let outputs = node.output.iter().map(String::as_str);
        if taints || !exact {
            if requantizes(operator, node) {
                return Exactness::FloatInside;
            }
            worst = Exactness::FloatAtTheEnd;
            inexact.extend(outputs);
        } else if operator == "DequantizeLinear" {
            dequantized.extend(outputs);
        }
    }
    worst
}

/// Whether a node rounds what it reads to 8 bits, or chooses by it.
fn requantizes(operator: &str, node: &NodeProto) -> bool {
    let chooses = [
        "ArgMax",
        "ArgMin",
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "TopK",
    ];
    chooses.contains(&operator) || node.op_type() == "DynamicQuantizeLSTM"
}

fn moves_nearest(node: &NodeProto, operator: &str) -> bool {
    operator == "Resize" && crate::graph::text(node, "mode").unwrap_or("nearest") == "nearest"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{
        Activations, StaticOptions, calibration_tensors, quantize_dynamic, quantize_static,
    };
    use crate::ranges::{Range, Ranges};
    use crate::testing::Builder;

    fn of(builder: &Builder) -> Exactness {
        let model = builder.model();
        let mut ranges = Ranges::new();
        for name in calibration_tensors(&model) {
            ranges.insert(name, Range { min: 0.0, max: 1.0 });
        }
        let options = StaticOptions::new(Activations::U8Asymmetric);
        exactness(&quantize_static(&model, &ranges, &options).unwrap().0)
    }

    fn net() -> Builder {
        let mut builder = Builder::new(17);
        builder.input("x", &[1, 3, 6, 6]);
        builder.output("y", &[]);
        builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
        builder.node("Relu", &["a"], "b");
        builder
    }

    #[test]
    fn float_arithmetic_is_found_where_it_is() {
        let mut builder = net();
        builder.node("Flatten", &["b"], "c");
        builder.gemm("c", "y", 2, 144);
        assert_eq!(of(&builder), Exactness::Exact);

        let mut builder = net();
        builder.node("Flatten", &["b"], "c");
        builder.gemm("c", "d", 2, 144);
        builder.node("Softmax", &["d"], "y");
        assert_eq!(of(&builder), Exactness::FloatAtTheEnd);

        let mut builder = net();
        builder.node("Erf", &["b"], "c");
        builder.conv("c", "y", [4, 4, 3, 3], 1, 1);
        assert_eq!(of(&builder), Exactness::FloatInside);

        // The best class of a softmax hangs on its last bits.
        let mut builder = net();
        builder.node("Softmax", &["b"], "c");
        builder.node("ArgMax", &["c"], "y");
        assert_eq!(of(&builder), Exactness::FloatInside);
    }

    #[test]
    fn what_is_quantized_at_run_time_is_not_exact() {
        let mut builder = Builder::new(17);
        builder.input("x", &[1, 8]);
        builder.output("y", &[]);
        builder.gemm("x", "a", 8, 8);
        builder.node("Erf", &["a"], "b");
        builder.gemm("b", "y", 2, 8);
        let (dynamic, _) = quantize_dynamic(&builder.model()).unwrap();
        assert_eq!(exactness(&dynamic), Exactness::FloatInside);
    }
}
