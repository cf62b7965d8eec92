//! Which tensors have to share the order of their channels, and which constants go with them.
//!
//! An order is carried through nodes that treat all channels alike: activations, pooling, depthwise convolutions,
//! sums and products of tensors with the same channels, Pad, Resize, Flatten, LayerNormalization. Whatever else reads or
//! makes a tensor keeps its order as it is.

use std::collections::BTreeMap;

use super::order::{Repeat, Shape, Summed, order};
use crate::graph::{Index, attribute, int, is};
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::tensor;

/// Nodes that compute each number from one number, whatever its channel.
const ALIKE: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "HardSwish",
    "Elu",
    "Selu",
    "Celu",
    "Softplus",
    "Softsign",
    "Erf",
    "Gelu",
    "Mish",
    "Abs",
    "Neg",
    "Exp",
    "Sqrt",
    "Reciprocal",
    "ThresholdedRelu",
    "Identity",
];
/// Nodes that combine two tensors number by number.
const TOGETHER: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"];
/// Pooling over all positions of a channel.
const GLOBAL: &[&str] = &["GlobalAveragePool", "GlobalMaxPool"];
/// Pooling over some.
const POOL: &[&str] = &["MaxPool", "AveragePool"];

/// An axis of a constant that has the order of a set.
pub(super) struct Member {
    pub constant: String,
    axis: usize,
    /// Places of the axis that belong to one channel, one after the other.
    run: usize,
}

impl Member {
    pub fn reordered(&self, constant: &TensorProto, order: &[usize]) -> TensorProto {
        let dims: Vec<usize> = constant.dims.iter().map(|&dim| dim as usize).collect();
        let values = tensor::floats(constant).unwrap_or_default();
        let inner = dims[self.axis + 1..].iter().product::<usize>() * self.run;
        let whole = order.len() * inner;
        let mut moved = Vec::with_capacity(values.len());
        for block in values.chunks_exact(whole.max(1)) {
            match inner {
                1 => moved.extend(order.iter().map(|&old| block[old])),
                _ => order
                    .iter()
                    .for_each(|&old| moved.extend_from_slice(&block[old * inner..][..inner])),
            }
        }
        tensor::from_floats(constant.name(), &constant.dims, &moved)
    }
}

/// A node whose weights are multiplied with the channels of a set.
pub(super) struct Taker {
    /// The tensor that it takes.
    pub input: String,
    weight: String,
    pub numbers: usize,
    pub run: usize,
    /// Where its numbers are, if it adds them up over channels.
    shape: Option<Shape>,
}

/// Tensors that share the order of their channels.
#[derive(Default)]
pub(super) struct Set {
    channels: usize,
    /// Something needs the order as it is.
    fixed: bool,
    pub members: Vec<Member>,
    pub takers: Vec<Taker>,
}

impl Set {
    /// An odd number of channels makes pairs across the positions of a kernel: another order would gain little there.
    pub fn may_change(&self) -> bool {
        let adds_up = self.takers.iter().any(|taker| taker.shape.is_some());
        adds_up && !self.fixed && self.channels.is_multiple_of(2)
    }

    pub fn order(&self, index: &Index<'_>) -> Option<Vec<usize>> {
        let summed = |taker: &Taker| {
            let numbers = tensor::floats(index.constants[taker.weight.as_str()])?;
            Summed::new(&numbers, taker.shape?, self.channels)
        };
        let weights: Vec<Summed> = self.takers.iter().filter_map(summed).collect();
        order(self.channels, &weights)
    }
}

/// Where a tensor's channels are.
#[derive(Clone, Copy)]
struct Place {
    set: usize,
    /// Counted from the last axis, which is 1: so constants line up with it whatever their rank.
    from_end: usize,
    /// Each channel became a run of features.
    flat: bool,
}

/// All sets of a graph.
pub(super) struct Orders<'a> {
    pub index: Index<'a>,
    counts: &'a [&'a str],
    pub sets: Vec<Set>,
    /// The set that took a set's tensors over, or itself.
    merged: Vec<usize>,
    places: BTreeMap<&'a str, Place>,
}

