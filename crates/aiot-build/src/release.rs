//! The order of a release: check → lock → plan → execute → judge → layout, records, manifests, lock.
//!
//! Nothing that people review is written before everything is known to be good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use aiot_oci::{Descriptor, Digest, Store};
use aiot_package::Precision;
use aiot_plan::action::Action;
use aiot_plan::lock::{Lock, LockedModel};
use aiot_plan::plan::{self, Plan, Selection, Status};
use aiot_plan::workspace::Environment;
use aiot_plan::{EnvironmentName, ModelName, Workspace, tools};

use crate::cache::Cache;
use crate::error::{BuildError, io};
use crate::events::{Event, Sink};
use crate::execute::{self, Context, LayerContents, Outcome};
use crate::lockfile;
use crate::manifests::{self, Row};
use crate::network::Network;
use crate::observe::{FileIndex, Observation, observe};
use crate::paths::Paths;
use crate::policy;
use crate::push::{PushItem, PushReport, PushSettings, push};
use crate::records::{self, Measurements};
use crate::registry::{base_places, descriptor};
use crate::sizes::{self, SizeRow, Sizes};
use crate::workspace::check;

/// How to release.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Refuse to change `aiot.lock` and the records.
    pub locked: bool,
    /// Do not touch the network.
    pub offline: bool,
    /// Write nothing that is committed; fail where it would change.
    pub check: bool,
    /// Environments to write manifests for; empty = all.
    pub environments: Vec<String>,
    /// `REGISTRY/PREFIX` to push to.
    pub push: Option<String>,
    /// Ask the registry what it lacks, and push nothing.
    pub push_dry_run: bool,
    /// Whether tags that name other images are moved.
    pub move_tags: bool,
    /// Signs what is said about the images.
    pub signer: Option<std::sync::Arc<aiot_supply::Signer>>,
    /// Threads.
    pub jobs: usize,
}

/// What a release came to.
#[derive(Debug)]
pub struct Report {
    /// One row per image.
    pub rows: Vec<Row>,
    /// What the images take, one row per target.
    pub sizes: Vec<SizeRow>,
    /// Actions that ran.
    pub ran: usize,
    /// All actions.
    pub total: usize,
    /// Files that changed, relative to the workspace.
    pub written: Vec<PathBuf>,
    /// With `check`: committed files that are not up to date, with their differences.
    pub drift: Vec<(PathBuf, String)>,
    /// What was pushed, or would be.
    pub pushed: Option<PushReport>,
    /// The host's ONNX Runtime in the store; `None` where no model needs one.
    pub host_engine: Option<PathBuf>,
}

/// Everything up to the plan.
pub struct Planned {
    /// Declarations.
    pub workspace: Workspace,
    /// The lock, with what was looked up.
    pub lock: Lock,
    /// Facts and contents.
    pub observation: Observation,
    /// The graph.
    pub plan: Plan,
    /// Results of earlier runs.
    pub cache: Cache,
    /// Blobs.
    pub store: Store,
}

/// Keeps other releases of the same workspace out until it is dropped.
pub struct Alone {
    _file: std::fs::File,
}

impl Alone {
    /// Waits for other releases that use the same state.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn wait(paths: &Paths, events: Sink<'_>) -> Result<Alone, BuildError> {
        std::fs::create_dir_all(&paths.state).map_err(io("create", &paths.state))?;
        let path = paths.state.join("running");
        let file = std::fs::File::create(&path).map_err(io("create", &path))?;
        if file.try_lock().is_err() {
            events(Event::Note(
                "another release is running here; waiting for it".to_owned(),
            ));
            file.lock().map_err(io("lock", &path))?;
        }
        Ok(Alone { _file: file })
    }
}

