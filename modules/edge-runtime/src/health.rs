//! `health`: asks the service on this machine whether it is ready. For Docker's `Healthcheck`, so that the image
//! needs no curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::{EXIT_DONE, EXIT_FAILED, Stop, log};

const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) fn probe(service: SocketAddr) -> Result<u8, Stop> {
    let ip = match service.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, service.port());
    match status(address) {
        Ok(200) => Ok(EXIT_DONE),
        Ok(status) => {
            log::error(&format!("the service on {address} is not ready: status {status}"));
            Ok(EXIT_FAILED)
        }
        Err(error) => {
            log::error(&format!("no service on {address}: {error}"));
            Ok(EXIT_FAILED)
        }
    }
}

fn status(address: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET /v2/health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let code = std::str::from_utf8(&head)
        .ok()
        .and_then(|text| text.strip_prefix("HTTP/1.1 ")?.parse().ok());
    code.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "it does not speak HTTP"))
}
