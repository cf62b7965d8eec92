//! The layout: our own validator and the tools that people use accept it, and every image is what it says.

use std::process::Command;

use aiot_oci::image::{read_config, read_index, read_manifest};
use aiot_oci::{Store, read_layout, validate_layout};
use aiot_testkit::device::Device;
use aiot_testkit::released::Released;
use aiot_testkit::tools::{have, run};

use crate::common::{declared, images, one_per_architecture};

#[test]
fn the_layout_is_valid() {
    let Some(released) = Released::find() else { return };
    assert_eq!(validate_layout(&released.images()).unwrap(), []);
}

#[test]
fn configurations_say_how_to_run_and_nothing_of_this_machine() {
    let Some(released) = Released::find() else { return };
    let store = Store::open_read_only(&released.images()).unwrap();
    for image in images(&released) {
        let manifest = read_manifest(&store, &image.digest).unwrap();
        let config = read_config(&store, &manifest.config.digest).unwrap();
        let name = &image.name;
        assert_eq!(config.platform(), image.platform, "{name}");
        let bytes = store.read_verified(&manifest.config.digest, 1 << 20).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert!(
            json.get("created").is_none() && json.get("history").is_none(),
            "{name}: {json}"
        );
        let execution = config.config;
        assert_eq!(execution.user, "65532:65532", "{name}");
        assert_eq!(
            execution.entrypoint,
            [format!("/app/{}", image.model.module)],
            "{name}"
        );
        let label = |key: &str| execution.labels.get(key).map(String::as_str);
        assert_eq!(
            label("org.opencontainers.image.title"),
            Some(image.model.name.as_str()),
            "{name}"
        );
        assert_eq!(
            label("org.opencontainers.image.version"),
            Some(image.model.version.as_str()),
            "{name}"
        );
        assert_eq!(
            label("dev.aiot-ops.model.name"),
            Some(image.model.name.as_str()),
            "{name}"
        );
        assert_eq!(
            label("dev.aiot-ops.model.source-digest"),
            Some(image.model.digest.to_string().as_str()),
            "{name}"
        );
        assert!(label("dev.aiot-ops.model.precision").is_some(), "{name}");
        assert_eq!(
            label("org.opencontainers.image.created"),
            None,
            "{name}: a time would redeploy the fleet"
        );
        assert_eq!(
            label("org.opencontainers.image.revision"),
            None,
            "{name}: a commit would redeploy the fleet"
        );
    }
}

#[test]
fn programs_and_engines_are_for_the_platform() {
    let Some(released) = Released::find() else { return };
    for image in images(&released) {
        let device = Device::unpack(&released.images(), &image.digest);
        // Word size and machine of the ELF header.
        let expected = match image.platform.architecture() {
            "amd64" => (2, 62),
            "arm64" => (2, 183),
            "arm" => (1, 40),
            other => panic!("what is the machine of {other}?"),
        };
        let execution = &device.config.config;
        let engine = execution
            .env
            .iter()
            .find_map(|text| text.strip_prefix("AIOT_ENGINE_LIBRARY="))
            .unwrap();
        for path in [&execution.entrypoint[0], engine] {
            let bytes = std::fs::read(device.root().join(path.trim_start_matches('/'))).unwrap();
            assert_eq!(&bytes[..4], b"\x7fELF", "{}: {path}", image.name);
            assert_eq!(
                (bytes[4], u16::from_le_bytes([bytes[18], bytes[19]])),
                expected,
                "{}: {path}",
                image.name
            );
        }
    }
}

#[test]
fn an_index_has_every_platform_and_the_common_device_first() {
    let Some(released) = Released::find() else { return };
    let workspace = declared(&released.root);
    let store = Store::open_read_only(&released.images()).unwrap();
    let layout = read_layout(&released.images()).unwrap();
    for model in workspace.models.values() {
        let name = format!("{}-{}", model.name, model.version);
        let (_, descriptor) = layout
            .iter()
            .find(|(found, _)| *found == name)
            .unwrap_or_else(|| panic!("no {name}"));
        let index = read_index(&store, &descriptor.digest).unwrap();
        let mut targets = Vec::new();
        for manifest in &index.manifests {
            let target = &manifest.annotations["dev.aiot-ops.target"];
            let image = images(&released)
                .into_iter()
                .find(|i| i.model.name == model.name && i.target == *target);
            let image = image.unwrap();
            assert_eq!(
                (manifest.digest, manifest.platform.as_ref()),
                (image.digest, Some(&image.platform)),
                "{name}"
            );
            targets.push(target.clone());
        }
        assert_eq!(targets.len(), model.targets.len(), "{name}: {targets:?}");
        // A client that knows only the platform takes the first: that must not be the one that wants a GPU.
        let needs_gpu = |target: &String| {
            let target = workspace
                .targets
                .values()
                .find(|declared| declared.name.as_str() == target.as_str())
                .unwrap();
            target.processor == aiot_plan::declare::Processor::Gpu
        };
        for (place, manifest) in index.manifests.iter().enumerate() {
            let same = index.manifests[..place]
                .iter()
                .filter(|before| before.platform == manifest.platform);
            for before in same {
                let (first, second) = (&before.annotations["dev.aiot-ops.target"], &targets[place]);
                assert!(
                    !needs_gpu(first) || needs_gpu(second),
                    "{name}: {first} comes before {second}"
                );
            }
        }
    }
}

#[test]
fn skopeo_reads_every_image() {
    if !have(&["skopeo"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    for image in images(&released) {
        let reference = format!("oci:{}:{}", released.images().display(), image.name);
        let ended = run(Command::new("skopeo").args(["inspect", "--no-tags", &reference])).expect(0);
        let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(found["Digest"], image.digest.to_string(), "{}", image.name);
        assert_eq!(
            found["Architecture"],
            image.platform.architecture(),
            "{}",
            image.name
        );
        assert_eq!(
            found["Labels"]["dev.aiot-ops.model.name"],
            image.model.name.as_str()
        );
    }
}

#[test]
fn skopeo_picks_the_platform_from_the_index() {
    if !have(&["skopeo"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    for image in one_per_architecture(&released).values() {
        let reference = format!(
            "oci:{}:{}-{}",
            released.images().display(),
            image.model.name,
            image.model.version
        );
        let mut command = Command::new("skopeo");
        command.args([
            "--override-os",
            "linux",
            "--override-arch",
            image.platform.architecture(),
        ]);
        if let Some(variant) = image.platform.variant() {
            command.args(["--override-variant", variant]);
        }
        let ended = run(command.args(["inspect", "--no-tags", &reference])).expect(0);
        let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(
            found["Architecture"],
            image.platform.architecture(),
            "{}",
            image.name
        );
    }
}

#[test]
fn umoci_unpacks_an_image_of_every_architecture() {
    if !have(&["umoci"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    for image in one_per_architecture(&released).values() {
        let folder = tempfile::tempdir().unwrap();
        let reference = format!("{}:{}", released.images().display(), image.name);
        let bundle = folder.path().join("bundle");
        run(Command::new("umoci")
            .args(["unpack", "--rootless", "--image", &reference])
            .arg(&bundle))
        .expect(0);
        // The same files as by our own reading, which the emulated devices get.
        let device = Device::unpack(&released.images(), &image.digest);
        for path in [
            format!("app/{}", image.model.module),
            "model/model.onnx".to_owned(),
            "model/package.json".to_owned(),
        ] {
            let read = |root: &std::path::Path| std::fs::read(root.join(&path)).unwrap();
            assert!(
                read(&bundle.join("rootfs")) == read(device.root()),
                "{}: {path}",
                image.name
            );
        }
    }
}
