//! A request to the service → its answer. No socket, no clock: whoever serves it says what time it is.
//!
//! | module | does |
//! | --- | --- |
//! | [`auth`] | shared access tokens |
//! | [`entra`] | sign-in and bearer tokens |
//! | [`configurations`] | deployments: wire form, ETags, metrics |
//! | [`twins`] | twins, modules, queries with pages |
//! | `clients` | twins of those who connect by MQTT |
//! | `methods` | direct methods, and content for one device |
//!
//! Sources: the service's REST description (API version 2021-04-12), recorded sessions of its clients, docs on quotas.
//! Not served: jobs, and the creation of identities.

pub mod auth;
pub(crate) mod clients;
pub mod configurations;
pub mod entra;
mod methods;
pub mod twins;

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::faults::Faults;
use crate::mqtt::{Call, Clients, Identity};
use crate::random::Random;
use crate::service::{Service, ServiceError};

/// Largest body that is read, in bytes.
pub const BODY_LIMIT_BYTES: usize = 1 << 20;
/// Rows of a page, whatever more is asked for. (The docs of the clients say 1,000; a service may give fewer.)
const PAGE_LIMIT_ROWS: usize = 1_000;

/// What a client sends.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// Path as sent, parts percent-encoded.
    pub path: String,
    /// Query as sent.
    pub query: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What it gets.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// The connection breaks before the answer is through.
    pub cut: bool,
    /// A client has to answer first.
    pub(crate) call: Option<Call>,
}

impl Reply {
    /// Waits for the client that has to answer first, if one has to; without the hub, which must not wait meanwhile.
    /// `request` and `now_secs`: for an error, as all have them.
    pub(crate) fn settled(mut self, request: u64, now_secs: u64) -> Reply {
        let Some(call) = self.call.take() else {
            return self;
        };
        let answer = match call.wait() {
            Some((status, payload)) => ok(&json!({ "status": status, "payload": payload })),
            None => {
                let late = error(504, "GatewayTimeout", "the device did not answer in time");
                failed(&late, request, now_secs)
            }
        };
        Reply {
            headers: self.headers.into_iter().chain(answer.headers).collect(),
            cut: self.cut,
            ..answer
        }
    }

    /// Nothing comes back.
    fn broken() -> Reply {
        Reply {
            status: 200,
            cut: true,
            ..Reply::default()
        }
    }
}

/// Times that only the outside knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Real time, seconds since 1970; tokens are judged by it.
    pub unix_secs: u64,
    /// Real time since any fixed moment, milliseconds; throttles are counted by it.
    pub elapsed_ms: u64,
}

/// A hub with its policy, throttles and moods.
#[derive(Debug)]
pub struct Simulator {
    /// Deployments and devices, in virtual time.
    pub service: Service,
    /// What goes wrong.
    pub faults: Faults,
    /// Calls by kind that were refused since there were too many.
    pub throttled: u64,
    /// Calls that were answered, by method and first part of the path.
    pub calls: BTreeMap<String, u64>,
    /// Who may sign in by Entra ID.
    pub entra: entra::Entra,
    /// The tool that calls is dead: nothing of it comes through any more, until this is false again.
    pub killed: bool,
    /// At which request, counted in [`Simulator::requests`], the tool dies; true: the request still comes through, and
    /// its answer does not.
    pub kill_at: Option<(u64, bool)>,
    /// Requests so far.
    pub requests: u64,
    /// Throttles are counted in the service's time and not in real time; it passes by [`Simulator::wait`] too.
    pub virtual_time: bool,
    /// Whether every request goes into the service's log.
    pub tells_requests: bool,
    /// Milliseconds beyond [`Service::now_secs`].
    beyond_ms: u64,
    authority: String,
    policy: String,
    key: Vec<u8>,
    random: Random,
    units: u64,
    windows: BTreeMap<&'static str, VecDeque<u64>>,
    written: configurations::Written,
    patched: twins::Patched,
    pub(crate) clients: Clients,
}

/// Name of the policy that a simulated hub has.
pub const POLICY: &str = "iothubowner";

impl Simulator {
    /// A hub of `units` units that is called by `authority` (host and port) with `key`.
    pub fn new(mut service: Service, authority: &str, key: &[u8], units: u32) -> Simulator {
        // Counted here, in real time: virtual time may run a thousand times as fast.
        service.calls_per_minute = usize::MAX;
        Simulator {
            service,
            faults: Faults::default(),
            throttled: 0,
            calls: BTreeMap::new(),
            entra: entra::Entra::new(key),
            killed: false,
            kill_at: None,
            virtual_time: false,
            tells_requests: false,
            beyond_ms: 0,
            authority: authority.to_owned(),
            policy: POLICY.to_owned(),
            key: key.to_owned(),
            random: Random::new(1),
            requests: 0,
            units: u64::from(units.max(1)),
            windows: BTreeMap::new(),
            written: Default::default(),
            patched: Default::default(),
            clients: Clients::default(),
        }
    }

