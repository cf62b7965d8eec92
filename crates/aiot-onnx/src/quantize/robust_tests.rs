//! Sound nets with a few things changed, as a hand or a faulty exporter changes them, through everything that the crate
//! does to a model. Changed bytes hardly ever get past the reader; these do.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use super::operator_tests::{bends, decoder, series, switches};
use super::reference_tests::nets;
use super::*;
use crate::proto::{ModelProto, TensorProto};
use crate::ranges::Range;
use crate::{
    channel_factors, equalize, exactness, initializers_by_size, inspect, prepare, problems, scale_channels,
    tensor, to_float16,
};

const OPERATORS: [&str; 26] = [
    "Add",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Dropout",
    "Flatten",
    "GRU",
    "Gather",
    "Gemm",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "If",
    "LSTM",
    "LayerNormalization",
    "MatMul",
    "Mul",
    "Pad",
    "ReduceMean",
    "Relu",
    "Resize",
    "Split",
    "BatchNormalization",
];
const NUMBERS: [i64; 8] = [0, 1, 2, 3, -1, 1 << 40, i64::MAX, i64::MIN];
const FLOATS: [f32; 7] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    f32::MAX,
    -1e30,
    1e-42,
];

/// One change: what, where, and what to.
type Change = (u8, Index, Index, Index);

fn changed(mut proto: ModelProto, changes: &[Change]) -> ModelProto {
    let names: Vec<String> = {
        let graph = proto.graph.as_ref().unwrap();
        let made = graph.node.iter().flat_map(|node| &node.output).cloned();
        let given = graph.initializer.iter().map(|tensor| tensor.name().to_owned());
        made.chain(given).chain(["x".to_owned(), String::new()]).collect()
    };
    for (what, place, part, value) in changes {
        let opset = &mut proto.opset_import[0];
        let graph = proto.graph.as_mut().unwrap();
        let node_place = place.index(graph.node.len().max(1));
        let tensor_place = place.index(graph.initializer.len().max(1));
        let (node, constant) = (
            graph.node.get_mut(node_place),
            graph.initializer.get_mut(tensor_place),
        );
        match (what % 10, node, constant) {
            (0, Some(node), _) => node.op_type = Some(value.get(&OPERATORS).to_string()),
            (1, Some(node), _) if !node.input.is_empty() => {
                *part.get_mut(&mut node.input) = value.get(&names).clone();
            }
            (2, Some(node), _) if !node.input.is_empty() => {
                node.input.truncate(part.index(node.input.len()));
            }
            (3, Some(node), _) if !node.attribute.is_empty() => {
                let attribute = part.get_mut(&mut node.attribute);
                attribute.i = attribute.i.map(|_| *value.get(&NUMBERS));
                if !attribute.ints.is_empty() {
                    *value.get_mut(&mut attribute.ints) = *place.get(&NUMBERS);
                }
            }
            (4, Some(node), _) if !node.attribute.is_empty() => {
                node.attribute.remove(part.index(node.attribute.len()));
            }
            (5, Some(node), _) => node.output.push(value.get(&names).clone()),
            (6, _, Some(constant)) => reshape(constant, value),
            (7, _, Some(constant)) => {
                if let Some(mut numbers) = tensor::floats(constant).filter(|numbers| !numbers.is_empty()) {
                    *part.get_mut(&mut numbers) = *value.get(&FLOATS);
                    *constant = tensor::from_floats(constant.name(), &constant.dims.clone(), &numbers);
                }
            }
            (8, _, _) => opset.version = Some(part.index(30) as i64),
            (9, _, Some(constant)) => constant.name = Some(value.get(&names).clone()),
            _ => {}
        }
    }
    proto
}

/// Other dims for the same numbers, or none of them.
fn reshape(constant: &mut TensorProto, value: &Index) {
    let count = constant.dims.iter().product::<i64>();
    let turned: Vec<i64> = constant.dims.iter().rev().copied().collect();
    let forms = [
        vec![count],
        vec![1, count],
        vec![count, 1, 1],
        vec![1, 1, count, 1],
        [&turned[..], &[1]].concat(),
        turned,
        vec![0, 3],
        vec![],
    ];
    constant.dims.clone_from(value.get(&forms));
    if constant.dims.contains(&0) {
        constant.raw_data = Some(Vec::new().into());
    }
}

/// Everything that the crate does to a model; whatever comes out must be sound.
fn exercise(model: &Model, range: Range, float_node: Index) {
    let sound = |model: &Model| assert_eq!(&Model::parse(model.to_bytes()).unwrap(), model);
    problems(&inspect(model), 21);
    initializers_by_size(model);
    let Ok(prepared) = prepare(model) else { return };
    sound(&prepared);
    let tensors = calibration_tensors(&prepared);
    if let Ok(shown) = with_outputs(&prepared, &tensors) {
        sound(&shown);
    }
    is_sequence_model(&prepared);
    let ranges: Ranges = {
        let mut ranges = Ranges::new();
        tensors.iter().for_each(|name| ranges.insert(name.clone(), range));
        ranges
    };
    let input_means: BTreeMap<String, Vec<f32>> = input_channels(&prepared)
        .into_keys()
        .map(|name| (name, vec![0.5; 8]))
        .collect();
    let names: Vec<String> = prepared
        .graph()
        .node
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    let even = equalize(&prepared).unwrap();
    sound(&even);
    let largest = input_means.clone();
    let factors = channel_factors(&prepared, &largest);
    sound(&scale_channels(&prepared, &factors).unwrap());
    for activations in [Activations::U8Asymmetric, Activations::S8Symmetric] {
        for granularity in [Granularity::PerTensor, Granularity::PerChannel] {
            let options = StaticOptions {
                granularity,
                input_means: input_means.clone(),
                permuted: granularity == Granularity::PerChannel,
                float_nodes: names
                    .get(float_node.index(names.len() + 1))
                    .cloned()
                    .into_iter()
                    .collect(),
                ..StaticOptions::new(activations)
            };
            if let Ok((quantized, _)) = quantize_static(&even, &ranges, &options) {
                sound(&quantized);
                exactness(&quantized);
            }
        }
    }
    let others = [
        quantize_dynamic(&prepared).map(|(model, _)| model).ok(),
        quantize_weights(&prepared, WeightBits::Eight)
            .map(|(model, _)| model)
            .ok(),
        quantize_weights(&prepared, WeightBits::Four)
            .map(|(model, _)| model)
            .ok(),
        to_float16(&prepared).ok(),
    ];
    others.iter().flatten().for_each(sound);
}

proptest! {
    // The same cases each time, so that a change is blamed only for its own faults. More by hand: another seed.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::with_cases(5000)
    })]

    #[test]
    fn changed_nets_never_panic_and_what_comes_out_is_sound(
        net in 0usize..8,
        changes in prop::collection::vec(any::<Change>(), 0..5),
        ends in (0usize..FLOATS.len(), 0usize..FLOATS.len(), any::<bool>()),
        float_node in any::<Index>(),
    ) {
        let builders = nets().map(|(_, builder)| builder).into_iter();
        let builder = builders.chain([decoder(), series(), switches(), bends()]).nth(net).unwrap();
        let range = match ends {
            (_, _, true) => Range { min: -1.0, max: 2.0 },
            (min, max, false) => Range { min: FLOATS[min], max: FLOATS[max] },
        };
        if let Ok(model) = Model::from_proto(changed(builder.proto(), &changes)) {
            exercise(&model, range, float_node);
        }
    }
}
