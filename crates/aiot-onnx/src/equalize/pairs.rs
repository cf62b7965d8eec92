//! Pairs of weighted nodes between which channels can be scaled, and their weights.

use crate::graph::{Index, float, int, is};
use crate::proto::{GraphProto, NodeProto};
use crate::quantize::clip_bounds;
use crate::tensor;

/// Nodes that may stand between the two of a pair.
const MAX_BETWEEN: usize = 8;

/// What may stand between the two of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// What commutes with any positive factors: Relu, LeakyRelu, pooling, Flatten.
    Commuting,
    /// What leaves every number in its place: Relu, LeakyRelu, and Clip from 0 up, whose bound stays.
    Elementwise,
}

/// Constants that are being scaled.
#[derive(Default)]
pub struct Weights {
    /// In the order in which they were met.
    pub changed: Vec<Scaled>,
}

/// A constant.
pub struct Scaled {
    pub name: String,
    pub dims: Vec<i64>,
    pub values: Vec<f32>,
}

/// One side of a pair: a constant, and the channel of each of its numbers.
pub struct Side {
    tensor: usize,
    channel_of: Box<dyn Fn(usize) -> usize>,
}

/// Two weighted nodes and the channels that go from one to the other.
pub struct Pair {
    pub channels: usize,
    /// What the second node reads.
    pub input: String,
    /// Upper bound of the Clips between them.
    pub bound: Option<f32>,
    /// Whether each weight of the second node meets one channel only, and no other channel shares its scale.
    pub depthwise: bool,
    /// Weight of the first node, by output channel.
    pub first: Side,
    /// Its bias.
    bias: Option<usize>,
    /// Weight of the second node, by input channel.
    pub second: Side,
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
    pub fn largest(&self, side: &Side, channels: usize) -> Vec<f64> {
        let mut largest = vec![0.0f64; channels];
        for (position, value) in self.changed[side.tensor].values.iter().enumerate() {
            let channel = &mut largest[(side.channel_of)(position)];
            *channel = channel.max(f64::from(value.abs()));
        }
        largest
    }

    /// Multiplies what makes each channel by its factor, and divides what takes it.
    pub fn scale(&mut self, pair: &Pair, factor: impl Fn(usize) -> f64) {
        let first = &pair.first;
        self.multiply(first.tensor, |position| factor((first.channel_of)(position)));
        let second = &pair.second;
        self.multiply(second.tensor, |position| {
            1.0 / factor((second.channel_of)(position))
        });
        if let Some(bias) = pair.bias {
            self.multiply(bias, &factor);
        }
    }

    fn multiply(&mut self, tensor: usize, factor: impl Fn(usize) -> f64) {
        for (position, value) in self.changed[tensor].values.iter_mut().enumerate() {
            *value = (f64::from(*value) * factor(position)) as f32;
        }
    }
}

/// The pairs among the weighted nodes at these positions.
pub fn find_pairs(
    graph: &GraphProto,
    positions: &[usize],
    between: Between,
    weights: &mut Weights,
) -> Vec<Pair> {
    let index = Index::new(graph);
    let mut pairs = Vec::new();
    for &position in positions {
        let node = &graph.node[position];
        // A MatMul adds its bias in another node.
        if is(node, "MatMul") {
            continue;
        }
        let Some(next) = next_weighted(graph, &index, positions, between, &node.output[0]) else {
            continue;
        };
        pairs.extend(pair(node, &next, &index, weights));
    }
    pairs
}

fn pair(node: &NodeProto, next: &Next<'_>, index: &Index<'_>, weights: &mut Weights) -> Option<Pair> {
    let Next {
        node: next,
        flat,
        bound,
    } = *next;
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
        input: next.input[0].clone(),
        bound,
        depthwise: is(next, "Conv") && second_dims[1] == 1,
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

/// The second node of a pair.
struct Next<'a> {
    node: &'a NodeProto,
    /// Whether channels were flattened into features on the way to it.
    flat: bool,
    /// Upper bound of the Clips on the way.
    bound: Option<f32>,
}

/// The weighted node that alone takes a value, behind nodes that scaling channels goes through.
fn next_weighted<'a>(
    graph: &'a GraphProto,
    index: &Index<'_>,
    positions: &[usize],
    between: Between,
    output: &str,
) -> Option<Next<'a>> {
    let mut value = output;
    let (mut flat, mut bound) = (false, None::<f32>);
    for _ in 0..MAX_BETWEEN {
        if !index.read_once(value) {
            return None;
        }
        let &[reader] = index.readers(value) else {
            return None;
        };
        let node = &graph.node[reader];
        if positions.binary_search(&reader).is_ok() {
            return (node.input[0] == value).then_some(Next { node, flat, bound });
        }
        let commutes = match node.op_type() {
            "Relu" => true,
            "LeakyRelu" => float(node, "alpha", 0.01) >= 0.0,
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                between == Between::Commuting && !flat
            }
            "Flatten" => between == Between::Commuting && int(node, "axis", 1) == 1,
            "Clip" if between == Between::Elementwise => match clip_bounds(node, index)? {
                (0.0, upper) if upper > 0.0 => {
                    if upper.is_finite() {
                        bound = Some(bound.map_or(upper, |bound| bound.min(upper)));
                    }
                    true
                }
                _ => false,
            },
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
