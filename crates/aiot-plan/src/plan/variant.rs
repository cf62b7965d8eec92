//! One variant of a model: its ranges, its file, its measurement and its package.

use std::collections::BTreeMap;

use aiot_package::{Digest, Precision};

use super::build::{Builder, output};
use super::{Facts, Source};
use crate::action::{Action, PackageParameters};
use crate::declare::Granularity;
use crate::records::{Budget, calibration_inputs, calibration_subject, measured_subject};
use crate::tools;
use crate::workspace::{Model, Workspace};

/// The ranges of a model's tensors.
pub(super) struct Ranges {
    pub(super) source: Source,
    /// What they are made from: known before they are made, so that a measurement that stands on them is the same
    /// before and after they are committed.
    pub(super) subject: Digest,
}

impl Builder<'_> {
    /// The ranges: the committed record where it was made from what is declared, else an action.
    pub(super) fn calibration(
        &mut self,
        model: &Model,
        source: usize,
        engine: Option<usize>,
    ) -> Option<Ranges> {
        let precision = model.calibration_precision(self.workspace)?;
        let subject = calibration_subject_of(model, self.workspace, self.facts)?;
        let recorded = self.facts.calibrations.get(&model.name);
        if let Some(record) = recorded.filter(|record| record.subject == subject) {
            return Some(Ranges {
                source: Source::Given(record.file),
                subject,
            });
        }
        let made_from = calibration_inputs_of(model, self.facts);
        let given = made_from
            .iter()
            .map(|(name, digest)| (name.as_str(), Source::Given(*digest)));
        let mut inputs: Vec<_> = given.filter(|(name, _)| *name != "model").collect();
        inputs.push(("model", output(source, "model")));
        inputs.push(("engine", output(engine?, "library")));
        let node = self.add(
            format!("calibrate {}", model.name),
            Action::Calibrate {
                model: model.name.clone(),
                subject,
                precision,
                granularity: model.granularity,
                budget: budget(model, precision, self.workspace),
            },
            inputs,
            &["aiot-onnx", "aiot-inference"],
        );
        if let Some(record) = recorded {
            self.plan.nodes[node].recorded.clone_from(&record.made_from);
        }
        self.plan.calibrations.insert(model.name.clone(), node);
        Some(Ranges {
            source: output(node, "ranges"),
            subject,
        })
    }

    /// The variant's file, its measurement, and the golden outputs to bake: the committed ones where they were made
    /// from what is declared, else the measurement's own.
    pub(super) fn variant(
        &mut self,
        model: &Model,
        precision: Precision,
        source: usize,
        calibration: Option<&Ranges>,
        engine: Option<usize>,
    ) -> (Source, usize, Source) {
        let name = &model.name;
        let is_int8 = precision.needs_ranges();
        let ranges = is_int8.then_some(calibration).flatten();
        // Other variants have no scales: how they are cut must not make these anew.
        let granularity = if is_int8 {
            model.granularity
        } else {
            Granularity::default()
        };
        let variant = if precision == Precision::Float32 {
            output(source, "model")
        } else {
            let mut inputs = vec![("model", output(source, "model"))];
            inputs.extend(ranges.map(|ranges| ("calibration ranges", ranges.source.clone())));
            let action = Action::Quantize {
                precision,
                granularity,
            };
            output(
                self.add(
                    format!("quantize {name} {precision}"),
                    action,
                    inputs,
                    &["aiot-onnx"],
                ),
                "model",
            )
        };
        let evaluation = self.dataset(&model.evaluation_path);
        let labels = model
            .labels_path
            .as_deref()
            .and_then(|path| self.facts.files.get(path).copied());
        let parameters = package_parameters(model);
        let subject = measured_subject(
            model.source(),
            ranges.map(|ranges| ranges.subject),
            evaluation,
            labels,
            precision,
            granularity,
            model.metric,
            &parameters,
            tools::HOST_ENGINE_VERSION,
        );
        let mut inputs = vec![
            ("model", variant.clone()),
            ("evaluation set", Source::Given(evaluation)),
        ];
        inputs.extend(engine.map(|engine| ("engine", output(engine, "library"))));
        inputs.extend(labels.map(|labels| ("labels", Source::Given(labels))));
        let action = Action::Measure {
            model: name.clone(),
            precision,
            subject,
            metric: model.metric,
            package: parameters,
        };
        let measure = self.add(
            format!("evaluate {name} {precision}"),
            action,
            inputs,
            &["aiot-inference"],
        );
        let golden = match self.facts.measurements.get(&(name.clone(), precision)) {
            // Ranges that are made now may be others than those that the measurement stands on.
            _ if self.plan.calibrations.contains_key(name) && is_int8 => output(measure, "measured"),
            Some((recorded, entry)) if *recorded == subject => Source::Given(*entry),
            _ => output(measure, "measured"),
        };
        (variant, measure, golden)
    }

    pub(super) fn package(
        &mut self,
        model: &Model,
        precision: Precision,
        variant: Source,
        golden: Source,
    ) -> usize {
        let mut inputs = vec![
            ("model", variant),
            ("golden outputs", golden),
            (
                "evaluation set",
                Source::Given(self.dataset(&model.evaluation_path)),
            ),
        ];
        inputs.extend(
            model
                .labels_path
                .as_deref()
                .map(|path| ("labels", self.file(path))),
        );
        let action = Action::AssemblePackage {
            model: model.name.clone(),
            version: model.version.clone(),
            description: model.description.clone(),
            precision,
            package: package_parameters(model),
            shadow: model.shadow.is_some(),
        };
        self.add(
            format!("assemble package {} {precision}", model.name),
            action,
            inputs,
            &["aiot-oci"],
        )
    }
}

/// How a model of the workspace is run.
pub fn package_parameters(model: &Model) -> PackageParameters {
    PackageParameters {
        task: model.task,
        input: model.input.clone(),
        activation: model.activation,
        threshold: model.threshold,
    }
}

fn budget(model: &Model, precision: Precision, workspace: &Workspace) -> Budget {
    Budget {
        metric: model.metric,
        max_drop: model.max_drop(precision, workspace),
        allow_slower: model.allow_slower,
        package: package_parameters(model),
    }
}

/// What a model's calibration record must be made from, by name of the input.
pub fn calibration_inputs_of(model: &Model, facts: &Facts) -> BTreeMap<String, Digest> {
    let nothing = || Digest::of(b"");
    let dataset = |path: &str| facts.datasets.get(path).copied().unwrap_or_else(nothing);
    let labels = model
        .labels_path
        .as_deref()
        .and_then(|path| facts.files.get(path).copied());
    calibration_inputs(
        model.source(),
        dataset(model.calibration_path.as_deref().unwrap_or_default()),
        dataset(&model.evaluation_path),
        labels,
    )
}

/// The subject that a model's calibration record must have; `None` where it needs none.
pub fn calibration_subject_of(model: &Model, workspace: &Workspace, facts: &Facts) -> Option<Digest> {
    let precision = model.calibration_precision(workspace)?;
    Some(calibration_subject(
        &calibration_inputs_of(model, facts),
        precision,
        model.granularity,
        &budget(model, precision, workspace),
        tools::HOST_ENGINE_VERSION,
    ))
}
