//! The service's throttles, kept by the caller: a window of calls per kind.
//!
//! Source: docs "IoT Hub quotas and throttling", figures for tier S1, per unit.

use std::collections::VecDeque;
use std::time::Duration;

/// Kinds of calls with a throttle of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Create, change, list or delete configurations; also trying conditions.
    Configuration,
    /// One page of a query.
    Query,
    /// Reading one twin.
    TwinRead,
    /// Changing one twin.
    TwinWrite,
    /// Identities of devices and modules.
    Registry,
}

impl Kind {
    /// Calls in a window, and its length, for a hub of `units` units.
    pub fn rate(self, units: u32) -> (usize, Duration) {
        let units = units.max(1) as usize;
        let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
        match self {
            Kind::Configuration | Kind::Query => (20 * units, minute),
            Kind::TwinRead => ((10 * units).max(100), second),
            Kind::TwinWrite => ((5 * units).max(50), second),
            Kind::Registry => (100 * units, minute),
        }
    }
}

/// Calls of one kind within the last window.
#[derive(Clone, Debug)]
pub struct Window {
    calls: usize,
    length: Duration,
    made: VecDeque<Duration>,
}

impl Window {
    /// No calls yet.
    pub fn new((calls, length): (usize, Duration)) -> Window {
        Window {
            calls: calls.max(1),
            length,
            made: VecDeque::new(),
        }
    }

    /// How long to wait before a call at `now` (since any fixed moment, never smaller than before).
    pub fn pause(&mut self, now: Duration) -> Duration {
        while self.made.front().is_some_and(|made| *made + self.length <= now) {
            self.made.pop_front();
        }
        match self.made.len().checked_sub(self.calls) {
            Some(index) => (self.made[index] + self.length).saturating_sub(now),
            None => Duration::ZERO,
        }
    }

    /// A call was answered at `now`. The service has counted it some time before: when the window is over here, it is
    /// over there.
    pub fn answered(&mut self, now: Duration) {
        self.made.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_grow_with_units() {
        let minute = Duration::from_secs(60);
        assert_eq!(Kind::Configuration.rate(1), (20, minute));
        assert_eq!(Kind::Query.rate(0), (20, minute));
        assert_eq!(Kind::Registry.rate(3), (300, minute));
        assert_eq!(Kind::TwinWrite.rate(1), (50, Duration::from_secs(1)));
        assert_eq!(Kind::TwinRead.rate(20), (200, Duration::from_secs(1)));
    }

    proptest! {
        /// Whenever a caller comes, no window of the length ever holds more calls than allowed, and none waits longer
        /// than it must.
        #[test]
        fn windows_are_never_overfull(
            calls in 1usize..6,
            gaps in prop::collection::vec((0u64..400, 0u64..50), 1..80),
        ) {
            let length = Duration::from_millis(1000);
            let mut window = Window::new((calls, length));
            let (mut now, mut made) = (Duration::ZERO, Vec::new());
            for (gap, travel) in gaps {
                now += Duration::from_millis(gap);
                now += window.pause(now);
                // It counts there at any moment of its travel; the latest is the worst.
                now += Duration::from_millis(travel);
                made.push(now);
                window.answered(now);
            }
            for (index, time) in made.iter().enumerate() {
                if let Some(earlier) = index.checked_sub(calls) {
                    prop_assert!(*time >= made[earlier] + length);
                }
            }
        }
    }
}
