//! Quantization of a prepared graph, in three forms: static (this file), dynamic ([`dynamic`]: activations are measured
//! at run time) and weights only ([`weight_only`]). The two others need no calibration.
//!
//! Static 8-bit quantization is in QDQ form: the graph keeps its float operators, and pairs of QuantizeLinear and
//! DequantizeLinear around them tell the engine which ones to run on integers.
//!
//! A valid, accurate QDQ file can still run many times slower than float when the pairs do not stand where the
//! engine's fusions look for them, so the placement ([`plan`]) follows those fusions: every Conv, Gemm and MatMul with
//! constant weights becomes one integer kernel. [`weights`] quantizes constants, [`write`](mod@write) assembles the
//! graph. All arithmetic is scalar f64 in a fixed order, rounded half to even: the same ranges give the same bytes on
//! every processor.

mod dynamic;
#[cfg(test)]
mod odd_tests;
#[cfg(test)]
mod operator_tests;
mod plan;
#[cfg(test)]
mod reference_tests;
mod rewrite;
#[cfg(test)]
mod robust_tests;
mod roles;
mod subpixel;
mod switch;
#[cfg(test)]
mod tests;
mod weight_only;
mod weights;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{OnnxError, QuantizeError};
use crate::graph::{Index, is};
use crate::model::Model;
use crate::permute::permute;
use crate::proto::tensor_proto::DataType;
use crate::proto::{TypeProto, ValueInfoProto, type_proto};
use crate::ranges::Ranges;
pub use dynamic::quantize_dynamic;
use plan::Plan;
pub(crate) use roles::{clip_bounds, is_float};
pub use weight_only::{WeightBits, quantize_weights};
pub(crate) use weights::{PAIR_MAX, WEIGHT_MAX};

/// How activations are stored, and with them where the pairs stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activations {
    /// For ONNX Runtime on CPUs: u8 with a zero point. Inputs and outputs of every quantized node are quantized, Relu
    /// and Clip vanish into the output's range, and weights are made saturation-safe, so that x86 processors without
    /// VNNI compute the same bits as all others.
    U8Asymmetric,
    /// For TensorRT, which takes nothing else: s8 with zero point 0. Only the inputs of weighted nodes are quantized,
    /// as TensorRT wants it to fuse Conv, Add and Relu into one kernel. A CPU runs such a file in float.
    S8Symmetric,
}

/// How many scales a weight gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// One for the whole weight: smaller, and for engines that know no other.
    PerTensor,
    /// One per output channel.
    PerChannel,
}

/// How [`quantize_static`] quantizes.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticOptions {
    /// How activations are stored.
    pub activations: Activations,
    /// How many scales a weight gets.
    pub granularity: Granularity,
    /// Nodes that stay float, by the name that a [`NodeReport`] gives them.
    pub float_nodes: BTreeSet<String>,
    /// Means of the channels of weighted nodes' inputs over the calibration samples, see [`input_channels`]: what the
    /// rounding of a weight adds to its outputs on average is taken out of the bias. An input without an entry is
    /// not corrected.
    pub input_means: BTreeMap<String, Vec<f32>>,
    /// Whether channels are put into an order in which saturation-safe weights lose less. Of u8 activations only:
    /// TensorRT adds up in 32 bits.
    pub permuted: bool,
}

impl StaticOptions {
    /// One scale per output channel, every node that can be quantized, no bias correction, channels as they are.
    pub fn new(activations: Activations) -> StaticOptions {
        StaticOptions {
            activations,
            granularity: Granularity::PerChannel,
            float_nodes: BTreeSet::new(),
            input_means: BTreeMap::new(),
            permuted: false,
        }
    }
}

/// Which axis of a weighted node's input holds its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelAxis {
    /// The one after the batch: convolutions.
    Second,
    /// The last: Gemm and MatMul.
    Last,
}

/// What became of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeOutcome {
    /// Runs on 8-bit numbers.
    Quantized,
    /// A Relu or Clip that the range of the quantized output performs.
    FoldedIntoRange,
    /// Stays float, for this reason.
    Float(String),
}

/// One node of the prepared graph in a [`QuantizeReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeReport {
    /// The node's name, its first output where it has none.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// What became of it.
    pub outcome: NodeOutcome,
}

/// What quantization did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QuantizeReport {
    /// Every node of the prepared graph, in its order.
    pub nodes: Vec<NodeReport>,
    /// Size of the prepared file.
    pub bytes_before: u64,
    /// Size of the quantized file.
    pub bytes_after: u64,
}

impl QuantizeReport {
    /// Number of nodes that no longer run in float.
    pub fn quantized(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| !matches!(node.outcome, NodeOutcome::Float(_)))
            .count()
    }
}

