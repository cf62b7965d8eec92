//! Over a thousand random releases on random fleets, with faults: what must hold, holds.
//!
//! `random_releases` calls the hub directly, which is quick; `random_releases_over_the_client` goes the whole way, with
//! the real client over https, in virtual time. `AIOT_SIM_SEEDS=5000` makes more worlds of both kinds; `AIOT_SIM_SEED=17`
//! makes one and prints its story. A failing seed prints its story by itself: what people did, each call, what each
//! device runs.
//!
//! | module | is |
//! | --- | --- |
//! | `world` | a company with its commits and its fleet |
//! | `life` | what people and cron do, and what must be so at the end |
//! | `tool` | the commands, as `xtask` runs them |
//! | `road` | how the tool reaches the hub, and how it dies |
//! | `oracle` | what must hold, from the hub's journal |
//! | `waves` | ten thousand devices get theirs |
//! | `every` | each command cut, and crossed by another, at every call |

mod every;
mod life;
mod oracle;
mod road;
mod tool;
mod waves;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Totals, World};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lets worlds live, and gives what happened in all of them.
fn worlds(far: bool, seeds: u64) -> Option<(u64, Totals)> {
    if let Some(seed) = number("AIOT_SIM_SEED") {
        let mut world = World::new(seed, far);
        let result = catch_unwind(AssertUnwindSafe(|| world.live()));
        println!("{}", world.story());
        assert!(result.is_ok(), "seed {seed} failed, see its story above");
        return None;
    }
    let seeds = number("AIOT_SIM_SEEDS").unwrap_or(seeds);
    let next = AtomicU64::new(0);
    let totals = Mutex::new(Totals::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let mut world = World::new(seed, far);
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
        totals.releases > seeds * 3 && totals.widened > seeds * 2 && totals.finished > seeds,
        "{totals:?}"
    );
    assert!(
        totals.stopped > seeds / 10 && totals.rolled_back > seeds / 20,
        "{totals:?}"
    );
    assert!(
        totals.killed > seeds && totals.moved > seeds / 50 && totals.two > seeds,
        "{totals:?}"
    );
    assert!(totals.planned > seeds && totals.obeyed > seeds / 4, "{totals:?}");
    Some((seeds, totals))
}

#[test]
fn random_releases() {
    worlds(false, 1000);
}

#[test]
fn random_releases_over_the_client() {
    worlds(true, 24);
}
