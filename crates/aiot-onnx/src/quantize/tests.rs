use super::*;
use crate::graph::{int_attribute, node_name};
use crate::ranges::Range;
use crate::testing::interpreter::{Value, run};
use crate::testing::{Builder, ints_attribute, listing};

use Activations::{S8Symmetric, U8Asymmetric};

fn image() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 6, 6]);
    builder.output("y", &[]);
    builder
}

fn picture(seed: usize) -> Value {
    Value::new(
        &[1, 3, 6, 6],
        (0..108)
            .map(|i| ((i * 37 + seed * 11) % 41) as f64 / 20.0 - 1.0)
            .collect(),
    )
}

/// The ranges of eight pictures, every tensor observed.
fn calibrate(model: &Model) -> Ranges {
    let mut ranges = Ranges::new();
    for seed in 0..8 {
        for (name, value) in run(model, &picture(seed)) {
            let numbers: Vec<f32> = value.data.iter().map(|&number| number as f32).collect();
            ranges.observe(&name, &numbers);
        }
    }
    ranges.rounded()
}

/// Ranges of 0..1 for every tensor that may be asked for.
fn unit_ranges(model: &Model) -> Ranges {
    let mut ranges = Ranges::new();
    for name in calibration_tensors(model) {
        ranges.insert(name, Range { min: 0.0, max: 1.0 });
    }
    ranges
}

/// The quantized graph without the pairs' own nodes, `q:` before what is read from a pair.
fn check(builder: &Builder, activations: Activations, expected: &[&str]) -> QuantizeReport {
    let model = builder.model();
    let (quantized, report) =
        quantize_static(&model, &unit_ranges(&model), &StaticOptions::new(activations)).unwrap();
    let short: Vec<String> = listing(&quantized)
        .into_iter()
        .filter(|line| !line.starts_with("QuantizeLinear") && !line.starts_with("DequantizeLinear"))
        .map(|line| line.split(' ').map(shorten).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(short, expected);
    report
}

fn shorten(word: &str) -> String {
    let (start, word) = word.split_at(word.find('(').map_or(0, |position| position + 1));
    let (word, end) = word.split_at(word.find(')').unwrap_or(word.len()));
    match word.strip_suffix("_dequantized") {
        Some(tensor) => format!("{start}q:{tensor}{end}"),
        None => format!("{start}{word}{end}"),
    }
}

#[test]
fn every_node_of_a_pair_is_written() {
    let mut builder = image();
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "y");
    let model = builder.model();
    let (quantized, report) =
        quantize_static(&model, &unit_ranges(&model), &StaticOptions::new(U8Asymmetric)).unwrap();
    assert_eq!(
        listing(&quantized),
        [
            "QuantizeLinear(x x_scale x_zero_point) x_quantized",
            "DequantizeLinear(x_quantized x_scale x_zero_point) x_dequantized",
            "DequantizeLinear(a_w_quantized a_w_scale a_w_zero_point) a_w_dequantized",
            "DequantizeLinear(a_b_quantized a_b_scale a_b_zero_point) a_b_dequantized",
            "Conv(x_dequantized a_w_dequantized a_b_dequantized) a",
            "QuantizeLinear(a y_scale y_zero_point) y_quantized",
            "DequantizeLinear(y_quantized y_scale y_zero_point) y",
        ]
    );
    assert_eq!(quantized.proto().producer_name(), "aiot-onnx");
    assert_eq!(report.quantized(), 2);
    assert_eq!(report.nodes[1].outcome, NodeOutcome::FoldedIntoRange);
    assert_eq!(report.bytes_after, quantized.to_bytes().len() as u64);
    let again = quantize_static(&model, &unit_ranges(&model), &StaticOptions::new(U8Asymmetric))
        .unwrap()
        .0;
    assert_eq!(again.to_bytes(), quantized.to_bytes());
    assert_eq!(Model::parse(quantized.to_bytes()).unwrap(), quantized);
}

