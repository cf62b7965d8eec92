//! Twins as clients of a user's own see them, in the place of simulated devices and modules.

use serde_json::Value;

use super::twins::{SYSTEM, Twin, find};
use super::{Simulator, error};
use crate::fleet::SimulatedDevice;
use crate::mqtt::{Identity, Push, Topic};
use crate::query::Document;
use crate::service::ServiceError;

pub(super) fn connection_state(
    hub: &Simulator,
    device: &SimulatedDevice,
    module: Option<&str>,
) -> &'static str {
    match device.online || hub.clients.is_connected(&Identity::new(&device.id, module)) {
        true => "Connected",
        false => "Disconnected",
    }
}

/// Whether a client may connect as this: the agent's own modules are simulated.
///
/// # Errors
/// 404, and 401 for the runtime's modules.
pub(crate) fn registered(hub: &Simulator, identity: &Identity) -> Result<(), ServiceError> {
    let module = identity.module.as_deref();
    if module.is_some_and(|module| SYSTEM.contains(&module)) {
        let text = "a module of the runtime, which is simulated here";
        return Err(error(401, "IotHubUnauthorizedAccess", text));
    }
    let parts: Vec<&str> = match module {
        Some(module) => vec![&identity.device, "modules", module],
        None => vec![&identity.device],
    };
    find(hub, &parts).map(|_| ())
}

impl Simulator {
    fn twin<'a>(&'a self, identity: &'a Identity) -> Option<Twin<'a>> {
        Some(Twin {
            hub: self,
            device: self.service.fleet.devices.get(&identity.device)?,
            module: identity.module.as_deref(),
        })
    }

    /// Desired and reported properties, as a client asks for them.
    pub(crate) fn properties(&self, identity: &Identity) -> Value {
        self.twin(identity)
            .map_or(Value::Null, |twin| twin.whole()["properties"].take())
    }

    /// What has changed in a client's desired properties since it was told, as a message; none when nothing has, or it
    /// was told nothing yet. From now on it counts as told.
    pub(crate) fn change_for(&mut self, identity: &Identity) -> Option<Push> {
        let twin = self.twin(identity)?;
        let (desired, patched) = (twin.desired(), twin.patched_version());
        let mut change = self.clients.tell(identity, desired, patched)?;
        let version = self.twin(identity)?.desired_version();
        change["$version"] = version.into();
        Some(Push {
            topic: format!("$iothub/twin/PATCH/properties/desired/?$version={version}"),
            body: change.to_string().into_bytes(),
        })
    }

    /// Tells all clients what has changed for them.
    pub(super) fn tell_clients(&mut self) {
        for identity in self.clients.identities() {
            if let Some(push) = self.change_for(&identity) {
                self.clients.push(&identity, Topic::Desired, push);
            }
        }
    }
}
