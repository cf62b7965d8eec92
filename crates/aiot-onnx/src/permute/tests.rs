use super::*;
use crate::graph::{int_attribute, ints_attribute};
use crate::testing::Builder;
use crate::testing::interpreter::{Value, run};

/// Runs a model before and after; returns it with the inputs that have another order.
fn permuted(builder: &Builder) -> Option<Permuted> {
    let model = builder.model();
    let found = permute(&model, ALL).unwrap()?;
    let count = 3 * 6 * 6;
    let picture = Value::new(
        &[1, 3, 6, 6],
        (0..count).map(|i| f64::from(i * 37 % 41) / 20.0 - 1.0).collect(),
    );
    let (before, after) = (run(&model, &picture), run(&found.model, &picture));
    let near = |name: &str, order: &[usize]| {
        let (before, after) = (&before[name], &after[name]);
        let largest = before
            .data
            .iter()
            .fold(0.0f64, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0);
        let axis = usize::from(before.dims.len() > 1);
        let inner: usize = before.dims[axis + 1..].iter().product();
        for (place, value) in after.data.iter().enumerate() {
            let channel = place / inner % before.dims[axis];
            let old = place - channel * inner + order[channel] * inner;
            let expected = before.data[old];
            assert!(
                (expected - value).abs() <= 1e-5 * largest,
                "{name}: {expected} became {value}"
            );
        }
    };
    let as_it_was: Vec<usize> = (0..before["y"].data.len()).collect();
    near("y", &as_it_was);
    found.inputs.iter().for_each(|(name, order)| near(name, order));
    for order in found.inputs.values() {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..order.len()), "{order:?}");
    }
    assert_ne!(found.model, model);
    Some(found)
}

/// Operators whose weights count.
const ALL: &[&str] = &["Conv", "Gemm", "MatMul"];

fn image() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 3, 6, 6]);
    builder.output("y", &[]);
    builder
}

/// The names of the inputs that were put into another order.
fn moved(builder: &Builder) -> Vec<String> {
    permuted(builder).map_or_else(Vec::new, |permuted| permuted.inputs.into_keys().collect())
}

#[test]
fn an_order_goes_through_activations_depthwise_nodes_and_sums() {
    let mut builder = image();
    builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "b");
    builder.conv("b", "c", [8, 1, 3, 3], 8, 1);
    builder.constant("low", &[], &[0.0]);
    builder.constant("high", &[], &[6.0]);
    builder.node("Clip", &["c", "low", "high"], "d");
    builder.conv("d", "e", [12, 8, 1, 1], 1, 0);
    builder.conv("e", "f", [12, 12, 3, 3], 1, 1);
    builder.node("Add", &["e", "f"], "g");
    builder.random("k", &[12, 1, 1]);
    builder.node("Mul", &["k", "g"], "h");
    builder.conv("h", "i", [6, 12, 1, 1], 1, 0);
    builder.node("GlobalAveragePool", &["i"], "j");
    builder.node("Flatten", &["j"], "l");
    builder.gemm("l", "y", 5, 6);
    assert_eq!(moved(&builder), ["b", "d", "e", "h", "l"]);
}

#[test]
fn features_of_a_flattened_picture_move_in_runs() {
    let mut builder = image();
    builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
    builder.conv("a", "b", [8, 8, 3, 3], 1, 1);
    builder.node("Flatten", &["a"], "c");
    builder.node("Relu", &["c"], "d");
    builder.gemm("d", "e", 10, 8 * 36);
    builder.node("Flatten", &["b"], "f");
    builder.gemm("f", "g", 10, 8 * 36);
    builder.node("Add", &["e", "g"], "h");
    builder.random("w", &[10, 6]);
    builder.node("MatMul", &["h", "w"], "i");
    builder.random("shift", &[1, 6]);
    builder.node("Add", &["i", "shift"], "j");
    builder.gemm("j", "y", 4, 6);
    let orders = permuted(&builder).unwrap().inputs;
    let names: Vec<&str> = orders.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["a", "d", "h", "j"],
        "nothing adds up over the channels of `b`"
    );
    let (channels, features) = (&orders["a"], &orders["d"]);
    for (place, &feature) in features.iter().enumerate() {
        assert_eq!(feature, channels[place / 36] * 36 + place % 36);
    }
}

