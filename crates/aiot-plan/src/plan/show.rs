//! The plan as JSON, for other tools.

use std::collections::BTreeMap;

use aiot_package::Digest;
use serde::Serialize;

use super::{Plan, Source, Status};
use crate::action::DirtyReason;

/// The version of the plan's JSON.
pub const PLAN_SCHEMA_VERSION: u32 = 1;

/// The plan as JSON for other tools: `{"schema": 1, "actions": [...]}`.
pub fn to_json(plan: &Plan, statuses: &[Status]) -> serde_json::Value {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Entry<'a> {
        id: &'a str,
        parameters: serde_json::Map<String, serde_json::Value>,
        inputs: BTreeMap<&'a str, String>,
        state: &'static str,
        key: Option<Digest>,
        reasons: Vec<&'a DirtyReason>,
    }
    let entries: Vec<Entry<'_>> = plan
        .nodes
        .iter()
        .zip(statuses)
        .map(|(node, status)| {
            let (state, key, reasons) = match status {
                Status::Done(record) => ("done", Some(record.key), Vec::new()),
                Status::Run { key, reasons } => ("run", Some(*key), reasons.iter().collect()),
                Status::Waiting { reasons } => ("waiting", None, reasons.iter().collect()),
            };
            let inputs = node
                .inputs
                .iter()
                .map(|(name, source)| (name.as_str(), source_text(plan, source)))
                .collect();
            Entry {
                id: &node.id,
                parameters: node.action.parameters(),
                inputs,
                state,
                key,
                reasons,
            }
        })
        .collect();
    serde_json::json!({ "schema": PLAN_SCHEMA_VERSION, "actions": entries })
}

/// A source in words: a digest, or `output of action`.
pub fn source_text(plan: &Plan, source: &Source) -> String {
    match source {
        Source::Given(digest) => digest.to_string(),
        Source::Output { node, output } => format!("{output} of {}", plan.nodes[*node].id),
    }
}
