use super::*;
use crate::graph::int_attribute;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, OperatorSetIdProto};
use crate::testing::interpreter::{Value, run};
use crate::testing::{Builder, float_attribute, ints_attribute, listing, value};

/// Prepares a model, compares its outputs with the original's, and its nodes with `expected`.
fn check(builder: &Builder, expected: &[&str]) -> Model {
    let model = builder.model();
    let prepared = prepare(&model).unwrap();
    assert_eq!(listing(&prepared), expected);
    let dims: Vec<usize> = match &model.graph().input[0].r#type.as_ref().unwrap().value {
        Some(crate::proto::type_proto::Value::TensorType(tensor)) => {
            let dims = &tensor.shape.as_ref().unwrap().dim;
            dims.iter().map(|dim| match dim.value {
                Some(crate::proto::tensor_shape_proto::dimension::Value::DimValue(length)) => length as usize,
                _ => 1,
            })
        }
        other => panic!("{other:?}"),
    }
    .collect();
    let count: usize = dims.iter().product();
    let input = Value::new(
        &dims,
        (0..count).map(|i| ((i * 37 % 41) as f64 - 20.0) / 10.0).collect(),
    );
    let (before, after) = (run(&model, &input), run(&prepared, &input));
    for output in &model.graph().output {
        let (before, after) = (&before[output.name()], &after[output.name()]);
        assert_eq!(before.dims, after.dims);
        for (before, after) in before.data.iter().zip(&after.data) {
            assert!(
                (before - after).abs() <= 1e-5 * before.abs().max(1.0),
                "{before} became {after}"
            );
        }
    }
    let again = prepare(&prepared).unwrap();
    assert_eq!(
        again.to_bytes(),
        prepared.to_bytes(),
        "preparing twice is preparing once"
    );
    prepared
}

fn image(opset: i64, channels: i64) -> Builder {
    let mut builder = Builder::new(opset);
    builder.input("x", &[1, channels, 5, 5]);
    builder.output("y", &[]);
    builder
}

#[test]
fn nothing_to_do_changes_no_byte() {
    let mut builder = image(17, 2);
    builder.conv("x", "a", [3, 2, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "y");
    let prepared = check(&builder, &["Conv(x a_w a_b) a", "Relu(a) y"]);
    assert_eq!(prepared.to_bytes(), builder.model().to_bytes());
}

#[test]
fn batch_normalization_folds_into_convolutions() {
    let mut builder = image(17, 4);
    builder.conv("x", "a", [6, 2, 3, 3], 2, 1);
    builder.batch_normalization("a", "b", 6);
    builder.batch_normalization("b", "c", 6);
    builder.node("Relu", &["c"], "y");
    check(&builder, &["Conv(x a_w a_b) c", "Relu(c) y"]);

    let mut builder = image(17, 2);
    builder.random("w", &[3, 2, 3, 3]);
    builder.node("Conv", &["x", "w"], "a");
    builder.batch_normalization("a", "y", 3);
    check(&builder, &["Conv(x w w_bias) y"]);
}

#[test]
fn batch_normalization_folds_into_transposed_convolutions() {
    for group in [1, 2] {
        let mut builder = image(17, 4);
        builder.random("w", &[4, 3, 2, 2]);
        builder
            .node("ConvTranspose", &["x", "w"], "a")
            .attribute
            .push(int_attribute("group", group));
        builder.batch_normalization("a", "y", 3 * group);
        check(&builder, &["ConvTranspose(x w w_bias) y"]);
    }
}

#[test]
fn batch_normalization_folds_into_gemm() {
    for transposed in [0, 1] {
        let mut builder = Builder::new(17);
        builder.input("x", &[2, 4]);
        builder.output("y", &[2, 3]);
        builder.random("w", if transposed == 1 { &[3, 4] } else { &[4, 3] });
        builder
            .node("Gemm", &["x", "w"], "a")
            .attribute
            .push(int_attribute("transB", transposed));
        builder.batch_normalization("a", "y", 3);
        check(&builder, &["Gemm(x w w_bias) y"]);
    }
}

#[test]
fn batch_normalization_stays_where_others_read_its_input() {
    let mut builder = image(17, 2);
    builder.conv("x", "a", [3, 2, 3, 3], 1, 1);
    builder.batch_normalization("a", "b", 3);
    builder.node("Add", &["a", "b"], "y");
    let expected = [
        "Conv(x a_w a_b) a",
        "BatchNormalization(a b_scale b_offset b_mean b_variance) b",
        "Add(a b) y",
    ];
    check(&builder, &expected);
}

#[test]
fn shared_weights_are_folded_apart() {
    let mut builder = image(17, 2);
    builder.random("w", &[2, 2, 3, 3]);
    builder
        .node("Conv", &["x", "w"], "a")
        .attribute
        .push(ints_attribute("pads", &[1; 4]));
    builder.batch_normalization("a", "b", 2);
    builder.node("Conv", &["b", "w"], "y");
    check(&builder, &["Conv(x w_folded w_folded_bias) b", "Conv(b w) y"]);
}

#[test]
fn gemm_factors_fold_into_constants() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 4]);
    builder.output("y", &[2, 3]);
    builder.gemm("x", "y", 3, 4);
    let node = builder.graph.node.last_mut().unwrap();
    node.attribute
        .extend([float_attribute("alpha", 0.3), float_attribute("beta", -2.0)]);
    let prepared = check(&builder, &["Gemm(x y_w y_b) y"]);
    assert_eq!(prepared.graph().node[0].attribute.len(), 1);
}

