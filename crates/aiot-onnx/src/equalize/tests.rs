use super::*;
use crate::testing::Builder;
use crate::testing::interpreter::{Value, run};

fn picture() -> Value {
    Value::new(
        &[1, 3, 6, 6],
        (0..108).map(|i| f64::from(i * 37 % 41) / 20.0 - 1.0).collect(),
    )
}

/// Largest difference of the outputs, relative to the largest output, and whether the file changed.
fn check(builder: &Builder, changes: bool) -> Model {
    let model = builder.model();
    let equalized = equalize(&model).unwrap();
    assert_eq!(equalized != model, changes);
    let (before, after) = (&run(&model, &picture())["y"], &run(&equalized, &picture())["y"]);
    let largest = before
        .data
        .iter()
        .fold(0.0f64, |largest, value| largest.max(value.abs()));
    for (before, after) in before.data.iter().zip(&after.data) {
        assert!(
            (before - after).abs() <= 1e-5 * largest,
            "{before} became {after}"
        );
    }
    equalized
}

fn image() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 6, 6]);
    builder.output("y", &[]);
    builder
}

/// Makes the output channels of a convolution very uneven.
fn unbalance(builder: &mut Builder, weight: &str) {
    let constant = builder
        .graph
        .initializer
        .iter_mut()
        .find(|tensor| tensor.name() == weight)
        .unwrap();
    let inner = constant.dims[1..].iter().product::<i64>() as usize;
    let values: Vec<f32> = tensor::floats(constant)
        .unwrap()
        .iter()
        .enumerate()
        .map(|(position, value)| value * [100.0, 1.0, 0.01][position / inner % 3])
        .collect();
    *constant = tensor::from_floats(weight, &constant.dims.clone(), &values);
}

#[test]
fn channels_become_even_through_relu_and_depthwise() {
    let mut builder = image();
    builder.conv("x", "a", [6, 3, 1, 1], 1, 0);
    builder.node("Relu", &["a"], "b");
    builder.conv("b", "c", [6, 1, 3, 3], 6, 1);
    builder.node("Relu", &["c"], "d");
    builder.conv("d", "y", [4, 6, 1, 1], 1, 0);
    unbalance(&mut builder, "a_w");
    let equalized = check(&builder, true);
    let weight = equalized
        .graph()
        .initializer
        .iter()
        .find(|tensor| tensor.name() == "a_w")
        .unwrap();
    let values = tensor::floats(weight).unwrap();
    let largest = |channel: usize| {
        values[channel * 3..][..3]
            .iter()
            .fold(0.0f32, |largest, v| largest.max(v.abs()))
    };
    assert!(largest(0) / largest(2) < 200.0, "{} {}", largest(0), largest(2));
}

#[test]
fn flattened_channels_and_groups_are_followed() {
    let mut builder = image();
    builder.conv("x", "a", [6, 3, 3, 3], 3, 1);
    builder.node("Relu", &["a"], "b");
    builder.conv("b", "c", [4, 3, 3, 3], 2, 1);
    builder.node("Flatten", &["c"], "d");
    builder.gemm("d", "e", 5, 144);
    builder.node("Relu", &["e"], "f");
    builder.random("w", &[5, 2]);
    builder.node("MatMul", &["f", "w"], "y");
    builder.graph.node[0].attribute[0] = crate::graph::int_attribute("group", 1);
    builder.graph.initializer.retain(|tensor| tensor.name() != "a_w");
    builder.random("a_w", &[6, 3, 3, 3]);
    check(&builder, true);
}

#[test]
fn nothing_moves_through_clips_branches_and_outputs() {
    let mut clip = image();
    clip.conv("x", "a", [3, 3, 1, 1], 1, 0);
    clip.constant("low", &[], &[0.0]);
    clip.constant("high", &[], &[6.0]);
    clip.node("Clip", &["a", "low", "high"], "b");
    clip.conv("b", "y", [3, 3, 1, 1], 1, 0);
    check(&clip, false);

    let mut branch = image();
    branch.conv("x", "a", [3, 3, 1, 1], 1, 0);
    branch.conv("a", "b", [3, 3, 1, 1], 1, 0);
    branch.node("Add", &["a", "b"], "y");
    check(&branch, false);

    let mut shared = image();
    shared.random("w", &[3, 3, 1, 1]);
    for (input, output) in [("x", "a"), ("a", "y")] {
        shared
            .node("Conv", &[input, "w"], output)
            .attribute
            .push(crate::graph::int_attribute("group", 1));
    }
    check(&shared, false);
}

#[test]
fn transposed_convolutions_are_either_side() {
    let mut builder = image();
    builder.conv("x", "a", [6, 3, 1, 1], 1, 0);
    builder.node("Relu", &["a"], "b");
    builder.random("c_w", &[6, 4, 2, 2]);
    builder.random("c_b", &[4]);
    builder.node("ConvTranspose", &["b", "c_w", "c_b"], "c");
    builder.node("Relu", &["c"], "d");
    builder.conv("d", "y", [2, 4, 3, 3], 1, 1);
    unbalance(&mut builder, "a_w");
    let before = builder.model();
    let equalized = check(&builder, true);
    let weight = |model: &Model| {
        model
            .graph()
            .initializer
            .iter()
            .find(|tensor| tensor.name() == "c_w")
            .cloned()
    };
    assert_ne!(weight(&before), weight(&equalized));
}
