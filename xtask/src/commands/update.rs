//! `cargo xtask update`

use aiot_build::BuildError;
use aiot_build::network::Network;
use aiot_build::paths::Paths;
use aiot_build::update::{Pinned, base_images, forget_records, lock};

use serde_json::json;

use crate::output::Format;
use crate::progress::Progress;

/// What to move.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Bases: move aiot.lock to the Debian packages that the mirror has now, and targets.toml to what the tags of base
    /// images name now
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
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let pinned = match &arguments.what {
        What::Base => Pinned::Base,
        What::Wheels => Pinned::Wheels,
        What::Records { model } => {
            let removed = forget_records(paths, model)?;
            match format {
                Format::Text => {
                    for file in &removed {
                        println!("removed {file}");
                    }
                    println!("`cargo xtask release` makes them anew");
                }
                Format::Json => println!("{:#}", json!({ "schema": 1, "removed": removed })),
            }
            return Ok(crate::EXIT_OK);
        }
    };
    let progress = Progress::new();
    let network = Network::new()?;
    let mut changes = match pinned {
        Pinned::Base => base_images(paths, &network, &|event| progress.show(event))?,
        Pinned::Wheels => Vec::new(),
    };
    let images = changes.len();
    changes.extend(lock(paths, pinned, &network, &|event| progress.show(event))?);
    progress.finish();
    if format == Format::Json {
        println!("{:#}", json!({ "schema": 1, "changes": changes }));
        return Ok(crate::EXIT_OK);
    }
    for change in &changes {
        println!("{change}");
    }
    if changes.is_empty() {
        println!("nothing newer");
    } else {
        let files = match images {
            0 => "aiot.lock",
            all if all == changes.len() => "targets.toml",
            _ => "targets.toml and aiot.lock",
        };
        println!("`cargo xtask release` builds with them; review the change of {files}");
    }
    Ok(crate::EXIT_OK)
}
