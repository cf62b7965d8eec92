//! Bills of materials, provenance and signatures of a release's images, beside the layout: `dist/supply-chain/<image>/`.
//!
//! Commit and branch stand in the provenance and nowhere else. A signature that still fits its statement and key stays
//! as it is, so that a release that changes nothing writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aiot_oci::layer::visit_layer;
use aiot_oci::{Artifact, Digest, LayerLimits};
use aiot_package::Precision;
use aiot_plan::action::Action;
use aiot_plan::lock::{LockedPackage, LockedWheel};
use aiot_plan::plan::{Plan, Source};
use aiot_plan::records::Calibration;
use aiot_plan::{Model, Target};
use aiot_supply::{
    BomInput, BomModel, ProvenanceInput, Signer, SourceCommit, SystemPackage, bill_of_materials,
    crates_of_lock, image_statement, provenance, signature,
};
use aiot_toolchain::crates::CrateList;
use aiot_toolchain::elf::ELF_SIZE_LIMIT_BYTES;
use serde::{Deserialize, Serialize};

use crate::cache::FileState;
use crate::environment::git;
use crate::error::{BuildError, io};
use crate::execute::Outcome;
use crate::lockfile::write_if_changed;
use crate::observe::Observation;
use crate::paths::Paths;
use crate::records::Measurements;
use crate::registry::descriptor;
use crate::release::Planned;

/// The environment variable with the signing key itself, in PEM.
pub const SIGNING_KEY_VARIABLE: &str = "AIOT_SIGNING_KEY";
/// The environment variable that says who builds, as a URI.
pub const BUILDER_VARIABLE: &str = "AIOT_BUILDER_ID";
/// Who builds where nobody says so.
const LOCAL_BUILDER: &str = "urn:aiot-ops:builder:local";
/// File with the bill of materials.
pub const BOM_FILE: &str = "bom.cdx.json";
/// File with the provenance.
pub const PROVENANCE_FILE: &str = "provenance.intoto.json";
/// File with the signature over image, bill and provenance.
pub const SIGNATURE_FILE: &str = "signature.sigstore.json";
/// The media type of a bill of materials.
pub(crate) const BOM_TYPE: &str = "application/vnd.cyclonedx+json";
/// The longest key file and copyright file that is read.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// The signing key: of a file, else of the environment; `None` where neither is given.
///
/// # Errors
/// When it cannot be read or is no key; the text never holds a part of it.
pub fn signer(file: Option<&Path>) -> Result<Option<Arc<Signer>>, BuildError> {
    let text = match file {
        Some(path) => {
            let length = std::fs::metadata(path).map_err(io("read", path))?.len();
            if length > MAX_TEXT_BYTES {
                return Err(BuildError::Other(format!(
                    "{} is no key: it is too long",
                    path.display()
                )));
            }
            std::fs::read_to_string(path).map_err(io("read", path))?
        }
        None => match std::env::var(SIGNING_KEY_VARIABLE) {
            Ok(text) if !text.trim().is_empty() => text,
            _ => return Ok(None),
        },
    };
    Signer::from_pem(&text)
        .map(|signer| Some(Arc::new(signer)))
        .map_err(BuildError::other)
}

