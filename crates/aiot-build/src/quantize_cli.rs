//! `cargo xtask quantize` and `cargo xtask inspect`: one model, without a release.

use std::path::{Path, PathBuf};

use aiot_inference::Engine;
use aiot_inference::dataset::Dataset;
use aiot_oci::Store;
use aiot_onnx::{Activations, InitializerFacts, Model, ModelFacts, NodeReport, Range, Ranges, StaticOptions};
pub use aiot_onnx::{Dimension, Granularity, NodeOutcome, OperatorUse, TensorFacts};
use aiot_package::Metric;
pub use aiot_package::Precision;
use aiot_plan::lock::Lock;
use aiot_plan::plan::{Unlocked, calibration_inputs_of, calibration_subject_of, package_parameters};
use aiot_plan::records::CALIBRATION_FILE;
use aiot_plan::tools;
use aiot_toolchain::wheels;
use serde::Serialize;

use crate::error::{BuildError, io};
use crate::events::{Event, Sink};
use crate::lockfile::{self, write_if_changed};
use crate::network::Network;
use crate::observe::{FileIndex, observe, record_dir};
use crate::paths::Paths;
use crate::quantizer::compare::{Closeness, Reference};
use crate::quantizer::direct::direct;
use crate::quantizer::judge::Judge;
use crate::quantizer::record::record;
use crate::quantizer::samples::Samples;
use crate::quantizer::search::{Form, Found, Goal, MeasureDrop, Sensitivity, Step, search};
use crate::workspace::{check, find_model, parse_labels};

/// Largest model file that is read.
const MODEL_LIMIT_BYTES: u64 = 2 << 30;

/// What to make of a model that nothing declares.
pub struct AnyModel {
    /// The float model.
    pub model: PathBuf,
    /// Folder with one `.npy` per input; only variants with ranges need it, but without one nothing is compared.
    pub calibration: Option<PathBuf>,
    /// Folder with inputs and `labels.npy`.
    pub evaluation: Option<PathBuf>,
    /// Which variant.
    pub precision: Precision,
    /// Scales per weight.
    pub granularity: Granularity,
    /// Largest drop of accuracy against float.
    pub max_drop: Option<f64>,
    /// Least signal to noise, dB.
    pub target_sqnr_db: Option<f64>,
    /// Where the result goes.
    pub output: PathBuf,
}

/// One variant in the table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// Which variant.
    pub scheme: Precision,
    /// Length of its file.
    pub size_bytes: u64,
    /// The metric, where there is evaluation data.
    pub metric: Option<f64>,
    /// Share of outputs with the same largest column as float.
    pub agreement: Option<f64>,
    /// Signal to noise of the outputs, dB; `None` for float itself and for equal outputs.
    pub sqnr_db: Option<f64>,
    /// Time per run against float, one thread, batch 1, in turns.
    pub latency_ratio: Option<f64>,
    /// Nodes that run in float, as far as the variant has 8-bit ones.
    pub float_nodes: Vec<NodeReport>,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// The metric of [`Row::metric`].
    pub metric: Option<Metric>,
    /// Float first.
    pub rows: Vec<Row>,
    /// What the search tried for each searched variant.
    pub steps: Vec<(Precision, Vec<Step>)>,
    /// Most sensitive node first, where a goal made the search look.
    pub sensitivities: Vec<Sensitivity>,
    /// The variant that misses its goal, and what it lacks.
    pub shortfall: Option<String>,
    /// Files that were written.
    pub written: Vec<PathBuf>,
}

