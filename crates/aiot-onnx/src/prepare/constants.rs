//! Computes at once what hangs on constants alone.
//!
//! torch's newer exporter leaves the reordering of recurrent weights in the graph; a matrix may be turned there, or cast
//! from half precision: behind these a weight is no constant to whoever looks for one. Values are
//! moved whatever their type; numbers are computed as IEEE 754 has them, one operation a number.

use std::collections::BTreeMap;

use half::f16;

use crate::check::domain;
use crate::graph::{Index, attribute, int, is, subgraphs};
use crate::proto::tensor_proto::DataType;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::tensor;

/// Bytes that may be computed for each byte of the model's constants, and beyond that: a small file must not unpack to
/// a large one, nor be long in reading. Weights of a recurrent node are cut up and put together again twice.
const ROOM_PER_BYTE: usize = 8;
const ROOM_BYTES: usize = 1 << 20;

/// Replaces nodes whose inputs are all constant by their outputs, within that room.
pub(super) fn fold_constants(graph: &mut GraphProto) {
    let index = Index::new(graph);
    let own: usize = graph.initializer.iter().map(bytes_of).sum();
    let mut room = own.saturating_mul(ROOM_PER_BYTE).saturating_add(ROOM_BYTES);
    let mut made: BTreeMap<&str, TensorProto> = BTreeMap::new();
    let mut folded = vec![false; graph.node.len()];
    for (position, node) in graph.node.iter().enumerate() {
        let [output] = node.output.as_slice() else {
            continue;
        };
        let kept = index.outputs.contains(output.as_str()) || output.is_empty();
        if kept || !domain(node.domain()).is_empty() || subgraphs(node).next().is_some() {
            continue;
        }
        let constant = |name: &String| {
            made.get(name.as_str())
                .or(index.constants.get(name.as_str()).copied())
        };
        let inputs: Option<Vec<Option<Dense>>> = node
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => Some(None),
                _ => Dense::new(constant(name)?).map(Some),
            })
            .collect();
        let Some(inputs) = inputs.filter(|inputs| inputs.first().is_some_and(Option::is_some)) else {
            continue;
        };
        if let Some(value) = compute(node, &inputs, room) {
            let is_same = inputs[0]
                .as_ref()
                .is_some_and(|first| first.bytes.as_ptr() == value.bytes.as_ptr());
            room -= if is_same { 0 } else { value.bytes.len() };
            made.insert(output, value.into_tensor(output));
            folded[position] = true;
        }
    }
    let made: Vec<TensorProto> = made.into_values().collect();
    let mut folded = folded.into_iter();
    graph.node.retain(|_| !folded.next().unwrap_or(false));
    graph.initializer.extend(made);
}

fn bytes_of(constant: &TensorProto) -> usize {
    let count = tensor::element_count(&constant.dims).unwrap_or(0);
    tensor::data_bytes(constant.data_type(), count)
}

/// A tensor in row-major order, little-endian.
struct Dense {
    data_type: DataType,
    dims: Vec<usize>,
    bytes: bytes::Bytes,
}

impl Dense {
    fn new(constant: &TensorProto) -> Option<Dense> {
        let data_type = DataType::try_from(constant.data_type()).ok()?;
        let dims: Option<Vec<usize>> = constant
            .dims
            .iter()
            .map(|&dim| usize::try_from(dim).ok())
            .collect();
        width(data_type)?;
        let bytes = match (&constant.raw_data, data_type) {
            (Some(raw), _) => raw.clone(),
            (None, DataType::Float) => from_floats(&constant.float_data),
            (None, DataType::Int64) => from_integers(&constant.int64_data),
            // Other types without raw data are not worth a form of their own.
            (None, _) => return None,
        };
        Some(Dense {
            data_type,
            dims: dims?,
            bytes,
        })
    }