/// Writes what is said about all images of a release; returns the files that changed. `lock` is the text of the lock
/// that the release ends with.
///
/// # Errors
/// A file or layer that cannot be read or written.
pub fn write(
    paths: &Paths,
    planned: &Planned,
    outcome: &Outcome,
    measurements: &Measurements,
    lock: &[u8],
    signer: Option<&Signer>,
) -> Result<Vec<PathBuf>, BuildError> {
    let root = paths.supply_chain();
    let source = source_commit(paths);
    let builder = std::env::var(BUILDER_VARIABLE).unwrap_or_default();
    let builder = if builder.is_empty() {
        LOCAL_BUILDER
    } else {
        builder.as_str()
    };
    let key = signer.map(|signer| signer.verifier().to_pem());
    let from = made_from(planned, outcome, lock, &format!("{source:?} {builder} {key:?}"));
    let known_path = paths.state.join("supply-chain.json");
    // A list that cannot be read costs a second writing, nothing more.
    let known: Option<Statements> = std::fs::read(&known_path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if known.is_some_and(|known| known.from == from && known.are_there(&root)) {
        return Ok(Vec::new());
    }
    let (mut licences, mut programs) = (BTreeMap::new(), BTreeMap::new());
    let (mut written, mut wanted) = (Vec::new(), BTreeSet::new());
    for ((model, target), &node) in &planned.plan.images {
        let version = &planned.workspace.models[model].version;
        let name = format!("{model}-{version}-{target}");
        let below = Below::of(&planned.plan, node);
        let image = descriptor(&outcome.outputs[node]["manifest"]).digest;
        for base in &below.bases {
            for layer in ["layer", "engine-layer"] {
                if let Some(output) = outcome.outputs[*base].get(layer) {
                    read_licences(planned, &descriptor(output), &mut licences)?;
                }
            }
        }
        let binary = below.module.and_then(|node| outcome.outputs[node].get("binary"));
        if let Some(binary) = binary {
            read_crates(planned, &binary.digest, &mut programs)?;
        }
        let compiled = binary.and_then(|binary| programs.get(&binary.digest));
        let bom = bom(
            planned,
            outcome,
            measurements,
            node,
            &below,
            (&licences, compiled),
        )?;
        let (declared, facts) = (&planned.workspace.models[model], &planned.observation);
        let mut dependencies = below.dependencies(&planned.workspace.targets[target].platform.to_string());
        dependencies.insert("file:aiot.lock".to_owned(), Digest::of(lock));
        let challenger = planned
            .workspace
            .challenger(declared, &planned.workspace.targets[target]);
        for model in [Some(declared), challenger.map(|(model, _)| model)]
            .into_iter()
            .flatten()
        {
            dependencies.extend(
                model
                    .files()
                    .map(|(path, digest)| (format!("file:{path}"), digest)),
            );
        }
        if let Some(module) = facts.facts.modules.get(&declared.module) {
            dependencies.insert(
                format!("urn:aiot-ops:module-sources:{}", declared.module),
                *module,
            );
        }
        let statement = provenance(&ProvenanceInput {
            name: &format!("{model}:{version}-{target}"),
            image,
            parameters: BTreeMap::from([
                ("model", model.to_string()),
                ("version", version.clone()),
                ("target", target.to_string()),
            ]),
            source: source.as_ref(),
            dependencies,
            rustc: planned.lock.rustc.as_deref(),
            builder,
        });
        let dir = root.join(&name);
        let mut files = vec![(BOM_FILE, bom), (PROVENANCE_FILE, statement)];
        if let Some(signer) = signer {
            let subjects = [
                (name.as_str(), image),
                (BOM_FILE, Digest::of(&files[0].1)),
                (PROVENANCE_FILE, Digest::of(&files[1].1)),
            ];
            let statement = image_statement(&subjects);
            let old = std::fs::read(dir.join(SIGNATURE_FILE)).unwrap_or_default();
            let bundle = match signer.verifier().verify(&old) {
                Ok(signed) if signed == statement => old,
                _ => signer.sign(&statement).map_err(BuildError::other)?,
            };
            files.push((SIGNATURE_FILE, bundle));
        }
        for (file, bytes) in files {
            let path = dir.join(file);
            if write_if_changed(&path, &bytes)? {
                written.push(path.clone());
            }
            wanted.insert(path);
        }
    }
    remove_others(&root, &wanted)?;
    let statements = Statements::of(from, &root, &wanted);
    let bytes = serde_json::to_vec(&statements).expect("plain data");
    write_if_changed(&known_path, &bytes)?;
    Ok(written)
}

/// What was written, from what, and the state of the files then: a release with nothing to do reads none of them.
#[derive(Serialize, Deserialize)]
struct Statements {
    from: Digest,
    /// By path below the folder.
    files: BTreeMap<PathBuf, FileState>,
}

impl Statements {
    fn of(from: Digest, root: &Path, paths: &BTreeSet<PathBuf>) -> Statements {
        let state = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((path.strip_prefix(root).ok()?.to_owned(), FileState::of(&metadata)))
        };
        Statements {
            from,
            files: paths.iter().filter_map(state).collect(),
        }
    }

    fn are_there(&self, root: &Path) -> bool {
        self.files.iter().all(|(path, state)| {
            std::fs::metadata(root.join(path)).is_ok_and(|metadata| FileState::of(&metadata) == *state)
        })
    }
}

