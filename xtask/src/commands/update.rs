//! `cargo xtask update`

use aiot_build::BuildError;
use aiot_build::network::Network;
use aiot_build::paths::Paths;
use aiot_build::update::{Pinned, forget_records, lock};

use crate::progress::Progress;

/// What to move.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Debian packages: move aiot.lock to what the mirror has now
    Base,
    /// Wheels of engines and build tools: look them up again
    Wheels,
    /// Calibration ranges and measurements: make them anew at the next release
    Records {
        /// Only these models [default: all]
        model: Vec<String>,
    },
}

/// Moves what is pinned and prints what that changes.
pub fn run(paths: &Paths, arguments: &Arguments) -> Result<u8, BuildError> {
    let pinned = match &arguments.what {
        What::Base => Pinned::Base,
        What::Wheels => Pinned::Wheels,
        What::Records { model } => {
            for file in forget_records(paths, model)? {
                println!("removed {file}");
            }
            println!("`cargo xtask release` makes them anew");
            return Ok(crate::EXIT_OK);
        }
    };
    let progress = Progress::new();
    let changes = lock(paths, pinned, &Network::new()?, &|event| progress.show(event))?;
    progress.finish();
    for change in &changes {
        println!("{change}");
    }
    if changes.is_empty() {
        println!("nothing newer");
    } else {
        println!("`cargo xtask release` builds with them; review the change of aiot.lock");
    }
    Ok(crate::EXIT_OK)
}
