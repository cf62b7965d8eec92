//! The hub as the roll-out needs it, over the network.

use std::time::Duration;

use aiot_iothub::ring::WAVE_TAG;
use aiot_iothub::rollout::{Device, Hub, HubDeployment, HubError, HubErrorKind, Snapshot};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::client::{Client, jittered};
use crate::twin::{self, Devices};

/// A hub behind a [`Client`].
pub struct LiveHub {
    client: Client,
    deployment_limit: u64,
}

impl LiveHub {
    /// A hub that takes `deployment_limit` deployments: 100, on the free tier 10.
    pub fn new(client: Client, deployment_limit: u64) -> LiveHub {
        LiveHub {
            client,
            deployment_limit,
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// All edge devices with what their agents say, by id.
    ///
    /// # Errors
    /// [`HubError`]
    pub fn devices(&self) -> Result<Vec<Device>, HubError> {
        let mut all = Vec::new();
        self.each_device(&mut |devices| all.extend(devices))?;
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// All edge devices, page by page as the hub tells of their agents, in its order.
    ///
    /// # Errors
    /// [`HubError`]
    pub fn each_device(&self, each: &mut dyn FnMut(Vec<Device>)) -> Result<(), HubError> {
        let mut devices = Devices::default();
        self.rows(twin::DEVICES, &mut |rows| devices.add(rows))?;
        self.rows(twin::TROUBLES, &mut |rows| devices.add_troubles(rows))?;
        self.rows(twin::AGENTS, &mut |rows| each(devices.complete(rows)))?;
        each(devices.into_rest());
        Ok(())
    }

    /// Rows of a query; where the hub does not want the projection, of whole twins.
    fn rows<T: DeserializeOwned>(&self, query: &str, each: &mut dyn FnMut(Vec<T>)) -> Result<(), HubError> {
        match self.client.query(query, each) {
            Err(error) if error.status == 400 => self.client.query(&twin::whole(query), each)?,
            result => result?,
        }
        Ok(())
    }
}

impl Hub for LiveHub {
    fn snapshot(&mut self) -> Result<Snapshot, HubError> {
        let (deployments, now_secs) = self.client.deployments()?;
        Ok(Snapshot {
            now_secs,
            deployments,
            devices: self.devices()?,
            deployment_limit: self.deployment_limit,
        })
    }

    fn deployments(&mut self) -> Result<Vec<HubDeployment>, HubError> {
        Ok(self.client.deployments()?.0)
    }

    fn create(&mut self, deployment: &HubDeployment) -> Result<(), HubError> {
        self.client.put_deployment(deployment, None)?;
        Ok(())
    }

    fn update(&mut self, deployment: &HubDeployment) -> Result<String, HubError> {
        match self.client.put_deployment(deployment, Some(&deployment.etag)) {
            // An update of what is gone may read as a creation without the right to one.
            Err(error) if error.kind() == HubErrorKind::Exists => Err(HubError {
                kind: HubErrorKind::Stale,
                ..error.into()
            }),
            result => Ok(result?),
        }
    }

    fn delete(&mut self, id: &str, etag: &str) -> Result<(), HubError> {
        Ok(self.client.delete_deployment(id, etag)?)
    }

    fn tag_wave(&mut self, device: &str, wave: u8) -> Result<(), HubError> {
        Ok(self.client.patch_tags(device, &json!({ WAVE_TAG: wave }))?)
    }

    fn wait(&mut self, secs: u64) {
        std::thread::sleep(jittered(Duration::from_secs(secs)));
    }
}