/// A digest over all that statements are made from; `rest` is what the plan does not know.
fn made_from(planned: &Planned, outcome: &Outcome, lock: &[u8], rest: &str) -> Digest {
    let Planned {
        workspace,
        observation,
        ..
    } = planned;
    let (facts, outputs, lock) = (&observation.facts, &outcome.outputs, Digest::of(lock));
    let code = env!("CODE_aiot_supply");
    Digest::of(format!("{workspace:?}{facts:?}{outputs:?}{lock}{rest}{code}").as_bytes())
}

/// What a release said about an image of the layout, to be attached to it; nothing where it spoke of another digest.
///
/// # Errors
/// A file that cannot be read.
pub fn artifacts(root: &Path, name: &str, image: &Digest) -> Result<Vec<Artifact>, BuildError> {
    let dir = root.join(name);
    let mut found = Vec::new();
    // A name is no path: entries of other layouts may hold anything.
    if name.is_empty() || name.contains('/') || name.starts_with('.') || !dir.is_dir() {
        return Ok(found);
    }
    for (file, artifact_type) in [
        (PROVENANCE_FILE, signature::PAYLOAD_TYPE),
        (BOM_FILE, BOM_TYPE),
        (SIGNATURE_FILE, signature::BUNDLE_TYPE),
    ] {
        let path = dir.join(file);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io("read", &path)(error)),
        };
        found.push(Artifact {
            artifact_type: artifact_type.to_owned(),
            title: file.to_owned(),
            bytes,
        });
    }
    let about = found.first().and_then(|provenance| {
        let json: serde_json::Value = serde_json::from_slice(&provenance.bytes).ok()?;
        json["subject"][0]["digest"]["sha256"].as_str().map(str::to_owned)
    });
    Ok(if about == Some(image.hex()) {
        found
    } else {
        Vec::new()
    })
}

/// Layer → package → licences.
type Licences = BTreeMap<Digest, BTreeMap<String, Vec<String>>>;

/// What an image is made of, by the actions before it.
#[derive(Default)]
struct Below<'a> {
    wheels: BTreeSet<&'a LockedWheel>,
    packages: BTreeSet<&'a LockedPackage>,
    images: BTreeSet<&'a str>,
    /// Places of the actions that unpack packages.
    bases: BTreeSet<usize>,
    /// Place of the action that compiles the module.
    module: Option<usize>,
}

