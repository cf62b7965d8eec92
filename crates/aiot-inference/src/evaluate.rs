//! How good a model is on a data set. The same preparation and postprocessing as on the device, one sample after
//! the other in the data set's order, sums in float64: the same build gives the same value.
//!
//! A recording with several windows counts as one sample: its probabilities, score or values are the means over its
//! windows.

use std::collections::BTreeMap;

use aiot_package::{Baseline, Metric, ModelPackage, Task};

use crate::dataset::{Dataset, Sample};
use crate::drift;
use crate::file::FileError;
use crate::model::{Model, PredictError};
use crate::postprocess::{Outcome, chosen};

/// Why there is no evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The metric has no meaning for the model's task.
    #[error("metric `{metric}` cannot be computed for the task of model `{model}` ({task:?})")]
    Metric {
        /// Name of the model.
        model: String,
        /// Its task.
        task: Task,
        /// The metric asked for.
        metric: Metric,
    },
    /// A label that the package does not know.
    #[error("sample `{file}`: label `{label}` is not {wanted}")]
    Label {
        /// The sample.
        file: String,
        /// Its label.
        label: String,
        /// What labels look like.
        wanted: String,
    },
    /// All samples have the same label.
    #[error("the ROC curve needs normal and anomalous samples; all are labelled `{0}`")]
    OneClass(u8),
    /// A sample cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A sample cannot be predicted.
    #[error("sample `{file}`: {source}")]
    Predict {
        /// The sample.
        file: String,
        /// Why.
        source: PredictError,
    },
}

/// The result for one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleResult {
    /// The sample's file.
    pub file: String,
    /// The sample's label.
    pub label: String,
    /// What the model says, the mean over the windows.
    pub outcome: Outcome,
}

/// How good a model is.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What was measured.
    pub metric: Metric,
    /// Its value, in the metric's range.
    pub value: f64,
    /// Number of samples.
    pub samples: usize,
    /// Every sample's result, in the data set's order.
    pub results: Vec<SampleResult>,
    /// What the inputs look like; of an anomaly detector the normal ones, since the rest is what it is there to find.
    pub baseline: Baseline,
}

/// Predicts every sample of `dataset` and measures `metric`.
///
/// # Errors
/// [`EvaluateError`] names the sample that cannot be used, or the metric that does not fit the task.
pub fn evaluate(model: &Model, dataset: &Dataset, metric: Metric) -> Result<Evaluation, EvaluateError> {
    let package = model.package();
    if !metric.fits(package.task) {
        return Err(EvaluateError::Metric {
            model: package.name.clone(),
            task: package.task,
            metric,
        });
    }
    // Labels first: a typing error should not cost the time of all predictions.
    for sample in dataset.samples() {
        check_label(package, sample)?;
    }
    let mut results = Vec::with_capacity(dataset.samples().len());
    let mut observations = Vec::new();
    for sample in dataset.samples() {
        let bytes = dataset.read(sample)?;
        let (outcomes, observation) = model.outcomes(&bytes).map_err(|source| EvaluateError::Predict {
            file: sample.file.clone(),
            source,
        })?;
        if package.task != Task::AnomalyDetection || sample.label == "0" {
            observations.extend(observation);
        }
        results.push(SampleResult {
            file: sample.file.clone(),
            label: sample.label.clone(),
            outcome: mean_outcome(&outcomes),
        });
    }
    let value = measure(package, metric, &results)?;
    Ok(Evaluation {
        metric,
        value,
        samples: results.len(),
        results,
        baseline: drift::build(package, &observations),
    })
}

fn check_label(package: &ModelPackage, sample: &Sample) -> Result<(), EvaluateError> {
    let fail = |wanted: String| EvaluateError::Label {
        file: sample.file.clone(),
        label: sample.label.clone(),
        wanted,
    };
    let labels = &package.output.labels;
    match package.task {
        Task::Classification if labels.contains(&sample.label) => Ok(()),
        Task::Classification => Err(fail(format!("one of {}", labels.join(", ")))),
        Task::AnomalyDetection if matches!(sample.label.as_str(), "0" | "1") => Ok(()),
        Task::AnomalyDetection => Err(fail("0 (normal) or 1 (anomaly)".to_owned())),
        Task::Regression if numbers(&sample.label).is_some_and(|values| values.len() == labels.len()) => {
            Ok(())
        }
        Task::Regression => Err(fail(format!("{} numbers separated by `;`", labels.len()))),
    }
}

fn numbers(label: &str) -> Option<Vec<f64>> {
    let parse = |text: &str| text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
    label.split(';').map(parse).collect()
}

/// The mean over a sample's windows; all are of the same kind and length, and there is at least one.
fn mean_outcome(outcomes: &[Outcome]) -> Outcome {
    let list = |outcome: &Outcome| match outcome {
        Outcome::Probabilities(values) | Outcome::Values(values) => values.clone(),
        Outcome::Score(score) => vec![*score],
    };
    let mut sums: Vec<f64> = Vec::new();
    for outcome in outcomes {
        let values = list(outcome);
        sums.resize(values.len(), 0.0);
        sums.iter_mut()
            .zip(values)
            .for_each(|(sum, value)| *sum += f64::from(value));
    }
    let mean = sums.into_iter().map(|sum| (sum / outcomes.len() as f64) as f32);
    match outcomes.first() {
        Some(Outcome::Probabilities(_)) => Outcome::Probabilities(mean.collect()),
        Some(Outcome::Values(_)) => Outcome::Values(mean.collect()),
        _ => Outcome::Score(mean.sum()),
    }
}