/// The host's engine, as the lock pins it; looked up and locked where it is not yet.
///
/// # Errors
/// When it is neither in the store nor to be had.
pub fn host_engine(paths: &Paths, network: Option<&Network>, events: Sink<'_>) -> Result<Engine, BuildError> {
    let request = tools::host_engine(std::env::consts::ARCH);
    let locked = |lock: &Lock| lock.requested_wheel(&request).cloned();
    let mut lock = lockfile::read(paths)?;
    if locked(&lock).is_none() {
        let network = network.ok_or_else(|| {
            BuildError::Other(format!("--offline, but aiot.lock has no {}", request.package))
        })?;
        let workspace = check(paths, &mut FileIndex::open(paths))?;
        let mut unlocked = Unlocked::default();
        unlocked.wheels.insert(request.clone());
        lockfile::look_up(paths, &workspace, &mut lock, &unlocked, network, events)?;
        lockfile::write(paths, &lock)?;
    }
    let wheel =
        locked(&lock).ok_or_else(|| BuildError::Other(format!("aiot.lock has no {}", request.package)))?;
    let downloads = paths.downloads();
    if network.is_none() && !downloads.join(&wheel.filename).is_file() {
        return Err(BuildError::Other(format!(
            "--offline, and {} is not in the store",
            wheel.filename
        )));
    }
    let file = wheels::fetch_locked(&wheel, &downloads).map_err(BuildError::other)?;
    let library = wheels::engine_library(&file).map_err(BuildError::other)?;
    let store = Store::create(&paths.store()).map_err(BuildError::other)?;
    let blob = store.put_bytes(&library.bytes).map_err(BuildError::other)?;
    Engine::load(&store.path(&blob.digest)).map_err(BuildError::other)
}

/// Reads a model file.
///
/// # Errors
/// When it is too large, or no sound ONNX file.
pub fn read_model(path: &Path) -> Result<Model, BuildError> {
    let length = std::fs::metadata(path).map_err(io("read", path))?.len();
    if length > MODEL_LIMIT_BYTES {
        return Err(BuildError::Other(format!(
            "{} has {length} bytes; at most {MODEL_LIMIT_BYTES} are read",
            path.display()
        )));
    }
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    Model::parse(bytes).map_err(|error| BuildError::Other(format!("{}: {error}", path.display())))
}

/// Quantizes a model that nothing declares, writes it, and compares it with float where there is data to compare with.
///
/// # Errors
/// Models and data that cannot be used. A missed goal is no error: see [`Outcome::shortfall`]; nothing is written
/// then.
pub fn any_model(
    paths: &Paths,
    wanted: &AnyModel,
    network: Option<&Network>,
    events: Sink<'_>,
) -> Result<Outcome, BuildError> {
    let float = read_model(&wanted.model)?;
    let prepared = aiot_onnx::prepare(&float).map_err(BuildError::other)?;
    let Some(calibration) = &wanted.calibration else {
        let Some((variant, nodes)) = direct(&prepared, wanted.precision).map_err(BuildError::other)? else {
            return Err(BuildError::Other(format!(
                "{} needs --calibration DIR",
                wanted.precision
            )));
        };
        let rows = [(Precision::Float32, &float), (wanted.precision, &variant)];
        let mut rows = rows.map(|(scheme, model)| row(scheme, model, None, None, None));
        rows[1].float_nodes = in_float(&nodes);
        let written = write_model(&wanted.output, &variant)?;
        return Ok(Outcome {
            rows: rows.to_vec(),
            written,
            ..Outcome::default()
        });
    };
    let engine = host_engine(paths, network, events)?;
    let graph = engine.graph(&float.to_bytes(), true).map_err(BuildError::other)?;
    let samples = Samples::arrays(calibration, graph.inputs())?;
    let judge = wanted
        .evaluation
        .as_deref()
        .map(|dir| Judge::arrays(dir, graph.inputs()))
        .transpose()?;
    let bench = Bench {
        engine: &engine,
        float: &float,
        prepared: &prepared,
        samples: &samples,
        judge: judge.as_ref(),
    };
    let wishes = Wishes {
        granularity: wanted.granularity,
        max_drop: wanted.max_drop,
        target_sqnr_db: wanted.target_sqnr_db,
    };
    let (mut outcome, variants) = bench.run(&[wanted.precision], &wishes, events)?;
    if let (None, Some(variant)) = (&outcome.shortfall, variants.first()) {
        outcome.written = write_model(&wanted.output, &variant.model)?;
    }
    Ok(outcome)
}

