//! The nets of `odd_tests`: as old, rare and odd exporters write them.

use crate::graph::{int_attribute, new_node};
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::tensor_shape_proto::dimension;
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto, type_proto,
};
use crate::tensor;
use crate::testing::{Builder, float_attribute, ints_attribute, value};

/// A net that makes `y` of so many dimensions from a picture `x`.
fn picture(opset: i64, rank: usize) -> Builder {
    let mut builder = Builder::new(opset);
    builder.input("x", &[1, 3, 8, 8]);
    builder.graph.output.push(unknown("y", rank));
    builder
}

/// A float value of which only the rank is known: each length is a name.
fn unknown(name: &str, rank: usize) -> ValueInfoProto {
    let mut unknown = value(name, &vec![1; rank]);
    let shape = tensor_type(&mut unknown).shape.as_mut().unwrap();
    for (place, length) in shape.dim.iter_mut().enumerate() {
        length.value = Some(dimension::Value::DimParam(format!("{name}_{place}")));
    }
    unknown
}

fn tensor_type(value: &mut ValueInfoProto) -> &mut type_proto::Tensor {
    match value.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        _ => unreachable!("made by `value`"),
    }
}

fn of_type(mut value: ValueInfoProto, data_type: DataType) -> ValueInfoProto {
    tensor_type(&mut value).elem_type = Some(data_type as i32);
    value
}

fn words(name: &str, word: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::String as i32),
        s: Some(word.as_bytes().to_vec()),
        ..AttributeProto::default()
    }
}

fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(GraphProto {
            name: Some(name.to_owned()),
            ..graph
        }),
        ..AttributeProto::default()
    }
}

