//! Single steps of a roll-out, each as one short story on a small fleet.

use std::collections::BTreeMap;

use aiot_hubsim::{Behaviour, Direct, Fleet, Quality, Service, Trouble};
use aiot_iothub::quiet::QuietHours;
use aiot_iothub::rollout::{
    Declared, Hub, HubDeployment, Intent, Readable, Refusal, Verdict, apply, decide, explain, fingerprint,
    rollback,
};
use aiot_iothub::{
    AccuracySummary, LayerBook, LayerSize, ModuleRelease, Release, Ring, SystemModule, SystemModules,
    TargetRelease, render,
};
use aiot_package::{Digest, Precision};
use serde_json::{Map, json};

const HOUR_SECS: u64 = 3600;
/// 2026-06-01, a Monday, 00:00 UTC.
const START_SECS: u64 = 1_780_272_000;

fn module(name: &str, image: &str) -> ModuleRelease {
    ModuleRelease {
        name: name.to_owned(),
        model: name.to_owned(),
        model_version: "1.0.0".to_owned(),
        image_repository: name.to_owned(),
        image_digest: Digest::of(image.as_bytes()),
        platform: "linux/arm64".to_owned(),
        size_bytes: 100 << 20,
        create_options: Map::new(),
        env: BTreeMap::new(),
        startup_order: None,
        restart_policy: Default::default(),
        routes: BTreeMap::new(),
        condition: None,
        accuracy: AccuracySummary {
            metric: "accuracy".to_owned(),
            float: 0.9,
            quantized: 0.9,
            precision: Precision::Int8,
        },
        desired: Map::new(),
    }
}

fn image(of: &str) -> String {
    format!("localhost/aiot/m@{}", Digest::of(of.as_bytes()))
}

fn release(runtime: &str, modules: Vec<ModuleRelease>) -> Release {
    let system = |name: &str| SystemModule {
        image: format!("localhost/azureiotedge-{name}@{}", Digest::of(runtime.as_bytes())),
        env: BTreeMap::new(),
        create_options: Map::new(),
    };
    let mut canary = Ring::new("canary", Some("tags.ring = 'canary'"));
    canary.soak_hours = 1;
    let mut all = Ring::new("all", None);
    all.soak_hours = 1;
    Release {
        environment: "prod".to_owned(),
        registry_prefix: "localhost/aiot".to_owned(),
        system: SystemModules {
            edge_agent: system("agent"),
            edge_hub: system("hub"),
        },
        rings: vec![canary, all],
        targets: vec![TargetRelease {
            name: "pi".to_owned(),
            condition: "tags.kind = 'pi'".to_owned(),
            disk_bytes: Some(1 << 30),
            link_kbit_per_s: Some(8000),
            create_options: Map::new(),
            edge_hub_env: BTreeMap::new(),
            external_modules: Vec::new(),
            modules,
        }],
    }
}

/// Ten devices, two of them canaries.
struct Plant {
    service: Service,
    sequence: u64,
    declared: Declared,
}

fn declared(release: &Release, sequence: u64) -> Declared {
    let files = render(release).unwrap().files;
    Declared::parse(
        &files["deployments.json"],
        &|path| files.get(path).cloned(),
        sequence,
        &format!("c{sequence}"),
    )
    .unwrap()
}

impl Plant {
    fn new(first: &Release) -> Plant {
        let mut fleet = Fleet::default();
        for number in 0..10 {
            let ring = if number < 2 { "canary" } else { "rest" };
            fleet.add(
                &format!("d{number}"),
                json!({"kind": "pi", "ring": ring}),
                Behaviour::GOOD,
            );
        }
        Plant {
            service: Service::new(fleet, START_SECS),
            sequence: 1,
            declared: declared(first, 1),
        }
    }

    fn commit(&mut self, release: &Release) {
        self.sequence += 1;
        self.declared = declared(release, self.sequence);
    }

