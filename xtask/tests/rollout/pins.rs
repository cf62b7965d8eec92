//! A rollback that lasts: the pin that it writes, real releases with and without it, and the hub after each.

use std::collections::BTreeMap;
use std::fs;

use aiot_hubsim::{Quality, Trouble};
use aiot_testkit::released::{Copy, Released};
use aiot_testkit::tools::have;
use serde_json::Value;

use crate::plant::{Plant, commit};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const MODEL: &str = "surface-defects";
const ENVIRONMENT: &str = "deployments/prod.toml";

/// Declares another version of the model, releases and commits it.
fn release(copy: &Copy, from: &str, to: &str) {
    let header = format!("[model.{MODEL}]");
    let text = copy.read("models.toml");
    let (before, after) = text.split_once(&header).unwrap();
    let (old, new) = (format!("version = \"{from}\""), format!("version = \"{to}\""));
    assert!(after.contains(&old), "{after}");
    let text = format!("{before}{header}{}", after.replacen(&old, &new, 1));
    copy.write("models.toml", text);
    copy.run(XTASK, &["release", "--offline"]).expect(0);
    commit(&copy.root);
}

/// Contents of the deployments of the environment, by path.
fn contents(copy: &Copy) -> BTreeMap<String, String> {
    let mut files = copy.committed();
    files.retain(|path, _| path.starts_with("deployments/prod/") && path.matches('/').count() == 3);
    files
}

fn ids(plant: &Plant) -> Vec<String> {
    let declared = plant.declared();
    declared
        .list()
        .deployments
        .iter()
        .map(|one| one.id.clone())
        .collect()
}

#[test]
fn a_rollback_is_made_to_last_by_a_pin() {
    if !have(&["git"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    copy.write(".gitignore", ".aiot/\ndist/\ntarget/\n");
    let plant = Plant::of_workspace(&copy.root, copy.beside(), 60);
    let workspace = aiot_plan::resolve(
        &aiot_build::workspace::read_texts(&aiot_build::paths::Paths::new(&copy.root, None)).unwrap(),
    )
    .unwrap();
    let first = workspace
        .models
        .values()
        .find(|model| model.name.as_str() == MODEL)
        .unwrap()
        .version
        .clone();
    let declared_before = copy.read(ENVIRONMENT);
    plant.advance_to_the_end();
    let (running, good_contents, good_ids) = (plant.running(), contents(&copy), ids(&plant));

    // The next version crashes everywhere, and has another variable as well: a pin must bring both back.
    let header = format!("[model.{MODEL}.edge.env]");
    let models = copy.read("models.toml");
    copy.write(
        "models.toml",
        format!("{models}\n{header}\nSOMETHING_NEW = \"1\"\n"),
    );
    release(&copy, &first, "98.0.0");
    assert_ne!(ids(&plant), good_ids);
    for images in plant.wanted().into_values() {
        for image in images.into_iter().filter(|image| image.contains(MODEL)) {
            let crashes = Quality {
                fails_percent: 100,
                trouble: Trouble::Crashes,
            };
            plant
                .server
                .simulator()
                .service
                .fleet
                .qualities
                .insert(image, crashes);
        }
    }
    plant.xtask(&["deploy", "advance"]).expect(0);
    plant.pass_hours(25);
    plant.xtask(&["deploy", "advance"]).expect(1);

    // Shown, and nothing is changed; then done.
    let rollback = [
        "deploy",
        "rollback",
        MODEL,
        "--reason",
        "it \"crashes\"\non start",
    ];
    let shown = plant.xtask(&[&rollback[..], &["--dry-run"]].concat()).expect(2);
    assert!(
        shown.stdout.contains("+[[pin]]\n") && shown.stdout.contains("+instead-of = \"98.0.0\"\n"),
        "{}",
        shown.stdout
    );
    assert_eq!(copy.read(ENVIRONMENT), declared_before);
    let told = plant.xtask(&rollback).expect(0);
    assert!(
        told.stderr.contains("written: deployments/prod.toml"),
        "{}",
        told.stderr
    );
    let pinned = copy.read(ENVIRONMENT);
    let text = pinned.strip_prefix(&declared_before).unwrap();
    assert_eq!(text.matches("[[pin]]").count(), 1, "{text}");
    assert!(
        text.contains(&format!("version = \"{first}\"")) && text.contains("settings ="),
        "{text}"
    );
    // Made again, it has nothing to add.
    let again = plant.xtask(&rollback).expect(0);
    assert!(again.stderr.contains("nothing to pin"), "{}", again.stderr);
    assert_eq!(copy.read(ENVIRONMENT), pinned);

    // The release renders what runs: the same ids, the same bytes. Another environment has the new version.
    let made = copy.run(XTASK, &["release", "--offline"]).expect(0);
    assert!(
        made.stderr.contains("stays at surface-defects"),
        "{}",
        made.stderr
    );
    assert_eq!(contents(&copy), good_contents);
    assert_eq!(ids(&plant), good_ids);
    assert!(
        copy.read("deployments/prod/summary.md")
            .contains("## Pinned to an earlier release")
    );
    assert!(copy.read("deployments/dev/deployments.json").contains("98.0.0"));
    let difference = plant.xtask(&["diff"]).expect(2);
    assert!(
        difference.stdout.contains("**pinned**: it \"crashes\" on start"),
        "{}",
        difference.stdout
    );
    commit(&copy.root);
    copy.run(XTASK, &["release", "--offline", "--check"]).expect(0);

    // The hub only forgets the bad release; no device is touched, and then there is nothing to do.
    let plan = plant.xtask(&["deploy", "plan", "--format", "json"]).expect(2);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    for step in plan["steps"].as_array().unwrap() {
        assert_eq!(step["devices-before"], step["devices-after"], "{step}");
        assert_ne!(step["action"], "create", "{step}");
    }
    plant.xtask(&["deploy", "advance"]).expect(0);
    plant.pass_hours(25);
    let rests = plant.xtask(&["deploy", "plan"]).expect(0);
    assert!(rests.stdout.contains("Nothing to do."), "{}", rests.stdout);
    assert_eq!(plant.running(), running);

    // A pin does not outlive its purpose in silence.
    let models = copy.read("models.toml");
    copy.write("models.toml", models.replace("98.0.0", "99.0.0"));
    let refused = copy.run(XTASK, &["check"]).expect(1);
    assert!(
        refused.stderr.contains("plan::pin_outdated"),
        "{}",
        refused.stderr
    );
    copy.write("models.toml", models);

    // Without it, the next version is rolled out as any other.
    fs::write(copy.root.join(ENVIRONMENT), &declared_before).unwrap();
    release(&copy, "98.0.0", "99.0.0");
    plant.advance_to_the_end();
    assert_eq!(plant.running(), plant.wanted());
    assert_ne!(plant.running(), running);
}
