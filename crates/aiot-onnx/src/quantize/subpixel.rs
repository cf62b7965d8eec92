//! A transposed convolution as a plain one, for which engines have integer kernels.
//!
//! With stride `s` each output lies in one of `s` phases per axis, and each phase is a convolution of the input with
//! every `s`-th tap of the kernel. One Conv computes all phases as channels of their own, DepthToSpace (for series:
//! Reshape and Transpose) puts them side by side, and what padding cuts off is kept out by smaller pads, the rest by
//! Slice. All that follows the Conv only moves values, so it runs on 8-bit numbers too. ONNX Runtime has no 8-bit
//! kernel for ConvTranspose itself.
//!
//! Source: Shi et al., Is the deconvolution layer the same as a convolutional layer?, 2016.

use crate::graph::{attribute, int, ints_attribute, text};
use crate::proto::{AttributeProto, NodeProto, TensorProto};
use crate::tensor;

/// Largest stride: the phases of a stride of 8 are 64 times as many channels.
const MAX_STRIDE: i64 = 8;

/// How one ConvTranspose becomes a Conv.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SubPixel {
    /// The stride, the same along all axes.
    pub stride: usize,
    /// Length of the Conv's kernel along each axis.
    taps: Vec<usize>,
    /// Pads of the Conv: the beginnings, then the ends.
    pub pads: Vec<i64>,
    /// First and (from the end, negative; 0 for none) last outputs that are cut off, by axis.
    pub cuts: Vec<(i64, i64)>,
    /// Input and output channels and the kernel of the ConvTranspose.
    dims: Vec<usize>,
}

