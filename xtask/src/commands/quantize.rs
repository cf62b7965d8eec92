//! `cargo xtask quantize`

use std::path::PathBuf;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_build::quantize_cli::{AnyModel, Outcome, any_model, declared};
use aiot_build::quantizer::search::Step;

use crate::output::{Format, bytes, table};
use crate::progress::Progress;

/// What to quantize.
#[derive(clap::Args)]
pub struct Arguments {
    /// A model of models.toml
    #[arg(required_unless_present = "model", conflicts_with = "model")]
    name: Option<String>,
    /// All schemes side by side; writes nothing
    #[arg(long, conflicts_with = "model")]
    sweep: bool,
    /// Any ONNX file instead, without a declaration
    #[arg(long, value_name = "FILE", requires = "output")]
    model: Option<PathBuf>,
    /// Calibration data of that file: a folder with one .npy per graph input, named after it, first axis = samples
    #[arg(long, value_name = "DIR", requires = "model")]
    calibration: Option<PathBuf>,
    /// Evaluation data: the same, and labels.npy with the right column of each row of the first output
    #[arg(long, value_name = "DIR", requires = "model")]
    evaluation: Option<PathBuf>,
    /// What to make of it
    #[arg(long, value_enum, default_value = "int8", requires = "model")]
    scheme: Scheme,
    /// One scale per weight instead of one per output channel
    #[arg(long, requires = "model")]
    per_tensor: bool,
    /// Largest drop of accuracy against float; nodes stay float until it holds
    #[arg(long, value_name = "SHARE", requires = "evaluation")]
    max_drop: Option<f64>,
    /// Least signal to quantization noise; nodes stay float until it holds
    #[arg(long, value_name = "DB", requires = "calibration")]
    target_sqnr: Option<f64>,
    /// Where the quantized file goes
    #[arg(long, value_name = "FILE", requires = "model")]
    output: Option<PathBuf>,
    /// Do not touch the network
    #[arg(long)]
    offline: bool,
}

/// Variants that can be asked for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Scheme {
    /// For processors: u8 activations, s8 weights
    Int8,
    /// For TensorRT: s8, zero point 0
    Int8Symmetric,
    /// For processors, without calibration: s8 weights of products, recurrent nets and embeddings
    Int8Dynamic,
    /// Small file, float arithmetic: s8 weights
    Int8Weights,
    /// Smaller file, float arithmetic: matrices in 4 bits
    Int4Weights,
    /// For GPUs: half precision
    Float16,
}

/// Quantizes and prints the table.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let progress = Progress::new();
    let events = |event| progress.show(event);
    let network = super::network(arguments.offline)?;
    let result = match (&arguments.name, &arguments.model, &arguments.output) {
        (Some(name), _, _) => declared(paths, name, arguments.sweep, network.as_ref(), &events),
        (None, Some(model), Some(output)) => {
            let wanted = AnyModel {
                model: model.clone(),
                calibration: arguments.calibration.clone(),
                evaluation: arguments.evaluation.clone(),
                precision: match arguments.scheme {
                    Scheme::Int8 => aiot_build::quantize_cli::Precision::Int8,
                    Scheme::Int8Symmetric => aiot_build::quantize_cli::Precision::Int8Symmetric,
                    Scheme::Int8Dynamic => aiot_build::quantize_cli::Precision::Int8Dynamic,
                    Scheme::Int8Weights => aiot_build::quantize_cli::Precision::Int8Weights,
                    Scheme::Int4Weights => aiot_build::quantize_cli::Precision::Int4Weights,
                    Scheme::Float16 => aiot_build::quantize_cli::Precision::Float16,
                },
                granularity: match arguments.per_tensor {
                    true => aiot_build::quantize_cli::Granularity::PerTensor,
                    false => aiot_build::quantize_cli::Granularity::PerChannel,
                },
                max_drop: arguments.max_drop,
                target_sqnr_db: arguments.target_sqnr,
                output: output.clone(),
            };
            any_model(paths, &wanted, network.as_ref(), &events)
        }
        _ => Err(BuildError::Other(
            "name a model, or --model FILE with --output FILE".to_owned(),
        )),
    };
    progress.finish();
    let outcome = result?;
    match format {
        Format::Text => print(&outcome),
        Format::Json => println!("{:#}", json(&outcome)),
    }
    match &outcome.shortfall {
        None => Ok(crate::EXIT_OK),
        Some(shortfall) => Err(BuildError::Other(format!("{shortfall}; nothing was written"))),
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn print(outcome: &Outcome) {
    let metric = outcome
        .metric
        .map_or("metric>".to_owned(), |metric| format!("{metric}>"));
    let rows: Vec<Vec<String>> = outcome
        .rows
        .iter()
        .map(|row| {
            vec![
                row.scheme.to_string(),
                bytes(row.size_bytes),
                number(row.metric, 4),
                number(row.agreement, 4),
                number(row.sqnr_db, 1),
                number(row.latency_ratio, 2),
            ]
        })
        .collect();
    print!(
        "{}",
        table(
            &[
                "scheme",
                "size>",
                &metric,
                "agreement>",
                "SQNR dB>",
                "latency ratio>"
            ],
            &rows
        )
    );
    for (scheme, steps) in &outcome.steps {
        println!("\nWhat was tried for {scheme}:");
        let row = |step: &Step| {
            let kept = if step.kept { "kept" } else { "" };
            vec![
                step.what.clone(),
                number(Some(step.closeness.sqnr_db), 1),
                number(step.drop, 4),
                kept.to_owned(),
            ]
        };
        print!(
            "{}",
            table(
                &["step", "SQNR dB>", "drop>", ""],
                &steps.iter().map(row).collect::<Vec<_>>()
            )
        );
    }
    for row in outcome.rows.iter().filter(|row| !row.float_nodes.is_empty()) {
        println!("\nNodes of {} in float:", row.scheme);
        for node in &row.float_nodes {
            if let aiot_build::quantize_cli::NodeOutcome::Float(reason) = &node.outcome {
                println!("  {} ({}): {reason}", node.node, node.operator);
            }
        }
    }
    if !outcome.sensitivities.is_empty() {
        println!("\nWhat each node's rounding costs:");
        for node in outcome.sensitivities.iter().take(12) {
            println!("  {:+6.2} dB  {}", node.gain_db, node.node);
        }
    }
    for path in &outcome.written {
        println!("wrote {}", path.display());
    }
}

fn json(outcome: &Outcome) -> serde_json::Value {
    let step = |step: &Step| {
        serde_json::json!({
            "what": step.what, "sqnr-db": step.closeness.sqnr_db, "agreement": step.closeness.agreement,
            "drop": step.drop, "kept": step.kept,
        })
    };
    let tried: serde_json::Map<String, serde_json::Value> = outcome
        .steps
        .iter()
        .map(|(scheme, steps)| (scheme.to_string(), steps.iter().map(step).collect()))
        .collect();
    serde_json::json!({
        "schema": 1,
        "metric": outcome.metric,
        "variants": outcome.rows,
        "tried": tried,
        "sensitivities": outcome.sensitivities.iter()
            .map(|node| serde_json::json!({ "node": node.node, "gain-db": node.gain_db })).collect::<Vec<_>>(),
        "shortfall": outcome.shortfall,
        "written": outcome.written,
    })
}
