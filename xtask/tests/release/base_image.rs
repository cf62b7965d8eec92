//! The engine from a base image, as on NVIDIA's devices: an image with an engine in it is made and served here, and
//! a target declared on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_oci::image::{read_config, read_manifest};
use aiot_oci::{
    Compression, Descriptor, Digest, FileMode, FileSource, ImageSpec, Layer, LayerBuilder, Store,
    assemble_image, write_layout,
};
use aiot_testkit::device::{Device, can_run};
use aiot_testkit::registry::Registry;
use aiot_testkit::released::{Copy, Released};
use aiot_testkit::tools::{Ended, find, have, run};

use crate::common::{Image, Report, XTASK, one_per_architecture};
use crate::mirror::{Mirror, NEWER, index_of};

/// The engine in the base images that are made here.
const LIBRARY: &str = "/usr/lib/libonnxruntime.so";

/// An image with the C library and the engine of `image` and a file of its vendor, in a layout of its own. `alter`:
/// what is changed before it is assembled.
fn make_base(
    released: &Released,
    copy: &Copy,
    image: &Image,
    alter: impl FnOnce(&mut ImageSpec),
) -> Descriptor {
    let layout = Store::open_read_only(&released.images()).unwrap();
    let manifest = read_manifest(&layout, &image.digest).unwrap();
    let config = read_config(&layout, &manifest.config.digest).unwrap();
    let store = Store::create(&copy.beside().join("base-store")).unwrap();
    let mut spec = ImageSpec::new(image.platform.clone());
    // Base and engine come before package and module.
    for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids).take(2) {
        store.put_file(&layout.path(&descriptor.digest)).unwrap();
        let descriptor = descriptor.clone();
        spec.layers.push(Layer {
            descriptor,
            diff_id: *diff_id,
            uncompressed_size_bytes: 0,
        });
    }
    let mut vendor = LayerBuilder::new();
    vendor
        .file("etc/vendor", FileSource::Bytes(b"ours".to_vec()), FileMode::Plain)
        .unwrap();
    spec.layers.push(vendor.build(&store, Compression::Gzip).unwrap());
    spec.env.insert("VENDOR".to_owned(), "ours".to_owned());
    alter(&mut spec);
    let base = assemble_image(&store, &spec).unwrap();
    write_layout(
        &copy.beside().join("base"),
        &store,
        &[("base".to_owned(), base.clone())],
    )
    .unwrap();
    base
}

/// Declares that the engine of `target` comes with the image `reference`.
fn declare_base(copy: &Copy, target: &str, reference: &str, library: &str) {
    let mut declared: toml::Table = copy.read("targets.toml").parse().unwrap();
    let target = declared["target"][target].as_table_mut().unwrap();
    let text =
        format!("[base.image]\nreference = \"{reference}\"\n[source.base-image]\nlibrary = \"{library}\"\n");
    let mut new: toml::Table = text.parse().unwrap();
    target.insert("base".to_owned(), new.remove("base").unwrap());
    target["engine"]
        .as_table_mut()
        .unwrap()
        .insert("source".to_owned(), new.remove("source").unwrap());
    copy.write("targets.toml", declared.to_string());
}

/// A workspace that was released on a base image.
struct OnBase {
    copy: Copy,
    /// The image that lent its layers.
    image: Image,
    base: Descriptor,
    ended: Ended,
    registry: Registry,
}

/// Makes a base image, brings it to a registry, declares the engine in it at `library`, and releases; `None` = skipped.
fn release_on_base(alter: impl FnOnce(&mut ImageSpec), library: &str) -> Option<OnBase> {
    if !have(&["docker-registry", "skopeo"]) {
        return None;
    }
    let released = Released::find()?;
    let copy = released.copy();
    let image = one_per_architecture(&released)
        .remove("amd64")
        .expect("a target is amd64");
    let base = make_base(&released, &copy, &image, alter);
    let registry = Registry::start(copy.beside());
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:base", copy.beside().join("base").display()))
        .arg(format!("docker://{}/vendor/runtime:1", registry.address)))
    .expect(0);
    let reference = format!("{}/vendor/runtime@{}", registry.address, base.digest);
    declare_base(&copy, &image.target, &reference, library);
    let mut command = copy.command(XTASK, &["release", "--format", "json"]);
    command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let ended = run(&mut command);
    Some(OnBase {
        copy,
        image,
        base,
        ended,
        registry,
    })
}

