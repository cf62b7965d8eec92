//! A hub in a bad mood: throttles, errors, answers that are lost, and a tool that is killed in the middle.

use aiot_iothub::rollout::{Hub, HubDeployment, HubError, HubErrorKind, Snapshot, WaveTag};

use crate::random::Random;

/// How often what goes wrong, in percent of the calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// 429, 500 or a connection that breaks, before the call is obeyed.
    pub refused_percent: u64,
    /// The call is obeyed, and its answer is lost.
    pub cut_percent: u64,
    /// The connection breaks before the call comes through. Over the network only.
    pub lost_percent: u64,
    /// Somebody saves a deployment just before it is changed, so that its ETag is another one. Over the network only.
    pub touched_percent: u64,
    /// The tool dies, before or after the call; every later call fails.
    pub kill_percent: u64,
}

/// A hub with faults.
pub struct Faulty<H> {
    /// The hub behind it.
    pub hub: H,
    /// What goes wrong.
    pub faults: Faults,
    /// Decides when.
    pub random: Random,
    /// Whether the tool is dead.
    pub killed: bool,
}

impl<H: Hub> Faulty<H> {
    fn around<T>(&mut self, call: &mut dyn FnMut(&mut H) -> Result<T, HubError>) -> Result<T, HubError> {
        let failed = |kind, message: &str| HubError {
            kind,
            call: "simulated".to_owned(),
            message: message.to_owned(),
        };
        let dead = || failed(HubErrorKind::Refused, "the tool was killed");
        if self.killed {
            return Err(dead());
        }
        if self.random.chance(self.faults.kill_percent) {
            self.killed = true;
            if self.random.chance(50) {
                // The call was on its way.
                let _ = call(&mut self.hub);
            }
            return Err(dead());
        }
        if self.random.chance(self.faults.refused_percent) {
            return Err(failed(HubErrorKind::Retry, "429, 500 or a broken connection"));
        }
        let result = call(&mut self.hub);
        if self.random.chance(self.faults.cut_percent) {
            return Err(failed(HubErrorKind::Retry, "the answer was lost"));
        }
        result
    }
}

impl<H: Hub> Hub for Faulty<H> {
    fn snapshot(&mut self) -> Result<Snapshot, HubError> {
        self.around(&mut |hub| hub.snapshot())
    }

    fn deployments(&mut self) -> Result<Vec<HubDeployment>, HubError> {
        self.around(&mut |hub| hub.deployments())
    }

    fn create(&mut self, deployment: &HubDeployment) -> Result<(), HubError> {
        self.around(&mut |hub| hub.create(deployment))
    }

    fn update(&mut self, deployment: &HubDeployment) -> Result<String, HubError> {
        self.around(&mut |hub| hub.update(deployment))
    }

    fn delete(&mut self, id: &str, etag: &str) -> Result<(), HubError> {
        self.around(&mut |hub| hub.delete(id, etag))
    }

    fn tag_waves(&mut self, waves: &[WaveTag<'_>], done: &mut dyn FnMut(usize)) -> Result<(), HubError> {
        for (index, wave) in waves.iter().enumerate() {
            self.around(&mut |hub| hub.tag_waves(std::slice::from_ref(wave), &mut |_| {}))?;
            done(index);
        }
        Ok(())
    }

    fn wait(&mut self, secs: u64) {
        self.hub.wait(secs);
    }
}
