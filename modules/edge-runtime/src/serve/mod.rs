//! `serve`: the HTTP service, the metrics, and the links to the edge hub and other sinks, until SIGTERM.
//!
//! One thread runs the network, one the model, and one the challenger where there is one. Requests wait in a bounded
//! queue between the first two; who does not fit is refused with 429, so that memory stays bounded and the sender knows. SIGTERM (or Ctrl-C) makes the service
//! unready, lets the accepted requests finish, sends what still waits for the sinks, and ends with exit code 0.

mod answer;
mod api;
mod connections;
mod links;
mod metrics;
mod open_inference;
mod tensor_data;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aiot_inference::model::read_baseline;
use aiot_inference::{Engine, Model, PredictError};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::flow::{Flow, SelfCheck, Shadow};
use crate::settings::Settings;
use crate::{EXIT_DONE, EXIT_SELF_TEST, ModuleSpec, Published, Stop, iotedge, log, once};
pub(crate) use metrics::{Metrics, Reason, escaped};
use worker::Worker;

/// How long accepted requests and inputs may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(3);

/// How long sinks may take after that; IoT Edge kills 10 seconds after SIGTERM.
const SINK_DRAIN: Duration = Duration::from_secs(2);

/// How long a module that must not start tries to say so.
const FAREWELL: Duration = Duration::from_secs(20);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Service {
    spec: ModuleSpec,
    model: Arc<Model>,
    model_dir: PathBuf,
    worker: Worker,
    metrics: Arc<Metrics>,
    flow: Arc<Flow>,
    ready: AtomicBool,
    /// How long a client may be silent in the middle of a request.
    patience: Duration,
}

impl Service {
    pub(crate) fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Replays the golden cases on the inference thread.
    pub(crate) async fn self_check(&self) -> Result<SelfCheck, String> {
        let place = self.worker.place().map_err(|refusal| refusal.message)?;
        let dir = self.model_dir.clone();
        let check = self
            .worker
            .run(place, move |model, _| once::self_check(model, &dir))
            .await;
        let check = check
            .map_err(|refusal| refusal.message)?
            .map_err(|stop| stop.message)?;
        self.flow.checked(check.clone());
        Ok(check)
    }

    /// Predictions for one file's bytes, for who asked: the sinks do not get them. Errors bear an HTTP status.
    pub(crate) async fn predict_once(&self, bytes: Vec<u8>) -> Result<Vec<Value>, (u16, String)> {
        let spec = self.spec;
        let flow = self.flow.clone();
        let place = self.worker.place().map_err(|refusal| (429, refusal.message))?;
        let work = move |model: &Model, metrics: &Metrics| {
            let mut predictions = model.predict_bytes(&bytes)?;
            flow.retune(&mut predictions);
            for prediction in &predictions {
                metrics.observe_us(prediction.latency_us);
            }
            let values = predictions.iter().map(|prediction| {
                serde_json::to_value(Published::new(spec, prediction, None)).unwrap_or_default()
            });
            Ok::<Vec<Value>, PredictError>(values.collect())
        };
        match self.worker.run(place, work).await {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(error @ PredictError::Prepare(_))) => Err((400, error.to_string())),
            Ok(Err(error)) => Err((500, error.to_string())),
            Err(refusal) => Err((refusal.status.as_u16(), refusal.message)),
        }
    }
}

pub(crate) fn serve(
    spec: ModuleSpec,
    settings: &Settings,
    engine: &Engine,
    model: Model,
) -> Result<u8, Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::setup(format!("the network runtime does not start: {error}")))?;
    let code = runtime.block_on(run(spec, settings, engine, model));
    // A request that outlives the drain must not keep the process.
    runtime.shutdown_background();
    code
}