impl<'a> Orders<'a> {
    pub fn find(graph: &'a GraphProto, counts: &'a [&'a str]) -> Orders<'a> {
        let mut orders = Orders {
            index: Index::new(graph),
            counts,
            sets: Vec::new(),
            merged: Vec::new(),
            places: BTreeMap::new(),
        };
        for node in &graph.node {
            let single = node.output.iter().filter(|name| !name.is_empty()).count() == 1;
            let known = crate::check::domain(node.domain()).is_empty() && single;
            let place = if known { orders.carry(node) } else { None };
            match place {
                Some(place) => {
                    orders.places.insert(&node.output[0], place);
                }
                None => orders.keep(node),
            }
        }
        let kept: Vec<&str> = orders
            .index
            .outputs
            .iter()
            .chain(&orders.index.captured)
            .copied()
            .collect();
        for name in kept {
            orders.fix(name);
        }
        orders
    }

    /// The place of the channels of a node's output. Where it is `None`, the caller keeps the order of all inputs.
    fn carry(&mut self, node: &'a NodeProto) -> Option<Place> {
        let operator = node.op_type();
        let input = node.input.first().map(String::as_str)?;
        let place = self.place(input);
        match operator {
            "Conv" => self.convolution(node, place),
            "Gemm" | "MatMul" => self.product(node, place),
            "Clip" => {
                let mut bounds = node.input[1..].iter().filter(|name| !name.is_empty());
                place.filter(|_| bounds.all(|name| self.one_number(name)))
            }
            "Flatten" => {
                let place = place.filter(|_| int(node, "axis", 1) == 1)?;
                Some(Place {
                    from_end: 1,
                    flat: place.flat || place.from_end > 1,
                    ..place
                })
            }
            "LayerNormalization" => {
                let place = place.filter(|place| place.from_end == 1 && !place.flat)?;
                let last = int(node, "axis", -1) == -1;
                let members = node.input[1..].iter().filter(|name| !name.is_empty());
                let members: Option<Vec<Member>> = members
                    .map(|name| self.vector(name, self.channels(place)))
                    .collect();
                self.sets[place.set].members.extend(members.filter(|_| last)?);
                Some(place)
            }
            _ if ALIKE.contains(&operator) => place,
            // Beyond the last axis the rank is known: one batch, the channels, positions.
            _ if GLOBAL.contains(&operator) => place.filter(|place| place.from_end > 1),
            _ if POOL.contains(&operator) => {
                let rank = attribute(node, "kernel_shape")?.ints.len();
                place.filter(|place| place.from_end > 1 && place.from_end == rank + 1)
            }
            "Pad" | "Resize" => place.filter(|&place| self.keeps_channels(node, place)),
            _ if TOGETHER.contains(&operator) && node.input.len() == 2 => self.together(node),
            _ => None,
        }
    }

    /// Whether a Pad or Resize leaves the channels alone and treats them alike.
    fn keeps_channels(&self, node: &NodeProto, place: Place) -> bool {
        let constant = |input: usize| {
            let name = node.input.get(input)?;
            self.index.constants.get(name.as_str()).copied()
        };
        let integers = |input| constant(input).and_then(tensor::integers).unwrap_or_default();
        // The axes are counted from the first, so the rank must be that of the amounts.
        let rank = place.from_end + 1;
        let some_axes = attribute(node, "axes").is_some();
        match node.op_type() {
            _ if place.from_end == 1 || some_axes => false,
            "Pad" => {
                let amounts = integers(1);
                let all_axes = node.input.get(3).is_none_or(String::is_empty);
                all_axes && amounts.len() == 2 * rank && amounts[1] == 0 && amounts[rank + 1] == 0
            }
            _ => {
                let scales = constant(2).and_then(tensor::floats).unwrap_or_default();
                let (sizes, channels) = (integers(3), self.channels(place) as i64);
                (scales.len() == rank && scales[1] == 1.0) || (sizes.len() == rank && sizes[1] == channels)
            }
        }
    }

    /// A tensor and a constant, or two tensors.
    fn together(&mut self, node: &'a NodeProto) -> Option<Place> {
        let [first, second] = [0, 1].map(|input| node.input[input].as_str());
        match [first, second].map(|name| self.place(name)) {
            [Some(first), Some(second)] => {
                let alike = first.from_end == second.from_end
                    && first.flat == second.flat
                    && self.channels(first) == self.channels(second);
                alike.then(|| self.merge(first, second))
            }
            [Some(place), None] => self.with_constant(place, second),
            [None, Some(place)] => self.with_constant(place, first),
            [None, None] => None,
        }
    }

    fn with_constant(&mut self, place: Place, name: &str) -> Option<Place> {
        let dims = &self.index.constants.get(name)?.dims;
        // A higher rank would leave the channels at another axis.
        if place.from_end > 1 && dims.len() > place.from_end + 1 {
            return None;
        }
        let axis = dims.len().checked_sub(place.from_end);
        let along = axis.map_or(1, |axis| dims[axis]);
        if along == 1 {
            return Some(place);
        }
        let fits = !place.flat && along as usize == self.channels(place);
        let member = self.member(name, axis?).filter(|_| fits)?;
        self.sets[place.set].members.push(member);
        Some(place)
    }

    fn convolution(&mut self, node: &'a NodeProto, place: Option<Place>) -> Option<Place> {
        let weight = self.member(node.input.get(1)?, 0)?;
        let dims = self.dims(&weight.constant);
        let (rank, group) = (dims.len(), usize::try_from(int(node, "group", 1)).ok()?);
        if rank < 3 || dims.contains(&0) {
            return None;
        }
        let place = place.filter(|place| !place.flat && place.from_end == rank - 1);
        let bias = self.bias(node, dims[0])?;
        if group == 1 {
            let positions = dims[2..].iter().product();
            let shape = Shape {
                rows: Repeat {
                    count: dims[0],
                    distance: dims[1] * positions,
                },
                positions: Repeat {
                    count: positions,
                    distance: 1,
                },
                channel_distance: positions,
            };
            self.take(
                node,
                place.filter(|&place| self.channels(place) == dims[1]),
                1,
                1,
                shape,
            );
            return Some(self.new_set(dims[0], rank - 1, weight, bias));
        }
        let place =
            place.filter(|&place| dims[1] == 1 && dims[0] == group && self.channels(place) == group)?;
        let set = &mut self.sets[place.set];
        set.takers.push(Taker {
            input: node.input[0].clone(),
            weight: weight.constant.clone(),
            numbers: 0,
            run: 1,
            shape: None,
        });
        set.members.push(weight);
        set.members.extend(bias);
        Some(place)
    }

    /// Gemm, or MatMul with a constant.
    fn product(&mut self, node: &'a NodeProto, place: Option<Place>) -> Option<Place> {
        let transposed = is(node, "Gemm") && int(node, "transB", 0) != 0;
        let weight = self.member(node.input.get(1)?, usize::from(!transposed))?;
        let dims = self.dims(&weight.constant);
        if dims.len() != 2 || dims.contains(&0) || int(node, "transA", 0) != 0 {
            return None;
        }
        let [outputs, inputs] = if transposed {
            [dims[0], dims[1]]
        } else {
            [dims[1], dims[0]]
        };
        let bias = self.bias(node, outputs)?;
        let (row, channel_distance) = if transposed { (inputs, 1) } else { (1, outputs) };
        let shape = Shape {
            rows: Repeat {
                count: outputs,
                distance: row,
            },
            positions: Repeat {
                count: 1,
                distance: 0,
            },
            channel_distance,
        };
        let place = place.filter(|&place| {
            let channels = self.channels(place);
            place.from_end == 1 && inputs.is_multiple_of(channels) && (place.flat || inputs == channels)
        });
        let run = place.map_or(1, |place| inputs / self.channels(place));
        self.take(node, place, usize::from(transposed), run, shape);
        Some(self.new_set(outputs, 1, weight, bias))
    }

    /// A weighted node takes these channels; without a place its input keeps its order.
    fn take(&mut self, node: &NodeProto, place: Option<Place>, axis: usize, run: usize, shape: Shape) {
        let (input, weight) = (&node.input[0], &node.input[1]);
        let Some(place) = place else {
            self.fix(input);
            return;
        };
        let numbers = self.dims(weight).iter().product();
        let counts = self.counts.contains(&node.op_type());
        let set = &mut self.sets[place.set];
        set.members.push(Member {
            constant: weight.clone(),
            axis,
            run,
        });
        set.takers.push(Taker {
            input: input.clone(),
            weight: weight.clone(),
            numbers,
            run,
            // A run's neighbours are of one channel, but for its ends.
            shape: (run == 1 && counts).then_some(shape),
        });
    }

    fn new_set(&mut self, channels: usize, from_end: usize, weight: Member, bias: Option<Member>) -> Place {
        let set = self.sets.len();
        self.merged.push(set);
        self.sets.push(Set {
            channels,
            members: [weight].into_iter().chain(bias).collect(),
            ..Set::default()
        });
        Place {
            set,
            from_end,
            flat: false,
        }
    }

    /// The bias of a node, if it has one. `None` where the output cannot change its order because of it.
    fn bias(&self, node: &NodeProto, channels: usize) -> Option<Option<Member>> {
        match node.input.get(2).filter(|name| !name.is_empty()) {
            None => Some(None),
            Some(name) => self.vector(name, channels).map(Some),
        }
    }

    /// A constant with one number per channel.
    fn vector(&self, name: &str, channels: usize) -> Option<Member> {
        let axis = self.index.constants.get(name)?.dims.len().checked_sub(1)?;
        let member = self.member(name, axis)?;
        let dims = self.dims(name);
        (dims[axis] == channels && dims.iter().product::<usize>() == channels).then_some(member)
    }

    /// A float constant that one node alone reads.
    fn member(&self, name: &str, axis: usize) -> Option<Member> {
        let constant = self.index.constants.get(name)?;
        let own = self.index.read_once(name) && crate::quantize::is_float(constant);
        own.then(|| Member {
            constant: name.to_owned(),
            axis,
            run: 1,
        })
    }

    fn dims(&self, constant: &str) -> Vec<usize> {
        let dims = &self.index.constants[constant].dims;
        dims.iter()
            .map(|&dim| usize::try_from(dim).unwrap_or(0))
            .collect()
    }

    fn one_number(&self, name: &str) -> bool {
        let constant = self.index.constants.get(name);
        constant.is_some_and(|constant| tensor::element_count(&constant.dims) == Some(1))
    }

    fn keep(&mut self, node: &NodeProto) {
        for name in &node.input {
            self.fix(name);
        }
    }

    fn fix(&mut self, name: &str) {
        if let Some(place) = self.place(name) {
            self.sets[place.set].fixed = true;
        }
    }

    fn place(&self, name: &str) -> Option<Place> {
        let mut place = *self.places.get(name)?;
        while self.merged[place.set] != place.set {
            place.set = self.merged[place.set];
        }
        Some(place)
    }

    fn channels(&self, place: Place) -> usize {
        self.sets[place.set].channels
    }

    /// Makes one set of two.
    fn merge(&mut self, place: Place, other: Place) -> Place {
        if place.set != other.set {
            let other_set = std::mem::take(&mut self.sets[other.set]);
            self.merged[other.set] = place.set;
            let set = &mut self.sets[place.set];
            set.fixed |= other_set.fixed;
            set.members.extend(other_set.members);
            set.takers.extend(other_set.takers);
        }
        place
    }
}
