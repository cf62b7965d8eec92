//! The challenger: a second model in the image that sees a share of the inputs, and whose verdicts are compared with
//! those that are published. It is never published itself and never waited for: it runs on a thread of its own, a sample
//! that comes while two others wait is left out, and a challenger that cannot run is reported and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use aiot_inference::{Engine, Model, Prediction, PredictionResult, SessionOptions};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{log, once};

/// Samples that wait for the challenger.
const WAITING: usize = 2;

/// Kinds of disagreement that are told by name; the others are counted together.
const MAX_KINDS: usize = 16;

/// What the image's environment says about its challenger.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShadowSettings {
    /// Folder of its package.
    pub(crate) dir: PathBuf,
    /// Share of the inputs, above 0 and at most 1.
    pub(crate) share: f64,
    /// Difference up to which the values of a regression agree.
    pub(crate) tolerance: f64,
}

/// The part that the twin may change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ShadowTuning {
    /// Share of the inputs, 0 to 1.
    pub(crate) share: f64,
}

/// What the compared models say of one picture or window.
#[derive(Clone, Debug)]
struct Verdict {
    result: PredictionResult,
    window: Option<u32>,
    latency_us: u64,
}

impl Verdict {
    fn of(predictions: &[Prediction]) -> Vec<Verdict> {
        let verdict = |prediction: &Prediction| Verdict {
            result: prediction.result.clone(),
            window: prediction.window,
            latency_us: prediction.latency_us,
        };
        predictions.iter().map(verdict).collect()
    }
}

struct Sample {
    input: Vec<u8>,
    published: Vec<Verdict>,
}

/// Sums since the start.
#[derive(Debug, Default)]
struct Counts {
    compared: u64,
    agreed: u64,
    /// Inputs of which the challenger made nothing.
    failed: u64,
    published_us: u64,
    challenger_us: u64,
    /// By what was published and what the challenger says instead.
    disagreements: BTreeMap<String, u64>,
}

/// The challenger of a running module.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Name, version, digest and precision; null where its package cannot be used.
    model: Value,
    /// Why it does not run.
    problem: Option<String>,
    samples: Option<mpsc::SyncSender<Sample>>,
    counts: Arc<Mutex<Counts>>,
    /// Samples that it had no time for.
    skipped: AtomicU64,
    inputs: AtomicU64,
    seed: u64,
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sample({} bytes)", self.input.len())
    }
}

impl Shadow {
    /// Opens the challenger of `champion`. One that cannot run is told, here and in the twin.
    pub(crate) fn open(
        settings: &ShadowSettings,
        engine: &Engine,
        options: &SessionOptions,
        champion: &Model,
    ) -> Shadow {
        let mut shadow = Shadow {
            model: Value::Null,
            problem: None,
            samples: None,
            counts: Arc::default(),
            skipped: AtomicU64::new(0),
            inputs: AtomicU64::new(0),
            seed: crate::link::random_u64(),
        };
        if let Err(problem) = shadow.start(settings, engine, options, champion) {
            log::error(&format!("the challenger does not run: {problem}"));
            shadow.problem = Some(problem.chars().take(1000).collect());
        }
        shadow
    }

    fn start(
        &mut self,
        settings: &ShadowSettings,
        engine: &Engine,
        options: &SessionOptions,
        champion: &Model,
    ) -> Result<(), String> {
        let model = Model::open(&settings.dir, engine, options).map_err(|error| error.to_string())?;
        let (package, of) = (model.package(), champion.package());
        self.model = json!({
            "name": package.name, "version": package.version, "digest": model.digest().to_string(),
            "precision": package.model.precision,
        });
        if package.task != of.task || package.output.labels != of.output.labels {
            return Err("it answers another question: task or labels differ".to_owned());
        }
        let check = once::self_check(&model, &settings.dir).map_err(|stop| stop.message)?;
        if let Some(message) = check.message {
            return Err(format!("its self-test failed: {message}"));
        }
        log::info(&format!(
            "challenger `{}` {} sees {} % of the inputs and is not published",
            package.name,
            package.version,
            settings.share * 100.0
        ));
        let (sender, samples) = mpsc::sync_channel::<Sample>(WAITING);
        let (counts, tolerance) = (self.counts.clone(), settings.tolerance);
        let run = move || {
            for sample in samples {
                let said = model.predict_bytes(&sample.input);
                let mut counts = lock(&counts);
                match said {
                    Ok(said) => counts.compare(&sample.published, &Verdict::of(&said), tolerance),
                    Err(_) => counts.failed += 1,
                }
            }
        };
        thread::Builder::new()
            .name("challenger".to_owned())
            .spawn(run)
            .map_err(|error| format!("its thread does not start: {error}"))?;
        self.samples = Some(sender);
        Ok(())
    }

