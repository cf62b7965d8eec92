//! An IoT Edge device around the module: a real mosquitto with TLS, the workload API on a socket, the hub's side of
//! twin and methods.

#![allow(dead_code, missing_docs)] // each test file uses its part

use std::io::Cursor;
use std::process::Command;

use aiot_testkit::edge::{Certificates, Hub, Mosquitto, Workload, free_port, wait_for};
use aiot_testkit::tools;
use serde_json::{Value, json};

use crate::support::{Service, command, package};

pub const MODULE: &str = "edge1/modules/digits";
pub const DESIRED: &str = r#"{"$version": 1}"#;

pub fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_pixel(4, 4, image::Rgb(colour))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A device: everything around the module, in a folder of its own.
pub struct Device {
    pub certificates: Certificates,
    pub workload: Workload,
    pub broker: Mosquitto,
    pub package: tempfile::TempDir,
    // Last, since the others have their files in it.
    pub folder: tempfile::TempDir,
}

impl Device {
    /// `None`: the tools are missing, and the test has said so.
    pub fn new() -> Option<Device> {
        Device::with_port(free_port())
    }

    pub fn with_port(port: u16) -> Option<Device> {
        if !tools::have(&["mosquitto", "openssl"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path(), "localhost");
        let trust = std::fs::read_to_string(&certificates.authority).unwrap();
        Some(Device {
            workload: Workload::start(folder.path(), trust),
            broker: Mosquitto::start(folder.path(), port, &certificates, &[]),
            package: package("colour"),
            certificates,
            folder,
        })
    }

    pub fn hub(&self, desired: &str) -> Hub {
        Hub::connect(self.broker.plain_port, MODULE, desired)
    }

    pub fn queue(&self) -> String {
        self.folder.path().join("queue").display().to_string()
    }

    /// The edge hub's inputs and HTTP, all published, with a queue on disk.
    pub fn pipeline(&self) -> Value {
        json!({"sources": {"edge-hub": {}, "http": {}}, "queue": {"directory": self.queue(), "max-mib": 4}})
    }

    pub fn command(&self, pipeline: &Value) -> Command {
        let mut command = command(env!("CARGO_BIN_EXE_vision"), self.package.path(), &["serve"]);
        command.env("AIOT_PIPELINE", pipeline.to_string());
        self.environment(&mut command);
        command.env("AIOT_EDGE_HUB_PORT", self.broker.port.to_string());
        command
    }

    /// What edgeAgent sets.
    pub fn environment(&self, command: &mut Command) {
        for (name, value) in [
            ("IOTEDGE_WORKLOADURI", self.workload.uri.as_str()),
            ("IOTEDGE_AUTHSCHEME", "sasToken"),
            ("IOTEDGE_MODULEGENERATIONID", "6370"),
            ("IOTEDGE_IOTHUBHOSTNAME", "hub1.azure-devices.net"),
            ("IOTEDGE_GATEWAYHOSTNAME", "localhost"),
            ("IOTEDGE_DEVICEID", "edge1"),
            ("IOTEDGE_MODULEID", "digits"),
            ("IOTEDGE_APIVERSION", "2022-08-03"),
        ] {
            command.env(name, value);
        }
    }

    pub fn start(&self) -> Service {
        Service::start(self.command(&self.pipeline()))
    }
}

pub fn predict(service: &Service) {
    let (status, body) = service.request("POST", "/v1/predict", &png([255, 0, 0]));
    assert_eq!(status, 200, "{body}");
}

/// The messages' bodies, once `count` have come.
pub fn bodies(hub: &Hub, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} messages"), || {
        (hub.telemetry().len() >= count).then_some(())
    });
    hub.telemetry()
        .iter()
        .map(|message| serde_json::from_str(&message.body).unwrap())
        .collect()
}
