//! How the tool reaches the hub: near, by calling it, or far, as it really does: `aiot-hub`'s client over https to the
//! served hub, in virtual time. Either way it can be killed at any call.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aiot_hub::{Client, Clock, LiveHub, Options};
use aiot_hubsim::service::{CONFIGURATION_CALLS_PER_MINUTE, Pacer};
use aiot_hubsim::{Direct, Faults, Faulty, Random, Server, Service, Simulator};
use aiot_iothub::rollout::{Hub, HubDeployment, HubError, Snapshot, WaveTag};

/// What else happens while the tool runs.
pub type Meanwhile = Box<dyn FnOnce() + Send>;

/// At which moment of a run the other thing happens: counted in calls and pauses of the tool.
#[derive(Clone, Default)]
pub struct Interruption(Arc<Mutex<(u64, Option<Meanwhile>)>>);

impl Interruption {
    pub fn new(moments: u64, what: Meanwhile) -> Interruption {
        Interruption(Arc::new(Mutex::new((moments, Some(what)))))
    }

    fn moment(&self) {
        let due = {
            let mut inner = locked(&self.0);
            let due = inner.0 == 0;
            inner.0 = inner.0.saturating_sub(1);
            if due { inner.1.take() } else { None }
        };
        if let Some(due) = due {
            due();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The way to one hub; copies are ways to the same hub.
#[derive(Clone)]
pub enum Road {
    Near(Arc<Mutex<Simulator>>),
    Far(Arc<Server>, Arc<(Options, tempfile::TempDir)>),
}

/// What a dead tool unwinds with.
struct Killed;

impl Road {
    pub fn near(service: Service) -> Road {
        let mut simulator = Simulator::new(service, "localhost", b"key", 1);
        simulator.service.calls_per_minute = CONFIGURATION_CALLS_PER_MINUTE;
        simulator.service.journal = Some(Vec::new());
        Road::Near(Arc::new(Mutex::new(simulator)))
    }

    pub fn far(service: Service, units: u32, seed: u64) -> Road {
        let server = Server::start(service, 0, units, 0.0).expect("loopback");
        let folder = tempfile::tempdir().expect("a folder");
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, server.ca_pem()).expect("a file");
        let options = Options {
            ca_file: Some(ca_file),
            units,
            on_pause: None,
        };
        {
            let mut simulator = server.simulator();
            simulator.virtual_time = true;
            simulator.tells_requests = true;
            simulator.service.journal = Some(Vec::new());
            simulator.seed(seed);
        }
        // The file lives as long as the road.
        Road::Far(Arc::new(server), Arc::new((options, folder)))
    }

    pub fn simulator(&self) -> MutexGuard<'_, Simulator> {
        match self {
            Road::Near(simulator) => locked(simulator),
            Road::Far(server, _) => server.simulator(),
        }
    }

    /// One process of the tool, with everything that can go wrong. None: it was killed.
    pub fn run<T>(
        &self,
        faults: Faults,
        random: Random,
        interruption: &Interruption,
        tool: impl FnOnce(&mut dyn Hub) -> T,
    ) -> Option<T> {
        let hub: Box<dyn Hub> = match self {
            Road::Near(simulator) => {
                let near = Near {
                    simulator: Arc::clone(simulator),
                    pacer: Pacer::default(),
                };
                let mut hub = Interrupted {
                    hub: Faulty {
                        hub: near,
                        faults,
                        random,
                        killed: false,
                    },
                    interruption: interruption.clone(),
                };
                let result = tool(&mut hub);
                return (!hub.hub.killed).then_some(result);
            }
            Road::Far(server, options) => {
                let limit = {
                    let mut simulator = server.simulator();
                    (simulator.killed, simulator.faults) = (false, faults);
                    simulator.service.deployment_limit
                };
                let connection = server.connection_string().parse().expect("a connection string");
                let clock = VirtualClock {
                    server: Arc::clone(server),
                    random: Mutex::new(random),
                    interruption: interruption.clone(),
                };
                let client = Client::with_clock(connection, &options.0, Arc::new(clock)).expect("a client");
                Box::new(LiveHub::new(client, limit))
            }
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut hub = Interrupted {
                hub,
                interruption: interruption.clone(),
            };
            tool(&mut hub)
        }));
        let mut simulator = self.simulator();
        let killed = std::mem::take(&mut simulator.killed);
        simulator.faults = Faults::default();
        drop(simulator);
        match result {
            // An answer that came before the end was felt does not help the dead.
            Ok(_) if killed => None,
            Ok(result) => Some(result),
            Err(panic) if panic.is::<Killed>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// Time that passes when the tool waits. A dead tool waits for nothing: there it ends.
struct VirtualClock {
    server: Arc<Server>,
    random: Mutex<Random>,
    interruption: Interruption,
}

impl Clock for VirtualClock {
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.server.simulator().virtual_ms())
    }

