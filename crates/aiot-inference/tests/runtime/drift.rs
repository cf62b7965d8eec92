//! The drift watch on the sample models: their evaluation sets do not drift from themselves, faults do.

use std::io::Cursor;
use std::path::PathBuf;

use aiot_inference::drift::{Observation, Watch, build, statistic_names};
use aiot_inference::{Dataset, Model, SessionOptions};
use aiot_package::{Digest, DriftSpec, ModelPackage};
use serde_json::{Value, json};

use crate::common::engine;

/// A sample model as `models.toml` declares it, in float32, and its evaluation set.
fn sample(name: &str) -> (Model, Dataset) {
    let dir = PathBuf::from(format!("{}/../../models/{name}", env!("CARGO_MANIFEST_DIR")));
    let onnx = std::fs::read(dir.join("model.onnx")).unwrap();
    let labels = std::fs::read_to_string(dir.join("labels.txt")).unwrap_or_default();
    let (task, input) = match name {
        "delivery-digits" => (
            "classification",
            json!({"image": {"width": 8, "height": 8, "colour": "grey"}}),
        ),
        "surface-defects" => (
            "classification",
            json!({"image": {
                "width": 96, "height": 96, "colour": "rgb", "mean": [0.5, 0.5, 0.5], "std": [0.12, 0.12, 0.12],
            }}),
        ),
        _ => (
            "anomaly-detection",
            json!({"signal": {"channels": 1, "window": 256, "stride": 256}}),
        ),
    };
    let package: Value = json!({
        "format-version": 1, "name": name, "version": "1.0.0", "description": "", "task": task,
        "model": {
            "path": "model.onnx", "sha256": Digest::of(&onnx).hex(), "size-bytes": onnx.len(), "precision": "float32",
        },
        "input": input,
        "output": {"labels": labels.lines().collect::<Vec<_>>(), "threshold": 0.05},
    });
    let package: ModelPackage = serde_json::from_value(package).unwrap();
    let model = Model::from_parts(package, &onnx, &engine(), &SessionOptions::default()).unwrap();
    (model, Dataset::open(&dir.join("data/evaluation")).unwrap())
}

/// What is observed of each file that counts, `change`d before.
fn observed(model: &Model, dataset: &Dataset, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<Observation> {
    let signal = model.package().output.labels.is_empty();
    let counts = dataset
        .samples()
        .iter()
        .filter(|sample| !signal || sample.label == "0");
    counts
        .map(|sample| {
            let bytes = change(dataset.read(sample).unwrap());
            model.outcomes(&bytes).unwrap().1.unwrap()
        })
        .collect()
}

/// A generator of numbers that are the same in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let other = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % (last as u64 + 1);
            items.swap(last, other as usize);
        }
    }
}

/// Share of random halvings of the set in which one half looks like drift to the baseline of the other.
fn false_alarms(model: &Model, mut files: Vec<Observation>, alarm_rate: f64) -> f64 {
    let mut numbers = Numbers(11);
    let (mut alarms, rounds) = (0, 300);
    for _ in 0..rounds {
        numbers.shuffle(&mut files);
        let (one, other) = files.split_at(files.len() / 2);
        let baseline = build(model.package(), one);
        let mut watch = Watch::new(baseline);
        let settings = DriftSpec {
            window: other.len() as u32,
            floor: 0.0,
            alarm_rate,
            ..DriftSpec::default()
        };
        for observation in other {
            watch.observe(observation, &settings);
        }
        assert_eq!(watch.windows().0, 1);
        alarms += watch.windows().1;
    }
    alarms as f64 / f64::from(rounds)
}

/// Statistics that differ when the whole set comes twice after `change`.
fn differing(model: &Model, dataset: &Dataset, change: impl Fn(Vec<u8>) -> Vec<u8>) -> (bool, Vec<String>) {
    let baseline = build(model.package(), &observed(model, dataset, |bytes| bytes));
    assert_eq!(baseline.problem(), None);
    let now = observed(model, dataset, change);
    let mut watch = Watch::new(baseline);
    let settings = DriftSpec {
        window: now.len() as u32,
        ..DriftSpec::default()
    };
    for observation in now.iter().chain(&now) {
        watch.observe(observation, &settings);
    }
    let over = watch
        .statistics()
        .filter(|(_, judged, _)| judged.is_some_and(|judged| judged.windows == 2));
    let names = over.map(|(name, ..)| name.to_owned()).collect();
    (watch.drifting(), names)
}

fn pixels(bytes: &[u8], change: impl Fn(u8) -> u8) -> Vec<u8> {
    let mut picture = image::load_from_memory(bytes).unwrap().to_rgb8();
    picture.iter_mut().for_each(|value| *value = change(*value));
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// A `.npy` file of little-endian float32 with every value changed.
fn values(bytes: &[u8], change: impl Fn(f32) -> f32) -> Vec<u8> {
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let mut changed = bytes[..start].to_vec();
    for value in bytes[start..].chunks_exact(4) {
        changed.extend(change(f32::from_le_bytes(value.try_into().unwrap())).to_le_bytes());
    }
    changed
}

#[test]
fn evaluation_sets_do_not_drift() {
    for name in ["delivery-digits", "surface-defects", "bearing-anomaly"] {
        let (model, dataset) = sample(name);
        assert_eq!(
            differing(&model, &dataset, |bytes| bytes),
            (false, vec![]),
            "{name}"
        );
        let files = observed(&model, &dataset, |bytes| bytes);
        assert_eq!(files[0].0.len(), statistic_names(model.package()).len());
        let share = false_alarms(&model, files, 0.05);
        println!("{name}: {share:.3} of halvings look like drift, 0.05 may");
        assert!(share <= 0.05 + 0.03, "{name}: {share}");
    }
}

#[test]
fn faults_of_a_camera_drift() {
    for name in ["delivery-digits", "surface-defects"] {
        let (model, dataset) = sample(name);
        let inverted = differing(&model, &dataset, |bytes| pixels(&bytes, |value| 255 - value));
        assert!(inverted.0, "{name} inverted: {:?}", inverted.1);
        let dark = differing(&model, &dataset, |bytes| pixels(&bytes, |value| value / 2));
        assert!(
            dark.0 && dark.1.iter().any(|what| what == "brightness"),
            "{name} dark: {:?}",
            dark.1
        );
        let flat = differing(&model, &dataset, |bytes| pixels(&bytes, |value| 96 + value / 4));
        assert!(
            flat.1.iter().any(|what| what == "contrast"),
            "{name} flat: {:?}",
            flat.1
        );
    }
}

#[test]
fn faults_of_a_sensor_drift() {
    let (model, dataset) = sample("bearing-anomaly");
    for (fault, change, wanted) in [
        (
            "louder",
            (|value| value * 1.5) as fn(f32) -> f32,
            "channel-0-deviation",
        ),
        ("offset", |value| value + 0.5, "channel-0-mean"),
        ("dead", |_| 0.25, "channel-0-deviation"),
    ] {
        let (drifting, names) = differing(&model, &dataset, |bytes| values(&bytes, change));
        assert!(
            drifting && names.iter().any(|name| name == wanted),
            "{fault}: {names:?}"
        );
    }
}
