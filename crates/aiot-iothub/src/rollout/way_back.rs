//! What git must ask for so that a rollback lasts: which release lies beneath the one that is taken back, and which
//! commit knows it.

use super::decide::Refusal;
use super::declared::{Declared, Lineage, images};
use super::state::Snapshot;
use super::working::Working;

/// Where the devices of one lineage go back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayBack {
    /// The lineage.
    pub lineage: Lineage,
    /// The deployment that git asks for and nobody wants.
    pub bad: String,
    /// The fall-back's id and the last commit that changed it on the hub; none: nothing lies beneath.
    pub good: Option<(String, String)>,
}

/// The ways back of all deployments that bring `model`, are declared, and are the newest on the hub; the same before
/// and after [`rollback`](super::rollback()).
///
/// # Errors
/// Labels of ours that cannot be read.
pub fn ways_back(declared: &Declared, snapshot: &Snapshot, model: &str) -> Result<Vec<WayBack>, Refusal> {
    let working = Working::new(declared, snapshot).map_err(Refusal::Labels)?;
    let mut ways = Vec::new();
    for (lineage, list) in &working.ours {
        let (Some(newest), Some(asked)) = (list.last(), declared.of_lineage(lineage)) else {
            continue;
        };
        let brings = asked.modules.iter().any(|module| module.model == model);
        if lineage.is_base() || asked.id != newest.deployment.id || !brings {
            continue;
        }
        let beneath = list[..list.len() - 1].iter().rev();
        let good = beneath
            .filter(|entry| entry.place.is_fall_back() && !images(&entry.deployment.content).is_empty())
            .map(|entry| (entry.deployment.id.clone(), entry.place.commit.clone()))
            .next();
        ways.push(WayBack {
            lineage: lineage.clone(),
            bad: asked.id.clone(),
            good,
        });
    }
    Ok(ways)
}
