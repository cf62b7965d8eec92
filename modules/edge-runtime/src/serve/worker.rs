//! The inference thread and the queue before it.

use std::sync::{Arc, mpsc};
use std::thread;

use aiot_inference::Model;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::answer::Refusal;
use super::metrics::Metrics;

/// Requests that are read, wait or run at the same time. With [`MAX_BODY_BYTES`](super::answer::MAX_BODY_BYTES) it
/// bounds the memory that requests take.
pub(crate) const QUEUE_LENGTH: usize = 16;

type Job = Box<dyn FnOnce(&Model, &Metrics) + Send>;

/// Runs jobs one after the other on a thread of its own.
#[derive(Debug)]
pub(crate) struct Worker {
    places: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Place(OwnedSemaphorePermit);

impl Worker {
    pub(crate) fn start(model: Arc<Model>, metrics: Arc<Metrics>) -> std::io::Result<Worker> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || {
                for job in queue {
                    job(&model, &metrics);
                }
            })?;
        Ok(Worker {
            places: Arc::new(Semaphore::new(QUEUE_LENGTH)),
            jobs,
        })
    }

    /// A place in the queue. To be taken before a request's body is read.
    pub(crate) fn place(&self) -> Result<Place, Refusal> {
        self.places
            .clone()
            .try_acquire_owned()
            .map(Place)
            .map_err(|_| Refusal::queue_full())
    }

    /// A place in the queue, waited for: for inputs whose sender does not wait.
    pub(crate) async fn wait_for_place(&self) -> Result<Place, Refusal> {
        self.places
            .clone()
            .acquire_owned()
            .await
            .map(Place)
            .map_err(|_| Refusal::stopped())
    }

    /// Runs `work` on the inference thread. The place stays taken until it is done, even when the sender has gone.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&Model, &Metrics) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |model, metrics| {
            let result = work(model, metrics);
            // Before the answer: who has it may ask again at once.
            drop(place.0);
            let _ = sender.send(result);
        });
        self.jobs.send(job).map_err(|_| Refusal::stopped())?;
        receiver.await.map_err(|_| Refusal::stopped())
    }
}
