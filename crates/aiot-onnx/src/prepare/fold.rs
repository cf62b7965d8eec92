//! Constants that can be multiplied into a weight before anything runs.

use crate::graph::{Index, attribute, float, int, is};
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::tensor;

use super::set_initializer;

struct Fold {
    batch_normalization: usize,
    weighted: usize,
    weight: TensorProto,
    bias: TensorProto,
}

/// Folds each BatchNormalization into the Conv, ConvTranspose or Gemm whose only reader it is. Returns whether it
/// found one, since the folded node may stand before another normalization.
pub(super) fn fold_batch_normalizations(graph: &mut GraphProto) -> bool {
    let index = Index::new(graph);
    let mut names = crate::graph::Names::new(graph);
    let mut folds = Vec::new();
    for position in 0..graph.node.len() {
        folds.extend(plan(graph, &index, &mut names, position));
    }
    let found = !folds.is_empty();
    let mut gone = Vec::new();
    for fold in folds {
        let output = graph.node[fold.batch_normalization].output[0].clone();
        gone.push(fold.batch_normalization);
        let node = &mut graph.node[fold.weighted];
        node.output[0] = output;
        node.input.truncate(3);
        node.input.resize(3, String::new());
        node.input[1] = fold.weight.name().to_owned();
        node.input[2] = fold.bias.name().to_owned();
        set_initializer(graph, fold.weight);
        set_initializer(graph, fold.bias);
    }
    let mut position = 0;
    graph.node.retain(|_| {
        position += 1;
        gone.binary_search(&(position - 1)).is_err()
    });
    found
}

fn plan(
    graph: &GraphProto,
    index: &Index<'_>,
    names: &mut crate::graph::Names,
    position: usize,
) -> Option<Fold> {
    let node = &graph.node[position];
    if !is(node, "BatchNormalization") || int(node, "training_mode", 0) != 0 || node.input.len() != 5 {
        return None;
    }
    if node.output.iter().skip(1).any(|output| !output.is_empty()) {
        return None;
    }
    let input = node.input[0].as_str();
    let weighted = *index.producer.get(input)?;
    if !index.read_once(input) {
        return None;
    }
    let constant = |name: &String| {
        index
            .constants
            .get(name.as_str())
            .copied()
            .and_then(tensor::floats)
    };
    let [scale, offset, mean, variance] = [1, 2, 3, 4].map(|input| constant(&node.input[input]));
    let (scale, offset, mean, variance) = (scale?, offset?, mean?, variance?);
    let epsilon = f64::from(float(node, "epsilon", 1e-5));

    let target = &graph.node[weighted];
    let weight = *index.constants.get(target.input.get(1)?.as_str())?;
    let channels = scale.len();
    if [&offset, &mean, &variance]
        .iter()
        .any(|values| values.len() != channels)
    {
        return None;
    }
    let channel_of = output_channels(target, weight, channels)?;
    let bias_name = target.input.get(2).filter(|name| !name.is_empty());
    let bias = match bias_name {
        Some(name) => constant(name).filter(|bias| bias.len() == channels)?,
        None => vec![0.0; channels],
    };

    let factor: Vec<f64> = scale
        .iter()
        .zip(&variance)
        .map(|(&scale, &variance)| f64::from(scale) / (f64::from(variance) + epsilon).sqrt())
        .collect();
    let mut values = tensor::floats(weight)?;
    for (position, value) in values.iter_mut().enumerate() {
        *value = (f64::from(*value) * factor[channel_of(position)]) as f32;
    }
    let bias: Vec<f32> = (0..channels)
        .map(|c| ((f64::from(bias[c]) - f64::from(mean[c])) * factor[c] + f64::from(offset[c])) as f32)
        .collect();
    let mut own_name = |name: &str, fallback: &str| match index.read_once(name) {
        true => name.to_owned(),
        false => names.fresh(fallback),
    };
    let weight_name = own_name(weight.name(), &format!("{}_folded", weight.name()));
    let bias_name = match bias_name {
        Some(name) => own_name(name, &format!("{name}_folded")),
        None => names.fresh(&format!("{weight_name}_bias")),
    };
    Some(Fold {
        batch_normalization: position,
        weighted,
        weight: tensor::from_floats(&weight_name, &weight.dims, &values),
        bias: tensor::from_floats(&bias_name, &[channels as i64], &bias),
    })
}

/// Maps a position in a weight to its output channel, where the node makes `channels` of them.
fn output_channels(
    node: &NodeProto,
    weight: &TensorProto,
    channels: usize,
) -> Option<Box<dyn Fn(usize) -> usize>> {
    let dims: Vec<usize> = weight
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<_>>()?;
    let inner = |from: usize| dims[from..].iter().product::<usize>().max(1);
    if is(node, "Conv") && dims.len() >= 3 && dims[0] == channels {
        let length = inner(1);
        return Some(Box::new(move |position| position / length));
    }
    if is(node, "ConvTranspose") && dims.len() >= 3 {
        // [c_in, c_out / group, …]: the input channels of one group make that group's output channels.
        let group = usize::try_from(int(node, "group", 1))
            .ok()
            .filter(|&group| group > 0)?;
        if dims[1].checked_mul(group) != Some(channels) || !dims[0].is_multiple_of(group) {
            return None;
        }
        let (kernel, per_group, inputs) = (inner(2), dims[1], (dims[0] / group).max(1));
        return Some(Box::new(move |position| {
            let (input, output) = (position / (kernel * per_group), position / kernel % per_group);
            input / inputs * per_group + output
        }));
    }
    let plain = float(node, "alpha", 1.0) == 1.0 && float(node, "beta", 1.0) == 1.0;
    if is(node, "Gemm") && plain && dims.len() == 2 {
        let transposed = int(node, "transB", 0) != 0;
        let (outputs, columns) = (dims[usize::from(!transposed)], dims[1].max(1));
        return (outputs == channels).then(|| -> Box<dyn Fn(usize) -> usize> {
            match transposed {
                true => Box::new(move |position| position / columns),
                false => Box::new(move |position| position % columns),
            }
        });
    }
    None
}

/// Multiplies a Gemm's alpha and beta into its constants: quantized kernels have no such factors.
pub(super) fn fold_gemm_factors(graph: &mut GraphProto) {
    let index = Index::new(graph);
    let mut changes = Vec::new();
    for (position, node) in graph.node.iter().enumerate().filter(|(_, node)| is(node, "Gemm")) {
        let factors = [(1, float(node, "alpha", 1.0)), (2, float(node, "beta", 1.0))];
        if attribute(node, "alpha").is_none() && attribute(node, "beta").is_none() {
            continue;
        }
        let scaled: Option<Vec<TensorProto>> = factors
            .iter()
            .filter_map(|&(input, factor)| {
                Some((node.input.get(input).filter(|name| !name.is_empty())?, factor))
            })
            .filter(|&(_, factor)| factor != 1.0)
            .map(|(name, factor)| {
                let constant = *index
                    .constants
                    .get(name.as_str())
                    .filter(|_| index.read_once(name))?;
                let values: Vec<f32> = tensor::floats(constant)?
                    .iter()
                    .map(|value| value * factor)
                    .collect();
                Some(tensor::from_floats(name, &constant.dims, &values))
            })
            .collect();
        changes.extend(scaled.map(|tensors| (position, tensors)));
    }
    for (position, tensors) in changes {
        let attributes = &mut graph.node[position].attribute;
        attributes.retain(|attribute| !matches!(attribute.name(), "alpha" | "beta"));
        tensors
            .into_iter()
            .for_each(|tensor| set_initializer(graph, tensor));
    }
}
