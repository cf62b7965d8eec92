//! Is the simulated hub honest? The official Python client of the service, `azure-iot-hub`, passes a suite against it:
//! `suite.py`, which says for each check where the rule is from.

use std::process::Command;

use aiot_hubsim::{Behaviour, Fleet, Server, Service};
use aiot_testkit::python;
use aiot_testkit::tools::run;
use serde_json::json;

/// The package forgets to ask for `six`, which it needs.
const PACKAGES: [&str; 2] = ["azure-iot-hub==2.7.0", "six==1.17.0"];

#[test]
fn the_official_client_agrees() {
    let Some(folder) = python::packages("azure-iot-hub", &PACKAGES) else {
        return;
    };
    let temporary = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::default();
    for number in 0..25 {
        let tags = json!({"ring": if number < 3 { "canary" } else { "rest" }, "number": number});
        fleet.add(&format!("edge-{number:02}"), tags, Behaviour::GOOD);
    }
    let server = Server::start(Service::new(fleet, 1_780_000_000), 0, 50, 60.0).unwrap();
    let ca_file = temporary.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let ended = run(Command::new("python3")
        .env("PYTHONPATH", &folder)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/official/suite.py"))
        .env("AIOT_HUB_CONNECTION_STRING", server.connection_string())
        .env("REQUESTS_CA_BUNDLE", &ca_file)
        .env("NO_PROXY", "localhost"));
    let ended = ended.expect(0);
    assert!(ended.stdout.contains("21 checks"), "{}", ended.stdout);
}
