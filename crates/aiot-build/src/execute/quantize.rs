//! Calibrating and quantizing: the float file → decisions → the variants.

use std::collections::BTreeMap;

use aiot_inference::dataset::Dataset;
use aiot_oci::Digest;
use aiot_package::Precision;
use aiot_plan::ModelName;
use aiot_plan::action::Output;
use aiot_plan::declare::Granularity;
use aiot_plan::records::{Budget, Calibration};

use super::Task;
use crate::error::BuildError;
use crate::events::Event;
use crate::quantize_cli;
use crate::quantizer::activations;
use crate::quantizer::direct::direct;
use crate::quantizer::goal::Goal;
use crate::quantizer::judge::Judge;
use crate::quantizer::record;
use crate::quantizer::samples::Samples;
use crate::quantizer::search::search;
use crate::quantizer::variant::{Form, apply};

impl Task<'_> {
    pub(super) fn calibrate(
        &self,
        name: &ModelName,
        subject: Digest,
        precision: Precision,
        granularity: Granularity,
        budget: &Budget,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let model = self.model(name);
        let path = model.calibration_path.clone().unwrap_or_default();
        let samples = Samples::declared(&self.context.paths.file(&path), &budget.package.input)
            .map_err(|error| self.fail(error))?;
        let evaluation = self.context.paths.file(&model.evaluation_path);
        let judge = Judge::Declared {
            dataset: Dataset::open(&evaluation).map_err(|error| self.fail(error))?,
            metric: budget.metric,
            package: budget.package.clone(),
            labels: self.labels(name.as_str())?,
        };
        let engine = self.engine()?;
        let float = aiot_onnx::Model::parse(self.bytes("model")?).map_err(|error| self.fail(error))?;
        let prepared = aiot_onnx::prepare(&float).map_err(|error| self.fail(error))?;
        let float_metric = judge
            .measure(&engine, &float, Precision::Float32)
            .map_err(|error| self.fail(error))?;
        let drop = |variant: &aiot_onnx::Model| {
            Ok(budget
                .metric
                .drop(float_metric, judge.measure(&engine, variant, precision)?))
        };
        let form = Form {
            activations: activations(precision),
            granularity: quantize_cli::granularity(granularity),
        };
        let goal = Goal {
            target_sqnr_db: None,
            max_drop: Some((budget.max_drop, &drop)),
            allow_slower: budget.allow_slower,
            show_sensitivities: false,
        };
        let found = search(&engine, &prepared, &samples, form, &goal).map_err(|error| self.fail(error))?;
        if let Some(refusal) = &found.too_slow {
            return Err(self.fail(refusal));
        }
        // The engine is named by its version: its wheel is another one on every kind of build host, and code is in the
        // method's name.
        let made_from = self
            .inputs
            .iter()
            .filter(|(name, _)| *name != "engine" && !name.starts_with("code of "))
            .map(|(name, input)| match name.as_str() {
                // What is declared, whatever file its parts were put together to.
                "model" => (name.clone(), model.source()),
                _ => (name.clone(), input.digest),
            })
            .collect();
        // A budget that is missed is told by the release, side by side with all others.
        if let Some(shortfall) = &found.shortfall {
            (self.context.events)(Event::Warning(format!("{name} {precision}: {shortfall}")));
        }
        let record = record::record(subject, made_from, &samples, &found);
        Ok(self.one("ranges", self.put(record.render().as_bytes())?))
    }

    pub(super) fn quantize(
        &self,
        precision: Precision,
        granularity: Granularity,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let prepared = self.prepared()?;
        let model = match direct(&prepared, precision).map_err(|error| self.fail(error))? {
            Some((model, _)) => model,
            None => self.static_int8(&prepared, precision, granularity)?,
        };
        Ok(self.one("model", self.put(&model.to_bytes())?))
    }

    fn static_int8(
        &self,
        prepared: &aiot_onnx::Model,
        precision: Precision,
        granularity: Granularity,
    ) -> Result<aiot_onnx::Model, BuildError> {
        let text = String::from_utf8(self.bytes("calibration ranges")?).map_err(|error| self.fail(error))?;
        let calibration = Calibration::parse(&text).map_err(|reason| self.fail(reason))?;
        let form = Form {
            activations: activations(precision),
            granularity: quantize_cli::granularity(granularity),
        };
        let (model, _) =
            apply(prepared, &record::decisions(&calibration), form).map_err(|error| self.fail(error))?;
        Ok(model)
    }

    /// The float file in the form that ranges and variants are made from.
    fn prepared(&self) -> Result<aiot_onnx::Model, BuildError> {
        let model = aiot_onnx::Model::parse(self.bytes("model")?).map_err(|error| self.fail(error))?;
        aiot_onnx::prepare(&model).map_err(|error| self.fail(error))
    }
}
