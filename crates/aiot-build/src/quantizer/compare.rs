//! A variant's outputs against the float model's, on the same samples.

use std::collections::BTreeMap;
use std::time::Instant;

use aiot_inference::Engine;
use aiot_inference::engine::{Graph, Optimize};
use aiot_onnx::Model;

use super::samples::Samples;
use crate::error::BuildError;

/// Float outputs that are kept to compare with.
const MAX_REFERENCE_BYTES: usize = 16 << 20;
/// Samples that are compared: noise is an average, and more move it by less than a tenth of a decibel.
const MAX_COMPARED: usize = 64;
/// Runs per variant when latency is measured.
const LATENCY_RUNS: usize = 30;

/// The float model's outputs on the first samples.
pub struct Reference<'a> {
    engine: &'a Engine,
    samples: &'a Samples,
    /// Per run, by output.
    outputs: Vec<BTreeMap<String, Vec<f32>>>,
    /// Samples that these are of.
    count: usize,
}

/// How close a variant comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closeness {
    /// Signal to quantization noise over all outputs, dB; infinite for equal outputs.
    pub sqnr_db: f64,
    /// Share of the outputs' rows whose largest column is the same; `None` where rows have one column.
    pub agreement: Option<f64>,
}

/// How long a variant runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Median time of one run.
    pub seconds: f64,
    /// Against the first of the variants that were measured together.
    pub ratio: f64,
}

impl<'a> Reference<'a> {
    /// Runs the float model.
    ///
    /// # Errors
    /// A sample that cannot be read or run.
    pub fn new(engine: &'a Engine, float: &Model, samples: &'a Samples) -> Result<Reference<'a>, BuildError> {
        let mut graph = engine
            .graph(&float.to_bytes(), Optimize::All)
            .map_err(BuildError::other)?;
        let mut reference = Reference {
            engine,
            samples,
            outputs: Vec::new(),
            count: 0,
        };
        let mut bytes = 0;
        // Spread evenly, so that a sorted set shows all of its classes.
        while reference.count < samples.len().min(MAX_COMPARED) && bytes < MAX_REFERENCE_BYTES {
            for arrays in samples.runs(reference.sample(reference.count))? {
                let mut outputs = BTreeMap::new();
                graph
                    .run(&arrays, |name, _, values| {
                        outputs.insert(name.to_owned(), values.to_vec());
                    })
                    .map_err(BuildError::other)?;
                bytes += outputs.values().map(Vec::len).sum::<usize>() * 4;
                reference.outputs.push(outputs);
            }
            reference.count += 1;
        }
        Ok(reference)
    }

    fn sample(&self, number: usize) -> usize {
        let compared = self.samples.len().min(MAX_COMPARED);
        number * self.samples.len() / compared
    }

    /// Runs a variant on the same samples, the first `samples` of them.
    ///
    /// # Errors
    /// When the engine does not take it.
    pub fn closeness(&self, variant: &Model, samples: usize) -> Result<Closeness, BuildError> {
        let mut graph = self
            .engine
            .graph(&variant.to_bytes(), Optimize::All)
            .map_err(BuildError::other)?;
        let mut tally = Tally::default();
        let mut references = self.outputs.iter();
        for number in 0..self.count.min(samples) {
            for arrays in self.samples.runs(self.sample(number))? {
                let Some(expected) = references.next() else { break };
                graph
                    .run(&arrays, |name, shape, values| {
                        if let Some(expected) = expected.get(name) {
                            tally.add(
                                expected,
                                values,
                                shape.last().map_or(1, |&columns| columns.max(1) as usize),
                            );
                        }
                    })
                    .map_err(BuildError::other)?;
            }
        }
        Ok(tally.closeness())
    }

    /// The variants' times per run, measured in turns on one thread; ratios to the first one's are medians of pairs, so
    /// that other work on this machine meets all of them.
    ///
    /// # Errors
    /// When the engine does not take one.
    pub fn latencies(&self, variants: &[&Model]) -> Result<Vec<Latency>, BuildError> {
        let mut graphs: Vec<Graph> = variants
            .iter()
            .map(|variant| {
                self.engine
                    .graph(&variant.to_bytes(), Optimize::All)
                    .map_err(BuildError::other)
            })
            .collect::<Result<_, _>>()?;
        let Some(arrays) = self.samples.runs(0)?.into_iter().next() else {
            return Err(BuildError::Other(
                "the first calibration sample gives no input".to_owned(),
            ));
        };
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); graphs.len()];
        for run in 0..LATENCY_RUNS + 2 {
            for (graph, times) in graphs.iter_mut().zip(&mut times) {
                let started = Instant::now();
                graph.run(&arrays, |_, _, _| {}).map_err(BuildError::other)?;
                // The first runs warm up.
                if run >= 2 {
                    times.push(started.elapsed().as_secs_f64());
                }
            }
        }
        let first = times.first().cloned().unwrap_or_default();
        Ok(times
            .iter()
            .map(|times| Latency {
                seconds: median(times.iter().copied()),
                ratio: median(times.iter().zip(&first).map(|(time, first)| time / first)),
            })
            .collect())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[derive(Default)]
struct Tally {
    signal: f64,
    noise: f64,
    rows: u64,
    equal: u64,
}

impl Tally {
    fn add(&mut self, expected: &[f32], got: &[f32], columns: usize) {
        for (expected, got) in expected.iter().zip(got) {
            let (expected, got) = (f64::from(*expected), f64::from(*got));
            self.signal += expected * expected;
            self.noise += (expected - got) * (expected - got);
        }
        if columns > 1 {
            for (expected, got) in expected.chunks(columns).zip(got.chunks(columns)) {
                self.rows += 1;
                self.equal += u64::from(largest(expected) == largest(got));
            }
        }
    }

    fn closeness(&self) -> Closeness {
        let sqnr_db = match self.noise == 0.0 {
            true => f64::INFINITY,
            false => 10.0 * (self.signal / self.noise).log10(),
        };
        let agreement = (self.rows > 0).then(|| self.equal as f64 / self.rows as f64);
        // NaN outputs are as bad as can be, and must not win a comparison.
        Closeness {
            sqnr_db: if sqnr_db.is_nan() {
                f64::NEG_INFINITY
            } else {
                sqnr_db
            },
            agreement,
        }
    }
}

/// Index of the first largest number.
pub(super) fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (column, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = column;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_and_agreement_are_counted() {
        for (expected, got, columns, sqnr_db, agreement) in [
            (vec![10.0, 0.0], vec![9.0, 0.0], 2, 20.0, Some(1.0)),
            (
                vec![1.0, 0.0, 0.0, 1.0],
                vec![1.0, 0.0, 1.0, 0.0],
                2,
                0.0,
                Some(0.5),
            ),
            (vec![1.0, 1.0], vec![1.0, 1.0], 1, f64::INFINITY, None),
            (vec![1.0], vec![f32::NAN], 1, f64::NEG_INFINITY, None),
        ] {
            let mut tally = Tally::default();
            tally.add(&expected, &got, columns);
            let closeness = tally.closeness();
            assert!(
                closeness.sqnr_db == sqnr_db || (closeness.sqnr_db - sqnr_db).abs() < 1e-6,
                "{closeness:?}"
            );
            assert_eq!(closeness.agreement, agreement);
        }
    }

    #[test]
    fn medians_and_argmax() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
    }
}
