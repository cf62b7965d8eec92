//! What stands around a module on an IoT Edge device, for tests: a real mosquitto in edgeHub's place, the hub's side
//! of twin and methods, and the daemon's workload API. The official Python client is run against the same three, so
//! that they are no kinder than the real ones where it matters.

mod hub;
mod mosquitto;
mod workload;

use std::time::{Duration, Instant};

pub use hub::{Hub, Telemetry};
pub use mosquitto::{Certificates, Mosquitto, free_port};
pub use workload::{SignRequest, Workload};

/// Waits until `condition` gives something.
///
/// # Panics
/// After a minute, naming `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
