//! Azure IoT Hub over HTTPS: the edge through which the roll-out decisions of `aiot-iothub` meet a real hub.
//!
//! In: a connection string or an Entra identity, and what [`aiot_iothub::rollout`] decides. Out: snapshots of the hub, and its answers. The
//! client is synchronous outside; calls wait for the hub's throttles before it has to say so.
//!
//! | module | does |
//! | --- | --- |
//! | [`connection`] | connection string, shared access tokens |
//! | [`entra`] | Entra ID instead: four ways to sign in |
//! | [`clock`] | time, of this machine or of a test |
//! | [`client`] | one call: token, pace, retry, bounded answer |
//! | [`throttle`] | how many calls of a kind fit into a window |
//! | [`error`] | the hub's code, message and request id, and what to do |
//! | [`configuration`] | deployments as JSON of the service |
//! | [`twin`] | rows of queries → devices; odd reports of one device never hide the others |
//! | [`live`] | [`aiot_iothub::rollout::Hub`] over the client |
//!
//! It decides nothing, and keeps nothing on this machine.

pub mod client;
pub mod clock;
pub mod configuration;
pub mod connection;
pub mod entra;
pub mod error;
pub mod live;
mod loose;
pub mod throttle;
pub mod twin;

pub use client::{Client, Options};
pub use clock::{Clock, SystemClock};
pub use connection::{Connection, ConnectionError, ConnectionString};
pub use error::CallError;
pub use live::LiveHub;
