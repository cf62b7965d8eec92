//! How long decisions take at the size of a full hub: 4 targets, 24 layers of 20 models each, 10,000 devices.
//!
//! `cargo run --profile xtask -p aiot-hubsim --example measure`

use std::collections::BTreeMap;
use std::time::Instant;

use aiot_hubsim::{Behaviour, Direct, Fleet, Service};
use aiot_iothub::diff::diff;
use aiot_iothub::rollout::{Declared, Hub, Intent, Readable, apply, decide, explain};
use aiot_iothub::{
    AccuracySummary, ModuleRelease, Release, Ring, SystemModule, SystemModules, TargetRelease, render,
};
use aiot_package::{Digest, Precision};
use serde_json::{Map, json};

fn release(generation: u32) -> Release {
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
    Release {
        environment: "prod".to_owned(),
        registry_prefix: "localhost/aiot".to_owned(),
        system: SystemModules {
            edge_agent: system("agent"),
            edge_hub: system("hub"),
        },
        rings,
        targets: (0..4)
            .map(|target| TargetRelease {
                name: format!("kind-{target}"),
                condition: format!("tags.kind = 'kind-{target}'"),
                disk_bytes: None,
                link_kbit_per_s: Some(8000),
                create_options: Map::new(),
                edge_hub_env: BTreeMap::new(),
                external_modules: Vec::new(),
                modules: (0..6)
                    .flat_map(|line| (0..20).map(move |number| (line, number)))
                    .map(|(line, number)| module(target, line, number))
                    .collect(),
            })
            .collect(),
    }
}

fn main() {
    let timed = |what: &str, start: Instant| println!("{:>8.3} s  {what}", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let first = render(&release(1)).expect("well-formed").files;
    let second = render(&release(2)).expect("well-formed").files;
    timed("render two releases of 480 images", start);
    let start = Instant::now();
    let changed = diff(&first, &second).expect("rendered").to_markdown("prod");
    timed(
        &format!("diff them, {} lines of Markdown", changed.lines().count()),
        start,
    );

    let declared = |files: &BTreeMap<String, Vec<u8>>, sequence| {
        Declared::parse(
            &files["deployments.json"],
            &|path| files.get(path).cloned(),
            sequence,
            "c",
        )
        .expect("rendered")
    };
    let mut fleet = Fleet::default();
    for number in 0..10_000 {
        let ring = if number % 500 == 0 { "canary" } else { "rest" };
        let tags = json!({"kind": format!("kind-{}", number % 4), "line": format!("line-{}", number % 7), "ring": ring});
        fleet.add(&format!("device-{number}"), tags, Behaviour::GOOD);
    }
    let mut service = Service::new(fleet, 1_780_272_000);
    for files in [&first, &second] {
        let declared = declared(files, 1);
        let mut slowest = (0.0f64, String::new());
        for run in 0.. {
            service.pass(2 * 3600);
            let mut hub = Direct {
                service: &mut service,
                pacer: None,
            };
            let snapshot = hub.snapshot().expect("it is not throttled");
            let start = Instant::now();
            let decision = decide(&declared, &snapshot, &Intent::default()).expect("it is up to date");
            let secs = start.elapsed().as_secs_f64();
            if secs > slowest.0 {
                slowest = (secs, format!("decide, run {run}, {} steps", decision.steps.len()));
            }
            if decision.steps.is_empty() {
                break;
            }
            // Tags are written 10,000 times; the simulated hub would evaluate all conditions after each.
            let (tags, steps): (Vec<_>, Vec<_>) = decision
                .steps
                .into_iter()
                .partition(|step| step.why.ends_with("gets its wave"));
            for step in &tags {
                let device = step.action.subject();
                let wave = aiot_iothub::ring::wave("prod", device);
                service.fleet.devices.get_mut(device).expect("it is there").tags["aiotWave"] = wave.into();
            }
            for steps in steps.chunks(10) {
                service.now_secs += 60;
                let mut hub = Direct {
                    service: &mut service,
                    pacer: None,
                };
                apply(&mut hub, steps, &mut |_| {}).expect("no faults here");
            }
        }
        println!(
            "{:>8.3} s  the slowest: {}, {} deployments",
            slowest.0,
            slowest.1,
            service.peek().count()
        );
        service.now_secs += 60;
    }
    let declared = declared(&second, 1);
    let snapshot = Direct {
        service: &mut service,
        pacer: None,
    }
    .snapshot()
    .expect("it is not throttled");
    let start = Instant::now();
    let readable = Readable::new(&snapshot.deployments);
    let bytes: u64 = snapshot
        .devices
        .iter()
        .map(|device| explain(&declared, &readable, device).expect("well-formed"))
        .map(|explained| {
            explained
                .desired_bytes
                .iter()
                .map(|(_, bytes)| bytes)
                .sum::<u64>()
        })
        .sum();
    timed(
        &format!(
            "merge preview of {} devices, {bytes} bytes",
            snapshot.devices.len()
        ),
        start,
    );
}
