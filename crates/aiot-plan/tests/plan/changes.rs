//! One thing changes: exactly these actions run again, for exactly these reasons.

use aiot_plan::TargetName;
use aiot_plan::declare::BuilderKind;
use aiot_plan::lock::Lock;
use aiot_plan::plan::{Selection, Status, statuses};

use crate::bench::{Bench, digest, same, words};
use crate::common::CHALLENGER;

/// Builds all, changes one thing and releases again.
#[track_caller]
fn check(change: impl FnOnce(&mut Bench), expected: &str) {
    let mut bench = Bench::built();
    change(&mut bench);
    same(&bench.release(), expected);
    assert_eq!(bench.release(), "", "and then all is done");
}

#[test]
fn first_all_is_new() {
    same(
        &Bench::locked().release(),
        r#"
        fetch bearing: not built before
        fetch onnxruntime 1.32.0 manylinux_2_28_x86_64: not built before
        evaluate bearing float32: not built before
        assemble package bearing float32: not built before
        fetch base registry.example/l4t@sha256:4444444444444444444444444444444444444444444444444444444444444444 linux/arm64: not built before
        compile signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: not built before
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: not built before
        assemble image bearing orin: not built before
        fetch onnxruntime 1.32.0 manylinux_2_28_aarch64: not built before
        assemble engine onnxruntime 1.32.0 manylinux_2_28_aarch64: not built before
        assemble base trixie arm64 fff065376105: not built before
        compile signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: not built before
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: not built before
        assemble image bearing pi-64: not built before
        assemble index bearing: not built before
        fetch digits: not built before
        calibrate digits: not built before
        evaluate digits float32: not built before
        quantize digits float16: not built before
        evaluate digits float16: not built before
        assemble package digits float16: not built before
        quantize digits int8: not built before
        evaluate digits int8: not built before
        assemble package digits int8: not built before
        compile vision aarch64-unknown-linux-gnu glibc 2.31 zigbuild: not built before
        assemble layer vision aarch64-unknown-linux-gnu glibc 2.31 zigbuild: not built before
        assemble image digits orin: not built before
        assemble base trixie armhf d5cd24d0d091: not built before
        compile vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild: not built before
        assemble layer vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild: not built before
        assemble image digits pi-32: not built before
        compile vision aarch64-unknown-linux-gnu glibc 2.36 zigbuild: not built before
        assemble layer vision aarch64-unknown-linux-gnu glibc 2.36 zigbuild: not built before
        assemble image digits pi-64: not built before
        assemble index digits: not built before
    "#,
    );
}

#[test]
fn nothing_changes() {
    check(|_| {}, "");
}

