//! A hub and a fleet that can be had without an account: in this process, in virtual time, the same for the same seed.
//!
//! | module | does |
//! | --- | --- |
//! | [`service`] | deployments and twins as IoT Hub keeps them: ETags, limits, throttles, evaluation by priority, errors |
//! | [`fleet`] | devices that pull at their link's speed, are offline, fail, and report late |
//! | [`faults`] | a hub that throttles, breaks, loses answers, and kills the tool that calls it |
//! | [`random`] | the seeded numbers behind all of it |
//! | [`query`] | the hub's query language, as far as conditions, metrics and commands need it |
//! | [`rest`] | a request to the service → its answer, with its errors, ETags, throttles and pages |
//! | [`mqtt`] | clients of devices and modules, in the place of simulated ones |
//! | [`population`] | a fleet that fits a declared environment |
//! | [`sized`] | releases and hubs of any size, to measure with |
//! | [`serve`] | all of it behind https on loopback, with a certificate of its own |
//!
//! Where the sources say nothing, the service does what makes life harder for a caller. Nothing here sleeps, reads a
//! clock or opens a socket, but for [`serve`], whose connections [`mqtt`] talks on.

pub mod faults;
pub mod fleet;
pub mod mqtt;
mod page;
pub mod population;
pub mod query;
pub mod random;
pub mod rest;
pub mod serve;
pub mod service;
pub mod sized;

pub use faults::{Faults, Faulty};
pub use fleet::{Behaviour, Fleet, Quality, Trouble, Wrong};
pub use mqtt::Identity;
pub use population::population;
pub use random::Random;
pub use rest::Simulator;
pub use serve::Server;
pub use service::{Change, Direct, Service, ServiceError};
