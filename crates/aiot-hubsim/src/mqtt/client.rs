//! Clients of devices and modules: their keys, what they have reported, what they were told, which calls they owe an
//! answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ring::hmac;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

/// Messages that may wait for a client that does not read; one more, and it is disconnected.
const WAITING_LIMIT: usize = 64;

/// A device, or a module of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Id of the device.
    pub device: String,
    /// Id of the module; none: the device itself.
    pub module: Option<String>,
}

impl Identity {
    /// `device` or `device/module`, as a client id has it.
    pub fn parse(text: &str) -> Identity {
        match text.split_once('/') {
            Some((device, module)) => Identity::new(device, Some(module)),
            None => Identity::new(text, None),
        }
    }

    pub(crate) fn new(device: &str, module: Option<&str>) -> Identity {
        Identity {
            device: device.to_owned(),
            module: module.map(str::to_owned),
        }
    }

    /// What its token is for, and its messages begin with: `devices/{device}` or `devices/{device}/modules/{module}`.
    pub(crate) fn path(&self) -> String {
        match &self.module {
            Some(module) => format!("devices/{}/modules/{module}", self.device),
            None => format!("devices/{}", self.device),
        }
    }

    /// One of its two keys, made from the hub's: 32 bytes.
    pub(crate) fn key(&self, hub_key: &[u8], which: &str) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, hub_key);
        hmac::sign(&key, format!("{which}\n{}", self.path()).as_bytes())
            .as_ref()
            .to_owned()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            Some(module) => write!(f, "{}/{module}", self.device),
            None => f.write_str(&self.device),
        }
    }
}

/// What a client can listen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// Answers to what it asks of its twin.
    TwinAnswers,
    /// Patches of its desired properties.
    Desired,
    /// Direct methods.
    Methods,
    /// Messages from the cloud or, for a module, from other modules, of which this hub has none.
    Messages,
}

/// A message to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Push {
    /// Its topic.
    pub topic: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// Status and payload of a direct method.
type Answer = (u64, Value);

/// A direct method that a client has not answered yet.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    answer: Arc<(Mutex<Option<Answer>>, Condvar)>,
    limit: Duration,
}

impl Call {
    /// Waits for status and payload; none: it took too long.
    pub fn wait(&self) -> Option<Answer> {
        let (answer, ready) = &*self.answer;
        let answer = answer.lock().unwrap_or_else(|poison| poison.into_inner());
        let waited = ready.wait_timeout_while(answer, self.limit, |answer| answer.is_none());
        let (mut answer, _) = waited.unwrap_or_else(|poison| poison.into_inner());
        answer.take()
    }

    fn answer(&self, status: u64, payload: Value) {
        let (answer, ready) = &*self.answer;
        *answer.lock().unwrap_or_else(|poison| poison.into_inner()) = Some((status, payload));
        ready.notify_all();
    }
}

#[derive(Debug)]
struct Connected {
    /// Tells this connection from an earlier one of the same client.
    number: u64,
    sender: mpsc::Sender<Push>,
    calls: BTreeMap<u64, Call>,
}

/// Desired properties as a client knows them.
#[derive(Debug)]
struct Told {
    desired: Value,
    /// Version by patches of the twin alone.
    patched: u64,
    /// How often they have changed otherwise: by deployments.
    deployed: u64,
}

/// All clients of a hub, and what they leave behind when they go.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connected: BTreeMap<Identity, Connected>,
    topics: BTreeMap<Identity, BTreeSet<Topic>>,
    reported: BTreeMap<Identity, (Value, u64)>,
    desired: BTreeMap<Identity, Told>,
    telemetry: BTreeMap<Identity, u64>,
    last_number: u64,
}

impl Clients {
    /// Takes a client in; one of the same identity is disconnected. `keeps`: its subscriptions stay when it goes.
    /// Gives the number of its connection, what is sent to it, and whether it has subscriptions of old.
    pub fn connect(&mut self, identity: &Identity, keeps: bool) -> (u64, mpsc::Receiver<Push>, bool) {
        let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
        self.last_number += 1;
        let number = self.last_number;
        if !keeps {
            self.topics.remove(identity);
        }
        let connected = Connected {
            number,
            sender,
            calls: BTreeMap::new(),
        };
        self.connected.insert(identity.clone(), connected);
        (number, receiver, self.topics.contains_key(identity))
    }

    /// A connection is over; a later one of the same client is left alone.
    pub fn disconnect(&mut self, identity: &Identity, number: u64) {
        if self
            .connected
            .get(identity)
            .is_some_and(|one| one.number == number)
        {
            self.connected.remove(identity);
        }
    }

    /// Whether none has ever been there.
    pub fn is_unused(&self) -> bool {
        self.last_number == 0
    }

    /// Whether one is there.
    pub fn is_connected(&self, identity: &Identity) -> bool {
        self.connected.contains_key(identity)
    }

    /// How many are there.
    pub fn count(&self) -> usize {
        self.connected.len()
    }

    /// Those that are there.
    pub fn identities(&self) -> Vec<Identity> {
        self.connected.keys().cloned().collect()
    }

    pub fn subscribe(&mut self, identity: &Identity, topic: Topic) {
        self.topics.entry(identity.clone()).or_default().insert(topic);
    }

    pub fn unsubscribe(&mut self, identity: &Identity, topic: Topic) {
        if let Some(topics) = self.topics.get_mut(identity) {
            topics.remove(&topic);
        }
    }

