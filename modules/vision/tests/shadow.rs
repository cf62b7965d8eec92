//! The challenger in an image: compared with what is published, never published, and never in the way.

mod device;
#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use device::{DESIRED, Device, png};
use serde_json::{Value, json};
use support::{Service, command, golden, package};

/// A package that takes blue for red and red for blue.
fn challenger() -> tempfile::TempDir {
    let dir = package("colour");
    change(dir.path(), |package| {
        package["name"] = json!("colour-next");
        package["version"] = json!("2.0.0");
        package["input"]["image"]["colour"] = json!("bgr");
    });
    dir
}

fn change(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("package.json");
    let mut package = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut package);
    std::fs::write(path, package.to_string()).unwrap();
}

fn start(package: &Path, challenger: &Path, share: &str) -> Service {
    let mut command = command(env!("CARGO_BIN_EXE_vision"), package, &["serve"]);
    command
        .env("AIOT_SHADOW_DIR", challenger)
        .env("AIOT_SHADOW_SHARE", share);
    Service::start(command)
}

/// Waits until the metrics have this line.
#[track_caller]
fn wait_for(service: &Service, line: &str) -> String {
    let started = Instant::now();
    loop {
        let metrics = service.scrape();
        if metrics.lines().any(|found| found == line) {
            return metrics;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no `{line}` in:\n{metrics}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn verdicts_are_compared_and_the_challengers_are_not_published() {
    let (dir, challenger) = (package("colour"), challenger());
    let service = start(dir.path(), challenger.path(), "1");
    for (compared, (colour, label)) in [
        ([255, 0, 0], "red"),
        ([0, 255, 0], "green"),
        ([0, 0, 255], "blue"),
        ([0, 255, 0], "green"),
    ]
    .into_iter()
    .enumerate()
    {
        let (status, answer) = service.json("POST", "/v1/predict", &png(colour));
        let prediction = &answer["predictions"][0];
        assert_eq!((status, &prediction["result"]["label"]), (200, &json!(label)));
        assert_eq!(prediction["model"], "colour");
        wait_for(&service, &format!("aiot_shadow_compared_total {}", compared + 1));
    }
    let metrics = service.scrape();
    for line in [
        "aiot_shadow_agreed_total 2",
        "aiot_shadow_failures_total 0",
        "aiot_shadow_skipped_total 0",
        // Its inferences are not the service's.
        "aiot_inferences_total 4",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}:\n{metrics}");
    }
    let info = metrics
        .lines()
        .find(|line| line.starts_with("aiot_shadow_info{"))
        .unwrap();
    assert!(
        info.contains("model=\"colour-next\",version=\"2.0.0\"") && info.ends_with("} 1"),
        "{info}"
    );
    // What gives no prediction is not shown to it.
    assert_eq!(service.request("POST", "/v1/predict", b"no picture").0, 400);
    assert!(service.scrape().contains("\naiot_shadow_compared_total 4\n"));
}

#[test]
fn a_share_is_a_share() {
    let (dir, challenger) = (package("colour"), challenger());
    let service = start(dir.path(), challenger.path(), "0.000001");
    for _ in 0..20 {
        assert_eq!(service.request("POST", "/v1/predict", &png([0, 255, 0])).0, 200);
    }
    let metrics = service.scrape();
    assert!(metrics.contains("\naiot_shadow_compared_total 0\n"), "{metrics}");
}

#[test]
fn one_that_cannot_run_is_told_and_the_module_serves() {
    let dir = package("colour");
    let check = |challenger: &Path, words: &str| {
        let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
        command
            .env("AIOT_SHADOW_DIR", challenger)
            .env("AIOT_SHADOW_SHARE", "1");
        let service = Service::start(command);
        assert_eq!(service.request("POST", "/v1/predict", &png([255, 0, 0])).0, 200);
        let metrics = service.scrape();
        let info = metrics
            .lines()
            .find(|line| line.starts_with("aiot_shadow_info{"))
            .unwrap();
        assert!(info.ends_with("} 0"), "{info}");
        assert!(metrics.contains("\naiot_shadow_compared_total 0\n"), "{metrics}");
        assert!(service.started.contains(words), "{words}: {}", service.started);
    };
    check(Path::new("/no/such/folder"), "the challenger does not run: ");

    let labels = challenger();
    change(labels.path(), |package| {
        package["output"]["labels"] = json!(["rot", "grün", "blau"])
    });
    check(
        labels.path(),
        "the challenger does not run: it answers another question: task or labels differ",
    );

    let damaged = challenger();
    std::fs::write(damaged.path().join("model.onnx"), b"no model").unwrap();
    check(damaged.path(), "the challenger does not run: ");

    let other = challenger();
    golden(
        other.path(),
        &[("red.png", &png([255, 0, 0]), json!({"output": [9.0, 9.0, 9.0]}))],
    );
    check(
        other.path(),
        "the challenger does not run: its self-test failed: ",
    );
}

#[test]
fn the_twin_is_told_and_sets_the_share() {
    let Some(device) = Device::new() else { return };
    let hub = device.hub(DESIRED);
    let challenger = challenger();
    let mut command = device.command(&device.pipeline());
    command
        .env("AIOT_SHADOW_DIR", challenger.path())
        .env("AIOT_SHADOW_SHARE", "1");
    let service = Service::start(command);
    device::predict(&service);
    wait_for(&service, "aiot_shadow_compared_total 1");
    let whole = r#"{"shadow": {"share": 0.25}, "$version": 2}"#;
    hub.patch(2, whole, whole);
    let report = aiot_testkit::edge::wait_for("the new share", || {
        let report: Value = serde_json::from_str(hub.reported().last()?).unwrap();
        (report["settings"]["shadow"]["share"] == 0.25).then_some(report)
    });
    let shadow = &report["shadow"];
    assert_eq!(
        (
            &shadow["model"]["name"],
            &shadow["model"]["version"],
            &shadow["problem"]
        ),
        (&json!("colour-next"), &json!("2.0.0"), &Value::Null)
    );
    for (key, value) in [
        ("share", json!(0.25)),
        ("compared", json!(1)),
        ("agreed", json!(0)),
        ("agreement", json!(0.0)),
        ("failed", json!(0)),
        ("skipped", json!(0)),
        ("disagreements", json!(["red → blue: 1"])),
    ] {
        assert_eq!(shadow[key], value, "{key}: {shadow}");
    }
    assert!(shadow["latencyRatio"].as_f64().unwrap() > 0.0, "{shadow}");
}
