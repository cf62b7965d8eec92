//! One release that uses everything once.

use std::collections::BTreeMap;

use aiot_iothub::{AccuracySummary, EnvValue, Release, Ring, RouteSpec};
use aiot_package::Precision;
use serde_json::json;

use crate::common::{module, object, release, target, text};

/// Rings, conditions, long createOptions, routes of both forms, twins.
pub fn full_release() -> Release {
    let mut digits = module("delivery-digits", 'a');
    digits.model_version = "1.2.0".to_owned();
    digits.env = BTreeMap::from([
        ("LOG_LEVEL".to_owned(), text("info")),
        ("THREADS".to_owned(), EnvValue::Number(2.into())),
        ("METRICS".to_owned(), EnvValue::Flag(true)),
        (
            "CAMERA".to_owned(),
            text("rtsp://user:${CAMERA_PASSWORD}@camera/1"),
        ),
    ]);
    digits.startup_order = Some(10);
    digits.routes = BTreeMap::from([
        ("digitsToCloud".to_owned(), "FROM /messages/modules/delivery-digits/outputs/* INTO $upstream".into()),
        (
            "digitsToDefects".to_owned(),
            RouteSpec {
                route: r#"FROM /messages/modules/delivery-digits/outputs/low WHERE $body.score < 0.5 || 0 INTO BrokeredEndpoint("/modules/surface-defects/inputs/check")"#
                    .to_owned(),
                priority: Some(1),
                time_to_live_secs: Some(3600),
            },
        ),
    ]);
    let mut defects = module("surface-defects", 'b');
    defects.model_version = "0.9.1".to_owned();
    defects.size_bytes = 31_000_000;
    defects.create_options = object(json!({
        "HostConfig": {"Devices": [{"PathOnHost": "/dev/video0", "PathInContainer": "/dev/video0", "CgroupPermissions": "rw"}]},
        "Labels": {"note": "Prüfstand für Kratzer, Dellen und Flecken. ".repeat(20)},
    }));
    defects.desired =
        object(json!({"threshold": 0.5, "labels": ["scratch", "pit", "stain"], "zone": {"x": 0, "y": 12}}));
    let mut bearing = module("bearing-anomaly", 'c');
    bearing.condition = Some("tags.line = 'press'".to_owned());
    bearing.accuracy = AccuracySummary {
        metric: "f1".to_owned(),
        float: 0.91,
        quantized: 0.9125,
        precision: Precision::Float16,
    };
    bearing.routes = BTreeMap::from([(
        "bearing".to_owned(),
        r#"FROM /messages/modules/vibration/outputs/* INTO BrokeredEndpoint("/modules/bearing-anomaly/inputs/window")"#.into(),
    )]);

    let mut pi = target("rpi-arm64", vec![defects.clone(), digits.clone()]);
    pi.create_options = object(json!({
        "HostConfig": {
            "Memory": 268435456,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        },
    }));
    pi.edge_hub_env = BTreeMap::from([("OptimizeForPerformance".to_owned(), EnvValue::Flag(false))]);
    let mut jetson = target("jetson-orin", vec![digits, defects, bearing]);
    jetson.condition = "tags.deviceClass='jetson-orin' or tags.gpu = true".to_owned();
    jetson.create_options = object(json!({"HostConfig": {"Runtime": "nvidia"}}));
    jetson.external_modules = vec!["vibration".to_owned()];
    let gateway = target("x86-gateway", vec![]);

    let mut release = release(vec![pi, jetson, gateway]);
    release.environment = "prod".to_owned();
    release.registry_prefix = "registry.example.com:5000/aiot".to_owned();
    release.rings = vec![
        Ring {
            name: "canary".to_owned(),
            condition: Some("tags.ring = 'canary'".to_owned()),
        },
        Ring {
            name: "early".to_owned(),
            condition: Some("tags.wave < 5".to_owned()),
        },
        Ring {
            name: "all".to_owned(),
            condition: None,
        },
    ];
    let hub = &mut release.system.edge_hub;
    hub.image = format!("registry.example.com/azureiotedge-hub@sha256:{}", "d".repeat(64));
    hub.create_options = object(json!({
        "HostConfig": {"PortBindings": {"8883/tcp": [{"HostPort": "8883"}], "443/tcp": [{"HostPort": "443"}]}},
    }));
    release.system.edge_agent.env =
        BTreeMap::from([("ModuleUpdateMode".to_owned(), text("WaitForAllPulls"))]);
    release
}