impl<'a> Below<'a> {
    fn of(plan: &'a Plan, node: usize) -> Below<'a> {
        let mut below = Below::default();
        let (mut waiting, mut seen) = (vec![node], BTreeSet::new());
        while let Some(node) = waiting.pop() {
            if !seen.insert(node) {
                continue;
            }
            match &plan.nodes[node].action {
                Action::FetchEngine { wheel } => {
                    below.wheels.insert(wheel);
                }
                Action::AssembleBase { packages, .. } => {
                    below.packages.extend(packages);
                    below.bases.insert(node);
                }
                Action::CompileModule { .. } => below.module = Some(node),
                Action::FetchBaseImage { reference, .. } => {
                    below.images.insert(reference);
                }
                _ => {}
            }
            let inputs = plan.nodes[node].inputs.values();
            waiting.extend(inputs.filter_map(|input| match input {
                Source::Output { node, .. } => Some(*node),
                Source::Given(_) => None,
            }));
        }
        below
    }

    fn dependencies(&self, platform: &str) -> BTreeMap<String, Digest> {
        let wheels = self.wheels.iter().map(|wheel| {
            (
                format!(
                    "pkg:pypi/{}@{}?file_name={}",
                    wheel.package, wheel.version, wheel.filename
                ),
                wheel.digest,
            )
        });
        let packages = self.packages.iter().map(|package| {
            let LockedPackage {
                name,
                version,
                architecture,
                ..
            } = package;
            (
                format!("pkg:deb/debian/{name}@{version}?arch={architecture}"),
                package.digest,
            )
        });
        let images = self.images.iter().filter_map(|reference| {
            let (_, digest) = reference.split_once('@')?;
            Some((
                format!("oci:{reference}?platform={platform}"),
                digest.parse().ok()?,
            ))
        });
        wheels.chain(packages).chain(images).collect()
    }
}

fn bom(
    planned: &Planned,
    outcome: &Outcome,
    measurements: &Measurements,
    node: usize,
    below: &Below<'_>,
    (licences, compiled): (&Licences, Option<&CrateList>),
) -> Result<Vec<u8>, BuildError> {
    let Action::AssembleImage { model, target, .. } = &planned.plan.nodes[node].action else {
        return Err(BuildError::Other("an image of the plan is none".to_owned()));
    };
    let (model, target) = (
        &planned.workspace.models[model],
        &planned.workspace.targets[target],
    );
    let challenger = planned
        .workspace
        .challenger(model, target)
        .map(|(model, _)| model);
    let observation = &planned.observation;
    let mut crates = match observation.modules.get(&model.module) {
        Some(module) => crates_of_lock(&module.lock_excerpt).map_err(BuildError::other)?,
        None => Vec::new(),
    };
    // The lock has the checksums, and crates of all processors; the program has what was compiled for this one.
    if let Some(compiled) = compiled {
        let compiled = compiled.by_name();
        crates.retain(|it| compiled.contains_key(&(it.name.as_str(), it.version.as_str())));
    }
    // Only packages whose files are in the image: what its layers say, by the names in them.
    let mut here: BTreeMap<&str, &Vec<String>> = BTreeMap::new();
    for base in &below.bases {
        for layer in ["layer", "engine-layer"] {
            let found = outcome.outputs[*base]
                .get(layer)
                .and_then(|output| licences.get(&output.digest));
            here.extend(
                found
                    .into_iter()
                    .flatten()
                    .map(|(name, licences)| (name.as_str(), licences)),
            );
        }
    }
    let packages = below
        .packages
        .iter()
        .filter_map(|locked| {
            Some(SystemPackage {
                locked,
                licences: (*here.get(locked.name.as_str())?).clone(),
            })
        })
        .collect();
    let in_image = |wheel: &&&LockedWheel| match &target.engine.source {
        aiot_plan::workspace::EngineFrom::Wheel { package, platform } => {
            (&wheel.package, &wheel.platform) == (package, platform)
        }
        _ => false,
    };
    let calibrations = [Some(model), challenger].map(|model| calibration(observation, model?));
    let entry = |model, calibration| bom_model(observation, measurements, (model, target), calibration);
    Ok(bill_of_materials(&BomInput {
        model: entry(model, calibrations[0].as_ref()),
        challenger: challenger.map(|model| entry(model, calibrations[1].as_ref())),
        target,
        image: descriptor(&outcome.outputs[node]["manifest"]).digest,
        crates,
        engine: below.wheels.iter().find(in_image).copied(),
        packages,
    }))
}

/// The committed calibration of a model.
fn calibration(observation: &Observation, model: &Model) -> Option<Calibration> {
    let (digest, _) = observation.record_files.get(&model.name)?;
    let bytes = observation.records.get(&(*digest)?)?;
    Calibration::parse(std::str::from_utf8(bytes).ok()?).ok()
}

/// What is known of a model in an image for a target.
fn bom_model<'a>(
    observation: &Observation,
    measurements: &'a Measurements,
    (model, target): (&'a Model, &Target),
    calibration: Option<&'a Calibration>,
) -> BomModel<'a> {
    let precision = model.precision_on(target);
    let measured = |precision: Precision| measurements.effective.get(&(model.name.clone(), precision));
    let dataset = |path: &str| observation.facts.datasets.get(path).copied();
    BomModel {
        model,
        precision,
        float: measured(Precision::Float32),
        shipped: measured(precision),
        calibration,
        calibration_set: model.calibration_path.as_deref().and_then(dataset),
        evaluation_set: dataset(&model.evaluation_path),
    }
}

