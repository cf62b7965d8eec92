//! Which channels stand beside each other, so that as little as possible of the weights has to give way.
//!
//! What a pair of neighbours costs does not depend on where the pair stands or which of the two comes first, so this is
//! a matching: a greedy one, the most crowded channel first, then exchanges between two pairs while any helps. Costs
//! are added up in a fixed order, so every processor finds the same one.

use crate::quantize::{PAIR_MAX, WEIGHT_MAX};

/// Channels that are put in order among themselves, an even number. Among so many each finds a partner that costs next to
/// nothing, and the table of costs stays in the processor's cache.
const BLOCK: usize = 64;
/// Passes over all pairs of pairs; they settle within a few.
const MAX_PASSES: usize = 20;
/// A new order has to save this share of the old one's cost.
const LEAST_GAIN: f64 = 0.01;

/// How often something repeats in a weight, and how far apart.
#[derive(Clone, Copy)]
pub(super) struct Repeat {
    pub count: usize,
    pub distance: usize,
}

/// Where the numbers of a weight are.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Output channels; each has a scale of its own.
    pub rows: Repeat,
    /// Positions of the kernel; at each the input channels are added up one after the other.
    pub positions: Repeat,
    /// Distance between the numbers of two input channels.
    pub channel_distance: usize,
}

/// A weight whose numbers are added up over channels.
pub(super) struct Summed {
    /// By output channel, position of the kernel, input channel.
    numbers: Vec<f32>,
    channels: usize,
    /// By output channel: the largest sum of two neighbours.
    limits: Vec<f32>,
    /// What an excess counts, so that all weights count alike.
    unit: f32,
}

impl Summed {
    /// `None` for a weight that is next to 0, or infinite.
    pub fn new(numbers: &[f32], shape: Shape, channels: usize) -> Option<Summed> {
        let power: f64 = numbers
            .iter()
            .map(|&number| f64::from(number) * f64::from(number))
            .sum();
        // Its inverse has to be a number of f32.
        if !(1e-30..1e30).contains(&power) {
            return None;
        }
        let Shape {
            rows,
            positions,
            channel_distance,
        } = shape;
        let mut ordered = Vec::with_capacity(numbers.len());
        let mut limits = Vec::with_capacity(rows.count);
        for row in 0..rows.count {
            let start = ordered.len();
            for position in 0..positions.count {
                let first = &numbers[row * rows.distance + position * positions.distance..];
                ordered.extend(first.iter().step_by(channel_distance).take(channels));
            }
            let largest = ordered[start..]
                .iter()
                .fold(0.0, |largest: f32, number: &f32| largest.max(number.abs()));
            limits.push((f64::from(largest) / WEIGHT_MAX * PAIR_MAX) as f32);
        }
        Some(Summed {
            numbers: ordered,
            channels,
            limits,
            unit: (0.5 / power) as f32,
        })
    }
}

/// The order of an even number of channels: for each place the channel that belongs there. `None` where another one than
/// today's would gain next to nothing.
pub(super) fn order(channels: usize, weights: &[Summed]) -> Option<Vec<usize>> {
    let mut order = Vec::with_capacity(channels);
    let mut changed = false;
    for first in (0..channels).step_by(BLOCK) {
        let count = BLOCK.min(channels - first);
        let mut costs = Costs::new(count);
        weights.iter().for_each(|weight| costs.add(weight, first));
        costs.fold();
        match costs.order() {
            Some(block) => {
                changed = true;
                order.extend(block.into_iter().map(|channel| first + channel));
            }
            None => order.extend(first..first + count),
        }
    }
    changed.then_some(order)
}

/// What it costs to put two channels beside each other, for all pairs of a block.
struct Costs {
    channels: usize,
    /// Row-major; symmetric once it was folded. The diagonal means nothing.
    table: Vec<f32>,
}

impl Costs {
    fn new(channels: usize) -> Costs {
        Costs {
            channels,
            table: vec![0.0; channels * channels],
        }
    }

    /// Adds what a weight takes of the channels from `first` on.
    ///
    /// Two numbers whose sum is wider than 16 bits allow both move to where it just fits, which costs half of the
    /// square of what is too much.
    fn add(&mut self, weight: &Summed, first: usize) {
        let mut negative = vec![0.0; self.channels];
        let mut shares = vec![0.0; self.channels];
        let rows = weight
            .numbers
            .chunks_exact(weight.numbers.len() / weight.limits.len());
        for (row, &limit) in rows.zip(&weight.limits) {
            for run in row.chunks_exact(weight.channels) {
                let run = &run[first..][..self.channels];
                for (negative, number) in negative.iter_mut().zip(run) {
                    *negative = -number;
                }
                self.add_run(run, limit, weight.unit, &mut shares);
                self.add_run(&negative, limit, weight.unit, &mut shares);
            }
        }
    }

