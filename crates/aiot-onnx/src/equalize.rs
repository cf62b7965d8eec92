//! Cross-layer equalization: evens out the channels between two weighted nodes, without changing what they compute.
//!
//! A tensor has one scale for all its channels, so a channel that is a hundred times smaller than its neighbours is
//! left with two of its 255 steps. Where only nodes that commute with positive factors (Relu, pooling, Flatten) stand
//! between two weighted nodes, each channel may be multiplied by any factor if the next weight divides by it. Never
//! through a Clip: its bound would have to move along. Factors balance the largest weights on both sides.
//!
//! Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1.

use crate::error::OnnxError;
use crate::graph::{Index, float, int, is};
use crate::model::Model;
use crate::prepare::set_initializer;
use crate::proto::{GraphProto, NodeProto};
use crate::quantize::{Activations, StaticOptions, weighted_nodes};
use crate::tensor;

/// Rounds over all pairs; chains of pairs settle within a few.
const MAX_ROUNDS: usize = 12;
/// Factors closer to 1 than this are settled.
const SETTLED: f64 = 0.01;
/// Nodes that may stand between the two of a pair.
const MAX_BETWEEN: usize = 8;

/// Evens out channels between the weighted nodes of a prepared model. Its outputs stay within float rounding; a model
/// without such pairs comes out unchanged.
///
/// # Errors
/// [`OnnxError`] only for our own mistakes: the result is checked like any model.
pub fn equalize(prepared: &Model) -> Result<Model, OnnxError> {
    let mut proto = prepared.proto().clone();
    let graph = proto.graph.as_mut().expect("a checked model has a graph");
    let mut weights = Weights { changed: Vec::new() };
    let positions = weighted_nodes(prepared, &StaticOptions::new(Activations::U8Asymmetric));
    let pairs = find_pairs(graph, &positions, &mut weights);
    if pairs.is_empty() {
        return Ok(prepared.clone());
    }
    for _ in 0..MAX_ROUNDS {
        let mut farthest = 0.0f64;
        for pair in &pairs {
            farthest = farthest.max(weights.balance(pair));
        }
        if farthest < SETTLED {
            break;
        }
    }
    for tensor in weights.changed {
        let dims = tensor.dims;
        set_initializer(graph, tensor::from_floats(&tensor.name, &dims, &tensor.values));
    }
    Model::from_proto(proto)
}

/// Constants that are being scaled.
struct Weights {
    changed: Vec<Scaled>,
}

struct Scaled {
    name: String,
    dims: Vec<i64>,
    values: Vec<f32>,
}

/// One side of a pair: a constant, and the channel of each of its numbers.
struct Side {
    tensor: usize,
    channel_of: Box<dyn Fn(usize) -> usize>,
}

struct Pair {
    channels: usize,
    /// Weight of the first node, by output channel.
    first: Side,
    /// Its bias.
    bias: Option<usize>,
    /// Weight of the second node, by input channel.
    second: Side,
}

impl Weights {
    /// The place of a constant that one node alone reads.
    fn take(&mut self, index: &Index<'_>, name: &str) -> Option<usize> {
        let constant = *index.constants.get(name).filter(|_| index.read_once(name))?;
        if let Some(known) = self.changed.iter().position(|tensor| tensor.name == name) {
            return Some(known);
        }
        let values =
            tensor::floats(constant).filter(|values| values.iter().all(|value| value.is_finite()))?;
        self.changed.push(Scaled {
            name: name.to_owned(),
            dims: constant.dims.clone(),
            values,
        });
        Some(self.changed.len() - 1)
    }

    /// The largest magnitude of each channel.
    fn largest(&self, side: &Side, channels: usize) -> Vec<f64> {
        let mut largest = vec![0.0f64; channels];
        for (position, value) in self.changed[side.tensor].values.iter().enumerate() {
            let channel = &mut largest[(side.channel_of)(position)];
            *channel = channel.max(f64::from(value.abs()));
        }
        largest
    }

    /// Balances one pair; returns how far its farthest factor was from 1.
    fn balance(&mut self, pair: &Pair) -> f64 {
        let first = self.largest(&pair.first, pair.channels);
        let second = self.largest(&pair.second, pair.channels);
        let factor = |(first, second): (&f64, &f64)| {
            let factor = (first / second).sqrt();
            // A channel without weights on one side has nothing to balance.
            if factor.is_finite() && factor > 1e-9 && factor < 1e9 {
                factor
            } else {
                1.0
            }
        };
        let factors: Vec<f64> = first.iter().zip(&second).map(factor).collect();
        let farthest = factors
            .iter()
            .map(|factor| (factor - 1.0).abs())
            .fold(0.0, f64::max);
        if farthest >= SETTLED {
            self.scale(pair.first.tensor, |position| {
                1.0 / factors[(pair.first.channel_of)(position)]
            });
            self.scale(pair.second.tensor, |position| {
                factors[(pair.second.channel_of)(position)]
            });
            if let Some(bias) = pair.bias {
                self.scale(bias, |position| 1.0 / factors[position]);
            }
        }
        farthest
    }

