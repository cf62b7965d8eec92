//! Operators that ONNX Runtime has no 8-bit kernel for, or only one that its fusions must find: the reference runs
//! each net close to float, on integers alone, with the same bits in both versions and on a processor without VNNI.

use aiot_testkit::tools;
use serde_json::Value as Json;

use super::reference_tests::{NEWEST, OLDEST, ask, kernels, outputs};
use super::*;
use crate::exact::{Exactness, exactness};
use crate::graph::{int_attribute, text_attribute};
use crate::ranges::Range;
use crate::testing::{Builder, float_attribute, ints_attribute};

/// A ConvTranspose with generated weight and bias: inputs, outputs, kernel; then its attributes.
fn transposed(builder: &mut Builder, from: &str, to: &str, dims: &[i64], attributes: &[(&str, &[i64])]) {
    let (w, b) = (format!("{to}_w"), format!("{to}_b"));
    builder.random(&w, dims);
    builder.random(&b, &dims[1..2]);
    let node = builder.node("ConvTranspose", &[from, &w, &b], to);
    node.attribute.extend(
        attributes
            .iter()
            .map(|(name, values)| ints_attribute(name, values)),
    );
}

/// As pictures are made larger: every usual kernel, a Relu between, skipped connections. Channels in fours: ONNX
/// Runtime 1.21 adds up wrongly on processors with AMX where the products of an output are not a multiple of four and
/// the channels 24 (found here; right in 1.32 and on other processors).
pub(super) fn decoder() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 8, 8]);
    builder.output("y", &[1, 2, 67, 67]);
    builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "b");
    let halves: [(&str, &[i64]); 2] = [("strides", &[2, 2]), ("pads", &[1, 1, 1, 1])];
    transposed(&mut builder, "b", "c", &[8, 8, 4, 4], &halves);
    builder.node("Relu", &["c"], "d");
    transposed(&mut builder, "d", "e", &[8, 8, 2, 2], &[("strides", &[2, 2])]);
    builder.conv("e", "f", [8, 8, 3, 3], 1, 1);
    builder.node("Add", &["e", "f"], "g");
    let odd: [(&str, &[i64]); 3] = [halves[0], halves[1], ("output_padding", &[1, 1])];
    transposed(&mut builder, "g", "h", &[8, 4, 3, 3], &odd);
    transposed(&mut builder, "h", "y", &[4, 2, 4, 4], &[]);
    builder
}

/// As series are reconstructed.
pub(super) fn series() -> Builder {
    let mut builder = Builder::new(13);
    builder.input("x", &[1, 3, 32]);
    builder.output("y", &[1, 2, 128]);
    builder.random("a_w", &[8, 3, 5]);
    builder.node("Conv", &["x", "a_w"], "a");
    builder.node("Relu", &["a"], "b");
    transposed(
        &mut builder,
        "b",
        "c",
        &[8, 4, 8],
        &[("strides", &[4]), ("pads", &[2, 0])],
    );
    builder.node("Relu", &["c"], "d");
    transposed(&mut builder, "d", "y", &[4, 2, 15], &[]);
    builder
}

/// As mobile nets of the third generation are built: HardSwish, and channels weighed by a HardSigmoid.
pub(super) fn switches() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 12, 12]);
    builder.output("y", &[1, 5]);
    builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
    builder.node("HardSwish", &["a"], "b");
    builder.conv("b", "c", [8, 1, 3, 3], 8, 1);
    builder.node("GlobalAveragePool", &["c"], "d");
    builder.conv("d", "e", [8, 8, 1, 1], 1, 0);
    let slope = float_attribute("alpha", 1.0 / 6.0);
    builder.node("HardSigmoid", &["e"], "f").attribute.push(slope);
    builder.node("Mul", &["c", "f"], "g");
    builder.conv("g", "h", [8, 8, 1, 1], 1, 0);
    builder.node("HardSwish", &["h"], "i");
    builder.node("GlobalAveragePool", &["i"], "j");
    builder.node("Flatten", &["j"], "k");
    builder.gemm("k", "y", 5, 8);
    builder
}

/// Other activations, pixels shuffled apart, and what only moves values.
pub(super) fn bends() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 8, 8]);
    builder.output("y", &[1, 4, 15, 20]);
    builder.conv("x", "a", [16, 3, 3, 3], 1, 1);
    builder.node("LeakyRelu", &["a"], "b");
    let shuffle = builder.node("DepthToSpace", &["b"], "c");
    shuffle.attribute.push(int_attribute("blocksize", 2));
    builder.conv("c", "d", [4, 4, 3, 3], 1, 1);
    builder.constant("low", &[], &[-0.5]);
    builder.constant("high", &[], &[0.75]);
    builder.node("Clip", &["d", "low", "high"], "e");
    for (name, value) in [("from", 1), ("to", -1), ("axis", 2)] {
        builder.integers(name, &[value]);
    }
    builder.node("Slice", &["e", "from", "to", "axis"], "f");
    builder.integers("around", &[0, 0, 2, 0, 0, 0, 1, 3]);
    let mirror = builder.node("Pad", &["f", "around"], "mirrored");
    mirror.attribute.push(text_attribute("mode", "reflect"));
    builder.conv("mirrored", "g", [4, 4, 1, 1], 1, 0);
    builder.node("Sigmoid", &["g"], "h");
    builder.integers("zeros", &[0, 0, -1, 1, 0, 0, -1, 0]);
    builder.node("Pad", &["h", "zeros"], "i");
    builder.conv("i", "y", [4, 4, 1, 1], 1, 0);
    builder
}

