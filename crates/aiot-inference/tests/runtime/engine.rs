//! The engine with a real ONNX Runtime.

use crate::common::{engine, onnx};
use aiot_inference::engine::OLDEST_ENGINE_MINOR_VERSION;
use aiot_inference::{Engine, EngineError, ExecutionProvider, SessionOptions, Tensor};
use aiot_package::Precision;

fn run(name: &str, shape: &[usize], values: Vec<f32>) -> Vec<f32> {
    let mut session = engine()
        .session(&onnx(name), Precision::Float32, &SessionOptions::default())
        .unwrap();
    let mut outputs = session
        .run(&Tensor::new(shape.to_vec(), values).unwrap())
        .unwrap();
    outputs.remove("output").unwrap().into_values()
}

#[test]
fn loading_twice_is_loading_once() {
    let first = engine();
    assert_eq!(engine().path(), first.path());
    let minor: u32 = first.version().strip_prefix("1.").unwrap().parse().unwrap();
    assert!(minor >= OLDEST_ENGINE_MINOR_VERSION, "{}", first.version());
}

#[test]
fn another_library_in_the_same_process_is_refused() {
    let _ = engine();
    let other = std::env::current_exe().unwrap();
    assert!(matches!(
        Engine::load(&other),
        Err(EngineError::AnotherLoaded { .. })
    ));
}

#[test]
fn computes() {
    assert_eq!(
        run(
            "mean-sum",
            &[1, 1, 8],
            vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
        ),
        [4.5, 36.0]
    );
}

#[test]
fn int8_sums_do_not_saturate() {
    // 64 products of 255 and 127 = 2,072,640 = 126.504 × 16,384. Saturating 16-bit sums of pairs would give
    // 64 / 2 × 32,767 = 64 × 16,384.
    assert_eq!(run("int8", &[1, 64], vec![255.0; 64]), [127.0 * 16384.0; 4]);
}

#[test]
fn a_wrong_shape_is_an_error() {
    let mut session = engine()
        .session(&onnx("clip"), Precision::Float32, &SessionOptions::default())
        .unwrap();
    let error = session
        .run(&Tensor::new(vec![1, 8], vec![0.0; 8]).unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the model's input is `input` [1, 1, 8]; got a tensor of shape [1, 8]"
    );
}

#[test]
fn graphs_outside_of_our_scope_are_refused() {
    let open = |onnx: &[u8]| engine().session(onnx, Precision::Float32, &SessionOptions::default());
    assert!(matches!(
        open(&onnx("two-inputs")),
        Err(EngineError::InputCount { count: 2 })
    ));
    assert!(matches!(
        open(b"not a model"),
        Err(EngineError::NoProvider { .. })
    ));
    assert!(matches!(open(b""), Err(EngineError::NoProvider { .. })));
    let whole = onnx("clip");
    for length in 1..whole.len() {
        // Some cuts are models without a graph; none may bring the process down.
        let _ = open(&whole[..length]);
    }
}

#[test]
fn a_fall_back_is_reported_or_refused() {
    use ExecutionProvider::{Cpu, Cuda, Tensorrt};
    let open = |providers: &[ExecutionProvider], require_provider| {
        let options = SessionOptions {
            providers: providers.to_vec(),
            require_provider,
            ..SessionOptions::default()
        };
        engine().session(&onnx("clip"), Precision::Float32, &options)
    };
    // The test library is the one for processors.
    let session = open(&[Tensorrt, Cuda, Cpu], None).unwrap();
    assert_eq!(session.provider_in_use(), Cpu);
    assert_eq!(session.warnings().len(), 2, "{:?}", session.warnings());
    assert!(
        session.warnings()[0].starts_with("tensorrt: "),
        "{:?}",
        session.warnings()
    );
    assert!(open(&[Cpu], Some(Cpu)).unwrap().warnings().is_empty());
    assert!(matches!(open(&[Cuda], None), Err(EngineError::NoProvider { .. })));
    assert!(matches!(
        open(&[Cuda, Cpu], Some(Cuda)),
        Err(EngineError::RequiredProvider { .. })
    ));
    let error = open(&[Cpu], Some(Cuda)).unwrap_err().to_string();
    assert!(error.contains("not among the declared"), "{error}");
}
