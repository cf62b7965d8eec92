//! `quantize` and `inspect` on this workspace's models, run by the engine that the release fetched.

use aiot_testkit::released::Released;
use serde_json::Value;

use crate::common::{XTASK, declared, set_key, smallest_model};

/// Schemes that need no calibration.
const DIRECT: [&str; 4] = ["int8-dynamic", "int8-weights", "int4-weights", "float16"];

#[test]
fn a_sweep_shows_all_schemes_side_by_side_and_writes_nothing() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy_with_wheels();
    let before = copy.committed();
    let model = smallest_model(&copy, |model| model.calibration_path.is_some());
    let arguments = [
        "quantize",
        model.name.as_str(),
        "--sweep",
        "--offline",
        "--format",
        "json",
    ];
    let ended = copy.run(XTASK, &arguments).expect(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let rows = report["variants"].as_array().unwrap();
    let schemes: Vec<&str> = rows.iter().map(|row| row["scheme"].as_str().unwrap()).collect();
    assert_eq!(
        schemes,
        [
            "float32",
            "int8",
            "int8-dynamic",
            "int8-weights",
            "int4-weights",
            "int8-symmetric",
            "float16"
        ]
    );
    for row in &rows[1..] {
        // Equal outputs have no noise.
        let sqnr = row["sqnr-db"].as_f64().unwrap_or(f64::INFINITY);
        assert!(sqnr > 12.0, "{row}");
        assert!(
            row["size-bytes"].as_u64() <= rows[0]["size-bytes"].as_u64(),
            "{row}"
        );
        assert!(row["latency-ratio"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(copy.committed(), before);
}

#[test]
fn any_file_is_quantized_without_a_declaration() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |_| true);
    let file = copy.root.join(&model.path);
    let file = file.to_str().unwrap();
    let inspected = copy.run(XTASK, &["inspect", file, "--format", "json"]).expect(0);
    let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
    for scheme in DIRECT {
        let output = copy.beside().join(format!("{scheme}.onnx"));
        let arguments = [
            "quantize",
            "--model",
            file,
            "--scheme",
            scheme,
            "--offline",
            "--output",
        ];
        let arguments: Vec<&str> = arguments.into_iter().chain(output.to_str()).collect();
        copy.run(XTASK, &arguments).expect(0);
        let length = std::fs::metadata(&output).unwrap().len();
        let told = inspected["sizes"].as_array().unwrap();
        let told = told.iter().find(|entry| entry[0] == scheme).unwrap();
        assert_eq!(told[1].as_u64(), Some(length), "{scheme}: inspect said otherwise");
        let again = std::fs::read(&output).unwrap();
        copy.run(XTASK, &arguments).expect(0);
        assert_eq!(
            std::fs::read(&output).unwrap(),
            again,
            "{scheme}: other bytes the second time"
        );
    }
    let refused = copy.run(
        XTASK,
        &["quantize", "--model", file, "--offline", "--output", "x.onnx"],
    );
    assert!(refused.expect(1).stderr.contains("int8 needs --calibration DIR"));
}

#[test]
fn a_declared_scheme_without_ranges_is_released() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy();
    let model = smallest_model(&copy, |model| model.calibration_path.is_some());
    let header = format!("model.{}.quantization", model.name);
    for scheme in ["int8-weights", "int8-dynamic"] {
        set_key(&copy, "models.toml", &header, "scheme", &format!("\"{scheme}\""));
        let ended = copy.run(XTASK, &["release", "--offline"]).expect(0);
        assert!(
            ended
                .stderr
                .contains(&format!("quantize {} {scheme}", model.name)),
            "{}",
            ended.stderr
        );
        assert!(ended.stdout.contains(scheme), "{}", ended.stdout);
        let workspace = declared(&copy.root);
        assert!(!workspace.models[&model.name].needs_calibration(&workspace));
    }
}

