//! Push and pull over a bad link: a proxy in front of a real registry that fails in chosen ways.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aiot_oci::{
    BaseImage, BlobDelivery, ClientOptions, Credentials, Descriptor, Digest, MediaType, PullLayers,
    PushEvent, PushOptions, Reference, RegistryClient, RegistryError, Repository, Store, StoreError,
    validate_layout, write_layout,
};

use crate::support::{Registry, Workplace, block_on, client, have};

/// What the proxy does with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: it goes to the registry.
    Pass,
    /// The same, and these lines are added to the head of the registry's answer.
    PassWith(String),
    /// Answers with this instead of the registry.
    Answer(String),
    /// Ends the connection after this many bytes of the request's body.
    CutRequest(u64),
    /// Forwards the request and ends the connection without the answer.
    LoseAnswer,
    /// Sends this many bytes of the registry's answer.
    CutAnswer(usize),
    /// Answers with a body without end.
    Endless,
    /// Never answers.
    Silence,
}

/// Method, path with query, headers with lower-case names.
pub struct Head {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// Of a manifest that is put; other bodies are not held.
    pub body: Vec<u8>,
}

pub type Rule = Box<dyn FnMut(&Head) -> Fault + Send>;

pub fn answer(status: &str, headers: &str, body: &str) -> Fault {
    Fault::Answer(format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))
}

/// Starts a proxy and returns its address. It ends with the test's process.
pub fn proxy(upstream: &str, rule: Rule) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (upstream, rule) = (upstream.to_owned(), Arc::new(Mutex::new(rule)));
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (upstream, rule) = (upstream.clone(), rule.clone());
            // A connection that breaks is what the client must cope with.
            std::thread::spawn(move || serve(connection, &upstream, &rule).ok());
        }
    });
    address
}

/// One request, one answer.
fn serve(client: TcpStream, upstream: &str, rule: &Mutex<Rule>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let mut head = Head {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        headers: BTreeMap::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        head.headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut length: u64 = head
        .headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if head.method == "PUT" && head.path.contains("/manifests/") {
        reader.by_ref().take(length).read_to_end(&mut head.body)?;
        length = 0;
    }
    let fault = (rule.lock().unwrap())(&head);
    match &fault {
        Fault::Answer(text) => {
            // Read what comes, or the client sees a reset before the answer.
            std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
            client.write_all(text.as_bytes())?;
            return client.shutdown(Shutdown::Both);
        }
        Fault::Silence => {
            std::io::copy(&mut reader, &mut std::io::sink())?;
            return Ok(());
        }
        Fault::Endless => {
            client.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                client.write_all(&[b' '; 65_536])?;
            }
        }
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    // Host and all stay as they are, so that the registry names the proxy in its answers.
    let headers: String = head
        .headers
        .iter()
        .filter(|(name, _)| *name != "connection" && *name != "authorization")
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        server,
        "{} {} HTTP/1.1\r\n{headers}connection: close\r\n\r\n",
        head.method, head.path
    )?;
    let passed = if let Fault::CutRequest(bytes) = fault {
        bytes.min(length)
    } else {
        server.write_all(&head.body)?;
        length
    };
    let came = std::io::copy(&mut reader.by_ref().take(passed), &mut server)?;
    // Or the client is gone.
    if matches!(fault, Fault::CutRequest(_)) || came < passed {
        return client.shutdown(Shutdown::Both);
    }
    let mut reply = Vec::new();
    server.read_to_end(&mut reply)?;
    match fault {
        Fault::LoseAnswer => {}
        Fault::CutAnswer(bytes) => client.write_all(&reply[..bytes.min(reply.len())])?,
        Fault::PassWith(lines) => {
            let head = reply.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
            client.write_all(&[&reply[..head], lines.as_bytes(), &reply[head..]].concat())?;
        }
        _ => client.write_all(&reply)?,
    }
    client.shutdown(Shutdown::Both)
}

/// Lets every `n`th request that `matches` fail, `times` times.
fn failing(matches: fn(&Head) -> bool, fault: Fault, mut times: u32) -> Rule {
    Box::new(move |head| {
        if times > 0 && matches(head) {
            times -= 1;
            return fault.clone();
        }
        Fault::Pass
    })
}

