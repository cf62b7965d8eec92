//! Nets as old, rare and odd exporters write them: old opsets, other number types, unknown lengths, control flow, foreign
//! domains, shared and empty tensors. The reference implementations say that every form of the file is valid and
//! computes what the file that was given does; what stays float is named. Broken structure is refused in `model::tests`,
//! data beside the model in `external`.

mod nets;

use nets::*;

use super::operator_tests::{closeness, ranges_of};
use super::reference_tests::{NEWEST, OLDEST, ask, outputs};
use super::*;
use crate::prepare;
use crate::proto::ModelProto;

/// `Operator` of each quantized node, `Operator: why` of each that stays float.
fn said(report: &QuantizeReport) -> Vec<String> {
    let line = |node: &NodeReport| match &node.outcome {
        NodeOutcome::Quantized => node.operator.clone(),
        NodeOutcome::FoldedIntoRange => format!("{} folded", node.operator),
        NodeOutcome::Float(reason) => format!("{}: {reason}", node.operator),
    };
    report.nodes.iter().map(line).collect()
}

/// What is said of one net in the opsets from 13 on.
const NEWER: &[&str] = &[
    "Conv",
    "Relu folded",
    "GlobalAveragePool",
    "Squeeze",
    "Gemm",
    "Softmax: Softmax has no 8-bit form here",
];

