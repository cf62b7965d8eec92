//! A fleet: models of 4 MiB for four targets, whose images share module and engine layers, baked and pushed to a real
//! registry on this machine by `cargo xtask push` in a process of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_build::BuildError;
use aiot_oci::{
    Compression, Descriptor, FileMode, FileSource, ImageSpec, Layer, LayerBuilder, Platform, Store,
    assemble_image, assemble_index, image, write_layout,
};

use super::bake::write_noise;
use super::floor;
use super::measure::{Aim, Ran, Row, ran, timed};
use super::push::{REGISTRY, Registry, is_installed};

const TARGETS: [(&str, &str, Option<&str>); 4] = [
    ("amd64", "amd64", None),
    ("arm64", "arm64", None),
    ("arm", "arm", Some("v7")),
    ("riscv64", "riscv64", None),
];
/// Of each target: module and engine, shared by all its images.
const SHARED_BYTES: [usize; 2] = [10 << 20, 20 << 20];
const MODEL_BYTES: usize = 4 << 20;

/// Files that a fleet is baked from.
struct Inputs {
    /// Module and engine of each target.
    shared: Vec<PathBuf>,
    models: Vec<PathBuf>,
}

/// What was baked from them.
struct Fleet {
    store: Store,
    layers: BTreeMap<PathBuf, Layer>,
    /// Images and index of each model.
    models: Vec<(Vec<Descriptor>, Descriptor)>,
}

/// Measures; no rows where there is no registry to push to.
pub fn run(models: usize, runs: usize) -> Result<Vec<Row>, BuildError> {
    if !is_installed(REGISTRY) {
        eprintln!("fleet: skipped, since {REGISTRY} is not installed");
        return Ok(Vec::new());
    }
    eprintln!(
        "fleet: {models} models × {} targets, {runs} rounds",
        TARGETS.len()
    );
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let place = temporary.path();
    let inputs = write_inputs(place, models)?;
    let (mut all, mut sent, mut bake_again, mut push_again) = (vec![], vec![], vec![], vec![]);
    let (mut changed, mut memory) = (vec![], vec![]);
    for round in 0..runs {
        let (ours, copies) = (place.join("ours"), place.join("copies"));
        for dir in [&ours, &copies] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir_all(dir).map_err(BuildError::other)?;
        }
        let copy = || copy_all(&inputs, &copies);
        let (bake_floor, (baking, fleet)) = if round % 2 == 0 {
            let baked = timed(|| bake(&ours, &inputs, &BTreeMap::new()))?;
            (timed(copy)?.0, baked)
        } else {
            (timed(copy)?.0, timed(|| bake(&ours, &inputs, &BTreeMap::new()))?)
        };
        // 2,000 images take some GB each time.
        fs::remove_dir_all(&copies).map_err(BuildError::other)?;
        bake_again.push(timed(|| bake(&ours, &inputs, &fleet.layers))?.0);

        let floor_of = |fleet: &Fleet| -> Result<f64, BuildError> {
            let registry = Registry::start(&place.join("registry"))?;
            Ok(timed(|| push_floor(&registry.address, fleet))?.0)
        };
        let early = (round % 2 == 1).then(|| floor_of(&fleet)).transpose()?;
        let registry = Registry::start(&place.join("registry"))?;
        let push = || push_layout(place, &ours.join("layout"), &registry.address);
        let first = push()?;
        let again = push()?;
        // One model of the fleet gets other bytes.
        write_noise(&inputs.models[0], MODEL_BYTES, 1_000_000 + round as u64)?;
        let mut known = fleet.layers.clone();
        known.remove(&inputs.models[0]);
        let (rebaking, _) = timed(|| bake(&ours, &inputs, &known))?;
        changed.push(rebaking + push_moving(place, &ours.join("layout"), &registry.address)?.seconds);
        drop(registry);
        let push_floor = match early {
            Some(seconds) => seconds,
            None => floor_of(&fleet)?,
        };
        memory.push(first.peak_bytes);
        sent.push((first.seconds, push_floor));
        all.push((baking + first.seconds, bake_floor + push_floor));
        push_again.push(again.seconds);
    }
    let name = |what: &str| format!("fleet of {}, {what}", models * TARGETS.len());
    Ok(vec![
        Row::pairs(
            name("bake and push"),
            "copies and bare uploads",
            &all,
            Some(Aim::Ratio(1.3)),
        ),
        Row::pairs(name("push alone"), "bare uploads", &sent, None),
        Row::alone(name("bake, nothing changed"), &bake_again, Some(Aim::Here(1.0))),
        Row::alone(name("push, all there"), &push_again, Some(Aim::Here(1.0))),
        Row::alone(name("one model changed"), &changed, Some(Aim::Here(1.0))),
        Row::memory(name("push"), &memory, Some(Aim::Here(200.0))),
    ])
}

