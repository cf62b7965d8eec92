//! From float numbers to 8-bit ones: activation scales, weights per output channel, biases.

use super::Granularity;
use crate::error::QuantizeError;
use crate::graph::{int, is};
use crate::parallel::parallel_map;
use crate::proto::{NodeProto, TensorProto};
use crate::ranges::Range;
use crate::tensor;

/// Largest magnitude of a quantized weight: -128 is left out so that the range is symmetric.
pub(crate) const WEIGHT_MAX: f64 = 127.0;
/// Largest sum of two adjacent weights: x86 processors without VNNI add u8 × s8 products in pairs in 16 bits, and
/// 255 × 128 still fits.
pub(crate) const PAIR_MAX: f64 = 128.0;
/// Largest magnitude of a quantized bias: half of what 32 bits hold, the other half is for the products.
const BIAS_MAX: f64 = (1u32 << 30) as f64;
/// Scales tried between the one that fits the widest number and the one that fits the widest pair.
const SAFE_STEPS: u32 = 8;

/// Scale and zero point of one activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    /// Width of one quantization step, positive.
    pub scale: f32,
    /// The quantized number that means 0.
    pub zero_point: u8,
}

/// u8 scale of a range, widened to include 0: `value ≈ (q - zero_point) * scale`, q in 0..=255.
pub(super) fn asymmetric(range: Range) -> Scale {
    let (min, max) = (f64::from(range.min).min(0.0), f64::from(range.max).max(0.0));
    let scale = positive((max - min) / 255.0);
    let zero_point = (-min / f64::from(scale)).round_ties_even().clamp(0.0, 255.0) as u8;
    Scale { scale, zero_point }
}

/// s8 scale of a range with zero point 0: `value ≈ q * scale`.
pub(super) fn symmetric(range: Range) -> Scale {
    let largest = f64::from(range.min).abs().max(f64::from(range.max).abs());
    Scale {
        scale: positive(largest / WEIGHT_MAX),
        zero_point: 0,
    }
}

/// A scale as the file stores it: 1 for an empty range, and never 0 or subnormal, which engines flush to 0.
pub(super) fn positive(scale: f64) -> f32 {
    if scale == 0.0 {
        1.0
    } else {
        (scale as f32).clamp(f32::MIN_POSITIVE, f32::MAX)
    }
}

/// How a weight's numbers belong to output channels.
pub(super) struct Layout {
    /// Number of output channels.
    pub channels: usize,
    /// The axis of the channels, for DequantizeLinear.
    pub axis: i64,
    /// Distance between the first numbers of two channels.
    channel_stride: usize,
    /// Positions of a channel's numbers relative to its first, in the order in which kernels add them up.
    offsets: Vec<usize>,
    /// Whether kernels add up products in pairs.
    in_pairs: bool,
    /// Input channels that one output channel sees; they are the fastest part of `offsets`.
    inputs_per_group: usize,
    /// Output channels that see the same input channels.
    outputs_per_group: usize,
}

impl Layout {
    /// The layout of the weight of a Conv, Gemm or MatMul that the plan found quantizable.
    pub fn new(node: &NodeProto, weight: &TensorProto) -> Layout {
        let dims: Vec<usize> = weight
            .dims
            .iter()
            .map(|&dim| usize::try_from(dim).unwrap_or(0))
            .collect();
        if is(node, "Conv") {
            let group = usize::try_from(int(node, "group", 1)).unwrap_or(1).max(1);
            return Layout::convolution(&weight.dims, group);
        }
        let transposed = is(node, "Gemm") && int(node, "transB", 0) != 0;
        match transposed {
            true => Layout {
                channels: dims[0],
                axis: 0,
                channel_stride: dims[1],
                offsets: (0..dims[1]).collect(),
                in_pairs: true,
                inputs_per_group: dims[1].max(1),
                outputs_per_group: dims[0].max(1),
            },
            false => Layout {
                channels: dims[1],
                axis: 1,
                channel_stride: 1,
                offsets: (0..dims[0]).map(|k| k * dims[1]).collect(),
                in_pairs: true,
                inputs_per_group: dims[0].max(1),
                outputs_per_group: dims[1].max(1),
            },
        }
    }

