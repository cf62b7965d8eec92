//! The plan of a small workspace: what must run, and why, after one thing changed.

mod bench;
mod changes;
#[path = "../common/mod.rs"]
mod common;
mod records;
mod shape;
