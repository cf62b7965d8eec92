//! Dynamic 8-bit quantization: weights are s8 in the file, activations become u8 at run time, by the range that they
//! have then. For products with constant matrices, recurrent nets and embeddings; never for convolutions, which ONNX
//! Runtime runs 4 to 30 times slower in this form than in float.
//!
//! A product becomes DynamicQuantizeLinear → MatMulInteger → Cast → Mul, which ONNX Runtime fuses into one kernel.
//! Weights are saturation-safe, as in the static form, and channels stand in the order in which that costs least.

use std::collections::BTreeMap;

use super::rewrite::{Product, RUNTIME_DOMAIN, Rewrite, is_any};
use super::weights::{Layout, finite, quantize_weight};
use super::{Granularity, NodeOutcome, QuantizeReport, weight_only};
use crate::error::QuantizeError;
use crate::graph::{int, is};
use crate::model::Model;
use crate::permute::permute;
use crate::proto::{NodeProto, TensorProto};
use crate::tensor;

/// Quantizes the weights of MatMul, Gemm, recurrent nodes and embeddings to 8 bits; activations are quantized at run
/// time, but for GRU and RNN, which run in float.
///
/// Graph inputs and outputs stay float32. A model with nothing to quantize comes out byte-identical.
///
/// # Errors
/// [`QuantizeError::NotFinite`] for a broken weight, [`OnnxError::OpsetTooOld`](crate::OnnxError) when the model was
/// not prepared.
pub fn quantize_dynamic(prepared: &Model) -> Result<(Model, QuantizeReport), QuantizeError> {
    let permuted = permute(prepared, &["Gemm", "MatMul"])?;
    let ordered = permuted.as_ref().map_or(prepared, |permuted| &permuted.model);
    let graph = ordered.graph();
    let mut writer = Writer {
        rewrite: Rewrite::new(graph),
        activations: BTreeMap::new(),
    };
    let mut outcomes = Vec::new();
    for node in &graph.node {
        outcomes.push(match writer.add(node)? {
            None => NodeOutcome::Quantized,
            Some(reason) => {
                writer.rewrite.nodes.push(node.clone());
                NodeOutcome::Float(reason)
            }
        });
    }
    match outcomes.contains(&NodeOutcome::Quantized) {
        true => writer.rewrite.finish(ordered, outcomes),
        false => writer.rewrite.finish(prepared, outcomes),
    }
}

struct Writer<'a> {
    rewrite: Rewrite<'a>,
    /// Activation → its u8 form, scale and zero point.
    activations: BTreeMap<&'a str, [String; 3]>,
}

impl<'a> Writer<'a> {
    /// Writes a node in 8 bits; else says why not.
    fn add(&mut self, node: &'a NodeProto) -> Result<Option<String>, QuantizeError> {
        if is_any(node, &["MatMul", "Gemm"]) {
            return match self.rewrite.product(node) {
                Ok(product) => self.product(node, &product).map(|()| None),
                Err(reason) => Ok(Some(reason)),
            };
        }
        if is(node, "Gather") {
            return match self.rewrite.table(node) {
                Ok(table) => self.rewrite.gather(node, table).map(|()| None),
                Err(reason) => Ok(Some(reason)),
            };
        }
        if is(node, "LSTM") {
            return self.lstm(node);
        }
        // ONNX Runtime has no 8-bit kernel for these, so their weights alone become small.
        if is_any(node, &["GRU", "RNN"]) {
            return weight_only::recurrent(&mut self.rewrite, node);
        }
        let reason = match node.op_type() {
            "Conv" | "ConvTranspose" => "a convolution in this form is slower than in float",
            _ => "it has no weights",
        };
        Ok(Some(reason.to_owned()))
    }

