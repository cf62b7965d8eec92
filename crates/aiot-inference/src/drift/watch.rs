//! Counting inputs into the baseline's bins, and judging them window by window.
//!
//! A statistic differs when its population stability index is above the floor and above what χ² allows for so many
//! observations on both sides: `quantile(bins - 1, alarm rate / statistics) · (1/window + 1/baseline)`. The model
//! drifts while some statistic differed in the last windows in a row. Both limits are needed: "0.1 is drift" alarms in
//! most windows of a hundred and never in a window of ten thousand.

use aiot_package::{Baseline, DriftSpec};

use super::Observation;
use super::psi::{chi_squared_quantile, population_stability_index};

/// A statistic whose window has fewer than this share of the observations is not judged.
const LEAST_SHARE: u32 = 4;

/// What became of one statistic in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Population stability index against the baseline.
    pub index: f64,
    /// What it may be by chance, or the floor.
    pub limit: f64,
    /// Windows in a row in which it was above.
    pub windows: u32,
}

/// A package's counters.
#[derive(Clone, Debug)]
pub struct Watch {
    baseline: Baseline,
    /// Observations in the window so far, and their bins.
    seen: u32,
    window: Vec<Vec<u32>>,
    /// Since the start.
    totals: Vec<Vec<u64>>,
    /// The last complete window; `None` where a statistic could not be judged.
    judged: Vec<Option<Judged>>,
    windows: u64,
    windows_with_drift: u64,
    drifting: bool,
}

impl Watch {
    /// Nothing counted yet. The baseline has been checked ([`Baseline::problem`]).
    pub fn new(baseline: Baseline) -> Watch {
        let zeros = |statistic: &aiot_package::Statistic| vec![0; statistic.counts.len()];
        Watch {
            seen: 0,
            window: baseline.statistics.iter().map(zeros).collect(),
            totals: baseline
                .statistics
                .iter()
                .map(|s| vec![0; s.counts.len()])
                .collect(),
            judged: vec![None; baseline.statistics.len()],
            windows: 0,
            windows_with_drift: 0,
            drifting: false,
            baseline,
        }
    }

    /// Counts one picture or recording; whether that ended a window of observations.
    pub fn observe(&mut self, observation: &Observation, settings: &DriftSpec) -> bool {
        for (index, statistic) in self.baseline.statistics.iter().enumerate() {
            let value = observation.0.get(index).copied().flatten();
            if let Some(bin) = value.and_then(|value| statistic.bins.of(value)) {
                self.window[index][bin] += 1;
                self.totals[index][bin] += 1;
            }
        }
        self.seen += 1;
        if self.seen < settings.window {
            return false;
        }
        self.judge(settings);
        true
    }

    /// Forgets the window that is being counted and what was judged; the totals stay.
    pub fn pause(&mut self) {
        self.seen = 0;
        self.window.iter_mut().for_each(|counts| counts.fill(0));
        self.judged.fill(None);
        self.drifting = false;
    }

    fn judge(&mut self, settings: &DriftSpec) {
        let tail = settings.alarm_rate / self.baseline.statistics.len().max(1) as f64;
        for (index, statistic) in self.baseline.statistics.iter().enumerate() {
            let counts = &self.window[index];
            let (before, now): (u32, u32) = (statistic.counts.iter().sum(), counts.iter().sum());
            let enough = now >= settings.window / LEAST_SHARE;
            let psi = population_stability_index(&statistic.counts, counts).filter(|_| enough);
            self.judged[index] = psi.map(|psi| {
                let noise = 1.0 / f64::from(before) + 1.0 / f64::from(now);
                let limit = settings
                    .floor
                    .max(chi_squared_quantile(counts.len() - 1, tail) * noise);
                let earlier = self.judged[index].as_ref().map_or(0, |judged| judged.windows);
                Judged {
                    index: psi,
                    limit,
                    windows: if psi > limit { earlier.saturating_add(1) } else { 0 },
                }
            });
        }
        self.windows += 1;
        self.windows_with_drift += u64::from(self.longest() >= 1);
        self.drifting = self.longest() >= settings.windows;
        self.seen = 0;
        self.window.iter_mut().for_each(|counts| counts.fill(0));
    }

    fn longest(&self) -> u32 {
        self.judged
            .iter()
            .flatten()
            .map(|judged| judged.windows)
            .max()
            .unwrap_or(0)
    }

