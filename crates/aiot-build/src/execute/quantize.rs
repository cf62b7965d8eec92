//! Calibrating and quantizing: the float file → ranges → the variants.

use std::collections::BTreeMap;

use aiot_inference::{calibrate, dataset::Dataset};
use aiot_oci::Digest;
use aiot_onnx::{Activations, Range, Ranges, StaticOptions};
use aiot_package::{InputSpec, Precision};
use aiot_plan::ModelName;
use aiot_plan::action::Output;
use aiot_plan::declare::Granularity;
use aiot_plan::records::{CALIBRATION_METHOD, Calibration};
use aiot_plan::tools::HOST_ENGINE_VERSION;

use super::Task;
use crate::error::BuildError;

impl Task<'_> {
    pub(super) fn calibrate(
        &self,
        model: &ModelName,
        subject: Digest,
        input: &InputSpec,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let path = self.model(model).calibration_path.clone().unwrap_or_default();
        let dataset = Dataset::open(&self.context.paths.file(&path)).map_err(|error| self.fail(error))?;
        let prepared = self.prepared()?;
        let tensors = aiot_onnx::calibration_tensors(&prepared);
        let observed = aiot_onnx::with_outputs(&prepared, &tensors).map_err(|error| self.fail(error))?;
        let found = calibrate::observe_ranges(&self.engine()?, &observed.to_bytes(), input, &dataset)
            .map_err(|error| self.fail(error))?;
        let mut ranges = Ranges::new();
        for tensor in tensors {
            let Some(&(min, max)) = found.get(&tensor) else {
                return Err(self.fail(format!("the engine did not show tensor `{tensor}`")));
            };
            ranges.insert(tensor, Range { min, max });
        }
        let calibration = Calibration {
            subject,
            method: CALIBRATION_METHOD.to_owned(),
            engine: HOST_ENGINE_VERSION.to_owned(),
            samples: dataset.samples().len(),
            ranges: ranges.rounded().iter().map(|(name, range)| (name.to_owned(), [range.min, range.max])).collect(),
        };
        Ok(self.one("ranges", self.put(calibration.render().as_bytes())?))
    }

    pub(super) fn quantize(
        &self,
        precision: Precision,
        granularity: Granularity,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let prepared = self.prepared()?;
        let model = match precision {
            Precision::Float32 => prepared,
            Precision::Float16 => aiot_onnx::to_float16(&prepared).map_err(|error| self.fail(error))?,
            Precision::Int8 => self.static_int8(&prepared, Activations::U8Asymmetric, granularity)?,
            Precision::Int8Symmetric => self.static_int8(&prepared, Activations::S8Symmetric, granularity)?,
        };
        Ok(self.one("model", self.put(&model.to_bytes())?))
    }

    fn static_int8(
        &self,
        prepared: &aiot_onnx::Model,
        activations: Activations,
        granularity: Granularity,
    ) -> Result<aiot_onnx::Model, BuildError> {
        let text = String::from_utf8(self.bytes("calibration ranges")?).map_err(|error| self.fail(error))?;
        let calibration = Calibration::parse(&text).map_err(|reason| self.fail(reason))?;
        let mut ranges = Ranges::new();
        for (tensor, [min, max]) in calibration.ranges {
            ranges.insert(tensor, Range { min, max });
        }
        let options = StaticOptions {
            granularity: match granularity {
                Granularity::PerChannel => aiot_onnx::Granularity::PerChannel,
                Granularity::PerTensor => aiot_onnx::Granularity::PerTensor,
            },
            ..StaticOptions::new(activations)
        };
        let (model, report) =
            aiot_onnx::quantize_static(prepared, &ranges, &options).map_err(|error| self.fail(error))?;
        if report.quantized() == 0 {
            return Err(self.fail("no node of this model can be quantized; set quantization.scheme = \"none\""));
        }
        Ok(model)
    }

    /// The float file in the form that ranges and variants are made from.
    fn prepared(&self) -> Result<aiot_onnx::Model, BuildError> {
        let model = aiot_onnx::Model::parse(self.bytes("model")?).map_err(|error| self.fail(error))?;
        aiot_onnx::prepare(&model).map_err(|error| self.fail(error))
    }
}
