use super::*;
use crate::testing::{Builder, listing};

fn check(builder: &Builder, expected: &[&str]) -> Model {
    let half = to_float16(&builder.model()).unwrap();
    assert_eq!(listing(&half), expected);
    half
}

#[test]
fn inputs_and_outputs_stay_float() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 2, 4, 4]);
    builder.conv("x", "a", [3, 2, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "y");
    builder.node("Relu", &["y"], "z");
    builder.output("y", &[1, 3, 4, 4]);
    builder.output("z", &[1, 3, 4, 4]);
    let half = check(
        &builder,
        &[
            "Cast(x) x_half",
            "Conv(x_half a_w_half a_b_half) a",
            "Relu(a) y_half",
            "Cast(y_half) y",
            "Relu(y_half) z_half",
            "Cast(z_half) z",
        ],
    );
    let facts = crate::inspect(&half);
    assert!(
        facts
            .inputs
            .iter()
            .chain(&facts.outputs)
            .all(|tensor| tensor.element_type == "float")
    );
    assert_eq!(
        facts.weight_bytes,
        crate::inspect(&builder.model()).weight_bytes / 2
    );
}

#[test]
fn blocked_and_foreign_nodes_run_in_float() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 1, 4, 4]);
    builder.output("y", &[1, 1, 8, 8]);
    builder.node("Relu", &["x"], "a");
    builder.constant("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
    builder.node("Resize", &["a", "", "scales"], "b");
    builder.node("Mine", &["b", "a"], "c").domain = Some("my.domain".to_owned());
    builder.node("Relu", &["c"], "d");
    builder.node("Add", &["a", "b"], "y");
    check(
        &builder,
        &[
            "Cast(x) x_half",
            "Relu(x_half) a",
            "Cast(a) a_float",
            "Resize(a_float  scales) b",
            "Mine(b a_float) c",
            "Relu(c) d",
            "Cast(b) b_half",
            "Add(a b_half) y_half",
            "Cast(y_half) y",
        ],
    );
}

#[test]
fn integers_stay() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2, 3]);
    builder.output("y", &[2, 3]);
    builder.node("Shape", &["x"], "shape");
    builder.node("ConstantOfShape", &["shape"], "zeros");
    builder
        .node("Cast", &["shape"], "sizes")
        .attribute
        .push(int_attribute("to", 1));
    builder.node("Max", &["zeros", "x", "sizes"], "y");
    let half = check(
        &builder,
        &[
            "Cast(x) x_half",
            "Shape(x_half) shape",
            "ConstantOfShape(shape) zeros",
            "Cast(shape) sizes",
            "Max(zeros x_half sizes) y_half",
            "Cast(y_half) y",
        ],
    );
    let node = &half.graph().node[3];
    assert_eq!(int(node, "to", 0), DataType::Float16 as i64);
    assert_eq!(
        attribute(&half.graph().node[2], "value")
            .unwrap()
            .t
            .as_ref()
            .unwrap()
            .data_type,
        Some(10)
    );
}

#[test]
fn large_constants_are_clamped() {
    for (value, half) in [
        (-1e9, -65504.0),
        (f32::NEG_INFINITY, -65504.0),
        (7e4, 65504.0),
        (0.5, 0.5),
    ] {
        let converted = to_half(&tensor::from_floats("c", &[1], &[value]), "h").unwrap();
        let raw = converted.raw_data.unwrap();
        assert_eq!(f16::from_le_bytes([raw[0], raw[1]]).to_f32(), half, "{value}");
    }
}

#[test]
fn models_without_floats_stay() {
    let mut builder = Builder::new(17);
    builder.input("x", &[2]);
    builder.graph.input[0].r#type.as_mut().unwrap().value = None;
    builder.node("Shape", &["x"], "y");
    builder.output("y", &[1]);
    builder.graph.output[0].r#type.as_mut().unwrap().value = None;
    let model = builder.model();
    assert_eq!(to_float16(&model).unwrap().to_bytes(), model.to_bytes());
}
