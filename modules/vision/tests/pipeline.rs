//! Declared sources and sinks outside IoT Edge: a watched folder, a plain broker, a webhook that fails, stdout, a
//! queue that outlives the module.

#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use aiot_testkit::edge::{Certificates, Hub, Mosquitto, free_port, wait_for};
use aiot_testkit::tools;
use serde_json::{Value, json};
use support::{Service, command, finished, package, read_post};

fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_pixel(4, 4, image::Rgb(colour))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn serve(package: &Path, pipeline: &Value) -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_vision"), package, &["serve"]);
    command.env("AIOT_PIPELINE", pipeline.to_string());
    command
}

/// `Idempotency-Key` and body of each request that was taken.
type Taken = Arc<Mutex<Vec<(String, Value)>>>;

/// A server that answers with each of `statuses` in turn and then with 204; what it got with 204 is kept.
fn webhook(statuses: &'static [u16]) -> (String, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/predictions", listener.local_addr().unwrap());
    let got = Arc::new(Mutex::new(Vec::new()));
    let keep = got.clone();
    std::thread::spawn(move || {
        let mut left = statuses.iter();
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let Ok((key, body)) = read_post(&mut stream) else {
                continue;
            };
            let status = left.next().copied().unwrap_or(204);
            // 0: closes without an answer.
            if status != 0 {
                let _ = write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
            if status == 204 {
                keep.lock()
                    .unwrap()
                    .push((key, serde_json::from_slice(&body).unwrap()));
            }
        }
    });
    (url, got)
}

