//! `quantize` and `inspect` on this workspace's models, run by the engine that the release fetched.

use aiot_testkit::released::Released;
use serde_json::Value;

use crate::common::{XTASK, declared, set_key, smallest_model};

/// Schemes that need no calibration.
const DIRECT: [&str; 4] = ["int8-dynamic", "int8-weights", "int4-weights", "float16"];

#[test]
fn a_sweep_shows_all_schemes_side_by_side_and_writes_nothing() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy_with_wheels();
    let before = copy.committed();
    let model = smallest_model(&copy, |model| model.calibration_path.is_some());
    let arguments = [
        "quantize",
        model.name.as_str(),
        "--sweep",
        "--offline",
        "--format",
        "json",
    ];
    let ended = copy.run(XTASK, &arguments).expect(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let rows = report["variants"].as_array().unwrap();
    let schemes: Vec<&str> = rows.iter().map(|row| row["scheme"].as_str().unwrap()).collect();
    assert_eq!(
        schemes,
        [
            "float32",
            "int8",
            "int8-dynamic",
            "int8-weights",
            "int4-weights",
            "int8-symmetric",
            "float16"
        ]
    );
    for row in &rows[1..] {
        // Equal outputs have no noise.
        let sqnr = row["sqnr-db"].as_f64().unwrap_or(f64::INFINITY);
        assert!(sqnr > 12.0, "{row}");
        assert!(
            row["size-bytes"].as_u64() <= rows[0]["size-bytes"].as_u64(),
            "{row}"
        );
        assert!(row["latency-ratio"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(copy.committed(), before);
}

#[test]
fn any_file_is_quantized_without_a_declaration() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |_| true);
    let file = copy.root.join(&model.path);
    let file = file.to_str().unwrap();
    let inspected = copy.run(XTASK, &["inspect", file, "--format", "json"]).expect(0);
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    for scheme in DIRECT {
        let output = copy.beside().join(format!("{scheme}.onnx"));
        let arguments = [
            "quantize",
            "--model",
            file,
            "--scheme",
            scheme,
            "--offline",
            "--output",
        ];
        let arguments: Vec<&str> = arguments.into_iter().chain(output.to_str()).collect();
        copy.run(XTASK, &arguments).expect(0);
        let length = std::fs::metadata(&output).unwrap().len();
        let told = inspected["sizes"].as_array().unwrap();
        let told = told.iter().find(|entry| entry[0] == scheme).unwrap();
        assert_eq!(told[1].as_u64(), Some(length), "{scheme}: inspect said otherwise");
        let again = std::fs::read(&output).unwrap();
        copy.run(XTASK, &arguments).expect(0);
        assert_eq!(
            std::fs::read(&output).unwrap(),
            again,
            "{scheme}: other bytes the second time"
        );
    }
    let refused = copy.run(
        XTASK,
        &["quantize", "--model", file, "--offline", "--output", "x.onnx"],
    );
    assert!(refused.expect(1).stderr.contains("int8 needs --calibration DIR"));
}

#[test]
fn a_declared_scheme_without_ranges_is_released() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |model| model.calibration_path.is_some());
    let header = format!("model.{}.quantization", model.name);
    for scheme in ["int8-weights", "int8-dynamic"] {
        set_key(&copy, "models.toml", &header, "scheme", &format!("\"{scheme}\""));
        let ended = copy.run(XTASK, &["release", "--offline"]).expect(0);
        assert!(
            ended
                .stderr
                .contains(&format!("quantize {} {scheme}", model.name)),
            "{}",
            ended.stderr
        );
        assert!(ended.stdout.contains(scheme), "{}", ended.stdout);
        let workspace = declared(&copy.root);
        assert!(!workspace.models[&model.name].needs_calibration(&workspace));
    }
}
