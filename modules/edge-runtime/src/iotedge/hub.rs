//! edgeHub as a [`Peer`]: who the module is, its topics, its twin, its direct methods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rumqttc::{MqttOptions, Publish, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::methods::Call;
use super::names::{self, Incoming, bag};
use super::twin::{Change, Desired};
use super::{EdgeEnvironment, token, workload};
use crate::flow::Flow;
use crate::link::{self, LinkError, Login, Message, Peer, Publication, Received, Token, Work, tls};
use crate::log;

/// Any that edgeHub knows; it wants one and does not look at it.
const API_VERSION: &str = "2021-04-12";

/// Twin requests that are not answered yet; older ones are forgotten.
const MAX_OPEN_REQUESTS: usize = 32;

/// An input on its way through the module.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) input: String,
    /// The sender's; empty: none.
    pub(crate) message_id: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) token: Token,
}

/// Which twin request an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Get,
    Report,
}

/// The module's side of edgeHub.
pub(crate) struct EdgeHub {
    edge: EdgeEnvironment,
    flow: Arc<Flow>,
    output: String,
    /// Names that are taken; none: the module takes no inputs; empty: all.
    accepted: Option<Vec<String>>,
    /// The trust bundle is constant for a process.
    trust: Option<String>,
    inputs: mpsc::Sender<Input>,
    calls: mpsc::Sender<Call>,
    work: mpsc::Receiver<Work>,
    desired: Desired,
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    next_report: Instant,
}

/// What the rest of the module holds of it.
pub(crate) struct Channels {
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) calls: mpsc::Receiver<Call>,
    pub(crate) work: mpsc::Sender<Work>,
}

impl EdgeHub {
    pub(crate) fn new(edge: EdgeEnvironment, flow: Arc<Flow>) -> (EdgeHub, Channels) {
        // edgeHub has at most 10 inputs unacknowledged.
        let (inputs, inputs_of) = mpsc::channel(64);
        let (calls, calls_of) = mpsc::channel(8);
        let (work_to, work) = mpsc::channel(64);
        let pipeline = flow.pipeline();
        let hub = EdgeHub {
            output: pipeline.sinks.edge_hub.clone().unwrap_or_default().output,
            accepted: pipeline
                .sources
                .edge_hub
                .as_ref()
                .map(|source| source.inputs.clone()),
            edge,
            flow,
            trust: None,
            inputs,
            calls,
            work,
            desired: Desired::default(),
            requests: BTreeMap::new(),
            next_request: 0,
            next_report: Instant::now(),
        };
        let channels = Channels {
            inputs: inputs_of,
            calls: calls_of,
            work: work_to,
        };
        (hub, channels)
    }

    fn request(&mut self, kind: Request) -> u64 {
        self.next_request += 1;
        self.requests.insert(self.next_request, kind);
        while self.requests.len() > MAX_OPEN_REQUESTS {
            self.requests.pop_first();
        }
        self.next_request
    }

    fn get_twin(&mut self) -> Publication {
        let request = self.request(Request::Get);
        Publication {
            topic: format!("$iothub/twin/GET/?$rid={request}"),
            payload: Vec::new(),
        }
    }

    fn report(&mut self) -> Publication {
        let every = Duration::from_secs(self.flow.tuning().report_every_s.into());
        self.next_report = Instant::now() + every;
        let request = self.request(Request::Report);
        Publication {
            topic: format!("$iothub/twin/PATCH/properties/reported/?$rid={request}"),
            payload: self.flow.report().to_string().into_bytes(),
        }
    }

    /// Puts what the twin says in force, and says what came of it.
    fn changed(&mut self, change: Result<Change, String>) -> Vec<Publication> {
        match change {
            Ok(Change::Changed) => {
                self.flow.tune(&self.desired.properties);
                vec![self.report()]
            }
            Ok(Change::Gap) => vec![self.get_twin()],
            Ok(Change::Old) => Vec::new(),
            Err(error) => {
                log::error(&error);
                Vec::new()
            }
        }
    }