    /// Shows the challenger an input with what was said of it, if it is among the `share`.
    pub(super) fn see(&self, input: &[u8], published: &[Prediction], share: f64) {
        let Some(samples) = &self.samples else { return };
        if !self.is_chosen(share) {
            return;
        }
        let sample = Sample {
            input: input.to_vec(),
            published: Verdict::of(published),
        };
        if samples.try_send(sample).is_err() {
            self.skipped.fetch_add(1, Relaxed);
        }
    }

    /// By chance, since every n-th part of a line may be of the same mould.
    fn is_chosen(&self, share: f64) -> bool {
        let number = self.inputs.fetch_add(1, Relaxed);
        // SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
        let mut mixed = self.seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        ((mixed >> 11) as f64) < share * (1u64 << 53) as f64
    }

    /// The reported property `shadow`. A patch is merged, so every key is there each time.
    pub(super) fn report(&self, share: f64) -> Value {
        let counts = lock(&self.counts);
        // Rounded: a twin is read by people.
        let ratio = |part: u64, whole: u64| {
            (whole > 0).then(|| (part as f64 / whole as f64 * 1000.0).round() / 1000.0)
        };
        // A list, the most frequent first: names of properties may not have spaces.
        let mut kinds: Vec<_> = counts.disagreements.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let disagreements: Vec<String> = kinds
            .iter()
            .map(|(kind, count)| format!("{kind}: {count}"))
            .collect();
        json!({
            "model": self.model, "problem": self.problem, "share": share,
            "compared": counts.compared, "agreed": counts.agreed,
            "agreement": ratio(counts.agreed, counts.compared),
            "failed": counts.failed, "skipped": self.skipped.load(Relaxed),
            "latencyRatio": ratio(counts.challenger_us, counts.published_us),
            "disagreements": disagreements,
        })
    }

    pub(super) fn write_metrics(&self, out: &mut String) {
        let counts = lock(&self.counts);
        let text = |key: &str| crate::serve::escaped(self.model[key].as_str().unwrap_or_default());
        let _ = writeln!(
            out,
            "# HELP aiot_shadow_info The challenger.\n# TYPE aiot_shadow_info gauge\n\
             aiot_shadow_info{{model=\"{}\",version=\"{}\",digest=\"{}\"}} {}",
            text("name"),
            text("version"),
            text("digest"),
            u8::from(self.problem.is_none())
        );
        let seconds = |microseconds: u64| (microseconds as f64 / 1e6).to_string();
        for (name, help, value) in [
            (
                "compared",
                "Verdicts that were compared.",
                counts.compared.to_string(),
            ),
            (
                "agreed",
                "Verdicts that were the same.",
                counts.agreed.to_string(),
            ),
            (
                "failures",
                "Inputs of which the challenger made nothing.",
                counts.failed.to_string(),
            ),
            (
                "skipped",
                "Samples that the challenger had no time for.",
                self.skipped.load(Relaxed).to_string(),
            ),
            (
                "seconds",
                "Time of the challenger for what was compared.",
                seconds(counts.challenger_us),
            ),
            (
                "published_seconds",
                "Time of the published model for the same.",
                seconds(counts.published_us),
            ),
        ] {
            let name = format!("aiot_shadow_{name}_total");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
    }
}

impl Counts {
    fn compare(&mut self, published: &[Verdict], challenger: &[Verdict], tolerance: f64) {
        // Recordings are cut alike, which the build has checked.
        for (one, other) in published.iter().zip(challenger) {
            self.compared += 1;
            self.published_us += one.latency_us;
            self.challenger_us += other.latency_us;
            if one.window == other.window && agree(&one.result, &other.result, tolerance) {
                self.agreed += 1;
                continue;
            }
            let kind = format!("{} → {}", word(&one.result), word(&other.result));
            let known = self.disagreements.len() < MAX_KINDS || self.disagreements.contains_key(&kind);
            let kind = if known { kind } else { "others".to_owned() };
            *self.disagreements.entry(kind).or_default() += 1;
        }
        if published.len() != challenger.len() {
            self.failed += 1;
        }
    }
}

/// Whether two verdicts are the same, each by its own package's threshold.
fn agree(one: &PredictionResult, other: &PredictionResult, tolerance: f64) -> bool {
    use PredictionResult::{Anomaly, Classification, Regression};
    match (one, other) {
        (Classification { label: one, .. }, Classification { label: other, .. }) => one == other,
        (Anomaly { anomaly: one, .. }, Anomaly { anomaly: other, .. }) => one == other,
        (Regression { values: one }, Regression { values: other }) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| {
                    let near = |other: &f32| (f64::from(*value) - f64::from(*other)).abs() <= tolerance;
                    other.get(name).is_some_and(near)
                })
        }
        _ => false,
    }
}

