//! The hub's side of one module: takes its telemetry, answers for its twin, sends inputs, patches and calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, Publish, QoS};

use super::wait_for;

/// One message to the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The property bag as sent.
    pub bag: String,
    /// The body.
    pub body: String,
}

#[derive(Debug, Default)]
struct Seen {
    telemetry: Vec<Telemetry>,
    reported: Vec<String>,
    /// Request id → status and body.
    answers: BTreeMap<String, (String, String)>,
    gets: usize,
    subscribed: bool,
}

/// The hub of a module; leaves the broker when it is dropped.
pub struct Hub {
    client: Client,
    seen: Arc<Mutex<Seen>>,
    desired: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
    module: String,
    calls: std::cell::Cell<u32>,
}

impl Hub {
    /// Connects to a broker's plain port. `module`: `{device}/modules/{module}`; `desired`: the desired properties
    /// with `$version`, as JSON.
    ///
    /// # Panics
    /// When it cannot connect.
    pub fn connect(port: u16, module: &str, desired: &str) -> Hub {
        let mut options = MqttOptions::new("the-hub", "127.0.0.1", port);
        options.set_clean_session(false).set_inflight(200);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 500);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let desired = Arc::new(Mutex::new(desired.to_owned()));
        let (noted, twin, sender, own) = (seen.clone(), desired.clone(), client.clone(), module.to_owned());
        let thread = std::thread::spawn(move || {
            let events = format!("devices/{own}/messages/events/");
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let topics = [
                            &format!("{events}#"),
                            "$iothub/twin/GET/#",
                            "$iothub/methods/res/#",
                        ];
                        let reported = "$iothub/twin/PATCH/properties/reported/#";
                        for topic in topics.into_iter().chain([reported]) {
                            let _ = sender.try_subscribe(topic, QoS::AtLeastOnce);
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => noted.lock().unwrap().subscribed = true,
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        take(
                            &message,
                            &events,
                            &mut noted.lock().unwrap(),
                            &sender,
                            &twin.lock().unwrap(),
                        );
                    }
                    Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                    Ok(_) => {}
                    // The broker may be gone for a while, as in some tests.
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        let hub = Hub {
            client,
            seen,
            desired,
            thread: Some(thread),
            module: module.to_owned(),
            calls: std::cell::Cell::new(0),
        };
        wait_for("the hub's subscriptions", || {
            hub.seen.lock().unwrap().subscribed.then_some(())
        });
        hub
    }

    /// All telemetry, in the order in which it came.
    ///
    /// # Panics
    /// When the hub's thread has panicked.
    pub fn telemetry(&self) -> Vec<Telemetry> {
        self.seen.lock().unwrap().telemetry.clone()
    }

    /// All patches of the reported properties.
    ///
    /// # Panics
    /// When the hub's thread has panicked.
    pub fn reported(&self) -> Vec<String> {
        self.seen.lock().unwrap().reported.clone()
    }

    /// How often the twin was asked for.
    ///
    /// # Panics
    /// When the hub's thread has panicked.
    pub fn twin_gets(&self) -> usize {
        self.seen.lock().unwrap().gets
    }

    /// Sends `payload` to an input; `bag`: its properties, encoded.
    ///
    /// # Panics
    /// When the hub is not connected.
    pub fn input(&self, input: &str, bag: &str, payload: Vec<u8>) {
        let topic = format!("devices/{}/inputs/{input}/{bag}", self.module);
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .unwrap();
    }

    /// Sends a patch of the desired properties; `whole` is what a GET gives from now on.
    ///
    /// # Panics
    /// When the hub is not connected.
    pub fn patch(&self, version: u64, patch: &str, whole: &str) {
        *self.desired.lock().unwrap() = whole.to_owned();
        let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
        self.client
            .publish(topic, QoS::AtLeastOnce, false, patch)
            .unwrap();
    }

    /// Calls a direct method; gives status and body.
    ///
    /// # Panics
    /// When no answer comes.
    pub fn call(&self, method: &str, payload: &str) -> (String, String) {
        self.calls.set(self.calls.get() + 1);
        let request = format!("call{}", self.calls.get());
        let topic = format!("$iothub/methods/POST/{method}/?$rid={request}");
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .unwrap();
        wait_for("the answer of a method", || {
            self.seen.lock().unwrap().answers.remove(&request)
        })
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.client.disconnect();
        // A broker that is gone keeps the thread trying; it ends with the test.
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            let _ = thread.join();
        }
    }
}

fn take(message: &Publish, events: &str, seen: &mut Seen, client: &Client, desired: &str) {
    let body = String::from_utf8_lossy(&message.payload).into_owned();
    let topic = message.topic.as_str();
    let request = || topic.split("$rid=").nth(1).unwrap_or("").to_owned();
    let answer = |status: u16, body: &str| {
        let _ = client.try_publish(
            format!("$iothub/twin/res/{status}/?$rid={}", request()),
            QoS::AtLeastOnce,
            false,
            body,
        );
    };
    if let Some(bag) = topic.strip_prefix(events) {
        seen.telemetry.push(Telemetry {
            bag: bag.to_owned(),
            body,
        });
    } else if topic.starts_with("$iothub/twin/GET/") {
        seen.gets += 1;
        answer(
            200,
            &format!("{{\"desired\":{desired},\"reported\":{{\"$version\":1}}}}"),
        );
    } else if topic.starts_with("$iothub/twin/PATCH/properties/reported/") {
        seen.reported.push(body);
        answer(204, "");
    } else if let Some(rest) = topic.strip_prefix("$iothub/methods/res/") {
        let status = rest.split('/').next().unwrap_or("").to_owned();
        seen.answers.insert(request(), (status, body));
    }
}
