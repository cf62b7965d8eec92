//! The hub as the roll-out needs it, over the network.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use aiot_iothub::ring::WAVE_TAG;
use aiot_iothub::rollout::{Device, Hub, HubDeployment, HubError, HubErrorKind, Snapshot, WaveTag};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::client::Client;
use crate::error::CallError;
use crate::throttle::Kind;
use crate::twin::{self, Devices};

/// Calls a second that one worker makes when a call takes an eighth of a second.
const CALLS_PER_WORKER: usize = 8;
/// Fewest and most workers that write waves.
const WORKERS: (usize, usize) = (4, 32);
/// Tries to write a wave into a twin that others write at the same time.
const WAVE_TRIES: usize = 3;

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

    /// How long the waves of `devices` devices take at the hub's throttle, in seconds.
    pub fn waves_secs(&self, devices: usize) -> u64 {
        let (calls, _) = Kind::TwinWrite.rate(self.client.units());
        devices.div_ceil(calls) as u64
    }

    /// Writes one wave. A twin that has changed is read again: a wave that somebody else has written stays.
    fn tag_wave(&self, tag: &WaveTag<'_>) -> Result<(), CallError> {
        let mut etag = tag.etag.map(str::to_owned);
        for _ in 1..WAVE_TRIES {
            let tags = json!({ WAVE_TAG: tag.wave });
            match self.client.patch_tags(tag.device, &tags, etag.as_deref()) {
                Err(error) if error.kind() == HubErrorKind::Stale => {}
                result => return gone_is_done(result),
            }
            let twin = match self.client.twin(tag.device, None) {
                Ok(twin) => twin,
                Err(error) => return gone_is_done(Err(error)),
            };
            if twin["tags"][WAVE_TAG].is_number() {
                return Ok(());
            }
            etag = twin["etag"].as_str().map(str::to_owned);
        }
        gone_is_done(
            self.client
                .patch_tags(tag.device, &json!({ WAVE_TAG: tag.wave }), etag.as_deref()),
        )
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

    /// Some at the same time, so that the throttle is the bound and not the way to the hub; never more than the
    /// throttle takes.
    fn tag_waves(&mut self, waves: &[WaveTag<'_>], done: &mut dyn FnMut(usize)) -> Result<(), HubError> {
        let (calls, _) = Kind::TwinWrite.rate(self.client.units());
        let workers = (calls / CALLS_PER_WORKER)
            .clamp(WORKERS.0, WORKERS.1)
            .min(waves.len());
        let (next, stopped, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let (sender, receiver) = mpsc::channel();
        let hub = &*self;
        let work = |sender: mpsc::Sender<usize>| {
            while !stopped.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(tag) = waves.get(index) else { return };
                match hub.tag_wave(tag) {
                    // Nobody hears of it only when this call itself is over.
                    Ok(()) => drop(sender.send(index)),
                    Err(error) => {
                        stopped.store(true, Ordering::Relaxed);
                        *failure.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|_| {
                    let (sender, work) = (sender.clone(), &work);
                    scope.spawn(move || work(sender))
                })
                .collect();
            drop(sender);
            for index in receiver {
                done(index);
            }
            for thread in threads {
                // It panics nowhere; if it did, so would we.
                if let Err(panic) = thread.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        match failure.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    fn wait(&mut self, secs: u64) {
        self.client.wait(Duration::from_secs(secs));
    }
}

/// A device that has left the hub needs no wave.
fn gone_is_done(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.kind() == HubErrorKind::Missing => Ok(()),
        result => result,
    }
}
