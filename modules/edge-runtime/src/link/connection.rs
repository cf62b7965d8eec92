//! One connection: CONNECT to its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Outgoing, Packet, Publish, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    LinkError, LinkState, Login, MAX_MESSAGE_BYTES, Message, Peer, Publication, Received, Stop, Token,
    WINDOW, Work,
};
use crate::log;
use crate::outbox::Outbox;

/// How long unconfirmed messages are waited for, and waiting ones sent, when a connection is to end.
pub(super) const DRAIN: Duration = Duration::from_millis(1500);

/// How long the broker may take for CONNACK, and for SUBACK.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests that rumqttc holds; beyond it a connection is given up rather than memory.
const REQUESTS: usize = 128;

/// How often what was written to the queue is brought to the disk.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Why a connection ended without a fault.
pub(super) enum End {
    Stopped,
    Renew,
}

/// rumqttc's loop is not safe to be cancelled, so it has a task of its own, which ends with this.
struct Pump(JoinHandle<()>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn pump(mut events: EventLoop, sender: mpsc::Sender<Result<Event, ConnectionError>>) {
    loop {
        let event = events.poll().await;
        let failed = event.is_err();
        if sender.send(event).await.is_err() || failed {
            return;
        }
    }
}

/// What a publication of ours was, by its place in the order of sending and then by packet id.
enum Sent {
    Record(u64),
    Other,
}

struct Connection<'a> {
    number: u64,
    client: AsyncClient,
    outbox: Option<&'a Outbox>,
    state: &'a LinkState,
    /// Handed to rumqttc, packet id not known yet.
    queued: VecDeque<Sent>,
    /// By packet id.
    flying: BTreeMap<u16, Sent>,
    /// Outbox records among both.
    records: usize,
    /// Of the broker, not done yet, by packet id.
    open: BTreeMap<u16, Publish>,
}

fn gone(error: impl std::fmt::Display) -> LinkError {
    LinkError::Connection(error.to_string())
}

pub(super) async fn run<P: Peer>(
    peer: &mut P,
    outbox: Option<&Outbox>,
    state: &LinkState,
    stop: Stop,
    number: u64,
) -> Result<End, LinkError> {
    let mut stop = stop;
    let login = tokio::select! {
        login = peer.login() => login?,
        _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
    };
    let Login {
        mut options,
        renew_after,
    } = login;
    options
        .set_manual_acks(true)
        .set_inflight(100)
        .set_max_packet_size(MAX_MESSAGE_BYTES + 8192, MAX_MESSAGE_BYTES + 8192);
    let (client, events) = AsyncClient::new(options, REQUESTS);
    let (sender, mut events_of) = mpsc::channel(64);
    let _pump = Pump(tokio::spawn(pump(events, sender)));
    let mut connection = Connection {
        number,
        client,
        outbox,
        state,
        queued: VecDeque::new(),
        flying: BTreeMap::new(),
        records: 0,
        open: BTreeMap::new(),
    };
    let first = tokio::select! {
        event = timeout(ANSWER_TIMEOUT, events_of.recv()) => event,
        _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
    };
    match first {
        Ok(Some(Ok(Event::Incoming(Packet::ConnAck(_))))) => {}
        Ok(Some(Err(error))) => return Err(gone(explain(&error))),
        Ok(_) => return Err(gone("the broker does not speak MQTT 3.1.1")),
        Err(_) => return Err(gone("the broker does not answer CONNECT")),
    }
    state.connected.store(true, Relaxed);
    state.connections.fetch_add(1, Relaxed);
    log::info(&format!("{}: connected", peer.name()));

    let filters: Vec<_> = peer
        .subscriptions()
        .into_iter()
        .map(|topic| SubscribeFilter::new(topic, QoS::AtLeastOnce))
        .collect();
    // Without subscriptions there is nothing to wait for.
    let mut awaited = None;
    if filters.is_empty() {
        connection.say(peer.subscribed())?;
    } else {
        connection.client.try_subscribe_many(filters).map_err(gone)?;
        awaited = Some(Instant::now() + ANSWER_TIMEOUT);
    }

    let renewal = renew_after.map(|after| Instant::now() + after);
    let mut sync = tokio::time::interval(SYNC_INTERVAL);
    sync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut end: Option<(End, Instant)> = None;
    loop {
        let renewing = matches!(end, Some((End::Renew, _)));
        let mut waits = false;
        if !renewing {
            waits = connection.send(peer)?;
        }
        let idle = connection.queued.is_empty() && connection.flying.is_empty();
        if idle && !waits && end.is_some() {
            break;
        }
        let far = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            event = events_of.recv() => match event {
                Some(Ok(event)) => {
                    if connection.event(peer, event)? {
                        awaited = None;
                        connection.say(peer.subscribed())?;
                    }
                }
                Some(Err(error)) => return Err(gone(explain(&error))),
                None => return Err(gone("the connection has ended")),
            },
            work = peer.work() => match work {
                Work::Publish(publication) => connection.say(vec![publication])?,
                Work::Done(token) => connection.done(token)?,
            },
            () = pushed(outbox), if connection.records < WINDOW && !renewing => {}
            _ = sync.tick() => {
                if let Some(outbox) = outbox {
                    outbox.sync()?;
                }
            }
            () = sleep_until(awaited.unwrap_or(far)), if awaited.is_some() => {
                return Err(gone("the broker does not answer SUBSCRIBE"));
            }
            () = sleep_until(renewal.unwrap_or(far)), if renewal.is_some() && end.is_none() => {
                end = Some((End::Renew, Instant::now() + 4 * DRAIN));
            }
            _ = stop.wait_for(|stop| *stop), if !matches!(end, Some((End::Stopped, _))) => {
                connection.say(peer.farewell())?;
                end = Some((End::Stopped, Instant::now() + DRAIN));
            }
            () = sleep_until(end.as_ref().map_or(far, |(_, deadline)| *deadline)), if end.is_some() => break,
        }
    }
    // The socket closes behind it; what the broker does not get, it notices.
    if connection.client.try_disconnect().is_ok() {
        let said = async {
            while let Some(Ok(event)) = events_of.recv().await {
                if event == Event::Outgoing(Outgoing::Disconnect) {
                    break;
                }
            }
        };
        let _ = timeout(Duration::from_millis(300), said).await;
    }
    Ok(end.map_or(End::Stopped, |(end, _)| end))
}

