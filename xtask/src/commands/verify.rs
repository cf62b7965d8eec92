//! `cargo xtask verify`: the images of the last release predict the evaluation data, each in its own unpacked root,
//! natively or under qemu-user; images with the same model must say the same.
//!
//! Integer arithmetic is exact, so int8 results must be equal to the last bit. Floating point is summed in another
//! order on another processor, which [`bound`] allows for. Images with different models (other precision) are not
//! compared with each other: the release's accuracy budget is for that.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_inference::Dataset;
use aiot_oci::read_layout;
use aiot_testkit::device::{Device, runs_here};
use serde::Serialize;
use serde_json::Value;

use crate::output::{Format, table};

/// Differences that are told; the rest is counted.
const MAX_TOLD: usize = 10;

/// Files that one run of a module gets, so that a command line stays short of the system's bound.
const BATCH: usize = 200;

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these models [default: all]
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Inputs per image, spread over the evaluation set; 0: all
    #[arg(long, value_name = "COUNT", default_value_t = 24)]
    samples: usize,
}

/// How far results of one model may be apart on two architectures: 0 = the same bits.
///
/// Measured: float32 outputs up to 10 differ by up to 1.3e-5 between x86-64 and ARM; half precision rounds at 1e-3 of
/// a value, as do 8-bit activations behind float arithmetic. The bounds leave a factor for softmax and larger sums.
fn bound(image: &Answers) -> f64 {
    match image.precision.as_str() {
        _ if image.exact => 0.0,
        "float32" | "int8-symmetric" | "int8-weights" | "int4-weights" => 1e-3,
        _ => 2e-2,
    }
}

/// One image's row.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    target: String,
    architecture: String,
    precision: String,
    /// Target that it is compared with; none: the only one with its model.
    compared_with: Option<String>,
    predictions: usize,
    /// Predictions within the bound.
    agreeing: usize,
    /// Largest difference of a number.
    largest_difference: f64,
}

/// What one image says.
struct Answers {
    target: String,
    architecture: String,
    precision: String,
    /// Whether its golden outputs allow no difference.
    exact: bool,
    digest: String,
    lines: Vec<Value>,
}

