//! Every command that asks or tells a hub, in each state that a roll-out can be in: the exit code that is documented,
//! data that can be read with `--format json`, and nothing changed by what only looks.

use aiot_hubsim::{Quality, Trouble};
use aiot_testkit::tools::{have, run};
use serde_json::Value;

use super::image;
use super::plant::Plant;

/// How many JSON documents a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    /// One on each line, for pipes.
    Lines,
}

/// A command that changes nothing, and how it ends.
type Look<'a> = (&'a [&'a str], i32, Shape);

/// What the hub has: deployments, tags, and what was asked of it with other verbs than a look needs.
fn on_the_hub(plant: &Plant) -> String {
    let simulator = plant.server.simulator();
    let deployments: Vec<_> = simulator.service.peek().collect();
    let tags: Vec<_> = simulator
        .service
        .fleet
        .devices
        .values()
        .map(|device| (&device.id, &device.tags))
        .collect();
    format!("{deployments:#?}\n{tags:#?}")
}

/// The workspace against its commit.
fn in_the_folder(plant: &Plant) -> String {
    let mut status = std::process::Command::new("git");
    status
        .arg("-C")
        .arg(plant.root())
        .args(["status", "--porcelain", "--untracked-files=all"]);
    run(&mut status).expect(0).stdout
}

fn looks(plant: &Plant, state: &str, table: &[Look<'_>]) {
    let (hub, folder) = (on_the_hub(plant), in_the_folder(plant));
    for (arguments, code, shape) in table {
        let name = format!("{state}: {}", arguments.join(" "));
        let text = plant.xtask(arguments);
        assert_eq!(text.code, Some(*code), "{name}\n{}\n{}", text.stdout, text.stderr);
        let data = plant.xtask(&[*arguments, &["--format", "json"]].concat());
        assert_eq!(
            data.code,
            Some(*code),
            "{name} as JSON\n{}\n{}",
            data.stdout,
            data.stderr
        );
        // What fails says why as data too, where talk goes; what a person must look at is shown as it is.
        let said = match data.stderr.lines().last() {
            Some(error) if *code == 1 && data.stdout.is_empty() => error,
            _ => &data.stdout,
        };
        let documents: Result<Vec<Value>, _> = match shape {
            Shape::One => serde_json::from_str(said).map(|one| vec![one]),
            Shape::Lines => said.lines().map(serde_json::from_str).collect(),
        };
        let documents = documents.unwrap_or_else(|error| panic!("{name}: {error}\n{said}"));
        assert!(documents.iter().all(Value::is_object), "{name}: {documents:?}");
        assert_eq!(on_the_hub(plant), hub, "{name} changed the hub");
        assert_eq!(in_the_folder(plant), folder, "{name} changed the workspace");
    }
}

#[test]
fn exit_codes_and_data_in_every_state() {
    if !have(&["git"]) {
        return;
    }
    use Shape::{Lines, One};
    let plant = Plant::new(70);
    let device = plant.running().keys().next().unwrap().clone();
    let explain: &[&str] = &["rollout", "explain", &device];
    let file = plant.file("plan.json");
    let file = file.to_str().unwrap();
    let (plan, dry, status) = (
        &["deploy", "plan"][..],
        &["deploy", "advance", "--dry-run"][..],
        &["deploy", "status"][..],
    );
    let rollback = &["deploy", "rollback", "surface-defects", "--dry-run"][..];
    let fleet = &["fleet"][..];

    plant.xtask(&["deploy", "plan", "--out", file]).expect(2);
    looks(
        &plant,
        "nothing on the hub",
        &[
            (&["diff"], 0, One),
            (plan, 2, One),
            (dry, 2, One),
            (&["deploy", "apply", file, "--dry-run"], 2, One),
            (status, 0, One),
            (rollback, 1, One),
            (fleet, 0, Lines),
            // A filter that nothing passes is no error.
            (&["fleet", "--device", "nobody"], 0, Lines),
            (&["fleet", "--model", "nothing"], 0, Lines),
            (explain, 0, One),
            (&["rollout", "explain", "nobody"], 1, One),
        ],
    );

    plant.xtask(&["deploy", "apply", file]).expect(0);
    looks(
        &plant,
        "the first ring soaks",
        &[
            (plan, 0, One),
            (dry, 0, One),
            // The hub has moved.
            (&["deploy", "apply", file, "--dry-run"], 1, One),
            (status, 0, One),
            (fleet, 0, Lines),
            (explain, 0, One),
        ],
    );

    plant.advance_to_the_end();
    looks(
        &plant,
        "all finished",
        &[
            (plan, 0, One),
            (dry, 0, One),
            (status, 0, One),
            (&["deploy", "status", "--watch"], 0, One),
            // Nothing lies beneath.
            (rollback, 1, One),
            (fleet, 0, Lines),
            (explain, 0, One),
        ],
    );

    plant.new_image("surface-defects", "bad");
    let bad = image(&plant, "surface-defects", "rpi-arm64");
    let crashes = Quality {
        fails_percent: 100,
        trouble: Trouble::Crashes,
    };
    let qualities = |plant: &Plant| plant.server.simulator().service.fleet.qualities.clone();
    assert!(!qualities(&plant).contains_key(&bad));
    plant
        .server
        .simulator()
        .service
        .fleet
        .qualities
        .insert(bad, crashes);
    looks(
        &plant,
        "a new image",
        &[
            (&["diff", "HEAD~1"], 2, One),
            (plan, 2, One),
            (dry, 2, One),
            (status, 0, One),
        ],
    );
    plant.xtask(&["deploy", "advance"]).expect(0);
    plant.pass_hours(25);
    plant.xtask(&["deploy", "advance"]).expect(1);
    looks(
        &plant,
        "stopped",
        &[
            (plan, 1, One),
            (dry, 1, One),
            (status, 1, One),
            (&["deploy", "status", "--watch"], 1, One),
            (rollback, 2, One),
            (fleet, 0, Lines),
            (explain, 0, One),
        ],
    );

    plant
        .xtask(&["deploy", "rollback", "surface-defects", "--format", "json"])
        .expect(0);
    let stays = in_the_folder(&plant);
    looks(
        &plant,
        "taken back",
        &[
            (status, 1, One),
            (plan, 1, One),
            // Taken back, and written for review: made again, it does nothing.
            (rollback, 0, One),
        ],
    );
    assert_eq!(in_the_folder(&plant), stays);
}
