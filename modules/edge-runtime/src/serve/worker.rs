//! The inference thread and the queue before it.
//!
//! Two hand-overs between threads cost more than a small model takes. So an input of a few bytes is predicted on the
//! thread that received it, as long as nobody waits and no prediction of late took long; at most one runs at a time,
//! here or there.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aiot_inference::Model;
use aiot_package::{RequestsSpec, WhenFull};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::answer::Refusal;
use super::metrics::Metrics;

/// Longest run that may keep the network's thread: other connections wait for it.
const MAX_HERE: Duration = Duration::from_millis(1);

/// Longest input that is predicted on the network's thread: its length says something about its time.
const MAX_HERE_BYTES: usize = 64 << 10;

/// The same for what it is unpacked to: a few bytes can be a picture of millions of pixels.
const MAX_HERE_UNPACKED_BYTES: usize = 1 << 20;

/// Runs on the inference thread after one that took longer than [`MAX_HERE`], and at first.
const CAUTION: u8 = 16;

/// A job's turn, or that it will have none.
enum Turn<'a> {
    Run(&'a Model, &'a Metrics, OwnedSemaphorePermit),
    Displaced,
}

struct Job {
    permit: OwnedSemaphorePermit,
    /// Whether its sender waits, and can be told that newer ones took its place.
    displaceable: bool,
    work: Box<dyn FnOnce(Turn<'_>) + Send>,
}

struct Jobs {
    waiting: VecDeque<Job>,
    /// A job runs, on whichever thread.
    busy: bool,
    /// Quick runs that are wanted before the next on the network's thread.
    caution: u8,
    /// No more will come.
    closed: bool,
}

impl Default for Jobs {
    fn default() -> Self {
        Jobs {
            waiting: VecDeque::new(),
            busy: false,
            caution: CAUTION,
            closed: false,
        }
    }
}

impl Jobs {
    /// Notes that the running job is done.
    fn ended(&mut self, took: Duration) {
        self.busy = false;
        self.caution = if took > MAX_HERE {
            CAUTION
        } else {
            self.caution.saturating_sub(1)
        };
    }
}

/// A job that runs on its sender's thread; ended when it is dropped, also by a panic.
struct Here<'a> {
    queue: &'a Queue,
    started: Instant,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut jobs = self.queue.jobs();
        jobs.ended(self.started.elapsed());
        if !jobs.waiting.is_empty() {
            self.queue.changed.notify_one();
        }
    }
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

/// Runs jobs one after the other on a thread of its own.
pub(crate) struct Worker {
    places: Arc<Semaphore>,
    queue: Arc<Queue>,
    model: Arc<Model>,
    metrics: Arc<Metrics>,
    when_full: WhenFull,
}

/// A place in the queue. With [`MAX_BODY_BYTES`](super::answer::MAX_BODY_BYTES) the number of places bounds the memory
/// that requests take.
#[derive(Debug)]
pub(crate) struct Place {
    permit: OwnedSemaphorePermit,
    displaceable: bool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({} places)", self.places.available_permits())
    }
}

/// Whether an input of so many bytes, and so many when it is unpacked, may be predicted on the network's thread.
pub(super) fn is_small(bytes: usize, unpacked_bytes: usize) -> bool {
    bytes <= MAX_HERE_BYTES && unpacked_bytes <= MAX_HERE_UNPACKED_BYTES
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next job, after one that `took` so long; `None` when there will be none.
    fn next(&self, took: Option<Duration>) -> Option<Job> {
        let mut jobs = self.jobs();
        if let Some(took) = took {
            jobs.ended(took);
        }
        let wait = |jobs: &mut Jobs| jobs.busy || (jobs.waiting.is_empty() && !jobs.closed);
        let mut jobs = self
            .changed
            .wait_while(jobs, wait)
            .unwrap_or_else(PoisonError::into_inner);
        let job = jobs.waiting.pop_front();
        jobs.busy = job.is_some();
        job
    }

    /// The turn of a job that should be quick, where nobody else has it.
    fn here(&self, is_small: bool) -> Option<Here<'_>> {
        let mut jobs = self.jobs();
        let quick = jobs.caution == 0 && is_small;
        if jobs.busy || !jobs.waiting.is_empty() || !quick {
            return None;
        }
        jobs.busy = true;
        let started = Instant::now();
        Some(Here { queue: self, started })
    }

    /// Takes the place of the job that has waited longest, whose sender is told.
    fn displace(&self) -> Option<OwnedSemaphorePermit> {
        let mut jobs = self.jobs();
        let oldest = jobs.waiting.iter().position(|job| job.displaceable)?;
        let Job { permit, work, .. } = jobs.waiting.remove(oldest)?;
        drop(jobs);
        work(Turn::Displaced);
        Some(permit)
    }
}

