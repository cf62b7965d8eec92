//! `cargo xtask quantize`: one model, without a release.

use std::path::{Path, PathBuf};

use aiot_inference::Engine;
use aiot_inference::dataset::Dataset;
use aiot_inference::engine::Optimize;
use aiot_oci::Store;
use aiot_onnx::Model;
pub use aiot_onnx::{Granularity, NodeOutcome, NodeReport};
pub use aiot_package::Precision;
use aiot_plan::lock::Lock;
use aiot_plan::plan::{Unlocked, calibration_inputs_of, calibration_subject_of, package_parameters};
use aiot_plan::records::CALIBRATION_FILE;
use aiot_plan::tools;
use aiot_toolchain::wheels;

use crate::error::{BuildError, io};
use crate::events::Sink;
use crate::lockfile::{self, write_if_changed};
use crate::model_file::read_model;
use crate::network::Network;
use crate::observe::{FileIndex, observe, record_dir};
use crate::paths::Paths;
use crate::quantizer::direct::direct;
use crate::quantizer::judge::Judge;
use crate::quantizer::record::record;
use crate::quantizer::samples::Samples;
use crate::quantizer::side_by_side::{Bench, Wishes, in_float, row};
pub use crate::quantizer::side_by_side::{Outcome, Row};
use crate::workspace::{check, find_model, parse_labels};

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
    /// Whether it may be slower than float.
    pub allow_slower: bool,
    /// All schemes side by side; nothing is written.
    pub sweep: bool,
    /// Whether each node's share is wanted.
    pub show_sensitivities: bool,
    /// Where the result goes; `None`: nowhere.
    pub output: Option<PathBuf>,
}

/// What is wanted of a declared model.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeclaredModel<'a> {
    /// Its name.
    pub name: &'a str,
    /// All schemes side by side; nothing is written.
    pub sweep: bool,
    /// Whether each node's share is wanted.
    pub show_sensitivities: bool,
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
        if wanted.sweep {
            return Err(BuildError::Other("--sweep needs --calibration DIR".to_owned()));
        }
        let Some((variant, nodes)) = direct(&prepared, wanted.precision).map_err(BuildError::other)? else {
            return Err(BuildError::Other(format!(
                "{} needs --calibration DIR",
                wanted.precision
            )));
        };
        let rows = [(Precision::Float32, &float), (wanted.precision, &variant)];
        let mut rows = rows.map(|(scheme, model)| row(scheme, model, None, None, None));
        rows[1].float_nodes = in_float(&nodes);
        let written = write_model(wanted.output.as_deref(), &variant)?;
        return Ok(Outcome {
            rows: rows.to_vec(),
            written,
            ..Outcome::default()
        });
    };
    let engine = host_engine(paths, network, events)?;
    let graph = engine
        .graph(&float.to_bytes(), Optimize::All)
        .map_err(BuildError::other)?;
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
        allow_slower: wanted.sweep || wanted.allow_slower,
        show_sensitivities: wanted.show_sensitivities,
    };
    if wanted.sweep {
        return bench.sweep(&wishes, events);
    }
    let (mut outcome, variants) = bench.run(&[wanted.precision], &wishes, events)?;
    if let (None, Some(variant)) = (&outcome.shortfall, variants.first()) {
        outcome.written = write_model(wanted.output.as_deref(), &variant.model)?;
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
    wanted: DeclaredModel<'_>,
    network: Option<&Network>,
    events: Sink<'_>,
) -> Result<Outcome, BuildError> {
    let DeclaredModel { name, sweep, .. } = wanted;
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
    let calibrated = model.calibration_precision(&workspace);
    let max_drop = calibrated.map(|precision| model.max_drop(precision, &workspace));
    let wishes = Wishes {
        granularity: granularity(model.granularity),
        max_drop,
        target_sqnr_db: None,
        allow_slower: sweep || model.allow_slower,
        show_sensitivities: wanted.show_sensitivities,
    };
    if sweep {
        return bench.sweep(&wishes, events);
    }
    let mut precisions = model.precisions(&workspace);
    precisions.retain(|&precision| precision != Precision::Float32);
    let (mut outcome, variants) = bench.run(&precisions, &wishes, events)?;
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

fn write_model(path: Option<&Path>, model: &Model) -> Result<Vec<PathBuf>, BuildError> {
    let Some(path) = path else { return Ok(Vec::new()) };
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
