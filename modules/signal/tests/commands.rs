//! The commands of a module, with the built binary and a real engine.

#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{command, finished, golden, package};

fn signal(package: &Path, arguments: &[&str]) -> Command {
    command(env!("CARGO_BIN_EXE_signal"), package, arguments)
}

/// A recording of two windows: one as trained, one beyond.
fn recording() -> String {
    "0.5\n".repeat(8) + &"3\n".repeat(8)
}

#[test]
fn predict_prints_one_line_a_window() {
    let dir = package("clip");
    let file = dir.path().join("a.csv");
    std::fs::write(&file, recording()).unwrap();
    let file = file.to_str().unwrap();
    let (code, stdout, stderr) = finished(signal(dir.path(), &["predict", file]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("EXECUTION PROVIDER IN USE: cpu"), "{stderr}");
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    for (window, score, anomaly) in [(0, 0.0, false), (1, 4.0, true)] {
        let line = &lines[window];
        assert_eq!(line["file"], file);
        assert_eq!(
            (&line["model"], &line["version"]),
            (&json!("clip"), &json!("1.2.3"))
        );
        assert!(line["model_digest"].as_str().unwrap().starts_with("sha256:"));
        assert_eq!(line["window"], window);
        assert!(line["latency_us"].is_u64());
        let result = &line["result"];
        assert_eq!(
            (&result["kind"], &result["anomaly"]),
            (&json!("anomaly"), &json!(anomaly))
        );
        assert_eq!(result["score"], score);
    }
}

#[test]
fn a_bad_file_does_not_hide_the_good_ones() {
    let dir = package("clip");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("good.csv"), recording()).unwrap();
    std::fs::write(path("bad.csv"), "1\nx\n").unwrap();
    let arguments = [
        "predict",
        &path("bad.csv"),
        &path("absent.csv"),
        &path("good.csv"),
    ];
    let (code, stdout, stderr) = finished(signal(dir.path(), &arguments));
    assert_eq!((code, stdout.lines().count()), (1, 2), "{stderr}");
    assert!(stderr.contains("bad.csv: line 2 of the recording"), "{stderr}");
    assert!(stderr.contains("absent.csv"), "{stderr}");
}

#[test]
fn self_test_replays_the_golden_cases() {
    let dir = package("clip");
    let content = recording();
    let output = |value: f32| json!({"output": vec![value; 8]});
    golden(dir.path(), &[("a.csv", content.as_bytes(), output(0.5))]);
    let (code, stdout, stderr) = finished(signal(dir.path(), &["self-test"]));
    assert_eq!(
        (code, stdout.as_str()),
        (0, "ok      a.csv\n1 of 1 golden cases as built\n"),
        "{stderr}"
    );

    golden(
        dir.path(),
        &[
            ("a.csv", content.as_bytes(), output(0.5)),
            ("b.csv", content.as_bytes(), output(0.25)),
        ],
    );
    let (code, stdout, _) = finished(signal(dir.path(), &["self-test"]));
    assert_eq!(code, 4);
    assert!(stdout.contains("ok      a.csv\nFAILED  b.csv: "), "{stdout}");
    assert!(
        stdout.contains("`output`[0] is 0.5, recorded was 0.25"),
        "{stdout}"
    );

    // A module that computes something else does not serve either.
    let (code, _, stderr) = finished(signal(dir.path(), &["serve"]));
    assert_eq!(code, 4);
    assert!(stderr.contains("self-test failed"), "{stderr}");

    golden(dir.path(), &[]);
    assert_eq!(finished(signal(dir.path(), &["self-test"])).0, 4);
}

#[test]
fn set_up_problems_have_their_exit_code_and_words() {
    let dir = package("clip");
    let check = |mut command: Command, variable: Option<(&str, &str)>, code: i32, expected: &str| {
        if let Some((name, value)) = variable {
            command.env(name, value);
        }
        let (got, stdout, stderr) = finished(command);
        assert_eq!(got, code, "{expected}: {stderr}");
        assert!(
            stderr.contains(expected) && stdout.is_empty(),
            "{expected}: {stdout}{stderr}"
        );
    };
    let run = |arguments: &[&str]| signal(dir.path(), arguments);
    check(run(&["dance"]), None, 2, "unknown command");
    check(run(&["predict"]), None, 2, "at least one file");
    check(
        run(&["self-test"]),
        Some(("AIOT_EXECUTION_PROVIDERS", "gpu")),
        2,
        "`gpu`",
    );
    check(
        run(&["self-test"]),
        Some(("AIOT_ENGINE_LIBRARY", "/nowhere/lib.so")),
        3,
        "/nowhere/lib.so",
    );
    check(
        run(&["self-test"]),
        Some(("AIOT_MODEL_DIR", "/nowhere")),
        3,
        "/nowhere/package.json",
    );
    check(
        run(&["self-test"]),
        Some(("AIOT_REQUIRE_PROVIDER", "cuda")),
        3,
        "`cuda` is required",
    );
    check(run(&["self-test"]), None, 3, "golden.json");
    check(
        signal(package("colour").path(), &["self-test"]),
        None,
        3,
        "takes other inputs than module `signal`",
    );
    check(
        run(&["health"]),
        Some(("AIOT_HTTP_ADDRESS", "127.0.0.1:1")),
        1,
        "no service on 127.0.0.1:1",
    );
    std::fs::write(dir.path().join("model.onnx"), "damaged").unwrap();
    check(run(&["self-test"]), None, 3, "the package is damaged");
}

#[test]
fn a_fall_back_is_loud() {
    let dir = package("clip");
    golden(dir.path(), &[("a.csv", recording().as_bytes(), json!({}))]);
    let mut command = signal(dir.path(), &["self-test"]);
    command.env("AIOT_EXECUTION_PROVIDERS", "cuda,cpu");
    let (code, _, stderr) = finished(command);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains("[WRN] - execution provider passed over: cuda: "),
        "{stderr}"
    );
}

/// A library that behaves like Debian's while it is loaded.
#[test]
fn the_engines_noise_stays_out_of_the_log() {
    let dir = package("clip");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let source = "#include <stdio.h>\n__attribute__((constructor)) static void start(void) {
        for (int i = 0; i < 600; i++) fprintf(stderr, \"Schema error: Trying to register %d\\n\\n\", i);
        fprintf(stderr, \"something real\\n\");
    }";
    std::fs::write(path("noisy.c"), source).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &path("noisy.so"), &path("noisy.c")])
        .status();
    assert!(compiled.unwrap().success());
    let mut command = signal(dir.path(), &["self-test"]);
    command.env("AIOT_ENGINE_LIBRARY", path("noisy.so"));
    let (code, _, stderr) = finished(command);
    assert_eq!(code, 3);
    assert!(
        stderr.starts_with("something real\n<3> ") && stderr.contains(" [ERR] - the inference engine"),
        "{stderr}"
    );
}

#[test]
fn help_and_version() {
    let dir = package("clip");
    let (code, stdout, _) = finished(signal(dir.path(), &["--help"]));
    assert!(code == 0 && stdout.starts_with("signal: "));
    let (code, stdout, _) = finished(signal(dir.path(), &["--version"]));
    assert!(code == 0 && stdout.starts_with("signal "));
}