/// Prints the agreement; the exit code is an error's where images disagree.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let workspace =
        aiot_plan::resolve(&aiot_build::workspace::read_texts(paths)?).map_err(BuildError::Config)?;
    for name in &arguments.model {
        aiot_build::workspace::find_model(&workspace, name)?;
    }
    let layout = paths.root.join("dist/images");
    let images: BTreeMap<String, _> = read_layout(&layout)
        .map_err(|error| BuildError::Other(format!("{error}; `cargo xtask release` makes the images")))?
        .into_iter()
        .collect();
    let mut answers: BTreeMap<String, Vec<Answers>> = BTreeMap::new();
    for (model, target) in workspace.images() {
        if !arguments.model.is_empty() && !arguments.model.iter().any(|name| name == model.name.as_str()) {
            continue;
        }
        let name = format!("{}-{}-{}", model.name, model.version, target.name);
        let fail = |message: String| BuildError::Other(format!("{name}: {message}"));
        let descriptor = images
            .get(&name)
            .ok_or_else(|| fail("is not among the images; run `cargo xtask release`".to_owned()))?;
        runs_here(&target.platform.architecture).map_err(fail)?;
        let dataset =
            Dataset::open(&paths.file(&model.evaluation_path)).map_err(|error| fail(error.to_string()))?;
        let all = dataset.samples();
        let count = if arguments.samples == 0 {
            all.len()
        } else {
            arguments.samples.min(all.len())
        };
        let files: Vec<PathBuf> = (0..count)
            .map(|n| dataset.dir().join(&all[n * all.len() / count].file))
            .collect();
        eprintln!("{name}: {count} samples as {}", target.platform.architecture);
        let device = Device::open(&layout, &descriptor.digest).map_err(fail)?;
        let read = |file: &str| -> Result<Value, BuildError> {
            std::fs::read(device.package().join(file))
                .map_err(|error| error.to_string())
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
                .map_err(|error| fail(format!("{file}: {error}")))
        };
        let (package, golden) = (read("package.json")?, read("golden.json")?);
        let text = |name: &str| package["model"][name].as_str().unwrap_or_default().to_owned();
        let mut found = Answers {
            target: target.name.to_string(),
            architecture: target.platform.architecture.clone(),
            precision: text("precision"),
            exact: golden["tolerance"]["absolute"] == 0.0 && golden["tolerance"]["relative"] == 0.0,
            digest: text("sha256"),
            lines: Vec::new(),
        };
        for batch in files.chunks(BATCH) {
            let mut words = vec!["predict"];
            for file in batch {
                words.push(
                    file.to_str()
                        .ok_or_else(|| fail(format!("`{}` is not UTF-8", file.display())))?,
                );
            }
            let ended = device.run(&words);
            if ended.code != Some(0) {
                let tail: Vec<&str> = ended.stderr.lines().rev().take(5).collect();
                return Err(fail(format!(
                    "predict ended with {:?}: {}",
                    ended.code,
                    tail.join(" | ")
                )));
            }
            for line in ended.stdout.lines() {
                let line = serde_json::from_str(line).map_err(|error| fail(format!("`{line}`: {error}")))?;
                found.lines.push(line);
            }
        }
        answers.entry(model.name.to_string()).or_default().push(found);
    }
    let (rows, told) = compare(&answers);
    match format {
        Format::Text => print(&rows),
        Format::Json => println!("{:#}", serde_json::to_value(&rows).map_err(BuildError::other)?),
    }
    if told.is_empty() {
        return Ok(crate::EXIT_OK);
    }
    let more = told.len().saturating_sub(MAX_TOLD);
    let mut lines: Vec<String> = told.into_iter().take(MAX_TOLD).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Err(BuildError::Other(format!(
        "images disagree\n  {}",
        lines.join("\n  ")
    )))
}

/// Compares each image with the first that has the same model; every difference beyond the bound is told.
fn compare(answers: &BTreeMap<String, Vec<Answers>>) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut told) = (Vec::new(), Vec::new());
    for (model, images) in answers {
        for (index, image) in images.iter().enumerate() {
            let reference = images[..index].iter().find(|other| other.digest == image.digest);
            let mut row = Row {
                model: model.clone(),
                target: image.target.clone(),
                architecture: image.architecture.clone(),
                precision: image.precision.clone(),
                compared_with: reference.map(|other| other.target.clone()),
                predictions: image.lines.len(),
                agreeing: image.lines.len(),
                largest_difference: 0.0,
            };
            if let Some(reference) = reference {
                if reference.lines.len() != image.lines.len() {
                    told.push(format!(
                        "{model}: {} predictions on {}, {} on {}",
                        reference.lines.len(),
                        reference.target,
                        image.lines.len(),
                        image.target
                    ));
                }
                row.agreeing = 0;
                for (ours, theirs) in reference.lines.iter().zip(&image.lines) {
                    let differences = differences(ours, theirs);
                    let largest = differences
                        .iter()
                        .map(|(_, a, b)| (a - b).abs())
                        .fold(0.0, f64::max);
                    row.largest_difference = row.largest_difference.max(largest);
                    let bound = bound(image);
                    let beyond = differences.iter().find(|(_, a, b)| (a - b).abs() > bound);
                    let same_text = bound > 0.0 || ours["result"] == theirs["result"];
                    match beyond {
                        None if same_text => row.agreeing += 1,
                        beyond => {
                            let (what, a, b) = match beyond {
                                Some((what, a, b)) => (what.as_str(), a.to_string(), b.to_string()),
                                None => (
                                    "the result",
                                    ours["result"].to_string(),
                                    theirs["result"].to_string(),
                                ),
                            };
                            let file = ours["file"].as_str().unwrap_or("?");
                            let sample = file.rsplit('/').next().unwrap_or(file);
                            told.push(format!(
                                "{model}, sample {sample}: {what} is {a} on {}, {b} on {}; {bound} is allowed",
                                reference.target, image.target
                            ));
                        }
                    }
                }
            }
            rows.push(row);
        }
    }
    (rows, told)
}

