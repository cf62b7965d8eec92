//! The metric of a variant, on data that was not calibrated with.

use std::path::{Path, PathBuf};

use aiot_inference::dataset::Dataset;
use aiot_inference::engine::{GraphInput, Numbers, Optimize, SessionOptions};
use aiot_inference::{Engine, evaluate};
use aiot_onnx::Model;
use aiot_package::{Digest, Metric, ModelFile, ModelPackage, OutputSpec, PACKAGE_FORMAT_VERSION, Precision};
use aiot_plan::action::PackageParameters;

use super::compare::largest;
use super::samples::{ArrayFile, Samples};
use crate::error::BuildError;

/// Measures variants of one model.
pub enum Judge {
    /// With the code that runs on the device, by the declared metric.
    Declared {
        /// The evaluation set.
        dataset: Dataset,
        /// What is measured.
        metric: Metric,
        /// How the model is run.
        package: PackageParameters,
        /// Class names.
        labels: Vec<String>,
    },
    /// Share of rows of the first output whose largest column is the label.
    Arrays {
        /// Inputs.
        samples: Samples,
        /// One integer per row.
        labels: ArrayFile,
        /// Where it stands, for messages.
        path: PathBuf,
    },
}

impl Judge {
    /// Inputs `<input>.npy` and `labels.npy` (integers) in a folder.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    pub fn arrays(dir: &Path, inputs: &[GraphInput]) -> Result<Judge, BuildError> {
        let samples = Samples::arrays(dir, inputs)?;
        let path = dir.join("labels.npy");
        let labels = ArrayFile::open(&path)?;
        if labels.samples() != samples.len() {
            let (path, labels, samples) = (path.display(), labels.samples(), samples.len());
            return Err(BuildError::Other(format!(
                "{path} holds {labels} labels for {samples} samples"
            )));
        }
        Ok(Judge::Arrays {
            samples,
            labels,
            path,
        })
    }

    /// The metric's name.
    pub fn metric(&self) -> Metric {
        match self {
            Judge::Declared { metric, .. } => *metric,
            Judge::Arrays { .. } => Metric::Accuracy,
        }
    }

    /// The metric of a variant.
    ///
    /// # Errors
    /// When it cannot be run on the evaluation set.
    pub fn measure(&self, engine: &Engine, variant: &Model, precision: Precision) -> Result<f64, BuildError> {
        let onnx = variant.to_bytes();
        match self {
            Judge::Declared {
                dataset,
                metric,
                package,
                labels,
            } => {
                let package = model_package(package, labels.clone(), precision, &onnx);
                let model =
                    aiot_inference::Model::from_parts(package, &onnx, engine, &SessionOptions::default())
                        .map_err(BuildError::other)?;
                Ok(evaluate::evaluate(&model, dataset, *metric)
                    .map_err(BuildError::other)?
                    .value)
            }
            Judge::Arrays {
                samples,
                labels,
                path,
            } => {
                let mut graph = engine.graph(&onnx, Optimize::All).map_err(BuildError::other)?;
                let (mut right, mut rows) = (0u64, 0u64);
                for sample in 0..samples.len() {
                    let expected = integers(labels.sample(sample)?.numbers).ok_or_else(|| {
                        BuildError::Other(format!("{} does not hold integers", path.display()))
                    })?;
                    let mut got = None;
                    for arrays in samples.runs(sample)? {
                        graph
                            .run(&arrays, |_, shape, values| {
                                let columns = shape.last().map_or(1, |&columns| columns.max(1) as usize);
                                got.get_or_insert_with(|| {
                                    values.chunks(columns).map(largest).collect::<Vec<_>>()
                                });
                            })
                            .map_err(BuildError::other)?;
                    }
                    let got = got.unwrap_or_default();
                    if got.len() != expected.len() {
                        return Err(BuildError::Other(format!(
                            "sample {sample}: {} labels in {} for {} rows of the model's first output",
                            expected.len(),
                            path.display(),
                            got.len()
                        )));
                    }
                    rows += got.len() as u64;
                    right += got
                        .iter()
                        .zip(&expected)
                        .filter(|&(&got, &label)| got as i64 == label)
                        .count() as u64;
                }
                Ok(right as f64 / rows.max(1) as f64)
            }
        }
    }
}

/// A package that is only run here, not shipped.
fn model_package(
    parameters: &PackageParameters,
    labels: Vec<String>,
    precision: Precision,
    onnx: &[u8],
) -> ModelPackage {
    ModelPackage {
        format_version: PACKAGE_FORMAT_VERSION,
        name: "variant".to_owned(),
        version: "0.0.0".to_owned(),
        description: String::new(),
        task: parameters.task,
        model: ModelFile {
            path: "model.onnx".to_owned(),
            sha256: Digest::of(onnx).hex(),
            size_bytes: onnx.len() as u64,
            precision,
        },
        input: parameters.input.clone(),
        output: OutputSpec {
            labels,
            activation: parameters.activation,
            threshold: parameters.threshold,
        },
    }
}

fn integers(numbers: Numbers) -> Option<Vec<i64>> {
    Some(match numbers {
        Numbers::Int64(numbers) => numbers,
        Numbers::Int32(numbers) => numbers.into_iter().map(i64::from).collect(),
        Numbers::Int8(numbers) => numbers.into_iter().map(i64::from).collect(),
        Numbers::Uint8(numbers) => numbers.into_iter().map(i64::from).collect(),
        Numbers::Bool(numbers) => numbers.into_iter().map(i64::from).collect(),
        Numbers::Float32(_) | Numbers::Float64(_) => return None,
    })
}