    fn into_tensor(self, name: &str) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(self.data_type as i32),
            dims: self.dims.iter().map(|&dim| dim as i64).collect(),
            raw_data: Some(self.bytes),
            ..TensorProto::default()
        }
    }

    fn reshaped(&self, dims: Vec<usize>) -> Option<Dense> {
        let (before, after) = (count(&self.dims)?, count(&dims)?);
        (before == after).then(|| Dense {
            data_type: self.data_type,
            dims,
            bytes: self.bytes.clone(),
        })
    }

    fn floats(&self) -> Option<Vec<f32>> {
        (self.data_type == DataType::Float).then(|| tensor::from_raw(&self.bytes, f32::from_le_bytes))
    }

    fn integers(&self) -> Option<Vec<i64>> {
        match self.data_type {
            DataType::Int64 => Some(tensor::from_raw(&self.bytes, i64::from_le_bytes)),
            DataType::Int32 => {
                let number = |bytes| i64::from(i32::from_le_bytes(bytes));
                Some(tensor::from_raw(&self.bytes, number))
            }
            _ => None,
        }
    }

    /// An axis counted from the first, `None` where there is no such one.
    fn axis(&self, axis: i64) -> Option<usize> {
        place(axis, self.dims.len())
    }

    /// How far two neighbours along each axis are apart.
    fn strides(&self) -> Vec<isize> {
        let mut strides = vec![1; self.dims.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * self.dims[axis].cast_signed();
        }
        strides
    }

    /// The elements from `first` on that `strides` lead to.
    fn view(&self, dims: Vec<usize>, strides: &[isize], first: isize, room: usize) -> Option<Dense> {
        let (width, total) = (width(self.data_type)?, count(&dims)?);
        if total.checked_mul(width)? > room {
            return None;
        }
        let mut bytes = Vec::with_capacity(total * width);
        let mut at = vec![0usize; dims.len()];
        let mut element = first;
        for _ in 0..total {
            let start = usize::try_from(element).ok()?.checked_mul(width)?;
            bytes.extend_from_slice(self.bytes.get(start..start + width)?);
            for axis in (0..dims.len()).rev() {
                at[axis] += 1;
                element += strides[axis];
                if at[axis] < dims[axis] {
                    break;
                }
                element -= strides[axis] * dims[axis].cast_signed();
                at[axis] = 0;
            }
        }
        Some(Dense {
            data_type: self.data_type,
            dims,
            bytes: bytes.into(),
        })
    }
}

fn from_floats(numbers: &[f32]) -> bytes::Bytes {
    tensor::raw(numbers.iter().map(|number| number.to_le_bytes())).into()
}

fn from_integers(numbers: &[i64]) -> bytes::Bytes {
    tensor::raw(numbers.iter().map(|number| number.to_le_bytes())).into()
}