/// Checks, observes and plans. What the lock lacks is looked up where `network` allows.
///
/// # Errors
/// As [`check`]; what is unlocked where it must not be looked up.
pub fn prepare(
    paths: &Paths,
    selection: &Selection,
    locked: bool,
    network: Option<&Network>,
    events: Sink<'_>,
) -> Result<Planned, BuildError> {
    let mut files = FileIndex::open(paths);
    let workspace = check(paths, &mut files)?;
    let observation = observe(paths, &workspace, &mut files)?;
    let mut lock = lockfile::read(paths)?;
    let plan = match plan::build(&workspace, &observation.facts, &lock, selection) {
        Ok(plan) => plan,
        Err(unlocked) => {
            let wheels = unlocked
                .wheels
                .iter()
                .map(|w| format!("wheel {} {} ({})", w.package, w.version, w.platform));
            let closures = unlocked
                .closures
                .iter()
                .map(|c| format!("Debian {} {} for {}", c.suite, c.architecture, c.roots.join(", ")));
            let missing: Vec<String> = wheels
                .chain(closures)
                .map(|what| format!("aiot.lock has no {what}"))
                .collect();
            let network = match (locked, network) {
                (true, _) => return Err(BuildError::Locked(missing)),
                (false, None) => {
                    return Err(BuildError::Other(format!(
                        "--offline, but {}",
                        missing.join("; ")
                    )));
                }
                (false, Some(network)) => network,
            };
            lockfile::look_up(paths, &workspace, &mut lock, &unlocked, network, events)?;
            // Kept at once: what was looked up is not asked for again when something fails later.
            lockfile::write(paths, &lock)?;
            plan::build(&workspace, &observation.facts, &lock, selection)
                .map_err(|left| BuildError::Other(format!("the lock still lacks {left:?}")))?
        }
    };
    let store = Store::create(&paths.store()).map_err(BuildError::other)?;
    let cache = Cache::open(paths.actions(), store.clone())?;
    Ok(Planned {
        workspace,
        lock,
        observation,
        plan,
        cache,
        store,
    })
}

/// Releases the whole workspace.
///
/// # Errors
/// Everything that can go wrong, each with what to do; nothing committed is changed then.
pub fn release(paths: &Paths, options: &Options, events: Sink<'_>) -> Result<Report, BuildError> {
    let _alone = Alone::wait(paths, events)?;
    let network = if options.offline {
        None
    } else {
        Some(Network::new()?)
    };
    let network = network.as_ref();
    let planned = prepare(
        paths,
        &Selection::default(),
        options.locked || options.check,
        network,
        events,
    )?;
    if options.locked || options.check {
        refuse_stale(paths, &planned)?;
    }
    let environments = environments(&planned.workspace, &options.environments)?;
    let signer = options.signer.as_deref();
    if options.push.is_some() && !options.check {
        policy::require_signer(paths, &planned.workspace, &environments, signer)?;
    }
    let outcome = run(paths, &planned, network, options.jobs, events)?;
    let measurements = records::measurements(
        &planned.plan,
        &planned.observation.facts,
        &planned.observation,
        &outcome.outputs,
        &planned.store,
    )?;
    judge(&planned.workspace, &planned.plan, &measurements)?;
    let sizes = Sizes::of(&planned.plan, &outcome.outputs, &planned.store)?;
    let last = Sizes::read(&paths.sizes());
    let size_rows = sizes.rows(&planned.workspace, &planned.plan, last.as_ref());
    sizes::judge(&size_rows)?;

    let mut committed = records::files(
        paths,
        &planned.workspace,
        &planned.plan,
        &measurements,
        &outcome.outputs,
        &planned.store,
    )?;
    let lock = final_lock(paths, &planned, &committed);
    committed.insert(paths.lock(), lock.render().into_bytes());
    let mut stale_files = Vec::new();
    for name in &environments {
        let environment = &planned.workspace.environments[name];
        let dir = paths.deployments(name.as_str());
        let files = manifests::files(
            &planned.workspace,
            environment,
            &planned.plan,
            &outcome.outputs,
            &measurements,
            &planned.store,
        )?;
        stale_files.extend(generated_files(&dir)?.into_iter().filter(|path| {
            let relative = path
                .strip_prefix(&dir)
                .unwrap_or(path)
                .to_string_lossy()
                .into_owned();
            !files.contains_key(&relative)
        }));
        let files: BTreeMap<PathBuf, Vec<u8>> = files
            .into_iter()
            .map(|(path, bytes)| (dir.join(path), bytes))
            .collect();
        // Manifests that are there already got their images from a release that was allowed to name them.
        if !options.check && !files.iter().all(|(path, bytes)| is_there(path, bytes)) {
            let images = images_below(&planned, &outcome, environment);
            policy::require_signatures(paths, environment, &images, signer, network)?;
        }
        committed.extend(files);
    }
    let rows = manifests::rows(
        &planned.workspace,
        &planned.plan,
        &outcome,
        &measurements,
        &planned.store,
    )?;
    let mut report = Report {
        rows,
        sizes: size_rows,
        ran: outcome.ran.len(),
        total: planned.plan.nodes.len(),
        written: Vec::new(),
        drift: Vec::new(),
        pushed: None,
        host_engine: host_engine(&planned, &outcome),
    };
    let relative = |path: &PathBuf| path.strip_prefix(&paths.root).unwrap_or(path).to_owned();
    if options.check {
        report.drift = drift(&committed, &stale_files)
            .into_iter()
            .map(|(p, text)| (relative(&p), text))
            .collect();
        return Ok(report);
    }
    write_layout(paths, &planned, &outcome)?;
    let lock = &committed[&paths.lock()];
    crate::supply::write(paths, &planned, &outcome, &measurements, lock, signer)?;
    // Pushed before manifests name the images: what is deployed can be pulled.
    if let Some(prefix) = &options.push {
        let network = network.ok_or_else(|| BuildError::Other("--push needs the network".to_owned()))?;
        report.pushed = Some(push_all(
            paths, network, &planned, &outcome, prefix, options, events,
        )?);
    }
    sizes.write(&paths.sizes())?;
    report.written = records::write(&committed)?.iter().map(relative).collect();
    for path in stale_files {
        std::fs::remove_file(&path).map_err(io("remove", &path))?;
        report.written.push(relative(&path));
    }
    Ok(report)
}