    /// Adds the pairs of one run whose sum is beyond the limit: one of the two is larger than half of it. `shares` is
    /// room for a number per channel.
    ///
    /// Most of the time goes by here. The inner loop has no branches, so that the compiler can use wide registers.
    fn add_run(&mut self, run: &[f32], limit: f32, unit: f32, shares: &mut [f32]) {
        let half = limit / 2.0;
        if run.iter().all(|&number| number <= half) {
            return;
        }
        // A pair of two such numbers is met twice.
        for (share, &number) in shares.iter_mut().zip(run) {
            *share = if number > half { unit / 2.0 } else { unit };
        }
        for (channel, row) in self.table.chunks_exact_mut(self.channels).enumerate() {
            let left = limit - run[channel];
            if left >= half {
                continue;
            }
            for ((cost, &number), share) in row.iter_mut().zip(run).zip(&*shares) {
                let excess = (number - left).max(0.0);
                *cost += excess * excess * share;
            }
        }
    }

    /// Makes the table the same on both sides of its diagonal.
    fn fold(&mut self) {
        for first in 0..self.channels {
            for second in 0..first {
                let places = [first * self.channels + second, second * self.channels + first];
                let cost = self.table[places[0]] + self.table[places[1]];
                places.iter().for_each(|&place| self.table[place] = cost);
            }
        }
    }

    fn of(&self, first: usize, second: usize) -> f64 {
        f64::from(self.table[first * self.channels + second])
    }

    fn total(&self, pairs: &[[usize; 2]]) -> f64 {
        pairs.iter().map(|&[first, second]| self.of(first, second)).sum()
    }

    /// The block's own order.
    fn order(&self) -> Option<Vec<usize>> {
        let neighbours: Vec<[usize; 2]> = (0..self.channels / 2)
            .map(|pair| [2 * pair, 2 * pair + 1])
            .collect();
        let today = self.total(&neighbours);
        if today == 0.0 {
            return None;
        }
        let mut pairs = self.greedy();
        self.exchange(&mut pairs);
        if self.total(&pairs) > today * (1.0 - LEAST_GAIN) {
            return None;
        }
        for pair in &mut pairs {
            pair.sort_unstable();
        }
        pairs.sort_unstable();
        Some(pairs.concat())
    }

    /// The channel with the most to lose chooses first.
    fn greedy(&self) -> Vec<[usize; 2]> {
        let burden = |channel: usize| -> f64 {
            (0..self.channels)
                .filter(|&other| other != channel)
                .map(|other| self.of(channel, other))
                .sum()
        };
        let burdens: Vec<f64> = (0..self.channels).map(burden).collect();
        let mut waiting: Vec<usize> = (0..self.channels).collect();
        waiting.sort_by(|&first, &second| burdens[second].total_cmp(&burdens[first]));
        let mut taken = vec![false; self.channels];
        let mut pairs = Vec::with_capacity(self.channels / 2);
        for &channel in &waiting {
            if std::mem::replace(&mut taken[channel], true) {
                continue;
            }
            // Among equals the one that nobody fears: the crowded ones are still needed apart.
            let free = waiting.iter().rev().copied().filter(|&other| !taken[other]);
            let cost = |other| self.of(channel, other);
            let best = free.min_by(|&first, &second| cost(first).total_cmp(&cost(second)));
            if let Some(best) = best {
                taken[best] = true;
                pairs.push([channel, best]);
            }
        }
        pairs
    }

