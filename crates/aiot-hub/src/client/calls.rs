//! The calls that the roll-out needs: deployments, conditions, twins, modules, queries.

use std::collections::BTreeMap;

use aiot_iothub::rollout::HubDeployment;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Answer, Client, PAGE_LIMIT, Request};
use crate::configuration;
use crate::connection::encode;
use crate::error::CallError;
use crate::throttle::Kind;

impl Client {
    /// All deployments of edge devices, and the hub's clock.
    ///
    /// The service has no pages here; it is asked for the most that a hub can hold, deployments and configurations of
    /// plain devices together.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn deployments(&self) -> Result<(Vec<HubDeployment>, u64), CallError> {
        let request = Request {
            query: "top=200&",
            ..Request::new(Kind::Configuration, Method::GET, "/configurations".to_owned())
        };
        let call = request.call();
        let answer = self.send(&request)?;
        let list =
            configuration::list_of_json(&answer.body).map_err(|reason| CallError::answer(&call, reason))?;
        let date_secs = answer
            .date_secs
            .ok_or_else(|| CallError::answer(&call, "the hub does not say what time it is".to_owned()))?;
        Ok((list, date_secs))
    }

    /// One configuration by id; none: it is not for edge devices.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn deployment(&self, id: &str) -> Result<Option<HubDeployment>, CallError> {
        let request = Request::new(Kind::Configuration, Method::GET, configuration_path(id));
        let answer = self.send(&request)?;
        configuration::of_json(&answer.body).map_err(|reason| CallError::answer(&request.call(), reason))
    }

    /// Creates a deployment (`if_match` none), or replaces all but its content if its ETag is the one given. Gives its
    /// new ETag.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn put_deployment(
        &self,
        deployment: &HubDeployment,
        if_match: Option<&str>,
    ) -> Result<String, CallError> {
        let body = configuration::to_json(deployment);
        let request = Request {
            if_match,
            body: Some(&body),
            ..Request::new(
                Kind::Configuration,
                Method::PUT,
                configuration_path(&deployment.id),
            )
        };
        let answer = self.send(&request)?;
        let stored = configuration::of_json(&answer.body)
            .map_err(|reason| CallError::answer(&request.call(), reason))?;
        stored
            .map(|stored| stored.etag)
            .filter(|etag| !etag.is_empty())
            .or(answer.etag)
            .ok_or_else(|| CallError::answer(&request.call(), "it has no ETag".to_owned()))
    }

    /// Deletes a deployment if its ETag is the one given.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn delete_deployment(&self, id: &str, if_match: &str) -> Result<(), CallError> {
        let request = Request {
            if_match: Some(if_match),
            ..Request::new(Kind::Configuration, Method::DELETE, configuration_path(id))
        };
        self.send(&request).map(|_| ())
    }

    /// What the hub finds wrong with a target condition and metric queries, by name; nothing: they are good.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn test_queries(
        &self,
        condition: &str,
        metrics: &BTreeMap<String, String>,
    ) -> Result<Vec<(String, String)>, CallError> {
        let body = json!({ "targetCondition": condition, "customMetricQueries": metrics });
        let request = Request {
            body: Some(&body),
            ..Request::new(
                Kind::Configuration,
                Method::POST,
                "/configurations/testQueries".to_owned(),
            )
        };
        let answer: Value = self.parsed(&request)?;
        let mut wrong = Vec::new();
        if let Some(reason) = answer["targetConditionError"]
            .as_str()
            .filter(|reason| !reason.is_empty())
        {
            wrong.push(("target condition".to_owned(), reason.to_owned()));
        }
        for (name, reason) in answer["customMetricQueryErrors"]
            .as_object()
            .into_iter()
            .flatten()
        {
            if let Some(reason) = reason.as_str().filter(|reason| !reason.is_empty()) {
                wrong.push((name.clone(), reason.to_owned()));
            }
        }
        Ok(wrong)
    }

    /// A device twin, or a module's.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn twin(&self, device: &str, module: Option<&str>) -> Result<Value, CallError> {
        self.parsed(&Request::new(
            Kind::TwinRead,
            Method::GET,
            twin_path(device, module),
        ))
    }

    /// Lays `tags` over a device's; null removes. Other tags stay. `if_match`: only if the twin's ETag is this one; none:
    /// whatever it is.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn patch_tags(&self, device: &str, tags: &Value, if_match: Option<&str>) -> Result<(), CallError> {
        let body = json!({ "tags": tags });
        let request = Request {
            if_match: Some(if_match.unwrap_or("*")),
            body: Some(&body),
            ..Request::new(Kind::TwinWrite, Method::PATCH, twin_path(device, None))
        };
        self.send(&request).map(|_| ())
    }

    /// Ids of a device's modules.
    ///
    /// # Errors
    /// [`CallError`]
    pub fn modules(&self, device: &str) -> Result<Vec<String>, CallError> {
        let path = format!("/devices/{}/modules", encode(device));
        let list: Vec<Value> = self.parsed(&Request::new(Kind::Registry, Method::GET, path))?;
        let ids = list.iter().filter_map(|one| one["moduleId"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    /// Gives the rows of a query page by page, as they come; the next page is fetched while one is read.
    ///
    /// # Errors
    /// [`CallError`], also where rows are not of type `T`.
    pub fn query<T: DeserializeOwned>(
        &self,
        query: &str,
        each: &mut dyn FnMut(Vec<T>),
    ) -> Result<(), CallError> {
        const CALL: &str = "POST /devices/query";
        let body = json!({ "query": query });
        let page = |continuation: Option<&str>| {
            self.send(&Request {
                continuation,
                body: Some(&body),
                ..Request::new(Kind::Query, Method::POST, "/devices/query".to_owned())
            })
        };
        let mut answer = page(None)?;
        for _ in 1..PAGE_LIMIT {
            let rows = |answer: &Answer| {
                serde_json::from_slice(&answer.body)
                    .map_err(|error| CallError::answer(CALL, format!("a page of rows: {error}")))
            };
            let Some(continuation) = answer.continuation.clone() else {
                each(rows(&answer)?);
                return Ok(());
            };
            let next = std::thread::scope(|scope| {
                let next = scope.spawn(|| page(Some(&continuation)));
                rows(&answer).map(&mut *each)?;
                // It panics nowhere; if it did, so would we.
                next.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            if next.continuation.as_deref() == Some(&continuation) {
                return Err(CallError::answer(CALL, "the same page follows itself".to_owned()));
            }
            answer = next;
        }
        Err(CallError::answer(CALL, format!("more than {PAGE_LIMIT} pages")))
    }
}

fn configuration_path(id: &str) -> String {
    format!("/configurations/{}", encode(id))
}

fn twin_path(device: &str, module: Option<&str>) -> String {
    match module {
        Some(module) => format!("/twins/{}/modules/{}", encode(device), encode(module)),
        None => format!("/twins/{}", encode(device)),
    }
}