/// The library that evaluated the models on this machine.
fn host_engine(planned: &Planned, outcome: &Outcome) -> Option<PathBuf> {
    let wanted = aiot_plan::tools::host_engine(&planned.observation.facts.host_architecture);
    planned
        .plan
        .nodes
        .iter()
        .zip(&outcome.outputs)
        .find_map(|(node, outputs)| match &node.action {
            aiot_plan::action::Action::FetchEngine { wheel }
                if (&wheel.package, &wheel.platform) == (&wanted.package, &wanted.platform)
                    && wheel.version == wanted.version =>
            {
                Some(planned.store.path(&outputs["library"].digest))
            }
            _ => None,
        })
}

/// Runs the plan.
///
/// # Errors
/// As [`execute::execute`].
pub fn run(
    paths: &Paths,
    planned: &Planned,
    network: Option<&Network>,
    jobs: usize,
    events: Sink<'_>,
) -> Result<Outcome, BuildError> {
    let statuses = plan::statuses(&planned.plan, &planned.cache);
    let to_run = statuses
        .iter()
        .filter(|status| !matches!(status, Status::Done(_)))
        .count();
    events(Event::Planned {
        total: statuses.len(),
        to_run,
    });
    for note in &planned.plan.notes {
        events(Event::Note(note.clone()));
    }
    for environment in planned.workspace.environments.values() {
        for pin in &environment.pins {
            events(Event::Note(format!(
                "environment `{}` stays at {} {} ({}): remove the pin in deployments/{}.toml to roll {} out",
                environment.name, pin.model, pin.version, pin.reason, environment.name, pin.instead_of
            )));
        }
    }
    let context = Context {
        paths,
        workspace: &planned.workspace,
        lock: &planned.lock,
        observation: &planned.observation,
        store: &planned.store,
        cache: &planned.cache,
        network,
        events,
        engine: OnceLock::new(),
        compiling: Mutex::new(()),
        layers: LayerContents::default(),
    };
    execute::execute(&planned.plan, &context, jobs)
}

fn environments(workspace: &Workspace, wanted: &[String]) -> Result<Vec<EnvironmentName>, BuildError> {
    if wanted.is_empty() {
        return Ok(workspace.environments.keys().cloned().collect());
    }
    let mut found = BTreeSet::new();
    for name in wanted {
        let environment = EnvironmentName::new(name).filter(|name| workspace.environments.contains_key(name));
        found.insert(environment.ok_or_else(|| {
            let known = workspace.environments.keys().map(EnvironmentName::as_str);
            BuildError::Other(format!(
                "there is no environment `{name}`: {}",
                aiot_plan::diagnose::suggest("deployments/", name, known)
            ))
        })?);
    }
    Ok(found.into_iter().collect())
}

/// `--locked`: everything that would have to be made anew, with the line of the lock that would change.
fn refuse_stale(paths: &Paths, planned: &Planned) -> Result<(), BuildError> {
    let mut reasons = records::stale(&planned.plan);
    let old = std::fs::read_to_string(paths.lock()).unwrap_or_default();
    let mut lock = planned.lock.clone();
    lock.rustc = Some(planned.observation.facts.rustc.clone());
    lock.model = locked_models(&planned.workspace, |name| {
        planned.observation.record_files.get(name).copied()
    });
    prune(&mut lock, planned);
    reasons.extend(lockfile::difference(&old, &lock.render()));
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(BuildError::Locked(reasons))
    }
}