impl SubPixel {
    /// How a ConvTranspose with a weight of these dims (inputs, outputs, kernel) becomes a Conv.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn new(node: &NodeProto, dims: &[i64]) -> Result<SubPixel, &'static str> {
        let rank = match dims.len() {
            length @ (3 | 4) => length - 2,
            _ => return Err("its kernel has neither one nor two axes"),
        };
        if int(node, "group", 1) != 1 || !matches!(text(node, "auto_pad"), None | Some("NOTSET")) {
            return Err("it has groups, or pads that depend on its input");
        }
        if attribute(node, "output_shape").is_some() {
            return Err("it has pads that depend on its input");
        }
        let of_axes = |name: &str, count: usize, default: i64| match attribute(node, name) {
            None => Ok(vec![default; count]),
            Some(attribute) if attribute.ints.len() == count => Ok(attribute.ints.clone()),
            Some(_) => Err("its attributes do not fit its kernel"),
        };
        let strides = of_axes("strides", rank, 1)?;
        let padding = of_axes("pads", 2 * rank, 0)?;
        let output_padding = of_axes("output_padding", rank, 0)?;
        if of_axes("dilations", rank, 1)?
            .iter()
            .any(|&dilation| dilation != 1)
        {
            return Err("it has dilations");
        }
        let stride = strides[0];
        if !(1..=MAX_STRIDE).contains(&stride) || strides.iter().any(|&other| other != stride) {
            return Err("its strides differ, or exceed 8");
        }
        let dims: Vec<usize> = dims
            .iter()
            .map(|&dim| usize::try_from(dim).ok().filter(|&dim| dim > 0))
            .collect::<Option<_>>()
            .ok_or("its weight is empty")?;
        let (mut taps, mut cuts) = (Vec::new(), Vec::new());
        let (mut begins, mut ends) = (Vec::new(), Vec::new());
        for axis in 0..rank {
            let kernel = dims[2 + axis] as i64;
            let count = (kernel + stride - 1) / stride;
            let first = padding[axis];
            let last = (stride * count - kernel)
                .checked_add(padding[rank + axis])
                .and_then(|last| last.checked_sub(output_padding[axis]))
                .ok_or("its pads are out of range")?;
            let fits = |cut: i64| cut >= 0 && cut / stride < count;
            if !fits(first) || !fits(last) {
                return Err("its pads reach beyond its kernel");
            }
            taps.push(count as usize);
            begins.push(count - 1 - first / stride);
            ends.push(count - 1 - last / stride);
            cuts.push((first % stride, -(last % stride)));
        }
        let work: usize = taps.iter().map(|count| count * stride as usize).product();
        if work > 2 * dims[2..].iter().product::<usize>() {
            return Err(
                "its kernel is small for its strides: as a plain convolution it would do needless work",
            );
        }
        begins.extend(ends);
        Ok(SubPixel {
            stride: stride as usize,
            taps,
            pads: begins,
            cuts,
            dims,
        })
    }

    /// Number of axes of the kernel.
    pub fn rank(&self) -> usize {
        self.taps.len()
    }

    /// Phases, and with them channels of the Conv, for each output channel.
    pub fn phases(&self) -> usize {
        self.stride.pow(self.rank() as u32)
    }

    /// Output channels of the ConvTranspose.
    pub fn outputs(&self) -> usize {
        self.dims[1]
    }

    /// The weight of the Conv; the phases of an output channel are neighbours.
    pub fn weight(&self, name: &str, weight: &[f32]) -> TensorProto {
        let kernel = &self.dims[2..];
        let (inputs, outputs) = (self.dims[0], self.dims[1]);
        let area: usize = kernel.iter().product();
        let mut values =
            Vec::with_capacity(inputs * outputs * self.phases() * self.taps.iter().product::<usize>());
        // One axis is two of which the first is 1 long.
        let two = |lengths: &[usize]| match *lengths {
            [rows, columns] => [rows, columns],
            [columns] => [1, columns],
            _ => [1, 1],
        };
        let ([rows, columns], [row_taps, column_taps]) = (two(kernel), two(&self.taps));
        let row_stride = if self.rank() == 2 { self.stride } else { 1 };
        let taken = |axis: [usize; 4]| {
            let [taps, tap, stride, phase] = axis;
            stride * (taps - 1 - tap) + phase
        };
        for output in 0..outputs {
            for phase in 0..self.phases() {
                let (row_phase, column_phase) = (phase / self.stride, phase % self.stride);
                for input in 0..inputs {
                    for tap in 0..row_taps * column_taps {
                        let row = taken([row_taps, tap / column_taps, row_stride, row_phase]);
                        let column = taken([column_taps, tap % column_taps, self.stride, column_phase]);
                        values.push(match row < rows && column < columns {
                            true => weight[(input * outputs + output) * area + row * columns + column],
                            false => 0.0,
                        });
                    }
                }
            }
        }
        let mut dims = vec![(outputs * self.phases()) as i64, inputs as i64];
        dims.extend(self.taps.iter().map(|&taps| taps as i64));
        tensor::from_floats(name, &dims, &values)
    }

    /// The bias of the Conv.
    pub fn bias(&self, bias: &[f32]) -> Vec<f32> {
        let phases = self.phases();
        bias.iter()
            .flat_map(|&bias| std::iter::repeat_n(bias, phases))
            .collect()
    }

    /// The attributes of the Conv.
    pub fn attributes(&self) -> Vec<AttributeProto> {
        vec![ints_attribute("pads", &self.pads)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{int_attribute, new_node};

    fn node(attributes: &[(&str, &[i64])]) -> NodeProto {
        let mut node = new_node("ConvTranspose", "n", &["x", "w"], &["y"]);
        node.attribute.extend(
            attributes
                .iter()
                .map(|(name, values)| ints_attribute(name, values)),
        );
        node
    }

    /// One channel: the output of the ConvTranspose by its definition, and by the plain convolution.
    fn check(kernel: usize, attributes: &[(&str, &[i64])], length: usize) {
        let weight: Vec<f32> = (0..kernel).map(|tap| tap as f32 + 1.0).collect();
        let input: Vec<f32> = (0..length).map(|x| (x * x) as f32 - 3.0).collect();
        let node = node(attributes);
        let sub_pixel = SubPixel::new(&node, &[1, 1, kernel as i64]).unwrap();
        let first = |name: &str| attribute(&node, name).map_or(0, |attribute| attribute.ints[0]);
        let stride = first("strides").max(1) as usize;
        let mut full = vec![0.0; stride * (length - 1) + kernel + first("output_padding") as usize];
        for (place, value) in input.iter().enumerate() {
            for (tap, weight) in weight.iter().enumerate() {
                full[place * stride + tap] += value * weight;
            }
        }
        let pads = attribute(&node, "pads").map_or(vec![0, 0], |attribute| attribute.ints.clone());
        let expected = &full[pads[0] as usize..full.len() - pads[1] as usize];

        let taps = sub_pixel.taps[0];
        let weights = tensor::floats(&sub_pixel.weight("w", &weight)).unwrap();
        let at = |place: i64| {
            usize::try_from(place)
                .ok()
                .and_then(|place| input.get(place))
                .unwrap_or(&0.0)
        };
        let outputs = length as i64 + sub_pixel.pads[0] + sub_pixel.pads[1] - taps as i64 + 1;
        let mut got = Vec::new();
        for place in 0..outputs {
            for phase in weights.chunks(taps) {
                let terms = phase.iter().enumerate();
                got.push(
                    terms
                        .map(|(tap, weight)| at(place + tap as i64 - sub_pixel.pads[0]) * weight)
                        .sum(),
                );
            }
        }
        let (from, to) = sub_pixel.cuts[0];
        let got: &[f32] = &got[from as usize..got.len() - to.unsigned_abs() as usize];
        assert_eq!(got, expected, "kernel {kernel}, {attributes:?}");
    }

    #[test]
    fn the_plain_convolution_computes_the_same() {
        for kernel in 1..=7 {
            for stride in 1..=4i64 {
                for first in 0..kernel as i64 {
                    for (last, output_padding) in [(first, 0), (0, 0), (first, 1), (2, 0)] {
                        let pads = [first, last];
                        let strides = [stride];
                        let output_padding = [output_padding];
                        let attributes: [(&str, &[i64]); 3] = [
                            ("strides", &strides),
                            ("pads", &pads),
                            ("output_padding", &output_padding),
                        ];
                        if SubPixel::new(&node(&attributes), &[1, 1, kernel as i64]).is_ok() {
                            check(kernel, &attributes, 9);
                        }
                    }
                }
            }
        }
        // Those that decoders have must be among them.
        check(2, &[("strides", &[2])], 5);
        check(4, &[("strides", &[2]), ("pads", &[1, 1])], 5);
        check(
            3,
            &[("strides", &[2]), ("pads", &[1, 1]), ("output_padding", &[1])],
            5,
        );
        check(3, &[], 5);
    }

    #[test]
    fn what_has_no_such_form_says_why() {
        let dims = [2, 3, 4, 4];
        for (attributes, expected) in [
            (vec![("strides", vec![2, 3])], "its strides differ"),
            (vec![("strides", vec![9, 9])], "its strides differ"),
            (vec![("strides", vec![0, 0])], "its strides differ"),
            (vec![("dilations", vec![2, 2])], "it has dilations"),
            (vec![("output_shape", vec![8, 8])], "it has pads that depend"),
            (vec![("pads", vec![4, 0, 0, 0])], "its pads reach beyond"),
            (vec![("pads", vec![-1, 0, 0, 0])], "its pads reach beyond"),
            (vec![("pads", vec![i64::MAX; 4])], "its pads reach beyond"),
            (
                vec![("output_padding", vec![i64::MIN; 2])],
                "its pads are out of range",
            ),
            (vec![("pads", vec![0])], "its attributes do not fit"),
            (vec![("strides", vec![3, 3])], "its kernel is small"),
        ] {
            let attributes: Vec<(&str, &[i64])> = attributes
                .iter()
                .map(|(name, values)| (*name, values.as_slice()))
                .collect();
            let error = SubPixel::new(&node(&attributes), &dims).unwrap_err();
            assert!(error.starts_with(expected), "{attributes:?}: {error}");
        }
        let mut grouped = node(&[]);
        grouped.attribute.push(int_attribute("group", 2));
        assert!(SubPixel::new(&grouped, &dims).is_err());
        assert!(SubPixel::new(&node(&[]), &[2, 3, 4, 4, 4]).is_err());
        assert!(SubPixel::new(&node(&[]), &[2, 0, 4]).is_err());
    }
}
