//! IoT Edge deployment manifests: what a hub is asked to run on which devices, written byte for byte the same
//! wherever a release is made.
//!
//! In: a [`Release`], plain data that the plan and the image builder have filled. Out: [`Rendered`], the files of
//! `deployments/<environment>/` (JSON for the hub, `summary.md` for reviewers) and the same facts as data, or all
//! that is wrong with the release at once ([`ManifestError`]). In between:
//!
//! | module | does |
//! | --- | --- |
//! | [`release`], [`ring`], [`quiet`] | the input types |
//! | [`condition`], [`route`] | parse the hub's and the edge hub's two small languages, with positions |
//! | [`create_options`] | createOptions as object ↔ the string pieces of a manifest |
//! | [`mod@render`] | base and layered deployments, ids, target conditions per ring |
//! | [`mod@merge`] | what a device receives when several deployments match it |
//! | [`layers`] | the layers of images: what a device fetches, and has on its disk |
//! | [`limits`] | the service's limits on that, and how much of each is used |
//! | [`secrets`] | refuses values that look like secrets |
//! | [`rollout`] | declared and hub → steps: rings, health, rollback; what each device gets |
//! | [`mod@diff`] | what a change means on the devices |
//! | `summary` | Markdown for the pull request |
//!
//! Nothing here reads a file, a clock or the network, and nothing talks to a hub.
//!
//! Sources of the rules, in doc comments: "docs" is the public IoT Edge and IoT Hub documentation, "edge agent" and
//! "edge hub" the source of the runtime (Azure/iotedge).

pub mod condition;
pub mod create_options;
pub mod diff;
mod error;
mod image;
pub mod json;
pub mod layers;
pub mod limits;
mod manifest;
pub mod merge;
pub mod pin;
pub mod quiet;
pub mod release;
pub mod render;
pub mod ring;
pub mod rollout;
pub mod route;
pub mod secrets;
mod summary;
mod syntax;
mod validate;

pub use condition::Condition;
pub use error::{ManifestError, Problem};
pub use layers::{LAYERS_FILE, LayerBook, LayerSize};
pub use limits::UsedOf;
pub use merge::{MergeError, merge};
pub use pin::{Pin, Pins};
pub use release::{
    AccuracySummary, EnvValue, ModuleRelease, Release, RestartPolicy, RouteSpec, SystemModule, SystemModules,
    TargetRelease,
};
pub use render::{
    Deployment, DeploymentKind, DeploymentList, ModuleFacts, Rendered, RingCondition, TargetFacts, render,
    render_pinned,
};
pub use ring::{Amount, Ring, Thresholds};
pub use syntax::SyntaxError;