#[test]
fn pooling_and_reshaping_share_the_scale() {
    let mut builder = image();
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "b");
    builder.node("MaxPool", &["b"], "c");
    builder.node("Flatten", &["c"], "d");
    builder.gemm("d", "y", 2, 144);
    assert_eq!(calibration_tensors(&builder.model()), ["x", "b"]);
    check(
        &builder,
        U8Asymmetric,
        &[
            "Conv(q:x q:a_w q:a_b) a",
            "MaxPool(q:b) c",
            "Flatten(q:c) d",
            "Gemm(q:d q:y_w q:y_b) y",
        ],
    );
    check(
        &builder,
        S8Symmetric,
        &[
            "Conv(q:x q:a_w a_b) a",
            "Relu(a) b",
            "MaxPool(b) c",
            "Flatten(c) d",
            "Gemm(q:d q:y_w y_b) y",
        ],
    );
}

#[test]
fn residual_sums_are_quantized() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "b");
    builder.conv("b", "c", [3, 3, 3, 3], 1, 1);
    builder.node("Add", &["b", "c"], "d");
    builder.node("Relu", &["d"], "y");
    assert_eq!(calibration_tensors(&builder.model()), ["x", "b", "c", "y"]);
    check(
        &builder,
        U8Asymmetric,
        &[
            "Conv(q:x q:a_w q:a_b) a",
            "Conv(q:b q:c_w q:c_b) c",
            "Add(q:b q:c) d",
        ],
    );
    check(
        &builder,
        S8Symmetric,
        &[
            "Conv(q:x q:a_w a_b) a",
            "Relu(a) b",
            "Conv(q:b q:c_w c_b) c",
            "Add(q:b c) d",
            "Relu(d) y",
        ],
    );
}

#[test]
fn splitting_slicing_and_resizing_share_the_scale() {
    let mut builder = image();
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.node("Split", &["a"], "b").output.push("c".to_owned());
    builder.node("Resize", &["b", "", "k"], "d");
    for constant in ["i", "j", "k"] {
        builder.random(constant, &[4]);
    }
    builder.node("Slice", &["c", "i", "j"], "e");
    builder.node("Concat", &["d", "e"], "f");
    builder.conv("f", "y", [2, 4, 1, 1], 1, 0);
    assert_eq!(calibration_tensors(&builder.model()), ["x", "a", "f", "y"]);
    let split = [
        "Conv(q:x q:a_w q:a_b) a",
        "Split(q:a) b c",
        "Resize(q:b  k) d",
        "Slice(q:c i j) e",
        "Concat(q:d q:e) f",
        "Conv(q:f q:y_w q:y_b) y_float",
    ];
    check(&builder, U8Asymmetric, &split);

    // Linear resizing computes new values, and a part without a name cannot be quantized.
    let nodes = &mut builder.graph.node;
    let mut linear = int_attribute("mode", 0);
    linear.s = Some(b"linear".to_vec());
    nodes[2].attribute.push(linear);
    let report = check(
        &builder,
        U8Asymmetric,
        &[split[0], split[1], split[2], split[3], split[4], split[5]],
    );
    let resize = &report.nodes[2];
    assert_eq!(
        resize.outcome,
        NodeOutcome::Float(
            "ONNX Runtime resizes 8-bit values well only by `nearest`, not by `linear`".to_owned()
        )
    );
    builder.graph.node[1].output[1] = String::new();
    builder.graph.node.remove(3);
    builder.graph.node[3].input[1] = "b".to_owned();
    let report = check(
        &builder,
        U8Asymmetric,
        &[
            split[0],
            "Split(q:a) b ",
            "Resize(b  k) d",
            "Concat(d b) f",
            split[5],
        ],
    );
    assert!(matches!(&report.nodes[1].outcome, NodeOutcome::Float(_)));
}

#[test]
fn constant_operands_are_quantized() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.random("k", &[3, 1, 1]);
    builder.node("Mul", &["a", "k"], "y");
    check(
        &builder,
        U8Asymmetric,
        &["Conv(q:x q:a_w q:a_b) a", "Mul(q:a q:k) y_float"],
    );
}

#[test]
fn a_bound_stays_where_others_read_its_input() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "b");
    builder.node("Add", &["a", "b"], "y");
    check(
        &builder,
        U8Asymmetric,
        &["Conv(q:x q:a_w q:a_b) a", "Relu(q:a) b", "Add(q:a q:b) y_float"],
    );
}

