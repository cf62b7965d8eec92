//! Requests that nobody meant: valid ones, mutated, against a running module. Each is answered, none ends it, and its
//! memory stays bounded.

#[path = "../../edge-runtime/tests/support/mod.rs"]
mod support;

use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use serde_json::json;
use support::{Service, command, connect, package};

/// What a module may take at most while it is fuzzed, KiB: engine and model take 35 MiB, and a body of 1 MiB may hold a
/// picture that is decoded.
const MAX_RESIDENT_KIB: u64 = 200 << 10;

/// One change of a body.
#[derive(Clone, Debug)]
enum Mutation {
    Cut(Index),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Repeat(Index, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        any::<Index>().prop_map(Mutation::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..16))
            .prop_map(|(at, new)| Mutation::Insert(at, new)),
        (any::<Index>(), "[\\[\\]{},:\"0-9eE.+-]{1,8}")
            .prop_map(|(at, text)| Mutation::Insert(at, text.into_bytes())),
        (any::<Index>(), 1u8..64).prop_map(|(at, times)| Mutation::Repeat(at, times)),
    ]
}

fn mutated(mut body: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        if body.is_empty() {
            return body;
        }
        match mutation {
            Mutation::Cut(at) => body.truncate(at.index(body.len())),
            Mutation::Set(at, byte) => {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            Mutation::Insert(at, new) => {
                let at = at.index(body.len());
                body.splice(at..at, new.iter().copied());
            }
            Mutation::Repeat(at, times) => {
                let at = at.index(body.len());
                let tail = body[at..].to_vec();
                for _ in 0..*times {
                    body.extend_from_slice(&tail);
                }
                body.truncate(1 << 20);
            }
        }
    }
    body
}

/// The module, with nothing that is slow to be given up on.
fn start() -> (tempfile::TempDir, Service) {
    let dir = package("colour");
    let mut command = command(env!("CARGO_BIN_EXE_vision"), dir.path(), &["serve"]);
    command.env("AIOT_HTTP_TIMEOUT_S", "5");
    (dir, Service::start(command))
}

/// Status of the answer.
fn post(service: &Service, path: &str, headers: &str, body: &[u8]) -> u16 {
    let mut stream = connect(&service.http);
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: module\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(body);
    // What follows may be tensors.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let status = answer.get(9..12).expect("an answer");
    std::str::from_utf8(status).unwrap().parse().unwrap()
}

/// A module that lives and has not grown.
fn is_well(service: &Service) {
    assert_eq!(service.request("GET", "/v2/health/ready", b"").0, 200);
    let peak_kib = service.peak_resident_kib();
    assert!(peak_kib < MAX_RESIDENT_KIB, "{peak_kib} KiB");
}

/// Asks `answer` for the status of many requests.
fn check<S: Strategy>(strategy: S, answer: impl Fn(&Service, S::Value) -> u16) {
    let (_dir, service) = start();
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |value| {
        let status = answer(&service, value);
        prop_assert!(matches!(status, 200 | 400), "{}", status);
        is_well(&service);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    prop::collection::vec(mutation(), 0..5)
}

fn tensor() -> Vec<u8> {
    let data = vec![0.5; 48];
    let input = json!({"name": "input", "shape": [1, 3, 4, 4], "datatype": "FP32", "data": data});
    json!({"id": "1", "inputs": [input], "outputs": [{"name": "output"}]})
        .to_string()
        .into_bytes()
}

fn binary() -> (usize, Vec<u8>) {
    let input = json!({
        "name": "input", "shape": [1, 3, 4, 4], "datatype": "FP32", "parameters": {"binary_data_size": 192},
    });
    let mut body = json!({"inputs": [input], "parameters": {"binary_data_output": true}})
        .to_string()
        .into_bytes();
    let json = body.len();
    body.extend([0.25f32; 48].iter().flat_map(|value| value.to_le_bytes()));
    (json, body)
}

fn picture(format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_fn(40, 30, |x, y| {
        image::Rgb([x as u8 * 6, y as u8 * 8, (x * y) as u8])
    })
    .write_to(&mut bytes, format)
    .unwrap();
    bytes.into_inner()
}

#[test]
fn tensors_as_json() {
    check(mutations(), |service, mutations| {
        post(
            service,
            "/v2/models/colour/infer",
            "",
            &mutated(tensor(), &mutations),
        )
    });
}

#[test]
fn tensors_as_bytes() {
    let length = prop_oneof![
        Just(None),
        (0usize..1000).prop_map(|length| Some(length.to_string())),
        "[-0-9a-f]{1,30}".prop_map(Some),
    ];
    check((mutations(), length), |service, (mutations, length)| {
        let (json, body) = binary();
        let length = length.unwrap_or_else(|| json.to_string());
        let header = format!("Inference-Header-Content-Length: {length}\r\n");
        post(
            service,
            "/v2/models/colour/infer",
            &header,
            &mutated(body, &mutations),
        )
    });
}

#[test]
fn pictures() {
    check((mutations(), any::<bool>()), |service, (mutations, jpeg)| {
        let format = if jpeg {
            image::ImageFormat::Jpeg
        } else {
            image::ImageFormat::Png
        };
        post(service, "/v1/predict", "", &mutated(picture(format), &mutations))
    });
}

/// A chunk of a PNG file.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&length[..], &body, &crc32fast::hash(&body).to_be_bytes()].concat()
}

#[test]
fn a_picture_of_20000_by_20000_pixels_takes_no_memory() {
    let side = 20_000u32.to_be_bytes();
    // One bit a pixel, grey: each row a filter byte and 2500 others, all 0.
    let header = [&side[..], &side, &[1, 0, 0, 0, 0]].concat();
    let mut pixels = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    pixels.write_all(&vec![0; 2501 * 20_000]).unwrap();
    let huge = [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        chunk(b"IDAT", &pixels.finish().unwrap()),
        chunk(b"IEND", &[]),
    ]
    .concat();
    assert!(huge.len() < 100 << 10, "{}", huge.len());
    let (_dir, service) = start();
    for _ in 0..5 {
        assert_eq!(post(&service, "/v1/predict", "", &huge), 400);
    }
    is_well(&service);
}
