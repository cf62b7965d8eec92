//! What is refused, and in which words.

mod common;

use std::collections::BTreeMap;

use aiot_iothub::quiet::QuietHours;
use aiot_iothub::{EnvValue, ModuleRelease, Release, Ring, RouteSpec, render};
use common::{module, object, release, target, text};
use serde_json::json;

/// Renders a small release after `change`; expects exactly these errors, each given by a part of its text.
#[track_caller]
fn check(change: impl FnOnce(&mut Release), expected: &[&str]) {
    let mut release = release(vec![target("pi", vec![module("a", '1'), module("b", '2')])]);
    change(&mut release);
    let errors: Vec<String> = match render(&release) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected), "{error}\n  expected {expected}");
    }
}

/// The same for one module.
#[track_caller]
fn check_module(change: impl FnOnce(&mut ModuleRelease), expected: &[&str]) {
    check(|release| change(&mut release.targets[0].modules[0]), expected);
}

fn with_route(route: &str) -> impl FnOnce(&mut ModuleRelease) {
    let spec: RouteSpec = route.into();
    move |module| module.routes = BTreeMap::from([("r".to_owned(), spec)])
}

fn with_variable(name: &str, value: EnvValue) -> impl FnOnce(&mut ModuleRelease) {
    let name = name.to_owned();
    move |module| module.env = BTreeMap::from([(name, value)])
}

#[test]
fn nothing_wrong() {
    check(|_| {}, &[]);
    check(|release| release.targets.clear(), &[]);
}

#[test]
fn names() {
    check(
        |release| release.environment = "Prod".into(),
        &["environment: `Prod` is not a name"],
    );
    check(
        |release| release.environment = String::new(),
        &["environment: `` is not a name"],
    );
    check(
        |release| release.targets[0].name = "../x".into(),
        &["target `../x`: `../x` is not a name"],
    );
    check(
        |release| release.targets[0].name = "-x".into(),
        &["is not a name"],
    );
    check(
        |release| release.targets[0].name = "x".repeat(41),
        &["at most 40"],
    );
    check_module(
        |module| module.name = "a.b".into(),
        &["target `pi`, module `a.b`: `a.b` is not a name"],
    );
    check_module(|module| module.name = "$edgeAgent".into(), &["is not a name"]);
    check_module(|module| module.name = "edgeHub".into(), &["is not a name"]);
    check_module(
        |module| module.name = "b".into(),
        &["module `b`: the name is used again in the same target"],
    );
    check(
        |release| {
            let mut other = release.targets[0].clone();
            other.condition = "tags.x = 1".into();
            release.targets.push(other);
        },
        &["target `pi`: the name is used again"],
    );
    check(
        |release| {
            let mut other = target("pi2", vec![]);
            other.condition = "(tags.deviceClass='pi')".into();
            release.targets.push(other);
        },
        &["target `pi2`: the condition is that of target `pi`"],
    );
}

#[test]
fn images() {
    check(
        |release| release.registry_prefix = "host/".into(),
        &["image `host/` is not a registry prefix"],
    );
    check(
        |release| release.registry_prefix = String::new(),
        &["is not a registry prefix"],
    );
    check(
        |release| release.system.edge_agent.image = "example.com/agent:1.5".into(),
        &["system module `edgeAgent`: image `example.com/agent:1.5` has a tag that moves"],
    );
    check_module(
        |module| module.image_repository = "a:1".into(),
        &["is not a repository"],
    );
}

#[test]
fn conditions() {
    check(
        |release| release.targets[0].condition = "tags.a = \"x\"".into(),
        &["target `pi`: condition `tags.a = \"x\"`: column 10: the hub refuses this quote"],
    );
    check(
        |release| release.targets[0].condition = String::new(),
        &["the condition is empty"],
    );
    check_module(
        |module| module.condition = Some("tags.a".into()),
        &["module `a`: condition `tags.a`: column 7"],
    );
    check(
        |release| release.rings = vec![Ring::new("r", Some("x"))],
        &["ring `r`: condition `x`: column 1: `x` is not a path"],
    );
    check(
        |release| {
            release.rings = vec![Ring {
                percent: Some(101),
                ..Ring::new("r", None)
            }]
        },
        &["ring `r`: percent is 101: write 0 to 100"],
    );
    let mut quiet = Ring::new("r", None);
    quiet.quiet_hours = Some(QuietHours {
        from: "06:00".to_owned(),
        to: "22:00".to_owned(),
        time_zone: "Berlin".to_owned(),
    });
    check(
        |release| release.rings = vec![quiet],
        &["ring `r`: quiet hours: `Berlin` is not in the time zone database"],
    );
    let ring = Ring::new("r", None);
    check(
        |release| release.rings = vec![ring.clone(), ring],
        &["ring `r`: the name is used again"],
    );
}

