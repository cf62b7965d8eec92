//! From predictions to the sinks that are declared, and what the module says of itself.
//!
//! [`Flow::compose`] makes messages of predictions, [`Flow::deliver`] puts them into each sink's queue (or on
//! stdout); links and the webhook send them on. The tuning of the module's twin is obeyed here. What it does not do:
//! predict, or talk to anybody.

pub(crate) mod broker;
#[cfg(feature = "camera")]
pub(crate) mod camera;
mod capture;
pub(crate) mod directory;
mod drift;
pub(crate) mod intake;
mod message;
pub(crate) mod replay;
mod shadow;
pub(crate) mod tuning;
pub(crate) mod webhook;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aiot_inference::drift::Observation;
use aiot_inference::{Engine, Model, PredictError, Prediction, PredictionResult};
use aiot_package::{Baseline, Pipeline};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::iotedge::EdgeEnvironment;
use crate::link::{LinkState, Message};
use crate::outbox::{Outbox, QueueError};
use crate::serve::Metrics;
use crate::{ModuleSpec, Published, log};
use capture::Capture;
use drift::DriftWatch;
use message::Identity;
pub(crate) use message::{Origin, time_text};
use shadow::ShadowTuning;
pub(crate) use shadow::{Shadow, ShadowSettings};
use tuning::Tuning;

/// Names of sinks, as declared and as the twin switches them.
pub(crate) const EDGE_HUB: &str = "edge-hub";
pub(crate) const MQTT: &str = "mqtt";
pub(crate) const WEBHOOK: &str = "webhook";
const STDOUT: &str = "stdout";

/// Whether the model computes here what it computed in the build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SelfCheck {
    pub(crate) passed: bool,
    /// Golden inputs that were replayed.
    pub(crate) cases: usize,
    /// The first that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// One declared sink with a queue.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) state: Arc<LinkState>,
}

/// What is to be delivered; what is done is taken out.
#[derive(Debug, Default)]
pub(crate) struct Delivery(VecDeque<Step>);

#[derive(Debug)]
enum Step {
    Push(Arc<Outbox>, Vec<u8>),
    Print(Vec<u8>),
}

/// The middle of the module.
#[derive(Debug)]
pub(crate) struct Flow {
    spec: ModuleSpec,
    pipeline: Pipeline,
    identity: Identity,
    /// `model` and `engine` of the report.
    facts: Value,
    model_name: String,
    metrics: Arc<Metrics>,
    sinks: BTreeMap<&'static str, Sink>,
    declared: Tuning,
    tuning: RwLock<Arc<Tuning>>,
    refused: Mutex<BTreeMap<String, String>>,
    self_check: Mutex<SelfCheck>,
    /// Of this process; message ids begin with it.
    instance: u64,
    messages: AtomicU64,
    inputs: AtomicU64,
    drift: DriftWatch,
    capture: Capture,
    shadow: Option<Shadow>,
    started: Instant,
    news: Notify,
}