#[test]
fn clips_fold_only_around_zero() {
    for (min, max, folds) in [(0.0, 6.0, true), (-1.0, 1.0, true), (0.5, 1.0, false)] {
        let mut builder = image();
        builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
        builder.constant("low", &[], &[min]);
        builder.constant("high", &[], &[max]);
        builder.node("Clip", &["a", "low", "high"], "y");
        let expected: &[&str] = match folds {
            true => &["Conv(q:x q:a_w q:a_b) a"],
            false => &["Conv(q:x q:a_w q:a_b) a", "Clip(q:a low high) y"],
        };
        check(&builder, U8Asymmetric, expected);
    }
}

#[test]
fn what_is_not_understood_stays_float() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.node("Erf", &["a"], "b");
    builder.conv("b", "c", [3, 3, 3, 3], 1, 1);
    builder.node("Mine", &["c"], "y").domain = Some("my.domain".to_owned());
    let report = check(
        &builder,
        U8Asymmetric,
        &[
            "Conv(q:x q:a_w q:a_b) a",
            "Erf(q:a) b",
            "Conv(q:b q:c_w q:c_b) c",
            "Mine(q:c) y",
        ],
    );
    assert_eq!(
        report.nodes[1].outcome,
        NodeOutcome::Float("Erf has no 8-bit form here".to_owned())
    );
}

#[test]
fn a_transposed_convolution_becomes_a_plain_one_for_processors_only() {
    let mut builder = image();
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.random("w", &[4, 2, 4, 4]);
    let node = builder.node("ConvTranspose", &["a", "w"], "b");
    node.attribute.push(ints_attribute("strides", &[2, 2]));
    node.attribute.push(ints_attribute("pads", &[1, 1, 1, 1]));
    builder.node("Relu", &["b"], "c");
    builder.conv("c", "y", [2, 2, 1, 1], 1, 0);
    assert_eq!(calibration_tensors(&builder.model()), ["x", "a", "c", "y"]);
    assert_eq!(input_channels(&builder.model())["a"], ChannelAxis::Second);
    check(
        &builder,
        U8Asymmetric,
        &[
            "Conv(q:x q:a_w q:a_b) a",
            "Conv(q:a q:w_phases) b_phases",
            "DepthToSpace(q:b_phases) b_phases_2",
            "Slice(q:b_phases_2 b_cut_from b_cut_to b_cut_axes) b",
            "Conv(q:c q:y_w q:y_b) y_float",
        ],
    );
    check(
        &builder,
        S8Symmetric,
        &[
            "Conv(q:x q:a_w a_b) a",
            "ConvTranspose(a w) b",
            "Relu(b) c",
            "Conv(q:c q:y_w y_b) y",
        ],
    );
}

#[test]
fn a_hard_swish_is_a_sum_and_a_product() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.node("HardSwish", &["a"], "b");
    builder.conv("b", "c", [3, 3, 1, 1], 1, 0);
    builder.node("HardSigmoid", &["c"], "y");
    check(
        &builder,
        U8Asymmetric,
        &[
            "Conv(q:x q:a_w q:a_b) a",
            "Add(b_sloped q:b_offset) b_gate",
            "Mul(q:a q:b_gate) b",
            "Conv(q:b q:c_w q:c_b) c",
            "Add(y_sloped q:y_offset) y_float",
        ],
    );
}

#[test]
fn a_bias_after_matmul_is_part_of_it() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 4]);
    builder.output("y", &[2, 3]);
    builder.random("w", &[4, 3]);
    builder.random("b", &[3]);
    builder.node("MatMul", &["x", "w"], "a");
    builder.node("Add", &["b", "a"], "c");
    builder.node("Softmax", &["c"], "y");
    check(
        &builder,
        U8Asymmetric,
        &["MatMul(q:x q:w) a", "Add(q:b a) c", "Softmax(c) y"],
    );
    check(
        &builder,
        S8Symmetric,
        &["MatMul(q:x q:w) a", "Add(b a) c", "Softmax(c) y"],
    );
}

