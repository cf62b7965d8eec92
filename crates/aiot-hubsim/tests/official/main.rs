//! Is the simulated hub honest? The official Python client of the service, `azure-iot-hub`, passes a suite against it:
//! `suite.py`, which says for each check where the rule is from.
//!
//! The package is installed into a folder of its own, kept in `AIOT_TEST_CACHE` where `cargo xtask test` sets it.

use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_hubsim::{Behaviour, Fleet, Server, Service};
use aiot_testkit::tools::{have, run, skip};
use serde_json::json;

/// The package forgets to ask for `six`, which it needs.
const PACKAGES: [&str; 2] = ["azure-iot-hub==2.7.0", "six==1.17.0"];

/// Whether the packages are in the folder, or can be brought there. A folder and `PYTHONPATH` are enough: pip is there
/// wherever releases are made, and `venv` is not.
fn installed(folder: &Path) -> bool {
    let works = || {
        Command::new("python3")
            .args(["-c", "import azure.iot.hub"])
            .env("PYTHONPATH", folder)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !works() {
        run(Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--upgrade",
                "--target",
            ])
            .arg(folder)
            .args(PACKAGES));
    }
    works()
}

#[test]
fn the_official_client_agrees() {
    if !have(&["python3"]) {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let cache = std::env::var_os("AIOT_TEST_CACHE").map(PathBuf::from);
    let folder = cache
        .unwrap_or_else(|| temporary.path().to_owned())
        .join("azure-iot-hub-2.7.0");
    if !installed(&folder) {
        skip("needs azure-iot-hub from the index that pip is set up with");
        return;
    }
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
    assert!(ended.stdout.contains("14 checks"), "{}", ended.stdout);
}
