//! `cargo xtask test`

use aiot_build::BuildError;
use aiot_build::paths::Paths;

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs it.
pub fn run(_paths: &Paths, _arguments: &Arguments) -> Result<u8, BuildError> {
    Err(BuildError::Other("not written yet".to_owned()))
}
