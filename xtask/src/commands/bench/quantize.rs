//! Quantization: calibrating against the engine merely running the same graph over the same samples, and what comes
//! after the ranges are known.

use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_build::BuildError;
use aiot_build::model_file::read_model;
use aiot_build::paths::Paths;
use aiot_build::quantize_cli::host_engine;
use aiot_build::quantizer::observe::{RangeMethod, Shown, observe};
use aiot_build::quantizer::samples::Samples;
use aiot_build::workspace::{find_model, read_texts};
use aiot_inference::Engine;
use aiot_inference::engine::Optimize;
use aiot_onnx::{Activations, Model, StaticOptions};

use super::measure::{Aim, Row, ran, timed};

/// Aims of calibration, as a multiple of the engine alone; of writing a file, seconds; of memory, MiB.
const CALIBRATION_AIM: f64 = 1.3;
const FILE_AIM_SECONDS: f64 = 0.05;
const MEMORY_AIM_MIB: f64 = 140.0;

/// A model and its samples.
pub struct Subject {
    /// The float file.
    pub model: PathBuf,
    /// One `.npy` per input.
    pub calibration: PathBuf,
}

/// Measures; without a subject the largest declared model.
pub fn run(paths: &Paths, subject: Option<&Subject>, runs: usize) -> Result<Vec<Row>, BuildError> {
    let engine = host_engine(paths, None, &|_| {})?;
    let (name, file, samples) = match subject {
        Some(Subject { model, calibration }) => {
            let graph = engine
                .graph(&read_model(model)?.to_bytes(), Optimize::All)
                .map_err(BuildError::other)?;
            let name = model.display().to_string();
            (name, model.clone(), Samples::arrays(calibration, graph.inputs())?)
        }
        None => declared(paths)?,
    };
    eprintln!("quantize: {name}, {} samples", samples.len());
    let float = read_model(&file)?;
    let prepared = aiot_onnx::prepare(&float).map_err(BuildError::other)?;

    let mut pairs = Vec::new();
    let mut ranges = None;
    for _ in 0..runs {
        let (ours, observed) = timed(|| observe(&engine, &prepared, &samples))?;
        let (alone, ()) = timed(|| engine_alone(&engine, &prepared, &samples))?;
        pairs.push((ours, alone));
        ranges = Some(observed);
    }
    let observed = ranges.ok_or_else(|| BuildError::Other("no run was asked for".to_owned()))?;
    let mut rows = vec![Row::pairs(
        "calibrate: histograms of all tensors",
        "the engine, same graph and outputs",
        &pairs,
        Some(Aim::Ratio(CALIBRATION_AIM)),
    )];
    let alone = |work: &dyn Fn() -> Result<(), BuildError>| -> Result<Vec<f64>, BuildError> {
        (0..runs).map(|_| Ok(timed(work)?.0)).collect()
    };
    for method in [RangeMethod::LeastError, RangeMethod::Percentile(0.9999)] {
        let seconds = alone(&|| {
            observed.ranges(method, Activations::U8Asymmetric);
            Ok(())
        })?;
        rows.push(Row::alone(
            format!("{method} ranges from histograms"),
            &seconds,
            None,
        ));
    }
    let ranges = observed.ranges(RangeMethod::MinMax, Activations::U8Asymmetric);
    let aim = Some(Aim::Here(FILE_AIM_SECONDS));
    for (what, permuted) in [
        ("ranges to the int8 file", false),
        ("the same, channels put in order", true),
    ] {
        let options = StaticOptions {
            permuted,
            ..StaticOptions::new(Activations::U8Asymmetric)
        };
        let written = alone(&|| {
            let (model, _) =
                aiot_onnx::quantize_static(&prepared, &ranges, &options).map_err(BuildError::other)?;
            drop(model.to_bytes());
            Ok(())
        })?;
        rows.push(Row::alone(what, &written, aim));
    }
    let bytes = float.to_bytes();
    for (what, make) in [
        (
            "file to file: float16",
            &to_float16 as &dyn Fn(&Model) -> Result<Model, BuildError>,
        ),
        ("file to file: int8-dynamic", &to_dynamic),
    ] {
        let seconds = alone(&|| {
            let float = Model::parse(bytes.clone()).map_err(BuildError::other)?;
            drop(make(&aiot_onnx::prepare(&float).map_err(BuildError::other)?)?.to_bytes());
            Ok(())
        })?;
        rows.push(Row::alone(what, &seconds, aim));
    }
    if let Some(Subject { model, calibration }) = subject {
        let peak = (0..runs.min(3))
            .map(|_| whole(paths, model, calibration))
            .collect::<Result<Vec<f64>, _>>()?;
        let aim = Some(Aim::Here(MEMORY_AIM_MIB));
        rows.push(Row::memory("quantize with the search, memory", &peak, aim));
    }
    Ok(rows)
}

fn declared(paths: &Paths) -> Result<(String, PathBuf, Samples), BuildError> {
    let workspace = aiot_plan::resolve(&read_texts(paths)?).map_err(BuildError::Config)?;
    let size = |path: &str| std::fs::metadata(paths.file(path)).map_or(0, |metadata| metadata.len());
    let largest = workspace
        .models
        .values()
        .filter(|model| model.calibration_path.is_some())
        .max_by_key(|model| size(&model.path));
    let model =
        largest.ok_or_else(|| BuildError::Other("no declared model has calibration data".to_owned()))?;
    let model = find_model(&workspace, model.name.as_str())?;
    let calibration = model.calibration_path.as_deref().unwrap_or_default();
    let samples = Samples::declared(&paths.file(calibration), &model.input)?;
    Ok((model.name.to_string(), paths.file(&model.path), samples))
}

/// Runs the graph that calibration runs, and looks at nothing.
fn engine_alone(engine: &Engine, prepared: &Model, samples: &Samples) -> Result<(), BuildError> {
    let mut graph = Shown::new(engine, prepared)?.graph;
    for sample in 0..samples.len() {
        for arrays in samples.runs(sample)? {
            graph.run(&arrays, |_, _, _| {}).map_err(BuildError::other)?;
        }
    }
    Ok(())
}

fn to_float16(prepared: &Model) -> Result<Model, BuildError> {
    aiot_onnx::to_float16(prepared).map_err(BuildError::other)
}

fn to_dynamic(prepared: &Model) -> Result<Model, BuildError> {
    Ok(aiot_onnx::quantize_dynamic(prepared)
        .map_err(BuildError::other)?
        .0)
}

/// Peak memory of the whole command, bytes.
fn whole(paths: &Paths, model: &Path, calibration: &Path) -> Result<f64, BuildError> {
    let program = std::env::current_exe().map_err(BuildError::other)?;
    let mut command = Command::new(program);
    command
        .args(["quantize", "--offline", "--allow-slower", "--workspace"])
        .arg(&paths.root)
        .arg("--model")
        .arg(model)
        .arg("--calibration")
        .arg(calibration);
    Ok(ran(&mut command)?.peak_bytes)
}
