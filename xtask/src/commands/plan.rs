//! `cargo xtask plan`

use std::collections::BTreeSet;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_build::release::{Alone, prepare};
use aiot_plan::plan::{Selection, Status, statuses, to_json};

use crate::output::Format;
use crate::progress::Progress;

/// What to plan.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these models
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// Only these targets
    #[arg(long, value_name = "TARGET")]
    target: Vec<String>,
    /// Also list what is done already
    #[arg(long)]
    all: bool,
    /// Do not touch the network
    #[arg(long)]
    offline: bool,
}

/// The selection that names stand for; unknown ones are errors.
pub fn selection(paths: &Paths, models: &[String], targets: &[String]) -> Result<Selection, BuildError> {
    if models.is_empty() && targets.is_empty() {
        return Ok(Selection::default());
    }
    let mut files = aiot_build::observe::FileIndex::open(paths);
    let workspace = aiot_build::workspace::check(paths, &mut files)?;
    let mut selection = Selection {
        models: BTreeSet::new(),
        targets: BTreeSet::new(),
    };
    for name in models {
        selection
            .models
            .insert(aiot_build::workspace::find_model(&workspace, name)?.name.clone());
    }
    for name in targets {
        selection
            .targets
            .insert(aiot_build::workspace::find_target(&workspace, name)?.name.clone());
    }
    Ok(selection)
}

/// Prints the plan.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let progress = Progress::new();
    let events = |event| progress.show(event);
    let _alone = Alone::wait(paths, &events)?;
    let selection = selection(paths, &arguments.model, &arguments.target)?;
    let network = super::network(arguments.offline)?;
    let planned = prepare(paths, &selection, false, network.as_ref(), &events)?;
    progress.finish();
    let statuses = statuses(&planned.plan, &planned.cache);
    if format == Format::Json {
        println!("{:#}", to_json(&planned.plan, &statuses));
        return Ok(crate::EXIT_OK);
    }
    let mut done = 0;
    for (node, status) in planned.plan.nodes.iter().zip(&statuses) {
        let (state, reasons) = match status {
            Status::Done(_) => {
                done += 1;
                if !arguments.all {
                    continue;
                }
                ("done", Vec::new())
            }
            Status::Run { reasons, .. } => ("run ", reasons.iter().map(ToString::to_string).collect()),
            Status::Waiting { reasons } => ("wait", reasons.iter().map(ToString::to_string).collect()),
        };
        let reasons: Vec<String> = reasons;
        if reasons.is_empty() {
            println!("{state}  {}", node.id);
        } else {
            println!("{state}  {}: {}", node.id, reasons.join(", "));
        }
    }
    println!(
        "{} actions, {done} done, {} to run or to look at",
        statuses.len(),
        statuses.len() - done
    );
    Ok(crate::EXIT_OK)
}
