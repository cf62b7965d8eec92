//! `cargo xtask quantize`

use std::path::{Path, PathBuf};

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_build::quantize_cli::{
    AnyModel, DeclaredModel, Granularity, NodeOutcome, NodeReport, Outcome, Precision, Row, any_model,
    declared,
};
use aiot_build::quantizer::plot::{NodeBar, Point, sensitivities, trade_off};
use aiot_build::quantizer::variant::Step;

use crate::output::{Format, bytes, table};
use crate::progress::Progress;

/// What to quantize.
#[derive(clap::Args)]
pub struct Arguments {
    /// A model of models.toml
    #[arg(required_unless_present = "model", conflicts_with = "model")]
    name: Option<String>,
    /// All schemes side by side; writes no model
    #[arg(long, conflicts_with = "output")]
    sweep: bool,
    /// Any ONNX file instead, without a declaration
    #[arg(long, value_name = "FILE")]
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
    /// Take int8 even where it is slower than float, for its size
    #[arg(long, requires = "model")]
    allow_slower: bool,
    /// Where the quantized file goes [default: nowhere, only the table is made]
    #[arg(long, value_name = "FILE", requires = "model")]
    output: Option<PathBuf>,
    /// Draws what each node's rounding costs; with --sweep, size against time with the Pareto line
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Do not touch the network
    #[arg(long)]
    offline: bool,
}

/// Variants that can be asked for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Scheme {
    /// For processors: u8 activations, s8 weights; fixed scales, or those of int8-dynamic where these are better
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

impl Scheme {
    fn precision(self) -> Precision {
        match self {
            Scheme::Int8 => Precision::Int8,
            Scheme::Int8Symmetric => Precision::Int8Symmetric,
            Scheme::Int8Dynamic => Precision::Int8Dynamic,
            Scheme::Int8Weights => Precision::Int8Weights,
            Scheme::Int4Weights => Precision::Int4Weights,
            Scheme::Float16 => Precision::Float16,
        }
    }
}

/// Quantizes and prints the table.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let progress = Progress::new();
    let events = |event| progress.show(event);
    let network = super::network(arguments.offline)?;
    let show_sensitivities = arguments.plot.is_some() && !arguments.sweep;
    let result = match (&arguments.name, &arguments.model) {
        (Some(name), _) => {
            let wanted = DeclaredModel {
                name,
                sweep: arguments.sweep,
                show_sensitivities,
            };
            declared(paths, wanted, network.as_ref(), &events)
        }
        (None, Some(model)) => {
            let wanted = AnyModel {
                model: model.clone(),
                calibration: arguments.calibration.clone(),
                evaluation: arguments.evaluation.clone(),
                precision: arguments.scheme.precision(),
                granularity: match arguments.per_tensor {
                    true => Granularity::PerTensor,
                    false => Granularity::PerChannel,
                },
                max_drop: arguments.max_drop,
                target_sqnr_db: arguments.target_sqnr,
                allow_slower: arguments.allow_slower,
                sweep: arguments.sweep,
                show_sensitivities,
                output: arguments.output.clone(),
            };
            any_model(paths, &wanted, network.as_ref(), &events)
        }
        (None, None) => Err(BuildError::Other("name a model, or --model FILE".to_owned())),
    };
    progress.finish();
    let mut outcome = result?;
    if let Some(path) = &arguments.plot {
        draw(&outcome, arguments, path)?;
        outcome.written.push(path.clone());
    }
    match format {
        Format::Text => print(&outcome),
        Format::Json => println!("{:#}", json(&outcome)),
    }
    match &outcome.shortfall {
        None => Ok(crate::EXIT_OK),
        Some(shortfall) => Err(BuildError::Other(format!("{shortfall}; no model was written"))),
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Writes the picture that goes with the table.
fn draw(outcome: &Outcome, arguments: &Arguments, path: &Path) -> Result<(), BuildError> {
    let name = match (&arguments.name, &arguments.model) {
        (Some(name), _) => name.clone(),
        (None, model) => model
            .as_deref()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    let svg = if arguments.sweep {
        let point = |row: &Row| Point {
            name: row.scheme.to_string(),
            size_bytes: row.size_bytes,
            latency_ratio: row.latency_ratio.unwrap_or(1.0),
            note: match (row.metric, row.sqnr_db) {
                (Some(metric), _) => format!("{metric:.4}"),
                (None, Some(sqnr_db)) => format!("{sqnr_db:.1} dB"),
                (None, None) => "same outputs".to_owned(),
            },
            best: row.pareto == Some(true),
        };
        let points: Vec<Point> = outcome.rows.iter().map(point).collect();
        trade_off(&format!("{name}: size, time and what is reached"), &points)
    } else {
        let searched = outcome.steps.first().map(|(scheme, _)| *scheme);
        let float: Vec<&str> = outcome
            .rows
            .iter()
            .filter(|row| Some(row.scheme) == searched)
            .flat_map(|row| &row.float_nodes)
            .map(|node| node.node.as_str())
            .collect();
        let bars: Vec<NodeBar> = outcome
            .sensitivities
            .iter()
            .map(|node| NodeBar {
                node: node.node.clone(),
                noise_share: node.noise_share,
                float: float.contains(&node.node.as_str()),
            })
            .collect();
        if bars.is_empty() {
            return Err(BuildError::Other(
                "nothing to draw: only a form with fixed scales has nodes to choose; --sweep draws all schemes".to_owned(),
            ));
        }
        sensitivities(&format!("{name}: each node's share of the noise"), &bars)
    };
    std::fs::write(path, svg)
        .map_err(|error| BuildError::Other(format!("cannot write {}: {error}", path.display())))
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
                row.pareto
                    .map_or("", |best| if best { "*" } else { "" })
                    .to_owned(),
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
                "latency ratio>",
                "Pareto"
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
        for line in by_reason(&row.float_nodes) {
            println!("  {line}");
        }
    }
    if !outcome.sensitivities.is_empty() {
        println!("\nNodes by their share of the noise:");
        for node in outcome.sensitivities.iter().take(12) {
            println!("  {:5.1} %  {}", node.noise_share * 100.0, node.node);
        }
    }
    for path in &outcome.written {
        println!("wrote {}", path.display());
    }
}

/// One line for each reason, the nodes with weights by name and the others by operator.
fn by_reason(nodes: &[NodeReport]) -> Vec<String> {
    const MOST: usize = 6;
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for node in nodes {
        let NodeOutcome::Float(reason) = &node.outcome else {
            continue;
        };
        let weighted = [
            "Conv",
            "ConvTranspose",
            "Gemm",
            "MatMul",
            "Gather",
            "GRU",
            "LSTM",
            "RNN",
        ];
        let name = match weighted.contains(&node.operator.as_str()) {
            true => format!("{} ({})", node.node, node.operator),
            false => node.operator.clone(),
        };
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, names)) if names.contains(&name) => {}
            Some((_, names)) => names.push(name),
            None => reasons.push((reason, vec![name])),
        }
    }
    let line = |(reason, names): &(&str, Vec<String>)| {
        let more = names.len().saturating_sub(MOST);
        let tail = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("{reason}: {}{tail}", names[..names.len() - more].join(", "))
    };
    reasons.iter().map(line).collect()
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
            .map(|node| serde_json::json!({ "node": node.node, "noise-share": node.noise_share })).collect::<Vec<_>>(),
        "shortfall": outcome.shortfall,
        "written": outcome.written,
    })
}