pub fn is_upload(head: &Head) -> bool {
    head.method == "PUT" && head.path.contains("/blobs/uploads/")
}

/// Pushes the sample index through a proxy with this rule and checks that all arrived whole.
fn check_push(rule: Rule) -> Vec<PushEvent> {
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, arm, _) = place.index();
    let repository: Repository = format!("{}/m", proxy(&registry.address, rule)).parse().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let listener = events.clone();
    let options = PushOptions {
        on_event: Some(Arc::new(move |event| {
            listener.lock().unwrap().push(event.clone())
        })),
        ..PushOptions::default()
    };
    block_on(client().push(&place.store, &index, &repository, Some("1"), &options)).unwrap();

    let store = Store::create(&place.path().join("back")).unwrap();
    let reference: Reference = format!("{}:1", registry.repository("m")).parse().unwrap();
    let platform = "linux/arm/v7".parse().unwrap();
    let pulled = block_on(client().pull_image(&store, &reference, &platform, PullLayers::All)).unwrap();
    assert_eq!((pulled.named.digest, pulled.manifest), (index.digest, arm));
    let events = events.lock().unwrap();
    events.clone()
}

#[test]
fn a_push_survives_a_bad_link() {
    if !have(&["docker-registry"]) {
        return;
    }
    let any = |_: &Head| true;
    let is_manifest = |head: &Head| head.method == "PUT" && head.path.contains("/manifests/");
    check_push(failing(any, answer("500 Oops", "", "no"), 2));
    check_push(failing(any, answer("429 Slow", "Retry-After: 0\r\n", ""), 2));
    check_push(failing(
        |head| head.method == "HEAD",
        answer("503 Busy", "", ""),
        2,
    ));
    check_push(failing(
        is_manifest,
        answer("403 Forbidden", "Retry-After: 0\r\n", ""),
        2,
    ));
    check_push(failing(is_manifest, Fault::LoseAnswer, 1));
    check_push(failing(is_upload, Fault::CutRequest(100), 2));
    check_push(failing(is_upload, Fault::CutRequest(u64::MAX), 2));
    check_push(failing(|head| head.method == "POST", Fault::LoseAnswer, 2));
    check_push(failing(
        is_upload,
        answer(
            "404 Not Found",
            "",
            "{\"errors\":[{\"code\":\"BLOB_UPLOAD_UNKNOWN\"}]}",
        ),
        1,
    ));
}

#[test]
fn a_blob_whose_answer_got_lost_is_not_sent_again() {
    if !have(&["docker-registry"]) {
        return;
    }
    let events = check_push(failing(is_upload, Fault::LoseAnswer, 1));
    let delivered: Vec<_> = events
        .iter()
        .filter(|event| {
            matches!(
                event,
                PushEvent::Delivered {
                    how: BlobDelivery::Uploaded,
                    ..
                }
            )
        })
        .collect();
    assert_eq!(delivered.len(), 4);
    // Positions of each blob only grow: no upload began a second time.
    let mut positions = BTreeMap::new();
    for event in &events {
        if let PushEvent::Sent {
            digest,
            position_bytes,
            ..
        } = event
        {
            assert!(
                positions
                    .insert(*digest, *position_bytes)
                    .is_none_or(|before| before < *position_bytes)
            );
        }
    }
}

