//! What the quantizer must know of a graph's tensors: distributions, and means per channel.
//!
//! One pass over the samples; memory is that of one run and a histogram per tensor, whatever the number of samples.
//! The graph runs on one thread, so that sums have one order, and without other memory layouts, which would keep a second
//! copy of every tensor that is looked at.

use std::collections::BTreeMap;

use aiot_inference::Engine;
use aiot_inference::engine::{Array, Graph, Numbers, Optimize};
use aiot_onnx::{Activations, ChannelAxis, Histogram, Model, Parts, Range, Ranges};

use super::samples::Samples;
use crate::error::BuildError;

/// Values that are looked at twice while they are in the processor's cache.
const PART: usize = 1 << 13;

/// What was seen.
pub struct Observed {
    /// By tensor.
    histograms: BTreeMap<String, Histogram>,
    /// By input of a weighted node.
    channels: BTreeMap<String, Channels>,
}

/// What was seen of a tensor's channels.
struct Channels {
    /// Sum of all values.
    sums: Vec<f64>,
    /// Largest magnitude.
    largest: Vec<f32>,
    /// Values of each.
    count: u64,
}

/// How a range is cut out of what was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeMethod {
    /// Smallest to largest value.
    MinMax,
    /// The range with the least squared error.
    LeastError,
    /// The range that holds this share of the values.
    Percentile(f64),
}

impl std::fmt::Display for RangeMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RangeMethod::MinMax => f.write_str("min-max"),
            RangeMethod::LeastError => f.write_str("least-error"),
            RangeMethod::Percentile(share) => write!(f, "percentile-{}", share * 100.0),
        }
    }
}

/// What is looked at, and the graph that shows it.
pub struct Shown {
    /// Shows all of the tensors below.
    pub graph: Graph,
    /// Those with a histogram.
    tensors: Vec<String>,
    /// Those with a mean per channel.
    channels: BTreeMap<String, ChannelAxis>,
}

impl Shown {
    /// The graph of a prepared model.
    ///
    /// # Errors
    /// When the engine does not take it.
    pub fn new(engine: &Engine, prepared: &Model) -> Result<Shown, BuildError> {
        let tensors = aiot_onnx::calibration_tensors(prepared);
        let channels = aiot_onnx::input_channels(prepared);
        let names: Vec<String> = tensors.iter().chain(channels.keys()).cloned().collect();
        let shown = aiot_onnx::with_outputs(prepared, &names).map_err(BuildError::other)?;
        let graph = engine
            .graph(&shown.to_bytes(), Optimize::NoLayout)
            .map_err(BuildError::other)?;
        Ok(Shown {
            graph,
            tensors,
            channels,
        })
    }
}

/// Runs a prepared model over all samples.
///
/// # Errors
/// A sample that cannot be read or run, or that makes a tensor NaN or infinite; both are named.
pub fn observe(engine: &Engine, prepared: &Model, samples: &Samples) -> Result<Observed, BuildError> {
    let Shown {
        mut graph,
        tensors,
        channels,
    } = Shown::new(engine, prepared)?;
    let inputs: Vec<String> = graph.inputs().iter().map(|input| input.name.clone()).collect();
    let mut observed = Observed {
        histograms: tensors
            .iter()
            .map(|name| (name.clone(), Histogram::new()))
            .collect(),
        channels: BTreeMap::new(),
    };
    for sample in 0..samples.len() {
        for arrays in samples.runs(sample)? {
            for (name, Array { shape, numbers }) in inputs.iter().zip(&arrays) {
                if let Numbers::Float32(values) = numbers {
                    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
                    observed.add(name, &shape, values, &channels);
                }
            }
            graph
                .run(&arrays, |name, shape, values| {
                    observed.add(name, shape, values, &channels)
                })
                .map_err(|error| BuildError::Other(format!("calibration sample {sample}: {error}")))?;
            let broken = observed
                .histograms
                .iter()
                .find(|(_, histogram)| histogram.range().is_some_and(|range| range.min.is_nan()));
            if let Some((tensor, _)) = broken {
                return Err(BuildError::Other(format!(
                    "calibration sample {sample}: tensor `{tensor}` holds NaN or infinity"
                )));
            }
        }
    }
    match observed
        .histograms
        .iter()
        .find(|(_, histogram)| histogram.range().is_none())
    {
        Some((tensor, _)) => Err(BuildError::Other(format!(
            "the engine did not show tensor `{tensor}`"
        ))),
        None => Ok(observed),
    }
}

impl Observed {
    fn add(&mut self, name: &str, shape: &[i64], values: &[f32], channels: &BTreeMap<String, ChannelAxis>) {
        let mut histogram = self.histograms.get_mut(name);
        let is_counted = channels.get(name).is_some_and(|axis| {
            add_channels(
                &mut self.channels,
                name,
                *axis,
                shape,
                values,
                histogram.as_deref_mut(),
            )
        });
        if let Some(histogram) = histogram.filter(|_| !is_counted) {
            histogram.observe(values);
        }
    }

    /// The ranges, rounded as the calibration record keeps them.
    pub fn ranges(&self, method: RangeMethod, activations: Activations) -> Ranges {
        let mut ranges = Ranges::new();
        for (name, histogram) in &self.histograms {
            let range = match method {
                RangeMethod::MinMax => histogram.range(),
                RangeMethod::LeastError => histogram.least_error(activations),
                RangeMethod::Percentile(share) => histogram.percentile(share),
            };
            if let Some(range) = range {
                ranges.insert(name, range);
            }
        }
        ranges.rounded()
    }

