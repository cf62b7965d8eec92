//! Declarations that are right, for tests to break one line of.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use aiot_plan::{ConfigError, Texts, Workspace, resolve};

/// Two models: a classifier of pictures, and an anomaly detector that stays float32.
pub const MODELS: &str = include_str!("models.toml");

/// Three targets: 32-bit ARM with Debian's engine, 64-bit ARM, and the same with a GPU.
pub const TARGETS: &str = include_str!("targets.toml");

/// `deployments/plant.toml`
pub const ENVIRONMENT: &str = include_str!("plant.toml");

/// `text` with its only `old` replaced; refuses an `old` that stands there never or twice, so that a test cannot
/// come to test nothing.
#[track_caller]
pub fn with(text: &str, old: &str, new: &str) -> String {
    assert_eq!(
        text.matches(old).count(),
        1,
        "`{old}` must stand once in:\n{text}"
    );
    text.replace(old, new)
}

/// The texts of one environment, `plant`.
pub fn texts(models: &str, targets: &str, environment: &str) -> Texts {
    Texts {
        models: models.to_owned(),
        targets: targets.to_owned(),
        environments: BTreeMap::from([("plant".to_owned(), environment.to_owned())]),
        modules: vec!["signal".to_owned(), "vision".to_owned()],
    }
}

/// The workspace of texts that are right.
#[track_caller]
pub fn workspace(models: &str, targets: &str) -> Workspace {
    resolve(&texts(models, targets, ENVIRONMENT)).unwrap_or_else(|errors| panic!("\n{}", render(&errors)))
}

/// Errors as text: code, place and the words at that place, message, label and help.
pub fn render(errors: &[ConfigError]) -> String {
    let mut text = String::new();
    for error in errors {
        let source = error.site.file.inner();
        let before = &source[..error.site.span.start];
        let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
        let words = source[error.site.span.clone()].lines().next().unwrap_or_default();
        text.push_str(&format!(
            "{} {}:{column} «{words}»\n",
            error.code,
            error.site.line()
        ));
        text.push_str(&format!("  × {}\n  ╰ {}\n", error.message, error.label));
        if let Some(help) = &error.help {
            text.push_str(&format!("  help: {help}\n"));
        }
    }
    text
}

/// Without the indentation that a text has in a test's source.
pub fn dedent(text: &str) -> String {
    let lines: Vec<&str> = text.lines().skip_while(|line| line.trim().is_empty()).collect();
    let margin = lines
        .first()
        .map_or(0, |line| line.len() - line.trim_start().len());
    let cut: Vec<&str> = lines
        .iter()
        .map(|line| line.get(margin..).unwrap_or(line.trim_start()))
        .collect();
    cut.join("\n").trim_end().to_owned()
}

/// `digits-next`, on one of the targets of `digits`.
pub const CHALLENGER: &str = r#"
[model.digits-next]
description = "Reads digits better"
version = "2.0.0"
task = "classification"
module = "vision"
targets = ["pi-64"]
shadow = { of = "digits", share = 0.1 }
source.file = { path = "models/digits-next/model.onnx", sha256 = "3333333333333333333333333333333333333333333333333333333333333333" }
input.image = { width = 16, height = 16, colour = "grey" }
output.labels = "models/digits/labels.txt"
quantization.scheme = "none"
acceptance = { evaluation = "models/digits/evaluation", metric = "accuracy", at-least = 0.97, max-drop = 0.01 }
"#;
