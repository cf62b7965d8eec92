//! Pauses between attempts: the first is short, each further one twice as long up to a minute, all with jitter, so
//! that a plant's devices do not come back at the same moment.

use std::io::Read;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// The pauses of one thing that is tried again and again.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    random: u64,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff::seeded(random_u64())
    }

    fn seeded(seed: u64) -> Backoff {
        Backoff {
            pause: FIRST,
            random: seed | 1,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.pause = FIRST;
    }

    /// From half of to the whole current pause.
    pub(crate) fn next_pause(&mut self) -> Duration {
        // xorshift64: spreading devices needs no better dice.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        pause.mul_f64(0.5 + (self.random >> 11) as f64 / (1u64 << 54) as f64)
    }
}

/// Eight bytes of the system's random source; of the clock where there is none.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |now| now.as_nanos() as u64) ^ u64::from(std::process::id()).rotate_left(32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_with_jitter() {
        let mut all = Vec::new();
        for seed in 1..200 {
            let mut backoff = Backoff::seeded(seed * 0x9e37_79b9_7f4a_7c15);
            let pauses: Vec<f64> = (0..12).map(|_| backoff.next_pause().as_secs_f64()).collect();
            for (step, pause) in pauses.iter().enumerate() {
                let whole = (0.5 * f64::powi(2.0, step as i32)).min(60.0);
                assert!((whole / 2.0..=whole).contains(pause), "{step}: {pause}");
            }
            backoff.reset();
            assert!(backoff.next_pause() <= FIRST);
            all.push(pauses[11]);
        }
        all.sort_by(f64::total_cmp);
        assert!(all[0] < 33.0 && all[198] > 57.0, "{} {}", all[0], all[198]);
    }
}
