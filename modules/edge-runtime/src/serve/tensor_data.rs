//! A tensor's `data` in JSON: flat or nested lists of numbers, read straight into one vector. Reading it into JSON
//! values first would take thirty times the memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

/// Deeper nesting than any tensor that is served here.
const MAX_DEPTH: usize = 8;

/// Finite numbers in row-major order, and how they were nested.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TensorData {
    values: Vec<f32>,
    /// Length of the lists at each depth, outermost first.
    lengths: Vec<Option<usize>>,
}

impl TensorData {
    /// The values, after a look at how they were nested: flat, or like `shape`.
    pub(crate) fn into_values(self, shape: &[usize]) -> Result<Vec<f32>, String> {
        let lengths: Vec<usize> = self.lengths.into_iter().flatten().collect();
        let count: usize = shape.iter().product();
        if lengths.len() > 1 && lengths != shape {
            return Err(format!(
                "the data are nested like {lengths:?}, the shape is {shape:?}"
            ));
        }
        if self.values.len() != count {
            return Err(format!(
                "the data hold {} values, shape {shape:?} needs {count}",
                self.values.len()
            ));
        }
        Ok(self.values)
    }
}

impl<'de> serde::Deserialize<'de> for TensorData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TensorData, D::Error> {
        let mut data = TensorData::default();
        Element {
            data: &mut data,
            depth: 0,
        }
        .deserialize(deserializer)?;
        Ok(data)
    }
}

/// A number or a list at `depth`.
struct Element<'a> {
    data: &'a mut TensorData,
    depth: usize,
}

impl Element<'_> {
    fn number<E: Error>(self, value: f64) -> Result<(), E> {
        // Lists are counted when they end, so a length at this depth means that a list stood here before.
        if self.depth == 0 || self.data.lengths.len() > self.depth {
            return Err(E::custom("numbers and lists are mixed"));
        }
        let value = value as f32;
        if !value.is_finite() {
            return Err(E::custom("a number does not fit into FP32"));
        }
        self.data.values.push(value);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a list of numbers")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.number(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.number(value as f64)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.number(value as f64)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Element { data, depth } = self;
        if depth >= MAX_DEPTH {
            return Err(A::Error::custom("the lists are nested too deep"));
        }
        if data.lengths.len() <= depth {
            // A number before it at this depth would be its sibling.
            if depth > 0 && data.lengths.len() == depth && !data.values.is_empty() {
                return Err(A::Error::custom("numbers and lists are mixed"));
            }
            data.lengths.resize(depth + 1, None);
        }
        let mut length = 0;
        while list
            .next_element_seed(Element {
                data,
                depth: depth + 1,
            })?
            .is_some()
        {
            length += 1;
        }
        match data.lengths[depth] {
            Some(other) if other != length => Err(A::Error::custom("lists of one depth differ in length")),
            _ => {
                data.lengths[depth] = Some(length);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(json: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let data: TensorData = serde_json::from_str(json).map_err(|error| error.to_string())?;
        data.into_values(shape)
    }

    #[test]
    fn flat_and_nested_are_the_same() {
        let expected = Ok(vec![1.0, 2.5, -3.0, 4.0]);
        for json in ["[1, 2.5, -3, 4e0]", "[[1, 2.5], [-3, 4]]"] {
            assert_eq!(values(json, &[2, 2]), expected, "{json}");
        }
        assert_eq!(values("[[[1, 2.5, -3, 4]]]", &[1, 1, 4]), expected);
        assert_eq!(values("[]", &[0]), Ok(vec![]));
    }

    #[test]
    fn everything_else_is_named() {
        let deep = "[".repeat(9) + &"]".repeat(9);
        for (json, expected) in [
            ("[1, 2, 3]", "3 values, shape [2, 2] needs 4"),
            ("[[1, 2, 3, 4]]", "nested like [1, 4]"),
            ("[[1, 2], [3]]", "differ in length"),
            ("[1, [2, 3, 4]]", "mixed"),
            ("[[1, 2, 3], 4]", "mixed"),
            ("[[1], [[2]]]", "mixed"),
            ("[[[1]], [2]]", "mixed"),
            ("1", "mixed"),
            ("[1, null, 3, 4]", "expected a number or a list"),
            ("[1, \"2\", 3, 4]", "expected a number or a list"),
            ("[1, 1e39, 3, 4]", "does not fit into FP32"),
            ("[1, 1e999, 3, 4]", "out of range"),
            ("[NaN]", "expected value"),
            (&deep, "too deep"),
        ] {
            let error = values(json, &[2, 2]).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
