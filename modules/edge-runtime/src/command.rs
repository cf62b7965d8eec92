//! The command line. Small enough to be read by hand: a parsing library would be a third of the binary.

use std::path::PathBuf;

/// What the module shall do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Version,
    Predict(Vec<String>),
    SelfTest,
    Serve,
    Health,
}

/// Values that the command line sets above the environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    pub(crate) model_dir: Option<PathBuf>,
    pub(crate) engine_library: Option<PathBuf>,
    pub(crate) http_address: Option<String>,
    pub(crate) metrics_address: Option<String>,
}

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    pub(crate) overrides: Overrides,
}

pub(crate) fn help(name: &str) -> String {
    format!(
        "\
{name}: serves the model package in an image

  {name} [serve]            HTTP service until SIGTERM (also without a command)
  {name} predict FILE…      one JSON line per picture or window on stdout
  {name} self-test          replay the package's golden inputs
  {name} health             whether the service on this machine is ready

  --model DIR         model package        AIOT_MODEL_DIR         /model
  --engine LIBRARY    ONNX Runtime         AIOT_ENGINE_LIBRARY    /usr/lib/libonnxruntime.so
  --http ADDRESS      HTTP service         AIOT_HTTP_ADDRESS      0.0.0.0:8080
  --metrics ADDRESS   Prometheus metrics   AIOT_METRICS_ADDRESS   0.0.0.0:9600
                      silent clients, s    AIOT_HTTP_TIMEOUT_S    10
                      tried in this order  AIOT_EXECUTION_PROVIDERS  cpu (tensorrt,cuda,cpu)
                      no other will do     AIOT_REQUIRE_PROVIDER  (none)
                      engine threads       AIOT_INTRA_THREADS     1 (0 = all cores)

Exit codes: 0 done; 1 an input failed or not ready; 2 wrong usage; 3 engine or package unusable;
4 the self-test found other outputs than the build.
"
    )
}

pub(crate) fn parse(arguments: &[String]) -> Result<Invocation, String> {
    let mut overrides = Overrides::default();
    let mut words: Vec<String> = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            words.extend(rest.by_ref().cloned());
            break;
        }
        if !argument.starts_with("--") {
            words.push(argument.clone());
            continue;
        }
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        match flag {
            "--help" => {
                return Ok(Invocation {
                    command: Command::Help,
                    overrides,
                });
            }
            "--version" => {
                return Ok(Invocation {
                    command: Command::Version,
                    overrides,
                });
            }
            "--model" | "--engine" | "--http" | "--metrics" => {}
            _ => return Err(format!("unknown option `{flag}`; `--help` lists all")),
        }
        let value = inline
            .or_else(|| rest.next().cloned())
            .ok_or_else(|| format!("option `{flag}` needs a value"))?;
        match flag {
            "--model" => overrides.model_dir = Some(value.into()),
            "--engine" => overrides.engine_library = Some(value.into()),
            "--http" => overrides.http_address = Some(value),
            _ => overrides.metrics_address = Some(value),
        }
    }
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_else(|| "serve".to_owned());
    let files: Vec<String> = words.collect();
    let command = match name.as_str() {
        "predict" if files.is_empty() => return Err("`predict` needs at least one file".to_owned()),
        "predict" => Command::Predict(files),
        _ if !files.is_empty() => {
            return Err(format!(
                "`{name}` takes no arguments; `--help` lists all commands"
            ));
        }
        "self-test" => Command::SelfTest,
        "serve" => Command::Serve,
        "health" => Command::Health,
        "help" => Command::Help,
        _ => {
            return Err(format!(
                "unknown command `{name}`; known are serve, predict, self-test, health"
            ));
        }
    };
    Ok(Invocation { command, overrides })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn commands() {
        let predict = |files: &[&str]| Command::Predict(files.iter().map(|file| file.to_string()).collect());
        for (line, expected) in [
            ("", Command::Serve),
            ("serve", Command::Serve),
            ("self-test", Command::SelfTest),
            ("health", Command::Health),
            ("predict a.png b.png", predict(&["a.png", "b.png"])),
            ("predict -- --odd.png", predict(&["--odd.png"])),
            ("predict x --help", Command::Help),
            ("--version", Command::Version),
        ] {
            assert_eq!(parsed(line).unwrap().command, expected, "{line}");
        }
    }

    #[test]
    fn options_stand_anywhere() {
        let overrides = parsed("--model=m predict --engine e.so a --http 1.2.3.4:5")
            .unwrap()
            .overrides;
        assert_eq!(overrides.model_dir, Some("m".into()));
        assert_eq!(overrides.engine_library, Some("e.so".into()));
        assert_eq!(overrides.http_address.as_deref(), Some("1.2.3.4:5"));
        assert_eq!(overrides.metrics_address, None);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("predict", "at least one file"),
            ("serve now", "takes no arguments"),
            ("dance", "unknown command `dance`"),
            ("--model", "needs a value"),
            ("--colour=red", "unknown option `--colour`"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