impl Flow {
    /// Opens the queues of the declared sinks; the edge hub's only with `edge`. `shadow`: the challenger, and the share
    /// of the inputs that it sees.
    pub(crate) fn open(
        spec: ModuleSpec,
        pipeline: Pipeline,
        edge: Option<&EdgeEnvironment>,
        (engine, model): (&Engine, &Model),
        metrics: Arc<Metrics>,
        (self_check, baseline): (SelfCheck, Option<Baseline>),
        shadow: Option<(Shadow, f64)>,
    ) -> Result<Flow, QueueError> {
        let directory = pipeline.queue.directory.as_deref().map(Path::new);
        let max_bytes = u64::from(pipeline.queue.max_mib) << 20;
        let wanted = [
            (EDGE_HUB, edge.is_some() && pipeline.sinks.edge_hub.is_some()),
            (MQTT, pipeline.sinks.mqtt.is_some()),
            (WEBHOOK, pipeline.sinks.webhook.is_some()),
        ];
        let mut sinks = BTreeMap::new();
        for (name, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
            let sink = Sink {
                outbox: Arc::new(Outbox::open(name, directory, max_bytes)?),
                state: Arc::default(),
            };
            sinks.insert(name, sink);
        }
        if directory.is_none() && !sinks.is_empty() {
            log::warn(&format!(
                "PREDICTIONS WAIT IN MEMORY ({} MiB a sink) and are lost when the module ends: declare \
                 `edge.queue.directory` on a volume to keep them",
                pipeline.queue.max_mib
            ));
        }
        let package = model.package();
        let preprocessing_digest = package.input.preprocessing_digest().to_string();
        let facts = json!({
            "model": {
                "name": package.name, "version": package.version, "digest": model.digest().to_string(),
                "precision": package.model.precision, "preprocessingDigest": preprocessing_digest,
            },
            "engine": {
                "name": "onnxruntime", "version": engine.version(), "provider": model.provider_in_use().as_str(),
            },
        });
        let stdout = pipeline.sinks.stdout.map(|_| STDOUT);
        let mut declared = Tuning::new(sinks.keys().copied().chain(stdout).map(str::to_owned));
        declared.drift = pipeline.drift.unwrap_or_default();
        declared.can_capture = pipeline.capture.is_some();
        declared.shadow = shadow.as_ref().map(|(_, share)| ShadowTuning { share: *share });
        let capture = Capture::new(pipeline.capture.clone());
        Ok(Flow {
            spec,
            pipeline,
            identity: Identity {
                device: edge.map(|edge| edge.device.clone()),
                module: edge.map(|edge| edge.module.clone()),
                preprocessing_digest,
            },
            facts,
            model_name: package.name.clone(),
            metrics,
            sinks,
            tuning: RwLock::new(Arc::new(declared.clone())),
            declared,
            refused: Mutex::default(),
            self_check: Mutex::new(self_check),
            instance: crate::link::random_u64(),
            messages: AtomicU64::new(0),
            inputs: AtomicU64::new(0),
            drift: DriftWatch::new(baseline),
            capture,
            shadow: shadow.map(|(shadow, _)| shadow),
            started: Instant::now(),
            news: Notify::new(),
        })
    }

    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    pub(crate) fn sink(&self, name: &str) -> Option<&Sink> {
        self.sinks.get(name)
    }

    pub(crate) fn model_name(&self) -> &str {
        &self.model_name
    }