    /// Whether a statistic differed in enough windows in a row.
    pub fn drifting(&self) -> bool {
        self.drifting
    }

    /// Complete windows, and those of them in which a statistic differed.
    pub fn windows(&self) -> (u64, u64) {
        (self.windows, self.windows_with_drift)
    }

    /// Name, verdict of the last complete window, and counts since the start, of each statistic.
    pub fn statistics(&self) -> impl Iterator<Item = (&str, Option<&Judged>, &[u64])> {
        let names = self
            .baseline
            .statistics
            .iter()
            .map(|statistic| statistic.name.as_str());
        let rest = self.judged.iter().zip(&self.totals);
        names
            .zip(rest)
            .map(|(name, (judged, totals))| (name, judged.as_ref(), totals.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use aiot_package::{BASELINE_FORMAT_VERSION, Bins, Statistic};

    use super::*;

    /// A generator of numbers that are the same in each run (xorshift64*).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
        }
    }

    /// `statistics` of ten bins, each counted from `size` draws.
    fn baseline(numbers: &mut Numbers, statistics: usize, size: u32) -> Baseline {
        let statistic = |index| {
            let mut counts = vec![0; 10];
            (0..size).for_each(|_| counts[numbers.below(10) as usize] += 1);
            Statistic {
                name: format!("s{index}"),
                bins: Bins::Edges((1..10).map(f64::from).collect()),
                counts,
            }
        };
        Baseline {
            format_version: BASELINE_FORMAT_VERSION,
            statistics: (0..statistics).map(statistic).collect(),
        }
    }

    #[test]
    fn false_alarms_are_as_rare_as_declared() {
        let settings = DriftSpec {
            window: 100,
            floor: 0.0,
            alarm_rate: 0.05,
            ..DriftSpec::default()
        };
        let mut numbers = Numbers(7);
        let (mut alarms, mut windows) = (0, 0);
        for _ in 0..40 {
            let mut watch = Watch::new(baseline(&mut numbers, 6, 400));
            while watch.windows().0 < 50 {
                let drawn = (0..6).map(|_| Some(numbers.below(10) as f64 + 0.5)).collect();
                watch.observe(&Observation(drawn), &settings);
            }
            alarms += watch.windows().1;
            windows += watch.windows().0;
        }
        // 2000 windows at 5 %: 100 expected. The halves added to each bin keep it below; it must not be blind either.
        assert_eq!(windows, 2000);
        assert!((20..=130).contains(&alarms), "{alarms}");
    }

    #[test]
    fn a_shift_is_drift_after_two_windows_and_ends_with_it() {
        let settings = DriftSpec {
            window: 200,
            ..DriftSpec::default()
        };
        let mut numbers = Numbers(3);
        let mut watch = Watch::new(baseline(&mut numbers, 2, 400));
        let mut window = |watch: &mut Watch, bins: u64| {
            for n in 0..200 {
                let values = vec![
                    Some(numbers.below(bins) as f64 + 0.5),
                    Some(numbers.below(10) as f64 + 0.5),
                ];
                assert_eq!(watch.observe(&Observation(values), &settings), n == 199);
            }
            watch.drifting()
        };
        assert!(!window(&mut watch, 10));
        assert!(!window(&mut watch, 5));
        assert!(window(&mut watch, 5));
        let drifted: Vec<_> = watch
            .statistics()
            .filter(|(_, judged, _)| judged.is_some_and(|judged| judged.windows > 0))
            .map(|(name, ..)| name)
            .collect();
        assert_eq!(drifted, ["s0"]);
        assert!(!window(&mut watch, 10));
        assert_eq!(watch.windows(), (4, 2));
        let counted: u64 = watch
            .statistics()
            .map(|(_, _, totals)| totals.iter().sum::<u64>())
            .sum();
        assert_eq!(counted, 2 * 4 * 200);
        window(&mut watch, 5);
        window(&mut watch, 5);
        watch.pause();
        assert!(!watch.drifting());
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let settings = DriftSpec {
            window: 20,
            ..DriftSpec::default()
        };
        let mut watch = Watch::new(baseline(&mut Numbers(1), 2, 400));
        for _ in 0..60 {
            watch.observe(&Observation(vec![None, Some(f64::NAN)]), &settings);
        }
        assert_eq!(watch.windows(), (3, 0));
        assert!(watch.statistics().all(|(_, judged, _)| judged.is_none()));
    }
}
