//! Committed calibrations and measurements: used where they were made from what is declared, else made anew.

use aiot_package::{Digest, Precision};
use aiot_plan::plan::{CalibrationRecord, Source, calibration_inputs_of};

use crate::bench::{Bench, digest, model_name, same};

/// The parameter `subject` of an action.
#[track_caller]
fn subject(bench: &Bench, id: &str) -> Digest {
    let plan = bench.plan();
    let node = plan
        .nodes
        .iter()
        .find(|node| node.id == id)
        .unwrap_or_else(|| panic!("no `{id}` in the plan"));
    node.action.parameters()["subject"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// Commits what `calibrate digits` made.
fn commit_calibration(bench: &mut Bench) {
    let name = model_name("digits");
    let mut made_from = calibration_inputs_of(&bench.workspace().models[&name], &bench.facts);
    // The bench's fetch makes up a content.
    made_from.insert("model".to_owned(), bench.memory.output("fetch digits", "model"));
    let record = CalibrationRecord {
        subject: subject(bench, "calibrate digits"),
        made_from,
        file: bench.memory.output("calibrate digits", "ranges"),
    };
    bench.facts.calibrations.insert(name, record);
}

/// Commits what an evaluation made.
#[track_caller]
fn commit_measurement(bench: &mut Bench, model: &str, precision: Precision) {
    let id = format!("evaluate {model} {precision}");
    let record = (subject(bench, &id), bench.memory.output(&id, "measured"));
    bench
        .facts
        .measurements
        .insert((model_name(model), precision), record);
}

/// Where the package of a variant takes its golden outputs from.
#[track_caller]
fn golden(bench: &Bench, id: &str) -> Source {
    let plan = bench.plan();
    let node = plan.nodes.iter().find(|node| node.id == id).unwrap();
    node.inputs["golden outputs"].clone()
}

#[test]
fn a_committed_calibration_is_not_made_again() {
    let mut bench = Bench::built();
    commit_calibration(&mut bench);
    let plan = bench.plan();
    assert!(plan.calibrations.is_empty());
    assert!(!plan.nodes.iter().any(|node| node.id.starts_with("calibrate")));
    // The ranges are the same bytes, so all that was made from them stands.
    assert_eq!(bench.release(), "");
    // Another machine found other ranges: they count.
    let record = bench.facts.calibrations.get_mut(&model_name("digits"));
    record.unwrap().file = digest("of another machine");
    same(
        &bench.release(),
        r#"
        quantize digits int8: calibration ranges changed
        evaluate digits int8: model changed
        assemble package digits int8: golden outputs changed; model changed
        assemble image digits pi-32: 2: model layer changed
        assemble image digits pi-64: 2: model layer changed
        assemble index digits: image for pi-32 changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn a_calibration_of_something_else_is_made_again() {
    let mut bench = Bench::built();
    commit_calibration(&mut bench);
    bench.release();
    bench
        .facts
        .datasets
        .insert("models/digits/calibration".to_owned(), digest("edited"));
    assert_eq!(bench.plan().calibrations.len(), 1);
    same(
        &bench.release(),
        r#"
        calibrate digits: calibration set changed; subject changed
        quantize digits int8: calibration ranges changed
        evaluate digits int8: model changed; subject changed
        assemble package digits int8: golden outputs changed; model changed
        assemble image digits pi-32: 2: model layer changed
        assemble image digits pi-64: 2: model layer changed
        assemble index digits: image for pi-32 changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn where_the_calibration_never_ran_its_record_says_what_changed() {
    let mut bench = Bench::built();
    commit_calibration(&mut bench);
    bench.memory.forget("calibrate digits");
    bench
        .facts
        .datasets
        .insert("models/digits/calibration".to_owned(), digest("edited"));
    let told = bench.release();
    assert_eq!(
        told.lines().next(),
        Some("calibrate digits: calibration set changed")
    );
}

#[test]
fn a_model_that_is_not_quantized_needs_no_calibration() {
    let mut bench = Bench::built();
    let record = CalibrationRecord {
        subject: digest("any"),
        made_from: std::collections::BTreeMap::new(),
        file: digest("any"),
    };
    bench.facts.calibrations.insert(model_name("bearing"), record);
    assert_eq!(bench.release(), "");
}

#[test]
fn a_committed_measurement_is_baked() {
    let mut bench = Bench::built();
    let package = "assemble package bearing float32";
    assert!(matches!(golden(&bench, package), Source::Output { .. }));
    commit_measurement(&mut bench, "bearing", Precision::Float32);
    let made = bench.memory.output("evaluate bearing float32", "measured");
    assert_eq!(golden(&bench, package), Source::Given(made));
    assert_eq!(bench.release(), "", "the same bytes are the same input");
    // Another machine measured other bits: they are what is baked.
    let key = (model_name("bearing"), Precision::Float32);
    bench.facts.measurements.get_mut(&key).unwrap().1 = digest("of another machine");
    same(
        &bench.release(),
        r#"
        assemble package bearing float32: golden outputs changed
        assemble image bearing orin: 0: model layer changed
        assemble image bearing pi-64: 2: model layer changed
        assemble index bearing: image for orin changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn a_measurement_of_something_else_is_not_baked() {
    let mut bench = Bench::built();
    commit_measurement(&mut bench, "bearing", Precision::Float32);
    bench.edit_models("threshold = 0.6", "threshold = 0.7");
    assert!(matches!(
        golden(&bench, "assemble package bearing float32"),
        Source::Output { .. }
    ));
}

#[test]
fn the_first_release_commits_all_records_and_the_second_does_nothing() {
    let mut bench = Bench::built();
    for precision in [Precision::Float32, Precision::Float16, Precision::Int8] {
        commit_measurement(&mut bench, "digits", precision);
    }
    commit_measurement(&mut bench, "bearing", Precision::Float32);
    commit_calibration(&mut bench);
    let plan = bench.plan();
    assert!(plan.calibrations.is_empty());
    for node in plan
        .nodes
        .iter()
        .filter(|node| node.id.starts_with("assemble package"))
    {
        assert!(
            matches!(node.inputs["golden outputs"], Source::Given(_)),
            "{}",
            node.id
        );
    }
    assert_eq!(bench.release(), "");
}

#[test]
fn a_measurement_of_int8_needs_committed_ranges() {
    let mut bench = Bench::built();
    commit_calibration(&mut bench);
    commit_measurement(&mut bench, "digits", Precision::Int8);
    let package = "assemble package digits int8";
    assert!(matches!(golden(&bench, package), Source::Given(_)));
    assert_eq!(bench.release(), "");
    bench.facts.calibrations.clear();
    assert!(
        matches!(golden(&bench, package), Source::Output { .. }),
        "the ranges are to be made"
    );
}
