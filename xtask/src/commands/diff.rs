//! `cargo xtask diff`

use std::collections::{BTreeMap, BTreeSet};

use aiot_build::BuildError;
use aiot_build::environment::git;
use aiot_build::paths::Paths;
use aiot_iothub::diff::{Difference, Files, diff};

use crate::output::Format;

/// What to compare.
#[derive(clap::Args)]
pub struct Arguments {
    /// Commit, branch or tag to compare the generated manifests in this folder with
    #[arg(default_value = "HEAD")]
    reference: String,
    /// Only these environments [default: all]
    #[arg(long, value_name = "NAME")]
    environment: Vec<String>,
}

/// Prints what changes on the devices: Markdown, or data.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let before = committed(paths, &arguments.reference)?;
    let after = in_folder(paths)?;
    let mut names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in &arguments.environment {
        if !names.contains(name) {
            let known: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            return Err(BuildError::Other(format!(
                "there is no environment `{name}`: {}",
                known.join(", ")
            )));
        }
    }
    names.retain(|name| arguments.environment.is_empty() || arguments.environment.contains(name));
    let nothing = Files::new();
    let mut differences: BTreeMap<&String, Difference> = BTreeMap::new();
    for name in names {
        let sides = (
            before.get(name).unwrap_or(&nothing),
            after.get(name).unwrap_or(&nothing),
        );
        let difference = diff(sides.0, sides.1)
            .map_err(|error| BuildError::Other(format!("environment `{name}`: {error}")))?;
        if !difference.is_empty() {
            differences.insert(name, difference);
        }
    }
    match format {
        Format::Text if differences.is_empty() => println!("Nothing changes on any device."),
        Format::Text => {
            let parts: Vec<String> = differences
                .iter()
                .map(|(name, difference)| difference.to_markdown(name))
                .collect();
            print!("{}", parts.join("\n"));
        }
        Format::Json => println!(
            "{:#}",
            serde_json::json!({ "schema": 1, "environments": differences })
        ),
    }
    Ok(if differences.is_empty() {
        crate::EXIT_OK
    } else {
        crate::EXIT_CHANGES
    })
}

/// Environment → its generated files in this folder.
fn in_folder(paths: &Paths) -> Result<BTreeMap<String, Files>, BuildError> {
    let mut environments: BTreeMap<String, Files> = BTreeMap::new();
    let root = paths.root.join("deployments");
    for (name, file, path) in git(
        paths,
        &["ls-files", "-z", "--cached", "--others", "--", "deployments/"],
    )?
    .split(|byte| *byte == 0)
    .filter_map(|path| generated(std::str::from_utf8(path).ok()?))
    {
        // A file that was removed and not committed yet is gone.
        if let Ok(bytes) = std::fs::read(root.join(path)) {
            environments.entry(name).or_default().insert(file, bytes);
        }
    }
    Ok(environments)
}

/// Environment → its generated files at a commit.
fn committed(paths: &Paths, reference: &str) -> Result<BTreeMap<String, Files>, BuildError> {
    if reference.starts_with('-') {
        return Err(BuildError::Other(format!(
            "`{reference}` is not a commit, branch or tag"
        )));
    }
    let mut environments: BTreeMap<String, Files> = BTreeMap::new();
    let list = git(
        paths,
        &["ls-tree", "-r", "-z", "--name-only", reference, "deployments/"],
    )?;
    for (name, file, path) in list
        .split(|byte| *byte == 0)
        .filter_map(|path| generated(std::str::from_utf8(path).ok()?))
    {
        let bytes = git(paths, &["show", &format!("{reference}:./deployments/{path}")])?;
        environments.entry(name).or_default().insert(file, bytes);
    }
    Ok(environments)
}

/// `deployments/prod/a/b.json` → `prod`, `a/b.json`, `prod/a/b.json`.
fn generated(path: &str) -> Option<(String, String, String)> {
    let path = path.strip_prefix("deployments/")?;
    let (name, file) = path.split_once('/')?;
    Some((name.to_owned(), file.to_owned(), path.to_owned()))
}
