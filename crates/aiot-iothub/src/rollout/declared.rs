//! What shall be: the generated files of `deployments/<environment>/`, read back and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use aiot_package::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::labels::ENVIRONMENT;
use super::state::HubDeployment;
use crate::condition::{Condition, overlap};
use crate::layers::{LAYERS_FILE, LayerBook};
use crate::limits::{self, UsedOf};
use crate::manifest::DESIRED;
use crate::merge::merge;
use crate::render::{DEPLOYMENTS_FORMAT_VERSION, Deployment, DeploymentKind, DeploymentList};

/// What follows each other on the same devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage {
    /// The target.
    pub target: String,
    /// `base`, `models` or `models-<slug>`.
    pub stem: String,
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.target, self.stem)
    }
}

impl Lineage {
    /// Of a declared deployment.
    pub fn of(deployment: &Deployment) -> Lineage {
        Lineage {
            target: deployment.target.clone(),
            stem: deployment.stem.clone(),
        }
    }

    /// Base deployments have a lineage of their own.
    pub fn is_base(&self) -> bool {
        self.stem == "base"
    }
}

/// One environment as it is declared at one commit.
#[derive(Clone, Debug)]
pub struct Declared {
    list: DeploymentList,
    contents: BTreeMap<String, Arc<Value>>,
    conditions: BTreeMap<String, Vec<Condition>>,
    layers: LayerBook,
    /// Grows with each commit of the branch that is deployed. A checkout with a smaller number than the hub has seen
    /// is out of date and must not undo what a newer one did.
    pub sequence: u64,
    /// The commit, for people.
    pub commit: String,
}

/// Generated files that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}: {problem}; run `cargo xtask release` and commit what it writes")]
pub struct DeclaredError {
    /// Relative to `deployments/<environment>/`.
    pub file: String,
    /// What is wrong.
    pub problem: String,
}

impl Declared {
    /// Reads `deployments.json`; `content` gives the other files by their path in it.
    ///
    /// # Errors
    /// [`DeclaredError`]: another format, a file that is missing or is not the one listed, unreadable conditions,
    /// no deployments at all.
    pub fn parse(
        list: &[u8],
        content: &dyn Fn(&str) -> Option<Vec<u8>>,
        sequence: u64,
        commit: &str,
    ) -> Result<Declared, DeclaredError> {
        let error = |file: &str, problem: String| DeclaredError {
            file: file.to_owned(),
            problem,
        };
        let in_list = |problem: String| error("deployments.json", problem);
        let mut list: DeploymentList =
            serde_json::from_slice(list).map_err(|reason| in_list(format!("cannot be read: {reason}")))?;
        if list.format_version != DEPLOYMENTS_FORMAT_VERSION {
            return Err(in_list(format!("has format version {}", list.format_version)));
        }
        if list.rings.is_empty() || list.deployments.is_empty() {
            return Err(in_list("declares no rings or no deployments".to_owned()));
        }
        // Bases before the layers above them.
        list.deployments
            .sort_by(|a, b| (&a.target, a.kind, &a.stem).cmp(&(&b.target, b.kind, &b.stem)));
        let (mut contents, mut conditions) = (BTreeMap::new(), BTreeMap::new());
        let mut lineages = BTreeSet::new();
        for deployment in &list.deployments {
            let bytes =
                content(&deployment.file).ok_or_else(|| error(&deployment.file, "is missing".to_owned()))?;
            if Digest::of(&bytes) != deployment.content_digest {
                return Err(error(
                    &deployment.file,
                    "is not the file that deployments.json lists".to_owned(),
                ));
            }
            let value = serde_json::from_slice(&bytes)
                .map_err(|reason| error(&deployment.file, format!("cannot be read: {reason}")))?;
            contents.insert(deployment.id.clone(), Arc::new(value));
            let same_rings = deployment.rings.len() == list.rings.len()
                && deployment
                    .rings
                    .iter()
                    .zip(&list.rings)
                    .all(|(of, ring)| of.ring == ring.name);
            if !same_rings || !lineages.insert(Lineage::of(deployment)) {
                let problem = format!(
                    "deployment `{}`: other rings than the environment's, or listed twice",
                    deployment.id
                );
                return Err(in_list(problem));
            }
            let parsed: Result<Vec<Condition>, _> = deployment
                .rings
                .iter()
                .map(|ring| ring.condition.parse())
                .collect();
            let parsed =
                parsed.map_err(|reason| in_list(format!("deployment `{}`: {reason}", deployment.id)))?;
            conditions.insert(deployment.id.clone(), parsed);
        }
        Ok(Declared {
            list,
            contents,
            conditions,
            layers: content(LAYERS_FILE)
                .and_then(|bytes| LayerBook::parse(&bytes))
                .unwrap_or_default(),
            sequence,
            commit: commit.to_owned(),
        })
    }

    /// Everything but the contents; deployments by target, bases first.
    pub fn list(&self) -> &DeploymentList {
        &self.list
    }

    /// The layers of the declared images, and of those that [`Declared::learn`] told of.
    pub fn layers(&self) -> &LayerBook {
        &self.layers
    }

