//! To a real registry: everything arrives under the digests that the manifests name, and a second push sends nothing.

use std::process::Command;

use aiot_testkit::registry::Registry;
use aiot_testkit::released::Released;
use aiot_testkit::tools::{have, run};

use crate::common::{XTASK, declared};

/// Every `"image"` of a deployment manifest that is one of ours.
fn image_names(json: &serde_json::Value, prefix: &str, found: &mut Vec<String>) {
    match json {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(name) if key == "image" && name.starts_with(prefix) => found.push(name.to_owned()),
                    _ => image_names(value, prefix, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| image_names(value, prefix, found)),
        _ => {}
    }
}

#[test]
fn a_registry_has_what_the_manifests_name() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let registry = Registry::start(copy.beside());
    let prefix = format!("{}/aiot", registry.address);
    let environment = copy.read("deployments/dev.toml");
    copy.write(
        "deployments/local.toml",
        format!("registry = \"{}\"\n{environment}", registry.address),
    );
    let push = || {
        let mut command = copy.command(XTASK, &["release", "--environment", "local", "--push", &prefix]);
        run(command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1")).expect(0)
    };
    let first = push();
    assert!(
        first.stdout.contains(&format!("pushed {prefix}: ")),
        "{}",
        first.stdout
    );

    let workspace = declared(&copy.root);
    let mut names = Vec::new();
    for (path, text) in copy.committed() {
        if path.starts_with("deployments/local/") && path.ends_with(".json") {
            image_names(&serde_json::from_str(&text).unwrap(), &prefix, &mut names);
        }
    }
    assert_eq!(names.len(), workspace.pairs().count(), "{names:?}");
    let inspect = |reference: &str| {
        let mut command = Command::new("skopeo");
        command.args([
            "inspect",
            "--no-tags",
            "--tls-verify=false",
            &format!("docker://{reference}"),
        ]);
        let found: serde_json::Value = serde_json::from_str(&run(&mut command).expect(0).stdout).unwrap();
        found["Digest"].as_str().unwrap().to_owned()
    };
    for name in &names {
        assert_eq!(
            Some(inspect(name).as_str()),
            name.split_once('@').map(|(_, digest)| digest),
            "{name}"
        );
    }
    for (model, target) in workspace.pairs() {
        let digest = inspect(&format!(
            "{prefix}/{}:{}-{}",
            model.name, model.version, target.name
        ));
        assert!(
            names.contains(&format!("{prefix}/{}@{digest}", model.name)),
            "{digest}: {names:?}"
        );
    }

    let second = push();
    assert!(
        second.stdout.contains(&format!("pushed {prefix}: 0 blobs sent")),
        "{}",
        second.stdout
    );
}
