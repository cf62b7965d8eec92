//! The roll-out: what a hub is to be told next, decided from what is declared, what the hub says, and the time.
//!
//! Nothing is remembered between two decisions: which ring a release is in, since when, and whether it was stopped
//! stands in the labels of its deployment. So a run can be cut anywhere and made again, on any machine.
//!
//! | module | does |
//! | --- | --- |
//! | [`declared`] | reads the generated files: what shall be |
//! | [`state`] | the hub's deployments and devices: what is |
//! | [`labels`] | how a deployment's place in the roll-out is written on it |
//! | [`health`] | a device's report → good, silent or in trouble; counts against thresholds |
//! | [`mod@decide`] | both → steps |
//! | [`mod@notes`] | what is in the way and no step repairs |
//! | [`mod@rollback`] | the steps that bring the previous release back |
//! | [`step`] | one call to the hub, guarded by ETag |
//! | [`apply`] | obeys steps; the only code that calls a [`Hub`](apply::Hub) |
//! | [`explain`] | what one device gets, and why |
//! | [`fleet`] | what runs where: wanted against reported |
//! | [`saved`] | a change set as a file, obeyed as it was read or not at all |
//!
//! A *lineage* is what follows each other on the same devices: (environment, target, stem). Its deployments lie on
//! the hub by priority: the newest on top, beneath it the last one that finished, the *fall-back*. A release is
//! created for the first ring, widened ring by ring and then finished; only what is finished may be a fall-back.

pub mod apply;
pub mod decide;
pub mod declared;
pub mod explain;
pub mod fleet;
pub mod health;
pub mod labels;
pub mod notes;
pub mod rollback;
pub mod saved;
pub mod state;
pub mod step;
mod support;
pub mod way_back;
mod working;

pub use apply::{ApplyError, Hub, HubError, HubErrorKind, WaveTag, apply};
pub use decide::{Decision, Intent, LineageReport, Preflight, Refusal, Verdict, decide};
pub use declared::{Declared, DeclaredError, Lineage, our_images};
pub use explain::{Explainer, Explanation, Readable, effective, explain};
pub use health::{Standing, Tally};
pub use labels::Place;
pub use notes::notes;
pub use rollback::rollback;
pub use saved::{SavedPlan, SavedPlanError};
pub use state::{Agent, Device, HubDeployment, ModuleReport, RuntimeStatus, Snapshot};
pub use step::{Action, Step, fingerprint};
pub use support::ended_support;
pub use way_back::{WayBack, ways_back};
