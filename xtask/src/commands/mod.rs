//! One file per command: parse what is its own, call `aiot-build`, print.

pub mod bench;
pub mod check;
pub mod deploy;
pub mod diff;
pub mod explain;
pub mod fleet;
pub mod hub;
pub mod images;
pub mod inspect;
pub mod plan;
pub mod push;
pub mod quantize;
pub mod release;
pub mod rollout;
mod session;
pub mod test;
pub mod update;
pub mod verify;
pub mod verify_images;

use aiot_build::BuildError;
use aiot_build::network::Network;

/// The network, unless it is off limits.
pub fn network(offline: bool) -> Result<Option<Network>, BuildError> {
    if offline {
        Ok(None)
    } else {
        Network::new().map(Some)
    }
}

/// Threads to use: as asked, else one per core.
pub fn jobs(asked: Option<usize>) -> usize {
    asked
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
        .clamp(1, 256)
}
