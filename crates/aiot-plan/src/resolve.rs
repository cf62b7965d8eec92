//! Declarations → [`Workspace`]: names checked, defaults applied last, all errors of all files in one go.
//!
//! Text in, values out. Whether a file exists, what a graph needs and what a device can hold is checked later, in
//! [`crate::compatibility`], with facts.

use std::collections::BTreeMap;
use std::ops::Range;

use aiot_package::{Digest, InputSpec, Task};
use toml::Spanned;

use crate::create_options;
use crate::declare::*;
use crate::diagnose::{ConfigError, Site, SourceFile, source_file, suggest};
use crate::names::{EnvironmentName, ModelName, ModuleName, TargetName, is_name, is_workspace_path};
use crate::parse::SyntaxError;
use crate::workspace::*;

/// The texts of all declaration files.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// `models.toml`
    pub models: String,
    /// `targets.toml`
    pub targets: String,
    /// Environment name → text of `deployments/<name>.toml`
    pub environments: BTreeMap<String, String>,
    /// Crates below `modules/` that have a binary.
    pub modules: Vec<String>,
}

/// Parses and resolves all declarations.
///
/// # Errors
/// Every error of every file, each with its place, sorted by file and place.
pub fn resolve(texts: &Texts) -> Result<Workspace, Vec<ConfigError>> {
    let mut resolver = Resolver { errors: Vec::new() };
    let models_file = source_file("models.toml", &texts.models);
    let targets_file = source_file("targets.toml", &texts.targets);
    let targets: Option<TargetsFile> = resolver.parse(&targets_file);
    let models: Option<ModelsFile> = resolver.parse(&models_file);
    let mut workspace = Workspace::default();
    for (name, text) in &texts.environments {
        let file = source_file(&format!("deployments/{name}.toml"), text);
        let Some(declared) = resolver.parse::<EnvironmentFile>(&file) else {
            continue;
        };
        if let Some(environment) = resolver.environment(&file, name, declared) {
            workspace
                .environments
                .insert(environment.name.clone(), environment);
        }
    }
    // Names of targets that were declared but are wrong in themselves: a model that names one is not at fault.
    let mut declared_targets: Vec<String> = Vec::new();
    if let Some(targets) = &targets {
        for (name, declared) in &targets.target {
            declared_targets.push(name.get_ref().clone());
            if let Some(target) = resolver.target(&targets_file, name, declared) {
                workspace.targets.insert(target.name.clone(), target);
            }
        }
    }
    if let Some(models) = models {
        let known = Known {
            targets: targets.is_some().then_some(&declared_targets),
            modules: &texts.modules,
        };
        for (name, declared) in models.model {
            if let Some(model) = resolver.model(&models_file, &name, declared, &known) {
                workspace.models.insert(model.name.clone(), model);
            }
        }
    }
    if resolver.errors.is_empty() {
        Ok(workspace)
    } else {
        let mut errors = resolver.errors;
        errors.sort_by(|a, b| {
            (a.site.file.name(), a.site.span.start, a.code).cmp(&(
                b.site.file.name(),
                b.site.span.start,
                b.code,
            ))
        });
        Err(errors)
    }
}

/// Triples that can be built, with the architecture and variant that their platform must have.
pub const TRIPLES: [(&str, &str, Option<&str>); 3] = [
    ("x86_64-unknown-linux-gnu", "amd64", None),
    ("aarch64-unknown-linux-gnu", "arm64", None),
    ("armv7-unknown-linux-gnueabihf", "arm", Some("v7")),
];

struct Known<'a> {
    /// `None` where `targets.toml` could not be read: then no name in it is known, and none is wrong.
    targets: Option<&'a Vec<String>>,
    modules: &'a [String],
}

struct Resolver {
    errors: Vec<ConfigError>,
}

fn at(file: &SourceFile, span: Range<usize>) -> Site {
    Site {
        file: file.clone(),
        span,
    }
}

fn site<T>(file: &SourceFile, spanned: &Spanned<T>) -> Site {
    at(file, spanned.span())
}

