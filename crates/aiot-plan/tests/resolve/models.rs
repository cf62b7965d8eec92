//! What is told about `models.toml`.

use aiot_plan::resolve;

use crate::common::{ENVIRONMENT, MODELS, TARGETS, render, texts, with, workspace};
use crate::{check, model, same};

#[test]
fn names_of_targets() {
    model(
        r#"["pi-32", "pi-64", "orin"]"#,
        r#"["pi-32", "pi-46"]"#,
        r#"
        plan::unknown_target models.toml:6:21 «"pi-46"»
          × model `digits` names unknown target `pi-46`
          ╰ not a target in targets.toml
          help: targets.toml defines `orin`, `pi-32`, `pi-64`; did you mean `pi-64`?
    "#,
    );
    model(
        r#"["pi-32", "pi-64", "orin"]"#,
        r#"["pi-32", "zzz"]"#,
        r#"
        plan::unknown_target models.toml:6:21 «"zzz"»
          × model `digits` names unknown target `zzz`
          ╰ not a target in targets.toml
          help: targets.toml defines `orin`, `pi-32`, `pi-64`
    "#,
    );
    model(
        r#"["pi-32", "pi-64", "orin"]"#,
        r#"["pi-32", "pi-64", "pi-32"]"#,
        r#"
        plan::duplicate_target models.toml:6:30 «"pi-32"»
          × model `digits` names target `pi-32` twice
          ╰ named before
    "#,
    );
    model(
        "target.pi-64.at-least = 0.94",
        "target.pi-32.at-least = 0.94",
        r#"
        plan::unknown_target models.toml:61:8 «pi-32»
          × model `bearing` has acceptance bounds for `pi-32`, where it does not go
          ╰ not in this model's targets
          help: add the target to `targets`, or take these bounds out
    "#,
    );
    // No target at all: each name is wrong, and there is none to suggest.
    check(
        &with(MODELS, r#"["pi-32", "pi-64", "orin"]"#, "[]"),
        "",
        ENVIRONMENT,
        r#"
        plan::unknown_target models.toml:38:12 «"pi-64"»
          × model `bearing` names unknown target `pi-64`
          ╰ not a target in targets.toml
          help: targets.toml defines none
        plan::unknown_target models.toml:38:21 «"orin"»
          × model `bearing` names unknown target `orin`
          ╰ not a target in targets.toml
          help: targets.toml defines none
    "#,
    );
}

#[test]
fn names_of_modules() {
    model(
        r#"module = "vision""#,
        r#"module = "visoin""#,
        r#"
        plan::unknown_module models.toml:5:10 «"visoin"»
          × model `digits` names unknown module `visoin`
          ╰ not a crate with a binary below modules/
          help: modules/ defines `signal`, `vision`; did you mean `vision`?
    "#,
    );
    let mut none = texts(MODELS, TARGETS, ENVIRONMENT);
    none.modules.clear();
    let errors = resolve(&none).unwrap_err();
    assert_eq!(errors[0].help.as_deref(), Some("modules/ defines none"));
}

#[test]
fn a_module_whose_folder_is_no_name_is_told() {
    let mut odd = texts(
        &with(MODELS, r#"module = "vision""#, r#"module = "my_vision""#),
        TARGETS,
        ENVIRONMENT,
    );
    odd.modules.push("my_vision".to_owned());
    let errors = resolve(&odd).map(|workspace| workspace.models.len()).unwrap_err();
    same(
        &render(&errors),
        r#"
        plan::name models.toml:5:10 «"my_vision"»
          × `my_vision` cannot be a name
          ╰ lower-case letters, digits and single hyphens, starting with a letter, at most 40
    "#,
    );
}

#[test]
fn digests_and_versions() {
    model(
        &"1".repeat(64),
        "11",
        r#"
        plan::digest models.toml:10:10 «"11"»
          × model `digits`: sha256 is not a digest
          ╰ expected 64 lower-case hexadecimal digits
          help: run `sha256sum models/digits/model.onnx`
    "#,
    );
    model(
        &"1".repeat(64),
        &"A".repeat(64),
        r#"
        plan::digest models.toml:10:10 «"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"»
          × model `digits`: sha256 is not a digest
          ╰ expected 64 lower-case hexadecimal digits
          help: run `sha256sum models/digits/model.onnx`
    "#,
    );
    model(
        "version = \"1.0.0\"",
        "version = \"one two\"",
        r#"
        plan::version models.toml:3:11 «"one two"»
          × model `digits`: version is no version
          ╰ letters, digits, `.`, `_` and `-`, at most 64, starting with a digit or letter
    "#,
    );
    model(
        "version = \"1.0.0\"",
        "version = \"\"",
        r#"
        plan::version models.toml:3:11 «""»
          × model `digits`: version is no version
          ╰ letters, digits, `.`, `_` and `-`, at most 64, starting with a digit or letter
    "#,
    );
}

#[test]
fn paths_do_not_leave_the_workspace() {
    model(
        "models/digits/model.onnx",
        "../model.onnx",
        r#"
        plan::path models.toml:9:8 «"../model.onnx"»
          × `../model.onnx` is not a path below the workspace
          ╰ relative, with `/`, without `..`, without `/` at the end
    "#,
    );
    model(
        &"1".repeat(64),
        &format!("{}\"\ndata = {{ \"../w.bin\" = \"22\" }} # \"", "1".repeat(64)),
        r#"
        plan::path models.toml:11:10 «"../w.bin"»
          × `../w.bin` is not a path below the workspace
          ╰ relative, with `/`, without `..`, without `/` at the end
        plan::digest models.toml:11:23 «"22"»
          × model `digits`: sha256 is not a digest
          ╰ expected 64 lower-case hexadecimal digits
          help: run `sha256sum models/digits/../w.bin`
    "#,
    );
    model(
        "models/digits/labels.txt",
        "/etc/passwd",
        r#"
        plan::path models.toml:18:10 «"/etc/passwd"»
          × `/etc/passwd` is not a path below the workspace
          ╰ relative, with `/`, without `..`, without `/` at the end
    "#,
    );
    model(
        "models/digits/calibration",
        "models\\\\calibration",
        r#"
        plan::path models.toml:21:15 «"models\\calibration"»
          × `models\calibration` is not a path below the workspace
          ╰ relative, with `/`, without `..`, without `/` at the end
    "#,
    );
    model(
        "models/digits/evaluation",
        "models/../../evaluation/",
        r#"
        plan::path models.toml:24:14 «"models/../../evaluation/"»
          × `models/../../evaluation/` is not a path below the workspace
          ╰ relative, with `/`, without `..`, without `/` at the end
    "#,
    );
    model(
        "models/digits/evaluation",
        "models//digits/./evaluation",
        r#"
        plan::path models.toml:24:14 «"models//digits/./evaluation"»
          × `models//digits/./evaluation` is not a path below the workspace
          ╰ relative, with `/`, without `..`, without `/` at the end
    "#,
    );
}

#[test]
fn inputs() {
    model(
        "width = 8",
        "width = 0",
        r#"
        plan::input models.toml:12:15 «input»
          × model `digits`: the input cannot be prepared like this
          ╰ width and height must be 1 to 16384 pixels
    "#,
    );
    model(
        "height = 8",
        "height = 8\nmean = [0.1, 0.2, 0.3]",
        r#"
        plan::input models.toml:12:15 «input»
          × model `digits`: the input cannot be prepared like this
          ╰ mean and std need 1 values, one per channel, or none
    "#,
    );
    model(
        "height = 8",
        "height = 8\nstd = [0.0]",
        r#"
        plan::input models.toml:12:15 «input»
          × model `digits`: the input cannot be prepared like this
          ╰ std must not be 0
    "#,
    );
    model(
        "height = 8",
        "height = 8\nscale = nan",
        r#"
        plan::input models.toml:12:15 «input»
          × model `digits`: the input cannot be prepared like this
          ╰ scale, mean and std must be numbers that fit 32 bits
    "#,
    );
    model(
        "height = 8",
        "height = 8\nmean = [1e300]",
        r#"
        plan::input models.toml:12:15 «input»
          × model `digits`: the input cannot be prepared like this
          ╰ scale, mean and std must be numbers that fit 32 bits
    "#,
    );
    model(
        "stride = 256",
        "stride = 0",
        r#"
        plan::input models.toml:44:16 «input»
          × model `bearing`: the input cannot be prepared like this
          ╰ channels, window and stride must be above 0
    "#,
    );
    model(
        "stride = 256",
        "stride = 256\nnormalization.fixed = { mean = [0.0], std = [] }",
        r#"
        plan::input models.toml:44:16 «input»
          × model `bearing`: the input cannot be prepared like this
          ╰ mean and std need 1 values, one per channel, std not 0
    "#,
    );
    model(
        "stride = 256",
        "stride = 256\nnormalization.fixed = { mean = [inf], std = [1.0] }",
        r#"
        plan::input models.toml:44:16 «input»
          × model `bearing`: the input cannot be prepared like this
          ╰ mean and std must be numbers that fit 32 bits
    "#,
    );
    model(
        "window = 256",
        "window = 4294967295",
        r#"
        plan::input models.toml:44:16 «input»
          × model `bearing`: the input cannot be prepared like this
          ╰ a window may have 16777216 values in all channels together
    "#,
    );
}

#[test]
fn outputs_that_the_task_needs() {
    model(
        "labels = \"models/digits/labels.txt\"",
        "",
        r#"
        plan::output models.toml:4:8 «"classification"»
          × model `digits` needs `output.labels`
          ╰ this task needs it
          help: add `output.labels`: a text file with one label a line
    "#,
    );
    model(
        "threshold = 0.6",
        "",
        r#"
        plan::output models.toml:36:8 «"anomaly-detection"»
          × model `bearing` needs `output.threshold`
          ╰ this task needs it
          help: add `output.threshold`: the score above which a window is an anomaly
    "#,
    );
    model(
        "threshold = 0.6",
        "threshold = nan",
        r#"
        plan::output models.toml:50:13 «nan»
          × model `bearing`: the threshold is no number
          ╰ expected a number that fits 32 bits
    "#,
    );
}

#[test]
fn acceptance() {
    model(
        "metric = \"accuracy\"",
        "metric = \"roc-auc\"",
        r#"
        plan::metric models.toml:25:10 «"roc-auc"»
          × model `digits`: `roc-auc` does not measure this task
          ╰ not a metric of the task
          help: classification: accuracy, macro-f1; anomaly-detection: accuracy, roc-auc; regression: mean-absolute-error
    "#,
    );
    model(
        "metric = \"roc-auc\"",
        "metric = \"macro-f1\"",
        r#"
        plan::metric models.toml:58:10 «"macro-f1"»
          × model `bearing`: `macro-f1` does not measure this task
          ╰ not a metric of the task
          help: classification: accuracy, macro-f1; anomaly-detection: accuracy, roc-auc; regression: mean-absolute-error
    "#,
    );
    model(
        "at-least = 0.97",
        "at-least = nan",
        r#"
        plan::acceptance models.toml:25:10 «"accuracy"»
          × model `digits`: at-least and max-drop must be numbers of 0 or more
          ╰ bounds of this metric
    "#,
    );
    model(
        "target.pi-64.at-least = 0.94",
        "target.pi-64.max-drop = -0.1",
        r#"
        plan::acceptance models.toml:58:10 «"roc-auc"»
          × model `bearing`: at-least and max-drop must be numbers of 0 or more
          ╰ bounds of this metric
    "#,
    );
}

#[test]
fn calibration() {
    model(
        "\"models/digits/calibration\"",
        "\"models/digits/evaluation\"",
        r#"
        plan::calibration models.toml:21:15 «"models/digits/evaluation"»
          × model `digits` is calibrated on its evaluation data
          ╰ the same folder as acceptance.evaluation
          help: use data for calibration that evaluation does not see
    "#,
    );
    model(
        "calibration = \"models/digits/calibration\"",
        "",
        r#"
        plan::calibration models.toml:9:8 «"models/digits/model.onnx"»
          × model `digits` has no calibration data
          ╰ int8 needs the ranges of this model's tensors
          help: set `quantization.calibration` to a folder of inputs, or `quantization.scheme = "none"`
    "#,
    );
    model(
        "gpu-scheme = \"none\"",
        "gpu-scheme = \"int8\"",
        r#"
        plan::calibration models.toml:41:8 «"models/bearing/model.onnx"»
          × model `bearing` has no calibration data
          ╰ int8 needs the ranges of this model's tensors
          help: set `quantization.calibration` to a folder of inputs, or `quantization.scheme = "none"`
    "#,
    );
}

#[test]
fn environment_of_the_edge_module() {
    model(
        "env.CAMERA = \"/dev/video0\"",
        "env.'CAM ERA' = \"/dev/video0\"",
        r#"
        plan::env models.toml:30:5 «'CAM ERA'»
          × model `digits`: environment variable `CAM ERA` cannot be set
          ╰ letters, digits, `_` and `-` for the name; a string, number or boolean for the value
    "#,
    );
    model(
        "env.CAMERA = \"/dev/video0\"",
        "env.'' = 1\nenv.CAMERA = [1]\nenv.WHEN = 2024-01-01",
        r#"
        plan::env models.toml:30:5 «''»
          × model `digits`: environment variable `` cannot be set
          ╰ letters, digits, `_` and `-` for the name; a string, number or boolean for the value
        plan::env models.toml:31:5 «CAMERA»
          × model `digits`: environment variable `CAMERA` cannot be set
          ╰ letters, digits, `_` and `-` for the name; a string, number or boolean for the value
        plan::env models.toml:32:5 «WHEN»
          × model `digits`: environment variable `WHEN` cannot be set
          ╰ letters, digits, `_` and `-` for the name; a string, number or boolean for the value
    "#,
    );
    model(
        "env.CAMERA = \"/dev/video0\"",
        "env.GAIN = nan",
        r#"
        plan::env models.toml:30:5 «GAIN»
          × model `digits`: environment variable `GAIN` cannot be set
          ╰ letters, digits, `_` and `-` for the name; a string, number or boolean for the value
    "#,
    );
}

#[test]
fn sources_sinks_and_queue() {
    model(
        "env.CAMERA = \"/dev/video0\"",
        "sources.directory = { path = \"in\" }\nsinks.webhook = { url = \"https://plant/x\" }\nqueue.max-mib = 0\n\
         drift.window = 5\nenv.AIOT_PIPELINE = \"{}\"",
        r#"
        plan::env models.toml:30:1 «sources»
          × model `digits` declares its pipeline twice
          ╰ this becomes AIOT_PIPELINE, which `env` sets too
        plan::pipeline models.toml:30:1 «sources»
          × model `digits`: sources.directory.path: `in` is not an absolute path
          ╰ the module would refuse to start
        plan::pipeline models.toml:31:1 «sinks»
          × model `digits`: sinks.webhook.authorities: `https` needs the file with the authorities to trust
          ╰ the module would refuse to start
        plan::pipeline models.toml:32:1 «queue»
          × model `digits`: queue.max-mib: from 1 to 65536
          ╰ the module would refuse to start
        plan::pipeline models.toml:33:1 «drift»
          × model `digits`: drift.window: a whole number from 20 to 1000000 is wanted
          ╰ the module would refuse to start
    "#,
    );
}

#[test]
fn the_pipeline_reaches_the_module_as_it_reads_it() {
    let declared =
        "sinks.stdout = {}\nsinks.mqtt = { broker = \"mqtt://b\", topic = \"t\" }\nqueue.directory = \"/q\"";
    let workspace = workspace(&with(MODELS, "env.CAMERA = \"/dev/video0\"", declared), TARGETS);
    let of = |name: &str| {
        workspace
            .models
            .values()
            .find(|model| model.name.as_str() == name)
            .unwrap()
    };
    let text = of("digits").edge.env["AIOT_PIPELINE"].as_str().unwrap();
    let pipeline: aiot_package::Pipeline = serde_json::from_str(text).unwrap();
    assert_eq!(pipeline.problems(), Vec::<String>::new());
    assert_eq!(pipeline.queue.directory.as_deref(), Some("/q"));
    assert!(pipeline.sinks.edge_hub.is_none() && pipeline.sources.edge_hub.is_some());
    // What declares nothing is deployed as before.
    assert!(!of("bearing").edge.env.contains_key("AIOT_PIPELINE"));
}
