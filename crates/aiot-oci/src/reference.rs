//! Names of images in registries: `registry[:port]/repository[:tag][@digest]`. Pure.
//!
//! The registry is always written: a short name such as `debian:13` means another image on another machine's
//! configuration, and declarations must mean one thing.

use std::fmt;
use std::str::FromStr;

use aiot_package::Digest;

/// The longest repository name that registries accept, with the registry (Docker's bound).
const MAX_NAME_BYTES: usize = 255;

/// Text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no image reference: {reason}; expected `registry/repository[:tag][@sha256:…]`")]
pub struct ReferenceError {
    /// The text, shortened.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

/// A repository in a registry: `registry.example:5000/edge/vision`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: String,
    name: String,
}

/// An image in a repository, by tag, by digest, or both (then the digest decides).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Where.
    pub repository: Repository,
    /// The tag, if given.
    pub tag: Option<String>,
    /// The digest of manifest or index, if given.
    pub digest: Option<Digest>,
}

impl Repository {
    /// Host with optional port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A repository below this one: `registry/edge` and `vision` give `registry/edge/vision`.
    ///
    /// # Errors
    /// [`ReferenceError`] when the result is no repository.
    pub fn join(&self, name: &str) -> Result<Repository, ReferenceError> {
        format!("{self}/{name}").parse()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Repository, ReferenceError> {
        let fail = |reason| {
            Err(ReferenceError {
                text: text.chars().take(120).collect(),
                reason,
            })
        };
        let Some((registry, name)) = text.split_once('/') else {
            return fail("it has no `/` between registry and repository");
        };
        if !is_registry(registry) {
            return fail(
                "the part before the first `/` is no registry: a host with a dot or a port, or `localhost`",
            );
        }
        if !name.split('/').all(is_name_part) {
            return fail(
                "a repository is lower-case letters and digits, joined by `.`, `_`, `__`, `-` or `/`",
            );
        }
        if text.len() > MAX_NAME_BYTES {
            return fail("it is longer than 255 bytes");
        }
        Ok(Repository {
            registry: registry.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let fail = |reason| ReferenceError {
            text: text.chars().take(120).collect(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| fail("the part after `@` is no `sha256:` digest"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it, a port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail(
                "a tag is at most 128 letters, digits, `_`, `.` or `-` and begins with none of the last two",
            ));
        }
        let repository = repository
            .parse()
            .map_err(|error: ReferenceError| fail(error.reason))?;
        Ok(Reference {
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether registries accept the text as a tag.
pub fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !text.starts_with(['.', '-'])
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if port.is_some_and(|port| !is_port(port)) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[') {
        return address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && (host.contains('.') || port.is_some() || host == "localhost")
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or dashes.
fn is_name_part(part: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.split(alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_taken_apart() {
        let digest = Digest::of(b"");
        let check = |text: &str, registry: &str, name: &str, tag: Option<&str>, by_digest: bool| {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.repository.registry(), registry);
            assert_eq!(reference.repository.name(), name);
            assert_eq!(reference.tag.as_deref(), tag);
            assert_eq!(reference.digest, by_digest.then_some(digest));
            assert_eq!(reference.to_string(), text);
        };
        check(
            "registry.example/vision",
            "registry.example",
            "vision",
            None,
            false,
        );
        check(
            "registry.example:5000/a/b:1.0",
            "registry.example:5000",
            "a/b",
            Some("1.0"),
            false,
        );
        check(
            &format!("localhost/a-b__c.d@{digest}"),
            "localhost",
            "a-b__c.d",
            None,
            true,
        );
        check(
            &format!("127.0.0.1:5000/a:T_1@{digest}"),
            "127.0.0.1:5000",
            "a",
            Some("T_1"),
            true,
        );
        check("[::1]:5000/a---b", "[::1]:5000", "a---b", None, false);
        check("host:1/a", "host:1", "a", None, false);
    }

    #[test]
    fn what_is_no_reference() {
        for text in [
            "",
            "a",
            "debian:13",
            "library/debian",
            "r.example/",
            "r.example/A",
            "r.example/a//b",
            "r.example/-a",
            "r.example/a-",
            "r.example/a..b",
            "r.example/a___b",
            "r.example/a._b",
            "r.example/_a",
            "r.example/a_",
            "r.example:0/a",
            "r.example:x/a",
            "r.example:99999/a",
            "r.example:+1/a",
            "-r.example/a",
            "r..example/a",
            "r.example/a:",
            "r.example/a:.x",
            "r.example/a@sha256:00",
            "r.example/a@",
            "https://r.example/a",
            "[::x]:1/a",
            "user@r.example/a",
            "r.example/a b",
            "r.example/ä",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!(
            format!("r.example/{}", "a".repeat(300))
                .parse::<Reference>()
                .is_err()
        );
        let repository: Repository = "r.example/edge".parse().unwrap();
        assert_eq!(
            repository.join("vision").unwrap().to_string(),
            "r.example/edge/vision"
        );
        assert!(repository.join("../vision").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_never_panics_and_display_parses_back(text in "[a-z0-9.:/@_\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn any_text(text in any::<String>()) {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn made_of_parts(
            registry in "([a-z][a-z0-9]{0,5}\\.){1,3}[a-z]{2,5}(:[1-9][0-9]{0,3})?",
            name in "[a-z0-9]{1,5}((\\.|_|__|-{1,3}|/)[a-z0-9]{1,5}){0,4}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            content in proptest::option::of(any::<[u8; 4]>()),
        ) {
            let mut text = format!("{registry}/{name}");
            if let Some(tag) = &tag {
                text += &format!(":{tag}");
            }
            let digest = content.map(|content| Digest::of(&content));
            if let Some(digest) = &digest {
                text += &format!("@{digest}");
            }
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(reference.to_string(), text);
            prop_assert_eq!((reference.tag, reference.digest), (tag, digest));
        }
    }
}
