//! The official Python client against the very same broker, daemon and hub: both clients must look the same to them.

mod device;
#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::process::Command;

use aiot_testkit::edge::{Workload, wait_for};
use aiot_testkit::python;
use device::{Device, bodies, predict};
use serde_json::{Value, json};

/// What a broker's log and the daemon see of one client.
#[derive(Debug, PartialEq)]
struct Wire {
    client: String,
    clean_session: String,
    user: String,
    subscriptions: BTreeSet<String>,
    telemetry: String,
    sign_target: String,
    sign_body: Value,
    signed: String,
}

fn wire(log: &str, workload: &Workload) -> Wire {
    let connected = log
        .lines()
        .find(|line| line.contains(" as edge1/digits ("))
        .expect("a connection")
        .to_owned();
    let fields = connected.split(" (").nth(1).unwrap();
    let field = |start: &str| {
        let field = fields
            .trim_end_matches(").")
            .split(", ")
            .find_map(|field| field.strip_prefix(start));
        field
            .unwrap_or_else(|| panic!("no {start} in {connected}"))
            .to_owned()
    };
    let user = field("u'");
    let subscriptions = log
        .lines()
        .filter_map(|line| line.strip_prefix("edge1/digits 1 "));
    let telemetry = log.lines().find_map(|line| {
        line.split("'devices/edge1/modules/digits/messages/events/")
            .nth(1)
    });
    let request = workload.sign_requests()[0].clone();
    let body: Value = serde_json::from_str(&request.body).unwrap();
    Wire {
        client: connected
            .split(" as ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned(),
        clean_session: field("c"),
        user: user.split("/?").next().unwrap().to_owned(),
        subscriptions: subscriptions.map(str::to_owned).collect(),
        telemetry: telemetry.unwrap().split('\'').next().unwrap().to_owned(),
        sign_target: request.target.clone(),
        signed: request.data().split('\n').next().unwrap().to_owned(),
        sign_body: json!({"keyId": body["keyId"], "algo": body["algo"]}),
    }
}

/// The official client against the same broker, daemon and hub; both clients must look the same to them.
#[test]
fn like_the_official_client() {
    let Some(mut device) = Device::with_port(8883) else {
        return;
    };
    let Some(packages) = python::packages("azure-iot-device", &["azure-iot-device==2.14.0"]) else {
        return;
    };
    let hub = device.hub(r#"{"greeting": 7, "$version": 4}"#);
    let service = device.start();
    wait_for("a report", || hub.reported().first().cloned());
    predict(&service);
    let id = bodies(&hub, 1)[0]["message_id"].as_str().unwrap().to_owned();
    wait_for("three subscriptions and the inputs", || {
        (device.broker.log().matches("edge1/digits 1 ").count() >= 4).then_some(())
    });
    let ours = wire(&device.broker.log(), &device.workload);
    drop((service, hub));

    device.broker.kill();
    let folder = tempfile::tempdir().unwrap();
    let trust = std::fs::read_to_string(&device.certificates.authority).unwrap();
    device.workload = Workload::start(folder.path(), trust);
    device.broker.again(&device.certificates.clone(), &[]);
    let hub = device.hub(r#"{"greeting": 7, "$version": 4}"#);
    let mut python = Command::new("python3");
    python
        .args(["-c", include_str!("official_client.py"), &id])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("PYTHONPATH", packages);
    device.environment(&mut python);
    let child = python
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It waits for one input and one call.
    wait_for("its first message", || hub.telemetry().first().cloned());
    hub.input(
        "camera",
        "%24.mid=frame%201&k%20y=v%26%3D%2F",
        b"an input".to_vec(),
    );
    let answer = hub.call("ping", r#"{"a": 1}"#);
    let output = child.wait_with_output().unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{errors}");
    let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let expected = json!({
        "greeting": 7, "input": "camera", "data": "an input", "id": "frame 1", "property": "v&=/", "method": "ping",
    });
    assert_eq!(said, expected);
    assert_eq!(answer.0, "200");
    assert_eq!(hub.reported().len(), 1);

    let theirs = wire(&device.broker.log(), &device.workload);
    assert_eq!(ours, theirs);
}
