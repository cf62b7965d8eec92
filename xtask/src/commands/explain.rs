//! `cargo xtask explain MODEL TARGET`

use std::collections::BTreeSet;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_build::release::{Alone, prepare};
use aiot_plan::plan::{Plan, Source, Status, source_text, statuses, to_json};

use crate::output::Format;
use crate::progress::Progress;

/// Which image.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model
    model: String,
    /// The target
    target: String,
    /// Do not touch the network
    #[arg(long)]
    offline: bool,
}

/// Prints the actions behind one image, from its inputs to its manifest.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let progress = Progress::new();
    let events = |event| progress.show(event);
    let _alone = Alone::wait(paths, &events)?;
    let selection = super::plan::selection(
        paths,
        std::slice::from_ref(&arguments.model),
        std::slice::from_ref(&arguments.target),
    )?;
    let network = super::network(arguments.offline)?;
    let planned = prepare(paths, &selection, false, network.as_ref(), &events)?;
    progress.finish();
    let plan = &planned.plan;
    let Some(&image) = plan.images.values().next() else {
        return Err(BuildError::Other(format!(
            "`{}` does not go to `{}`; models.toml says where it goes",
            arguments.model, arguments.target
        )));
    };
    let statuses = statuses(plan, &planned.cache);
    let chain = chain(plan, image);
    if format == Format::Json {
        let mut json = to_json(plan, &statuses);
        if let Some(actions) = json["actions"].as_array_mut() {
            let mut index = 0;
            actions.retain(|_| {
                index += 1;
                chain.contains(&(index - 1))
            });
        }
        println!("{json:#}");
        return Ok(crate::EXIT_OK);
    }
    for node in chain {
        println!("{}", plan.nodes[node].id);
        for (name, source) in &plan.nodes[node].inputs {
            println!("    {name}: {}", source_text(plan, source));
        }
        match &statuses[node] {
            Status::Done(record) => {
                println!("    key: {}", record.key);
                for (name, output) in &record.outputs {
                    println!(
                        "    → {name}: {} ({})",
                        output.digest,
                        crate::output::bytes(output.size_bytes)
                    );
                }
            }
            Status::Run { key, reasons } => {
                println!("    key: {key}");
                reasons
                    .iter()
                    .for_each(|reason| println!("    must run: {reason}"));
            }
            Status::Waiting { reasons } => reasons.iter().for_each(|reason| println!("    waits: {reason}")),
        }
    }
    Ok(crate::EXIT_OK)
}

/// A node and all that it stands on, in the plan's order.
fn chain(plan: &Plan, image: usize) -> BTreeSet<usize> {
    let mut chain = BTreeSet::new();
    let mut stack = vec![image];
    while let Some(node) = stack.pop() {
        if chain.insert(node) {
            stack.extend(
                plan.nodes[node]
                    .inputs
                    .values()
                    .filter_map(|source| match source {
                        Source::Output { node, .. } => Some(*node),
                        Source::Given(_) => None,
                    }),
            );
        }
    }
    chain
}