/// That outputs stay is seen in `quantize::odd_tests`, where the engine runs such nets.
#[test]
fn an_order_goes_through_what_pads_and_resizes_positions_alone() {
    let check = |pads: &[i64], size: &[i64], expected: &[&str]| {
        let mut builder = image();
        builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
        builder.integers("pads", pads);
        builder.node("Pad", &["a", "pads"], "b");
        builder.conv("b", "c", [6, 8, 1, 1], 1, 0);
        builder.integers("size", size);
        builder.node("Resize", &["c", "", "", "size"], "d");
        builder.conv("d", "y", [4, 6, 1, 1], 1, 0);
        let found = permute(&builder.model(), ALL).unwrap();
        let names: Vec<String> = found.map_or_else(Vec::new, |found| found.inputs.into_keys().collect());
        assert_eq!(names, expected, "{pads:?} {size:?}");
    };
    check(&[0, 0, 1, 1, 0, 0, 1, 1], &[1, 6, 9, 9], &["b", "d"]);
    // One channel more, or fewer of them; amounts for other axes than these.
    check(&[0, 0, 1, 1, 0, 1, 1, 1], &[1, 6, 9, 9], &["d"]);
    check(&[1, 1, 1, 1], &[1, 6, 9, 9], &["d"]);
    check(&[0, 0, 1, 1, 0, 0, 1, 1], &[1, 5, 9, 9], &["b"]);
}

#[test]
fn whatever_is_not_understood_keeps_its_order() {
    // Read by a node that is not known here.
    let mut unknown = image();
    unknown.conv("x", "a", [8, 3, 3, 3], 1, 1);
    unknown.conv("a", "b", [8, 8, 1, 1], 1, 0);
    unknown
        .node("Concat", &["a", "b"], "c")
        .attribute
        .push(int_attribute("axis", 1));
    unknown.conv("c", "y", [4, 16, 1, 1], 1, 0);
    assert_eq!(permute(&unknown.model(), ALL).unwrap(), None);

    // An output of the model.
    let mut output = image();
    output.conv("x", "a", [8, 3, 3, 3], 1, 1);
    output.output("a", &[]);
    output.conv("a", "y", [8, 8, 1, 1], 1, 0);
    assert_eq!(permute(&output.model(), ALL).unwrap(), None);

    // Weights that two nodes read.
    let mut shared = image();
    shared.conv("x", "a", [8, 3, 3, 3], 1, 1);
    shared.random("w", &[8, 8, 1, 1]);
    shared.node("Conv", &["a", "w"], "b");
    shared.node("Conv", &["b", "w"], "c");
    shared.conv("c", "y", [4, 8, 1, 1], 1, 0);
    assert_eq!(permute(&shared.model(), ALL).unwrap(), None);

    // Groups, and pooling over channels that a product made.
    let mut groups = image();
    groups.conv("x", "a", [8, 3, 3, 3], 1, 1);
    groups.conv("a", "y", [8, 4, 1, 1], 2, 0);
    assert_eq!(permute(&groups.model(), ALL).unwrap(), None);
    let mut pooled = image();
    pooled.random("w", &[6, 8]);
    pooled.node("MatMul", &["x", "w"], "a");
    let pool = pooled.node("MaxPool", &["a"], "b");
    pool.attribute.push(ints_attribute("kernel_shape", &[2, 2]));
    pooled.random("v", &[7, 4]);
    pooled.node("MatMul", &["b", "v"], "y");
    assert_eq!(permute(&pooled.model(), ALL).unwrap(), None);

    // An odd number of channels.
    let mut odd = image();
    odd.conv("x", "a", [7, 3, 3, 3], 1, 1);
    odd.conv("a", "y", [8, 7, 3, 3], 1, 1);
    assert_eq!(permute(&odd.model(), ALL).unwrap(), None);
}

#[test]
fn constants_that_vary_along_another_axis_stay() {
    let mut builder = image();
    builder.conv("x", "a", [6, 3, 3, 3], 1, 1);
    // Six columns and six channels: the constant is of the columns.
    builder.random("columns", &[6]);
    builder.node("Mul", &["a", "columns"], "b");
    builder.conv("b", "y", [4, 6, 1, 1], 1, 0);
    let model = permuted(&builder).unwrap().model;
    let columns = |model: &Model| {
        let mut constants = model.graph().initializer.iter();
        constants.find(|tensor| tensor.name() == "columns").cloned()
    };
    assert_eq!(columns(&model), columns(&builder.model()));

    // A constant that makes the rank higher moves the channels to an axis that nobody follows.
    let mut higher = image();
    higher.conv("x", "a", [6, 3, 3, 3], 1, 1);
    higher.random("k", &[1, 1, 6, 1, 1]);
    higher.node("Add", &["a", "k"], "b");
    higher.random("w", &[6, 5]);
    higher.node("MatMul", &["b", "w"], "y");
    assert_eq!(permute(&higher.model(), ALL).unwrap(), None);
}
