//! Does the world still look like the evaluation set?
//!
//! The build measures every sample of the evaluation set ([`Observation`]) and keeps how many fell into which bin
//! ([`build`]); the device measures its inputs with the same code and compares the counts window by window ([`Watch`]).
//! An observation is a picture, or the first window of a recording. What is measured depends on the package:
//!
//! | statistic | of |
//! | --- | --- |
//! | `brightness`, `contrast`, `saturation` | pictures, after resizing: mean and standard deviation of the pixel values, share of values that are 0 or 255 |
//! | `channel-0-mean`, `channel-0-deviation` | recordings, per channel (the first [`MAX_CHANNELS`]), before normalization |
//! | `channel-0-octave-1` … `-3` | share of the window's variation in the highest octave of frequencies, the next, and the next |
//! | `class`, `confidence`, `margin` | classification: best label, its probability, how far the second is behind |
//! | `score` | anomaly detection |
//! | `value-0`, … | regression, in the order of the labels (the first [`MAX_VALUES`]) |
//!
//! Sums of integers, and float64 with `+ - * / √` only, so that every processor puts an input into the same bin.
//! Octaves are Haar's: differences of neighbours, then of the means of neighbours, and so on; a Fourier transform would
//! need sines, which libraries round differently. What it cannot see: whether predictions are right. Drift is a
//! reason to look and to collect samples.

mod baseline;
mod psi;
mod watch;

use aiot_package::{InputSpec, ModelPackage, Task};

use crate::postprocess::Outcome;

pub use baseline::build;
pub use psi::{chi_squared_quantile, population_stability_index};
pub use watch::{Judged, Watch};

/// Channels of a recording that are watched.
pub const MAX_CHANNELS: usize = 8;
/// Values of a regression that are watched.
pub const MAX_VALUES: usize = 8;
/// Octaves of a recording that are watched.
const OCTAVES: usize = 3;

/// What was measured of one picture or recording, in the order of [`statistic_names`]; `None` where there was nothing to
/// measure, as of a tensor that a client prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation(pub Vec<Option<f64>>);

/// What was measured of an input before the model saw it, in the order of [`statistic_names`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputFacts(pub(crate) Vec<f64>);

/// Names of everything that is measured for a package, inputs first.
pub fn statistic_names(package: &ModelPackage) -> Vec<String> {
    let mut names = input_names(package);
    match package.task {
        Task::Classification => names.extend(["class", "confidence", "margin"].map(str::to_owned)),
        Task::AnomalyDetection => names.push("score".to_owned()),
        Task::Regression => {
            let count = package.output.labels.len().min(MAX_VALUES);
            names.extend((0..count).map(|index| format!("value-{index}")));
        }
    }
    names
}

fn input_names(package: &ModelPackage) -> Vec<String> {
    match &package.input {
        InputSpec::Image(_) => ["brightness", "contrast", "saturation"]
            .map(str::to_owned)
            .to_vec(),
        InputSpec::Signal(signal) => (0..(signal.channels as usize).min(MAX_CHANNELS))
            .flat_map(|channel| {
                let octaves = (1..=OCTAVES).map(move |octave| format!("channel-{channel}-octave-{octave}"));
                ["mean", "deviation"]
                    .map(|what| format!("channel-{channel}-{what}"))
                    .into_iter()
                    .chain(octaves)
            })
            .collect(),
    }
}

/// What is measured of an input and of what the model says about it.
pub fn observe(package: &ModelPackage, input: Option<&InputFacts>, outcome: &Outcome) -> Observation {
    let mut values: Vec<Option<f64>> = match input {
        Some(facts) => facts.0.iter().copied().map(Some).collect(),
        None => vec![None; input_names(package).len()],
    };
    match outcome {
        Outcome::Probabilities(probabilities) => {
            let (mut best, mut second) = (0, f32::NEG_INFINITY);
            for (index, &probability) in probabilities.iter().enumerate().skip(1) {
                if probability > probabilities[best] {
                    (best, second) = (index, probabilities[best]);
                } else {
                    second = second.max(probability);
                }
            }
            let first = f64::from(probabilities.get(best).copied().unwrap_or_default());
            let second = f64::from(second.max(0.0));
            values.extend([Some(best as f64), Some(first), Some(first - second)]);
        }
        Outcome::Score(score) => values.push(Some(f64::from(*score))),
        Outcome::Values(all) => {
            values.extend(all.iter().take(MAX_VALUES).map(|value| Some(f64::from(*value))));
        }
    }
    Observation(values)
}