    pub(crate) fn tuning(&self) -> Arc<Tuning> {
        self.tuning.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts desired properties in force, as far as they are good.
    pub(crate) fn tune(&self, desired: &Map<String, Value>) {
        let old = self.tuning();
        let (tuning, refused) = old.desired(&self.declared, desired);
        for (name, why) in &refused {
            log::error(&format!("desired property `{name}` is refused: {why}"));
        }
        if tuning != *old {
            // Said before the level may forbid it.
            log::info(&format!("settings from the twin: {}", json!(tuning)));
        }
        log::set_level(tuning.log_level);
        self.drift.tuned(&tuning.drift);
        *self.tuning.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tuning);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// Notes the outcome of a self-check; the next report bears it.
    pub(crate) fn checked(&self, check: SelfCheck) {
        *self.self_check.lock().unwrap_or_else(PoisonError::into_inner) = check;
        self.news.notify_one();
    }

    /// Completes when there is something that the twin should be told soon.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Whether this input, for whom nobody waits, is left out by `sampleEvery`.
    pub(crate) fn skips(&self) -> bool {
        let every = u64::from(self.tuning().sample_every);
        !self.inputs.fetch_add(1, Relaxed).is_multiple_of(every)
    }

    /// Predictions for one input, counted for the metrics and the drift watch, judged by the twin's threshold.
    pub(crate) fn predict(&self, model: &Model, bytes: &[u8]) -> Result<Vec<Prediction>, PredictError> {
        self.drift.input(bytes);
        let (mut predictions, observation) = model.predict_observed(bytes)?;
        for prediction in &predictions {
            self.metrics.observe_us(prediction.latency_us);
        }
        if let Some(observation) = observation {
            self.observe(&observation);
        }
        let tuning = self.tuning();
        if let (Some(shadow), Some(tuned)) = (&self.shadow, tuning.shadow) {
            // Before the twin's threshold, which is not the challenger's.
            shadow.see(bytes, &predictions, tuned.share);
        }
        self.retune(&mut predictions);
        self.capture.take(bytes, tuning.capture, || {
            let published = predictions
                .iter()
                .map(|prediction| json!(Published::new(self.spec, prediction, None)));
            json!({
                "predictions": published.collect::<Vec<_>>(), "drifting": self.drifting(),
                "preprocessing_digest": self.identity.preprocessing_digest,
            })
        });
        Ok(predictions)
    }

    /// Counts what the model said of a tensor that a client prepared.
    pub(crate) fn observe(&self, observation: &Observation) {
        if self.drift.observe(observation, &self.tuning().drift) {
            self.news.notify_one();
        }
    }

    /// Keeps the next `count` inputs.
    ///
    /// # Errors
    /// There is no folder for them.
    pub(crate) fn want_captured(&self, count: u32) -> Result<(), &'static str> {
        self.capture.want(count)
    }

    /// Whether inputs drift; `None` where nothing watches that.
    pub(crate) fn drifting(&self) -> Option<bool> {
        self.drift.drifting(&self.tuning().drift)
    }

    /// Judges by the twin's threshold in place of the package's.
    pub(crate) fn retune(&self, predictions: &mut [Prediction]) {
        let Some(tuned) = self.tuning().threshold else {
            return;
        };
        for prediction in predictions {
            match &mut prediction.result {
                PredictionResult::Classification { label, top, .. } => {
                    *label = top
                        .first()
                        .filter(|best| best.probability >= tuned)
                        .map(|best| best.label.clone());
                }
                PredictionResult::Anomaly {
                    score,
                    anomaly,
                    threshold,
                } => {
                    *threshold = tuned;
                    *anomaly = *score > tuned;
                }
                PredictionResult::Regression { .. } => {}
            }
        }
    }

