//! A challenger: declared in the shadow of a model, it rides in that model's image and in nothing else.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use aiot_oci::image::{read_config, read_manifest};
use aiot_oci::{Store, read_layout};
use aiot_plan::Model;
use aiot_testkit::device::{Device, runs_here};
use aiot_testkit::released::{Copy, Released};
use serde_json::Value;

use crate::common::{XTASK, declared, release, smallest_model};

/// Declares `<model>-next`, the same float model unquantized, in the shadow of `model` on one target.
fn declare_challenger(copy: &Copy, model: &Model, target: &str) -> String {
    let mut models: toml::Table = copy.read("models.toml").parse().unwrap();
    let declared = models["model"].as_table_mut().unwrap();
    let mut challenger = declared[model.name.as_str()].as_table().unwrap().clone();
    let name = format!("{}-next", model.name);
    challenger.remove("edge");
    let mut set = |text: &str| challenger.extend(text.parse::<toml::Table>().unwrap());
    set("version = \"2.0.0\"");
    set(&format!("targets = [\"{target}\"]"));
    set(&format!("shadow = {{ of = \"{}\", share = 0.5 }}", model.name));
    set("quantization = { scheme = \"none\" }");
    challenger["acceptance"].as_table_mut().unwrap().remove("target");
    declared.insert(name.clone(), challenger.into());
    copy.write("models.toml", models.to_string());
    name
}

#[test]
fn a_challenger_rides_in_the_image_of_its_model() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |model| model.metric.fits(model.task));
    let workspace = declared(&copy.root);
    let target = workspace
        .images()
        .filter(|(declared, _)| declared.name == model.name)
        .map(|(_, target)| target)
        .find(|target| runs_here(&target.platform.architecture).is_ok())
        .expect("a target whose images run here")
        .clone();
    release(&copy, &[]);
    let (before, models) = (copy.index(), copy.read("models.toml"));
    let name = declare_challenger(&copy, &model, target.name.as_str());
    let report = release(&copy, &[]);

    // Of all images, the one that it rides in is another, and it has none itself.
    let pair = (model.name.to_string(), target.name.to_string());
    assert_eq!(report.rebuilt().into_keys().collect::<Vec<_>>(), [pair]);
    assert_eq!(report.digests().len(), workspace.images().count());
    for path in report.written() {
        let new = copy.read(&path);
        assert!(
            !path.starts_with("deployments/") || !new.contains(&format!("\"{name}\"")),
            "{path} has a module of its own for {name}"
        );
    }

    // What the image says, and holds.
    let image = format!("{}-{}-{}", model.name, model.version, target.name);
    let layout = copy.root.join("dist/images");
    let store = Store::open_read_only(&layout).unwrap();
    let entries = read_layout(&layout).unwrap();
    let descriptor = &entries.iter().find(|(entry, _)| *entry == image).unwrap().1;
    let manifest = read_manifest(&store, &descriptor.digest).unwrap();
    let config = read_config(&store, &manifest.config.digest).unwrap().config;
    for (label, value) in [
        ("dev.aiot-ops.shadow.name", name.clone()),
        ("dev.aiot-ops.shadow.version", "2.0.0".to_owned()),
        ("dev.aiot-ops.shadow.source-digest", model.digest.to_string()),
        (
            "dev.aiot-ops.model.preprocessing-digest",
            model.input.preprocessing_digest().to_string(),
        ),
    ] {
        assert_eq!(config.labels.get(label), Some(&value), "{label}");
    }
    assert!(
        config.env.contains(&"AIOT_SHADOW_SHARE=0.5".to_owned()),
        "{:?}",
        config.env
    );
    let bom: Value =
        serde_json::from_str(&copy.read(&format!("dist/supply-chain/{image}/bom.cdx.json"))).unwrap();
    let components = bom["components"].as_array().unwrap();
    let shadow = components
        .iter()
        .find(|component| component["bom-ref"] == "shadow")
        .unwrap();
    assert_eq!(
        (&shadow["name"], &shadow["version"]),
        (&name.clone().into(), &"2.0.0".into())
    );

    // On the device, it runs.
    let device = Device::open(&layout, &descriptor.digest).unwrap();
    let mut command = device.command(&["serve"]);
    command
        .env("AIOT_HTTP_ADDRESS", "127.0.0.1:0")
        .env("AIOT_METRICS_ADDRESS", "127.0.0.1:0");
    let mut module = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(module.stderr.take().unwrap());
    let mut said = String::new();
    for line in log.lines() {
        let line = line.unwrap();
        said += &format!("{line}\n");
        if line.contains("metrics on http://") {
            break;
        }
    }
    module.kill().unwrap();
    module.wait().unwrap();
    let wanted = format!("challenger `{name}` 2.0.0 sees 50 % of the inputs and is not published");
    assert!(said.contains(&wanted), "{said}");

    // Taken out, everything is as it was.
    copy.write("models.toml", models);
    release(&copy, &[]);
    assert_eq!(copy.index(), before);

    // Bounds are kept for challengers too: one that is not good enough stops the release.
    declare_challenger(&copy, &model, target.name.as_str());
    let text = copy.read("models.toml");
    let mut models: toml::Table = text.parse().unwrap();
    let acceptance = &mut models["model"][name.as_str()]["acceptance"];
    let bound = if model.metric.reaches(2.0, 1.0) { 2.0 } else { 0.0 };
    acceptance["at-least"] = bound.into();
    copy.write("models.toml", models.to_string());
    let refused = copy.run(XTASK, &["release", "--offline"]).expect(1);
    assert!(
        refused.stderr.contains(&format!("{name} on {}", target.name)),
        "{}",
        refused.stderr
    );
}
