//! Packets of a client, and what the hub does with them; no socket.

use rumqttc::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe, SubscribeFilter,
    SubscribeReasonCode, UnsubAck,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::{Identity, Push, Topic};
use crate::rest::clients::registered;
use crate::rest::{Simulator, auth, decode};
use crate::service::overlay;

/// A client that was let in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Who it is.
    pub identity: Identity,
    /// Which of its connections this is.
    pub number: u64,
    /// When its token expires, seconds since 1970: the hub lets it go then.
    pub expires_secs: u64,
}

/// What comes of a CONNECT.
pub(super) enum Welcome {
    /// It is in.
    In(Session, mpsc::Receiver<Push>, Packet),
    /// It gets this answer, and the connection ends.
    Out(Packet),
}

impl Session {
    /// Lets a client in whose name and token are right.
    pub fn open(hub: &mut Simulator, connect: &Connect, unix_secs: u64) -> Welcome {
        let identity = Identity::parse(&connect.client_id);
        let expires_secs = match admit(hub, &identity, connect, unix_secs) {
            Ok(expires_secs) => expires_secs,
            Err(why) => {
                hub.service.told(format!("client {identity} is refused: {why}"));
                // The docs name this one code for whatever is wrong with name, password or id.
                return Welcome::Out(Packet::ConnAck(ConnAck::new(
                    ConnectReturnCode::NotAuthorized,
                    false,
                )));
            }
        };
        let (number, receiver, kept) = hub.clients.connect(&identity, !connect.clean_session);
        // What changed while it was away is not sent: a client asks for its twin when it is back (docs).
        hub.change_for(&identity);
        hub.service.told(format!("client {identity} connects"));
        let session = Session {
            identity,
            number,
            expires_secs,
        };
        let welcome = ConnAck::new(ConnectReturnCode::Success, kept);
        Welcome::In(session, receiver, Packet::ConnAck(welcome))
    }

    /// The connection is over.
    pub fn close(&self, hub: &mut Simulator, why: &str) {
        hub.clients.disconnect(&self.identity, self.number);
        hub.service
            .told(format!("client {} is gone: {why}", self.identity));
    }

