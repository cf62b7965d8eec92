//! What a version of ONNX Runtime takes.
//!
//! The limits were measured: for each release a one-node model was loaded at every opset and IR version (default
//! session options, CPU provider, wheels of 1.19.2 to 1.32.0). 1.17 and 1.18 are from the runtime's compatibility
//! table. A file at a limit loads; whether every operator of that opset has a kernel is not said here.

use std::fmt;

use crate::inspect::ModelFacts;
use crate::operators;

/// The newest of everything that one minor version of ONNX Runtime loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// N of onnxruntime 1.N.
    pub minor: u32,
    /// Newest opset of the default domain.
    pub opset: i64,
    /// Newest IR version.
    pub ir_version: i64,
    /// Newest opset of `ai.onnx.ml`.
    pub ml_opset: i64,
}

const fn limits(minor: u32, opset: i64, ir_version: i64, ml_opset: i64) -> EngineLimits {
    EngineLimits {
        minor,
        opset,
        ir_version,
        ml_opset,
    }
}

/// The first version with each set of limits, oldest first.
const LIMITS: &[EngineLimits] = &[
    limits(17, 20, 9, 4),
    limits(18, 21, 10, 4),
    limits(19, 21, 10, 5),
    limits(21, 22, 10, 5),
    limits(23, 23, 11, 5),
    limits(24, 25, 13, 5),
    limits(25, 26, 13, 5),
    limits(32, 28, 14, 5),
];

/// The limits of onnxruntime 1.`minor`, `None` before 1.17, which the modules cannot run. A version newer than the
/// table gets the limits of the newest known one: the runtime never drops an opset.
pub fn engine_limits(minor: u32) -> Option<EngineLimits> {
    let known = LIMITS.iter().rev().find(|limits| limits.minor <= minor)?;
    Some(EngineLimits { minor, ..*known })
}

/// Why an engine cannot take a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The engine is older than any that is supported.
    EngineTooOld {
        /// N of onnxruntime 1.N.
        minor: u32,
    },
    /// The file format is newer than the engine.
    IrVersion {
        /// The model's.
        ir_version: i64,
        /// The engine's newest.
        newest: i64,
    },
    /// An imported opset is newer than the engine.
    Opset {
        /// Its domain, empty for the default one.
        domain: String,
        /// The model's.
        opset: i64,
        /// The engine's newest.
        newest: i64,
    },
    /// Nodes of a domain that the engine's official build does not have.
    UnknownDomain {
        /// The domain.
        domain: String,
        /// The operators used from it.
        operators: Vec<String>,
    },
    /// An operator that the model's own opset does not have.
    UnknownOperator {
        /// The operator.
        operator: String,
        /// The opset in which it appeared, `None` for a name that ONNX does not have.
        introduced: Option<i64>,
        /// The model's opset.
        opset: i64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::EngineTooOld { minor } => {
                write!(
                    f,
                    "onnxruntime 1.{minor} is older than 1.17, the oldest that the modules can use"
                )
            }
            Problem::IrVersion { ir_version, newest } => {
                write!(f, "IR version {ir_version} is newer than the engine's {newest}")
            }
            Problem::Opset {
                domain,
                opset,
                newest,
            } => {
                let domain = if domain.is_empty() { "ai.onnx" } else { domain };
                write!(f, "opset {opset} of {domain} is newer than the engine's {newest}")
            }
            Problem::UnknownDomain { domain, operators } => {
                write!(
                    f,
                    "the engine has no domain {domain} (used by {})",
                    operators.join(", ")
                )
            }
            Problem::UnknownOperator {
                operator,
                introduced: Some(introduced),
                opset,
            } => {
                write!(
                    f,
                    "{operator} appeared in opset {introduced}, the model imports opset {opset}"
                )
            }
            Problem::UnknownOperator {
                operator,
                introduced: None,
                ..
            } => {
                write!(f, "ONNX has no operator {operator}")
            }
        }
    }
}

