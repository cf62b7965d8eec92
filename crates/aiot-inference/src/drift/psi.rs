//! How far apart two histograms are, and how far apart two of the same world may be by chance.

/// The population stability index of counts against the baseline's: Σ (p - q) ln(p / q), 0 when the shares are
/// equal. Half an observation is added to each bin, so that an empty one gives no infinity; cutting shares off
/// instead was measured to double the noise of small windows.
///
/// `None` when there is nothing to compare: fewer than two bins, or no observations on a side.
pub fn population_stability_index(baseline: &[u32], counts: &[u32]) -> Option<f64> {
    let total = |counts: &[u32]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
    let (all_before, all_now) = (total(baseline), total(counts));
    if baseline.len() != counts.len() || baseline.len() < 2 || all_before == 0.0 || all_now == 0.0 {
        return None;
    }
    let half = baseline.len() as f64 / 2.0;
    let share = |count: u32, all: f64| (f64::from(count) + 0.5) / (all + half);
    let part = |(before, now): (&u32, &u32)| {
        let (q, p) = (share(*before, all_before), share(*now, all_now));
        (p - q) * (p / q).ln()
    };
    Some(baseline.iter().zip(counts).map(part).sum())
}

/// The value that a χ² variable with `degrees` degrees of freedom exceeds with probability `tail`.
///
/// Wilson and Hilferty's approximation over Acklam's normal quantile; within 2 % of the tables for tails from 1e-8
/// to 0.2 and two degrees and more, 6 % for one.
pub fn chi_squared_quantile(degrees: usize, tail: f64) -> f64 {
    let degrees = degrees.max(1) as f64;
    let spread = 2.0 / (9.0 * degrees);
    let root = 1.0 - spread + normal_quantile(tail) * spread.sqrt();
    degrees * root.max(0.0).powi(3)
}

/// The value that a standard normal variable exceeds with probability `tail`, 0 < `tail` <= 0.5.
/// Source: P. J. Acklam's rational approximation, relative error below 1.2e-9.
fn normal_quantile(tail: f64) -> f64 {
    let tail = tail.clamp(1e-300, 0.5);
    if tail < 0.02425 {
        let q = (-2.0 * tail.ln()).sqrt();
        let top = ((((-7.784894002430293e-3 * q - 3.223964580411365e-1) * q - 2.400758277161838) * q
            - 2.549732539343734)
            * q
            + 4.374664141464968)
            * q
            + 2.938163982698783;
        let bottom = (((7.784695709041462e-3 * q + 3.224671290700398e-1) * q + 2.445134137142996) * q
            + 3.754408661907416)
            * q
            + 1.0;
        return -top / bottom;
    }
    let q = 0.5 - tail;
    let r = q * q;
    let top = (((((-3.969683028665376e1 * r + 2.209460984245205e2) * r - 2.759285104469687e2) * r
        + 1.38357751867269e2)
        * r
        - 3.066479806614716e1)
        * r
        + 2.506628277459239)
        * q;
    let bottom = ((((-5.447609879822406e1 * r + 1.615858368580409e2) * r - 1.556989798598866e2) * r
        + 6.680131188771972e1)
        * r
        - 1.328068155288572e1)
        * r
        + 1.0;
    top / bottom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_tables() {
        // scipy.stats.chi2.isf(tail, degrees)
        for (degrees, tail, expected) in [
            (1, 0.01, 6.634897),
            (2, 0.01, 9.210340),
            (9, 0.01, 21.665994),
            (9, 0.05, 16.918978),
            (9, 0.001, 27.877165),
            (19, 0.01, 36.190869),
            (31, 1e-6, 83.642516),
        ] {
            let got = chi_squared_quantile(degrees, tail);
            let slack = if degrees == 1 { 0.06 } else { 0.02 };
            assert!(
                (got / expected - 1.0).abs() < slack,
                "{degrees} {tail}: {got}, {expected}"
            );
        }
        assert!((normal_quantile(0.025) - 1.959964).abs() < 1e-6);
        assert!((normal_quantile(0.001) - 3.090232).abs() < 1e-6);
    }

    #[test]
    fn the_index() {
        assert_eq!(
            population_stability_index(&[10, 20, 30], &[10, 20, 30]),
            Some(0.0)
        );
        // With the halves p = 0.75 and q = 0.25, so ln 3 each way.
        let index = population_stability_index(&[1, 4], &[4, 1]).unwrap();
        assert!((index - 2.0 * (0.75 - 0.25) * 3f64.ln()).abs() < 1e-12, "{index}");
        for (baseline, counts) in [
            (&[5][..], &[5][..]),
            (&[1, 2], &[0, 0]),
            (&[0, 0], &[1, 2]),
            (&[1, 2], &[1]),
        ] {
            assert_eq!(population_stability_index(baseline, counts), None);
        }
    }
}
