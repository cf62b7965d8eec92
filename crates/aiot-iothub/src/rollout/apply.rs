//! Obeys steps. The only code that talks to a hub, real or simulated, through [`Hub`].

use std::collections::BTreeMap;

use thiserror::Error;

use super::state::{HubDeployment, Snapshot};
use super::step::{Action, Step};

/// Tries per call before the run gives up; it can be made again.
const TRIES: u32 = 6;
/// First pause after a failed call, in seconds; it doubles.
const FIRST_PAUSE_SECS: u64 = 4;

/// A hub as the roll-out needs it.
pub trait Hub {
    /// Deployments, devices and time, all of one moment as far as the service can.
    fn snapshot(&mut self) -> Result<Snapshot, HubError>;
    /// All deployments of edge devices.
    fn deployments(&mut self) -> Result<Vec<HubDeployment>, HubError>;
    /// Creates a deployment. [`HubErrorKind::Exists`] if the id is taken, whatever stands there.
    fn create(&mut self, deployment: &HubDeployment) -> Result<(), HubError>;
    /// Replaces a deployment if its ETag still is [`HubDeployment::etag`]; gives the new one.
    fn update(&mut self, deployment: &HubDeployment) -> Result<String, HubError>;
    /// Deletes a deployment if its ETag still is `etag`.
    fn delete(&mut self, id: &str, etag: &str) -> Result<(), HubError>;
    /// Sets waves in the tags of devices and leaves their other tags alone; `done` hears of each by its place in
    /// `waves`, in any order. A device that has left the hub counts as done. After an error those that were not heard
    /// of may be done or not; doing them again does no harm.
    fn tag_waves(&mut self, waves: &[WaveTag<'_>], done: &mut dyn FnMut(usize)) -> Result<(), HubError>;
    /// Pauses.
    fn wait(&mut self, secs: u64);
}

/// A wave that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveTag<'a> {
    /// The device.
    pub device: &'a str,
    /// 0 to 99.
    pub wave: u8,
    /// ETag that the device's twin had when the wave was found missing; none: not known.
    pub etag: Option<&'a str>,
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubErrorKind {
    /// Again, after a pause; it is not known whether the call was obeyed.
    Retry,
    /// The id is taken.
    Exists,
    /// Somebody else was faster: the ETag is another one.
    Stale,
    /// There is no such thing.
    Missing,
    /// The hub does not want it.
    Refused,
}

/// An error of a hub.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{call}: {message}")]
pub struct HubError {
    /// What a caller can do.
    pub kind: HubErrorKind,
    /// Method and path, without secrets.
    pub call: String,
    /// The hub's code, message and request id, and what to do.
    pub message: String,
}

/// Why steps were not made to the end. What was made stays, and the next run goes on from there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Another run changed the same deployment.
    #[error(
        "`{id}` was changed by somebody else meanwhile; nothing of theirs was overwritten: look, and run again"
    )]
    Moved {
        /// The deployment.
        id: String,
    },
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Makes `steps` in order; `done` hears of each one after it is made. Gives how many the hub had to be told: a step
/// that an earlier, cut run has made already counts as made.
///
/// # Errors
/// [`ApplyError`] at the first step that cannot be made.
pub fn apply(hub: &mut dyn Hub, steps: &[Step], done: &mut dyn FnMut(&Step)) -> Result<usize, ApplyError> {
    if steps.is_empty() {
        return Ok(0);
    }
    let mut known: BTreeMap<String, HubDeployment> = BTreeMap::new();
    if steps
        .iter()
        .any(|step| matches!(step.action, Action::Update { .. } | Action::Delete { .. }))
    {
        known = read(hub)?;
    }
    let is_tag = |step: &&Step| matches!(step.action, Action::Tag { .. });
    // They need nothing of each other, and of no other step.
    let (tags, others): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(is_tag);
    tag(hub, &tags, done)?;
    for step in others {
        match &step.action {
            Action::Tag { .. } => continue,
            Action::Create { deployment } => create(hub, deployment)?,
            Action::Update {
                id,
                etag,
                condition,
                priority,
                labels,
            } => {
                let current = known
                    .get(id)
                    .ok_or_else(|| ApplyError::Moved { id: id.clone() })?;
                let wanted = HubDeployment {
                    condition: condition.clone(),
                    priority: *priority,
                    labels: labels.clone(),
                    ..current.clone()
                };
                if etag.as_ref().is_some_and(|etag| *etag != current.etag) {
                    return Err(ApplyError::Moved { id: id.clone() });
                }
                let etag = update(hub, &wanted)?;
                known.insert(id.clone(), HubDeployment { etag, ..wanted });
            }
            Action::Delete { id, etag } => {
                let Some(current) = known.get(id) else { continue };
                if etag.as_ref().is_some_and(|etag| *etag != current.etag) {
                    return Err(ApplyError::Moved { id: id.clone() });
                }
                delete(hub, id, &current.etag.clone())?;
                known.remove(id);
            }
        }
        done(step);
    }
    Ok(steps.len())
}

