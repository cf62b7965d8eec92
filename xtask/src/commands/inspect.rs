//! `cargo xtask inspect FILE`

use std::collections::BTreeMap;
use std::path::PathBuf;

use aiot_build::BuildError;
use aiot_build::inspect_cli::{Dimension, Inspection, NodeOutcome, TensorFacts, inspect};

use crate::output::{Format, bytes, table};

/// Initializers that are listed.
const LISTED: usize = 10;

/// Which file.
#[derive(clap::Args)]
pub struct Arguments {
    /// An ONNX file
    file: PathBuf,
}

/// Prints what is in the file.
pub fn run(arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let inspection = inspect(&arguments.file)?;
    match format {
        Format::Text => print(&inspection),
        Format::Json => {
            let json = serde_json::to_value(&inspection).map_err(BuildError::other)?;
            println!("{json:#}");
        }
    }
    Ok(crate::EXIT_OK)
}

fn print(inspection: &Inspection) {
    let facts = &inspection.facts;
    println!(
        "{}, {} parameters, opset {}, IR version {}",
        bytes(inspection.size_bytes),
        facts.parameters,
        facts.opset,
        facts.ir_version
    );
    facts
        .inputs
        .iter()
        .for_each(|input| println!("input   {}", tensor(input)));
    facts
        .outputs
        .iter()
        .for_each(|output| println!("output  {}", tensor(output)));

    let mut quantized: BTreeMap<&str, u64> = BTreeMap::new();
    for node in inspection
        .nodes
        .iter()
        .filter(|node| !matches!(node.outcome, NodeOutcome::Float(_)))
    {
        *quantized.entry(&node.operator).or_default() += 1;
    }
    let row = |used: &aiot_build::inspect_cli::OperatorUse| {
        let name = match used.domain.as_str() {
            "" => used.operator.clone(),
            domain => format!("{domain}.{}", used.operator),
        };
        let in_8_bits = quantized
            .get(name.as_str())
            .map_or("-".to_owned(), u64::to_string);
        vec![name, used.count.to_string(), in_8_bits]
    };
    println!();
    let rows: Vec<Vec<String>> = facts.operators.iter().map(row).collect();
    print!("{}", table(&["operator", "nodes>", "in 8 bits>"], &rows));

    println!();
    let rows: Vec<Vec<String>> = inspection
        .initializers
        .iter()
        .take(LISTED)
        .map(|tensor| {
            vec![
                tensor.name.clone(),
                format!("{} {:?}", tensor.element_type, tensor.dims),
                bytes(tensor.size_bytes),
            ]
        })
        .collect();
    print!("{}", table(&["initializer", "type", "size>"], &rows));
    if inspection.initializers.len() > LISTED {
        println!("and {} smaller ones", inspection.initializers.len() - LISTED);
    }

    println!();
    let share = |size: u64| 100.0 * size as f64 / inspection.size_bytes.max(1) as f64;
    let rows: Vec<Vec<String>> = inspection
        .sizes
        .iter()
        .map(|(scheme, size)| vec![scheme.to_string(), bytes(*size), format!("{:.0} %", share(*size))])
        .collect();
    print!("{}", table(&["as", "size>", "of float>"], &rows));
    for obstacle in &inspection.obstacles {
        println!("not possible: {obstacle}");
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in &inspection.nodes {
        if let NodeOutcome::Float(reason) = &node.outcome {
            reasons.entry(reason).or_default().push(&node.node);
        }
    }
    if !reasons.is_empty() {
        println!("\nStays float in int8:");
    }
    for (reason, nodes) in reasons {
        let more = nodes.len().saturating_sub(4);
        let shown = nodes[..nodes.len() - more].join(", ");
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        println!("  {reason}: {shown}{rest}");
    }
    for (version, problems) in &inspection.engine_problems {
        println!("\nonnxruntime {version} cannot run it: {}", problems.join("; "));
    }
}

fn tensor(facts: &TensorFacts) -> String {
    let dimension = |dimension: &Dimension| match dimension {
        Dimension::Fixed(length) => length.to_string(),
        Dimension::Symbolic(name) if name.is_empty() => "?".to_owned(),
        Dimension::Symbolic(name) => name.clone(),
    };
    let shape = facts.shape.as_ref().map_or("of any rank".to_owned(), |shape| {
        format!("[{}]", shape.iter().map(dimension).collect::<Vec<_>>().join(", "))
    });
    format!("{} {} {shape}", facts.name, facts.element_type)
}
