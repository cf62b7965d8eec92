use super::*;
use crate::graph::int_attribute;
use crate::testing::{Builder, listing};

#[track_caller]
fn check(builder: &Builder, expected: &[&str]) -> (Model, QuantizeReport) {
    let (model, report) = quantize_dynamic(&builder.model()).unwrap();
    assert_eq!(listing(&model), expected);
    (model, report)
}

#[test]
fn a_product_is_written_as_the_engine_fuses_it() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 8]);
    builder.random("w", &[8, 4]);
    builder.node("MatMul", &["x", "w"], "y");
    builder.output("y", &[2, 4]);
    let (model, _) = check(
        &builder,
        &[
            "DynamicQuantizeLinear(x) x_quantized x_scale x_zero_point",
            "MatMulInteger(x_quantized w_quantized x_zero_point w_zero_point) y_sums",
            "Cast(y_sums) y_sums_float",
            "Mul(x_scale w_scale) y_scale",
            "Mul(y_sums_float y_scale) y",
        ],
    );
    let facts = crate::inspect(&model);
    assert_eq!(facts.inputs[0].element_type, "float");
    let names: Vec<&str> = model
        .graph()
        .initializer
        .iter()
        .map(|tensor| tensor.name())
        .collect();
    assert_eq!(
        names,
        ["w_quantized", "w_scale", "w_zero_point"],
        "the float weight is gone"
    );
}

#[test]
fn two_products_share_their_activation() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 64]);
    builder.gemm("x", "a", 64, 64);
    builder.gemm("x", "b", 64, 64);
    builder.node("Add", &["a", "b"], "y");
    builder.output("y", &[2, 64]);
    let (model, report) = quantize_dynamic(&builder.model()).unwrap();
    let lines = listing(&model);
    let quantizing = lines
        .iter()
        .filter(|line| line.starts_with("DynamicQuantizeLinear"));
    assert_eq!(quantizing.count(), 1, "{lines:?}");
    assert_eq!(report.quantized(), 2);
    assert!(report.bytes_after < report.bytes_before);
}

#[test]
fn a_weight_that_stands_outputs_first_is_turned() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3]);
    builder.constant("w", &[2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 40.0]);
    builder.constant("b", &[2], &[1.0, 2.0]);
    let gemm = builder.node("Gemm", &["x", "w", "b"], "y");
    gemm.attribute.push(int_attribute("transB", 1));
    builder.output("y", &[1, 2]);
    let (model, _) = check(
        &builder,
        &[
            "DynamicQuantizeLinear(x) x_quantized x_scale x_zero_point",
            "MatMulInteger(x_quantized w_quantized x_zero_point w_zero_point) y_sums",
            "Cast(y_sums) y_sums_float",
            "Mul(x_scale w_scale) y_scale",
            "Mul(y_sums_float y_scale) y_product",
            "Add(y_product b) y",
        ],
    );
    let constant = |name: &str| {
        let mut tensors = model.graph().initializer.iter();
        tensors.find(|tensor| tensor.name() == name).unwrap().clone()
    };
    let weight = constant("w_quantized");
    assert_eq!(weight.dims, [3, 2]);
    let scales = tensor::floats(&constant("w_scale")).unwrap();
    let values: Vec<f32> = weight
        .raw_data
        .unwrap()
        .iter()
        .map(|&byte| f32::from(byte as i8))
        .collect();
    let expected = [1.0, 10.0, 2.0, 20.0, 3.0, 40.0];
    for (position, expected) in expected.into_iter().enumerate() {
        let scale = scales[position % 2];
        assert!(
            (values[position] * scale - expected).abs() <= scale,
            "{values:?} {scales:?}"
        );
    }
}

#[test]
fn a_table_keeps_a_scale_a_row() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 4]);
    builder.constant("table", &[2, 2], &[1.0, -2.0, 100.0, 50.0]);
    builder.node("Gather", &["table", "x"], "a");
    builder.node("Gather", &["table", "x"], "y");
    builder.output("a", &[]);
    builder.output("y", &[]);
    check(
        &builder,
        &[
            "Gather(table_rows x) a_row",
            "Gather(table_row_scales x) a_row_scale",
            "Cast(a_row) a_row_float",
            "Mul(a_row_float a_row_scale) a",
            "Gather(table_rows x) y_row",
            "Gather(table_row_scales x) y_row_scale",
            "Cast(y_row) y_row_float",
            "Mul(y_row_float y_row_scale) y",
        ],
    );
}

#[test]
fn a_recurrent_net_becomes_the_engines_own() {
    let mut builder = Builder::new(17);
    builder.input("x", &[5, 1, 3]);
    builder.random("w", &[1, 8, 3]);
    builder.random("r", &[1, 8, 2]);
    let lstm = builder.node("LSTM", &["x", "w", "r"], "y");
    lstm.attribute.push(int_attribute("hidden_size", 2));
    builder.output("y", &[]);
    let (model, _) = check(
        &builder,
        &["DynamicQuantizeLSTM(x w_quantized r_quantized      w_scale w_zero_point r_scale r_zero_point) y"],
    );
    let constants = &model.graph().initializer;
    let dims: Vec<(&str, &[i64])> = constants.iter().map(|t| (t.name(), t.dims.as_slice())).collect();
    assert!(dims.contains(&("w_quantized", &[1, 3, 8])), "{dims:?}");
    assert!(dims.contains(&("r_scale", &[1, 8])), "{dims:?}");
    let domains: Vec<&str> = model
        .proto()
        .opset_import
        .iter()
        .map(|import| import.domain())
        .collect();
    assert!(domains.contains(&RUNTIME_DOMAIN), "{domains:?}");
}

#[test]
fn recurrent_nodes_without_a_kernel_get_small_weights_alone() {
    let mut builder = Builder::new(17);
    builder.input("x", &[5, 1, 3]);
    builder.random("w", &[1, 6, 3]);
    builder.random("r", &[1, 6, 2]);
    let gru = builder.node("GRU", &["x", "w", "r"], "y");
    gru.attribute.push(int_attribute("hidden_size", 2));
    builder.output("y", &[]);
    check(
        &builder,
        &[
            "Cast(w_quantized) w_float",
            "Mul(w_float w_scale) w_dequantized",
            "Cast(r_quantized) r_float",
            "Mul(r_float r_scale) r_dequantized",
            "GRU(x w_dequantized r_dequantized) y",
        ],
    );
}

#[test]
fn what_has_no_fast_kernel_stays_float_and_says_why() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 6, 6]);
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.node("MatMul", &["a", "a"], "y");
    builder.output("y", &[]);
    let model = builder.model();
    let (same, report) = quantize_dynamic(&model).unwrap();
    assert_eq!(
        same.to_bytes(),
        model.to_bytes(),
        "nothing to quantize, so nothing changes"
    );
    let reasons: Vec<&NodeOutcome> = report.nodes.iter().map(|node| &node.outcome).collect();
    let float = |reason: &str| NodeOutcome::Float(reason.to_owned());
    assert_eq!(
        reasons,
        [
            &float("a convolution in this form is slower than in float"),
            &float("its second input is no constant matrix"),
        ]
    );
}

#[test]
fn a_broken_weight_is_named() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 2]);
    builder.constant("w", &[2, 1], &[1.0, f32::NAN]);
    builder.node("MatMul", &["x", "w"], "y");
    builder.output("y", &[]);
    let error = quantize_dynamic(&builder.model()).unwrap_err();
    assert!(
        matches!(error, QuantizeError::NotFinite { ref tensor, index: 1, .. } if tensor == "w"),
        "{error}"
    );
}