    /// Takes a packet; gives the answer to it, if it gets one.
    ///
    /// # Errors
    /// What the client did for which it is disconnected.
    pub fn take(&self, hub: &mut Simulator, packet: Packet) -> Result<Option<Packet>, &'static str> {
        match packet {
            Packet::Publish(publish) => {
                if publish.qos == QoS::ExactlyOnce {
                    return Err("quality of service 2 is not served");
                }
                self.publish(hub, &publish)?;
                let acknowledged = publish.qos == QoS::AtLeastOnce;
                Ok(acknowledged.then(|| Packet::PubAck(PubAck::new(publish.pkid))))
            }
            Packet::Subscribe(subscribe) => Ok(Some(Packet::SubAck(self.subscribe(hub, &subscribe)))),
            Packet::Unsubscribe(unsubscribe) => {
                for filter in &unsubscribe.topics {
                    if let Some(topic) = self.topic(filter) {
                        hub.clients.unsubscribe(&self.identity, topic);
                    }
                }
                Ok(Some(Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid))))
            }
            Packet::PingReq => Ok(Some(Packet::PingResp)),
            Packet::PubAck(_) => Ok(None),
            Packet::Disconnect => Err("it says good-bye"),
            _ => Err("a packet that no client sends here"),
        }
    }

    fn topic(&self, filter: &str) -> Option<Topic> {
        match filter {
            "$iothub/twin/res/#" => Some(Topic::TwinAnswers),
            "$iothub/twin/PATCH/properties/desired/#" => Some(Topic::Desired),
            "$iothub/methods/POST/#" => Some(Topic::Methods),
            _ => {
                let path = self.identity.path();
                // A module gets its inputs from an edge hub, in whose place this hub then stands.
                let known = match self.identity.module {
                    Some(_) => format!("{path}/inputs/#"),
                    None => format!("{path}/messages/devicebound/#"),
                };
                (known == filter).then_some(Topic::Messages)
            }
        }
    }

    fn subscribe(&self, hub: &mut Simulator, subscribe: &Subscribe) -> SubAck {
        let code = |filter: &SubscribeFilter| match self.topic(&filter.path) {
            Some(topic) => {
                hub.clients.subscribe(&self.identity, topic);
                SubscribeReasonCode::Success(match filter.qos {
                    QoS::AtMostOnce => QoS::AtMostOnce,
                    QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
                })
            }
            None => SubscribeReasonCode::Failure,
        };
        SubAck::new(subscribe.pkid, subscribe.filters.iter().map(code).collect())
    }

    fn publish(&self, hub: &mut Simulator, publish: &Publish) -> Result<(), &'static str> {
        let topic = publish.topic.as_str();
        let events = format!("{}/messages/events/", self.identity.path());
        if topic.strip_suffix('/').unwrap_or(topic) == &events[..events.len() - 1]
            || topic.starts_with(&events)
        {
            hub.clients.count_telemetry(&self.identity);
        } else if let Some(request) = topic.strip_prefix("$iothub/twin/GET/?$rid=") {
            let twin = hub.properties(&self.identity).to_string().into_bytes();
            self.answer(hub, 200, request, None, twin);
        } else if let Some(request) = topic.strip_prefix("$iothub/twin/PATCH/properties/reported/?$rid=") {
            match self.report(hub, &publish.payload) {
                Some(version) => self.answer(hub, 204, request, Some(version), Vec::new()),
                None => self.answer(hub, 400, request, None, Vec::new()),
            }
        } else if let Some((status, request)) = topic
            .strip_prefix("$iothub/methods/res/")
            .and_then(|rest| rest.split_once("/?$rid="))
        {
            let status = status
                .parse()
                .map_err(|_| "a method's status that is no number")?;
            let payload = serde_json::from_slice(&publish.payload).unwrap_or(Value::Null);
            hub.clients.answer(&self.identity, request, status, payload);
        } else {
            return Err("a message to a topic that the hub does not have");
        }
        Ok(())
    }

    fn answer(&self, hub: &mut Simulator, status: u16, request: &str, version: Option<u64>, body: Vec<u8>) {
        let version = version.map_or_else(String::new, |version| format!("&$version={version}"));
        let topic = format!("$iothub/twin/res/{status}/?$rid={request}{version}");
        hub.clients
            .push(&self.identity, Topic::TwinAnswers, Push { topic, body });
    }

    /// Lays a patch over what is reported; none: it is refused.
    fn report(&self, hub: &mut Simulator, body: &[u8]) -> Option<u64> {
        let patch: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
        let known = hub.clients.reported(&self.identity);
        let mut reported = known.map_or_else(|| json!({}), |(reported, _)| reported.clone());
        overlay(&mut reported, &patch);
        let errors = aiot_iothub::limits::check_section("reported properties", &reported);
        if let Some(error) = errors.first() {
            hub.service.told(format!("client {}: {error}", self.identity));
            return None;
        }
        Some(hub.clients.report(&self.identity, reported))
    }
}

