//! A model that is ready to predict: package + engine session, checked against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aiot_package::{BASELINE_FILE, Baseline, Digest, ModelPackage, PACKAGE_FORMAT_VERSION, Task};
use serde::Deserialize;

use crate::drift::{self, Observation};
use crate::engine::{Engine, EngineError, ExecutionProvider, Session, SessionOptions};
use crate::file::{FileError, inside, read_bounded, read_input};
use crate::limits::{MAX_LIST_BYTES, MAX_PACKAGE_JSON_BYTES};
use crate::postprocess::{self, NotFinite, Outcome, Prediction};
use crate::preprocess::{Preparation, PrepareError, SpecError};
use crate::tensor::{Tensor, TensorSpec};

/// A package that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the package cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// `package.json` is not what this code writes.
    #[error("`{path}` is not a model package: {message}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// serde's message with line and column.
        message: String,
    },
    /// `baseline.json` is not what this code writes for the package.
    #[error("the drift baseline `{path}` cannot be used: {message}; build the image again", path = path.display())]
    Baseline {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// `package.json` is of another version.
    #[error(
        "the model package has format version {found}; this program reads {PACKAGE_FORMAT_VERSION}: build both from the same release"
    )]
    FormatVersion {
        /// As written in the package.
        found: u64,
    },
    /// The ONNX file is not the one that the package describes.
    #[error(
        "the model of `{model}` is {found} ({found_bytes} bytes), the package names {expected} ({expected_bytes} bytes): the package is damaged, build it again"
    )]
    Digest {
        /// Name of the model.
        model: String,
        /// As named in the package.
        expected: String,
        /// As named in the package.
        expected_bytes: u64,
        /// Of the file.
        found: Digest,
        /// Of the file.
        found_bytes: u64,
    },
    /// The input specification cannot be obeyed.
    #[error("input of model `{model}`: {source}")]
    Spec {
        /// Name of the model.
        model: String,
        /// What is wrong.
        source: SpecError,
    },
    /// The graph's input is not what the specification prepares.
    #[error("model `{model}` takes {graph}, its input specification prepares {prepared:?}")]
    Input {
        /// Name of the model.
        model: String,
        /// The graph's input.
        graph: String,
        /// Shape of the prepared tensors.
        prepared: Vec<usize>,
    },
    /// The graph's output does not fit the task.
    #[error("model `{model}`: output {graph} does not fit: {message}")]
    Output {
        /// Name of the model.
        model: String,
        /// The graph's output.
        graph: String,
        /// What is wanted.
        message: String,
    },
    /// The engine refuses the graph.
    #[error("model `{model}`: {source}")]
    Engine {
        /// Name of the model.
        model: String,
        /// Its reason.
        source: EngineError,
    },
}

/// An input that gives no prediction.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bytes are no usable input.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The outputs have no meaning.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
}

/// A model that is ready to predict. Shared between threads, it computes one tensor at a time.
#[derive(Debug)]
pub struct Model {
    package: ModelPackage,
    digest: Digest,
    preparation: Preparation,
    /// The engine is not safe to be run twice at the same time.
    session: Mutex<Session>,
    input: TensorSpec,
    outputs: Vec<TensorSpec>,
    provider: ExecutionProvider,
    warnings: Vec<String>,
}

impl Model {
    /// Opens the package in the folder `dir`.
    ///
    /// # Errors
    /// [`ModelError`] when a file is missing, not the one that the package names, or does not fit the others.
    pub fn open(dir: &Path, engine: &Engine, options: &SessionOptions) -> Result<Model, ModelError> {
        let package = read_package(dir)?;
        let path = inside(dir, &package.model.path)?;
        let onnx = read_bounded(&path, package.model.size_bytes)?;
        Model::from_parts(package, &onnx, engine, options)
    }