    /// One run; gives what it did or waits for, without ids.
    fn run(&mut self, intent: &Intent) -> Vec<String> {
        let mut hub = Direct {
            service: &mut self.service,
            pacer: None,
        };
        let snapshot = hub.snapshot().unwrap();
        let decision = decide(&self.declared, &snapshot, intent).unwrap();
        apply(&mut hub, &decision.steps, &mut |_| {}).unwrap();
        let verdict = |verdict: &Verdict| match verdict {
            Verdict::Acts(_) => None,
            Verdict::Finished => None,
            Verdict::Waits(why) => Some(format!("waits: {why}")),
            Verdict::Stopped(why) => Some(format!("stopped: {why}")),
            Verdict::RolledBack(why) => Some(format!("rolled back: {why}")),
            Verdict::Refused(why) => Some(format!("refused: {why}")),
        };
        let stem = |id: &str| id.split('-').nth(2).unwrap_or_default().to_owned();
        let steps = decision.steps.iter().map(|step| {
            format!(
                "{}: {} ({} → {})",
                stem(step.action.subject()),
                step.why,
                step.devices_before,
                step.devices_after
            )
        });
        let waits = decision
            .lineages
            .iter()
            .filter_map(|one| Some(format!("{}: {}", one.lineage.stem, verdict(&one.verdict)?)));
        steps.chain(waits).collect()
    }

    fn pass(&mut self, hours: u64) {
        for _ in 0..hours {
            self.service.pass(HOUR_SECS);
        }
    }

    /// Runs every two hours until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.pass(2);
            if self.run(&Intent::default()).is_empty() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn running(&self, device: &str) -> Option<&String> {
        self.service.fleet.devices[device].running.get("m")
    }
}

#[track_caller]
fn check(found: &[String], expected: &[&str]) {
    let short: Vec<String> = found
        .iter()
        .map(|line| {
            // Ids of deployments differ with their contents.
            let words: Vec<&str> = line
                .split(' ')
                .map(|word| if word.starts_with("`prod-") { "ID" } else { word })
                .collect();
            words.join(" ")
        })
        .collect();
    assert_eq!(short, expected);
}

#[test]
fn the_first_release() {
    let mut plant = Plant::new(&release("r1", vec![module("m", "a")]));
    let intent = Intent::default();
    check(
        &plant.run(&intent),
        &[
            "base: create for ring `canary` (0 → 2)",
            "models: waits: the runtime ID first",
        ],
    );
    check(
        &plant.run(&intent),
        &[
            "base: waits: soaks in ring `canary` until 2026-06-01T01:00:00Z",
            "models: waits: the runtime ID first",
        ],
    );
    plant.pass(2);
    check(
        &plant.run(&intent),
        &[
            "base: widen from ring `canary` to `all` (2 → 10)",
            "models: waits: the runtime ID first",
        ],
    );
    plant.pass(2);
    check(
        &plant.run(&intent),
        &[
            "base: finish: 10 of 10 devices are good (10 → 10)",
            "models: waits: the runtime ID first",
        ],
    );
    check(
        &plant.run(&intent),
        &["models: create for ring `canary`, at most 100 MiB or 2 min per device (0 → 2)"],
    );
    plant.settle();
    check(&plant.run(&intent), &[]);
    assert_eq!(plant.running("d9"), Some(&image("a")));
}

