//! Sensor recordings: file bytes → `[samples, channels]` → windows → normalization → float32 tensors.

use aiot_package::{Normalization, SignalInput, SignalLayout};

use super::{PrepareError, SpecError, npy};
use crate::drift::{InputFacts, signal_facts};
use crate::limits::{MAX_INPUT_VALUES, MAX_WINDOWS};
use crate::tensor::Tensor;

/// The checked preparation of recordings for one model.
#[derive(Clone, Debug)]
pub struct SignalPreparation {
    spec: SignalInput,
    channels: usize,
    window: usize,
    stride: usize,
}

/// Values of a recording in row-major order, all finite; there is at least one window.
#[derive(Debug)]
pub struct Recording {
    samples: usize,
    values: Vec<f32>,
}

impl SignalPreparation {
    pub(super) fn new(spec: &SignalInput) -> Result<Self, SpecError> {
        let [channels, window, stride] =
            [spec.channels, spec.window, spec.stride].map(|length| usize::try_from(length).unwrap_or(0));
        let count = channels.saturating_mul(window);
        if count == 0 || stride == 0 || count > MAX_INPUT_VALUES {
            return Err(SpecError::SignalSize);
        }
        if let Normalization::Fixed { mean, std } = &spec.normalization {
            for (field, values) in [("mean", mean), ("std", std)] {
                if values.len() != channels {
                    return Err(SpecError::PerChannel {
                        field,
                        found: values.len(),
                        channels,
                    });
                }
                super::per_channel(field, values, channels, 1.0)?;
            }
        }
        Ok(SignalPreparation {
            spec: spec.clone(),
            channels,
            window,
            stride,
        })
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        match self.spec.layout {
            SignalLayout::Nct => vec![1, self.channels, self.window],
            SignalLayout::Ntc => vec![1, self.window, self.channels],
        }
    }

    /// Reads `.npy` by its magic number, everything else as CSV.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<Recording, PrepareError> {
        let (samples, columns, values) = if bytes.starts_with(npy::MAGIC) {
            npy::read(bytes)?
        } else {
            read_csv(bytes, self.channels)?
        };
        if columns != self.channels {
            let message = format!("it has {columns} channels, the model wants {}", self.channels);
            return Err(PrepareError::Npy { message });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (sample, channel) = (index / self.channels, index % self.channels);
            return Err(PrepareError::NotFinite { sample, channel });
        }
        if samples < self.window {
            return Err(PrepareError::TooShort {
                samples,
                window: self.window,
            });
        }
        let windows = (samples - self.window) / self.stride + 1;
        if windows > MAX_WINDOWS {
            return Err(PrepareError::TooManyWindows { windows });
        }
        Ok(Recording { samples, values })
    }

    /// The window with this index, or `None` behind the last complete one.
    pub(super) fn window(&self, recording: &Recording, index: usize) -> Option<Tensor> {
        let rows = self.rows(recording, index)?;
        let mut values = vec![0.0f32; rows.len()];
        for channel in 0..self.channels {
            let column = || rows.iter().skip(channel).step_by(self.channels).copied();
            let (mean, std) = self.statistics(channel, column());
            for (time, value) in column().enumerate() {
                let at = match self.spec.layout {
                    SignalLayout::Nct => channel * self.window + time,
                    SignalLayout::Ntc => time * self.channels + channel,
                };
                values[at] = match self.spec.normalization {
                    Normalization::None => value,
                    Normalization::Fixed { .. } => (value - mean as f32) / std as f32,
                    Normalization::PerWindow if std == 0.0 => 0.0,
                    Normalization::PerWindow => ((f64::from(value) - mean) / std) as f32,
                };
            }
        }
        Some(Tensor::new(self.shape(), values).expect("the window fills the spec's shape"))
    }

    /// What the drift watch measures of the window with this index.
    pub(super) fn facts(&self, recording: &Recording, index: usize) -> Option<InputFacts> {
        Some(signal_facts(self.rows(recording, index)?, self.channels))
    }

    fn rows<'a>(&self, recording: &'a Recording, index: usize) -> Option<&'a [f32]> {
        let start = index.checked_mul(self.stride)?;
        if start + self.window > recording.samples {
            return None;
        }
        Some(&recording.values[start * self.channels..(start + self.window) * self.channels])
    }

    /// Mean and standard deviation that normalize one channel of a window.
    fn statistics(&self, channel: usize, column: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
        match &self.spec.normalization {
            Normalization::None => (0.0, 1.0),
            Normalization::Fixed { mean, std } => (f64::from(mean[channel]), f64::from(std[channel])),
            Normalization::PerWindow => {
                // In float64 and in order, so that every processor gives the same bits.
                let count = self.window as f64;
                let mean = column.clone().map(f64::from).sum::<f64>() / count;
                let variance = column.map(|value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
                (mean, variance.sqrt())
            }
        }
    }
}

