//! From float numbers to 8-bit ones: activation scales, weights per output channel, biases.

use crate::error::QuantizeError;
use crate::graph::{int, is};
use crate::proto::{NodeProto, TensorProto};
use crate::ranges::Range;
use crate::tensor;

/// Largest magnitude of a quantized weight: -128 is left out so that the range is symmetric.
const WEIGHT_MAX: f64 = 127.0;
/// Largest sum of two adjacent weights: x86 processors without VNNI add u8 × s8 products in pairs in 16 bits, and
/// 255 × 128 still fits.
const PAIR_MAX: f64 = 128.0;
/// Largest magnitude of a quantized bias: half of what 32 bits hold, the other half is for the products.
const BIAS_MAX: f64 = (1u32 << 30) as f64;
/// Scales tried between the smallest and the largest that can make a channel's pairs safe.
const SAFE_STEPS: u32 = 16;

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
    Scale { scale: positive(largest / WEIGHT_MAX), zero_point: 0 }
}

/// A scale as the file stores it: 1 for an empty range, and never 0 or subnormal, which engines flush to 0.
fn positive(scale: f64) -> f32 {
    if scale == 0.0 { 1.0 } else { (scale as f32).clamp(f32::MIN_POSITIVE, f32::MAX) }
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
}

impl Layout {
    /// The layout of the weight of a Conv, Gemm or MatMul that the plan found quantizable.
    pub fn new(node: &NodeProto, weight: &TensorProto) -> Layout {
        let dims: Vec<usize> = weight.dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        if is(node, "Conv") {
            // Kernels run over positions first and input channels within: the tensor has them the other way round.
            let kernel: usize = dims[2..].iter().product();
            let offsets = (0..kernel).flat_map(|k| (0..dims[1]).map(move |input| input * kernel + k)).collect();
            let group = usize::try_from(int(node, "group", 1)).unwrap_or(1).max(1);
            let depthwise = dims[1] == 1 && dims[0] == group && group > 1;
            return Layout {
                channels: dims[0],
                axis: 0,
                channel_stride: dims[1] * kernel,
                offsets,
                in_pairs: !depthwise,
            };
        }
        let transposed = is(node, "Gemm") && int(node, "transB", 0) != 0;
        match transposed {
            true => Layout {
                channels: dims[0],
                axis: 0,
                channel_stride: dims[1],
                offsets: (0..dims[1]).collect(),
                in_pairs: true,
            },
            false => Layout {
                channels: dims[1],
                axis: 1,
                channel_stride: 1,
                offsets: (0..dims[0]).map(|k| k * dims[1]).collect(),
                in_pairs: true,
            },
        }
    }

    fn channel<'a>(&'a self, values: &'a [f32], channel: usize) -> impl Iterator<Item = f64> + Clone + 'a {
        self.offsets.iter().map(move |offset| f64::from(values[channel * self.channel_stride + offset]))
    }
}

/// A weight in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct QuantizedWeight {
    /// Same shape as the float weight.
    pub values: Vec<i8>,
    /// One per output channel: `weight ≈ value * scale`.
    pub scales: Vec<f32>,
}

/// Quantizes a weight to s8, symmetric, per output channel; values are in -127..=127 and the zero point is 0.
///
/// `least_scales`: for each channel the least scale that its bias can live with, 0 for none. With `saturation_safe`
/// a channel's scale is widened, only as far as needed, until no pair that a kernel adds up in 16 bits can overflow.
pub(super) fn quantize_weight(
    values: &[f32],
    layout: &Layout,
    least_scales: &[f64],
    saturation_safe: bool,
) -> QuantizedWeight {
    let mut quantized = vec![0i8; values.len()];
    let mut scales = Vec::with_capacity(layout.channels);
    for (channel, &least) in least_scales.iter().enumerate() {
        let largest = layout.channel(values, channel).fold(0.0f64, |largest, value| largest.max(value.abs()));
        let mut scale = positive((largest / WEIGHT_MAX).max(least));
        if saturation_safe && layout.in_pairs {
            scale = safe_scale(layout.channel(values, channel), scale);
        }
        for (offset, value) in layout.offsets.iter().zip(layout.channel(values, channel)) {
            quantized[channel * layout.channel_stride + offset] = quantize(value, scale) as i8;
        }
        scales.push(scale);
    }
    QuantizedWeight { values: quantized, scales }
}

fn quantize(value: f64, scale: f32) -> f64 {
    (value / f64::from(scale)).round_ties_even().clamp(-WEIGHT_MAX, WEIGHT_MAX)
}

fn pairs(values: impl Iterator<Item = f64>) -> impl Iterator<Item = (f64, f64)> {
    let mut values = values;
    std::iter::from_fn(move || values.next().map(|first| (first, values.next().unwrap_or(0.0))))
}

/// The least scale, not below `scale`, at which no adjacent pair sums to more than [`PAIR_MAX`].
fn safe_scale(values: impl Iterator<Item = f64> + Clone, scale: f32) -> f32 {
    let is_safe = |scale: f32| {
        pairs(values.clone()).all(|(a, b)| {
            // Rounding adds at most 1, so small sums need no division.
            (a + b).abs() <= f64::from(scale) * (PAIR_MAX - 1.0)
                || (quantize(a, scale) + quantize(b, scale)).abs() <= PAIR_MAX
        })
    };
    if is_safe(scale) {
        return scale;
    }
    let largest = pairs(values.clone()).fold(0.0f64, |largest, (a, b)| largest.max((a + b).abs()));
    // Below largest/128 the widest pair overflows before rounding; at largest/127 none can even after it.
    let (low, high) = (largest / PAIR_MAX, largest / (PAIR_MAX - 1.0));
    (0..=SAFE_STEPS)
        .map(|step| positive(low + (high - low) * f64::from(step) / f64::from(SAFE_STEPS)))
        .find(|&candidate| candidate >= scale && is_safe(candidate))
        .unwrap_or_else(|| positive(high).next_up().max(scale))
}

/// The least weight scale of each channel at which its bias, in units of `input_scale * scale`, fits 32 bits.
pub(super) fn least_scales(bias: Option<&[f32]>, channels: usize, input_scale: f32) -> Vec<f64> {
    let least = |bias: &f32| f64::from(*bias).abs() / (f64::from(input_scale) * BIAS_MAX);
    bias.map_or_else(|| vec![0.0; channels], |bias| bias.iter().map(least).collect())
}

/// A bias in 32 bits, one scale per channel.
pub(super) struct QuantizedBias {
    /// One per channel.
    pub values: Vec<i32>,
    /// `input_scale * weight_scale`.
    pub scales: Vec<f32>,
}

/// Quantizes a bias in the unit in which the integer kernel adds it: input scale × weight scale, zero point 0.
pub(super) fn quantize_bias(bias: &[f32], input_scale: f32, weight_scales: &[f32]) -> QuantizedBias {
    let unit = |scale: &f32| f64::from(input_scale) * f64::from(*scale);
    let quantize = |(bias, scale): (&f32, &f32)| {
        (f64::from(*bias) / unit(scale)).round_ties_even().clamp(-2.0 * BIAS_MAX, 2.0 * BIAS_MAX - 1.0) as i32
    };
    QuantizedBias {
        values: bias.iter().zip(weight_scales).map(quantize).collect(),
        scales: weight_scales.iter().map(|scale| positive(unit(scale))).collect(),
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
        Some(index) => {
            Err(QuantizeError::NotFinite { tensor: constant.name().to_owned(), index, value: values[index] })
        }
    }
}

#[cfg(test)]
mod tests;
