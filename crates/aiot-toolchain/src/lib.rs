//! Everything between "a module crate and a target" and "an ELF file that is right", and the Python wheels that the
//! way there needs.
//!
//! | module | question it answers |
//! | --- | --- |
//! | [`sources`] | which files is a module built from? → [`sources::ModuleSources`], the input of the action's key |
//! | [`stage`] | a folder with those files and nothing else, in which cargo finds a reduced workspace |
//! | [`builder`] | who links: zig, the system's cross compiler, or `cross` in a container |
//! | [`wheels`] | the pip packages that bring zig, cargo-zigbuild and ONNX Runtime, locked by SHA-256 |
//! | [`compile`] | the staged module → [`compile::CompiledModule`], the same bytes in any folder, home and cargo home |
//! | [`crates`] | the crates that a program is made of, in the program itself |
//! | [`elf`] | machine, float ABI, interpreter, libraries and C library version of a finished file |
//! | [`versions`] | the tool versions that belong into an action's key |
//!
//! Synchronous: processes and files, no network of its own (pip, cargo and rustup have theirs). Of the plan it knows
//! only what the lock says of a wheel, and nothing of stores or images; whoever calls it decides when to call and what
//! to keep.

#![warn(missing_docs)]

pub mod builder;
pub mod compile;
pub mod crates;
pub mod elf;
pub mod glibc;
mod process;
pub mod sources;
pub mod stage;
pub mod triple;
pub mod versions;
pub mod wheels;

pub use glibc::GlibcVersion;
pub use process::ProcessError;