/// Quantizes a declared model and writes its calibration record; with `sweep` all schemes side by side, and nothing is
/// written.
///
/// # Errors
/// As [`any_model`], and mistakes in the declarations.
pub fn declared(
    paths: &Paths,
    name: &str,
    sweep: bool,
    network: Option<&Network>,
    events: Sink<'_>,
) -> Result<Outcome, BuildError> {
    let mut files = FileIndex::open(paths);
    let workspace = check(paths, &mut files)?;
    let model = find_model(&workspace, name)?;
    let Some(calibration) = &model.calibration_path else {
        return Err(BuildError::Other(format!(
            "model `{name}` declares no quantization.calibration; there is nothing to calibrate with"
        )));
    };
    let engine = host_engine(paths, network, events)?;
    let float = read_model(&paths.file(&model.path))?;
    let prepared = aiot_onnx::prepare(&float).map_err(BuildError::other)?;
    let samples = Samples::declared(&paths.file(calibration), &model.input)?;
    let labels = match &model.labels_path {
        Some(path) => {
            let path = paths.file(path);
            parse_labels(&std::fs::read(&path).map_err(io("read", &path))?).map_err(BuildError::other)?
        }
        None => Vec::new(),
    };
    let judge = Judge::Declared {
        dataset: Dataset::open(&paths.file(&model.evaluation_path)).map_err(BuildError::other)?,
        metric: model.metric,
        package: package_parameters(model),
        labels,
    };
    let bench = Bench {
        engine: &engine,
        float: &float,
        prepared: &prepared,
        samples: &samples,
        judge: Some(&judge),
    };
    let precisions = match sweep {
        true => SWEEP.to_vec(),
        false => model
            .precisions(&workspace)
            .into_iter()
            .filter(|&p| p != Precision::Float32)
            .collect(),
    };
    let calibrated = model.calibration_precision(&workspace);
    let max_drop = calibrated.map(|precision| model.max_drop(precision, &workspace));
    let wishes = Wishes {
        granularity: granularity(model.granularity),
        max_drop,
        target_sqnr_db: None,
    };
    let (mut outcome, variants) = bench.run(&precisions, &wishes, events)?;
    if sweep {
        // All are shown; none was asked for.
        outcome.shortfall = None;
        return Ok(outcome);
    }
    if outcome.shortfall.is_some() {
        return Ok(outcome);
    }
    let facts = observe(paths, &workspace, &mut files)?.facts;
    let found = variants
        .iter()
        .find(|variant| Some(variant.precision) == calibrated);
    let subject = calibration_subject_of(model, &workspace, &facts);
    if let (Some(found), Some(subject)) = (found.and_then(|variant| variant.found.as_ref()), subject) {
        let path = record_dir(paths, &model.name).join(CALIBRATION_FILE);
        let record = record(subject, calibration_inputs_of(model, &facts), &samples, found);
        if write_if_changed(&path, record.render().as_bytes())? {
            outcome.written.push(path);
        }
    }
    Ok(outcome)
}

/// All that a model can become, in the table's order.
const SWEEP: [Precision; 6] = [
    Precision::Int8,
    Precision::Int8Dynamic,
    Precision::Int8Weights,
    Precision::Int4Weights,
    Precision::Int8Symmetric,
    Precision::Float16,
];

/// Everything that variants of one model are made and judged with.
struct Bench<'a> {
    engine: &'a Engine,
    float: &'a Model,
    prepared: &'a Model,
    samples: &'a Samples,
    judge: Option<&'a Judge>,
}

/// How good variants must be.
struct Wishes {
    granularity: Granularity,
    max_drop: Option<f64>,
    target_sqnr_db: Option<f64>,
}

impl Wishes {
    /// What a variant lacks that has no nodes to choose.
    fn missed(
        &self,
        judged: Option<Metric>,
        float: Option<f64>,
        metric: Option<f64>,
        closeness: Closeness,
    ) -> Option<String> {
        if let (Some(most), Some(judged), Some(float), Some(metric)) = (self.max_drop, judged, float, metric)
        {
            let drop = judged.drop(float, metric);
            if drop > most {
                return Some(format!("{judged} drops by {drop:.4}, allowed are {most}"));
            }
        }
        let least = self.target_sqnr_db.filter(|least| closeness.sqnr_db < *least)?;
        Some(format!("{:.1} dB, wanted are {least}", closeness.sqnr_db))
    }
}

struct Variant {
    precision: Precision,
    model: Model,
    /// What became of the nodes, as far as it is told.
    nodes: Vec<NodeReport>,
    found: Option<Found>,
}