#[test]
fn pass_throughs_vanish_and_outputs_keep_their_names() {
    let mut builder = image(17, 2);
    builder.node("Identity", &["x"], "a");
    builder.node("Relu", &["a"], "b");
    builder.node("Dropout", &["b"], "c");
    builder.node("Identity", &["c"], "y");
    builder.node("Relu", &["c"], "unused");
    check(&builder, &["Relu(x) y"]);

    let mut builder = image(17, 2);
    builder.node("Identity", &["x"], "y");
    check(&builder, &["Identity(x) y"]);

    let mut builder = image(17, 2);
    builder.node("Relu", &["x"], "a");
    builder.node("Identity", &["a"], "y");
    builder.node("Identity", &["a"], "z");
    builder.output("z", &[]);
    check(&builder, &["Relu(x) y", "Identity(y) z"]);
}

#[test]
fn constants_become_initializers_and_dead_ones_go() {
    let mut builder = image(17, 2);
    let constant = AttributeProto {
        name: Some("value".to_owned()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(tensor::from_floats("", &[1], &[2.0])),
        ..AttributeProto::default()
    };
    builder.node("Constant", &[], "two").attribute.push(constant);
    builder.node("Add", &["x", "two"], "y");
    builder.random("unused", &[3]);
    builder.graph.value_info.push(value("stale", &[1]));
    let prepared = check(&builder, &["Add(x two) y"]);
    assert_eq!(prepared.graph().initializer.len(), 1);
    assert!(prepared.graph().value_info.is_empty());
}

#[test]
fn default_inputs_become_constants() {
    let mut builder = image(17, 2);
    builder.conv("x", "y", [3, 2, 3, 3], 1, 0);
    builder.input("y_w", &[3, 2, 3, 3]);
    let prepared = check(&builder, &["Conv(x y_w y_b) y"]);
    assert_eq!(prepared.graph().input.len(), 1);
}

#[test]
fn old_opsets_are_raised() {
    let mut builder = image(10, 2);
    builder.node("Relu", &["x"], "a");
    let node = builder.node("Clip", &["a"], "y");
    node.attribute
        .extend([float_attribute("min", 0.5), float_attribute("max", 1.0)]);
    let prepared = prepare(&builder.model()).unwrap();
    assert_eq!(listing(&prepared), ["Relu(x) a", "Clip(a y_min y_max) y"]);
    assert_eq!((prepared.opset(), prepared.proto().ir_version), (13, Some(8)));

    let mut builder = Builder::new(11);
    builder.input("x", &[1, 4]);
    builder.node("Softmax", &["x"], "a");
    builder
        .node("Unsqueeze", &["a"], "y")
        .attribute
        .push(ints_attribute("axes", &[0]));
    builder.output("y", &[]);
    let prepared = prepare(&builder.model()).unwrap();
    assert_eq!(listing(&prepared), ["Softmax(x) a", "Unsqueeze(a y_axes) y"]);
}

#[test]
fn opsets_that_cannot_be_raised_are_refused() {
    for (opset, operator, place) in [
        (8, "Relu", "the model"),
        (10, "Resize", "node `y_Resize` (Resize)"),
        (11, "Hardmax", "node `y_Hardmax` (Hardmax)"),
    ] {
        let mut builder = image(opset, 2);
        builder.node(operator, &["x"], "y");
        match prepare(&builder.model()) {
            Err(OnnxError::OpsetTooOld { place: got, .. }) => assert_eq!(got, place),
            other => panic!("{other:?}"),
        }
    }
    // Smaller pictures; a mask of floats that is read; a node without outputs is nobody's to name constants after.
    let mut builder = image(10, 2);
    builder.constant("half", &[4], &[1.0, 1.0, 0.5, 1.0]);
    builder.node("Resize", &["x", "half"], "y");
    let error = prepare(&builder.model()).unwrap_err();
    assert!(
        error.to_string().contains("its scales are not constants"),
        "{error}"
    );
    let mut builder = image(9, 2);
    builder
        .node("Dropout", &["x"], "a")
        .output
        .push("mask".to_owned());
    builder.node("Add", &["a", "mask"], "y");
    let error = prepare(&builder.model()).unwrap_err();
    assert!(error.to_string().contains("a_Dropout"), "{error}");
    let mut builder = image(9, 2);
    builder.node("Relu", &["x"], "y");
    let clip = builder.node("Clip", &["x"], "gone");
    clip.output.clear();
    prepare(&builder.model()).unwrap();
    let mut builder = image(11, 2);
    builder.node("Softmax", &["x"], "y");
    let error = prepare(&builder.model()).unwrap_err();
    assert!(error.to_string().contains("opset_version=17"), "{error}");
}

#[test]
fn both_spellings_of_the_default_domain_are_raised() {
    let mut builder = image(12, 2);
    builder.node("Relu", &["x"], "y");
    let mut proto = builder.proto();
    proto.opset_import = vec![OperatorSetIdProto {
        domain: Some("ai.onnx".to_owned()),
        version: Some(12),
    }];
    let prepared = prepare(&Model::from_proto(proto).unwrap()).unwrap();
    assert_eq!(prepared.opset(), 13);
}