#[test]
fn a_bad_release_stops_in_the_canary_and_goes_back() {
    let mut plant = Plant::new(&release("r1", vec![module("m", "a")]));
    plant.settle();
    plant.commit(&release("r1", vec![module("m", "b")]));
    plant.service.fleet.qualities.insert(
        image("b"),
        Quality {
            fails_percent: 100,
            trouble: Trouble::SelfCheck,
        },
    );
    let intent = Intent::default();
    check(
        &plant.run(&intent),
        &["models: create for ring `canary`, at most 100 MiB or 2 min per device (0 → 2)"],
    );
    plant.pass(2);
    let reason = "2 of 2 devices in ring `canary` are with a failed self-check, more than 5 %";
    check(
        &plant.run(&intent),
        &[
            &format!("models: stop: {reason} (2 → 2)"),
            &format!("models: stopped: {reason}"),
        ],
    );
    plant.pass(48);
    check(&plant.run(&intent), &[&format!("models: stopped: {reason}")]);
    assert_eq!(
        (plant.running("d0"), plant.running("d2")),
        (Some(&image("b")), Some(&image("a")))
    );
    // `resume` does not help while the devices are not well.
    check(
        &plant.run(&Intent {
            resume: true,
            ..Intent::default()
        }),
        &[&format!("models: stopped: {reason}")],
    );

    let mut hub = Direct {
        service: &mut plant.service,
        pacer: None,
    };
    let snapshot = hub.snapshot().unwrap();
    let decision = rollback(&plant.declared, &snapshot, "m", "wrong labels").unwrap();
    apply(&mut hub, &decision.steps, &mut |_| {}).unwrap();
    let snapshot = hub.snapshot().unwrap();
    assert!(
        rollback(&plant.declared, &snapshot, "m", "again")
            .unwrap()
            .steps
            .is_empty()
    );
    plant.pass(2);
    assert_eq!(plant.running("d0"), Some(&image("a")));
    check(
        &plant.run(&intent),
        &["models: rolled back: wrong labels; revert the change in git"],
    );
    plant.commit(&release("r1", vec![module("m", "a")]));
    check(
        &plant.run(&intent),
        &[
            "models: the newer commit asks for this release (10 → 10)",
            "models: withdraw ID which is not declared any more (0 → 0)",
        ],
    );
    check(&plant.run(&intent), &[]);
}

#[test]
fn a_finished_release_goes_back_ring_by_ring_when_git_says_so() {
    let mut plant = Plant::new(&release("r1", vec![module("m", "a")]));
    plant.settle();
    plant.commit(&release("r1", vec![module("m", "b")]));
    plant.settle();
    plant.commit(&release("r1", vec![module("m", "a")]));
    check(
        &plant.run(&Intent::default()),
        &["models: bring back, from ring `canary` on (10 → 2)"],
    );
    plant.pass(2);
    assert_eq!(
        (plant.running("d0"), plant.running("d2")),
        (Some(&image("a")), Some(&image("b")))
    );
    plant.settle();
    assert_eq!(plant.running("d2"), Some(&image("a")));
}

#[test]
fn a_model_that_leaves_goes_when_all_is_through() {
    let mut plant = Plant::new(&release("r1", vec![module("m", "a"), module("n", "n")]));
    plant.settle();
    plant.commit(&release("r1", vec![module("m", "b")]));
    plant.settle();
    assert!(!plant.service.fleet.devices["d5"].running.contains_key("n"));
    // The release before it is parked, and comes back whole.
    let mut hub = Direct {
        service: &mut plant.service,
        pacer: None,
    };
    let snapshot = hub.snapshot().unwrap();
    let decision = rollback(&plant.declared, &snapshot, "m", "n is needed").unwrap();
    let why: Vec<String> = decision.steps.iter().map(|step| step.why.clone()).collect();
    check(
        &why,
        &["ID covers the devices again", "take ID back: n is needed"],
    );
    apply(&mut hub, &decision.steps, &mut |_| {}).unwrap();
    plant.pass(2);
    assert_eq!(plant.running("d5"), Some(&image("a")));
    assert!(plant.service.fleet.devices["d5"].running.contains_key("n"));
}

