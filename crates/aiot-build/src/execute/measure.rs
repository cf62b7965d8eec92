//! Evaluating a variant with the code that runs on the device, and recording golden outputs and the drift baseline.

use std::collections::BTreeMap;

use aiot_inference::dataset::Dataset;
use aiot_inference::engine::SessionOptions;
use aiot_inference::{Model, evaluate, golden};
use aiot_oci::Digest;
use aiot_onnx::Exactness;
use aiot_package::{
    Metric, ModelFile, ModelPackage, OutputSpec, PACKAGE_FORMAT_VERSION, Precision, Tolerance,
};
use aiot_plan::ModelName;
use aiot_plan::action::{Output, PackageParameters};
use aiot_plan::records::Measured;

use super::Task;
use crate::error::BuildError;
use crate::workspace::parse_labels;

/// Golden inputs of a package: enough to notice a wrong engine, few enough to replay at every start.
const GOLDEN_CASES: usize = 4;

/// Last bits of float arithmetic (measured: 1.3e-5 for outputs within 7.5).
const LAST_BITS: Tolerance = Tolerance {
    absolute: 1e-4,
    relative: 1e-4,
};
/// A last bit in an activation can move it to the next of 255 steps, or of half precision's.
const STEPS: Tolerance = Tolerance {
    absolute: 2e-2,
    relative: 2e-2,
};

/// Integer arithmetic gives the same bits everywhere; float differs in the last ones, half precision where a processor
/// has it in hardware. An int8 file may hold both.
fn tolerance(precision: Precision, variant: &aiot_onnx::Model) -> Tolerance {
    match precision {
        Precision::Int8 => match aiot_onnx::exactness(variant) {
            Exactness::Exact => Tolerance::EXACT,
            Exactness::FloatAtTheEnd => LAST_BITS,
            Exactness::FloatInside => STEPS,
        },
        Precision::Float32 | Precision::Int8Symmetric | Precision::Int8Weights | Precision::Int4Weights => {
            LAST_BITS
        }
        Precision::Float16 | Precision::Int8Dynamic => STEPS,
    }
}

impl Task<'_> {
    pub(super) fn measure(
        &self,
        name: &ModelName,
        precision: Precision,
        subject: Digest,
        metric: Metric,
        parameters: &PackageParameters,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let onnx = self.bytes("model")?;
        let declared = self.model(name);
        let package = self.package(name.as_str(), &declared.version, "", precision, parameters, &onnx)?;
        let model = Model::from_parts(package, &onnx, &self.engine()?, &SessionOptions::default())
            .map_err(|error| self.fail(error))?;
        let dir = self.context.paths.file(&declared.evaluation_path);
        let dataset = Dataset::open(&dir).map_err(|error| self.fail(error))?;
        let evaluation = evaluate::evaluate(&model, &dataset, metric).map_err(|error| self.fail(error))?;
        let variant = aiot_onnx::Model::parse(onnx.clone()).map_err(|error| self.fail(error))?;
        let tolerance = tolerance(precision, &variant);
        let golden = golden::record(&model, &dir, &golden_files(&dataset), tolerance)
            .map_err(|error| self.fail(error))?;
        let measured = Measured {
            subject,
            metric,
            value: evaluation.value,
            samples: evaluation.samples,
            size_bytes: onnx.len() as u64,
            golden,
            baseline: Some(evaluation.baseline),
        };
        Ok(self.one("measured", self.put(&measured.to_bytes())?))
    }

    /// The labels of a model; none where the action has no such input.
    pub(super) fn labels(&self, name: &str) -> Result<Vec<String>, BuildError> {
        let Some((_, model)) = self
            .context
            .workspace
            .models
            .iter()
            .find(|(model, _)| model.as_str() == name)
        else {
            return Ok(Vec::new());
        };
        if !self.inputs.contains_key("labels") {
            return Ok(Vec::new());
        }
        let path = model.labels_path.as_deref().unwrap_or_default();
        let bytes = std::fs::read(self.context.paths.file(path)).map_err(|error| self.fail(error))?;
        if Digest::of(&bytes) != self.input("labels").digest {
            return Err(self.fail(format!("{path} changed while the release ran; run it again")));
        }
        parse_labels(&bytes).map_err(|reason| self.fail(reason))
    }

    /// The package of a variant; labels come from the action's input.
    pub(super) fn package(
        &self,
        name: &str,
        version: &str,
        description: &str,
        precision: Precision,
        parameters: &PackageParameters,
        onnx: &[u8],
    ) -> Result<ModelPackage, BuildError> {
        let labels = self.labels(name)?;
        Ok(ModelPackage {
            format_version: PACKAGE_FORMAT_VERSION,
            name: name.to_owned(),
            version: version.to_owned(),
            description: description.to_owned(),
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
        })
    }
}

/// Files spread evenly over the data set, so that several labels are among them.
fn golden_files(dataset: &Dataset) -> Vec<String> {
    let samples = dataset.samples();
    let count = GOLDEN_CASES.min(samples.len());
    (0..count)
        .map(|n| samples[n * samples.len() / count].file.clone())
        .collect()
}
