//! One `[model.<name>]` → [`Model`].

use std::collections::BTreeMap;

use aiot_package::{Digest, InputSpec, PIPELINE_VARIABLE, Pipeline, Task};
use toml::Spanned;

use super::{Known, Resolver, site};
use crate::create_options;
use crate::declare::*;
use crate::diagnose::{ConfigError, SourceFile, suggest};
use crate::names::{ModelName, ModuleName, TargetName};
use crate::workspace::*;

/// Values of one input window: 64 MiB as f32, more than any device here has to spare.
const MAX_WINDOW_VALUES: u64 = 1 << 24;

impl Resolver {
    /// A file's digest.
    fn digest(
        &mut self,
        file: &SourceFile,
        model: &ModelName,
        sha256: &Spanned<String>,
        path: &str,
    ) -> Option<Digest> {
        let digest = Digest::from_hex(sha256.get_ref());
        if digest.is_err() {
            self.error(
                ConfigError::new(
                    "plan::digest",
                    site(file, sha256),
                    format!("model `{model}`: sha256 is not a digest"),
                    "expected 64 lower-case hexadecimal digits",
                )
                .with_help(format!("run `sha256sum {path}`")),
            );
        }
        digest.ok()
    }

    pub(super) fn model(
        &mut self,
        file: &SourceFile,
        name: &Spanned<String>,
        declared: ModelDeclaration,
        known: &Known<'_>,
    ) -> Option<Model> {
        let model_name = self.name(file, name, ModelName::new)?;
        let before = self.errors.len();
        let ModelSource::File(source) = &declared.source;
        self.path(file, &source.path);
        let digest = self.digest(file, &model_name, &source.sha256, source.path.get_ref());
        let mut data = BTreeMap::new();
        for (path, sha256) in &source.data {
            self.path(file, path);
            let site = site(file, path);
            let path = path.get_ref();
            let place = beside(source.path.get_ref(), path);
            if let Some(digest) = self.digest(file, &model_name, sha256, &place) {
                data.insert(path.clone(), DataFile { digest, site });
            }
        }
        if !is_version(declared.version.get_ref()) {
            self.error(ConfigError::new(
                "plan::version",
                site(file, &declared.version),
                format!("model `{model_name}`: version is no version"),
                "letters, digits, `.`, `_` and `-`, at most 64, starting with a digit or letter",
            ));
        }
        if !known.modules.contains(declared.module.get_ref()) {
            let help = suggest(
                "modules/",
                declared.module.get_ref(),
                known.modules.iter().map(String::as_str),
            );
            self.error(
                ConfigError::new(
                    "plan::unknown_module",
                    site(file, &declared.module),
                    format!(
                        "model `{model_name}` names unknown module `{}`",
                        declared.module.get_ref()
                    ),
                    "not a crate with a binary below modules/",
                )
                .with_help(help),
            );
        }
        let module = if known.modules.contains(declared.module.get_ref()) {
            self.name(file, &declared.module, ModuleName::new)
        } else {
            None
        };
        let targets = self.model_targets(file, &model_name, &declared, known);
        self.input(file, &model_name, &declared);
        self.output(file, &model_name, &declared);
        self.acceptance(file, &model_name, &declared);
        self.quantization(file, &model_name, &declared);
        let edge = self.edge(file, &model_name, &declared.edge);
        let shadow = self.shadow(file, &model_name, &declared);
        if self.errors.len() > before {
            return None;
        }
        Some(Model {
            sites: ModelSites {
                name: site(file, name),
                path: site(file, &source.path),
                sha256: site(file, &source.sha256),
                labels: declared.output.labels.as_ref().map(|path| site(file, path)),
                calibration: declared
                    .quantization
                    .calibration
                    .as_ref()
                    .map(|path| site(file, path)),
                evaluation: site(file, &declared.acceptance.evaluation),
                module: site(file, &declared.module),
                input: site(file, &declared.input),
                condition: declared.edge.condition.as_ref().map(|text| site(file, text)),
                routes: declared
                    .edge
                    .routes
                    .iter()
                    .map(|(name, text)| (name.clone(), site(file, text)))
                    .collect(),
            },
            description: declared.description,
            version: declared.version.into_inner(),
            path: source.path.get_ref().clone(),
            digest: digest?,
            data,
            task: declared.task.into_inner(),
            module: module?,
            input: declared.input.into_inner(),
            labels_path: declared.output.labels.map(Spanned::into_inner),
            activation: declared.output.activation,
            threshold: declared.output.threshold.map(Spanned::into_inner),
            scheme: declared.quantization.scheme,
            gpu_scheme: declared.quantization.gpu_scheme,
            granularity: declared.quantization.granularity,
            allow_slower: declared.quantization.allow_slower,
            calibration_path: declared.quantization.calibration.map(Spanned::into_inner),
            evaluation_path: declared.acceptance.evaluation.into_inner(),
            metric: declared.acceptance.metric.into_inner(),
            targets,
            shadow,
            edge,
            name: model_name,
        })
    }

