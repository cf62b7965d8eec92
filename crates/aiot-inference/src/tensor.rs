//! The one tensor type between the stages: float32, row-major.

use std::fmt;

/// A float32 tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The number of values does not fit the shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{values} values do not fill the shape {shape:?}")]
pub struct ShapeError {
    /// The shape as given.
    pub shape: Vec<usize>,
    /// Number of values given.
    pub values: usize,
}

impl Tensor {
    /// A tensor of `shape` from its `values` in row-major order.
    ///
    /// # Errors
    /// [`ShapeError`] when the product of the shape is not the number of values.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Result<Tensor, ShapeError> {
        let count = shape
            .iter()
            .try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
        if count == Some(values.len()) {
            Ok(Tensor { shape, values })
        } else {
            Err(ShapeError {
                shape,
                values: values.len(),
            })
        }
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values in row-major order.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// Name and shape of an input or output of a graph. All are float32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the graph.
    pub name: String,
    /// Length of each axis; `None` where the graph leaves it open.
    pub shape: Vec<Option<usize>>,
}

impl TensorSpec {
    /// Whether a tensor of `shape` may stand here.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self
                .shape
                .iter()
                .zip(shape)
                .all(|(declared, &got)| declared.is_none_or(|length| length == got))
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` [", self.name)?;
        for (index, length) in self.shape.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match length {
                Some(length) => write!(f, "{comma}{length}")?,
                None => write!(f, "{comma}?")?,
            }
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_must_hold_the_values() {
        for (shape, count, fine) in [
            (vec![1, 2, 3], 6, true),
            (vec![], 1, true),
            (vec![0, 5], 0, true),
            (vec![2, 2], 3, false),
            (vec![usize::MAX, 2], 2, false),
        ] {
            assert_eq!(
                Tensor::new(shape.clone(), vec![0.0; count]).is_ok(),
                fine,
                "{shape:?}"
            );
        }
    }

    #[test]
    fn open_axes_accept_any_length() {
        let spec = TensorSpec {
            name: "x".into(),
            shape: vec![None, Some(3)],
        };
        assert!(spec.accepts(&[1, 3]) && spec.accepts(&[7, 3]));
        assert!(!spec.accepts(&[1, 4]) && !spec.accepts(&[3]) && !spec.accepts(&[1, 3, 1]));
        assert_eq!(spec.to_string(), "`x` [?, 3]");
    }
}
