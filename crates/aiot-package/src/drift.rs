//! The drift baseline: how often the evaluation set fell into which bin, per statistic. Written by the build, baked
//! beside the model as [`BASELINE_FILE`], read by the device, which counts its own inputs into the same bins. Plain
//! data; what is measured and how windows are judged is `aiot-inference`'s `drift`.

use serde::{Deserialize, Serialize};

/// The baseline's name in the package. A package without one is served without a drift watch.
pub const BASELINE_FILE: &str = "baseline.json";

/// Rises when a statistic is measured in another way; the device reads this version only.
pub const BASELINE_FORMAT_VERSION: u32 = 1;

/// Statistics that a baseline may have, and bins that one may have.
const MAX_STATISTICS: usize = 128;
const MAX_BINS: usize = 64;

/// Histograms over a model's evaluation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Baseline {
    /// [`BASELINE_FORMAT_VERSION`]
    pub format_version: u32,
    /// In the order in which the code measures them.
    pub statistics: Vec<Statistic>,
}

/// One histogram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Statistic {
    /// As in metrics and in the twin: `class`, `confidence`, `brightness`, `channel-0-mean`, …
    pub name: String,
    /// Which bin a value falls into.
    pub bins: Bins,
    /// Observations of the evaluation set per bin.
    pub counts: Vec<u32>,
}

/// How values fall into bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bins {
    /// Rising inner edges: the bin is the number of edges that are not above the value, so there is one bin more than
    /// edges, and the outer two are open.
    Edges(Vec<f64>),
    /// The bin of each label, in the package's order. Rare labels share the last bin.
    Classes(Vec<u32>),
}

impl Bins {
    /// The bin of `value`; of a label it is the index. `None`: NaN, or no such label.
    pub fn of(&self, value: f64) -> Option<usize> {
        match self {
            Bins::Edges(_) if value.is_nan() => None,
            Bins::Edges(edges) => Some(edges.partition_point(|edge| *edge <= value)),
            // A float's cast saturates, and an index above all labels has no bin.
            Bins::Classes(bins) => bins.get(value as usize).map(|bin| *bin as usize),
        }
    }
}

impl Baseline {
    /// What is wrong with it, in words; `None` when it can be used.
    pub fn problem(&self) -> Option<String> {
        if self.format_version != BASELINE_FORMAT_VERSION {
            return Some(format!(
                "the drift baseline has format version {}; this program reads {BASELINE_FORMAT_VERSION}",
                self.format_version
            ));
        }
        if self.statistics.len() > MAX_STATISTICS {
            return Some(format!(
                "the drift baseline has more than {MAX_STATISTICS} statistics"
            ));
        }
        let fits = |statistic: &Statistic| {
            let count = statistic.counts.len();
            (1..=MAX_BINS).contains(&count)
                && match &statistic.bins {
                    Bins::Edges(edges) => {
                        edges.len() + 1 == count
                            && edges.iter().all(|edge| edge.is_finite())
                            && edges.windows(2).all(|pair| pair[0] < pair[1])
                    }
                    Bins::Classes(bins) => bins.iter().all(|bin| (*bin as usize) < count),
                }
        };
        let wrong = self.statistics.iter().find(|statistic| !fits(statistic))?;
        Some(format!("bins and counts of `{}` do not fit", wrong.name))
    }

    /// How `now`, measured on this machine, contradicts this record; `None` where it does not. Where float arithmetic
    /// differs in the last bits, an observation may fall into the next bin, and an edge between two observations may
    /// move by as little: one observation in a hundred is let pass, and a thousandth of an edge.
    pub fn contradiction(&self, now: &Baseline) -> Option<String> {
        let names = |baseline: &Baseline| -> Vec<String> {
            baseline.statistics.iter().map(|s| s.name.clone()).collect()
        };
        if self.format_version != now.format_version || names(self) != names(now) {
            return Some("the drift baseline has other statistics".to_owned());
        }
        for (old, new) in self.statistics.iter().zip(&now.statistics) {
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * a.abs().max(b.abs()).max(1e-3);
            let same_bins = match (&old.bins, &new.bins) {
                (Bins::Edges(a), Bins::Edges(b)) => {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(*a, *b))
                }
                (a, b) => a == b,
            };
            let total: u32 = old.counts.iter().sum();
            let moved: u32 = old
                .counts
                .iter()
                .zip(&new.counts)
                .map(|(a, b)| a.abs_diff(*b))
                .sum();
            // An observation that moves is missing in one bin and too many in another.
            if !same_bins || old.counts.len() != new.counts.len() || moved > 2 * (total / 100 + 1) {
                return Some(format!(
                    "drift baseline `{}`: recorded {:?} {:?}, here {:?} {:?}",
                    old.name, old.bins, old.counts, new.bins, new.counts
                ));
            }
        }
        None
    }
}