#[test]
fn data_sets() {
    check(
        |bench| {
            bench
                .facts
                .datasets
                .insert("models/digits/calibration".to_owned(), digest("edited"));
        },
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
    check(
        |bench| {
            bench
                .facts
                .datasets
                .insert("models/bearing/evaluation".to_owned(), digest("edited"));
        },
        r#"
        evaluate bearing float32: evaluation set changed; subject changed
        assemble package bearing float32: evaluation set changed; golden outputs changed
        assemble image bearing orin: 0: model layer changed
        assemble image bearing pi-64: 2: model layer changed
        assemble index bearing: image for orin changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn a_model_file() {
    check(
        |bench| bench.edit_models(&"2".repeat(64), &"3".repeat(64)),
        r#"
        fetch bearing: model changed
        evaluate bearing float32: model changed; subject changed
        assemble package bearing float32: golden outputs changed; model changed
        assemble image bearing orin: 0: model layer changed; labels changed
        assemble image bearing pi-64: 2: model layer changed; labels changed
        assemble index bearing: image for orin changed; image for pi-64 changed; annotations changed
    "#,
    );
}

#[test]
fn labels() {
    check(
        |bench| {
            bench
                .facts
                .files
                .insert("models/digits/labels.txt".to_owned(), digest("edited"));
        },
        r#"
        calibrate digits: labels changed; subject changed
        evaluate digits float32: labels changed; subject changed
        evaluate digits float16: labels changed; subject changed
        assemble package digits float16: golden outputs changed; labels changed
        quantize digits int8: calibration ranges changed
        evaluate digits int8: labels changed; model changed; subject changed
        assemble package digits int8: golden outputs changed; labels changed; model changed
        assemble image digits orin: 0: model layer changed
        assemble image digits pi-32: 2: model layer changed
        assemble image digits pi-64: 2: model layer changed
        assemble index digits: image for orin changed; image for pi-32 changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn sources_of_a_module() {
    check(
        |bench| bench.edit_module("signal"),
        r#"
        compile signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: module sources changed
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: file changed
        assemble image bearing orin: 1: module layer changed
        compile signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: module sources changed
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: file changed
        assemble image bearing pi-64: 3: module layer changed
        assemble index bearing: image for orin changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn words_of_a_model() {
    check(
        |bench| bench.edit_models("Hears worn bearings", "Hears bearings"),
        r#"
        assemble package bearing float32: description changed: "Hears worn bearings" → "Hears bearings"
        assemble image bearing orin: 0: model layer changed; labels changed
        assemble image bearing pi-64: 2: model layer changed; labels changed
        assemble index bearing: image for orin changed; image for pi-64 changed; annotations changed
    "#,
    );
    check(
        |bench| bench.edit_models("version = \"2024-11\"", "version = \"2024-12\""),
        r#"
        assemble package bearing float32: version changed: "2024-11" → "2024-12"
        assemble image bearing orin: 0: model layer changed; labels changed
        assemble image bearing pi-64: 2: model layer changed; labels changed
        assemble index bearing: image for orin changed; image for pi-64 changed; annotations changed
    "#,
    );
    check(
        |bench| bench.edit_models("threshold = 0.6", "threshold = 0.7"),
        r#"
        evaluate bearing float32: package changed; subject changed
        assemble package bearing float32: golden outputs changed; package changed
        assemble image bearing orin: 0: model layer changed
        assemble image bearing pi-64: 2: model layer changed
        assemble index bearing: image for orin changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn what_belongs_to_the_manifest_builds_nothing() {
    check(
        |bench| {
            bench.edit_models("env.CAMERA = \"/dev/video0\"", "env.CAMERA = \"/dev/video1\"");
            bench.edit_models("at-least = 0.97", "at-least = 0.5");
            bench.edit_targets("tags.device = 'pi-64'", "tags.device = 'pi'");
            bench.edit_targets("read-only = true", "read-only = false");
            bench.edit_targets("memory-mib = 1024", "memory-mib = 2048");
        },
        "",
    );
}

#[test]
fn an_input_is_prepared_otherwise() {
    check(
        |bench| bench.edit_models("colour = \"grey\"", "colour = \"grey\"\nscale = 0.1"),
        r#"
        calibrate digits: budget changed; subject changed
        evaluate digits float32: package changed; subject changed
        evaluate digits float16: package changed; subject changed
        assemble package digits float16: golden outputs changed; package changed
        quantize digits int8: calibration ranges changed
        evaluate digits int8: model changed; package changed; subject changed
        assemble package digits int8: golden outputs changed; model changed; package changed
        assemble image digits orin: 0: model layer changed; labels changed
        assemble image digits pi-32: 2: model layer changed; labels changed
        assemble image digits pi-64: 2: model layer changed; labels changed
        assemble index digits: image for orin changed; image for pi-32 changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn quantization() {
    check(
        |bench| {
            bench.edit_models(
                "[model.digits.quantization]",
                "[model.digits.quantization]\ngranularity = \"per-tensor\"",
            )
        },
        r#"
        calibrate digits: granularity changed: "per-channel" → "per-tensor"; subject changed
        quantize digits int8: calibration ranges changed; granularity changed: "per-channel" → "per-tensor"
        evaluate digits int8: model changed; subject changed
        assemble package digits int8: golden outputs changed; model changed
        assemble image digits pi-32: 2: model layer changed
        assemble image digits pi-64: 2: model layer changed
        assemble index digits: image for pi-32 changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn a_slower_form_is_allowed() {
    check(
        |bench| {
            bench.edit_models(
                "[model.digits.quantization]",
                "[model.digits.quantization]\nallow-slower = true",
            )
        },
        r#"
        calibrate digits: budget changed; subject changed
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
fn a_target() {
    check(
        |bench| bench.edit_targets("intra-threads = 2", "intra-threads = 4"),
        r#"
        assemble image bearing pi-64: env changed
        assemble index bearing: image for pi-64 changed
        assemble image digits pi-64: env changed
        assemble index digits: image for pi-64 changed
    "#,
    );
    check(
        |bench| bench.edit_targets("[\"cuda\", \"cpu\"]", "[\"cpu\"]"),
        r#"
        assemble image bearing orin: env changed
        assemble index bearing: image for orin changed
        assemble image digits orin: env changed
        assemble index digits: image for orin changed
    "#,
    );
    check(
        |bench| bench.edit_targets("glibc = \"2.36\"", "glibc = \"2.31\""),
        r#"
        assemble image bearing pi-64: 3: module layer changed; glibc changed: "2.36" → "2.31"
        assemble index bearing: image for pi-64 changed
        assemble image digits pi-64: 3: module layer changed; glibc changed: "2.36" → "2.31"
        assemble index digits: image for pi-64 changed
    "#,
    );
    check(
        |bench| bench.edit_targets(&"4".repeat(64), &"5".repeat(64)),
        r#"
        fetch base registry.example/l4t@sha256:5555555555555555555555555555555555555555555555555555555555555555 linux/arm64: not built before
        assemble image bearing orin: base config changed; base manifest changed
        assemble index bearing: image for orin changed
        assemble image digits orin: base config changed; base manifest changed
        assemble index digits: image for orin changed
    "#,
    );
}

#[test]
fn code() {
    check(
        |bench| {
            bench.facts.code.insert("aiot-onnx".to_owned(), digest("edited"));
        },
        r#"
        calibrate digits: code of aiot-onnx changed
        quantize digits float16: code of aiot-onnx changed
        evaluate digits float16: model changed
        assemble package digits float16: golden outputs changed; model changed
        quantize digits int8: calibration ranges changed; code of aiot-onnx changed
        evaluate digits int8: model changed
        assemble package digits int8: golden outputs changed; model changed
        assemble image digits orin: 0: model layer changed
        assemble image digits pi-32: 2: model layer changed
        assemble image digits pi-64: 2: model layer changed
        assemble index digits: image for orin changed; image for pi-32 changed; image for pi-64 changed
    "#,
    );
    check(
        |bench| bench.facts.rustc = "1.96.0".to_owned(),
        r#"
        compile signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: tools changed
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: file changed
        assemble image bearing orin: 1: module layer changed
        compile signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: tools changed
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: file changed
        assemble image bearing pi-64: 3: module layer changed
        assemble index bearing: image for orin changed; image for pi-64 changed
        compile vision aarch64-unknown-linux-gnu glibc 2.31 zigbuild: tools changed
        assemble layer vision aarch64-unknown-linux-gnu glibc 2.31 zigbuild: file changed
        assemble image digits orin: 1: module layer changed
        compile vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild: tools changed
        assemble layer vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild: file changed
        assemble image digits pi-32: 3: module layer changed
        compile vision aarch64-unknown-linux-gnu glibc 2.36 zigbuild: tools changed
        assemble layer vision aarch64-unknown-linux-gnu glibc 2.36 zigbuild: file changed
        assemble image digits pi-64: 3: module layer changed
        assemble index digits: image for orin changed; image for pi-32 changed; image for pi-64 changed
    "#,
    );
}

#[test]
fn the_lock() {
    let wheel = |lock: &mut Lock, platform: &str| {
        let wheel = lock
            .wheel
            .iter_mut()
            .find(|wheel| wheel.platform == platform)
            .expect("is locked");
        wheel.digest = digest("another build");
    };
    check(
        |bench| wheel(&mut bench.lock, "manylinux_2_28_aarch64"),
        r#"
        fetch onnxruntime 1.32.0 manylinux_2_28_aarch64: wheel changed
        assemble engine onnxruntime 1.32.0 manylinux_2_28_aarch64: file changed
        assemble image bearing pi-64: 1: engine layer changed
        assemble index bearing: image for pi-64 changed
        assemble image digits pi-64: 1: engine layer changed
        assemble index digits: image for pi-64 changed
    "#,
    );
    check(
        |bench| {
            let closure = bench
                .lock
                .debian
                .iter_mut()
                .find(|closure| closure.architecture == "armhf")
                .unwrap();
            closure.package[0].version = "2".to_owned();
        },
        r#"
        assemble base trixie armhf d5cd24d0d091: packages changed
        assemble image digits pi-32: 0: base layer changed; 1: engine layer changed
        assemble index digits: image for pi-32 changed
    "#,
    );
}

#[test]
fn a_target_more() {
    check(
        |bench| {
            let from = bench.targets.find("[target.pi-64]").unwrap();
            let to = bench.targets.find("[target.orin]").unwrap();
            let new = bench.targets[from..to].replace("pi-64", "pi-5");
            bench.targets.push_str(&new);
            bench.edit_models(
                "targets = [\"pi-64\", \"orin\"]",
                "targets = [\"pi-64\", \"pi-5\", \"orin\"]",
            );
        },
        r#"
        assemble image bearing pi-5: not built before
        assemble index bearing: image for pi-5 added or removed; platforms changed
    "#,
    );
}

#[test]
fn a_target_less() {
    check(
        |bench| bench.edit_models("[\"pi-32\", \"pi-64\", \"orin\"]", "[\"pi-32\", \"pi-64\"]"),
        r#"
        assemble index digits: image for orin added or removed; platforms changed
    "#,
    );
}

#[test]
fn an_output_that_comes_out_the_same_ends_it() {
    check(
        |bench| {
            bench
                .unmoved
                .insert("compile signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild".to_owned());
            bench.edit_module("signal");
            bench.release();
            bench.edit_module("signal");
        },
        r#"
        compile signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: module sources changed
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: file changed
        assemble image bearing orin: 1: module layer changed
        compile signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: module sources changed
        assemble index bearing: image for orin changed
    "#,
    );
}

#[test]
fn lost_blobs() {
    check(
        |bench| {
            let layer = bench.memory.output(
                "assemble layer vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild",
                "layer",
            );
            bench.memory.lost.insert(layer);
        },
        r#"
        assemble layer vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild: blob 9d1a270c92e1 is gone or damaged
    "#,
    );
}

#[test]
fn going_back_finds_what_was_built_before() {
    check(
        |bench| {
            let before = bench.clone();
            bench.edit_module("signal");
            bench.edit_models("threshold = 0.6", "threshold = 0.7");
            assert_ne!(bench.release(), "");
            bench.facts = before.facts;
            bench.models = before.models;
        },
        "",
    );
}

#[test]
fn a_selection_leaves_the_rest_alone() {
    check(
        |bench| {
            bench.edit_module("signal");
            bench.edit_module("vision");
            bench.selection.targets = [TargetName::new("pi-32").unwrap()].into();
            same(
                &bench.release(),
                r#"
                compile vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild: module sources changed
                assemble layer vision armv7-unknown-linux-gnueabihf glibc 2.31 zigbuild: file changed
                assemble image digits pi-32: 3: module layer changed
                assemble index digits: image for orin added or removed; image for pi-32 changed; image for pi-64 added or removed; platforms changed
            "#,
            );
            bench.selection = Selection::default();
        },
        r#"
        compile signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: module sources changed
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.31 zigbuild: file changed
        assemble image bearing orin: 1: module layer changed
        compile signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: module sources changed
        assemble layer signal aarch64-unknown-linux-gnu glibc 2.36 zigbuild: file changed
        assemble image bearing pi-64: 3: module layer changed
        assemble index bearing: image for orin changed; image for pi-64 changed
        compile vision aarch64-unknown-linux-gnu glibc 2.31 zigbuild: module sources changed
        assemble layer vision aarch64-unknown-linux-gnu glibc 2.31 zigbuild: file changed
        assemble image digits orin: 1: module layer changed
        compile vision aarch64-unknown-linux-gnu glibc 2.36 zigbuild: module sources changed
        assemble layer vision aarch64-unknown-linux-gnu glibc 2.36 zigbuild: file changed
        assemble image digits pi-64: 3: module layer changed
        assemble index digits: image for orin added or removed; image for pi-64 added or removed; platforms changed
    "#,
    );
}

#[test]
fn the_linker_of_this_machine() {
    const ARM32: &str = "armv7-unknown-linux-gnueabihf";
    let set = |bench: &mut Bench, builder, triple: &str, version: &str| {
        bench
            .facts
            .linkers
            .insert((builder, triple.to_owned()), version.to_owned());
        bench.release()
    };
    let mut bench = Bench::locked();
    let triple = format!("triple = \"{ARM32}\"");
    bench.edit_targets(&triple, &format!("{triple}\nbuilder = \"cargo\""));
    set(&mut bench, BuilderKind::Cargo, ARM32, "gcc 14.2.0");
    same(
        &set(&mut bench, BuilderKind::Cargo, ARM32, "gcc 14.3.0"),
        r#"
        compile vision armv7-unknown-linux-gnueabihf glibc 2.31 cargo: tools changed
        assemble layer vision armv7-unknown-linux-gnueabihf glibc 2.31 cargo: file changed
        assemble image digits pi-32: 3: module layer changed
        assemble index digits: image for pi-32 changed
    "#,
    );
    // Zig's version stands in the lock, and nothing else uses these.
    assert_eq!(set(&mut bench, BuilderKind::Cross, ARM32, "cross 0.2.5"), "");
    let arm64 = "aarch64-unknown-linux-gnu";
    assert_eq!(set(&mut bench, BuilderKind::Cargo, arm64, "gcc 14.2.0"), "");
}

#[test]
fn what_waits_says_for_what() {
    let mut bench = Bench::built();
    bench
        .facts
        .datasets
        .insert("models/digits/calibration".to_owned(), digest("edited"));
    let plan = bench.plan();
    let lines: Vec<String> = plan
        .nodes
        .iter()
        .zip(statuses(&plan, &bench.memory))
        .filter_map(|(node, status)| match status {
            Status::Done(_) => None,
            Status::Run { reasons, .. } => Some(format!("run  {}: {}", node.id, words(&reasons))),
            Status::Waiting { reasons } => Some(format!("wait {}: {}", node.id, words(&reasons))),
        })
        .collect();
    same(
        &lines.join("\n"),
        r#"
        run  calibrate digits: calibration set changed; subject changed
        wait quantize digits int8: after `calibrate digits`
        wait evaluate digits int8: after `quantize digits int8`
        wait assemble package digits int8: after `evaluate digits int8`; after `quantize digits int8`
        wait assemble image digits pi-32: after `assemble package digits int8`
        wait assemble image digits pi-64: after `assemble package digits int8`
        wait assemble index digits: after `assemble image digits pi-32`; after `assemble image digits pi-64`
    "#,
    );
}

/// The challenger rides in the images of `digits`, and gets none of its own.
#[test]
fn a_challenger_comes() {
    check(
        |bench| {
            bench.edit_models(
                "target.pi-64.at-least = 0.94",
                &format!("target.pi-64.at-least = 0.94\n{CHALLENGER}"),
            );
        },
        r#"
        fetch digits-next: not built before
        evaluate digits-next float32: not built before
        assemble package digits-next float32: not built before
        assemble image digits pi-64: 4: shadow layer added or removed; env changed; labels changed
        assemble index digits: image for pi-64 changed
    "#,
    );
}
