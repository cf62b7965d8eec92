//! What is told about `targets.toml`.

use crate::{model, target};

#[test]
fn a_wrong_target_is_told_once_and_not_again_at_each_model() {
    target(
        r#"glibc = "2.36""#,
        r#"glibc = "new""#,
        r#"
        plan::glibc targets.toml:16:9 «"new"»
          × target `pi-64`: glibc is no version
          ╰ expected for example "2.31"
    "#,
    );
}

#[test]
fn create_options() {
    target(
        "devices = [\"/dev/video0\"]",
        "devices = \"/dev/video0\"",
        r#"
        plan::create_options targets.toml:23:18 «{ read-only = true, devices = "/dev/video0" }»
          × target `pi-64`: create-options.devices: expected a list of strings
          ╰ in this table
    "#,
    );
    target(
        "devices = [\"/dev/video0\"]",
        "devices = [\"video0\"], memory-limit-mib = 0, runtime = 1",
        r#"
        plan::create_options targets.toml:23:18 «{ read-only = true, devices = ["video0"], memory-limit-mib = 0, runtime = 1 }»
          × target `pi-64`: create-options.devices: expected "/host", "/host:/container" or "/host:/container:rwm"
          ╰ in this table
        plan::create_options targets.toml:23:18 «{ read-only = true, devices = ["video0"], memory-limit-mib = 0, runtime = 1 }»
          × target `pi-64`: create-options.memory-limit-mib: expected a number of MiB above 0
          ╰ in this table
        plan::create_options targets.toml:23:18 «{ read-only = true, devices = ["video0"], memory-limit-mib = 0, runtime = 1 }»
          × target `pi-64`: create-options.runtime: expected a string
          ╰ in this table
    "#,
    );
    target(
        "devices = [\"/dev/video0\"]",
        "devices = [\"/dev/a:/dev/b:\"]",
        r#"
        plan::create_options targets.toml:23:18 «{ read-only = true, devices = ["/dev/a:/dev/b:"] }»
          × target `pi-64`: create-options.devices: expected "/host", "/host:/container" or "/host:/container:rwm"
          ╰ in this table
    "#,
    );
    model(
        "env.CAMERA = \"/dev/video0\"",
        "create-options = { read-only = \"yes\", network-mode = 1, binds = [\"/a:/b\", 1] }",
        r#"
        plan::create_options models.toml:30:18 «{ read-only = "yes", network-mode = 1, binds = ["/a:/b", 1] }»
          × model `digits`: create-options.binds: expected a list of strings
          ╰ in this table
        plan::create_options models.toml:30:18 «{ read-only = "yes", network-mode = 1, binds = ["/a:/b", 1] }»
          × model `digits`: create-options.network-mode: expected a string
          ╰ in this table
        plan::create_options models.toml:30:18 «{ read-only = "yes", network-mode = 1, binds = ["/a:/b", 1] }»
          × model `digits`: create-options.read-only: expected true or false
          ╰ in this table
    "#,
    );
}

#[test]
fn machines() {
    target(
        "armv7-unknown-linux-gnueabihf",
        "armv7-unknown-linux-musleabihf",
        r#"
        plan::triple targets.toml:3:10 «"armv7-unknown-linux-musleabihf"»
          × target `pi-32`: no module can be built for `armv7-unknown-linux-musleabihf`
          ╰ the engine is loaded at run time, which needs Linux with glibc
          help: this release defines `x86_64-unknown-linux-gnu`, `aarch64-unknown-linux-gnu`, `armv7-unknown-linux-gnueabihf`; did you mean `armv7-unknown-linux-gnueabihf`?
    "#,
    );
    target(
        "linux/arm/v7",
        "linux/arm",
        r#"
        plan::platform targets.toml:4:12 «"linux/arm"»
          × target `pi-32`: platform `linux/arm` is not what `armv7-unknown-linux-gnueabihf` runs on
          ╰ `armv7-unknown-linux-gnueabihf` makes linux/arm/v7
          help: write platform = "linux/arm/v7"
    "#,
    );
    target(
        "glibc = \"2.36\"",
        "glibc = \"2\"",
        r#"
        plan::glibc targets.toml:16:9 «"2"»
          × target `pi-64`: glibc is no version
          ╰ expected for example "2.31"
    "#,
    );
    target(
        "glibc = \"2.36\"",
        "glibc = \"+2.36\"",
        r#"
        plan::glibc targets.toml:16:9 «"+2.36"»
          × target `pi-64`: glibc is no version
          ╰ expected for example "2.31"
    "#,
    );
    target(
        "memory-mib = 512",
        "memory-mib = 0",
        r#"
        plan::limits targets.toml:1:9 «pi-32»
          × target `pi-32`: memory-mib and disk-mib must be above 0
          ╰ limits of this target
    "#,
    );
}