    fn product(&mut self, node: &'a NodeProto, product: &Product<'a>) -> Result<(), QuantizeError> {
        let Product {
            weight,
            transposed,
            bias,
        } = *product;
        let layout = Layout::new(node, weight);
        let numbers = finite(weight)?;
        let least = vec![0.0; layout.channels];
        let quantized = quantize_weight(&numbers, &layout, &least, Granularity::PerChannel, true);
        let channels = layout.channels as i64;
        let (dims, values) = match transposed {
            true => {
                let inputs = numbers.len() / layout.channels;
                let turned = (0..inputs)
                    .flat_map(|row| (0..layout.channels).map(move |channel| channel * inputs + row))
                    .map(|position| quantized.values[position])
                    .collect();
                ([weight.dims[1], weight.dims[0]], turned)
            }
            false => ([weight.dims[0], weight.dims[1]], quantized.values),
        };
        let name = weight.name();
        let [quantized_name, scales, zeros] = [
            tensor::from_i8("", &dims, &values),
            tensor::from_floats("", &[channels], &quantized.scales),
            tensor::from_i8("", &[channels], &vec![0; layout.channels]),
        ]
        .into_iter()
        .zip(["quantized", "scale", "zero_point"])
        .map(|(constant, suffix)| {
            self.rewrite
                .add_constant(&format!("{name}_{suffix}"), |name| TensorProto {
                    name: Some(name.to_owned()),
                    ..constant
                })
        })
        .collect::<Vec<String>>()
        .try_into()
        .expect("three");

        let [input, input_scale, input_zero] = self.activation(&node.input[0]);
        let output = &node.output[0];
        let rewrite = &mut self.rewrite;
        let sums = rewrite.add_node(
            "MatMulInteger",
            &[&input, &quantized_name, &input_zero, &zeros],
            &format!("{output}_sums"),
        );
        let float = rewrite.add_cast(&sums, &format!("{output}_sums_float"));
        let scale = rewrite.add_node("Mul", &[&input_scale, &scales], &format!("{output}_scale"));
        match bias {
            Some(bias) => {
                let product = rewrite.add_node("Mul", &[&float, &scale], &format!("{output}_product"));
                rewrite.add_node_to("Add", &[&product, bias], output);
            }
            None => {
                rewrite.add_node_to("Mul", &[&float, &scale], output);
            }
        }
        Ok(())
    }

    /// The u8 form of an activation, made once for all its readers.
    fn activation(&mut self, name: &'a str) -> [String; 3] {
        if let Some(known) = self.activations.get(name) {
            return known.clone();
        }
        let quantized = self
            .rewrite
            .add_node("DynamicQuantizeLinear", &[name], &format!("{name}_quantized"));
        let rest = ["scale", "zero_point"].map(|suffix| self.rewrite.fresh(&format!("{name}_{suffix}")));
        let node = self.rewrite.nodes.last_mut().expect("just added");
        node.output.extend(rest.iter().cloned());
        let [scale, zero_point] = rest;
        let form = [quantized, scale, zero_point];
        self.activations.insert(name, form.clone());
        form
    }

    /// ONNX Runtime's own 8-bit LSTM: weights inputs × gates instead of gates × inputs, one scale a gate.
    fn lstm(&mut self, node: &'a NodeProto) -> Result<Option<String>, QuantizeError> {
        let weights = [1, 2].map(|position| self.rewrite.constant(node, position));
        let [Some(input), Some(recurrent)] = weights else {
            return Ok(Some("its weights are not constant".to_owned()));
        };
        let fits = |weight: &TensorProto| weight.dims.len() == 3 && weight.dims.iter().all(|&dim| dim > 0);
        if !fits(input) || !fits(recurrent) {
            return Ok(Some("its weights have another form".to_owned()));
        }
        if int(node, "layout", 0) != 0 {
            return Ok(Some("ONNX Runtime has no kernel for its layout".to_owned()));
        }
        let mut written = node.clone();
        written.op_type = Some("DynamicQuantizeLSTM".to_owned());
        written.domain = Some(RUNTIME_DOMAIN.to_owned());
        written.attribute.retain(|attribute| attribute.name() != "layout");
        written.input.resize(8, String::new());
        for (position, weight) in [(1, input), (2, recurrent)] {
            let numbers = finite(weight)?;
            let [directions, gates, width] = [0, 1, 2].map(|axis| weight.dims[axis] as usize);
            let layout = Layout::recurrent(directions * gates, width);
            let least = vec![0.0; layout.channels];
            let quantized = quantize_weight(&numbers, &layout, &least, Granularity::PerChannel, true);
            let mut turned = Vec::with_capacity(numbers.len());
            for direction in 0..directions {
                for column in 0..width {
                    let row = |gate: usize| (direction * gates + gate) * width + column;
                    turned.extend((0..gates).map(|gate| quantized.values[row(gate)]));
                }
            }
            let dims = [directions as i64, width as i64, gates as i64];
            let scale_dims = [directions as i64, gates as i64];
            let name = weight.name();
            written.input[position] = self.rewrite.add_constant(&format!("{name}_quantized"), |name| {
                tensor::from_i8(name, &dims, &turned)
            });
            let scale = self.rewrite.add_constant(&format!("{name}_scale"), |name| {
                tensor::from_floats(name, &scale_dims, &quantized.scales)
            });
            let zeros = self.rewrite.add_constant(&format!("{name}_zero_point"), |name| {
                tensor::from_i8(name, &scale_dims, &vec![0; directions * gates])
            });
            written.input.extend([scale, zeros]);
        }
        self.rewrite.nodes.push(written);
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
