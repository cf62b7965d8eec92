//! What a registry has is verified, environments take signed images only, and every fault is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_testkit::registry::Registry;
use aiot_testkit::released::{Copy, Released};
use aiot_testkit::tools::{Ended, have, run};
use serde_json::Value;

use crate::common::{Image, XTASK, declared, images, set_key};

/// `xtask` in a copy, towards a registry on this machine.
fn direct(copy: &Copy, arguments: &[&str]) -> Ended {
    let mut command = copy.command(XTASK, arguments);
    run(command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1"))
}

/// Makes a key; returns the paths of both halves.
fn key(dir: &Path, name: &str, public: &Path) -> String {
    let key = dir.join(name).display().to_string();
    let openssl = |arguments: &[&str]| run(Command::new("openssl").args(arguments)).expect(0);
    let curve = "ec_paramgen_curve:P-256";
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", &key]);
    fs::create_dir_all(public.parent().unwrap()).unwrap();
    let public = public.display().to_string();
    openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]);
    key
}

/// Declares an environment `local` that takes what `keys/release.pub` signed.
fn declare(copy: &Copy, registry: &Registry) {
    let environment = copy.read("deployments/dev.toml");
    let (before, after) = environment.split_once("[system]").unwrap();
    copy.write(
        "deployments/local.toml",
        format!(
            "registry = \"{}\"\n{before}\n[signatures]\npublic-keys = [\"keys/release.pub\"]\n\n[system]{after}",
            registry.address
        ),
    );
}

/// `verify-images --format json …`: the rows.
fn verdicts(copy: &Copy, arguments: &[&str], code: i32) -> Vec<Value> {
    let mut all = vec!["verify-images", "--format", "json"];
    all.extend(arguments);
    let ended = direct(copy, &all).expect(code);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(json["good"], code == 0);
    json["images"].as_array().unwrap().clone()
}

#[track_caller]
fn all_have(rows: &[Value], question: &str, state: &str) {
    for row in rows {
        assert_eq!(row[question]["state"], state, "{question}: {row:#}");
    }
}

/// The faults of all images, one a line.
fn faults(rows: &[Value]) -> String {
    let lines = rows.iter().flat_map(|row| row["faults"].as_array().unwrap());
    lines
        .map(|line| format!("{}\n", line.as_str().unwrap()))
        .collect()
}

/// Where Debian's registry keeps a blob.
fn blob_file(copy: &Copy, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    copy.beside()
        .join("registry/docker/registry/v2/blobs/sha256")
        .join(&hex[..2])
        .join(hex)
        .join("data")
}

fn model_layer(released: &Released, image: &Image) -> String {
    let store = aiot_oci::Store::open_read_only(&released.images()).unwrap();
    let manifest = aiot_oci::image::read_manifest(&store, &image.digest).unwrap();
    manifest.layers[2].digest.to_string()
}