fn write_inputs(place: &Path, models: usize) -> Result<Inputs, BuildError> {
    let dir = place.join("inputs");
    fs::create_dir_all(&dir).map_err(BuildError::other)?;
    let mut seed = 0;
    let mut write = |name: String, size_bytes| {
        seed += 1;
        let path = dir.join(name);
        write_noise(&path, size_bytes, seed).map(|()| path)
    };
    let mut shared = Vec::new();
    for (target, ..) in TARGETS {
        for (part, size_bytes) in SHARED_BYTES.into_iter().enumerate() {
            shared.push(write(format!("{target}-{part}"), size_bytes)?);
        }
    }
    let models = (0..models).map(|index| write(format!("m{index:04}"), MODEL_BYTES));
    Ok(Inputs {
        shared,
        models: models.collect::<Result<_, _>>()?,
    })
}

/// Bakes all images; layers in `known` are taken as they are, as a release takes those whose inputs did not change.
fn bake(dir: &Path, inputs: &Inputs, known: &BTreeMap<PathBuf, Layer>) -> Result<Fleet, BuildError> {
    let store = Store::create(&dir.join("store")).map_err(BuildError::other)?;
    let mut layers = known.clone();
    for file in inputs.shared.iter().chain(&inputs.models) {
        if !layers.contains_key(file) {
            let mut layer = LayerBuilder::new();
            layer
                .file("content", FileSource::Path(file.clone()), FileMode::Plain)
                .map_err(BuildError::other)?;
            let layer = layer
                .build(&store, Compression::None)
                .map_err(BuildError::other)?;
            layers.insert(file.clone(), layer);
        }
    }
    let (mut models, mut entries) = (Vec::new(), Vec::new());
    for (number, model) in inputs.models.iter().enumerate() {
        let mut images = Vec::new();
        for (position, (target, architecture, variant)) in TARGETS.into_iter().enumerate() {
            let mut spec = ImageSpec::new(Platform::new("linux", architecture, variant));
            let shared = &inputs.shared[position * SHARED_BYTES.len()..][..SHARED_BYTES.len()];
            spec.layers = shared
                .iter()
                .chain([model])
                .map(|file| layers[file].clone())
                .collect();
            let image = assemble_image(&store, &spec).map_err(BuildError::other)?;
            entries.push((format!("m{number:04}:1-{target}"), image.clone()));
            images.push(image);
        }
        let index = assemble_index(&store, &images, BTreeMap::new()).map_err(BuildError::other)?;
        entries.push((format!("m{number:04}:1"), index.clone()));
        models.push((images, index));
    }
    write_layout(&dir.join("layout"), &store, &entries).map_err(BuildError::other)?;
    Ok(Fleet {
        store,
        layers,
        models,
    })
}

fn copy_all(inputs: &Inputs, to: &Path) -> Result<(), BuildError> {
    for (index, file) in inputs.shared.iter().chain(&inputs.models).enumerate() {
        floor::copy_and_hash(file, &to.join(index.to_string()))?;
    }
    Ok(())
}

/// One repository after the other on each of four connections; what the first repository has is mounted elsewhere.
fn push_floor(address: &str, fleet: &Fleet) -> Result<(), BuildError> {
    let manifests = |number: usize| -> Result<floor::Repository, BuildError> {
        let (images, index) = &fleet.models[number];
        let mut blobs = BTreeMap::new();
        for descriptor in images {
            let manifest =
                image::read_manifest(&fleet.store, &descriptor.digest).map_err(BuildError::other)?;
            blobs.extend(
                manifest
                    .layers
                    .iter()
                    .chain([&manifest.config])
                    .map(|blob| (blob.digest, blob.clone())),
            );
        }
        let shared = fleet
            .layers
            .iter()
            .filter(|(file, _)| !is_model(file))
            .map(|(_, layer)| layer.descriptor.digest);
        let mounted = if number == 0 { Vec::new() } else { shared.collect() };
        blobs.retain(|digest, _| !mounted.contains(digest));
        let mut tags: Vec<_> = TARGETS
            .iter()
            .zip(images)
            .map(|((target, ..), image)| (format!("1-{target}"), image.clone()))
            .collect();
        tags.push(("1".to_owned(), index.clone()));
        Ok(floor::Repository {
            name: format!("bench/m{number:04}"),
            blobs: blobs.into_values().collect(),
            mounted,
            manifests: tags,
        })
    };
    floor::push_repositories(address, "bench/m0000", &fleet.store, &[manifests(0)?], 1)?;
    let rest = (1..fleet.models.len())
        .map(manifests)
        .collect::<Result<Vec<_>, _>>()?;
    floor::push_repositories(address, "bench/m0000", &fleet.store, &rest, 4)
}

fn is_model(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('m'))
}

fn push_layout(place: &Path, layout: &Path, address: &str) -> Result<Ran, BuildError> {
    ran(&mut command(place, layout, address)?)
}

fn push_moving(place: &Path, layout: &Path, address: &str) -> Result<Ran, BuildError> {
    ran(command(place, layout, address)?.arg("--move-tags"))
}

fn command(place: &Path, layout: &Path, address: &str) -> Result<Command, BuildError> {
    let mut command = Command::new(std::env::current_exe().map_err(BuildError::other)?);
    command
        .args(["push", "--to", &format!("{address}/bench"), "--layout"])
        .arg(layout)
        .current_dir(place)
        .arg("--workspace")
        .arg(place)
        .env(aiot_build::paths::STORE_VARIABLE, place.join("state"))
        .env("HOME", place);
    Ok(command)
}
