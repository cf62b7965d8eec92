//! Debian packages as base of an image: resolve, verify, unpack, without root.
