//! Over a thousand random releases on random fleets, with faults: what must hold, holds.
//!
//! `AIOT_SIM_SEEDS=5000 cargo test -p aiot-hubsim --test releases` makes more of them; `AIOT_SIM_SEED=17` makes one and
//! prints its story. A failing seed prints its story by itself.

mod oracle;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_releases() {
    if let Some(seed) = number("AIOT_SIM_SEED") {
        let mut world = World::new(seed);
        let result = catch_unwind(AssertUnwindSafe(|| world.live()));
        println!("{}", world.story());
        assert!(result.is_ok(), "seed {seed} failed, see its story above");
        return;
    }
    let seeds = number("AIOT_SIM_SEEDS").unwrap_or(1000);
    let next = AtomicU64::new(0);
    let totals = Mutex::new(world::Totals::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let mut world = World::new(seed);
                    let result = catch_unwind(AssertUnwindSafe(|| world.live()));
                    if result.is_err() {
                        next.store(seeds, Ordering::Relaxed);
                        println!("{}", world.story());
                        panic!("seed {seed} failed, see its story above");
                    }
                    totals.lock().expect("no panic holds it").add(&world.totals);
                }
            });
        }
    });
    let totals = totals.into_inner().expect("no panic holds it");
    println!("{seeds} worlds: {totals:?}");
    // The suite must not pass because nothing happens in it.
    assert!(
        totals.releases > seeds * 3 && totals.widened > seeds * 3,
        "{totals:?}"
    );
    assert!(
        totals.stopped > seeds / 10 && totals.rolled_back > seeds / 20,
        "{totals:?}"
    );
    assert!(
        totals.killed > seeds && totals.moved > seeds / 50 && totals.finished > seeds,
        "{totals:?}"
    );
}
