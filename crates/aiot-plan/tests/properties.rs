//! Whatever the texts say, nothing panics; what was written comes back as it was.

mod common;

use aiot_package::{Baseline, Bins, Digest, Golden, GoldenCase, Metric, Precision, Statistic, Tolerance};
use aiot_plan::lock::{LOCK_VERSION, Lock, LockedClosure, LockedModel, LockedPackage, LockedWheel};
use aiot_plan::records::{Calibration, Measured, MeasuredFile, Scales, Tried, render_measured};
use aiot_plan::{ModelName, Texts, resolve};
use common::{ENVIRONMENT, MODELS, TARGETS, texts};
use proptest::prelude::*;
use proptest::sample::Index;

/// The declarations of this repository.
const REAL_TARGETS: &str = include_str!("../../../targets.toml");
const REAL_ENVIRONMENTS: [&str; 2] = [
    include_str!("../../../deployments/dev.toml"),
    include_str!("../../../deployments/prod.toml"),
];

/// Resolves and looks at everything that is told, as a terminal would.
fn resolve_and_render(texts: &Texts) {
    if let Err(errors) = resolve(texts) {
        assert!(!errors.is_empty(), "refused without a reason");
        let _ = common::render(&errors);
        let handler = miette::NarratableReportHandler::new();
        for error in errors.iter().take(3) {
            handler
                .render_report(&mut String::new(), error)
                .expect("an error can be shown");
        }
    }
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Edit {
    /// Takes out some characters.
    Cut(Index, usize),
    /// Puts some in.
    Put(Index, String),
    /// Writes one line again somewhere else.
    Repeat(Index, Index),
    /// Replaces the value of a line.
    Value(Index, String),
}

fn edit() -> impl Strategy<Value = Edit> {
    let value = prop_oneof![
        Just("nan"),
        Just("-1"),
        Just("1e999"),
        Just("\"\""),
        Just("[]"),
        Just("{}"),
        Just("true"),
        Just("1979-05-27"),
        Just("99999999999999999999"),
        Just("[[[]]]"),
        Just("\"\\u0000\""),
        Just("'''"),
        Just("{ a.b.c = 1 }"),
    ];
    prop_oneof![
        (any::<Index>(), 1..40usize).prop_map(|(at, count)| Edit::Cut(at, count)),
        (any::<Index>(), ".{0,8}|[\\[\\]{}\"'=.#\\n]{1,4}").prop_map(|(at, text)| Edit::Put(at, text)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Repeat(from, to)),
        (any::<Index>(), value).prop_map(|(line, text)| Edit::Value(line, text.to_owned())),
    ]
}

fn apply(text: &str, edits: &[Edit]) -> String {
    let mut text = text.to_owned();
    for edit in edits {
        let mut characters: Vec<char> = text.chars().collect();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        match edit {
            Edit::Cut(at, count) => {
                let at = at.index(characters.len().max(1)).min(characters.len());
                let end = (at + count).min(characters.len());
                characters.drain(at..end);
                text = characters.into_iter().collect();
            }
            Edit::Put(at, new) => {
                let at = at.index(characters.len() + 1);
                characters.splice(at..at, new.chars());
                text = characters.into_iter().collect();
            }
            Edit::Repeat(from, to) => {
                let line = lines
                    .get(from.index(lines.len().max(1)))
                    .cloned()
                    .unwrap_or_default();
                lines.insert(to.index(lines.len() + 1), line);
                text = lines.join("\n");
            }
            Edit::Value(line, value) => {
                let count = lines.len().max(1);
                if let Some(line) = lines.get_mut(line.index(count))
                    && let Some((key, _)) = line.split_once('=')
                {
                    *line = format!("{key}= {value}");
                }
                text = lines.join("\n");
            }
        }
    }
    text
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(edit(), 0..4)
}

fn finite_f32() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>()
            .prop_map(f32::from_bits)
            .prop_filter("JSON has finite numbers only", |number| number.is_finite()),
        -10.0..10.0f32,
    ]
}

fn finite_f64() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("JSON has finite numbers only", |number| number.is_finite()),
        0.0..1.0f64,
    ]
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z][a-z0-9.+-]{0,12}", ".{0,6}"]
}

