//! The distribution of one tensor's values, in memory that does not grow with the number of samples.
//!
//! 4096 bins over -2^k..2^k; when a value does not fit, k grows and pairs of bins are merged. Bounds are powers of two
//! and merging is exact, so the counts do not depend on the order of the samples.

use crate::quantize::Activations;
use crate::ranges::Range;

const BINS: usize = 4096;
const HALF: i32 = BINS as i32 / 2;
/// Bounds below 2^-100 tell nothing, and their bins would be too many per unit to count with f32.
const LEAST_EXPONENT: i32 = -100;
/// Values of one tensor and sample that are put into bins.
const COUNTED: usize = 1 << 14;
/// Values that are looked at twice, for their extremes and for their bins, while they are in the processor's cache.
const PART: usize = 1 << 13;
/// Clipped shares of an end that are tried for the least error.
const CLIPS: u32 = 40;

/// A histogram of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Values lie within ±2^exponent.
    exponent: i32,
    /// Zeros, which every quantization represents exactly, are counted in their bin too.
    zeros: u64,
    total: u64,
    range: Option<Range>,
}

/// Where a walk over one sample's values stands that is made part by part, see [`Histogram::observe_part`].
#[derive(Clone, Debug)]
pub struct Parts {
    /// Of large tensors every n-th value stands for n.
    every: usize,
    /// Values until the next one that counts.
    skip: usize,
}

impl Parts {
    /// The beginning of a walk over this many values in all.
    pub fn new(length: usize) -> Parts {
        // Shape is known from far fewer values, the ends from all. An odd n meets all columns of a picture.
        Parts {
            every: (length / COUNTED).max(1) | 1,
            skip: 0,
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: vec![0; BINS],
            exponent: LEAST_EXPONENT,
            zeros: 0,
            total: 0,
            range: None,
        }
    }
}

impl Histogram {
    /// Nothing seen yet.
    pub fn new() -> Histogram {
        Histogram::default()
    }

    /// Adds the values of one sample. After a NaN or an infinity the range is NaN for good, see
    /// [`crate::Ranges::observe`].
    pub fn observe(&mut self, values: &[f32]) {
        let mut parts = Parts::new(values.len());
        for part in values.chunks(PART) {
            if let Some(range) = extremes(part) {
                self.observe_part(&mut parts, part, range);
            }
        }
    }

    /// Adds the next of one sample's values, whose extremes are known. Whatever the parts, the counts are the same: a
    /// part is best small enough to be in the processor's cache still.
    pub fn observe_part(&mut self, parts: &mut Parts, values: &[f32], Range { min, max }: Range) {
        self.range = Some(match self.range {
            Some(old) if !old.min.is_nan() && !min.is_nan() => Range {
                min: old.min.min(min),
                max: old.max.max(max),
            },
            None => Range { min, max },
            Some(_) => Range {
                min: f32::NAN,
                max: f32::NAN,
            },
        });
        if min.is_nan() {
            return;
        }
        self.grow(exponent_above(min.abs().max(max.abs())));
        // Exact: a multiplication by a power of two.
        let steps = 2f32.powi(11 - self.exponent);
        let Parts { every, skip } = *parts;
        let (mut counted, mut zeros) = (0, 0);
        for &value in values.iter().skip(skip).step_by(every) {
            self.counts[bin(value, steps)] += every as u64;
            zeros += u64::from(value == 0.0);
            counted += 1;
        }
        self.zeros += zeros * every as u64;
        self.total += counted * every as u64;
        parts.skip = (skip + counted as usize * every).saturating_sub(values.len());
    }

    fn grow(&mut self, exponent: i32) {
        if self.total == 0 {
            self.exponent = self.exponent.max(exponent);
        }
        while self.exponent < exponent {
            let mut merged = vec![0; BINS];
            for (bin, &count) in self.counts.iter().enumerate() {
                merged[BINS / 4 + bin / 2] += count;
            }
            self.counts = merged;
            self.exponent += 1;
        }
    }

