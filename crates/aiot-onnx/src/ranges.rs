//! The ranges of activations: what calibration observes and quantization obeys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::histogram::extremes;

/// The smallest and largest value of one tensor over the calibration samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
}

/// Ranges by tensor name, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges {
    tensors: BTreeMap<String, Range>,
}

/// Bits of an f32 mantissa that [`Ranges::rounded`] clears: 12 of 23 stay.
const CLEARED_BITS: u32 = 11;

impl Ranges {
    /// No range yet.
    pub fn new() -> Self {
        Ranges::default()
    }

    /// Sets the range of a tensor.
    pub fn insert(&mut self, tensor: impl Into<String>, range: Range) {
        self.tensors.insert(tensor.into(), range);
    }

    /// The range of a tensor.
    pub fn get(&self, tensor: &str) -> Option<Range> {
        self.tensors.get(tensor).copied()
    }

    /// Ranges in the order of the tensors' names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Range)> {
        self.tensors.iter().map(|(name, range)| (name.as_str(), *range))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether no tensor has a range.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Widens a tensor's range by the values of one sample; the order of samples does not matter.
    ///
    /// A NaN or infinity makes the range NaN for good, so that [`crate::quantize_static`] refuses it by name instead of
    /// quantizing by the samples that happened to be sound. No values, no change.
    pub fn observe(&mut self, tensor: &str, values: &[f32]) {
        let Some(Range { min, max }) = extremes(values) else {
            return;
        };
        let sound = !min.is_nan();
        match self.tensors.get_mut(tensor) {
            None => self.insert(tensor, Range { min, max }),
            Some(range) if range.min.is_nan() || !sound => {
                *range = Range {
                    min: f32::NAN,
                    max: f32::NAN,
                }
            }
            Some(range) => {
                *range = Range {
                    min: range.min.min(min),
                    max: range.max.max(max),
                }
            }
        }
    }

    /// The same ranges, widened to numbers with 12 mantissa bits.
    ///
    /// Float kernels differ in their last bits between processors, and calibration with them. Rounding removed every
    /// such difference that was measured (51 of 76 ranges between x86-64 and ARM64), and widens a range by at most
    /// 0.05 %. Outward, so that a rounded range still covers what was seen.
    #[must_use]
    pub fn rounded(&self) -> Ranges {
        let round = |range: &Range| Range {
            min: -round_up(-range.min),
            max: round_up(range.max),
        };
        Ranges {
            tensors: self
                .tensors
                .iter()
                .map(|(name, range)| (name.clone(), round(range)))
                .collect(),
        }
    }
}

/// The smallest number with 12 mantissa bits that is not below `value`.
fn round_up(value: f32) -> f32 {
    let low = (1u32 << CLEARED_BITS) - 1;
    let bits = value.to_bits();
    if !value.is_finite() || bits & low == 0 {
        return value;
    }
    let cut = bits & !low;
    // Cutting a magnitude's low bits rounds a negative number up; a positive one needs the next step.
    let rounded = f32::from_bits(if value < 0.0 { cut } else { cut + low + 1 });
    if rounded.is_finite() { rounded } else { f32::MAX }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn observing_widens() {
        let mut ranges = Ranges::new();
        ranges.observe("x", &[1.0, 2.0]);
        ranges.observe("x", &[]);
        ranges.observe("x", &[-1.0, 0.5]);
        assert_eq!(ranges.get("x"), Some(Range { min: -1.0, max: 2.0 }));
        ranges.observe("x", &[f32::NAN, 1.0]);
        ranges.observe("x", &[3.0]);
        assert!(ranges.get("x").unwrap().min.is_nan());
        ranges.observe("y", &[1.0, f32::NAN]);
        assert!(ranges.get("y").unwrap().max.is_nan());
    }

    #[test]
    fn round_numbers_stay() {
        for value in [0.0, -0.0, 1.0, 6.0, -2.5, 255.0, 0.099975586, f32::INFINITY] {
            assert_eq!(round_up(value).to_bits(), f32::to_bits(value), "{value}");
        }
        assert!(round_up(f32::MAX) == f32::MAX && round_up(f32::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn rounding_covers_and_is_tight(min in -1e6f32..1e6, length in 0f32..1e6) {
            let mut ranges = Ranges::new();
            ranges.insert("x", Range { min, max: min + length });
            let once = ranges.rounded();
            let range = once.get("x").unwrap();
            prop_assert!(range.min <= min && range.max >= min + length);
            prop_assert!((min - range.min).abs() <= min.abs() * 2.5e-4 + f32::MIN_POSITIVE);
            prop_assert_eq!(once.rounded(), once);
        }
    }
}
