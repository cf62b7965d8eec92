//! The module against the simulated hub: what it reports of itself is what a roll-out and `fleet` read.

mod device;
#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use aiot_hub::{Client, LiveHub, Options};
use aiot_hubsim::{Behaviour, Fleet, Identity, Quality, Server, Service as HubService, Trouble};
use aiot_iothub::rollout::{Hub, ModuleReport};
use aiot_testkit::edge::{Workload, wait_for};
use device::predict;
use serde_json::json;
use support::{Service, command, package};

const IMAGE: &str = "r/digits@sha256:1";

/// A hub with one device that runs one module, whose self-check fails as long as it is a simulated one.
fn hub() -> Server {
    let mut fleet = Fleet::default();
    fleet.add("edge1", json!({}), Behaviour::GOOD);
    let fails = Quality {
        fails_percent: 100,
        trouble: Trouble::SelfCheck,
    };
    fleet.qualities.insert(IMAGE.to_owned(), fails);
    let server = Server::start(HubService::new(fleet, 1_780_000_000), 0, 1000, 0.0).unwrap();
    let runtime = |image: &str| json!({"settings": {"image": image}});
    let content = json!({"modulesContent": {
        "$edgeAgent": {"properties.desired": {
            "schemaVersion": "1.1",
            "systemModules": {"edgeAgent": runtime("r/agent:1"), "edgeHub": runtime("r/hub:1")},
            "modules": {"digits": runtime(IMAGE)},
        }},
        "digits": {"properties.desired": {"logLevel": "warn"}},
    }});
    let mut simulator = server.simulator();
    simulator.service.apply_content("edge1", &content).unwrap();
    for _ in 0..10 {
        simulator.service.pass(60);
    }
    drop(simulator);
    server
}

#[test]
fn a_roll_out_reads_what_the_module_reports() {
    let server = hub();
    let port = server.listen_for_devices(0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let options = Options {
        ca_file: Some(ca_file),
        units: 1000,
        on_pause: None,
    };
    let client = Client::new(server.connection_string().parse().unwrap(), &options).unwrap();
    let mut live = LiveHub::new(client, 100);
    let mut module =
        || -> ModuleReport { live.snapshot().unwrap().devices[0].agent.modules["digits"].clone() };
    assert_eq!(module().self_check, Some(false), "the simulated one");

    let identity = Identity::parse("edge1/digits");
    let key = server.simulator().keys(&identity)[0].clone();
    let workload = Workload::start_with_key(folder.path(), server.ca_pem().to_owned(), &key);
    let package = package("colour");
    let mut command = command(env!("CARGO_BIN_EXE_vision"), package.path(), &["serve"]);
    let pipeline = json!({"sources": {"edge-hub": {}, "http": {}}});
    command.env("AIOT_PIPELINE", pipeline.to_string());
    for (name, value) in [
        ("IOTEDGE_WORKLOADURI", workload.uri.as_str()),
        ("IOTEDGE_AUTHSCHEME", "sasToken"),
        ("IOTEDGE_MODULEGENERATIONID", "1"),
        ("IOTEDGE_IOTHUBHOSTNAME", "localhost"),
        ("IOTEDGE_GATEWAYHOSTNAME", "localhost"),
        ("IOTEDGE_DEVICEID", "edge1"),
        ("IOTEDGE_MODULEID", "digits"),
        ("AIOT_EDGE_HUB_PORT", &port.to_string()),
    ] {
        command.env(name, value);
    }
    let service = Service::start(command);
    let report = wait_for("the module's own report", || {
        // A roll-out asks for troubles alone.
        Some(module()).filter(|module| module.self_check.is_none())
    });
    assert!(!report.drifting && report.image == IMAGE, "{report:?}");

    predict(&service);
    wait_for("the prediction in the cloud", || {
        (server.simulator().telemetry().get(&identity) == Some(&1)).then_some(())
    });
}
