//! Which nodes run on 8 bits, and which tensors are quantized for that.
//!
//! Follows ONNX Runtime's fusions on CPUs (u8) and TensorRT's advice (s8); see [`Activations`]. Needs no numbers but
//! the ranges, and those only to keep sums and products of wild ranges (masks of -10000) in float.

use std::collections::{BTreeMap, BTreeSet};

use super::{Activations, NodeOutcome};
use crate::graph::{Index, float, int, is, subgraphs};
use crate::proto::tensor_proto::DataType;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::ranges::Ranges;
use crate::tensor;

/// Sums and products with values beyond this stay float: 8 bits would leave nothing of the small ones.
const WILD: f32 = 1e3;

/// Activations that ONNX Runtime fuses into a float Gemm.
const GEMM_ACTIVATIONS: &[&str] = &[
    "Clip",
    "Elu",
    "HardSigmoid",
    "LeakyRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
];

/// What a node can be to quantization.
#[derive(Clone, Debug, PartialEq)]
enum Role {
    /// Conv, Gemm, MatMul with constant weights.
    Weighted,
    /// Has an integer kernel with scales of its own.
    Compute,
    /// Moves values and computes none: shares its input's scale.
    Move,
    /// Relu or Clip: a range performs it.
    Bound,
    /// Adds a bias to the MatMul before it: the engine makes one Gemm of the two.
    Bias,
    /// Stays float.
    Float(String),
}

/// The decisions for one graph.
pub(super) struct Plan {
    /// What becomes of each node.
    pub outcomes: Vec<NodeOutcome>,
    /// Quantized activations with the tensor whose range each shares.
    pub tensors: BTreeMap<String, String>,
    /// The output of each folded Relu or Clip with the tensor that it bounded.
    pub folded: BTreeMap<String, String>,
    /// Quantized activations that exist only in 8 bits: float readers and graph outputs take the dequantized value.
    pub replaced: BTreeSet<String>,
    /// Outputs of MatMul nodes with the constant that the next node adds as a bias.
    pub biases: BTreeMap<String, String>,
}

impl Plan {
    pub fn new(graph: &GraphProto, opset: i64, activations: Activations, ranges: Option<&Ranges>) -> Plan {
        let index = Index::new(graph);
        let attention = graph.node.iter().any(|node| is_attention(node, &index));
        let mut roles: Vec<Role> = graph
            .node
            .iter()
            .map(|node| role(node, &index, attention))
            .collect();
        if opset < 13 && graph.node.iter().any(|node| !node.op_type().is_empty()) {
            let reason = "the model's opset is below 13; prepare it first";
            roles.fill(Role::Float(reason.to_owned()));
        }
        let mut planner = Planner {
            graph,
            index,
            roles,
            roots: BTreeMap::new(),
        };
        planner.find_roots();
        let biases = planner.find_biases();
        let plan = match activations {
            Activations::U8Asymmetric => planner.plan_u8(ranges),
            Activations::S8Symmetric => planner.plan_s8(),
        };
        Plan { biases, ..plan }
    }
}

struct Planner<'a> {
    graph: &'a GraphProto,
    index: Index<'a>,
    roles: Vec<Role>,
    roots: BTreeMap<&'a str, &'a str>,
}

impl<'a> Planner<'a> {
    /// The tensor whose range covers each output of a moving node.
    fn find_roots(&mut self) {
        for (node, role) in self.graph.node.iter().zip(&self.roles) {
            if *role == Role::Move {
                let input = node.input[0].as_str();
                let root = self.roots.get(input).copied().unwrap_or(input);
                self.roots.insert(&node.output[0], root);
            }
        }
    }

    /// Recognizes a MatMul whose only reader adds one constant per output channel. ONNX Runtime turns the two into a
    /// Gemm before it looks for pairs, and finds no integer kernel for one with a float bias.
    fn find_biases(&mut self) -> BTreeMap<String, String> {
        let mut biases = BTreeMap::new();
        for (position, node) in self
            .graph
            .node
            .iter()
            .enumerate()
            .filter(|(_, node)| is(node, "Add"))
        {
            let [first, second] = node.input.as_slice() else {
                continue;
            };
            let (input, constant) = if self.index.constants.contains_key(first.as_str()) {
                (second, first)
            } else {
                (first, second)
            };
            let Some(&producer) = self.index.producer.get(input.as_str()) else {
                continue;
            };
            let Some(bias) = self.index.constants.get(constant.as_str()) else {
                continue;
            };
            let matmul = &self.graph.node[producer];
            let fits = is(matmul, "MatMul")
                && self.roles[producer] == Role::Weighted
                && self.index.read_once(input)
                && is_float(bias)
                && self.index.constants[matmul.input[1].as_str()].dims[1..] == bias.dims;
            if fits {
                self.roles[position] = Role::Bias;
                biases.insert(input.clone(), constant.clone());
            }
        }
        biases
    }

