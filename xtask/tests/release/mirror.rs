//! A mirror of a distribution on this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aiot_package::Digest;
use aiot_plan::lock::Lock;
use lzma_rust2::{XzOptions, XzWriter};

/// A mirror with the files that it was given, by path below its URL; 404 for all else.
pub struct Mirror {
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Mirror {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/debian", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        // Ends with the test's process: it holds nothing but its port.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                answer(connection, &files, &seen);
            }
        });
        Mirror { url, asked }
    }

    /// First lines of all requests.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut connection: TcpStream, files: &BTreeMap<String, Vec<u8>>, asked: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
    let first = lines.next().and_then(Result::ok).unwrap_or_default();
    asked.lock().unwrap().push(first.clone());
    while lines
        .next()
        .and_then(Result::ok)
        .is_some_and(|line| !line.is_empty())
    {}
    let path = first
        .split(' ')
        .nth(1)
        .and_then(|path| path.strip_prefix("/debian/"));
    let (status, body) = match path.and_then(|path| files.get(path)) {
        Some(body) => ("200 OK", &body[..]),
        None => ("404 Not Found", &[][..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = connection.write_all(&[head.as_bytes(), body].concat());
}

/// What a newer version ends with.
pub const NEWER: &str = "+test1";

/// The index of a mirror that has what a lock names, and a newer version of one package.
pub fn index_of(lock: &str, newer: Option<&str>) -> BTreeMap<String, Vec<u8>> {
    let lock = Lock::parse(lock).unwrap();
    let (mut files, mut listed) = (BTreeMap::new(), String::new());
    for closure in &lock.debian {
        let others: Vec<&str> = closure.package.iter().map(|package| &package.name[..]).collect();
        let stanzas: String = closure
            .package
            .iter()
            .map(|package| {
                let end = if newer == Some(&package.name) { NEWER } else { "" };
                // Whatever of them is asked for brings the others.
                format!(
                    "Package: {}\nVersion: {}{end}\nArchitecture: {}\nFilename: {}{end}\nSize: {}\nSHA256: {}\n\
                     Depends: {}\n\n",
                    package.name,
                    package.version,
                    package.architecture,
                    package.filename,
                    package.size_bytes,
                    package.digest.hex(),
                    others.join(", ")
                )
            })
            .collect();
        let mut packed = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
        packed.write_all(stanzas.as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        let path = format!("main/binary-{}/Packages.xz", closure.architecture);
        listed += &format!(" {} {} {path}\n", Digest::of(&packed).hex(), packed.len());
        files.insert(format!("dists/{}/{path}", closure.suite), packed);
    }
    let suite = &lock.debian[0].suite;
    let release = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\n\nCodename: {suite}\nSHA256:\n{listed}\n-----BEGIN PGP SIGNATURE-----\n"
    );
    files.insert(format!("dists/{suite}/InRelease"), release.into_bytes());
    files
}
