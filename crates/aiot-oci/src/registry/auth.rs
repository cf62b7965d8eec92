//! Signing in: the registry's challenge, the token for a scope, and which request uses which.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::credentials::Login;
use super::http::{Backoff, Body, Request};
use super::{RegistryClient, RegistryError, lock};
use crate::reference::Repository;

const MAX_TOKEN_ANSWER_BYTES: usize = 1 << 20;
/// The specification's default when the answer names no duration.
const DEFAULT_TOKEN_SECONDS: u64 = 60;
/// Tokens are renewed this much before they die.
const TOKEN_RESERVE: Duration = Duration::from_secs(10);

/// What a request wants to do, which is what its token must allow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    pub repository: Repository,
    pub push: bool,
    /// Repositories of the same registry that blobs are mounted from.
    pub mount_from: Option<String>,
}

impl Access {
    pub fn pull(repository: &Repository) -> Access {
        Access {
            repository: repository.clone(),
            push: false,
            mount_from: None,
        }
    }

    pub fn push(repository: &Repository) -> Access {
        Access {
            repository: repository.clone(),
            push: true,
            mount_from: None,
        }
    }

    fn scopes(&self) -> Vec<String> {
        let actions = if self.push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.repository.name());
        std::iter::once(own)
            .chain(
                self.mount_from
                    .iter()
                    .map(|from| format!("repository:{from}:pull")),
            )
            .collect()
    }

    pub fn unauthorized(&self, reason: String) -> RegistryError {
        RegistryError::Unauthorized {
            registry: self.repository.registry().to_owned(),
            repository: self.repository.name().to_owned(),
            reason,
        }
    }
}

/// How a registry wants to be told who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    /// `None` never dies.
    dies: Option<Instant>,
}

/// What is known from signing in before.
#[derive(Default)]
pub(super) struct Sessions {
    challenges: BTreeMap<String, Challenge>,
    tokens: BTreeMap<Access, Token>,
}

impl Sessions {
    fn token(&self, access: &Access) -> Option<&Token> {
        let alive = |token: &&Token| {
            token
                .dies
                .is_none_or(|dies| Instant::now() + TOKEN_RESERVE < dies)
        };
        self.tokens.get(access).filter(alive)
    }
}

impl RegistryClient {
    /// The header for a request, as far as the registry has asked for one before.
    pub(super) async fn authorization(&self, access: &Access) -> Result<Option<HeaderValue>, RegistryError> {
        let challenge = {
            let sessions = lock(&self.inner.sessions);
            if let Some(token) = sessions.token(access) {
                return Ok(Some(token.header.clone()));
            }
            sessions.challenges.get(access.repository.registry()).cloned()
        };
        match challenge {
            Some(challenge) => self.obtain(access, &challenge, None).await.map(Some),
            None => Ok(None),
        }
    }

    /// Answers a 401. `used` is the header that was refused.
    pub(super) async fn sign_in(
        &self,
        access: &Access,
        challenges: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let challenge = choose(challenges).ok_or_else(|| {
            access.unauthorized("it offers no way to sign in that is known here".to_owned())
        })?;
        let registry = access.repository.registry().to_owned();
        lock(&self.inner.sessions)
            .challenges
            .insert(registry, challenge.clone());
        self.obtain(access, &challenge, used).await
    }

    async fn obtain(
        &self,
        access: &Access,
        challenge: &Challenge,
        used: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let _one_at_a_time = self.inner.signing_in.lock().await;
        if let Some(token) = lock(&self.inner.sessions)
            .token(access)
            .filter(|token| Some(&token.header) != used)
        {
            return Ok(token.header.clone());
        }
        let found = self
            .inner
            .options
            .credentials
            .look_up(access.repository.registry())
            .await;
        let token = match challenge {
            Challenge::Basic => match &found.login {
                Some(Login::Password { username, password }) => Token {
                    header: basic(username, password),
                    dies: None,
                },
                _ => return Err(access.unauthorized(found.explain("it asks for user and password"))),
            },
            Challenge::Bearer { realm, service } => {
                let request = self.token_request(access, realm, service.as_deref(), found.login.as_ref())?;
                let authorization = match &found.login {
                    Some(Login::Password { username, password }) => Some(basic(username, password)),
                    _ => None,
                };
                self.fetch_token(access, &request, authorization, &|text| found.explain(text))
                    .await?
            }
        };
        let header = token.header.clone();
        lock(&self.inner.sessions).tokens.insert(access.clone(), token);
        Ok(header)
    }

