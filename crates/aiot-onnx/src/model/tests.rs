use proptest::prelude::*;

use super::*;
use crate::graph::new_node;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::{DataLocation, DataType};
use crate::proto::{AttributeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use crate::quantize::{Activations, StaticOptions, calibration_tensors, quantize_static};
use crate::ranges::{Range, Ranges};
use crate::testing::{Builder, value};
use crate::{inspect, prepare, tensor, to_float16};

fn small() -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1, 2, 4, 4]);
    builder.conv("x", "a", [3, 2, 3, 3], 1, 1);
    builder.batch_normalization("a", "b", 3);
    builder.node("Relu", &["b"], "y");
    builder.output("y", &[1, 3, 4, 4]);
    builder
}

/// Changes the small model, encodes it, and compares the error's text.
fn refused(change: impl FnOnce(&mut ModelProto), expected: &str) {
    let mut proto = small().proto();
    change(&mut proto);
    let error = Model::parse(proto.encode_to_vec()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

fn graph(proto: &mut ModelProto) -> &mut GraphProto {
    proto.graph.as_mut().unwrap()
}

#[test]
fn untouched_models_keep_their_bytes() {
    let mut proto = small().proto();
    proto.metadata_props.push(StringStringEntryProto {
        key: Some("k".into()),
        value: Some(String::new()),
    });
    proto.doc_string = Some(String::new());
    graph(&mut proto).initializer.push(TensorProto {
        name: Some("typed".to_owned()),
        dims: vec![2],
        data_type: Some(DataType::Float as i32),
        float_data: vec![1.0, 2.0],
        ..TensorProto::default()
    });
    let bytes = proto.encode_to_vec();
    let model = Model::parse(bytes.clone()).unwrap();
    assert_eq!(model.to_bytes(), bytes);
    assert_eq!(model.size_bytes(), bytes.len() as u64);
}

#[test]
fn unknown_fields_are_named() {
    let mut bytes = small().proto().encode_to_vec();
    bytes.extend([0xf8, 0x07, 0x01]);
    let error = Model::parse(bytes).unwrap_err();
    assert_eq!(
        error,
        OnnxError::UnknownField {
            path: "model".to_owned(),
            number: 127
        }
    );

    // A node of one unknown field, in a graph, in a model.
    let node = [0xf8, 0x07, 0x01];
    let graph = [&[0x0a, node.len() as u8][..], &node].concat();
    let model = [&[0x08, 0x08, 0x3a, graph.len() as u8][..], &graph].concat();
    let error = Model::parse(model).unwrap_err();
    assert_eq!(
        error,
        OnnxError::UnknownField {
            path: "model.graph.node".to_owned(),
            number: 127
        }
    );
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let bytes = small().proto().encode_to_vec();
    for length in 0..bytes.len() {
        assert!(
            Model::parse(bytes[..length].to_vec()).is_err(),
            "{length} of {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn foreign_bytes_are_refused() {
    for bytes in [
        &b""[..],
        b"hello, world",
        b"<!DOCTYPE html>",
        b"version https",
        &[0xff; 64],
        &[0x0b, 0x0b],
    ] {
        assert!(Model::parse(bytes.to_vec()).is_err());
    }
}

#[test]
fn broken_structure_is_refused() {
    refused(|proto| proto.graph = None, "it has no graph");
    refused(|proto| proto.ir_version = None, "no IR version");
    refused(
        |proto| proto.opset_import.clear(),
        "imports no opset of the default domain",
    );
    refused(
        |proto| {
            let alias = OperatorSetIdProto {
                domain: Some("ai.onnx".to_owned()),
                version: Some(17),
            };
            proto.opset_import.push(alias);
        },
        "`ai.onnx` is defined twice",
    );
    refused(
        |proto| graph(proto).node[2].output[0] = "a".to_owned(),
        "`a` is defined twice (node `y_Relu` (Relu))",
    );
    refused(
        |proto| graph(proto).input.push(value("x", &[])),
        "`x` is defined twice (graph input)",
    );
    refused(
        |proto| graph(proto).output.push(value("y", &[])),
        "`y` is defined twice (graph output)",
    );
    refused(
        |proto| {
            let first = graph(proto).initializer[0].clone();
            graph(proto).initializer.push(first);
        },
        "`a_w` is defined twice (initializer)",
    );
    refused(
        |proto| graph(proto).node[0].output[0] = "x".to_owned(),
        "`x` is defined twice (node `a_Conv` (Conv))",
    );
    refused(
        |proto| drop(graph(proto).initializer.remove(0)),
        "node `a_Conv` (Conv) uses `a_w`, which no graph input",
    );
    refused(
        |proto| graph(proto).output[0].name = Some("z".to_owned()),
        "the graph's outputs uses `z`",
    );
    refused(
        |proto| graph(proto).node.reverse(),
        "node `y_Relu` (Relu) uses `b` before it is computed",
    );
    refused(
        |proto| graph(proto).node[2].input[0] = "y".to_owned(),
        "before it is computed",
    );
    refused(|proto| graph(proto).node[2].op_type = None, "has no operator");
}

#[test]
fn broken_tensors_are_refused() {
    let change = |change: fn(&mut TensorProto), expected: &str| {
        refused(|proto| change(&mut graph(proto).initializer[0]), expected);
    };
    change(
        |tensor| tensor.dims[0] = 4,
        "tensor `a_w`: dims [4, 2, 3, 3] need 288 bytes, it holds 216",
    );
    change(|tensor| tensor.dims[0] = -3, "negative or overflow");
    change(
        |tensor| tensor.dims = vec![i64::MAX, i64::MAX],
        "negative or overflow",
    );
    change(|tensor| tensor.dims = vec![i64::MAX], "overflow");
    change(|tensor| tensor.data_type = Some(99), "data type 99 is unknown");
    change(|tensor| tensor.data_type = None, "data type 0 is unknown");
    change(|tensor| tensor.raw_data = None, "need 54 numbers, it holds 0");
    change(
        |tensor| {
            tensor.raw_data = None;
            tensor.data_location = Some(DataLocation::External as i32);
            let entry = StringStringEntryProto {
                key: Some("location".into()),
                value: Some("weights.bin".into()),
            };
            tensor.external_data.push(entry);
        },
        "initializer `a_w` keeps its data in another file (`weights.bin`)",
    );
    let attribute = AttributeProto {
        name: Some("value".to_owned()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(TensorProto {
            dims: vec![9],
            ..tensor::from_floats("inner", &[1], &[0.0])
        }),
        ..AttributeProto::default()
    };
    refused(
        |proto| graph(proto).node[0].attribute.push(attribute),
        "tensor `inner`",
    );
}

#[test]
fn empty_and_typed_tensors_are_read() {
    for (data_type, dims, raw) in [
        (DataType::Float, vec![0], 0),
        (DataType::Float, vec![], 4),
        (DataType::Int4, vec![3], 2),
        (DataType::Float16, vec![2], 4),
        (DataType::Bool, vec![3], 3),
    ] {
        let tensor = TensorProto {
            name: Some("t".to_owned()),
            dims,
            data_type: Some(data_type as i32),
            raw_data: Some(vec![0; raw].into()),
            ..TensorProto::default()
        };
        assert_eq!(tensor::check(&tensor), Ok(()), "{data_type:?}");
    }
}

fn conditional(then_input: &str) -> Builder {
    let mut builder = Builder::new(17);
    builder.input("x", &[1]);
    builder.node("Relu", &["x"], "a");
    let branch = GraphProto {
        node: vec![new_node("Neg", "n", &[then_input], &["inside"])],
        output: vec![value("inside", &[1])],
        ..GraphProto::default()
    };
    let branches = ["then_branch", "else_branch"].map(|name| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(branch.clone()),
        ..AttributeProto::default()
    });
    builder.node("If", &["x"], "y").attribute.extend(branches);
    builder.output("y", &[1]);
    builder
}

#[test]
fn subgraphs_see_what_is_around_them() {
    let model = conditional("a").model();
    assert_eq!(prepare(&model).unwrap().to_bytes(), model.to_bytes());
    assert!(calibration_tensors(&model).is_empty());
    assert_eq!(
        inspect(&model)
            .operators
            .iter()
            .find(|used| used.operator == "Neg")
            .unwrap()
            .count,
        2
    );
    assert!(matches!(to_float16(&model), Err(OnnxError::Unsupported { .. })));
    let error = Model::from_proto(conditional("later").proto()).unwrap_err();
    assert!(matches!(error, OnnxError::MissingValue { name, .. } if name == "later"));
}

#[test]
fn nesting_is_bounded() {
    // Graphs within attributes within nodes within graphs, each a length-delimited field: 1, 5, 6.
    let mut bytes = Vec::new();
    for _ in 0..200 {
        for key in [0x32u8, 0x2a, 0x0a] {
            let mut length = Vec::new();
            prost::encoding::encode_varint(bytes.len() as u64, &mut length);
            bytes = [&[key][..], &length, &bytes].concat();
        }
    }
    let mut length = Vec::new();
    prost::encoding::encode_varint(bytes.len() as u64, &mut length);
    let model = [&[0x3a][..], &length, &bytes].concat();
    assert!(matches!(Model::parse(model), Err(OnnxError::TooDeep { .. })));
}

#[test]
fn message_count_is_bounded() {
    // Empty nodes cost two bytes each.
    let nodes = [0x0a, 0x00].repeat(2_000_001);
    let mut model = vec![0x3a];
    prost::encoding::encode_varint(nodes.len() as u64, &mut model);
    model.extend(nodes);
    assert!(matches!(
        Model::parse(model),
        Err(OnnxError::TooManyMessages { .. })
    ));
}

/// Everything that the crate does to a model that it has read.
fn exercise(model: &Model) {
    let facts = inspect(model);
    crate::problems(&facts, 21);
    let Ok(prepared) = prepare(model) else { return };
    let mut ranges = Ranges::new();
    for name in calibration_tensors(&prepared) {
        ranges.insert(name, Range { min: -1.0, max: 1.0 });
    }
    for activations in [Activations::U8Asymmetric, Activations::S8Symmetric] {
        if let Ok((quantized, _)) = quantize_static(&prepared, &ranges, &StaticOptions::new(activations)) {
            Model::parse(quantized.to_bytes()).unwrap();
        }
    }
    if let Ok(half) = to_float16(&prepared) {
        Model::parse(half.to_bytes()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        graph_form in 0..3,
    ) {
        let mut bytes = match graph_form {
            0 => small().proto(),
            1 => conditional("a").proto(),
            _ => classifier().proto(),
        }
        .encode_to_vec();
        for (index, byte) in &changes {
            let position = index.index(bytes.len());
            bytes[position] = *byte;
        }
        if let Some(cut) = cut {
            bytes.remove(cut.index(bytes.len()));
        }
        if let Ok(model) = Model::parse(bytes) {
            exercise(&model);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(model) = Model::parse(bytes) {
            exercise(&model);
        }
    }
}

fn classifier() -> Builder {
    let mut builder = Builder::new(11);
    builder.input("x", &[1, 4]);
    builder.gemm("x", "a", 3, 4);
    builder.node("Relu", &["a"], "b");
    builder.random("w", &[3, 2]);
    builder.random("bias", &[2]);
    builder.node("MatMul", &["b", "w"], "c");
    builder.node("Add", &["c", "bias"], "d");
    builder.node("Concat", &["d", "b"], "e");
    builder.node("Softmax", &["e"], "y");
    builder.output("y", &[1, 5]);
    builder
}
