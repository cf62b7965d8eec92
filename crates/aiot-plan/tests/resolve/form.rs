//! What is told about the form of all files, and how an error looks.

use aiot_plan::resolve;

use crate::common::{ENVIRONMENT, MODELS, TARGETS, render, texts, with};
use crate::{check, environment, model, same, target};

#[test]
fn right_texts_have_no_errors() {
    check(MODELS, TARGETS, ENVIRONMENT, "");
    check("", "", ENVIRONMENT, "");
}

#[test]
fn names() {
    model(
        "[model.digits.source.file]",
        "[model.Digits_2.source.file]",
        r#"
        plan::syntax models.toml:1:1 «[model.digits]»
          × models.toml: missing field `source`
          ╰ missing field `source`
        plan::syntax models.toml:8:8 «Digits_2»
          × models.toml: missing field `description`
          ╰ missing field `description`
    "#,
    );
    target(
        "[target.orin]",
        "[target.Orin]",
        r#"
        plan::unknown_target models.toml:6:30 «"orin"»
          × model `digits` names unknown target `orin`
          ╰ not a target in targets.toml
          help: targets.toml defines `Orin`, `pi-32`, `pi-64`; did you mean `Orin`?
        plan::unknown_target models.toml:38:21 «"orin"»
          × model `bearing` names unknown target `orin`
          ╰ not a target in targets.toml
          help: targets.toml defines `Orin`, `pi-32`, `pi-64`; did you mean `Orin`?
        plan::name targets.toml:25:9 «Orin»
          × `Orin` cannot be a name
          ╰ lower-case letters, digits and single hyphens, starting with a letter, at most 40
    "#,
    );
    let mut odd = texts(MODELS, TARGETS, ENVIRONMENT);
    odd.environments
        .insert("My Plant".to_owned(), ENVIRONMENT.to_owned());
    same(
        &render(&resolve(&odd).unwrap_err()),
        r#"
        plan::name deployments/My Plant.toml:1:1 «»
          × `My Plant` cannot name an environment
          ╰ lower-case letters, digits and single hyphens, at most 40
    "#,
    );
}

#[test]
fn unknown_keys_in_all_files_come_in_one_run() {
    check(
        &with(
            &with(MODELS, "max-drop = 0.01", "max-dorp = 0.01"),
            "width = 8",
            "width = 8\ndepth = 3",
        ),
        &with(TARGETS, "glibc = \"2.36\"", "glibc = \"2.36\"\nglib = 1"),
        &with(
            ENVIRONMENT,
            "[[ring]]\nname = \"all\"",
            "[[ring]]\nnmae = \"all\"",
        ),
        r#"
        plan::unknown_key deployments/plant.toml:12:1 «nmae»
          × unknown key `nmae`
          ╰ not a key here
          help: this table knows `name`, `condition`, `devices`, `percent`, `soak-hours`, `minimum-reported`, `at-most`, `approval`, `quiet-hours`; did you mean `name`?
        plan::unknown_key models.toml:14:1 «depth»
          × unknown key `depth`
          ╰ not a key here
          help: this table knows `width`, `height`, `colour`, `resize`, `fit`, `scale`, `mean`, `std`, `layout`
        plan::unknown_key models.toml:28:1 «max-dorp»
          × unknown key `max-dorp`
          ╰ not a key here
          help: this table knows `evaluation`, `metric`, `at-least`, `max-drop`, `target`; did you mean `max-drop`?
        plan::unknown_key targets.toml:17:1 «glib»
          × unknown key `glib`
          ╰ not a key here
          help: this table knows `description`, `triple`, `platform`, `processor`, `glibc`, `builder`, `layer-compression`, `engine`, `base`, `limits`, `create-options`, `condition`; did you mean `glibc`?
    "#,
    );
}