    /// Smallest and largest value; `None` before the first.
    pub fn range(&self) -> Option<Range> {
        self.range
    }

    /// The range that holds `share` of the values, as much cut off above as below; within [`Histogram::range`].
    pub fn percentile(&self, share: f64) -> Option<Range> {
        let range = self.sound()?;
        let outside = ((1.0 - share.clamp(0.0, 1.0)) / 2.0 * self.total as f64) as u64;
        let mut seen = [0, 0];
        let mut beyond = |end: usize, bin: &usize| {
            seen[end] += self.counts[*bin];
            seen[end] > outside
        };
        let low = (0..BINS).find(|bin| beyond(0, bin)).unwrap_or(0);
        let high = (0..BINS).rev().find(|bin| beyond(1, bin)).unwrap_or(BINS - 1);
        Some(Range {
            min: range.min.max(self.edge(low) as f32),
            max: range.max.min(self.edge(high + 1) as f32),
        })
    }

    /// The range whose 8-bit form has the least squared error over the values: clipping the ends makes the steps of
    /// all others finer.
    pub fn least_error(&self, activations: Activations) -> Option<Range> {
        let range = self.sound()?;
        let (mut low, mut high) = (f64::from(range.min).min(0.0), f64::from(range.max).max(0.0));
        // One end after the other, twice: they hardly depend on each other.
        for _ in 0..2 {
            high *= Self::best_share(|share| self.error(low, high * share, activations));
            low *= Self::best_share(|share| self.error(low * share, high, activations));
        }
        Some(Range {
            min: (low as f32).max(range.min),
            max: (high as f32).min(range.max),
        })
    }

    /// The share, from 1 down, with the least error.
    fn best_share(error: impl Fn(f64) -> f64) -> f64 {
        let mut best = (f64::INFINITY, 1.0);
        for step in 0..CLIPS {
            let share = 1.0 - f64::from(step) / f64::from(CLIPS);
            let error = error(share);
            if error < best.0 {
                best = (error, share);
            }
        }
        best.1
    }

    /// Squared error of all values when those beyond `low..high` are clipped and the others rounded.
    fn error(&self, low: f64, high: f64, activations: Activations) -> f64 {
        let step = match activations {
            Activations::U8Asymmetric => (high - low) / 255.0,
            Activations::S8Symmetric => high.max(-low) / 127.0,
        };
        let rounding = step * step / 12.0;
        let mut error = -(self.zeros as f64) * rounding;
        for (bin, &count) in self.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let center = (self.edge(bin) + self.edge(bin + 1)) / 2.0;
            let clipped = center - center.clamp(low, high);
            error += count as f64 * (rounding + clipped * clipped);
        }
        error
    }

    fn sound(&self) -> Option<Range> {
        self.range
            .filter(|range| range.min.is_finite() && range.max.is_finite())
    }

    /// The lower edge of a bin.
    fn edge(&self, bin: usize) -> f64 {
        (bin as f64 - f64::from(HALF)) * 2f64.powi(self.exponent - 11)
    }
}

/// Extremes (NaN as in [`Histogram::observe`]) and sum of some values in one pass; `None` without values.
///
/// Sixteen running sums, so that the compiler can use wide registers and the order is still fixed; in f32 over some
/// thousand values, whose rounding is below a millionth of their size.
pub fn survey(values: &[f32]) -> Option<(Range, f64)> {
    const LANES: usize = 16;
    let first = *values.first()?;
    let (mut low, mut high, mut total) = ([first; LANES], [first; LANES], 0.0f64);
    for block in values.chunks(256 * LANES) {
        let (chunks, rest) = block.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                let value = chunk[lane];
                low[lane] = if value < low[lane] { value } else { low[lane] };
                high[lane] = if value > high[lane] { value } else { high[lane] };
                sums[lane] += value;
            }
        }
        for &value in rest {
            low[0] = if value < low[0] { value } else { low[0] };
            high[0] = if value > high[0] { value } else { high[0] };
            total += f64::from(value);
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    if !total.is_finite() {
        // NaN, infinity, or only sums that f32 does not hold.
        return Some((
            extremes(values)?,
            values.iter().map(|&value| f64::from(value)).sum(),
        ));
    }
    let least = |a: f32, b: f32| if b < a { b } else { a };
    let most = |a: f32, b: f32| if b > a { b } else { a };
    let range = Range {
        min: low.into_iter().fold(first, least),
        max: high.into_iter().fold(first, most),
    };
    Some((range, total))
}