#[test]
fn rows_of_a_table_come_out_in_its_own_8_bits() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 4]);
    builder.output("y", &[2, 4, 3]);
    builder.random("table", &[50, 3]);
    builder
        .node("Cast", &["x"], "i")
        .attribute
        .push(int_attribute("to", 7));
    builder.node("Gather", &["table", "i"], "a");
    builder.node("Relu", &["a"], "b");
    builder.random("w", &[3, 3]);
    builder.node("MatMul", &["b", "w"], "y");
    let model = builder.model();
    // The rows' range is the table's, so nothing needs to observe them.
    assert_eq!(calibration_tensors(&model), ["b"]);
    check(
        &builder,
        U8Asymmetric,
        &[
            "Cast(x) i",
            "Gather(q:table i) a",
            "Relu(q:a) b",
            "MatMul(q:b q:w) y",
        ],
    );
    let (quantized, _) =
        quantize_static(&model, &unit_ranges(&model), &StaticOptions::new(U8Asymmetric)).unwrap();
    let constant = |name: &str| {
        let constant = quantized
            .graph()
            .initializer
            .iter()
            .find(|tensor| tensor.name() == name)
            .unwrap();
        constant.raw_data.clone().unwrap()
    };
    assert_eq!(constant("a_scale"), constant("table_scale"));
    assert_eq!(constant("a_zero_point"), constant("table_zero_point"));
}

#[test]
fn a_gemm_before_an_activation_has_a_quantized_output() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 4]);
    builder.output("y", &[2, 3]);
    builder.gemm("x", "a", 3, 4);
    builder.node("Tanh", &["a"], "y");
    check(
        &builder,
        U8Asymmetric,
        &["Gemm(q:x q:a_w q:a_b) a", "Tanh(q:a) y"],
    );
}

#[test]
fn wild_ranges_keep_sums_in_float() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.conv("x", "b", [3, 3, 3, 3], 1, 1);
    builder.node("Add", &["a", "b"], "y");
    let model = builder.model();
    let mut ranges = unit_ranges(&model);
    ranges.insert(
        "b",
        Range {
            min: -10000.0,
            max: 1.0,
        },
    );
    let (_, report) = quantize_static(&model, &ranges, &StaticOptions::new(U8Asymmetric)).unwrap();
    assert_eq!(
        report.nodes[2].outcome,
        NodeOutcome::Float("its ranges exceed 1000".to_owned())
    );
}

#[test]
fn nothing_to_quantize_changes_no_byte() {
    let mut builder = image();
    builder.node("Relu", &["x"], "y");
    let model = builder.model();
    assert!(calibration_tensors(&model).is_empty());
    for activations in [U8Asymmetric, S8Symmetric] {
        let (quantized, report) =
            quantize_static(&model, &Ranges::new(), &StaticOptions::new(activations)).unwrap();
        assert_eq!(quantized.to_bytes(), model.to_bytes());
        assert_eq!(report.quantized(), 0);
    }
}

#[test]
fn calibration_outputs_are_added_once() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.conv("a", "y", [3, 3, 3, 3], 1, 1);
    let model = builder.model();
    let names = calibration_tensors(&model);
    assert_eq!(names, ["x", "a", "y"]);
    let observed = with_outputs(&model, &names).unwrap();
    let outputs: Vec<_> = observed
        .graph()
        .output
        .iter()
        .map(|output| output.name())
        .collect();
    assert_eq!(outputs, ["y", "a"]);
    let error = with_outputs(&model, &["nope".to_owned()]).unwrap_err();
    assert!(matches!(error, OnnxError::MissingValue { name, .. } if name == "nope"));
}

#[test]
fn errors_name_the_tensor() {
    let mut builder = image();
    builder.conv("x", "y", [3, 3, 3, 3], 1, 1);
    let model = builder.model();
    let error = quantize_static(&model, &Ranges::new(), &StaticOptions::new(U8Asymmetric)).unwrap_err();
    assert_eq!(
        error,
        QuantizeError::MissingRange {
            tensor: "x".to_owned()
        }
    );

    let mut ranges = unit_ranges(&model);
    ranges.insert(
        "y",
        Range {
            min: 0.0,
            max: f32::INFINITY,
        },
    );
    let error = quantize_static(&model, &ranges, &StaticOptions::new(U8Asymmetric)).unwrap_err();
    assert!(matches!(error, QuantizeError::BadRange { tensor, .. } if tensor == "y"));

    builder.graph.initializer[0] = crate::tensor::from_floats("y_w", &[1, 3, 1, 1], &[0.0, f32::NAN, 1.0]);
    builder.graph.initializer[1] = crate::tensor::from_floats("y_b", &[1], &[0.0]);
    let model = builder.model();
    let error = quantize_static(&model, &unit_ranges(&model), &StaticOptions::new(U8Asymmetric)).unwrap_err();
    assert!(matches!(error, QuantizeError::NotFinite { tensor, index: 1, .. } if tensor == "y_w"));
}

