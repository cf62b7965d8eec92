//! `cargo xtask hub simulate`: a hub and a fleet on this machine, to try every command without an account.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aiot_build::BuildError;
use aiot_build::environment::generated;
use aiot_build::paths::Paths;
use aiot_hubsim::rest::entra;
use aiot_hubsim::{Identity, Quality, Server, Service, Trouble, population};
use aiot_iothub::rollout::declared::images;

use crate::output::Format;

/// Where devices look for a hub.
const MQTT_PORT: u16 = 8883;

/// What to do with hubs.
#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Serve a simulated hub and fleet over https on this machine, until Ctrl-C
    Simulate {
        /// Environment whose target conditions the devices fit
        #[arg(long, value_name = "NAME", default_value = "prod")]
        environment: String,
        /// Devices
        #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        devices: u32,
        /// Port on loopback [default: one that is free]
        #[arg(long, value_name = "PORT", default_value = "0", hide_default_value = true)]
        port: u16,
        /// Port on loopback for clients of devices and modules, MQTT over TLS [default: 8883, which is all that the
        /// official clients know, or else one that is free]
        #[arg(long, value_name = "PORT")]
        device_port: Option<u16>,
        /// A device or module whose place a client of yours takes: writes its connection string to a file
        #[arg(long, value_name = "DEVICE[/MODULE]")]
        connect: Vec<String>,
        /// Virtual seconds per second: at 3600 an hour of soaking is a second
        #[arg(long, value_name = "N", default_value = "3600", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
        speed: u32,
        /// Units of the hub; its throttles grow with them
        #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        units: u32,
        /// Images of this model that are not declared yet crash on so many percent of the devices
        #[arg(long, value_name = "MODEL=PERCENT", value_parser = bad)]
        bad: Vec<(String, u64)>,
    },
}

fn bad(text: &str) -> Result<(String, u64), String> {
    let (model, percent) = text.split_once('=').ok_or("write MODEL=PERCENT")?;
    match percent.parse() {
        Ok(percent) if percent <= 100 => Ok((model.to_owned(), percent)),
        _ => Err(format!("`{percent}` is not a percentage, 0 to 100")),
    }
}

/// Serves.
pub fn run(paths: &Paths, arguments: &Arguments, format: Format) -> Result<u8, BuildError> {
    let Arguments::Simulate {
        environment,
        devices,
        port,
        device_port,
        connect,
        speed,
        units,
        bad,
    } = arguments;
    let declared = generated(paths, environment, 0, "")?;
    let mut fleet = population(&declared, *devices as usize);
    if fleet.devices.is_empty() {
        return Err(BuildError::Other(format!(
            "no tags can be made that meet the target conditions of environment {environment}"
        )));
    }
    for (model, percent) in bad {
        let trouble = Quality {
            fails_percent: *percent,
            trouble: Trouble::Crashes,
        };
        fleet.repositories.insert(model.clone(), trouble);
    }
    for deployment in &declared.list().deployments {
        for image in declared
            .content(&deployment.id)
            .map(|content| images(content))
            .unwrap_or_default()
            .into_values()
        {
            let good = Quality {
                fails_percent: 0,
                trouble: Trouble::Crashes,
            };
            fleet.qualities.insert(image, good);
        }
    }
    let now_secs = crate::now_secs();
    let count = fleet.devices.len();
    let connect: Vec<Identity> = connect.iter().map(|text| Identity::parse(text)).collect();
    if let Some(unknown) = connect
        .iter()
        .find(|one| !fleet.devices.contains_key(&one.device))
    {
        let first = fleet.devices.keys().next().map_or("", String::as_str);
        return Err(BuildError::Other(format!(
            "--connect: there is no device `{}`; the first of {count} is `{first}`",
            unknown.device
        )));
    }
    let server = Server::start(Service::new(fleet, now_secs), *port, *units, f64::from(*speed))
        .map_err(|error| BuildError::Other(format!("cannot serve on port {port}: {error}")))?;
    let device_port = match device_port {
        Some(port) => server.listen_for_devices(*port),
        None => server
            .listen_for_devices(MQTT_PORT)
            .or_else(|_| server.listen_for_devices(0)),
    }
    .map_err(|error| BuildError::Other(format!("cannot serve devices: {error}")))?;

    let folder = paths.state.join("simulated-hub").join(server.port().to_string());
    std::fs::create_dir_all(&folder)
        .map_err(|error| BuildError::Other(format!("cannot make {}: {error}", folder.display())))?;
    let (connection, ca) = (folder.join("connection"), folder.join("ca.pem"));
    // The key is a secret even here: it is in a file for this user alone, and nowhere else.
    write(&connection, &server.connection_string())?;
    write(&ca, server.ca_pem())?;
    let entra = folder.join("entra");
    write(&entra, &entra_variables(&server, &ca, *units))?;
    let mut device_files = Vec::new();
    for (number, one) in connect.iter().enumerate() {
        let file = folder.join(format!("device-{number}"));
        write(&file, &server.client_connection_string(one))?;
        device_files.push((one.to_string(), file));
    }
    match format {
        Format::Text => print!(
            "export AIOT_HUB_CONNECTION_FILE={}\nexport AIOT_HUB_CA_FILE={}\nexport AIOT_HUB_UNITS={units}\n",
            quoted(&connection),
            quoted(&ca)
        ),
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "schema": 1, "port": server.port(), "devices": count, "connection-file": connection, "ca-file": ca,
                "entra-file": entra, "units": units, "device-port": device_port,
                "device-connection-files": device_files.iter().cloned().collect::<BTreeMap<_, _>>(),
            })
        ),
    }
    std::io::stdout().flush().map_err(BuildError::other)?;
    eprintln!(
        "a hub with {count} devices; set the above in another terminal, and run\n  cargo xtask deploy advance \
         --environment {environment}\nTo sign in as an Entra identity instead of by the hub's key: `. {}`\nThe fleet as a picture: https://localhost:{}/ (certificate from {}). Ctrl-C ends it.",
        quoted(&entra),
        server.port(),
        ca.display()
    );
    for (who, file) in &device_files {
        eprintln!("connection string of {who}: {}", file.display());
    }
    if !device_files.is_empty() {
        eprintln!("MQTT over TLS on port {device_port}, authority as above");
    }
    loop {
        std::thread::park();
    }
}

/// What to set for an application's identity that the simulated token endpoint knows; holds its secret.
fn entra_variables(server: &Server, ca: &Path, units: u32) -> String {
    let port = server.port();
    let secret = server.simulator().entra.secret.clone();
    format!(
        "# For a shell: the simulated hub by Entra ID, as an application with a secret.\n\
         unset AIOT_HUB_CONNECTION_STRING AIOT_HUB_CONNECTION_FILE\n\
         export AIOT_HUB_HOSTNAME=localhost:{port}\n\
         export AIOT_HUB_CREDENTIAL=client-secret\n\
         export AZURE_AUTHORITY_HOST=https://localhost:{port}\n\
         export AZURE_TENANT_ID={}\nexport AZURE_CLIENT_ID={}\nexport AZURE_CLIENT_SECRET={secret}\n\
         export AIOT_HUB_CA_FILE={}\nexport AIOT_HUB_UNITS={units}\n",
        entra::TENANT,
        entra::CLIENT,
        quoted(ca)
    )
}

fn write(path: &Path, text: &str) -> Result<(), BuildError> {
    let failed =
        |error: std::io::Error| BuildError::Other(format!("cannot write {}: {error}", path.display()));
    // Made anew, so that the mode is ours whatever was there.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// For a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
