//! The images as they are in a container engine: nobody's user, read-only, no network. One per architecture.

use std::path::Path;
use std::process::Command;

use aiot_testkit::device::{ARM_CPUINFO, can_run};
use aiot_testkit::emulation::register;
use aiot_testkit::released::Released;
use aiot_testkit::tools::{find, have, have_root, run};

use crate::common::{Image, one_per_architecture};

/// Runs `self-test` of an image with containers and images kept below `folder`.
fn self_test(folder: &Path, layout: &Path, image: &Image) {
    let name = format!("localhost/aiot-test:{}", image.target);
    let (root, runroot) = (folder.join("root"), folder.join("run"));
    let storage = format!("vfs@{}+{}", root.display(), runroot.display());
    run(Command::new("skopeo")
        .args(["copy", "--quiet"])
        .arg(format!("oci:{}:{}", layout.display(), image.name))
        .arg(format!("containers-storage:[{storage}]{name}")))
    .expect(0);
    let cpuinfo = folder.join("cpuinfo");
    std::fs::write(&cpuinfo, ARM_CPUINFO).unwrap();
    let mut command = Command::new("timeout");
    // A crash of the first process under emulation is a hang: there is an init, and an end.
    command.arg("300").arg(find("podman").unwrap());
    command
        .arg("--root")
        .arg(&root)
        .arg("--runroot")
        .arg(&runroot)
        .args(["--storage-driver", "vfs"]);
    command.args([
        "--runtime",
        "runc",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "none",
    ]);
    command.args([
        "run",
        "--rm",
        "--init",
        "--network=none",
        "--read-only",
        "--user",
        "65532:65532",
    ]);
    command.args([
        "--log-driver",
        "none",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ]);
    if image.platform.architecture() == "arm64" {
        command
            .arg("--volume")
            .arg(format!("{}:/proc/cpuinfo:ro", cpuinfo.display()));
    }
    let ended = run(command.args([&name, "self-test"])).expect(0);
    assert!(
        ended.stdout.contains("golden cases as built"),
        "{}: {}",
        image.name,
        ended.stdout
    );
}

fn runs_as_it_is(architecture: &str) {
    if !have(&["catatonit", "podman", "runc", "skopeo"]) || !have_root() || !can_run(architecture) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let Some(image) = one_per_architecture(&released).remove(architecture) else {
        panic!("no target is {architecture}");
    };
    register(architecture);
    let folder = tempfile::tempdir().unwrap();
    self_test(folder.path(), &released.images(), &image);
}

#[test]
fn arm32_images_run_as_they_are() {
    runs_as_it_is("arm");
}

#[test]
fn arm64_images_run_as_they_are() {
    runs_as_it_is("arm64");
}

#[test]
fn x86_images_run_as_they_are() {
    runs_as_it_is("amd64");
}