    /// The layout of a Conv's weight.
    pub fn convolution(dims: &[i64], group: usize) -> Layout {
        let dims: Vec<usize> = dims
            .iter()
            .map(|&dim| usize::try_from(dim).unwrap_or(0))
            .collect();
        // Kernels run over positions first and input channels within: the tensor has them the other way round.
        let kernel: usize = dims[2..].iter().product();
        let offsets = (0..kernel)
            .flat_map(|k| (0..dims[1]).map(move |input| input * kernel + k))
            .collect();
        let depthwise = dims[1] == 1 && dims[0] == group && group > 1;
        Layout {
            channels: dims[0],
            axis: 0,
            channel_stride: dims[1] * kernel,
            offsets,
            in_pairs: !depthwise,
            inputs_per_group: dims[1].max(1),
            outputs_per_group: (dims[0] / group).max(1),
        }
    }

    /// Rows with a scale each that are only looked up or made float again: no kernel adds them in pairs.
    pub fn rows(rows: usize, width: usize) -> Layout {
        Layout {
            channels: rows,
            axis: 0,
            channel_stride: width,
            offsets: (0..width).collect(),
            in_pairs: false,
            inputs_per_group: width.max(1),
            outputs_per_group: rows.max(1),
        }
    }

    /// The weights of a recurrent net, a row a gate: kernels add them up in pairs.
    pub fn recurrent(gates: usize, width: usize) -> Layout {
        Layout {
            in_pairs: true,
            ..Layout::rows(gates, width)
        }
    }

    /// A channel's numbers in the order in which kernels add them up.
    fn channel(&self, values: &[f32], channel: usize) -> Vec<f64> {
        self.positions(channel)
            .map(|position| f64::from(values[position]))
            .collect()
    }

    /// Number of input channels of the node.
    pub fn inputs(&self) -> usize {
        self.channels.div_ceil(self.outputs_per_group) * self.inputs_per_group
    }

    fn positions(&self, channel: usize) -> impl Iterator<Item = usize> {
        self.offsets
            .iter()
            .map(move |offset| channel * self.channel_stride + offset)
    }
}

/// A weight in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct QuantizedWeight {
    /// Same shape as the float weight.
    pub values: Vec<i8>,
    /// One per output channel, or one for all: `weight ≈ value * scale`.
    pub scales: Vec<f32>,
}

impl QuantizedWeight {
    /// The scale of an output channel.
    pub fn scale(&self, channel: usize) -> f32 {
        self.scales[channel.min(self.scales.len() - 1)]
    }
}

/// Quantizes a weight to s8, symmetric; values are in -127..=127 and the zero point is 0.
///
/// `least_scales`: for each output channel the least scale that its bias can live with, 0 for none. With
/// `saturation_safe` no pair of numbers that a kernel adds up in 16 bits can overflow there: a scale is widened, or
/// the widest pairs are clipped, whichever mix costs the least squared error.
pub(super) fn quantize_weight(
    values: &[f32],
    layout: &Layout,
    least_scales: &[f64],
    granularity: Granularity,
    saturation_safe: bool,
) -> QuantizedWeight {
    let in_pairs = saturation_safe && layout.in_pairs;
    let scale_of = |channels: &[Vec<f64>], least: f64| {
        let numbers = channels.iter().flatten();
        let largest = numbers.fold(0.0f64, |largest, value| largest.max(value.abs()));
        let scale = positive((largest / WEIGHT_MAX).max(least));
        if in_pairs {
            safe_scale(channels, scale)
        } else {
            scale
        }
    };
    let scales: Vec<f32>;
    let rows: Vec<Vec<i8>>;
    match granularity {
        Granularity::PerChannel => {
            let channels = parallel_map(layout.channels, values.len(), |channel| {
                let numbers = [layout.channel(values, channel)];
                let scale = scale_of(&numbers, least_scales[channel]);
                (scale, quantize_channel(&numbers[0], scale, in_pairs))
            });
            (scales, rows) = channels.into_iter().unzip();
        }
        Granularity::PerTensor => {
            let channels: Vec<Vec<f64>> = (0..layout.channels)
                .map(|channel| layout.channel(values, channel))
                .collect();
            let scale = scale_of(&channels, least_scales.iter().copied().fold(0.0, f64::max));
            rows = channels
                .iter()
                .map(|numbers| quantize_channel(numbers, scale, in_pairs))
                .collect();
            scales = vec![scale];
        }
    }
    let mut quantized = vec![0i8; values.len()];
    for (channel, row) in rows.iter().enumerate() {
        for (position, &value) in layout.positions(channel).zip(row) {
            quantized[position] = value;
        }
    }
    QuantizedWeight {
        values: quantized,
        scales,
    }
}

