//! A hub and a fleet that can be had without an account: in this process, in virtual time, the same for the same seed.
//!
//! | module | does |
//! | --- | --- |
//! | [`service`] | deployments and twins as IoT Hub keeps them: ETags, limits, throttles, evaluation by priority, errors |
//! | [`fleet`] | devices that pull at their link's speed, are offline, fail, and report late |
//! | [`faults`] | a hub that throttles, breaks, loses answers, and kills the tool that calls it |
//! | [`random`] | the seeded numbers behind all of it |
//!
//! Where the sources say nothing, the service does what makes life harder for a caller. Nothing here sleeps, reads a
//! clock or opens a socket.

pub mod faults;
pub mod fleet;
pub mod random;
pub mod service;

pub use faults::{Faults, Faulty};
pub use fleet::{Behaviour, Fleet, Quality, Trouble};
pub use random::Random;
pub use service::{Direct, Service, ServiceError};
