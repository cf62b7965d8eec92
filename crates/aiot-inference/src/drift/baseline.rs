//! Observations of the evaluation set → histograms.
//!
//! Numbers get bins that hold about equally many observations. An edge lies between two observations, at the
//! shortest decimal number that does, so that a last bit of another processor's arithmetic seldom moves an observation
//! to another bin, and people can read the file.

use aiot_package::{BASELINE_FORMAT_VERSION, Baseline, Bins, ModelPackage, Statistic};

use super::{Observation, statistic_names};

/// Bins of a number, and of labels, at most.
const MAX_BINS: usize = 10;
const MAX_CLASSES: usize = 32;
/// Observations that a bin should hold: χ² is a poor guide to bins with fewer than about five.
const LEAST_PER_BIN: usize = 10;
const LEAST_PER_CLASS: u32 = 5;

/// The baseline for `package` from the observations of its evaluation set; the same for any order of them.
pub fn build(package: &ModelPackage, observations: &[Observation]) -> Baseline {
    let statistic = |(index, name): (usize, String)| {
        let mut values: Vec<f64> = observations
            .iter()
            .filter_map(|observation| observation.0.get(index).copied().flatten())
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        let bins = if name == "class" {
            classes(&values, package.output.labels.len())
        } else {
            Bins::Edges(edges(&values))
        };
        let bin_count = match &bins {
            Bins::Edges(edges) => edges.len() + 1,
            Bins::Classes(bins) => bins.iter().max().map_or(1, |bin| *bin as usize + 1),
        };
        let mut counts = vec![0; bin_count];
        for bin in values.iter().filter_map(|value| bins.of(*value)) {
            counts[bin] += 1;
        }
        Statistic { name, bins, counts }
    };
    Baseline {
        format_version: BASELINE_FORMAT_VERSION,
        statistics: statistic_names(package)
            .into_iter()
            .enumerate()
            .map(statistic)
            .collect(),
    }
}

/// Inner edges for `values`, which rise.
fn edges(values: &[f64]) -> Vec<f64> {
    let (Some(&least), Some(&most)) = (values.first(), values.last()) else {
        return Vec::new();
    };
    if least == most {
        // All the same: below, equal, above.
        let apart = least.abs().max(1e-3) * 0.01;
        return vec![least - apart, least + apart];
    }
    let wanted = (values.len() / LEAST_PER_BIN).clamp(2, MAX_BINS);
    let mut edges: Vec<f64> = Vec::new();
    for bin in 1..wanted {
        let mut at = (bin * values.len() / wanted).max(1);
        // Equal values cannot be parted: the edge moves behind them.
        while at < values.len() && values[at - 1] == values[at] {
            at += 1;
        }
        if at < values.len() {
            edges.push(between(values[at - 1], values[at]));
        }
    }
    edges.dedup();
    edges
}

/// The shortest decimal number above `low` and not above `high`, near their middle.
fn between(low: f64, high: f64) -> f64 {
    let middle = low + (high - low) / 2.0;
    let rounded = |digits: usize| format!("{middle:.digits$e}").parse::<f64>().ok();
    (0..17)
        .filter_map(rounded)
        .find(|edge| low < *edge && *edge <= high)
        .unwrap_or(high)
}

/// Labels that occur often get a bin each, the most frequent first; the others share the last.
fn classes(values: &[f64], labels: usize) -> Bins {
    let mut counts: Vec<(u32, usize)> = (0..labels).map(|label| (0, label)).collect();
    for value in values {
        if let Some((count, _)) = counts.get_mut(*value as usize) {
            *count += 1;
        }
    }
    counts.sort_by_key(|(count, label)| (std::cmp::Reverse(*count), *label));
    let own = counts
        .iter()
        .take(MAX_CLASSES - 1)
        .take_while(|(count, _)| *count >= LEAST_PER_CLASS)
        .count();
    let mut bins = vec![own as u32; labels];
    for (bin, (_, label)) in counts.iter().take(own).enumerate() {
        bins[*label] = bin as u32;
    }
    Bins::Classes(bins)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_are_short_and_part_evenly() {
        let hundred: Vec<f64> = (0..100).map(|n| f64::from(n) / 100.0).collect();
        assert_eq!(edges(&hundred)[..3], [0.1, 0.2, 0.3]);
        assert_eq!(edges(&hundred).len(), 9);
        assert_eq!(edges(&hundred[..20]).len(), 1);
        // Most are equal: they share a bin, and what is above them is parted.
        let mut many = vec![0.0; 90];
        many.extend([1.0; 10]);
        assert_eq!(edges(&many), [0.5]);
        assert_eq!(edges(&[7.0; 50]), [6.93, 7.07]);
        assert_eq!(edges(&[0.0; 50]), [-1e-5, 1e-5]);
        assert_eq!(edges(&[]), Vec::<f64>::new());
    }

    #[test]
    fn rare_labels_share_a_bin() {
        let values: Vec<f64> = [1; 9]
            .into_iter()
            .chain([0; 5])
            .chain([2; 4])
            .map(f64::from)
            .collect();
        assert_eq!(classes(&values, 4), Bins::Classes(vec![1, 0, 2, 2]));
        assert_eq!(classes(&[0.0; 10], 1), Bins::Classes(vec![0]));
        let many: Vec<f64> = (0..1000).map(|n| f64::from(n % 100)).collect();
        let Bins::Classes(bins) = classes(&many, 100) else {
            panic!()
        };
        assert_eq!(bins.iter().max(), Some(&31));
    }

    proptest! {
        #[test]
        fn edges_always_rise_and_part(mut values in prop::collection::vec(-1e6f64..1e6, 2..300)) {
            values.sort_by(f64::total_cmp);
            let edges = edges(&values);
            prop_assert!(edges.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", edges);
            let bins = Bins::Edges(edges.clone());
            let first = bins.of(values[0]);
            prop_assert_eq!(first, Some(usize::from(values[0] == values[values.len() - 1])));
            prop_assert_eq!(bins.of(f64::MAX), Some(edges.len()));
        }
    }
}
