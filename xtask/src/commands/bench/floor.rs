//! The least that any tool must do: read, hash and write every byte once; send every missing blob once.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use aiot_build::BuildError;
use aiot_oci::{Descriptor, Digest, Store};
use sha2::Digest as _;

/// Bytes at a time: fits the second-level cache.
const BUFFER_BYTES: usize = 256 << 10;

/// Copies a file and hashes it on the way.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_and_hash(from: &Path, to: &Path) -> Result<Digest, BuildError> {
    let mut input = File::open(from).map_err(BuildError::other)?;
    let mut output = File::create(to).map_err(BuildError::other)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = input.read(&mut buffer).map_err(BuildError::other)?;
        if length == 0 {
            return Ok(Digest::from_bytes(hasher.finalize().into()));
        }
        hasher.update(&buffer[..length]);
        output.write_all(&buffer[..length]).map_err(BuildError::other)?;
    }
}

/// What one repository gets.
pub struct Repository {
    /// Its name, without the registry.
    pub name: String,
    /// Blobs to send.
    pub blobs: Vec<Descriptor>,
    /// Blobs to take over from the repository that has them.
    pub mounted: Vec<Digest>,
    /// Tags and what they name, in order.
    pub manifests: Vec<(String, Descriptor)>,
}

/// Sends repositories over `connections` kept-alive connections, without asking what is there.
///
/// # Errors
/// When the registry does not answer as the specification says.
pub fn push_repositories(
    address: &str,
    mount_from: &str,
    store: &Store,
    repositories: &[Repository],
    connections: usize,
) -> Result<(), BuildError> {
    let send = &|first: usize| -> Result<(), BuildError> {
        let mut connection = Connection::open(address)?;
        for repository in repositories.iter().skip(first).step_by(connections) {
            let name = &repository.name;
            for digest in &repository.mounted {
                let path = format!("/v2/{name}/blobs/uploads/?mount={digest}&from={mount_from}");
                connection.request("POST", &path, "", 0, std::io::empty(), 201)?;
            }
            for blob in &repository.blobs {
                connection.upload(name, store, blob)?;
            }
            for (tag, manifest) in &repository.manifests {
                connection.put_manifest(name, tag, store, manifest)?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..connections)
            .map(|first| scope.spawn(move || send(first)))
            .collect();
        senders
            .into_iter()
            .try_for_each(|sender| sender.join().expect("no panic"))
    })
}

/// A kept-alive HTTP connection to a registry on this machine.
struct Connection<'a> {
    address: &'a str,
    stream: BufReader<TcpStream>,
}

impl<'a> Connection<'a> {
    fn open(address: &'a str) -> Result<Self, BuildError> {
        let stream = TcpStream::connect(address).map_err(BuildError::other)?;
        stream.set_nodelay(true).map_err(BuildError::other)?;
        Ok(Connection {
            address,
            stream: BufReader::new(stream),
        })
    }

    fn upload(&mut self, repository: &str, store: &Store, blob: &Descriptor) -> Result<(), BuildError> {
        let start = format!("/v2/{repository}/blobs/uploads/");
        let location = self.request("POST", &start, "", 0, std::io::empty(), 202)?;
        let path = location
            .strip_prefix(&format!("http://{}", self.address))
            .unwrap_or(&location);
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}digest={}", blob.digest);
        let body = File::open(store.path(&blob.digest)).map_err(BuildError::other)?;
        self.request(
            "PUT",
            &path,
            "Content-Type: application/octet-stream\r\n",
            blob.size,
            body,
            201,
        )
        .map(|_| ())
    }

    fn put_manifest(
        &mut self,
        repository: &str,
        tag: &str,
        store: &Store,
        manifest: &Descriptor,
    ) -> Result<(), BuildError> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let media_type = format!("Content-Type: {}\r\n", manifest.media_type);
        let body = File::open(store.path(&manifest.digest)).map_err(BuildError::other)?;
        self.request("PUT", &path, &media_type, manifest.size, body, 201)
            .map(|_| ())
    }

    /// Sends a request and reads the answer; returns its `Location`, empty where there is none.
    fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body_bytes: u64,
        mut body: impl Read,
        expected: u16,
    ) -> Result<String, BuildError> {
        let address = self.address;
        let stream = self.stream.get_mut();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {body_bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).map_err(BuildError::other)?;
        // Larger pieces than `io::copy` takes: the registry is woken less often.
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = body.read(&mut buffer).map_err(BuildError::other)?;
            if length == 0 {
                break;
            }
            stream.write_all(&buffer[..length]).map_err(BuildError::other)?;
        }
        let (mut status, mut location, mut length) = (String::new(), String::new(), 0);
        self.stream.read_line(&mut status).map_err(BuildError::other)?;
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line).map_err(BuildError::other)?;
            if read == 0 || line.trim().is_empty() {
                break;
            }
            match line
                .split_once(':')
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
            {
                Some((name, value)) if name == "location" => location = value.to_owned(),
                Some((name, value)) if name == "content-length" => length = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        if method != "HEAD" {
            let mut rest = Vec::new();
            self.stream
                .by_ref()
                .take(length)
                .read_to_end(&mut rest)
                .map_err(BuildError::other)?;
        }
        if status.split(' ').nth(1) != Some(&expected.to_string()) {
            return Err(BuildError::Other(format!(
                "{method} http://{address}{path}: {}",
                status.trim()
            )));
        }
        Ok(location)
    }
}
