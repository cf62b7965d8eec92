//! A load generator: clients on kept-alive connections, each with one request in flight, the same for all services.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aiot_build::BuildError;

/// The longest answer that is read, and the longest wait for one.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// What is asked of whom.
#[derive(Clone, Debug)]
pub struct Requests {
    /// On this machine.
    pub port: u16,
    /// As in `/v1/predict`.
    pub path: String,
    /// Of the bodies.
    pub content_type: &'static str,
    /// Sent in turn.
    pub bodies: Vec<Vec<u8>>,
}

/// What was measured.
#[derive(Debug)]
pub struct Load {
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Of each request, ascending, in seconds.
    pub latencies: Vec<f64>,
}

impl Load {
    /// The latency that `share` of the requests stay within.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies
            .get((last as f64 * share).ceil() as usize)
            .copied()
            .unwrap_or_default()
    }
}

/// Sends `count` requests from `clients` connections.
///
/// # Errors
/// The first request that fails, or whose answer is not 200.
pub fn load(requests: &Requests, clients: usize, count: usize) -> Result<Load, BuildError> {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let results: Vec<io::Result<Vec<f64>>> = std::thread::scope(|scope| {
        let work = || -> io::Result<Vec<f64>> {
            let mut client = Client::connect(requests.port)?;
            let mut latencies = Vec::with_capacity(count / clients + 1);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(latencies);
                }
                let sent = Instant::now();
                client.ask(requests, index)?;
                latencies.push(sent.elapsed().as_secs_f64());
            }
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a client panicked")))
            })
            .collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    let mut latencies = Vec::with_capacity(count);
    for result in results {
        latencies.extend(result.map_err(|error| BuildError::Other(format!("{}: {error}", requests.path)))?);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(Load { seconds, latencies })
}

/// One request on a connection of its own; whether it was answered with 200.
pub fn answers(requests: &Requests) -> bool {
    Client::connect(requests.port).is_ok_and(|mut client| client.ask(requests, 0).is_ok())
}

struct Client {
    stream: BufReader<TcpStream>,
    /// Of the request that is sent, in one write.
    request: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream: BufReader::new(stream),
            request: Vec::new(),
        })
    }

    fn ask(&mut self, requests: &Requests, index: usize) -> io::Result<()> {
        let body = &requests.bodies[index % requests.bodies.len()];
        self.request.clear();
        write!(
            self.request,
            "POST {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            requests.path,
            requests.port,
            requests.content_type,
            body.len()
        )?;
        self.request.extend_from_slice(body);
        self.stream.get_mut().write_all(&self.request)?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let mut length = None;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<u64>().ok();
            }
        }
        let length = length
            .filter(|length| *length <= MAX_ANSWER_BYTES)
            .ok_or_else(|| io::Error::other("an answer without a content-length, or too long"))?;
        let mut answer = Vec::with_capacity(length as usize);
        (&mut self.stream).take(length).read_to_end(&mut answer)?;
        if status.split(' ').nth(1) != Some("200") {
            let said = String::from_utf8_lossy(&answer);
            return Err(io::Error::other(format!("{}: {said}", status.trim_end())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_requests() {
        let load = Load {
            seconds: 1.0,
            latencies: (1..=101).map(f64::from).collect(),
        };
        assert_eq!((load.quantile(0.5), load.quantile(0.99)), (51.0, 100.0));
        let none = Load {
            seconds: 0.0,
            latencies: Vec::new(),
        };
        assert_eq!(none.quantile(0.99), 0.0);
    }

    #[test]
    fn every_request_is_sent_once_and_refusals_are_errors() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            for status in ["200 OK", "200 OK", "429 Too Many Requests"] {
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                let mut body = [0; 1];
                stream.read_exact(&mut body).unwrap();
                bodies.push(body[0]);
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nbusy"
                )
                .unwrap();
            }
            bodies
        });
        let requests = Requests {
            port,
            path: "/x".to_owned(),
            content_type: "text/plain",
            bodies: vec![b"a".to_vec(), b"b".to_vec()],
        };
        let error = load(&requests, 1, 5).unwrap_err().to_string();
        assert!(error.contains("429 Too Many Requests: busy"), "{error}");
        assert_eq!(served.join().unwrap(), b"aba");
    }
}
