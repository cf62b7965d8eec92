//! `cargo xtask fleet`: what runs where.

use std::io::Write;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_iothub::rollout::Device;
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
    let session = Session::open(paths, &arguments.hub)?;
    let (deployments, _) = session.hub.client().deployments().map_err(BuildError::other)?;
    let filter = Filter {
        model: arguments.model.clone(),
        device: arguments.device.clone(),
        target: arguments.target.clone(),
    };
    let mut fleet = Fleet::new(&session.declared, &deployments, filter);
    // Written as it comes, page by page: a fleet can be hundreds of thousands of rows.
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let (mut seen, mut count, mut result) = (0u64, 0u64, Ok(()));
    session
        .hub
        .each_device(&mut |devices| {
            for device in &devices {
                seen += 1;
                // After an error nothing is written; who reads may have seen enough.
                if result.is_ok() {
                    result = write(&mut out, &mut fleet, device, format, &mut count);
                }
            }
            if result.is_ok() {
                result = out.flush().map_err(Failed::Write);
            }
        })
        .map_err(BuildError::other)?;
    match result {
        Err(Failed::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return Ok(crate::EXIT_OK);
        }
        Err(Failed::Write(error)) => return Err(BuildError::other(error)),
        Err(Failed::Row(error)) => return Err(error),
        Ok(()) => {}
    }
    if count == 0 {
        eprintln!("no module of {seen} devices is meant");
    }
    Ok(crate::EXIT_OK)
}

/// Why a row was not written.
enum Failed {
    Write(std::io::Error),
    Row(BuildError),
}

/// Writes the rows of one device, the table's head before the first.
fn write(
    out: &mut impl Write,
    fleet: &mut Fleet<'_>,
    device: &Device,
    format: Format,
    count: &mut u64,
) -> Result<(), Failed> {
    let rows = fleet
        .rows(device)
        .map_err(|error| Failed::Row(BuildError::other(error)))?;
    for row in rows {
        match format {
            Format::Text => {
                if *count == 0 {
                    let head = line("device", "module", "state", "wanted", "reported");
                    writeln!(out, "{head}").map_err(Failed::Write)?;
                }
                writeln!(out, "{}", text(&row)).map_err(Failed::Write)?;
            }
            Format::Json => {
                serde_json::to_writer(&mut *out, &row).map_err(|error| Failed::Write(error.into()))?;
                writeln!(out).map_err(Failed::Write)?;
            }
        }
        *count += 1;
    }
    Ok(())
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
