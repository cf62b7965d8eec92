//! Base images, layouts and registries that mean harm: each ends in an error that says what, with bounded memory, and
//! leaves nothing behind but blobs whose digests are right.

mod archives;
mod documents;
mod fuzz;
mod registry;
mod support;
