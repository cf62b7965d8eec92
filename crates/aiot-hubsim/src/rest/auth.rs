//! Shared access tokens, as the service judges them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::{decode, error};
use crate::service::ServiceError;

/// Checks `SharedAccessSignature sr=…&sig=…&se=…&skn=…`.
///
/// # Errors
/// 401 `IotHubUnauthorizedAccess`, which part is wrong.
pub fn check(
    sent: &str,
    authority: &str,
    policy: &str,
    key: &[u8],
    unix_secs: u64,
) -> Result<(), ServiceError> {
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
    let (Some(resource), Some(signature), Some(expiry), Some(sent_policy)) =
        (field("sr"), field("sig"), field("se"), field("skn"))
    else {
        return refused("a part of the token is missing");
    };
    if decode(sent_policy) != policy {
        return refused("there is no such policy");
    }
    if !decode(resource).eq_ignore_ascii_case(authority) {
        return refused("the token is for another hub");
    }
    if expiry
        .parse::<u64>()
        .ok()
        .is_none_or(|expiry| expiry <= unix_secs)
    {
        return refused("the token has expired");
    }
    let Ok(signature) = STANDARD.decode(decode(signature)) else {
        return refused("the signature is not base64");
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    match hmac::verify(&key, format!("{resource}\n{expiry}").as_bytes(), &signature) {
        Ok(()) => Ok(()),
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
            let result = check(sent, "localhost:8443", "iothubowner", b"secretkey", now);
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => assert!(error.message.contains(expected), "{error}"),
                (result, expected) => panic!("{result:?} is not {expected:?}"),
            }
        };
        check(token, 1_795_369_298, None);
        check(&token.replace("%2F", "/"), 0, None);
        check(token, 1_795_369_299, Some("expired"));
        check(&token.replace("8443", "8444"), 0, Some("another hub"));
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