/// A release on a base image that does not do: says so with `message`, and writes no image.
fn check_refused(alter: impl FnOnce(&mut ImageSpec), library: &str, message: &str) {
    let Some(OnBase { copy, ended, .. }) = release_on_base(alter, library) else {
        return;
    };
    let ended = ended.expect(1);
    assert!(ended.stderr.contains(message), "{}", ended.stderr);
    assert!(!copy.root.join("dist").exists());
}

#[test]
fn the_engine_can_come_from_the_base_image() {
    if !can_run("amd64") {
        return;
    }
    let Some(found) = release_on_base(|_| {}, LIBRARY) else {
        return;
    };
    let OnBase {
        copy,
        image,
        base,
        ended,
        registry,
    } = found;
    let report = Report::of(ended);
    let digest: Digest = report.digests()[&(image.model.name.to_string(), image.target.clone())]
        .parse()
        .unwrap();
    assert_ne!(digest, image.digest);

    let images = copy.root.join("dist/images");
    assert_eq!(aiot_oci::validate_layout(&images).unwrap(), []);
    let store = Store::open_read_only(&images).unwrap();
    let base_store = Store::open_read_only(&copy.beside().join("base-store")).unwrap();
    let base_layers = read_manifest(&base_store, &base.digest).unwrap().layers;
    let layers = read_manifest(&store, &digest).unwrap().layers;
    assert_eq!(
        layers[..3],
        base_layers[..],
        "the base's layers, as the registry has them"
    );
    assert_eq!(layers.len(), 5, "package and module stand on them: {layers:?}");
    let device = Device::unpack(&images, &digest);
    let ended = device.run(&["self-test"]).expect(0);
    assert!(ended.stdout.contains("golden cases as built"), "{}", ended.stdout);
    assert_eq!(std::fs::read(device.root().join("etc/vendor")).unwrap(), b"ours");
    assert!(
        device.config.config.env.contains(&"VENDOR=ours".to_owned()),
        "{:?}",
        device.config.config.env
    );

    // Pushed to the registry that the base came from: its layers are there already.
    let prefix = format!("{}/aiot", registry.address);
    let mut command = copy.command(XTASK, &["release", "--push", &prefix, "--format", "json"]);
    let pushed = run(command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1")).expect(0);
    let pushed: serde_json::Value = serde_json::from_str(&pushed.stdout).unwrap();
    let rows = pushed["pushed"].as_array().unwrap();
    let (mut mounted, mut images, mut modules) = (0, 0, BTreeSet::new());
    for row in rows {
        if row["reference"]
            .as_str()
            .unwrap()
            .ends_with(&format!("-{}", image.target))
        {
            mounted += row["blobs-mounted"].as_u64().unwrap() as usize;
            images += 1;
            let digest = row["digest"].as_str().unwrap().parse().unwrap();
            modules.insert(read_manifest(&store, &digest).unwrap().layers[4].digest);
        }
    }
    // Every layer of the base for every image; a module goes up once and is mounted for the others that run it.
    let expected = base_layers.len() * images + (images - modules.len());
    assert_eq!(mounted, expected, "{rows:?}");
    // The layer that only the base image has.
    let vendor = &base_layers[2].digest;
    let links = copy.beside().join("registry/docker/registry/v2/repositories");
    let link = format!("aiot/{}/_layers/sha256/{}/link", image.model.name, vendor.hex());
    assert!(links.join(link).is_file());
}

/// A folder of programs without `gpgv`, which would refuse an index that Debian has not signed.
fn without_gpgv(beside: &Path) -> PathBuf {
    let folder = beside.join("programs");
    std::fs::create_dir(&folder).unwrap();
    for program in ["cargo", "git", "python3", "rustc"] {
        if let Some(path) = find(program) {
            std::os::unix::fs::symlink(path, folder.join(program)).unwrap();
        }
    }
    folder
}

#[test]
fn a_base_image_follows_its_tag_when_it_is_asked_to() {
    let Some(OnBase {
        copy,
        image,
        base,
        registry,
        ..
    }) = release_on_base(|_| {}, LIBRARY)
    else {
        return;
    };
    let tagged = format!("{}/vendor/runtime:1", registry.address);
    let reference = format!("{}/vendor/runtime@{}", registry.address, base.digest);
    let unsigned = without_gpgv(copy.beside());
    let lock = || copy.read("aiot.lock");
    // As locked, and with one package newer.
    let same = Mirror::start(index_of(&lock(), None));
    let newer = Mirror::start(index_of(&lock(), Some("libc6")));
    let update = |mirror: &Mirror| {
        let mut command = copy.command(XTASK, &["update", "base"]);
        command
            .env("AIOT_DEBIAN_MIRROR", &mirror.url)
            .env("PATH", &unsigned);
        run(command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1"))
    };
    let declared = || copy.read("targets.toml");
    let before = declared();
    let untagged = update(&same).expect(0);
    assert_eq!(untagged.stdout, "nothing newer\n");
    assert!(
        untagged.stderr.contains("has no tag to follow"),
        "{}",
        untagged.stderr
    );
    copy.write(
        "targets.toml",
        before.replace(&reference, &format!("{tagged}@{}", base.digest)),
    );
    let pinned = declared();
    let locked = lock();
    assert_eq!(update(&same).expect(0).stdout, "nothing newer\n");
    assert_eq!((declared(), lock()), (pinned.clone(), locked.clone()));

    // The tag moves: another image is pushed under it.
    let images = Released::find().unwrap().images();
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:{}", images.display(), image.name))
        .arg(format!("docker://{tagged}")))
    .expect(0);
    let change = format!("{tagged}: {} -> {}", base.digest, image.digest);
    // A mirror that fails leaves both files as they are.
    let failed = update(&Mirror::start(BTreeMap::new())).expect(1);
    assert!(failed.stderr.contains("InRelease"), "{}", failed.stderr);
    assert_eq!((declared(), lock()), (pinned.clone(), locked.clone()));
    let done = update(&newer).expect(0).stdout;
    let moved = pinned.replace(&base.digest.to_string(), &image.digest.to_string());
    assert_eq!(declared(), moved);
    assert!(done.lines().any(|line| line == change), "{done}");
    assert!(
        done.contains("review the change of targets.toml and aiot.lock"),
        "{done}"
    );
    let architectures = locked.matches("[[debian]]").count();
    assert_eq!(
        lock().matches(NEWER).count(),
        2 * architectures,
        "version and file of each:\n{done}"
    );
    assert_eq!(done.matches(NEWER).count(), architectures, "{done}");

    // A tag that is gone is an error, and nothing is written.
    let gone = moved.replace("runtime:1@", "runtime:2@");
    copy.write("targets.toml", &gone);
    assert!(update(&newer).expect(1).stderr.contains("runtime:2"));
    assert_eq!(declared(), gone);
}

#[test]
fn a_base_image_without_the_engine_is_refused() {
    let elsewhere = "/opt/engine/libonnxruntime.so";
    check_refused(|_| {}, elsewhere, elsewhere);
}

#[test]
fn a_base_image_with_a_wrong_diff_id_is_refused() {
    let alter = |spec: &mut ImageSpec| spec.layers[2].diff_id = Digest::of(b"another archive");
    check_refused(alter, LIBRARY, "layer 3 of the base image unpacks to sha256:");
}
