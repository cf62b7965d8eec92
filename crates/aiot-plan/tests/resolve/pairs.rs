//! What is told about pairs of model and target that cannot work.

use std::collections::BTreeMap;

use aiot_plan::ModelName;
use aiot_plan::compatibility::{self, ModelFacts};

use crate::common::{MODELS, TARGETS, render, with, workspace};
use crate::same;

/// Checks pairs against facts about a model's file, given as its length in MiB and what engines lack.
#[track_caller]
fn pairs(targets: &str, size_mib: u64, lacks: &[(&str, &str)], expected: &str) {
    let mut facts = ModelFacts {
        size_bytes: size_mib << 20,
        ..ModelFacts::default()
    };
    for (version, problem) in lacks {
        facts
            .engine_problems
            .entry((*version).to_owned())
            .or_default()
            .push((*problem).to_owned());
    }
    let facts = BTreeMap::from([(ModelName::new("digits").unwrap(), facts)]);
    same(
        &render(&compatibility::check(&workspace(MODELS, targets), &facts)),
        expected,
    );
}

#[test]
fn models_that_do_not_fit() {
    pairs(TARGETS, 512, &[], "");
    pairs(
        TARGETS,
        513,
        &[],
        r#"
        plan::too_large models.toml:6:12 «"pi-32"»
          × model `digits` does not fit `pi-32`
          ╰ 513 MiB of model, 512 MiB of memory
          help: take the target out, or make the model smaller
    "#,
    );
    pairs(
        &with(TARGETS, "disk-mib = 2048", "disk-mib = 600"),
        1024,
        &[],
        r#"
        plan::too_large models.toml:6:12 «"pi-32"»
          × model `digits` does not fit `pi-32`
          ╰ 1024 MiB of model, 512 MiB of memory
          help: take the target out, or make the model smaller
        plan::too_large models.toml:6:12 «"pi-32"»
          × model `digits` does not fit `pi-32`
          ╰ 1024 MiB of model, 600 MiB of disk
          help: take the target out, or make the model smaller
    "#,
    );
}

#[test]
fn engines_that_lack_an_operator() {
    pairs(
        TARGETS,
        1,
        &[
            ("1.21", "opset 23 is above 22"),
            ("1.99", "nobody has this version"),
        ],
        r#"
        plan::engine_lacks models.toml:6:12 «"pi-32"»
          × model `digits` cannot run on `pi-32`
          ╰ opset 23 is above 22
          help: pi-32 has ONNX Runtime 1.21 (targets.toml:1): export the model for it, or take the target out
    "#,
    );
    pairs(
        TARGETS,
        1,
        &[
            ("1.21", "opset 23 is above 22"),
            ("1.21", "no operator `RotaryEmbedding`"),
        ],
        r#"
        plan::engine_lacks models.toml:6:12 «"pi-32"»
          × model `digits` cannot run on `pi-32`
          ╰ opset 23 is above 22
          help: pi-32 has ONNX Runtime 1.21 (targets.toml:1): export the model for it, or take the target out
        plan::engine_lacks models.toml:6:12 «"pi-32"»
          × model `digits` cannot run on `pi-32`
          ╰ no operator `RotaryEmbedding`
          help: pi-32 has ONNX Runtime 1.21 (targets.toml:1): export the model for it, or take the target out
    "#,
    );
}

#[test]
fn nothing_stands_on_an_empty_base() {
    let debian = "base.debian = { suite = \"trixie\", packages = [\"libc6\"], exclude = [\"libcrypt1\"] }";
    pairs(
        &with(TARGETS, debian, "base.scratch = {}"),
        1,
        &[],
        r#"
        plan::scratch targets.toml:12:9 «pi-64»
          × target `pi-64`: engine and modules need a C library, which an empty base has not
          ╰ base is scratch
          help: use base.debian or base.image
    "#,
    );
}