    fn model_targets(
        &mut self,
        file: &SourceFile,
        model: &ModelName,
        declared: &ModelDeclaration,
        known: &Known<'_>,
    ) -> BTreeMap<TargetName, ModelOnTarget> {
        let mut targets = BTreeMap::new();
        let acceptance = &declared.acceptance;
        for target in &declared.targets {
            match known.targets {
                Some(known) if !known.contains(target.get_ref()) => {
                    self.unknown_target(file, model, target, known);
                    continue;
                }
                _ => {}
            }
            let Some(name) = TargetName::new(target.get_ref()) else {
                continue;
            };
            let own = acceptance
                .target
                .iter()
                .find(|(key, _)| key.get_ref() == target.get_ref());
            let on = ModelOnTarget {
                site: site(file, target),
                at_least: own
                    .and_then(|(_, own)| own.at_least)
                    .unwrap_or(acceptance.at_least),
                max_drop: own
                    .and_then(|(_, own)| own.max_drop)
                    .unwrap_or(acceptance.max_drop),
            };
            if targets.insert(name, on).is_some() {
                self.error(ConfigError::new(
                    "plan::duplicate_target",
                    site(file, target),
                    format!("model `{model}` names target `{}` twice", target.get_ref()),
                    "named before",
                ));
            }
        }
        for key in acceptance.target.keys() {
            if !declared
                .targets
                .iter()
                .any(|target| target.get_ref() == key.get_ref())
            {
                self.error(
                    ConfigError::new(
                        "plan::unknown_target",
                        site(file, key),
                        format!(
                            "model `{model}` has acceptance bounds for `{}`, where it does not go",
                            key.get_ref()
                        ),
                        "not in this model's targets",
                    )
                    .with_help("add the target to `targets`, or take these bounds out"),
                );
            }
        }
        targets
    }

    fn unknown_target(
        &mut self,
        file: &SourceFile,
        model: &ModelName,
        target: &Spanned<String>,
        known: &[String],
    ) {
        let help = suggest("targets.toml", target.get_ref(), known.iter().map(String::as_str));
        self.error(
            ConfigError::new(
                "plan::unknown_target",
                site(file, target),
                format!("model `{model}` names unknown target `{}`", target.get_ref()),
                "not a target in targets.toml",
            )
            .with_help(help),
        );
    }

    fn input(&mut self, file: &SourceFile, model: &ModelName, declared: &ModelDeclaration) {
        let problem = match declared.input.get_ref() {
            InputSpec::Image(image) => {
                let channels = image.colour.channels();
                if image.width == 0 || image.height == 0 || image.width > 16_384 || image.height > 16_384 {
                    Some("width and height must be 1 to 16384 pixels".to_owned())
                } else if ![0, channels].contains(&image.mean.len())
                    || ![0, channels].contains(&image.std.len())
                {
                    Some(format!(
                        "mean and std need {channels} values, one per channel, or none"
                    ))
                } else if image.std.contains(&0.0) {
                    Some("std must not be 0".to_owned())
                } else if !(image.scale.is_finite() && are_finite(&image.mean) && are_finite(&image.std)) {
                    Some("scale, mean and std must be numbers that fit 32 bits".to_owned())
                } else {
                    None
                }
            }
            InputSpec::Signal(signal) => {
                if signal.channels == 0 || signal.window == 0 || signal.stride == 0 {
                    Some("channels, window and stride must be above 0".to_owned())
                } else if u64::from(signal.channels) * u64::from(signal.window) > MAX_WINDOW_VALUES {
                    Some(format!(
                        "a window may have {MAX_WINDOW_VALUES} values in all channels together"
                    ))
                } else if let aiot_package::Normalization::Fixed { mean, std } = &signal.normalization {
                    let channels = signal.channels as usize;
                    if mean.len() != channels || std.len() != channels || std.contains(&0.0) {
                        Some(format!(
                            "mean and std need {channels} values, one per channel, std not 0"
                        ))
                    } else if !(are_finite(mean) && are_finite(std)) {
                        Some("mean and std must be numbers that fit 32 bits".to_owned())
                    } else {
                        None
                    }
                } else {
                    None
                }
            }
        };
        if let Some(problem) = problem {
            let message = format!("model `{model}`: the input cannot be prepared like this");
            self.error(ConfigError::new(
                "plan::input",
                site(file, &declared.input),
                message,
                problem,
            ));
        }
    }

