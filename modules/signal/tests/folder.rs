//! A watched folder of recordings: what cannot be computed does not hold up the rest.

#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use support::{command, package};

#[test]
fn nan_is_refused_and_the_next_recording_is_predicted() {
    let dir = package("clip");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("1.csv", &"NaN\n".repeat(8));
    write("2.csv", &"1e999\n".repeat(8));
    write("3.csv", &("0.5\n".repeat(8) + &"3\n".repeat(8)));
    let pipeline = json!({
        "sources": {"directory": {"path": folder.path(), "interval-ms": 50}}, "sinks": {"stdout": {}},
    });
    let mut command = command(env!("CARGO_BIN_EXE_signal"), dir.path(), &["serve"]);
    command.env("AIOT_PIPELINE", pipeline.to_string());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let got: Vec<Value> = lines
        .take(2)
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    for (window, line) in got.iter().enumerate() {
        assert_eq!(line["source"], json!({"kind": "directory", "name": "3.csv"}));
        assert_eq!(
            (&line["window"], &line["result"]["anomaly"]),
            (&json!(window), &json!(window == 1))
        );
    }
    for name in ["1.csv", "2.csv"] {
        assert!(folder.path().join(".refused").join(name).is_file(), "{name}");
    }
}
