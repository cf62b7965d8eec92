//! What the modules' tests share: a tiny model package in a temporary folder, the built binary, a plain HTTP client.
//! Included with `#[path]`, since it needs the binary of the crate that is tested.

#![allow(dead_code, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Where the engine is.
pub fn engine() -> PathBuf {
    std::env::var_os("AIOT_TEST_ENGINE")
        .expect("set AIOT_TEST_ENGINE to the path of a libonnxruntime.so (cargo xtask test does)")
        .into()
}

/// A package folder around one of the models of `aiot-inference`'s tests.
pub fn package(model: &str) -> tempfile::TempDir {
    let models = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../crates/aiot-inference/tests/golden"
    );
    let onnx = std::fs::read(format!("{models}/{model}.onnx")).unwrap();
    let signal = json!({"signal": {"channels": 1, "window": 8, "stride": 8}});
    let (task, input, output) = match model {
        "colour" => (
            "classification",
            json!({"image": {"width": 4, "height": 4, "colour": "rgb"}}),
            json!({"labels": ["red", "green", "blue"]}),
        ),
        "clip" => ("anomaly-detection", signal, json!({"threshold": 0.1})),
        _ => ("regression", signal, json!({"labels": ["reciprocal"]})),
    };
    let package = json!({
        "format-version": 1, "name": model, "version": "1.2.3", "description": "A test.", "task": task,
        "model": {
            "path": "model.onnx", "sha256": aiot_package::Digest::of(&onnx).hex(), "size-bytes": onnx.len(),
            "precision": "float32",
        },
        "input": input, "output": output,
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.onnx"), onnx).unwrap();
    std::fs::write(dir.path().join("package.json"), package.to_string()).unwrap();
    dir
}

/// Adds golden cases: file name, content, outputs.
pub fn golden(dir: &Path, cases: &[(&str, &[u8], Value)]) {
    let mut list = Vec::new();
    for (file, content, outputs) in cases {
        std::fs::write(dir.join(file), content).unwrap();
        list.push(json!({"file": file, "outputs": outputs}));
    }
    let golden = json!({"tolerance": {"absolute": 0.0, "relative": 0.0}, "cases": list});
    std::fs::write(dir.join("golden.json"), golden.to_string()).unwrap();
}

/// The module, with nothing of this process's environment but what it needs.
pub fn command(binary: &str, package: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command
        .env_clear()
        .env("AIOT_ENGINE_LIBRARY", engine())
        .env("AIOT_MODEL_DIR", package)
        .env("AIOT_HTTP_ADDRESS", "127.0.0.1:0")
        .env("AIOT_METRICS_ADDRESS", "127.0.0.1:0")
        .args(arguments);
    command
}

/// Exit code, stdout, stderr.
pub fn finished(mut command: Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        status.code().expect("it ends by itself"),
        text(stdout),
        text(stderr),
    )
}

/// A running service; killed when the test ends.
pub struct Service {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// The log up to the addresses.
    pub started: String,
    pub http: String,
    pub metrics: String,
}

impl Service {
    /// Starts `serve` and waits until it says its addresses.
    pub fn start(mut command: Command) -> Service {
        let mut child = command
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut http, mut metrics, mut log) = (None, None, String::new());
        while metrics.is_none() {
            let mut line = String::new();
            assert!(
                stderr.read_line(&mut line).unwrap() > 0,
                "the service ended: {log}"
            );
            let address = |before: &str| Some(line.trim().split_once(before)?.1.to_owned());
            http = http.or(address(" [INF] - serving on http://"));
            metrics = address(" [INF] - metrics on http://");
            log += &line;
        }
        Service {
            child,
            stderr,
            started: log,
            http: http.unwrap(),
            metrics: metrics.unwrap(),
        }
    }

    /// Status and body.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        request(&self.http, method, path, body)
    }

    /// Status and JSON body.
    pub fn json(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, body) = self.request(method, path, body);
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")),
        )
    }

    pub fn scrape(&self) -> String {
        request(&self.metrics, "GET", "/metrics", b"").1
    }

    /// Memory that the service had at most so far, KiB.
    pub fn peak_resident_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// Memory that the service has now, KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The log up to the line with `words`.
    pub fn log_until(&mut self, words: &str) -> String {
        let mut log = String::new();
        while !log.contains(words) {
            let read = self.stderr.read_line(&mut log).unwrap();
            assert!(read > 0, "the service ended without `{words}`: {log}");
        }
        log
    }

    /// Exit code and the rest of the log.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.stderr.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection with a time limit, so that a test fails rather than hangs.
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn request(address: &str, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = connect(address);
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: module\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The service may refuse before it has read everything.
    let _ = stream.write_all(body);
    read_response(stream)
}

/// Status and body of a response on a connection that the service closes.
pub fn read_response(mut stream: TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no response: {text:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// `Idempotency-Key` and body of a request that a webhook gets.
pub fn read_post(stream: &mut BufReader<TcpStream>) -> std::io::Result<(String, Vec<u8>)> {
    let (mut length, mut key, mut line) = (0, String::new(), String::new());
    while stream.read_line(&mut line).unwrap_or(0) > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if let Some(value) = lower.strip_prefix("idempotency-key:") {
            key = value.trim().to_owned();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((key, body))
}