    /// Answers a request.
    pub fn handle(&mut self, request: &Request, clock: Clock) -> Reply {
        if self.killed {
            return self.told(request, Reply::broken(), "the tool is dead");
        }
        self.requests += 1;
        let after = self.dies();
        if self.killed && after != Some(true) {
            return self.told(request, Reply::broken(), "the tool dies before it");
        }
        if let Some(reply) = self.entra.answer(request, clock.unix_secs) {
            return reply;
        }
        if self.draw(self.faults.lost_percent) {
            return self.told(request, Reply::broken(), "lost on its way");
        }
        let faulty = if after.is_some() { None } else { self.faulty() };
        let asks_to_wait = faulty.as_ref().is_some_and(|error| error.status == 429) && self.random.chance(50);
        let mut reply = match faulty {
            Some(error) => failed(&error, self.requests, self.service.now_secs),
            None => {
                self.touch(request);
                let reply = self
                    .route(request, clock)
                    .unwrap_or_else(|error| failed(&error, self.requests, self.service.now_secs));
                self.tell_clients();
                reply
            }
        };
        if asks_to_wait {
            // The sources show none from this service; gateways before it may send one.
            let secs = self.random.below(60).to_string();
            reply.headers.insert("retry-after".to_owned(), secs);
        }
        // Drawn in any case, so that the story of a seed does not hang on what was asked.
        reply.cut = self.random.chance(self.faults.cut_percent) || after.is_some();
        let date = jiff::Timestamp::from_second(i64::try_from(self.service.now_secs).unwrap_or(i64::MAX))
            .ok()
            .and_then(|time| {
                jiff::fmt::rfc2822::DateTimePrinter::new()
                    .timestamp_to_rfc9110_string(&time)
                    .ok()
            });
        if let Some(date) = date {
            reply.headers.insert("date".to_owned(), date);
        }
        reply.headers.insert(
            "x-ms-request-id".to_owned(),
            format!("simulated-{}", self.requests),
        );
        let what = match (reply.cut, after) {
            (_, Some(_)) => "the tool dies after it",
            (true, None) => "its answer is lost",
            (false, None) => "",
        };
        self.told(request, reply, what)
    }

    /// The name of the hub: its authority without the port.
    pub(crate) fn host(&self) -> &str {
        self.authority.split(':').next().unwrap_or_default()
    }

    /// Messages to the cloud that clients have sent, by who sent them.
    pub fn telemetry(&self) -> &BTreeMap<Identity, u64> {
        self.clients.telemetry()
    }

    /// The two keys of a device or module.
    pub fn keys(&self, identity: &Identity) -> [Vec<u8>; 2] {
        ["primary", "secondary"].map(|which| identity.key(&self.key, which))
    }

    /// Begins the numbers that decide faults anew.
    pub fn seed(&mut self, seed: u64) {
        self.random = Random::new(seed);
    }

    /// Time by which throttles are counted where it is virtual, in milliseconds.
    pub fn virtual_ms(&self) -> u64 {
        self.service
            .now_secs
            .saturating_mul(1000)
            .saturating_add(self.beyond_ms)
    }

    /// Somebody who calls waits, in virtual time: the hub's clock goes on, the devices do not.
    pub fn wait(&mut self, pause_ms: u64) {
        let total_ms = self.beyond_ms + pause_ms;
        self.service.now_secs += total_ms / 1000;
        self.beyond_ms = total_ms % 1000;
    }

    /// As [`Random::chance`], without drawing for a fault that is not wanted.
    fn draw(&mut self, percent: u64) -> bool {
        percent > 0 && self.random.chance(percent)
    }

    /// Whether the tool dies at this request; true: after it.
    fn dies(&mut self) -> Option<bool> {
        let after = self
            .kill_at
            .filter(|(at, _)| *at == self.requests)
            .map(|(_, after)| after)
            .or_else(|| {
                self.draw(self.faults.kill_percent)
                    .then(|| self.random.chance(50))
            });
        self.killed |= after.is_some();
        after
    }

    /// Somebody else may save a deployment just before it is changed.
    fn touch(&mut self, request: &Request) {
        let changes = matches!(request.method.as_str(), "PUT" | "DELETE");
        if let Some(id) = request.path.strip_prefix("/configurations/")
            && changes
            && self.draw(self.faults.touched_percent)
        {
            self.service.touch(&decode(id));
        }
    }

    fn told(&mut self, request: &Request, reply: Reply, what: &str) -> Reply {
        if self.tells_requests {
            let (method, path, status) = (&request.method, &request.path, reply.status);
            self.service.told(
                format!("  {method} {path} → {status} {what}")
                    .trim_end()
                    .to_owned(),
            );
        }
        reply
    }

    fn faulty(&mut self) -> Option<ServiceError> {
        if !self.random.chance(self.faults.refused_percent) {
            return None;
        }
        Some(match self.random.below(3) {
            0 => error(429, "ThrottlingException", "simulated: too many requests"),
            1 => error(500, "ServerError", "simulated: internal error"),
            _ => error(503, "ServiceUnavailable", "simulated: try again"),
        })
    }