    fn root(&self, tensor: &'a str) -> &'a str {
        self.roots.get(tensor).copied().unwrap_or(tensor)
    }

    /// The inputs of a quantizable node that are computed at run time.
    fn activations(&self, position: usize) -> Vec<&'a str> {
        let node = &self.graph.node[position];
        let inputs = match self.roles[position] {
            Role::Compute => &node.input[..],
            _ => &node.input[..1],
        };
        let names = inputs.iter().map(String::as_str);
        names
            .filter(|name| !name.is_empty() && !self.index.constants.contains_key(name))
            .collect()
    }

    fn plan_u8(mut self, ranges: Option<&Ranges>) -> Plan {
        let graph = self.graph;
        // Forwards: what a convolution's output reaches through nodes with integer kernels.
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        for (position, node) in graph.node.iter().enumerate() {
            let fed = node.input.iter().any(|input| reached.contains(input.as_str()));
            let reason = match self.roles[position] {
                Role::Weighted if is(node, "Conv") => None,
                Role::Weighted | Role::Bias | Role::Float(_) => continue,
                _ if !fed => Some("none of its inputs is quantized"),
                Role::Compute if self.is_wild(position, ranges) => Some("its ranges exceed 1000"),
                _ => None,
            };
            match reason {
                None => reached.extend(node.output.iter().map(String::as_str)),
                // A Relu or Clip after a float node can still be folded into the input of a quantized one.
                Some(_) if self.roles[position] == Role::Bound => {}
                Some(reason) => self.roles[position] = Role::Float(reason.to_owned()),
            }
        }
        // Backwards: moving 8-bit values pays only where a quantized node takes them.
        let mut wanted = vec![false; graph.node.len()];
        for position in (0..graph.node.len()).rev() {
            let output = graph.node[position].output.first().map_or("", String::as_str);
            wanted[position] = match self.roles[position] {
                Role::Weighted | Role::Compute => true,
                Role::Move | Role::Bound | Role::Bias => {
                    self.index.readers(output).iter().any(|&reader| wanted[reader])
                }
                Role::Float(_) => false,
            };
            if self.roles[position] == Role::Move && !wanted[position] {
                self.roles[position] = Role::Float("no quantized node takes its output".to_owned());
            }
        }

        let mut plan = self.empty_plan();
        for (position, node) in graph.node.iter().enumerate() {
            match self.roles[position] {
                Role::Weighted | Role::Compute | Role::Move => {
                    for input in self.activations(position) {
                        plan.tensors.insert(input.to_owned(), self.root(input).to_owned());
                    }
                }
                Role::Bias => {}
                Role::Bound | Role::Float(_) => continue,
            }
            let output = node.output[0].as_str();
            if self.needs_quantized_output(position) {
                let output = self.bound_after(output).unwrap_or(output);
                plan.tensors
                    .insert(output.to_owned(), self.root(output).to_owned());
            }
        }
        for position in 0..graph.node.len() {
            if let Some((bounded, output)) = self.foldable(position, &plan) {
                plan.tensors.remove(bounded);
                plan.folded.insert(output.to_owned(), bounded.to_owned());
                plan.outcomes[position] = NodeOutcome::FoldedIntoRange;
            }
        }
        for tensor in plan.tensors.keys() {
            // A folded Relu's output exists in 8 bits only, and a kernel's output serves nobody but the fused pair.
            let producer = self.index.producer.get(tensor.as_str());
            if producer.is_some_and(|&position| !matches!(plan.outcomes[position], NodeOutcome::Float(_))) {
                plan.replaced.insert(tensor.clone());
            }
        }
        plan
    }

    /// Gemm and MatMul have kernels with a float output, more precise and as fast; the others exist only with a
    /// quantized one. A Gemm before an activation needs one too, or the engine fuses the two in float first.
    fn needs_quantized_output(&self, position: usize) -> bool {
        let node = &self.graph.node[position];
        if !(is(node, "Gemm") || is(node, "MatMul") || self.roles[position] == Role::Bias) {
            return true;
        }
        let output = node.output[0].as_str();
        let mut readers = self
            .index
            .readers(output)
            .iter()
            .map(|&reader| &self.graph.node[reader]);
        !is(node, "MatMul") && readers.any(|reader| GEMM_ACTIVATIONS.contains(&reader.op_type()))
    }

