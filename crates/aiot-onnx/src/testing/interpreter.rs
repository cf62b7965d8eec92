//! Runs small graphs in f64, slowly and plainly: the witness that transformations keep a model's outputs.

use std::collections::BTreeMap;

use crate::graph::{attribute, float, int};
use crate::model::Model;
use crate::proto::tensor_proto::DataType;
use crate::proto::{NodeProto, TensorProto};

/// A tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub dims: Vec<usize>,
    pub data: Vec<f64>,
    /// The least and largest number of its integer type.
    limits: (f64, f64),
}

impl Value {
    pub fn new(dims: &[usize], data: Vec<f64>) -> Value {
        assert_eq!(dims.iter().product::<usize>(), data.len());
        Value {
            dims: dims.to_vec(),
            data,
            limits: (f64::MIN, f64::MAX),
        }
    }

    fn constant(tensor: &TensorProto) -> Value {
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let raw = tensor.raw_data.as_deref().unwrap();
        let (data, limits) = match DataType::try_from(tensor.data_type()).unwrap() {
            DataType::Float => {
                let floats = crate::tensor::floats(tensor).unwrap();
                (floats.into_iter().map(f64::from).collect(), (f64::MIN, f64::MAX))
            }
            DataType::Uint8 => (raw.iter().map(|&value| f64::from(value)).collect(), (0.0, 255.0)),
            DataType::Int8 => (
                raw.iter().map(|&value| f64::from(value.cast_signed())).collect(),
                (-128.0, 127.0),
            ),
            DataType::Int32 => {
                let numbers = raw
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&bytes| f64::from(i32::from_le_bytes(bytes)));
                (numbers.collect(), (f64::from(i32::MIN), f64::from(i32::MAX)))
            }
            DataType::Int64 => {
                let numbers = raw
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&bytes| i64::from_le_bytes(bytes) as f64);
                (numbers.collect(), (f64::MIN, f64::MAX))
            }
            other => panic!("{other:?}"),
        };
        Value {
            limits,
            ..Value::new(&dims, data)
        }
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Value {
        Value::new(&self.dims, self.data.iter().map(|&value| f(value)).collect())
    }

    /// Channel of each number along an axis.
    fn along(&self, axis: usize) -> impl Fn(usize) -> usize {
        let inner: usize = self.dims[axis + 1..].iter().product();
        let length = self.dims[axis];
        move |position| position / inner % length
    }
}

/// The value of every tensor of a graph with one input.
pub(crate) fn run(model: &Model, input: &Value) -> BTreeMap<String, Value> {
    let graph = model.graph();
    let mut values: BTreeMap<String, Value> = graph
        .initializer
        .iter()
        .map(|tensor| (tensor.name().to_owned(), Value::constant(tensor)))
        .collect();
    for value in &graph.input {
        values
            .entry(value.name().to_owned())
            .or_insert_with(|| input.clone());
    }
    for node in &graph.node {
        let value = compute(node, &values);
        values.insert(node.output[0].clone(), value);
    }
    values
}

fn compute(node: &NodeProto, values: &BTreeMap<String, Value>) -> Value {
    let get = |input: usize| {
        node.input
            .get(input)
            .filter(|name| !name.is_empty())
            .map(|name| &values[name])
    };
    let x = get(0);
    let scalar = |input: usize, default: f64| get(input).map_or(default, |value| value.data[0]);
    match node.op_type() {
        "Constant" => Value::constant(attribute(node, "value").unwrap().t.as_ref().unwrap()),
        "Identity" | "Dropout" => x.unwrap().clone(),
        "Relu" => x.unwrap().map(|value| value.max(0.0)),
        "Clip" => {
            let (low, high) = (scalar(1, f64::MIN), scalar(2, f64::MAX));
            x.unwrap().map(|value| value.clamp(low, high))
        }
        "Add" => broadcast(x.unwrap(), get(1).unwrap(), |a, b| a + b),
        "Mul" => broadcast(x.unwrap(), get(1).unwrap(), |a, b| a * b),
        "Conv" => conv(node, x.unwrap(), get(1).unwrap(), get(2)),
        "ConvTranspose" => conv_transpose(node, x.unwrap(), get(1).unwrap(), get(2)),
        "Gemm" => {
            let transposed = int(node, "transB", 0) != 0;
            let product = matmul(x.unwrap(), get(1).unwrap(), transposed);
            let product = product.map(|value| value * f64::from(float(node, "alpha", 1.0)));
            let beta = f64::from(float(node, "beta", 1.0));
            get(2).map_or(product.clone(), |bias| {
                broadcast(&product, &bias.map(|value| value * beta), |a, b| a + b)
            })
        }
        "MatMul" => matmul(x.unwrap(), get(1).unwrap(), false),
        "Flatten" => {
            let x = x.unwrap();
            Value::new(&[x.dims[0], x.data.len() / x.dims[0]], x.data.clone())
        }
        "GlobalAveragePool" => {
            let x = x.unwrap();
            let inner: usize = x.dims[2..].iter().product();
            let means = x
                .data
                .chunks(inner)
                .map(|plane| plane.iter().sum::<f64>() / inner as f64)
                .collect();
            Value::new(&[x.dims[0], x.dims[1], 1, 1], means)
        }
        "BatchNormalization" => {
            let x = x.unwrap();
            let [scale, offset, mean, variance] = [1, 2, 3, 4].map(|input| &get(input).unwrap().data);
            let epsilon = f64::from(float(node, "epsilon", 1e-5));
            let channel = x.along(1);
            let normalize = |(position, value): (usize, &f64)| {
                let c = channel(position);
                (value - mean[c]) / (variance[c] + epsilon).sqrt() * scale[c] + offset[c]
            };
            Value::new(&x.dims, x.data.iter().enumerate().map(normalize).collect())
        }
        "QuantizeLinear" => {
            let zero_point = get(2).unwrap();
            let (low, high) = zero_point.limits;
            let (scale, zero_point) = (scalar(1, 1.0), zero_point.data[0]);
            let quantize = |value: f64| (value / scale).round_ties_even() + zero_point;
            x.unwrap().map(|value| quantize(value).clamp(low, high))
        }
        "DequantizeLinear" => {
            let (x, scale, zero_point) = (x.unwrap(), get(1).unwrap(), get(2).unwrap());
            let channel: Box<dyn Fn(usize) -> usize> = match scale.dims.is_empty() {
                true => Box::new(|_| 0),
                false => Box::new(x.along(int(node, "axis", 1) as usize)),
            };
            let dequantize = |(position, value): (usize, &f64)| {
                let c = channel(position);
                (value - zero_point.data[c]) * scale.data[c]
            };
            Value::new(&x.dims, x.data.iter().enumerate().map(dequantize).collect())
        }
        other => panic!("the interpreter has no {other}"),
    }
}