fn locked_models(
    workspace: &Workspace,
    records: impl Fn(&ModelName) -> Option<(Option<aiot_oci::Digest>, Option<aiot_oci::Digest>)>,
) -> BTreeMap<ModelName, LockedModel> {
    workspace
        .models
        .values()
        .map(|model| {
            let (calibration, measured) = records(&model.name).unwrap_or_default();
            let calibration = calibration.filter(|_| model.needs_calibration(workspace));
            (
                model.name.clone(),
                LockedModel {
                    source: model.source(),
                    calibration,
                    measured,
                },
            )
        })
        .collect()
}

/// Entries that nothing asks for any more go; those of other hosts' tools stay.
fn prune(lock: &mut Lock, planned: &Planned) {
    let mut closures: Vec<&Vec<aiot_plan::lock::LockedPackage>> = Vec::new();
    let mut wheels: Vec<&aiot_plan::lock::LockedWheel> = Vec::new();
    for node in &planned.plan.nodes {
        match &node.action {
            Action::AssembleBase { packages, .. } => closures.push(packages),
            Action::FetchEngine { wheel } => wheels.push(wheel),
            _ => {}
        }
    }
    lock.debian.retain(|closure| closures.contains(&&closure.package));
    let architecture = std::env::consts::ARCH;
    let tools: Vec<_> = tools::zig_wheels(architecture)
        .into_iter()
        .chain([tools::host_engine(architecture)])
        .collect();
    let is_tool = |wheel: &aiot_plan::lock::LockedWheel| {
        tools
            .iter()
            .any(|tool| (&tool.package, &tool.version) == (&wheel.package, &wheel.version))
    };
    lock.wheel
        .retain(|wheel| wheels.contains(&wheel) || is_tool(wheel));
}

fn final_lock(paths: &Paths, planned: &Planned, records: &BTreeMap<PathBuf, Vec<u8>>) -> Lock {
    let mut lock = planned.lock.clone();
    lock.rustc = Some(planned.observation.facts.rustc.clone());
    lock.model = locked_models(&planned.workspace, |name| {
        let (calibration, measured) = planned
            .observation
            .record_files
            .get(name)
            .copied()
            .unwrap_or_default();
        let dir = crate::observe::record_dir(paths, name);
        let new = |file: &str| {
            records
                .get(&dir.join(file))
                .map(|bytes| aiot_oci::Digest::of(bytes))
        };
        Some((
            new(aiot_plan::records::CALIBRATION_FILE).or(calibration),
            new(aiot_plan::records::MEASURED_FILE).or(measured),
        ))
    });
    prune(&mut lock, planned);
    lock
}

/// Refuses models beyond their budget and measurements that contradict the committed ones.
fn judge(workspace: &Workspace, plan: &Plan, measurements: &Measurements) -> Result<(), BuildError> {
    if !measurements.contradictions.is_empty() {
        return Err(BuildError::Contradiction(measurements.contradictions.clone()));
    }
    let mut refused = Vec::new();
    for (name, target) in plan.images.keys().chain(plan.shadows.keys()) {
        let (model, target) = (&workspace.models[name], &workspace.targets[target]);
        let precision = model.precision_on(target);
        let value = |precision: Precision| {
            measurements
                .effective
                .get(&(name.clone(), precision))
                .map_or(f64::NAN, |measured| measured.value)
        };
        let (float, shipped) = (value(Precision::Float32), value(precision));
        let bounds = &model.targets[&target.name];
        let drop = model.metric.drop(float, shipped);
        let mut problems = Vec::new();
        if !model.metric.reaches(shipped, bounds.at_least) {
            problems.push(format!(
                "{} is beyond the bound {}",
                number(shipped),
                number(bounds.at_least)
            ));
        }
        if drop > bounds.max_drop || drop.is_nan() {
            problems.push(format!(
                "the drop of {} is {} more than the allowed {}",
                number(drop),
                number(drop - bounds.max_drop),
                number(bounds.max_drop)
            ));
        }
        if !problems.is_empty() {
            refused.push(format!(
                "{name} on {} as {precision}: {} {} → {}: {};",
                target.name,
                model.metric,
                number(float),
                number(shipped),
                problems.join(", ")
            ));
        }
    }
    if refused.is_empty() {
        Ok(())
    } else {
        Err(BuildError::Acceptance(refused))
    }
}