#[test]
fn engines() {
    target(
        "engine.version = \"1.21\"",
        "engine.version = \"latest\"",
        r#"
        plan::engine_version targets.toml:7:18 «"latest"»
          × target `pi-32`: the engine's version is no version
          ╰ expected for example "1.21" or "1.32.0"
    "#,
    );
    target(
        "manylinux_2_28_aarch64",
        "manylinux_2_28_x86_64",
        r#"
        plan::wheel_platform targets.toml:19:61 «"manylinux_2_28_x86_64"»
          × target `pi-64`: a wheel for `manylinux_2_28_x86_64` does not run there
          ╰ expected a tag that ends in `aarch64`
    "#,
    );
    target(
        "engine.intra-threads = 2",
        "engine.execution-providers = []",
        r#"
        plan::execution_providers targets.toml:18:18 «"1.32.0"»
          × target `pi-64` has no execution provider
          ╰ the engine of this target
    "#,
    );
    target(
        "engine.intra-threads = 2",
        "engine.execution-providers = [\"cpu\", \"cuda\"]",
        r#"
        plan::execution_providers targets.toml:20:38 «"cuda"»
          × target `pi-64` has no GPU for `cuda`
          ╰ processor is "cpu"
          help: write processor = "gpu", or take the provider out
    "#,
    );
    target(
        "base.debian = { suite = \"trixie\", packages = [\"libc6\", \"libstdc++6\"] }",
        "base.scratch = {}",
        r#"
        plan::engine_source targets.toml:7:18 «"1.21"»
          × target `pi-32` takes its engine from Debian, but stands on something else
          ╰ engine.source.debian needs base.debian
    "#,
    );
    target(
        "\"/usr/lib/libonnxruntime.so\"",
        "\"usr/lib/libonnxruntime.so\"",
        r#"
        plan::engine_source targets.toml:33:36 «"usr/lib/libonnxruntime.so"»
          × target `orin` takes its engine from a base image
          ╰ needs base.image and an absolute path in it
    "#,
    );
}

#[test]
fn a_32_bit_wheel_has_its_own_word_for_the_machine() {
    let wheel = "engine.source.wheel = { package = \"onnxruntime\", platform = \"linux_armv7l\" }";
    let debian =
        "engine.source.debian = { package = \"libonnxruntime1.21\", library = \"libonnxruntime.so.1.21\" }";
    target(debian, wheel, "");
    target(
        debian,
        &wheel.replace("armv7l", "aarch64"),
        r#"
        plan::wheel_platform targets.toml:8:61 «"linux_aarch64"»
          × target `pi-32`: a wheel for `linux_aarch64` does not run there
          ╰ expected a tag that ends in `armv7l`
    "#,
    );
}

#[test]
fn base_images_are_pinned() {
    let reference = format!("registry.example/l4t@sha256:{}", "4".repeat(64));
    target(
        &reference,
        "registry.example/l4t:r36",
        r#"
        plan::base_image targets.toml:35:24 «"registry.example/l4t:r36"»
          × target `orin`: the base image is not pinned
          ╰ expected registry/repository@sha256:…
          help: `skopeo inspect docker://IMAGE` prints the digest of the index
    "#,
    );
    target(
        &reference,
        "registry.example/l4t@sha256:44",
        r#"
        plan::base_image targets.toml:35:24 «"registry.example/l4t@sha256:44"»
          × target `orin`: the base image is not pinned
          ╰ expected registry/repository@sha256:…
          help: `skopeo inspect docker://IMAGE` prints the digest of the index
    "#,
    );
    target(
        &reference,
        &format!("@sha256:{}", "4".repeat(64)),
        r#"
        plan::base_image targets.toml:35:24 «"@sha256:4444444444444444444444444444444444444444444444444444444444444444"»
          × target `orin`: the base image is not pinned
          ╰ expected registry/repository@sha256:…
          help: `skopeo inspect docker://IMAGE` prints the digest of the index
    "#,
    );
}
