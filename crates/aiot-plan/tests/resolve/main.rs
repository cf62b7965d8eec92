//! What `resolve` says about declarations that are wrong: each case breaks one line of texts that are right.

#[path = "../common/mod.rs"]
mod common;
mod environments;
mod form;
mod models;
mod pairs;
mod pins;
mod shadows;
mod targets;

use aiot_plan::resolve;
use common::{ENVIRONMENT, MODELS, TARGETS, dedent, render, texts, with};

/// Checks all errors of three files.
#[track_caller]
fn check(models: &str, targets: &str, environment: &str, expected: &str) {
    let found = match resolve(&texts(models, targets, environment)) {
        Ok(_) => String::new(),
        Err(errors) => render(&errors),
    };
    same(&found, expected);
}

/// Compares rendered errors.
#[track_caller]
fn same(found: &str, expected: &str) {
    let (found, expected) = (found.trim_end(), dedent(expected));
    assert!(found == expected, "found:\n{found}\n\nexpected:\n{expected}\n");
}

/// Breaks `models.toml`.
#[track_caller]
fn model(old: &str, new: &str, expected: &str) {
    check(&with(MODELS, old, new), TARGETS, ENVIRONMENT, expected);
}

/// Breaks `targets.toml`.
#[track_caller]
fn target(old: &str, new: &str, expected: &str) {
    check(MODELS, &with(TARGETS, old, new), ENVIRONMENT, expected);
}

/// Breaks `deployments/plant.toml`.
#[track_caller]
fn environment(old: &str, new: &str, expected: &str) {
    check(MODELS, TARGETS, &with(ENVIRONMENT, old, new), expected);
}
