//! Declarations → workspace → plan. Pure: text and values in, values out; no file, process, clock or network.
//!
//! - [`declare`]: what people write, with source spans.
//! - [`mod@resolve`]: what it means ([`workspace`]), or every error at once ([`diagnose`]).
//! - [`compatibility`]: pairs of model and target that cannot work, given facts about the files.
//! - [`architecture`]: Debian's words and folders for a processor.
//! - [`lock`]: `aiot.lock`, every outside input by digest.
//! - [`action`], [`plan`]: the graph of actions, what each is keyed by, and why it must run.

pub mod action;
pub mod architecture;
pub mod compatibility;
pub mod create_options;
pub mod declare;
pub mod diagnose;
pub mod lock;
pub mod names;
pub mod parse;
pub mod plan;
pub mod records;
pub mod resolve;
pub mod tools;
pub mod workspace;

pub use diagnose::ConfigError;
pub use names::{EnvironmentName, ModelName, ModuleName, TargetName};
pub use resolve::{Texts, resolve};
pub use workspace::{Model, Target, Workspace};