/// What Python saw of the tensors that calibration looks at, in a file that shows them.
pub(super) fn ranges_of(answer: &Json, file: &str, model: &Model) -> Ranges {
    let mut ranges = Ranges::new();
    for tensor in calibration_tensors(model) {
        let seen = serde_json::from_value(answer["files"][file]["ranges"][&tensor].clone()).ok();
        // The input's values are those of a sine.
        let [min, max] = seen.unwrap_or([-1.0, 1.0]);
        ranges.insert(tensor, Range { min, max });
    }
    ranges
}

/// Signal to noise of the quantized outputs, dB.
pub(super) fn closeness(float: &[f64], quantized: &[f64]) -> f64 {
    assert_eq!(float.len(), quantized.len());
    let power = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>();
    let noise = power(&mut float.iter().zip(quantized).map(|(a, b)| a - b));
    10.0 * (power(&mut float.iter().copied()) / noise).log10()
}

/// The same numbers; says how many are not, and the first.
#[track_caller]
fn assert_same(expected: &[f64], got: &[f64], what: &str) {
    assert_eq!(expected.len(), got.len(), "{what}");
    let differ: Vec<(&f64, &f64)> = expected.iter().zip(got).filter(|(a, b)| a != b).collect();
    assert!(
        differ.is_empty(),
        "{what}: {} of {} differ, {:?}",
        differ.len(),
        got.len(),
        differ[0]
    );
}

#[test]
fn operators_without_kernels_run_on_integers_close_to_float() {
    let nets = [
        ("decoder", decoder()),
        ("series", series()),
        ("switches", switches()),
        ("bends", bends()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, model: &Model| {
        std::fs::write(folder.path().join(format!("{name}.onnx")), model.to_bytes()).unwrap();
    };
    let prepared = nets.map(|(name, builder)| (name, crate::prepare(&builder.model()).unwrap()));
    for (name, model) in &prepared {
        write(name, model);
        write(
            &format!("{name}.shown"),
            &with_outputs(model, &calibration_tensors(model)).unwrap(),
        );
    }
    let Some(float) = ask(&NEWEST, folder.path(), &[]) else {
        return;
    };
    for (name, model) in &prepared {
        std::fs::remove_file(folder.path().join(format!("{name}.shown.onnx"))).unwrap();
        let ranges = ranges_of(&float, &format!("{name}.shown.onnx"), model);
        let options = StaticOptions::new(Activations::U8Asymmetric);
        let (int8, report) = quantize_static(model, &ranges.rounded(), &options).unwrap();
        assert_eq!(
            report.quantized(),
            report.nodes.len(),
            "{name}: {:?}",
            report.nodes
        );
        assert_eq!(exactness(&int8), Exactness::Exact, "{name}");
        write(&format!("{name}.int8"), &int8);
    }
    let answers = [ask(&NEWEST, folder.path(), &[]), ask(&OLDEST, folder.path(), &[])];
    let [Some(newest), Some(oldest)] = answers else {
        return;
    };
    let emulated = match cfg!(target_arch = "x86_64") && tools::have(&["qemu-x86_64-static"]) {
        true => ask(&NEWEST, folder.path(), &["qemu-x86_64-static", "-cpu", "Haswell"]),
        false => None,
    };
    for (name, _) in &prepared {
        let file = format!("{name}.int8.onnx");
        let int8 = outputs(&newest, &file);
        assert_same(
            &int8,
            &outputs(&oldest, &file),
            &format!("{name}: the oldest version"),
        );
        if let Some(emulated) = &emulated {
            assert_same(&int8, &outputs(emulated, &file), &format!("{name}: without VNNI"));
        }
        let sqnr_db = closeness(&outputs(&float, &format!("{name}.onnx")), &int8);
        // 8 bits through six weighted nodes; a value in the wrong place leaves less than 10 dB.
        assert!(sqnr_db > 25.0, "{name}: {sqnr_db}");
    }
    let found =
        prepared.map(|(name, _)| format!("{name}: {}", kernels(&newest, &format!("{name}.int8.onnx"))));
    // One QuantizeLinear at the beginning, one DequantizeLinear at the end (a last Gemm gives float), and nothing in
    // float between.
    assert_eq!(
        found,
        [
            "decoder: DepthToSpace×3 DequantizeLinear×1 QLinearAdd×1 QLinearConv×6 QuantizeLinear×1 Slice×2 \
             Transpose×10",
            "series: DequantizeLinear×1 QLinearConv×3 QuantizeLinear×1 Reshape×2 Slice×1 Transpose×4",
            "switches: Flatten×1 QGemm×1 QLinearAdd×3 QLinearConv×4 QLinearGlobalAveragePool×2 QLinearMul×3 \
             QuantizeLinear×1 Transpose×2",
            "bends: DepthToSpace×1 DequantizeLinear×1 Pad×2 QLinearConv×4 QLinearLeakyRelu×1 QLinearSigmoid×1 \
             QuantizeLinear×1 Slice×1 Transpose×4",
        ]
    );
}
