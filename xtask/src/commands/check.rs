//! `cargo xtask check`

use aiot_build::BuildError;
use aiot_build::observe::FileIndex;
use aiot_build::paths::Paths;

use crate::output::Format;

/// Checks the declarations and says how much there is.
pub fn run(paths: &Paths, format: Format) -> Result<u8, BuildError> {
    let workspace = aiot_build::workspace::check(paths, &mut FileIndex::open(paths))?;
    let (models, targets) = (workspace.models.len(), workspace.targets.len());
    let (images, environments) = (workspace.images().count(), workspace.environments.len());
    match format {
        Format::Text => {
            println!("{models} models, {targets} targets, {images} images, {environments} environments: good")
        }
        Format::Json => println!(
            "{}",
            serde_json::json!({ "models": models, "targets": targets, "images": images, "environments": environments })
        ),
    }
    Ok(crate::EXIT_OK)
}
