//! Any graph, with any number of inputs: for the quantizer, which must run models that no package describes.
//!
//! [`super::Session`] is what devices serve: one float32 input, checked. A [`Graph`] takes named arrays of the usual
//! element types and shows the float32 outputs; it runs on the processor, with one thread, so that its sums have one
//! order.

use ort::environment::Environment;
use ort::session::SessionInputValue;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::EngineError;

/// The numbers of one array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// float32
    Float32(Vec<f32>),
    /// float64
    Float64(Vec<f64>),
    /// int64
    Int64(Vec<i64>),
    /// int32
    Int32(Vec<i32>),
    /// int8
    Int8(Vec<i8>),
    /// uint8
    Uint8(Vec<u8>),
    /// bool
    Bool(Vec<bool>),
}

impl Numbers {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Numbers::Float32(numbers) => numbers.len(),
            Numbers::Float64(numbers) => numbers.len(),
            Numbers::Int64(numbers) => numbers.len(),
            Numbers::Int32(numbers) => numbers.len(),
            Numbers::Int8(numbers) => numbers.len(),
            Numbers::Uint8(numbers) => numbers.len(),
            Numbers::Bool(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn element_type(&self) -> TensorElementType {
        match self {
            Numbers::Float32(_) => TensorElementType::Float32,
            Numbers::Float64(_) => TensorElementType::Float64,
            Numbers::Int64(_) => TensorElementType::Int64,
            Numbers::Int32(_) => TensorElementType::Int32,
            Numbers::Int8(_) => TensorElementType::Int8,
            Numbers::Uint8(_) => TensorElementType::Uint8,
            Numbers::Bool(_) => TensorElementType::Bool,
        }
    }
}

/// One array for one input of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub numbers: Numbers,
}

/// An input of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphInput {
    /// Its name.
    pub name: String,
    /// Length of each axis; `None` where the graph leaves it open.
    pub shape: Vec<Option<usize>>,
    element_type: TensorElementType,
}

impl GraphInput {
    /// Why an array cannot stand here, in words; `None` where it can.
    pub fn refuses(&self, array: &Array) -> Option<String> {
        if array.numbers.element_type() != self.element_type {
            let (wanted, got) = (self.element_type, array.numbers.element_type());
            return Some(format!("input `{}` is {wanted:?}, the array {got:?}", self.name));
        }
        let fits = self.shape.len() == array.shape.len()
            && self
                .shape
                .iter()
                .zip(&array.shape)
                .all(|(wanted, got)| wanted.is_none_or(|wanted| wanted == *got));
        let wanted: Vec<String> = self
            .shape
            .iter()
            .map(|length| length.map_or("?".to_owned(), |length| length.to_string()))
            .collect();
        (!fits).then(|| {
            format!(
                "input `{}` is [{}], the array {:?}",
                self.name,
                wanted.join(", "),
                array.shape
            )
        })
    }
}

/// A graph that is ready to compute on the processor.
#[derive(Debug)]
pub struct Graph {
    session: ort::session::Session,
    inputs: Vec<GraphInput>,
}

impl Graph {
    /// The inputs, in the graph's order.
    pub fn inputs(&self) -> &[GraphInput] {
        &self.inputs
    }

    /// Runs the graph with one array per input, in the graph's order, and lends each float32 output (name, shape,
    /// row-major values) to `visit`. Outputs of other types are passed over.
    ///
    /// # Errors
    /// [`EngineError::Run`] when an array does not fit or the engine fails.
    pub fn run(
        &mut self,
        arrays: &[Array],
        mut visit: impl FnMut(&str, &[i64], &[f32]),
    ) -> Result<(), EngineError> {
        let fail = |message: String| EngineError::Run { message };
        if arrays.len() != self.inputs.len() {
            return Err(fail(format!(
                "the graph has {} inputs, got {} arrays",
                self.inputs.len(),
                arrays.len()
            )));
        }
        let mut values: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(arrays.len());
        for (input, array) in self.inputs.iter().zip(arrays) {
            if let Some(reason) = input.refuses(array) {
                return Err(fail(reason));
            }
            let value = view(array).map_err(|error| fail(format!("input `{}`: {error}", input.name)))?;
            values.push((&input.name, value));
        }
        let outputs = self
            .session
            .run(values)
            .map_err(|error| fail(error.to_string()))?;
        for (name, value) in outputs.iter() {
            if let Ok((shape, values)) = value.try_extract_tensor::<f32>() {
                visit(name, shape, values);
            }
        }
        Ok(())
    }
}

fn view(array: &Array) -> ort::Result<SessionInputValue<'_>> {
    let shape = array.shape.clone();
    Ok(match &array.numbers {
        Numbers::Float32(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
        Numbers::Float64(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
        Numbers::Int64(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
        Numbers::Int32(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
        Numbers::Int8(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
        Numbers::Uint8(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
        Numbers::Bool(numbers) => TensorRef::from_array_view((shape, numbers.as_slice()))?.into(),
    })
}

/// How far the engine may rewrite a graph. The values of its outputs stay the same but for last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimize {
    /// As far as it can.
    All,
    /// Nodes are fused, tensors keep their layout: for graphs that show most of their tensors.
    NoLayout,
}

pub(super) fn open(environment: &Environment, onnx: &[u8], optimize: Optimize) -> Result<Graph, EngineError> {
    let level = match optimize {
        Optimize::All => GraphOptimizationLevel::All,
        Optimize::NoLayout => GraphOptimizationLevel::Level2,
    };
    let commit = || -> ort::Result<ort::session::Session> {
        SessionBuilder::new(environment)?
            .with_intra_threads(1)
            .map_err(ort::Error::<()>::from)?
            .with_optimization_level(level)
            .map_err(ort::Error::<()>::from)?
            .commit_from_memory(onnx)
    };
    let session = commit().map_err(|error| EngineError::NoProvider {
        // Some of the engine's messages carry whole stack traces.
        reasons: vec![error.to_string().chars().take(500).collect()],
    })?;
    let input = |outlet: &ort::value::Outlet| match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => Ok(GraphInput {
            name: outlet.name().to_owned(),
            shape: shape.iter().map(|&length| usize::try_from(length).ok()).collect(),
            element_type: *ty,
        }),
        other => Err(EngineError::Run {
            message: format!(
                "input `{}` is {other:?}; only tensors are understood",
                outlet.name()
            ),
        }),
    };
    let inputs = session.inputs().iter().map(input).collect::<Result<_, _>>()?;
    Ok(Graph { session, inputs })
}