/// The nodes that a variant runs in float although it has others.
fn in_float(nodes: &[NodeReport]) -> Vec<NodeReport> {
    let is_float = |node: &&NodeReport| matches!(node.outcome, NodeOutcome::Float(_));
    nodes.iter().filter(is_float).cloned().collect()
}

impl Bench<'_> {
    fn run(
        &self,
        precisions: &[Precision],
        wishes: &Wishes,
        events: Sink<'_>,
    ) -> Result<(Outcome, Vec<Variant>), BuildError> {
        let float_metric = self.measure(self.float, Precision::Float32)?;
        if wishes.max_drop.is_some() && float_metric.is_none() {
            return Err(BuildError::Other(
                "--max-drop needs --evaluation DIR with labels.npy".to_owned(),
            ));
        }
        let mut variants = Vec::new();
        for &precision in precisions {
            events(Event::Note(format!("{precision}: calibrating and searching")));
            variants.push(self.variant(precision, wishes, float_metric)?);
        }
        let models: Vec<&Model> = std::iter::once(self.float)
            .chain(variants.iter().map(|variant| &variant.model))
            .collect();
        let reference = Reference::new(self.engine, self.float, self.samples)?;
        let latencies = reference.latency_ratios(&models)?;
        let judged = self.judge.map(Judge::metric);
        let mut outcome = Outcome {
            metric: judged,
            ..Outcome::default()
        };
        outcome.rows.push(row(
            Precision::Float32,
            self.float,
            float_metric,
            None,
            latencies.first().copied(),
        ));
        for (variant, latency) in variants.iter().zip(&latencies[1..]) {
            let metric = self.measure(&variant.model, variant.precision)?;
            let closeness = reference.closeness(&variant.model, usize::MAX)?;
            let mut row = row(
                variant.precision,
                &variant.model,
                metric,
                Some(closeness),
                Some(*latency),
            );
            row.float_nodes = in_float(&variant.nodes);
            // Nothing can be searched here, so a missed goal is only told; a sweep shows all.
            if variant.found.is_none()
                && let Some(missed) = wishes.missed(judged, float_metric, metric, closeness)
            {
                outcome.shortfall = Some(format!("{}: {missed}", variant.precision));
            }
            if let Some(found) = &variant.found {
                outcome.steps.push((variant.precision, found.steps.clone()));
                if let Some(shortfall) = &found.shortfall {
                    outcome.shortfall = Some(format!("{}: {shortfall}", variant.precision));
                }
                if !found.sensitivities.is_empty() {
                    outcome.sensitivities.clone_from(&found.sensitivities);
                }
            }
            outcome.rows.push(row);
        }
        Ok((outcome, variants))
    }

    fn measure(&self, model: &Model, precision: Precision) -> Result<Option<f64>, BuildError> {
        self.judge
            .map(|judge| judge.measure(self.engine, model, precision))
            .transpose()
    }

    fn variant(
        &self,
        precision: Precision,
        wishes: &Wishes,
        float_metric: Option<f64>,
    ) -> Result<Variant, BuildError> {
        if let Some((model, nodes)) = direct(self.prepared, precision).map_err(BuildError::other)? {
            return Ok(Variant {
                precision,
                model,
                nodes,
                found: None,
            });
        }
        let form = Form {
            activations: activations(precision),
            granularity: wishes.granularity,
        };
        let drop = |model: &Model| match (self.judge, float_metric) {
            (Some(judge), Some(float)) => Ok(judge
                .metric()
                .drop(float, judge.measure(self.engine, model, precision)?)),
            _ => Ok(0.0),
        };
        let goal = Goal {
            target_sqnr_db: wishes.target_sqnr_db,
            max_drop: wishes.max_drop.map(|most| (most, &drop as &MeasureDrop<'_>)),
        };
        let found = search(self.engine, self.prepared, self.samples, form, &goal)?;
        Ok(Variant {
            precision,
            model: found.model.clone(),
            nodes: found.report.nodes.clone(),
            found: Some(found),
        })
    }
}

fn row(
    scheme: Precision,
    model: &Model,
    metric: Option<f64>,
    closeness: Option<Closeness>,
    latency_ratio: Option<f64>,
) -> Row {
    Row {
        scheme,
        size_bytes: model.size_bytes(),
        metric,
        agreement: closeness.and_then(|closeness| closeness.agreement),
        sqnr_db: closeness
            .map(|closeness| closeness.sqnr_db)
            .filter(|db| db.is_finite()),
        latency_ratio,
        float_nodes: Vec::new(),
    }
}

fn write_model(path: &Path, model: &Model) -> Result<Vec<PathBuf>, BuildError> {
    write_if_changed(path, &model.to_bytes())?;
    Ok(vec![path.to_owned()])
}

/// The quantizer's word for the declarations' one.
pub fn granularity(declared: aiot_plan::declare::Granularity) -> Granularity {
    match declared {
        aiot_plan::declare::Granularity::PerChannel => Granularity::PerChannel,
        aiot_plan::declare::Granularity::PerTensor => Granularity::PerTensor,
    }
}

/// How a static variant stores activations.
pub fn activations(precision: Precision) -> Activations {
    match precision {
        Precision::Int8Symmetric => Activations::S8Symmetric,
        _ => Activations::U8Asymmetric,
    }
}

/// What `inspect` tells of a model.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// Length of the file.
    pub size_bytes: u64,
    /// Inputs, outputs, opset, operators.
    pub facts: ModelFacts,
    /// Largest first.
    pub initializers: Vec<InitializerFacts>,
    /// What becomes of each node in 8 bits, as far as it does not hang on ranges; empty where the model cannot be
    /// prepared.
    pub nodes: Vec<NodeReport>,
    /// Variant → length of its file.
    pub sizes: Vec<(Precision, u64)>,
    /// Why there is no variant, or not this one.
    pub obstacles: Vec<String>,
    /// Versions of the engine, oldest first, with what they cannot take; only those where something is wrong.
    pub engine_problems: Vec<(String, Vec<String>)>,
}

