//! `cargo xtask` as a whole, on this workspace's models, with real container tools, registries and emulated devices.
//!
//! Tests read the release that `cargo xtask test` made, or copy its workspace and do things to the copy. They ask
//! models.toml what there is and name no model or target.

mod common;

mod base_image;
mod changes;
mod crashes;
mod data;
mod emulation;
mod errors;
mod fleet;
mod forms;
mod gone;
mod images;
mod lock;
mod mirror;
mod podman;
mod push;
mod quantize;
mod reproducible;
mod shadow;
mod supply;
mod verify;
mod verify_images;
