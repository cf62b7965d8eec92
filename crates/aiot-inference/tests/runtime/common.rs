//! What the tests with a real engine share.

use std::path::PathBuf;

use aiot_inference::{Engine, Model, ModelError, SessionOptions};
use aiot_package::{
    Activation, Colour, Digest, ImageInput, InputSpec, ModelFile, ModelPackage, Normalization, OutputSpec,
    PACKAGE_FORMAT_VERSION, Precision, SignalInput, Task,
};

pub fn engine() -> Engine {
    let path = std::env::var_os("AIOT_TEST_ENGINE")
        .expect("set AIOT_TEST_ENGINE to the path of a libonnxruntime.so (cargo xtask test does)");
    Engine::load(&PathBuf::from(path)).unwrap()
}

pub fn onnx(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

pub fn package(name: &str, onnx: &[u8]) -> ModelPackage {
    let labels: &[&str] = match name {
        "colour" => &["red", "green", "blue"],
        "mean-sum" => &["mean", "sum"],
        "reciprocal" => &["reciprocal"],
        _ => &[],
    };
    let signal = SignalInput {
        channels: 1,
        window: 8,
        stride: 8,
        normalization: Normalization::None,
        layout: Default::default(),
    };
    let image = ImageInput {
        width: 4,
        height: 4,
        colour: Colour::Rgb,
        resize: Default::default(),
        fit: Default::default(),
        scale: 1.0 / 255.0,
        mean: vec![],
        std: vec![],
        layout: Default::default(),
    };
    ModelPackage {
        format_version: PACKAGE_FORMAT_VERSION,
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        description: "A test.".to_owned(),
        task: match name {
            "colour" => Task::Classification,
            "clip" => Task::AnomalyDetection,
            _ => Task::Regression,
        },
        model: ModelFile {
            path: "model.onnx".to_owned(),
            sha256: Digest::of(onnx).hex(),
            size_bytes: onnx.len() as u64,
            precision: Precision::Float32,
        },
        input: if name == "colour" {
            InputSpec::Image(image)
        } else {
            InputSpec::Signal(signal)
        },
        output: OutputSpec {
            labels: labels.iter().map(|label| label.to_string()).collect(),
            activation: Activation::Softmax,
            threshold: (name == "clip").then_some(0.1),
        },
    }
}

/// The committed model `name`, after `change` was made to its package.
pub fn open(name: &str, change: impl FnOnce(&mut ModelPackage)) -> Result<Model, ModelError> {
    let onnx = onnx(name);
    let mut package = package(name, &onnx);
    change(&mut package);
    Model::from_parts(package, &onnx, &engine(), &SessionOptions::default())
}

/// A 4×4 PNG of one colour.
pub fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(4, 4, image::Rgb(colour))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}