/// The activations whose ranges [`quantize_static`] may ask for, in graph order; the same for both forms.
///
/// Fewer than all: pooling and reshaping share their input's range, and a convolution before a Relu needs only the
/// Relu's. Graph inputs are among them.
pub fn calibration_tensors(prepared: &Model) -> Vec<String> {
    let graph = prepared.graph();
    let mut wanted = BTreeSet::new();
    for activations in [Activations::U8Asymmetric, Activations::S8Symmetric] {
        let plan = Plan::new(graph, prepared.opset(), &StaticOptions::new(activations), None);
        // The rows of a table have the table's range.
        wanted.extend(
            plan.tensors
                .into_values()
                .filter(|root| !plan.tables.contains_key(root)),
        );
    }
    let inputs = graph.input.iter().map(|input| input.name());
    let made = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .map(String::as_str);
    inputs
        .chain(made)
        .filter(|name| wanted.contains(*name))
        .map(str::to_owned)
        .collect()
}

/// The inputs of weighted nodes whose bias can be corrected, and where their channels are; see
/// [`StaticOptions::input_means`].
pub fn input_channels(prepared: &Model) -> BTreeMap<String, ChannelAxis> {
    let options = StaticOptions::new(Activations::U8Asymmetric);
    let nodes = weighted_nodes(prepared, &options)
        .into_iter()
        .map(|position| &prepared.graph().node[position]);
    let axis = |node| {
        if is(node, "Conv") || is(node, "ConvTranspose") {
            ChannelAxis::Second
        } else {
            ChannelAxis::Last
        }
    };
    nodes.map(|node| (node.input[0].clone(), axis(node))).collect()
}

/// Whether a model is a recurrent one or a transformer: those for which ranges found at run time may be the better
/// ones, since their activations differ much from input to input.
pub fn is_sequence_model(prepared: &Model) -> bool {
    let index = Index::new(prepared.graph());
    let mut nodes = prepared.graph().node.iter();
    nodes.any(|node| roles::is_attention(node, &index) || rewrite::is_any(node, &["GRU", "LSTM", "RNN"]))
}

/// Positions of the nodes whose weights would be quantized, in graph order.
pub(crate) fn weighted_nodes(prepared: &Model, options: &StaticOptions) -> Vec<usize> {
    Plan::new(prepared.graph(), prepared.opset(), options, None).weighted
}

/// The model with further float32 outputs, so that an engine that runs it shows these tensors.
///
/// Names that are outputs already, or graph inputs (whose values the caller has), change nothing.
///
/// # Errors
/// [`OnnxError::MissingValue`] for a name that the graph does not compute.
pub fn with_outputs(prepared: &Model, names: &[String]) -> Result<Model, OnnxError> {
    let mut proto = prepared.proto().clone();
    let graph = proto.graph.as_mut().expect("a checked model has a graph");
    for name in names {
        let is_named = |value: &ValueInfoProto| value.name() == name;
        if graph.output.iter().any(is_named) || graph.input.iter().any(is_named) {
            continue;
        }
        let known = graph.value_info.iter().find(|value| is_named(value)).cloned();
        graph.output.push(known.unwrap_or_else(|| ValueInfoProto {
            name: Some(name.clone()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                    elem_type: Some(DataType::Float as i32),
                    shape: None,
                })),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        }));
    }
    Model::from_proto(proto)
}

/// Quantizes a prepared model to 8 bits by the ranges of its activations.
///
/// Graph inputs and outputs keep their names and stay float32; operators that are not understood stay float. A model
/// with nothing to quantize comes out byte-identical.
///
/// # Errors
/// [`QuantizeError::MissingRange`] and [`QuantizeError::BadRange`] when `ranges` do not belong to this model,
/// [`QuantizeError::NotFinite`] for a broken weight, [`OnnxError::OpsetTooOld`] when the model was not prepared.
pub fn quantize_static(
    prepared: &Model,
    ranges: &Ranges,
    options: &StaticOptions,
) -> Result<(Model, QuantizeReport), QuantizeError> {
    if options.permuted && options.activations == Activations::U8Asymmetric {
        return quantize_permuted(prepared, ranges, options);
    }
    let graph = prepared.graph();
    let plan = Plan::new(graph, prepared.opset(), options, Some(ranges));
    let anything = plan.outcomes.contains(&NodeOutcome::Quantized);
    let quantized = if anything {
        write::write(prepared, &plan, ranges, options)?
    } else {
        prepared.clone()
    };
    let report = rewrite::report(prepared, &quantized, &plan.outcomes);
    Ok((quantized, report))
}

/// Ranges are of whole tensors, so they hold in any order; means move with their channels.
fn quantize_permuted(
    prepared: &Model,
    ranges: &Ranges,
    options: &StaticOptions,
) -> Result<(Model, QuantizeReport), QuantizeError> {
    let mut options = StaticOptions {
        permuted: false,
        ..options.clone()
    };
    let Some(permuted) = permute(prepared, &["Conv", "Gemm", "MatMul"])? else {
        return quantize_static(prepared, ranges, &options);
    };
    for (input, order) in &permuted.inputs {
        if let Some(means) = options
            .input_means
            .get_mut(input)
            .filter(|means| means.len() == order.len())
        {
            *means = order.iter().map(|&old| means[old]).collect();
        }
    }
    let (model, report) = quantize_static(&permuted.model, ranges, &options)?;
    match report.quantized() {
        0 => Ok((prepared.clone(), report)),
        _ => Ok((model, report)),
    }
}
