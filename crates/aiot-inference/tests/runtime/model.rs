//! Model, evaluation, calibration and golden cases with a real ONNX Runtime and the models of `golden/make.py`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{engine, onnx, open, package, png};
use aiot_inference::engine::{Array, Numbers, Optimize};
use aiot_inference::{
    Dataset, Model, Outcome, Prediction, PredictionResult, SessionOptions, evaluate, golden,
};
use aiot_package::{Metric, ModelPackage, Tolerance};

fn write(dir: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

/// A package folder of the committed model `name`.
fn package_dir(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let onnx = onnx(name);
    let mut json = serde_json::to_value(package(name, &onnx)).unwrap();
    change(&mut json);
    write(
        dir.path(),
        &[
            ("model.onnx", &onnx),
            ("package.json", json.to_string().as_bytes()),
        ],
    );
    dir
}

fn open_dir(dir: &Path) -> Result<Model, String> {
    Model::open(dir, &engine(), &SessionOptions::default()).map_err(|error| error.to_string())
}

#[test]
fn classifies_a_picture() {
    let model = open_dir(package_dir("colour", |_| ()).path()).unwrap();
    let predictions = model.predict_bytes(&png([0, 255, 0])).unwrap();
    let [
        Prediction {
            window: None,
            result:
                PredictionResult::Classification {
                    label,
                    confidence,
                    top,
                },
            ..
        },
    ] = &predictions[..]
    else {
        panic!("{predictions:?}")
    };
    assert_eq!(label.as_deref(), Some("green"));
    assert!(*confidence > 0.999);
    assert_eq!(
        top.iter().map(|entry| entry.label.as_str()).collect::<Vec<_>>(),
        ["green", "red", "blue"]
    );
}

#[test]
fn an_unsure_answer_is_null() {
    let model = open("colour", |package| package.output.threshold = Some(0.5)).unwrap();
    let json = serde_json::to_value(&model.predict_bytes(&png([9, 9, 9])).unwrap()[0]).unwrap();
    assert_eq!(json["result"]["label"], serde_json::Value::Null);
    assert_eq!(json["result"]["kind"], "classification");
    assert_eq!(
        json["model_digest"],
        format!("sha256:{}", model.package().model.sha256)
    );
    assert!(json["latency_us"].is_u64() && json.get("window").is_none());
}

#[test]
fn scores_every_window() {
    let model = open("clip", |_| ()).unwrap();
    let csv = "0\n".repeat(8) + &"3\n".repeat(8) + "5\n";
    let results: Vec<_> = model.predict_bytes(csv.as_bytes()).unwrap();
    assert_eq!(
        results.iter().map(|result| result.window).collect::<Vec<_>>(),
        [Some(0), Some(1)]
    );
    let anomaly = |score, anomaly| PredictionResult::Anomaly {
        score,
        anomaly,
        threshold: 0.1,
    };
    assert_eq!(results[0].result, anomaly(0.0, false));
    assert_eq!(results[1].result, anomaly(4.0, true));
}

#[test]
fn regresses() {
    let model = open("mean-sum", |_| ()).unwrap();
    let predictions = model.predict_bytes("2\n".repeat(8).as_bytes()).unwrap();
    let values = BTreeMap::from([("mean".to_owned(), 2.0), ("sum".to_owned(), 16.0)]);
    assert_eq!(predictions[0].result, PredictionResult::Regression { values });
}

#[test]
fn nan_and_infinity_are_no_result() {
    let model = open("reciprocal", |_| ()).unwrap();
    let error = model.predict_bytes("0\n".repeat(8).as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "the model computed NaN or infinity");
}

#[test]
fn damaged_packages_are_named() {
    let check = |change: &dyn Fn(&mut serde_json::Value), expected: &str| {
        let error = open_dir(package_dir("colour", |json| change(json)).path()).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    };
    check(
        &|json| json["format-version"] = 2.into(),
        "format version 2; this program reads 1",
    );
    check(&|json| json["surprise"] = 1.into(), "unknown field `surprise`");
    check(
        &|json| json["model"]["sha256"] = "0".repeat(64).into(),
        "the package is damaged",
    );
    check(
        &|json| json["model"]["size-bytes"] = 1_000.into(),
        "the package names",
    );
    check(
        &|json| json["model"]["size-bytes"] = 1.into(),
        "larger than the 1 bytes",
    );
    check(
        &|json| json["model"]["path"] = "../model.onnx".into(),
        "leaves the folder",
    );
    check(
        &|json| json["model"]["path"] = "absent.onnx".into(),
        "absent.onnx",
    );
    check(
        &|json| json["input"]["image"]["width"] = 5.into(),
        "prepares [1, 3, 4, 5]",
    );
    check(
        &|json| json["input"]["image"]["std"] = vec![1.0, 0.0, 1.0].into(),
        "`std`",
    );
    check(
        &|json| json["input"]["image"]["mean"] = vec![1.0].into(),
        "1 entries for 3 channels",
    );
    check(
        &|json| json["output"]["labels"] = vec!["a", "b"].into(),
        "[1, 2] is wanted",
    );
    check(
        &|json| json["output"]["labels"] = vec!["a", "b", "a"].into(),
        "twice",
    );
    check(
        &|json| json["task"] = "anomaly-detection".into(),
        "shape of the input",
    );
    check(&|json| *json = serde_json::Value::Null, "not a model package");
    let error = open("clip", |package| package.output.threshold = None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("needs a threshold"), "{error}");
}

/// A data set of recordings: (file, label, one value repeated for the window).
fn recordings(rows: &[(&str, &str, &str)]) -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    let mut list = "file,label\n".to_owned();
    for (file, label, value) in rows {
        std::fs::write(dir.path().join(file), format!("{value}\n").repeat(8)).unwrap();
        list += &format!("{file},{label}\n");
    }
    std::fs::write(dir.path().join("labels.csv"), list).unwrap();
    let dataset = Dataset::open(dir.path()).unwrap();
    (dir, dataset)
}

