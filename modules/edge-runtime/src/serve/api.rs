//! The routes of the HTTP service: the Open Inference Protocol (version 2, REST) and `POST /v1/predict`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;

use super::Service;
use super::answer::{Refusal, json, read};
use super::open_inference;
use super::worker::is_small;
use crate::Published;
use crate::flow::Origin;

type Shared = State<Arc<Service>>;

pub(crate) fn router(service: Arc<Service>) -> Router {
    let versioned = "/v2/models/{name}/versions/{version}";
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(async || StatusCode::OK))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(model))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/infer", post(infer))
        .route(versioned, get(model))
        .route(&format!("{versioned}/ready"), get(model_ready))
        .route(&format!("{versioned}/infer"), post(infer))
        .route("/v1/predict", post(predict))
        .fallback(async || Refusal::not_found("there is no such route; GET /v2 describes the service"))
        .with_state(service)
}

/// Which model a path names.
#[derive(serde::Deserialize)]
struct Named {
    name: String,
    version: Option<String>,
}

impl Service {
    fn check(&self, named: &Named) -> Result<(), Refusal> {
        let package = self.model.package();
        if named.name != package.name
            || named
                .version
                .as_ref()
                .is_some_and(|asked| *asked != package.version)
        {
            return Err(Refusal::not_found(format!(
                "this module serves model `{}` version `{}` only",
                package.name, package.version
            )));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Counts refusals; every request for an inference goes through here.
    fn answer(&self, result: Result<Response, Refusal>) -> Response {
        result.unwrap_or_else(|refusal| {
            self.metrics.count_error(refusal.reason);
            refusal.into_response()
        })
    }
}

async fn server(State(service): Shared) -> Response {
    #[derive(Serialize)]
    struct Server {
        name: &'static str,
        version: &'static str,
        extensions: [&'static str; 1],
    }
    let version = env!("CARGO_PKG_VERSION");
    json(
        StatusCode::OK,
        &Server {
            name: service.spec.name,
            version,
            extensions: [open_inference::BINARY_EXTENSION],
        },
    )
}

async fn ready(State(service): Shared) -> StatusCode {
    if service.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn model_ready(State(service): Shared, Path(named): Path<Named>) -> Response {
    match service.check(&named) {
        Ok(()) if service.is_ready() => StatusCode::OK.into_response(),
        Ok(()) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn model(State(service): Shared, Path(named): Path<Named>) -> Response {
    match service.check(&named) {
        Ok(()) => json(StatusCode::OK, &open_inference::metadata(&service.model)),
        Err(refusal) => refusal.into_response(),
    }
}

async fn infer(State(service): Shared, Path(named): Path<Named>, request: Request) -> Response {
    let result = async {
        service.check(&named)?;
        let place = service.worker.place()?;
        let header_bytes = open_inference::header_length(request.headers())?;
        let body = read(request.into_body(), service.patience).await?;
        let (is_small, flow) = (is_small(body.len(), body.len()), service.flow.clone());
        let work = move |model: &aiot_inference::Model, metrics: &super::Metrics| {
            open_inference::infer(model, metrics, &flow, &body, header_bytes)
        };
        service.worker.predict(place, is_small, work).await?
    };
    service.answer(result.await)
}

/// The body is a picture or a recording, as `predict` takes them from files.
async fn predict(State(service): Shared, request: Request) -> Response {
    #[derive(Serialize)]
    struct Predictions<'a> {
        predictions: Vec<Published<'a>>,
    }
    let spec = service.spec;
    let flow = service.flow.clone();
    let result = async {
        let place = service.worker.place()?;
        let body = read(request.into_body(), service.patience).await?;
        let unpacked = service.model.preparation().unpacked_bytes(&body);
        let is_small = is_small(body.len(), unpacked);
        let work = move |model: &aiot_inference::Model, _: &super::Metrics| {
            let predictions = flow.predict(model, &body)?;
            if flow.pipeline().sources.http.is_some() {
                let origin = Origin {
                    kind: "http",
                    name: String::new(),
                    message_id: String::new(),
                };
                let mut delivery = flow.compose(&predictions, &origin);
                // Who asked learns that the sinks did not get it, and may ask again.
                flow.deliver(&mut delivery)
                    .map_err(|error| Refusal::failed(error.to_string()))?;
            }
            let drifting = flow.drifting();
            let published = predictions
                .iter()
                .map(|prediction| Published::new(spec, prediction, drifting));
            Ok::<_, Refusal>(json(
                StatusCode::OK,
                &Predictions {
                    predictions: published.collect(),
                },
            ))
        };
        service.worker.predict(place, is_small, work).await?
    };
    service.answer(result.await)
}
