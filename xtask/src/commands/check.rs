//! `cargo xtask check`

use aiot_build::BuildError;
use aiot_build::observe::FileIndex;
use aiot_build::paths::Paths;
use aiot_iothub::rollout::ended_support;
use aiot_plan::Workspace;
use serde_json::json;

use crate::output::Format;

/// Checks the declarations and says how much there is.
pub fn run(paths: &Paths, format: Format) -> Result<u8, BuildError> {
    let workspace = aiot_build::workspace::check(paths, &mut FileIndex::open(paths))?;
    let (models, targets) = (workspace.models.len(), workspace.targets.len());
    let (images, environments) = (workspace.images().count(), workspace.environments.len());
    let warnings = ended_support_of(&workspace);
    match format {
        Format::Text => {
            for (place, text) in &warnings {
                eprintln!("warning: {place}: {text}");
            }
            println!("{models} models, {targets} targets, {images} images, {environments} environments: good")
        }
        Format::Json => println!(
            "{}",
            json!({
                "models": models, "targets": targets, "images": images, "environments": environments,
                "warnings": warnings.iter().map(|(place, text)| json!({"place": place, "text": text})).collect::<Vec<_>>(),
            })
        ),
    }
    Ok(crate::EXIT_OK)
}

/// Runtime images whose support has ended by today, with their places. Not an error: what a commit declares is good or
/// bad on any day.
fn ended_support_of(workspace: &Workspace) -> Vec<(String, String)> {
    let now_secs = crate::now_secs();
    let images = workspace
        .environments
        .values()
        .flat_map(|one| [&one.edge_agent, &one.edge_hub]);
    images
        .filter_map(|one| Some((one.site.line(), ended_support(&one.image, now_secs)?)))
        .collect()
}