#[test]
fn what_does_not_pass_ends_in_an_error_that_names_it() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let check = |rule: Rule, parts: &[&str]| {
        let repository: Repository = format!("{}/m", proxy(&registry.address, rule)).parse().unwrap();
        let options = ClientOptions {
            idle_timeout: Duration::from_millis(300),
            ..support_options()
        };
        let client = RegistryClient::new(options);
        let error = block_on(client.push(
            &place.store,
            &index,
            &repository,
            Some("1"),
            &PushOptions::default(),
        ))
        .unwrap_err()
        .to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(!error.contains('?'), "the query may hold secrets: {error}");
    };
    let denied = answer(
        "403 Forbidden",
        "",
        "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"quota\"}]}",
    );
    check(
        failing(|_| true, answer("500 Oops", "", ""), 99),
        &["HEAD", "/v2/m/manifests/1", "500"],
    );
    check(failing(is_upload, denied, 99), &["PUT", "403", "DENIED quota"]);
    check(
        failing(is_upload, Fault::CutRequest(10), 99),
        &["PUT", "/blobs/uploads/"],
    );
    check(
        failing(|_| true, Fault::Silence, 99),
        &["nothing was sent or received"],
    );
    check(
        failing(|head| head.method == "POST", answer("202 Accepted", "", ""), 99),
        &["without saying where"],
    );
    let elsewhere = answer("202 Accepted", "Location: http://[::1]:1/x?state=secret\r\n", "");
    check(
        failing(|head| head.method == "POST", elsewhere, 99),
        &["PUT", "[::1]:1/x"],
    );
    let other = answer(
        "201 Created",
        &format!("Docker-Content-Digest: {}\r\n", Digest::of(b"x")),
        "",
    );
    check(
        failing(
            |head| head.path.contains("/manifests/sha256") && head.method == "PUT",
            other,
            99,
        ),
        &["expected", "has"],
    );
}

pub fn support_options() -> ClientOptions {
    ClientOptions {
        retry: aiot_oci::RetryPolicy {
            attempts: 3,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(20),
        },
        ..ClientOptions::default()
    }
}

#[test]
fn a_pull_goes_on_where_it_was_cut() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, arm, _) = place.index();
    block_on(client().push(
        &place.store,
        &index,
        &registry.repository("m"),
        Some("1"),
        &PushOptions::default(),
    ))
    .unwrap();
    let model = BaseImage::read(&place.store, &arm).unwrap().manifest.layers[1]
        .digest
        .to_string();
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = ranges.clone();
    let mut cuts = 2;
    let rule: Rule = Box::new(move |head| {
        seen.lock().unwrap().extend(head.headers.get("range").cloned());
        if cuts > 0 && head.method == "GET" && head.path.ends_with(&model) {
            cuts -= 1;
            return Fault::CutAnswer(100_000);
        }
        Fault::Pass
    });
    let reference: Reference = format!("{}/m:1", proxy(&registry.address, rule)).parse().unwrap();
    let store = Store::create(&place.path().join("back")).unwrap();
    let platform = "linux/amd64".parse().unwrap();
    let pulled = block_on(client().pull_image(&store, &reference, &platform, PullLayers::All)).unwrap();
    let ranges = ranges.lock().unwrap();
    assert!(
        ranges
            .iter()
            .any(|range| range != "bytes=0-" && range.starts_with("bytes=")),
        "{ranges:?}"
    );
    let layout = place.path().join("layout");
    write_layout(&layout, &store, &[("m".to_owned(), pulled.manifest)]).unwrap();
    assert_eq!(validate_layout(&layout).unwrap(), []);
}

#[test]
fn a_registry_that_lies_is_found_out() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    block_on(client().push(
        &place.store,
        &index,
        &registry.repository("m"),
        Some("1"),
        &PushOptions::default(),
    ))
    .unwrap();
    let pull = |rule: Rule, digest: Option<Digest>| {
        let repository = format!("{}/m", proxy(&registry.address, rule)).parse().unwrap();
        let reference = Reference {
            repository,
            tag: Some("1".to_owned()),
            digest,
        };
        let dir = tempfile::tempdir_in(place.path()).unwrap();
        let store = Store::create(dir.path()).unwrap();
        let platform = "linux/amd64".parse().unwrap();
        let result = block_on(client().pull_image(&store, &reference, &platform, PullLayers::All));
        assert!(store.verify_all().unwrap().is_empty());
        result.unwrap_err()
    };
    let is_document = |head: &Head| head.path.contains("/manifests/");
    let is_blob = |head: &Head| head.path.contains("/blobs/");
    let error = pull(
        failing(
            is_document,
            answer("200 OK", "", "{\"schemaVersion\":2,\"manifests\":[]}"),
            99,
        ),
        Some(index.digest),
    );
    assert!(
        matches!(error, RegistryError::WrongDigest { expected, .. } if expected == index.digest),
        "{error}"
    );
    let error = pull(failing(is_document, Fault::Endless, 99), None);
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
    let error = pull(failing(is_blob, Fault::Endless, 99), None);
    assert!(error.to_string().contains("longer than"), "{error}");
    let error = pull(failing(is_blob, answer("200 OK", "", "{}"), 99), None);
    assert!(
        matches!(error, RegistryError::Store(StoreError::Mismatch { .. })),
        "{error}"
    );
    let error = pull(failing(is_document, answer("200 OK", "", "<html>"), 99), None);
    assert!(error.to_string().contains("manifest sha256:"), "{error}");
    let huge = Descriptor::new(MediaType::ImageConfig, Digest::of(b"x"), u64::MAX);
    let text = format!(
        "{{\"schemaVersion\":2,\"config\":{},\"layers\":[]}}",
        String::from_utf8(aiot_oci::document::to_bytes(&huge)).unwrap()
    );
    let error = pull(failing(is_document, answer("200 OK", "", &text), 99), None);
    assert!(
        matches!(error, RegistryError::Store(StoreError::TooLarge { .. })),
        "{error}"
    );
}

