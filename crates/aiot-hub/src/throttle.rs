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
    /// Calls that have a place and no answer yet.
    under_way: usize,
}

/// How long to wait where only calls under way are in the way; their answers come at any moment.
const UNDER_WAY_PAUSE: Duration = Duration::from_millis(5);

impl Window {
    /// No calls yet.
    pub fn new((calls, length): (usize, Duration)) -> Window {
        Window {
            calls: calls.max(1),
            length,
            made: VecDeque::new(),
            under_way: 0,
        }
    }

    /// Takes a place for a call at `now` (since any fixed moment, never smaller than before). It is held until
    /// [`Window::answered`], so that callers beside each other do not all see the same room.
    ///
    /// # Errors
    /// There is no place: how long to wait before the next try.
    pub fn reserve(&mut self, now: Duration) -> Result<(), Duration> {
        while self.made.front().is_some_and(|made| *made + self.length <= now) {
            self.made.pop_front();
        }
        let Some(index) = (self.made.len() + self.under_way).checked_sub(self.calls) else {
            self.under_way += 1;
            return Ok(());
        };
        let over = self.made.get(index).map(|made| *made + self.length);
        Err(over.map_or(UNDER_WAY_PAUSE, |over| over.saturating_sub(now)))
    }

    /// A call was answered at `now`. The service has counted it some time before: when the window is over here, it is
    /// over there.
    pub fn answered(&mut self, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
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
                while let Err(pause) = window.reserve(now) {
                    prop_assert!(pause > Duration::ZERO);
                    now += pause;
                }
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

        /// The same with callers beside each other: a place that is taken counts before its answer comes.
        #[test]
        fn callers_beside_each_other_keep_below_it_together(
            calls in 1usize..6,
            moves in prop::collection::vec((0u64..300, any::<bool>()), 1..200),
        ) {
            let length = Duration::from_millis(1000);
            let mut window = Window::new((calls, length));
            let (mut now, mut made, mut under_way) = (Duration::ZERO, Vec::new(), 0usize);
            for (gap, comes) in moves {
                now += Duration::from_millis(gap);
                if comes {
                    under_way += usize::from(window.reserve(now).is_ok());
                } else if under_way > 0 {
                    under_way -= 1;
                    made.push(now);
                    window.answered(now);
                }
                prop_assert!(under_way <= calls);
                let recent = made.iter().filter(|time| **time + length > now).count();
                prop_assert!(recent + under_way <= calls);
            }
        }
    }
}
