//! Rendered releases, compared with committed files, and validated with the official schemas.
//!
//! `AIOT_BLESS=1 cargo test -p aiot-iothub --test golden` rewrites the committed files.

mod common;
mod full;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aiot_iothub::{Deployment, DeploymentKind, Release, Rendered, merge, render};
use aiot_package::Digest;
use serde_json::{Map, Value, json};

fn rendered(release: &Release) -> Rendered {
    render(release).unwrap_or_else(|errors| {
        panic!(
            "{}",
            errors
                .iter()
                .map(|error| format!("{error}\n"))
                .collect::<String>()
        );
    })
}

#[track_caller]
fn check_golden(name: &str, release: &Release) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let files = rendered(release).files;
    if std::env::var_os("AIOT_BLESS").is_some() {
        let _ = fs::remove_dir_all(&folder);
        for (path, bytes) in &files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    let mut committed = BTreeMap::new();
    read_tree(&folder, &folder, &mut committed);
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        committed.keys().collect::<Vec<_>>(),
        "files of {name}; AIOT_BLESS=1 rewrites them"
    );
    for (path, bytes) in &files {
        let new = String::from_utf8(bytes.clone()).unwrap();
        let difference = new
            .lines()
            .zip(committed[path].lines())
            .position(|(new, old)| new != old);
        assert!(
            new == committed[path],
            "{name}/{path} differs from line {difference:?} on (from 0)\n{new}"
        );
    }
}

fn read_tree(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            read_tree(root, &path, files);
        } else {
            let relative = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .replace('\\', "/");
            files.insert(relative, fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn everything_once() {
    check_golden("full", &full::full_release());
}

#[test]
fn as_small_as_it_can_be() {
    check_golden(
        "small",
        &common::release(vec![common::target(
            "rpi-arm32",
            vec![common::module("digits", '1')],
        )]),
    );
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    let release = full::full_release();
    let mut turned = release.clone();
    turned.targets.reverse();
    for target in &mut turned.targets {
        target.modules.reverse();
    }
    assert_eq!(rendered(&release), rendered(&turned));
}

#[test]
fn rings_are_no_part_of_the_content() {
    let release = full::full_release();
    let mut other = release.clone();
    other.rings.remove(0);
    let contents = |release: &Release| -> Vec<(String, Digest)> {
        rendered(release)
            .deployments
            .into_iter()
            .map(|deployment| (deployment.id, deployment.content_digest))
            .collect()
    };
    assert_eq!(contents(&release), contents(&other));
}

#[test]
fn a_new_image_changes_the_id_of_its_layer_only() {
    let release = full::full_release();
    let mut newer = release.clone();
    newer.targets[0].modules[0].image_digest = common::digest('9');
    let (before, after) = (rendered(&release), rendered(&newer));
    let changed: Vec<_> = before
        .deployments
        .iter()
        .filter(|deployment| after.deployments.iter().all(|other| other.id != deployment.id))
        .map(|deployment| deployment.file.as_str())
        .collect();
    assert_eq!(changed, ["rpi-arm64/models.json"]);
}

#[test]
fn layers_are_above_the_base() {
    let rendered = rendered(&full::full_release());
    for layer in rendered
        .deployments
        .iter()
        .filter(|deployment| deployment.kind == DeploymentKind::Layered)
    {
        let base = base_of(&rendered, layer);
        assert!(layer.priority > base.priority, "{}", layer.id);
    }
}

fn base_of<'a>(rendered: &'a Rendered, layer: &Deployment) -> &'a Deployment {
    rendered
        .deployments
        .iter()
        .find(|deployment| deployment.kind == DeploymentKind::Base && deployment.target == layer.target)
        .expect("every target has a base")
}

fn content(rendered: &Rendered, deployment: &Deployment) -> Value {
    serde_json::from_slice(&rendered.files[&deployment.file]).unwrap()
}

/// Validates a whole manifest as the two official tools do: the document, and each system module by its version.
fn validate(name: &str, manifest: &Value) {
    let check = |schema: &str, value: &Value| {
        let schema: Value = serde_json::from_str(schema).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    };
    check(
        include_str!("../schemas/azure-iot-edge-deployment-2.0.json"),
        manifest,
    );
    let modules = &manifest["modulesContent"];
    check(
        include_str!("../schemas/azure-iot-edgeagent-deployment-1.1.json"),
        &json!({"$edgeAgent": modules["$edgeAgent"]}),
    );
    check(
        include_str!("../schemas/azure-iot-edgehub-deployment-1.1.json"),
        &json!({"$edgeHub": modules["$edgeHub"]}),
    );
}

