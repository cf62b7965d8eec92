//! Inputs for which nobody waits: predicted, put into the queues, and only then done with.

use std::sync::Arc;
use std::time::Instant;

use aiot_inference::{Model, PredictError};
use tokio::sync::mpsc;

use super::{Delivery, Origin};
use crate::iotedge::Input;
use crate::link::{Backoff, Stop, Work, stopped_within};
use crate::log;
use crate::serve::{Reason, Service};

/// What became of an input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Its predictions are in the queues, or it is left out.
    Done,
    /// It gives no prediction; why is counted and, if that has not been for a while, logged.
    Refused,
    /// The module ends before it was done.
    Stopped,
}

/// Reads an input on the inference thread, predicts and delivers, however long the queues refuse.
pub(crate) async fn take<Bytes: AsRef<[u8]>>(
    service: &Arc<Service>,
    origin: Origin,
    refusals: &mut log::Seldom,
    stop: &Stop,
    read: impl FnOnce() -> Result<Bytes, PredictError> + Send + 'static,
) -> Taken {
    let flow = service.flow().clone();
    let name = origin.name.clone();
    if flow.skips() {
        return Taken::Done;
    }
    let Ok(place) = service.worker().wait_for_place().await else {
        return Taken::Stopped;
    };
    let work = move |model: &Model, _: &crate::serve::Metrics| {
        let predictions = flow.predict(model, read()?.as_ref())?;
        let mut delivery = flow.compose(&predictions, &origin);
        let delivered = flow.deliver(&mut delivery);
        Ok::<(Delivery, _), PredictError>((delivery, delivered))
    };
    let (mut delivery, mut delivered) = match service.worker().run(place, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            service.metrics().count_error(Reason::of(&error));
            if let Some(untold) = refusals.tell(Instant::now()) {
                log::error(&format!("input `{name}` gives no prediction: {error}{untold}"));
            }
            return Taken::Refused;
        }
        Err(_) => return Taken::Stopped,
    };
    let mut backoff = Backoff::new();
    while let Err(error) = delivered {
        log::error(&format!("predictions cannot be kept, trying again: {error}"));
        if stopped_within(stop, backoff.next_pause()).await {
            return Taken::Stopped;
        }
        delivered = service.flow().deliver(&mut delivery);
    }
    Taken::Done
}

/// Takes the edge hub's inputs one after the other, so that predictions keep their order.
pub(crate) async fn inputs(
    service: Arc<Service>,
    mut inputs: mpsc::Receiver<Input>,
    work: mpsc::Sender<Work>,
    stop: Stop,
) {
    let mut ended = stop.clone();
    let mut refusals = log::Seldom::new();
    loop {
        let input = tokio::select! {
            input = inputs.recv() => input,
            _ = ended.wait_for(|stop| *stop) => return,
        };
        let Some(Input {
            input,
            message_id,
            payload,
            token,
        }) = input
        else {
            return;
        };
        let origin = Origin {
            kind: super::EDGE_HUB,
            name: input,
            message_id,
        };
        match take(&service, origin, &mut refusals, &stop, move || Ok(payload)).await {
            // One that gives no prediction would not give one the next time.
            Taken::Done | Taken::Refused => {}
            // Not acknowledged: it comes again.
            Taken::Stopped => return,
        }
        if work.send(Work::Done(token)).await.is_err() {
            return;
        }
    }
}
