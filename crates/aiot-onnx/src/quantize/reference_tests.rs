//! What the reference implementations say of the files: `onnx.checker` reads them in full, ONNX Runtime in the oldest
//! and the newest version that devices have runs them, and every node that is reported as quantized has an integer
//! kernel in the newest one's optimized graph.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use aiot_testkit::{python, tools};
use serde_json::Value as Json;

use super::*;
use crate::exact::{Exactness, exactness};
use crate::graph::int_attribute;
use crate::ranges::Range;
use crate::testing::{Builder, ints_attribute};

/// Debian 13's engine, and the wheels'.
pub(super) const OLDEST: [&str; 2] = ["onnxruntime==1.21.1", "onnx==1.23.0"];
pub(super) const NEWEST: [&str; 2] = ["onnxruntime==1.32.0", "onnx==1.23.0"];

/// As detectors are built: SiLU, a split, a residual, pooling, resizing, concatenation.
fn detector() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 16, 16]);
    builder.output("y", &[1, 4, 15, 16]);
    builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
    builder.node("Sigmoid", &["a"], "gate");
    builder.node("Mul", &["a", "gate"], "b");
    let split = builder.node("Split", &["b"], "left");
    split.output.push("right".to_owned());
    split.attribute.push(int_attribute("axis", 1));
    builder.conv("left", "c", [4, 4, 3, 3], 1, 1);
    builder.node("Add", &["c", "left"], "d");
    let pool = builder.node("MaxPool", &["d"], "e");
    pool.attribute.push(ints_attribute("kernel_shape", &[2, 2]));
    pool.attribute.push(ints_attribute("strides", &[2, 2]));
    builder.constant("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
    builder.node("Resize", &["e", "", "scales"], "f");
    builder
        .node("Concat", &["f", "right"], "g")
        .attribute
        .push(int_attribute("axis", 1));
    for (name, value) in [("from", 1), ("to", 16), ("axis", 2)] {
        builder.integers(name, &[value]);
    }
    builder.node("Slice", &["g", "from", "to", "axis"], "h");
    builder.conv("h", "y", [4, 8, 1, 1], 1, 0);
    builder
}

/// As mobile classifiers are built: depthwise convolutions, clips, an average, a matrix.
fn classifier() -> Builder {
    let mut builder = Builder::new(13);
    builder.input("x", &[1, 3, 16, 16]);
    builder.output("y", &[1, 5]);
    builder.constant("zero", &[], &[0.0]);
    builder.constant("six", &[], &[6.0]);
    builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
    builder.node("Clip", &["a", "zero", "six"], "b");
    builder.conv("b", "c", [8, 1, 3, 3], 8, 1);
    builder.node("Relu", &["c"], "d");
    builder.conv("d", "e", [8, 8, 1, 1], 1, 0);
    builder.node("Add", &["e", "b"], "f");
    builder.node("GlobalAveragePool", &["f"], "g");
    builder.node("Flatten", &["g"], "h");
    builder.gemm("h", "y", 5, 8);
    builder
}

/// As encoders are built: a table, an attention of one head, a residual, a normalization.
fn encoder() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 6]);
    let input = builder.graph.input.last_mut().unwrap();
    if let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        tensor.elem_type = Some(DataType::Int64 as i32);
    }
    builder.output("y", &[1, 6, 4]);
    builder.random("table", &[11, 8]);
    builder.node("Gather", &["table", "x"], "a");
    for name in ["q", "k", "v"] {
        let (weight, bias, product) = (format!("{name}_w"), format!("{name}_b"), format!("{name}_p"));
        builder.random(&weight, &[8, 8]);
        builder.random(&bias, &[8]);
        builder.node("MatMul", &["a", &weight], &product);
        builder.node("Add", &[&product, &bias], name);
    }
    builder
        .node("Transpose", &["k"], "kt")
        .attribute
        .push(ints_attribute("perm", &[0, 2, 1]));
    builder.node("MatMul", &["q", "kt"], "s");
    builder.node("Softmax", &["s"], "p");
    builder.node("MatMul", &["p", "v"], "o");
    builder.node("Add", &["o", "a"], "r");
    builder.random("gain", &[8]);
    builder.random("shift", &[8]);
    builder.node("LayerNormalization", &["r", "gain", "shift"], "n");
    builder.random("out", &[8, 4]);
    builder.node("MatMul", &["n", "out"], "y");
    builder
}

/// A recurrent net over six steps.
fn recurrent() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[6, 1, 3]);
    builder.output("y", &[1, 2]);
    builder.random("w", &[1, 16, 3]);
    builder.random("r", &[1, 16, 4]);
    builder.random("bias", &[1, 32]);
    let lstm = builder.node("LSTM", &["x", "w", "r", "bias"], "all");
    lstm.output.push("last".to_owned());
    lstm.attribute.push(int_attribute("hidden_size", 4));
    builder.integers("first", &[0]);
    builder.node("Squeeze", &["last", "first"], "s");
    builder.gemm("s", "y", 2, 4);
    builder
}

