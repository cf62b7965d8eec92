//! Assembles the quantized graph that a [`Plan`] describes: pairs behind quantized activations, 8-bit constants with
//! a DequantizeLinear before the node that takes them.

mod expand;
mod weighted;

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Plan;
use super::rewrite::assemble;
use super::roles::clip_bounds;
use super::subpixel::SubPixel;
use super::switch::Switch;
use super::weights::{Scale, asymmetric, finite, symmetric};
use super::{Activations, NodeOutcome, StaticOptions};
use crate::error::{OnnxError, QuantizeError};
use crate::graph::{Index, Names, int_attribute, new_node};
use crate::model::Model;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::ranges::{Range, Ranges};
use crate::tensor;

pub(super) fn write(
    prepared: &Model,
    plan: &Plan,
    ranges: &Ranges,
    options: &StaticOptions,
) -> Result<Model, QuantizeError> {
    let graph = prepared.graph();
    let mut writer = Writer {
        graph,
        index: Index::new(graph),
        plan,
        ranges,
        options,
        names: Names::new(graph),
        nodes: Vec::new(),
        initializers: Vec::new(),
        scales: BTreeMap::new(),
        dequantized: BTreeMap::new(),
        quantized: BTreeMap::new(),
        biases: BTreeMap::new(),
        constants: BTreeMap::new(),
    };
    for input in &graph.input {
        writer.add_pair(input.name(), input.name())?;
    }
    for (node, outcome) in graph.node.iter().zip(&plan.outcomes) {
        writer.add_node(node, outcome)?;
    }

    drop_unread(&mut writer.nodes, &writer.index);
    Ok(assemble(prepared, writer.nodes, writer.initializers)?)
}

/// Removes dequantized values that nobody reads, since Pad, HardSigmoid and HardSwish take the 8-bit ones: the engine
/// would compute them all the same.
fn drop_unread(nodes: &mut Vec<NodeProto>, index: &Index<'_>) {
    let read: BTreeSet<String> = nodes.iter().flat_map(|node| &node.input).cloned().collect();
    let is_read = |name: &String| {
        let name = name.as_str();
        read.contains(name) || index.outputs.contains(name) || index.captured.contains(name)
    };
    nodes.retain(|node| node.op_type() != "DequantizeLinear" || node.output.iter().any(is_read));
}

/// The range of a constant, widened to include 0.
fn range_of(numbers: &[f32]) -> Range {
    Range {
        min: numbers.iter().copied().fold(0.0, f32::min),
        max: numbers.iter().copied().fold(0.0, f32::max),
    }
}

struct Writer<'a> {
    graph: &'a GraphProto,
    index: Index<'a>,
    plan: &'a Plan,
    ranges: &'a Ranges,
    options: &'a StaticOptions,
    names: Names,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// By the tensor whose range it is: the scale and the names of its two initializers.
    scales: BTreeMap<String, (Scale, [String; 2])>,
    /// The dequantized value of each quantized activation.
    dequantized: BTreeMap<String, String>,
    /// Its 8-bit value.
    quantized: BTreeMap<String, String>,
    /// The output of each MatMul with a quantized bias, with the bias and its dequantized value.
    biases: BTreeMap<String, (String, String)>,
    /// By constant and form: the dequantized value of each constant already in 8 bits.
    constants: BTreeMap<(String, Vec<u8>), String>,
}

