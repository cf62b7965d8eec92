//! One release that uses everything once.

use std::collections::BTreeMap;

use aiot_iothub::quiet::QuietHours;
use aiot_iothub::{AccuracySummary, Amount, EnvValue, Release, Ring, RouteSpec};
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
        Ring::new("canary", Some("tags.ring = 'canary'")),
        Ring {
            percent: Some(5),
            ..Ring::new("early", None)
        },
        Ring::new("all", None),
    ];
    release.rings[1].soak_hours = 48;
    release.rings[1].at_most.drifting = Amount::Count(3);
    release.rings[2].approval = true;
    release.rings[2].quiet_hours = Some(QuietHours {
        from: "05:30".to_owned(),
        to: "22:00".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
    });
    release.targets[1].disk_bytes = Some(8 << 30);
    release.targets[1].link_kbit_per_s = Some(8000);
    let hub = &mut release.system.edge_hub;
    hub.image = format!("registry.example.com/azureiotedge-hub@sha256:{}", "d".repeat(64));
    hub.create_options = object(json!({
        "HostConfig": {"PortBindings": {"8883/tcp": [{"HostPort": "8883"}], "443/tcp": [{"HostPort": "443"}]}},
    }));
    release
}
