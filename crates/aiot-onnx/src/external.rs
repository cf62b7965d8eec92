//! Tensors that keep their data in another file, as exporters write models over 2 GB.
//!
//! This crate opens no file: the caller lends one by its place relative to the model's folder, and gets a [`Model`] whose
//! tensors hold their data themselves. A place that leads out of that folder is refused before anybody is asked.
//!
//! Source: ONNX, docs/ExternalData.md.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::error::OnnxError;
use crate::graph::subgraphs_mut;
use crate::model::Model;
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{GraphProto, ModelProto, TensorProto};
use crate::tensor;
use crate::wire;

impl Model {
    /// As [`Model::parse`], for a model whose tensors may keep their data in files beside it.
    ///
    /// `open` is called once for each such file with its place relative to the model's folder, parts divided by `/`,
    /// and returns what is in it, or why it cannot be had. The file is best mapped or bounded by the caller: all of
    /// it is held as long as the model.
    ///
    /// # Errors
    /// As [`Model::parse`]; [`OnnxError::BadTensor`] for a place that is absolute or leads out of the folder, for a part
    /// of a file that is not there or not as long as the tensor's dims need, and for what `open` says.
    pub fn parse_with(
        bytes: impl Into<Bytes>,
        mut open: impl FnMut(&str) -> Result<Vec<u8>, String>,
    ) -> Result<Model, OnnxError> {
        let bytes = bytes.into();
        wire::check_fields(&bytes)?;
        let mut proto = ModelProto::decode(bytes).map_err(|error| OnnxError::NotProtobuf {
            reason: error.to_string(),
        })?;
        let mut files = BTreeMap::new();
        if let Some(graph) = &mut proto.graph {
            take_in_graph(graph, &mut |tensor| take_in(tensor, &mut files, &mut open))?;
        }
        Model::from_proto(proto)
    }
}

/// Hands every tensor of a graph, its nodes and their subgraphs to `visit`. The nesting was bounded when the file was
/// read.
fn take_in_graph(
    graph: &mut GraphProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    for tensor in &mut graph.initializer {
        visit(tensor)?;
    }
    for sparse in &mut graph.sparse_initializer {
        for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
            visit(tensor)?;
        }
    }
    for node in &mut graph.node {
        for attribute in &mut node.attribute {
            for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                visit(tensor)?;
            }
        }
        for graph in subgraphs_mut(node) {
            take_in_graph(graph, visit)?;
        }
    }
    Ok(())
}