impl Writer<'_> {
    fn add_node(&mut self, node: &NodeProto, outcome: &NodeOutcome) -> Result<(), QuantizeError> {
        let mut written = node.clone();
        let quantized = *outcome == NodeOutcome::Quantized;
        if *outcome == NodeOutcome::FoldedIntoRange {
            let output = &node.output[0];
            return self.add_pair(output, &self.plan.folded[output]);
        }
        for input in &mut written.input {
            let from_pair = quantized
                || self.plan.replaced.contains(input)
                || self.options.activations == Activations::S8Symmetric;
            if let Some(dequantized) = self.dequantized.get(input.as_str()).filter(|_| from_pair) {
                input.clone_from(dequantized);
            }
        }
        if quantized && node.op_type() == "Pad" {
            return self.add_pad(node);
        }
        if quantized {
            match node.op_type() {
                "Conv" | "Gemm" | "MatMul" => self.add_weights(node, &mut written, None)?,
                "ConvTranspose" => {
                    let dims = &self.constant(&node.input[1])?.dims;
                    let form = SubPixel::new(node, dims).map_err(|reason| self.unplanned(node, reason))?;
                    self.add_weights(node, &mut written, Some(&form))?;
                    written = self.expand_transposed(node, &written, &form)?;
                }
                "HardSigmoid" | "HardSwish" => {
                    let form = Switch::new(node).ok_or_else(|| self.unplanned(node, "no rising line"))?;
                    written = self.expand_switch(node, &written, form)?;
                }
                "Add" | "Mul" | "Concat" => match self.take_bias(node) {
                    Some(inputs) => written.input = inputs,
                    None => self.add_operands(node, &mut written)?,
                },
                "Gather" => {
                    let (scale, _) = self.scale(&node.output[0])?;
                    written.input[0] = self.add_u8_constant(&node.input[0], scale)?;
                }
                _ => {}
            }
        }
        let outputs = node
            .output
            .iter()
            .filter(|name| self.plan.tensors.contains_key(name.as_str()));
        let mut pairs = Vec::new();
        for output in outputs {
            let mut source = output.clone();
            if self.plan.replaced.contains(output) && self.index.outputs.contains(output.as_str()) {
                // The graph's output keeps its name, which the dequantized value takes.
                source = self.names.fresh(&format!("{output}_float"));
                written
                    .output
                    .iter_mut()
                    .filter(|name| *name == output)
                    .for_each(|name| name.clone_from(&source));
            }
            pairs.push((output, source));
        }
        self.nodes.push(written);
        pairs
            .into_iter()
            .try_for_each(|(output, source)| self.add_pair(output, &source))
    }

    /// Adds QuantizeLinear and DequantizeLinear for a tensor whose float value is called `source`, if it is quantized.
    fn add_pair(&mut self, tensor: &str, source: &str) -> Result<(), QuantizeError> {
        let Some(root) = self.plan.tensors.get(tensor) else {
            return Ok(());
        };
        self.add_pair_of(tensor, source, root)?;
        Ok(())
    }

    /// The same with the range of `root`; returns the dequantized value.
    fn add_pair_of(&mut self, tensor: &str, source: &str, root: &str) -> Result<String, QuantizeError> {
        let (_, names) = self.scale(root)?;
        Ok(self.add_pair_with(tensor, source, &names))
    }

    /// The same for a value that has a range of its own whatever the samples.
    fn add_pair_within(&mut self, tensor: &str, range: Range) -> Result<String, QuantizeError> {
        let names = self.add_scale(tensor, asymmetric(range));
        Ok(self.add_pair_with(tensor, tensor, &names))
    }

    fn add_pair_with(&mut self, tensor: &str, source: &str, [scale, zero_point]: &[String; 2]) -> String {
        let quantized = self.names.fresh(&format!("{tensor}_quantized"));
        self.nodes.push(new_node(
            "QuantizeLinear",
            &format!("{tensor}_QuantizeLinear"),
            &[source, scale, zero_point],
            &[&quantized],
        ));
        self.add_dequantized(tensor, quantized, [scale, zero_point])
    }

    /// Adds the DequantizeLinear of a tensor's 8-bit value; returns the dequantized value.
    fn add_dequantized(&mut self, tensor: &str, quantized: String, [scale, zero_point]: [&str; 2]) -> String {
        let is_output = self.plan.replaced.contains(tensor) && self.index.outputs.contains(tensor);
        let dequantized = match is_output {
            true => tensor.to_owned(),
            false => self.names.fresh(&format!("{tensor}_dequantized")),
        };
        self.nodes.push(new_node(
            "DequantizeLinear",
            &format!("{tensor}_DequantizeLinear"),
            &[&quantized, scale, zero_point],
            &[&dequantized],
        ));
        self.quantized.insert(tensor.to_owned(), quantized);
        self.dequantized.insert(tensor.to_owned(), dequantized.clone());
        dequantized
    }

    /// Writes a Pad on the 8-bit values themselves: the engine pads them, but fuses no pairs around it. 0 is the zero
    /// point.
    fn add_pad(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        let (input, output) = (&node.input[0], &node.output[0]);
        let root = &self.plan.tensors[output];
        let (_, [scale, zero_point]) = self.scale(root)?;
        let quantized = self.names.fresh(&format!("{output}_quantized"));
        let mut written = node.clone();
        written.input[0].clone_from(&self.quantized[input]);
        written.input.resize(written.input.len().max(3), String::new());
        written.input[2].clone_from(&zero_point);
        written.output[0].clone_from(&quantized);
        self.nodes.push(written);
        self.add_dequantized(output, quantized, [&scale, &zero_point]);
        Ok(())
    }

    /// The scale of a tensor's range and the names of its initializers, made at first use.
    fn scale(&mut self, root: &str) -> Result<(Scale, [String; 2]), QuantizeError> {
        if let Some(known) = self.scales.get(root) {
            return Ok(known.clone());
        }
        let observed = match self.plan.tables.get(root) {
            Some(table) => Some(range_of(&finite(&self.constant(table)?)?)),
            None => self.ranges.get(root),
        };
        let mut range = observed.ok_or_else(|| QuantizeError::MissingRange {
            tensor: root.to_owned(),
        })?;
        if !(range.min.is_finite() && range.max.is_finite() && range.min <= range.max) {
            return Err(QuantizeError::BadRange {
                tensor: root.to_owned(),
                min: range.min,
                max: range.max,
            });
        }
        if self.plan.folded.contains_key(root) {
            // The range now does the work of the Relu or Clip, so it must not reach beyond its bounds.
            let bound = self
                .index
                .producer
                .get(root)
                .map(|&position| &self.graph.node[position]);
            let bounds = bound.and_then(|node| clip_bounds(node, &self.index));
            let (low, high) = bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
            range = Range {
                min: range.min.clamp(low, high),
                max: range.max.clamp(low, high),
            };
        }
        let scale = match self.options.activations {
            Activations::U8Asymmetric => asymmetric(range),
            Activations::S8Symmetric => symmetric(range),
        };
        let names = self.add_scale(root, scale);
        self.scales.insert(root.to_owned(), (scale, names.clone()));
        Ok((scale, names))
    }

    /// Adds a scale's two initializers and returns their names.
    fn add_scale(&mut self, root: &str, scale: Scale) -> [String; 2] {
        let names = ["scale", "zero_point"].map(|what| self.names.fresh(&format!("{root}_{what}")));
        self.initializers
            .push(tensor::from_floats(&names[0], &[], &[scale.scale]));
        self.initializers.push(match self.options.activations {
            Activations::U8Asymmetric => tensor::from_u8(&names[1], &[], &[scale.zero_point]),
            Activations::S8Symmetric => tensor::from_i8(&names[1], &[], &[0]),
        });
        names
    }

    /// A node that the plan took for something else: our own mistake, but a model is no place to panic.
    fn unplanned(&self, node: &NodeProto, reason: &str) -> QuantizeError {
        let place = crate::graph::node_label(node);
        let reason = format!("planned in 8 bits, but {reason}");
        OnnxError::Unsupported { place, reason }.into()
    }

    fn constant(&self, name: &str) -> Result<TensorProto, QuantizeError> {
        let constant = self.index.constants.get(name).map(|&tensor| tensor.clone());
        constant.ok_or_else(|| {
            let place = format!("constant `{name}`");
            OnnxError::Unsupported {
                place,
                reason: "planned as a constant but is none".to_owned(),
            }
            .into()
        })
    }

    /// The inputs of an Add that adds a MatMul's bias, which was quantized with that MatMul's weights.
    fn take_bias(&self, node: &NodeProto) -> Option<Vec<String>> {
        let (name, dequantized) = node.input.iter().find_map(|input| self.biases.get(input))?;
        let replace = |input: &String| {
            if input == name {
                dequantized.clone()
            } else {
                input.clone()
            }
        };
        Some(node.input.iter().map(replace).collect())
    }

    /// Replaces the constant operands of an Add, Mul or Concat; they are activations to its kernel.
    fn add_operands(&mut self, node: &NodeProto, written: &mut NodeProto) -> Result<(), QuantizeError> {
        for (position, name) in node.input.iter().enumerate() {
            if !self.index.constants.contains_key(name.as_str()) {
                continue;
            }
            let scale = asymmetric(range_of(&finite(&self.constant(name)?)?));
            written.input[position] = self.add_u8_constant(name, scale)?;
        }
        Ok(())
    }

    /// Adds a constant in the form of an activation.
    fn add_u8_constant(&mut self, name: &str, scale: Scale) -> Result<String, QuantizeError> {
        let constant = self.constant(name)?;
        let quantize = |number: &f32| {
            let steps = (f64::from(*number) / f64::from(scale.scale)).round_ties_even();
            (steps + f64::from(scale.zero_point)).clamp(0.0, 255.0) as u8
        };
        let values: Vec<u8> = finite(&constant)?.iter().map(quantize).collect();
        Ok(self.add_constant(name, -1, &[scale.scale], |name| {
            (
                tensor::from_u8(name, &constant.dims, &values),
                tensor::from_u8("", &[], &[scale.zero_point]),
            )
        }))
    }

    /// Adds an 8- or 32-bit constant with its DequantizeLinear, once for all nodes that need the same form, and
    /// returns the dequantized name. `axis` -1 = one scale for the whole constant. `make` gets the constant's name
    /// and returns it with its zero point, which is named here.
    fn add_constant(
        &mut self,
        name: &str,
        axis: i64,
        scales: &[f32],
        make: impl FnOnce(&str) -> (TensorProto, TensorProto),
    ) -> String {
        let form = scales
            .iter()
            .flat_map(|scale| scale.to_le_bytes())
            .chain(axis.to_le_bytes())
            .collect();
        let key = (name.to_owned(), form);
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let mut fresh = |suffix: &str| self.names.fresh(&format!("{name}_{suffix}"));
        let [quantized, scale, zero_point, dequantized] =
            ["quantized", "scale", "zero_point", "dequantized"].map(&mut fresh);
        let (constant, mut zeros) = make(&quantized);
        zeros.name = Some(zero_point.clone());
        let dims: &[i64] = if axis < 0 { &[] } else { &[scales.len() as i64] };
        self.initializers
            .extend([constant, tensor::from_floats(&scale, dims, scales), zeros]);
        let mut node = new_node(
            "DequantizeLinear",
            &format!("{dequantized}_DequantizeLinear"),
            &[&quantized, &scale, &zero_point],
            &[&dequantized],
        );
        if axis >= 0 {
            node.attribute.push(int_attribute("axis", axis));
        }
        self.nodes.push(node);
        self.constants.insert(key, dequantized.clone());
        dequantized
    }
}