#[test]
fn odd_models_compute_the_same_in_every_form() {
    let nets: Vec<(&str, ModelProto, &[&str])> = vec![
        (
            "opset-9",
            opset_9("nearest"),
            &[
                "Conv",
                "Clip folded",
                "Resize",
                "Slice",
                "Split",
                "Pad: it pads with another number than 0",
                "Conv",
                "Add",
                "ReduceMean: ReduceMean has no 8-bit form here",
                "Squeeze: none of its inputs is quantized",
            ],
        ),
        (
            "opset-9-linear",
            opset_9("linear"),
            &[
                "Conv",
                "Clip folded",
                "Resize: ONNX Runtime resizes 8-bit values well only by `nearest`, not by `linear`",
                "Slice: none of its inputs is quantized",
                "Split: none of its inputs is quantized",
                "Pad: it pads with another number than 0",
                "Conv",
                "Add",
                "ReduceMean: ReduceMean has no 8-bit form here",
                "Squeeze: none of its inputs is quantized",
            ],
        ),
        (
            "opset-10",
            on_the_way(10),
            &[
                "Conv",
                "Resize",
                "Slice",
                "Relu: its input is not quantized, or has other readers",
                "DepthToSpace",
                "Conv",
            ],
        ),
        (
            "opset-11",
            on_the_way(11),
            &["Conv", "Resize", "Slice", "Pad", "DepthToSpace", "Conv"],
        ),
        (
            "opset-9-dropout",
            kept_dropout(),
            &["Conv", "Dropout: Dropout has no 8-bit form here"],
        ),
        ("opset-13", newer(13), NEWER),
        ("opset-18", newer(18), NEWER),
        ("opset-22", newer(22), NEWER),
        (
            "padded",
            padded(),
            &[
                "Conv",
                "Relu folded",
                "Pad",
                "MaxPool",
                "Conv",
                "GlobalAveragePool",
                "Flatten",
                "Gemm",
            ],
        ),
        (
            "enlarged",
            enlarged(),
            &[
                "Conv",
                "Resize",
                "Pad",
                "Conv",
                "Resize: ONNX Runtime resizes 8-bit values well only by `nearest`, not by `linear`",
                "Conv",
            ],
        ),
        (
            "recurrent",
            recurrent(),
            &[
                "GRU: GRU has no 8-bit form here",
                "Transpose: none of its inputs is quantized",
                "Reshape: none of its inputs is quantized",
                "RNN: RNN has no 8-bit form here",
                "Squeeze: none of its inputs is quantized",
                "MatMul",
            ],
        ),
        (
            "weights-in-parts",
            weights_in_parts(),
            &[
                "LSTM: LSTM has no 8-bit form here",
                "Squeeze: none of its inputs is quantized",
                "MatMul",
                "MatMul",
            ],
        ),
        (
            "float16",
            other_numbers(DataType::Float16),
            &[
                "MatMul: its weights are not constant float32",
                "Cast: Cast has no 8-bit form here",
                "Gemm",
            ],
        ),
        (
            "float64",
            other_numbers(DataType::Double),
            &[
                "MatMul: its weights are not constant float32",
                "Cast: Cast has no 8-bit form here",
                "Gemm",
            ],
        ),
        (
            "symbolic",
            symbolic(),
            &["Conv", "Relu folded", "GlobalAveragePool", "Flatten", "Gemm"],
        ),
        (
            "if",
            control_flow("If"),
            &[
                "Conv",
                "Identity: Identity has no 8-bit form here",
                "If: it has a subgraph",
                "Conv",
            ],
        ),
        (
            "loop",
            control_flow("Loop"),
            &[
                "Conv",
                "Identity: Identity has no 8-bit form here",
                "Loop: it has a subgraph",
                "Conv",
            ],
        ),
        (
            "scan",
            control_flow("Scan"),
            &[
                "Conv",
                "Squeeze: no quantized node takes its output",
                "Scan: it has a subgraph",
                "Conv",
            ],
        ),
        (
            "foreign",
            foreign_and_shared(),
            &[
                "Conv",
                "Gelu: operators of domain com.microsoft are not understood",
                "Conv",
                "Add",
            ],
        ),
        (
            "nameless",
            nameless_and_empty(),
            &[
                "Concat: none of its inputs is quantized",
                "Conv",
                "Relu folded",
                "Conv",
                "Conv",
            ],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, form: &str, model: &Model| {
        std::fs::write(
            folder.path().join(format!("{name}.{form}.onnx")),
            model.to_bytes(),
        )
        .unwrap();
    };
    let mut prepared = Vec::new();
    for (name, proto, expected) in nets {
        let given = Model::from_proto(proto).unwrap();
        write(name, "given", &given);
        let model = prepare(&given).unwrap_or_else(|error| panic!("{name}: {error}"));
        let shown = with_outputs(&model, &calibration_tensors(&model)).unwrap();
        write(name, "shown", &shown);
        prepared.push((name, model, expected));
    }
    let Some(float) = ask(&NEWEST, folder.path(), &[]) else {
        return;
    };
    let mut forms = Vec::new();
    let mut found = Vec::new();
    for (name, model, expected) in &prepared {
        std::fs::remove_file(folder.path().join(format!("{name}.shown.onnx"))).unwrap();
        let ranges = ranges_of(&float, &format!("{name}.shown.onnx"), model);
        let mut options = StaticOptions::new(Activations::U8Asymmetric);
        let (int8, report) = quantize_static(model, &ranges.rounded(), &options).unwrap();
        options.permuted = true;
        let (permuted, _) = quantize_static(model, &ranges.rounded(), &options).unwrap();
        found.push((*name, said(&report), expected.to_vec()));
        let weights = quantize_weights(model, WeightBits::Eight).unwrap().0;
        let made = [
            ("prepared", model.clone(), 100.0),
            ("int8", int8, 22.0),
            ("int8-permuted", permuted, 22.0),
            ("int8-dynamic", quantize_dynamic(model).unwrap().0, 22.0),
            ("int8-weights", weights, 30.0),
        ];
        for (form, model, least_db) in made {
            write(name, form, &model);
            forms.push((*name, form, least_db));
        }
    }
    for (name, said, expected) in &found {
        assert_eq!(said, expected, "{name}");
    }
    let answers = [ask(&NEWEST, folder.path(), &[]), ask(&OLDEST, folder.path(), &[])];
    for answer in answers.iter().flatten() {
        for (name, form, least_db) in &forms {
            let given = outputs(answer, &format!("{name}.given.onnx"));
            let made = outputs(answer, &format!("{name}.{form}.onnx"));
            let sqnr_db = closeness(&given, &made);
            assert!(
                given == made || sqnr_db > *least_db,
                "{name}.{form}: {sqnr_db} dB"
            );
        }
    }
}