    fn answered(&mut self, status: u16, request: &str, payload: &[u8]) -> Vec<Publication> {
        let known = request
            .parse()
            .ok()
            .and_then(|number: u64| self.requests.remove(&number));
        match (known, status) {
            (Some(Request::Get), 200) => {
                let change = self.desired.whole(payload);
                self.changed(change)
            }
            (Some(kind), 300..) => {
                let what = match kind {
                    Request::Get => "the twin",
                    Request::Report => "a report to the twin",
                };
                let text: String = String::from_utf8_lossy(payload).chars().take(200).collect();
                log::warn(&format!(
                    "edge hub: {what} is refused with status {status} {text}"
                ));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn call(&mut self, name: String, request: String, payload: &[u8]) -> Vec<Publication> {
        let call = Call {
            name,
            request,
            payload: payload.to_vec(),
        };
        match self.calls.try_send(call) {
            Ok(()) => Vec::new(),
            Err(mpsc::error::TrySendError::Full(call) | mpsc::error::TrySendError::Closed(call)) => {
                vec![call.answer(429, &serde_json::json!({"error": "too many calls at once"}))]
            }
        }
    }
}

impl Peer for EdgeHub {
    fn name(&self) -> String {
        format!("edge hub at {}:{}", self.edge.gateway, self.edge.port)
    }

    async fn login(&mut self) -> Result<Login, LinkError> {
        let edge = &self.edge;
        let error = |error: &dyn std::fmt::Display| LinkError::Login(error.to_string());
        let trust = match &self.trust {
            Some(trust) => trust.clone(),
            None => workload::trust_bundle(edge).await.map_err(|e| error(&e))?,
        };
        let config = tls::config(trust.as_bytes(), None).map_err(|e| error(&format!("trust bundle: {e}")))?;
        self.trust = Some(trust);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expiry = (now + edge.token_life).as_secs();
        let signature = workload::sign(edge, &token::to_sign(edge, expiry))
            .await
            .map_err(|e| error(&e))?;
        let EdgeEnvironment {
            device, module, hub, ..
        } = edge;
        let mut options = MqttOptions::new(format!("{device}/{module}"), edge.gateway.clone(), edge.port);
        let client = names::encode(concat!("aiot-edge-runtime/", env!("CARGO_PKG_VERSION")));
        let user = format!("{hub}/{device}/{module}/?api-version={API_VERSION}&DeviceClientType={client}");
        options
            .set_credentials(user, token::token(edge, &signature, expiry))
            .set_clean_session(false)
            .set_keep_alive(Duration::from_secs(60))
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
        // Patches may have been missed.
        self.desired.forget_version();
        self.requests.clear();
        Ok(Login {
            options,
            // edgeHub looks at the expiry only now and then, but then it cuts.
            renew_after: Some(edge.token_life.mul_f64(0.8)),
        })
    }

    fn subscriptions(&self) -> Vec<String> {
        let EdgeEnvironment { device, module, .. } = &self.edge;
        let mut topics = vec![
            "$iothub/twin/res/#".to_owned(),
            "$iothub/twin/PATCH/properties/desired/#".to_owned(),
            "$iothub/methods/POST/#".to_owned(),
        ];
        if self.accepted.is_some() {
            topics.push(format!("devices/{device}/modules/{module}/inputs/#"));
        }
        topics
    }

    fn topic(&self, message: &Message<'_>) -> String {
        let EdgeEnvironment { device, module, .. } = &self.edge;
        let mut properties = vec![("$.on", self.output.as_str()), ("$.mid", message.id)];
        if !message.correlation.is_empty() {
            properties.push(("$.cid", message.correlation));
        }
        properties.extend([
            ("$.ct", "application/json"),
            ("$.ce", "utf-8"),
            ("model", self.flow.model_name()),
        ]);
        format!(
            "devices/{device}/modules/{module}/messages/events/{}",
            bag(&properties)
        )
    }

    fn subscribed(&mut self) -> Vec<Publication> {
        // The whole after the subscription, so that no patch falls between both.
        vec![self.get_twin(), self.report()]
    }

    fn received(&mut self, message: &Publish, token: Token) -> Received {
        let EdgeEnvironment { device, module, .. } = &self.edge;
        match names::incoming(&message.topic, device, module) {
            Some(Incoming::Input { input, message_id }) => {
                let wanted = self
                    .accepted
                    .as_ref()
                    .is_some_and(|names| names.is_empty() || names.contains(&input));
                if !wanted {
                    log::warn(&format!(
                        "input `{input}` is not declared: its message is left out"
                    ));
                    return Received::Done(Vec::new());
                }
                let payload = message.payload.to_vec();
                match self.inputs.try_send(Input {
                    input,
                    message_id,
                    payload,
                    token,
                }) {
                    Ok(()) => Received::Later,
                    Err(_) => Received::NoRoom,
                }
            }
            Some(Incoming::Method { name, request }) => {
                Received::Done(self.call(name, request, &message.payload))
            }
            Some(Incoming::TwinAnswer { status, request }) => {
                Received::Done(self.answered(status, &request, &message.payload))
            }
            Some(Incoming::Desired { version }) => {
                let change = self.desired.patch(version, &message.payload);
                Received::Done(self.changed(change))
            }
            None => Received::Done(Vec::new()),
        }
    }

    async fn work(&mut self) -> Work {
        let next_report = self.next_report;
        let flow = self.flow.clone();
        tokio::select! {
            Some(work) = self.work.recv() => return work,
            () = sleep_until(next_report) => {}
            () = flow.news() => {}
        }
        Work::Publish(self.report())
    }

    fn farewell(&mut self) -> Vec<Publication> {
        vec![self.report()]
    }
}

/// Tells the twin what is known and ends: for a module that must not start. Best effort within `limit`.
pub(crate) async fn report_once(edge: EdgeEnvironment, flow: Arc<Flow>, limit: Duration) {
    // Dropped channels: calls are answered with 429, inputs come again to the next start.
    let (mut hub, _) = EdgeHub::new(edge, flow);
    hub.accepted = None;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let state = Arc::new(link::LinkState::default());
    let connected = state.clone();
    let told = async {
        let end = async {
            while !connected.connected.load(Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let _ = stop.send(true);
        };
        tokio::join!(link::run(hub, None, state, stopped), end);
    };
    if tokio::time::timeout(limit, told).await.is_err() {
        log::warn("the twin could not be told: the edge hub does not answer");
    }
}