fn measured(name: &str, metric: Metric, rows: &[(&str, &str, &str)]) -> Result<f64, String> {
    let (_dir, dataset) = recordings(rows);
    let model = open(name, |_| ()).unwrap();
    let first = evaluate(&model, &dataset, metric).map_err(|error| error.to_string())?;
    assert_eq!(
        evaluate(&model, &dataset, metric).unwrap(),
        first,
        "twice is once"
    );
    assert_eq!(first.samples, rows.len());
    Ok(first.value)
}

#[test]
fn evaluates() {
    let rows = [
        ("a", "0", "0.5"),
        ("b", "1", "3"),
        ("c", "1", "0.5"),
        ("d", "0", "1.1"),
    ];
    assert_eq!(measured("clip", Metric::Accuracy, &rows), Ok(0.75));
    assert_eq!(measured("clip", Metric::RocAuc, &rows), Ok(0.625));
    let rows = [("a", "2;16", "2"), ("b", "1;9", "1")];
    assert_eq!(measured("mean-sum", Metric::MeanAbsoluteError, &rows), Ok(0.25));
}

#[test]
fn evaluation_errors_name_the_sample() {
    for (name, metric, row, expected) in [
        (
            "clip",
            Metric::Accuracy,
            ("a", "yes", "1"),
            "sample `a`: label `yes` is not 0 (normal) or 1",
        ),
        ("clip", Metric::RocAuc, ("a", "1", "1"), "all are labelled `1`"),
        ("clip", Metric::Accuracy, ("a", "1", "x"), "sample `a`"),
        (
            "clip",
            Metric::MacroF1,
            ("a", "1", "1"),
            "metric `macro-f1` cannot be computed",
        ),
        (
            "mean-sum",
            Metric::MeanAbsoluteError,
            ("a", "1", "1"),
            "2 numbers",
        ),
    ] {
        let error = measured(name, metric, &[row]).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn evaluates_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let list = "file,label\nr.png,red\ng.png,green\nx.png,blue\n";
    write(
        dir.path(),
        &[
            ("r.png", &png([255, 0, 0])),
            ("g.png", &png([0, 255, 0])),
            ("x.png", &png([255, 0, 0])),
            ("labels.csv", list.as_bytes()),
        ],
    );
    let dataset = Dataset::open(dir.path()).unwrap();
    let model = open("colour", |_| ()).unwrap();
    let evaluation = evaluate(&model, &dataset, Metric::Accuracy).unwrap();
    assert_eq!(evaluation.value, 2.0 / 3.0);
    assert_eq!(evaluation.results[0].file, "g.png");
    assert!(matches!(&evaluation.results[0].outcome, Outcome::Probabilities(list) if list.len() == 3));
    let f1 = evaluate(&model, &dataset, Metric::MacroF1).unwrap().value;
    assert!((f1 - (1.0 + 2.0 / 3.0) / 3.0).abs() < 1e-12, "{f1}");
}

#[test]
fn any_graph_shows_its_outputs_and_refuses_what_does_not_fit() {
    let mut graph = engine().graph(&onnx("clip"), Optimize::NoLayout).unwrap();
    assert_eq!(graph.inputs().len(), 1);
    let lengths = graph.inputs()[0].shape.iter().map(|length| length.unwrap_or(1));
    let shape: Vec<usize> = lengths.collect();
    let count = shape.iter().product();
    let array = |numbers| Array {
        shape: shape.clone(),
        numbers,
    };
    let mut seen = Vec::new();
    graph
        .run(
            &[array(Numbers::Float32(vec![-3.0; count]))],
            |name, _, values| {
                seen.push((name.to_owned(), values[0]));
            },
        )
        .unwrap();
    assert_eq!(seen, [("output".to_owned(), -1.0)]);
    for (arrays, expected) in [
        (vec![], "the graph has 1 inputs, got 0 arrays"),
        (vec![array(Numbers::Int64(vec![0; count]))], "the array Int64"),
        (
            vec![Array {
                shape: vec![7, 7, 7, 7, 7],
                numbers: Numbers::Float32(vec![0.0; 16807]),
            }],
            "the array [7, 7, 7, 7, 7]",
        ),
    ] {
        let error = graph.run(&arrays, |_, _, _| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn golden_cases_replay_and_name_what_differs() {
    let dir = package_dir("mean-sum", |_| ());
    write(dir.path(), &[("one.csv", "1.1\n".repeat(16).as_bytes())]);
    let model = open_dir(dir.path()).unwrap();
    let files = ["one.csv".to_owned()];
    let mut golden = golden::record(&model, dir.path(), &files, Tolerance::EXACT).unwrap();
    write(
        dir.path(),
        &[("golden.json", &serde_json::to_vec(&golden).unwrap())],
    );
    // Through JSON and back the bits stay.
    assert_eq!(golden::read(dir.path()).unwrap(), golden);
    golden::replay(&model, dir.path(), &golden).unwrap();

    golden.cases[0].outputs.get_mut("output").unwrap()[1] += 0.5;
    let error = golden::replay(&model, dir.path(), &golden)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "golden input `one.csv`: output `output`[1] is 8.8, recorded was 9.3"
    );
    golden.tolerance.absolute = 0.6;
    golden::replay(&model, dir.path(), &golden).unwrap();
    golden.cases[0].outputs.insert("other".to_owned(), vec![1.0]);
    let error = golden::replay(&model, dir.path(), &golden)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "golden input `one.csv`: output `other` has 0 values, recorded were 1"
    );
    assert!(golden::record(&model, dir.path(), &["../x".to_owned()], Tolerance::EXACT).is_err());
}

#[test]
fn threads_may_share_a_model() {
    let model = open("mean-sum", |_| ()).unwrap();
    let model = &model;
    std::thread::scope(|scope| {
        for value in 0..8 {
            scope.spawn(move || {
                for _ in 0..20 {
                    let predictions = model
                        .predict_bytes(format!("{value}\n").repeat(8).as_bytes())
                        .unwrap();
                    let PredictionResult::Regression { values } = &predictions[0].result else {
                        panic!()
                    };
                    assert_eq!(values["mean"], value as f32);
                }
            });
        }
    });
}

#[test]
fn a_package_survives_json() {
    let package = package("clip", &onnx("clip"));
    let json = serde_json::to_string(&package).unwrap();
    assert_eq!(serde_json::from_str::<ModelPackage>(&json).unwrap(), package);
}