/// Layer → package → licences, from the copyright files in it; read once per layer.
fn read_licences(
    planned: &Planned,
    layer: &aiot_oci::Descriptor,
    known: &mut Licences,
) -> Result<(), BuildError> {
    if known.contains_key(&layer.digest) {
        return Ok(());
    }
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    visit_layer(&planned.store, layer, LayerLimits::default(), |entry, reader| {
        let package = entry.path.strip_prefix("var/lib/dpkg/status.d/");
        if let Some(name) = package.filter(|name| !name.contains('/')) {
            found.entry(name.to_owned()).or_default();
        }
        let documented = entry.path.strip_prefix("usr/share/doc/");
        if let Some(name) = documented.and_then(|rest| rest.strip_suffix("/copyright")) {
            let mut bytes = Vec::new();
            let read = reader.take(MAX_TEXT_BYTES).read_to_end(&mut bytes);
            read.map_err(|error| aiot_oci::LayerError::Unreadable {
                digest: layer.digest,
                reason: error.to_string(),
            })?;
            let text = String::from_utf8_lossy(&bytes);
            found.insert(name.to_owned(), aiot_supply::licences(&text));
        }
        Ok(())
    })
    .map_err(BuildError::other)?;
    known.insert(layer.digest, found);
    Ok(())
}

/// Program → the crates that it carries the list of; read once per program.
fn read_crates(
    planned: &Planned,
    binary: &Digest,
    known: &mut BTreeMap<Digest, CrateList>,
) -> Result<(), BuildError> {
    if known.contains_key(binary) {
        return Ok(());
    }
    let bytes = planned
        .store
        .read_verified(binary, ELF_SIZE_LIMIT_BYTES as u64)
        .map_err(BuildError::other)?;
    known.insert(*binary, CrateList::read(&bytes).map_err(BuildError::other)?);
    Ok(())
}

/// The commit of a workspace; `None` where it is no git repository or git is missing.
fn source_commit(paths: &Paths) -> Option<SourceCommit> {
    let git = |arguments: &[&str]| {
        let text = String::from_utf8(git(paths, arguments).ok()?).ok()?;
        Some(text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--verify", "HEAD"])?;
    Some(SourceCommit {
        repository: git(&["config", "--get", "remote.origin.url"])
            .and_then(|url| public_address(&url))
            .unwrap_or_default(),
        commit,
        branch: git(&["symbolic-ref", "--short", "--quiet", "HEAD"]).unwrap_or_default(),
        is_modified: git(&["status", "--porcelain", "--untracked-files=no"])
            .is_none_or(|text| !text.is_empty()),
    })
}

/// An address without user and password; `None` for a folder of this machine.
fn public_address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "https" | "http" | "ssh" | "git") {
        return None;
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    Some(format!("{scheme}://{host}/{path}"))
}

/// Removes what earlier releases said about images that are no more, or said with a key that is not given now.
fn remove_others(root: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), BuildError> {
    for entry in walkdir::WalkDir::new(root).contents_first(true) {
        let entry = entry.map_err(BuildError::other)?;
        let path = entry.path();
        if entry.file_type().is_file() && !wanted.contains(path) {
            std::fs::remove_file(path).map_err(io("remove", path))?;
        } else if entry.file_type().is_dir() {
            // Goes only where it is empty.
            let _ = std::fs::remove_dir(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_secrets_and_folders_are_not_told() {
        let check = |url: &str, expected: Option<&str>| assert_eq!(public_address(url).as_deref(), expected);
        check(
            "https://user:secret@git.example/a/b.git",
            Some("https://git.example/a/b.git"),
        );
        check(
            "https://git.example/a?token=secret",
            Some("https://git.example/a"),
        );
        check("ssh://git@git.example/a", Some("ssh://git.example/a"));
        check("/home/me/work", None);
        check("file:///home/me/work", None);
    }
}