    fn output(&mut self, file: &SourceFile, model: &ModelName, declared: &ModelDeclaration) {
        if let Some(labels) = &declared.output.labels {
            self.path(file, labels);
        }
        if let Some(threshold) = declared
            .output
            .threshold
            .as_ref()
            .filter(|number| !number.get_ref().is_finite())
        {
            self.error(ConfigError::new(
                "plan::output",
                site(file, threshold),
                format!("model `{model}`: the threshold is no number"),
                "expected a number that fits 32 bits",
            ));
        }
        let task = *declared.task.get_ref();
        let missing = match task {
            Task::AnomalyDetection if declared.output.threshold.is_none() => {
                Some(("output.threshold", "the score above which a window is an anomaly"))
            }
            Task::Classification | Task::Regression if declared.output.labels.is_none() => {
                Some(("output.labels", "a text file with one label a line"))
            }
            _ => None,
        };
        if let Some((key, what)) = missing {
            self.error(
                ConfigError::new(
                    "plan::output",
                    site(file, &declared.task),
                    format!("model `{model}` needs `{key}`"),
                    "this task needs it",
                )
                .with_help(format!("add `{key}`: {what}")),
            );
        }
    }

    fn acceptance(&mut self, file: &SourceFile, model: &ModelName, declared: &ModelDeclaration) {
        let acceptance = &declared.acceptance;
        self.path(file, &acceptance.evaluation);
        let (metric, task) = (*acceptance.metric.get_ref(), *declared.task.get_ref());
        if !metric.fits(task) {
            self.error(
                ConfigError::new(
                    "plan::metric",
                    site(file, &acceptance.metric),
                    format!("model `{model}`: `{metric}` does not measure this task"),
                    "not a metric of the task",
                )
                .with_help(
                    "classification: accuracy, macro-f1; anomaly-detection: accuracy, roc-auc; regression: mean-absolute-error",
                ),
            );
        }
        let bounds = acceptance.target.values();
        let numbers = [Some(acceptance.at_least), Some(acceptance.max_drop)].into_iter();
        if numbers
            .chain(bounds.flat_map(|b| [b.at_least, b.max_drop]))
            .flatten()
            .any(|n| !n.is_finite() || n < 0.0)
        {
            self.error(ConfigError::new(
                "plan::acceptance",
                site(file, &acceptance.metric),
                format!("model `{model}`: at-least and max-drop must be numbers of 0 or more"),
                "bounds of this metric",
            ));
        }
    }

    fn quantization(&mut self, file: &SourceFile, model: &ModelName, declared: &ModelDeclaration) {
        let quantization = &declared.quantization;
        match &quantization.calibration {
            Some(path) => {
                self.path(file, path);
                if path.get_ref() == declared.acceptance.evaluation.get_ref() {
                    self.error(
                        ConfigError::new(
                            "plan::calibration",
                            site(file, path),
                            format!("model `{model}` is calibrated on its evaluation data"),
                            "the same folder as acceptance.evaluation",
                        )
                        .with_help("use data for calibration that evaluation does not see"),
                    );
                }
            }
            None if quantization.scheme == Scheme::Int8 || quantization.gpu_scheme == GpuScheme::Int8 => {
                let ModelSource::File(source) = &declared.source;
                self.error(
                    ConfigError::new(
                        "plan::calibration",
                        site(file, &source.path),
                        format!("model `{model}` has no calibration data"),
                        "int8 needs the ranges of this model's tensors",
                    )
                    .with_help("set `quantization.calibration` to a folder of inputs, or `quantization.scheme = \"none\"`"),
                );
            }
            None => {}
        }
    }