/// Checks name and token; gives when the token expires.
fn admit(hub: &Simulator, identity: &Identity, connect: &Connect, unix_secs: u64) -> Result<u64, String> {
    let login = connect.login.as_ref().ok_or("neither name nor token")?;
    let name = hub.host();
    let expected = format!("{name}/{}/?", connect.client_id);
    let parameters = login
        .username
        .strip_prefix(&expected)
        .ok_or_else(|| format!("its user name does not begin with `{expected}`"))?;
    if !parameters.split('&').any(|part| part.starts_with("api-version=")) {
        return Err("its user name has no api-version".to_owned());
    }
    registered(hub, identity).map_err(|error| error.message)?;
    let resource = format!("{name}/{}", identity.path());
    let mut refusal = String::new();
    for key in hub.keys(identity) {
        let wanted = auth::Wanted {
            // Ids with characters of their own are encoded inside the resource, which then is encoded as a whole.
            resource: &|sent| {
                [sent.to_owned(), decode(sent)]
                    .iter()
                    .any(|sent| sent.eq_ignore_ascii_case(&resource))
            },
            policy: None,
            key: &key,
        };
        match auth::check(&login.password, &wanted, unix_secs) {
            Ok(expires_secs) => return Ok(expires_secs),
            Err(error) => refusal = error.message,
        }
    }
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use ring::hmac;
    use rumqttc::mqttbytes::v4::{Login, SubscribeFilter, Unsubscribe};

    use super::*;
    use crate::{Behaviour, Fleet, Service};

    fn hub() -> Simulator {
        let mut fleet = Fleet::default();
        fleet.add("edge 1", json!({}), Behaviour::GOOD);
        Simulator::new(Service::new(fleet, 0), "localhost:8443", b"key", 1)
    }

    /// A token that expires at 100.
    fn token(hub: &Simulator, resource: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &hub.keys(&Identity::parse("edge 1"))[0]);
        let signature = hmac::sign(&key, format!("{resource}\n100").as_bytes());
        let signature = base64::engine::general_purpose::STANDARD.encode(signature);
        format!("SharedAccessSignature sr={resource}&sig={signature}&se=100")
    }

    fn open(hub: &mut Simulator, id: &str, user: &str, password: &str) -> Result<Session, String> {
        let mut connect = Connect::new(id);
        connect.login = Some(Login {
            username: user.to_owned(),
            password: password.to_owned(),
        });
        match Session::open(hub, &connect, 50) {
            Welcome::In(session, ..) => Ok(session),
            Welcome::Out(answer) => {
                let code = ConnectReturnCode::NotAuthorized;
                assert_eq!(answer, Packet::ConnAck(ConnAck::new(code, false)));
                Err(hub.service.log.back().cloned().unwrap_or_default())
            }
        }
    }

    const USER: &str = "localhost/edge 1/?api-version=2021-04-12";

    #[test]
    fn who_is_let_in() {
        let mut hub = hub();
        let good = token(&hub, "localhost%2Fdevices%2Fedge%201");
        let session = open(&mut hub, "edge 1", USER, &good).unwrap();
        assert_eq!(session.expires_secs, 100);
        // As modules write it whose ids are encoded before the whole is.
        let twice = token(&hub, "localhost%2Fdevices%2Fedge%25201");
        open(&mut hub, "edge 1", USER, &twice).unwrap();
        let by_policy = format!("{good}&skn=iothubowner");
        let elsewhere = token(&hub, "elsewhere%2Fdevices%2Fedge%201");
        for (id, user, password, why) in [
            (
                "edge 2",
                "localhost/edge 2/?api-version=1",
                &good,
                "`edge 2` is not registered",
            ),
            ("edge 1", "localhost/edge 1/?api=1", &good, "has no api-version"),
            (
                "edge 1",
                "localhost/edge 1",
                &good,
                "does not begin with `localhost/edge 1/?`",
            ),
            (
                "edge 1",
                "elsewhere/edge 1/?api-version=1",
                &good,
                "does not begin with",
            ),
            ("edge 1", USER, &elsewhere, "for something else"),
            ("edge 1", USER, &by_policy, "no such policy"),
            (
                "edge 1",
                USER,
                &good.replace("se=100", "se=101"),
                "not by this key",
            ),
            ("edge 1", USER, &good.replace("se=100", "se=50"), "expired"),
            (
                "edge 1/m",
                "localhost/edge 1/m/?api-version=1",
                &good,
                "has no module `m`",
            ),
            (
                "edge 1/$edgeHub",
                "localhost/edge 1/$edgeHub/?api-version=1",
                &good,
                "simulated here",
            ),
        ] {
            let refused = open(&mut hub, id, user, password).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    fn publish(topic: &str, body: &str) -> Packet {
        Packet::Publish(Publish::new(topic, QoS::AtMostOnce, body))
    }

    #[test]
    fn what_a_client_may_not_do() {
        let mut hub = hub();
        let password = token(&hub, "localhost%2Fdevices%2Fedge%201");
        let session = open(&mut hub, "edge 1", USER, &password).unwrap();
        let mut twice = Publish::new("devices/edge 1/messages/events/", QoS::ExactlyOnce, "x");
        twice.pkid = 1;
        for (packet, why) in [
            (Packet::Publish(twice), "quality of service 2"),
            (
                publish("devices/edge 2/messages/events/", ""),
                "a topic that the hub does not have",
            ),
            (
                publish("devices/edge 1/messages/eventsx", ""),
                "a topic that the hub does not have",
            ),
            (publish("$iothub/methods/res/good/?$rid=1", ""), "no number"),
            (Packet::PingResp, "no client sends"),
            (Packet::Disconnect, "good-bye"),
        ] {
            let ended = session.take(&mut hub, packet.clone()).unwrap_err();
            assert!(ended.contains(why), "{packet:?}: {ended}");
        }
        let filters = [
            ("$iothub/twin/res/#", true),
            ("$iothub/twin/#", false),
            ("devices/edge 1/messages/devicebound/#", true),
            ("devices/edge 2/messages/devicebound/#", false),
            ("#", false),
        ];
        let subscribe = Subscribe {
            pkid: 3,
            filters: filters
                .iter()
                .map(|(path, _)| SubscribeFilter::new((*path).to_owned(), QoS::ExactlyOnce))
                .collect(),
        };
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let codes = filters.map(|(_, taken)| {
            if taken {
                granted
            } else {
                SubscribeReasonCode::Failure
            }
        });
        let answer = session.take(&mut hub, Packet::Subscribe(subscribe)).unwrap();
        assert_eq!(answer, Some(Packet::SubAck(SubAck::new(3, codes.to_vec()))));
    }

    #[test]
    fn a_twin_is_asked_for_and_patched() {
        let mut hub = hub();
        let mut connect = Connect::new("edge 1");
        connect.set_login(USER, token(&hub, "localhost%2Fdevices%2Fedge%201"));
        let Welcome::In(session, mut pushes, _) = Session::open(&mut hub, &connect, 50) else {
            panic!("it is not let in");
        };
        let ask =
            |hub: &mut Simulator, topic: &str, body: &str| session.take(hub, publish(topic, body)).unwrap();
        // Nobody listens yet.
        ask(&mut hub, "$iothub/twin/GET/?$rid=0", "");
        let subscribe = Subscribe::new("$iothub/twin/res/#", QoS::AtLeastOnce);
        session.take(&mut hub, Packet::Subscribe(subscribe)).unwrap();
        let long = format!(r#"{{"a": "{}"}}"#, "x".repeat(40_000));
        let deep = r#"{"1":{"2":{"3":{"4":{"5":{"6":{"7":{"8":{"9":{"10":{"11":{}}}}}}}}}}}}"#;
        for (body, expected) in [
            (r#"{"a": {"b": 1, "c": 2}}"#, "204/?$rid=7&$version=2"),
            (r#"{"a": {"b": null}}"#, "204/?$rid=7&$version=3"),
            ("{", "400/?$rid=7"),
            ("[]", "400/?$rid=7"),
            (&long, "400/?$rid=7"),
            (deep, "400/?$rid=7"),
        ] {
            ask(&mut hub, "$iothub/twin/PATCH/properties/reported/?$rid=7", body);
            let answer = pushes.try_recv().unwrap();
            assert_eq!(answer.topic, format!("$iothub/twin/res/{expected}"), "{body:.60}");
        }
        ask(&mut hub, "$iothub/twin/GET/?$rid=a-b", "");
        let twin = pushes.try_recv().unwrap();
        let body: Value = serde_json::from_slice(&twin.body).unwrap();
        assert_eq!(twin.topic, "$iothub/twin/res/200/?$rid=a-b");
        assert_eq!(
            body,
            json!({"desired": {"$version": 1}, "reported": {"a": {"c": 2}, "$version": 3}})
        );
        let unsubscribe = Unsubscribe::new("$iothub/twin/res/#");
        session.take(&mut hub, Packet::Unsubscribe(unsubscribe)).unwrap();
        ask(&mut hub, "$iothub/twin/GET/?$rid=8", "");
        assert!(pushes.try_recv().is_err());
    }
}