#[test]
fn the_official_schemas_accept_bases_and_merged_layers() {
    let rendered = rendered(&full::full_release());
    for deployment in &rendered.deployments {
        match deployment.kind {
            DeploymentKind::Base => validate(&deployment.id, &content(&rendered, deployment)),
            DeploymentKind::Layered => {
                let base = content(&rendered, base_of(&rendered, deployment));
                let layer = content(&rendered, deployment);
                let merged = merge(&base, &[(deployment.priority, &layer)]).unwrap();
                validate(&deployment.id, &merged.to_content());
            }
        }
    }
}

#[test]
#[should_panic(expected = "restartPolicy")]
fn the_schemas_are_in_force() {
    let rendered = rendered(&full::full_release());
    let base = rendered
        .deployments
        .iter()
        .find(|deployment| deployment.kind == DeploymentKind::Base)
        .unwrap();
    let mut content = content(&rendered, base);
    content["modulesContent"]["$edgeAgent"]["properties.desired"]["systemModules"]["edgeHub"]["restartPolicy"] =
        json!("sometimes");
    validate("changed", &content);
}

#[test]
fn every_layer_has_dotted_keys_and_an_edge_agent() {
    let rendered = rendered(&full::full_release());
    for deployment in rendered
        .deployments
        .iter()
        .filter(|deployment| deployment.kind == DeploymentKind::Layered)
    {
        let content = content(&rendered, deployment);
        let system = |name: &str| {
            content["modulesContent"][name]
                .as_object()
                .cloned()
                .unwrap_or_else(Map::new)
        };
        assert!(
            content["modulesContent"]["$edgeAgent"].is_object(),
            "{}",
            deployment.id
        );
        assert!(
            system("$edgeAgent")
                .keys()
                .all(|key| key.starts_with("properties.desired.modules."))
        );
        assert!(
            system("$edgeHub")
                .keys()
                .all(|key| key.starts_with("properties.desired.routes."))
        );
    }
}

#[test]
fn create_options_come_back_from_the_merged_manifest() {
    let rendered = rendered(&full::full_release());
    let layer = rendered
        .deployments
        .iter()
        .find(|deployment| deployment.file == "rpi-arm64/models.json")
        .unwrap();
    let merged = merge(
        &content(&rendered, base_of(&rendered, layer)),
        &[(20, &content(&rendered, layer))],
    )
    .unwrap();
    let settings = merged.desired["$edgeAgent"]["modules"]["surface-defects"]["settings"]
        .as_object()
        .unwrap();
    let pieces: BTreeMap<String, String> = settings
        .iter()
        .filter(|(key, _)| key.starts_with("createOptions"))
        .map(|(key, piece)| (key.clone(), piece.as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(pieces.len(), 3);
    let options = aiot_iothub::create_options::join(&pieces).unwrap();
    // The target's memory limit and the module's device.
    assert_eq!(options["HostConfig"]["Memory"], 268435456);
    assert_eq!(options["HostConfig"]["Devices"][0]["PathOnHost"], "/dev/video0");
}

#[test]
fn conditions_with_the_same_words_get_files_of_their_own() {
    let mut release = common::release(vec![common::target(
        "pi",
        vec![
            common::module("a", '1'),
            common::module("b", '2'),
            common::module("c", '3'),
        ],
    )]);
    for (module, condition) in
        release.targets[0]
            .modules
            .iter_mut()
            .zip(["tags.p = 'x'", "tags.p = 'X'", "tags.p='x'"])
    {
        module.condition = Some(condition.to_owned());
    }
    let rendered = rendered(&release);
    let layers: Vec<_> = rendered
        .deployments
        .iter()
        .filter(|deployment| deployment.kind == DeploymentKind::Layered)
        .map(|deployment| {
            let names: Vec<_> = deployment
                .modules
                .iter()
                .map(|module| module.name.as_str())
                .collect();
            names.join(" ")
        })
        .collect();
    assert_eq!(layers.len(), 2);
    assert!(layers.contains(&"a c".to_owned()), "{layers:?}");
    assert_eq!(rendered.files.len(), 5, "{:?}", rendered.files.keys());
}
