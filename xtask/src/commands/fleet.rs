//! `cargo xtask fleet`: what runs where.

use std::io::Write;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_iothub::rollout::fleet::{Filter, Fleet, Row};

use super::session::{HubArguments, Session};
use crate::output::Format;

/// Which part of the fleet.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    hub: HubArguments,
    /// Only this model, or edge module
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Only devices of this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

/// Prints a row per device and module: what the hub wants, what the device says, and how it does.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let mut session = Session::open(paths, &arguments.hub)?;
    let snapshot = session.snapshot()?;
    let filter = Filter {
        model: arguments.model.clone(),
        device: arguments.device.clone(),
        target: arguments.target.clone(),
    };
    let mut fleet = Fleet::new(&session.declared, &snapshot.deployments, filter);
    // Written as it comes: a fleet can be hundreds of thousands of rows.
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut count = 0u64;
    for device in &snapshot.devices {
        for row in fleet.rows(device).map_err(BuildError::other)? {
            let written = match format {
                Format::Text if count == 0 => {
                    writeln!(out, "{}", line("device", "module", "state", "wanted", "reported"))
                        .and_then(|()| writeln!(out, "{}", text(&row)))
                }
                Format::Text => writeln!(out, "{}", text(&row)),
                Format::Json => serde_json::to_writer(&mut out, &row)
                    .map_err(std::io::Error::from)
                    .and_then(|()| writeln!(out)),
            };
            match written {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(crate::EXIT_OK),
                result => result.map_err(BuildError::other)?,
            }
            count += 1;
        }
    }
    out.flush().map_err(BuildError::other)?;
    if count == 0 {
        eprintln!("no module of {} devices is meant", snapshot.devices.len());
    }
    Ok(crate::EXIT_OK)
}

fn text(row: &Row<'_>) -> String {
    let reported = match (&row.wanted, &row.reported) {
        (Some(wanted), Some(reported)) if wanted == reported => "the same",
        (_, Some(reported)) => reported,
        (_, None) => "nothing yet",
    };
    let wanted = row.wanted.as_deref().unwrap_or("nothing");
    line(row.device, &row.module, row.state.as_str(), wanted, reported)
}

fn line(device: &str, module: &str, state: &str, wanted: &str, reported: &str) -> String {
    format!("{device:<28}  {module:<24}  {state:<17}  {wanted:<48}  {reported}")
}