async fn pushed(outbox: Option<&Outbox>) {
    match outbox {
        Some(outbox) => outbox.pushed().await,
        None => std::future::pending().await,
    }
}

/// rumqttc's words, with what to do.
fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => {
            format!("the broker refuses the module: {code:?}; do its id and credentials fit the broker?")
        }
        ConnectionError::Tls(error) => format!("TLS: {error}"),
        other => other.to_string(),
    }
}

impl Connection<'_> {
    fn publish(&mut self, topic: String, payload: Vec<u8>, sent: Sent) -> Result<(), LinkError> {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, false, payload)
            .map_err(gone)?;
        self.queued.push_back(sent);
        Ok(())
    }

    fn say(&mut self, publications: Vec<Publication>) -> Result<(), LinkError> {
        for Publication { topic, payload } in publications {
            if topic.len() + payload.len() > MAX_MESSAGE_BYTES {
                log::error(&format!(
                    "an answer of {} bytes is too large to be sent",
                    payload.len()
                ));
                continue;
            }
            self.publish(topic, payload, Sent::Other)?;
        }
        Ok(())
    }

    /// Sends records while the window is open; whether more wait.
    fn send<P: Peer>(&mut self, peer: &P) -> Result<bool, LinkError> {
        let Some(outbox) = self.outbox else {
            return Ok(false);
        };
        while self.records < WINDOW {
            let Some(record) = outbox.next()? else {
                return Ok(false);
            };
            let Some(message) = Message::of(&record.bytes) else {
                // Of another version of this program.
                log::error("a message in the queue cannot be read and is left out");
                outbox.confirm(record.sequence)?;
                continue;
            };
            let topic = peer.topic(&message);
            if topic.len() + message.body.len() > MAX_MESSAGE_BYTES {
                self.state.oversized.fetch_add(1, Relaxed);
                log::error(&format!(
                    "message {} has {} bytes, {MAX_MESSAGE_BYTES} are the most: it is left out",
                    message.id,
                    message.body.len()
                ));
                outbox.confirm(record.sequence)?;
                continue;
            }
            self.publish(topic, message.body.to_vec(), Sent::Record(record.sequence))?;
            self.records += 1;
        }
        Ok(true)
    }

    /// Takes an event; whether it was the answer to the subscriptions.
    fn event<P: Peer>(&mut self, peer: &mut P, event: Event) -> Result<bool, LinkError> {
        match event {
            Event::Outgoing(Outgoing::Publish(packet)) => {
                if let Some(sent) = self.queued.pop_front() {
                    self.flying.insert(packet, sent);
                }
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                if let (Some(Sent::Record(sequence)), Some(outbox)) =
                    (self.flying.remove(&ack.pkid), self.outbox)
                {
                    self.records -= 1;
                    self.state.sent.fetch_add(1, Relaxed);
                    outbox.confirm(sequence)?;
                }
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    log::error(&format!("{}: a subscription is refused", peer.name()));
                }
                return Ok(true);
            }
            Event::Incoming(Packet::Publish(message)) => self.received(peer, message)?,
            Event::Incoming(Packet::Disconnect) => return Err(gone("the broker has closed the connection")),
            _ => {}
        }
        Ok(false)
    }

    fn received<P: Peer>(&mut self, peer: &mut P, mut message: Publish) -> Result<(), LinkError> {
        let token = Token {
            connection: self.number,
            packet: message.pkid,
        };
        // A broker repeats within a connection what it thinks was lost: it is in work already.
        if message.qos == QoS::AtLeastOnce && self.open.contains_key(&message.pkid) {
            return Ok(());
        }
        match peer.received(&message, token) {
            Received::Done(answers) => {
                if message.qos == QoS::AtLeastOnce {
                    self.client.try_ack(&message).map_err(gone)?;
                }
                self.say(answers)
            }
            Received::Later => {
                message.payload = Default::default();
                if message.qos == QoS::AtLeastOnce {
                    self.open.insert(message.pkid, message);
                }
                Ok(())
            }
            Received::NoRoom => Err(gone("more inputs than the module can hold; they will come again")),
        }
    }

    fn done(&mut self, token: Token) -> Result<(), LinkError> {
        // Of an earlier connection: the broker sends it again, as it must.
        if token.connection == self.number
            && let Some(message) = self.open.remove(&token.packet)
        {
            self.client.try_ack(&message).map_err(gone)?;
        }
        Ok(())
    }
}
