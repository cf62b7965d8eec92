//! Entra ID as the simulated hub knows it: one tenant with one application, and the machine's own identity. Gives tokens
//! as the token service and the metadata service do, and judges them as the hub does.
//!
//! Sources: docs "Microsoft identity platform and the OAuth 2.0 client credentials flow" (requests, answers, AADSTS
//! numbers), "How to use managed identities on an Azure VM to acquire an access token".

use std::collections::BTreeMap;

use ring::hmac;
use serde_json::{Value, json};

use super::{Reply, Request, decode, error, ok};
use crate::service::ServiceError;

/// The tenant's id.
pub const TENANT: &str = "simulated-tenant";
/// The application's id.
pub const CLIENT: &str = "simulated-client";
const RESOURCE: &str = "https://iothubs.azure.net";

/// Who may sign in.
#[derive(Debug)]
pub struct Entra {
    /// The application's secret.
    pub secret: String,
    /// What another issuer's token must be.
    pub assertion: String,
    /// How long tokens are said to last, in seconds.
    pub told_secs: u64,
    /// How long they do.
    pub lifetime_secs: u64,
    /// Tokens given.
    pub given: u64,
    key: hmac::Key,
    revoked: u64,
}

impl Entra {
    /// With secrets that follow from `key`.
    pub(crate) fn new(key: &[u8]) -> Entra {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        Entra {
            secret: hex(&key, "secret"),
            assertion: hex(&key, "assertion"),
            told_secs: 3_600,
            lifetime_secs: 3_600,
            given: 0,
            key,
            revoked: 0,
        }
    }

    /// No token that was given so far is good any more.
    pub fn revoke(&mut self) {
        self.revoked += 1;
    }

    /// Whether `token` is one of ours, for a hub, and not over.
    ///
    /// # Errors
    /// 401 `IotHubUnauthorizedAccess`, why.
    pub(crate) fn check(&self, token: &str, unix_secs: u64) -> Result<(), ServiceError> {
        let refused = |why: &str| {
            Err(error(
                401,
                "IotHubUnauthorizedAccess",
                format!("Unauthorized: {why}"),
            ))
        };
        let expiry = token
            .split_once('.')
            .and_then(|(expiry, _)| expiry.parse::<u64>().ok());
        match expiry {
            None => refused("the bearer token is none"),
            Some(expiry_secs) if token != self.token(expiry_secs) => refused("the bearer token is of nobody"),
            Some(expiry_secs) if expiry_secs <= unix_secs => refused("the bearer token has expired"),
            Some(_) => Ok(()),
        }
    }

    fn token(&self, expiry_secs: u64) -> String {
        format!(
            "{expiry_secs}.{}",
            hex(&self.key, &format!("{expiry_secs} {}", self.revoked))
        )
    }

    fn give(&mut self, unix_secs: u64, as_text: bool) -> Reply {
        self.given += 1;
        let told = match as_text {
            true => Value::from(self.told_secs.to_string()),
            false => Value::from(self.told_secs),
        };
        ok(&json!({
            "token_type": "Bearer", "expires_in": told, "resource": RESOURCE,
            "access_token": self.token(unix_secs + self.lifetime_secs),
        }))
    }

    /// Answers what a token service and a metadata service answer; none: the request is for neither.
    pub(crate) fn answer(&mut self, request: &Request, unix_secs: u64) -> Option<Reply> {
        let path = request.path.trim_matches('/');
        match (request.method.as_str(), path.split_once('/')?) {
            ("POST", (tenant, "oauth2/v2.0/token")) => Some(self.application(tenant, request, unix_secs)),
            ("GET", ("metadata", "identity/oauth2/token")) => Some(self.machine(request, unix_secs)),
            _ => None,
        }
    }

    fn application(&mut self, tenant: &str, request: &Request, unix_secs: u64) -> Reply {
        let form = fields(&String::from_utf8_lossy(&request.body));
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        let refused = |status: u16, error: &str, why: String| {
            let said = format!("{why}\r\nTrace ID: simulated");
            let mut reply = ok(&json!({ "error": error, "error_description": said }));
            reply.status = status;
            reply
        };
        if tenant != TENANT {
            return refused(
                400,
                "invalid_request",
                format!("AADSTS90002: Tenant '{tenant}' not found."),
            );
        }
        if field("client_id") != CLIENT {
            let why = "AADSTS700016: Application was not found in the directory.";
            return refused(400, "unauthorized_client", why.to_owned());
        }
        if field("scope") != format!("{RESOURCE}/.default") || field("grant_type") != "client_credentials" {
            return refused(
                400,
                "invalid_scope",
                "AADSTS70011: The provided scope is not valid.".to_owned(),
            );
        }
        if field("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
            if field("client_assertion") == self.assertion {
                return self.give(unix_secs, false);
            }
            let why = "AADSTS700213: No matching federated identity record found for presented assertion.";
            return refused(401, "invalid_client", why.to_owned());
        }
        if field("client_secret") == self.secret {
            return self.give(unix_secs, false);
        }
        // The real service repeats no secret. This one does, since a client must not count on that.
        let why = format!(
            "AADSTS7000215: Invalid client secret provided: {}",
            field("client_secret")
        );
        refused(401, "invalid_client", why)
    }

    fn machine(&mut self, request: &Request, unix_secs: u64) -> Reply {
        let query = fields(&request.query);
        let refused = |why: &str| {
            let mut reply = ok(&json!({ "error": "invalid_request", "error_description": why }));
            reply.status = 400;
            reply
        };
        if request.headers.get("metadata").map(String::as_str) != Some("true") {
            return refused("Required metadata header not specified");
        }
        if query.get("resource").map(String::as_str) != Some(RESOURCE) || !query.contains_key("api-version") {
            return refused("Required query variable is missing or wrong");
        }
        match query.get("client_id") {
            Some(client) if client != CLIENT => refused("Identity not found"),
            _ => self.give(unix_secs, true),
        }
    }
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|part| part.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn hex(key: &hmac::Key, text: &str) -> String {
    let signed = hmac::sign(key, text.as_bytes());
    signed.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