    /// As [`Model::open`], from a package's values and the bytes of its ONNX file.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_parts(
        package: ModelPackage,
        onnx: &[u8],
        engine: &Engine,
        options: &SessionOptions,
    ) -> Result<Model, ModelError> {
        if package.format_version != PACKAGE_FORMAT_VERSION {
            return Err(ModelError::FormatVersion {
                found: package.format_version.into(),
            });
        }
        let digest = Digest::of(onnx);
        if digest.hex() != package.model.sha256 || onnx.len() as u64 != package.model.size_bytes {
            return Err(ModelError::Digest {
                model: package.name,
                expected: format!("sha256:{}", package.model.sha256),
                expected_bytes: package.model.size_bytes,
                found: digest,
                found_bytes: onnx.len() as u64,
            });
        }
        let model = || package.name.clone();
        let preparation = Preparation::new(&package.input).map_err(|source| ModelError::Spec {
            model: model(),
            source,
        })?;
        let session = engine
            .session(onnx, package.model.precision, options)
            .map_err(|source| ModelError::Engine {
                model: model(),
                source,
            })?;
        let (input, outputs) = (session.input().clone(), session.outputs().to_vec());
        let prepared = preparation.shape();
        if !input.accepts(&prepared) {
            return Err(ModelError::Input {
                model: model(),
                graph: input.to_string(),
                prepared,
            });
        }
        check_output(&package, &prepared, &outputs)?;
        let (provider, warnings) = (session.provider_in_use(), session.warnings().to_vec());
        let session = Mutex::new(session);
        Ok(Model {
            package,
            digest,
            preparation,
            session,
            input,
            outputs,
            provider,
            warnings,
        })
    }

    /// The package.
    pub fn package(&self) -> &ModelPackage {
        &self.package
    }

    /// Digest of the ONNX file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The graph's input.
    pub fn input(&self) -> &TensorSpec {
        &self.input
    }

    /// The graph's outputs in its order. The first is the one that the task is about.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// Shape of the tensors that the package's input specification prepares.
    pub fn input_shape(&self) -> Vec<usize> {
        self.preparation.shape()
    }

    /// The provider that computes.
    pub fn provider_in_use(&self) -> ExecutionProvider {
        self.provider
    }

    /// Why providers that were declared earlier were passed over.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How this model's inputs become tensors.
    pub fn preparation(&self) -> &Preparation {
        &self.preparation
    }

    /// All outputs for one prepared tensor.
    ///
    /// # Errors
    /// [`EngineError`] when the shape does not fit or the engine fails.
    pub fn run(&self, input: &Tensor) -> Result<BTreeMap<String, Tensor>, EngineError> {
        self.session().run(input)
    }

    /// Outcomes for one input's bytes, one for a picture, one per window for a recording; and what the drift watch
    /// counts of them.
    ///
    /// # Errors
    /// [`PredictError`] on the first that fails.
    pub fn outcomes(&self, bytes: &[u8]) -> Result<(Vec<Outcome>, Option<Observation>), PredictError> {
        let mut outcomes = Vec::new();
        let observation = self.each(bytes, |_, outcome| outcomes.push(outcome))?;
        Ok((outcomes, observation))
    }

    /// Hands each tensor's outcome to `take`. Of a recording the first window is observed: the windows of one recording
    /// are alike, and counting all as if they were independent was measured to alarm twelve times too often.
    fn each(
        &self,
        bytes: &[u8],
        mut take: impl FnMut(Option<u32>, Outcome),
    ) -> Result<Option<Observation>, PredictError> {
        let mut prepared = self.preparation.prepare(bytes)?;
        let mut observation = None;
        if let Some((window, tensor, facts)) = prepared.next_measured() {
            let outcome = self.outcome(&tensor)?;
            observation = Some(drift::observe(&self.package, Some(&facts), &outcome));
            take(window, outcome);
        }
        for (window, tensor) in prepared {
            take(window, self.outcome(&tensor)?);
        }
        Ok(observation)
    }

    /// Predictions for the file at `path`: one for a picture, one per window for a recording.
    ///
    /// # Errors
    /// [`PredictError`] when the file cannot be read, is no usable input, or the engine fails.
    pub fn predict_file(&self, path: &Path) -> Result<Vec<Prediction>, PredictError> {
        self.predict_bytes(&read_input(path)?)
    }

    /// As [`Model::predict_file`], from the file's bytes.
    ///
    /// # Errors
    /// As [`Model::predict_file`].
    pub fn predict_bytes(&self, bytes: &[u8]) -> Result<Vec<Prediction>, PredictError> {
        Ok(self.predict_observed(bytes)?.0)
    }

    /// As [`Model::predict_bytes`], with what the drift watch counts.
    ///
    /// # Errors
    /// As [`Model::predict_file`].
    pub fn predict_observed(
        &self,
        bytes: &[u8],
    ) -> Result<(Vec<Prediction>, Option<Observation>), PredictError> {
        let mut started = Instant::now();
        let mut predictions = Vec::new();
        let observation = self.each(bytes, |window, outcome| {
            let finished = Instant::now();
            predictions.push(Prediction {
                model: self.package.name.clone(),
                version: self.package.version.clone(),
                model_digest: self.digest,
                window,
                result: postprocess::result(&self.package, outcome),
                latency_us: u64::try_from((finished - started).as_micros()).unwrap_or(u64::MAX),
            });
            started = finished;
        })?;
        Ok((predictions, observation))
    }

    /// What the drift watch counts of outputs that [`Model::run`] computed from a tensor that a client prepared.
    ///
    /// # Errors
    /// [`PredictError`] when the outputs have no meaning.
    pub fn observe_outputs(
        &self,
        input: &Tensor,
        outputs: &BTreeMap<String, Tensor>,
    ) -> Result<Observation, PredictError> {
        Ok(drift::observe(
            &self.package,
            None,
            &self.outcome_of(input, outputs)?,
        ))
    }

    fn outcome(&self, input: &Tensor) -> Result<Outcome, PredictError> {
        self.outcome_of(input, &self.run(input)?)
    }

    fn outcome_of(
        &self,
        input: &Tensor,
        outputs: &BTreeMap<String, Tensor>,
    ) -> Result<Outcome, PredictError> {
        // The first output's shape was checked when the model was opened, as far as the graph declares it.
        let output = self.outputs.first().and_then(|spec| outputs.get(&spec.name));
        let wanted = self.outcome_length(input);
        match output {
            Some(output) if output.values().len() == wanted => {
                Ok(postprocess::outcome(&self.package, input, output)?)
            }
            other => Err(PredictError::Engine(EngineError::Run {
                message: format!(
                    "its first output has {} values, {wanted} are wanted",
                    other.map_or(0, |output| output.values().len())
                ),
            })),
        }
    }

    fn outcome_length(&self, input: &Tensor) -> usize {
        match self.package.task {
            Task::AnomalyDetection => input.values().len(),
            Task::Classification | Task::Regression => self.package.output.labels.len(),
        }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the drift baseline of the package in `dir`; `None` when it has none.
///
/// # Errors
/// [`ModelError::Baseline`] when it is not of this package or this program.
pub fn read_baseline(dir: &Path, package: &ModelPackage) -> Result<Option<Baseline>, ModelError> {
    let path = dir.join(BASELINE_FILE);
    let bytes = match read_bounded(&path, MAX_LIST_BYTES) {
        Ok(bytes) => bytes,
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let fail = |message: String| ModelError::Baseline {
        path: path.clone(),
        message,
    };
    let baseline: Baseline = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
    if let Some(problem) = baseline.problem() {
        return Err(fail(problem));
    }
    let names = baseline.statistics.iter().map(|statistic| &statistic.name);
    if !names.eq(&drift::statistic_names(package)) {
        return Err(fail("its statistics are not those of this model".to_owned()));
    }
    Ok(Some(baseline))
}

/// Reads `package.json`; the version is looked at first, since other versions may have other fields.
fn read_package(dir: &Path) -> Result<ModelPackage, ModelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Version {
        format_version: u64,
    }
    let path = dir.join("package.json");
    let bytes = read_bounded(&path, MAX_PACKAGE_JSON_BYTES)?;
    let json = |error: serde_json::Error| ModelError::Json {
        path: path.clone(),
        message: error.to_string(),
    };
    let found = serde_json::from_slice::<Version>(&bytes)
        .map_err(json)?
        .format_version;
    if found != u64::from(PACKAGE_FORMAT_VERSION) {
        return Err(ModelError::FormatVersion { found });
    }
    serde_json::from_slice(&bytes).map_err(json)
}

fn check_output(
    package: &ModelPackage,
    prepared: &[usize],
    outputs: &[TensorSpec],
) -> Result<(), ModelError> {
    let graph = outputs.first().map_or("(none)".to_owned(), TensorSpec::to_string);
    let fail = |message: String| ModelError::Output {
        model: package.name.clone(),
        graph,
        message,
    };
    let Some(first) = outputs.first() else {
        return Err(fail("the graph has no output".to_owned()));
    };
    let labels = &package.output.labels;
    match package.task {
        Task::Classification | Task::Regression => {
            if labels.is_empty() {
                return Err(fail("the package names no labels".to_owned()));
            }
            if labels.iter().collect::<BTreeSet<_>>().len() != labels.len() {
                return Err(fail("a label is there twice".to_owned()));
            }
            if !first.accepts(&[1, labels.len()]) && !first.accepts(&[labels.len()]) {
                return Err(fail(format!(
                    "[1, {}] is wanted, one value per label",
                    labels.len()
                )));
            }
        }
        Task::AnomalyDetection => {
            if !first.accepts(prepared) {
                return Err(fail(format!("{prepared:?} is wanted, the shape of the input")));
            }
            if package.output.threshold.is_none() {
                return Err(fail("anomaly detection needs a threshold".to_owned()));
            }
        }
    }
    if package
        .output
        .threshold
        .is_some_and(|threshold| !threshold.is_finite())
    {
        return Err(fail("the threshold is not a finite number".to_owned()));
    }
    Ok(())
}
