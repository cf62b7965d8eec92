use super::*;

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