    /// Messages for all sinks that are on.
    pub(crate) fn compose(&self, predictions: &[Prediction], origin: &Origin) -> Delivery {
        let tuning = self.tuning();
        let mut steps = VecDeque::new();
        let prints = self.pipeline.sinks.stdout.is_some() && tuning.is_on(STDOUT);
        let queues: Vec<_> = self.sinks.iter().filter(|(name, _)| tuning.is_on(name)).collect();
        if queues.is_empty() && !prints {
            return Delivery::default();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = time_text(now.as_millis() as u64);
        let drifting = self.drifting();
        for prediction in predictions {
            let number = self.messages.fetch_add(1, Relaxed);
            let id = format!("{:016x}-{number}", self.instance);
            let body = match message::body(
                self.spec,
                &self.identity,
                origin,
                (prediction, drifting),
                &id,
                &time,
            ) {
                Ok(body) => body,
                Err(error) => {
                    log::error(&format!("a prediction cannot be written as JSON: {error}"));
                    continue;
                }
            };
            let bytes = Message {
                id: &id,
                correlation: &origin.message_id,
                body: &body,
            }
            .to_bytes();
            for (_, sink) in &queues {
                steps.push_back(Step::Push(sink.outbox.clone(), bytes.clone()));
            }
            if prints {
                steps.push_back(Step::Print(body));
            }
        }
        Delivery(steps)
    }

    /// Puts messages where they wait for their sinks. When this fails, what is left may be tried again.
    pub(crate) fn deliver(&self, delivery: &mut Delivery) -> Result<(), QueueError> {
        while let Some(step) = delivery.0.front() {
            match step {
                Step::Push(outbox, bytes) => match outbox.push(bytes) {
                    Ok(()) => {}
                    // No later attempt would make it smaller.
                    Err(error @ QueueError::TooLarge { .. }) => log::error(&error.to_string()),
                    Err(error) => return Err(error),
                },
                Step::Print(body) => {
                    let mut stdout = std::io::stdout().lock();
                    // Who reads stdout may go.
                    let _ = stdout.write_all(body).and_then(|()| stdout.write_all(b"\n"));
                }
            }
            delivery.0.pop_front();
        }
        Ok(())
    }

    /// Counts and times since the start.
    pub(crate) fn statistics(&self) -> Value {
        let sinks: Map<String, Value> = self
            .sinks
            .iter()
            .map(|(name, sink)| {
                let state = &sink.state;
                let value = json!({
                    "connected": state.connected.load(Relaxed), "connections": state.connections.load(Relaxed),
                    "sent": state.sent.load(Relaxed), "waiting": sink.outbox.depth(),
                    "dropped": sink.outbox.dropped(), "refused": state.oversized.load(Relaxed),
                });
                ((*name).to_owned(), value)
            })
            .collect();
        json!({
            "uptimeS": self.started.elapsed().as_secs(),
            "inferences": self.metrics.inferences(),
            "errors": self.metrics.errors(),
            "p50Us": self.metrics.quantile_us(0.5),
            "p99Us": self.metrics.quantile_us(0.99),
            "sinks": sinks,
            "capture": self.capture.report(),
        })
    }

    /// The reported properties of the module's twin.
    pub(crate) fn report(&self) -> Value {
        let mut report = self.facts.clone();
        let check = self
            .self_check
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let refused = self
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        report["selfCheck"] = json!({
            // Null removes what an earlier run has said.
            "passed": check.passed, "cases": check.cases, "message": check.message,
        });
        report["settings"] = json!(*self.tuning());
        // A patch is merged: what is refused no more has to be removed as a whole.
        report["refused"] = if refused.is_empty() {
            Value::Null
        } else {
            let text: Vec<String> = refused
                .iter()
                .map(|(name, why)| format!("{name}: {why}"))
                .collect();
            text.join("; ").into()
        };
        report["statistics"] = self.statistics();
        report["drift"] = self.drift.report(&self.tuning().drift);
        let share = self.tuning().shadow.map_or(0.0, |tuned| tuned.share);
        report["shadow"] = self
            .shadow
            .as_ref()
            .map_or(Value::Null, |shadow| shadow.report(share));
        report
    }

    /// Gauges and counters of the sinks, as Prometheus reads them.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        use std::fmt::Write;
        self.drift.write_metrics(out);
        if let Some(shadow) = &self.shadow {
            shadow.write_metrics(out);
        }
        type Read = fn(&Sink) -> u64;
        let kinds: [(&str, &str, &str, Read); 4] = [
            (
                "aiot_queue_messages",
                "gauge",
                "Messages that wait for a sink.",
                |sink| sink.outbox.depth(),
            ),
            (
                "aiot_queue_dropped_total",
                "counter",
                "Messages dropped at the bound of a queue.",
                |sink| sink.outbox.dropped(),
            ),
            (
                "aiot_messages_sent_total",
                "counter",
                "Messages that a sink has confirmed.",
                |sink| sink.state.sent.load(Relaxed),
            ),
            (
                "aiot_sink_connected",
                "gauge",
                "Whether the sink is connected.",
                |sink| sink.state.connected.load(Relaxed).into(),
            ),
        ];
        if self.sinks.is_empty() {
            return;
        }
        for (name, kind, help, read) in kinds {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (sink, state) in &self.sinks {
                let _ = writeln!(out, "{name}{{sink=\"{sink}\"}} {}", read(state));
            }
        }
    }
}
