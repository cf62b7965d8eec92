//! `[model.<name>.shadow]`: which challengers are taken, and what is told about those that are not.

use aiot_plan::resolve;

use crate::common::{CHALLENGER, ENVIRONMENT, MODELS, TARGETS, render, texts, with};

/// All models and a challenger of `digits`.
fn challenged() -> String {
    format!("{MODELS}{CHALLENGER}")
}

/// Breaks the challenger.
#[track_caller]
fn check(old: &str, new: &str, expected: &[&str]) {
    let found = match resolve(&texts(&with(&challenged(), old, new), TARGETS, ENVIRONMENT)) {
        Ok(_) => String::new(),
        Err(errors) => render(&errors),
    };
    for words in expected {
        assert!(found.contains(words), "`{words}` is not in:\n{found}");
    }
    assert_eq!(found.is_empty(), expected.is_empty(), "{found}");
}

#[test]
fn a_challenger_is_read_and_has_no_image_of_its_own() {
    let workspace = resolve(&texts(&challenged(), TARGETS, ENVIRONMENT))
        .unwrap_or_else(|errors| panic!("{}", render(&errors)));
    let pairs = |name: &str| {
        workspace
            .pairs()
            .filter(|(model, _)| model.name.as_str() == name)
            .count()
    };
    let images = |name: &str| {
        workspace
            .images()
            .filter(|(model, _)| model.name.as_str() == name)
            .count()
    };
    assert_eq!(
        (pairs("digits-next"), images("digits-next"), images("digits")),
        (1, 0, 3)
    );
    let find = |name: &str| {
        workspace
            .models
            .values()
            .find(|model| model.name.as_str() == name)
            .unwrap()
    };
    let on = |name: &str| {
        workspace
            .targets
            .values()
            .find(|target| target.name.as_str() == name)
            .unwrap()
    };
    let (challenger, shadow) = workspace.challenger(find("digits"), on("pi-64")).unwrap();
    assert_eq!(
        (challenger.name.as_str(), shadow.share, shadow.tolerance),
        ("digits-next", 0.1, None)
    );
    assert!(workspace.challenger(find("digits"), on("pi-32")).is_none());
    assert!(workspace.challenger(find("bearing"), on("pi-64")).is_none());
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let of = "of = \"digits\"";
    check("share = 0.1", "share = 1", &[]);
    check(
        "share = 0.1",
        "share = 0",
        &["the share of inputs is none", "above 0, and at most 1"],
    );
    check(
        "share = 0.1",
        "share = 1.5",
        &["«1.5»", "the share of inputs is none"],
    );
    check("share = 0.1", "share = nan", &["the share of inputs is none"]);
    check(
        "share = 0.1",
        "share = 0.1, tolerance = 1",
        &["for regressions only"],
    );
    check(
        of,
        "of = \"digit\"",
        &["compared with `digit`, which is not declared", "`digits`"],
    );
    check(of, "of = \"digits-next\"", &["a model always agrees with itself"]);
    check(
        of,
        "of = \"bearing\"",
        &["cannot be compared with `bearing`", "their tasks differ"],
    );
    check(
        "targets = [\"pi-64\"]\nshadow",
        "targets = [\"pi-64\"]\nedge.env.A = \"b\"\nshadow",
        &["has `edge`, and as a challenger no module of its own"],
    );
    check(
        "module = \"vision\"\ntargets = [\"pi-64\"]",
        "module = \"signal\"\ntargets = [\"pi-64\"]",
        &["`digits` is served by module `vision`, this one wants `signal`"],
    );
    let another = challenged();
    let another = &another[another.find("[model.digits-next]").unwrap()..];
    let second = another.replace("digits-next", "digits-third");
    check(
        "[model.digits-next]",
        &format!("{second}\n[model.digits-next]"),
        &["`digits` has two challengers on `pi-64`: `digits-next` and `digits-third`"],
    );
    check(
        "[model.digits-next]",
        &format!(
            "{}\n[model.digits-next]",
            second.replace(of, "of = \"digits-next\"")
        ),
        &["that is a challenger too"],
    );
}

#[test]
fn a_regression_needs_a_tolerance() {
    let regression = |tolerance: &str| {
        challenged()
            .replace("task = \"classification\"", "task = \"regression\"")
            .replace("metric = \"accuracy\"", "metric = \"mean-absolute-error\"")
            .replace("share = 0.1", &format!("share = 0.1{tolerance}"))
    };
    let found = |models: &str| match resolve(&texts(models, TARGETS, ENVIRONMENT)) {
        Ok(_) => String::new(),
        Err(errors) => render(&errors),
    };
    assert_eq!(found(&regression(", tolerance = 0.5")), "");
    let missing = found(&regression(""));
    assert!(missing.contains("a regression needs `tolerance`"), "{missing}");
    let negative = found(&regression(", tolerance = -1"));
    assert!(negative.contains("the tolerance is none"), "{negative}");
}

#[test]
fn where_the_model_does_not_go_nothing_can_ride() {
    let models = challenged().replace(
        "targets = [\"pi-32\", \"pi-64\", \"orin\"]",
        "targets = [\"pi-32\", \"orin\"]",
    );
    let errors = resolve(&texts(&models, TARGETS, ENVIRONMENT))
        .map(|_| ())
        .unwrap_err();
    let found = render(&errors);
    assert!(found.contains("`digits` does not go there"), "{found}");
}

#[test]
fn a_challenger_cannot_be_pinned() {
    let pin = r#"
[[pin]]
model = "digits-next"
version = "1.9.0"
instead-of = "2.0.0"
reason = "it crashes"

[pin.image.pi-64]
digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
size-bytes = 1234
precision = "int8"
accuracy = { metric = "accuracy", float = 0.98, shipped = 0.97 }
"#;
    let environment = format!("{ENVIRONMENT}{pin}");
    let errors = resolve(&texts(&challenged(), TARGETS, &environment))
        .map(|_| ())
        .unwrap_err();
    let found = render(&errors);
    assert!(
        found.contains("pins model `digits-next`, which is the challenger of `digits`"),
        "{found}"
    );
}
