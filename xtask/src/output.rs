//! Errors and tables. Meaning never depends on colour.

use aiot_build::BuildError;
use miette::{GraphicalReportHandler, GraphicalTheme, JSONReportHandler};

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Writes an error to stderr.
pub fn error(error: &BuildError, format: Format) {
    match (error, format) {
        (BuildError::Config(errors), Format::Text) => {
            let width = terminal_width();
            let theme = if colours() {
                GraphicalTheme::unicode()
            } else {
                GraphicalTheme::unicode_nocolor()
            };
            let handler = GraphicalReportHandler::new_themed(theme)
                .with_width(width)
                .with_links(false);
            for error in errors {
                let mut text = String::new();
                if handler.render_report(&mut text, error).is_ok() {
                    eprintln!("{text}");
                }
            }
            eprintln!("error: {error}");
        }
        (BuildError::Config(errors), Format::Json) => {
            let mut list = Vec::new();
            for error in errors {
                let mut text = String::new();
                if JSONReportHandler::new().render_report(&mut text, error).is_ok() {
                    list.push(text);
                }
            }
            eprintln!("[{}]", list.join(","));
        }
        (error, Format::Text) => eprintln!("error: {error}"),
        (error, Format::Json) => eprintln!("{}", serde_json::json!({ "error": error.to_string() })),
    }
}

fn colours() -> bool {
    use std::io::IsTerminal;
    std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal()
}

fn terminal_width() -> usize {
    std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(120)
        .clamp(60, 200)
}

/// A table with left-aligned columns; numbers that end a column's name with `>` are right-aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let right: Vec<bool> = header.iter().map(|name| name.ends_with('>')).collect();
    let names: Vec<String> = header
        .iter()
        .map(|name| name.trim_end_matches('>').to_owned())
        .collect();
    let all: Vec<&Vec<String>> = std::iter::once(&names).chain(rows).collect();
    let widths: Vec<usize> = (0..names.len())
        .map(|column| {
            all.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in all {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let space = " ".repeat(widths[column] - cell.chars().count());
                if right[column] {
                    format!("{space}{cell}")
                } else {
                    format!("{cell}{space}")
                }
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people.
pub fn bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{:.1} KiB", size as f64 / 1024.0),
        _ => format!("{:.1} MiB", size as f64 / 1_048_576.0),
    }
}