/// The bin of a value, which rounds down; `steps` bins per unit.
fn bin(value: f32, steps: f32) -> usize {
    let scaled = value * steps;
    let cut = scaled as i32;
    let floor = cut - i32::from(cut as f32 > scaled);
    (floor + HALF).clamp(0, BINS as i32 - 1) as usize
}

/// The least k from [`LEAST_EXPONENT`] on with `magnitude < 2^k`.
fn exponent_above(magnitude: f32) -> i32 {
    let exponent = (magnitude.to_bits() >> 23) as i32 - 126;
    exponent.max(LEAST_EXPONENT)
}

/// Smallest and largest value, NaN for both when one is NaN or infinite; `None` without values.
pub(crate) fn extremes(values: &[f32]) -> Option<Range> {
    const LANES: usize = 16;
    let first = *values.first()?;
    let (mut low, mut high, mut odd) = ([first; LANES], [first; LANES], [0.0f32; LANES]);
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = chunk[lane];
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
            // 0 for numbers, NaN for the rest.
            odd[lane] += value * 0.0;
        }
    }
    let (mut min, mut max, mut sum) = (first, first, 0.0);
    for lane in 0..LANES {
        min = if low[lane] < min { low[lane] } else { min };
        max = if high[lane] > max { high[lane] } else { max };
        sum += odd[lane];
    }
    for &value in rest {
        min = if value < min { value } else { min };
        max = if value > max { value } else { max };
        sum += value * 0.0;
    }
    match sum.is_nan() {
        true => Some(Range {
            min: f32::NAN,
            max: f32::NAN,
        }),
        false => Some(Range { min, max }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(parts: &[&[f32]]) -> Histogram {
        let mut histogram = Histogram::new();
        parts.iter().for_each(|part| histogram.observe(part));
        histogram
    }

    #[test]
    fn ranges_are_the_extremes() {
        for (values, expected) in [
            (vec![], None),
            (vec![0.0], Some((0.0, 0.0))),
            (vec![-1.5, 0.0, 2.0], Some((-1.5, 2.0))),
            ((0..40).map(|i| i as f32 - 7.0).collect(), Some((-7.0, 32.0))),
        ] {
            let range = of(&[&values]).range();
            assert_eq!(range, expected.map(|(min, max)| Range { min, max }));
        }
        for odd in [f32::NAN, f32::INFINITY] {
            let range = of(&[&[1.0], &[2.0, odd], &[3.0]]).range().unwrap();
            assert!(range.min.is_nan() && range.max.is_nan());
            let mut many = vec![1.0; 40];
            many[20] = odd;
            assert!(extremes(&many).unwrap().max.is_nan());
        }
    }

    #[test]
    fn one_pass_tells_what_two_do() {
        for count in [1, 15, 16, 17, 4095, 4096, 9001] {
            let values: Vec<f32> = (0..count)
                .map(|i| ((i * 7919) % 1013) as f32 / 64.0 - 3.0)
                .collect();
            let (range, sum) = survey(&values).unwrap();
            assert_eq!(Some(range), extremes(&values));
            let exact: f64 = values.iter().map(|&value| f64::from(value)).sum();
            assert!(
                (sum - exact).abs() <= 1e-6 * exact.abs().max(1.0),
                "{count}: {sum} {exact}"
            );
            for odd in [f32::NAN, f32::INFINITY] {
                let mut values = values.clone();
                values[count / 2] = odd;
                assert!(survey(&values).unwrap().0.min.is_nan());
            }
        }
        // A mask of the largest negative number is no infinity, though its sum in f32 is.
        let mask = vec![f32::MIN; 400];
        let (range, sum) = survey(&mask).unwrap();
        assert_eq!((range.min, range.max), (f32::MIN, f32::MIN));
        assert!(sum.is_finite() && sum < 0.0);
        assert_eq!(survey(&[]), None);
    }

    #[test]
    fn large_tensors_are_counted_by_every_nth_value() {
        let values: Vec<f32> = (0..1_000_003).map(|i| (i % 997) as f32 / 997.0).collect();
        let histogram = of(&[&values]);
        let counted: u64 = histogram.counts.iter().sum();
        assert!(counted.abs_diff(values.len() as u64) < 100, "{counted}");
        let range = histogram.percentile(0.9).unwrap();
        assert!(
            (range.min - 0.05).abs() < 5e-3 && (range.max - 0.95).abs() < 5e-3,
            "{range:?}"
        );
    }

    #[test]
    fn parts_count_as_the_whole_does() {
        let values: Vec<f32> = (0..123_457)
            .map(|i| ((i * 7919) % 1013) as f32 / 64.0 - 3.0)
            .collect();
        let mut whole = Histogram::new();
        whole.observe_part(&mut Parts::new(values.len()), &values, extremes(&values).unwrap());
        for length in [1, 3, 100, 5_000, PART, 123_457] {
            let (mut parted, mut parts) = (Histogram::new(), Parts::new(values.len()));
            for part in values.chunks(length) {
                parted.observe_part(&mut parts, part, extremes(part).unwrap());
            }
            assert_eq!(parted, whole, "{length}");
        }
        assert_eq!(of(&[&values]), whole);
    }

    #[test]
    fn percentiles_cut_both_ends() {
        let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10_000.0).collect();
        let range = of(&[&values]).percentile(0.9).unwrap();
        assert!(
            (range.min - 0.05).abs() < 1e-3 && (range.max - 0.95).abs() < 1e-3,
            "{range:?}"
        );
        assert_eq!(of(&[&values]).percentile(1.0), of(&[&values]).range());
    }

    #[test]
    fn an_outlier_is_clipped_when_that_pays() {
        let values: Vec<f32> = (0..10_000).map(|i| (i % 1000) as f32 / 1000.0).collect();
        let mut histogram = of(&[values.as_slice(); 40]);
        let range = histogram.least_error(Activations::U8Asymmetric).unwrap();
        assert!(range.max > 0.95, "{range:?}");
        histogram.observe(&[10.0]);
        let range = histogram.least_error(Activations::U8Asymmetric).unwrap();
        assert!(range.max < 7.5 && range.max >= 1.0, "{range:?}");
    }

    proptest! {
        #[test]
        fn counts_do_not_depend_on_order(
            values in prop::collection::vec(prop_oneof![-1f32..1.0, -1e5f32..1e5, Just(0.0), -1e-30f32..1e-30], 1..60),
            cut in 0usize..60,
        ) {
            let cut = cut.min(values.len());
            let reversed: Vec<f32> = values.iter().rev().copied().collect();
            let whole = of(&[&values]);
            prop_assert_eq!(&of(&[&values[..cut], &values[cut..]]), &whole);
            prop_assert_eq!(&of(&[&reversed]), &whole);
            prop_assert_eq!(whole.counts.iter().sum::<u64>(), values.len() as u64);
            let mse = whole.least_error(Activations::S8Symmetric).unwrap();
            let all = whole.range().unwrap();
            prop_assert!(mse.min >= all.min.min(0.0) && mse.max <= all.max.max(0.0));
        }
    }
}
