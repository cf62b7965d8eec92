//! One call to the hub, decided before it is made.

use std::collections::BTreeMap;

use aiot_package::Digest;
use serde::{Deserialize, Serialize};

use super::state::HubDeployment;

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum Action {
    /// Writes a device's wave into its tags.
    Tag {
        /// The device.
        device: String,
        /// 0 to 99.
        wave: u8,
        /// ETag of the device's twin; none: not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        etag: Option<String>,
    },
    /// Changes what can be changed of a deployment; its content stays.
    Update {
        /// Its id.
        id: String,
        /// What it must be now; none: what the step before has left.
        etag: Option<String>,
        /// The new target condition; empty: no device.
        condition: String,
        /// The new priority.
        priority: u32,
        /// The new labels, all of them.
        labels: BTreeMap<String, String>,
    },
    /// Deletes a deployment.
    Delete {
        /// Its id.
        id: String,
        /// What it must be now; none: what the step before has left.
        etag: Option<String>,
    },
    /// Creates a deployment.
    Create {
        /// Without ETag and time, which the hub gives.
        deployment: HubDeployment,
    },
}

/// One action, why, and how many devices it is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// In the words of people: `widen from canary to early`.
    pub why: String,
    /// Devices that the deployment targets before.
    pub devices_before: usize,
    /// Devices that it targets after.
    pub devices_after: usize,
}

impl Action {
    /// The deployment, or the device that is tagged.
    pub fn subject(&self) -> &str {
        match self {
            Action::Tag { device, .. } => device,
            Action::Update { id, .. } | Action::Delete { id, .. } => id,
            Action::Create { deployment } => &deployment.id,
        }
    }

    /// Position in a change set. Creating comes last, so that the hub's limit is kept at each moment; no step needs
    /// what a later kind does.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Action::Tag { .. } => 0,
            Action::Update { .. } => 1,
            Action::Delete { .. } => 2,
            Action::Create { .. } => 3,
        }
    }
}

/// What a saved change set was made for: the hub's deployments by id and ETag, and what is declared.
pub fn fingerprint<'a>(deployments: &[HubDeployment], declared: impl Iterator<Item = &'a str>) -> String {
    let mut lines: Vec<String> = deployments
        .iter()
        .map(|one| format!("hub {} {}\n", one.id, one.etag))
        .collect();
    lines.extend(declared.map(|id| format!("declared {id}\n")));
    lines.sort();
    Digest::of(lines.concat().as_bytes()).to_string()
}