pub(super) fn nets() -> [(&'static str, Builder); 4] {
    [
        ("classifier", classifier()),
        ("detector", detector()),
        ("encoder", encoder()),
        ("recurrent", recurrent()),
    ]
}

/// A file in every form that it can have.
fn variants(builder: &Builder) -> Vec<(&'static str, Model)> {
    let prepared = crate::prepare(&builder.model()).unwrap();
    let mut ranges = Ranges::new();
    for name in calibration_tensors(&prepared) {
        ranges.insert(name, Range { min: -3.0, max: 3.0 });
    }
    let fixed = |activations| {
        quantize_static(&prepared, &ranges, &StaticOptions::new(activations))
            .unwrap()
            .0
    };
    vec![
        ("float", prepared.clone()),
        ("int8", fixed(Activations::U8Asymmetric)),
        ("int8-symmetric", fixed(Activations::S8Symmetric)),
        ("int8-dynamic", quantize_dynamic(&prepared).unwrap().0),
        (
            "int8-weights",
            quantize_weights(&prepared, WeightBits::Eight).unwrap().0,
        ),
        (
            "int4-weights",
            quantize_weights(&prepared, WeightBits::Four).unwrap().0,
        ),
        ("float16", crate::to_float16(&prepared).unwrap()),
    ]
}

/// What Python says of the files of a folder; `runner` and its words come before it.
pub(super) fn ask(packages: &[&str], folder: &Path, runner: &[&str]) -> Option<Json> {
    let packages = python::packages("onnxruntime", packages)?;
    let found = tools::run(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
    let words = [found.expect(0).stdout.trim().to_owned()];
    let mut words = runner.iter().map(|&word| word.to_owned()).chain(words);
    let ended = tools::run(
        Command::new(words.next().unwrap())
            .args(words)
            .env("PYTHONPATH", packages)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference.py"))
            .arg(folder),
    );
    Some(serde_json::from_str(&ended.expect(0).stdout).unwrap())
}

pub(super) fn outputs(answer: &Json, file: &str) -> Vec<f64> {
    serde_json::from_value(answer["files"][file]["outputs"].clone()).unwrap()
}

/// `Operator×count` of an optimized graph.
pub(super) fn kernels(answer: &Json, file: &str) -> String {
    let operators: BTreeMap<String, u64> =
        serde_json::from_value(answer["files"][file]["operators"].clone()).unwrap();
    let words: Vec<String> = operators
        .iter()
        .map(|(name, count)| format!("{name}×{count}"))
        .collect();
    words.join(" ")
}

#[test]
fn the_reference_takes_every_file_and_runs_the_quantized_nodes_on_integers() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (net, builder) in nets() {
        for (form, model) in variants(&builder) {
            let file = format!("{net}.{form}.onnx");
            std::fs::write(folder.path().join(&file), model.to_bytes()).unwrap();
            let exact = form == "int8" && exactness(&model) == Exactness::Exact;
            files.push((file, form, exact));
        }
    }
    assert_eq!(
        files.iter().filter(|(_, _, exact)| *exact).count(),
        2,
        "classifier and detector"
    );
    let (Some(newest), Some(oldest)) = (ask(&NEWEST, folder.path(), &[]), ask(&OLDEST, folder.path(), &[]))
    else {
        return;
    };
    assert_eq!(
        (&newest["version"], &oldest["version"]),
        (&"1.32.0".into(), &"1.21.1".into())
    );
    for (file, form, exact) in &files {
        let (new, old) = (outputs(&newest, file), outputs(&oldest, file));
        // Half precision and steps of 8 bits leave room; a wrong kernel would be far off.
        let bound = match *form {
            _ if *exact => 0.0,
            "float" => 1e-4,
            _ => 0.1,
        };
        assert!(!new.is_empty() && new.len() == old.len(), "{file}");
        for (new, old) in new.iter().zip(&old) {
            assert!(
                new.is_finite() && (new - old).abs() <= bound * (1.0 + new.abs()),
                "{file}: {new} {old}"
            );
        }
    }
    let files = [
        "classifier.int8",
        "detector.int8",
        "encoder.int8",
        "encoder.int8-dynamic",
        "recurrent.int8-dynamic",
        "encoder.int4-weights",
    ];
    let found = files.map(|file| format!("{file}: {}", kernels(&newest, &format!("{file}.onnx"))));
    // Of the first two nothing runs in float: one QuantizeLinear at the beginning, one DequantizeLinear at the end.
    assert_eq!(
        found,
        [
            "classifier.int8: Flatten×1 QGemm×1 QLinearAdd×1 QLinearConv×3 QLinearGlobalAveragePool×1 QuantizeLinear×1 \
             Transpose×2",
            "detector.int8: DequantizeLinear×1 NhwcMaxPool×1 QLinearAdd×1 QLinearConcat×1 QLinearConv×3 QLinearMul×1 \
             QLinearSigmoid×1 QuantizeLinear×1 Resize×1 Slice×1 Split×1 Transpose×2",
            "encoder.int8: DequantizeLinear×1 FusedMatMul×1 Gather×1 MatMul×1 MatMulIntegerToFloat×1 QGemm×3 \
             QuantizeLinear×1 Reshape×6 SkipLayerNormalization×1 Softmax×1",
            "encoder.int8-dynamic: Cast×1 DynamicQuantizeLinear×1 DynamicQuantizeMatMul×1 FusedMatMul×1 Gather×2 \
             MatMul×1 MatMulIntegerToFloat×3 Mul×1 SkipLayerNormalization×1 Softmax×1",
            "recurrent.int8-dynamic: DynamicQuantizeLSTM×1 DynamicQuantizeMatMul×1 Squeeze×1",
            "encoder.int4-weights: Cast×1 FusedMatMul×1 Gather×2 MatMul×1 MatMulNBits×4 Mul×1 \
             SkipLayerNormalization×1 Softmax×1",
        ]
    );
}

/// A convolution whose weights and inputs are all as large as 8 bits can be.
fn largest() -> Model {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 64, 4, 4]);
    builder.output("y", &[1, 8, 4, 4]);
    builder.constant("one", &[], &[1.0]);
    builder.constant("zero", &[], &[0.0]);
    // At the edge of its range whatever comes in.
    builder.node("Mul", &["x", "zero"], "a");
    builder.node("Add", &["a", "one"], "b");
    builder.constant("w", &[8, 64, 1, 1], &[1.0; 512]);
    builder.node("Conv", &["b", "w"], "y");
    builder.model()
}