fn lock() -> impl Strategy<Value = Lock> {
    let name = "[a-z]{1,8}".prop_map(|name| ModelName::new(&name).expect("a name"));
    let model = (digest(), prop::option::of(digest()), prop::option::of(digest())).prop_map(
        |(source, calibration, measured)| LockedModel {
            source,
            calibration,
            measured,
        },
    );
    let wheel = (word(), word(), word(), word(), 0..1u64 << 62, digest()).prop_map(
        |(package, platform, version, filename, size_bytes, digest)| LockedWheel {
            package,
            platform,
            version,
            filename,
            size_bytes,
            digest,
        },
    );
    let package = (word(), word(), word(), word(), 0..1u64 << 62, digest()).prop_map(
        |(name, version, architecture, filename, size_bytes, digest)| LockedPackage {
            name,
            version,
            architecture,
            filename,
            size_bytes,
            digest,
        },
    );
    let words = || prop::collection::vec(word(), 0..3);
    let closure = (
        word(),
        word(),
        words(),
        words(),
        prop::collection::vec(package, 0..3),
    )
        .prop_map(|(suite, architecture, roots, exclude, package)| LockedClosure {
            suite,
            architecture,
            roots,
            exclude,
            package,
        });
    (
        prop::option::of(word()),
        prop::collection::btree_map(name, model, 0..3),
        prop::collection::vec(wheel, 0..4),
        prop::collection::vec(closure, 0..3),
    )
        .prop_map(|(rustc, model, wheel, debian)| Lock {
            version: LOCK_VERSION,
            rustc,
            model,
            wheel,
            debian,
        })
}

fn measured() -> impl Strategy<Value = Measured> {
    let outputs = prop::collection::btree_map(word(), prop::collection::vec(finite_f32(), 0..5), 0..3);
    let case = (word(), outputs).prop_map(|(file, outputs)| GoldenCase { file, outputs });
    let golden = (finite_f32(), finite_f32(), prop::collection::vec(case, 0..3)).prop_map(
        |(absolute, relative, cases)| Golden {
            tolerance: Tolerance { absolute, relative },
            cases,
        },
    );
    let metric = prop::sample::select(vec![
        Metric::Accuracy,
        Metric::MacroF1,
        Metric::RocAuc,
        Metric::MeanAbsoluteError,
    ]);
    (
        digest(),
        metric,
        finite_f64(),
        0..1usize << 40,
        any::<u64>(),
        golden,
        prop::option::of(baseline()),
    )
        .prop_map(
            |(subject, metric, value, samples, size_bytes, golden, baseline)| Measured {
                subject,
                metric,
                value,
                samples,
                size_bytes,
                golden,
                baseline,
            },
        )
}

fn baseline() -> impl Strategy<Value = Baseline> {
    let edges = prop::collection::vec(finite_f64(), 0..4).prop_map(Bins::Edges);
    let classes = prop::collection::vec(any::<u32>(), 0..4).prop_map(Bins::Classes);
    let counts = prop::collection::vec(any::<u32>(), 0..4);
    let statistic = (word(), edges.boxed().prop_union(classes.boxed()), counts)
        .prop_map(|(name, bins, counts)| Statistic { name, bins, counts });
    (any::<u32>(), prop::collection::vec(statistic, 0..3)).prop_map(|(format_version, statistics)| Baseline {
        format_version,
        statistics,
    })
}

fn measured_file() -> impl Strategy<Value = MeasuredFile> {
    let precision = prop::sample::select(vec![
        Precision::Float32,
        Precision::Float16,
        Precision::Int8,
        Precision::Int8Symmetric,
    ]);
    prop::collection::btree_map(precision, measured(), 0..4)
}

/// Bits: `==` takes 0.0 for -0.0.
fn bits(file: &MeasuredFile) -> Vec<u64> {
    let mut bits = Vec::new();
    for measured in file.values() {
        bits.push(measured.value.to_bits());
        let tolerance = measured.golden.tolerance;
        bits.extend([tolerance.absolute, tolerance.relative].map(|number| u64::from(number.to_bits())));
        let values = measured
            .golden
            .cases
            .iter()
            .flat_map(|case| case.outputs.values().flatten());
        bits.extend(values.map(|value| u64::from(value.to_bits())));
    }
    bits
}

