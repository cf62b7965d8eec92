//! What goes into a decision besides the hub, and what comes out of it.

use serde::Serialize;
use thiserror::Error;

use super::super::declared::Lineage;
use super::super::health::Tally;
use super::super::step::Step;
use crate::limits::UsedOf;

/// What a person says with a run.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    /// Who agrees that releases enter rings that ask for it.
    pub approve: Option<String>,
    /// Stopped releases may go on, if their ring is well again.
    pub resume: bool,
}

/// What is to be done, and how everything stands.
#[derive(Clone, Debug)]
pub struct Decision {
    /// In the order in which they must be made; cut anywhere, every device still has what it should have.
    pub steps: Vec<Step>,
    /// One per declared lineage, in the order of the declarations.
    pub lineages: Vec<LineageReport>,
    /// Limits of the hub after the steps.
    pub used: Vec<UsedOf>,
}

/// How one lineage stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LineageReport {
    /// The lineage.
    pub lineage: Lineage,
    /// The declared deployment.
    pub id: String,
    /// The last ring that has it; none: not on the hub yet.
    pub ring: Option<String>,
    /// Its devices.
    pub tally: Tally,
    /// What it takes from a device that does not have it; none: the layers of its images are not known here.
    pub preflight: Option<Preflight>,
    /// What follows.
    pub verdict: Verdict,
}

/// What a deployment takes from a device, from the layers of its images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Preflight {
    /// What a device fetches that has the images of the deployments before and beside it.
    pub fetch_bytes: u64,
    /// How long that takes over the target's declared link.
    pub fetch_minutes: Option<u64>,
    /// What a device without any image fetches.
    pub whole_bytes: u64,
    /// How long that takes.
    pub whole_minutes: Option<u64>,
    /// Old and new images together on the disk, unpacked; none: not all of these are known.
    pub disk_bytes: Option<u64>,
}

/// What follows for a lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A step is made: which.
    Acts(String),
    /// All rings have it, and it is good.
    Finished,
    /// Time has not passed yet, or devices have not reported: what is waited for.
    Waits(String),
    /// A person must look: too many devices are in trouble.
    Stopped(String),
    /// A person has taken it back, and the declarations still ask for it.
    RolledBack(String),
    /// A rule forbids the step: which.
    Refused(String),
}

impl Verdict {
    /// Whether somebody must do something.
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Verdict::Stopped(_) | Verdict::RolledBack(_) | Verdict::Refused(_)
        )
    }
}

/// Why nothing can be decided.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The hub has seen a newer commit.
    #[error(
        "the hub has deployment `{id}` of the newer commit {commit}: this checkout is out of date; pull, and run again"
    )]
    OutOfDate {
        /// A deployment that a newer run has made.
        id: String,
        /// Its commit.
        commit: String,
    },
    /// A label of ours cannot be read.
    #[error("{0}")]
    Labels(String),
}
