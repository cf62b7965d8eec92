//! `deploy`, `fleet`, `rollout` and `hub`, the real program against a served hub with a fleet: through the rings, a bad
//! release, back again; killed, two at once, and with a hub in a bad mood.

mod commands;
mod pins;
mod plant;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use aiot_hubsim::{Faults, Quality, Random, Trouble};
use aiot_iothub::rollout::Lineage;
use aiot_testkit::tools::have;
use plant::Plant;
use serde_json::{Value, json};

/// Images of a model on devices.
fn devices_with(plant: &Plant, image: &str) -> usize {
    plant
        .running()
        .values()
        .filter(|images| images.contains(image))
        .count()
}

/// An image of a model as it is declared for a target.
fn image(plant: &Plant, model: &str, target: &str) -> String {
    let declared = plant.declared();
    let mut deployments = declared.list().deployments.iter();
    let deployment = deployments
        .find(|one| one.target == target && one.modules.iter().any(|module| module.model == model))
        .unwrap();
    let images = aiot_iothub::rollout::declared::images(declared.content(&deployment.id).unwrap());
    let module = deployment
        .modules
        .iter()
        .find(|module| module.model == model)
        .unwrap();
    images[&module.name].clone()
}

#[test]
fn a_plan_says_what_devices_fetch() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(30);
    plant.write_layers();
    let first = plant.xtask(&["deploy", "plan"]).expect(2).stdout;
    assert!(
        first.contains("modules, system modules included: at most"),
        "{first}"
    );
    plant.advance_to_the_end();
    plant.new_image("delivery-digits", "2");
    // Nothing is known of the new images yet.
    let unknown = plant.xtask(&["deploy", "plan"]).expect(2).stdout;
    assert!(unknown.contains(", at most "), "{unknown}");
    plant.write_layers();
    // Those before stand in the history.
    let known = plant.xtask(&["deploy", "plan"]).expect(2).stdout;
    assert!(known.contains(" per device with the images before, "), "{known}");
    let data = plant
        .xtask(&["deploy", "plan", "--format", "json"])
        .expect(2)
        .stdout;
    let data: Value = serde_json::from_str(&data).unwrap();
    let lineages = data["lineages"].as_array().unwrap();
    let changed = lineages
        .iter()
        .find(|one| one["verdict"]["acts"].is_string() && one["preflight"].is_object())
        .unwrap_or_else(|| panic!("{data:#}"));
    assert_eq!(changed["preflight"]["fetch-bytes"], 10 << 20, "{changed:#}");
    let images = changed["preflight"]["whole-bytes"].as_u64().unwrap() - (40 << 20);
    assert_eq!(images % (10 << 20), 0, "{changed:#}");
    assert!(data["used-on-devices"].as_object().unwrap().len() > 1, "{data:#}");
}

/// Unpacked bytes that the deployments of models need together with what is there, by target and lineage.
fn disk_bytes(plant: &Plant) -> BTreeMap<(String, String), u64> {
    let planned = plant.xtask(&["deploy", "plan", "--format", "json"]).expect(2);
    let data: Value = serde_json::from_str(&planned.stdout).unwrap();
    let lineages = data["lineages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lineages
        .filter_map(|one| {
            let bytes = one["preflight"]["disk-bytes"].as_u64()?;
            Some((
                (text(&one["lineage"]["target"]), text(&one["lineage"]["stem"])),
                bytes,
            ))
        })
        .collect()
}

#[test]
fn only_what_shares_a_device_is_held_against_its_disk() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(30);
    plant.write_layers();
    plant.advance_to_the_end();
    // Of the models of one target, one goes only to the devices with a sensor for vibration.
    plant.new_image("delivery-digits", "2");
    plant.write_layers();
    let with_sensors = disk_bytes(&plant);
    {
        let mut hub = plant.server.simulator();
        let ids: Vec<String> = hub.service.fleet.devices.keys().cloned().collect();
        for id in ids {
            hub.service.patch_tags(&id, &json!({"vibration": null})).unwrap();
        }
    }
    let without = disk_bytes(&plant);
    // Each image has 20 MiB of its own, and counts where it is on a device with the others.
    let declared = plant.declared();
    let mut targets = 0;
    for ((target, stem), bytes) in &with_sensors {
        let others = declared.list().deployments.iter().filter(|one| {
            let lineage = Lineage::of(one);
            one.target == *target && !lineage.is_base() && lineage.stem != *stem
        });
        let images: usize = others.map(|one| one.modules.len()).sum();
        targets += usize::from(images > 0);
        let less = bytes - without[&(target.clone(), stem.clone())];
        assert_eq!(less, (images as u64) * (20 << 20), "{target} {stem}");
    }
    assert!(targets > 1, "{with_sensors:#?}");
}