/// As [`largest`] is quantized, but with weights of ±127 whatever their neighbours.
fn saturating() -> Model {
    let prepared = crate::prepare(&largest()).unwrap();
    let mut proto = quantize_largest(&prepared).into_proto();
    let graph = proto.graph.as_mut().unwrap();
    for tensor in &mut graph.initializer {
        if tensor.name() == "w_quantized" {
            tensor.raw_data = Some(vec![127u8; 512].into());
        } else if tensor.name() == "w_scale" {
            tensor.raw_data = Some((1.0f32 / 127.0).to_le_bytes().repeat(8).into());
        }
    }
    Model::from_proto(proto).unwrap()
}

fn quantize_largest(prepared: &Model) -> Model {
    let mut ranges = Ranges::new();
    for name in calibration_tensors(prepared) {
        let max = if name == "y" { 64.0 } else { 1.0 };
        ranges.insert(name, Range { min: 0.0, max });
    }
    let options = StaticOptions::new(Activations::U8Asymmetric);
    quantize_static(prepared, &ranges, &options).unwrap().0
}

#[test]
fn processors_without_vnni_compute_the_same_bits_at_full_speed() {
    if !cfg!(target_arch = "x86_64") || !tools::have(&["qemu-x86_64-static"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, model: &Model| std::fs::write(folder.path().join(name), model.to_bytes()).unwrap();
    write(
        "largest.onnx",
        &quantize_largest(&crate::prepare(&largest()).unwrap()),
    );
    write("saturating.onnx", &saturating());
    for (name, builder) in [("classifier.onnx", classifier()), ("detector.onnx", detector())] {
        let int8 = variants(&builder).swap_remove(1).1;
        assert_eq!(exactness(&int8), Exactness::Exact);
        write(name, &int8);
    }
    // An Intel processor of 2013: AVX2 and no VNNI.
    let emulated = ["qemu-x86_64-static", "-cpu", "Haswell"];
    let (Some(here), Some(there)) = (
        ask(&NEWEST, folder.path(), &[]),
        ask(&NEWEST, folder.path(), &emulated),
    ) else {
        return;
    };
    for file in ["classifier.onnx", "detector.onnx", "largest.onnx"] {
        assert_eq!(outputs(&here, file), outputs(&there, file), "{file}");
    }
    // Both weights are those of a sum of 64; the emulated processor must be one that gets the careless file wrong.
    assert!(
        outputs(&there, "largest.onnx")
            .iter()
            .all(|sum| (sum - 64.0).abs() < 0.6)
    );
    assert!(
        outputs(&there, "saturating.onnx").iter().all(|sum| *sum < 48.0),
        "{there}"
    );
}
