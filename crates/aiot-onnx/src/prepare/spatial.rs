//! Nodes over the positions of pictures and series, written as the ones that have integer kernels.
//!
//! torch's newer exporter writes the mean of all positions as ReduceMean, where older ones had GlobalAveragePool; other
//! files pad in a node before the convolution, which can pad itself.

use std::collections::BTreeMap;

use crate::graph::{Index, Names, attribute, int, ints_attribute, is, new_node, pads_with_zeros, text};
use crate::proto::{GraphProto, NodeProto};
use crate::tensor;

/// Nodes whose output has as many axes as their first input.
const SAME_RANK: &[&str] = &[
    "BatchNormalization",
    "Clip",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Pad",
    "Relu",
    "Resize",
    "Sigmoid",
    "Softplus",
    "Tanh",
];

/// Makes a GlobalAveragePool, and a Flatten where the axes are dropped, of each mean over all positions.
pub(super) fn pool_means(graph: &mut GraphProto) {
    if !graph.node.iter().any(|node| is(node, "ReduceMean")) {
        return;
    }
    let index = Index::new(graph);
    let ranks = ranks(graph, &index);
    let means: Vec<bool> = graph
        .node
        .iter()
        .map(|node| is_mean_of_positions(node, &index, &ranks) == Some(true))
        .collect();
    let mut names = Names::new(graph);
    let mut nodes = Vec::with_capacity(graph.node.len() + 1);
    for (node, is_mean) in std::mem::take(&mut graph.node).into_iter().zip(means) {
        if !is_mean {
            nodes.push(node);
            continue;
        }
        let (input, output) = (node.input[0].as_str(), node.output[0].as_str());
        if int(&node, "keepdims", 1) != 0 {
            nodes.push(new_node("GlobalAveragePool", node.name(), &[input], &[output]));
        } else {
            let pooled = names.fresh(&format!("{output}_pooled"));
            nodes.push(new_node("GlobalAveragePool", node.name(), &[input], &[&pooled]));
            let flatten = format!("{output}_Flatten");
            nodes.push(new_node("Flatten", &flatten, &[&pooled], &[output]));
        }
    }
    graph.node = nodes;
}

/// How many axes values have that come from convolutions and pooling; others are left out.
fn ranks<'a>(graph: &'a GraphProto, index: &Index<'a>) -> BTreeMap<&'a str, usize> {
    let mut ranks: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &graph.node {
        let known = |input: usize| {
            let name = node.input.get(input)?.as_str();
            let constant = || index.constants.get(name).map(|constant| constant.dims.len());
            ranks.get(name).copied().or_else(constant)
        };
        let rank = match node.op_type() {
            "Conv" | "ConvTranspose" => known(1),
            "MaxPool" | "AveragePool" => attribute(node, "kernel_shape").map(|kernel| kernel.ints.len() + 2),
            "Add" | "Mul" => known(0).zip(known(1)).map(|(first, second)| first.max(second)),
            "Concat" => known(0),
            operator if SAME_RANK.contains(&operator) => known(0),
            _ => None,
        };
        if let (Some(rank), Some(output), true) = (
            rank.filter(|&rank| rank > 2),
            node.output.first(),
            crate::check::domain(node.domain()).is_empty(),
        ) {
            ranks.insert(output, rank);
        }
    }
    ranks
}

/// Whether a node is a mean over every axis but the first two; `None` where that is not known.
fn is_mean_of_positions(node: &NodeProto, index: &Index<'_>, ranks: &BTreeMap<&str, usize>) -> Option<bool> {
    if !is(node, "ReduceMean") {
        return None;
    }
    let rank = *ranks.get(node.input.first()?.as_str())? as i64;
    let axes = match node.input.get(1).filter(|name| !name.is_empty()) {
        Some(name) => tensor::integers(index.constants.get(name.as_str())?)?,
        None => attribute(node, "axes")?.ints.clone(),
    };
    let mut axes: Vec<i64> = axes
        .iter()
        .map(|&axis| if axis < 0 { axis + rank } else { axis })
        .collect();
    axes.sort_unstable();
    Some(axes.into_iter().eq(2..rank))
}

/// Lets convolutions pad themselves where a Pad with zeros stands before them.
pub(super) fn fold_pads(graph: &mut GraphProto) {
    let index = Index::new(graph);
    let mut folds = Vec::new();
    for (position, node) in graph.node.iter().enumerate().filter(|(_, node)| is(node, "Conv")) {
        let producer = node
            .input
            .first()
            .and_then(|name| index.producer.get(name.as_str()));
        let Some(pad) = producer.map(|&producer| &graph.node[producer]) else {
            continue;
        };
        let own = is(pad, "Pad") && index.read_once(&pad.output[0]);
        if let Some(pads) = own.then(|| folded(pad, node, &index)).flatten() {
            folds.push((position, pad.input[0].clone(), pads));
        }
    }
    for (position, input, pads) in folds {
        let node = &mut graph.node[position];
        node.input[0] = input;
        node.attribute.retain(|attribute| attribute.name() != "pads");
        node.attribute.push(ints_attribute("pads", &pads));
    }
}

/// The pads of a convolution that does the work of the Pad before it, too.
fn folded(pad: &NodeProto, node: &NodeProto, index: &Index<'_>) -> Option<Vec<i64>> {
    let rank = index.constants.get(node.input.get(1)?.as_str())?.dims.len();
    let given = |input: usize| pad.input.get(input).filter(|name| !name.is_empty());
    let plain = matches!(text(node, "auto_pad"), None | Some("" | "NOTSET"));
    let amounts = tensor::integers(index.constants.get(given(1)?.as_str())?)?;
    if !(plain && pads_with_zeros(pad, index) && given(3).is_none()) || rank < 3 || amounts.len() != 2 * rank
    {
        return None;
    }
    let (begins, ends) = amounts.split_at(rank);
    let inside = |amounts: &[i64]| amounts[..2] == [0, 0] && amounts.iter().all(|&amount| amount >= 0);
    if !(inside(begins) && inside(ends)) {
        return None;
    }
    let own = attribute(node, "pads").map_or(vec![0; 2 * (rank - 2)], |pads| pads.ints.clone());
    let added = begins[2..].iter().chain(&ends[2..]);
    (own.len() == 2 * (rank - 2)).then(|| {
        let sums = own
            .iter()
            .zip(added)
            .map(|(own, added)| own.saturating_add(*added));
        sums.collect()
    })
}