impl Worker {
    pub(crate) fn start(
        model: Arc<Model>,
        metrics: Arc<Metrics>,
        requests: RequestsSpec,
    ) -> std::io::Result<Worker> {
        let queue = Arc::new(Queue::default());
        let jobs = queue.clone();
        let (served, counters) = (model.clone(), metrics.clone());
        thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || {
                let mut took = None;
                while let Some(Job { permit, work, .. }) = jobs.next(took) {
                    let started = Instant::now();
                    work(Turn::Run(&served, &counters, permit));
                    took = Some(started.elapsed());
                }
            })?;
        Ok(Worker {
            places: Arc::new(Semaphore::new(requests.places.into())),
            queue,
            model,
            metrics,
            when_full: requests.when_full,
        })
    }

    /// A place in the queue for a sender that waits. To be taken before a request's body is read.
    pub(crate) fn place(&self) -> Result<Place, Refusal> {
        let permit = match (self.places.clone().try_acquire_owned(), self.when_full) {
            (Ok(permit), _) => Some(permit),
            (Err(_), WhenFull::DropOldest) => self.queue.displace(),
            (Err(_), WhenFull::Refuse) => None,
        };
        let place = |permit| Place {
            permit,
            displaceable: true,
        };
        permit.map(place).ok_or_else(Refusal::queue_full)
    }

    /// A place in the queue, waited for: for inputs whose sender does not wait.
    pub(crate) async fn wait_for_place(&self) -> Result<Place, Refusal> {
        let permit = self.places.clone().acquire_owned().await;
        let place = |permit| Place {
            permit,
            displaceable: false,
        };
        permit.map(place).map_err(|_| Refusal::stopped())
    }

    /// As [`Worker::run`], on this very thread where that is quick: `work` predicts one input, which [`is_small`] or not.
    pub(crate) async fn predict<T: Send + 'static>(
        &self,
        place: Place,
        is_small: bool,
        work: impl FnOnce(&Model, &Metrics) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        if let Some(_here) = self.queue.here(is_small) {
            // The place is given back after the run, as on the inference thread.
            let _place = place;
            return Ok(work(&self.model, &self.metrics));
        }
        self.run(place, work).await
    }

    /// Runs `work` on the inference thread. The place stays taken until it is done, even when the sender has gone.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&Model, &Metrics) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let run = move |turn: Turn<'_>| {
            let result = match turn {
                Turn::Displaced => Err(Refusal::displaced()),
                Turn::Run(model, metrics, permit) => {
                    let result = work(model, metrics);
                    // Before the answer: who has it may ask again at once.
                    drop(permit);
                    Ok(result)
                }
            };
            let _ = sender.send(result);
        };
        let job = Job {
            permit: place.permit,
            displaceable: place.displaceable,
            work: Box::new(run),
        };
        self.queue.jobs().waiting.push_back(job);
        self.queue.changed.notify_one();
        receiver.await.map_err(|_| Refusal::stopped())?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.queue.jobs().closed = true;
        self.queue.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use aiot_inference::{Engine, SessionOptions};
    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;

    fn worker(places: u8, when_full: WhenFull) -> Worker {
        let library = std::env::var_os("AIOT_TEST_ENGINE")
            .expect("set AIOT_TEST_ENGINE to the path of a libonnxruntime.so (cargo xtask test does)");
        let engine = Engine::load(std::path::Path::new(&library)).unwrap();
        let onnx = include_bytes!("../../../../crates/aiot-inference/tests/golden/colour.onnx");
        let package = json!({
            "format-version": 1, "name": "colour", "version": "1.0.0", "description": "A test.", "task": "classification",
            "model": {
                "path": "model.onnx", "sha256": aiot_package::Digest::of(onnx).hex(), "size-bytes": onnx.len(),
                "precision": "float32",
            },
            "input": {"image": {"width": 4, "height": 4, "colour": "rgb"}},
            "output": {"labels": ["red", "green", "blue"]},
        });
        let package = serde_json::from_value(package).unwrap();
        let model = Model::from_parts(package, onnx, &engine, &SessionOptions::default()).unwrap();
        let metrics = Arc::new(Metrics::new(&model, &engine));
        Worker::start(Arc::new(model), metrics, RequestsSpec { places, when_full }).unwrap()
    }

    /// Numbers of requests that were answered, in order, and of those that got 429, of five that come while the first
    /// runs, and one whose sender does not wait before them.
    async fn outcome(when_full: WhenFull) -> (Vec<usize>, Vec<usize>) {
        let worker = Arc::new(worker(3, when_full));
        let (go, gate) = mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let first = tokio::spawn({
            let (worker, place) = (worker.clone(), worker.place().unwrap());
            async move {
                let wait = move |_: &Model, _: &Metrics| {
                    let _ = began.send(());
                    gate.recv().unwrap();
                };
                worker.run(place, wait).await
            }
        });
        begun.await.unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let job = |number: usize, place: Place| {
            let (worker, done) = (worker.clone(), done.clone());
            tokio::spawn(async move {
                worker
                    .run(place, move |_, _| done.lock().unwrap().push(number))
                    .await
            })
        };
        // Somebody who does not wait for an answer.
        let input = job(0, worker.wait_for_place().await.unwrap());
        let (mut refused, mut answers) = (Vec::new(), Vec::new());
        for number in 1..=5 {
            match worker.place() {
                Ok(place) => answers.push((number, job(number, place))),
                Err(refusal) => {
                    assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS);
                    refused.push(number);
                }
            }
            // Lets the job come into the queue.
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        input.await.unwrap().unwrap();
        for (number, answer) in answers {
            if let Err(refusal) = answer.await.unwrap() {
                assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS);
                assert!(
                    refusal.message.contains("newer requests took"),
                    "{}",
                    refusal.message
                );
                refused.push(number);
            }
        }
        let done = done.lock().unwrap().clone();
        (done, refused)
    }

    /// Whether the next input is predicted on the thread that brings it.
    async fn runs_here(worker: &Worker, is_small: bool, pause: Duration) -> bool {
        let own = thread::current().id();
        let work = move |_: &Model, _: &Metrics| {
            thread::sleep(pause);
            thread::current().id() == own
        };
        let place = worker.wait_for_place().await.unwrap();
        worker.predict(place, is_small, work).await.unwrap()
    }

    #[tokio::test]
    async fn quick_predictions_stay_on_their_thread_and_slow_ones_leave_it() {
        let worker = worker(3, WhenFull::Refuse);
        let (quick, slow) = (Duration::ZERO, MAX_HERE * 2);
        // A busy machine may hold up any run, and begin the count again.
        let mut apart = 0u32;
        while !runs_here(&worker, true, quick).await {
            apart += 1;
            assert!(apart < 100_000, "every run took long");
        }
        assert!(
            apart >= u32::from(CAUTION),
            "{apart} runs before the first one here"
        );
        // One that takes long is the last here for a while.
        assert!(!runs_here(&worker, false, slow).await);
        for _ in 0..CAUTION {
            assert!(!runs_here(&worker, true, quick).await);
        }
    }

    #[test]
    fn a_small_file_that_is_a_large_picture_is_not_small() {
        assert!(is_small(MAX_HERE_BYTES, MAX_HERE_UNPACKED_BYTES));
        assert!(!is_small(MAX_HERE_BYTES + 1, 10));
        assert!(!is_small(10, MAX_HERE_UNPACKED_BYTES + 1));
    }

    #[tokio::test]
    async fn nothing_runs_here_while_another_has_the_turn() {
        let worker = worker(3, WhenFull::Refuse);
        worker.queue.jobs().caution = 0;
        let (go, gate) = mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let long = move |_: &Model, _: &Metrics| {
            let _ = began.send(());
            gate.recv().unwrap();
        };
        let first = worker.run(worker.place().unwrap(), long);
        let second = async {
            begun.await.unwrap();
            assert!(worker.queue.here(true).is_none());
            go.send(()).unwrap();
        };
        assert!(tokio::join!(first, second).0.is_ok());
    }

    #[tokio::test]
    async fn when_all_places_are_taken_somebody_is_told() {
        let (done, refused) = outcome(WhenFull::Refuse).await;
        assert_eq!((done, refused), (vec![0, 1], vec![2, 3, 4, 5]));
        let (done, refused) = outcome(WhenFull::DropOldest).await;
        assert_eq!((done, refused), (vec![0, 5], vec![1, 2, 3, 4]));
    }
}
