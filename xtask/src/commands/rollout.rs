//! `cargo xtask rollout`: why a device runs what it runs.

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_iothub::limits::DESIRED_BYTES;
use aiot_iothub::rollout::{Explanation, Readable, explain};

use super::session::{HubArguments, Session};
use crate::output::{Format, table};

/// What to explain.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Which deployments match a device, which of them wins, which ring it is in, and what is left when they are laid
    /// over each other (`--format json` has the merged properties)
    Explain {
        #[command(flatten)]
        hub: HubArguments,
        /// Id of the device
        device: String,
    },
}

/// Explains.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let Arguments::Explain { hub, device } = arguments;
    let mut session = Session::open(paths, hub)?;
    let snapshot = session.snapshot()?;
    let found = snapshot
        .devices
        .iter()
        .find(|one| one.id == *device)
        .ok_or_else(|| {
            BuildError::Other(format!(
                "there is no edge device `{device}` among the hub's {}",
                snapshot.devices.len()
            ))
        })?;
    let readable = Readable::new(&snapshot.deployments);
    let explanation = explain(&session.declared, &readable, found).map_err(BuildError::other)?;
    match format {
        Format::Text => print!("{}", text(&explanation)),
        Format::Json => println!(
            "{:#}",
            serde_json::json!({ "schema": 1, "explanation": explanation })
        ),
    }
    Ok(crate::EXIT_OK)
}

fn text(explanation: &Explanation) -> String {
    let tagged = if explanation.tagged {
        "as tagged"
    } else {
        "not tagged yet"
    };
    let mut text = format!("{}: wave {}, {tagged}\n\n", explanation.device, explanation.wave);
    let matching: Vec<Vec<String>> = explanation
        .matching
        .iter()
        .rev()
        .map(|one| {
            let ring = one.ring.clone().unwrap_or_else(|| "not ours".to_owned());
            vec![
                one.priority.to_string(),
                one.id.clone(),
                one.role.to_owned(),
                ring,
                one.condition.clone(),
            ]
        })
        .collect();
    if matching.is_empty() {
        text.push_str("No deployment matches it: it keeps what it has.\n");
    } else {
        let header = [
            "priority>",
            "deployment, the strongest first",
            "role",
            "ring",
            "condition",
        ];
        text.push_str(&table(&header, &matching));
    }
    let rings: Vec<Vec<String>> = explanation
        .rings
        .iter()
        .map(|one| {
            vec![
                one.lineage.to_string(),
                one.id.clone(),
                one.ring.clone(),
                one.condition.clone(),
            ]
        })
        .collect();
    if !rings.is_empty() {
        text.push('\n');
        text.push_str(&table(
            &["lineage", "declared", "comes in ring", "by condition"],
            &rings,
        ));
    }
    let bytes: Vec<Vec<String>> = explanation
        .desired_bytes
        .iter()
        .map(|(module, used)| vec![module.clone(), used.to_string(), DESIRED_BYTES.to_string()])
        .collect();
    if !bytes.is_empty() {
        text.push('\n');
        text.push_str(&table(&["desired properties of", "bytes>", "of>"], &bytes));
    }
    text
}