    /// Takes up what earlier releases knew of images that devices may still have.
    pub fn learn(&mut self, layers: LayerBook) {
        self.layers.merge(layers);
    }

    /// How much of each limit of a device its declared deployments take, by target: where it matches all conditions
    /// that can be true together.
    pub fn device_limits(&self) -> Vec<(String, Vec<UsedOf>)> {
        let mut by_target: BTreeMap<&str, Vec<&Deployment>> = BTreeMap::new();
        for deployment in &self.list.deployments {
            by_target.entry(&deployment.target).or_default().push(deployment);
        }
        let used = |deployments: Vec<&Deployment>| {
            let (bases, layers): (Vec<_>, Vec<_>) = deployments
                .into_iter()
                .partition(|deployment| deployment.kind == DeploymentKind::Base);
            let content = |deployment: &Deployment| self.contents[&deployment.id].as_ref();
            let conditions: Vec<Condition> = layers
                .iter()
                .filter_map(|layer| layer.devices.parse().ok())
                .collect();
            let mut used = Vec::new();
            // Conditions were parsed when the list was read; one for each layer.
            for group in overlap::groups(&conditions) {
                let layers: Vec<_> = group
                    .iter()
                    .map(|&index| (layers[index].priority, content(layers[index])))
                    .collect();
                let merged = bases.first().and_then(|base| merge(content(base), &layers).ok());
                if let Some(merged) = merged {
                    limits::take_most(&mut used, limits::check_device("", &merged, &mut Vec::new()));
                }
            }
            used
        };
        by_target
            .into_iter()
            .map(|(target, deployments)| (target.to_owned(), used(deployments)))
            .collect()
    }

    /// Content of a declared deployment.
    pub fn content(&self, id: &str) -> Option<&Arc<Value>> {
        self.contents.get(id)
    }

    /// The declared deployment of a lineage.
    pub fn of_lineage(&self, lineage: &Lineage) -> Option<&Deployment> {
        self.list
            .deployments
            .iter()
            .find(|deployment| deployment.target == lineage.target && deployment.stem == lineage.stem)
    }

    /// Whether a device is declared to run a deployment when all rings have it.
    pub fn wants(&self, id: &str, device_id: &str, tags: &Value) -> bool {
        let full = self.conditions.get(id).and_then(|rings| rings.last());
        full.is_some_and(|condition| condition.matches(device_id, tags))
    }

    /// Position of a ring by name.
    pub fn ring_index(&self, name: &str) -> Option<usize> {
        self.list.rings.iter().position(|ring| ring.name == name)
    }

    /// The first ring that brings a deployment to a device.
    pub fn first_ring(&self, id: &str, device_id: &str, tags: &Value) -> Option<usize> {
        self.conditions
            .get(id)?
            .iter()
            .position(|condition| condition.matches(device_id, tags))
    }
}

/// Images that a content asks for, by module: the system modules of a base, the modules of a layer.
pub fn images(content: &Value) -> BTreeMap<String, String> {
    let mut images = BTreeMap::new();
    let Some(agent) = content
        .pointer("/modulesContent/$edgeAgent")
        .and_then(Value::as_object)
    else {
        return images;
    };
    let mut add = |name: &str, module: &Value| {
        if let Some(image) = module.pointer("/settings/image").and_then(Value::as_str) {
            images.insert(name.to_owned(), image.to_owned());
        }
    };
    for (key, value) in agent {
        if key == DESIRED {
            for section in ["systemModules", "modules"] {
                for (name, module) in value
                    .get(section)
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                {
                    add(name, module);
                }
            }
        } else if let Some(name) = key
            .strip_prefix(DESIRED)
            .and_then(|rest| rest.strip_prefix(".modules."))
        {
            add(name, value);
        }
    }
    images
}

/// Digests of the images that a content asks for, of those that are named by digest.
pub fn image_digests(content: &Value) -> Vec<Digest> {
    let digest = |image: String| image.rsplit_once('@')?.1.parse().ok();
    images(content).into_values().filter_map(digest).collect()
}

/// Digests of all images that an environment's deployments on a hub ask for.
pub fn our_images(environment: &str, deployments: &[HubDeployment]) -> BTreeSet<Digest> {
    deployments
        .iter()
        .filter(|deployment| {
            deployment
                .labels
                .get(ENVIRONMENT)
                .is_some_and(|of| of == environment)
        })
        .flat_map(|deployment| image_digests(&deployment.content))
        .collect()
}

/// Whether `old` sets something on a device that `new` above it does not set again: it would stay there as long as
/// `old` lies beneath. Bases never merge, so they leave nothing.
pub fn leaves_over(kind: DeploymentKind, old: &Value, new: &Value) -> bool {
    if kind == DeploymentKind::Base {
        return false;
    }
    let keys = |content: &Value| -> BTreeSet<(String, String)> {
        let modules = content.get("modulesContent").and_then(Value::as_object);
        modules
            .into_iter()
            .flatten()
            .flat_map(|(module, entries)| {
                let entries = entries.as_object().into_iter().flatten();
                entries.map(move |(key, _)| (module.clone(), key.clone()))
            })
            .collect()
    };
    !keys(old).is_subset(&keys(new))
}
