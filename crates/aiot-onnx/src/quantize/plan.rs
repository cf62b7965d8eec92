//! Which nodes run on 8 bits, and which tensors are quantized for that.
//!
//! Follows ONNX Runtime's fusions on CPUs (u8) and TensorRT's advice (s8); see [`Activations`]. Needs no numbers but
//! the ranges, and those only to keep sums and products of wild ranges (masks of -10000) in float.

use std::collections::{BTreeMap, BTreeSet};

use super::roles::{Role, is_attention, is_float, role};
use super::{Activations, NodeOutcome, StaticOptions};
use crate::graph::{Index, is, node_name};
use crate::proto::GraphProto;
use crate::ranges::Ranges;

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
    /// Outputs of embeddings with the constant table whose range they share.
    pub tables: BTreeMap<String, String>,
    /// Positions of the nodes whose weights are quantized.
    pub weighted: Vec<usize>,
    /// Outputs of MatMul nodes with the constant that the next node adds as a bias.
    pub biases: BTreeMap<String, String>,
}

impl Plan {
    pub fn new(graph: &GraphProto, opset: i64, options: &StaticOptions, ranges: Option<&Ranges>) -> Plan {
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
        for (node, role) in graph.node.iter().zip(&mut roles) {
            if options.activations == Activations::S8Symmetric && is(node, "ConvTranspose") {
                *role =
                    Role::Float("a transposed convolution has an 8-bit form for processors only".to_owned());
            }
            if options.float_nodes.contains(node_name(node)) {
                *role = Role::Float("left in float for accuracy".to_owned());
            }
        }
        let mut planner = Planner {
            graph,
            index,
            roles,
            roots: BTreeMap::new(),
        };
        planner.find_roots();
        let biases = planner.find_biases();
        let plan = match options.activations {
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
                self.roots
                    .extend(node.output.iter().map(|output| (output.as_str(), root)));
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
                Role::Weighted if is(node, "Conv") || is(node, "ConvTranspose") => None,
                Role::Weighted | Role::Embed | Role::Bias | Role::Float(_) => continue,
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
            let outputs = &graph.node[position].output;
            wanted[position] = match self.roles[position] {
                Role::Weighted | Role::Compute | Role::Embed => true,
                Role::Move | Role::Bound | Role::Bias => {
                    let mut readers = outputs.iter().flat_map(|output| self.index.readers(output));
                    readers.any(|&reader| wanted[reader])
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
                Role::Embed => {
                    plan.tables.insert(node.output[0].clone(), node.input[0].clone());
                }
                Role::Bias => {}
                Role::Bound | Role::Float(_) => continue,
            }
            if self.needs_quantized_output(position) {
                for output in node.output.iter().filter(|name| !name.is_empty()) {
                    let output = self.bound_after(output).unwrap_or(output);
                    plan.tensors
                        .insert(output.to_owned(), self.root(output).to_owned());
                }
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
            Role::Weighted | Role::Compute | Role::Move | Role::Embed | Role::Bias => NodeOutcome::Quantized,
            Role::Bound => NodeOutcome::Float("its input is not quantized, or has other readers".to_owned()),
            Role::Float(reason) => NodeOutcome::Float(reason.clone()),
        };
        Plan {
            outcomes: self.roles.iter().map(outcome).collect(),
            tensors: BTreeMap::new(),
            folded: BTreeMap::new(),
            replaced: BTreeSet::new(),
            tables: BTreeMap::new(),
            weighted: (0..self.roles.len())
                .filter(|&position| self.roles[position] == Role::Weighted)
                .collect(),
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

    /// The output of the Relu or Clip that alone reads `tensor`, unless a node made it whose scale is not its
    /// own to choose.
    fn bound_after(&self, tensor: &'a str) -> Option<&'a str> {
        let producer = *self.index.producer.get(tensor)?;
        let &[reader] = self.index.readers(tensor) else {
            return None;
        };
        let foldable = !matches!(self.roles[producer], Role::Move | Role::Embed)
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
