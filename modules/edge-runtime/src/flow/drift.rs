//! The drift watch of a running module: counts, verdicts, and inputs that repeat, for the twin and for Prometheus.
//! What is counted and how it is judged is `aiot_inference::drift`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aiot_inference::drift::{Observation, Watch};
use aiot_package::{Baseline, DriftSpec};
use serde_json::{Map, Value, json};

use crate::log;

/// Inputs with the same bytes, one after the other, that make a source a stuck one.
const STUCK_AFTER: u64 = 20;

/// The last input, and how often it came.
#[derive(Debug, Default)]
struct Repeats {
    last: Option<(u32, usize)>,
    /// Times in a row that the last input came again.
    row: u64,
    total: u64,
}

/// Counters behind a lock that is held for additions only.
#[derive(Debug)]
pub(super) struct DriftWatch {
    watch: Option<Mutex<Watch>>,
    repeats: Mutex<Repeats>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DriftWatch {
    pub(super) fn new(baseline: Option<Baseline>) -> DriftWatch {
        DriftWatch {
            watch: baseline.map(|baseline| Mutex::new(Watch::new(baseline))),
            repeats: Mutex::default(),
        }
    }

    /// Notes an input's bytes.
    pub(super) fn input(&self, bytes: &[u8]) {
        // A camera that gives the very same frame is stuck; a checksum is enough to see that.
        let seen = Some((crc32fast::hash(bytes), bytes.len()));
        let mut repeats = lock(&self.repeats);
        if repeats.last != seen {
            repeats.last = seen;
            repeats.row = 0;
            return;
        }
        repeats.total += 1;
        repeats.row += 1;
        if repeats.row + 1 == STUCK_AFTER {
            log::warn(&format!(
                "the same input came {STUCK_AFTER} times in a row: is its source stuck?"
            ));
        }
    }

    /// Counts one picture or recording; whether the module has begun or ceased to drift.
    pub(super) fn observe(&self, observation: &Observation, settings: &DriftSpec) -> bool {
        let Some(watch) = self.watch.as_ref().filter(|_| settings.enabled) else {
            return false;
        };
        let mut watch = lock(watch);
        let before = watch.drifting();
        if !watch.observe(observation, settings) || watch.drifting() == before {
            return false;
        }
        if before {
            log::info("inputs look like the evaluation set again");
        } else {
            let what: Vec<String> = watch
                .statistics()
                .filter_map(|(name, judged, _)| Some((name, judged?)))
                .filter(|(_, judged)| judged.windows >= settings.windows)
                .map(|(name, judged)| format!("{name} ({:.2}, limit {:.2})", judged.index, judged.limit))
                .collect();
            log::warn(&format!(
                "inputs drift from the evaluation set: {}",
                what.join(", ")
            ));
        }
        true
    }

    /// What was counted is forgotten when the watch is switched off.
    pub(super) fn tuned(&self, settings: &DriftSpec) {
        if let Some(watch) = self.watch.as_ref().filter(|_| !settings.enabled) {
            lock(watch).pause();
        }
    }

    pub(super) fn drifting(&self, settings: &DriftSpec) -> Option<bool> {
        let watch = self.watch.as_ref().filter(|_| settings.enabled)?;
        Some(lock(watch).drifting())
    }

    /// The reported property `drift`; null where the package has no baseline. A patch is merged, so every key is there
    /// each time.
    pub(super) fn report(&self, settings: &DriftSpec) -> Value {
        let Some(watch) = &self.watch else {
            return Value::Null;
        };
        let (stuck, repeated) = self.repeated();
        let watch = lock(watch);
        let (windows, with_drift) = watch.windows();
        let (mut psi, mut counts, mut differing) = (Map::new(), Map::new(), Vec::new());
        for (name, judged, totals) in watch.statistics() {
            // Rounded: a twin is read by people, and what is to be added up are the counts.
            let index = judged.map(|judged| (judged.index * 1000.0).round() / 1000.0);
            psi.insert(name.to_owned(), json!(index));
            counts.insert(name.to_owned(), json!(totals));
            if judged.is_some_and(|judged| judged.windows > 0) {
                differing.push(name.to_owned());
            }
        }
        json!({
            "enabled": settings.enabled, "drifting": watch.drifting(), "differing": differing,
            "windows": windows, "windowsWithDrift": with_drift, "psi": psi, "counts": counts,
            "repeatedInputs": repeated, "stuck": stuck,
        })
    }

    fn repeated(&self) -> (bool, u64) {
        let repeats = lock(&self.repeats);
        (repeats.row + 1 >= STUCK_AFTER, repeats.total)
    }

    pub(super) fn write_metrics(&self, out: &mut String) {
        let (stuck, repeated) = self.repeated();
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        one(
            "aiot_repeated_inputs_total",
            "counter",
            "Inputs with the same bytes as the one before.",
            repeated,
        );
        one(
            "aiot_input_stuck",
            "gauge",
            "Whether the same input comes again and again.",
            stuck.into(),
        );
        let Some(watch) = &self.watch else { return };
        let watch = lock(watch);
        let (windows, with_drift) = watch.windows();
        one(
            "aiot_drifting",
            "gauge",
            "Whether inputs drift from the evaluation set.",
            watch.drifting().into(),
        );
        one(
            "aiot_drift_windows_total",
            "counter",
            "Windows that were compared with the evaluation set.",
            windows,
        );
        one(
            "aiot_drift_windows_with_drift_total",
            "counter",
            "Of these, windows in which a statistic differed.",
            with_drift,
        );
        let mut lines: BTreeMap<(&str, &str, &str), Vec<String>> = BTreeMap::new();
        for (statistic, judged, totals) in watch.statistics() {
            let statistic = crate::serve::escaped(statistic);
            let count = |(bin, count): (usize, &u64)| {
                format!("aiot_drift_observations_total{{statistic=\"{statistic}\",bin=\"{bin}\"}} {count}")
            };
            lines
                .entry((
                    "aiot_drift_observations_total",
                    "counter",
                    "Observations per bin of the baseline.",
                ))
                .or_default()
                .extend(totals.iter().enumerate().map(count));
            let Some(judged) = judged else { continue };
            for (name, help, value) in [
                (
                    "aiot_drift_psi",
                    "Population stability index of the last window.",
                    judged.index,
                ),
                (
                    "aiot_drift_psi_limit",
                    "What it may be by chance, or the floor.",
                    judged.limit,
                ),
            ] {
                let line = format!("{name}{{statistic=\"{statistic}\"}} {value}");
                lines.entry((name, "gauge", help)).or_default().push(line);
            }
        }
        for ((name, kind, help), lines) in lines {
            let _ = writeln!(
                out,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{}",
                lines.join("\n")
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_repeats_itself_is_stuck() {
        let watch = DriftWatch::new(None);
        for n in 0..STUCK_AFTER {
            assert_eq!(watch.repeated(), (false, n.saturating_sub(1)), "{n}");
            watch.input(b"frame");
        }
        assert_eq!(watch.repeated(), (true, STUCK_AFTER - 1));
        watch.input(b"another");
        assert_eq!(watch.repeated(), (false, STUCK_AFTER - 1));
        assert_eq!(watch.report(&DriftSpec::default()), Value::Null);
    }
}
