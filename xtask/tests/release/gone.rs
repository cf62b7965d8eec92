//! A mirror that no longer carries the locked packages: what an earlier release baked of them is used, from the store
//! or from the registry that it was pushed to, and the images come out the same.

use std::collections::BTreeMap;

use aiot_plan::lock::Lock;
use aiot_testkit::registry::Registry;
use aiot_testkit::released::{Copy, Released};
use aiot_testkit::tools::{Ended, have, run};

use crate::common::{Report, XTASK};
use crate::crashes::forget;
use crate::mirror::Mirror;

/// `xtask` with that mirror, towards a registry on this machine.
fn with(copy: &Copy, mirror: &Mirror, arguments: &[&str]) -> Ended {
    let mut command = copy.command(XTASK, arguments);
    command.env("AIOT_DEBIAN_MIRROR", &mirror.url);
    run(command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1"))
}

/// Takes the locked packages out of the store.
fn drop_packages(copy: &Copy) {
    let lock = Lock::parse(&copy.read("aiot.lock")).unwrap();
    let packages = lock.debian.iter().flat_map(|closure| &closure.package);
    for package in packages {
        let _ = std::fs::remove_file(copy.blob(&package.digest.to_string()));
    }
}

/// Takes the results of baking bases out of the store; their layers stay.
fn drop_base_results(copy: &Copy) {
    for entry in std::fs::read_dir(copy.state.join("actions/results")).unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read_to_string(&path)
            .unwrap()
            .contains("\"id\":\"assemble base ")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Takes bases, images and the packages out of the store, and the layout away.
fn drop_images(copy: &Copy) {
    let kinds = ["assemble base ", "assemble image ", "assemble index "];
    forget(copy, |id| kinds.iter().any(|kind| id.starts_with(kind)));
    drop_packages(copy);
    let _ = std::fs::remove_dir_all(copy.root.join("dist"));
}

/// How often a base was taken from an earlier release.
fn taken(text: &str) -> usize {
    text.matches("is not to be had (store: not found")
        .count()
        .min(text.matches("taken instead").count())
}

fn digests(ended: Ended) -> (BTreeMap<(String, String), String>, String) {
    let report = Report::of(ended);
    (report.digests(), report.stderr)
}

#[test]
fn a_layer_in_the_store_needs_no_package() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let mirror = Mirror::start(BTreeMap::new());
    drop_packages(&copy);
    let done = ["release", "--locked", "--format", "json"];
    let report = Report::of(with(&copy, &mirror, &done));
    assert_eq!(report.ran(), 0);
    let expected = report.digests();

    // Another version of the tool bakes bases anew; without a network, too, the store has what was baked of them.
    drop_base_results(&copy);
    let offline = ["release", "--locked", "--offline", "--format", "json"];
    let (found, stderr) = digests(with(&copy, &mirror, &offline));
    assert_eq!(found, expected);
    assert!(taken(&stderr) > 0, "{stderr}");
    assert_eq!(mirror.asked(), Vec::<String>::new());
}

#[test]
fn a_layer_comes_from_the_registry_of_an_earlier_release() {
    if !have(&["docker-registry"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let mirror = Mirror::start(BTreeMap::new());
    // Other environments name the same images in registries that are not to be asked from here.
    let environment = copy.read("deployments/dev.toml");
    std::fs::remove_dir_all(copy.root.join("deployments")).unwrap();
    copy.write("deployments/dev.toml", &environment);

    // Never pushed anywhere.
    drop_images(&copy);
    let Ended { stderr, .. } = with(&copy, &mirror, &["release", "--jobs", "1"]).expect(1);
    for part in [
        "is not to be had: store: not found; mirror (",
        "run `cargo xtask update base`",
        "no earlier release has its layer: no manifest below deployments/ names an image on it",
    ] {
        assert!(stderr.contains(part), "no `{part}` in\n{stderr}");
    }
    assert!(!mirror.asked().is_empty());

    let copy = released.copy();
    std::fs::remove_dir_all(copy.root.join("deployments")).unwrap();
    let registry = Registry::start(copy.beside());
    let prefix = format!("{}/aiot", registry.address);
    copy.write(
        "deployments/local.toml",
        format!("registry = \"{}\"\n{environment}", registry.address),
    );
    let push = ["release", "--push", &prefix, "--format", "json"];
    let (expected, _) = digests(with(&copy, &mirror, &push));
    let reviewed = copy.committed();
    drop_images(&copy);
    let (found, stderr) = digests(with(&copy, &mirror, &["release", "--locked", "--format", "json"]));
    assert_eq!(found, expected);
    assert_eq!(copy.committed(), reviewed);
    assert!(
        taken(&stderr) > 0 && stderr.contains(&format!(" of {prefix}/")) && stderr.contains(&mirror.url),
        "{stderr}"
    );
    assert_eq!(
        aiot_oci::validate_layout(&copy.root.join("dist/images")).unwrap(),
        []
    );

    // A lock that asks for another version does not get the old one.
    drop_images(&copy);
    let lock = Lock::parse(&copy.read("aiot.lock")).unwrap();
    let version = lock
        .debian
        .iter()
        .flat_map(|closure| &closure.package)
        .find(|package| package.name == "libc6")
        .map(|package| package.version.clone())
        .unwrap();
    let text = copy.read("aiot.lock");
    copy.write(
        "aiot.lock",
        text.replace(&format!("version = \"{version}\""), "version = \"99\""),
    );
    let Ended { stderr, .. } = with(&copy, &mirror, &["release", "--jobs", "1"]).expect(1);
    assert!(
        stderr.contains(&format!("holds libc6 {version} (")) && stderr.contains("locked is 99 ("),
        "{stderr}"
    );
}
