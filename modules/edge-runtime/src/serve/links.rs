//! Starts what the pipeline declares: the edge hub, the broker, the webhook, the watched folder, the
//! camera, the recording.

use std::sync::Arc;

use aiot_package::CameraSource;
use tokio::task::JoinHandle;

use super::Service;
use crate::flow::broker::Broker;
use crate::flow::webhook::{self, Webhook};
use crate::flow::{self, directory, intake, replay};
use crate::iotedge::{self, EdgeHub};
use crate::link::{self, Stop};
use crate::log;
use crate::settings::Settings;

/// The tasks, by when they end.
pub(super) struct Links {
    pub(super) sources: Vec<JoinHandle<()>>,
    pub(super) sinks: Vec<JoinHandle<()>>,
}

/// `stop` ends sources, `stop_sinks` ends sinks.
///
/// # Errors
/// What is wrong with the declared values or the files that they name.
pub(super) fn start(
    service: &Arc<Service>,
    settings: &Settings,
    stop: &Stop,
    stop_sinks: &Stop,
) -> Result<Links, String> {
    let mut links = Links {
        sources: Vec::new(),
        sinks: Vec::new(),
    };
    let flow = service.flow();
    let pipeline = flow.pipeline();
    if let Some(edge) = settings.edge.clone() {
        let (hub, channels) = EdgeHub::new(edge, flow.clone());
        let sink = flow.sink(flow::EDGE_HUB);
        let (outbox, state) = match sink {
            Some(sink) => (Some(sink.outbox.clone()), sink.state.clone()),
            None => (None, Arc::default()),
        };
        let inputs = intake::inputs(
            service.clone(),
            channels.inputs,
            channels.work.clone(),
            stop.clone(),
        );
        links.sources.push(tokio::spawn(inputs));
        // Ends with the hub's side, which holds the other ends of its channels.
        tokio::spawn(iotedge::methods::serve(
            service.clone(),
            channels.calls,
            channels.work,
        ));
        links
            .sinks
            .push(tokio::spawn(link::run(hub, outbox, state, stop_sinks.clone())));
    } else {
        log::info("no IOTEDGE_* variables: not under IoT Edge");
    }
    if let (Some(declared), Some(sink)) = (&pipeline.sinks.mqtt, flow.sink(flow::MQTT)) {
        let client_id = format!("{}-{}", service.spec.name, flow.model_name());
        let broker = Broker::new(
            declared.clone(),
            client_id,
            settings.secrets.mqtt_password.clone(),
        );
        let run = link::run(
            broker,
            Some(sink.outbox.clone()),
            sink.state.clone(),
            stop_sinks.clone(),
        );
        links.sinks.push(tokio::spawn(run));
    }
    if let (Some(declared), Some(sink)) = (&pipeline.sinks.webhook, flow.sink(flow::WEBHOOK)) {
        let webhook = Webhook::new(declared, settings.secrets.webhook_authorization.clone())
            .map_err(|error| format!("sinks.webhook: {error}"))?;
        let run = webhook::run(
            webhook,
            sink.outbox.clone(),
            sink.state.clone(),
            stop_sinks.clone(),
        );
        links.sinks.push(tokio::spawn(run));
    }
    if let Some(source) = &pipeline.sources.directory {
        let watch = directory::watch(service.clone(), source.clone(), stop.clone());
        links.sources.push(tokio::spawn(watch));
    }
    if let Some(source) = &pipeline.sources.replay {
        let play = replay::play(service.clone(), source.clone(), stop.clone());
        links.sources.push(tokio::spawn(play));
    }
    if let Some(source) = &pipeline.sources.camera {
        links
            .sources
            .push(watch_camera(service.clone(), source.clone(), stop.clone())?);
    }
    Ok(links)
}

#[cfg(feature = "camera")]
fn watch_camera(service: Arc<Service>, source: CameraSource, stop: Stop) -> Result<JoinHandle<()>, String> {
    Ok(tokio::spawn(flow::camera::watch(service, source, stop)))
}

#[cfg(not(feature = "camera"))]
fn watch_camera(_: Arc<Service>, _: CameraSource, _: Stop) -> Result<JoinHandle<()>, String> {
    Err("sources.camera: this module was built without the feature `camera` of `edge-runtime`".to_owned())
}
