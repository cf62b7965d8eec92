//! Temporary workspaces and helpers for tests.

pub mod generate;
