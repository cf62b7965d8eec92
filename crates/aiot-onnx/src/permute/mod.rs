//! Channel permutation: puts channels into an order in which neighbouring weights fit 16 bits together.
//!
//! Saturation-safe weights give way where two neighbours, which processors without VNNI add up in 16 bits, are both
//! large. Which channels are neighbours is nobody's wish: where channels are made by one node and taken by others, all
//! may use another order, and the model computes what it did. [`sets`] finds the tensors that have to share an
//! order, [`order`] chooses it, and this file rewrites the constants.

mod order;
mod sets;

use std::collections::BTreeMap;

use crate::error::OnnxError;
use crate::model::Model;
use crate::parallel::parallel_map;
use crate::prepare::set_initializer;
use crate::proto::TensorProto;
use sets::{Orders, Set};

/// A model in another order of its channels.
#[derive(Debug, PartialEq)]
pub(crate) struct Permuted {
    pub model: Model,
    /// The inputs of weighted nodes that have another order now: for each place the old one.
    pub inputs: BTreeMap<String, Vec<usize>>,
}

/// Puts the channels of a prepared model in order; `None` where no other order is better.
///
/// `counts` says which operators' weights matter. Outputs stay within float rounding.
///
/// # Errors
/// [`OnnxError`] only for our own mistakes: the result is checked like any model.
pub(crate) fn permute(prepared: &Model, counts: &[&str]) -> Result<Option<Permuted>, OnnxError> {
    let orders = Orders::find(prepared.graph(), counts);
    let sets: Vec<&Set> = orders.sets.iter().filter(|set| set.may_change()).collect();
    let numbers = sets
        .iter()
        .flat_map(|set| &set.takers)
        .map(|taker| taker.numbers)
        .sum();
    let found = parallel_map(sets.len(), numbers, |set| sets[set].order(&orders.index));
    let changes: Vec<(&Set, Vec<usize>)> = sets
        .into_iter()
        .zip(found)
        .filter_map(|(set, order)| Some((set, order?)))
        .collect();
    if changes.is_empty() {
        return Ok(None);
    }
    let mut constants: BTreeMap<&str, TensorProto> = BTreeMap::new();
    let mut inputs = BTreeMap::new();
    for (set, order) in &changes {
        for member in &set.members {
            let now = constants
                .entry(&member.constant)
                .or_insert_with(|| orders.index.constants[member.constant.as_str()].clone());
            *now = member.reordered(now, order);
        }
        for taker in &set.takers {
            let places = order
                .iter()
                .flat_map(|&old| old * taker.run..(old + 1) * taker.run);
            inputs.insert(taker.input.clone(), places.collect());
        }
    }
    let constants: Vec<TensorProto> = constants.into_values().collect();
    let mut proto = prepared.proto().clone();
    let graph = proto.graph.as_mut().expect("a checked model has a graph");
    for constant in constants {
        set_initializer(graph, constant);
    }
    Ok(Some(Permuted {
        model: Model::from_proto(proto)?,
        inputs,
    }))
}

#[cfg(test)]
mod tests;
