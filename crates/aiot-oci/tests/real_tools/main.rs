//! What we write and push, read by other people's programs: Debian's docker-registry, skopeo and umoci.
//!
//! A missing program makes a test say `SKIPPED` on stderr; with `AIOT_TEST_REQUIRE_TOOLS=1` it fails instead.

mod chunks;
mod faults;
mod kills;
mod layout;
mod referrers;
mod registry;
mod requests;
mod support;