#[test]
fn environments_take_signed_images_only_and_images_are_verified() {
    if !have(&["docker-registry", "openssl", "git"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let registry = Registry::start(copy.beside());
    let prefix = format!("{}/aiot", registry.address);
    declare(&copy, &registry);

    // A key that is not there is a mistake in the declarations.
    let missing = copy.run(XTASK, &["check"]).expect(1);
    assert!(
        missing.stderr.contains("deployments/local.toml"),
        "{}",
        missing.stderr
    );
    assert!(missing.stderr.contains("no such file"), "{}", missing.stderr);
    let trusted = key(copy.beside(), "trusted.pem", &copy.root.join("keys/release.pub"));
    let other_public = copy.beside().join("other.pub");
    let other = key(copy.beside(), "other.pem", &other_public);
    copy.run(XTASK, &["check"]).expect(0);

    // Provenance names the commit, and the lock of the commit is what counts.
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "--all", "--", "aiot.lock", "models.toml"],
        &[
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "commit",
            "--quiet",
            "-m",
            "t",
        ],
    ] {
        run(Command::new("git").arg("-C").arg(&copy.root).args(arguments)).expect(0);
    }

    // Without a trusted key nothing is sent and nothing is written.
    let release = |more: &[&str]| {
        let mut arguments = vec!["release", "--locked", "--environment", "local"];
        arguments.extend(more);
        direct(&copy, &arguments)
    };
    for (more, why) in [
        (vec!["--push", &prefix], "there is no signing key"),
        (vec!["--push", &prefix, "--sign-key", &other], "is none of them"),
        (vec![], "not signed"),
        (vec!["--offline"], "--offline"),
        (vec!["--sign-key", &other], "not signed"),
    ] {
        let refused = release(&more).expect(1);
        assert!(refused.stderr.contains(why), "{why}: {}", refused.stderr);
        assert!(refused.stderr.contains("local"), "{}", refused.stderr);
    }
    assert!(!copy.root.join("deployments/local").exists());
    assert!(!copy.beside().join("registry/docker/registry/v2/blobs").exists());

    release(&["--push", &prefix, "--sign-key", &trusted]).expect(0);
    let good = verdicts(&copy, &["--environment", "local", "--rebuild"], 0);
    assert_eq!(good.len(), declared(&copy.root).images().count());
    for question in [
        "digests",
        "bill-of-materials",
        "provenance",
        "signature",
        "rebuild",
    ] {
        all_have(&good, question, "ok");
    }
    // Manifests that are there need no key and no network; new ones find the signatures in the registry.
    release(&["--offline"]).expect(0);
    fs::remove_dir_all(copy.root.join("deployments/local")).unwrap();
    assert!(release(&["--offline"]).expect(1).stderr.contains("--offline"));
    release(&[]).expect(0);
    assert!(copy.root.join("deployments/local/deployments.json").is_file());

    // One image is held where it is: it is verified, and not compared with what the declarations make now.
    let environment = copy.read("deployments/local.toml");
    let held = images(&released).remove(0);
    let (model, version) = (&held.model.name, &held.model.version);
    copy.write(
        "deployments/local.toml",
        format!(
            "{environment}\n[[pin]]\nmodel = \"{model}\"\nversion = \"{version}\"\ninstead-of = \"{version}\"\n\
             reason = \"it crashes\"\n\n[pin.image.{}]\ndigest = \"{}\"\nsize-bytes = 1234\nprecision = \"int8\"\n\
             accuracy = {{ metric = \"accuracy\", float = 0.9, shipped = 0.9 }}\n",
            held.target, held.digest
        ),
    );
    release(&[]).expect(0);
    let pinned = verdicts(&copy, &["--environment", "local", "--rebuild"], 0);
    for row in &pinned {
        let is_held = row["image"].as_str().unwrap().ends_with(&held.digest.to_string())
            && row["target"] == held.target.as_str();
        assert_eq!(
            row["rebuild"]["state"],
            if is_held { "not-asked" } else { "ok" },
            "{row:#}"
        );
        assert_eq!(row["signature"]["state"], "ok", "{row:#}");
        assert_eq!(
            row["notes"].to_string().contains("pinned (it crashes)"),
            is_held,
            "{row:#}"
        );
    }
    assert!(pinned.iter().any(|row| row["rebuild"]["state"] == "not-asked"));
    copy.write("deployments/local.toml", environment);
    release(&[]).expect(0);

    // Another key.
    let text = other_public.display().to_string();
    let bad = verdicts(&copy, &["--environment", "local", "--key", &text], 1);
    all_have(&bad, "signature", "fault");
    all_have(&bad, "digests", "ok");
    assert_eq!(faults(&bad).matches("does not fit the key").count(), bad.len());

    // Another lock than that of the commit. The folder's own has no say.
    copy.write("aiot.lock", copy.read("aiot.lock") + "# changed\n");
    verdicts(&copy, &["--environment", "local"], 0);
    let lock = copy.read("aiot.lock");
    copy.write("aiot.lock", lock.trim_end_matches("# changed\n"));

    // An index by its tag: no policy, so nobody asks for a signature.
    let image = images(&released).remove(0);
    let reference = format!("{prefix}/{}:{}", image.model.name, image.model.version);
    let named = verdicts(&copy, &[&reference], 0);
    assert_eq!(named.len(), image.model.targets.len());
    all_have(&named, "signature", "not-asked");

    // A layer of one image is damaged, and the bill of another: both are named, and the rest is still looked at.
    let layer = model_layer(&released, &image);
    let damage = |path: &Path| {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(path, bad).unwrap();
        good
    };
    let (layer_file, good_layer) = (blob_file(&copy, &layer), damage(&blob_file(&copy, &layer)));
    let last = images(&released).pop().unwrap();
    assert_ne!(last.name, image.name);
    let bill = fs::read(
        copy.root
            .join(format!("dist/supply-chain/{}/bom.cdx.json", last.name)),
    )
    .unwrap();
    damage(&blob_file(&copy, &aiot_oci::Digest::of(&bill).to_string()));
    let bad = verdicts(&copy, &["--environment", "local"], 1);
    let text = faults(&bad);
    assert!(text.contains(&format!("expected {layer}")), "{text}");
    assert!(text.contains("bill of materials"), "{text}");
    let count = |question: &str| bad.iter().filter(|row| row[question]["state"] == "fault").count();
    // Targets with the same variant share the layer.
    let sharing = images(&released);
    let sharing = sharing.iter().filter(|one| model_layer(&released, one) == layer);
    assert_eq!(
        (count("digests"), count("bill-of-materials")),
        (sharing.count(), 1),
        "{text}"
    );
    fs::write(&layer_file, good_layer).unwrap();
    let table = direct(&copy, &["verify-images", "--environment", "local"]).expect(1);
    assert!(
        table.stdout.contains("FAULT") && table.stdout.contains("1 with faults"),
        "{}",
        table.stdout
    );

    // Declarations that make other bytes than those in the registry.
    let description = format!("model.{}", image.model.name);
    set_key(
        &copy,
        "models.toml",
        &description,
        "description",
        "\"Another description\"",
    );
    let rows = verdicts(&copy, &["--rebuild", &reference], 1);
    assert!(rows.len() == named.len(), "{rows:?}");
    all_have(&rows, "rebuild", "fault");
    let text = faults(&rows);
    assert!(text.contains("/model/package.json differs in bytes"), "{text}");
}

