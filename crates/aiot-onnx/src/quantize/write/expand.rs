//! Operators that run on integers only as several others: [`SubPixel`] and [`Switch`] say which.

use super::super::subpixel::SubPixel;
use super::super::switch::Switch;
use super::super::weights::{asymmetric, positive};
use super::Writer;
use crate::error::QuantizeError;
use crate::graph::{int_attribute, ints_attribute, new_node, node_name, text_attribute};
use crate::proto::{AttributeProto, NodeProto};
use crate::ranges::Range;
use crate::tensor;

/// The range of a HardSigmoid.
const GATE: Range = Range { min: 0.0, max: 1.0 };

impl Writer<'_> {
    /// Writes a ConvTranspose, whose weights are replaced already, as a Conv and what puts its phases side by side.
    /// Returns the last node, which makes the ConvTranspose's output.
    pub(super) fn expand_transposed(
        &mut self,
        node: &NodeProto,
        written: &NodeProto,
        form: &SubPixel,
    ) -> Result<NodeProto, QuantizeError> {
        let output = node.output[0].as_str();
        let mut steps = vec![NodeProto {
            op_type: Some("Conv".to_owned()),
            attribute: form.attributes(),
            ..written.clone()
        }];
        let mut step = |operator: &str, constants: &[&str], attributes: Vec<AttributeProto>| {
            let inputs = [&[""], constants].concat();
            let name = format!("{}_{operator}", node_name(node));
            let mut step = new_node(operator, &name, &inputs, &[output]);
            step.attribute = attributes;
            steps.push(step);
        };
        let outputs = form.outputs() as i64;
        let stride = form.stride as i64;
        let mut integers = |what: &str, values: &[i64]| {
            let name = self.names.fresh(&format!("{output}_{what}"));
            let tensor = tensor::from_i64(&name, &[values.len() as i64], values);
            self.initializers.push(tensor);
            name
        };
        match (stride, form.rank()) {
            (1, _) => {}
            (_, 2) => {
                let block = int_attribute("blocksize", stride);
                step("DepthToSpace", &[], vec![block, text_attribute("mode", "CRD")]);
            }
            _ => {
                let apart = integers("phases_apart", &[0, outputs, stride, -1]);
                step("Reshape", &[&apart], Vec::new());
                step("Transpose", &[], vec![ints_attribute("perm", &[0, 1, 3, 2])]);
                let together = integers("phases_together", &[0, outputs, -1]);
                step("Reshape", &[&together], Vec::new());
            }
        }
        if form.cuts.iter().any(|cuts| *cuts != (0, 0)) {
            let to = |&(_, to): &(i64, i64)| if to == 0 { i64::MAX } else { to };
            let from = integers(
                "cut_from",
                &form.cuts.iter().map(|cuts| cuts.0).collect::<Vec<_>>(),
            );
            let to = integers("cut_to", &form.cuts.iter().map(to).collect::<Vec<_>>());
            let axes = integers("cut_axes", &(2..2 + form.rank() as i64).collect::<Vec<_>>());
            step("Slice", &[&from, &to, &axes], Vec::new());
        }
        // All values between have the range of the last: what is cut off may lie outside.
        let root = self.root_of(output);
        let mut last = steps.remove(0);
        for (number, mut next) in steps.into_iter().enumerate() {
            let between = self.names.fresh(&format!("{output}_phases"));
            last.output = vec![between.clone()];
            if number > 0 {
                last.name = Some(format!("{}_{number}", last.name()));
            }
            self.nodes.push(last);
            next.input[0] = self.add_pair_of(&between, &between, &root)?;
            last = next;
        }
        Ok(last)
    }

    /// Writes a HardSigmoid or HardSwish as a sum, and a product; returns the last node.
    pub(super) fn expand_switch(
        &mut self,
        node: &NodeProto,
        written: &NodeProto,
        switch: Switch,
    ) -> Result<NodeProto, QuantizeError> {
        let (input, output) = (node.input[0].as_str(), node.output[0].as_str());
        let root = self.plan.tensors[input].clone();
        let (scale, [_, zero_point]) = self.scale(&root)?;
        let [wide, sloped] = ["slope", "sloped"].map(|what| self.names.fresh(&format!("{output}_{what}")));
        let widened = positive(f64::from(scale.scale) * switch.alpha);
        self.initializers
            .push(tensor::from_floats(&wide, &[], &[widened]));
        let quantized = self.quantized[input].clone();
        self.nodes.push(new_node(
            "DequantizeLinear",
            &format!("{sloped}_DequantizeLinear"),
            &[&quantized, &wide, &zero_point],
            &[&sloped],
        ));
        let (low, high) = (switch.beta.min(0.0), switch.beta.max(0.0));
        let beta = asymmetric(Range { min: low, max: high });
        let step = if switch.beta > 0.0 { 255 } else { 0 };
        let beta = self.add_constant(&format!("{output}_offset"), -1, &[beta.scale], |name| {
            (
                tensor::from_u8(name, &[], &[step]),
                tensor::from_u8("", &[], &[beta.zero_point]),
            )
        });
        let sum = |to: &str| {
            new_node(
                "Add",
                &format!("{}_Add", node_name(node)),
                &[&sloped, &beta],
                &[to],
            )
        };
        if !switch.gates {
            return Ok(NodeProto {
                name: node.name.clone(),
                ..sum(&written.output[0])
            });
        }
        let gate = self.names.fresh(&format!("{output}_gate"));
        self.nodes.push(sum(&gate));
        let gate = self.add_pair_within(&gate, GATE)?;
        Ok(NodeProto {
            op_type: Some("Mul".to_owned()),
            attribute: Vec::new(),
            input: vec![written.input[0].clone(), gate],
            ..written.clone()
        })
    }

    /// The tensor whose range a node's output has, through the Relu or Clip that the range performs.
    fn root_of(&self, output: &str) -> String {
        let folded = self.plan.folded.iter().find(|(_, bounded)| *bounded == output);
        let tensor = folded.map_or(output, |(tensor, _)| tensor.as_str());
        self.plan
            .tensors
            .get(tensor)
            .cloned()
            .unwrap_or_else(|| tensor.to_owned())
    }
}