fn number(value: f64) -> String {
    format!("{value:.4}")
}

/// Name in the layout → what it names: an index per model, an image per pair.
fn named(planned: &Planned, outcome: &Outcome) -> Vec<(String, Descriptor)> {
    let mut entries = Vec::new();
    for (model, &node) in &planned.plan.indexes {
        let version = &planned.workspace.models[model].version;
        entries.push((
            format!("{model}-{version}"),
            descriptor(&outcome.outputs[node]["index"]),
        ));
    }
    for ((model, target), &node) in &planned.plan.images {
        let mut image = descriptor(&outcome.outputs[node]["manifest"]);
        image.platform = Some(execute::oci_platform(&planned.workspace.targets[target].platform));
        let version = &planned.workspace.models[model].version;
        entries.push((format!("{model}-{version}-{target}"), image));
    }
    entries
}

/// Repository below the prefix and digest of every image → its name.
fn images_below(
    planned: &Planned,
    outcome: &Outcome,
    environment: &Environment,
) -> BTreeMap<(String, Digest), String> {
    let images = planned.plan.images.iter().map(|((model, target), &node)| {
        let mut pins = environment.pins.iter().filter(|pin| pin.model == *model);
        let pinned = pins.find_map(|pin| pin.images.get(target));
        let digest = pinned.map_or(outcome.outputs[node]["manifest"].digest, |image| image.digest);
        ((model.to_string(), digest), format!("{model} for {target}"))
    });
    images.collect()
}

fn is_there(path: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|old| old == bytes)
}

fn write_layout(paths: &Paths, planned: &Planned, outcome: &Outcome) -> Result<(), BuildError> {
    aiot_oci::write_layout(&paths.images(), &planned.store, &named(planned, outcome))
        .map_err(BuildError::other)?;
    Ok(())
}

fn push_all(
    paths: &Paths,
    network: &Network,
    planned: &Planned,
    outcome: &Outcome,
    prefix: &str,
    options: &Options,
    events: Sink<'_>,
) -> Result<PushReport, BuildError> {
    let mut items = Vec::new();
    for ((model, target), &node) in &planned.plan.images {
        let version = &planned.workspace.models[model].version;
        items.push(PushItem {
            repository: model.to_string(),
            tag: Some(format!("{version}-{target}")),
            artifacts: crate::supply::artifacts(
                &paths.supply_chain(),
                &format!("{model}-{version}-{target}"),
                &outcome.outputs[node]["manifest"].digest,
            )?,
            descriptor: descriptor(&outcome.outputs[node]["manifest"]),
        });
    }
    for (model, &node) in &planned.plan.indexes {
        items.push(PushItem {
            repository: model.to_string(),
            tag: Some(planned.workspace.models[model].version.clone()),
            descriptor: descriptor(&outcome.outputs[node]["index"]),
            artifacts: Vec::new(),
        });
    }
    let bases = base_places(&planned.plan, &outcome.outputs)?;
    let settings = PushSettings {
        move_tags: options.move_tags,
        dry_run: options.push_dry_run,
        habits: Some(&paths.registries()),
        bases: Some(&bases),
    };
    push(network, &planned.store, prefix, &items, settings, events)
}

/// All files below an environment's folder: every one of them is generated.
fn generated_files(dir: &std::path::Path) -> Result<Vec<PathBuf>, BuildError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry =
            entry.map_err(|error| BuildError::Other(format!("cannot list {}: {error}", dir.display())))?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

fn drift(committed: &BTreeMap<PathBuf, Vec<u8>>, stale_files: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut drift = Vec::new();
    for (path, bytes) in committed {
        let old = std::fs::read(path).unwrap_or_default();
        if old != *bytes {
            let (old, new) = (String::from_utf8_lossy(&old), String::from_utf8_lossy(bytes));
            let diff = similar::TextDiff::from_lines(old.as_ref(), new.as_ref());
            drift.push((
                path.clone(),
                diff.unified_diff().header("committed", "released").to_string(),
            ));
        }
    }
    drift.extend(
        stale_files
            .iter()
            .map(|path| (path.clone(), "no longer generated\n".to_owned())),
    );
    drift
}
