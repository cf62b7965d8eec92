//! Evens out the channels between two weighted nodes, without changing what they compute from inputs like those that
//! calibration saw.
//!
//! A tensor has one scale for all its channels, so a channel that is a hundred times smaller than its neighbours is
//! left with two of its 255 steps. Where only nodes that commute with positive factors stand between two weighted
//! nodes, each channel may be multiplied by any factor if the next weight divides by it. [`equalize`] takes the factors
//! that balance the largest weights on both sides; [`scale_channels`] those of [`channel_factors`], which bring the
//! largest numbers that calibration saw in each channel closer together.
//!
//! Source of the first: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019,
//! section 4.1. The second is after Xiao et al., SmoothQuant, 2022, and goes through Clips.

mod pairs;

use std::collections::BTreeMap;

use crate::error::OnnxError;
use crate::model::Model;
use crate::prepare::set_initializer;
use crate::quantize::{Activations, StaticOptions, weighted_nodes};
use crate::tensor;
use pairs::{Between, Pair, Weights, find_pairs};

/// Rounds over all pairs; chains of pairs settle within a few.
const MAX_ROUNDS: usize = 12;
/// Factors closer to 1 than this are settled.
const SETTLED: f64 = 0.01;
/// Largest factor of [`channel_factors`]. What is left of a channel's noise at 16 hardly counts, and a channel that the
/// samples hardly used would be cut off at the little that they showed.
const MAX_FACTOR: f64 = 16.0;
/// How far a scaled channel ends below its tensor's largest number, as a factor: other inputs than the samples reach
/// further, and without room for them every channel would be cut off, not only the largest one.
const HEADROOM: f64 = 1.25;

/// Evens out weights between the weighted nodes of a prepared model. Its outputs stay within float rounding; a model
/// without such pairs comes out unchanged.
///
/// # Errors
/// [`OnnxError`] only for our own mistakes: the result is checked like any model.
pub fn equalize(prepared: &Model) -> Result<Model, OnnxError> {
    let (pairs, mut weights) = pairs(prepared, Between::Commuting);
    if pairs.is_empty() {
        return Ok(prepared.clone());
    }
    for _ in 0..MAX_ROUNDS {
        let mut farthest = 0.0f64;
        for pair in &pairs {
            farthest = farthest.max(balance(pair, &mut weights));
        }
        if farthest < SETTLED {
            break;
        }
    }
    with_weights(prepared, weights)
}

/// Factors by which the channels of activations are multiplied so that they use more of their tensor's range, for
/// [`scale_channels`]: by input of a weighted node, one per channel, 1 to 16, in hundredths.
///
/// `largest` has the largest magnitude of each channel of such inputs; others are ignored. Factors are for what a
/// depthwise node reads, whose channels have weights and scales of their own and lose nothing, and for what lies behind
/// a Clip, whose bound every channel can come up to. Elsewhere they cost the next weights as much as they bring.
pub fn channel_factors(prepared: &Model, largest: &BTreeMap<String, Vec<f32>>) -> BTreeMap<String, Vec<f32>> {
    let mut factors = BTreeMap::new();
    let (pairs, _) = pairs(prepared, Between::Elementwise);
    for pair in pairs
        .into_iter()
        .filter(|pair| pair.depthwise || pair.bound.is_some())
    {
        let Some(largest) = largest
            .get(&pair.input)
            .filter(|largest| largest.len() == pair.channels)
        else {
            continue;
        };
        let all = largest.iter().copied().fold(0.0, f32::max);
        let bound = f64::from(pair.bound.unwrap_or(all));
        let factor = |&largest: &f32| {
            let factor = bound / (f64::from(largest) * HEADROOM);
            // An unused channel has nothing to gain, and what it holds elsewhere is not known.
            match largest > 0.0 && factor.is_finite() {
                true => ((factor.clamp(1.0, MAX_FACTOR) * 100.0).round() / 100.0) as f32,
                false => 1.0,
            }
        };
        let of_tensor: Vec<f32> = largest.iter().map(factor).collect();
        if of_tensor.iter().any(|&factor| factor > 1.0) {
            factors.insert(pair.input, of_tensor);
        }
    }
    factors
}

/// Multiplies channels of activations by factors of [`channel_factors`]: weights and bias that make them grow, weights
/// that take them shrink.
///
/// Outputs stay within float rounding unless a channel ends at a Clip. Its bound stays and so comes closer for that
/// channel: numbers well beyond what calibration saw are now cut off, as a range does with what lies beyond it.
///
/// # Errors
/// Factors for a tensor that has no such pair around it, too many or few of them, or one that is not 1 to 16: they
/// belong to another model.
pub fn scale_channels(prepared: &Model, factors: &BTreeMap<String, Vec<f32>>) -> Result<Model, OnnxError> {
    let (pairs, mut weights) = pairs(prepared, Between::Elementwise);
    for (tensor, factors) in factors {
        let fits = |pair: &&Pair| pair.input == *tensor && pair.channels == factors.len();
        let sound = |&factor: &f32| (1.0..=MAX_FACTOR).contains(&f64::from(factor));
        let Some(pair) = pairs.iter().find(fits).filter(|_| factors.iter().all(sound)) else {
            return Err(OnnxError::Unsupported {
                place: format!("tensor `{tensor}`"),
                reason: "its channel factors belong to another version of the model; calibrate again"
                    .to_owned(),
            });
        };
        weights.scale(pair, |channel| f64::from(factors[channel]));
    }
    with_weights(prepared, weights)
}

fn pairs(prepared: &Model, between: Between) -> (Vec<Pair>, Weights) {
    let mut weights = Weights::default();
    let positions = weighted_nodes(prepared, &StaticOptions::new(Activations::U8Asymmetric));
    let pairs = find_pairs(prepared.graph(), &positions, between, &mut weights);
    (pairs, weights)
}

/// Balances the weights of one pair; returns how far its farthest factor was from 1.
fn balance(pair: &Pair, weights: &mut Weights) -> f64 {
    let first = weights.largest(&pair.first, pair.channels);
    let second = weights.largest(&pair.second, pair.channels);
    let factor = |(first, second): (&f64, &f64)| {
        let factor = (second / first).sqrt();
        // A channel without weights on one side has nothing to balance.
        if factor.is_finite() && factor > 1e-9 && factor < 1e9 {
            factor
        } else {
            1.0
        }
    };
    let factors: Vec<f64> = first.iter().zip(&second).map(factor).collect();
    let farthest = factors
        .iter()
        .map(|factor| (1.0 / factor - 1.0).abs())
        .fold(0.0, f64::max);
    if farthest >= SETTLED {
        weights.scale(pair, |channel| factors[channel]);
    }
    farthest
}

fn with_weights(prepared: &Model, weights: Weights) -> Result<Model, OnnxError> {
    let mut proto = prepared.proto().clone();
    let graph = proto.graph.as_mut().expect("a checked model has a graph");
    for tensor in weights.changed {
        set_initializer(
            graph,
            tensor::from_floats(&tensor.name, &tensor.dims, &tensor.values),
        );
    }
    Model::from_proto(proto)
}

#[cfg(test)]
mod tests;