#[test]
fn approval_and_quiet_hours() {
    let mut first = release("r1", vec![module("m", "a")]);
    first.rings[1].approval = true;
    first.rings[0].quiet_hours = Some(QuietHours {
        from: "06:00".to_owned(),
        to: "22:00".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
    });
    let mut plant = Plant::new(&first);
    plant.pass(5);
    let waits = "models: waits: the runtime ID first";
    check(
        &plant.run(&Intent::default()),
        &["base: waits: ring `canary` has quiet hours", waits],
    );
    plant.pass(16);
    check(
        &plant.run(&Intent::default()),
        &["base: create for ring `canary` (0 → 2)", waits],
    );
    plant.pass(2);
    check(
        &plant.run(&Intent::default()),
        &[
            "base: waits: approval for ring `all`: advance with --approve",
            waits,
        ],
    );
    let approve = Intent {
        approve: Some("Ada".to_owned()),
        ..Intent::default()
    };
    check(
        &plant.run(&approve),
        &["base: widen from ring `canary` to `all` (2 → 10)", waits],
    );
    assert!(plant.service.peek().any(|one| {
        one.labels
            .get("aiot-approved-by")
            .is_some_and(|by| by == "Ada for all")
    }));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut big = release("r1", vec![module("m", "a")]);
    big.targets[0].disk_bytes = Some(150 << 20);
    let mut plant = Plant::new(&big);
    plant.settle();
    let mut next = release("r1", vec![module("m", "b")]);
    next.targets[0].disk_bytes = Some(150 << 20);
    plant.commit(&next);
    check(
        &plant.run(&Intent::default()),
        &[
            "models: refused: old and new images are 200 MiB, and the devices have 150 MiB for them: they must fit together",
        ],
    );
    plant.service.deployment_limit = 2;
    plant.commit(&release("r1", vec![module("m", "b")]));
    check(
        &plant.run(&Intent::default()),
        &["models: refused: the hub has 2 of 2 deployments: delete what nobody needs"],
    );
}

/// What is known of layers: `(image, its own layer in MiB on the wire, unpacked)`, beside a base of 40 MiB, 90 unpacked.
fn layers(images: &[(&str, u64, u64)]) -> LayerBook {
    let mib = |compressed: u64, unpacked: u64| LayerSize {
        compressed_bytes: compressed << 20,
        unpacked_bytes: Some(unpacked << 20),
    };
    let mut book = LayerBook::default();
    for (image, compressed, unpacked) in images {
        let own = Digest::of(format!("layer of {image}").as_bytes());
        let base = (Digest::of(b"base"), mib(40, 90));
        book.add(
            Digest::of(image.as_bytes()),
            [base, (own, mib(*compressed, *unpacked))],
        );
    }
    book
}

#[test]
fn what_devices_have_already_is_neither_fetched_nor_stored_again() {
    let of = |image: &str, disk: u64| {
        let mut release = release("r1", vec![module("m", image)]);
        release.targets[0].disk_bytes = Some(disk << 20);
        release
    };
    let (a, both) = (("a", 60, 60), [("a", 60, 60), ("b", 30, 40)]);
    let mut plant = Plant::new(&of("a", 190));
    plant.declared.learn(layers(&[a]));
    plant.settle();
    // Nothing is known of the new image: what is on the wire is the least, and 200 MiB of it do not fit.
    plant.commit(&of("b", 190));
    check(
        &plant.run(&Intent::default()),
        &[
            "models: refused: old and new images are 200 MiB, and the devices have 190 MiB for them: they must fit together",
        ],
    );
    // 90 + 60 + 40 MiB unpacked do.
    plant.declared.learn(layers(&both));
    check(
        &plant.run(&Intent::default()),
        &[
            "models: create for ring `canary`, 30 MiB or 1 min per device with the images before, 70 MiB or 2 min without (0 → 2)",
        ],
    );
    let mut plant = Plant::new(&of("a", 189));
    plant.declared.learn(layers(&[a]));
    plant.settle();
    plant.commit(&of("b", 189));
    plant.declared.learn(layers(&both));
    check(
        &plant.run(&Intent::default()),
        &[
            "models: refused: old and new images are 190 MiB unpacked, and the devices have 189 MiB for them: they must fit together",
        ],
    );
}

