//! The HTTP service of a module, with the built binary, a real engine and real sockets.

#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::io::{Cursor, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};
use support::{Service, command, connect, finished, golden, package, read_response};

fn start(package: &Path) -> Service {
    Service::start(command(env!("CARGO_BIN_EXE_vision"), package, &["serve"]))
}

fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_pixel(4, 4, image::Rgb(colour))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn infer_body(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    // Red is 1, green 0, blue 0.5 everywhere.
    let data: Vec<f32> = [1.0, 0.0, 0.5]
        .into_iter()
        .flat_map(|value| [value; 16])
        .collect();
    let input = json!({"name": "input", "shape": [1, 3, 4, 4], "datatype": "FP32", "data": data});
    let mut body = json!({"id": "42", "inputs": [input]});
    change(&mut body);
    body.to_string().into_bytes()
}

/// Whether the service asks for the body; it does so when the request has its place in the queue.
fn begins_with_continue(stream: &mut TcpStream) -> bool {
    let wanted = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut first = [0; 25];
    stream.read_exact(&mut first).unwrap();
    first == *wanted
}

#[test]
fn describes_itself() {
    let dir = package("colour");
    let service = start(dir.path());
    let (status, server) = service.json("GET", "/v2", b"");
    assert_eq!(
        (status, &server["name"], &server["extensions"]),
        (200, &json!("vision"), &json!(["binary_tensor_data"]))
    );
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/colour/ready",
        "/v2/models/colour/versions/1.2.3/ready",
    ] {
        assert_eq!(service.request("GET", path, b""), (200, String::new()), "{path}");
    }
    let expected = json!({
        "name": "colour", "versions": ["1.2.3"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 3, 4, 4]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [1, 3]}],
    });
    assert_eq!(service.json("GET", "/v2/models/colour", b""), (200, expected));
    for path in [
        "/v2/models/other",
        "/v2/models/colour/versions/9",
        "/v2/models/other/ready",
        "/nowhere",
    ] {
        let (status, body) = service.json("GET", path, b"");
        assert!(
            status == 404 && body["error"].is_string(),
            "{path}: {status} {body}"
        );
    }
    assert_eq!(service.request("GET", "/v2/models/colour/infer", b"").0, 405);
}

#[test]
fn infers_tensors() {
    let dir = package("colour");
    let service = start(dir.path());
    let expected = json!({
        "model_name": "colour", "model_version": "1.2.3", "id": "42",
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [1, 3], "data": [10.0, 0.0, 5.0]}],
    });
    let infer = |body: &[u8]| service.json("POST", "/v2/models/colour/infer", body);
    assert_eq!(infer(&infer_body(|_| ())), (200, expected.clone()));
    assert_eq!(
        service
            .json(
                "POST",
                "/v2/models/colour/versions/1.2.3/infer",
                &infer_body(|_| ())
            )
            .0,
        200
    );
    let nested: Vec<_> = [1.0, 0.0, 0.5]
        .into_iter()
        .map(|value| vec![vec![value; 4]; 4])
        .collect();
    assert_eq!(
        infer(&infer_body(|body| body["inputs"][0]["data"] = json!([nested]))),
        (200, expected)
    );

    let check = |change: &dyn Fn(&mut Value), wanted: &str| {
        let (status, body) = infer(&infer_body(|body| change(body)));
        let error = body["error"].as_str().unwrap_or_default();
        assert!(
            status == 400 && error.contains(wanted),
            "{wanted}: {status} {body}"
        );
    };
    check(
        &|body| body["inputs"][0]["shape"] = json!([1, 3, 4, 5]),
        "the shape is [1, 3, 4, 4]",
    );
    check(&|body| body["inputs"][0]["shape"] = json!([-1]), "malformed");
    check(
        &|body| body["inputs"][0]["datatype"] = json!("INT8"),
        "FP32, not `INT8`",
    );
    check(&|body| body["inputs"][0]["name"] = json!("x"), "`input`, not `x`");
    check(&|body| body["inputs"][0]["data"] = json!([1.0]), "1 values");
    check(
        &|body| body["inputs"][0]["data"][3] = json!(null),
        "expected a number",
    );
    check(
        &|body| body["inputs"] = json!([]),
        "exactly one input is wanted, 0",
    );
    check(
        &|body| body["outputs"] = json!([{"name": "other"}]),
        "no output `other`",
    );
    for body in [&b""[..], b"{", b"[]", b"\xff", &[b'['; 10_000]] {
        assert_eq!(infer(body).0, 400);
    }
}