/// `[model.<name>.edge.drift]`: how inputs are compared with the baseline. The module's twin may change all of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DriftSpec {
    /// Whether they are compared at all.
    pub enabled: bool,
    /// Observations (pictures, recordings) that are judged together, 20 to 1 000 000.
    pub window: u32,
    /// Windows in a row that must differ before the module says that it drifts, 1 to 100.
    pub windows: u32,
    /// A population stability index below this never counts, however sure it is; 0 to 10.
    pub floor: f64,
    /// How often a window of unchanged inputs may differ by chance, over all statistics together; 0.000001 to 0.2.
    pub alarm_rate: f64,
}

impl Default for DriftSpec {
    fn default() -> DriftSpec {
        DriftSpec {
            enabled: true,
            window: 500,
            windows: 2,
            floor: 0.1,
            alarm_rate: 0.01,
        }
    }
}

impl DriftSpec {
    /// The first value that is out of its range: its key in `models.toml`, and what is wanted.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !(20..=1_000_000).contains(&self.window) {
            return Some(("window", "a whole number from 20 to 1000000 is wanted"));
        }
        if !(1..=100).contains(&self.windows) {
            return Some(("windows", "a whole number from 1 to 100 is wanted"));
        }
        if !(0.0..=10.0).contains(&self.floor) {
            return Some(("floor", "a number from 0 to 10 is wanted"));
        }
        if !(1e-6..=0.2).contains(&self.alarm_rate) {
            return Some(("alarm-rate", "a number from 0.000001 to 0.2 is wanted"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(bins: Bins, counts: &[u32]) -> Baseline {
        Baseline {
            format_version: BASELINE_FORMAT_VERSION,
            statistics: vec![Statistic {
                name: "s".into(),
                bins,
                counts: counts.to_vec(),
            }],
        }
    }

    #[test]
    fn values_fall_into_bins() {
        let edges = Bins::Edges(vec![1.0, 2.0]);
        for (value, bin) in [
            (-9e9, 0),
            (0.99, 0),
            (1.0, 1),
            (1.99, 1),
            (2.0, 2),
            (f64::INFINITY, 2),
        ] {
            assert_eq!(edges.of(value), Some(bin), "{value}");
        }
        assert_eq!(edges.of(f64::NAN), None);
        let classes = Bins::Classes(vec![0, 2, 1]);
        assert_eq!(
            [0.0, 1.0, 2.0, 3.0].map(|value| classes.of(value)),
            [Some(0), Some(2), Some(1), None]
        );
    }

    #[test]
    fn bins_that_do_not_fit_are_found() {
        assert_eq!(baseline(Bins::Edges(vec![1.0]), &[3, 4]).problem(), None);
        assert_eq!(baseline(Bins::Classes(vec![0, 1]), &[3, 4]).problem(), None);
        for wrong in [
            baseline(Bins::Edges(vec![1.0]), &[3]),
            baseline(Bins::Edges(vec![2.0, 1.0]), &[1, 1, 1]),
            baseline(Bins::Edges(vec![f64::NAN]), &[1, 1]),
            baseline(Bins::Classes(vec![0, 2]), &[1, 1]),
            baseline(Bins::Classes(vec![]), &[]),
            Baseline {
                format_version: 2,
                statistics: vec![],
            },
        ] {
            assert!(wrong.problem().is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn a_last_bit_is_no_contradiction() {
        let old = baseline(Bins::Edges(vec![1.0]), &[50, 50]);
        assert_eq!(
            old.contradiction(&baseline(Bins::Edges(vec![1.0001]), &[49, 51])),
            None
        );
        for other in [
            baseline(Bins::Edges(vec![1.1]), &[50, 50]),
            baseline(Bins::Edges(vec![1.0]), &[40, 60]),
            baseline(Bins::Classes(vec![0, 1]), &[50, 50]),
        ] {
            assert!(old.contradiction(&other).is_some(), "{other:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let good = DriftSpec::default();
        assert_eq!(good.problem(), None);
        for (spec, key) in [
            (DriftSpec { window: 19, ..good }, "window"),
            (DriftSpec { windows: 0, ..good }, "windows"),
            (
                DriftSpec {
                    floor: f64::NAN,
                    ..good
                },
                "floor",
            ),
            (
                DriftSpec {
                    alarm_rate: 0.5,
                    ..good
                },
                "alarm-rate",
            ),
        ] {
            assert_eq!(spec.problem().map(|(key, _)| key), Some(key));
        }
    }
}