#[test]
fn statements_made_after_a_push_are_attached_by_pushing_again() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let registry = Registry::start(copy.beside());
    let to = format!("{}/a", registry.address);
    let push = |more: &[&str]| {
        let mut arguments = vec!["push", "--to", &to, "--format", "json"];
        arguments.extend(more);
        let ended = direct(&copy, &arguments).expect(0);
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        let rows = json["images"].as_array().unwrap().clone();
        let sum = |field: &str| rows.iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
        (sum("artifacts-sent"), sum("manifests-sent"), sum("blobs-sent"))
    };
    let count = declared(&copy.root).images().count() as u64;
    let release = |more: &[&str]| {
        let mut arguments = vec!["release", "--locked", "--offline"];
        arguments.extend(more);
        copy.run(XTASK, &arguments).expect(0);
    };
    // Images alone, as another tool would leave them.
    release(&[]);
    let said = copy.root.join("dist/supply-chain");
    let aside = copy.beside().join("aside");
    fs::rename(&said, &aside).unwrap();
    assert_eq!(push(&[]).0, 0);
    let image = images(&released).remove(0);
    let reference = format!(
        "{to}/{}:{}-{}",
        image.model.name, image.model.version, image.target
    );
    let rows = verdicts(&copy, &[&reference], 1);
    let text = faults(&rows);
    assert!(
        text.contains("no bill of materials") && text.contains("no provenance"),
        "{text}"
    );

    // Then what is said about them, then signatures: each once, and no byte of an image.
    fs::rename(&aside, &said).unwrap();
    assert_eq!(push(&["--dry-run"]).0, 2 * count);
    assert_eq!(push(&[]), (2 * count, 0, 0));
    assert_eq!(push(&[]), (0, 0, 0));
    verdicts(&copy, &[&reference], 0);
    let public = copy.beside().join("public.pem");
    let private = key(copy.beside(), "key.pem", &public);
    let public = public.display().to_string();
    verdicts(&copy, &[&reference, "--key", &public], 1);
    release(&["--sign-key", &private]);
    assert_eq!(push(&[]), (count, 0, 0));
    verdicts(&copy, &[&reference, "--key", &public], 0);
    // Also where nothing is remembered, and signatures are new ones by the same key.
    fs::remove_file(copy.state.join("attached.json")).unwrap();
    fs::remove_dir_all(&said).unwrap();
    release(&["--sign-key", &private]);
    assert_eq!(push(&[]), (0, 0, 0));
    // A second key is another signature.
    let second = key(copy.beside(), "second.pem", &copy.beside().join("second.pub"));
    release(&["--sign-key", &second]);
    assert_eq!(push(&[]), (count, 0, 0));
    verdicts(&copy, &[&reference, "--key", &public], 0);

    // What somebody else attaches is not believed where a signature says which statements count.
    let bill = format!("dist/supply-chain/{}/bom.cdx.json", image.name);
    let text = copy.read(&bill);
    copy.write(&bill, text.replace("machine-learning-model", "library"));
    let other = format!("{}/b", registry.address);
    direct(&copy, &["push", "--to", &other]).expect(0);
    let reference = format!(
        "{other}/{}:{}-{}",
        image.model.name, image.model.version, image.target
    );
    let rows = verdicts(&copy, &[&reference], 1);
    assert!(
        faults(&rows).contains("no model with a model card"),
        "{}",
        faults(&rows)
    );
    let second = copy.beside().join("second.pub").display().to_string();
    let rows = verdicts(&copy, &[&reference, "--key", &second], 1);
    assert!(
        faults(&rows).contains("that its signature names is not attached"),
        "{}",
        faults(&rows)
    );
}

