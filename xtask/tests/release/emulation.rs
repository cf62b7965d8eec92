//! The images on their devices, emulated: every prediction is the build host's.
//!
//! int8 arithmetic is exact, so the published results must be the same to the last bit. Floating point is summed in
//! another order on another processor: float32 outputs within 10 were measured to differ by up to 1.3e-5, and half
//! precision rounds at 1e-3 of a value; the bounds below leave a factor for softmax and larger sums.

use std::path::{Path, PathBuf};

use aiot_inference::dataset::Dataset;
use aiot_inference::engine::{Engine, SessionOptions};
use aiot_inference::{Model, Prediction, PredictionResult};
use aiot_package::Precision;
use aiot_testkit::device::{Device, can_run};
use aiot_testkit::released::Released;

use crate::common::{Image, images};

/// Inputs per image, spread over the evaluation set.
const SAMPLES: usize = 24;

pub(crate) fn bound(precision: Precision) -> f32 {
    match precision {
        Precision::Int8 => 0.0,
        Precision::Float32 | Precision::Int8Symmetric | Precision::Int8Weights | Precision::Int4Weights => {
            1e-3
        }
        Precision::Float16 | Precision::Int8Dynamic => 2e-2,
    }
}

pub(crate) fn samples(root: &Path, image: &Image) -> Vec<PathBuf> {
    let dataset = Dataset::open(&root.join(&image.model.evaluation_path)).unwrap();
    let all = dataset.samples();
    let count = SAMPLES.min(all.len());
    (0..count)
        .map(|n| dataset.dir().join(&all[n * all.len() / count].file))
        .collect()
}

/// Label or name → number of everything that a result says.
fn numbers(result: &PredictionResult) -> std::collections::BTreeMap<String, f32> {
    match result {
        PredictionResult::Classification { top, .. } => top
            .iter()
            .map(|entry| (entry.label.clone(), entry.probability))
            .collect(),
        PredictionResult::Anomaly { score, .. } => [("score".to_owned(), *score)].into(),
        PredictionResult::Regression { values } => values.clone(),
    }
}

#[track_caller]
pub(crate) fn assert_same(name: &str, bound: f32, host: &[Prediction], device: &[Prediction]) {
    assert_eq!(host.len(), device.len(), "{name}");
    for (host, device) in host.iter().zip(device) {
        if bound == 0.0 {
            assert_eq!(host, device, "{name}");
            continue;
        }
        assert_eq!(
            (host.window, host.model_digest),
            (device.window, device.model_digest),
            "{name}"
        );
        // A label in the last place of one list need not be in the other.
        let (ours, theirs) = (numbers(&host.result), numbers(&device.result));
        for (label, value) in &ours {
            let other = theirs.get(label).copied().unwrap_or_default();
            assert!(
                (value - other).abs() <= bound,
                "{name}: {label} is {value} here, {other} there"
            );
        }
    }
}

fn devices_predict_like_the_host(architecture: &str) {
    if !can_run(architecture) {
        return;
    }
    let Some(released) = Released::find() else { return };
    let engine = std::env::var_os("AIOT_TEST_ENGINE").expect("`cargo xtask test` sets AIOT_TEST_ENGINE");
    let engine = Engine::load(Path::new(&engine)).unwrap();
    let images = images(&released);
    let images: Vec<&Image> = images
        .iter()
        .filter(|image| image.platform.architecture() == architecture)
        .collect();
    assert!(!images.is_empty(), "no target is {architecture}");
    for image in images {
        let device = Device::unpack(&released.images(), &image.digest);
        let ended = device.run(&["self-test"]).expect(0);
        assert!(
            ended.stdout.contains("golden cases as built"),
            "{}: {}",
            image.name,
            ended.stdout
        );
        assert!(
            ended.stderr.contains("EXECUTION PROVIDER IN USE: cpu"),
            "{}: {}",
            image.name,
            ended.stderr
        );

        let model = Model::open(&device.package(), &engine, &SessionOptions::default()).unwrap();
        let files = samples(&released.root, image);
        let host: Vec<Prediction> = files
            .iter()
            .flat_map(|file| model.predict_file(file).unwrap())
            .collect();
        let mut arguments = vec!["predict"];
        arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
        let ended = device.run(&arguments).expect(0);
        let predictions: Vec<Prediction> = ended
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_same(
            &image.name,
            bound(model.package().model.precision),
            &host,
            &predictions,
        );
    }
}

#[test]
fn arm32_devices_predict_like_the_host() {
    devices_predict_like_the_host("arm");
}

#[test]
fn arm64_devices_predict_like_the_host() {
    devices_predict_like_the_host("arm64");
}

#[test]
fn x86_gateways_predict_like_the_host() {
    devices_predict_like_the_host("amd64");
}
