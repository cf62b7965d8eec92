use super::*;

#[test]
fn pauses_grow_and_end() {
    let policy = RetryPolicy {
        attempts: 9,
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(10),
    };
    let pause = |tried, retry, random| Backoff { policy, tried }.pause(retry, random).as_millis();
    assert_eq!(pause(1, Retry::Later, 0), 1_000);
    assert_eq!(pause(3, Retry::Later, 0), 4_000);
    assert_eq!(pause(3, Retry::Later, u16::MAX), 2_000);
    assert_eq!(pause(9, Retry::Later, 0), 10_000);
    assert_eq!(pause(1, Retry::After(Duration::from_secs(5)), 0), 5_000);
    assert_eq!(pause(1, Retry::After(Duration::from_secs(900)), 0), 10_000);
}

#[test]
fn messages_are_one_short_line() {
    assert_eq!(
        error_message(br#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#),
        "DENIED no; X"
    );
    assert_eq!(error_message(b"<html>\n\x1b[31mno"), "<html>  [31mno");
    assert_eq!(error_message(&b"\xc3\xa4".repeat(1000)).len(), 500);
    assert_eq!(error_message(b""), "");
}

#[test]
fn addresses() {
    let client = RegistryClient::new(super::super::ClientOptions {
        plain_http: ["lab.example:80".to_owned()].into(),
        ..Default::default()
    });
    let check = |repository: &str, expected: &str| {
        assert_eq!(
            client
                .url(&repository.parse().unwrap(), "tags/list")
                .unwrap()
                .as_str(),
            expected
        );
    };
    check("r.example/a/b", "https://r.example/v2/a/b/tags/list");
    check("localhost:5000/a", "http://localhost:5000/v2/a/tags/list");
    check("127.0.0.1:5000/a", "http://127.0.0.1:5000/v2/a/tags/list");
    check("[::1]:5000/a", "http://[::1]:5000/v2/a/tags/list");
    check("lab.example:80/a", "http://lab.example/v2/a/tags/list");
    check("lab.example:81/a", "https://lab.example:81/v2/a/tags/list");
    check(
        "localhost.evil.example/a",
        "https://localhost.evil.example/v2/a/tags/list",
    );
    check(
        "docker.io/library/debian",
        "https://registry-1.docker.io/v2/library/debian/tags/list",
    );
    let url = Url::parse("https://user:secret@r.example:1/p?token=secret#x").unwrap();
    assert_eq!(shown(&url), "https://r.example:1/p");
}