/// A depthwise net with a residual sum: quantized outputs stay close to float ones, and no tensor leaves its range.
#[test]
fn quantized_outputs_are_close() {
    let mut builder = image();
    builder.conv("x", "a", [8, 3, 1, 1], 1, 0);
    builder.constant("zero", &[], &[0.0]);
    builder.constant("six", &[], &[6.0]);
    builder.node("Clip", &["a", "zero", "six"], "b");
    builder.conv("b", "c", [8, 1, 3, 3], 8, 1);
    builder.node("Relu", &["c"], "d");
    builder.conv("d", "e", [8, 8, 1, 1], 1, 0);
    builder.node("Add", &["b", "e"], "f");
    builder.node("GlobalAveragePool", &["f"], "g");
    builder.node("Flatten", &["g"], "h");
    builder.gemm("h", "y", 5, 8);
    let model = builder.model();
    let ranges = calibrate(&model);
    // 8 bits carry about 50 dB; eight nodes in a row lose some of it.
    for (activations, least_db) in [(U8Asymmetric, 30.0), (S8Symmetric, 28.0)] {
        let (quantized, report) = quantize_static(&model, &ranges, &StaticOptions::new(activations)).unwrap();
        if activations == U8Asymmetric {
            assert_eq!(report.quantized(), report.nodes.len());
        }
        let (mut signal, mut noise) = (0.0, 0.0);
        for seed in 8..16 {
            let (float, int8) = (run(&model, &picture(seed)), run(&quantized, &picture(seed)));
            for (float, int8) in float["y"].data.iter().zip(&int8["y"].data) {
                signal += float * float;
                noise += (float - int8) * (float - int8);
            }
        }
        let sqnr_db = 10.0 * f64::log10(signal / noise);
        assert!(sqnr_db > least_db, "{activations:?}: {sqnr_db} dB");
    }
}

#[test]
fn one_scale_per_tensor_is_a_scalar() {
    let mut builder = image();
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "y");
    let model = builder.model();
    let options = StaticOptions {
        granularity: Granularity::PerTensor,
        ..StaticOptions::new(U8Asymmetric)
    };
    let (quantized, _) = quantize_static(&model, &unit_ranges(&model), &options).unwrap();
    let graph = quantized.graph();
    for name in ["a_w_scale", "a_w_zero_point", "a_b_scale", "a_b_zero_point"] {
        let constant = graph
            .initializer
            .iter()
            .find(|tensor| tensor.name() == name)
            .unwrap();
        assert!(constant.dims.is_empty(), "{name}");
    }
    assert!(
        graph
            .node
            .iter()
            .all(|node| crate::graph::attribute(node, "axis").is_none())
    );
}

#[test]
fn nodes_can_be_left_in_float() {
    let mut builder = image();
    builder.conv("x", "a", [3, 3, 3, 3], 1, 1);
    builder.conv("a", "y", [3, 3, 3, 3], 1, 1);
    let model = builder.model();
    let options = StaticOptions {
        float_nodes: BTreeSet::from([node_name(&model.graph().node[0]).to_owned()]),
        ..StaticOptions::new(U8Asymmetric)
    };
    let (_, report) = quantize_static(&model, &unit_ranges(&model), &options).unwrap();
    assert_eq!(
        report.nodes[0].outcome,
        NodeOutcome::Float("left in float for accuracy".to_owned())
    );
    assert_eq!(report.nodes[1].outcome, NodeOutcome::Quantized);
}

