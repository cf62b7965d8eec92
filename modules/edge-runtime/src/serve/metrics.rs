//! Counters in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use aiot_inference::preprocess::PrepareError;
use aiot_inference::{Engine, Model, PredictError};
use axum::Router;
use axum::http::header;
use axum::routing::get;

use crate::flow::Flow;

/// Upper bounds of the latency histogram in microseconds.
const BUCKETS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Why a request was not answered with a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    BadRequest,
    /// Bytes that no decoder takes.
    Undecodable,
    /// Too many pixels, too short a recording, another number of channels.
    WrongSize,
    /// NaN or infinity, in the input or in the model's outputs.
    NotFinite,
    TooLarge,
    QueueFull,
    Failed,
}

const REASONS: [(Reason, &str); 7] = [
    (Reason::BadRequest, "bad_request"),
    (Reason::Undecodable, "undecodable"),
    (Reason::WrongSize, "wrong_size"),
    (Reason::NotFinite, "not_finite"),
    (Reason::TooLarge, "too_large"),
    (Reason::QueueFull, "queue_full"),
    (Reason::Failed, "failed"),
];

impl Reason {
    /// What kind of trouble kept an input from being predicted.
    pub(crate) fn of(error: &PredictError) -> Reason {
        match error {
            PredictError::Prepare(error) => match error {
                PrepareError::TooManyPixels { .. }
                | PrepareError::TooElongated { .. }
                | PrepareError::TooShort { .. }
                | PrepareError::TooManyWindows { .. } => Reason::WrongSize,
                PrepareError::NotFinite { .. } => Reason::NotFinite,
                PrepareError::NotAPicture
                | PrepareError::Undecodable { .. }
                | PrepareError::Npy { .. }
                | PrepareError::Csv { .. } => Reason::Undecodable,
            },
            PredictError::NotFinite(_) => Reason::NotFinite,
            PredictError::File(_) | PredictError::Engine(_) => Reason::Failed,
        }
    }
}

/// The module's counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Label values of `aiot_model_info`.
    info: String,
    start_s: f64,
    inferences: AtomicU64,
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS_US.len()],
    errors: [AtomicU64; REASONS.len()],
}

impl Metrics {
    pub(crate) fn new(model: &Model, engine: &Engine) -> Metrics {
        let package = model.package();
        let labels = [
            ("model", package.name.as_str()),
            ("version", &package.version),
            ("digest", &model.digest().to_string()),
            ("precision", package.model.precision.as_str()),
            ("engine_version", engine.version()),
            ("execution_provider", model.provider_in_use().as_str()),
        ];
        let info: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        Metrics {
            info: info.join(","),
            start_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |time| time.as_secs_f64()),
            inferences: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
            buckets: Default::default(),
            errors: Default::default(),
        }
    }

    /// Counts one inference that took `latency_us` microseconds.
    pub(crate) fn observe_us(&self, latency_us: u64) {
        self.inferences.fetch_add(1, Relaxed);
        self.sum_us.fetch_add(latency_us, Relaxed);
        if let Some(bucket) = BUCKETS_US.iter().position(|bound| latency_us <= *bound) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
    }

    /// Counts one refused request.
    pub(crate) fn count_error(&self, reason: Reason) {
        if let Some(index) = REASONS.iter().position(|(known, _)| *known == reason) {
            self.errors[index].fetch_add(1, Relaxed);
        }
    }

    /// Tensors that the model has computed.
    pub(crate) fn inferences(&self) -> u64 {
        self.inferences.load(Relaxed)
    }

    /// Refused requests and inputs by reason; those that never occurred are left out.
    pub(crate) fn errors(&self) -> BTreeMap<&'static str, u64> {
        let counts = REASONS.iter().zip(&self.errors);
        counts
            .map(|((_, reason), count)| (*reason, count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// An upper bound, in microseconds, of the time of the fraction `share` of all inferences: the histogram's
    /// resolution is that of its buckets. 0 before the first inference.
    pub(crate) fn quantile_us(&self, share: f64) -> u64 {
        let count = self.inferences.load(Relaxed);
        if count == 0 {
            return 0;
        }
        let wanted = (count as f64 * share).ceil() as u64;
        let mut below = 0;
        for (bound_us, bucket) in BUCKETS_US.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            if below >= wanted {
                return *bound_us;
            }
        }
        BUCKETS_US[BUCKETS_US.len() - 1]
    }

    fn render(&self, flow: &Flow) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string does not fail");
        flow.write_metrics(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let count = self.inferences.load(Relaxed);
        writeln!(out, "# HELP aiot_model_info The model that this module serves.")?;
        writeln!(out, "# TYPE aiot_model_info gauge")?;
        writeln!(out, "aiot_model_info{{{}}} 1", self.info)?;
        writeln!(
            out,
            "# HELP aiot_inferences_total Tensors that the model has computed."
        )?;
        writeln!(out, "# TYPE aiot_inferences_total counter")?;
        writeln!(out, "aiot_inferences_total {count}")?;
        writeln!(
            out,
            "# HELP aiot_inference_errors_total Requests without a result."
        )?;
        writeln!(out, "# TYPE aiot_inference_errors_total counter")?;
        for ((_, reason), errors) in REASONS.iter().zip(&self.errors) {
            writeln!(
                out,
                "aiot_inference_errors_total{{reason=\"{reason}\"}} {}",
                errors.load(Relaxed)
            )?;
        }
        writeln!(
            out,
            "# HELP aiot_inference_seconds Time of one inference; with preparation where the module prepares."
        )?;
        writeln!(out, "# TYPE aiot_inference_seconds histogram")?;
        let mut below = 0;
        for (bound_us, bucket) in BUCKETS_US.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            writeln!(
                out,
                "aiot_inference_seconds_bucket{{le=\"{}\"}} {below}",
                seconds(*bound_us)
            )?;
        }
        writeln!(
            out,
            "aiot_inference_seconds_bucket{{le=\"+Inf\"}} {}",
            count.max(below)
        )?;
        writeln!(
            out,
            "aiot_inference_seconds_sum {}",
            seconds(self.sum_us.load(Relaxed))
        )?;
        writeln!(out, "aiot_inference_seconds_count {}", count.max(below))?;
        writeln!(
            out,
            "# HELP process_start_time_seconds Start of the process since the Unix epoch."
        )?;
        writeln!(out, "# TYPE process_start_time_seconds gauge")?;
        writeln!(out, "process_start_time_seconds {}", self.start_s)
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// A label value as the text format wants it.
pub(crate) fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// `GET /metrics`.
pub(crate) fn router(metrics: Arc<Metrics>, flow: Arc<Flow>) -> Router {
    let scrape = async move || {
        (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            metrics.render(&flow),
        )
    };
    Router::new().route("/metrics", get(scrape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }

    #[test]
    fn buckets_rise() {
        assert!(BUCKETS_US.is_sorted());
        assert_eq!(seconds(BUCKETS_US[0]).to_string(), "0.0005");
    }
}
