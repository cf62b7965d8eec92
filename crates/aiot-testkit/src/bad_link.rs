//! A bad link to a registry: a proxy that makes each request wait, and refuses or cuts a part of them at random.
//!
//! Counts every byte of a request's body that came through, also of requests that failed: that is what a client has
//! sent. Which requests fail depends on the seed and on the order in which they come.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Headers of one request that are read.
const MAX_HEADERS: usize = 100;
/// The longest line of a request's head.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// The longest answer that is passed on.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// How long the rest of a request is waited for that was refused.
const REST_LIMIT: Duration = Duration::from_millis(500);

/// How bad a link is.
#[derive(Clone, Copy, Debug)]
pub struct Badness {
    /// Of 1000 requests, those that fail: half of them are refused with 503 after their head, half are cut after a
    /// random part of their body, or before or after their work where they have none.
    pub failing_per_mille: u64,
    /// What each request waits.
    pub latency: Duration,
    /// Which requests fail.
    pub seed: u64,
    /// Whether uploads go on after a break, as the specification wants it and Debian's `docker-registry` does not:
    /// only whole bodies are passed on, and an upload's newest address is known.
    pub keeps_uploads: bool,
}

/// What came through a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Of these, refused ones.
    pub refused: u64,
    /// Of these, those cut.
    pub cut: u64,
    /// Bytes of bodies of requests.
    pub body_bytes: u64,
}

/// A running proxy; ends when it is dropped.
#[derive(Debug)]
pub struct BadLink {
    /// `127.0.0.1:PORT`
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    badness: Badness,
    random: Mutex<u64>,
    counts: Mutex<Counts>,
    requests: Mutex<Vec<String>>,
    /// Path of an upload → its newest address and how many bytes it has.
    uploads: Mutex<BTreeMap<String, (String, u64)>>,
    is_over: AtomicBool,
}

/// What happens to a request.
enum Fate {
    Passed,
    Refused,
    /// After this share of its body, in thousandths.
    Cut(u64),
}

impl BadLink {
    /// Starts a proxy in front of the registry at `upstream`, `host:port`.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start(upstream: &str, badness: Badness) -> BadLink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            badness,
            random: Mutex::new(badness.seed.wrapping_mul(2).wrapping_add(1)),
            counts: Mutex::default(),
            requests: Mutex::default(),
            uploads: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if serving.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let serving = Arc::clone(&serving);
                // A connection that breaks is what the client must cope with.
                std::thread::spawn(move || serving.serve(connection).ok());
            }
        });
        BadLink { address, shared }
    }

    /// What came through so far.
    pub fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }

    /// `METHOD path` of each request so far, without queries.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }
}

impl Drop for BadLink {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(&self.address);
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while held")
}

/// The head of a request.
struct Head {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> std::io::Result<Head> {
        let mut line = String::new();
        reader.by_ref().take(MAX_LINE_BYTES).read_line(&mut line)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        for _ in 0..MAX_HEADERS {
            let mut line = String::new();
            reader.by_ref().take(MAX_LINE_BYTES).read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        Ok(Head {
            method,
            path,
            headers,
        })
    }

    fn body_bytes(&self) -> u64 {
        let length = self.headers.get("content-length");
        length.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The path of an upload, without its query.
    fn upload(&self) -> Option<&str> {
        let path = self.path.split('?').next().unwrap_or_default();
        let (_, id) = path.split_once("/blobs/uploads/")?;
        (!id.is_empty()).then_some(path)
    }
}

impl Shared {
    fn fate(&self) -> Fate {
        let mut random = lock(&self.random);
        let mut next = || {
            // splitmix64
            *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = *random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed ^ (mixed >> 31)) % 1000
        };
        let (drawn, share) = (next(), next());
        match self.badness.failing_per_mille {
            failing if drawn >= failing => Fate::Passed,
            failing if drawn < failing / 2 => Fate::Refused,
            _ => Fate::Cut(share),
        }
    }