/// An LSTM over twelve steps with a matrix behind it; weights from a fixed row.
fn recurrent_net() -> Vec<u8> {
    use aiot_onnx::proto::attribute_proto::AttributeType;
    use aiot_onnx::proto::tensor_shape_proto::{Dimension, dimension};
    use aiot_onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
        TypeProto, ValueInfoProto, type_proto,
    };
    let mut state = 1u64;
    let mut tensor = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>();
        let bytes = (0..count).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * 0.3).to_le_bytes()
        });
        TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(1),
            dims: dims.to_vec(),
            raw_data: Some(bytes.collect::<Vec<u8>>().into()),
            ..TensorProto::default()
        }
    };
    let mut initializer = vec![
        tensor("w", &[1, 256, 16]),
        tensor("r", &[1, 256, 64]),
        tensor("b", &[1, 512]),
        tensor("m", &[64, 4]),
    ];
    initializer.push(TensorProto {
        name: Some("axis".to_owned()),
        data_type: Some(7),
        dims: vec![1],
        raw_data: Some(0i64.to_le_bytes().to_vec().into()),
        ..TensorProto::default()
    });
    let value = |name: &str, dims: &[i64]| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(1),
                shape: Some(TensorShapeProto {
                    dim: dims
                        .iter()
                        .map(|&dim| Dimension {
                            value: Some(dimension::Value::DimValue(dim)),
                            ..Dimension::default()
                        })
                        .collect(),
                }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    };
    let node = |operator: &str, inputs: &[&str], outputs: &[&str]| NodeProto {
        name: Some(operator.to_owned()),
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        ..NodeProto::default()
    };
    let mut lstm = node("LSTM", &["x", "w", "r", "b"], &["all", "last"]);
    lstm.attribute.push(AttributeProto {
        name: Some("hidden_size".to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(64),
        ..AttributeProto::default()
    });
    let mut turn = node("Transpose", &["windows"], &["x"]);
    turn.attribute.push(AttributeProto {
        name: Some("perm".to_owned()),
        r#type: Some(AttributeType::Ints as i32),
        ints: vec![1, 0, 2],
        ..AttributeProto::default()
    });
    let graph = GraphProto {
        name: Some("recurrent".to_owned()),
        node: vec![
            turn,
            lstm,
            node("Squeeze", &["last", "axis"], &["s"]),
            node("MatMul", &["s", "m"], &["y"]),
        ],
        initializer,
        input: vec![value("windows", &[1, 12, 16])],
        output: vec![value("y", &[1, 4])],
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    aiot_onnx::Model::from_proto(model).unwrap().to_bytes().to_vec()
}

/// float32 numbers as `.npy`.
fn npy(shape: &str, numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(numbers.flat_map(f32::to_le_bytes));
    bytes
}

#[test]
fn a_recurrent_net_gets_its_scales_at_run_time_and_says_so() {
    let Some(released) = Released::find() else { return };
    let copy = released.copy_with_wheels();
    let calibration = copy.beside().join("calibration");
    std::fs::create_dir(&calibration).unwrap();
    let numbers = (0..8 * 12 * 16).map(|number| (number as f32 * 0.37).sin());
    std::fs::write(calibration.join("windows.npy"), npy("(8, 12, 16)", numbers)).unwrap();
    let (file, output) = (copy.beside().join("net.onnx"), copy.beside().join("out.onnx"));
    std::fs::write(&file, recurrent_net()).unwrap();
    let plot = copy.beside().join("net.svg");
    let quantize = |more: &[&str]| {
        let arguments = [
            "quantize",
            "--model",
            file.to_str().unwrap(),
            "--calibration",
            calibration.to_str().unwrap(),
            "--offline",
            "--format",
            "json",
        ];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        copy.run(XTASK, &arguments)
    };
    let ended = quantize(&["--output", output.to_str().unwrap()]).expect(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let last = report["tried"]["int8"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["what"], &last["kept"]),
        (&"scales found at run time".into(), &true.into())
    );
    // The LSTM holds nearly all of the weights, and fixed scales leave it in float.
    let rows = report["variants"].as_array().unwrap();
    let sizes: Vec<u64> = rows
        .iter()
        .map(|row| row["size-bytes"].as_u64().unwrap())
        .collect();
    assert!(sizes[1] * 3 < sizes[0], "{sizes:?}");
    assert_eq!(std::fs::metadata(&output).unwrap().len(), sizes[1]);

    // No node of it can be chosen, so there is nothing to draw; all schemes can be drawn.
    let refused = quantize(&["--plot", plot.to_str().unwrap()]).expect(1);
    assert!(
        refused.stderr.contains("--sweep draws all schemes"),
        "{}",
        refused.stderr
    );
    let swept = quantize(&["--sweep", "--plot", plot.to_str().unwrap()]).expect(0);
    let report: Value = serde_json::from_str(&swept.stdout).unwrap();
    let rows = report["variants"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["pareto"] == true), "{}", swept.stdout);
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert_eq!(drawn.matches("<circle").count(), rows.len());
}
