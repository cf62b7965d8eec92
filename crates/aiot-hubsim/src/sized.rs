//! A release and a hub of any size, to measure with.

use std::collections::BTreeMap;

use aiot_iothub::ring::{WAVE_TAG, wave};
use aiot_iothub::rollout::{Action, Declared, Hub, Intent, apply, decide};
use aiot_iothub::{
    AccuracySummary, ManifestError, ModuleRelease, Release, Ring, SystemModule, SystemModules, TargetRelease,
    render,
};
use aiot_package::{Digest, Precision};
use serde_json::{Map, json};

use crate::fleet::{Behaviour, Fleet};
use crate::service::{Direct, Service};

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Kinds of device.
    pub targets: usize,
    /// Layers of each target, one per production line.
    pub lines: usize,
    /// Models of each layer.
    pub models: usize,
    /// Devices.
    pub devices: usize,
}

/// Runs that bring a release everywhere: three rings, the runtime first, and what is tidied up afterwards.
const RUNS_LIMIT: usize = 60;

/// The generated files of a release: all models have other images in each `generation`.
///
/// # Errors
/// What is too large for a hub or a device.
pub fn files(size: Size, generation: u32) -> Result<BTreeMap<String, Vec<u8>>, Vec<ManifestError>> {
    let module = |target: usize, line: usize, number: usize| ModuleRelease {
        name: format!("model-{line}-{number}"),
        model: format!("model-{line}-{number}"),
        model_version: format!("1.0.{generation}"),
        image_repository: format!("model-{line}-{number}"),
        image_digest: Digest::of(format!("{generation} {target} {line} {number}").as_bytes()),
        platform: "linux/arm64".to_owned(),
        size_bytes: 30 << 20,
        create_options: Map::new(),
        env: BTreeMap::new(),
        startup_order: None,
        restart_policy: Default::default(),
        routes: BTreeMap::new(),
        condition: Some(format!("tags.line = 'line-{line}'")),
        accuracy: AccuracySummary {
            metric: "accuracy".to_owned(),
            float: 0.9,
            quantized: 0.9,
            precision: Precision::Int8,
        },
        desired: Map::new(),
    };
    let system = |name: &str| SystemModule {
        image: format!("localhost/azureiotedge-{name}:1.6.1"),
        env: BTreeMap::new(),
        create_options: Map::new(),
    };
    let mut early = Ring::new("early", None);
    early.percent = Some(5);
    let mut rings = vec![
        Ring::new("canary", Some("tags.ring = 'canary'")),
        early,
        Ring::new("all", None),
    ];
    for ring in &mut rings {
        ring.soak_hours = 1;
    }
    let release = Release {
        environment: "prod".to_owned(),
        registry_prefix: "localhost/aiot".to_owned(),
        system: SystemModules {
            edge_agent: system("agent"),
            edge_hub: system("hub"),
        },
        rings,
        targets: (0..size.targets)
            .map(|target| TargetRelease {
                name: format!("kind-{target}"),
                condition: format!("tags.kind = 'kind-{target}'"),
                disk_bytes: None,
                link_kbit_per_s: Some(8000),
                create_options: Map::new(),
                edge_hub_env: BTreeMap::new(),
                external_modules: Vec::new(),
                modules: (0..size.lines)
                    .flat_map(|line| (0..size.models).map(move |number| (line, number)))
                    .map(|(line, number)| module(target, line, number))
                    .collect(),
            })
            .collect(),
    };
    render(&release).map(|rendered| rendered.files)
}

/// [`files`], read back.
///
/// # Errors
/// In the words of people.
pub fn declared(files: &BTreeMap<String, Vec<u8>>, sequence: u64) -> Result<Declared, String> {
    let list = files.get("deployments.json").ok_or("no deployments.json")?;
    Declared::parse(list, &|path| files.get(path).cloned(), sequence, "c").map_err(|error| error.to_string())
}

/// A hub where a release has finished on all devices.
///
/// # Errors
/// In the words of people.
pub fn finished(size: Size, declared: &Declared) -> Result<Service, String> {
    let mut fleet = Fleet::default();
    for number in 0..size.devices {
        let id = format!("device-{number:06}");
        let ring = if number % 500 < size.targets {
            "canary"
        } else {
            "rest"
        };
        let tags = json!({
            "kind": format!("kind-{}", number % size.targets.max(1)),
            "line": format!("line-{}", number / size.targets.max(1) % size.lines.max(1)),
            "ring": ring, WAVE_TAG: wave("prod", &id),
        });
        fleet.add(&id, tags, Behaviour::GOOD);
    }
    let mut service = Service::new(fleet, 1_780_272_000);
    for _ in 0..RUNS_LIMIT {
        service.pass(2 * 3600);
        let mut hub = Direct {
            service: &mut service,
            pacer: None,
        };
        let snapshot = hub.snapshot().map_err(|error| error.to_string())?;
        let decision = decide(declared, &snapshot, &Intent::default()).map_err(|error| error.to_string())?;
        if decision.steps.is_empty() {
            return Ok(service);
        }
        debug_assert!(
            decision
                .steps
                .iter()
                .all(|step| !matches!(step.action, Action::Tag { .. }))
        );
        for steps in decision.steps.chunks(10) {
            service.now_secs += 60;
            let mut hub = Direct {
                service: &mut service,
                pacer: None,
            };
            apply(&mut hub, steps, &mut |_| {}).map_err(|error| error.to_string())?;
        }
        service.now_secs += 60;
    }
    Err(format!("the release is not through after {RUNS_LIMIT} runs"))
}
