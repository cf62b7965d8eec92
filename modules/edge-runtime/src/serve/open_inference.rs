//! Messages of the Open Inference Protocol, version 2, in JSON, for one model with one FP32 input.
//!
//! Source: the Open Inference Protocol's `inference_rest.md`.

use std::time::Instant;

use aiot_inference::{Model, PredictError, Tensor, TensorSpec};
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::metrics::Metrics;
use super::tensor_data::TensorData;
use crate::flow::Flow;

/// The only element type that models here take and give.
const FP32: &str = "FP32";

/// Answer to `GET /v2/models/{name}`.
#[derive(Debug, Serialize)]
pub(crate) struct Metadata {
    name: String,
    versions: [String; 1],
    platform: &'static str,
    inputs: [TensorMetadata; 1],
    outputs: Vec<TensorMetadata>,
}

#[derive(Debug, Serialize)]
struct TensorMetadata {
    name: String,
    datatype: &'static str,
    /// -1 where the graph leaves a length open.
    shape: Vec<i64>,
}

#[derive(Debug, Deserialize)]
struct InferRequest {
    id: Option<String>,
    inputs: Vec<InferInput>,
    #[serde(default)]
    outputs: Vec<RequestedOutput>,
}

#[derive(Debug, Deserialize)]
struct InferInput {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    data: TensorData,
}

#[derive(Debug, Deserialize)]
struct RequestedOutput {
    name: String,
}

/// Answer to `POST /v2/models/{name}/infer`.
#[derive(Debug, Serialize)]
pub(crate) struct InferResponse {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<InferOutput>,
}

#[derive(Debug, Serialize)]
struct InferOutput {
    name: String,
    datatype: &'static str,
    shape: Vec<usize>,
    data: Vec<f32>,
}

pub(crate) fn metadata(model: &Model) -> Metadata {
    let tensor = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: FP32,
        shape: spec
            .shape
            .iter()
            .map(|length| length.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1))
            .collect(),
    };
    Metadata {
        name: model.package().name.clone(),
        versions: [model.package().version.clone()],
        platform: "onnxruntime_onnx",
        inputs: [tensor(model.input())],
        outputs: model.outputs().iter().map(tensor).collect(),
    }
}

pub(crate) fn infer(
    model: &Model,
    metrics: &Metrics,
    flow: &Flow,
    body: &[u8],
) -> Result<InferResponse, Refusal> {
    let request: InferRequest = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the request is malformed: {error}")))?;
    for requested in &request.outputs {
        if !model.outputs().iter().any(|output| output.name == requested.name) {
            return Err(Refusal::bad_request(format!(
                "the model has no output `{}`",
                requested.name
            )));
        }
    }
    let tensor = input(model, request.inputs)?;
    let started = Instant::now();
    let mut computed = model.run(&tensor).map_err(PredictError::from)?;
    metrics.observe_us(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    flow.observe(&model.observe_outputs(&tensor, &computed)?);
    let mut outputs = Vec::new();
    for spec in model.outputs() {
        let wanted =
            request.outputs.is_empty() || request.outputs.iter().any(|output| output.name == spec.name);
        let Some(tensor) = computed.remove(&spec.name).filter(|_| wanted) else {
            continue;
        };
        if tensor.values().iter().any(|value| !value.is_finite()) {
            return Err(Refusal::failed("the model computed NaN or infinity"));
        }
        let shape = tensor.shape().to_vec();
        outputs.push(InferOutput {
            name: spec.name.clone(),
            datatype: FP32,
            shape,
            data: tensor.into_values(),
        });
    }
    let package = model.package();
    Ok(InferResponse {
        model_name: package.name.clone(),
        model_version: package.version.clone(),
        id: request.id,
        outputs,
    })
}

fn input(model: &Model, inputs: Vec<InferInput>) -> Result<Tensor, Refusal> {
    let count = inputs.len();
    let [input] = <[InferInput; 1]>::try_from(inputs)
        .map_err(|_| Refusal::bad_request(format!("exactly one input is wanted, {count} were sent")))?;
    let spec = model.input();
    if input.name != spec.name {
        return Err(Refusal::bad_request(format!(
            "the model's input is `{}`, not `{}`",
            spec.name, input.name
        )));
    }
    if input.datatype != FP32 {
        return Err(Refusal::bad_request(format!(
            "the datatype is FP32, not `{}`",
            input.datatype
        )));
    }
    let wanted = model.input_shape();
    if input.shape != wanted {
        return Err(Refusal::bad_request(format!(
            "the shape is {wanted:?}, not {:?}",
            input.shape
        )));
    }
    let values = input
        .data
        .into_values(&input.shape)
        .map_err(Refusal::bad_request)?;
    Tensor::new(input.shape, values).map_err(|error| Refusal::bad_request(error.to_string()))
}
