//! Sessions: one model on one execution provider.

use std::collections::BTreeMap;

use aiot_package::Precision;
use ort::environment::Environment;
use ort::ep::ExecutionProvider as _;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::{EngineError, ExecutionProvider, SessionOptions};
use crate::tensor::{Tensor, TensorSpec};

/// A model that is ready to compute.
#[derive(Debug)]
pub struct Session {
    session: ort::session::Session,
    input: TensorSpec,
    outputs: Vec<TensorSpec>,
    provider: ExecutionProvider,
    warnings: Vec<String>,
}

impl Session {
    /// The graph's input.
    pub fn input(&self) -> &TensorSpec {
        &self.input
    }

    /// The graph's outputs in its order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// The provider that runs the model; nodes that it does not know run on the processor.
    pub fn provider_in_use(&self) -> ExecutionProvider {
        self.provider
    }

    /// Why providers that were declared earlier were passed over. The caller should log them loudly.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// All outputs by name.
    ///
    /// # Errors
    /// [`EngineError::InputShape`] when the tensor does not fit, [`EngineError::Run`] when the engine fails.
    pub fn run(&mut self, input: &Tensor) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let mut outputs = BTreeMap::new();
        self.run_with(input, |name, shape, values| {
            let shape = shape.iter().map(|&length| length as usize).collect();
            let tensor = Tensor::new(shape, values.to_vec()).expect("the engine's shape holds its values");
            outputs.insert(name.to_owned(), tensor);
        })?;
        Ok(outputs)
    }

    /// As [`Session::run`], but lends each output (name, shape, row-major values) to `visit` instead of copying it.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_with(
        &mut self,
        input: &Tensor,
        mut visit: impl FnMut(&str, &[i64], &[f32]),
    ) -> Result<(), EngineError> {
        if !self.input.accepts(input.shape()) {
            return Err(EngineError::InputShape {
                expected: self.input.to_string(),
                got: input.shape().to_vec(),
            });
        }
        let fail = |error: ort::Error| EngineError::Run {
            message: error.to_string(),
        };
        let view = TensorRef::from_array_view((input.shape().to_vec(), input.values())).map_err(fail)?;
        let outputs = self.session.run(ort::inputs![view]).map_err(fail)?;
        for (name, value) in outputs.iter() {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(fail)?;
            visit(name, shape, values);
        }
        Ok(())
    }
}

/// Tries the providers in order. A provider is passed over when it cannot be registered or cannot take the model.
pub(super) fn open(
    environment: &Environment,
    onnx: &[u8],
    precision: Precision,
    options: &SessionOptions,
) -> Result<Session, EngineError> {
    let mut reasons = Vec::new();
    for (index, &provider) in options.providers.iter().enumerate() {
        if options
            .require_provider
            .is_some_and(|required| required != provider)
        {
            continue;
        }
        let helpers = &options.providers[index + 1..];
        let session = match commit(environment, onnx, precision, options, provider, helpers) {
            Ok(session) => session,
            Err(error) => {
                let mut reason = format!("{provider}: {error}");
                // Some of the engine's messages carry whole stack traces.
                if let Some((at, _)) = reason.char_indices().nth(500) {
                    reason.truncate(at);
                }
                reasons.push(reason);
                continue;
            }
        };
        let (input, outputs) = specs(&session)?;
        return Ok(Session {
            session,
            input,
            outputs,
            provider,
            warnings: reasons,
        });
    }
    match options.require_provider {
        Some(required) => {
            if !options.providers.contains(&required) {
                reasons.push("it is not among the declared providers".to_owned());
            }
            Err(EngineError::RequiredProvider { required, reasons })
        }
        None => Err(EngineError::NoProvider { reasons }),
    }
}

fn commit(
    environment: &Environment,
    onnx: &[u8],
    precision: Precision,
    options: &SessionOptions,
    provider: ExecutionProvider,
    helpers: &[ExecutionProvider],
) -> ort::Result<ort::session::Session> {
    let level = if options.optimize {
        GraphOptimizationLevel::All
    } else {
        GraphOptimizationLevel::Disable
    };
    let mut builder = SessionBuilder::new(environment)?
        .with_intra_threads(options.intra_threads)
        .map_err(ort::Error::<()>::from)?
        .with_optimization_level(level)
        .map_err(ort::Error::<()>::from)?;
    if !has_safe_weights(precision) {
        // u8×s8 sums saturate at 16 bits on x86-64 processors without VNNI, and a model that came with 8-bit weights
        // would give other numbers there. Exact sums take up to 1.6 times as long; other processors ignore this.
        builder = builder
            .with_config_entry("session.x64quantprecision", "1")
            .map_err(ort::Error::<()>::from)?;
    }
    register(&mut builder, provider, precision)?;
    for &helper in helpers {
        // Takes the nodes that the provider before it does not know. Where it is missing too, the processor does.
        let _ = register(&mut builder, helper, precision);
    }
    builder.commit_from_memory(onnx)
}

/// Whether our quantizer wrote all 8-bit weights of such a file: no sum of two neighbouring products overflows.
fn has_safe_weights(precision: Precision) -> bool {
    matches!(precision, Precision::Int8 | Precision::Int8Dynamic)
}

fn register(
    builder: &mut SessionBuilder,
    provider: ExecutionProvider,
    precision: Precision,
) -> ort::Result<()> {
    match provider {
        ExecutionProvider::Tensorrt => ort::ep::TensorRT::default()
            .with_fp16(precision == Precision::Float16)
            .with_int8(precision == Precision::Int8Symmetric)
            .register(builder),
        ExecutionProvider::Cuda => ort::ep::CUDA::default().register(builder),
        ExecutionProvider::Cpu => Ok(()),
    }
}

fn specs(session: &ort::session::Session) -> Result<(TensorSpec, Vec<TensorSpec>), EngineError> {
    let [input] = session.inputs() else {
        return Err(EngineError::InputCount {
            count: session.inputs().len(),
        });
    };
    let input = spec("input", input)?;
    let outputs = session
        .outputs()
        .iter()
        .map(|outlet| spec("output", outlet))
        .collect::<Result<_, _>>()?;
    Ok((input, outputs))
}

fn spec(side: &'static str, outlet: &Outlet) -> Result<TensorSpec, EngineError> {
    match outlet.dtype() {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape,
            ..
        } => Ok(TensorSpec {
            name: outlet.name().to_owned(),
            shape: shape.iter().map(|&length| usize::try_from(length).ok()).collect(),
        }),
        other => Err(EngineError::NotFloat32 {
            side,
            name: outlet.name().to_owned(),
            found: format!("{other:?}"),
        }),
    }
}
