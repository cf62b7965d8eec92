//! Messages of the Open Inference Protocol, version 2, for one model with one FP32 input: JSON, and its extension for
//! tensors as bytes behind the JSON.
//!
//! Source: the Open Inference Protocol's `inference_rest.md` and the binary tensor data extension.

use std::time::Instant;

use aiot_inference::{Model, PredictError, Tensor, TensorSpec};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::answer::{Refusal, json};
use super::metrics::{Metrics, Reason};
use super::tensor_data::TensorData;
use crate::flow::Flow;

/// The only element type that models here take and give.
const FP32: &str = "FP32";

/// The name of the extension in `GET /v2`.
pub(crate) const BINARY_EXTENSION: &str = "binary_tensor_data";

/// How many bytes of a body are JSON; the rest are tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

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
    #[serde(default)]
    parameters: RequestParameters,
}

#[derive(Debug, Default, Deserialize)]
struct RequestParameters {
    /// Whether outputs that do not say so themselves are wanted as bytes.
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Debug, Deserialize)]
struct InferInput {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    data: Option<TensorData>,
    #[serde(default)]
    parameters: InputParameters,
}

#[derive(Debug, Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct RequestedOutput {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Debug, Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
}

/// Answer to `POST /v2/models/{name}/infer`.
#[derive(Debug, Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<InferOutput<'a>>,
}

#[derive(Debug, Serialize)]
struct InferOutput<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<SentParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<f32>>,
}

#[derive(Debug, Serialize)]
struct SentParameters {
    binary_data_size: usize,
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

/// How many bytes of the body are JSON; `None`: all.
pub(crate) fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length
        .map(Some)
        .ok_or_else(|| Refusal::bad_request(format!("the header {HEADER_LENGTH} holds no number of bytes")))
}

/// Runs the model on the tensor of a request body, whose first `json_bytes` are JSON (`None`: all of them).
pub(crate) fn infer(
    model: &Model,
    metrics: &Metrics,
    flow: &Flow,
    body: &[u8],
    json_bytes: Option<usize>,
) -> Result<Response, Refusal> {
    let (json_part, binary) = match json_bytes {
        None => (body, &[][..]),
        Some(length) => body.split_at_checked(length).ok_or_else(|| {
            Refusal::bad_request(format!(
                "{HEADER_LENGTH} says {length}, the body has {} bytes",
                body.len()
            ))
        })?,
    };
    let request: InferRequest = serde_json::from_slice(json_part)
        .map_err(|error| Refusal::bad_request(format!("the request is malformed: {error}")))?;
    for requested in &request.outputs {
        if !model.outputs().iter().any(|output| output.name == requested.name) {
            return Err(Refusal::bad_request(format!(
                "the model has no output `{}`",
                requested.name
            )));
        }
    }
    let tensor = input(model, request.inputs, binary)?;
    let started = Instant::now();
    let mut computed = model.run(&tensor).map_err(PredictError::from)?;
    metrics.observe_us(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    flow.observe(&model.observe_outputs(&tensor, &computed)?);
    let (mut outputs, mut bytes) = (Vec::new(), Vec::new());
    for spec in model.outputs() {
        let requested = request.outputs.iter().find(|output| output.name == spec.name);
        let wanted = request.outputs.is_empty() || requested.is_some();
        let Some(tensor) = computed.remove(&spec.name).filter(|_| wanted) else {
            continue;
        };
        if tensor.values().iter().any(|value| !value.is_finite()) {
            return Err(Refusal {
                reason: Reason::NotFinite,
                ..Refusal::failed("the model computed NaN or infinity")
            });
        }
        let as_bytes = requested
            .and_then(|output| output.parameters.binary_data)
            .unwrap_or(request.parameters.binary_data_output);
        let shape = tensor.shape().to_vec();
        let mut output = InferOutput {
            name: &spec.name,
            datatype: FP32,
            shape,
            parameters: None,
            data: None,
        };
        if as_bytes {
            bytes.extend(tensor.values().iter().flat_map(|value| value.to_le_bytes()));
            output.parameters = Some(SentParameters {
                binary_data_size: tensor.values().len() * 4,
            });
        } else {
            output.data = Some(tensor.into_values());
        }
        outputs.push(output);
    }
    let package = model.package();
    let response = InferResponse {
        model_name: &package.name,
        model_version: &package.version,
        id: request.id,
        outputs,
    };
    if response.outputs.iter().all(|output| output.parameters.is_none()) {
        return Ok(json(StatusCode::OK, &response));
    }
    let mut body = serde_json::to_vec(&response).map_err(|error| Refusal::failed(error.to_string()))?;
    let length = HeaderValue::from(body.len());
    body.append(&mut bytes);
    let kind = HeaderValue::from_static("application/octet-stream");
    let headers = [(header::CONTENT_TYPE, kind), (HEADER_LENGTH, length)];
    Ok((StatusCode::OK, headers, body).into_response())
}

/// The request's only tensor; its values are in the JSON, or are `binary`.
fn input(model: &Model, inputs: Vec<InferInput>, binary: &[u8]) -> Result<Tensor, Refusal> {
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
    let values = match (input.data, input.parameters.binary_data_size) {
        (Some(data), None) if binary.is_empty() => {
            data.into_values(&input.shape).map_err(Refusal::bad_request)?
        }
        (None, Some(size)) => from_bytes(binary, size, wanted.iter().product())?,
        _ => {
            return Err(Refusal::bad_request(
                "either `data` or, behind the JSON, `binary_data_size` bytes are wanted",
            ));
        }
    };
    Tensor::new(input.shape, values).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// `count` little-endian float32, finite as those in JSON are.
fn from_bytes(binary: &[u8], size: usize, count: usize) -> Result<Vec<f32>, Refusal> {
    if binary.len() != size || size != count * 4 {
        return Err(Refusal::bad_request(format!(
            "the tensor needs {} bytes, `binary_data_size` says {size}, {} were sent",
            count * 4,
            binary.len()
        )));
    }
    let (values, _) = binary.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(Refusal {
            reason: Reason::NotFinite,
            ..Refusal::bad_request(format!("value {at} of the tensor is not a finite number"))
        }),
    }
}