    fn plan_s8(self) -> Plan {
        let mut plan = self.empty_plan();
        for position in (0..self.graph.node.len()).filter(|&position| self.roles[position] == Role::Weighted)
        {
            for input in self.activations(position) {
                plan.tensors.insert(input.to_owned(), self.root(input).to_owned());
            }
        }
        for (outcome, role) in plan.outcomes.iter_mut().zip(&self.roles) {
            if !matches!(role, Role::Weighted | Role::Float(_)) {
                *outcome =
                    NodeOutcome::Float("left to the engine to fuse with the node before it".to_owned());
            }
        }
        plan
    }

    fn empty_plan(&self) -> Plan {
        let outcome = |role: &Role| match role {
            Role::Weighted | Role::Compute | Role::Move | Role::Bias => NodeOutcome::Quantized,
            Role::Bound => NodeOutcome::Float("its input is not quantized, or has other readers".to_owned()),
            Role::Float(reason) => NodeOutcome::Float(reason.clone()),
        };
        Plan {
            outcomes: self.roles.iter().map(outcome).collect(),
            tensors: BTreeMap::new(),
            folded: BTreeMap::new(),
            replaced: BTreeSet::new(),
            biases: BTreeMap::new(),
        }
    }

    fn is_wild(&self, position: usize, ranges: Option<&Ranges>) -> bool {
        let Some(ranges) = ranges else { return false };
        let node = &self.graph.node[position];
        let mut tensors = node.input.iter().chain(&node.output).map(|name| self.root(name));
        tensors.any(|name| {
            ranges
                .get(name)
                .is_some_and(|range| range.min < -WILD || range.max > WILD)
        })
    }

    /// The output of the Relu or Clip that alone reads `tensor`, unless a moving node made it, whose scale is not its
    /// own to choose.
    fn bound_after(&self, tensor: &'a str) -> Option<&'a str> {
        let producer = *self.index.producer.get(tensor)?;
        let &[reader] = self.index.readers(tensor) else {
            return None;
        };
        let foldable = self.roles[producer] != Role::Move
            && self.roles[reader] == Role::Bound
            && self.index.read_once(tensor);
        foldable.then(|| self.graph.node[reader].output[0].as_str())
    }

    /// Input and output of a Relu or Clip whose output is quantized and whose input is its own.
    fn foldable(&self, position: usize, plan: &Plan) -> Option<(&'a str, &'a str)> {
        let node = &self.graph.node[position];
        if self.roles[position] != Role::Bound {
            return None;
        }
        let (input, output) = (node.input[0].as_str(), node.output[0].as_str());
        let own = self.bound_after(input) == Some(output);
        (own && plan.tensors.contains_key(output)).then_some((input, output))
    }
}

fn is_attention(node: &NodeProto, index: &Index<'_>) -> bool {
    let computed = |name: &String| !index.constants.contains_key(name.as_str());
    is(node, "LayerNormalization") || (is(node, "MatMul") && node.input.iter().all(computed))
}

fn role(node: &NodeProto, index: &Index<'_>, attention: bool) -> Role {
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
    let used: Vec<&String> = node.output.iter().filter(|name| !name.is_empty()).collect();
    let (Some(input), [_]) = (
        node.input.first().filter(|name| !name.is_empty()),
        used.as_slice(),
    ) else {
        return float("it has no input, or several outputs".to_owned());
    };
    let computed = !index.constants.contains_key(input.as_str());
    match node.op_type() {
        "Conv" | "Gemm" | "MatMul" => match weighted(node, index) {
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
        "MaxPool" | "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" if computed => Role::Move,
        "Relu" => Role::Bound,
        "Clip" if clip_bounds(node, index).is_some_and(|(min, max)| min <= 0.0 && max >= 0.0) => Role::Bound,
        "Clip" => float("its bounds are not constant, or do not include 0".to_owned()),
        operator => float(format!("{operator} has no 8-bit form here")),
    }
}

/// The constant bounds of a Relu or Clip.
pub(super) fn clip_bounds(node: &NodeProto, index: &Index<'_>) -> Option<(f32, f32)> {
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

fn is_float(tensor: &TensorProto) -> bool {
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
    let rank_fits = if is(node, "Conv") {
        weight.dims.len() >= 3
    } else {
        weight.dims.len() == 2
    };
    if !rank_fits || weight.dims.contains(&0) {
        return Err("its weights have an unusual rank, or are empty");
    }
    let channels = match node.op_type() {
        "Conv" => weight.dims[0],
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
