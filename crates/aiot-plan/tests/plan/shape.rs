//! What the plan is made of: what must be locked, which nodes there are, what keys depend on.

use std::collections::{BTreeMap, BTreeSet};

use aiot_plan::action::{Action, canonical};
use aiot_plan::plan::{Plan, Source, statuses, to_json};
use aiot_plan::{ModelName, TargetName};
use serde_json::Value;

use crate::bench::{Bench, digest, same};
use crate::common::{MODELS, TARGETS, with};

#[test]
fn all_that_is_unlocked_is_told_in_one_go() {
    let unlocked = Bench::empty().unlocked();
    let wheels = unlocked
        .wheels
        .iter()
        .map(|wheel| format!("{} {} {}", wheel.package, wheel.version, wheel.platform));
    let closures = unlocked.closures.iter().map(|closure| {
        format!(
            "{} {} {:?} without {:?}",
            closure.suite, closure.architecture, closure.roots, closure.exclude
        )
    });
    same(
        &wheels.chain(closures).collect::<Vec<_>>().join("\n"),
        r#"
        cargo-zigbuild 0.24.0 host_x86_64
        onnxruntime 1.32.0 manylinux_2_28_aarch64
        onnxruntime 1.32.0 manylinux_2_28_x86_64
        ziglang 0.17.1 host_x86_64
        trixie arm64 ["libc6"] without ["libcrypt1"]
        trixie armhf ["libc6", "libonnxruntime1.21", "libstdc++6"] without []
    "#,
    );
}

#[test]
fn another_version_is_unlocked_and_stands_beside_the_first() {
    let mut bench = Bench::locked();
    // The host keeps its own version of the same wheel.
    bench.facts.host_architecture = "aarch64".to_owned();
    bench.lock_all();
    bench.edit_targets("engine.version = \"1.32.0\"", "engine.version = \"1.30.0\"");
    assert_eq!(bench.unlocked().wheels.len(), 1);
    bench.lock_all();
    let plan = bench.plan();
    let engines: Vec<&str> = plan
        .nodes
        .iter()
        .map(|node| node.id.as_str())
        .filter(|id| id.starts_with("fetch onnxruntime"))
        .collect();
    same(
        &engines.join("\n"),
        r#"
        fetch onnxruntime 1.32.0 manylinux_2_28_aarch64
        fetch onnxruntime 1.30.0 manylinux_2_28_aarch64
    "#,
    );
}

#[test]
fn what_is_not_selected_need_not_be_locked() {
    let mut bench = Bench::empty();
    bench.selection.models = [ModelName::new("bearing").unwrap()].into();
    bench.selection.targets = [TargetName::new("orin").unwrap()].into();
    bench.lock_all();
    assert!(bench.lock.debian.is_empty());
    same(
        &ids(&bench.plan()),
        r#"
        fetch bearing
        fetch onnxruntime 1.32.0 manylinux_2_28_x86_64
        evaluate bearing float32
        assemble package bearing float32
        fetch base registry.example/l4t@sha256:4444444444444444444444444444444444444444444444444444444444444444 linux/arm64
        compile signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild
        assemble image bearing orin
        assemble index bearing
    "#,
    );
}

#[test]
fn a_challenger_is_selected_with_the_image_that_it_rides_in() {
    let models = format!("{MODELS}{}", crate::common::CHALLENGER);
    let mut bench = Bench::of(&models, TARGETS);
    bench.selection.models = [ModelName::new("digits-next").unwrap()].into();
    bench.lock_all();
    let plan = bench.plan();
    let images: Vec<String> = plan
        .images
        .keys()
        .map(|(model, target)| format!("{model} {target}"))
        .collect();
    assert_eq!(images, ["digits pi-64"]);
    let shadows: Vec<String> = plan
        .shadows
        .iter()
        .map(|((challenger, target), model)| format!("{challenger} in {model} on {target}"))
        .collect();
    assert_eq!(shadows, ["digits-next in digits on pi-64"]);
}