/// Opset 9 as IR 3 has it: lists and bounds are attributes, weights are inputs too.
pub(super) fn opset_9(mode: &str) -> ModelProto {
    let mut builder = picture(9, 3);
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.batch_normalization("a", "b", 4);
    builder
        .node("Clip", &["b"], "c")
        .attribute
        .extend([float_attribute("min", 0.0), float_attribute("max", 6.0)]);
    let dropout = builder.node("Dropout", &["c"], "d");
    dropout.output.push("mask".to_owned());
    dropout.attribute.push(float_attribute("ratio", 0.5));
    builder.constant("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
    builder
        .node("Upsample", &["d", "scales"], "e")
        .attribute
        .push(words("mode", mode));
    builder.node("Slice", &["e"], "f").attribute.extend([
        ints_attribute("starts", &[1, 2]),
        ints_attribute("ends", &[15, i64::MAX]),
        ints_attribute("axes", &[2, 3]),
    ]);
    let split = builder.node("Split", &["f"], "g");
    split.output.push("h".to_owned());
    split
        .attribute
        .extend([int_attribute("axis", 1), ints_attribute("split", &[1, 3])]);
    builder.node("Pad", &["h"], "i").attribute.extend([
        ints_attribute("pads", &[0, 0, 1, 1, 0, 0, 1, 1]),
        float_attribute("value", 0.5),
    ]);
    builder.conv("i", "j", [1, 3, 3, 3], 1, 0);
    builder.node("Add", &["g", "j"], "k");
    builder
        .node("ReduceMean", &["k"], "l")
        .attribute
        .push(ints_attribute("axes", &[2]));
    builder
        .node("Squeeze", &["l"], "y")
        .attribute
        .push(ints_attribute("axes", &[2]));
    let weights: Vec<ValueInfoProto> = {
        let weights = builder.graph.initializer.iter();
        weights.map(|tensor| value(tensor.name(), &tensor.dims)).collect()
    };
    builder.graph.input.extend(weights);
    ModelProto {
        ir_version: Some(3),
        ..builder.proto()
    }
}

/// Opsets 10 and 11: positions are inputs, bounds and scales on the way.
pub(super) fn on_the_way(opset: i64) -> ModelProto {
    let mut builder = picture(opset, 4);
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.constant("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
    builder.constant("all", &[0], &[]);
    let inputs = if opset == 10 {
        vec!["a", "scales"]
    } else {
        vec!["a", "all", "scales"]
    };
    builder.node("Resize", &inputs, "b");
    for (name, place) in [("from", 2), ("to", 14), ("axis", 3)] {
        builder.integers(name, &[place]);
    }
    builder.node("Slice", &["b", "from", "to", "axis"], "c");
    if opset == 11 {
        builder.integers("pads", &[0, 0, 1, 0, 0, 0, 0, 1]);
        builder
            .node("Pad", &["c", "pads"], "d")
            .attribute
            .push(words("mode", "edge"));
    } else {
        builder.node("Relu", &["c"], "d");
    }
    builder
        .node("DepthToSpace", &["d"], "e")
        .attribute
        .push(int_attribute("blocksize", 2));
    builder.conv("e", "y", [2, 1, 3, 3], 1, 1);
    builder.proto()
}

/// Opset 9: a Dropout that stays, since it is all that is between an input and an output.
pub(super) fn kept_dropout() -> ModelProto {
    let mut builder = picture(9, 4);
    builder.conv("x", "y", [2, 3, 1, 1], 1, 0);
    builder.output("same", &[1, 3, 8, 8]);
    builder
        .node("Dropout", &["x"], "same")
        .attribute
        .push(float_attribute("ratio", 0.1));
    builder.proto()
}

/// A mean whose axes are an attribute before opset 18 and an input since.
pub(super) fn newer(opset: i64) -> ModelProto {
    let mut builder = picture(opset, 2);
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.batch_normalization("a", "b", 4);
    builder.node("Relu", &["b"], "c");
    if opset >= 18 {
        builder.integers("axes", &[2, 3]);
        builder.node("ReduceMean", &["c", "axes"], "d");
    } else {
        builder
            .node("ReduceMean", &["c"], "d")
            .attribute
            .push(ints_attribute("axes", &[2, 3]));
    }
    builder.integers("squeezed", &[2, 3]);
    builder.node("Squeeze", &["d", "squeezed"], "e");
    builder.gemm("e", "f", 3, 4);
    builder.node("Softmax", &["f"], "y");
    ModelProto {
        ir_version: Some(if opset > 22 { 11 } else { 8 }),
        ..builder.proto()
    }
}

/// Zeros around a picture before a convolution and before pooling, and a mean that drops its axes.
pub(super) fn padded() -> ModelProto {
    let mut builder = picture(17, 2);
    builder.integers("around", &[0, 0, 0, 1, 0, 0, 2, 3]);
    builder.constant("zero", &[], &[0.0]);
    builder.node("Pad", &["x", "around", "zero"], "a");
    builder.conv("a", "b", [4, 3, 3, 3], 1, 1);
    builder.node("Relu", &["b"], "c");
    builder.integers("after", &[0, 0, 0, 0, 0, 0, 1, 1]);
    builder.node("Pad", &["c", "after"], "d");
    builder.node("MaxPool", &["d"], "e").attribute.extend([
        ints_attribute("kernel_shape", &[3, 3]),
        ints_attribute("strides", &[2, 2]),
    ]);
    builder.conv("e", "f", [4, 4, 3, 3], 1, 0);
    builder
        .node("ReduceMean", &["f"], "g")
        .attribute
        .extend([ints_attribute("axes", &[-1, 2]), int_attribute("keepdims", 0)]);
    builder.gemm("g", "y", 5, 4);
    builder.proto()
}

/// Made larger and mirrored at its edges on the way, by factors and to a size.
pub(super) fn enlarged() -> ModelProto {
    let mut builder = picture(17, 4);
    builder.conv("x", "a", [8, 3, 3, 3], 1, 1);
    builder.constant("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
    builder.node("Resize", &["a", "", "scales"], "b");
    builder.integers("around", &[0, 0, 1, 1, 0, 0, 1, 2]);
    let mirror = builder.node("Pad", &["b", "around"], "c");
    mirror.attribute.push(words("mode", "reflect"));
    builder.conv("c", "d", [6, 8, 3, 3], 1, 0);
    builder.integers("size", &[1, 6, 24, 20]);
    let resize = builder.node("Resize", &["d", "", "", "size"], "e");
    resize.attribute.push(words("mode", "linear"));
    builder.conv("e", "y", [2, 6, 1, 1], 1, 0);
    builder.proto()
}

/// Recurrent nodes that ONNX Runtime has no 8-bit kernels for, one in both directions, one with a bias.
pub(super) fn recurrent() -> ModelProto {
    let mut builder = Builder::new(17);
    builder.input("x", &[6, 2, 3]);
    builder.graph.output.push(unknown("y", 3));
    builder.random("gru_w", &[2, 12, 3]);
    builder.random("gru_r", &[2, 12, 4]);
    builder.random("gru_b", &[2, 24]);
    let gru = builder.node("GRU", &["x", "gru_w", "gru_r", "gru_b"], "a");
    gru.attribute.extend([
        int_attribute("hidden_size", 4),
        words("direction", "bidirectional"),
    ]);
    builder
        .node("Transpose", &["a"], "b")
        .attribute
        .push(ints_attribute("perm", &[0, 2, 1, 3]));
    builder.integers("flat", &[6, 2, 8]);
    builder.node("Reshape", &["b", "flat"], "c");
    builder.random("rnn_w", &[1, 4, 8]);
    builder.random("rnn_r", &[1, 4, 4]);
    let rnn = builder.node("RNN", &["c", "rnn_w", "rnn_r"], "d");
    rnn.attribute.push(int_attribute("hidden_size", 4));
    builder.integers("direction", &[1]);
    builder.node("Squeeze", &["d", "direction"], "e");
    builder.random("w", &[4, 5]);
    builder.node("MatMul", &["e", "w"], "y");
    builder.proto()
}

/// Weights that are put together when the file is run: gates in another order as torch's newer exporter leaves them, a
/// matrix to be turned, one in half precision.
pub(super) fn weights_in_parts() -> ModelProto {
    let mut builder = Builder::new(17);
    builder.input("x", &[6, 2, 3]);
    builder.graph.output.push(unknown("y", 3));
    for (name, width) in [("w", 3), ("r", 4)] {
        let named = |what: &str| format!("{name}_{what}");
        builder.random(&named("all"), &[16, width]);
        let mut parts = Vec::new();
        for (place, (from, to)) in [(0, 4), (12, 16), (4, 12)].into_iter().enumerate() {
            let [from_name, to_name] = ["from", "to"].map(|what| named(&format!("{what}{place}")));
            builder.integers(&from_name, &[from]);
            builder.integers(&to_name, &[to]);
            parts.push(named(&format!("part{place}")));
            builder.node("Slice", &[&named("all"), &from_name, &to_name], &parts[place]);
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let concat = builder.node("Concat", &parts, &named("gates"));
        concat.attribute.push(int_attribute("axis", 0));
        builder.integers(&named("axis"), &[0]);
        builder.node("Unsqueeze", &[&named("gates"), &named("axis")], name);
    }
    let lstm = builder.node("LSTM", &["x", "w", "r"], "a");
    lstm.attribute.push(int_attribute("hidden_size", 4));
    builder.integers("direction", &[1]);
    builder.node("Squeeze", &["a", "direction"], "b");
    builder.random("matrix", &[8, 4]);
    builder.node("Transpose", &["matrix"], "turned");
    builder.node("MatMul", &["b", "turned"], "c");
    let halves: Vec<half::f16> = builder.numbers(40).into_iter().map(half::f16::from_f32).collect();
    builder
        .graph
        .initializer
        .push(tensor::from_halves("half", &[8, 5], &halves));
    let cast = builder.node("Cast", &["half"], "whole");
    cast.attribute.push(int_attribute("to", DataType::Float as i64));
    builder.node("MatMul", &["c", "whole"], "y");
    builder.proto()
}

/// A product of another number type before one of floats.
pub(super) fn other_numbers(data_type: DataType) -> ModelProto {
    let mut builder = Builder::new(17);
    builder.graph.input.push(of_type(value("x", &[2, 4]), data_type));
    builder.graph.output.push(unknown("y", 2));
    let numbers = builder.numbers(12);
    let weight = match data_type {
        DataType::Float16 => {
            let halves: Vec<half::f16> = numbers
                .iter()
                .map(|&number| half::f16::from_f32(number))
                .collect();
            tensor::from_halves("w", &[4, 3], &halves)
        }
        _ => TensorProto {
            name: Some("w".to_owned()),
            data_type: Some(data_type as i32),
            dims: vec![4, 3],
            raw_data: Some(
                numbers
                    .iter()
                    .flat_map(|&number| f64::from(number).to_le_bytes())
                    .collect::<Vec<u8>>()
                    .into(),
            ),
            ..TensorProto::default()
        },
    };
    builder.graph.initializer.push(weight);
    builder.node("MatMul", &["x", "w"], "a");
    builder
        .node("Cast", &["a"], "b")
        .attribute
        .push(int_attribute("to", DataType::Float as i64));
    builder.gemm("b", "y", 5, 3);
    builder.proto()
}

/// Batch, height and width are names.
pub(super) fn symbolic() -> ModelProto {
    let mut builder = picture(17, 2);
    let shape = tensor_type(&mut builder.graph.input[0]).shape.as_mut().unwrap();
    for (place, name) in [(0, "batch"), (2, "height"), (3, "width")] {
        shape.dim[place].value = Some(dimension::Value::DimParam(name.to_owned()));
    }
    builder.conv("x", "a", [4, 3, 3, 3], 1, 1);
    builder.node("Relu", &["a"], "b");
    builder.node("GlobalAveragePool", &["b"], "c");
    builder.node("Flatten", &["c"], "d");
    builder.gemm("d", "y", 5, 4);
    builder.proto()
}

/// If, Loop or Scan between convolutions; the graphs inside read a value and the first convolution's weight.
pub(super) fn control_flow(operator: &str) -> ModelProto {
    let mut builder = picture(17, 4);
    builder.random("w", &[3, 3, 1, 1]);
    builder.node("Conv", &["x", "w"], "a");
    builder.node("Identity", &["a"], "b");
    let convolve = |input: &str| new_node("Conv", "inside", &[input, "w"], &["made"]);
    match operator {
        "If" => {
            builder
                .graph
                .input
                .push(of_type(value("flag", &[]), DataType::Bool));
            let branch = |node| GraphProto {
                node: vec![node],
                output: vec![unknown("made", 4)],
                ..GraphProto::default()
            };
            let negative = new_node("Neg", "other", &["b"], &["made"]);
            builder.node("If", &["flag"], "c").attribute.extend([
                subgraph("then_branch", branch(convolve("b"))),
                subgraph("else_branch", branch(negative)),
            ]);
        }
        "Loop" => {
            builder
                .graph
                .initializer
                .push(tensor::from_i64("times", &[], &[3]));
            let body = GraphProto {
                node: vec![
                    new_node("Identity", "go_on", &["before"], &["after"]),
                    convolve("state"),
                    new_node("Add", "sum", &["made", "b"], &["next"]),
                ],
                input: vec![
                    of_type(value("turn", &[]), DataType::Int64),
                    of_type(value("before", &[]), DataType::Bool),
                    value("state", &[1, 3, 8, 8]),
                ],
                output: vec![
                    of_type(value("after", &[]), DataType::Bool),
                    value("next", &[1, 3, 8, 8]),
                ],
                ..GraphProto::default()
            };
            builder
                .node("Loop", &["times", "", "b"], "c")
                .attribute
                .push(subgraph("body", body));
        }
        _ => {
            let body = GraphProto {
                node: vec![
                    new_node("Add", "sum", &["state", "row"], &["next"]),
                    new_node("Identity", "same", &["next"], &["shown"]),
                ],
                input: vec![value("state", &[3, 8, 8]), value("row", &[3, 8, 8])],
                output: vec![value("next", &[3, 8, 8]), value("shown", &[3, 8, 8])],
                ..GraphProto::default()
            };
            builder.integers("first", &[0]);
            builder.node("Squeeze", &["b", "first"], "start");
            let scan = builder.node("Scan", &["start", "b"], "last");
            scan.output.push("c".to_owned());
            scan.attribute
                .extend([subgraph("body", body), int_attribute("num_scan_inputs", 1)]);
        }
    }
    builder.conv("c", "y", [2, 3, 3, 3], 1, 1);
    builder.proto()
}

/// An operator of the engine's own domain between convolutions; both of them and a sum read one weight.
pub(super) fn foreign_and_shared() -> ModelProto {
    let mut builder = picture(17, 4);
    builder.random("w", &[3, 3, 1, 1]);
    builder.node("Conv", &["x", "w"], "a");
    builder.node("Gelu", &["a"], "b").domain = Some("com.microsoft".to_owned());
    builder.node("Conv", &["b", "w"], "c");
    builder.node("Add", &["c", "w"], "y");
    let mut proto = builder.proto();
    proto.opset_import.push(OperatorSetIdProto {
        domain: Some("com.microsoft".to_owned()),
        version: Some(1),
    });
    proto
}

/// Nodes without names; a constant of no numbers.
pub(super) fn nameless_and_empty() -> ModelProto {
    let mut builder = picture(17, 4);
    builder.constant("nothing", &[1, 0, 8, 8], &[]);
    builder
        .node("Concat", &["x", "nothing"], "a")
        .attribute
        .push(int_attribute("axis", 1));
    builder.conv("a", "b", [4, 3, 3, 3], 1, 1);
    builder.node("Relu", &["b"], "c");
    builder.conv("c", "d", [4, 4, 3, 3], 1, 1);
    builder.conv("d", "y", [2, 4, 1, 1], 1, 0);
    let mut proto = builder.proto();
    for node in &mut proto.graph.as_mut().unwrap().node {
        node.name = None;
    }
    proto
}
