//! Files in every form that exporters have written them in, prepared: nothing that comes out changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use aiot_onnx::{Model, prepare};
use aiot_testkit::{python, tools};
use serde_json::Value;

const PACKAGES: [&str; 2] = ["onnxruntime==1.32.0", "onnx==1.23.0"];

/// Runs `forms.py`; gives what it prints.
fn forms(packages: &Path, word: &str, folder: &Path) -> String {
    let ended = tools::run(
        Command::new("python3")
            .env("PYTHONPATH", packages)
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/forms.py"), word])
            .arg(folder),
    );
    ended.expect(0).stdout
}

#[test]
fn every_form_computes_the_same_when_it_is_prepared() {
    let Some(packages) = python::packages("onnxruntime", &PACKAGES) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    forms(&packages, "make", folder.path());
    let mut made = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let model = Model::parse(std::fs::read(&path).unwrap()).unwrap();
        let prepared = prepare(&model).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        std::fs::write(path.with_extension("prepared.onnx"), prepared.to_bytes()).unwrap();
        made += 1;
    }
    let printed = forms(&packages, "compare", folder.path());
    let found: BTreeMap<String, Value> = serde_json::from_str(&printed).unwrap();
    assert_eq!((found.len(), made), (24, 24), "{printed}");
    for (form, seen) in &found {
        // Half precision has 11 bits; a sum in another order may differ in the last.
        let bound = if form == "half" { 1e-3 } else { 1e-5 };
        let difference = seen["difference"].as_f64().unwrap();
        assert!(difference <= bound, "{form}: {seen}");
        assert!(seen["largest"].as_f64().unwrap() > 0.05, "{form}: {seen}");
        let (before, after) = (
            seen["opsets"][0].as_i64().unwrap(),
            seen["opsets"][1].as_i64().unwrap(),
        );
        assert_eq!(after, before.max(13), "{form}: {seen}");
    }
}