    fn sleep(&self, pause: Duration) {
        {
            let mut simulator = self.server.simulator();
            if simulator.killed {
                drop(simulator);
                resume_unwind(Box::new(Killed));
            }
            let pause_ms = u64::try_from(pause.as_micros().div_ceil(1000)).expect("not for ever");
            simulator.wait(pause_ms.max(1));
        }
        self.interruption.moment();
    }

    fn spread(&self) -> f64 {
        locked(&self.random).below(1000) as f64 / 1000.0
    }
}

/// A hub that is called without a network.
struct Near {
    simulator: Arc<Mutex<Simulator>>,
    pacer: Pacer,
}

impl Near {
    fn with<T>(&mut self, call: impl FnOnce(&mut Direct<'_>) -> T) -> T {
        let mut simulator = locked(&self.simulator);
        let mut direct = Direct {
            service: &mut simulator.service,
            pacer: Some(std::mem::take(&mut self.pacer)),
        };
        let result = call(&mut direct);
        self.pacer = direct.pacer.take().unwrap_or_default();
        result
    }
}

impl Hub for Near {
    fn snapshot(&mut self) -> Result<Snapshot, HubError> {
        self.with(|hub| hub.snapshot())
    }

    fn deployments(&mut self) -> Result<Vec<HubDeployment>, HubError> {
        self.with(|hub| hub.deployments())
    }

    fn create(&mut self, deployment: &HubDeployment) -> Result<(), HubError> {
        self.with(|hub| hub.create(deployment))
    }

    fn update(&mut self, deployment: &HubDeployment) -> Result<String, HubError> {
        self.with(|hub| hub.update(deployment))
    }

    fn delete(&mut self, id: &str, etag: &str) -> Result<(), HubError> {
        self.with(|hub| hub.delete(id, etag))
    }

    fn tag_waves(&mut self, waves: &[WaveTag<'_>], done: &mut dyn FnMut(usize)) -> Result<(), HubError> {
        self.with(|hub| hub.tag_waves(waves, done))
    }

    fn wait(&mut self, secs: u64) {
        self.with(|hub| hub.wait(secs));
    }
}

/// Before each call something else may happen.
struct Interrupted<H> {
    hub: H,
    interruption: Interruption,
}

impl<H: HubLike> Interrupted<H> {
    fn inner(&mut self) -> &mut dyn Hub {
        self.interruption.moment();
        self.hub.as_hub()
    }
}

/// A hub, or a box with one.
trait HubLike {
    fn as_hub(&mut self) -> &mut dyn Hub;
}

impl HubLike for Box<dyn Hub> {
    fn as_hub(&mut self) -> &mut dyn Hub {
        &mut **self
    }
}

impl HubLike for Faulty<Near> {
    fn as_hub(&mut self) -> &mut dyn Hub {
        self
    }
}

impl<H: HubLike> Hub for Interrupted<H> {
    fn snapshot(&mut self) -> Result<Snapshot, HubError> {
        self.inner().snapshot()
    }

    fn deployments(&mut self) -> Result<Vec<HubDeployment>, HubError> {
        self.inner().deployments()
    }

    fn create(&mut self, deployment: &HubDeployment) -> Result<(), HubError> {
        self.inner().create(deployment)
    }

    fn update(&mut self, deployment: &HubDeployment) -> Result<String, HubError> {
        self.inner().update(deployment)
    }

    fn delete(&mut self, id: &str, etag: &str) -> Result<(), HubError> {
        self.inner().delete(id, etag)
    }

    fn tag_waves(&mut self, waves: &[WaveTag<'_>], done: &mut dyn FnMut(usize)) -> Result<(), HubError> {
        self.inner().tag_waves(waves, done)
    }

    fn wait(&mut self, secs: u64) {
        self.hub.as_hub().wait(secs);
    }
}
