//! Temporary workspaces and helpers for tests.
