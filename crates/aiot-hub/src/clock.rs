//! Time as the client needs it: to keep below throttles, and to wait between tries.
//!
//! There is a second one in tests, whose time passes only when somebody waits: weeks of a fleet with the real client
//! take seconds there. Tokens are judged by the wall clock, which is not this.

use std::time::{Duration, Instant};

/// Time that passes while somebody waits.
pub trait Clock: Send + Sync {
    /// Since any fixed moment; never smaller than before.
    fn elapsed(&self) -> Duration;
    /// Waits.
    fn sleep(&self, pause: Duration);
    /// A number from 0 to below 1 that spreads callers who would else all come back at once.
    fn spread(&self) -> f64;

    /// Half of `longest` to all of it.
    fn jittered(&self, longest: Duration) -> Duration {
        longest / 2 + longest.mul_f64(self.spread() / 2.0)
    }
}

/// The time of this machine.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    fn spread(&self) -> f64 {
        use ring::rand::SecureRandom;
        let mut bytes = [0; 2];
        // Without random numbers all wait equally long, which is worse and not wrong.
        let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
        f64::from(u16::from_le_bytes(bytes)) / 65_536.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_vary_within_bounds() {
        let (clock, longest) = (SystemClock::default(), Duration::from_millis(800));
        let pauses: Vec<Duration> = (0..50).map(|_| clock.jittered(longest)).collect();
        assert!(
            pauses
                .iter()
                .all(|pause| *pause >= longest / 2 && *pause <= longest)
        );
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