#[test]
fn predicts_pictures_and_counts() {
    let dir = package("colour");
    let service = start(dir.path());
    let predict = |body: &[u8]| service.json("POST", "/v1/predict", body);
    let (status, body) = predict(&png([0, 0, 255]));
    assert_eq!(
        (status, &body["predictions"][0]["result"]["label"]),
        (200, &json!("blue")),
        "{body}"
    );
    assert_eq!(body["predictions"][0]["model"], "colour");
    for (body, wanted) in [
        (&b"not a picture"[..], "neither a PNG nor a JPEG"),
        (&png([1, 2, 3])[..40], "cannot be decoded"),
        (b"", "neither"),
    ] {
        let (status, body) = predict(body);
        assert!(
            status == 400 && body["error"].as_str().unwrap().contains(wanted),
            "{body}"
        );
    }
    let (status, _) = service.request("POST", "/v1/predict", &vec![0; (16 << 20) + 1]);
    assert_eq!(status, 413);
    assert_eq!(service.request("POST", "/v2/models/colour/infer", b"{").0, 400);

    let text = service.scrape();
    for line in [
        "aiot_inferences_total 1",
        "aiot_inference_errors_total{reason=\"undecodable\"} 3",
        "aiot_inference_errors_total{reason=\"bad_request\"} 1",
        "aiot_inference_errors_total{reason=\"too_large\"} 1",
        "aiot_inference_errors_total{reason=\"queue_full\"} 0",
        "aiot_inference_seconds_bucket{le=\"+Inf\"} 1",
        "aiot_inference_seconds_count 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let info = text
        .lines()
        .find(|line| line.starts_with("aiot_model_info{"))
        .unwrap();
    for label in [
        "model=\"colour\"",
        "version=\"1.2.3\"",
        "digest=\"sha256:",
        "execution_provider=\"cpu\"",
    ] {
        assert!(info.contains(label), "{info}");
    }
    assert!(text.contains("\nprocess_start_time_seconds "));
}

#[test]
fn a_full_queue_pushes_back_and_recovers() {
    let dir = package("colour");
    let service = start(dir.path());
    // Each connection takes a place, as `100 Continue` proves, and keeps the service waiting for the body.
    let mut waiting = Vec::new();
    let refused = loop {
        let mut stream = connect(&service.http);
        let head = "POST /v1/predict HTTP/1.1\r\nHost: module\r\nConnection: close\r\n";
        stream
            .write_all(format!("{head}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n").as_bytes())
            .unwrap();
        if !begins_with_continue(&mut stream) {
            break stream;
        }
        waiting.push(stream);
        assert!(waiting.len() < 100, "never full");
    };
    drop(refused);
    assert_eq!(waiting.len(), 16);
    assert_eq!(service.request("POST", "/v1/predict", &png([255, 0, 0])).0, 429);
    // Health is not queued.
    assert_eq!(service.request("GET", "/v2/health/ready", b"").0, 200);
    for mut stream in waiting {
        stream.write_all(b"x").unwrap();
        assert_eq!(read_response(stream).0, 400);
    }
    assert_eq!(service.request("POST", "/v1/predict", &png([255, 0, 0])).0, 200);
    assert!(
        service
            .scrape()
            .contains("aiot_inference_errors_total{reason=\"queue_full\"} 2\n")
    );
}

#[test]
fn many_senders_get_their_own_answers() {
    let dir = package("colour");
    let service = &start(dir.path());
    std::thread::scope(|scope| {
        for (colour, label) in [
            ([255, 0, 0], "red"),
            ([0, 255, 0], "green"),
            ([0, 0, 255], "blue"),
        ]
        .repeat(3)
        {
            scope.spawn(move || {
                for _ in 0..20 {
                    let (status, body) = service.json("POST", "/v1/predict", &png(colour));
                    assert_eq!(
                        (status, &body["predictions"][0]["result"]["label"]),
                        (200, &json!(label))
                    );
                }
            });
        }
    });
    assert!(service.scrape().contains("\naiot_inferences_total 180\n"));
}

#[test]
fn sigterm_finishes_what_was_accepted() {
    let dir = package("colour");
    golden(
        dir.path(),
        &[("red.png", &png([255, 0, 0]), json!({"output": [10.0, 0.0, 0.0]}))],
    );
    let service = start(dir.path());
    let picture = png([0, 255, 0]);
    let mut slow = connect(&service.http);
    let length = picture.len();
    let head = format!(
        "POST /v1/predict HTTP/1.1\r\nHost: m\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).unwrap();
    assert!(begins_with_continue(&mut slow), "the request was not accepted");
    service.terminate();
    slow.write_all(&picture).unwrap();
    let (status, body) = read_response(slow);
    assert!(status == 200 && body.contains("\"green\""), "{status} {body}");
    let (code, log) = service.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopping"), "{log}");
}

#[test]
fn health_asks_the_service() {
    let dir = package("colour");
    let service = start(dir.path());
    let health = |address: &str| {
        let mut command = command(env!("CARGO_BIN_EXE_vision"), Path::new("/nowhere"), &["health"]);
        command.env("AIOT_HTTP_ADDRESS", address);
        finished(command).0
    };
    assert_eq!(health(&service.http), 0);
    let port = service.http.rsplit(':').next().unwrap();
    assert_eq!(health(&format!("0.0.0.0:{port}")), 0);
    // The metrics' port has no health.
    assert_eq!(health(&service.metrics), 1);
}

#[test]
fn a_taken_address_is_named() {
    let dir = package("colour");
    let service = start(dir.path());
    let mut second = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
    second.env("AIOT_HTTP_ADDRESS", &service.http);
    let (code, _, stderr) = finished(second);
    assert_eq!(code, 3);
    assert!(stderr.contains("set AIOT_HTTP_ADDRESS to another"), "{stderr}");
}

#[test]
fn a_baseline_of_another_model_is_refused() {
    let dir = package("colour");
    for (baseline, wanted) in [
        (
            r#"{"format-version": 1, "statistics": []}"#,
            "not those of this model",
        ),
        (r#"{"format-version": 2, "statistics": []}"#, "format version 2"),
        ("{", "EOF"),
    ] {
        std::fs::write(dir.path().join("baseline.json"), baseline).unwrap();
        let (code, _, stderr) = finished(command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]));
        assert!(code == 3 && stderr.contains(wanted), "{wanted}: {code} {stderr}");
    }
}

/// Sends `json` and `binary` as the binary tensor extension wants them; status, JSON and bytes of the answer.
fn infer_binary(service: &Service, length: &str, json: &Value, binary: &[u8]) -> (u16, Value, Vec<u8>) {
    let json = json.to_string();
    let length = if length.is_empty() {
        json.len().to_string()
    } else {
        length.to_owned()
    };
    let mut stream = connect(&service.http);
    let head = format!(
        "POST /v2/models/colour/infer HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\
         Inference-Header-Content-Length: {length}\r\nContent-Length: {}\r\n\r\n{json}",
        json.len() + binary.len(),
    );
    stream.write_all(&[head.as_bytes(), binary].concat()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (head, body) = (String::from_utf8(bytes[..end].to_vec()).unwrap(), &bytes[end..]);
    let header = head
        .lines()
        .find_map(|line| line.strip_prefix("inference-header-content-length: "));
    let json_bytes = header.map_or(body.len(), |length| length.parse().unwrap());
    assert_eq!(
        header.is_some(),
        head.contains("application/octet-stream"),
        "{head}"
    );
    (
        head[9..12].parse().unwrap(),
        serde_json::from_slice(&body[..json_bytes]).unwrap(),
        body[json_bytes..].to_vec(),
    )
}

#[test]
fn infers_tensors_as_bytes() {
    let dir = package("colour");
    let service = start(dir.path());
    let values = |change: &dyn Fn(&mut Vec<f32>)| {
        let mut values: Vec<f32> = [1.0f32, 0.0, 0.5]
            .into_iter()
            .flat_map(|value| [value; 16])
            .collect();
        change(&mut values);
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let good = values(&|_| ());
    let request = |size: Value, rest: Value| {
        let input = json!({
            "name": "input", "shape": [1, 3, 4, 4], "datatype": "FP32", "parameters": {"binary_data_size": size},
        });
        let mut request = json!({"inputs": [input]});
        request
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        request
    };
    let outputs: Vec<u8> = [10.0f32, 0.0, 5.0]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let as_json = json!([{"name": "output", "datatype": "FP32", "shape": [1, 3], "data": [10.0, 0.0, 5.0]}]);
    let as_bytes = json!([{
        "name": "output", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12},
    }]);
    let named = |binary: bool| json!([{"name": "output", "parameters": {"binary_data": binary}}]);
    for (rest, expected, bytes) in [
        (json!({}), &as_json, &[][..]),
        (
            json!({"parameters": {"binary_data_output": true}}),
            &as_bytes,
            &outputs,
        ),
        (json!({"outputs": named(true)}), &as_bytes, &outputs),
        // What is said of one output counts above what is said of all.
        (
            json!({"parameters": {"binary_data_output": true}, "outputs": named(false)}),
            &as_json,
            &[],
        ),
    ] {
        let (status, json, binary) = infer_binary(&service, "", &request(json!(192), rest.clone()), &good);
        assert_eq!(
            (status, &json["outputs"], &binary[..]),
            (200, expected, bytes),
            "{rest}"
        );
    }
    let refused = |length: &str, size: Value, binary: &[u8], wanted: &str| {
        let (status, json, _) = infer_binary(&service, length, &request(size, json!({})), binary);
        assert!(
            status == 400 && json["error"].as_str().unwrap().contains(wanted),
            "{wanted}: {json}"
        );
    };
    refused("", json!(191), &good, "needs 192 bytes");
    refused("", json!(192), &good[..191], "191 were sent");
    refused("", json!(null), &good, "either `data` or");
    refused("", json!(-1), &good, "malformed");
    refused("99999999", json!(192), &good, "says 99999999");
    refused("much", json!(192), &good, "holds no number");
    refused("3", json!(192), &good, "malformed");
    refused("", json!(192), &values(&|values| values[7] = f32::NAN), "value 7");
    refused(
        "",
        json!(192),
        &values(&|values| values[0] = f32::INFINITY),
        "value 0",
    );
}

#[test]
fn silent_clients_are_sent_away() {
    let dir = package("colour");
    let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
    command.env("AIOT_HTTP_TIMEOUT_S", "1");
    let service = Service::start(command);
    let head = "POST /v1/predict HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\n\r\n";
    let send = |text: &str| {
        let mut stream = connect(&service.http);
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    // Nothing at all, half a header, no second request, half a body.
    let silent = [
        send(""),
        send(&head[..30]),
        send("GET /v2/health/live HTTP/1.1\r\nHost: m\r\n\r\n"),
    ];
    let half = send(&format!("{head}half"));
    // A client that dribbles never completes its header, however lively it is.
    let mut dribbling = send("GET /");
    let gone = std::iter::repeat_with(|| dribbling.write_all(b"x").is_err())
        .take(2000)
        .any(|gone| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            gone
        });
    assert!(gone, "a header was awaited for ten times the limit");
    for mut stream in silent {
        let mut rest = Vec::new();
        // A reset is as good as an end; a time-out of the test's own is not.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    assert_eq!(read_response(half).0, 408);
    // The place in the queue is free again.
    assert_eq!(service.request("POST", "/v1/predict", &png([255, 0, 0])).0, 200);
}

#[test]
fn damaged_requests_are_answered() {
    let dir = package("colour");
    let service = start(dir.path());
    let json = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{
            "name": "input", "shape": [1, 3, 4, 4], "datatype": "FP32", "parameters": {"binary_data_size": 192},
        }],
    })
    .to_string();
    let whole = [json.as_bytes(), &[0x3f; 192]].concat();
    let send = |body: &[u8], length: usize| {
        let mut stream = connect(&service.http);
        let head = format!(
            "POST /v2/models/colour/infer HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\
             Inference-Header-Content-Length: {length}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[9..12]).into_owned()
    };
    assert_eq!(send(&whole, json.len()), "200");
    let mut answers = std::collections::BTreeMap::new();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        // In a number 0xff may make one so large that the model overflows, which is no mistake of ours either.
        let high = if at < json.len() { 0xff } else { 0x40 };
        for value in [0, high, whole[at] ^ 0x10] {
            damaged[at] = value;
            *answers.entry(send(&damaged, json.len())).or_insert(0) += 1;
        }
        // Cut off, and parted elsewhere.
        *answers.entry(send(&whole[..at], json.len().min(at))).or_insert(0) += 1;
        *answers.entry(send(&whole, at)).or_insert(0) += 1;
    }
    // Damage in a number may give another number; everything else is the client's mistake, and nothing is ours.
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["200", "400"], "{answers:?}");
    assert!(answers["400"] > 500 && service.request("GET", "/v2/health/ready", b"").0 == 200);
}