fn quantize_channel(numbers: &[f64], scale: f32, in_pairs: bool) -> Vec<i8> {
    let mut row = Vec::with_capacity(numbers.len() + 1);
    for pair in numbers.chunks(2) {
        let (first, second) = quantize_pair(pair, scale, in_pairs);
        row.extend([first as i8, second as i8]);
    }
    row.truncate(numbers.len());
    row
}

/// What quantizing its weight adds to each output channel on average, when its input channels have these means.
///
/// `means`: one per input channel of the node. Padding is not seen: at a picture's edge the true shift is smaller.
pub(super) fn output_shift(
    values: &[f32],
    layout: &Layout,
    quantized: &QuantizedWeight,
    means: &[f32],
) -> Vec<f64> {
    let shift = |channel: usize| {
        let scale = f64::from(quantized.scale(channel));
        let first_input = channel / layout.outputs_per_group * layout.inputs_per_group;
        let errors = layout.positions(channel).enumerate().map(|(number, position)| {
            let error = f64::from(quantized.values[position]) * scale - f64::from(values[position]);
            error * f64::from(means[first_input + number % layout.inputs_per_group])
        });
        errors.sum()
    };
    (0..layout.channels).map(shift).collect()
}

/// Rounds half to even. Adding 1.5 × 2^52 leaves no bits for a fraction; several times faster than the function where
/// the processor's baseline has no instruction for it. For magnitudes below 2^51.
fn round(value: f64) -> f64 {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    (value + SHIFT) - SHIFT
}

/// Two adjacent numbers (or the last one) in units of `scale`; `in_pairs` keeps their sum within [`PAIR_MAX`].
fn quantize_pair(pair: &[f64], scale: f32, in_pairs: bool) -> (f64, f64) {
    let steps = 1.0 / f64::from(scale);
    let [first, second] = [0, 1].map(|position| pair.get(position).map_or(0.0, |value| value * steps));
    let rounded = [first, second].map(|value| round(value.clamp(-WEIGHT_MAX, WEIGHT_MAX)));
    let sum = rounded[0] + rounded[1];
    if !in_pairs || sum.abs() <= PAIR_MAX {
        return (rounded[0], rounded[1]);
    }
    // The nearest point on the line where the sum just fits.
    let limit = PAIR_MAX.copysign(sum);
    let first = round(((first - second + limit) / 2.0).clamp(-WEIGHT_MAX, WEIGHT_MAX));
    (first, limit - first)
}

/// The scale with the least squared error between `least`, where wide pairs are clipped, and the one at which none is.
fn safe_scale(channels: &[Vec<f64>], least: f32) -> f32 {
    let pairs = || channels.iter().flat_map(|numbers| numbers.chunks(2));
    let widest = pairs().fold(0.0f64, |widest, pair| widest.max(pair.iter().sum::<f64>().abs()));
    // Rounding adds at most 1 to a sum.
    let safe = positive(widest / (PAIR_MAX - 1.0));
    if safe <= least {
        return least;
    }
    let error = |scale: f32, bound: f64| safe_error(channels, scale, bound);
    let (mut best, mut best_error) = (least, error(least, f64::INFINITY));
    for step in 1..=SAFE_STEPS {
        let share = f64::from(step) / f64::from(SAFE_STEPS);
        let candidate = positive(f64::from(least) + (f64::from(safe) - f64::from(least)) * share);
        let error = error(candidate, best_error);
        if error < best_error {
            (best, best_error) = (candidate, error);
        }
    }
    best
}

