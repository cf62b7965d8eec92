//! The plant's own MQTT broker as a sink: one topic, QoS 1.

use std::time::Duration;

use aiot_package::{Endpoint, MqttSink};
use rumqttc::{MqttOptions, Publish, TlsConfiguration, Transport};

use crate::link::{LinkError, Login, Message, Peer, Publication, Received, Token, Work, tls};

/// A broker that only gets predictions.
pub(crate) struct Broker {
    sink: MqttSink,
    client_id: String,
    password: Option<String>,
}

impl Broker {
    /// `client_id`: unless the sink names one.
    pub(crate) fn new(sink: MqttSink, client_id: String, password: Option<String>) -> Broker {
        Broker {
            client_id: sink.client_id.clone().unwrap_or(client_id),
            sink,
            password,
        }
    }

    fn options(&self) -> Result<MqttOptions, String> {
        let sink = &self.sink;
        let broker = Endpoint::parse_mqtt(&sink.broker)?;
        let mut options = MqttOptions::new(self.client_id.clone(), broker.host, broker.port);
        options
            .set_keep_alive(Duration::from_secs(60))
            .set_clean_session(true);
        if let Some(user) = &sink.user {
            options.set_credentials(user.clone(), self.password.clone().unwrap_or_default());
        }
        if broker.tls {
            let path = sink.authorities.as_deref().ok_or("`authorities` is missing")?;
            let files = match (&sink.certificate, &sink.private_key) {
                (Some(certificate), Some(key)) => Some((tls::read(certificate)?, tls::read(key)?)),
                _ => None,
            };
            let identity = files.as_ref().map(|(certificate, private_key)| tls::Identity {
                certificate,
                private_key,
            });
            let config =
                tls::config(&tls::read(path)?, identity).map_err(|error| format!("`{path}`: {error}"))?;
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
        }
        Ok(options)
    }
}

impl Peer for Broker {
    fn name(&self) -> String {
        format!("broker {}", self.sink.broker)
    }

    async fn login(&mut self) -> Result<Login, LinkError> {
        // Files are read each time: certificates are renewed beside the running module.
        Ok(Login {
            options: self.options().map_err(LinkError::Login)?,
            renew_after: None,
        })
    }

    fn subscriptions(&self) -> Vec<String> {
        Vec::new()
    }

    fn topic(&self, _: &Message<'_>) -> String {
        self.sink.topic.clone()
    }

    fn subscribed(&mut self) -> Vec<Publication> {
        Vec::new()
    }

    fn received(&mut self, _: &Publish, _: Token) -> Received {
        Received::Done(Vec::new())
    }

    async fn work(&mut self) -> Work {
        std::future::pending().await
    }

    fn farewell(&mut self) -> Vec<Publication> {
        Vec::new()
    }
}