    /// Exchanges partners between two pairs while that helps: only a pair that costs something can gain.
    fn exchange(&self, pairs: &mut [[usize; 2]]) {
        for _ in 0..MAX_PASSES {
            let mut changed = false;
            for first in 0..pairs.len() {
                for second in 0..pairs.len() {
                    let [[a, b], [c, d]] = [pairs[first], pairs[second]];
                    let own = self.of(a, b);
                    if own == 0.0 {
                        break;
                    }
                    if first == second {
                        continue;
                    }
                    let before = own + self.of(c, d);
                    let [one, other] = [self.of(a, c) + self.of(b, d), self.of(a, d) + self.of(b, c)];
                    if one.min(other) < before {
                        [pairs[first], pairs[second]] = match one <= other {
                            true => [[a, c], [b, d]],
                            false => [[a, d], [b, c]],
                        };
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Output channels one after the other.
    fn rows(numbers: Vec<f32>, channels: usize) -> Option<Summed> {
        let count = numbers.len() / channels;
        let [rows, positions] =
            [(count, channels), (1, 0)].map(|(count, distance)| Repeat { count, distance });
        let shape = Shape {
            rows,
            positions,
            channel_distance: 1,
        };
        Summed::new(&numbers, shape, channels)
    }

    #[test]
    fn blocks_are_put_in_order_one_by_one() {
        // The first block has two large neighbours, the second and the last, shorter one have none.
        let mut numbers = vec![0.01; 2 * BLOCK + 6];
        numbers[4] = 1.0;
        numbers[5] = 1.0;
        let weight = rows(numbers, 2 * BLOCK + 6).unwrap();
        let found = order(2 * BLOCK + 6, &[weight]).unwrap();
        assert_ne!(found[..BLOCK], (0..BLOCK).collect::<Vec<_>>());
        assert!(found[..BLOCK].iter().all(|&channel| channel < BLOCK));
        assert!(found[BLOCK..].iter().copied().eq(BLOCK..2 * BLOCK + 6));
        assert_eq!(order(4, &[]), None);
    }

    #[test]
    fn two_that_overflow_together_are_parted() {
        let mut costs = Costs::new(4);
        costs.add(&rows(vec![1.0, 1.0, 0.0, 0.0], 4).unwrap(), 0);
        costs.fold();
        assert!(costs.of(0, 1) > 0.0);
        assert_eq!(costs.of(0, 1), costs.of(1, 0));
        assert_eq!(costs.of(0, 2), 0.0);
        let order = costs.order().unwrap();
        let place = |channel| order.iter().position(|&at| at == channel).unwrap() / 2;
        assert_ne!(place(0), place(1));
    }

    #[test]
    fn numbers_of_opposite_signs_may_stay() {
        let mut costs = Costs::new(4);
        costs.add(&rows(vec![1.0, -1.0, 1.0, -1.0], 4).unwrap(), 0);
        costs.fold();
        assert_eq!(costs.order(), None, "each pair's sum is 0");
    }

    proptest! {
        #[test]
        fn an_order_holds_every_channel_and_no_exchange_makes_it_better(
            weight in (1..6usize).prop_flat_map(|rows| prop::collection::vec(-1.0f32..1.0, 12 * rows)),
        ) {
            let mut costs = Costs::new(12);
            if let Some(weight) = rows(weight, 12) {
                costs.add(&weight, 0);
                costs.fold();
            }
            let pairs = |order: &[usize]| order.chunks(2).map(|pair| [pair[0], pair[1]]).collect::<Vec<_>>();
            let all: Vec<usize> = (0..12).collect();
            if let Some(order) = costs.order() {
                let found = costs.total(&pairs(&order));
                prop_assert!(found < costs.total(&pairs(&all)));
                for first in 0..12 {
                    for second in 0..first {
                        let mut exchanged = order.clone();
                        exchanged.swap(first, second);
                        prop_assert!(costs.total(&pairs(&exchanged)) >= found * (1.0 - 1e-12));
                    }
                }
                let mut sorted = order;
                sorted.sort_unstable();
                prop_assert_eq!(sorted, all);
            }
        }
    }

    #[test]
    fn most_of_the_cost_of_a_real_layer_goes_away() {
        // Numbers like those of a trained 1×1 convolution: 24 outputs, 64 inputs, near a normal distribution.
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let weight: Vec<f32> = (0..24 * 64).map(|_| (0..12).map(|_| uniform()).sum()).collect();
        let mut costs = Costs::new(64);
        costs.add(&rows(weight, 64).unwrap(), 0);
        costs.fold();
        let pairs = |order: &[usize]| order.chunks(2).map(|pair| [pair[0], pair[1]]).collect::<Vec<_>>();
        let all: Vec<usize> = (0..64).collect();
        let (before, after) = (
            costs.total(&pairs(&all)),
            costs.total(&pairs(&costs.order().unwrap())),
        );
        assert!(after < 0.1 * before, "{after} of {before}");
    }
}
