//! What must be pinned after a rollback, and that it renders the release before again.

mod common;

use std::collections::BTreeMap;

use aiot_iothub::pin::{Held, hold};
use aiot_iothub::{Deployment, Pin, Pins, Release, RouteSpec, render, render_pinned};
use common::{digest, module, object, release, target, text};
use serde_json::{Value, json};

/// Two models on one kind of device.
fn good() -> Release {
    release(vec![target(
        "gateway",
        vec![module("caps", '1'), module("labels", '2')],
    )])
}

/// The deployment with the models, and its content.
fn layer(release: &Release) -> (Deployment, Value) {
    let rendered = render(release).unwrap();
    let deployment = rendered
        .deployments
        .into_iter()
        .find(|one| one.stem == "models")
        .unwrap();
    let content = serde_json::from_slice(&rendered.files[&deployment.file]).unwrap();
    (deployment, content)
}

fn held(bad: &Release) -> Held {
    let (bad, bad_content) = layer(bad);
    let (good, good_content) = layer(&good());
    hold((&bad, &bad_content), (&good, &good_content))
}

/// Changes the good release, and checks which modules are pinned with settings of their own, and that the pins render
/// the good deployment again.
#[track_caller]
fn check(change: impl FnOnce(&mut Release), expected: &[(&str, bool)]) {
    let mut bad = good();
    change(&mut bad);
    let held = held(&bad);
    let found: Vec<(&str, bool)> = held
        .pins
        .iter()
        .map(|(name, held)| (name.as_str(), held.settings.is_some()))
        .collect();
    assert_eq!((found, held.left), (expected.to_vec(), vec![]));
    let pins: Pins = held
        .pins
        .into_iter()
        .map(|(name, held)| {
            let pin = Pin {
                reason: "it | crashes".to_owned(),
                version: held.facts.version,
                image_digest: held.facts.image_digest,
                size_bytes: held.facts.size_bytes,
                accuracy: held.facts.accuracy,
                settings: held.settings,
            };
            (("gateway".to_owned(), name), pin)
        })
        .collect();
    let rendered = render_pinned(bad, &pins).unwrap();
    let (deployment, content) = layer(&good());
    let again = rendered
        .deployments
        .iter()
        .find(|one| one.stem == "models")
        .unwrap();
    assert_eq!(again.id, deployment.id);
    assert_eq!(
        serde_json::from_slice::<Value>(&rendered.files[&again.file]).unwrap(),
        content
    );
    for module in &again.modules {
        let is_pinned = expected.iter().any(|(name, _)| *name == module.name);
        assert_eq!(module.pinned.is_some(), is_pinned, "{}", module.name);
    }
    let summary = String::from_utf8(rendered.files["summary.md"].clone()).unwrap();
    assert_eq!(
        summary.contains("## Pinned to an earlier release"),
        !expected.is_empty(),
        "{summary}"
    );
}

/// Changes the good release in a way that no pin takes back.
#[track_caller]
fn check_left(change: impl FnOnce(&mut Release), expected: &str) {
    let mut bad = good();
    change(&mut bad);
    let left = held(&bad).left;
    assert!(left.len() == 1 && left[0].contains(expected), "{left:?}");
}

#[test]
fn the_image_goes_back() {
    check(|_| {}, &[]);
    check(
        |bad| bad.targets[0].modules[0].image_digest = digest('9'),
        &[("caps", false)],
    );
    check(
        |bad| {
            let caps = &mut bad.targets[0].modules[0];
            (caps.model_version, caps.image_digest, caps.size_bytes) = ("2.0.0".to_owned(), digest('9'), 7);
        },
        &[("caps", false)],
    );
    check(
        |bad| {
            for module in &mut bad.targets[0].modules {
                module.image_digest = digest('8');
            }
        },
        &[("caps", false), ("labels", false)],
    );
}

#[test]
fn settings_go_back_where_they_changed() {
    check(
        |bad| {
            let caps = &mut bad.targets[0].modules[0];
            caps.image_digest = digest('9');
            caps.env = BTreeMap::from([("LEVEL".to_owned(), text("debug"))]);
        },
        &[("caps", true)],
    );
    check(
        |bad| {
            let caps = &mut bad.targets[0].modules[0];
            caps.routes.insert(
                "capsUpstream".to_owned(),
                RouteSpec::from("FROM /messages/modules/caps/* INTO $upstream"),
            );
            caps.desired = object(json!({"threshold": 0.5}));
        },
        &[("caps", true)],
    );
    check(
        |bad| bad.targets[0].create_options = object(json!({"HostConfig": {"Memory": 1 << 20}})),
        &[("caps", true), ("labels", true)],
    );
    check(
        |bad| bad.registry_prefix = "other.example.com/aiot".to_owned(),
        &[("caps", true), ("labels", true)],
    );
}

#[test]
fn what_a_pin_cannot_do_is_said() {
    check_left(
        |bad| bad.targets[0].modules.push(module("new", '3')),
        "take gateway out of its targets",
    );
    check_left(
        |bad| drop(bad.targets[0].modules.pop()),
        "`labels` ran on gateway before",
    );
    check_left(
        |bad| bad.targets[0].condition = "tags.deviceClass = 'other'".to_owned(),
        "is for other devices",
    );
    check_left(
        |bad| {
            let route = RouteSpec::from("FROM /messages/* INTO $upstream");
            bad.targets[0].modules[0].routes.insert("all".to_owned(), route);
        },
        "begin at no single model",
    );
}