#[test]
fn layers_of_another_compression_are_others() {
    let plain = Bench::locked().plan();
    let targets = TARGETS.replacen(
        "[target.pi-64]",
        "[target.pi-64]\nlayer-compression = \"zstd\"",
        1,
    );
    let mut bench = Bench::of(MODELS, &targets);
    bench.lock_all();
    let plan = bench.plan();
    let before = ids(&plain);
    let before: BTreeSet<&str> = before.lines().collect();
    let all = ids(&plan);
    let new: Vec<&str> = all.lines().filter(|id| !before.contains(id)).collect();
    assert!(new.iter().all(|id| id.ends_with(" zstd")), "{new:?}");
    assert_eq!(new.len(), 4, "base, engine and two modules: {new:?}");
    // What is compiled and measured is the same, and so are the keys of what stays gzip.
    let gzip = |plan: &Plan| -> Vec<_> {
        let nodes = plan
            .nodes
            .iter()
            .filter(|node| before.contains(node.id.as_str()) && !node.id.contains("pi-64"));
        nodes
            .map(|node| (node.id.clone(), node.action.parameters()))
            .collect()
    };
    for node in gzip(&plan) {
        assert!(gzip(&plain).contains(&node), "{node:?}");
    }
}

#[test]
fn two_bases_of_the_same_packages_differ_by_their_engine() {
    // One takes the engine out of the package, the other has the package and takes the engine from a wheel.
    let wheel = "engine.source.wheel = { package = \"onnxruntime\", platform = \"linux_armv7l\" }";
    let debian =
        "engine.source.debian = { package = \"libonnxruntime1.21\", library = \"libonnxruntime.so.1.21\" }";
    let from = TARGETS.find("[target.pi-32]").unwrap();
    let second = with(
        &TARGETS[from..TARGETS.find("[target.pi-64]").unwrap()],
        debian,
        wheel,
    )
    .replace("pi-32", "pi-31")
    .replace("\"libstdc++6\"]", "\"libonnxruntime1.21\", \"libstdc++6\"]");
    let models = with(
        MODELS,
        "[\"pi-32\", \"pi-64\", \"orin\"]",
        "[\"pi-31\", \"pi-32\"]",
    );
    let mut bench = Bench::of(&models, &format!("{TARGETS}{second}"));
    bench.lock_all();
    let plan = bench.plan();
    let libraries: Vec<bool> = plan
        .nodes
        .iter()
        .filter_map(|node| match &node.action {
            Action::AssembleBase {
                architecture,
                engine_library,
                ..
            } if architecture == "armhf" => Some(engine_library.is_some()),
            _ => None,
        })
        .collect();
    assert_eq!(libraries, [false, true]);
    bench.release();
}

#[test]
fn each_action_stands_after_those_that_it_needs_and_has_a_name_of_its_own() {
    let plan = Bench::locked().plan();
    check_order(&plan);
    assert_eq!(plan.images.len(), 5);
    assert_eq!(plan.indexes.len(), 2);
    assert_eq!(plan.measures.len(), 4, "float32 is measured beside the variants");
}

#[track_caller]
fn check_order(plan: &Plan) {
    let names: BTreeSet<&str> = plan.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(names.len(), plan.nodes.len());
    for (place, node) in plan.nodes.iter().enumerate() {
        for source in node.inputs.values() {
            if let Source::Output { node: before, .. } = source {
                assert!(
                    *before < place,
                    "`{}` stands before `{}`",
                    node.id,
                    plan.nodes[*before].id
                );
            }
        }
    }
}

#[test]
fn the_order_of_words_decides_nothing() {
    let expected = json(&Bench::built());
    let middle = MODELS.find("[model.bearing]").unwrap();
    let mut models = format!("{}\n{}", &MODELS[middle..], &MODELS[..middle]);
    models = with(
        &models,
        "[\"pi-32\", \"pi-64\", \"orin\"]",
        "[\"orin\", \"pi-64\", \"pi-32\"]",
    );
    let middle = TARGETS.find("[target.pi-64]").unwrap();
    let mut targets = format!("{}\n{}", &TARGETS[middle..], &TARGETS[..middle]);
    targets = with(
        &targets,
        "[\"libc6\", \"libstdc++6\"]",
        "[\"libstdc++6\", \"libc6\", \"libc6\"]",
    );
    let mut bench = Bench::of(&models, &targets);
    bench.lock_all();
    bench.lock.wheel.reverse();
    bench.lock.debian.reverse();
    bench.release();
    assert_eq!(json(&bench), expected);
}