#[test]
fn files_go_to_all_sinks_in_order() {
    if !tools::have(&["mosquitto", "openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path(), "localhost");
    let password = folder.path().join("passwords");
    tools::run(
        Command::new("mosquitto_passwd")
            .arg("-b")
            .arg("-c")
            .arg(&password)
            .args(["plant", "secret"]),
    )
    .expect(0);
    let access = format!("password_file {}", password.display());
    let broker = Mosquitto::start(
        folder.path(),
        free_port(),
        &certificates,
        &["allow_anonymous false", &access],
    );
    // The hub's telemetry topic, so that its stand-in keeps what comes.
    let topic = "devices/line1/modules/x/messages/events/";
    let hub = Hub::connect(broker.plain_port, "line1/modules/x", "{}");
    let (url, got) = webhook(&[503, 0, 429]);
    let dir = package("colour");
    let inbox = folder.path().join("in");
    std::fs::create_dir(&inbox).unwrap();
    let mut command = serve(
        dir.path(),
        &json!({
            "sources": {"directory": {"path": inbox, "interval-ms": 50}},
            "sinks": {
                "mqtt": {
                    "broker": format!("mqtts://localhost:{}", broker.port), "topic": topic,
                    "user": "plant", "password-variable": "PLANT", "authorities": certificates.authority,
                },
                "webhook": {"url": url},
                "stdout": {},
            },
        }),
    );
    command.env("PLANT", "secret");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
    for (number, colour) in colours.iter().enumerate() {
        // Complete before it has its name.
        std::fs::write(inbox.join(".part"), png(*colour)).unwrap();
        std::fs::rename(inbox.join(".part"), inbox.join(format!("{number}.png"))).unwrap();
    }
    std::fs::write(inbox.join("9-bad.png"), "no picture").unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines: Vec<Value> = (0..3)
        .map(|_| serde_json::from_str(&stdout.next().unwrap().unwrap()).unwrap())
        .collect();
    let labels: Vec<_> = lines
        .iter()
        .map(|line| line["result"]["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, ["red", "green", "blue"]);
    assert_eq!(lines[1]["source"], json!({"kind": "directory", "name": "1.png"}));
    wait_for("the broker's", || (hub.telemetry().len() == 3).then_some(()));
    let published: Vec<Value> = hub
        .telemetry()
        .iter()
        .map(|message| serde_json::from_str(&message.body).unwrap())
        .collect();
    assert_eq!(published, lines);
    // The first was tried three times in vain; it comes once, first, with the id of the others.
    wait_for("the webhook's", || (got.lock().unwrap().len() == 3).then_some(()));
    for ((key, body), line) in got.lock().unwrap().iter().zip(&lines) {
        assert_eq!((body, key.as_str()), (line, line["message_id"].as_str().unwrap()));
    }
    wait_for("an empty folder", || {
        (std::fs::read_dir(&inbox).unwrap().count() == 1 && inbox.join(".refused/9-bad.png").is_file())
            .then_some(())
    });
    tools::run(Command::new("kill").args(["-TERM", &child.id().to_string()])).expect(0);
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{log}");
    assert!(
        log.contains("PREDICTIONS WAIT IN MEMORY") && !log.contains("secret"),
        "{log}"
    );
}

#[test]
fn a_queue_on_disk_outlives_the_module_and_its_server() {
    let dir = package("colour");
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let pipeline = |url: &str| {
        json!({
            "sources": {"http": {}}, "sinks": {"webhook": {"url": url}},
            "queue": {"directory": folder.path().join("queue")},
        })
    };
    // Nobody listens.
    let service = Service::start(serve(dir.path(), &pipeline(&format!("http://127.0.0.1:{port}/"))));
    for _ in 0..20 {
        assert_eq!(service.request("POST", "/v1/predict", &png([255, 0, 0])).0, 200);
    }
    // The folder is one module's: a second one must not mix itself in.
    let (code, _, log) = finished(serve(dir.path(), &pipeline("http://127.0.0.1:9/")));
    assert!(
        code == 3 && log.contains("in use by another process"),
        "{code} {log}"
    );
    drop(service);
    let (url, got) = webhook(&[404]);
    let service = Service::start(serve(dir.path(), &pipeline(&url)));
    // The server's last word on the first is no.
    wait_for("the rest", || (got.lock().unwrap().len() == 19).then_some(()));
    let numbers: Vec<u32> = got
        .lock()
        .unwrap()
        .iter()
        .map(|(key, _)| key[17..].parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..20).collect::<Vec<_>>());
    wait_for("an empty queue", || {
        service
            .scrape()
            .contains("aiot_queue_messages{sink=\"webhook\"} 0")
            .then_some(())
    });
}

#[test]
fn sigterm_is_obeyed_within_five_seconds_whatever_the_sinks_do() {
    let dir = package("colour");
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let pipeline = json!({
        "sources": {"http": {}},
        "sinks": {"webhook": {"url": format!("http://{address}/")}, "mqtt": {"broker": format!("mqtt://{address}"), "topic": "t"}},
    });
    let service = Service::start(serve(dir.path(), &pipeline));
    assert_eq!(service.request("POST", "/v1/predict", &png([255, 0, 0])).0, 200);
    let started = std::time::Instant::now();
    service.terminate();
    let (code, log) = service.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(started.elapsed().as_secs_f64() < 5.5, "{:?}", started.elapsed());
}

#[test]
fn mistakes_end_the_module_at_once() {
    let dir = package("colour");
    for (pipeline, expected) in [
        (json!({"sinks": {"fax": {}}}), "unknown field `fax`"),
        (
            json!({"sinks": {"webhook": {"url": "https://x"}}}),
            "sinks.webhook.authorities",
        ),
        (
            json!({"queue": {"directory": "/proc/none"}, "sinks": {"webhook": {"url": "http://x"}}}),
            "writable volume",
        ),
    ] {
        let (code, _, log) = finished(serve(dir.path(), &pipeline));
        assert!((code == 2 || code == 3) && log.contains(expected), "{code} {log}");
    }
    let mut command = serve(dir.path(), &json!({}));
    command.env("IOTEDGE_WORKLOADURI", "unix:///run/w.sock");
    let (code, _, log) = finished(command);
    assert!(
        code == 2 && log.contains("IOTEDGE_DEVICEID is missing"),
        "{code} {log}"
    );
}
