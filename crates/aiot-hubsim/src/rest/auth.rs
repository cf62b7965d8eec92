//! Shared access tokens, as the service judges them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::{decode, error};
use crate::service::ServiceError;

/// What a token must say.
pub struct Wanted<'a> {
    /// Whether it is for this resource, as decoded once.
    pub resource: &'a dyn Fn(&str) -> bool,
    /// Name of the policy whose key has signed it; none: a device's or module's own key.
    pub policy: Option<&'a str>,
    /// The key.
    pub key: &'a [u8],
}

/// Checks `SharedAccessSignature sr=…&sig=…&se=…[&skn=…]`; gives when it expires, seconds since 1970.
///
/// # Errors
/// 401 `IotHubUnauthorizedAccess`, which part is wrong.
pub fn check(sent: &str, wanted: &Wanted<'_>, unix_secs: u64) -> Result<u64, ServiceError> {
    let refused = |why: &str| {
        Err(error(
            401,
            "IotHubUnauthorizedAccess",
            format!("Unauthorized: {why}"),
        ))
    };
    let Some(fields) = sent.strip_prefix("SharedAccessSignature ") else {
        return refused("no shared access signature");
    };
    let field = |name: &str| {
        fields
            .split('&')
            .find_map(|part| part.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, value)| value)
    };
    let (Some(resource), Some(signature), Some(expiry)) = (field("sr"), field("sig"), field("se")) else {
        return refused("a part of the token is missing");
    };
    if field("skn").map(decode).as_deref() != wanted.policy {
        return refused("there is no such policy");
    }
    if !(wanted.resource)(&decode(resource)) {
        return refused("the token is for something else");
    }
    let Some(expiry_secs) = expiry.parse::<u64>().ok().filter(|expiry| *expiry > unix_secs) else {
        return refused("the token has expired");
    };
    let Ok(signature) = STANDARD.decode(decode(signature)) else {
        return refused("the signature is not base64");
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, wanted.key);
    match hmac::verify(&key, format!("{resource}\n{expiry}").as_bytes(), &signature) {
        Ok(()) => Ok(expiry_secs),
        Err(_) => refused("the signature is not by this key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        // Of the official Python package, for the key `secretkey`.
        let token = "SharedAccessSignature sr=localhost%3A8443&sig=f8uqL%2BWX5v62qWB8qsZn1aLBbL%2F751sNyxfGyBVYXF4%3D&se=1795369299&skn=iothubowner";
        let check = |sent: &str, now: u64, expected: Option<&str>| {
            let wanted = Wanted {
                resource: &|resource| resource == "localhost:8443",
                policy: Some("iothubowner"),
                key: b"secretkey",
            };
            match (check(sent, &wanted, now), expected) {
                (Ok(expires_secs), None) => assert_eq!(expires_secs, 1_795_369_299),
                (Err(error), Some(expected)) => assert!(error.message.contains(expected), "{error}"),
                (result, expected) => panic!("{result:?} is not {expected:?}"),
            }
        };
        check(token, 1_795_369_298, None);
        check(&token.replace("%2F", "/"), 0, None);
        check(token, 1_795_369_299, Some("expired"));
        check(&token.replace("8443", "8444"), 0, Some("something else"));
        check(&token.replace("owner", "reader"), 0, Some("no such policy"));
        check(
            &token.replace("1795369299", "1795369300"),
            0,
            Some("not by this key"),
        );
        check(&token.replace("f8uq", "?8uq"), 0, Some("not base64"));
        check("SharedAccessSignature sr=a", 0, Some("missing"));
        check("Bearer x", 0, Some("no shared access signature"));
    }
}
