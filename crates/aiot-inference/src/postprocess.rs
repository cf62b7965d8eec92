//! Output tensors → what they mean, by the package's task.
//!
//! [`Outcome`] keeps the full numbers (for evaluation and for comparing processors); [`Prediction`] is what a module
//! publishes. Sums and exponentials are computed in float64, so that they round to the same float32 on every
//! processor.

use std::collections::BTreeMap;

use aiot_package::{Activation, Digest, ModelPackage, Task};
use serde::{Deserialize, Serialize};

use crate::tensor::Tensor;

/// Labels that a published classification lists at most.
pub const TOP_LABELS: usize = 5;

/// What one tensor's outputs mean, complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Classification: probability of every label in the package's order.
    Probabilities(Vec<f32>),
    /// Anomaly detection: mean squared error between input and reconstruction.
    Score(f32),
    /// Regression: every value in the package's order.
    Values(Vec<f32>),
}

/// One published result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prediction {
    /// Name of the model.
    pub model: String,
    /// Version of the model.
    pub version: String,
    /// Digest of the ONNX file.
    pub model_digest: Digest,
    /// Index of the window in its recording; absent for pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// What the model says.
    pub result: PredictionResult,
    /// Microseconds from input bytes (or from the window before) to result. Not part of equality.
    pub latency_us: u64,
}

impl PartialEq for Prediction {
    fn eq(&self, other: &Self) -> bool {
        self.model == other.model
            && self.version == other.version
            && self.model_digest == other.model_digest
            && self.window == other.window
            && self.result == other.result
    }
}

/// What the model says about one picture or window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PredictionResult {
    /// One of the labels.
    Classification {
        /// The most probable label; null when its probability is below the package's threshold.
        label: Option<String>,
        /// Probability of the most probable label, 0..=1.
        confidence: f32,
        /// The most probable labels, at most [`TOP_LABELS`], most probable first.
        top: Vec<LabelProbability>,
    },
    /// Normal or not.
    Anomaly {
        /// Mean squared error between input and reconstruction.
        score: f32,
        /// Whether the score is above the threshold.
        anomaly: bool,
        /// The package's threshold.
        threshold: f32,
    },
    /// Named numbers.
    Regression {
        /// Name → value.
        values: BTreeMap<String, f32>,
    },
}

/// A label and how probable it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelProbability {
    /// The label.
    pub label: String,
    /// 0..=1.
    pub probability: f32,
}

/// Outputs that have no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model computed NaN or infinity")]
pub struct NotFinite;

/// The outcome for `output`, the graph's first output, computed from `input`. Their shapes were checked when the
/// model was opened.
pub(crate) fn outcome(package: &ModelPackage, input: &Tensor, output: &Tensor) -> Result<Outcome, NotFinite> {
    if output.values().iter().any(|value| !value.is_finite()) {
        return Err(NotFinite);
    }
    Ok(match package.task {
        Task::Classification => Outcome::Probabilities(match package.output.activation {
            Activation::Softmax => softmax(output.values()),
            Activation::None => output.values().to_vec(),
        }),
        Task::AnomalyDetection => {
            let score = mean_squared_error(input.values(), output.values());
            if !score.is_finite() {
                return Err(NotFinite);
            }
            Outcome::Score(score)
        }
        Task::Regression => Outcome::Values(output.values().to_vec()),
    })
}

/// What is published of an outcome.
pub(crate) fn result(package: &ModelPackage, outcome: Outcome) -> PredictionResult {
    let labels = &package.output.labels;
    match outcome {
        Outcome::Probabilities(probabilities) => {
            let mut order: Vec<usize> = (0..probabilities.len()).collect();
            // Stable: of equal probabilities the first label wins, as in `numpy.argmax`.
            order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
            let named = |&index: &usize| LabelProbability {
                label: labels[index].clone(),
                probability: probabilities[index],
            };
            let top: Vec<LabelProbability> = order.iter().take(TOP_LABELS).map(named).collect();
            let confidence = top.first().map_or(0.0, |best| best.probability);
            let label = chosen(package, &probabilities).map(|index| labels[index].clone());
            PredictionResult::Classification {
                label,
                confidence,
                top,
            }
        }
        Outcome::Score(score) => {
            let threshold = package.output.threshold.unwrap_or(f32::MAX);
            PredictionResult::Anomaly {
                score,
                anomaly: score > threshold,
                threshold,
            }
        }
        Outcome::Values(values) => PredictionResult::Regression {
            values: labels.iter().cloned().zip(values).collect(),
        },
    }
}

/// Index of the most probable label (the first of equals), `None` below the package's threshold.
pub(crate) fn chosen(package: &ModelPackage, probabilities: &[f32]) -> Option<usize> {
    let mut best = 0;
    for (index, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[best] {
            best = index;
        }
    }
    let least = package.output.threshold.unwrap_or(f32::NEG_INFINITY);
    probabilities
        .get(best)
        .filter(|probability| **probability >= least)
        .map(|_| best)
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits
        .iter()
        .map(|&logit| (f64::from(logit) - f64::from(largest)).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

fn mean_squared_error(a: &[f32], b: &[f32]) -> f32 {
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    (sum / a.len().max(1) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_adds_up_and_does_not_overflow() {
        assert_eq!(softmax(&[0.0, 0.0]), [0.5, 0.5]);
        assert_eq!(softmax(&[1e30, 0.0]), [1.0, 0.0]);
        let three = softmax(&[1.0, 2.0, 3.0]);
        assert_eq!(three, [0.090_030_57, 0.244_728_48, 0.665_240_94]);
    }

    #[test]
    fn reconstruction_error() {
        assert_eq!(mean_squared_error(&[1.0, 2.0], &[1.0, 4.0]), 2.0);
    }

    #[test]
    fn latency_is_not_part_of_equality() {
        let prediction = |latency_us| Prediction {
            model: "m".into(),
            version: "1".into(),
            model_digest: Digest::of(b""),
            window: None,
            result: PredictionResult::Anomaly {
                score: 1.0,
                anomaly: true,
                threshold: 0.5,
            },
            latency_us,
        };
        assert_eq!(prediction(1), prediction(2));
    }
}
