//! What is told about `deployments/<environment>.toml`.

use crate::environment;

#[test]
fn hosts_and_repositories() {
    environment(
        "\"plant.example\"",
        "\"https://plant.example\"",
        r#"
        plan::host deployments/plant.toml:1:7 «"https://plant.example"»
          × environment `plant`: `https://plant.example` is no host name
          ╰ host[:port], lower case, without scheme or path
    "#,
    );
    environment(
        "\"registry.example:5000\"",
        "\"registry.example/team\"",
        r#"
        plan::host deployments/plant.toml:2:12 «"registry.example/team"»
          × environment `plant`: `registry.example/team` is no host name
          ╰ host[:port], lower case, without scheme or path
    "#,
    );
    environment(
        "\"aiot/plant\"",
        "\"aiot//Plant\"",
        r#"
        plan::repository_prefix deployments/plant.toml:3:21 «"aiot//Plant"»
          × environment `plant`: the prefix cannot begin a repository
          ╰ lower-case names joined by `/`
    "#,
    );
}

#[test]
fn system_images_are_exact() {
    environment(
        "edge-agent:1.6.1",
        "edge-agent:1.6",
        r#"
        plan::system_image deployments/plant.toml:4:21 «"registry.example/edge-agent:1.6"»
          × environment `plant`: `registry.example/edge-agent:1.6` may change under your feet
          ╰ not pinned
          help: write the exact version (three numbers) or repository@sha256:…
    "#,
    );
    environment(
        "edge-hub:1.6.1",
        "edge-hub",
        r#"
        plan::system_image deployments/plant.toml:5:19 «"registry.example/edge-hub"»
          × environment `plant`: `registry.example/edge-hub` may change under your feet
          ╰ not pinned
          help: write the exact version (three numbers) or repository@sha256:…
    "#,
    );
    environment(
        "edge-hub:1.6.1",
        "edge-hub@sha256:12",
        r#"
        plan::system_image deployments/plant.toml:5:19 «"registry.example/edge-hub@sha256:12"»
          × environment `plant`: `registry.example/edge-hub@sha256:12` may change under your feet
          ╰ not pinned
          help: write the exact version (three numbers) or repository@sha256:…
    "#,
    );
    environment(
        "edge-hub:1.6.1",
        &format!("edge-hub@sha256:{}", "5".repeat(64)),
        "",
    );
    // The edge agent refuses a tag and a digest together.
    environment(
        "edge-hub:1.6.1",
        &format!("edge-hub:1.6.1@sha256:{}", "5".repeat(64)),
        r#"
        plan::system_image deployments/plant.toml:5:19 «"registry.example/edge-hub:1.6.1@sha256:5555555555555555555555555555555555555555555555555555555555555555"»
          × environment `plant`: `registry.example/edge-hub:1.6.1@sha256:5555555555555555555555555555555555555555555555555555555555555555` may change under your feet
          ╰ not pinned
          help: write the exact version (three numbers) or repository@sha256:…
    "#,
    );
    environment(
        "registry.example/edge-hub:1.6.1",
        &format!("@sha256:{}", "5".repeat(64)),
        r#"
        plan::system_image deployments/plant.toml:5:19 «"@sha256:5555555555555555555555555555555555555555555555555555555555555555"»
          × environment `plant`: `@sha256:5555555555555555555555555555555555555555555555555555555555555555` may change under your feet
          ╰ not pinned
          help: write the exact version (three numbers) or repository@sha256:…
    "#,
    );
}

#[test]
fn rings() {
    environment(
        "name = \"canary\"",
        "name = \"Canary birds\"",
        r#"
        plan::ring deployments/plant.toml:8:8 «"Canary birds"»
          × environment `plant`: `Canary birds` cannot name a ring
          ╰ a name of its own: lower-case letters, digits and single hyphens
    "#,
    );
    environment(
        "name = \"canary\"",
        "name = \"all\"",
        r#"
        plan::ring deployments/plant.toml:12:8 «"all"»
          × environment `plant`: `all` cannot name a ring
          ╰ a name of its own: lower-case letters, digits and single hyphens
    "#,
    );
}

#[test]
fn ring_policies() {
    environment(
        "name = \"canary\"",
        "name = \"canary\"\npercent = 5\nsoak-hours = 12\nminimum-reported = 3\nat-most = { failed = \"2 %\", silent = 9 }\napproval = true\nquiet-hours = { from = \"06:00\", to = \"22:00\", time-zone = \"Europe/Berlin\" }",
        "",
    );
    environment(
        "name = \"canary\"",
        "name = \"canary\"\npercent = 101\nminimum-reported = \"half\"\nat-most = { failed = -1 }\nquiet-hours = { from = \"6 am\", to = \"24:00\", time-zone = \"UTC\" }",
        r#"
        plan::ring_percent deployments/plant.toml:9:11 «101»
          × environment `plant`, ring `canary`: 101 percent of the fleet are not to be had
          ╰ 0 to 100
        plan::ring_amount deployments/plant.toml:10:20 «"half"»
          × environment `plant`, ring `canary`: `"half"` is no amount of devices
          ╰ a number, 3, or a share, "5 %"
        plan::ring_amount deployments/plant.toml:11:22 «-1»
          × environment `plant`, ring `canary`: `-1` is no amount of devices
          ╰ a number, 3, or a share, "5 %"
        plan::quiet_hours deployments/plant.toml:12:24 «"6 am"»
          × environment `plant`, ring `canary`: `6 am` is no time of day
          ╰ hours and minutes, "06:00"
        plan::quiet_hours deployments/plant.toml:12:37 «"24:00"»
          × environment `plant`, ring `canary`: `24:00` is no time of day
          ╰ hours and minutes, "06:00"
    "#,
    );
}

#[test]
fn signatures() {
    let prefix = "repository-prefix = \"aiot/plant\"";
    let with = |keys: &str| format!("{prefix}\nsignatures.public-keys = {keys}");
    environment(prefix, &with("[\"keys/release.pub\", \"keys/spare.pub\"]"), "");
    environment(
        prefix,
        &with("[]"),
        r#"
        plan::signature_keys deployments/plant.toml:4:26 «[]»
          × environment `plant`: signatures are asked for, and no key is trusted
          ╰ no image could ever be deployed
          help: name a public key, or leave `[signatures]` out where no signature is asked for
    "#,
    );
    environment(
        prefix,
        &with("[\"../release.pub\", \"a.pub\", \"a.pub\"]"),
        r#"
        plan::path deployments/plant.toml:4:27 «"../release.pub"»
          × `../release.pub` is not a path below the workspace
          ╰ relative, with `/`, without `..`, without `/` at the end
        plan::signature_keys deployments/plant.toml:4:54 «"a.pub"»
          × environment `plant`: `a.pub` is named twice
          ╰ once is enough
    "#,
    );
}
