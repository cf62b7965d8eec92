//! Connections to MQTT brokers: one after the other, for as long as the module runs.
//!
//! A [`Peer`] says who the broker is and what is talked about; [`run`] keeps a connection to it, sends what waits in
//! the outbox (QoS 1, at most [`WINDOW`] unconfirmed), acknowledges inputs only when the peer says that they are
//! done, and connects again with growing pauses. Whatever was not confirmed is sent again, in the same order and
//! with the same message ids. What it does not do: know IoT Edge.

mod backoff;
mod connection;
pub(crate) mod http;
pub(crate) mod tls;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rumqttc::{MqttOptions, Publish};
use tokio::sync::watch;

use crate::log;
use crate::outbox::Outbox;
pub(crate) use backoff::{Backoff, random_u64};

/// Unconfirmed publications at a time: edgeHub takes 16.
pub(crate) const WINDOW: usize = 16;

/// The largest message with its topic: edgeHub closes the connection on a larger one.
pub(crate) const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// A connection that lasted so long was a good one: the next failure begins with a short pause again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Credentials or addresses cannot be had.
    #[error("{0}")]
    Login(String),
    /// The broker cannot be reached, refuses, or has gone.
    #[error("{0}")]
    Connection(String),
    /// The queue cannot be read.
    #[error(transparent)]
    Queue(#[from] crate::outbox::QueueError),
}

/// How to connect this time.
pub(crate) struct Login {
    pub(crate) options: MqttOptions,
    /// After this time the credentials are renewed by connecting again; none: they last.
    pub(crate) renew_after: Option<Duration>,
}

/// Something to publish beside the outbox: not stored, gone with the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

/// What the broker has sent: kept until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    connection: u64,
    packet: u16,
}

/// What happens with a message of the broker.
pub(crate) enum Received {
    /// It is done; this is said in return.
    Done(Vec<Publication>),
    /// The peer will say when it is done, see [`Work::Done`].
    Later,
    /// There is no room for it: it shall come again, on another connection.
    NoRoom,
}

/// What a peer wants from its connection.
pub(crate) enum Work {
    Publish(Publication),
    Done(Token),
}

/// One broker and what is said to it.
pub(crate) trait Peer: Send + 'static {
    /// For the log.
    fn name(&self) -> String;
    fn login(&mut self) -> impl Future<Output = Result<Login, LinkError>> + Send;
    fn subscriptions(&self) -> Vec<String>;
    /// Topic of an outbox message.
    fn topic(&self, message: &Message<'_>) -> String;
    /// The broker has taken the subscriptions: what to say first.
    fn subscribed(&mut self) -> Vec<Publication>;
    fn received(&mut self, message: &Publish, token: Token) -> Received;
    /// What to do next; waits until there is something. Cancelled and called again at will.
    fn work(&mut self) -> impl Future<Output = Work> + Send;
    /// Last words before a wanted end.
    fn farewell(&mut self) -> Vec<Publication>;
}

/// An outbox record: message id and correlation id in a line of their own, then the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) id: &'a str,
    /// Of the input that it answers; empty: none.
    pub(crate) correlation: &'a str,
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let clean = |text: &str| text.replace(|c: char| c.is_control(), " ");
        let mut bytes = format!("{}\t{}\n", clean(self.id), clean(self.correlation)).into_bytes();
        bytes.extend(self.body);
        bytes
    }

    /// `None`: the record is not one of [`Message::to_bytes`].
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Message<'a>> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (id, correlation) = std::str::from_utf8(&bytes[..end]).ok()?.split_once('\t')?;
        Some(Message {
            id,
            correlation,
            body: &bytes[end + 1..],
        })
    }
}

/// What others may know of a link.
#[derive(Debug, Default)]
pub(crate) struct LinkState {
    pub(crate) connected: AtomicBool,
    /// Connections that were made.
    pub(crate) connections: AtomicU64,
    /// Outbox messages that the broker has confirmed.
    pub(crate) sent: AtomicU64,
    /// Outbox messages that were larger than [`MAX_MESSAGE_BYTES`].
    pub(crate) oversized: AtomicU64,
}

/// When to end: the outbox is sent as far as time allows, see [`connection::DRAIN`].
pub(crate) type Stop = watch::Receiver<bool>;