proptest! {
    // The folder is read-only for some who test, and a failure prints its input.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_declarations_do_not_panic(
        models in edits(), targets in edits(), environment in edits(),
        real in any::<bool>(), which in 0..2usize,
    ) {
        let environments = if real { REAL_ENVIRONMENTS[which] } else { ENVIRONMENT };
        resolve_and_render(&texts(
            &apply(MODELS, &models),
            &apply(if real { REAL_TARGETS } else { TARGETS }, &targets),
            &apply(environments, &environment),
        ));
    }

    #[test]
    fn arbitrary_text_does_not_panic(models in any::<String>(), targets in ".{0,200}", name in any::<String>()) {
        let mut texts = texts(&models, &targets, &models);
        texts.environments.insert(name, targets);
        resolve_and_render(&texts);
        let _ = Lock::parse(&models);
        let _ = Calibration::parse(&models);
    }

    #[test]
    fn brackets_and_dots_do_not_panic(text in "([\\[\\]{}=.\"'\\n ,a-c1]|model|target\\.a|input){0,60}") {
        resolve_and_render(&texts(&text, &text, &text));
        let _ = Lock::parse(&text);
    }

    #[test]
    fn a_lock_comes_back(lock in lock()) {
        let text = lock.render();
        let again = Lock::parse(&text).expect("what was rendered can be read");
        prop_assert_eq!(again.render(), text);
        // Rendering sorts, so compare with the same in another order.
        let mut reversed = lock;
        reversed.wheel.reverse();
        reversed.debian.reverse();
        prop_assert_eq!(reversed.render(), again.render());
        prop_assert_eq!(again.model, reversed.model);
    }

    #[test]
    fn a_mutated_lock_does_not_panic(lock in lock(), edits in edits()) {
        let _ = Lock::parse(&apply(&lock.render(), &edits));
    }

    #[test]
    fn measurements_come_back_bit_by_bit(file in measured_file()) {
        let text = render_measured(&file);
        let again: MeasuredFile = serde_json::from_str(&text).expect("what was rendered can be read");
        prop_assert_eq!(bits(&again), bits(&file));
        prop_assert_eq!(render_measured(&again), text);
        for (precision, measured) in &file {
            prop_assert_eq!(again[precision].to_bytes(), measured.to_bytes());
        }
        prop_assert_eq!(again, file);
    }

    #[test]
    fn calibrations_come_back_bit_by_bit(
        subject in digest(),
        samples in 0..1usize << 40,
        ranges in prop::collection::btree_map(any::<String>(), [finite_f32(), finite_f32()], 0..6),
        means in prop::collection::btree_map(any::<String>(), prop::collection::vec(finite_f32(), 0..5), 0..4),
        tried in prop::collection::vec((any::<String>(), -50.0..90.0f64, any::<bool>()), 0..3),
        method in any::<String>(),
    ) {
        let tried = tried.into_iter().map(|(what, sqnr_db, kept)| Tried { what, sqnr_db, drop: Some(0.25), kept });
        let calibration = Calibration {
            subject,
            range_method: method.clone(),
            method,
            engine: "1.32.0".to_owned(),
            samples,
            scales: if samples % 3 == 0 { Scales::Dynamic } else { Scales::Static },
            equalized: samples % 2 == 0,
            permuted: samples % 5 == 0,
            float_nodes: means.keys().cloned().collect(),
            made_from: means.keys().map(|name| (name.clone(), subject)).collect(),
            tried: tried.collect(),
            ranges,
            channel_factors: means.clone(),
            means,
        };
        let again = Calibration::parse(&calibration.render()).expect("what was rendered can be read");
        let bits = |calibration: &Calibration| -> Vec<u32> {
            let means = calibration.means.values().flatten();
            calibration.ranges.values().flatten().chain(means).map(|number| number.to_bits()).collect()
        };
        prop_assert_eq!(&again, &calibration);
        prop_assert_eq!(bits(&again), bits(&calibration));
        prop_assert_eq!(again.render(), calibration.render());
        prop_assert_eq!(again, calibration);
    }
}

#[test]
fn floats_next_to_where_rounding_turns_come_back() {
    // Powers of two, where the spacing changes, and their neighbours; and one whose shortest digits give another
    // number when they are read as f64 first.
    let numbers: Vec<f32> = (0..254u32)
        .flat_map(|exponent| [exponent << 23, (exponent << 23) + 1, ((exponent + 1) << 23) - 1])
        .chain([0x15ae_43fd])
        .map(f32::from_bits)
        .chain([
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            -0.0,
            1.0 / 255.0,
            16_777_216.0,
        ])
        .collect();
    let text = serde_json::to_string(&numbers).unwrap();
    let again: Vec<f32> = serde_json::from_str(&text).unwrap();
    for (number, again) in numbers.iter().zip(&again) {
        assert_eq!(number.to_bits(), again.to_bits(), "{number:e}");
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    const DEPTH: usize = 20_000;
    let dotted = format!("{}a = 1", "a.".repeat(DEPTH));
    let header = format!("[{}a]", "a.".repeat(DEPTH));
    let arrays = format!("a = {}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let tables = format!("a = {}1{}", "{ a = ".repeat(DEPTH), " }".repeat(DEPTH));
    let desired = format!("{MODELS}\n[model.digits.edge.desired]\n{dotted}\n");
    for text in [dotted, header, arrays, tables, desired] {
        assert!(resolve(&texts(&text, TARGETS, ENVIRONMENT)).is_err());
        assert!(resolve(&texts(MODELS, &text, &text)).is_err());
        assert!(Lock::parse(&text).is_err());
    }
}

#[test]
fn many_errors_are_cut_off() {
    let many: String = (0..1000).map(|n| format!("[model.m{n}]\nwrong = 1\n")).collect();
    let errors = resolve(&texts(&many, TARGETS, ENVIRONMENT)).unwrap_err();
    assert_eq!(errors.len(), 50);
}
