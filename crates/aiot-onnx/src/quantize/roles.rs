//! What each operator can be to quantization, and what keeps a single node from it.

use super::subpixel::SubPixel;
use super::switch::Switch;
use crate::graph::{Index, float, int, is, pads_with_zeros, subgraphs, text};
use crate::proto::tensor_proto::DataType;
use crate::proto::{NodeProto, TensorProto};
use crate::tensor;

/// What a node can be to quantization.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Role {
    /// Conv, ConvTranspose, Gemm, MatMul with constant weights.
    Weighted,
    /// Has an integer kernel with scales of its own.
    Compute,
    /// Moves values and computes none: shares its input's scale.
    Move,
    /// Relu or Clip: a range performs it.
    Bound,
    /// Gather of rows of a constant table: the rows come out in the table's own 8 bits.
    Embed,
    /// Adds a bias to the MatMul before it: the engine makes one Gemm of the two.
    Bias,
    /// Stays float.
    Float(String),
}

/// Whether a node is the mark of an attention model.
pub(super) fn is_attention(node: &NodeProto, index: &Index<'_>) -> bool {
    let computed = |name: &String| !index.constants.contains_key(name.as_str());
    is(node, "LayerNormalization") || (is(node, "MatMul") && node.input.iter().all(computed))
}

/// What one node can be, by itself: the plan sees to its neighbours.
pub(super) fn role(node: &NodeProto, index: &Index<'_>, attention: bool) -> Role {
    let float = |reason: String| Role::Float(reason);
    if !crate::check::domain(node.domain()).is_empty() {
        return float(format!(
            "operators of domain {} are not understood",
            node.domain()
        ));
    }
    if subgraphs(node).next().is_some() {
        return float("it has a subgraph".to_owned());
    }
    let used = node.output.iter().filter(|name| !name.is_empty()).count();
    // The engine splits 8-bit values only where each part is quantized, and a part without a name cannot be.
    let outputs_fit = if is(node, "Split") {
        used == node.output.len()
    } else {
        used == 1
    };
    let Some(input) = node.input.first().filter(|name| !name.is_empty() && outputs_fit) else {
        return float("it has no input, or several outputs".to_owned());
    };
    let computed = !index.constants.contains_key(input.as_str());
    match node.op_type() {
        "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => match weighted(node, index) {
            _ if !computed => float("its input is constant".to_owned()),
            Ok(()) => Role::Weighted,
            Err(reason) => float(reason.to_owned()),
        },
        "Add" | "Mul" | "Concat" if attention => float(
            "sums and products stay float in attention models, where masks ruin their ranges".to_owned(),
        ),
        "Add" | "Mul" | "Concat" => {
            let mut constants = node
                .input
                .iter()
                .filter_map(|name| index.constants.get(name.as_str()));
            match constants.all(|tensor| is_float(tensor)) {
                true => Role::Compute,
                false => float("its constant is not float32".to_owned()),
            }
        }
        "AveragePool" | "GlobalAveragePool" | "LeakyRelu" | "Sigmoid" => Role::Compute,
        "HardSigmoid" | "HardSwish" => match Switch::new(node) {
            _ if !computed => float("its input is constant".to_owned()),
            Some(_) => Role::Compute,
            None => float("its slope is not above 0".to_owned()),
        },
        "DepthToSpace" | "MaxPool" | "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze"
        | "Slice" | "Split"
            if computed =>
        {
            Role::Move
        }
        // Every range holds 0, and the other modes repeat values that are there already.
        "Pad" if computed => match text(node, "mode") {
            None | Some("constant") if !pads_with_zeros(node, index) => {
                float("it pads with another number than 0".to_owned())
            }
            _ => Role::Move,
        },
        "Resize" if computed => match text(node, "mode").unwrap_or("nearest") {
            "nearest" => Role::Move,
            // Its integer kernel rounds down and takes 2.5 times as long as the float one (1.21.1 and 1.32.0).
            mode => float(format!(
                "ONNX Runtime resizes 8-bit values well only by `nearest`, not by `{mode}`"
            )),
        },
        "Gather" => {
            let table = index
                .constants
                .get(input.as_str())
                .filter(|table| is_float(table) && !table.dims.contains(&0));
            match table {
                Some(_) => Role::Embed,
                None => float("it takes no rows of a constant float32 table".to_owned()),
            }
        }
        "Relu" => Role::Bound,
        "Clip" if clip_bounds(node, index).is_some_and(|(min, max)| min <= 0.0 && max >= 0.0) => Role::Bound,
        "Clip" => float("its bounds are not constant, or do not include 0".to_owned()),
        operator => float(format!("{operator} has no 8-bit form here")),
    }
}

/// The constant bounds of a Relu or Clip.
pub(crate) fn clip_bounds(node: &NodeProto, index: &Index<'_>) -> Option<(f32, f32)> {
    if is(node, "Relu") {
        return Some((0.0, f32::INFINITY));
    }
    let bound = |input: usize, default: f32| match node.input.get(input).filter(|name| !name.is_empty()) {
        None => Some(default),
        Some(name) => tensor::floats(index.constants.get(name.as_str())?)?
            .first()
            .copied(),
    };
    Some((bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?))
}

pub(crate) fn is_float(tensor: &TensorProto) -> bool {
    tensor.data_type() == DataType::Float as i32
}

/// Whether the weights (and the bias) of a node can be quantized.
fn weighted(node: &NodeProto, index: &Index<'_>) -> Result<(), &'static str> {
    let constant = |input: usize| {
        let name = node.input.get(input).filter(|name| !name.is_empty());
        name.map(|name| {
            index
                .constants
                .get(name.as_str())
                .copied()
                .filter(|tensor| is_float(tensor))
        })
    };
    let weight = constant(1)
        .flatten()
        .ok_or("its weights are not constant float32")?;
    if is(node, "ConvTranspose") {
        SubPixel::new(node, &weight.dims)?;
    }
    let rank_fits = if is(node, "Conv") || is(node, "ConvTranspose") {
        weight.dims.len() >= 3
    } else {
        weight.dims.len() == 2
    };
    if !rank_fits || weight.dims.contains(&0) {
        return Err("its weights have an unusual rank, or are empty");
    }
    let channels = match node.op_type() {
        "Conv" => weight.dims[0],
        "ConvTranspose" => weight.dims[1],
        "Gemm" => weight.dims[usize::from(int(node, "transB", 0) == 0)],
        _ => weight.dims[1],
    };
    if is(node, "Conv") {
        let group = int(node, "group", 1);
        if group < 1 || channels % group != 0 {
            return Err("its groups do not divide its channels");
        }
    }
    if is(node, "Gemm")
        && (int(node, "transA", 0) != 0
            || float(node, "alpha", 1.0) != 1.0
            || float(node, "beta", 1.0) != 1.0)
    {
        return Err("it transposes its input or scales its operands");
    }
    if is(node, "MatMul") {
        return Ok(());
    }
    match constant(2) {
        None => Ok(()),
        Some(None) => Err("its bias is not constant float32"),
        Some(Some(bias)) => {
            let fits = bias.dims.last().copied().unwrap_or(1) == channels
                && tensor::element_count(&bias.dims).is_some_and(|count| count as i64 == channels);
            if fits {
                Ok(())
            } else {
                Err("its bias is not one number per output channel")
            }
        }
    }
}