/// Looks at a model file.
///
/// # Errors
/// When it is no sound ONNX file.
pub fn inspect(path: &Path) -> Result<Inspection, BuildError> {
    let model = read_model(path)?;
    let facts = aiot_onnx::inspect(&model);
    let mut inspection = Inspection {
        size_bytes: model.size_bytes(),
        initializers: aiot_onnx::initializers_by_size(&model),
        nodes: Vec::new(),
        sizes: Vec::new(),
        obstacles: Vec::new(),
        engine_problems: Vec::new(),
        facts,
    };
    for minor in ENGINE_MINORS {
        let problems: Vec<String> = aiot_onnx::problems(&inspection.facts, minor)
            .iter()
            .map(ToString::to_string)
            .collect();
        if !problems.is_empty() {
            inspection.engine_problems.push((format!("1.{minor}"), problems));
        }
    }
    match aiot_onnx::prepare(&model) {
        Ok(prepared) => try_variants(&prepared, &mut inspection),
        Err(error) => inspection.obstacles.push(error.to_string()),
    }
    Ok(inspection)
}

/// Engine versions that are checked: Debian 13's and the build host's.
const ENGINE_MINORS: [u32; 2] = [21, 32];

/// Sizes do not hang on ranges, so any will do.
fn try_variants(prepared: &Model, inspection: &mut Inspection) {
    let mut ranges = Ranges::new();
    for tensor in aiot_onnx::calibration_tensors(prepared) {
        ranges.insert(tensor, Range { min: -1.0, max: 1.0 });
    }
    for precision in [Precision::Int8, Precision::Int8Symmetric] {
        let options = StaticOptions::new(activations(precision));
        match aiot_onnx::quantize_static(prepared, &ranges, &options) {
            Ok((variant, report)) => {
                if precision == Precision::Int8 {
                    inspection.nodes = report.nodes;
                }
                inspection.sizes.push((precision, variant.size_bytes()));
            }
            Err(error) => inspection.obstacles.push(format!("{precision}: {error}")),
        }
    }
    for precision in SWEEP {
        match direct(prepared, precision) {
            Ok(Some((variant, _))) => inspection.sizes.push((precision, variant.size_bytes())),
            Ok(None) => {}
            Err(error) => inspection.obstacles.push(format!("{precision}: {error}")),
        }
    }
}
