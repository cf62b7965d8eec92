//! Libraries that are no usable engine. A process of its own: another engine may not be loaded in it before.

use std::path::Path;
use std::process::Command;

use aiot_inference::{Engine, EngineError};

fn load(path: &Path) -> EngineError {
    Engine::load(path).unwrap_err()
}

#[test]
fn unusable_libraries_are_named_and_do_not_crash() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    assert!(matches!(
        load(&folder.path().join("absent.so")),
        EngineError::Missing { .. }
    ));
    assert!(matches!(load(folder.path()), EngineError::Damaged { .. }));

    let engine = std::env::var_os("AIOT_TEST_ENGINE").expect("set AIOT_TEST_ENGINE to a libonnxruntime.so");
    let whole = std::fs::read(engine).unwrap();
    for length in [0, 10, 64, 5_000, whole.len() / 2, whole.len() * 9 / 10] {
        let error = load(&file("cut.so", &whole[..length]));
        assert!(matches!(error, EngineError::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains("cut.so"), "{error}");
    }

    // A library that is none of ONNX Runtime, and one that is too old: made with the compiler that links our tests.
    for (name, source, expected) in [
        ("other.so", "int answer(void) { return 42; }", "OrtGetApiBase"),
        (
            "old.so",
            "static const void *get(unsigned v) { (void)v; return 0; }
             static const char *version(void) { return \"1.20.1\"; }
             static struct { const void *(*get)(unsigned); const char *(*version)(void); } base = { get, version };
             const void *OrtGetApiBase(void) { return &base; }",
            "is ONNX Runtime 1.20.1; 1.21 or newer is needed",
        ),
    ] {
        let source = file(&format!("{name}.c"), source.as_bytes());
        let library = folder.path().join(name);
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        assert!(compiled.unwrap().success(), "{name}");
        let error = load(&library).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}
