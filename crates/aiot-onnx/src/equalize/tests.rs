use super::*;
use crate::testing::Builder;
use crate::testing::interpreter::{Value, run};

fn picture() -> Value {
    Value::new(
        &[1, 3, 6, 6],
        (0..108).map(|i| f64::from(i * 37 % 41) / 20.0 - 1.0).collect(),
    )
}

/// The outputs of two models for one input are the same within `bound`.
fn same_outputs(before: &Model, after: &Model, input: &Value, bound: f64) {
    let (before, after) = (&run(before, input)["y"], &run(after, input)["y"]);
    assert_eq!(before.data.len(), after.data.len());
    for (before, after) in before.data.iter().zip(&after.data) {
        assert!((before - after).abs() <= bound, "{before} became {after}");
    }
}

/// Equalizes a model: whether the file changed, and that its outputs did not, relative to the largest one.
fn check(builder: &Builder, changes: bool) -> Model {
    let model = builder.model();
    let equalized = equalize(&model).unwrap();
    assert_eq!(equalized != model, changes);
    let output = &run(&model, &picture())["y"];
    let largest = output
        .data
        .iter()
        .fold(0.0f64, |largest, value| largest.max(value.abs()));
    same_outputs(&model, &equalized, &picture(), 1e-5 * largest);
    equalized
}

fn image() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 6, 6]);
    builder.output("y", &[]);
    builder
}

