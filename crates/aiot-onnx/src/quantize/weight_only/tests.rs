use proptest::prelude::*;

use super::*;
use crate::testing::{Builder, listing};

fn constant(model: &Model, name: &str) -> TensorProto {
    let mut tensors = model.graph().initializer.iter();
    tensors
        .find(|tensor| tensor.name() == name)
        .unwrap_or_else(|| panic!("no constant {name}"))
        .clone()
}

#[test]
fn weights_are_made_float_by_nodes_that_the_engine_folds() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 6, 6]);
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "y");
    builder.output("y", &[]);
    let (model, report) = quantize_weights(&builder.model(), WeightBits::Eight).unwrap();
    assert_eq!(
        listing(&model),
        [
            "Cast(a_w_quantized) a_w_float",
            "Mul(a_w_float a_w_scale) a_w_dequantized",
            "Conv(x a_w_dequantized a_b) a",
            "Relu(a) y",
        ]
    );
    assert_eq!(constant(&model, "a_w_scale").dims, [4, 1, 1, 1]);
    assert_eq!(report.quantized(), 1);
}

#[test]
fn four_bits_are_for_matrices_and_eight_for_the_rest() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 1, 6, 40]);
    builder.conv("x", "a", [1, 1, 3, 3], 1, 1);
    builder.random("w", &[40, 3]);
    builder.node("MatMul", &["a", "w"], "y");
    builder.output("y", &[]);
    let (model, _) = quantize_weights(&builder.model(), WeightBits::Four).unwrap();
    let operators: Vec<&str> = model.graph().node.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["Cast", "Mul", "Conv", "MatMulNBits"]);
    // 40 inputs: a block of 32 and a block of 8, each of 16 bytes.
    assert_eq!(constant(&model, "w_packed").dims, [3, 2, 16]);
    assert_eq!(constant(&model, "w_scale").dims, [6]);
}

/// What MatMulNBits reads: outputs × inputs.
fn unpack(model: &Model, outputs: usize, inputs: usize) -> Vec<f32> {
    let bytes = constant(model, "w_packed").raw_data.unwrap();
    let scales = tensor::floats(&constant(model, "w_scale")).unwrap();
    let blocks = inputs.div_ceil(BLOCK);
    let number = |output: usize, input: usize| {
        let byte = bytes[(output * blocks * BLOCK + input) / 2];
        let half = if input.is_multiple_of(2) {
            byte & 15
        } else {
            byte >> 4
        };
        (f32::from(half) - 8.0) * scales[output * blocks + input / BLOCK]
    };
    (0..outputs * inputs)
        .map(|position| number(position / inputs, position % inputs))
        .collect()
}

proptest! {
    #[test]
    fn four_bits_are_within_a_step_of_the_float(
        inputs in 1..70usize,
        outputs in 1..4usize,
        transposed: bool,
        numbers in prop::collection::vec(-10.0..10.0f32, 70 * 4),
    ) {
        let numbers = &numbers[..inputs * outputs];
        let mut builder = Builder::new(17);
        builder.input("x", &[1, inputs as i64]);
        let dims = if transposed { [outputs, inputs] } else { [inputs, outputs] }.map(|dim| dim as i64);
        builder.constant("w", &dims, numbers);
        let gemm = builder.node("Gemm", &["x", "w"], "y");
        gemm.attribute.push(int_attribute("transB", transposed.into()));
        builder.output("y", &[]);
        let (model, _) = quantize_weights(&builder.model(), WeightBits::Four).unwrap();
        let unpacked = unpack(&model, outputs, inputs);
        for output in 0..outputs {
            let row: Vec<f32> = (0..inputs)
                .map(|input| numbers[if transposed { output * inputs + input } else { input * outputs + output }])
                .collect();
            for (block, values) in row.chunks(BLOCK).enumerate() {
                let step = values.iter().fold(0.0f32, |widest, value| widest.max(value.abs())) / 7.0;
                let got = &unpacked[output * inputs + block * BLOCK..][..values.len()];
                // The rounding of everything together is never worse than that of plain steps.
                let error: f32 = values.iter().zip(got).map(|(v, g)| (v - g).powi(2)).sum();
                let plain = values.len() as f32 * (step / 2.0).powi(2);
                prop_assert!(error <= plain * 1.001 + 1e-9, "{error} > {plain}");
            }
        }
    }

    #[test]
    fn eight_bits_are_within_half_a_step_of_the_float(
        numbers in prop::collection::vec(-10.0..10.0f32, 12),
    ) {
        let mut builder = Builder::new(17);
        builder.input("x", &[1, 4]);
        builder.constant("w", &[4, 3], &numbers);
        builder.node("MatMul", &["x", "w"], "y");
        builder.output("y", &[]);
        let (model, _) = quantize_weights(&builder.model(), WeightBits::Eight).unwrap();
        let values = constant(&model, "w_quantized").raw_data.unwrap();
        let scales = tensor::floats(&constant(&model, "w_scale")).unwrap();
        for (position, number) in numbers.iter().enumerate() {
            let scale = scales[position % 3];
            let got = f32::from(values[position] as i8) * scale;
            prop_assert!((got - number).abs() <= scale * 0.501, "{got} {number} {scale}");
        }
    }
}

#[test]
fn wild_and_empty_blocks() {
    assert_eq!(block_of(&[0.0; 4]), (1.0, vec![8; 4]));
    // Less than a normal number holds: nothing is left, and nothing is divided by 0.
    assert_eq!(block_of(&[1e-45, -1e-45]), (1.0, vec![8, 8]));
    let (scale, quantized) = block_of(&[-16.0, 2.0, 14.0]);
    assert_eq!((scale, quantized), (2.0, vec![0, 9, 15]));
}
