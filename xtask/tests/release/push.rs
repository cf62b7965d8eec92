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
    assert_eq!(names.len(), workspace.images().count(), "{names:?}");
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
    for (model, target) in workspace.images() {
        let digest = inspect(&format!(
            "{prefix}/{}:{}-{}",
            model.name, model.version, target.name
        ));
        assert!(
            names.contains(&format!("{prefix}/{}@{digest}", model.name)),
            "{digest}: {names:?}"
        );
    }

    // Bill of materials and provenance hang on each image, by the tag that old registries need.
    for name in &names {
        let (repository, digest) = name.split_once("@sha256:").unwrap();
        let mut command = Command::new("skopeo");
        command.args(["inspect", "--raw", "--tls-verify=false"]);
        command.arg(format!("docker://{repository}:sha256-{digest}"));
        let list = run(&mut command).expect(0).stdout;
        assert!(
            list.contains("application/vnd.cyclonedx+json") && list.contains("application/vnd.in-toto+json"),
            "{list}"
        );
    }

    let second = push();
    assert!(
        second.stdout.contains(&format!("pushed {prefix}: 0 blobs sent")),
        "{}",
        second.stdout
    );
}

/// `xtask` in a copy, towards a registry on this machine.
fn direct(copy: &aiot_testkit::released::Copy, arguments: &[&str]) -> aiot_testkit::tools::Ended {
    let mut command = copy.command(XTASK, arguments);
    run(command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1"))
}

#[test]
fn a_layout_is_pushed_and_tags_stay_where_they_are() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let registry = Registry::start(copy.beside());
    let to = format!("{}/a/b", registry.address);
    let layout = released.images().display().to_string();
    let push = |more: &[&str]| {
        let mut arguments = vec!["push", "--to", &to, "--layout", &layout, "--format", "json"];
        arguments.extend(more);
        direct(&copy, &arguments)
    };
    let sum = |ended: &aiot_testkit::tools::Ended, field: &str| -> u64 {
        let json: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let rows = json["images"].as_array().unwrap();
        rows.iter().map(|row| row[field].as_u64().unwrap()).sum()
    };
    let planned = push(&["--dry-run"]).expect(0);
    assert!(sum(&planned, "sent-bytes") > 0);
    // Nothing was sent by asking.
    let again = push(&["--dry-run"]).expect(0);
    assert_eq!(planned.stdout, again.stdout);
    let pushed = push(&[]).expect(0);
    for field in ["sent-bytes", "blobs-sent"] {
        assert_eq!(sum(&pushed, field), sum(&planned, field), "{field}");
    }
    assert_eq!(sum(&push(&[]).expect(0), "manifests-sent"), 0);
    assert_eq!(sum(&push(&["--dry-run"]).expect(0), "manifests-sent"), 0);

    // A layout that another tool wrote, with the name of an image that is there.
    let workspace = declared(&copy.root);
    let (other_model, _) = workspace.images().last().unwrap();
    let mut pairs = workspace.images();
    let (model, target) = pairs
        .find(|(model, target)| model.name != other_model.name && target.platform.architecture == "amd64")
        .unwrap();
    let tag = format!("{}-{}", model.version, target.name);
    let foreign = copy.beside().join("foreign");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--all", "--quiet", "--src-tls-verify=false"]);
    skopeo.arg(format!(
        "docker://{to}/{}:{}",
        other_model.name, other_model.version
    ));
    skopeo.arg(format!("oci:{}:{}:{tag}", foreign.display(), model.name));
    run(&mut skopeo).expect(0);
    let foreign = foreign.display().to_string();
    let refused = direct(&copy, &["push", "--to", &to, "--layout", &foreign]).expect(1);
    assert!(refused.stderr.contains("already names"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--move-tags"), "{}", refused.stderr);
    let dry = direct(&copy, &["push", "--to", &to, "--layout", &foreign, "--dry-run"]).expect(1);
    assert!(dry.stdout.contains("tag names"), "{}", dry.stdout);
    direct(&copy, &["push", "--to", &to, "--layout", &foreign, "--move-tags"]).expect(0);
    let stolen = push(&[]).expect(0);
    // The index still proves its images; the moved tag is beside it and untouched.
    assert_eq!(sum(&stolen, "manifests-sent"), 0);

    // What differs from an image of the registry.
    let reference = format!("{to}/{}:{tag}", model.name);
    let name = format!("{}-{tag}", model.name);
    let diff = direct(
        &copy,
        &["images", &name, "--layout", &layout, "--diff", &reference],
    )
    .expect(0);
    assert!(diff.stdout.contains("/model/model.onnx"), "{}", diff.stdout);
    assert!(diff.stdout.contains("first at byte"), "{}", diff.stdout);
}

#[test]
fn images_are_listed_with_what_they_share() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let layout = released.images().display().to_string();
    let listed = copy
        .run(XTASK, &["images", "--layout", &layout, "--format", "json"])
        .expect(0);
    let json: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let images = json["images"].as_array().unwrap();
    assert_eq!(images.len(), declared(&copy.root).images().count());
    for image in images {
        assert!(
            !image["name"].as_str().unwrap().contains(' '),
            "a name of its own: {image}"
        );
        assert_eq!(image["layers"].as_array().unwrap().len(), 4, "{image}");
    }
    assert!(json["distinct-bytes"].as_u64() < json["separate-bytes"].as_u64());
    let name = images[0]["name"].as_str().unwrap();
    let digest = images[0]["digest"].as_str().unwrap();
    let same = copy
        .run(XTASK, &["images", name, "--layout", &layout, "--diff", digest])
        .expect(0);
    assert!(same.stdout.contains("0 paths differ"), "{}", same.stdout);
    let text = copy.run(XTASK, &["images", "--layout", &layout]).expect(0).stdout;
    assert!(text.contains(name) && text.contains(" images, "), "{text}");
    let unknown = copy
        .run(XTASK, &["images", "no-such", "--layout", &layout])
        .expect(1);
    assert!(
        unknown.stderr.contains("no image `no-such`"),
        "{}",
        unknown.stderr
    );
}
