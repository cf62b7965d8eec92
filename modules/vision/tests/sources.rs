//! Sources beside the edge hub and the folder: a camera, a recording. The camera is `camera/v4l2.c`, preloaded: the module's own calls meet the kernel's structures.

#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Service, command, finished, package};

const COLOURS: [([u8; 3], &str); 3] = [
    ([255, 0, 0], "red"),
    ([0, 255, 0], "green"),
    ([0, 0, 255], "blue"),
];

fn picture(colour: [u8; 3], format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_pixel(16, 16, image::Rgb(colour))
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

/// As many cameras send it: without the Huffman tables, which are always the same.
fn without_tables(jpeg: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (jpeg[..2].to_vec(), 2);
    while jpeg[at + 1] != 0xDA {
        let length = 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        if jpeg[at + 1] != 0xC4 {
            out.extend_from_slice(&jpeg[at..at + length]);
        }
        at += length;
    }
    out.extend_from_slice(&jpeg[at..]);
    out
}

/// A module that prints its predictions.
struct Printing {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Printing {
    fn start(package: &Path, sources: &Value, environment: &[(&str, &Path)]) -> Printing {
        let pipeline = json!({"sources": sources, "sinks": {"stdout": {}}});
        let mut command = command(env!("CARGO_BIN_EXE_vision"), package, &["serve"]);
        command.env("AIOT_PIPELINE", pipeline.to_string());
        for (name, value) in environment {
            command.env(name, value);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Printing { child, lines }
    }

    /// Source and label of the next prediction.
    fn next(&mut self) -> (Value, String) {
        let line = self
            .lines
            .recv_timeout(Duration::from_secs(60))
            .expect("a prediction");
        let message: Value = serde_json::from_str(&line).unwrap();
        let label = message["result"]["label"].as_str().unwrap().to_owned();
        (message["source"].clone(), label)
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A frame of one colour as cameras that do not compress give it, computed as BT.601 defines it, each row padded.
fn yuyv([r, g, b]: [u8; 3], padding: usize) -> Vec<u8> {
    let [r, g, b] = [r, g, b].map(|value| f64::from(value) / 255.0);
    let y = 0.299 * r + 0.587 * g + 0.114 * b;
    let brightness = (16.0 + 219.0 * y).round() as u8;
    let [blue, red] = [(b - y) / 1.772, (r - y) / 1.402].map(|colour| (128.0 + 224.0 * colour).round() as u8);
    let mut row = [brightness, blue, brightness, red].repeat(8);
    row.resize(row.len() + padding, 7);
    row.repeat(16)
}

/// The camera as a library to preload, and its frames.
fn camera(folder: &Path, frame: impl Fn([u8; 3]) -> Vec<u8>) -> PathBuf {
    for (number, (colour, _)) in COLOURS.iter().enumerate() {
        std::fs::write(folder.join(format!("{number}.frame")), frame(*colour)).unwrap();
    }
    let library = folder.join("camera.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/camera/v4l2.c");
    let mut compiler = Command::new("cc");
    compiler.args([
        "-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-ldl", "-o",
    ]);
    assert!(compiler.arg(&library).status().unwrap().success());
    library
}

/// Runs a module with a camera that gives such frames.
fn colours_are_seen(format: &str, frame: impl Fn([u8; 3]) -> Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let library = camera(folder.path(), frame);
    let device = folder.path().join("video0");
    let dir = package("colour");
    let sources = json!({"camera": {"device": device, "width": 16, "height": 16, "interval-ms": 0}});
    let environment: [(&str, &Path); 4] = [
        ("LD_PRELOAD", &library),
        ("CAMERA_DEVICE", &device),
        ("CAMERA_FRAMES", folder.path()),
        ("CAMERA_FORMAT", Path::new(format)),
    ];
    let mut module = Printing::start(dir.path(), &sources, &environment);
    let mut labels = Vec::new();
    // Unplugged after eight, of which two are damaged; the others are of the second opening.
    for _ in 0..12 {
        let (source, label) = module.next();
        assert_eq!(source, json!({"kind": "camera", "name": device}));
        labels.push(label);
    }
    // The newest frame is taken, so that some may be left out; damaged ones always are.
    for (_, label) in COLOURS {
        assert!(labels.iter().any(|found| found == label), "{format}: {labels:?}");
    }
}

#[test]
fn frames_of_a_camera_are_predicted_and_one_that_goes_is_opened_again() {
    colours_are_seen("MJPG", |colour| {
        without_tables(&picture(colour, image::ImageFormat::Jpeg))
    });
}

#[test]
fn frames_of_a_camera_that_does_not_compress_are_predicted_too() {
    for padding in [0, 32] {
        colours_are_seen("YUYV", |colour| yuyv(colour, padding));
    }
}

#[test]
fn a_camera_that_does_not_fit_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let library = camera(folder.path(), |_| Vec::new());
    let device = folder.path().join("video0");
    let dir = package("colour");
    for (format, words) in [
        ("GREY", "it gives `GREY` where Motion-JPEG or YUYV is wanted"),
        (
            "YUYV",
            "it has no frames of 640×480 pixels; of its sizes declare one: 16×16, 32×32",
        ),
    ] {
        let pipeline = json!({"sources": {"camera": {"device": device}}, "sinks": {"stdout": {}}});
        let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
        command
            .env("AIOT_PIPELINE", pipeline.to_string())
            .env("LD_PRELOAD", &library)
            .env("CAMERA_DEVICE", &device)
            .env("CAMERA_FORMAT", format);
        let mut service = Service::start(command);
        let log = service.log_until("trying again");
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn a_missing_camera_does_not_end_the_module() {
    let dir = package("colour");
    let pipeline =
        json!({"sources": {"camera": {"device": "/dev/no-camera"}, "http": {}}, "sinks": {"stdout": {}}});
    let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
    command.env("AIOT_PIPELINE", pipeline.to_string());
    let mut service = Service::start(command);
    let log = service.log_until("trying again");
    assert!(
        log.contains("camera `/dev/no-camera`, trying again: No such file or directory"),
        "{log}"
    );
    let red = picture([255, 0, 0], image::ImageFormat::Png);
    assert_eq!(service.request("POST", "/v1/predict", &red).0, 200);
}

#[test]
fn a_recording_is_played_in_order_as_often_as_declared() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (colour, _)) in COLOURS.iter().enumerate() {
        let name = format!("{number}.png");
        std::fs::write(
            folder.path().join(name),
            picture(*colour, image::ImageFormat::Png),
        )
        .unwrap();
    }
    std::fs::write(folder.path().join("0.json"), "{}").unwrap();
    std::fs::write(
        folder.path().join("1-half.png"),
        &picture([0; 3], image::ImageFormat::Png)[..40],
    )
    .unwrap();
    std::fs::write(folder.path().join(".hidden"), "").unwrap();
    let dir = package("colour");
    let sources = json!({"replay": {"path": folder.path(), "interval-ms": 1, "rounds": 2}});
    let mut module = Printing::start(dir.path(), &sources, &[]);
    for round in 0..2 {
        for (number, (_, label)) in COLOURS.iter().enumerate() {
            let expected = json!({"kind": "replay", "name": format!("{number}.png")});
            assert_eq!(module.next(), (expected, (*label).to_owned()), "round {round}");
        }
    }
    drop(module);
    // The files stay.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6);

    let pipeline = json!({"sources": {"replay": {"path": folder.path()}}, "sinks": {"stdout": {}}});
    let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
    command.env("AIOT_PIPELINE", pipeline.to_string());
    let mut service = Service::start(command);
    let log = service.log_until("replay ended");
    assert!(
        log.contains("replay ended after 3 inputs; 1 gave no prediction"),
        "{log}"
    );
}

#[test]
fn values_beyond_their_bounds_end_the_module() {
    let dir = package("colour");
    for (pipeline, words) in [
        (
            json!({"sources": {"camera": {"device": "video0"}}}),
            "sources.camera.device",
        ),
        (
            json!({"sources": {"replay": {"path": "recorded"}}}),
            "sources.replay.path",
        ),
        (
            json!({"requests": {"places": 0}}),
            "requests.places: from 1 to 64",
        ),
    ] {
        let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
        command.env("AIOT_PIPELINE", pipeline.to_string());
        let (code, _, log) = finished(command);
        assert_eq!(code, 2, "{log}");
        assert!(log.contains(words), "{log}");
    }
}
