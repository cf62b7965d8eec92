//! Assembles the quantized graph that a [`Plan`] describes: pairs behind quantized activations, 8-bit constants with
//! a DequantizeLinear before the node that takes them.

use std::collections::BTreeMap;

use super::plan::Plan;
use super::rewrite::assemble;
use super::roles::clip_bounds;
use super::weights::{
    Layout, Scale, asymmetric, finite, least_scales, output_shift, quantize_bias, quantize_weight, symmetric,
};
use super::{Activations, Granularity, NodeOutcome, StaticOptions};
use crate::error::{OnnxError, QuantizeError};
use crate::graph::{Index, Names, int_attribute, is, new_node};
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
        biases: BTreeMap::new(),
        constants: BTreeMap::new(),
    };
    for input in &graph.input {
        writer.add_pair(input.name(), input.name())?;
    }
    for (node, outcome) in graph.node.iter().zip(&plan.outcomes) {
        writer.add_node(node, outcome)?;
    }

    Ok(assemble(prepared, writer.nodes, writer.initializers)?)
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
        if quantized {
            match node.op_type() {
                "Conv" | "Gemm" | "MatMul" => self.add_weights(node, &mut written)?,
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
        let (_, [scale, zero_point]) = self.scale(root)?;
        let quantized = self.names.fresh(&format!("{tensor}_quantized"));
        let is_output = self.plan.replaced.contains(tensor) && self.index.outputs.contains(tensor);
        let dequantized = match is_output {
            true => tensor.to_owned(),
            false => self.names.fresh(&format!("{tensor}_dequantized")),
        };
        let name = |operator: &str| format!("{tensor}_{operator}");
        self.nodes.push(new_node(
            "QuantizeLinear",
            &name("QuantizeLinear"),
            &[source, &scale, &zero_point],
            &[&quantized],
        ));
        self.nodes.push(new_node(
            "DequantizeLinear",
            &name("DequantizeLinear"),
            &[&quantized, &scale, &zero_point],
            &[&dequantized],
        ));
        self.dequantized.insert(tensor.to_owned(), dequantized);
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
        let names = [
            self.names.fresh(&format!("{root}_scale")),
            self.names.fresh(&format!("{root}_zero_point")),
        ];
        let scale = match self.options.activations {
            Activations::U8Asymmetric => asymmetric(range),
            Activations::S8Symmetric => symmetric(range),
        };
        self.initializers
            .push(tensor::from_floats(&names[0], &[], &[scale.scale]));
        self.initializers.push(match self.options.activations {
            Activations::U8Asymmetric => tensor::from_u8(&names[1], &[], &[scale.zero_point]),
            Activations::S8Symmetric => tensor::from_i8(&names[1], &[], &[0]),
        });
        self.scales.insert(root.to_owned(), (scale, names.clone()));
        Ok((scale, names))
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

    /// Replaces the weight and the bias of a weighted node.
    fn add_weights(&mut self, node: &NodeProto, written: &mut NodeProto) -> Result<(), QuantizeError> {
        let weight = self.constant(&node.input[1])?;
        let layout = Layout::new(node, &weight);
        let root = self.plan.tensors[&node.input[0]].clone();
        let (input, _) = self.scale(&root)?;
        // TensorRT takes no 32-bit pairs: there the bias stays float.
        let in_integers = self.options.activations == Activations::U8Asymmetric;
        let bias_name = match is(node, "MatMul") {
            true => self.plan.biases.get(&node.output[0]),
            false => node.input.get(2).filter(|name| !name.is_empty()),
        };
        let bias = match bias_name {
            Some(name) => Some(finite(&self.constant(name)?)?),
            None => None,
        };
        let limits = bias.as_deref().filter(|_| in_integers);
        let least = least_scales(limits, layout.channels, input.scale);
        let numbers = finite(&weight)?;
        let granularity = self.options.granularity;
        let quantized = quantize_weight(&numbers, &layout, &least, granularity, in_integers);

        let axis = match granularity {
            Granularity::PerChannel => layout.axis,
            Granularity::PerTensor => -1,
        };
        let scale_dims: Vec<i64> = match granularity {
            Granularity::PerChannel => vec![layout.channels as i64],
            Granularity::PerTensor => Vec::new(),
        };
        let zero_count = quantized.scales.len();
        written.input[1] = self.add_constant(weight.name(), axis, &quantized.scales, |name| {
            let zero_point = tensor::from_i8("", &scale_dims, &vec![0; zero_count]);
            (tensor::from_i8(name, &weight.dims, &quantized.values), zero_point)
        });

        // A MatMul has a place for a correction only where a bias is added to it anyway.
        let means = self.options.input_means.get(&node.input[0]);
        let means = means.filter(|means| means.len() == layout.inputs());
        let means = means.filter(|_| !is(node, "MatMul") || (bias_name.is_some() && in_integers));
        let shift = means.map(|means| output_shift(&numbers, &layout, &quantized, means));
        let bias = match (bias, &shift) {
            (None, None) => return Ok(()),
            (bias, shift) => {
                let bias = bias.unwrap_or_else(|| vec![0.0; layout.channels]);
                let shift = |channel: usize| shift.as_ref().map_or(0.0, |shift| shift[channel]);
                let corrected = bias
                    .iter()
                    .enumerate()
                    .map(|(channel, &bias)| f64::from(bias) - shift(channel));
                corrected.collect::<Vec<f64>>()
            }
        };
        // A corrected bias is this node's own.
        let constant = match (bias_name, &shift) {
            (Some(name), None) => name.clone(),
            _ => format!("{}_bias", node.output[0]),
        };
        let dims = [layout.channels as i64];
        let name = if in_integers {
            let quantized = quantize_bias(&bias, input.scale, &quantized);
            let axis = axis.min(0);
            self.add_constant(&constant, axis, &quantized.scales, |name| {
                let zero_point = tensor::from_i32("", &scale_dims, &vec![0; zero_count]);
                (tensor::from_i32(name, &dims, &quantized.values), zero_point)
            })
        } else if shift.is_some() {
            let name = self.names.fresh(&constant);
            let floats: Vec<f32> = bias.iter().map(|&bias| bias as f32).collect();
            self.initializers.push(tensor::from_floats(&name, &dims, &floats));
            name
        } else {
            return Ok(());
        };
        match bias_name.filter(|_| is(node, "MatMul")) {
            Some(old) => {
                self.biases.insert(node.output[0].clone(), (old.clone(), name));
            }
            None => {
                written.input.truncate(3);
                written.input.resize(3, String::new());
                written.input[2] = name;
            }
        }
        Ok(())
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