#[test]
fn an_old_checkout_and_broken_labels_touch_nothing() {
    let first = release("r1", vec![module("m", "a")]);
    let mut plant = Plant::new(&first);
    plant.settle();
    plant.commit(&release("r1", vec![module("m", "b")]));
    plant.run(&Intent::default());
    let mut hub = Direct {
        service: &mut plant.service,
        pacer: None,
    };
    let mut snapshot = hub.snapshot().unwrap();
    let error = decide(&declared(&first, 1), &snapshot, &Intent::default()).unwrap_err();
    assert!(matches!(error, Refusal::OutOfDate { .. }), "{error}");
    snapshot.deployments[0].labels.remove("aiot-ring");
    let error = decide(&plant.declared, &snapshot, &Intent::default()).unwrap_err();
    assert!(error.to_string().contains("label `aiot-ring`"), "{error}");
}

#[test]
fn one_device_is_explained() {
    let mut plant = Plant::new(&release("r1", vec![module("m", "a")]));
    plant.settle();
    plant.commit(&release("r1", vec![module("m", "b")]));
    plant.run(&Intent::default());
    let mut hub = Direct {
        service: &mut plant.service,
        pacer: None,
    };
    let snapshot = hub.snapshot().unwrap();
    let explained = |number: usize| {
        explain(
            &plant.declared,
            &Readable::new(&snapshot.deployments),
            &snapshot.devices[number],
        )
        .unwrap()
    };
    let roles = |number: usize| {
        explained(number)
            .matching
            .iter()
            .map(|one| one.role)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (roles(0), roles(5)),
        (vec!["base", "layer", "layer"], vec!["base", "layer"])
    );
    assert_eq!(
        (
            explained(0).rings[1].ring.as_str(),
            explained(5).rings[1].ring.as_str()
        ),
        ("canary", "all")
    );
    let of = |number: usize| {
        let pointer = "/modulesContent/$edgeAgent/properties.desired/modules/m/settings/image";
        explained(number)
            .merged
            .pointer(pointer)
            .and_then(|image| image.as_str().map(str::to_owned))
    };
    assert_eq!((of(0), of(5)), (Some(image("b")), Some(image("a"))));
}

#[test]
fn a_saved_plan_fits_one_state_of_the_hub() {
    let mut plant = Plant::new(&release("r1", vec![module("m", "a")]));
    plant.settle();
    let of = |service: &mut Service| {
        let list = Direct { service, pacer: None }.deployments().unwrap();
        fingerprint(&list, ["a", "b"].into_iter())
    };
    let before = of(&mut plant.service);
    assert_eq!(before, of(&mut plant.service));
    plant.commit(&release("r1", vec![module("m", "b")]));
    plant.run(&Intent::default());
    assert_ne!(before, of(&mut plant.service));
}

#[test]
fn notes_name_what_is_in_the_way() {
    use aiot_hubsim::sized::{Size, declared, files, finished};
    use aiot_iothub::rollout::notes;
    let size = Size {
        targets: 2,
        lines: 1,
        models: 2,
        devices: 20,
    };
    let declared = declared(&files(size, 1).unwrap(), 1).unwrap();
    let mut service = finished(size, &declared).unwrap();
    let mut check =
        |id: &str, content: serde_json::Value, priority: u32, condition: &str, expected: Option<&str>| {
            service.now_secs += 60;
            let foreign = HubDeployment {
                id: id.to_owned(),
                content: std::sync::Arc::new(json!({ "modulesContent": content })),
                condition: condition.to_owned(),
                priority,
                ..HubDeployment::default()
            };
            service.put(&foreign, None).unwrap();
            let mut hub = Direct {
                service: &mut service,
                pacer: None,
            };
            let found = notes(&declared, &hub.snapshot().unwrap());
            match expected {
                Some(expected) => assert!(found.len() == 1 && found[0].contains(expected), "{id}: {found:?}"),
                None => assert_eq!(found, Vec::<String>::new(), "{id}"),
            }
            service.delete(id, None).unwrap();
        };
    let layer = json!({"$edgeAgent": {"properties.desired.modules.model-0-1": {"settings": {"image": "x"}}}});
    let base = json!({"$edgeAgent": {"properties.desired": {"systemModules": {"edgeAgent": {"settings": {"image": "x"}}}}}});
    check(
        "strong-layer",
        layer.clone(),
        2_000_000,
        "tags.kind = 'kind-1'",
        Some("brings its own model-0-1 on 10 devices"),
    );
    check("weak-layer", layer.clone(), 5, "*", None);
    check("elsewhere", layer, 2_000_000, "tags.kind = 'kind-9'", None);
    check(
        "strong-base",
        base.clone(),
        999_999,
        "*",
        Some("outranks the runtime of 20 devices"),
    );
    check("weak-base", base, 1, "*", None);
}

