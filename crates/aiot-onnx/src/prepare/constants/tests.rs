use super::*;
use crate::graph::{int_attribute, ints_attribute};
use crate::prepare::prepare;
use crate::testing::{Builder, listing};

/// Folds what `build` makes of the constant `c` = 0, 1, … 11 as 3×4 into `r`, and says dims and numbers.
#[track_caller]
fn check(build: impl FnOnce(&mut Builder), expected: Option<(&[i64], &[f32])>) {
    let mut builder = Builder::new(17);
    builder.input("x", &[1]);
    builder.output("y", &[]);
    let numbers: Vec<f32> = (0u8..12).map(f32::from).collect();
    builder.constant("c", &[3, 4], &numbers);
    build(&mut builder);
    builder.node("Add", &["x", "r"], "y");
    let prepared = prepare(&builder.model()).unwrap();
    let mut constants = prepared.graph().initializer.iter();
    let found = constants.find(|constant| constant.name() == "r");
    let found = found.map(|constant| (constant.dims.clone(), tensor::floats(constant).unwrap()));
    let found = found
        .as_ref()
        .map(|(dims, numbers)| (dims.as_slice(), numbers.as_slice()));
    assert_eq!(found, expected);
    assert_eq!(listing(&prepared).len(), if expected.is_some() { 1 } else { 2 });
}

#[test]
fn values_are_moved() {
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        let numbers = [starts, ends, axes, steps].map(<[i64]>::to_vec);
        move |builder: &mut Builder| {
            for (name, numbers) in ["from", "to", "axes", "steps"].into_iter().zip(&numbers) {
                builder.integers(name, numbers);
            }
            builder.node("Slice", &["c", "from", "to", "axes", "steps"], "r");
        }
    };
    check(
        slice(&[1, -3], &[3, i64::MAX], &[0, 1], &[1, 2]),
        Some((&[2, 2], &[5.0, 7.0, 9.0, 11.0])),
    );
    check(
        slice(&[-1], &[i64::MIN], &[1], &[-2]),
        Some((&[3, 2], &[3.0, 1.0, 7.0, 5.0, 11.0, 9.0])),
    );
    check(
        slice(&[9], &[-9], &[-2], &[-1]),
        Some((&[3, 4], &[8., 9., 10., 11., 4., 5., 6., 7., 0., 1., 2., 3.])),
    );
    check(slice(&[2], &[2], &[0], &[1]), Some((&[0, 4], &[])));
    check(slice(&[0], &[1], &[0], &[0]), None);
    check(slice(&[0], &[1], &[2], &[1]), None);
    check(slice(&[0, 1], &[1], &[0], &[1]), None);
    let turn = |order: &'static [i64]| {
        move |builder: &mut Builder| {
            builder
                .node("Transpose", &["c"], "r")
                .attribute
                .push(ints_attribute("perm", order));
        }
    };
    let turned = [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.];
    check(turn(&[1, 0]), Some((&[4, 3], &turned)));
    check(turn(&[1, 1]), None);
    check(turn(&[0]), None);
    let shape = |wanted: &'static [i64]| {
        move |builder: &mut Builder| {
            builder.integers("wanted", wanted);
            builder.node("Reshape", &["c", "wanted"], "r");
        }
    };
    let numbers: Vec<f32> = (0u8..12).map(f32::from).collect();
    check(shape(&[0, -1, 2]), Some((&[3, 2, 2], &numbers)));
    for wrong in [
        &[-1, -1][..],
        &[5, -1],
        &[0, 0, 0],
        &[-2, 6],
        &[1 << 62, 1 << 62],
        &[0, 0, -1, 7],
    ] {
        check(shape(wrong), None);
    }
}

#[test]
fn values_are_put_together_and_numbers_computed() {
    check(
        |builder| {
            builder.integers("last", &[-1]);
            builder.node("Unsqueeze", &["c", "last"], "a");
            builder.node("Squeeze", &["a"], "b");
            builder
                .node("Concat", &["b", "c"], "d")
                .attribute
                .push(int_attribute("axis", -1));
            builder.integers("from", &[3]);
            builder.integers("to", &[5]);
            builder.integers("axis", &[1]);
            builder.node("Slice", &["d", "from", "to", "axis"], "e");
            builder
                .node("Flatten", &["e"], "r")
                .attribute
                .push(int_attribute("axis", 0));
        },
        Some((&[1, 6], &[3.0, 0.0, 7.0, 4.0, 11.0, 8.0])),
    );
    check(
        |builder| {
            builder.constant("k", &[3, 1], &[1.0, 2.0, 4.0]);
            builder.node("Div", &["c", "k"], "a");
            builder.node("Neg", &["a"], "b");
            builder.constant("one", &[], &[1.0]);
            builder.node("Sub", &["one", "b"], "d");
            builder.node("Sqrt", &["d"], "r");
        },
        Some((
            &[3, 4],
            &[1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 12.0, 13.0, 14.0, 15.0].map(
                |square: f32| match square {
                    square if square < 5.0 => square.sqrt(),
                    square if square < 10.0 => ((square - 6.0 + 4.0) / 2.0 + 1.0).sqrt(),
                    square => ((square - 12.0 + 8.0) / 4.0 + 1.0).sqrt(),
                },
            ),
        )),
    );
    let computed = |builder: &mut Builder| {
        builder.node("Add", &["c", "x"], "r");
    };
    check(computed, None);
}

#[test]
fn a_small_file_does_not_unpack_to_a_large_one() {
    let mut builder = Builder::new(17);
    builder.input("x", &[1]);
    builder.output("y", &[]);
    builder.random("c0", &[1000]);
    for step in 0..40 {
        let (from, to) = (format!("c{step}"), format!("c{}", step + 1));
        builder
            .node("Concat", &[&from, &from], &to)
            .attribute
            .push(int_attribute("axis", 0));
    }
    builder.node("Add", &["x", "c40"], "y");
    let model = builder.model();
    let prepared = prepare(&model).unwrap();
    assert!(prepared.size_bytes() < 3 * (1 << 20), "{}", prepared.size_bytes());
    assert!(listing(&prepared).len() > 20);
}