    fn scale(&mut self, tensor: usize, factor: impl Fn(usize) -> f64) {
        for (position, value) in self.changed[tensor].values.iter_mut().enumerate() {
            *value = (f64::from(*value) * factor(position)) as f32;
        }
    }
}

fn find_pairs(graph: &GraphProto, positions: &[usize], weights: &mut Weights) -> Vec<Pair> {
    let index = Index::new(graph);
    let mut pairs = Vec::new();
    for &position in positions {
        let node = &graph.node[position];
        // A MatMul adds its bias in another node.
        if is(node, "MatMul") {
            continue;
        }
        let Some((next, flat)) = next_weighted(graph, &index, positions, &node.output[0]) else {
            continue;
        };
        let next = &graph.node[next];
        pairs.extend(pair(node, next, flat, &index, weights));
    }
    pairs
}

fn pair(
    node: &NodeProto,
    next: &NodeProto,
    flat: bool,
    index: &Index<'_>,
    weights: &mut Weights,
) -> Option<Pair> {
    let weight = index.constants.get(node.input[1].as_str())?;
    let dims: Vec<usize> = weight
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<_>>()?;
    let columns_first = is(node, "Gemm") && int(node, "transB", 0) == 0;
    let transposed = is(node, "ConvTranspose");
    let channels = dims[usize::from(columns_first || transposed)];
    let second_dims = &index.constants.get(next.input[1].as_str())?.dims;
    let second_dims: Vec<usize> = second_dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<_>>()?;
    let input_channel = input_channels(next, &second_dims, channels, flat)?;
    let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
        Some(name) => Some(weights.take(index, name)?),
        None => None,
    };
    let first = weights.take(index, &node.input[1])?;
    let second = weights.take(index, &next.input[1])?;
    if first == second || bias.is_some_and(|bias| weights.changed[bias].values.len() != channels) {
        return None;
    }
    let inner = dims[1 + usize::from(transposed)..]
        .iter()
        .product::<usize>()
        .max(1);
    let output_channel: Box<dyn Fn(usize) -> usize> = match columns_first {
        true => Box::new(move |position| position % channels),
        false => Box::new(move |position| position / inner % channels),
    };
    Some(Pair {
        channels,
        first: Side {
            tensor: first,
            channel_of: output_channel,
        },
        bias,
        second: Side {
            tensor: second,
            channel_of: input_channel,
        },
    })
}

/// The weighted node that alone takes a value, behind nodes that commute with positive factors per channel, and
/// whether channels were flattened into features on the way.
fn next_weighted(
    graph: &GraphProto,
    index: &Index<'_>,
    positions: &[usize],
    output: &str,
) -> Option<(usize, bool)> {
    let mut value = output;
    let mut flat = false;
    for _ in 0..MAX_BETWEEN {
        if !index.read_once(value) {
            return None;
        }
        let &[reader] = index.readers(value) else {
            return None;
        };
        let node = &graph.node[reader];
        if positions.binary_search(&reader).is_ok() {
            return (node.input[0] == value).then_some((reader, flat));
        }
        let commutes = match node.op_type() {
            "Relu" | "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                !flat || is(node, "Relu")
            }
            "LeakyRelu" => float(node, "alpha", 0.01) >= 0.0,
            "Flatten" => int(node, "axis", 1) == 1,
            _ => false,
        };
        let single = node.output.iter().filter(|name| !name.is_empty()).count() == 1;
        if !commutes || !single || !crate::check::domain(node.domain()).is_empty() {
            return None;
        }
        flat |= is(node, "Flatten");
        value = &node.output[0];
    }
    None
}

/// Maps a position in the weight of a node to the channel, one of `channels`, that it is multiplied with.
fn input_channels(
    node: &NodeProto,
    dims: &[usize],
    channels: usize,
    flat: bool,
) -> Option<Box<dyn Fn(usize) -> usize>> {
    if is(node, "Conv") {
        let group = usize::try_from(int(node, "group", 1))
            .ok()
            .filter(|&group| group > 0)?;
        let (per_group, kernel) = (dims[1], dims[2..].iter().product::<usize>().max(1));
        if flat || per_group.checked_mul(group) != Some(channels) || !dims[0].is_multiple_of(group) {
            return None;
        }
        let outputs_per_group = (dims[0] / group).max(1);
        return Some(Box::new(move |position| {
            let (output, input) = (position / (per_group * kernel), position / kernel % per_group);
            output / outputs_per_group * per_group + input
        }));
    }
    if is(node, "ConvTranspose") {
        let inner = dims[1..].iter().product::<usize>().max(1);
        return match flat || dims[0] != channels {
            true => None,
            false => Some(Box::new(move |position| position / inner)),
        };
    }
    let transposed = is(node, "Gemm") && int(node, "transB", 0) != 0;
    let (inputs, columns) = (dims[usize::from(transposed)], dims[1].max(1));
    // Flattening makes each channel a run of features; without it a feature is a channel.
    if channels == 0 || !inputs.is_multiple_of(channels) || (!flat && inputs != channels) {
        return None;
    }
    let run = (inputs / channels).max(1);
    Some(match transposed {
        true => Box::new(move |position| position % columns / run),
        false => Box::new(move |position| position / columns / run),
    })
}

#[cfg(test)]
mod tests;