/// Writes waves, all that can be written; where the hub is in trouble, again what is left, as often as it goes on.
fn tag(hub: &mut dyn Hub, steps: &[&Step], done: &mut dyn FnMut(&Step)) -> Result<(), HubError> {
    let mut left = steps.to_vec();
    let (mut tries, mut pause_secs) = (1, FIRST_PAUSE_SECS);
    while !left.is_empty() {
        let waves: Vec<WaveTag<'_>> = left
            .iter()
            .filter_map(|step| match &step.action {
                Action::Tag { device, wave, etag } => Some(WaveTag {
                    device,
                    wave: *wave,
                    etag: etag.as_deref(),
                }),
                _ => None,
            })
            .collect();
        let mut made = vec![false; left.len()];
        let result = hub.tag_waves(&waves, &mut |index| {
            if let Some(made) = made.get_mut(index)
                && !std::mem::replace(made, true)
            {
                done(left[index]);
            }
        });
        let error = match result {
            Ok(()) => return Ok(()),
            Err(error) if error.kind == HubErrorKind::Retry => error,
            Err(error) => return Err(error),
        };
        if made.contains(&true) {
            (tries, pause_secs) = (1, FIRST_PAUSE_SECS);
        }
        if tries == TRIES {
            return Err(error);
        }
        hub.wait(pause_secs);
        (tries, pause_secs) = (tries + 1, pause_secs * 2);
        let mut kept = made.iter().map(|made| !made);
        left.retain(|_| kept.next().unwrap_or(true));
    }
    Ok(())
}

fn read(hub: &mut dyn Hub) -> Result<BTreeMap<String, HubDeployment>, HubError> {
    let list = retry(hub, &mut |hub| hub.deployments())?;
    Ok(list
        .into_iter()
        .map(|deployment| (deployment.id.clone(), deployment))
        .collect())
}

fn retry<T>(
    hub: &mut dyn Hub,
    call: &mut dyn FnMut(&mut dyn Hub) -> Result<T, HubError>,
) -> Result<T, HubError> {
    let mut pause_secs = FIRST_PAUSE_SECS;
    for _ in 1..TRIES {
        match call(hub) {
            Err(error) if error.kind == HubErrorKind::Retry => hub.wait(pause_secs),
            result => return result,
        }
        pause_secs *= 2;
    }
    call(hub)
}

/// Whether what stands on the hub is what a call wanted to bring there.
fn same(there: &HubDeployment, wanted: &HubDeployment) -> bool {
    (&there.content, &there.condition, there.priority, &there.labels)
        == (
            &wanted.content,
            &wanted.condition,
            wanted.priority,
            &wanted.labels,
        )
}

fn create(hub: &mut dyn Hub, wanted: &HubDeployment) -> Result<(), ApplyError> {
    match retry(hub, &mut |hub| hub.create(wanted)) {
        // Our own call of which the answer was lost, or somebody else's.
        Err(error) if error.kind == HubErrorKind::Exists => match read(hub)?.get(&wanted.id) {
            Some(there) if same(there, wanted) => Ok(()),
            _ => Err(ApplyError::Moved {
                id: wanted.id.clone(),
            }),
        },
        result => Ok(result?),
    }
}

fn update(hub: &mut dyn Hub, wanted: &HubDeployment) -> Result<String, ApplyError> {
    match retry(hub, &mut |hub| hub.update(wanted)) {
        Err(error) if matches!(error.kind, HubErrorKind::Stale | HubErrorKind::Missing) => {
            match read(hub)?.get(&wanted.id) {
                Some(there) if same(there, wanted) => Ok(there.etag.clone()),
                _ => Err(ApplyError::Moved {
                    id: wanted.id.clone(),
                }),
            }
        }
        result => Ok(result?),
    }
}

fn delete(hub: &mut dyn Hub, id: &str, etag: &str) -> Result<(), ApplyError> {
    match retry(hub, &mut |hub| hub.delete(id, etag)) {
        Err(error) if error.kind == HubErrorKind::Missing => Ok(()),
        Err(error) if error.kind == HubErrorKind::Stale => Err(ApplyError::Moved { id: id.to_owned() }),
        result => Ok(result?),
    }
}