    pub fn listens(&self, identity: &Identity, topic: Topic) -> bool {
        let topics = self.topics.get(identity);
        self.is_connected(identity) && topics.is_some_and(|topics| topics.contains(&topic))
    }

    /// Sends a message to a client that listens; one that does not read is disconnected.
    pub fn push(&mut self, identity: &Identity, topic: Topic, push: Push) {
        if self.listens(identity, topic)
            && let Some(one) = self.connected.get(identity)
            && one.sender.try_send(push).is_err()
        {
            self.connected.remove(identity);
        }
    }

    /// Calls a method of a client that listens to methods.
    pub fn call(
        &mut self,
        identity: &Identity,
        name: &str,
        payload: &Value,
        limit: Duration,
    ) -> Option<Call> {
        if !self.listens(identity, Topic::Methods) {
            return None;
        }
        self.last_number += 1;
        let (request, call) = (
            self.last_number,
            Call {
                answer: Arc::default(),
                limit,
            },
        );
        self.connected
            .get_mut(identity)?
            .calls
            .insert(request, call.clone());
        let push = Push {
            topic: format!("$iothub/methods/POST/{name}/?$rid={request:x}"),
            body: payload.to_string().into_bytes(),
        };
        self.push(identity, Topic::Methods, push);
        Some(call)
    }

    /// The answer of a client; one that nobody has asked for is ignored.
    pub fn answer(&mut self, identity: &Identity, request: &str, status: u64, payload: Value) {
        let call = u64::from_str_radix(request, 16)
            .ok()
            .and_then(|request| self.connected.get_mut(identity)?.calls.remove(&request));
        if let Some(call) = call {
            call.answer(status, payload);
        }
    }

    /// What a client has reported, and its version.
    pub fn reported(&self, identity: &Identity) -> Option<&(Value, u64)> {
        self.reported.get(identity)
    }

    /// Takes over what a client's reported properties now are; gives their version.
    pub fn report(&mut self, identity: &Identity, reported: Value) -> u64 {
        let entry = self.reported.entry(identity.clone()).or_insert((json!({}), 1));
        *entry = (reported, entry.1 + 1);
        entry.1
    }

    /// How often the desired properties of a client have changed otherwise than by a patch of the twin.
    pub fn deployed(&self, identity: &Identity) -> u64 {
        self.desired.get(identity).map_or(0, |told| told.deployed)
    }

    /// Compares with what a client was told before: what changed since, if anything. `patched`: version by patches of
    /// the twin alone.
    pub fn tell(&mut self, identity: &Identity, desired: Value, patched: u64) -> Option<Value> {
        let Some(told) = self.desired.get_mut(identity) else {
            let deployed = 0;
            self.desired.insert(
                identity.clone(),
                Told {
                    desired,
                    patched,
                    deployed,
                },
            );
            return None;
        };
        if told.desired == desired {
            return None;
        }
        told.deployed += u64::from(told.patched == patched);
        told.patched = patched;
        let change = difference(&told.desired, &desired);
        told.desired = desired;
        Some(change)
    }

    pub fn count_telemetry(&mut self, identity: &Identity) {
        *self.telemetry.entry(identity.clone()).or_default() += 1;
    }

    /// Messages to the cloud, by who sent them.
    pub fn telemetry(&self) -> &BTreeMap<Identity, u64> {
        &self.telemetry
    }
}

/// The patch that makes `after` of `before`: null where a key is gone.
fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return after.clone();
    };
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in new {
        match old.get(key) {
            Some(known) if known == value => {}
            Some(known) => {
                patch.insert(key.clone(), difference(known, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::service::overlay;

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(1)),
            Just(json!("a")),
            Just(json!([1, 2])),
            Just(json!({}))
        ];
        let inner = leaf.prop_recursive(3, 12, 3, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        prop::collection::btree_map("[a-c]", inner, 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_to_the_other(before in document(), after in document()) {
            let mut patched = before.clone();
            overlay(&mut patched, &difference(&before, &after));
            prop_assert_eq!(patched, after);
        }
    }

    #[test]
    fn the_later_client_stays() {
        let (mut clients, one) = (Clients::default(), Identity::parse("edge-1/vision"));
        let (first, mut old, _) = clients.connect(&one, true);
        clients.subscribe(&one, Topic::Methods);
        let (_, mut new, kept) = clients.connect(&one, true);
        clients.disconnect(&one, first);
        assert!(
            kept && clients.is_connected(&one)
                && old.try_recv() == Err(mpsc::error::TryRecvError::Disconnected)
        );
        let call = clients
            .call(&one, "ping", &json!({"a": 1}), Duration::from_secs(1))
            .unwrap();
        let push = new.try_recv().unwrap();
        assert_eq!(
            (&push.topic[..], &push.body[..]),
            ("$iothub/methods/POST/ping/?$rid=3", &br#"{"a":1}"#[..])
        );
        clients.answer(&one, "4", 500, Value::Null);
        clients.answer(&one, "3", 200, json!("pong"));
        assert_eq!(call.wait(), Some((200, json!("pong"))));
    }

    #[test]
    fn who_does_not_read_is_left() {
        let (mut clients, one) = (Clients::default(), Identity::parse("edge-1"));
        let (_, _receiver, _) = clients.connect(&one, false);
        clients.subscribe(&one, Topic::Desired);
        let push = Push {
            topic: String::new(),
            body: Vec::new(),
        };
        for _ in 0..=WAITING_LIMIT {
            assert!(clients.is_connected(&one));
            clients.push(&one, Topic::Desired, push.clone());
        }
        assert!(!clients.is_connected(&one));
    }
}