#[test]
fn wrong_types_missing_keys_and_syntax() {
    model(
        "width = 8",
        "width = \"8\"",
        r#"
        plan::syntax models.toml:13:9 «"8"»
          × models.toml: invalid type: string "8", expected u32
          ╰ invalid type: string "8", expected u32
    "#,
    );
    model(
        "width = 8",
        "width = -1",
        r#"
        plan::syntax models.toml:13:9 «-1»
          × models.toml: invalid value: integer `-1`, expected u32
          ╰ invalid value: integer `-1`, expected u32
    "#,
    );
    model(
        "task = \"classification\"",
        "task = \"classify\"",
        r#"
        plan::syntax models.toml:4:8 «"classify"»
          × models.toml: unknown variant `classify`, expected one of `classification`, `anomaly-detection`, `regression`
          ╰ unknown variant `classify`, expected one of `classification`, `anomaly-detection`, `regression`
          help: this key knows `classification`, `anomaly-detection`, `regression`; did you mean `classification`?
    "#,
    );
    model(
        "metric = \"roc-auc\"\n",
        "",
        r#"
        plan::syntax models.toml:56:1 «[model.bearing.acceptance]»
          × models.toml: missing field `metric`
          ╰ missing field `metric`
    "#,
    );
    model(
        "[model.digits.source.file]",
        "[model.digits.source.fiel]",
        r#"
        plan::syntax models.toml:8:22 «fiel»
          × models.toml: unknown variant `fiel`, expected `file`
          ╰ unknown variant `fiel`, expected `file`
          help: this key knows `file`; did you mean `file`?
    "#,
    );
    target(
        "triple = \"armv7-unknown-linux-gnueabihf\"",
        "triple = armv7",
        r#"
        plan::syntax targets.toml:3:10 «armv7»
          × targets.toml: string values must be quoted, expected literal string
          ╰ string values must be quoted, expected literal string
    "#,
    );
    environment(
        "system.edge-agent = \"registry.example/edge-agent:1.6.1\"\nsystem.edge-hub = \"registry.example/edge-hub:1.6.1\"\n",
        "",
        r#"
        plan::syntax deployments/plant.toml:1:1 «»
          × deployments/plant.toml: missing field `system`
          ╰ missing field `system`
    "#,
    );
    check(
        "model = 3",
        "[target]\n[target]",
        "= 1",
        r#"
        plan::syntax deployments/plant.toml:1:1 «»
          × deployments/plant.toml: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`
          ╰ unquoted keys cannot be empty, expected letters, numbers, `-`, `_`
        plan::syntax models.toml:1:9 «3»
          × models.toml: invalid type: integer `3`, expected a map
          ╰ invalid type: integer `3`, expected a map
        plan::syntax targets.toml:2:2 «target»
          × targets.toml: duplicate key
          ╰ duplicate key
    "#,
    );
}

#[test]
fn a_list_tells_all_its_wrong_entries() {
    model(
        r#"["pi-32", "pi-64", "orin"]"#,
        r#"["pi-32", 64, ["orin"]]"#,
        r#"
        plan::syntax models.toml:6:21 «64»
          × models.toml: invalid type: integer `64`, expected a string
          ╰ invalid type: integer `64`, expected a string
        plan::syntax models.toml:6:25 «["orin"]»
          × models.toml: invalid type: sequence, expected a string
          ╰ invalid type: sequence, expected a string
    "#,
    );
}

#[test]
fn models_are_checked_even_where_targets_cannot_be_read() {
    check(
        &with(MODELS, "metric = \"accuracy\"", "metric = \"roc-auc\""),
        "[target.pi-32",
        ENVIRONMENT,
        r#"
        plan::metric models.toml:25:10 «"roc-auc"»
          × model `digits`: `roc-auc` does not measure this task
          ╰ not a metric of the task
          help: classification: accuracy, macro-f1; anomaly-detection: accuracy, roc-auc; regression: mean-absolute-error
        plan::syntax targets.toml:1:14 «»
          × targets.toml: unclosed table, expected `]`
          ╰ unclosed table, expected `]`
    "#,
    );
}

#[test]
fn an_error_as_people_see_it() {
    let wrong = with(
        MODELS,
        r#"["pi-32", "pi-64", "orin"]"#,
        r#"["pi-32", "orin-nano"]"#,
    );
    let errors = resolve(&texts(&wrong, TARGETS, ENVIRONMENT)).unwrap_err();
    let handler =
        miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor()).with_width(110);
    let mut picture = String::new();
    handler.render_report(&mut picture, &errors[0]).unwrap();
    // An empty line of the source ends in blanks.
    let lines: Vec<&str> = picture.lines().map(str::trim_end).collect();
    same(
        &lines.join("\n"),
        r#"
        plan::unknown_target

          × model `digits` names unknown target `orin-nano`
           ╭─[models.toml:6:21]
         5 │ module = "vision"
         6 │ targets = ["pi-32", "orin-nano"]
           ·                     ─────┬─────
           ·                          ╰── not a target in targets.toml
         7 │
           ╰────
          help: targets.toml defines `orin`, `pi-32`, `pi-64`; did you mean `orin`?
    "#,
    );
}

#[test]
fn a_mistake_in_form_hides_no_mistake_in_meaning() {
    // `digits` names `pi-32` too: a target with a wrong key is declared all the same.
    check(
        &with(
            &with(MODELS, "max-drop = 0.01", "max-drop = 0.01\nmax-dorp = 0.01"),
            "module = \"signal\"",
            "module = \"signals\"",
        ),
        &with(TARGETS, "glibc = \"2.36\"", "glibc = \"2.36\"\nglib = 1"),
        ENVIRONMENT,
        r#"
        plan::unknown_key models.toml:28:1 «max-dorp»
          × unknown key `max-dorp`
          ╰ not a key here
          help: this table knows `evaluation`, `metric`, `at-least`, `max-drop`, `target`; did you mean `max-drop`?
        plan::unknown_module models.toml:38:10 «"signals"»
          × model `bearing` names unknown module `signals`
          ╰ not a crate with a binary below modules/
          help: modules/ defines `signal`, `vision`; did you mean `signal`?
        plan::unknown_key targets.toml:17:1 «glib»
          × unknown key `glib`
          ╰ not a key here
          help: this table knows `description`, `triple`, `platform`, `processor`, `glibc`, `builder`, `layer-compression`, `engine`, `base`, `limits`, `create-options`, `condition`; did you mean `glibc`?
    "#,
    );
}