#[test]
fn sizes_are_told_and_what_does_not_fit_is_refused() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let sizes = || {
        let ended = copy
            .run(XTASK, &["release", "--offline", "--format", "json"])
            .expect(0);
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        json["sizes"].as_array().unwrap().clone()
    };
    fs::remove_file(copy.state.join("sizes.json")).ok();
    let first = sizes();
    let workspace = declared(&copy.root);
    assert_eq!(first.len(), workspace.targets.len());
    for row in &first {
        assert_eq!(row["new-bytes"], Value::Null, "{row}");
        // Layers of programs and libraries shrink, so there is more on the disk than on the link.
        assert!(
            row["unpacked-bytes"].as_u64() > row["download-bytes"].as_u64(),
            "{row}"
        );
    }
    for row in sizes() {
        assert_eq!(
            (row["new-bytes"].as_u64(), row["unpacked-change-bytes"].as_i64()),
            (Some(0), Some(0))
        );
    }
    let text = copy.run(XTASK, &["release", "--offline"]).expect(0).stdout;
    assert!(text.contains("minutes") && text.contains("unpacked"), "{text}");

    // A disk that the images do not fit on. The model files alone would, or `check` refused.
    let target = first[0]["target"].as_str().unwrap();
    let mib = first[0]["unpacked-bytes"].as_u64().unwrap() >> 20;
    set_key(
        &copy,
        "targets.toml",
        &format!("target.{target}.limits"),
        "disk-mib",
        &mib.to_string(),
    );
    let committed = copy.committed();
    let refused = copy.run(XTASK, &["release", "--offline"]).expect(1);
    assert!(
        refused.stderr.contains(&format!("images for {target} take")),
        "{}",
        refused.stderr
    );
    assert_eq!(copy.committed(), committed);
}