async fn run(spec: ModuleSpec, settings: &Settings, engine: &Engine, model: Model) -> Result<u8, Stop> {
    let metrics = Arc::new(Metrics::new(&model, engine));
    let check = once::self_check(&model, &settings.model_dir)?;
    let baseline = read_baseline(&settings.model_dir, model.package()).map_err(Stop::setup)?;
    if baseline.is_none() {
        log::info("the package has no drift baseline: inputs are not compared with the evaluation set");
    }
    let shadow = settings.shadow.as_ref().filter(|_| check.passed).map(|shadow| {
        let challenger = Shadow::open(shadow, engine, &settings.session, &model);
        (challenger, shadow.share)
    });
    let flow = Flow::open(
        spec,
        settings.pipeline.clone(),
        settings.edge.as_ref(),
        (engine, &model),
        metrics.clone(),
        (check.clone(), baseline),
        shadow,
    );
    let flow = Arc::new(flow.map_err(Stop::setup)?);
    // A service that computes something else than the build must not start, and a roll-out must see it.
    if !check.passed {
        let message = format!("self-test failed: {}", check.message.unwrap_or_default());
        log::error(&message);
        if let Some(edge) = &settings.edge {
            iotedge::report_once(edge.clone(), flow, FAREWELL).await;
        }
        return Err(Stop {
            code: EXIT_SELF_TEST,
            message,
        });
    }
    let model = Arc::new(model);
    let requests = settings.pipeline.requests.unwrap_or_default();
    let worker = Worker::start(model.clone(), metrics.clone(), requests)
        .map_err(|error| Stop::setup(format!("the inference thread does not start: {error}")))?;
    let service = Arc::new(Service {
        spec,
        model,
        model_dir: settings.model_dir.clone(),
        worker,
        metrics: metrics.clone(),
        flow: flow.clone(),
        ready: AtomicBool::new(true),
        patience: settings.http_timeout,
    });

    // Before the addresses are told, or a quick SIGTERM would kill.
    let handler = |kind| signal(kind).map_err(|error| Stop::setup(format!("no signal handler: {error}")));
    let (mut terminate, mut interrupt) = (
        handler(SignalKind::terminate())?,
        handler(SignalKind::interrupt())?,
    );
    let http = listen(settings.http_address, "AIOT_HTTP_ADDRESS").await?;
    let scrape = listen(settings.metrics_address, "AIOT_METRICS_ADDRESS").await?;
    log::info(&format!("serving on {}", address(&http)));
    log::info(&format!("metrics on {}", address(&scrape)));

    // Sources end first, then the sinks, so that what was taken in goes out.
    let (stop, stopped) = watch::channel(false);
    let (stop_sinks, sinks_stopped) = watch::channel(false);
    let links = links::start(&service, settings, &stopped, &sinks_stopped).map_err(Stop::setup)?;
    let mut sources = links.sources;
    sources.push(tokio::spawn(connections::serve(
        http,
        api::router(service.clone()),
        settings.http_timeout,
        stopped.clone(),
    )));
    sources.push(tokio::spawn(connections::serve(
        scrape,
        metrics::router(metrics, flow),
        settings.http_timeout,
        stopped,
    )));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::info("stopping: accepted requests are finished");
    service.ready.store(false, Ordering::Relaxed);
    let _ = stop.send(true);
    if !ended_within(sources, DRAIN).await {
        log::warn(&format!(
            "some requests were not finished within {} seconds",
            DRAIN.as_secs()
        ));
    }
    let _ = stop_sinks.send(true);
    if !ended_within(links.sinks, SINK_DRAIN).await {
        log::warn("a sink did not take everything in time");
    }
    Ok(EXIT_DONE)
}

/// Waits for the tasks; whether all have ended in time.
async fn ended_within(tasks: Vec<tokio::task::JoinHandle<()>>, limit: Duration) -> bool {
    let ended = async {
        for task in tasks {
            let _ = task.await;
        }
    };
    tokio::time::timeout(limit, ended).await.is_ok()
}

async fn listen(address: std::net::SocketAddr, variable: &str) -> Result<TcpListener, Stop> {
    TcpListener::bind(address).await.map_err(|error| {
        Stop::setup(format!(
            "cannot listen on {address}: {error}; set {variable} to another"
        ))
    })
}

fn address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| format!("http://{address}"))
}