/// Keeps the connection until `stop`.
pub(crate) async fn run<P: Peer>(
    mut peer: P,
    outbox: Option<Arc<Outbox>>,
    state: Arc<LinkState>,
    stop: Stop,
) {
    let mut backoff = Backoff::new();
    let mut number = 0;
    loop {
        number += 1;
        let started = tokio::time::Instant::now();
        let end = connection::run(&mut peer, outbox.as_deref(), &state, stop.clone(), number).await;
        state.connected.store(false, Relaxed);
        if let Some(outbox) = &outbox {
            outbox.rewind();
        }
        match end {
            Ok(connection::End::Stopped) => return,
            Ok(connection::End::Renew) => {
                backoff.reset();
                continue;
            }
            Err(error) => {
                if started.elapsed() >= GOOD_CONNECTION {
                    backoff.reset();
                }
                let pause = backoff.next_pause();
                log::warn(&format!(
                    "{}: {error}; trying again in {:.1} s",
                    peer.name(),
                    pause.as_secs_f64()
                ));
                if stopped_within(&stop, pause).await {
                    return;
                }
            }
        }
    }
}

/// Waits; whether the end came first.
pub(crate) async fn stopped_within(stop: &Stop, pause: Duration) -> bool {
    let mut stop = stop.clone();
    tokio::time::timeout(pause, stop.wait_for(|stop| *stop))
        .await
        .is_ok()
}

#[cfg(test)]
mod tests {
    use aiot_package::MqttSink;
    use aiot_testkit::edge::{Certificates, Hub, Mosquitto, free_port, wait_for};
    use aiot_testkit::tools;

    use super::*;
    use crate::flow::broker::Broker;

    /// A message that the broker would close the connection for must not hold up the others.
    #[test]
    fn a_message_that_is_too_large_is_left_out_and_counted() {
        if !tools::have(&["mosquitto", "openssl"]) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path(), "localhost");
        let mosquitto = Mosquitto::start(folder.path(), free_port(), &certificates, &[]);
        let hub = Hub::connect(mosquitto.plain_port, "d/modules/m", "{}");
        let sink: MqttSink = serde_json::from_value(serde_json::json!({
            "broker": format!("mqtt://127.0.0.1:{}", mosquitto.plain_port),
            "topic": "devices/d/modules/m/messages/events/",
        }))
        .unwrap();
        let outbox = Arc::new(Outbox::open("q", None, 8 << 20).unwrap());
        for (id, bytes) in [
            ("first", 10),
            ("large", MAX_MESSAGE_BYTES),
            ("fits", MAX_MESSAGE_BYTES - 200),
            ("last", 1),
        ] {
            let body = vec![b'x'; bytes];
            outbox
                .push(
                    &Message {
                        id,
                        correlation: "",
                        body: &body,
                    }
                    .to_bytes(),
                )
                .unwrap();
        }
        let state = Arc::new(LinkState::default());
        let (stop, stopped) = watch::channel(false);
        let (theirs, queue) = (state.clone(), outbox.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(run(
                Broker::new(sink, "test".to_owned(), None),
                Some(queue),
                theirs,
                stopped,
            ));
        });
        wait_for("an empty queue", || (outbox.depth() == 0).then_some(()));
        stop.send(true).unwrap();
        thread.join().unwrap();
        let sizes = wait_for("three messages", || {
            let telemetry = hub.telemetry();
            (telemetry.len() == 3).then(|| {
                telemetry
                    .iter()
                    .map(|message| message.body.len())
                    .collect::<Vec<_>>()
            })
        });
        assert_eq!(sizes, [10, MAX_MESSAGE_BYTES - 200, 1]);
        let counts = [&state.sent, &state.oversized, &state.connections].map(|count| count.load(Relaxed));
        assert_eq!(counts, [3, 1, 1]);
    }

    #[test]
    fn messages_are_written_and_read() {
        let message = Message {
            id: "a-1",
            correlation: "",
            body: b"{\n}",
        };
        assert_eq!(Message::of(&message.to_bytes()), Some(message));
        let odd = Message {
            id: "a\tb\n",
            correlation: "c\n",
            body: b"",
        };
        let bytes = odd.to_bytes();
        assert_eq!(Message::of(&bytes).unwrap().id, "a b ");
        assert_eq!(Message::of(&bytes).unwrap().correlation, "c ");
        for wrong in ["", "a", "a\n", "\t"] {
            assert_eq!(Message::of(wrong.as_bytes()), None);
        }
    }
}