fn measure(package: &ModelPackage, metric: Metric, results: &[SampleResult]) -> Result<f64, EvaluateError> {
    let count = results.len() as f64;
    match metric {
        Metric::Accuracy => {
            Ok(results.iter().filter(|result| is_right(package, result)).count() as f64 / count)
        }
        Metric::MacroF1 => {
            let pairs: Vec<(&str, Option<&str>)> = results
                .iter()
                .map(|result| (result.label.as_str(), predicted_label(package, &result.outcome)))
                .collect();
            Ok(macro_f1(&pairs))
        }
        Metric::RocAuc => {
            let scores: Vec<(f32, bool)> = results
                .iter()
                .filter_map(|result| match result.outcome {
                    Outcome::Score(score) => Some((score, result.label == "1")),
                    _ => None,
                })
                .collect();
            roc_auc(&scores).ok_or(EvaluateError::OneClass(u8::from(
                scores.iter().any(|(_, bad)| *bad),
            )))
        }
        Metric::MeanAbsoluteError => {
            let (mut sum, mut values) = (0.0, 0usize);
            for result in results {
                if let (Outcome::Values(got), Some(wanted)) = (&result.outcome, numbers(&result.label)) {
                    sum += got
                        .iter()
                        .zip(&wanted)
                        .map(|(got, wanted)| (f64::from(*got) - wanted).abs())
                        .sum::<f64>();
                    values += wanted.len();
                }
            }
            Ok(sum / values.max(1) as f64)
        }
    }
}

fn is_right(package: &ModelPackage, result: &SampleResult) -> bool {
    match &result.outcome {
        Outcome::Probabilities(_) => predicted_label(package, &result.outcome) == Some(result.label.as_str()),
        Outcome::Score(score) => package
            .output
            .threshold
            .is_some_and(|threshold| (*score > threshold) == (result.label == "1")),
        Outcome::Values(_) => false,
    }
}

fn predicted_label<'a>(package: &'a ModelPackage, outcome: &Outcome) -> Option<&'a str> {
    match outcome {
        Outcome::Probabilities(probabilities) => {
            chosen(package, probabilities).map(|index| package.output.labels[index].as_str())
        }
        _ => None,
    }
}

/// Mean F1 over the labels that are true or predicted somewhere (scikit-learn's rule); `None` = no answer.
fn macro_f1(pairs: &[(&str, Option<&str>)]) -> f64 {
    // Per label: right, predicted, true.
    let mut counts: BTreeMap<&str, [u32; 3]> = BTreeMap::new();
    for &(label, predicted) in pairs {
        counts.entry(label).or_default()[2] += 1;
        if let Some(predicted) = predicted {
            counts.entry(predicted).or_default()[1] += 1;
            if predicted == label {
                counts.entry(label).or_default()[0] += 1;
            }
        }
    }
    let f1 = |[right, predicted, truth]: &[u32; 3]| 2.0 * f64::from(*right) / f64::from(predicted + truth);
    counts.values().map(f1).sum::<f64>() / counts.len().max(1) as f64
}

/// Probability that an anomalous sample scores above a normal one; equal scores count half. `None` without both.
fn roc_auc(scores: &[(f32, bool)]) -> Option<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut wins, mut positives) = (0u64, 0.0, 0u64);
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        let bad = group.iter().filter(|(_, bad)| *bad).count() as u64;
        let good = group.len() as u64 - bad;
        wins += bad as f64 * (below as f64 + good as f64 / 2.0);
        below += good;
        positives += bad;
    }
    (below > 0 && positives > 0).then(|| wins / (below as f64 * positives as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roc_auc_counts_ties_half() {
        for (scores, expected) in [
            (vec![(0.1, false), (0.9, true)], Some(1.0)),
            (vec![(0.9, false), (0.1, true)], Some(0.0)),
            (vec![(0.5, false), (0.5, true)], Some(0.5)),
            // scikit-learn: roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
            (
                vec![(0.1, false), (0.4, false), (0.35, true), (0.8, true)],
                Some(0.75),
            ),
            (vec![(0.1, false)], None),
            (vec![], None),
        ] {
            assert_eq!(roc_auc(&scores), expected, "{scores:?}");
        }
    }

    #[test]
    fn macro_f1_is_scikit_learns() {
        // f1_score([a, a, b, c], [a, b, b, a], average="macro") = mean(0.5, 2/3, 0)
        let pairs = [
            ("a", Some("a")),
            ("a", Some("b")),
            ("b", Some("b")),
            ("c", Some("a")),
        ];
        assert!((macro_f1(&pairs) - (0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert_eq!(macro_f1(&[("a", Some("a")), ("b", None)]), 0.5);
    }

    #[test]
    fn windows_are_averaged() {
        assert_eq!(
            mean_outcome(&[Outcome::Score(1.0), Outcome::Score(2.0)]),
            Outcome::Score(1.5)
        );
        assert_eq!(
            mean_outcome(&[Outcome::Values(vec![1.0, 0.0]), Outcome::Values(vec![3.0, 1.0])]),
            Outcome::Values(vec![2.0, 0.5])
        );
    }

    #[test]
    fn regression_labels() {
        assert_eq!(numbers("1; -2.5"), Some(vec![1.0, -2.5]));
        assert_eq!(numbers("1;x"), None);
        assert_eq!(numbers("nan"), None);
    }
}