#[test]
fn runtimes_without_support_are_named() {
    use aiot_hubsim::sized::{Size, declared, files, finished};
    use aiot_iothub::rollout::notes;
    let size = Size {
        targets: 1,
        lines: 1,
        models: 1,
        devices: 2,
    };
    // The release has 1.6.1 of another registry's `azureiotedge-agent`, which is as good as the original.
    let declared = declared(&files(size, 1).unwrap(), 1).unwrap();
    let mut service = finished(size, &declared).unwrap();
    let mut at = |text: &str| {
        service.now_secs = aiot_iothub::quiet::time_of_text(text).unwrap();
        let mut hub = Direct {
            service: &mut service,
            pacer: None,
        };
        notes(&declared, &hub.snapshot().unwrap())
    };
    assert_eq!(at("2028-11-13T00:00:00Z"), Vec::<String>::new());
    let ended = at("2028-11-15T00:00:00Z");
    assert_eq!(ended.len(), 2, "agent and hub: {ended:?}");
    assert!(
        ended[0].contains("azureiotedge-agent:1.6.1` is not supported any more since 2028-11-14"),
        "{ended:?}"
    );
}

#[test]
fn the_fleet_shows_what_is_missing_and_what_is_left() {
    use aiot_hubsim::sized::{Size, declared, files, finished};
    use aiot_iothub::rollout::fleet::{Filter, Fleet};
    let size = Size {
        targets: 1,
        lines: 2,
        models: 1,
        devices: 2,
    };
    let declared = declared(&files(size, 1).unwrap(), 1).unwrap();
    let mut service = finished(size, &declared).unwrap();
    // The device of line 0 moves to line 1, and has not heard of it.
    service.move_device("device-000000", "line", json!("line-1"));
    let mut rows = |filter: Filter| -> Vec<String> {
        service.now_secs += 60;
        let mut hub = Direct {
            service: &mut service,
            pacer: None,
        };
        let snapshot = hub.snapshot().unwrap();
        let mut fleet = Fleet::new(&declared, &snapshot.deployments, filter);
        let mut texts = Vec::new();
        for device in &snapshot.devices {
            for row in fleet.rows(device).unwrap() {
                texts.push(format!("{} {} {}", row.device, row.module, row.state.as_str()));
            }
        }
        texts
    };
    let of_device = Filter {
        device: Some("device-000000".to_owned()),
        ..Filter::default()
    };
    let expected = [
        "device-000000 edgeAgent good",
        "device-000000 edgeHub good",
        "device-000000 model-1-0 waiting",
        "device-000000 model-0-0 left-over",
    ];
    assert_eq!(rows(of_device), expected);
    let of_model = Filter {
        model: Some("model-1-0".to_owned()),
        target: Some("kind-0".to_owned()),
        ..Filter::default()
    };
    assert_eq!(
        rows(of_model.clone()),
        ["device-000000 model-1-0 waiting", "device-000001 model-1-0 good"]
    );
    let elsewhere = Filter {
        target: Some("kind-1".to_owned()),
        ..of_model
    };
    assert_eq!(rows(elsewhere), Vec::<String>::new());
}
