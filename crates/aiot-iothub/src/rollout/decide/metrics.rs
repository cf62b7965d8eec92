//! Queries that a deployment carries, so that the hub's own pages say how a release does. A hub takes five of them.

use std::collections::BTreeMap;

use super::super::declared::images;

/// Longest metric query that is written, in bytes.
const QUERY_LIMIT_BYTES: usize = 4000;

/// Custom metrics of a deployment: devices that run exactly its images, that failed, and that it has not reached.
pub(super) fn metrics(id: &str, content: &serde_json::Value) -> BTreeMap<String, String> {
    let from = "SELECT deviceId FROM devices.modules WHERE moduleId = '$edgeAgent'";
    let has = format!("configurations.[[{id}]].status = 'Applied'");
    let system = |name: &str| matches!(name, "edgeAgent" | "edgeHub");
    let runs: Vec<String> = images(content)
        .iter()
        .map(|(name, image)| {
            let section = if system(name) { "systemModules" } else { "modules" };
            let module = format!("properties.reported.{section}.[[{name}]]");
            format!("{module}.settings.image = '{image}' AND {module}.runtimeStatus = 'running'")
        })
        .collect();
    let reached = "properties.desired.$version = properties.reported.lastDesiredVersion";
    let mut running = format!("{from} AND {has} AND {}", runs.join(" AND "));
    if runs.is_empty() || running.len() > QUERY_LIMIT_BYTES {
        running =
            format!("{from} AND {has} AND {reached} AND properties.reported.lastDesiredStatus.code = 200");
    }
    BTreeMap::from([
        ("running".to_owned(), running),
        (
            "failed".to_owned(),
            format!("{from} AND {has} AND {reached} AND properties.reported.lastDesiredStatus.code != 200"),
        ),
        (
            "silent".to_owned(),
            format!(
                "{from} AND {has} AND properties.desired.$version != properties.reported.lastDesiredVersion"
            ),
        ),
    ])
}
