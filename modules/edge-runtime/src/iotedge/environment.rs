//! The `IOTEDGE_*` variables that edgeAgent gives to every module.

use std::time::Duration;

/// The port of edgeHub's MQTT.
const EDGE_HUB_PORT: u16 = 8883;
/// The version of the workload API that all daemons since 1.0.9 know.
const API_VERSION: &str = "2019-01-30";
/// How long a token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Who the module is, and where its daemon and its hub are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EdgeEnvironment {
    pub(crate) device: String,
    pub(crate) module: String,
    pub(crate) generation: String,
    /// Host name of the hub in the cloud: a part of names, never connected to.
    pub(crate) hub: String,
    /// Host name of edgeHub, as in its certificate.
    pub(crate) gateway: String,
    pub(crate) port: u16,
    /// `unix:///path` or `http://host:port`.
    pub(crate) workload: String,
    pub(crate) api_version: String,
    pub(crate) token_life: Duration,
}

impl EdgeEnvironment {
    /// From the environment; `None` where the module does not run under IoT Edge.
    ///
    /// # Errors
    /// The variable that is missing or wrong.
    pub(crate) fn new(
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<EdgeEnvironment>, String> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let Some(workload) = variable("IOTEDGE_WORKLOADURI") else {
            return Ok(None);
        };
        let needed = |name: &str| {
            let why =
                "IOTEDGE_WORKLOADURI is set, so the module runs under IoT Edge, whose agent sets all of them";
            let value = variable(name).ok_or_else(|| format!("{name} is missing: {why}"))?;
            // They become parts of topics and headers.
            match value
                .chars()
                .any(|c| c.is_control() || c.is_whitespace() || "/+#?".contains(c))
            {
                true => Err(format!("{name}: `{value}` has characters that no id or host has")),
                false => Ok(value),
            }
        };
        if let Some(scheme) = variable("IOTEDGE_AUTHSCHEME")
            && !scheme.eq_ignore_ascii_case("sasToken")
        {
            return Err(format!(
                "IOTEDGE_AUTHSCHEME: `{scheme}` is not known, `sasToken` is"
            ));
        }
        if !workload.starts_with("unix://") && !workload.starts_with("http://") {
            return Err(format!(
                "IOTEDGE_WORKLOADURI: `{workload}` begins with neither `unix://` nor `http://`"
            ));
        }
        let number = |name: &str, default: u64, range: std::ops::RangeInclusive<u64>| match variable(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|value| range.contains(value))
                .ok_or_else(|| {
                    format!(
                        "{name}: `{text}` is not from {} to {}",
                        range.start(),
                        range.end()
                    )
                }),
        };
        let port = number("AIOT_EDGE_HUB_PORT", EDGE_HUB_PORT.into(), 1..=65535)?;
        let life = number("AIOT_TOKEN_LIFE_S", TOKEN_LIFE.as_secs(), 2..=86_400)?;
        Ok(Some(EdgeEnvironment {
            device: needed("IOTEDGE_DEVICEID")?,
            module: needed("IOTEDGE_MODULEID")?,
            generation: needed("IOTEDGE_MODULEGENERATIONID")?,
            hub: needed("IOTEDGE_IOTHUBHOSTNAME")?,
            gateway: needed("IOTEDGE_GATEWAYHOSTNAME")?,
            port: port as u16,
            workload,
            api_version: variable("IOTEDGE_APIVERSION").unwrap_or_else(|| API_VERSION.to_owned()),
            token_life: Duration::from_secs(life),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 7] = [
        ("IOTEDGE_WORKLOADURI", "unix:///run/workload.sock"),
        ("IOTEDGE_AUTHSCHEME", "sasToken"),
        ("IOTEDGE_MODULEGENERATIONID", "637"),
        ("IOTEDGE_IOTHUBHOSTNAME", "hub1.azure-devices.net"),
        ("IOTEDGE_GATEWAYHOSTNAME", "edge1"),
        ("IOTEDGE_DEVICEID", "edge1"),
        ("IOTEDGE_MODULEID", "mod1"),
    ];

    fn environment(changed: (&str, &str)) -> Result<Option<EdgeEnvironment>, String> {
        EdgeEnvironment::new(|name| {
            let set = ALL.iter().chain([&changed]).rev().find(|(key, _)| *key == name);
            set.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn under_iot_edge_and_elsewhere() {
        assert_eq!(EdgeEnvironment::new(|_| None), Ok(None));
        let edge = environment(("", "")).unwrap().unwrap();
        assert_eq!((edge.port, &edge.api_version[..]), (8883, "2019-01-30"));
        let newer = environment(("IOTEDGE_APIVERSION", "2022-08-03"))
            .unwrap()
            .unwrap();
        assert_eq!(newer.api_version, "2022-08-03");
    }

    #[test]
    fn mistakes_name_the_variable() {
        for (name, value) in [
            ("IOTEDGE_DEVICEID", ""),
            ("IOTEDGE_MODULEID", "a/b"),
            ("IOTEDGE_GATEWAYHOSTNAME", "a b"),
            ("IOTEDGE_AUTHSCHEME", "x509"),
            ("IOTEDGE_WORKLOADURI", "tcp://x"),
            ("AIOT_EDGE_HUB_PORT", "0"),
            ("AIOT_TOKEN_LIFE_S", "soon"),
        ] {
            let error = environment((name, value)).unwrap_err();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
