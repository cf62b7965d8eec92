//! Work over all cores whose result does not depend on how many there are.

use std::num::NonZero;

/// Below this many numbers a thread costs more than it saves.
const LEAST_NUMBERS: usize = 1 << 16;

/// `work(0), work(1), … work(count - 1)`, computed on all cores where together they look at enough `numbers`.
///
/// Each call sees its index alone, so the result is the same for any number of threads.
pub(crate) fn parallel_map<T: Send>(
    count: usize,
    numbers: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(count).min(numbers / LEAST_NUMBERS).max(1);
    map_on(threads, count, &work)
}

fn map_on<T: Send>(threads: usize, count: usize, work: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
    if threads == 1 {
        return (0..count).map(work).collect();
    }
    let share = |thread: usize| count * thread / threads..count * (thread + 1) / threads;
    std::thread::scope(|scope| {
        let run = |thread| scope.spawn(move || share(thread).map(work).collect::<Vec<T>>());
        let handles: Vec<_> = (0..threads).map(run).collect();
        let joined = handles.into_iter().map(|handle| match handle.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_depend_on_threads() {
        for threads in 1..7 {
            for count in [0, 1, 5, 13] {
                let expected: Vec<usize> = (0..count).map(|index| index * index).collect();
                assert_eq!(
                    map_on(threads, count, &|index| index * index),
                    expected,
                    "{threads} threads"
                );
            }
        }
        assert_eq!(parallel_map(3, usize::MAX, |index| index), [0, 1, 2]);
    }
}