#[test]
fn from_a_plan_through_the_rings() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(70);
    let file = plant.file("plan.json");
    let file = file.to_str().unwrap();
    // Looking changes nothing, and says that there is something to do.
    let planned = plant.xtask(&["deploy", "plan", "--out", file]).expect(2);
    assert!(planned.stdout.contains("create prod-"), "{}", planned.stdout);
    plant.xtask(&["deploy", "advance", "--dry-run"]).expect(2);
    assert_eq!(plant.server.simulator().service.peek().count(), 0);
    assert!(
        plant.server.simulator().calls["POST configurations"] >= 4,
        "the hub has tried the conditions"
    );

    plant.xtask(&["deploy", "apply", file, "--dry-run"]).expect(2);
    plant.xtask(&["deploy", "apply", file]).expect(0);
    assert!(plant.server.simulator().service.peek().count() > 0);
    let again = plant.xtask(&["deploy", "apply", file]).expect(1);
    assert!(
        again.stderr.contains("the hub has moved since the plan was made"),
        "{}",
        again.stderr
    );

    // Nothing goes on before the soak time is over, and canaries are the only ones that have it.
    plant.pass_hours(2);
    let waits = plant.xtask(&["deploy", "plan", "--format", "json"]).expect(0);
    let waits: Value = serde_json::from_str(&waits.stdout).unwrap();
    assert_eq!(waits["steps"], Value::Array(vec![]));
    assert!(waits.to_string().contains("soaks in ring"), "{waits}");
    let running = plant.running();
    assert!(
        running.values().any(|images| !images.is_empty()) && running.values().any(|images| images.is_empty())
    );

    let steps = plant.advance_to_the_end();
    assert!(steps >= 5, "three rings, the runtime first: {steps}");
    assert_eq!(plant.running(), plant.wanted());
    plant.xtask(&["deploy", "status", "--watch"]).expect(0);

    // What runs where: as many rows as the devices run modules, all of them good.
    let rows = plant.xtask(&["fleet", "--format", "json"]).expect(0);
    let rows: Vec<Value> = rows
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let modules: usize = plant
        .server
        .simulator()
        .service
        .fleet
        .devices
        .values()
        .map(|device| device.running.len())
        .sum();
    assert_eq!(rows.len(), modules);
    assert!(
        rows.iter()
            .all(|row| row["state"] == "good" && row["wanted"] == row["reported"]),
        "{:?}",
        rows[0]
    );
    let device = rows[0]["device"].as_str().unwrap();
    let one = plant.xtask(&["fleet", "--device", device]).expect(0);
    assert_eq!(
        one.stdout.lines().count(),
        1 + rows.iter().filter(|row| row["device"] == device).count()
    );
    let targets = plant
        .xtask(&[
            "fleet",
            "--target",
            "rpi-arm64",
            "--model",
            "surface-defects",
            "--format",
            "json",
        ])
        .expect(0);
    let wanted = rows
        .iter()
        .filter(|row| row["target"] == "rpi-arm64" && row["module"] == "surface-defects")
        .count();
    assert_eq!((targets.stdout.lines().count(), wanted > 0), (wanted, true));

    let explained = plant.xtask(&["rollout", "explain", device]).expect(0);
    assert!(
        explained.stdout.contains("base") && explained.stdout.contains("32768"),
        "{}",
        explained.stdout
    );
    let unknown = plant.xtask(&["rollout", "explain", "nobody"]).expect(1);
    assert!(
        unknown.stderr.contains("no edge device `nobody`"),
        "{}",
        unknown.stderr
    );
    assert_eq!(plant.server.simulator().throttled, 0);
}

