//! `serve`: the HTTP service and the metrics, until SIGTERM.
//!
//! One thread runs the network, one the model. Requests wait in a bounded queue between them; what does not fit is
//! refused with 429, so that memory stays bounded and the sender knows. SIGTERM (or Ctrl-C) makes the service
//! unready, lets the accepted requests finish, and ends with exit code 0.

mod answer;
mod api;
mod metrics;
mod open_inference;
mod tensor_data;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aiot_inference::{Engine, Model};
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::settings::Settings;
use crate::{EXIT_DONE, ModuleSpec, Stop, log};
use metrics::Metrics;
use worker::Worker;

/// How long accepted requests may take after SIGTERM; IoT Edge kills after 10 seconds.
const DRAIN: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Service {
    spec: ModuleSpec,
    model: Arc<Model>,
    worker: Worker,
    metrics: Arc<Metrics>,
    ready: AtomicBool,
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
    let model = Arc::new(model);
    let metrics = Arc::new(Metrics::new(&model, engine));
    let worker = Worker::start(model.clone(), metrics.clone())
        .map_err(|error| Stop::setup(format!("the inference thread does not start: {error}")))?;
    let service = Arc::new(Service {
        spec,
        model,
        worker,
        metrics: metrics.clone(),
        ready: AtomicBool::new(true),
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

    let (stop, stopped) = watch::channel(false);
    let tasks = [
        tokio::spawn(until(http, api::router(service.clone()), stopped.clone())),
        tokio::spawn(until(scrape, metrics::router(metrics), stopped)),
    ];
    std::future::poll_fn(|context| {
        if terminate.poll_recv(context).is_ready() || interrupt.poll_recv(context).is_ready() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    log::info("stopping: accepted requests are finished");
    service.ready.store(false, Ordering::Relaxed);
    let _ = stop.send(true);
    let drained = async {
        for task in tasks {
            let _ = task.await;
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        log::warn(&format!(
            "some requests were not finished within {} seconds",
            DRAIN.as_secs()
        ));
    }
    Ok(EXIT_DONE)
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

async fn until(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let _ = axum::serve(listener, router).with_graceful_shutdown(stop).await;
}
