//! HardSigmoid and HardSwish from operators that have integer kernels.
//!
//! `HardSigmoid(x) = clip(alpha * x + beta, 0, 1)` and `HardSwish(x) = x * HardSigmoid(x)`. The same 8-bit numbers
//! dequantized with a scale `alpha` times as wide are `alpha * x`, which costs nothing; one sum adds `beta`, the
//! range of its result clips, one product makes it a HardSwish. ONNX Runtime has no 8-bit kernels for the two, and a
//! float one in the midst of integers costs a conversion to either side: measured 0.75 against 0.94 of float's time
//! with two convolutions around it (1.21; 1.08 against 1.34 in 1.32, which fuses the float one into its convolution).

use crate::graph::{float, is};
use crate::proto::NodeProto;

/// The straight part of a HardSigmoid, or of a HardSwish's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Switch {
    /// Its slope, above 0.
    pub alpha: f64,
    /// Its value at 0.
    pub beta: f32,
    /// Whether it is multiplied with its input: HardSwish.
    pub gates: bool,
}

impl Switch {
    /// What a HardSigmoid or HardSwish does; `None` where its slope is not finite and above 0.
    pub fn new(node: &NodeProto) -> Option<Switch> {
        if is(node, "HardSwish") {
            return Some(Switch {
                alpha: 1.0 / 6.0,
                beta: 0.5,
                gates: true,
            });
        }
        let (alpha, beta) = (f64::from(float(node, "alpha", 0.2)), float(node, "beta", 0.5));
        (alpha.is_finite() && alpha > 0.0 && beta.is_finite()).then_some(Switch {
            alpha,
            beta,
            gates: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::new_node;
    use crate::testing::float_attribute;

    #[test]
    fn only_rising_lines_are_taken() {
        let check = |alpha: Option<f32>, expected: Option<f64>| {
            let mut node = new_node("HardSigmoid", "n", &["x"], &["y"]);
            node.attribute
                .extend(alpha.map(|alpha| float_attribute("alpha", alpha)));
            let got = Switch::new(&node).map(|switch| switch.alpha);
            assert_eq!(got, expected.map(|alpha| f64::from(alpha as f32)));
        };
        check(None, Some(0.2));
        check(Some(0.5), Some(0.5));
        check(Some(0.0), None);
        check(Some(-0.2), None);
        check(Some(f32::NAN), None);
        check(Some(f32::INFINITY), None);
    }
}