#[test]
fn keys_depend_on_content_alone() {
    let keys = |bench: &Bench| -> Vec<String> {
        json(bench)["actions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|action| action["key"].to_string())
            .collect()
    };
    let first = keys(&Bench::built());
    assert_eq!(first, keys(&Bench::built()), "equal on repeated runs");
    assert_eq!(
        first.iter().collect::<BTreeSet<_>>().len(),
        first.len(),
        "no two actions share a key"
    );
    assert!(!first.contains(&"null".to_owned()));
}

/// The readable form of the whole plan: a change of a key in it is a rebuild for everybody.
#[test]
fn the_plan_as_json() {
    check_file("tests/plan/small.json", &pretty(&json(&Bench::built())));
}

#[track_caller]
fn check_file(path: &str, found: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("AIOT_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found
        .lines()
        .zip(expected.lines())
        .position(|(found, expected)| found != expected);
    let line = differs.unwrap_or(found.lines().count().min(expected.lines().count()));
    assert!(
        found == expected,
        "{} differs from line {}: `{}`, expected `{}`; AIOT_BLESS=1 rewrites it",
        path.display(),
        line + 1,
        found.lines().nth(line).unwrap_or_default(),
        expected.lines().nth(line).unwrap_or_default(),
    );
}

fn json(bench: &Bench) -> Value {
    let plan = bench.plan();
    to_json(&plan, &statuses(&plan, &bench.memory))
}

/// One line for each field of an action, keys sorted.
fn pretty(plan: &Value) -> String {
    let actions: Vec<String> = plan["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| {
            let fields: BTreeMap<&String, &Value> = action.as_object().unwrap().iter().collect();
            let lines: Vec<String> = fields
                .iter()
                .map(|(key, value)| match value {
                    Value::Object(map) if !map.is_empty() => {
                        let sorted: BTreeMap<&String, &Value> = map.iter().collect();
                        let lines: Vec<String> = sorted
                            .iter()
                            .map(|(key, value)| {
                                format!("        {}: {}", Value::from(key.as_str()), canonical(value))
                            })
                            .collect();
                        format!(
                            "      {}: {{\n{}\n      }}",
                            Value::from(key.as_str()),
                            lines.join(",\n")
                        )
                    }
                    _ => format!("      {}: {}", Value::from(key.as_str()), canonical(value)),
                })
                .collect();
            format!("    {{\n{}\n    }}", lines.join(",\n"))
        })
        .collect();
    format!(
        "{{\n  \"schema\": {},\n  \"actions\": [\n{}\n  ]\n}}\n",
        plan["schema"],
        actions.join(",\n")
    )
}

#[test]
fn five_hundred_models_on_four_targets() {
    const MODEL_COUNT: usize = 500;
    let from = TARGETS.find("[target.pi-64]").unwrap();
    let fourth = TARGETS[from..TARGETS.find("[target.orin]").unwrap()].replace("pi-64", "pi-5");
    let digits = &MODELS[..MODELS.find("[model.bearing]").unwrap()];
    let digits = with(
        digits,
        "[\"pi-32\", \"pi-64\", \"orin\"]",
        "[\"pi-32\", \"pi-64\", \"pi-5\", \"orin\"]",
    );
    let models: String = (0..MODEL_COUNT)
        .map(|n| {
            digits
                .replace("digits", &format!("digits-{n}"))
                .replace(&"1".repeat(64), digest(&n.to_string()).hex().as_str())
        })
        .collect();
    let mut bench = Bench::of(&models, &format!("{TARGETS}{fourth}"));
    bench.lock_all();
    let plan = bench.plan();
    check_order(&plan);
    let count = |verb: &str| plan.nodes.iter().filter(|node| node.id.starts_with(verb)).count();
    let found: Vec<String> = [
        "fetch digits",
        "fetch onnxruntime",
        "fetch base",
        "calibrate",
        "quantize",
        "evaluate",
        "compile",
        "assemble base",
        "assemble engine",
        "assemble layer",
        "assemble package",
        "assemble image",
        "assemble index",
    ]
    .iter()
    .map(|verb| format!("{verb} {}", count(verb)))
    .collect();
    same(
        &found.join("\n"),
        r#"
        fetch digits 500
        fetch onnxruntime 2
        fetch base 1
        calibrate 500
        quantize 1000
        evaluate 1500
        compile 3
        assemble base 2
        assemble engine 1
        assemble layer 3
        assemble package 1000
        assemble image 2000
        assemble index 500
    "#,
    );
    assert_eq!(plan.nodes.len(), 12 + 14 * MODEL_COUNT);
    assert_eq!(plan.images.len(), 4 * MODEL_COUNT);
}

fn ids(plan: &Plan) -> String {
    plan.nodes
        .iter()
        .map(|node| node.id.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}
