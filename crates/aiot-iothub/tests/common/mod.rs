//! Releases that the tests render.

use std::collections::BTreeMap;

use aiot_iothub::{
    AccuracySummary, EnvValue, ModuleRelease, Release, SystemModule, SystemModules, TargetRelease,
};
use aiot_package::{Digest, Precision};
use serde_json::{Map, Value};

pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("the test wants an object, not {other}"),
    }
}

pub fn text(value: &str) -> EnvValue {
    EnvValue::Text(value.to_owned())
}

/// The digest of 64 times `digit`.
pub fn digest(digit: char) -> Digest {
    Digest::from_hex(&digit.to_string().repeat(64)).unwrap()
}

/// A module as small as it can be; `digit` tells images apart.
pub fn module(name: &str, digit: char) -> ModuleRelease {
    ModuleRelease {
        name: name.to_owned(),
        model: name.to_owned(),
        model_version: "1.0.0".to_owned(),
        image_repository: name.to_owned(),
        image_digest: digest(digit),
        platform: "linux/arm64".to_owned(),
        size_bytes: 10 << 20,
        create_options: Map::new(),
        env: BTreeMap::new(),
        startup_order: None,
        restart_policy: Default::default(),
        routes: BTreeMap::new(),
        condition: None,
        accuracy: AccuracySummary {
            metric: "top-1".to_owned(),
            float: 0.975,
            quantized: 0.9722,
            precision: Precision::Int8,
        },
        desired: Map::new(),
    }
}

pub fn target(name: &str, modules: Vec<ModuleRelease>) -> TargetRelease {
    TargetRelease {
        name: name.to_owned(),
        condition: format!("tags.deviceClass = '{name}'"),
        disk_bytes: None,
        link_kbit_per_s: None,
        create_options: Map::new(),
        edge_hub_env: BTreeMap::new(),
        external_modules: Vec::new(),
        modules,
    }
}

pub fn release(targets: Vec<TargetRelease>) -> Release {
    let system = |name: &str| SystemModule {
        image: format!("registry.example.com/azureiotedge-{name}:1.5.21"),
        env: BTreeMap::new(),
        create_options: Map::new(),
    };
    Release {
        environment: "dev".to_owned(),
        registry_prefix: "localhost/aiot".to_owned(),
        system: SystemModules {
            edge_agent: system("agent"),
            edge_hub: system("hub"),
        },
        rings: Vec::new(),
        targets,
    }
}
