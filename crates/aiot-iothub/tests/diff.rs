//! Two releases → what a reviewer reads.

mod common;
mod full;

use aiot_iothub::diff::diff;
use aiot_iothub::{Release, Ring, render};
use aiot_package::Digest;
use serde_json::json;

#[track_caller]
fn check(change: impl FnOnce(&mut Release), expected: &str) {
    let before = full::full_release();
    let mut after = before.clone();
    change(&mut after);
    let (before, after) = (render(&before).unwrap().files, render(&after).unwrap().files);
    let text = diff(&before, &after).unwrap().to_markdown("prod");
    let expected: String = expected
        .lines()
        .map(|line| format!("{}\n", line.trim_start_matches("        ")))
        .collect();
    assert_eq!(text.trim_end(), expected.trim(), "\n{text}");
}

#[test]
fn nothing() {
    check(|_| {}, "");
    let files = render(&full::full_release()).unwrap().files;
    assert!(diff(&files, &files).unwrap().is_empty());
    assert!(diff(&Default::default(), &Default::default()).unwrap().is_empty());
}

#[test]
fn a_new_model() {
    check(
        |release| {
            for target in &mut release.targets {
                for module in target.modules.iter_mut().filter(|module| module.name == "delivery-digits") {
                    module.model_version = "1.3.0".to_owned();
                    module.image_digest = Digest::of(b"new");
                    module.size_bytes += 1 << 20;
                    module.accuracy.quantized = 0.98;
                }
            }
        },
        "## Environment `prod`

        ### Target `jetson-orin`

        - **delivery-digits**: 1.2.0+int8 → 1.3.0+int8, new image, 10.0 MiB → 11.0 MiB, top-1 0.9722 → 0.9800 (+0.0078)
        - a device downloads at most 11.0 MiB

        ### Target `rpi-arm64`

        - **delivery-digits**: 1.2.0+int8 → 1.3.0+int8, new image, 10.0 MiB → 11.0 MiB, top-1 0.9722 → 0.9800 (+0.0078)
        - a device downloads at most 11.0 MiB",
    );
}

#[test]
fn settings_are_decoded() {
    check(
        |release| {
            let target = &mut release.targets[0];
            let module = target.modules.iter_mut().find(|module| module.name == "surface-defects").unwrap();
            module.create_options["HostConfig"]["Devices"][0]["PathOnHost"] = json!("/dev/video1");
            module.desired["threshold"] = json!(0.6);
            module.env.insert("LOG_LEVEL".to_owned(), common::text("a | `b`"));
            let digits = target.modules.iter_mut().find(|module| module.name == "delivery-digits").unwrap();
            digits.routes.remove("digitsToCloud");
        },
        "## Environment `prod`

        ### Target `rpi-arm64`

        - **surface-defects**: same image
          - `createOptions.HostConfig.Devices`: `[{\"CgroupPermissions\":\"rw\",\"PathInContainer\":\"/dev/video0\",\"PathOnHost\":\"/dev/video0\"}]` → `[{\"CgroupPermissions\":\"rw\",\"PathInContainer\":\"/dev/video0\",\"PathOnHost\":\"/dev/video1\"}]`
          - `desired.threshold`: `0.5` → `0.6`
          - `env.LOG_LEVEL`: `` a \\| `b` `` (new)
        - `routes.digitsToCloud`: `FROM /messages/modules/delivery-digits/outputs/* INTO $upstream` (gone)",
    );
}

#[test]
fn modules_and_targets_come_and_go() {
    check(
        |release| {
            release.targets[0].modules.retain(|module| module.name == "delivery-digits");
            release.targets[0].modules[0].routes.clear();
            release.targets[0].modules.push(common::module("late", '9'));
            release.targets.remove(2);
            release.targets[1].condition = "tags.gpu = true".to_owned();
            release.rings[0] = Ring { soak_hours: 1, ..release.rings[0].clone() };
        },
        "## Environment `prod`

        ### Target `jetson-orin`

        - `devices`: `tags.deviceClass = 'jetson-orin' OR tags.gpu = true` → `tags.gpu = true`
        - **bearing-anomaly**: devices `(tags.deviceClass = 'jetson-orin' OR tags.gpu = true) AND tags.line = 'press'` → `tags.gpu = true AND tags.line = 'press'`

        ### Target `rpi-arm64`

        - **late** comes: 1.0.0+int8, 10.0 MiB, top-1 0.9722
          - `createOptions.HostConfig.LogConfig.Config.max-file`: `3` (new)
          - `createOptions.HostConfig.LogConfig.Config.max-size`: `10m` (new)
          - `createOptions.HostConfig.LogConfig.Type`: `json-file` (new)
          - `createOptions.HostConfig.Memory`: `268435456` (new)
        - **surface-defects** goes: 0.9.1+int8, 29.6 MiB, top-1 0.9722
        - `routes.digitsToCloud`: `FROM /messages/modules/delivery-digits/outputs/* INTO $upstream` (gone)
        - `routes.digitsToDefects.priority`: `1` (gone)
        - `routes.digitsToDefects.route`: `FROM /messages/modules/delivery-digits/outputs/low WHERE $body.score < 0.5 \\|\\| 0 INTO BrokeredEndpoint(\"/modules/surface-…` (gone)
        - `routes.digitsToDefects.timeToLiveSecs`: `3600` (gone)
        - a device downloads at most 10.0 MiB

        ### Target `x86-gateway`

        - `devices`: `tags.deviceClass = 'x86-gateway'` (gone)
        - **edgeAgent** goes: `azureiotedge-agent:1.5.21`
        - **edgeHub** goes: `azureiotedge-hub@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd`

        ### Rings

        - `1. canary: soak-hours`: `24` → `1`",
    );
}

#[test]
fn mistakes_are_named() {
    let files = render(&full::full_release()).unwrap().files;
    let mut broken = files.clone();
    broken.remove("rpi-arm64/models.json");
    let error = diff(&files, &broken).unwrap_err().to_string();
    assert_eq!(error, "after rpi-arm64/models.json: is missing");
    broken.insert("deployments.json".to_owned(), b"{".to_vec());
    assert!(
        diff(&broken, &files)
            .unwrap_err()
            .to_string()
            .starts_with("before deployments.json: cannot be read")
    );
}
