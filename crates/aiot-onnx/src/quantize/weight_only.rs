//! Small files that compute in float: only the weights are kept in fewer bits.
//!
//! 8 bits: the file holds s8 with one scale per output channel, and a Cast and a Mul that ONNX Runtime folds into the
//! float weight when it loads the model, so that a run costs what it costs in float (a DequantizeLinear would not be
//! folded, and would run each time). 4 bits: matrices become MatMulNBits, which unpacks blocks as it multiplies; all
//! other weights take 8 bits.

use serde::{Deserialize, Serialize};

use super::rewrite::{Product, RUNTIME_DOMAIN, Rewrite, is_any};
use super::weights::{Layout, finite, quantize_weight};
use super::{Granularity, NodeOutcome, QuantizeReport};
use crate::error::QuantizeError;
use crate::graph::{int_attribute, is};
use crate::model::Model;
use crate::parallel::parallel_map;
use crate::proto::{NodeProto, TensorProto};
use crate::tensor;

/// Numbers with one scale in the 4-bit form.
const BLOCK: usize = 32;
/// Shares of the widest scale that are tried for the least squared error of a block.
const SHARES: [f64; 6] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75];

/// Bits of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightBits {
    /// 8, one scale per output channel.
    Eight,
    /// 4 in matrices, one scale per 32 numbers; 8 elsewhere.
    Four,
}

/// Keeps weights in fewer bits; the model computes in float as before.
///
/// Graph inputs and outputs stay float32. A model without weights comes out byte-identical.
///
/// # Errors
/// [`QuantizeError::NotFinite`] for a broken weight.
pub fn quantize_weights(
    prepared: &Model,
    bits: WeightBits,
) -> Result<(Model, QuantizeReport), QuantizeError> {
    let graph = prepared.graph();
    let mut rewrite = Rewrite::new(graph);
    let mut outcomes = Vec::new();
    for node in &graph.node {
        outcomes.push(match add(&mut rewrite, node, bits)? {
            None => NodeOutcome::Quantized,
            Some(reason) => {
                rewrite.nodes.push(node.clone());
                NodeOutcome::Float(reason)
            }
        });
    }
    rewrite.finish(prepared, outcomes)
}

/// Writes a node with smaller weights; else says why not.
fn add<'a>(
    rewrite: &mut Rewrite<'a>,
    node: &'a NodeProto,
    bits: WeightBits,
) -> Result<Option<String>, QuantizeError> {
    if is(node, "Gather") {
        return match rewrite.table(node) {
            Ok(table) => rewrite.gather(node, table).map(|()| None),
            Err(reason) => Ok(Some(reason)),
        };
    }
    if is_any(node, &["MatMul", "Gemm"]) {
        return match rewrite.product(node) {
            Ok(product) if bits == WeightBits::Four => four_bits(rewrite, node, &product).map(|()| None),
            Ok(product) => {
                let layout = Layout::new(node, product.weight);
                let mut scale_dims = [1, 1];
                scale_dims[layout.axis as usize] = layout.channels as i64;
                eight_bits(rewrite, node, &[(1, product.weight, layout, scale_dims.to_vec())]).map(|()| None)
            }
            Err(reason) => Ok(Some(reason)),
        };
    }
    if is(node, "Conv") {
        let weight = rewrite.constant(node, 1).filter(|weight| weight.dims.len() >= 3);
        let Some(weight) = weight.filter(|weight| weight.dims.iter().all(|&dim| dim > 0)) else {
            return Ok(Some("its weight is no constant".to_owned()));
        };
        let layout = Layout::new(node, weight);
        let mut scale_dims = vec![1; weight.dims.len()];
        scale_dims[0] = layout.channels as i64;
        return eight_bits(rewrite, node, &[(1, weight, layout, scale_dims)]).map(|()| None);
    }
    if is_any(node, &["LSTM", "GRU", "RNN"]) {
        return recurrent(rewrite, node);
    }
    Ok(Some("it has no weights that are known".to_owned()))
}

/// Writes a recurrent node with weights in 8 bits, one scale per gate and unit; else says why not.
pub(super) fn recurrent<'a>(
    rewrite: &mut Rewrite<'a>,
    node: &'a NodeProto,
) -> Result<Option<String>, QuantizeError> {
    let mut weights = Vec::new();
    for position in [1, 2] {
        let weight = rewrite
            .constant(node, position)
            .filter(|weight| weight.dims.len() == 3);
        let Some(weight) = weight.filter(|weight| weight.dims.iter().all(|&dim| dim > 0)) else {
            return Ok(Some("its weights are not constant".to_owned()));
        };
        let rows = (weight.dims[0] * weight.dims[1]) as usize;
        let layout = Layout::rows(rows, weight.dims[2] as usize);
        weights.push((position, weight, layout, vec![weight.dims[0], weight.dims[1], 1]));
    }
    eight_bits(rewrite, node, &weights).map(|()| None)
}

