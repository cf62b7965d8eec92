//! Image references as the edge agent takes them.
//!
//! Its pattern allows one colon after the last slash: `name:tag` and `name@sha256:…` pass, `name:tag@sha256:…` does
//! not (edge agent, `DockerConfig.cs`).

use aiot_package::Digest;

use crate::error::Problem;

/// `registry[:port]/path/name`, lower case, without tag or digest.
pub(crate) fn is_repository(text: &str) -> bool {
    let component = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    };
    let (first, rest) = text
        .split_once('/')
        .map_or((text, None), |(first, rest)| (first, Some(rest)));
    let host = match (first.split_once(':'), rest) {
        (Some((host, port)), Some(_)) => port.parse::<u16>().is_ok().then_some(host),
        (Some(_), None) => None,
        (None, _) => Some(first),
    };
    text.len() <= 255 && host.is_some_and(component) && rest.is_none_or(|rest| rest.split('/').all(component))
}

/// Checks that a system module's image is pinned: by digest, or by a version of three numbers.
pub(crate) fn check_pinned(image: &str) -> Result<(), Problem> {
    let refuse = |problem| {
        Err(Problem::Image {
            image: image.to_owned(),
            problem,
        })
    };
    let name_start = image.rfind('/').map_or(0, |slash| slash + 1);
    if let Some((repository, digest)) = image.split_once('@') {
        if repository[name_start.min(repository.len())..].contains(':') {
            return refuse(
                "has both a tag and a digest, which the edge agent refuses: write `name@sha256:…`",
            );
        }
        return match digest.parse::<Digest>().is_ok() && is_repository(repository) {
            true => Ok(()),
            false => refuse("is not `name@sha256:…` with 64 lower-case hexadecimal digits"),
        };
    }
    let Some((name, tag)) = image[name_start..].split_once(':') else {
        return refuse("has no version: pin it as `name@sha256:…` or `name:1.2.3`");
    };
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let version = tag.split_once('-').map_or(tag, |(version, _)| version);
    if !is_repository(&image[..name_start + name.len()]) {
        return refuse("is not an image reference");
    }
    match version.split('.').count() >= 3 && version.split('.').all(number) {
        true => Ok(()),
        false => {
            refuse("has a tag that moves: pin it as `name@sha256:…` or by all three numbers, `name:1.2.3`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for good in [
            "localhost/aiot",
            "host:5000/a/b",
            "registry.example.com/aiot/x_y-z.1",
            "aiot",
        ] {
            assert!(is_repository(good), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "A/b",
            "host:5000",
            "host:port/a",
            "a/b:1",
            "a/b@sha256",
            "-a",
            "a b",
        ] {
            assert!(!is_repository(bad), "{bad}");
        }
    }

    #[test]
    fn pinned_images() {
        let hex = "0".repeat(64);
        let check = |image: &str, expected: &str| match check_pinned(image) {
            Ok(()) => assert_eq!(expected, "", "{image}"),
            Err(problem) => {
                assert!(
                    !expected.is_empty() && problem.to_string().contains(expected),
                    "{image}: {problem}"
                );
            }
        };
        check("example.com/agent:1.5.21", "");
        check("example.com/agent:1.5.21-linux-arm32v7", "");
        check("example.com:5000/agent:1.5.21", "");
        check(&format!("example.com:5000/agent@sha256:{hex}"), "");
        check(
            &format!("example.com/agent:1.5.21@sha256:{hex}"),
            "both a tag and a digest",
        );
        check("example.com/agent@sha256:12", "64 lower-case");
        check("example.com/agent@sha256:é", "64 lower-case");
        check("example.com/agent:1.5", "a tag that moves");
        check("example.com/agent:latest", "a tag that moves");
        check("example.com/agent", "has no version");
        check("example.com:5000/agent", "has no version");
        check("", "has no version");
        check("Example/agent:1.2.3", "not an image reference");
        check("@/x", "64 lower-case");
        check("a@b/c:d", "64 lower-case");
    }
}