    /// One request, one answer.
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = Head::read(&mut reader)?;
        std::thread::sleep(self.badness.latency);
        let length = head.body_bytes();
        let path = head.path.split('?').next().unwrap_or_default();
        lock(&self.requests).push(format!("{} {path}", head.method));
        let fate = self.fate();
        {
            let mut counts = lock(&self.counts);
            counts.requests += 1;
            counts.refused += u64::from(matches!(fate, Fate::Refused));
            counts.cut += u64::from(matches!(fate, Fate::Cut(_)));
        }
        if matches!(fate, Fate::Refused) {
            client.write_all(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )?;
            // What comes after all was sent, too; a client that stops is not waited for long.
            client.set_read_timeout(Some(REST_LIMIT))?;
            let _ = self.pass(&mut reader, length, &mut std::io::sink());
            return client.shutdown(Shutdown::Both);
        }
        let cut_at = match fate {
            Fate::Cut(share) => Some((length * share / 1000, share)),
            _ => None,
        };
        if self.badness.keeps_uploads
            && let Err(answer) = self.at_its_newest(&mut head)
        {
            self.pass(&mut reader, length, &mut std::io::sink())?;
            client.write_all(answer.as_bytes())?;
            return client.shutdown(Shutdown::Both);
        }
        let mut server = match (self.badness.keeps_uploads, cut_at) {
            // Without a body: before its work.
            (_, Some((_, 0..500))) if length == 0 => return client.shutdown(Shutdown::Both),
            // Held until it is whole, as proxies do that buffer.
            (true, Some((bytes, _))) if length > 0 => {
                self.pass(&mut reader, bytes, &mut std::io::sink())?;
                return client.shutdown(Shutdown::Both);
            }
            (true, _) => {
                let mut whole = tempfile::tempfile()?;
                self.pass(&mut reader, length, &mut whole)?;
                whole.rewind()?;
                let mut server = self.ask(&head)?;
                std::io::copy(&mut whole, &mut server)?;
                server
            }
            (false, Some((bytes, _))) if length > 0 => {
                let mut server = self.ask(&head)?;
                self.pass(&mut reader, bytes, &mut server)?;
                server.shutdown(Shutdown::Both)?;
                return client.shutdown(Shutdown::Both);
            }
            (false, _) => {
                let mut server = self.ask(&head)?;
                self.pass(&mut reader, length, &mut server)?;
                server
            }
        };
        let mut answer = Vec::new();
        Read::by_ref(&mut server)
            .take(MAX_ANSWER_BYTES)
            .read_to_end(&mut answer)?;
        if self.badness.keeps_uploads {
            self.remember(&head, &answer);
        }
        // Or after it.
        if cut_at.is_none() {
            client.write_all(&answer)?;
        }
        client.shutdown(Shutdown::Both)
    }

    /// Copies a body or the start of it, and counts what came.
    fn pass(&self, from: &mut impl Read, bytes: u64, to: &mut impl Write) -> std::io::Result<()> {
        let (mut left, mut buffer) = (bytes, vec![0; 64 << 10]);
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            let length = from.read(&mut buffer[..wanted])?;
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            left -= length as u64;
            lock(&self.counts).body_bytes += length as u64;
            to.write_all(&buffer[..length])?;
        }
        Ok(())
    }

    /// Sends the head to the registry. `Host` stays as it is, so that the registry names the proxy in its answers.
    fn ask(&self, head: &Head) -> std::io::Result<TcpStream> {
        let mut server = TcpStream::connect(&self.upstream)?;
        let headers: String = head
            .headers
            .iter()
            .filter(|(name, _)| *name != "connection")
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        write!(
            server,
            "{} {} HTTP/1.1\r\n{headers}connection: close\r\n\r\n",
            head.method, head.path
        )?;
        Ok(server)
    }

    /// Leads a request for an upload to its newest address; an answer where a piece does not begin where the last one
    /// ended.
    fn at_its_newest(&self, head: &mut Head) -> Result<(), String> {
        let uploads = lock(&self.uploads);
        let Some((newest, has)) = head.upload().and_then(|path| uploads.get(path)) else {
            return Ok(());
        };
        let range = head.headers.get("content-range");
        let start = range.and_then(|range| range.split('-').next()?.parse::<u64>().ok());
        if start.is_some_and(|start| start != *has) {
            return Err(format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nLocation: {newest}\r\nRange: 0-{}\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n",
                has.saturating_sub(1)
            ));
        }
        let digest = head
            .path
            .split(['?', '&'])
            .find(|part| part.starts_with("digest="))
            .map(|part| format!("&{part}"));
        head.path = format!("{newest}{}", digest.unwrap_or_default());
        Ok(())
    }

    fn remember(&self, head: &Head, answer: &[u8]) {
        let text = String::from_utf8_lossy(answer);
        let value = |name: &str| {
            text.lines()
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.split_once(": "))
                .find(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let is_open = matches!(head.method.as_str(), "POST" | "PATCH") && text.starts_with("HTTP/1.1 202");
        let Some(location) = value("location").filter(|_| is_open) else {
            return;
        };
        let address = location
            .strip_prefix("http://")
            .and_then(|rest| rest.find('/').map(|slash| rest[slash..].to_owned()))
            .unwrap_or(location);
        let path = address.split('?').next().unwrap_or_default().to_owned();
        let has = match (head.method.as_str(), value("range")) {
            ("PATCH", Some(range)) => range
                .rsplit('-')
                .next()
                .and_then(|last| last.parse::<u64>().ok())
                .map_or(0, |last| last + 1),
            _ => 0,
        };
        lock(&self.uploads).insert(path, (address, has));
    }
}