#[test]
fn a_bad_release_is_stopped_and_taken_back() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(70);
    plant.advance_to_the_end();
    let before = plant.running();
    let old = image(&plant, "surface-defects", "rpi-arm64");
    plant.new_image("surface-defects", "bad");
    let bad = image(&plant, "surface-defects", "rpi-arm64");
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
        .insert(bad.clone(), crashes);
    plant.xtask(&["deploy", "advance"]).expect(0);
    plant.pass_hours(25);
    let canaries = devices_with(&plant, &bad);
    assert!(
        canaries > 0 && canaries * 2 < devices_with(&plant, &old),
        "{canaries}"
    );
    let stopped = plant.xtask(&["deploy", "advance"]).expect(1);
    assert!(
        stopped.stdout.contains("STOPPED") && stopped.stdout.contains("are failed"),
        "{}",
        stopped.stdout
    );
    // It stays stopped, whatever time passes, and the other targets go on.
    for _ in 0..4 {
        plant.pass_hours(25);
        plant.xtask(&["deploy", "advance"]).expect(1);
    }
    assert_eq!(devices_with(&plant, &bad), canaries);
    let failed = plant
        .xtask(&["fleet", "--target", "rpi-arm64", "--model", "surface-defects"])
        .expect(0);
    assert_eq!(
        failed.stdout.matches("  failed  ").count(),
        canaries,
        "{}",
        failed.stdout
    );

    plant
        .xtask(&[
            "deploy",
            "rollback",
            "surface-defects",
            "--reason",
            "it crashes",
            "--dry-run",
        ])
        .expect(2);
    assert_eq!(devices_with(&plant, &bad), canaries);
    plant
        .xtask(&["deploy", "rollback", "surface-defects", "--reason", "it crashes"])
        .expect(0);
    plant.pass_hours(2);
    assert_eq!(plant.running(), before, "the images before run again everywhere");
    // What git asks for stays blocked; a new release goes on.
    let blocked = plant.xtask(&["deploy", "advance"]).expect(1);
    assert!(
        blocked.stdout.contains("rolled back: it crashes"),
        "{}",
        blocked.stdout
    );
    plant.new_image("surface-defects", "good");
    plant.advance_to_the_end();
    assert_eq!(plant.running(), plant.wanted());
    let unknown = plant.xtask(&["deploy", "rollback", "nobody"]).expect(1);
    assert!(
        unknown.stderr.contains("brings a model `nobody`"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn killed_and_faulty_runs_are_made_again() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(40);
    plant.server.simulator().faults = Faults {
        refused_percent: 4,
        cut_percent: 6,
        ..Faults::default()
    };
    let mut random = Random::new(7);
    let mut killed = 0;
    for run in 0..60 {
        let mut child = plant.start(&["deploy", "advance"]);
        std::thread::sleep(Duration::from_millis(20 + random.below(200)));
        killed += usize::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
        plant.pass_hours(13);
        if run >= 12 && killed >= 6 {
            break;
        }
    }
    assert!(killed >= 6, "only {killed} runs were killed in the middle");
    // Runs that are not killed may still fail by bad luck; each says so, and the next goes on.
    for runs in 0.. {
        assert!(runs < 80, "it never comes to an end");
        let ended = plant.xtask(&["deploy", "advance"]);
        match ended.code {
            Some(0) if ended.stdout.contains("Nothing to do.") && !ended.stdout.contains("waits") => break,
            Some(0) => {}
            _ => assert!(
                ended.stderr.contains("run again"),
                "{}\n{}",
                ended.stdout,
                ended.stderr
            ),
        }
        plant.pass_hours(25);
    }
    assert_eq!(plant.running(), plant.wanted());
}

#[test]
fn of_two_at_once_one_says_so() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(40);
    let mut losers = 0;
    for _ in 0..14 {
        let children: Vec<_> = (0..3).map(|_| plant.start(&["deploy", "advance"])).collect();
        for mut child in children {
            let mut talk = String::new();
            child.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
            if child.wait().unwrap().code() == Some(1) {
                losers += 1;
                assert!(talk.contains("changed by somebody else"), "{talk}");
            }
        }
        plant.pass_hours(25);
    }
    plant.advance_to_the_end();
    assert_eq!(plant.running(), plant.wanted());
    assert!(losers > 0, "no two runs met in 14 rounds");
}

#[test]
fn what_is_refused_before_anything_is_sent() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(10);
    let advance = ["deploy", "advance"];
    let check = |name: &str, value: &str, expected: &str| {
        let ended = plant.xtask_with(&advance, name, value).expect(1);
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
        assert!(!ended.stderr.contains("c2VjcmV0"), "{}", ended.stderr);
    };
    let connection =
        "HostName=other.azure-devices.net;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0";
    check(
        "AIOT_HUB_CONNECTION_STRING",
        connection,
        "the connection string is of other.azure-devices.net",
    );
    check("AIOT_HUB_CONNECTION_STRING", "c2VjcmV0", "a part has no `=`");
    check("AIOT_HUB_CONNECTION_STRING", "", "no connection string");
    check(
        "AIOT_HUB_HOSTNAME",
        "other.azure-devices.net",
        "both a connection string and",
    );
    check("AIOT_HUB_UNITS", "many", "not a number of units");
    check("AIOT_HUB_CA_FILE", "/dev/null", "holds no certificate");
    std::fs::write(plant.root().join("deployments/prod/new.json"), "{}").unwrap();
    let ended = plant.xtask(&advance).expect(1);
    assert!(
        ended
            .stderr
            .contains("not committed (?? deployments/prod/new.json)"),
        "{}",
        ended.stderr
    );
    assert_eq!(plant.server.simulator().calls.len(), 0);
}

#[test]
fn a_hub_is_simulated_on_this_machine() {
    if !have(&["git"]) {
        return;
    }
    let plant = Plant::new(1);
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args([
            "hub",
            "simulate",
            "--devices",
            "30",
            "--speed",
            "360000",
            "--units",
            "5000",
        ])
        .current_dir(plant.root())
        .env("AIOT_STORE", plant.file("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(3);
    let variables: Vec<(String, String)> = lines
        .map(|line| {
            let line = line.unwrap();
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('\'').to_owned())
        })
        .collect();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&variables[0].1).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let advance = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(["deploy", "advance", "--environment", "prod"])
            .current_dir(plant.root())
            .envs(variables.clone());
        aiot_testkit::tools::run(&mut command)
    };
    // A hundred virtual hours a second: the whole roll-out, as a user would see it.
    let mut ended = advance().expect(0);
    for _ in 0..60 {
        if ended.stdout.contains("Nothing to do.") && !ended.stdout.contains("waits") {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
        ended = advance().expect(0);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !ended.stdout.contains("waits") && ended.stdout.contains("finished"),
        "{}",
        ended.stdout
    );
}