/// Writes a node whose weights (input, constant, layout, dims of the scales) are made float when the model is loaded.
fn eight_bits(
    rewrite: &mut Rewrite<'_>,
    node: &NodeProto,
    weights: &[(usize, &TensorProto, Layout, Vec<i64>)],
) -> Result<(), QuantizeError> {
    let mut written = node.clone();
    for (position, weight, layout, scale_dims) in weights {
        let numbers = finite(weight)?;
        let least = vec![0.0; layout.channels];
        let quantized = quantize_weight(&numbers, layout, &least, Granularity::PerChannel, false);
        let name = weight.name();
        let small = rewrite.add_constant(&format!("{name}_quantized"), |name| {
            tensor::from_i8(name, &weight.dims, &quantized.values)
        });
        let scale = rewrite.add_constant(&format!("{name}_scale"), |name| {
            tensor::from_floats(name, scale_dims, &quantized.scales)
        });
        let float = rewrite.add_cast(&small, &format!("{name}_float"));
        written.input[*position] = rewrite.add_node("Mul", &[&float, &scale], &format!("{name}_dequantized"));
    }
    rewrite.nodes.push(written);
    Ok(())
}

/// Writes a product as MatMulNBits: rows of outputs, in blocks of [`BLOCK`] inputs, two numbers a byte (the first in
/// the low half), stored as q + 8.
fn four_bits(
    rewrite: &mut Rewrite<'_>,
    node: &NodeProto,
    product: &Product<'_>,
) -> Result<(), QuantizeError> {
    let weight = product.weight;
    let numbers = finite(weight)?;
    let [rows, columns] = [0, 1].map(|axis| weight.dims[axis] as usize);
    let (outputs, inputs) = if product.transposed {
        (rows, columns)
    } else {
        (columns, rows)
    };
    let at = |output: usize, input: usize| match product.transposed {
        true => numbers[output * inputs + input],
        false => numbers[input * outputs + output],
    };
    let blocks = inputs.div_ceil(BLOCK);
    let packed = parallel_map(outputs, numbers.len(), |output| {
        let (mut bytes, mut scales) = (Vec::with_capacity(blocks * BLOCK / 2), Vec::with_capacity(blocks));
        for block in 0..blocks {
            let values: Vec<f64> = (block * BLOCK..((block + 1) * BLOCK).min(inputs))
                .map(|input| f64::from(at(output, input)))
                .collect();
            let (scale, mut quantized) = block_of(&values);
            // What lies beyond the inputs means 0.
            quantized.resize(BLOCK, 8);
            bytes.extend(quantized.chunks(2).map(|pair| pair[0] | pair[1] << 4));
            scales.push(scale);
        }
        (bytes, scales)
    });
    let (bytes, scales): (Vec<Vec<u8>>, Vec<Vec<f32>>) = packed.into_iter().unzip();
    let (bytes, scales) = (bytes.concat(), scales.concat());
    let name = weight.name();
    let dims = [outputs as i64, blocks as i64, (BLOCK / 2) as i64];
    let small = rewrite.add_constant(&format!("{name}_packed"), |name| {
        tensor::from_u8(name, &dims, &bytes)
    });
    let scale = rewrite.add_constant(&format!("{name}_scale"), |name| {
        tensor::from_floats(name, &[scales.len() as i64], &scales)
    });
    let output = &node.output[0];
    let product_name = match product.bias {
        Some(_) => rewrite.fresh(&format!("{output}_product")),
        None => output.clone(),
    };
    let written = rewrite.add_node_to("MatMulNBits", &[&node.input[0], &small, &scale], &product_name);
    written.domain = Some(RUNTIME_DOMAIN.to_owned());
    written.attribute = [
        ("K", inputs as i64),
        ("N", outputs as i64),
        ("bits", 4),
        ("block_size", BLOCK as i64),
    ]
    .map(|(name, value)| int_attribute(name, value))
    .to_vec();
    if let Some(bias) = product.bias {
        rewrite.add_node_to("Add", &[&product_name, bias], output);
    }
    Ok(())
}

/// Scale and numbers of a block: `value ≈ (q - 8) * scale`, q in 0..=15. The widest number is put on -8, the end that
/// reaches further, or the scale is smaller and it is clipped: whichever costs the least squared error.
fn block_of(values: &[f64]) -> (f32, Vec<u8>) {
    let widest = values
        .iter()
        .copied()
        .fold(0.0f64, |widest, value| match value.abs() > widest.abs() {
            true => value,
            false => widest,
        });
    if widest == 0.0 {
        return (1.0, vec![8; values.len()]);
    }
    let quantize = |scale: f32| -> Vec<u8> {
        let number = |value: &f64| (value / f64::from(scale)).round_ties_even().clamp(-8.0, 7.0) as i8 + 8;
        values.iter().map(|value| number(value) as u8).collect()
    };
    let error = |scale: f32, quantized: &[u8]| -> f64 {
        let errors = values.iter().zip(quantized);
        errors
            .map(|(value, q)| ((f64::from(*q) - 8.0) * f64::from(scale) - value).powi(2))
            .sum()
    };
    let candidates = SHARES
        .iter()
        .flat_map(|share| [-8.0, 7.0].map(|end| widest * share / end));
    let mut best: Option<(f64, f32, Vec<u8>)> = None;
    for candidate in candidates {
        let scale = candidate as f32;
        // Too small for a normal number: engines flush it to 0.
        if !scale.is_normal() {
            continue;
        }
        let quantized = quantize(scale);
        let error = error(scale, &quantized);
        if best.as_ref().is_none_or(|(least, ..)| error < *least) {
            best = Some((error, scale, quantized));
        }
    }
    best.map_or_else(
        || (1.0, vec![8; values.len()]),
        |(_, scale, quantized)| (scale, quantized),
    )
}

#[cfg(test)]
mod tests;