/// A gate that lets only the bearer of the newest token through, and kills each token after `uses` requests.
pub fn token_gate(realm: Arc<Mutex<String>>, uses: u32, log: Arc<Mutex<Vec<String>>>) -> Rule {
    let (mut number, mut left) = (0, 0);
    Box::new(move |head| {
        if head.path.starts_with("/token") {
            (number, left) = (number + 1, uses);
            let login = head.headers.get("authorization").cloned().unwrap_or_default();
            log.lock().unwrap().push(format!("{} {login}", head.path));
            let body = format!("{{\"token\":\"t{number}\",\"expires_in\":300}}");
            return answer("200 OK", "Content-Type: application/json\r\n", &body);
        }
        let bearer = head
            .headers
            .get("authorization")
            .is_some_and(|value| *value == format!("Bearer t{number}"));
        if bearer && left > 0 {
            left -= 1;
            return Fault::Pass;
        }
        let realm = realm.lock().unwrap().clone();
        answer(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s p\"\r\n"),
            "",
        )
    })
}

#[test]
fn a_token_that_dies_in_the_middle_is_renewed() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (index, ..) = place.index();
    let (realm, log) = (
        Arc::new(Mutex::new(String::new())),
        Arc::new(Mutex::new(Vec::new())),
    );
    let gate = proxy(&registry.address, token_gate(realm.clone(), 2, log.clone()));
    *realm.lock().unwrap() = format!("http://{gate}/token");
    let credentials = Credentials::anonymous().with_password(&gate, "ann", "sesame");
    let client = RegistryClient::new(ClientOptions {
        credentials,
        ..support_options()
    });
    let repository: Repository = format!("{gate}/m").parse().unwrap();
    let options = PushOptions {
        uploads_in_parallel: 1,
        ..PushOptions::default()
    };
    block_on(client.push(&place.store, &index, &repository, Some("1"), &options)).unwrap();
    let log = log.lock().unwrap();
    assert!(log.len() > 3, "{log:?}");
    for line in log.iter() {
        assert_eq!(
            line,
            "/token?service=s+p&scope=repository%3Am%3Apull%2Cpush Basic YW5uOnNlc2FtZQ=="
        );
    }
}

#[test]
fn an_identity_token_is_exchanged() {
    if !have(&["docker-registry"]) {
        return;
    }
    let place = Workplace::new();
    let registry = Registry::start(place.path(), "");
    let (_, arm, _) = place.index();
    let (realm, log) = (
        Arc::new(Mutex::new(String::new())),
        Arc::new(Mutex::new(Vec::new())),
    );
    let gate = proxy(&registry.address, token_gate(realm.clone(), 99, log.clone()));
    *realm.lock().unwrap() = format!("http://{gate}/token");
    let credentials = Credentials::anonymous().with_password(&gate, "<token>", "refresh");
    let client = RegistryClient::new(ClientOptions {
        credentials,
        ..support_options()
    });
    let repository: Repository = format!("{gate}/m").parse().unwrap();
    block_on(client.push(&place.store, &arm, &repository, None, &PushOptions::default())).unwrap();
    assert_eq!(*log.lock().unwrap(), ["/token "]);
}
