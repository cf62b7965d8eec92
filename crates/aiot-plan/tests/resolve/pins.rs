//! `[[pin]]`: which are taken, and what is told about those that are not.

use aiot_plan::resolve;

use crate::common::{ENVIRONMENT, MODELS, TARGETS, render, texts, with};

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// An environment with one pin, as `deploy rollback` writes it.
fn pinned() -> String {
    format!(
        r#"{ENVIRONMENT}
[[pin]]
model = "digits"
version = "0.9.0"
instead-of = "1.0.0"
reason = "it crashes"

[pin.image.pi-64]
digest = "{DIGEST}"
size-bytes = 1234
precision = "int8"
accuracy = {{ metric = "accuracy", float = 0.98, shipped = 0.97 }}
settings = '{{"$edgeAgent":{{}}}}'
"#
    )
}

/// Breaks the pin.
#[track_caller]
fn check(old: &str, new: &str, expected: &[&str]) {
    let errors = resolve(&texts(MODELS, TARGETS, &with(&pinned(), old, new))).map(|_| ());
    let found = render(&errors.unwrap_err());
    for words in expected {
        assert!(found.contains(words), "`{words}` is not in:\n{found}");
    }
}

#[test]
fn a_pin_is_read() {
    let workspace =
        resolve(&texts(MODELS, TARGETS, &pinned())).unwrap_or_else(|errors| panic!("{}", render(&errors)));
    let environment = workspace.environments.values().next().unwrap();
    let pin = &environment.pins[0];
    let (target, image) = pin.images.first_key_value().unwrap();
    assert_eq!(
        (
            pin.model.as_str(),
            pin.version.as_str(),
            pin.instead_of.as_str(),
            pin.reason.as_str()
        ),
        ("digits", "0.9.0", "1.0.0", "it crashes")
    );
    assert_eq!((target.as_str(), image.size_bytes), ("pi-64", 1234));
    assert_eq!(image.digest.to_string(), DIGEST);
    assert!(image.settings.as_ref().unwrap().contains_key("$edgeAgent"));
}

#[test]
fn a_pin_that_has_outlived_its_purpose() {
    let models = with(MODELS, "version = \"1.0.0\"", "version = \"1.1.0\"");
    let errors = resolve(&texts(&models, TARGETS, &pinned()))
        .map(|_| ())
        .unwrap_err();
    let found = render(&errors);
    for words in [
        "plan::pin_outdated deployments/plant.toml:",
        "«\"1.0.0\"»",
        "pins model `digits` to 0.9.0 instead of 1.0.0, and models.toml has 1.1.0 now",
        "remove the `[[pin]]`",
    ] {
        assert!(found.contains(words), "`{words}` is not in:\n{found}");
    }
}

#[test]
fn mistakes_have_their_place() {
    check(
        "model = \"digits\"",
        "model = \"digit\"",
        &["pins model `digit`, which is not declared", "did you mean"],
    );
    check(
        "image.pi-64",
        "image.pi-99",
        &["pins model `digits` on `pi-99`, where it does not go", "«pi-99»"],
    );
    check(DIGEST, "sha256:11", &["that is no digest", "«\"sha256:11\"»"]);
    check("\"it crashes\"", "\" \"", &["nobody says why"]);
    check("'{\"$edgeAgent\":{}}'", "'[1]'", &["these are no settings"]);
    check(
        "'{\"$edgeAgent\":{}}'",
        "'{\"$edgeAgent\":1}'",
        &["these are no settings"],
    );
    check("size-bytes", "bytes", &["bytes"]);
    check("\"int8\"", "\"int3\"", &["int3"]);
}

#[test]
fn a_model_is_pinned_once_per_target() {
    let text = pinned();
    let (_, pin) = text.split_once("[[pin]]").unwrap();
    let twice = format!("{text}\n[[pin]]{pin}");
    let errors = resolve(&texts(MODELS, TARGETS, &twice)).map(|_| ()).unwrap_err();
    assert!(
        render(&errors).contains("`pi-64` is pinned twice"),
        "{}",
        render(&errors)
    );
}
