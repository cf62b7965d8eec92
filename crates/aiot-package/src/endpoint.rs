//! URLs of brokers and webhooks: as much of a URL as the two need, and no user or password, which would stand in logs
//! and manifests.

/// Parts of `scheme://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether the scheme is the one with TLS.
    pub tls: bool,
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// Port, the scheme's own unless given.
    pub port: u16,
    /// Path and query, `/` unless given.
    pub path: String,
}

impl Endpoint {
    /// Reads `text`; `plain` and `tls` are schemes with their ports.
    ///
    /// # Errors
    /// What is wanted instead.
    pub fn parse(text: &str, plain: (&str, u16), tls: (&str, u16)) -> Result<Endpoint, String> {
        let wanted = || format!("`{text}` is not `{}://host` or `{}://host`", plain.0, tls.0);
        let (scheme, rest) = text.split_once("://").ok_or_else(wanted)?;
        let (is_tls, default_port) = match scheme {
            scheme if scheme == plain.0 => (false, plain.1),
            scheme if scheme == tls.0 => (true, tls.1),
            _ => return Err(wanted()),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (host, port) = inner.split_once(']').ok_or_else(wanted)?;
                (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
                None => (authority, Some("")),
            },
        };
        let port = match port.ok_or_else(wanted)? {
            "" => default_port,
            digits => digits.parse().map_err(|_| wanted())?,
        };
        let good_host = !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'));
        // A user or password in a URL would stand in logs and manifests.
        let good_path = path.chars().all(|c| c.is_ascii_graphic() && c != '#');
        if !good_host || !good_path {
            return Err(wanted());
        }
        Ok(Endpoint {
            tls: is_tls,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }

    /// `mqtt` and `mqtts` with their ports.
    ///
    /// # Errors
    /// What is wanted instead.
    pub fn parse_mqtt(text: &str) -> Result<Endpoint, String> {
        Endpoint::parse(text, ("mqtt", 1883), ("mqtts", 8883))
    }

    /// `http` and `https` with their ports.
    ///
    /// # Errors
    /// What is wanted instead.
    pub fn parse_http(text: &str) -> Result<Endpoint, String> {
        Endpoint::parse(text, ("http", 80), ("https", 443))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let http = |text: &str| Endpoint::parse_http(text).map(|e| (e.tls, e.host, e.port, e.path));
        let expected = |tls, host: &str, port, path: &str| Ok((tls, host.to_owned(), port, path.to_owned()));
        assert_eq!(http("http://a"), expected(false, "a", 80, "/"));
        assert_eq!(
            http("https://a.b:8443/x?y=1"),
            expected(true, "a.b", 8443, "/x?y=1")
        );
        assert_eq!(http("http://[::1]:90/x"), expected(false, "::1", 90, "/x"));
        assert_eq!(http("http://[::1]"), expected(false, "::1", 80, "/"));
        for wrong in [
            "a",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:",
            "http://a:99999",
            "http://u:p@a",
            "http://[::1",
            "http://a/ b",
            "http://a/#f",
        ] {
            let error = http(wrong).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
        assert_eq!(Endpoint::parse_mqtt("mqtts://broker").unwrap().port, 8883);
    }
}