impl Resolver {
    fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    fn parse<T: serde::de::DeserializeOwned>(&mut self, file: &SourceFile) -> Option<T> {
        let errors = match crate::parse::parse(file.inner()) {
            Ok(value) => return Some(value),
            Err(errors) => errors,
        };
        for SyntaxError { message, span } in errors {
            let place = at(file, span);
            let first = message.lines().next().unwrap_or_default().to_owned();
            self.error(
                match message
                    .strip_prefix("unknown field `")
                    .and_then(|rest| rest.split('`').next())
                {
                    Some(key) => {
                        let error = ConfigError::new(
                            "plan::unknown_key",
                            place,
                            format!("unknown key `{key}`"),
                            "not a key here",
                        );
                        match unknown_key_help(&message) {
                            Some(help) => error.with_help(help),
                            None => error,
                        }
                    }
                    None => {
                        let error = ConfigError::new(
                            "plan::syntax",
                            place,
                            format!("{}: {first}", file.name()),
                            first,
                        );
                        match unknown_value_help(&message) {
                            Some(help) => error.with_help(help),
                            None => error,
                        }
                    }
                },
            );
        }
        None
    }

    fn model(
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
        let digest = Digest::from_hex(source.sha256.get_ref());
        if digest.is_err() {
            self.error(
                ConfigError::new(
                    "plan::digest",
                    site(file, &source.sha256),
                    format!("model `{model_name}`: sha256 is not a digest"),
                    "expected 64 lower-case hexadecimal digits",
                )
                .with_help(format!("run `sha256sum {}`", source.path.get_ref())),
            );
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
            digest: digest.ok()?,
            task: declared.task.into_inner(),
            module: module?,
            input: declared.input.into_inner(),
            labels_path: declared.output.labels.map(Spanned::into_inner),
            activation: declared.output.activation,
            threshold: declared.output.threshold.map(Spanned::into_inner),
            scheme: declared.quantization.scheme,
            gpu_scheme: declared.quantization.gpu_scheme,
            granularity: declared.quantization.granularity,
            calibration_path: declared.quantization.calibration.map(Spanned::into_inner),
            evaluation_path: declared.acceptance.evaluation.into_inner(),
            metric: declared.acceptance.metric.into_inner(),
            targets,
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

    fn target(
        &mut self,
        file: &SourceFile,
        name: &Spanned<String>,
        declared: &TargetDeclaration,
    ) -> Option<Target> {
        let target_name = self.name(file, name, TargetName::new)?;
        let before = self.errors.len();
        let platform = self.platform(file, &target_name, declared);
        if parse_version(declared.glibc.get_ref()).is_none() {
            self.error(ConfigError::new(
                "plan::glibc",
                site(file, &declared.glibc),
                format!("target `{target_name}`: glibc is no version"),
                "expected for example \"2.31\"",
            ));
        }
        let engine = self.engine(file, &target_name, declared);
        let base = match &declared.base {
            BaseSource::Debian(base) => Some(Base::Debian {
                suite: base.suite.clone(),
                packages: base.packages.iter().map(|name| name.get_ref().clone()).collect(),
                exclude: base.exclude.clone(),
            }),
            BaseSource::Image(base) => self.base_image(file, &target_name, base),
            BaseSource::Scratch(_) => Some(Base::Scratch),
        };
        let create_options = self.create_options(
            file,
            &format!("target `{target_name}`"),
            declared.create_options.as_ref(),
        );
        if declared.limits.memory_mib == 0 || declared.limits.disk_mib == 0 {
            self.error(ConfigError::new(
                "plan::limits",
                site(file, name),
                format!("target `{target_name}`: memory-mib and disk-mib must be above 0"),
                "limits of this target",
            ));
        }
        if self.errors.len() > before {
            return None;
        }
        Some(Target {
            description: declared.description.clone(),
            triple: declared.triple.get_ref().clone(),
            platform: platform?,
            processor: declared.processor,
            glibc: declared.glibc.get_ref().clone(),
            builder: declared.builder,
            engine: engine?,
            base: base?,
            memory_bytes: declared.limits.memory_mib.saturating_mul(1 << 20),
            disk_bytes: declared.limits.disk_mib.saturating_mul(1 << 20),
            link_kbit_per_s: declared.limits.link_kbit_per_s,
            create_options,
            condition: declared.condition.get_ref().clone(),
            condition_site: site(file, &declared.condition),
            site: site(file, name),
            name: target_name,
        })
    }

    fn platform(
        &mut self,
        file: &SourceFile,
        target: &TargetName,
        declared: &TargetDeclaration,
    ) -> Option<Platform> {
        let triple = declared.triple.get_ref().as_str();
        let Some((_, architecture, variant)) = TRIPLES.iter().find(|(known, ..)| *known == triple) else {
            let help = suggest("this release", triple, TRIPLES.iter().map(|(known, ..)| *known));
            self.error(
                ConfigError::new(
                    "plan::triple",
                    site(file, &declared.triple),
                    format!("target `{target}`: no module can be built for `{triple}`"),
                    "the engine is loaded at run time, which needs Linux with glibc",
                )
                .with_help(help),
            );
            return None;
        };
        let expected = Platform {
            os: "linux".to_owned(),
            architecture: (*architecture).to_owned(),
            variant: variant.map(str::to_owned),
        };
        if *declared.platform.get_ref() != expected.to_string() {
            self.error(
                ConfigError::new(
                    "plan::platform",
                    site(file, &declared.platform),
                    format!(
                        "target `{target}`: platform `{}` is not what `{triple}` runs on",
                        declared.platform.get_ref()
                    ),
                    format!("`{triple}` makes {expected}"),
                )
                .with_help(format!("write platform = \"{expected}\"")),
            );
        }
        Some(expected)
    }

    fn engine(
        &mut self,
        file: &SourceFile,
        target: &TargetName,
        declared: &TargetDeclaration,
    ) -> Option<Engine> {
        let engine = &declared.engine;
        if parse_version(engine.version.get_ref()).is_none() {
            self.error(ConfigError::new(
                "plan::engine_version",
                site(file, &engine.version),
                format!("target `{target}`: the engine's version is no version"),
                "expected for example \"1.21\" or \"1.32.0\"",
            ));
        }
        if engine.execution_providers.is_empty() {
            self.error(ConfigError::new(
                "plan::execution_providers",
                site(file, &engine.version),
                format!("target `{target}` has no execution provider"),
                "the engine of this target",
            ));
        }
        let gpu_provider = engine
            .execution_providers
            .iter()
            .find(|provider| *provider.get_ref() != ExecutionProviderName::Cpu);
        if let (Some(provider), Processor::Cpu) = (gpu_provider, declared.processor) {
            self.error(
                ConfigError::new(
                    "plan::execution_providers",
                    site(file, provider),
                    format!(
                        "target `{target}` has no GPU for `{}`",
                        provider.get_ref().as_str()
                    ),
                    "processor is \"cpu\"",
                )
                .with_help("write processor = \"gpu\", or take the provider out"),
            );
        }
        let source = match &engine.source {
            EngineSource::Wheel(wheel) => {
                let architecture = match declared.triple.get_ref().split('-').next().unwrap_or_default() {
                    // Python's word, from `uname`.
                    "armv7" => "armv7l",
                    other => other,
                };
                if !wheel.platform.get_ref().ends_with(architecture) {
                    self.error(ConfigError::new(
                        "plan::wheel_platform",
                        site(file, &wheel.platform),
                        format!(
                            "target `{target}`: a wheel for `{}` does not run there",
                            wheel.platform.get_ref()
                        ),
                        format!("expected a tag that ends in `{architecture}`"),
                    ));
                }
                EngineFrom::Wheel {
                    package: wheel.package.clone(),
                    platform: wheel.platform.get_ref().clone(),
                }
            }
            EngineSource::Debian(debian) => {
                if !matches!(declared.base, BaseSource::Debian(_)) {
                    self.error(ConfigError::new(
                        "plan::engine_source",
                        site(file, &engine.version),
                        format!(
                            "target `{target}` takes its engine from Debian, but stands on something else"
                        ),
                        "engine.source.debian needs base.debian",
                    ));
                }
                EngineFrom::Debian {
                    package: debian.package.clone(),
                    library: debian.library.clone(),
                }
            }
            EngineSource::BaseImage(image) => {
                if !matches!(declared.base, BaseSource::Image(_)) || !image.library.get_ref().starts_with('/')
                {
                    self.error(ConfigError::new(
                        "plan::engine_source",
                        site(file, &image.library),
                        format!("target `{target}` takes its engine from a base image"),
                        "needs base.image and an absolute path in it",
                    ));
                }
                EngineFrom::BaseImage {
                    library: image.library.get_ref().clone(),
                }
            }
        };
        Some(Engine {
            version: engine.version.get_ref().clone(),
            source,
            execution_providers: engine
                .execution_providers
                .iter()
                .map(|provider| *provider.get_ref())
                .collect(),
            intra_threads: engine.intra_threads,
        })
    }

    fn base_image(&mut self, file: &SourceFile, target: &TargetName, declared: &ImageBase) -> Option<Base> {
        let reference = declared.reference.get_ref();
        let pinned = reference
            .split_once('@')
            .filter(|(repository, _)| !repository.is_empty());
        let digest = pinned.and_then(|(_, digest)| digest.parse().ok());
        if digest.is_none() {
            self.error(
                ConfigError::new(
                    "plan::base_image",
                    site(file, &declared.reference),
                    format!("target `{target}`: the base image is not pinned"),
                    "expected registry/repository@sha256:…",
                )
                .with_help("`skopeo inspect docker://IMAGE` prints the digest of the index"),
            );
        }
        digest.map(|digest| Base::image(declared, digest, site(file, &declared.reference)))
    }

    fn environment(
        &mut self,
        file: &SourceFile,
        name: &str,
        declared: EnvironmentFile,
    ) -> Option<Environment> {
        let start = at(file, 0..0);
        let Some(environment) = EnvironmentName::new(name) else {
            self.error(ConfigError::new(
                "plan::name",
                start,
                format!("`{name}` cannot name an environment"),
                "lower-case letters, digits and single hyphens, at most 40",
            ));
            return None;
        };
        let before = self.errors.len();
        for host in [&declared.hub, &declared.registry].into_iter().flatten() {
            let good = !host.get_ref().is_empty()
                && host
                    .get_ref()
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:".contains(c));
            if !good {
                self.error(ConfigError::new(
                    "plan::host",
                    site(file, host),
                    format!(
                        "environment `{environment}`: `{}` is no host name",
                        host.get_ref()
                    ),
                    "host[:port], lower case, without scheme or path",
                ));
            }
        }
        if !declared.repository_prefix.get_ref().split('/').all(is_name) {
            self.error(ConfigError::new(
                "plan::repository_prefix",
                site(file, &declared.repository_prefix),
                format!("environment `{environment}`: the prefix cannot begin a repository"),
                "lower-case names joined by `/`",
            ));
        }
        for image in [&declared.system.edge_agent, &declared.system.edge_hub] {
            if !is_exact_image(image.get_ref()) {
                self.error(
                    ConfigError::new(
                        "plan::system_image",
                        site(file, image),
                        format!(
                            "environment `{environment}`: `{}` may change under your feet",
                            image.get_ref()
                        ),
                        "not pinned",
                    )
                    .with_help("write the exact version (three numbers) or repository@sha256:…"),
                );
            }
        }
        let mut rings: Vec<Ring> = Vec::new();
        for ring in &declared.ring {
            if !is_name(ring.name.get_ref()) || rings.iter().any(|known| known.name == *ring.name.get_ref()) {
                self.error(ConfigError::new(
                    "plan::ring",
                    site(file, &ring.name),
                    format!(
                        "environment `{environment}`: `{}` cannot name a ring",
                        ring.name.get_ref()
                    ),
                    "a name of its own: lower-case letters, digits and single hyphens",
                ));
            }
            rings.push(Ring {
                name: ring.name.get_ref().clone(),
                condition: ring.condition.as_ref().map(|text| text.get_ref().clone()),
                site: ring
                    .condition
                    .as_ref()
                    .map_or_else(|| site(file, &ring.name), |text| site(file, text)),
            });
        }
        if self.errors.len() > before {
            return None;
        }
        Some(Environment {
            name: environment,
            description: declared.description,
            hub: declared.hub.map(Spanned::into_inner),
            registry: declared.registry.map(Spanned::into_inner),
            repository_prefix: declared.repository_prefix.into_inner(),
            edge_agent: declared.system.edge_agent.into_inner(),
            edge_hub: declared.system.edge_hub.into_inner(),
            debian_mirror: declared.debian_mirror,
            debian_snapshot: declared.debian_snapshot,
            rings,
        })
    }

    fn create_options(
        &mut self,
        file: &SourceFile,
        owner: &str,
        table: Option<&Spanned<toml::Table>>,
    ) -> serde_json::Value {
        let Some(table) = table else {
            return serde_json::Value::Object(serde_json::Map::new());
        };
        create_options::to_json(table.get_ref()).unwrap_or_else(|errors| {
            for error in errors {
                self.error(ConfigError::new(
                    "plan::create_options",
                    site(file, table),
                    format!(
                        "{owner}: create-options.{}: expected {}",
                        error.key, error.expected
                    ),
                    "in this table",
                ));
            }
            serde_json::Value::Null
        })
    }

    fn name<T>(
        &mut self,
        file: &SourceFile,
        name: &Spanned<String>,
        make: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let made = make(name.get_ref());
        if made.is_none() {
            self.error(ConfigError::new(
                "plan::name",
                site(file, name),
                format!("`{}` cannot be a name", name.get_ref()),
                "lower-case letters, digits and single hyphens, starting with a letter, at most 40",
            ));
        }
        made
    }

    fn path(&mut self, file: &SourceFile, path: &Spanned<String>) {
        if !is_workspace_path(path.get_ref()) {
            self.error(ConfigError::new(
                "plan::path",
                site(file, path),
                format!("`{}` is not a path below the workspace", path.get_ref()),
                "relative, with `/`, without `..`, without `/` at the end",
            ));
        }
    }
}

/// `major.minor[.patch]` as numbers.
pub fn parse_version(text: &str) -> Option<Vec<u32>> {
    // `u32` would take a plus sign.
    let number = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| part.parse().ok())
            .flatten()
    };
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    (2..=3).contains(&parts.len()).then_some(parts)
}

/// Values of one input window: 64 MiB as f32, more than any device here has to spare.
const MAX_WINDOW_VALUES: u64 = 1 << 24;

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

fn is_exact_image(image: &str) -> bool {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let (last, tag) = last
        .split_once(':')
        .map_or((last, None), |(last, tag)| (last, Some(tag)));
    let pinned = match (tag, digest) {
        (None, Some(digest)) => digest.parse::<Digest>().is_ok(),
        (Some(tag), None) => parse_version(tag).is_some_and(|numbers| numbers.len() == 3),
        // The edge agent refuses a tag and a digest together.
        _ => false,
    };
    pinned && !last.is_empty()
}

/// serde names the known fields in its message: find the nearest to the unknown one.
fn unknown_key_help(message: &str) -> Option<String> {
    help_from_expected("this table", message)
}

/// The same for a word that is none of those that may stand there.
fn unknown_value_help(message: &str) -> Option<String> {
    message
        .starts_with("unknown variant `")
        .then(|| help_from_expected("this key", message))
        .flatten()
}

fn help_from_expected(place: &str, message: &str) -> Option<String> {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let known: Vec<&str> = names.collect();
    Some(suggest(place, unknown, known.into_iter()).replace("defines", "knows"))
}
