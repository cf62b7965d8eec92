//! The simulated hub behind https on loopback, with a certificate of its own that is made at start.
//!
//! Virtual time runs `speed` times as fast as real time, in steps, whenever somebody asks; at speed 0 it stands still
//! and only moves by [`crate::Service::pass`].

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, to_bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use axum::serve::Listener;
use base64::Engine;
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ring::rand::SecureRandom;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::mqtt::Identity;
use crate::page::page;
use crate::rest::{BODY_LIMIT_BYTES, Clock, POLICY, Reply, Request, Simulator};
use crate::service::Service;

/// Most steps of virtual time that one request waits for.
const STEPS_LIMIT: u64 = 16;
/// Shortest step of virtual time, in seconds.
const STEP_SECS: u64 = 60;
/// Connections that wait to be taken.
const WAITING_LIMIT: usize = 64;
/// Longest wait for a client's handshake.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

struct Shared {
    simulator: Arc<Mutex<Simulator>>,
    started: Instant,
    speed: f64,
    start_secs: u64,
}

/// A simulated hub that is served until this is dropped.
pub struct Server {
    simulator: Arc<Mutex<Simulator>>,
    runtime: Option<tokio::runtime::Runtime>,
    tls: TlsAcceptor,
    address: SocketAddr,
    ca_pem: String,
    key: Vec<u8>,
}

impl Server {
    /// Serves `service` on loopback; port 0 is one that is free. `units`: throttles grow with them.
    ///
    /// # Errors
    /// The port is taken, or there are no random numbers.
    pub fn start(service: Service, port: u16, units: u32, speed: f64) -> io::Result<Server> {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut key = vec![0; 32];
        ring::rand::SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| io::Error::other("no random numbers"))?;
        let (tls, ca_pem) = certificates().map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?;
        let address = listener.local_addr()?;
        let start_secs = service.now_secs;
        let authority = format!("localhost:{}", address.port());
        let simulator = Arc::new(Mutex::new(Simulator::new(service, &authority, &key, units)));
        let shared = Arc::new(Shared {
            simulator: Arc::clone(&simulator),
            started: Instant::now(),
            speed,
            start_secs,
        });
        let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
        let tls = TlsAcceptor::from(tls);
        runtime.spawn(accept(listener, tls.clone(), async move |stream| {
            let _ = sender.send(stream).await;
        }));
        let app = axum::Router::new().fallback(answer).with_state(shared);
        runtime.spawn(async move {
            let _ = axum::serve(Accepted { receiver, address }, app).await;
        });
        Ok(Server {
            simulator,
            runtime: Some(runtime),
            tls,
            address,
            ca_pem,
            key,
        })
    }

    /// Lets clients of devices and modules connect by MQTT over TLS; gives the port, 0 is one that is free.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen_for_devices(&self, port: u16) -> io::Result<u16> {
        let Some(runtime) = &self.runtime else {
            return Err(io::Error::other("the hub has ended"));
        };
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?;
        let port = listener.local_addr()?.port();
        let hub = Arc::clone(&self.simulator);
        runtime.spawn(accept(listener, self.tls.clone(), async move |stream| {
            crate::mqtt::serve(stream, &hub).await;
        }));
        Ok(port)
    }

    /// How a client of a device or module connects; a secret. The clients know the port by themselves: 8883.
    pub fn client_connection_string(&self, identity: &Identity) -> String {
        let key = base64::engine::general_purpose::STANDARD.encode(&self.simulator().keys(identity)[0]);
        let module = identity
            .module
            .as_ref()
            .map_or_else(String::new, |module| format!(";ModuleId={module}"));
        format!(
            "HostName=localhost;DeviceId={}{module};SharedAccessKey={key}",
            identity.device
        )
    }

    /// The hub, for whoever serves it: to let time pass, break devices, and look.
    pub fn simulator(&self) -> MutexGuard<'_, Simulator> {
        locked(&self.simulator)
    }

    /// Port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The authority that has signed the hub's certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// How clients reach it; a secret.
    pub fn connection_string(&self) -> String {
        format!(
            "HostName=localhost:{};SharedAccessKeyName={POLICY};SharedAccessKey={}",
            self.port(),
            base64::engine::general_purpose::STANDARD.encode(&self.key)
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn locked(simulator: &Mutex<Simulator>) -> MutexGuard<'_, Simulator> {
    simulator.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// A server configuration, and the authority that has signed its certificate.
fn certificates() -> Result<(Arc<rustls::ServerConfig>, String), Box<dyn std::error::Error + Send + Sync>> {
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.distinguished_name
        .push(DnType::CommonName, "AIoT Ops simulated hub");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let certificate = server.signed_by(&server_key, &issuer)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((Arc::new(config), ca_certificate.pem()))
}

/// Shakes hands beside each other, so that a client that says nothing keeps nobody waiting.
pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    tls: TlsAcceptor,
    each: impl FnOnce(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (tls, each) = (tls.clone(), each.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                each(stream).await;
            }
        });
    }
}

struct Accepted {
    receiver: mpsc::Receiver<TlsStream<TcpStream>>,
    address: SocketAddr,
}

impl Listener for Accepted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.receiver.recv().await {
            Some(stream) => (stream, self.address),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: HttpRequest) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LIMIT_BYTES).await else {
        return plain(413, "the body is too large");
    };
    let headers: BTreeMap<String, String> = parts
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let request = Request {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers,
        body: body.to_vec(),
    };
    // Computing takes long for large fleets, and would hold up the other connections of this thread.
    match tokio::task::spawn_blocking(move || compute(&shared, &request)).await {
        Ok(response) => response,
        Err(_) => plain(500, "the simulated hub has failed"),
    }
}

fn compute(shared: &Shared, request: &Request) -> Response {
    let elapsed = shared.started.elapsed();
    let mut simulator = locked(&shared.simulator);
    advance(&mut simulator, shared, elapsed);
    if request.method == "GET" && request.path == "/" {
        let mut response = Response::new(Body::from(page(&simulator)));
        let html = axum::http::HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert("content-type", html);
        return response;
    }
    let clock = Clock {
        unix_secs: unix_secs(),
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    };
    let reply = simulator.handle(request, clock);
    let (number, now_secs) = (simulator.requests, simulator.service.now_secs);
    drop(simulator);
    http(reply.settled(number, now_secs))
}

/// Real time, by which tokens are judged: seconds since 1970.
pub(crate) fn unix_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Lets virtual time come to where it should be.
fn advance(simulator: &mut Simulator, shared: &Shared, elapsed: Duration) {
    if shared.speed <= 0.0 {
        return;
    }
    let wanted = shared.start_secs + (elapsed.as_secs_f64() * shared.speed) as u64;
    let missing = wanted.saturating_sub(simulator.service.now_secs);
    let step = STEP_SECS.max(missing.div_ceil(STEPS_LIMIT));
    for _ in 0..missing / step {
        simulator.service.pass(step);
    }
}

fn http(reply: Reply) -> Response {
    let length = reply.body.len();
    let body = match reply.cut {
        true => Body::new(Cut),
        false => Body::from(reply.body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = axum::http::StatusCode::from_u16(reply.status).unwrap_or_default();
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (
            axum::http::HeaderName::from_bytes(name.as_bytes()),
            axum::http::HeaderValue::from_str(value),
        ) {
            response.headers_mut().insert(name, value);
        }
    }
    if reply.cut {
        response
            .headers_mut()
            .insert("content-length", (length.max(1) as u64).into());
    }
    response
}

fn plain(status: u16, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    response
}

/// A body that breaks off.
struct Cut;

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Err(io::Error::other("simulated: the answer is cut"))))
    }
}
