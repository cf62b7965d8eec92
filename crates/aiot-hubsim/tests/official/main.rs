//! Is the simulated hub honest? The official Python clients pass suites against it, which say for each check where the
//! rule is from: that of the service, `azure-iot-hub`, in `suite.py`; that of devices and modules, `azure-iot-device`,
//! in `device_suite.py`, with the first on the other side.

use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_hubsim::{Behaviour, Fleet, Identity, Server, Service};
use aiot_testkit::python;
use aiot_testkit::tools::run;
use serde_json::json;

/// The package forgets to ask for `six`, which it needs.
const SERVICE: [&str; 2] = ["azure-iot-hub==2.7.0", "six==1.17.0"];
const DEVICE: [&str; 1] = ["azure-iot-device==2.14.0"];

fn server() -> Server {
    let mut fleet = Fleet::default();
    for number in 0..25 {
        let tags = json!({"ring": if number < 3 { "canary" } else { "rest" }, "number": number});
        fleet.add(&format!("edge-{number:02}"), tags, Behaviour::GOOD);
    }
    Server::start(Service::new(fleet, 1_780_000_000), 0, 50, 60.0).unwrap()
}

/// Runs a suite; gives what it printed.
fn passes(server: &Server, suite: &str, folders: &[PathBuf], variables: &[(&str, &str)]) -> String {
    let temporary = tempfile::tempdir().unwrap();
    let ca_file = temporary.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let ended = run(Command::new("python3")
        .env("PYTHONPATH", std::env::join_paths(folders).unwrap())
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/official")
                .join(suite),
        )
        .env("AIOT_HUB_CONNECTION_STRING", server.connection_string())
        .env("REQUESTS_CA_BUNDLE", &ca_file)
        .env("NO_PROXY", "localhost")
        .envs(variables.iter().copied()));
    ended.expect(0).stdout
}

#[test]
fn the_official_client_of_the_service_agrees() {
    let Some(folder) = python::packages("azure-iot-hub", &SERVICE) else {
        return;
    };
    let printed = passes(&server(), "suite.py", &[folder], &[]);
    assert!(printed.contains("21 checks"), "{printed}");
}

#[test]
fn the_official_client_of_devices_agrees() {
    let (Some(service), Some(device)) = (
        python::packages("azure-iot-hub", &SERVICE),
        python::packages("azure-iot-device", &DEVICE),
    ) else {
        return;
    };
    let server = server();
    let port = server.listen_for_devices(0).unwrap().to_string();
    let connection = server.client_connection_string(&Identity::parse("edge-07"));
    let variables = [
        ("AIOT_DEVICE_PORT", &port[..]),
        ("AIOT_DEVICE_CONNECTION_STRING", &connection),
    ];
    let printed = passes(&server, "device_suite.py", &[service, device], &variables);
    assert!(printed.contains("24 checks"), "{printed}");
    let hub = server.simulator();
    let sent: Vec<(String, u64)> = hub
        .telemetry()
        .iter()
        .map(|(who, count)| (who.to_string(), *count))
        .collect();
    assert_eq!(
        sent,
        [("edge-07".to_owned(), 2), ("edge-07/vision".to_owned(), 1)]
    );
}