/// The average error of each output is what rounding the weights made of the inputs' averages; correction removes it.
#[test]
fn bias_correction_removes_the_average_error() {
    for with_bias in [true, false] {
        let mut builder = Builder::new(17);
        builder.input("x", &[1, 12]);
        builder.output("y", &[1, 4]);
        builder.gemm("x", "y", 4, 12);
        if !with_bias {
            builder.graph.node[0].input.truncate(2);
        }
        let model = builder.model();
        assert_eq!(
            input_channels(&model),
            BTreeMap::from([("x".to_owned(), ChannelAxis::Last)])
        );
        // Inputs that 8 bits hold exactly, so that the weights' rounding is the only error.
        let input = Value::new(&[1, 12], (0..12).map(|i| f64::from(i * 20 + 15)).collect());
        let mut ranges = Ranges::new();
        ranges.insert("x", Range { min: 0.0, max: 255.0 });
        let means: Vec<f32> = input.data.iter().map(|&value| value as f32).collect();
        let error = |input_means| {
            let options = StaticOptions {
                input_means,
                ..StaticOptions::new(U8Asymmetric)
            };
            let quantized = quantize_static(&model, &ranges, &options).unwrap().0;
            let (float, int8) = (run(&model, &input), run(&quantized, &input));
            let errors = float["y"]
                .data
                .iter()
                .zip(&int8["y"].data)
                .map(|(a, b)| (a - b).abs());
            errors.fold(0.0, f64::max)
        };
        let (before, after) = (
            error(BTreeMap::new()),
            error(BTreeMap::from([("x".to_owned(), means)])),
        );
        assert!(before > 0.5 && after < 0.01, "{before} → {after}");
    }
}

#[test]
fn shared_weights_are_stored_once_per_form() {
    let mut builder = image();
    builder.random("w", &[3, 3, 1, 1]);
    builder
        .node("Conv", &["x", "w"], "a")
        .attribute
        .push(int_attribute("group", 1));
    builder.node("Conv", &["a", "w"], "y");
    check(
        &builder,
        U8Asymmetric,
        &["Conv(q:x q:w) a", "Conv(q:a q:w) y_float"],
    );
}

/// The same weights and ranges give the same bytes on every processor: these digests are those of x86-64, ARM64 and
/// ARM32 (`docs/quantization.md` says how to run this under emulation).
#[test]
fn bytes_are_the_same_on_every_processor() {
    let mut builder = image();
    builder.conv("x", "a", [70, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "b");
    builder.conv("b", "c", [70, 1, 3, 3], 70, 1);
    builder.node("Relu", &["c"], "d");
    // Large enough to be shared among threads.
    builder.conv("d", "e", [1024, 70, 1, 1], 1, 0);
    builder.node("GlobalAveragePool", &["e"], "f");
    builder.node("Flatten", &["f"], "g");
    builder.gemm("g", "y", 100, 1024);
    let model = builder.model();
    let even = crate::equalize(&model).unwrap();
    let factors = (0..70).map(|channel| 1.0 + channel as f32 / 10.0).collect();
    let scaled = crate::scale_channels(&model, &BTreeMap::from([("b".to_owned(), factors)])).unwrap();
    let mut ranges = Ranges::new();
    let mut means = BTreeMap::new();
    for (number, name) in calibration_tensors(&model).into_iter().enumerate() {
        let span = 0.7 + number as f32;
        ranges.insert(
            name.clone(),
            Range {
                min: -span / 3.0,
                max: span,
            },
        );
        means.insert(
            name,
            (0..1024)
                .map(|channel| channel as f32 / 977.0)
                .take(70)
                .collect::<Vec<f32>>(),
        );
    }
    // FNV-1a
    let digest = |model: &Model| {
        let bytes = model.to_bytes();
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    };
    let variants = [
        (&model, U8Asymmetric, Granularity::PerChannel, false),
        (&even, U8Asymmetric, Granularity::PerChannel, false),
        (&even, U8Asymmetric, Granularity::PerTensor, false),
        (&even, S8Symmetric, Granularity::PerChannel, false),
        (&even, U8Asymmetric, Granularity::PerChannel, true),
        (&scaled, U8Asymmetric, Granularity::PerChannel, false),
    ];
    let mut digests = variants
        .map(|(model, activations, granularity, permuted)| {
            let options = StaticOptions {
                granularity,
                input_means: means.clone(),
                permuted,
                ..StaticOptions::new(activations)
            };
            digest(&quantize_static(model, &ranges, &options).unwrap().0)
        })
        .to_vec();
    digests.push(digest(&quantize_dynamic(&model).unwrap().0));
    assert_eq!(
        digests,
        [
            "02a3407fcb6857bb",
            "a9ce93e1b889d74c",
            "a32ef6b26bd99e20",
            "0e2d07996f64b341",
            "0975509803ecc9a4",
            "657ec336fa7e21ff",
            "b5906779a18d232f"
        ]
    );
}