/// Multiplies each output channel of a weight or bias by the next of these factors.
fn unbalance(builder: &mut Builder, weight: &str, factors: [f32; 3]) {
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
        .map(|(position, value)| value * factors[position / inner % 3])
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
    unbalance(&mut builder, "a_w", [100.0, 1.0, 0.01]);
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
    unbalance(&mut builder, "a_w", [100.0, 1.0, 0.01]);
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

/// A net as MobileNetV2 is made of: uneven channels, a depthwise node in the middle, Clips at both of its sides.
fn clipped() -> Builder {
    let mut builder = image();
    builder.conv("x", "a", [6, 3, 1, 1], 1, 0);
    builder.constant("low", &[], &[0.0]);
    builder.constant("high", &[], &[1.5]);
    builder.node("Clip", &["a", "low", "high"], "b");
    builder.conv("b", "c", [6, 1, 3, 3], 6, 1);
    builder.node("Clip", &["c", "low", "high"], "d");
    builder.conv("d", "y", [4, 6, 1, 1], 1, 0);
    // Channels far below the bound, so that there is something to gain.
    for weight in ["a_w", "a_b"] {
        unbalance(&mut builder, weight, [1.0, 0.1, 0.01]);
    }
    builder
}

/// The largest magnitude of each channel of a value with 36 numbers per channel.
fn largest(model: &Model, input: &Value, name: &str) -> Vec<f32> {
    let value = &run(model, input)[name];
    let channel = |numbers: &[f64]| {
        numbers
            .iter()
            .fold(0.0, |most: f64, number| most.max(number.abs()))
    };
    value
        .data
        .chunks(36)
        .map(|numbers| channel(numbers) as f32)
        .collect()
}

/// Factors for some tensors of a model, as calibration on one picture would find them.
fn factors(model: &Model, tensors: &[&str]) -> BTreeMap<String, Vec<f32>> {
    let seen = tensors
        .iter()
        .map(|&name| (name.to_owned(), largest(model, &picture(), name)));
    channel_factors(model, &seen.collect())
}

#[test]
fn activations_become_even_through_clips() {
    let model = clipped().model();
    let factors = factors(&model, &["b", "d", "y"]);
    assert_eq!(factors.keys().collect::<Vec<_>>(), ["b", "d"]);
    let even = scale_channels(&model, &factors).unwrap();
    same_outputs(&model, &even, &picture(), 1e-5);
    for (tensor, factors) in &factors {
        let old = largest(&model, &picture(), tensor);
        let new = largest(&even, &picture(), tensor);
        for channel in 0..6 {
            let factor = factors[channel];
            assert!(
                (new[channel] - old[channel] * factor).abs() <= 1e-5,
                "{tensor} {channel}"
            );
            // Up to the room that is left below the bound.
            let expected = match old[channel] {
                0.0 => 1.0,
                old => (1.5 / old / 1.25).clamp(1.0, 16.0),
            };
            assert!(
                (factor - expected).abs() <= 0.0051,
                "{tensor} {channel}: {factor} {expected}"
            );
        }
    }
}

#[test]
fn what_lies_well_beyond_calibration_is_cut_off() {
    let model = clipped().model();
    let factors = factors(&model, &["b"]);
    let even = scale_channels(&model, &factors).unwrap();
    let mut bright = picture();
    bright.data.iter_mut().for_each(|number| *number *= 9.0);
    let (before, after) = (&run(&model, &bright)["b"], &run(&even, &bright)["b"]);
    let mut cut = 0;
    for (position, (&before, &after)) in before.data.iter().zip(&after.data).enumerate() {
        let factor = f64::from(factors["b"][position / 36]);
        let expected = before.min(1.5 / factor);
        assert!(
            (after / factor - expected).abs() <= 1e-5,
            "{before} became {after}"
        );
        cut += usize::from(expected < before);
    }
    assert!(cut > 0);
}

#[test]
fn without_clips_scaled_activations_change_nothing() {
    let mut builder = image();
    builder.conv("x", "a", [6, 3, 1, 1], 1, 0);
    builder.node("Relu", &["a"], "b");
    builder.conv("b", "c", [6, 1, 3, 3], 6, 1);
    builder.conv("c", "y", [4, 6, 1, 1], 1, 0);
    unbalance(&mut builder, "a_w", [100.0, 1.0, 0.01]);
    let model = builder.model();
    let factors = factors(&model, &["b", "c"]);
    // What is behind no Clip and goes into shared scales stays.
    assert_eq!(factors.keys().collect::<Vec<_>>(), ["b"]);
    let even = scale_channels(&model, &factors).unwrap();
    for input in [1.0, 50.0] {
        let mut picture = picture();
        picture.data.iter_mut().for_each(|number| *number *= input);
        same_outputs(&model, &even, &picture, 1e-3);
    }
}

#[test]
fn factors_reach_up_to_the_bound_or_the_largest_channel() {
    let found = |operator: &str, others: &[&str], group: i64| {
        let mut builder = image();
        builder.conv("x", "a", [3, 3, 1, 1], 1, 0);
        for (name, bound) in [("zero", 0.0), ("below", -1.0), ("five", 5.0)] {
            builder.constant(name, &[], &[bound]);
        }
        builder.node(operator, &[&["a"], others].concat(), "b");
        builder.conv("b", "y", [3, 3 / group, 1, 1], group, 0);
        let seen = BTreeMap::from([("b".to_owned(), vec![1.0, 0.5, 0.2])]);
        channel_factors(&builder.model(), &seen).remove("b")
    };
    let to_largest = Some(vec![1.0, 1.6, 4.0]);
    for (operator, others, depthwise, dense) in [
        ("Relu", vec![], to_largest.clone(), None),
        ("LeakyRelu", vec![], to_largest.clone(), None),
        ("Clip", vec!["zero"], to_largest, None),
        (
            "Clip",
            vec!["zero", "five"],
            Some(vec![4.0, 8.0, 16.0]),
            Some(vec![4.0, 8.0, 16.0]),
        ),
        // The lower bound would have to move along.
        ("Clip", vec!["below", "five"], None, None),
        ("Sigmoid", vec![], None, None),
        // Read twice, and pooled, where a channel's largest number is not the one before.
        ("Add", vec!["a"], None, None),
        ("GlobalAveragePool", vec![], None, None),
    ] {
        assert_eq!(found(operator, &others, 3), depthwise, "{operator} {others:?}");
        assert_eq!(found(operator, &others, 1), dense, "{operator} {others:?}");
    }
}

#[test]
fn factors_of_another_model_are_refused() {
    let model = clipped().model();
    let sound = vec![1.0, 2.0, 3.0, 16.0, 1.5, 1.0];
    let refused = |tensor: &str, factors: Vec<f32>| {
        let error = scale_channels(&model, &BTreeMap::from([(tensor.to_owned(), factors)])).unwrap_err();
        assert!(error.to_string().contains("calibrate again"), "{error}");
    };
    assert!(scale_channels(&model, &BTreeMap::from([("b".to_owned(), sound.clone())])).is_ok());
    refused("elsewhere", sound.clone());
    refused("y", sound.clone());
    refused("b", sound[1..].to_vec());
    for broken in [0.5, 17.0, f32::NAN, -2.0] {
        let mut factors = sound.clone();
        factors[2] = broken;
        refused("b", factors);
    }
    assert_eq!(scale_channels(&model, &BTreeMap::new()).unwrap(), model);
}
