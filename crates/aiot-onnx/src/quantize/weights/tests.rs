use proptest::prelude::*;

use super::*;
use crate::graph::{int_attribute, new_node};
use crate::proto::NodeProto;

fn conv(group: i64) -> NodeProto {
    let mut node = new_node("Conv", "c", &["x", "w"], &["y"]);
    node.attribute.push(int_attribute("group", group));
    node
}

fn weight(dims: &[i64], values: &[f32]) -> TensorProto {
    tensor::from_floats("w", dims, values)
}

#[test]
fn activation_scales() {
    for (min, max, scale, zero_point) in [
        (0.0, 6.0, 6.0 / 255.0, 0),
        (-1.0, 1.0, 2.0 / 255.0, 127),
        (-1.5, 1.0, 2.5 / 255.0, 153),
        (-1.0, 0.0, 1.0 / 255.0, 255),
        (2.0, 5.1, 5.1 / 255.0, 0),
        (-3.0, -1.0, 3.0 / 255.0, 255),
        (0.0, 0.0, 1.0, 0),
        (0.0, 1e-44, f32::MIN_POSITIVE, 0),
    ] {
        assert_eq!(
            asymmetric(Range { min, max }),
            Scale { scale, zero_point },
            "{min}..{max}"
        );
    }
    for (min, max, scale) in [
        (-1.0, 2.54, 2.54 / 127.0),
        (-2.54, 0.0, 2.54 / 127.0),
        (0.0, 0.0, 1.0),
    ] {
        assert_eq!(
            symmetric(Range { min, max }),
            Scale { scale, zero_point: 0 },
            "{min}..{max}"
        );
    }
    let scale = asymmetric(Range {
        min: f32::MIN,
        max: f32::MAX,
    })
    .scale;
    assert!(scale.is_finite() && scale > 0.0);
}

#[test]
fn rounding_is_to_even() {
    for (value, rounded) in [
        (0.5, 0.0),
        (1.5, 2.0),
        (2.5, 2.0),
        (-0.5, 0.0),
        (-1.5, -2.0),
        (126.49, 126.0),
    ] {
        assert_eq!(round(value), rounded, "{value}");
    }
}