/// Bytes of one element; `None` for types without whole ones.
fn width(data_type: DataType) -> Option<usize> {
    let bits = tensor::bits(data_type)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

fn count(dims: &[usize]) -> Option<usize> {
    dims.iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

fn place(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

/// A node's output; `None` where the node is not known, or the output larger than `room`.
fn compute(node: &NodeProto, inputs: &[Option<Dense>], room: usize) -> Option<Dense> {
    let given = |input: usize| inputs.get(input).and_then(Option::as_ref);
    let first = given(0)?;
    let value = match node.op_type() {
        "Identity" => first.reshaped(first.dims.clone()),
        "Reshape" => reshape(first, &given(1)?.integers()?, int(node, "allowzero", 0) != 0),
        "Flatten" => {
            let axis = place(int(node, "axis", 1), first.dims.len() + 1)?;
            let (outer, inner) = first.dims.split_at(axis);
            first.reshaped(vec![count(outer)?, count(inner)?])
        }
        "Squeeze" => {
            let axes = match given(1) {
                Some(axes) => axes.integers()?,
                None => (0..first.dims.len() as i64)
                    .filter(|&axis| first.dims[axis as usize] == 1)
                    .collect(),
            };
            let axes: Vec<usize> = axes.iter().map(|&axis| first.axis(axis)).collect::<Option<_>>()?;
            let kept = (0..first.dims.len()).filter(|axis| !axes.contains(axis));
            first.reshaped(kept.map(|axis| first.dims[axis]).collect())
        }
        "Unsqueeze" => {
            let axes = given(1)?.integers()?;
            let rank = first.dims.len() + axes.len();
            let axes: Vec<usize> = axes
                .iter()
                .map(|&axis| place(axis, rank))
                .collect::<Option<_>>()?;
            let mut old = first.dims.iter();
            let dims = (0..rank).map(|axis| match axes.contains(&axis) {
                true => Some(1),
                false => old.next().copied(),
            });
            first.reshaped(dims.collect::<Option<_>>()?)
        }
        "Transpose" => {
            let backwards: Vec<i64> = (0..first.dims.len() as i64).rev().collect();
            let order = attribute(node, "perm").map_or(backwards, |order| order.ints.clone());
            let order: Vec<usize> = order
                .iter()
                .map(|&axis| first.axis(axis))
                .collect::<Option<_>>()?;
            let mut sorted = order.clone();
            sorted.sort_unstable();
            let strides = first.strides();
            let turned: Vec<isize> = order.iter().map(|&axis| strides[axis]).collect();
            let dims = order.iter().map(|&axis| first.dims[axis]).collect();
            sorted
                .into_iter()
                .eq(0..first.dims.len())
                .then(|| first.view(dims, &turned, 0, room))
                .flatten()
        }
        "Slice" => slice(first, [given(1)?, given(2)?], [given(3), given(4)], room),
        "Concat" => concat(node, inputs, room),
        "Cast" => cast(first, DataType::try_from(int(node, "to", 0) as i32).ok()?),
        "Sqrt" => {
            let roots: Vec<f32> = first.floats()?.into_iter().map(f32::sqrt).collect();
            Some(with_bytes(first, from_floats(&roots)))
        }
        "Neg" => {
            let turned: Vec<f32> = first.floats()?.into_iter().map(|number| -number).collect();
            Some(with_bytes(first, from_floats(&turned)))
        }
        "Add" | "Sub" | "Mul" | "Div" => binary(node, first, given(1)?, room),
        _ => None,
    };
    value.filter(|value| value.bytes.as_ptr() == first.bytes.as_ptr() || value.bytes.len() <= room)
}

fn with_bytes(like: &Dense, bytes: bytes::Bytes) -> Dense {
    Dense {
        data_type: like.data_type,
        dims: like.dims.clone(),
        bytes,
    }
}

/// 0 keeps a length, -1 takes what is left.
fn reshape(value: &Dense, wanted: &[i64], zero_is_zero: bool) -> Option<Dense> {
    let mut dims = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (axis, &length) in wanted.iter().enumerate() {
        dims.push(match length {
            -1 if open.replace(axis).is_none() => 1,
            0 if !zero_is_zero => *value.dims.get(axis)?,
            length => usize::try_from(length).ok()?,
        });
    }
    if let Some(axis) = open {
        dims[axis] = count(&value.dims)?.checked_div(count(&dims)?)?;
    }
    value.reshaped(dims)
}

fn slice(value: &Dense, ends: [&Dense; 2], rest: [Option<&Dense>; 2], room: usize) -> Option<Dense> {
    let [starts, ends] = [ends[0].integers()?, ends[1].integers()?];
    let every: Vec<i64> = (0..starts.len() as i64).collect();
    let axes = rest[0].map_or(Some(every), Dense::integers)?;
    let steps = rest[1].map_or(Some(vec![1; starts.len()]), Dense::integers)?;
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return None;
    }
    let (mut dims, mut strides, mut first) = (value.dims.clone(), value.strides(), 0isize);
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = value.axis(axis)?;
        let length = i64::try_from(value.dims[axis]).ok()?;
        let from_end = |position: i64| {
            if position < 0 {
                position.saturating_add(length)
            } else {
                position
            }
        };
        // Backwards a slice may end before the first element.
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let start = from_end(start).clamp(low.max(0), high.max(0));
        let end = from_end(end).clamp(low, high.max(low));
        if step == 0 {
            return None;
        }
        let span = if step > 0 { end - start } else { start - end };
        let taken = span.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
        dims[axis] = usize::try_from(taken).ok()?;
        first += isize::try_from(start).ok()?.checked_mul(strides[axis])?;
        strides[axis] = strides[axis].checked_mul(isize::try_from(step).ok()?)?;
    }
    value.view(dims, &strides, first, room)
}

fn concat(node: &NodeProto, inputs: &[Option<Dense>], room: usize) -> Option<Dense> {
    let parts: Vec<&Dense> = inputs.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let first = *parts.first()?;
    let axis = first.axis(attribute(node, "axis")?.i?)?;
    let fits = |part: &&Dense| {
        let alike = |other: usize| other == axis || part.dims[other] == first.dims[other];
        part.data_type == first.data_type
            && part.dims.len() == first.dims.len()
            && (0..first.dims.len()).all(alike)
    };
    let total = parts
        .iter()
        .try_fold(0usize, |sum, part| sum.checked_add(part.bytes.len()))?;
    if !parts.iter().all(fits) || total > room {
        return None;
    }
    let outer = count(&first.dims[..axis])?;
    let mut bytes = Vec::with_capacity(total);
    for block in 0..outer {
        for part in &parts {
            let length = part.bytes.len() / outer;
            bytes.extend_from_slice(&part.bytes[block * length..][..length]);
        }
    }
    let mut dims = first.dims.clone();
    dims[axis] = parts.iter().map(|part| part.dims[axis]).sum();
    Some(Dense {
        data_type: first.data_type,
        dims,
        bytes: bytes.into(),
    })
}

/// Half and double precision to float32, and integers to other ones that hold them.
fn cast(value: &Dense, to: DataType) -> Option<Dense> {
    let bytes = match (value.data_type, to) {
        (from, to) if from == to => value.bytes.clone(),
        (DataType::Float16, DataType::Float) => {
            let number = |bytes| f16::from_le_bytes(bytes).to_f32();
            from_floats(&tensor::from_raw(&value.bytes, number))
        }
        (DataType::Double, DataType::Float) => {
            let number = |bytes| f64::from_le_bytes(bytes) as f32;
            from_floats(&tensor::from_raw(&value.bytes, number))
        }
        (DataType::Int32, DataType::Int64) => from_integers(&value.integers()?),
        (DataType::Int64 | DataType::Int32, DataType::Float) => {
            let floats: Vec<f32> = value
                .integers()?
                .into_iter()
                .map(|number| number as f32)
                .collect();
            from_floats(&floats)
        }
        _ => return None,
    };
    Some(Dense {
        data_type: to,
        dims: value.dims.clone(),
        bytes,
    })
}

fn binary(node: &NodeProto, first: &Dense, second: &Dense, room: usize) -> Option<Dense> {
    let rank = first.dims.len().max(second.dims.len());
    let length = |value: &Dense, axis: usize| match (axis + value.dims.len()).checked_sub(rank) {
        Some(own) => value.dims[own],
        None => 1,
    };
    let dims: Vec<usize> = (0..rank)
        .map(|axis| match (length(first, axis), length(second, axis)) {
            (one, other) if one == other || other == 1 => Some(one),
            (1, other) => Some(other),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let spread = |value: &Dense| {
        let (own, strides) = (rank - value.dims.len(), value.strides());
        let stride = |axis: usize| match axis.checked_sub(own) {
            Some(axis) if value.dims[axis] != 1 => strides[axis],
            _ => 0,
        };
        let strides: Vec<isize> = (0..rank).map(stride).collect();
        value.view(dims.clone(), &strides, 0, room)
    };
    let (first, second) = (spread(first)?, spread(second)?);
    if let (Some(a), Some(b)) = (first.floats(), second.floats()) {
        let operation: fn(f32, f32) -> f32 = match node.op_type() {
            "Add" => |a, b| a + b,
            "Sub" => |a, b| a - b,
            "Mul" => |a, b| a * b,
            _ => |a, b| a / b,
        };
        let numbers: Vec<f32> = a.into_iter().zip(b).map(|(a, b)| operation(a, b)).collect();
        return Some(with_bytes(&first, from_floats(&numbers)));
    }
    if first.data_type != DataType::Int64 || second.data_type != DataType::Int64 || is(node, "Div") {
        return None;
    }
    let operation: fn(i64, i64) -> Option<i64> = match node.op_type() {
        "Add" => i64::checked_add,
        "Sub" => i64::checked_sub,
        _ => i64::checked_mul,
    };
    let pairs = first.integers()?.into_iter().zip(second.integers()?);
    let numbers: Vec<i64> = pairs.map(|(a, b)| operation(a, b)).collect::<Option<_>>()?;
    Some(with_bytes(&first, from_integers(&numbers)))
}

#[cfg(test)]
mod tests;
