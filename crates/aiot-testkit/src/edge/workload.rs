//! The daemon's workload API on a unix socket: trust bundle and signatures, with faults on demand.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use aiot_package::Digest;

/// The module's key, which the daemon keeps.
const KEY: &[u8] = b"the module's key, which never leaves the device";

/// One request for a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignRequest {
    /// Path with its query.
    pub target: String,
    /// The JSON body.
    pub body: String,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<SignRequest>>,
    /// Connections that are still closed without an answer.
    closing: AtomicU32,
    /// Answers that still break off in the middle.
    cutting: AtomicU32,
    stopped: AtomicBool,
}

/// The API; gone when it is dropped.
#[derive(Debug)]
pub struct Workload {
    /// `unix://…`
    pub uri: String,
    socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Workload {
    /// Serves at a socket in `folder`; `trust` is the PEM text of the trust bundle.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn start(folder: &Path, trust: String) -> Workload {
        Workload::start_with_key(folder, trust, KEY)
    }

    /// As [`Workload::start`], with the key that a hub knows of the module: at most 64 bytes.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn start_with_key(folder: &Path, trust: String, key: &[u8]) -> Workload {
        let key = key.to_owned();
        let socket = folder.join("workload.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared::default());
        let seen = shared.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.stopped.load(SeqCst) {
                    return;
                }
                let closes = seen
                    .closing
                    .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
                if closes.is_err()
                    && let Ok(stream) = stream
                {
                    // A client that leaves early is its own affair.
                    let _ = answer(stream, &trust, &key, &seen);
                }
            }
        });
        Workload {
            uri: format!("unix://{}", socket.display()),
            socket,
            shared,
            thread: Some(thread),
        }
    }

    /// Closes the next connections without an answer, as the daemon does when it has too many.
    pub fn close_next(&self, connections: u32) {
        self.shared.closing.store(connections, SeqCst);
    }

    /// Breaks the next answers off in the middle.
    pub fn cut_next(&self, answers: u32) {
        self.shared.cutting.store(answers, SeqCst);
    }

    /// All requests for signatures.
    ///
    /// # Panics
    /// When the serving thread has panicked.
    pub fn sign_requests(&self) -> Vec<SignRequest> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        // Where the folder has gone first, nobody can wake the thread; it ends with the process.
        if UnixStream::connect(&self.socket).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn answer(stream: UnixStream, trust: &str, key: &[u8], shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (status, answer) = if !query.contains("api-version=") {
        (
            "400 Bad Request",
            "{\"message\":\"api-version is missing\"}".to_owned(),
        )
    } else if method == "GET" && path == "/trust-bundle" {
        (
            "200 OK",
            format!("{{\"certificate\":\"{}\"}}", trust.replace('\n', "\\n")),
        )
    } else if method == "POST" && path.ends_with("/sign") {
        let data = body
            .split("\"data\"")
            .nth(1)
            .and_then(|rest| rest.split('"').nth(1))
            .unwrap_or("");
        let answer = format!("{{\"digest\":\"{}\"}}", base64(&hmac(key, &unbase64(data))));
        shared.requests.lock().unwrap().push(SignRequest {
            target: target.clone(),
            body,
        });
        ("200 OK", answer)
    } else {
        ("404 Not Found", "{\"message\":\"no such route\"}".to_owned())
    };
    let whole = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    );
    let cuts = shared
        .cutting
        .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
    let end = whole.len() - if cuts.is_ok() { answer.len() / 2 } else { 0 };
    reader.into_inner().write_all(&whole.as_bytes()[..end])
}

/// HMAC-SHA256 with a key that is not longer than a block.
fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let padded = |with: u8| -> Vec<u8> {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        block.iter().map(|byte| byte ^ with).collect()
    };
    let digest = |bytes: Vec<u8>| unhex(&Digest::of(&bytes).hex());
    let inner = digest([padded(0x36), data.to_vec()].concat());
    digest([padded(0x5c), inner].concat())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            text.push(match place <= chunk.len() {
                true => ALPHABET[(bits >> (18 - 6 * place)) as usize & 63] as char,
                false => '=',
            });
        }
    }
    text
}

/// The bytes of base64 text; other characters are passed over.
pub(super) fn unbase64(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .bytes()
        .filter_map(|byte| ALPHABET.iter().position(|known| *known == byte))
        .map(|value| value as u32)
        .collect();
    let mut bytes = Vec::new();
    for chunk in digits.chunks(4) {
        let bits = chunk.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - chunk.len()));
        bytes.extend(bits.to_be_bytes()[1..].iter().take(chunk.len() - 1));
    }
    bytes
}

impl SignRequest {
    /// What is to be signed.
    pub fn data(&self) -> String {
        let data = self
            .body
            .split("\"data\"")
            .nth(1)
            .and_then(|rest| rest.split('"').nth(1));
        String::from_utf8_lossy(&unbase64(data.unwrap_or(""))).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_both_ways() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes), text);
            assert_eq!(unbase64(text), bytes);
        }
        assert_eq!(hmac(KEY, b"x").len(), 32);
    }
}
