//! A registry whose documents are right by digest and wrong in what they say.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use aiot_oci::{
    ClientOptions, Descriptor, Digest, MediaType, PullLayers, RegistryClient, RegistryError, RetryPolicy,
    document,
};

use crate::support::Place;

/// Answers GET of `/v2/m/…/NAME` with the document of that name, on a port of this machine.
fn serve(documents: BTreeMap<String, (String, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            reader.read_line(&mut request).unwrap_or_default();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let name = request.split(' ').nth(1).unwrap_or_default();
            let found = documents.get(name.rsplit('/').next().unwrap_or_default());
            let (status, kind, body) = match found {
                Some((kind, body)) => ("200 OK", kind.as_str(), body.as_slice()),
                None => ("404 Not Found", "text/plain", b"".as_slice()),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            // The other side may have gone: it is told to, by what it is sent.
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body));
        }
    });
    address
}

/// Documents by digest and by the tag `1`, which names the last one.
#[derive(Default)]
struct Documents(BTreeMap<String, (String, Vec<u8>)>);

impl Documents {
    fn add(&mut self, media_type: MediaType, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        let entry = (media_type.to_string(), bytes.to_vec());
        self.0.insert(digest.to_string(), entry.clone());
        self.0.insert("1".to_owned(), entry);
        let mut descriptor = Descriptor::new(media_type, digest, bytes.len() as u64);
        descriptor.platform = "linux/arm64".parse().ok();
        descriptor
    }

    fn index(&mut self, entries: &[Descriptor]) -> Descriptor {
        let index = aiot_oci::ImageIndex::new(entries.to_vec(), BTreeMap::new());
        self.add(MediaType::ImageIndex, &document::to_bytes(&index))
    }

    fn manifest(&mut self, config: Descriptor, layers: Vec<Descriptor>) -> Descriptor {
        let manifest = aiot_oci::ImageManifest {
            schema_version: 2,
            media_type: None,
            config,
            layers,
            annotations: BTreeMap::new(),
        };
        self.add(MediaType::ImageManifest, &document::to_bytes(&manifest))
    }

    fn config(&mut self, diff_ids: &str) -> Descriptor {
        let text = format!(
            "{{\"architecture\":\"arm64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{diff_ids}]}}}}"
        );
        let mut config = self.add(MediaType::ImageConfig, text.as_bytes());
        config.platform = None;
        config
    }

    /// Pulls what the tag names, into a store of its own.
    fn pull(self) -> Result<(), RegistryError> {
        let place = Place::new();
        let reference = format!("{}/m:1", serve(self.0)).parse().unwrap();
        let client = RegistryClient::new(ClientOptions {
            retry: RetryPolicy {
                attempts: 1,
                ..RetryPolicy::default()
            },
            ..ClientOptions::default()
        });
        let platform = "linux/arm64".parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result =
            runtime.block_on(client.pull_image(&place.store, &reference, &platform, PullLayers::All));
        place.is_clean();
        result.map(|_| ())
    }
}

#[test]
fn indexes_in_indexes_are_not_followed() {
    let mut documents = Documents::default();
    let mut inner = documents.index(&[]);
    for _ in 0..50 {
        inner = documents.index(&[inner]);
    }
    let error = documents.pull().unwrap_err().to_string();
    assert!(
        error.contains("no image for linux/arm64") || error.contains("linux/arm64"),
        "{error}"
    );
}

#[test]
fn an_index_of_a_hundred_thousand_entries_is_not_read_to_its_end() {
    let mut documents = Documents::default();
    let one = documents.index(&[]);
    documents.index(&vec![one; 100_000]);
    let error = documents.pull().unwrap_err().to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
}

#[test]
fn layers_are_no_larger_than_a_layer_can_be() {
    let mut documents = Documents::default();
    let config = documents.config(&format!("\"{}\"", Digest::of(b"x")));
    let huge = Descriptor::new(MediaType::LayerGzip, Digest::of(b"layer"), 1 << 40);
    documents.manifest(config, vec![huge]);
    let error = documents.pull().unwrap_err().to_string();
    assert!(error.contains("1099511627776"), "{error}");
}

#[test]
fn a_manifest_that_is_no_image_is_refused() {
    let mut documents = Documents::default();
    let config = documents.add(MediaType::Other("application/vnd.example".into()), b"{}");
    documents.manifest(config, Vec::new());
    let error = documents.pull().unwrap_err().to_string();
    assert!(error.contains("application/vnd.example"), "{error}");
}

#[test]
fn a_good_image_of_the_same_server_is_pulled() {
    let mut documents = Documents::default();
    let mut layer = documents.add(MediaType::LayerTar, b"layer");
    layer.platform = None;
    let config = documents.config(&format!("\"{}\"", layer.digest));
    let manifest = documents.manifest(config, vec![layer]);
    documents.index(&[manifest]);
    documents.pull().unwrap();
}