fn broadcast(a: &Value, b: &Value, f: impl Fn(f64, f64) -> f64) -> Value {
    let rank = a.dims.len().max(b.dims.len());
    let padded = |dims: &[usize]| [vec![1; rank - dims.len()], dims.to_vec()].concat();
    let (a_dims, b_dims) = (padded(&a.dims), padded(&b.dims));
    let dims: Vec<usize> = a_dims.iter().zip(&b_dims).map(|(&a, &b)| a.max(b)).collect();
    let position = |dims_of: &[usize], mut index: usize| {
        let (mut position, mut stride) = (0, 1);
        for axis in (0..rank).rev() {
            position += (index % dims[axis]) % dims_of[axis] * stride;
            stride *= dims_of[axis];
            index /= dims[axis];
        }
        position
    };
    let count = dims.iter().product();
    let data = (0..count).map(|index| f(a.data[position(&a_dims, index)], b.data[position(&b_dims, index)]));
    Value::new(&dims, data.collect())
}

fn matmul(a: &Value, b: &Value, transposed: bool) -> Value {
    let (inner, columns) = if transposed {
        (b.dims[1], b.dims[0])
    } else {
        (b.dims[0], b.dims[1])
    };
    let rows = a.data.len() / inner;
    let at = |k: usize, column: usize| {
        b.data[if transposed {
            column * inner + k
        } else {
            k * columns + column
        }]
    };
    let cell = |index: usize| {
        (0..inner)
            .map(|k| a.data[index / columns * inner + k] * at(k, index % columns))
            .sum()
    };
    let dims = [&a.dims[..a.dims.len() - 1], &[columns]].concat();
    Value::new(&dims, (0..rows * columns).map(cell).collect())
}

/// Square kernels, symmetric padding, stride 1.
fn conv(node: &NodeProto, x: &Value, w: &Value, bias: Option<&Value>) -> Value {
    let pad = attribute(node, "pads").map_or(0, |attribute| attribute.ints[0] as usize);
    let (height, width, inputs, kernel) = (x.dims[2], x.dims[3], w.dims[1], w.dims[2]);
    let (out_height, out_width) = (height + 2 * pad + 1 - kernel, width + 2 * pad + 1 - kernel);
    let per_group = w.dims[0] / int(node, "group", 1) as usize;
    let mut data = Vec::new();
    for n in 0..x.dims[0] {
        for c in 0..w.dims[0] {
            for (row, column) in
                (0..out_height).flat_map(|row| (0..out_width).map(move |column| (row, column)))
            {
                let mut sum = bias.map_or(0.0, |bias| bias.data[c]);
                for (i, kr, kc) in cube(inputs, kernel) {
                    let (r, k) = ((row + kr).wrapping_sub(pad), (column + kc).wrapping_sub(pad));
                    if r < height && k < width {
                        let channel = c / per_group * inputs + i;
                        sum += x.data[((n * x.dims[1] + channel) * height + r) * width + k]
                            * w.data[((c * inputs + i) * kernel + kr) * kernel + kc];
                    }
                }
                data.push(sum);
            }
        }
    }
    Value::new(&[x.dims[0], w.dims[0], out_height, out_width], data)
}

/// Square kernels, no padding, stride 1, batch 1.
fn conv_transpose(node: &NodeProto, x: &Value, w: &Value, bias: Option<&Value>) -> Value {
    let group = int(node, "group", 1) as usize;
    let (height, width, per_group, kernel) = (x.dims[2], x.dims[3], w.dims[1], w.dims[2]);
    let (out_height, out_width, outputs) = (height + kernel - 1, width + kernel - 1, per_group * group);
    let mut data = vec![0.0; outputs * out_height * out_width];
    for (position, value) in data.iter_mut().enumerate() {
        *value = bias.map_or(0.0, |bias| bias.data[position / (out_height * out_width)]);
    }
    for (input, row) in (0..x.dims[1]).flat_map(|input| (0..height).map(move |row| (input, row))) {
        for (column, (o, kr, kc)) in
            (0..width).flat_map(|column| cube(per_group, kernel).map(move |k| (column, k)))
        {
            let output = input / (x.dims[1] / group) * per_group + o;
            data[(output * out_height + row + kr) * out_width + column + kc] += x.data
                [(input * height + row) * width + column]
                * w.data[((input * per_group + o) * kernel + kr) * kernel + kc];
        }
    }
    Value::new(&[1, outputs, out_height, out_width], data)
}

fn cube(outer: usize, kernel: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..outer * kernel * kernel).map(move |i| (i / (kernel * kernel), i / kernel % kernel, i % kernel))
}
