//! signal.
fn main() {}