/// Everything that keeps onnxruntime 1.`minor` from taking a model; empty when nothing is known to.
pub fn problems(facts: &ModelFacts, minor: u32) -> Vec<Problem> {
    let Some(limits) = engine_limits(minor) else {
        return vec![Problem::EngineTooOld { minor }];
    };
    let mut problems = Vec::new();
    if facts.ir_version > limits.ir_version {
        problems.push(Problem::IrVersion {
            ir_version: facts.ir_version,
            newest: limits.ir_version,
        });
    }
    let mut foreign: Vec<(&str, Vec<String>)> = Vec::new();
    for used in facts.operators.iter().filter(|used| !used.is_function) {
        match used.domain.as_str() {
            "" => {
                let introduced = operators::introduced(&used.operator);
                if introduced.is_none_or(|introduced| introduced > facts.opset) {
                    let operator = used.operator.clone();
                    problems.push(Problem::UnknownOperator {
                        operator,
                        introduced,
                        opset: facts.opset,
                    });
                }
            }
            "ai.onnx.ml" | "com.microsoft" => {}
            domain => match foreign.last_mut() {
                Some((last, operators)) if *last == domain => operators.push(used.operator.clone()),
                _ => foreign.push((domain, vec![used.operator.clone()])),
            },
        }
    }
    for (domain, &opset) in &facts.opsets {
        let newest = match domain.as_str() {
            "" => limits.opset,
            "ai.onnx.ml" => limits.ml_opset,
            _ => continue,
        };
        if opset > newest {
            problems.push(Problem::Opset {
                domain: domain.clone(),
                opset,
                newest,
            });
        }
    }
    problems.extend(
        foreign
            .into_iter()
            .map(|(domain, operators)| Problem::UnknownDomain {
                domain: domain.to_owned(),
                operators,
            }),
    );
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::inspect::OperatorUse;

    fn check(ir_version: i64, opset: i64, used: &[(&str, &str)], minor: u32, expected: &[&str]) {
        let operators = used
            .iter()
            .map(|&(domain, operator)| OperatorUse {
                domain: domain.to_owned(),
                operator: operator.to_owned(),
                count: 1,
                is_function: domain == "local",
            })
            .collect();
        let facts = ModelFacts {
            ir_version,
            opset,
            opsets: BTreeMap::from([(String::new(), opset), ("ai.onnx.ml".to_owned(), 5)]),
            operators,
            parameters: 0,
            weight_bytes: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let got: Vec<String> = problems(&facts, minor).iter().map(Problem::to_string).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn limits_hold_from_their_first_version_on() {
        for (minor, expected) in [
            (16, None),
            (17, Some((20, 9))),
            (20, Some((21, 10))),
            (21, Some((22, 10))),
        ] {
            assert_eq!(
                engine_limits(minor).map(|limits| (limits.opset, limits.ir_version)),
                expected
            );
        }
        assert_eq!(engine_limits(31).map(|limits| limits.opset), Some(26));
        assert_eq!(
            engine_limits(99).map(|limits| (limits.minor, limits.opset)),
            Some((99, 28))
        );
    }

    #[test]
    fn problems_are_named() {
        check(
            8,
            17,
            &[("", "Conv"), ("com.microsoft", "QLinearAdd"), ("local", "Mine")],
            21,
            &[],
        );
        check(10, 22, &[], 21, &[]);
        check(
            11,
            23,
            &[],
            21,
            &[
                "IR version 11 is newer than the engine's 10",
                "opset 23 of ai.onnx is newer than the engine's 22",
            ],
        );
        check(
            8,
            17,
            &[("", "Gelu"), ("", "Nope")],
            21,
            &[
                "Gelu appeared in opset 20, the model imports opset 17",
                "ONNX has no operator Nope",
            ],
        );
        check(
            8,
            17,
            &[("a.b", "X"), ("a.b", "Y"), ("c", "Z")],
            32,
            &[
                "the engine has no domain a.b (used by X, Y)",
                "the engine has no domain c (used by Z)",
            ],
        );
        check(
            8,
            17,
            &[],
            18,
            &["opset 5 of ai.onnx.ml is newer than the engine's 4"],
        );
        check(
            8,
            17,
            &[],
            12,
            &["onnxruntime 1.12 is older than 1.17, the oldest that the modules can use"],
        );
    }
}
