//! Every form that a model's weights can have, on every kind of processor that a release has an image for: an image's
//! model is replaced by another form of the same model, or by a net of operators that run on integers only as several
//! others, and the device's predictions are compared with this machine's.

use std::collections::BTreeMap;
use std::path::Path;

use aiot_build::quantizer::observe::{RangeMethod, observe};
use aiot_build::quantizer::samples::Samples;
use aiot_inference::engine::{Engine, SessionOptions};
use aiot_inference::{Model as Served, Prediction};
use aiot_oci::Digest;
use aiot_onnx::proto::tensor_proto::DataType;
use aiot_onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use aiot_onnx::{Activations, Dimension, Exactness, Model, QuantizeReport, StaticOptions, WeightBits};
use aiot_package::{ModelPackage, Precision};
use aiot_testkit::device::{Device, can_run};
use aiot_testkit::released::Released;

use crate::common::{Image, images};
use crate::emulation::{assert_same, bound, samples};

/// A graph that is put together node by node, with generated weights.
struct Net {
    graph: GraphProto,
    state: u64,
}

impl Net {
    /// A constant with numbers in -0.5..0.5.
    fn weight(&mut self, name: &str, dims: &[i64]) {
        let count = dims.iter().product::<i64>();
        let number = |_| {
            self.state = self
                .state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let float_data = (0..count).map(number).collect();
        self.graph.initializer.push(TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(DataType::Float as i32),
            dims: dims.to_vec(),
            float_data,
            ..TensorProto::default()
        });
    }

    fn node(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, &[i64])]) {
        let attribute = |(name, values): &(&str, &[i64])| AttributeProto {
            name: Some((*name).to_owned()),
            // AttributeProto.AttributeType.INTS
            r#type: Some(7),
            ints: values.to_vec(),
            ..AttributeProto::default()
        };
        self.graph.node.push(NodeProto {
            op_type: Some(operator.to_owned()),
            name: Some(output.to_owned()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes.iter().map(attribute).collect(),
            ..NodeProto::default()
        });
    }
}

/// A net with the inputs and outputs of `like`: transposed convolutions, HardSwish and HardSigmoid between others.
fn net_like(like: &Model) -> Model {
    let facts = aiot_onnx::inspect(like);
    let last = |tensor: &aiot_onnx::TensorFacts, axis: usize| match tensor.shape.as_ref().unwrap()[axis] {
        Dimension::Fixed(length) => length,
        Dimension::Symbolic(_) => panic!("{tensor:?} has an open axis"),
    };
    let (channels, classes) = (last(&facts.inputs[0], 1), last(&facts.outputs[0], 1));
    let float = like.proto().graph.as_ref().unwrap();
    let graph = GraphProto {
        name: Some("net".to_owned()),
        input: vec![float.input[0].clone()],
        output: vec![float.output[0].clone()],
        ..GraphProto::default()
    };
    let mut net = Net { graph, state: 7 };
    let (input, output) = (facts.inputs[0].name.as_str(), facts.outputs[0].name.as_str());
    for (name, dims) in [
        ("w1", &[8, channels, 3, 3][..]),
        ("w2", &[8, 8, 4, 4]),
        ("w3", &[8, 8, 2, 2]),
        ("w4", &[8, 8, 3, 3]),
        ("w5", &[8, classes]),
    ] {
        net.weight(name, dims);
    }
    let around: (&str, &[i64]) = ("pads", &[1, 1, 1, 1]);
    let twice: (&str, &[i64]) = ("strides", &[2, 2]);
    net.node("Conv", &[input, "w1"], "a", &[around]);
    net.node("HardSwish", &["a"], "b", &[]);
    net.node("ConvTranspose", &["b", "w2"], "c", &[around, twice]);
    net.node("Relu", &["c"], "d", &[]);
    net.node("ConvTranspose", &["d", "w3"], "e", &[twice]);
    net.node("Conv", &["e", "w4"], "f", &[around]);
    net.node("HardSigmoid", &["f"], "g", &[]);
    net.node("Mul", &["f", "g"], "h", &[]);
    net.node("GlobalAveragePool", &["h"], "i", &[]);
    net.node("Flatten", &["i"], "j", &[]);
    net.node("Gemm", &["j", "w5"], output, &[]);
    let proto = ModelProto {
        graph: Some(net.graph),
        ..like.proto().clone()
    };
    Model::from_proto(proto).unwrap()
}

