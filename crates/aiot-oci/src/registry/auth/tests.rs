use super::*;
use proptest::prelude::*;

fn bearer(realm: &str, service: Option<&str>) -> Challenge {
    Challenge::Bearer {
        realm: realm.to_owned(),
        service: service.map(str::to_owned),
    }
}

#[test]
fn challenges_are_understood() {
    let check =
        |header: &str, expected: &[Challenge]| assert_eq!(parse_challenges(header), expected, "{header}");
    check("Basic realm=\"r\"", &[Challenge::Basic]);
    check("basic", &[Challenge::Basic]);
    check(
        "Bearer realm=\"https://a.example/token\",service=\"s.example\",scope=\"repository:a:pull,push\"",
        &[bearer("https://a.example/token", Some("s.example"))],
    );
    check(
        "Bearer realm=https://a.example/t , service = s",
        &[bearer("https://a.example/t", Some("s"))],
    );
    check("Bearer service=\"s\"", &[]);
    check(
        "Negotiate, Basic realm=\"x, y=\\\"z\", Bearer realm=\"r\"",
        &[Challenge::Basic, bearer("r", None)],
    );
    check("", &[]);
    check("=x", &[]);
    check("Bearer realm=\"unterminated", &[bearer("unterminated", None)]);
    let both = ["Basic realm=\"r\"".to_owned(), "Bearer realm=\"r\"".to_owned()];
    assert_eq!(choose(&both), Some(bearer("r", None)));
    assert_eq!(choose(&[]), None);
}

#[test]
fn scopes_name_what_is_wanted() {
    let repository: Repository = "r.example/a/b".parse().unwrap();
    assert_eq!(Access::pull(&repository).scopes(), ["repository:a/b:pull"]);
    let mount = Access {
        mount_from: Some("c".into()),
        ..Access::push(&repository)
    };
    assert_eq!(mount.scopes(), ["repository:a/b:pull,push", "repository:c:pull"]);
}

#[test]
fn secrets_do_not_show() {
    assert_eq!(basic("user", "pass"), "Basic dXNlcjpwYXNz");
    assert!(!format!("{:?}", basic("user", "pass")).contains("dXNl"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_never_panics_and_ends(header in "[ -~ä\"=,\\\\]{0,60}") {
        let _ = parse_challenges(&header);
    }
}
