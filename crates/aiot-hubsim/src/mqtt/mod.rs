//! The side of the hub that devices and modules connect to, so that a client of a user's own can take the place of a
//! simulated one: MQTT 3.1.1 over TLS.
//!
//! | module | does |
//! | --- | --- |
//! | `client` | who is connected, what was told to it and by it |
//! | `session` | a packet of a client → what is answered, sent on or refused |
//! | `connection` | one connection, from its CONNECT to its end |
//!
//! Sources: docs (communicate with an IoT hub by MQTT), and what `azure-iot-device` sends and waits for. Where they say
//! nothing, whoever breaks a rule is disconnected. Telemetry is counted and not kept; messages from the cloud to a
//! device, files and WebSockets are not served.

mod client;
mod connection;
mod session;

pub use client::Identity;
pub(crate) use client::{Call, Clients, Push, Topic};
pub(crate) use connection::serve;