/// Gives a tensor its data.
fn take_in(
    tensor: &mut TensorProto,
    files: &mut BTreeMap<String, Bytes>,
    open: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<(), OnnxError> {
    if tensor.data_location() != DataLocation::External {
        return Ok(());
    }
    let name = tensor.name().to_owned();
    let bad = |reason: String| OnnxError::BadTensor {
        name: name.clone(),
        reason,
    };
    let entry = |key: &str| {
        let mut entries = tensor.external_data.iter();
        entries
            .find(|entry| entry.key() == key)
            .map(|entry| entry.value())
    };
    let number = |key: &str| {
        let text = entry(key);
        text.map(|text| {
            text.parse::<usize>()
                .map_err(|_| bad(format!("its {key} `{text}` is no number of bytes")))
        })
        .transpose()
    };
    let location = entry("location").unwrap_or_default();
    if !is_inside(location) {
        return Err(bad(format!(
            "it keeps its data in `{location}`, which is no plain relative path: data must lie beside the model"
        )));
    }
    let needed = tensor::element_count(&tensor.dims)
        .map(|count| tensor::data_bytes(tensor.data_type(), count))
        .ok_or_else(|| bad(format!("dims {:?} are negative or overflow", tensor.dims)))?;
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(needed);
    if length != needed {
        return Err(bad(format!(
            "dims {:?} need {needed} bytes, `{location}` is said to hold {length}",
            tensor.dims
        )));
    }
    let file = match files.get(location) {
        Some(file) => file,
        None => {
            let file =
                open(location).map_err(|reason| bad(format!("its data file `{location}`: {reason}")))?;
            files.entry(location.to_owned()).or_insert(Bytes::from(file))
        }
    };
    let end = offset.checked_add(length).filter(|&end| end <= file.len());
    let Some(end) = end else {
        return Err(bad(format!(
            "`{location}` has {} bytes, its data would be {length} bytes from {offset} on: the file is cut short, or \
             of another export",
            file.len()
        )));
    };
    tensor.raw_data = Some(file.slice(offset..end));
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}

/// Whether a place is a path of plain names: nothing absolute, no drive, no way up.
fn is_inside(location: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    !location.contains(['\\', ':', '\0']) && location.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::StringStringEntryProto;
    use crate::testing::Builder;

    /// A net with one product, whose weight of eight numbers is said to be elsewhere.
    fn model(dims: &[i64], entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(17);
        builder.input("x", &[1, 4]);
        builder.output("y", &[1, 2]);
        builder.random("w", &[4, 2]);
        builder.node("MatMul", &["x", "w"], "y");
        let weight = builder.graph.initializer.last_mut().unwrap();
        weight.dims = dims.to_vec();
        weight.raw_data = None;
        weight.data_location = Some(DataLocation::External as i32);
        weight.external_data = entries
            .iter()
            .map(|(key, value)| StringStringEntryProto {
                key: Some((*key).to_owned()),
                value: Some((*value).to_owned()),
            })
            .collect();
        builder.proto().encode_to_vec()
    }

    fn data() -> Vec<u8> {
        (0..10u8)
            .flat_map(|number| f32::from(number).to_le_bytes())
            .collect()
    }

    #[test]
    fn data_is_taken_in_and_each_file_opened_once() {
        for (entries, first) in [
            (
                vec![("location", "a/w.bin"), ("offset", "8"), ("length", "32")],
                2.0,
            ),
            (vec![("location", "a/w.bin")], 0.0),
        ] {
            let mut opened = Vec::new();
            let model = Model::parse_with(model(&[4, 2], &entries), |location| {
                opened.push(location.to_owned());
                Ok(data())
            })
            .unwrap();
            assert_eq!(opened, ["a/w.bin"]);
            let weights = tensor::floats(&model.graph().initializer[0]).unwrap();
            assert_eq!((weights.len(), weights[0]), (8, first));
            // The model is whole now.
            assert_eq!(Model::parse(model.to_bytes()).unwrap(), model);
        }
    }

    #[test]
    fn other_places_and_parts_are_refused() {
        let check = |dims: &[i64], entries: &[(&str, &str)], expected: &str| {
            let error = Model::parse_with(model(dims, entries), |location| match location {
                "w" => Ok(data()),
                _ => Err("no such file".to_owned()),
            });
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with("tensor `w`") && error.contains(expected),
                "{error}"
            );
        };
        for location in [
            "",
            "/etc/passwd",
            "../w",
            "a/../../w",
            "./w",
            "a//w",
            "C:w",
            "..\\w",
            "a\0",
        ] {
            check(&[4, 2], &[("location", location)], "no plain relative path");
        }
        check(&[4, 2], &[], "no plain relative path");
        check(&[4, 2], &[("location", "gone")], "no such file");
        check(&[4, 2], &[("location", "w"), ("offset", "9")], "cut short");
        check(
            &[4, 2],
            &[("location", "w"), ("offset", "18446744073709551615")],
            "cut short",
        );
        check(
            &[4, 2],
            &[("location", "w"), ("offset", "-1")],
            "no number of bytes",
        );
        check(&[4, 2], &[("location", "w"), ("length", "31")], "need 32 bytes");
        check(&[4, -2], &[("location", "w")], "negative or overflow");
        check(&[i64::MAX, 2], &[("location", "w")], "overflow");
        check(&[1 << 40, 1 << 20], &[("location", "w")], "overflow");
    }

    #[test]
    fn models_without_such_tensors_are_as_parsed() {
        let mut builder = Builder::new(17);
        builder.input("x", &[1, 4]);
        builder.output("y", &[1, 2]);
        builder.gemm("x", "y", 2, 4);
        let model = builder.model();
        let open = |_: &str| -> Result<Vec<u8>, String> { panic!("nothing is elsewhere") };
        assert_eq!(Model::parse_with(model.to_bytes(), open).unwrap(), model);
    }
}