    /// Mean of each channel of each weighted node's input, rounded to three decimal digits: finer would not move a
    /// bias, and differs between processors.
    pub fn means(&self) -> BTreeMap<String, Vec<f32>> {
        let mean = |channels: &Channels| {
            let count = channels.count.max(1) as f64;
            channels
                .sums
                .iter()
                .map(|sum| rounded(sum / count))
                .collect::<Vec<f32>>()
        };
        self.channels
            .iter()
            .map(|(name, channels)| (name.clone(), mean(channels)))
            .collect()
    }

    /// Largest magnitude of each channel of each weighted node's input.
    pub fn largest(&self) -> BTreeMap<String, Vec<f32>> {
        self.channels
            .iter()
            .map(|(name, channels)| (name.clone(), channels.largest.clone()))
            .collect()
    }
}

/// Adds to what is known of a tensor's channels; says whether its histogram was fed on the way, so that each value is
/// fetched from memory once.
fn add_channels(
    channels: &mut BTreeMap<String, Channels>,
    name: &str,
    axis: ChannelAxis,
    shape: &[i64],
    values: &[f32],
    mut histogram: Option<&mut Histogram>,
) -> bool {
    let axis = match axis {
        ChannelAxis::Second if shape.len() >= 2 => 1,
        ChannelAxis::Last if !shape.is_empty() => shape.len() - 1,
        _ => return false,
    };
    let count = usize::try_from(shape[axis]).unwrap_or(0);
    let inner = shape[axis + 1..].iter().product::<i64>().max(1) as usize;
    if count == 0 || values.is_empty() {
        return false;
    }
    let channels = channels.entry(name.to_owned()).or_insert_with(|| Channels {
        sums: vec![0.0; count],
        largest: vec![0.0; count],
        count: 0,
    });
    if channels.sums.len() != count {
        return false;
    }
    channels.count += (values.len() / count) as u64;
    if inner == 1 {
        for row in values.chunks(count) {
            let known = channels.sums.iter_mut().zip(&mut channels.largest);
            for ((sum, largest), &value) in known.zip(row) {
                *sum += f64::from(value);
                *largest = largest.max(value.abs());
            }
        }
        return false;
    }
    let mut parts = Parts::new(values.len());
    let (mut start, mut end, mut part) = (0, 0, None::<Range>);
    for (run, plane) in values.chunks(inner).enumerate() {
        let Some((range, sum)) = aiot_onnx::survey(plane) else {
            continue;
        };
        let channel = run % count;
        channels.sums[channel] += sum;
        channels.largest[channel] = channels.largest[channel].max(range.max).max(-range.min);
        end += plane.len();
        let merged = part.map_or(range, |part| wider(part, range));
        part = Some(merged);
        if end - start >= PART || end == values.len() {
            if let Some(histogram) = &mut histogram {
                histogram.observe_part(&mut parts, &values[start..end], merged);
            }
            (start, part) = (end, None);
        }
    }
    true
}

/// Both ranges; NaN stays NaN.
fn wider(a: Range, b: Range) -> Range {
    if a.min.is_nan() || b.min.is_nan() {
        return Range {
            min: f32::NAN,
            max: f32::NAN,
        };
    }
    Range {
        min: a.min.min(b.min),
        max: a.max.max(b.max),
    }
}

/// The number with three significant decimal digits that is nearest.
fn rounded(value: f64) -> f32 {
    if !value.is_finite() {
        return 0.0;
    }
    format!("{value:.2e}").parse().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_magnitudes_follow_the_channel_axis() {
        let mut observed = Observed {
            histograms: BTreeMap::new(),
            channels: BTreeMap::new(),
        };
        let channels = BTreeMap::from([
            ("image".to_owned(), ChannelAxis::Second),
            ("row".to_owned(), ChannelAxis::Last),
        ]);
        for scale in [1.0, -5.0, 3.0] {
            let values = [1.0, 2.0, 10.0, 20.0].map(|value| value * scale);
            observed.add("image", &[1, 2, 1, 2], &values, &channels);
            observed.add("row", &[2, 2], &values, &channels);
            observed.add("other", &[4], &values, &channels);
        }
        let means = observed.means();
        assert_eq!(means["image"], [-0.5, -5.0]);
        assert_eq!(means["row"], [-1.83, -3.67]);
        assert_eq!(means.len(), 2);
        let largest = observed.largest();
        assert_eq!(largest["image"], [10.0, 100.0]);
        assert_eq!(largest["row"], [50.0, 100.0]);
    }

    #[test]
    fn a_tensor_with_channels_is_counted_as_one_without() {
        let values: Vec<f32> = (0..3 * 8 * 71 * 71)
            .map(|i| ((i * 7919) % 1013) as f32 / 64.0 - 3.0)
            .collect();
        let seen = |channels: BTreeMap<String, ChannelAxis>, values: &[f32]| {
            let mut observed = Observed {
                histograms: BTreeMap::from([("x".to_owned(), Histogram::new())]),
                channels: BTreeMap::new(),
            };
            observed.add("x", &[3, 8, 71, 71], values, &channels);
            observed.histograms.remove("x").unwrap()
        };
        let channels = BTreeMap::from([("x".to_owned(), ChannelAxis::Second)]);
        assert_eq!(seen(channels.clone(), &values), seen(BTreeMap::new(), &values));
        let mut broken = values;
        broken[71 * 71 * 20] = f32::NAN;
        assert!(seen(channels, &broken).range().unwrap().min.is_nan());
    }

    #[test]
    fn means_are_rounded_to_three_digits() {
        for (value, expected) in [
            (0.123456, 0.123),
            (-1234.5, -1230.0),
            (0.0, 0.0),
            (f64::NAN, 0.0),
            (9.999, 10.0),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }
}