/// One row a sample, one column a channel, separated by commas. A first line without any number is a header.
fn read_csv(bytes: &[u8], channels: usize) -> Result<(usize, usize, Vec<f32>), PrepareError> {
    let fail = |line: usize, message: String| PrepareError::Csv { line, message };
    let text =
        std::str::from_utf8(bytes).map_err(|_| fail(1, "it is neither .npy nor CSV in UTF-8".to_owned()))?;
    let mut values = Vec::new();
    let mut samples = 0;
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line_number = index + 1;
        let cells = || line.split(',').map(str::trim);
        if line.trim().is_empty() || (index == 0 && cells().all(|cell| cell.parse::<f32>().is_err())) {
            continue;
        }
        let found = cells().count();
        if found != channels {
            return Err(fail(
                line_number,
                format!("it has {found} columns, the model wants {channels}"),
            ));
        }
        for cell in cells() {
            let value = cell.parse::<f32>().map_err(|_| {
                fail(
                    line_number,
                    format!("`{}` is not a number", cell.chars().take(40).collect::<String>()),
                )
            })?;
            values.push(value);
        }
        samples += 1;
    }
    Ok((samples, channels, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(channels: u32, window: u32, stride: u32) -> SignalInput {
        SignalInput {
            channels,
            window,
            stride,
            normalization: Normalization::None,
            layout: SignalLayout::Nct,
        }
    }

    fn windows(spec: &SignalInput, csv: &str) -> Result<Vec<Vec<f32>>, String> {
        let preparation = SignalPreparation::new(spec).unwrap();
        let recording = preparation
            .read(csv.as_bytes())
            .map_err(|error| error.to_string())?;
        Ok((0..)
            .map_while(|index| preparation.window(&recording, index).map(Tensor::into_values))
            .collect())
    }

    #[test]
    fn windows_by_stride_without_the_incomplete_last() {
        let csv = "value\n1\n2\n\n3\n4\n5\n";
        assert_eq!(windows(&spec(1, 2, 2), csv).unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
        assert_eq!(windows(&spec(1, 2, 1), csv).unwrap().len(), 4);
        assert_eq!(windows(&spec(1, 5, 9), csv).unwrap().len(), 1);
    }

    #[test]
    fn layouts() {
        let csv = "x,y\n1,10\n2,20\n3,30\n";
        assert_eq!(
            windows(&spec(2, 3, 3), csv).unwrap(),
            [[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]]
        );
        let ntc = SignalInput {
            layout: SignalLayout::Ntc,
            ..spec(2, 3, 3)
        };
        assert_eq!(windows(&ntc, csv).unwrap(), [[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]]);
    }

    #[test]
    fn normalizations() {
        let fixed = Normalization::Fixed {
            mean: vec![1.0, 10.0],
            std: vec![2.0, 5.0],
        };
        let fixed = SignalInput {
            normalization: fixed,
            ..spec(2, 2, 2)
        };
        assert_eq!(windows(&fixed, "1,10\n5,20").unwrap(), [[0.0, 2.0, 0.0, 2.0]]);
        let own = SignalInput {
            normalization: Normalization::PerWindow,
            ..spec(2, 2, 2)
        };
        assert_eq!(windows(&own, "3,7\n5,7").unwrap(), [[-1.0, 1.0, 0.0, 0.0]]);
    }

    #[test]
    fn bad_recordings_are_named() {
        for (csv, expected) in [
            ("1\n2,3\n", "line 2 of the recording: it has 2 columns"),
            ("1\nx\n", "line 2 of the recording: `x` is not a number"),
            ("1\nnan\n", "sample 1, channel 0"),
            ("1\n1e99\n", "sample 1, channel 0"),
            ("1\n", "1 samples; one window needs 2"),
            ("", "0 samples"),
        ] {
            let error = windows(&spec(1, 2, 2), csv).unwrap_err();
            assert!(error.contains(expected), "{csv:?}: {error}");
        }
    }

    #[test]
    fn impossible_specs_are_refused() {
        for (channels, window, stride) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (u32::MAX, u32::MAX, 1)] {
            assert!(SignalPreparation::new(&spec(channels, window, stride)).is_err());
        }
        let fixed = Normalization::Fixed {
            mean: vec![0.0],
            std: vec![0.0],
        };
        assert!(
            SignalPreparation::new(&SignalInput {
                normalization: fixed,
                ..spec(1, 1, 1)
            })
            .is_err()
        );
    }
}
