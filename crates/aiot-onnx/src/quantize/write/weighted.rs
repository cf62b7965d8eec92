//! The weight and the bias of one weighted node, in 8 and 32 bits.

use super::super::subpixel::SubPixel;
use super::super::weights::{Layout, finite, least_scales, output_shift, quantize_bias, quantize_weight};
use super::super::{Activations, Granularity};
use super::Writer;
use crate::error::QuantizeError;
use crate::graph::is;
use crate::proto::NodeProto;
use crate::tensor;

impl Writer<'_> {
    /// Replaces the weight and the bias of a weighted node; `form`: those of the Conv that a ConvTranspose becomes.
    pub(super) fn add_weights(
        &mut self,
        node: &NodeProto,
        written: &mut NodeProto,
        form: Option<&SubPixel>,
    ) -> Result<(), QuantizeError> {
        let mut weight = self.constant(&node.input[1])?;
        let mut layout = Layout::new(node, &weight);
        if let Some(form) = form {
            weight = form.weight(&format!("{}_phases", weight.name()), &finite(&weight)?);
            layout = Layout::convolution(&weight.dims, 1);
        }
        let root = self.plan.tensors[&node.input[0]].clone();
        let (input, _) = self.scale(&root)?;
        // TensorRT takes no 32-bit pairs: there the bias stays float.
        let in_integers = self.options.activations == Activations::U8Asymmetric;
        let bias_name = match is(node, "MatMul") {
            true => self.plan.biases.get(&node.output[0]),
            false => node.input.get(2).filter(|name| !name.is_empty()),
        };
        let bias = match bias_name {
            Some(name) => {
                let bias = finite(&self.constant(name)?)?;
                Some(form.map_or(bias.clone(), |form| form.bias(&bias)))
            }
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
        // A corrected or repeated bias is this node's own.
        let constant = match (bias_name, &shift) {
            (Some(name), None) if form.is_none() => name.clone(),
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
}
