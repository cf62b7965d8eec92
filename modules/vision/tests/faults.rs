//! Brokers, servers and daemons that fail in ways that a real mosquitto does not: no prediction is lost, one that is
//! sent again bears the same id, and the module says why it waits.

mod device;
#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use aiot_testkit::edge::{Certificates, Hub, Mosquitto, free_port, wait_for};
use aiot_testkit::tools;
use device::{DESIRED, Device, bodies, png, predict};
use serde_json::{Value, json};
use support::{Service, command, connect, package, read_post};

/// A broker that answers CONNECT with each of `codes` in turn, and then hands connections on to `behind`.
fn refusing_broker(codes: Vec<u8>, behind: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut codes = codes.into_iter();
        for client in listener.incoming() {
            let mut client = client.unwrap();
            if let Some(code) = codes.next() {
                let _ = client.read(&mut [0; 1024]);
                // CONNACK, two bytes: no session, the code.
                let _ = client.write_all(&[0x20, 2, 0, code]);
                continue;
            }
            let server = TcpStream::connect(("127.0.0.1", behind)).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    port
}

#[test]
fn every_refusal_of_a_broker_is_told_and_nothing_is_lost() {
    if !tools::have(&["mosquitto", "openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path(), "localhost");
    let broker = Mosquitto::start(folder.path(), free_port(), &certificates, &[]);
    let topic = "devices/line1/modules/x/messages/events/";
    let hub = Hub::connect(broker.plain_port, "line1/modules/x", "{}");
    // Each code in a module of its own, so that no test waits for long pauses.
    std::thread::scope(|scope| {
        for code in 1..=5 {
            let (port, folder) = (
                refusing_broker(vec![code, code], broker.plain_port),
                folder.path(),
            );
            scope.spawn(move || {
                let dir = package("colour");
                let queue = folder.join(format!("queue-{code}"));
                let sink = json!({"broker": format!("mqtt://127.0.0.1:{port}"), "topic": topic, "client-id": format!("c{code}")});
                let pipeline = json!({"sources": {"http": {}}, "sinks": {"mqtt": sink}, "queue": {"directory": queue}});
                let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
                command.env("AIOT_PIPELINE", pipeline.to_string());
                let mut service = Service::start(command);
                predict(&service);
                let log = service.log_until("trying again");
                let reason = [
                    "refusedprotocolversion",
                    "badclientid",
                    "serviceunavailable",
                    "badusernamepassword",
                    "notauthorized",
                ][usize::from(code) - 1];
                assert!(log.to_lowercase().contains(reason), "{code}: {log}");
                // Once it is let in, what waited goes out.
                wait_for("the confirmation", || {
                    service
                        .scrape()
                        .contains("aiot_messages_sent_total{sink=\"mqtt\"} 1")
                        .then_some(())
                });
            });
        }
    });
    assert_eq!(bodies(&hub, 5).len(), 5);
}

/// `token_broker.py`, ended with the test.
struct Door(Child);

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_token_that_has_ended_is_made_anew_and_nothing_is_lost() {
    let Some(device) = Device::new().filter(|_| tools::have(&["python3"])) else {
        return;
    };
    let hub = device.hub(DESIRED);
    // For a hub whose clock is a month ahead every token has ended.
    let door = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/token_broker.py"))
        .args([&device.certificates.certificate, &device.certificates.key])
        .args([device.broker.plain_port.to_string(), (30 * 86_400).to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut door = Door(door);
    let mut said = BufReader::new(door.0.stdout.take().unwrap()).lines();
    let mut next = || said.next().unwrap().unwrap();
    let mut command = device.command(&device.pipeline());
    command.env("AIOT_EDGE_HUB_PORT", next());
    let mut service = Service::start(command);
    for _ in 0..3 {
        predict(&service);
    }
    let log = service.log_until("trying again").to_lowercase();
    assert!(log.contains("notauthorized"), "{log}");
    for expected in ["5", "5", "0"] {
        let line = next();
        assert_eq!(line.split(' ').next(), Some(expected), "{line}");
    }
    // Not by their signatures: two tokens of one second are alike.
    let signed = device.workload.sign_requests().len();
    assert!(signed >= 3, "{signed} tokens for three attempts");
    let ids: BTreeSet<String> = bodies(&hub, 3)
        .iter()
        .map(|body| body["message_id"].to_string())
        .collect();
    assert_eq!((ids.len(), hub.telemetry().len()), (3, 3));
}

#[test]
fn a_daemon_that_breaks_off_in_the_middle_of_an_answer_is_asked_again() {
    let Some(device) = Device::new() else { return };
    let hub = device.hub(DESIRED);
    device.workload.cut_next(2);
    let service = device.start();
    predict(&service);
    assert_eq!(bodies(&hub, 1)[0]["result"]["label"], "red");
}

#[test]
fn a_message_that_is_too_large_is_left_out_and_counted() {
    let Some(device) = Device::new() else { return };
    // Three labels of 100 KiB are more than the 256 KiB of a message.
    let path = device.package.path().join("package.json");
    let mut declared: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    declared["output"]["labels"] = ["r", "g", "b"]
        .map(|label| label.repeat(100 << 10))
        .to_vec()
        .into();
    std::fs::write(&path, declared.to_string()).unwrap();
    let hub = device.hub(DESIRED);
    let service = device.start();
    wait_for("a report", || hub.reported().first().cloned());
    let (status, answer) = service.request("POST", "/v1/predict", &png([255, 0, 0]));
    assert_eq!(status, 200);
    assert!(answer.len() > 256 << 10);
    let stats = wait_for("the count", || {
        let stats: Value = serde_json::from_str(&hub.call("stats", "").1).unwrap();
        (stats["sinks"]["edge-hub"]["refused"] == 1).then_some(stats)
    });
    assert_eq!(stats["sinks"]["edge-hub"]["waiting"], 0, "{stats}");
    assert_eq!(hub.telemetry().len(), 0);
}

#[test]
fn a_slow_webhook_gets_the_same_message_again_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/predictions", listener.local_addr().unwrap());
    let (sender, got) = mpsc::channel();
    std::thread::spawn(move || {
        let mut unanswered = Vec::new();
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let (key, _) = read_post(&mut stream).unwrap();
            sender.send(key).unwrap();
            if number < 2 {
                // Never answered, never closed.
                unanswered.push(stream);
                continue;
            }
            let _ = write!(
                stream.get_mut(),
                "HTTP/1.1 204 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
    });
    let dir = package("colour");
    let pipeline = json!({
        "sources": {"http": {}}, "sinks": {"webhook": {"url": url, "timeout-s": 1}, "stdout": {}},
    });
    let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
    command.env("AIOT_PIPELINE", pipeline.to_string());
    let service = Service::start(command);
    for _ in 0..3 {
        predict(&service);
    }
    let keys: Vec<String> = (0..5)
        .map(|_| got.recv_timeout(Duration::from_secs(60)).unwrap())
        .collect();
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[0], keys[2]);
    assert!(
        keys[3] != keys[0] && keys[4] != keys[3] && keys[4] != keys[0],
        "{keys:?}"
    );
    wait_for("three confirmations", || {
        service
            .scrape()
            .contains("aiot_messages_sent_total{sink=\"webhook\"} 3")
            .then_some(())
    });
}

#[test]
fn a_client_that_takes_nothing_of_its_answers_is_sent_away() {
    const REQUESTS: usize = 20_000;
    let dir = package("colour");
    let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
    command.env("AIOT_HTTP_TIMEOUT_S", "1");
    let service = Service::start(command);
    let mut stream = connect(&service.metrics);
    let mut writer = stream.try_clone().unwrap();
    // Far more answers than the system buffers. The module stops reading when it cannot write, so this may break off.
    let writing = std::thread::spawn(move || {
        let request = b"GET /metrics HTTP/1.1\r\nHost: module\r\n\r\n".repeat(100);
        (0..REQUESTS / 100).all(|_| writer.write_all(&request).is_ok())
    });
    std::thread::sleep(Duration::from_secs(3));
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
    let count = answers
        .windows(15)
        .filter(|bytes| bytes == b"HTTP/1.1 200 OK")
        .count();
    assert!((1..REQUESTS).contains(&count), "{count}");
    let _ = writing.join();
    // Others are served.
    assert!(service.scrape().contains("aiot_model_info"));
}
