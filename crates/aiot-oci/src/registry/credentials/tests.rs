use super::*;
use proptest::prelude::*;
use std::os::unix::process::ExitStatusExt as _;

fn config(text: &str) -> ConfigFile {
    serde_json::from_str(text).unwrap()
}

#[test]
fn logins_are_found_by_host() {
    let check = |text: &str, registry: &str, expected: Option<(&str, &str)>| {
        let expected = expected.map(|(username, password)| login(username, password));
        assert!(config(text).login(registry) == expected, "{text} {registry}");
    };
    let one = r#"{"auths":{"r.example:5000":{"auth":"dXNlcjpwYTpzcw=="}}}"#;
    check(one, "r.example:5000", Some(("user", "pa:ss")));
    check(one, "r.example", None);
    check(one, "r.example:50001", None);
    let hub = r#"{"auths":{"https://index.docker.io/v1/":{"username":"u","password":"p"}}}"#;
    check(hub, "docker.io", Some(("u", "p")));
    check(hub, "index.docker.io.evil.example", None);
    let azure = r#"{"auths":{"a.example":{"auth":"MDA6","identitytoken":"t"}}}"#;
    check(azure, "a.example", Some((IDENTITY_TOKEN_USER, "t")));
    for broken in ["!!", "dXNlcg==", "OnBhc3M=", "/w=="] {
        check(
            &format!(r#"{{"auths":{{"r.example":{{"auth":"{broken}"}}}}}}"#),
            "r.example",
            None,
        );
    }
}

#[test]
fn helpers_are_chosen_by_registry() {
    let file = config(
        r#"{"auths":{"https://s.example/v2/":{}},"credHelpers":{"r.example":"special"},"credsStore":"all"}"#,
    );
    assert_eq!(file.helper("r.example"), Some(("special", "r.example")));
    assert_eq!(file.helper("s.example"), Some(("all", "https://s.example/v2/")));
    assert_eq!(file.helper("x.example"), Some(("all", "x.example")));
    assert_eq!(config("{}").helper("r.example"), None);
}

#[test]
fn nothing_secret_shows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    assert!(Credentials::from_files(std::slice::from_ref(&path)).is_ok());
    std::fs::write(&path, r#"{"auths": {"r.example": {"auth": secret"#).unwrap();
    let error = Credentials::from_files(std::slice::from_ref(&path))
        .unwrap_err()
        .to_string();
    assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
    let credentials = Credentials::anonymous().with_password("r.example", "user", "secret");
    assert_eq!(format!("{credentials:?}"), "Credentials(1 registries, 0 files)");
}

#[test]
fn a_missing_helper_is_told_only_when_it_matters() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let file = config(r#"{"credsStore":"of-a-program-that-is-not-there"}"#);
    let credentials = Credentials {
        logins: BTreeMap::new(),
        files: Arc::new(vec![file]),
    };
    let found = runtime.block_on(credentials.look_up("r.example"));
    assert!(found.login.is_none());
    assert!(
        found
            .explain("refused")
            .contains("docker-credential-of-a-program-that-is-not-there failed")
    );
    assert!(runtime.block_on(ask_helper("../../bin/sh", "r.example")).is_err());
}

#[test]
fn a_helper_has_no_more_than_its_time() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ask = |script: &str, timeout: Duration| {
        let mut helper = Command::new("sh");
        helper.args(["-c", script]);
        runtime.block_on(converse(helper, "r.example", timeout))
    };
    // As long as it answers and ends, a slow one is waited for: its end, not only that of its answer.
    let (status, answer) = ask("cat; exec >&-; sleep 0.2; exit 3", Duration::from_secs(60)).unwrap();
    assert_eq!((status.code(), answer.as_slice()), (Some(3), &b"r.example"[..]));
    let hanging = [
        "exec sleep 600",
        // Answers, and goes on.
        "exec >&-; exec sleep 600",
        // Ends, and leaves a program behind that holds the pipe.
        "sleep 5 & echo answer",
    ];
    for script in hanging {
        let error = ask(script, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error, "it did not answer and end within 300ms", "{script}");
    }
}

/// Damage to a text: at each place, another byte, or the end.
fn damaged(text: &str, flips: &[(prop::sample::Index, u8)], end: prop::sample::Index) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (place, byte) in flips {
        let place = place.index(bytes.len());
        bytes[place] = *byte;
    }
    bytes.truncate(end.index(bytes.len() + 40).min(bytes.len()));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_config_files_and_answers_never_panic_and_never_show(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
        status in 0..2i32,
    ) {
        let text = r#"{"auths":{"r.example":{"auth":"dXNlcjpzZXNhbWU=","identitytoken":"sesame"},
            "https://index.docker.io/v1/":{"username":"u","password":"sesame"}},
            "credHelpers":{"h.example":"special"},"credsStore":"all"}"#;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, damaged(text, &flips, end)).unwrap();
        match Credentials::from_files(&[path]) {
            Ok(credentials) => {
                for file in credentials.files.iter() {
                    for registry in ["r.example", "docker.io", "h.example", ""] {
                        file.login(registry);
                        file.helper(registry);
                    }
                }
            }
            Err(error) => prop_assert!(!error.to_string().contains("sesame"), "{error}"),
        }
        let answer = r#"{"ServerURL":"https://r.example","Username":"ann","Secret":"sesame"}"#;
        let status = std::process::ExitStatus::from_raw(status << 8);
        if let Err(error) = read_answer(status, &damaged(answer, &flips, end)) {
            prop_assert!(!error.contains("sesame"), "{error}");
        }
    }
}

#[test]
fn answers_of_helpers() {
    let check = |status: i32, answer: &str, expected: Result<Option<(&str, &str)>, &str>| {
        let found = read_answer(std::process::ExitStatus::from_raw(status << 8), answer.as_bytes());
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                assert!(
                    found == expected.map(|(user, secret)| login(user, secret)),
                    "{answer}"
                );
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            _ => panic!("{status} {answer}"),
        }
    };
    check(0, r#"{"Username":"u","Secret":"s"}"#, Ok(Some(("u", "s"))));
    check(
        0,
        r#"{"Username":"<token>","Secret":"s"}"#,
        Ok(Some(("<token>", "s"))),
    );
    check(0, r#"{"Username":"u","Secret":""}"#, Ok(None));
    check(0, "{}", Err("no credential"));
    check(0, "", Err("no credential"));
    check(1, "credentials not found in native keychain", Ok(None));
    check(1, "error: sesame", Err("it ended with"));
    // What is read of an answer is cut, and what is cut is no credential.
    let endless = format!("{{\"Username\":\"u\",\"Secret\":\"{}", "s".repeat(70_000));
    check(0, &endless, Err("no credential"));
}