    fn edge(&mut self, file: &SourceFile, model: &ModelName, declared: &EdgeDeclaration) -> Edge {
        let mut env = BTreeMap::new();
        for (name, value) in &declared.env {
            let plain = match value {
                toml::Value::String(_) | toml::Value::Integer(_) | toml::Value::Boolean(_) => true,
                // JSON has no word for infinity and NaN.
                toml::Value::Float(number) => number.is_finite(),
                _ => false,
            };
            let good = !name.get_ref().is_empty()
                && name
                    .get_ref()
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if !plain || !good {
                self.error(ConfigError::new(
                    "plan::env",
                    site(file, name),
                    format!(
                        "model `{model}`: environment variable `{}` cannot be set",
                        name.get_ref()
                    ),
                    "letters, digits, `_` and `-` for the name; a string, number or boolean for the value",
                ));
            }
            env.insert(name.get_ref().clone(), create_options::json_of(value));
        }
        self.pipeline(file, model, declared, &mut env);
        let options = self.create_options(
            file,
            &format!("model `{model}`"),
            declared.create_options.as_ref(),
        );
        Edge {
            condition: declared.condition.as_ref().map(|text| text.get_ref().clone()),
            routes: declared
                .routes
                .iter()
                .map(|(name, text)| (name.clone(), text.get_ref().clone()))
                .collect(),
            env,
            desired: create_options::json_of(&toml::Value::Table(declared.desired.clone())),
            create_options: options,
            startup_order: declared.startup_order,
        }
    }

    /// Sources, sinks, queue, drift watch, capture and requests travel to the module in one variable.
    fn pipeline(
        &mut self,
        file: &SourceFile,
        model: &ModelName,
        declared: &EdgeDeclaration,
        env: &mut BTreeMap<String, serde_json::Value>,
    ) {
        let EdgeDeclaration {
            sources,
            sinks,
            queue,
            drift,
            capture,
            requests,
            ..
        } = declared;
        let sites = [
            ("sources", sources.as_ref().map(|value| site(file, value))),
            ("sinks", sinks.as_ref().map(|value| site(file, value))),
            ("queue", queue.as_ref().map(|value| site(file, value))),
            ("drift", drift.as_ref().map(|value| site(file, value))),
            ("capture", capture.as_ref().map(|value| site(file, value))),
            ("requests", requests.as_ref().map(|value| site(file, value))),
        ];
        let Some(first) = sites.iter().find_map(|(_, site)| site.clone()) else {
            return;
        };
        let pipeline = Pipeline {
            sources: sources
                .as_ref()
                .map(|value| value.get_ref().clone())
                .unwrap_or_default(),
            sinks: sinks
                .as_ref()
                .map(|value| value.get_ref().clone())
                .unwrap_or_default(),
            queue: queue
                .as_ref()
                .map(|value| value.get_ref().clone())
                .unwrap_or_default(),
            drift: drift.as_ref().map(|value| *value.get_ref()),
            capture: capture.as_ref().map(|value| value.get_ref().clone()),
            requests: requests.as_ref().map(|value| *value.get_ref()),
        };
        for problem in pipeline.problems() {
            let of = sites.iter().find(|(table, _)| problem.starts_with(table));
            let site = of
                .and_then(|(_, site)| site.clone())
                .unwrap_or_else(|| first.clone());
            self.error(ConfigError::new(
                "plan::pipeline",
                site,
                format!("model `{model}`: {problem}"),
                "the module would refuse to start",
            ));
        }
        if env.contains_key(PIPELINE_VARIABLE) {
            self.error(ConfigError::new(
                "plan::env",
                first.clone(),
                format!("model `{model}` declares its pipeline twice"),
                format!("this becomes {PIPELINE_VARIABLE}, which `env` sets too"),
            ));
        }
        // Plain data without maps that could fail.
        let text = serde_json::to_string(&pipeline).unwrap_or_default();
        env.insert(PIPELINE_VARIABLE.to_owned(), text.into());
    }
}

/// JSON has no word for infinity and NaN, and no model can use them.
fn are_finite(numbers: &[f32]) -> bool {
    numbers.iter().all(|number| number.is_finite())
}

fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
