//! Temporary workspaces and helpers for tests.
//!
//! | module | content |
//! | --- | --- |
//! | [`released`] | the release that `cargo xtask test` made, and copies of its workspace |
//! | [`device`] | an image's program, run natively or emulated |
//! | [`edge`] | mosquitto, the workload API and the hub around a module |
//! | [`emulation`] | emulators for containers |
//! | [`python`] | packages of Python, as clients and checkers |
//! | [`bad_link`] | a link to a registry on which requests fail |
//! | [`registry`] | a real registry on this machine |
//! | [`tools`] | other programs: run, or skipped loudly |
//! | [`generate`] | workspaces with hundreds of models |

pub mod bad_link;
pub mod device;
pub mod edge;
pub mod emulation;
pub mod generate;
pub mod python;
pub mod registry;
pub mod released;
pub mod tools;