#[test]
fn routes() {
    check_module(
        with_route("FROM /messages/* TO $upstream"),
        &["module `a`, route `r`: route `FROM /messages/* TO $upstream`: column 18"],
    );
    check_module(with_route("FROM /messages/modules/b/* INTO $upstream"), &[]);
    check_module(
        with_route("FROM /messages/modules/c/* INTO $upstream"),
        &["the route names module `c`, which is not on this target: it has `a`, `b`"],
    );
    check_module(
        with_route(r#"FROM /* INTO BrokeredEndpoint("/modules/c/inputs/x")"#),
        &["the route names module `c`"],
    );
    check(
        |release| {
            release.targets[0].external_modules = vec!["c".into()];
            with_route("FROM /messages/modules/c/* INTO $upstream")(&mut release.targets[0].modules[0]);
        },
        &[],
    );
    check(
        |release| {
            release.targets[0].modules[1].condition = Some("tags.line = 'x'".into());
            with_route("FROM /messages/modules/b/* INTO $upstream")(&mut release.targets[0].modules[0]);
        },
        &["module `b`, which is only on devices with `tags.line = 'x'`"],
    );
    check(
        |release| {
            for module in &mut release.targets[0].modules {
                module.routes = BTreeMap::from([("r".to_owned(), "FROM /* INTO $upstream".into())]);
            }
        },
        &["module `b`, route `r`: the name is used again in module `a`"],
    );
    check_module(
        |module| {
            let spec = RouteSpec {
                priority: Some(10),
                ..RouteSpec::from("FROM /* INTO $upstream")
            };
            module.routes = BTreeMap::from([("a.b".to_owned(), spec)]);
        },
        &["`a.b` is not a name", "priority: 10 of 9"],
    );
}

#[test]
fn variables() {
    check_module(
        with_variable("A.B", EnvValue::Flag(true)),
        &["`A.B` is not a name: use no `+`"],
    );
    check_module(
        with_variable("IOTEDGE_DEVICEID", text("x")),
        &["variable `IOTEDGE_DEVICEID` is set by the runtime"],
    );
    check_module(
        |module| {
            with_variable("A", text("x"))(module);
            module.create_options = object(json!({"env": ["A=y", "B=z"]}));
        },
        &["variable `A` is set here and in createOptions"],
    );
    check_module(
        with_variable("A", text(&"x".repeat(4097))),
        &["bytes of one value: 4097 of 4096"],
    );
}

#[test]
fn secrets() {
    let string = "HostName=h;SharedAccessKeyName=n;SharedAccessKey=abc";
    check_module(
        with_variable("CONNECTION", text(string)),
        &[
            "variable `CONNECTION`: the value looks like a connection string with its key: put a placeholder such as ${CONNECTION} there",
        ],
    );
    check_module(
        with_variable("DB_PASSWORD", text("x")),
        &["looks like a secret by its name: put a placeholder such as ${DB_PASSWORD}"],
    );
    check_module(with_variable("DB_PASSWORD", text("${DB}")), &[]);
    check_module(
        |module| module.create_options = object(json!({"Env": ["DB_PASSWORD=x"], "Labels": {"l": string}})),
        &[
            "createOptions, `Env`: the value looks like a secret by its name",
            "createOptions, `Labels`, `l`",
        ],
    );
    check_module(
        |module| module.desired = object(json!({"a": [{"b": "-----BEGIN PRIVATE KEY-----"}]})),
        &["desired properties, `a`, `b`: the value looks like a private key"],
    );
    check(
        |release| release.system.edge_hub.env = BTreeMap::from([("X".to_owned(), text(string))]),
        &["system module `edgeHub`, variable `X`"],
    );
}

#[test]
fn limits() {
    check(
        |release| release.targets[0].create_options = object(json!({"Labels": {"l": "x".repeat(4096)}})),
        &[
            "module `a`: createOptions are 4115 bytes of JSON, 9 pieces",
            "module `b`: createOptions are",
        ],
    );
    check(
        |release| release.system.edge_hub.create_options = object(json!({"Labels": {"l": "x".repeat(4096)}})),
        &["system module `edgeHub`: createOptions are"],
    );
    check(
        |release| {
            release.targets[0].modules = (0..49).map(|n| module(&format!("m{n}"), '1')).collect();
        },
        &["target `pi`: modules on a device: 51 of 50"],
    );
    // Devices of different sites do not share a budget; modules for all sites count at each.
    let sites = |everywhere: usize| {
        move |release: &mut Release| {
            let modules = (0..60 + everywhere).map(|n| {
                let mut module = module(&format!("m{n}"), '1');
                module.condition = (n < 60).then(|| format!("tags.site = '{}'", n % 3));
                module
            });
            release.targets[0].modules = modules.collect();
        }
    };
    check(sites(28), &[]);
    check(sites(29), &["target `pi`: modules on a device: 51 of 50"]);
    check(
        |release| release.targets[0].create_options = object(json!({"Labels": {"l": "x".repeat(3900)}})),
        &[],
    );
    check(
        |release| {
            release.targets[0].create_options = object(json!({"Labels": {"l": "x".repeat(3900)}}));
            release.targets[0].modules = (0..9).map(|n| module(&format!("m{n}"), '1')).collect();
        },
        &["target `pi`, desired properties of `$edgeAgent`: bytes: "],
    );
    check(
        |release| {
            release.targets = (0..51)
                .map(|n| target(&format!("t{n}"), vec![module("a", '1')]))
                .collect()
        },
        &["the release: deployments on a hub: 102 of 100"],
    );
    check_module(
        |module| module.desired = object(json!({"a b": null})),
        &["`a b` is a key with", "`a b` is null"],
    );
}

#[test]
fn all_mistakes_come_at_once() {
    check(
        |release| {
            release.environment = "P".into();
            release.targets[0].condition = "x".into();
            release.targets[0].modules[1].image_repository = String::new();
        },
        &["environment", "target `pi`: condition", "module `b`: image"],
    );
}