    fn route(&mut self, request: &Request, clock: Clock) -> Result<Reply, ServiceError> {
        let sent = request.headers.get("authorization").map_or("", String::as_str);
        match sent.strip_prefix("Bearer ") {
            Some(token) => self.entra.check(token, clock.unix_secs)?,
            None => {
                let wanted = auth::Wanted {
                    resource: &|resource| resource.eq_ignore_ascii_case(&self.authority),
                    policy: Some(&self.policy),
                    key: &self.key,
                };
                auth::check(sent, &wanted, clock.unix_secs)?;
            }
        }
        if !request
            .query
            .split('&')
            .any(|part| part.starts_with("api-version="))
        {
            return Err(error(400, "ArgumentInvalid", "no api-version"));
        }
        let parts: Vec<String> = request.path.trim_matches('/').split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let what = format!("{} {}", request.method, parts.first().unwrap_or(&""));
        *self.calls.entry(what).or_default() += 1;
        let (minute, second) = (60_000, 1_000);
        match (request.method.as_str(), parts.as_slice()) {
            (_, ["configurations", ..]) => {
                self.throttle("configurations", 20 * self.units, minute, clock)?;
                configurations::route(self, request, &parts[1..])
            }
            ("POST", ["devices", "query"]) => {
                self.throttle("queries", 20 * self.units, minute, clock)?;
                twins::query(self, request)
            }
            ("POST", ["devices", id, "applyConfigurationContent"]) => {
                self.throttle("configurations", 20 * self.units, minute, clock)?;
                methods::apply_content(self, request, id)
            }
            ("POST", ["twins", id, "methods"]) => methods::invoke(self, request, id, None),
            ("POST", ["twins", id, "modules", module, "methods"]) => {
                methods::invoke(self, request, id, Some(module))
            }
            ("GET", ["twins", ..]) => {
                self.throttle("twin reads", (10 * self.units).max(100), second, clock)?;
                twins::read(self, &parts[1..])
            }
            ("PATCH" | "PUT", ["twins", ..]) => {
                self.throttle("twin updates", (5 * self.units).max(50), second, clock)?;
                twins::write(self, request, &parts[1..])
            }
            ("GET", ["devices", rest @ ..]) => {
                self.throttle("identities", 100 * self.units, minute, clock)?;
                twins::identities(self, rest)
            }
            _ => Err(error(
                404,
                "InvalidOperation",
                "the simulated hub does not serve this",
            )),
        }
    }

    fn throttle(
        &mut self,
        kind: &'static str,
        calls: u64,
        length_ms: u64,
        clock: Clock,
    ) -> Result<(), ServiceError> {
        let now_ms = if self.virtual_time {
            self.virtual_ms()
        } else {
            clock.elapsed_ms
        };
        let window = self.windows.entry(kind).or_default();
        while window.front().is_some_and(|made| made + length_ms <= now_ms) {
            window.pop_front();
        }
        if window.len() as u64 >= calls {
            self.throttled += 1;
            return Err(error(
                429,
                "ThrottlingException",
                format!("too many {kind}: {calls} in {length_ms} ms"),
            ));
        }
        window.push_back(now_ms);
        Ok(())
    }
}

pub(crate) fn error(status: u16, code: &'static str, message: impl Into<String>) -> ServiceError {
    ServiceError {
        status,
        code,
        message: message.into(),
    }
}

fn ok(value: &Value) -> Reply {
    Reply {
        status: 200,
        headers: BTreeMap::from([(
            "content-type".to_owned(),
            "application/json; charset=utf-8".to_owned(),
        )]),
        body: value.to_string().into_bytes(),
        ..Reply::default()
    }
}

/// As recorded from the service.
fn failed(error: &ServiceError, request: u64, now_secs: u64) -> Reply {
    let time = aiot_iothub::quiet::time_text(now_secs);
    let body = json!({
        "Message": format!("ErrorCode:{};{}", error.code, error.message),
        "ExceptionMessage": format!("Tracking ID:simulated-{request}-TimeStamp:{time}"),
    });
    let mut reply = ok(&body);
    reply.status = error.status;
    reply
        .headers
        .insert("iothub-errorcode".to_owned(), error.code.to_owned());
    reply
}

fn body_of(request: &Request) -> Result<Value, ServiceError> {
    serde_json::from_slice(&request.body).map_err(|reason| error(400, "ArgumentInvalid", reason.to_string()))
}

/// `If-Match` as the service understands it: quoted, or `*`. A bare ETag is as good as none (inferred from issue 983
/// of the Python SDK), and so is an empty one.
fn if_match(request: &Request) -> Option<&str> {
    let value = request.headers.get("if-match")?.trim();
    match value {
        "*" | "\"*\"" => Some("*"),
        _ => value
            .strip_prefix('"')?
            .strip_suffix('"')
            .filter(|etag| !etag.is_empty()),
    }
}

pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes
            .get(index + 1..index + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[index], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                index += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
