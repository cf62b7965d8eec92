//! A deployment's place in the roll-out, as labels on the hub: the only state there is.

use std::collections::BTreeMap;

use super::declared::Lineage;
use super::state::HubDeployment;
use crate::quiet::{time_of_text, time_text};
use crate::syntax::shortened;

/// Longest text of a person in a label, in characters.
const TEXT_LIMIT_CHARACTERS: usize = 200;

/// Where a deployment of ours stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the environment.
    pub environment: String,
    /// What it belongs to.
    pub lineage: Lineage,
    /// The last ring that has it.
    pub ring: String,
    /// When it came to that ring, by the hub's clock.
    pub since_secs: u64,
    /// [`Declared::sequence`](super::Declared::sequence) of the last run that changed it.
    pub sequence: u64,
    /// The commit of that run.
    pub commit: String,
    /// Compressed size of its images in bytes.
    pub size_bytes: u64,
    /// When all rings had it and it had shown its health; only then it can be a fall-back.
    pub finished_secs: Option<u64>,
    /// Why it may not go on.
    pub stopped: Option<String>,
    /// Why it was taken back; it matches no device any more.
    pub rolled_back: Option<String>,
    /// It matches no device, but can come back: it sets what its successor does not.
    pub parked: bool,
    /// Who agreed to the ring.
    pub approved_by: Option<String>,
}

/// Label that says that a deployment is ours, and of which environment.
pub const ENVIRONMENT: &str = "aiot-environment";

impl Place {
    /// Reads the labels. None: not ours. An error names what is missing or unreadable on a deployment that is ours.
    pub fn of(deployment: &HubDeployment) -> Option<Result<Place, String>> {
        let labels = &deployment.labels;
        let environment = labels.get(ENVIRONMENT)?.clone();
        Some(read(labels, environment).map_err(|label| {
            let id = &deployment.id;
            format!("deployment `{id}`: label `{label}` is missing or not as this tool writes it: restore it, or delete the deployment")
        }))
    }

    /// The labels.
    pub fn to_labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut add = |name: &str, value: String| {
            labels.insert(name.to_owned(), value);
        };
        add(ENVIRONMENT, self.environment.clone());
        add("aiot-target", self.lineage.target.clone());
        add("aiot-stem", self.lineage.stem.clone());
        add("aiot-ring", self.ring.clone());
        add("aiot-since", time_text(self.since_secs));
        add("aiot-sequence", self.sequence.to_string());
        add("aiot-commit", self.commit.clone());
        add("aiot-size-bytes", self.size_bytes.to_string());
        if let Some(secs) = self.finished_secs {
            add("aiot-finished", time_text(secs));
        }
        let texts = [
            ("aiot-stopped", &self.stopped),
            ("aiot-rolled-back", &self.rolled_back),
            ("aiot-approved-by", &self.approved_by),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                add(name, shortened(text, TEXT_LIMIT_CHARACTERS));
            }
        }
        if self.parked {
            add("aiot-parked", "yes".to_owned());
        }
        labels
    }

    /// Whether it is, or can again be, what devices fall back to.
    pub fn is_fall_back(&self) -> bool {
        self.finished_secs.is_some() && self.rolled_back.is_none()
    }
}

fn read(labels: &BTreeMap<String, String>, environment: String) -> Result<Place, &'static str> {
    let text = |name: &'static str| labels.get(name).cloned().ok_or(name);
    let number = |name: &'static str| text(name)?.parse::<u64>().map_err(|_| name);
    let finished_secs = match labels.get("aiot-finished") {
        Some(text) => Some(time_of_text(text).ok_or("aiot-finished")?),
        None => None,
    };
    Ok(Place {
        environment,
        lineage: Lineage {
            target: text("aiot-target")?,
            stem: text("aiot-stem")?,
        },
        ring: text("aiot-ring")?,
        since_secs: time_of_text(&text("aiot-since")?).ok_or("aiot-since")?,
        sequence: number("aiot-sequence")?,
        commit: text("aiot-commit")?,
        size_bytes: number("aiot-size-bytes")?,
        finished_secs,
        stopped: labels.get("aiot-stopped").cloned(),
        rolled_back: labels.get("aiot-rolled-back").cloned(),
        parked: labels.contains_key("aiot-parked"),
        approved_by: labels.get("aiot-approved-by").cloned(),
    })
}