    fn token_request(
        &self,
        access: &Access,
        realm: &str,
        service: Option<&str>,
        login: Option<&Login>,
    ) -> Result<Request, RegistryError> {
        let registry = access.repository.registry();
        let fail = |reason: &str| RegistryError::Protocol {
            url: registry.to_owned(),
            reason: reason.to_owned(),
        };
        let mut url = Url::parse(realm).map_err(|_| fail("its token service is no URL"))?;
        if url.scheme() != "https" && !(url.scheme() == "http" && self.is_plain(registry)) {
            return Err(fail("its token service is not reached over HTTPS"));
        }
        if let Some(Login::IdentityToken(token)) = login {
            // OAuth 2: what `docker login` of a registry with an identity provider leaves (Azure's does).
            let mut form = Url::parse("form:").map_err(|_| fail("its token service is no URL"))?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("client_id", "aiot-ops")
                .append_pair("scope", &access.scopes().join(" "))
                .append_pair("refresh_token", token);
            let mut request = Request::new(Method::POST, url);
            request.content_type = Some("application/x-www-form-urlencoded".to_owned());
            request.body = Body::Bytes(form.query().unwrap_or_default().to_owned().into());
            return Ok(request);
        }
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        for scope in access.scopes() {
            url.query_pairs_mut().append_pair("scope", &scope);
        }
        Ok(Request::new(Method::GET, url))
    }

    async fn fetch_token(
        &self,
        access: &Access,
        request: &Request,
        authorization: Option<HeaderValue>,
        explain: &(dyn Fn(&str) -> String + Sync),
    ) -> Result<Token, RegistryError> {
        let mut backoff = Backoff::new(self.inner.options.retry);
        let response = loop {
            let result = match self.send_once(request, authorization.as_ref()).await {
                Ok(response) if response.status() == StatusCode::OK => break response,
                Ok(response) => Err(self.status_error(request, response).await),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if backoff.again(&error).await => {}
                Err(RegistryError::Status {
                    status: 400..=403,
                    message,
                    ..
                }) => {
                    return Err(access.unauthorized(explain(&format!("its token service says: {message}"))));
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        };
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let body = self.read_body(request, response, MAX_TOKEN_ANSWER_BYTES).await?;
        // The text of a parse error could hold the token: it is not passed on.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| self.protocol_error(request, "the token service's answer is no token"))?;
        let header = answer
            .token
            .or(answer.access_token)
            .and_then(|token| secret_header(&format!("Bearer {token}")))
            .ok_or_else(|| self.protocol_error(request, "the token service's answer holds no token"))?;
        let seconds = answer
            .expires_in
            .unwrap_or(DEFAULT_TOKEN_SECONDS)
            .clamp(DEFAULT_TOKEN_SECONDS, 86_400);
        Ok(Token {
            header,
            dies: Some(Instant::now() + Duration::from_secs(seconds)),
        })
    }
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret_header(&format!("Basic {text}")).expect("base64 is visible ASCII")
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The way to sign in that we prefer: a token, which does not carry the password everywhere.
fn choose(headers: &[String]) -> Option<Challenge> {
    let all: Vec<Challenge> = headers
        .iter()
        .flat_map(|header| parse_challenges(header))
        .collect();
    all.iter()
        .find(|challenge| matches!(challenge, Challenge::Bearer { .. }))
        .or(all.first())
        .cloned()
}

/// `WWW-Authenticate` (RFC 9110, 11.6.1): schemes with comma-separated `name=value` or `name="value"`.
fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(value) if !word.is_empty() && !found.is_empty() => {
                let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.insert(word.to_ascii_lowercase(), value);
                }
                rest = after;
            }
            // A `=` with nothing before it: not a header that we understand any further.
            _ if word.is_empty() => break,
            _ => {
                found.push((word.to_ascii_lowercase(), BTreeMap::new()));
                rest = after;
            }
        }
    }
    found
        .into_iter()
        .filter_map(|(scheme, mut parameters)| match scheme.as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => {
                let realm = parameters.remove("realm")?;
                Some(Challenge::Bearer {
                    realm,
                    service: parameters.remove("service"),
                })
            }
            _ => None,
        })
        .collect()
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[position + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests;
