//! What a variant must reach, what it lacks, and which of two forms is the better one.

use aiot_onnx::Model;

use super::compare::{Closeness, Latency};
use crate::error::BuildError;

/// A variant that needs more than this many times float's time is refused. Far from 1, since it is measured on the build
/// host: devices with narrower float units gain more from 8 bits (depthwise nets run 1.2 times as long as float here).
const MOST_SLOWDOWN: f64 = 1.5;
/// Float runs shorter than this are not worth a refusal, and not measured well enough for one.
const LEAST_SECONDS: f64 = 2e-4;
/// Files within this factor are equally large, times within the next one equally long.
const SAME_SIZE: f64 = 1.02;
const SAME_TIME: f64 = 1.05;
/// Less than this is no lead, dB.
pub(super) const LEAST_GAIN_DB: f64 = 0.1;

/// Measures how much worse a variant is than float, in the metric's own unit.
pub type MeasureDrop<'a> = dyn Fn(&Model) -> Result<f64, BuildError> + 'a;

/// How good the variant must be.
#[derive(Default)]
pub struct Goal<'a> {
    /// Least signal to noise of the outputs, dB.
    pub target_sqnr_db: Option<f64>,
    /// Largest drop, and what measures it.
    pub max_drop: Option<(f64, &'a MeasureDrop<'a>)>,
    /// Whether it may be slower than float.
    pub allow_slower: bool,
    /// Whether each node's share is wanted even where every goal holds.
    pub show_sensitivities: bool,
}

impl Goal<'_> {
    /// The metric's drop, where one is asked for.
    pub(super) fn measure(&self, model: &Model) -> Result<Option<f64>, BuildError> {
        self.max_drop.map(|(_, measure)| measure(model)).transpose()
    }

    /// What a variant lacks, in words.
    pub(super) fn missing(&self, closeness: Closeness, drop: Option<f64>) -> Option<String> {
        if let Some(target) = self.target_sqnr_db
            && closeness.sqnr_db < target
        {
            return Some(format!(
                "{:.1} dB of the {target} dB asked for",
                closeness.sqnr_db
            ));
        }
        match (self.max_drop, drop) {
            // Metrics are shares of samples: a drop of exactly the limit must not fail by its last bit.
            (Some((max_drop, _)), Some(drop)) if drop > max_drop + 1e-9 => Some(format!(
                "a drop of {drop:.4} against float, {max_drop} is allowed"
            )),
            _ => None,
        }
    }

    /// The refusal of a variant that is clearly slower than float.
    pub(super) fn too_slow(&self, float: Latency, variant: Latency) -> Option<String> {
        let refused = !self.allow_slower && float.seconds >= LEAST_SECONDS && variant.ratio > MOST_SLOWDOWN;
        refused.then(|| {
            format!(
                "it takes {:.2} times as long as float here; if the smaller file is worth that, say so \
                 (quantization.allow-slower = true, or --allow-slower)",
                variant.ratio
            )
        })
    }
}

/// What speaks for a form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merits {
    /// Whether it reaches the goal.
    pub holds: bool,
    /// Closeness to float.
    pub sqnr_db: f64,
    /// Length of the file.
    pub size_bytes: u64,
    /// Its time.
    pub latency: Latency,
}

/// Whether fixed scales are better than scales found at run time, which a recurrent net or a transformer gets
/// otherwise. Beyond the goal, size and time count; closeness decides between equals.
pub(super) fn static_wins(fixed: Merits, dynamic: Merits) -> bool {
    if fixed.holds != dynamic.holds || !fixed.holds {
        // Where neither reaches the goal, fixed scales have nodes that can be left in float.
        return fixed.holds || !dynamic.holds;
    }
    let ratio = fixed.latency.seconds / dynamic.latency.seconds;
    let as_small = fixed.size_bytes as f64 <= dynamic.size_bytes as f64 * SAME_SIZE;
    let closer = fixed.sqnr_db >= dynamic.sqnr_db + LEAST_GAIN_DB;
    as_small && (ratio < 1.0 / SAME_TIME || (ratio <= SAME_TIME && closer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_say_what_is_missing() {
        let closeness = Closeness {
            sqnr_db: 30.0,
            agreement: None,
        };
        let measure = |_: &Model| Ok(0.0);
        for (target_sqnr_db, max_drop, drop, expected) in [
            (None, None, None, None),
            (Some(30.0), None, None, None),
            (Some(35.0), None, None, Some("30.0 dB of the 35 dB asked for")),
            (None, Some(0.01), Some(0.01), None),
            (None, Some(0.01), Some(-0.5), None),
            (
                None,
                Some(0.01),
                Some(0.02),
                Some("a drop of 0.0200 against float, 0.01 is allowed"),
            ),
        ] {
            let goal = Goal {
                target_sqnr_db,
                max_drop: max_drop.map(|most| (most, &measure as &MeasureDrop<'_>)),
                ..Goal::default()
            };
            assert_eq!(goal.missing(closeness, drop).as_deref(), expected);
        }
    }

    fn latency(seconds: f64, ratio: f64) -> Latency {
        Latency { seconds, ratio }
    }

    #[test]
    fn only_what_is_clearly_and_noticeably_slower_is_refused() {
        for (float_seconds, ratio, allow_slower, refused) in [
            (1e-3, 1.6, false, true),
            (1e-3, 1.6, true, false),
            (1e-3, 1.4, false, false),
            (1e-5, 35.0, false, false),
        ] {
            let goal = Goal {
                allow_slower,
                ..Goal::default()
            };
            let told = goal.too_slow(latency(float_seconds, 1.0), latency(float_seconds * ratio, ratio));
            assert_eq!(told.is_some(), refused, "{float_seconds} {ratio}");
        }
    }

    #[test]
    fn fixed_scales_must_be_smaller_or_faster_or_closer() {
        let merits = |holds, sqnr_db, size_bytes, seconds| Merits {
            holds,
            sqnr_db,
            size_bytes,
            latency: latency(seconds, 1.0),
        };
        let dynamic = merits(true, 40.0, 1000, 1.0);
        for (fixed, wins) in [
            (merits(true, 36.0, 1000, 1.0), false),
            (merits(true, 36.0, 1000, 0.8), true),
            (merits(true, 41.0, 1000, 1.0), true),
            (merits(true, 41.0, 3000, 1.0), false),
            (merits(true, 41.0, 1000, 1.2), false),
            (merits(false, 41.0, 500, 0.5), false),
        ] {
            assert_eq!(static_wins(fixed, dynamic), wins, "{fixed:?}");
        }
        let missing = merits(false, 20.0, 1000, 1.0);
        assert!(static_wins(merits(true, 36.0, 3000, 2.0), missing));
        assert!(static_wins(merits(false, 10.0, 3000, 2.0), missing));
    }
}
