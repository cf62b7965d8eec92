//! How fast a registry wants to be asked: a refusal for being too fast (429, or GHCR's 403 with a pause) halves the
//! uploads at the same time and holds every request back for the pause that it names; successes bring them back. And
//! how good the link is: where it breaks, large blobs go in pieces to registries that go on after a break.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{RegistryClient, Retry, lock};

/// Uploads in a row that must succeed before one more runs at the same time.
const SUCCESSES_PER_STEP: u32 = 8;
/// Breaks that are remembered: as many uploads make up for them.
const MAX_BREAKS: u32 = 8;
/// Smaller bodies are sent as a whole: waiting takes longer than sending them again.
const PAUSED_FROM_BYTES: u64 = 1 << 20;
/// The longest wait for a refusal.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is known of one registry.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Uploads at the same time; `None` = as many as the caller wants.
    uploads: Option<usize>,
    successes: u32,
    not_before: Option<Instant>,
    /// Connections that broke and were not made up for by uploads that succeeded.
    breaks: u32,
    /// The same of requests that it refused for now.
    refusals: u32,
    /// Time from a request without a body to its answer, the last that was taken.
    round_trip: Duration,
    /// Whether an upload goes on after a break, as far as it was tried.
    resumes: Option<bool>,
}

/// Registry → its pace.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<String, Pace>);

impl Paces {
    fn of(&mut self, registry: &str) -> &mut Pace {
        self.0.entry(registry.to_owned()).or_insert(Pace {
            uploads: None,
            successes: 0,
            not_before: None,
            breaks: 0,
            refusals: 0,
            round_trip: Duration::ZERO,
            resumes: None,
        })
    }

    /// Uploads at the same time when the caller wants `wanted`.
    fn uploads(&mut self, registry: &str, wanted: usize) -> usize {
        let pace = self.of(registry);
        pace.uploads.map_or(wanted, |uploads| uploads.min(wanted)).max(1)
    }

    fn refused(&mut self, registry: &str, running: usize, until: Option<Instant>) {
        let pace = self.of(registry);
        let now = pace.uploads.unwrap_or(running);
        pace.uploads = Some((now / 2).max(1));
        pace.successes = 0;
        pace.not_before = pace.not_before.max(until);
    }

    fn succeeded(&mut self, registry: &str) {
        let pace = self.of(registry);
        pace.successes += 1;
        pace.breaks = pace.breaks.saturating_sub(1);
        pace.refusals = pace.refusals.saturating_sub(1);
        if pace.successes >= SUCCESSES_PER_STEP {
            pace.successes = 0;
            pace.uploads = pace.uploads.map(|uploads| uploads + 1);
        }
    }
}

impl RegistryClient {
    /// How many things may be sent at the same time when the caller wants `wanted`: fewer after refusals, at least 1.
    pub fn uploads_now(&self, registry: &str, wanted: usize) -> usize {
        lock(&self.inner.paces).uploads(registry, wanted)
    }

    pub(super) fn too_fast(&self, registry: &str, retry: Retry) {
        let pause = match retry {
            Retry::After(pause) => pause.min(self.inner.options.retry.longest_pause),
            _ => Duration::ZERO,
        };
        let until = Some(Instant::now() + pause);
        lock(&self.inner.paces).refused(registry, super::push::DEFAULT_UPLOADS, until);
    }

    /// A connection broke, or nothing moved on it.
    pub(super) fn link_broke(&self, registry: &str) {
        let mut paces = lock(&self.inner.paces);
        let pace = paces.of(registry);
        pace.breaks = (pace.breaks + 1).min(MAX_BREAKS);
    }

    pub(super) fn refused_for_now(&self, registry: &str) {
        let mut paces = lock(&self.inner.paces);
        let pace = paces.of(registry);
        pace.refusals = (pace.refusals + 1).min(MAX_BREAKS);
    }

    pub(super) fn answered_after(&self, registry: &str, round_trip: Duration) {
        lock(&self.inner.paces).of(registry).round_trip = round_trip;
    }

    /// How long to wait for a refusal before more than the first bytes of a body are sent: not at all where all goes
    /// well, and a little more than an answer takes where it does not.
    pub(super) fn pause_for_refusal(&self, registry: &str, size_bytes: u64) -> Duration {
        let pace = *lock(&self.inner.paces).of(registry);
        if size_bytes < PAUSED_FROM_BYTES || pace.breaks + pace.refusals == 0 {
            return Duration::ZERO;
        }
        pace.round_trip.mul_f64(1.25).min(LONGEST_PAUSE)
    }

    /// Whether connections have broken lately, or requests were refused again and again: one refusal alone may be a
    /// registry that is busy.
    pub(super) fn link_is_bad(&self, registry: &str) -> bool {
        let pace = *lock(&self.inner.paces).of(registry);
        pace.breaks > 0 || pace.refusals > 1
    }

    /// Whether the registry goes on with an upload after a break; `None` = not tried yet.
    pub(super) fn resumes(&self, registry: &str) -> Option<bool> {
        lock(&self.inner.paces).of(registry).resumes
    }

    pub(super) fn remember_resuming(&self, registry: &str, resumes: bool) {
        lock(&self.inner.paces).of(registry).resumes = Some(resumes);
    }

    pub(super) fn upload_succeeded(&self, registry: &str) {
        lock(&self.inner.paces).succeeded(registry);
    }

    /// Waits while the registry wants nobody to ask.
    pub(super) async fn hold_back(&self, registry: &str) {
        let until = lock(&self.inner.paces).of(registry).not_before;
        if let Some(until) = until {
            tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_halve_and_successes_add_one() {
        let mut paces = Paces::default();
        assert_eq!(paces.uploads("r", 4), 4);
        paces.refused("r", 4, None);
        assert_eq!(paces.uploads("r", 4), 2);
        paces.refused("r", 4, None);
        paces.refused("r", 4, None);
        assert_eq!(paces.uploads("r", 4), 1);
        (1..SUCCESSES_PER_STEP).for_each(|_| paces.succeeded("r"));
        assert_eq!(paces.uploads("r", 4), 1);
        paces.succeeded("r");
        assert_eq!(paces.uploads("r", 4), 2);
        // One registry does not slow another.
        assert_eq!(paces.uploads("s", 4), 4);
        (0..100).for_each(|_| paces.succeeded("r"));
        assert_eq!(paces.uploads("r", 4), 4);
    }
}