/// Every number of two results under its name; a label in the last place of one list need not be in the other.
fn differences(ours: &Value, theirs: &Value) -> Vec<(String, f64, f64)> {
    let (ours, theirs) = (numbers(&ours["result"]), numbers(&theirs["result"]));
    let common = ours.into_iter().filter_map(|(name, value)| {
        let other = *theirs.get(&name)?;
        Some((name, value, other))
    });
    common.collect()
}

fn numbers(result: &Value) -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::new();
    for entry in result["top"].as_array().into_iter().flatten() {
        if let (Some(label), Some(value)) = (entry["label"].as_str(), entry["probability"].as_f64()) {
            numbers.insert(format!("probability of `{label}`"), value);
        }
    }
    if let Some(score) = result["score"].as_f64() {
        numbers.insert("score".to_owned(), score);
    }
    for (name, value) in result["values"].as_object().into_iter().flatten() {
        numbers.extend(value.as_f64().map(|value| (format!("value `{name}`"), value)));
    }
    numbers
}

fn print(rows: &[Row]) {
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.model.clone(),
                row.target.clone(),
                row.architecture.clone(),
                row.precision.clone(),
                row.compared_with.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{} of {}", row.agreeing, row.predictions),
                format!("{:.1e}", row.largest_difference),
            ]
        })
        .collect();
    let heads = [
        "model",
        "target",
        "runs as",
        "precision",
        "compared with",
        "agree>",
        "largest difference>",
    ];
    print!("{}", table(&heads, &lines));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(target: &str, precision: &str, scores: &[f64]) -> Answers {
        let line = |(n, score): (usize, &f64)| {
            let result = json!({"kind": "anomaly", "score": score, "anomaly": false, "threshold": 1});
            json!({"file": format!("data/{n}.npy"), "result": result})
        };
        Answers {
            target: target.to_owned(),
            architecture: "arm".to_owned(),
            precision: precision.to_owned(),
            exact: precision == "int8",
            digest: precision.to_owned(),
            lines: scores.iter().enumerate().map(line).collect(),
        }
    }

    fn told(images: Vec<Answers>) -> (Vec<Row>, Vec<String>) {
        compare(&BTreeMap::from([("bearing".to_owned(), images)]))
    }

    #[test]
    fn int8_must_be_the_same() {
        let (rows, told_now) = told(vec![
            image("a", "int8", &[0.5, 0.25]),
            image("b", "int8", &[0.5, 0.25]),
        ]);
        assert_eq!((rows[1].agreeing, told_now.len()), (2, 0));
        let (rows, told_now) = told(vec![
            image("a", "int8", &[0.5, 0.25]),
            image("b", "int8", &[0.5, 0.250_01]),
        ]);
        assert_eq!(rows[1].agreeing, 1);
        let expected = "bearing, sample 1.npy: score is 0.25 on a, 0.25001 on b; 0 is allowed";
        assert_eq!(told_now, [expected]);
    }

    #[test]
    fn float_may_round() {
        let (rows, told_now) = told(vec![
            image("a", "float32", &[0.5]),
            image("b", "float32", &[0.5001]),
        ]);
        assert_eq!((rows[1].agreeing, told_now.len()), (1, 0));
        let (_, told_now) = told(vec![image("a", "float32", &[0.5]), image("b", "float32", &[0.6])]);
        assert_eq!(told_now.len(), 1);
    }

    #[test]
    fn other_models_are_not_compared_and_missing_predictions_are_told() {
        let (rows, told_now) = told(vec![image("a", "int8", &[0.5]), image("b", "float32", &[0.9])]);
        assert_eq!((&rows[1].compared_with, told_now.len()), (&None, 0));
        let (_, told_now) = told(vec![image("a", "int8", &[0.5]), image("b", "int8", &[])]);
        assert_eq!(told_now, ["bearing: 1 predictions on a, 0 on b"]);
    }
}