fn word(result: &PredictionResult) -> String {
    match result {
        PredictionResult::Classification {
            label: Some(label), ..
        } => label.chars().take(64).collect(),
        PredictionResult::Classification { label: None, .. } => "(below the threshold)".to_owned(),
        PredictionResult::Anomaly { anomaly: true, .. } => "anomaly".to_owned(),
        PredictionResult::Anomaly { anomaly: false, .. } => "normal".to_owned(),
        PredictionResult::Regression { .. } => "values".to_owned(),
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(label: Option<&str>) -> Verdict {
        Verdict {
            result: PredictionResult::Classification {
                label: label.map(str::to_owned),
                confidence: 0.5,
                top: Vec::new(),
            },
            window: None,
            latency_us: 10,
        }
    }

    fn values(value: f32) -> PredictionResult {
        PredictionResult::Regression {
            values: BTreeMap::from([("mm".to_owned(), value)]),
        }
    }

    #[test]
    fn verdicts_are_compared_and_kinds_of_disagreement_are_bounded() {
        let mut counts = Counts::default();
        counts.compare(&[label(Some("ok"))], &[label(Some("ok"))], 0.0);
        counts.compare(&[label(None)], &[label(None)], 0.0);
        for n in 0..40 {
            counts.compare(&[label(Some("ok"))], &[label(Some(&format!("pit {n}")))], 0.0);
        }
        assert_eq!((counts.compared, counts.agreed, counts.failed), (42, 2, 0));
        assert_eq!((counts.published_us, counts.challenger_us), (420, 420));
        assert_eq!(counts.disagreements.len(), MAX_KINDS + 1);
        assert_eq!(counts.disagreements["others"], 40 - MAX_KINDS as u64);
    }

    #[test]
    fn values_agree_within_the_tolerance() {
        for (one, other, tolerance, same) in [
            (1.0, 1.0, 0.0, true),
            (1.0, 1.5, 0.5, true),
            (1.0, 1.5, 0.4, false),
            (1.0, f32::NAN, 10.0, false),
        ] {
            assert_eq!(
                agree(&values(one), &values(other), tolerance),
                same,
                "{one} {other}"
            );
        }
        let anomaly = |anomaly| PredictionResult::Anomaly {
            score: 1.0,
            anomaly,
            threshold: 0.5,
        };
        assert!(agree(&anomaly(true), &anomaly(true), 0.0));
        assert!(!agree(&anomaly(true), &anomaly(false), 0.0));
        assert!(!agree(&anomaly(true), &values(1.0), 0.0));
    }

    #[test]
    fn about_the_share_of_the_inputs_is_chosen() {
        let shadow = Shadow {
            model: Value::Null,
            problem: None,
            samples: None,
            counts: Arc::default(),
            skipped: AtomicU64::new(0),
            inputs: AtomicU64::new(0),
            seed: 7,
        };
        for (share, from, to) in [(0.0, 0, 0), (0.1, 900, 1100), (1.0, 10_000, 10_000)] {
            let chosen = (0..10_000).filter(|_| shadow.is_chosen(share)).count();
            assert!((from..=to).contains(&chosen), "{share}: {chosen}");
        }
    }
}