#[test]
fn channels_follow_their_axis() {
    let values: Vec<f32> = vec![1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
    let matmul = new_node("MatMul", "m", &["x", "w"], &["y"]);
    let layout = Layout::new(&matmul, &weight(&[3, 2], &values));
    assert_eq!((layout.channels, layout.axis), (2, 1));
    assert_eq!(layout.channel(&values, 1), [10.0, 20.0, 30.0]);
    let mut gemm = new_node("Gemm", "g", &["x", "w"], &["y"]);
    gemm.attribute.push(int_attribute("transB", 1));
    let layout = Layout::new(&gemm, &weight(&[3, 2], &values));
    assert_eq!((layout.channels, layout.axis), (3, 0));
    assert_eq!(layout.channel(&values, 1), [2.0, 20.0]);
    // Two input channels, three positions: positions first.
    let layout = Layout::new(&conv(1), &weight(&[1, 2, 3, 1], &values));
    assert_eq!(layout.channel(&values, 0), [1.0, 20.0, 10.0, 3.0, 2.0, 30.0]);
}

#[test]
fn only_depthwise_kernels_are_free_of_pairs() {
    for (dims, group, in_pairs) in [
        ([4, 1, 3, 3], 4, false),
        ([8, 1, 3, 3], 4, true),
        ([4, 2, 3, 3], 2, true),
        ([4, 1, 3, 3], 1, true),
    ] {
        let layout = Layout::new(&conv(group), &weight(&dims, &[]));
        assert_eq!(layout.in_pairs, in_pairs, "{dims:?} group {group}");
    }
}

#[test]
fn safe_channels_keep_full_range() {
    let layout = Layout::new(&conv(1), &weight(&[1, 4, 1, 1], &[]));
    let values = [1.0, -1.0, 0.5, 0.0];
    let quantized = quantize_weight(&values, &layout, &[0.0], Granularity::PerChannel, true);
    assert_eq!(quantized.values, [127, -127, 64, 0]);
    let unsafe_pairs = quantize_weight(
        &[1.0, 1.0, 0.5, 0.0],
        &layout,
        &[0.0],
        Granularity::PerChannel,
        false,
    );
    assert_eq!(unsafe_pairs.values, [127, 127, 64, 0]);
    let safe_pairs = quantize_weight(
        &[1.0, 1.0, 0.5, 0.0],
        &layout,
        &[0.0],
        Granularity::PerChannel,
        true,
    );
    assert_eq!(safe_pairs.values, [64, 64, 32, 0]);
}

#[test]
fn one_scale_serves_all_channels() {
    let layout = Layout::new(&conv(1), &weight(&[2, 2, 1, 1], &[]));
    let quantized = quantize_weight(
        &[1.0, -1.0, 0.5, 0.25],
        &layout,
        &[0.0; 2],
        Granularity::PerTensor,
        false,
    );
    assert_eq!(quantized.values, [127, -127, 64, 32]);
    assert_eq!(quantized.scales, [1.0 / 127.0]);
    // The second channel's pair decides for both, or is clipped to a sum of 128.
    let safe = quantize_weight(
        &[1.0, -1.0, 1.0, 1.0],
        &layout,
        &[0.0; 2],
        Granularity::PerTensor,
        true,
    );
    assert_eq!(safe.scales.len(), 1);
    assert!(i32::from(safe.values[2]) + i32::from(safe.values[3]) <= 128);
    let bias = quantize_bias(&[1.0, 2.0], 0.5, &quantized);
    assert_eq!((bias.values[1], bias.scales.len()), (508, 1));
}

#[test]
fn shifts_follow_groups_and_means() {
    // Two groups of one output channel with two inputs each.
    let layout = Layout::new(&conv(2), &weight(&[2, 2, 1, 1], &[]));
    assert_eq!(layout.inputs(), 4);
    let values = [1.0, 0.25, -1.0, 0.5];
    let quantized = QuantizedWeight {
        values: vec![4, 1, -3, 2],
        scales: vec![0.25, 0.25],
    };
    // Errors: 0, 0, then -0.75 - -1 = 0.25 and 0.
    assert_eq!(
        output_shift(&values, &layout, &quantized, &[1.0, 1.0, 2.0, 8.0]),
        [0.0, 0.5]
    );
}

#[test]
fn zero_channels_and_bias_only_channels() {
    let layout = Layout::new(&conv(1), &weight(&[2, 1, 1, 1], &[]));
    let bias = [0.0, 3.0];
    let least = least_scales(Some(&bias), 2, 0.5);
    let quantized = quantize_weight(&[0.0, 0.0], &layout, &least, Granularity::PerChannel, true);
    assert_eq!(
        (quantized.values.as_slice(), quantized.scales[0]),
        ([0, 0].as_slice(), 1.0)
    );
    let bias = quantize_bias(&bias.map(f64::from), 0.5, &quantized);
    assert_eq!(bias.values[0], 0);
    assert!((f64::from(bias.values[1]) * f64::from(bias.scales[1]) - 3.0).abs() < 1e-6);
}

#[test]
fn a_bias_that_does_not_fit_widens_its_channel() {
    let layout = Layout::new(&conv(1), &weight(&[1, 1, 1, 1], &[]));
    let least = least_scales(Some(&[1e6]), 1, 1e-3);
    let quantized = quantize_weight(&[1e-4], &layout, &least, Granularity::PerChannel, true);
    let bias = quantize_bias(&[1e6], 1e-3, &quantized);
    assert!((f64::from(bias.values[0]) * f64::from(bias.scales[0]) / 1e6 - 1.0).abs() < 1e-6);
    assert!(f64::from(bias.values[0]).abs() <= BIAS_MAX * 1.001);
}

#[test]
fn broken_weights_are_named() {
    let error = finite(&weight(&[3], &[1.0, 2.0, f32::INFINITY])).unwrap_err();
    assert_eq!(
        error,
        QuantizeError::NotFinite {
            tensor: "w".to_owned(),
            index: 2,
            value: f32::INFINITY
        }
    );
}

proptest! {
    #[test]
    fn dequantized_weights_are_within_half_a_step(
        values in prop::collection::vec(prop_oneof![-1f32..1.0, -1e-6f32..1e6, Just(0.0)], 24),
    ) {
        let layout = Layout::new(&conv(1), &weight(&[4, 3, 2, 1], &[]));
        let quantized = quantize_weight(&values, &layout, &[0.0; 4], Granularity::PerChannel, false);
        for (position, (value, q)) in values.iter().zip(&quantized.values).enumerate() {
            let scale = f64::from(quantized.scales[position / 6]);
            let error = (f64::from(*q) * scale - f64::from(*value)).abs();
            prop_assert!(error <= scale * 0.500_01, "{value} became {q} × {scale}");
        }
    }

    #[test]
    fn no_pair_overflows_and_none_is_clipped_for_nothing(
        values in prop::collection::vec(prop_oneof![-1f32..1.0, 0.9f32..1.0, -1f32..-0.9], 30),
    ) {
        let layout = Layout::new(&conv(1), &weight(&[2, 5, 3, 1], &[]));
        let quantized = quantize_weight(&values, &layout, &[0.0; 2], Granularity::PerChannel, true);
        for channel in 0..2 {
            let scale = f64::from(quantized.scales[channel]);
            let numbers = layout.channel(&values, channel);
            let steps: Vec<i32> =
                layout.positions(channel).map(|position| i32::from(quantized.values[position])).collect();
            for (steps, numbers) in steps.chunks(2).zip(numbers.chunks(2)) {
                let sum: i32 = steps.iter().sum();
                prop_assert!(sum.abs() <= 128);
                if sum.abs() < 128 && numbers.iter().all(|number| number.abs() <= scale * 127.5) {
                    for (step, number) in steps.iter().zip(numbers) {
                        prop_assert!((f64::from(*step) * scale - number).abs() <= scale * 0.500_01);
                    }
                }
            }
        }
    }
}
