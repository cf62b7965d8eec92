//! Which variants are worth a look: those that no other one beats in size, time and closeness at once.

/// What a variant costs; smaller is better in each.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Length of its file.
    pub size_bytes: u64,
    /// Its time against float's.
    pub latency_ratio: f64,
    /// How far its outputs are from float's: minus the signal to noise, dB; minus infinity for float itself.
    pub noise_db: f64,
}

/// Times within two percent, and closeness within a tenth of a decibel, are measured as equal.
const SAME_TIME: f64 = 0.02;
const SAME_NOISE_DB: f64 = 0.1;

impl Cost {
    /// Whether this one is nowhere worse than the other, and somewhere better.
    fn beats(&self, other: &Cost) -> bool {
        let no_worse = self.size_bytes <= other.size_bytes
            && self.latency_ratio <= other.latency_ratio + SAME_TIME
            && self.noise_db <= other.noise_db + SAME_NOISE_DB;
        let better = self.size_bytes < other.size_bytes
            || self.latency_ratio < other.latency_ratio - SAME_TIME
            || self.noise_db < other.noise_db - SAME_NOISE_DB;
        no_worse && better
    }
}

/// For each variant whether it is on the Pareto line.
pub fn pareto(costs: &[Cost]) -> Vec<bool> {
    let beaten = |cost: &Cost| costs.iter().any(|other| other.beats(cost));
    costs.iter().map(|cost| !beaten(cost)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_beats_in_everything_is_not_on_the_line() {
        let cost = |size_bytes, latency_ratio, sqnr_db: f64| Cost {
            size_bytes,
            latency_ratio,
            noise_db: -sqnr_db,
        };
        let float = cost(1000, 1.0, f64::INFINITY);
        let int8 = cost(260, 0.4, 38.0);
        let dynamic = cost(270, 1.1, 37.0);
        let weights = cost(255, 1.0, 42.0);
        let int4 = cost(150, 1.1, 20.0);
        // As close and as fast as the measurement can tell, and larger.
        let twin = cost(261, 0.41, 38.05);
        let all = [float, int8, dynamic, weights, int4, twin];
        assert_eq!(pareto(&all), [true, true, false, true, true, false]);
        assert_eq!(pareto(&[float]), [true]);
        // Equal ones do not push each other off.
        assert_eq!(pareto(&[int8, int8]), [true, true]);
    }
}