/// Squared error of all pairs at a scale, each as [`quantize_pair`] rounds it when sums are kept within bounds; anything
/// from `bound` on where the error reaches it.
///
/// Most of the time of quantizing a weight goes by here: a block of pairs is computed without branches, so that the
/// compiler can use wide registers, and then added up one by one.
fn safe_error(channels: &[Vec<f64>], scale: f32, bound: f64) -> f64 {
    const BLOCK: usize = 32;
    let (width, steps) = (f64::from(scale), 1.0 / f64::from(scale));
    let squared = |pair: &[f64; 2]| {
        let scaled = pair.map(|value| value * steps);
        let [first, second] = scaled.map(|value| round(value.clamp(-WEIGHT_MAX, WEIGHT_MAX)));
        let sum = first + second;
        let limit = PAIR_MAX.copysign(sum);
        let clipped = round(((scaled[0] - scaled[1] + limit) / 2.0).clamp(-WEIGHT_MAX, WEIGHT_MAX));
        let fits = sum.abs() <= PAIR_MAX;
        let first = if fits { first } else { clipped } * width - pair[0];
        let second = if fits { second } else { limit - clipped } * width - pair[1];
        first * first + second * second
    };
    let mut error = 0.0;
    for numbers in channels {
        let (pairs, last) = numbers.as_chunks::<2>();
        let last = last.first().map(|&number| [number, 0.0]);
        for block in pairs.chunks(BLOCK).chain(last.as_ref().map(std::slice::from_ref)) {
            let mut errors = [0.0; BLOCK];
            for (error, pair) in errors.iter_mut().zip(block) {
                *error = squared(pair);
            }
            for block_error in &errors[..block.len()] {
                error += block_error;
            }
            if error >= bound {
                return error;
            }
        }
    }
    error
}

/// The least weight scale of each channel at which its bias, in units of `input_scale * scale`, fits 32 bits.
pub(super) fn least_scales(bias: Option<&[f32]>, channels: usize, input_scale: f32) -> Vec<f64> {
    let least = |bias: &f32| f64::from(*bias).abs() / (f64::from(input_scale) * BIAS_MAX);
    bias.map_or_else(|| vec![0.0; channels], |bias| bias.iter().map(least).collect())
}

/// A bias in 32 bits.
pub(super) struct QuantizedBias {
    /// One per channel.
    pub values: Vec<i32>,
    /// `input_scale * weight_scale`, one per channel or one for all, as the weight has them.
    pub scales: Vec<f32>,
}

/// Quantizes a bias in the unit in which the integer kernel adds it: input scale × weight scale, zero point 0.
pub(super) fn quantize_bias(bias: &[f64], input_scale: f32, weight: &QuantizedWeight) -> QuantizedBias {
    let unit = |scale: f32| f64::from(input_scale) * f64::from(scale);
    let quantize = |(channel, bias): (usize, &f64)| {
        (bias / unit(weight.scale(channel)))
            .round_ties_even()
            .clamp(-2.0 * BIAS_MAX, 2.0 * BIAS_MAX - 1.0) as i32
    };
    QuantizedBias {
        values: bias.iter().enumerate().map(quantize).collect(),
        scales: weight.scales.iter().map(|&scale| positive(unit(scale))).collect(),
    }
}

/// The numbers of a float constant.
///
/// # Errors
/// [`QuantizeError::NotFinite`] for the first NaN or infinity.
pub(super) fn finite(constant: &TensorProto) -> Result<Vec<f32>, QuantizeError> {
    let values = tensor::floats(constant).unwrap_or_default();
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(index) => Err(QuantizeError::NotFinite {
            tensor: constant.name().to_owned(),
            index,
            value: values[index],
        }),
    }
}

#[cfg(test)]
mod tests;
