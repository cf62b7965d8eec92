//! vision.
fn main() {}