/// Every form of a model, in words.
fn forms(engine: &Engine, model: &Model, samples: &Samples) -> Vec<(&'static str, Precision, Model)> {
    let prepared = aiot_onnx::prepare(model).unwrap();
    let observed = observe(engine, &prepared, samples).unwrap();
    let ranges = observed.ranges(RangeMethod::MinMax, Activations::U8Asymmetric);
    let options = StaticOptions::new(Activations::U8Asymmetric);
    let quantized = |made: (Model, QuantizeReport)| {
        assert!(made.1.quantized() > 0, "{:?}", made.1);
        made.0
    };
    vec![
        ("none", Precision::Float32, prepared.clone()),
        (
            "int8",
            Precision::Int8,
            quantized(aiot_onnx::quantize_static(&prepared, &ranges, &options).unwrap()),
        ),
        (
            "int8-dynamic",
            Precision::Int8Dynamic,
            quantized(aiot_onnx::quantize_dynamic(&prepared).unwrap()),
        ),
        (
            "int8-weights",
            Precision::Int8Weights,
            quantized(aiot_onnx::quantize_weights(&prepared, WeightBits::Eight).unwrap()),
        ),
        (
            "int4-weights",
            Precision::Int4Weights,
            quantized(aiot_onnx::quantize_weights(&prepared, WeightBits::Four).unwrap()),
        ),
    ]
}

/// Puts a model into an unpacked image in the place of its own.
fn replace(package_folder: &Path, onnx: &[u8], precision: Precision) {
    let path = package_folder.join("package.json");
    let mut package: ModelPackage = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    package.model.sha256 = Digest::of(onnx).hex();
    package.model.size_bytes = onnx.len() as u64;
    package.model.precision = precision;
    std::fs::write(package_folder.join(&package.model.path), onnx).unwrap();
    std::fs::write(path, serde_json::to_vec(&package).unwrap()).unwrap();
    // It describes the other model's outputs.
    let _ = std::fs::remove_file(package_folder.join(aiot_package::BASELINE_FILE));
}

/// Images of the model with labels that goes to the most kinds of processor, one for each kind; the smallest such.
fn widest(released: &Released) -> Vec<Image> {
    let mut found: BTreeMap<String, BTreeMap<String, Image>> = BTreeMap::new();
    for image in images(released) {
        let of_model = found.entry(image.model.name.to_string()).or_default();
        if image.model.labels_path.is_some() && image.model.calibration_path.is_some() {
            of_model
                .entry(image.platform.architecture().to_owned())
                .or_insert(image);
        }
    }
    let size = |image: &Image| {
        std::fs::metadata(released.root.join(&image.model.path))
            .unwrap()
            .len()
    };
    let key = |images: &BTreeMap<String, Image>| {
        (
            images.len(),
            std::cmp::Reverse(images.values().map(size).max().unwrap_or(u64::MAX)),
        )
    };
    let widest = found.into_values().max_by_key(key).unwrap();
    assert!(widest.len() >= 3, "{:?}", widest.keys());
    widest.into_values().collect()
}

#[test]
fn every_form_predicts_on_every_processor_like_here() {
    let Some(released) = Released::find() else { return };
    let engine = std::env::var_os("AIOT_TEST_ENGINE").expect("`cargo xtask test` sets AIOT_TEST_ENGINE");
    let engine = Engine::load(Path::new(&engine)).unwrap();
    let images = widest(&released);
    let declared = &images[0].model;
    let model = Model::parse(std::fs::read(released.root.join(&declared.path)).unwrap()).unwrap();
    let calibration = released.root.join(declared.calibration_path.as_ref().unwrap());
    let calibration = Samples::declared(&calibration, &declared.input).unwrap();
    let mut variants = forms(&engine, &model, &calibration);
    let (_, precision, many) = forms(&engine, &net_like(&model), &calibration).swap_remove(1);
    assert_eq!(
        (precision, aiot_onnx::exactness(&many)),
        (Precision::Int8, Exactness::Exact)
    );
    variants.push(("int8 of many operators", precision, many));
    for image in images {
        if !can_run(image.platform.architecture()) {
            continue;
        }
        let device = Device::unpack(&released.images(), &image.digest);
        let files = samples(&released.root, &image);
        let mut arguments = vec!["predict"];
        arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
        for (name, precision, variant) in &variants {
            replace(&device.package(), &variant.to_bytes(), *precision);
            let here = Served::open(&device.package(), &engine, &SessionOptions::default()).unwrap();
            let host: Vec<Prediction> = files
                .iter()
                .flat_map(|file| here.predict_file(file).unwrap())
                .collect();
            let ended = device.run(&arguments).expect(0);
            let there: Vec<Prediction> = ended
                .stdout
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            assert_same(
                &format!("{} as {name}", image.name),
                bound(*precision),
                &host,
                &there,
            );
        }
    }
}
