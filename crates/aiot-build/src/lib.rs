//! Observes the workspace, executes the plan, keeps store and lock: the edge around the pure crates.
//!
//! | module | what it touches |
//! | --- | --- |
//! | [`workspace`] | reads declarations and checks them with facts about files |
//! | [`observe`] | files and tool versions → [`aiot_plan::plan::Facts`] |
//! | [`cache`] | results of earlier runs, on disk |
//! | [`push`], [`images`] | a layout's images to a registry; what they hold and where two differ |
//! | [`sizes`] | what a release takes over the link and on the disk of its devices |
//! | [`supply`] | bills of materials, provenance, signatures |
//! | [`policy`] | whose signature an environment asks for |
//! | [`verify_images`] | is what is in a registry what the declarations and the lock say? |
//! | [`lockfile`] | looks up what `aiot.lock` lacks |
//! | [`environment`] | a committed environment, as a hub is told |
//! | [`execute`] | runs actions on a thread pool, results into the store |
//! | [`model_file`] | an ONNX file with the data files beside it |
//! | [`quantize_cli`], [`inspect_cli`] | quantize and inspect one model, without a release |
//! | [`quantizer`] | runs models on the host's engine to choose how they are quantized |
//! | [`records`] | calibration and measurement files beside the models |
//! | [`manifests`] | outputs → deployment manifests |
//! | [`release`] | the order of all that |
//! | [`update`] | moving what is pinned |
//!
//! Progress comes out as [`events::Event`]; rendering is the caller's.

pub mod cache;
pub mod environment;
pub mod error;
pub mod events;
pub mod execute;
pub mod images;
pub mod inspect_cli;
pub mod lockfile;
pub mod manifests;
pub mod model_file;
pub mod network;
pub mod observe;
pub mod paths;
pub mod pins;
pub mod policy;
pub mod push;
pub mod quantize_cli;
pub mod quantizer;
pub mod records;
pub mod registry;
pub mod release;
pub mod sizes;
pub mod supply;
pub mod update;
pub mod verify_images;
pub mod workspace;

pub use error::BuildError;