/// Brightness, contrast and saturation of 8-bit pixel values, 0..=255, 0..=127.5 and 0..=1.
pub(crate) fn picture_facts<const C: usize>(pixels: &[[u8; C]]) -> InputFacts {
    let (mut sum, mut squares, mut clipped) = (0u64, 0u64, 0u64);
    for row in pixels.chunks(4096) {
        // 32 bits hold 4096 pixels of four channels, so that the loop runs on vectors.
        let (mut row_sum, mut row_squares, mut row_clipped) = (0u32, 0u32, 0u32);
        for value in row.as_flattened() {
            let wide = u32::from(*value);
            row_sum += wide;
            row_squares += wide * wide;
            row_clipped += u32::from(*value == 0) + u32::from(*value == 255);
        }
        sum += u64::from(row_sum);
        squares += u64::from(row_squares);
        clipped += u64::from(row_clipped);
    }
    let count = (pixels.len() * C).max(1) as u64;
    // Whole numbers up to the last step: n² times the variance, at most (2²⁶ pixels · 4)² · 255², in 128 bits.
    let spread = u128::from(squares) * u128::from(count) - u128::from(sum) * u128::from(sum);
    let count = count as f64;
    InputFacts(vec![
        sum as f64 / count,
        (spread as f64).sqrt() / count,
        clipped as f64 / count,
    ])
}

/// Mean, deviation and octaves of each of the first channels of `rows`, `channels` values a row.
pub(crate) fn signal_facts(rows: &[f32], channels: usize) -> InputFacts {
    let mut facts = Vec::new();
    for channel in 0..channels.min(MAX_CHANNELS) {
        let mut level: Vec<f64> = rows
            .iter()
            .skip(channel)
            .step_by(channels)
            .copied()
            .map(f64::from)
            .collect();
        let count = level.len().max(1) as f64;
        let mean = level.iter().sum::<f64>() / count;
        let variance = level
            .iter()
            .map(|value| (value - mean) * (value - mean))
            .sum::<f64>()
            / count;
        facts.extend([mean, variance.sqrt()]);
        let (mut energies, mut weight) = (Vec::new(), 1.0);
        while level.len() > 1 {
            let halves = |pair: &[f64]| ((pair[0] + pair[1]) / 2.0, (pair[0] - pair[1]) / 2.0);
            weight *= 2.0;
            let detail = |pair: &[f64]| halves(pair).1 * halves(pair).1;
            energies.push(weight * level.chunks_exact(2).map(detail).sum::<f64>());
            level = level.chunks_exact(2).map(|pair| halves(pair).0).collect();
        }
        let total: f64 = energies.iter().sum();
        // A window that stands still has no frequencies.
        let share = |octave| match energies.get(octave) {
            Some(energy) if total > 0.0 => energy / total,
            _ => 0.0,
        };
        facts.extend((0..OCTAVES).map(share));
    }
    InputFacts(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures() {
        assert_eq!(picture_facts(&[[0u8], [255], [0], [255]]).0, [127.5, 127.5, 1.0]);
        assert_eq!(picture_facts(&[[10u8, 20, 30]; 5000]).0[0], 20.0);
        assert_eq!(picture_facts(&[[200u8, 200, 200]; 9000]).0, [200.0, 0.0, 0.0]);
        assert_eq!(picture_facts(&[[255u8; 4]; 10_000]).0, [255.0, 0.0, 1.0]);
    }

    #[test]
    fn signals_are_measured_by_channel() {
        // Channel 0 alternates (the highest octave), channel 1 rises in steps of four (lower ones), 2 stands still.
        let rows: Vec<f32> = (0..16)
            .flat_map(|n| [if n % 2 == 0 { 1.0 } else { -1.0 }, (n / 4) as f32, 5.0])
            .collect();
        let facts = signal_facts(&rows, 3).0;
        assert_eq!(facts[..5], [0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!((facts[5], facts[7], facts[8]), (1.5, 0.0, 0.0));
        assert!(facts[9] > 0.1, "{facts:?}");
        assert_eq!(facts[10..], [5.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_margin_is_to_the_second_best() {
        let package: ModelPackage = serde_json::from_value(serde_json::json!({
            "format-version": 1, "name": "m", "version": "1", "description": "", "task": "classification",
            "model": {"path": "m", "sha256": "", "size-bytes": 0, "precision": "int8"},
            "input": {"image": {"width": 1, "height": 1, "colour": "grey"}}, "output": {"labels": ["a", "b", "c"]},
        }))
        .unwrap();
        let values = |probabilities: &[f32]| {
            let observed = observe(&package, None, &Outcome::Probabilities(probabilities.to_vec()));
            assert_eq!(observed.0.len(), statistic_names(&package).len());
            observed.0[3..]
                .iter()
                .map(|value| value.unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(values(&[0.25, 0.5, 0.25]), [1.0, 0.5, 0.25]);
        assert_eq!(values(&[0.75, 0.0, 0.25]), [0.0, 0.75, 0.5]);
        assert_eq!(values(&[0.0, 0.25, 0.75]), [2.0, 0.75, 0.5]);
        assert_eq!(values(&[1.0]), [0.0, 1.0, 1.0]);
    }
}
