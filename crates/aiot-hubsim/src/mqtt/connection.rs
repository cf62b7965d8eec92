//! One connection of a client: packets in and out, until either side ends it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::QoS;
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::mqttbytes::v4::{Packet, Publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;

use super::client::Push;
use super::session::{Session, Welcome};
use crate::rest::Simulator;
use crate::serve::{HANDSHAKE_LIMIT, locked, unix_secs};

/// Largest packet, as docs say for messages: 256 KiB, and some for its topic.
const PACKET_LIMIT_BYTES: usize = (256 << 10) + (4 << 10);
/// Longest that a client may be silent, whatever it asks for (docs: 29.45 minutes).
const SILENCE_LIMIT: Duration = Duration::from_secs(1767);

/// Serves one connection to its end. However it ends, the client sees it, and there is nobody else to tell.
pub(crate) async fn serve(stream: TlsStream<TcpStream>, hub: &Arc<Mutex<Simulator>>) {
    let buffer = BytesMut::new();
    let _ = welcome(Wire { stream, buffer }, hub).await;
}

/// A connection that is read and written by packets.
struct Wire {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
}

impl Wire {
    /// May be dropped while it waits: what came already stays.
    async fn read(&mut self) -> io::Result<Packet> {
        loop {
            match Packet::read(&mut self.buffer, PACKET_LIMIT_BYTES) {
                Ok(packet) => return Ok(packet),
                Err(PacketError::InsufficientBytes(_)) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn write(&mut self, packet: &Packet) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        packet
            .write(&mut bytes, PACKET_LIMIT_BYTES)
            .map_err(io::Error::other)?;
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }
}

/// Asks the hub on a thread where computing holds up nobody.
async fn with<T: Send + 'static>(
    hub: &Arc<Mutex<Simulator>>,
    ask: impl FnOnce(&mut Simulator) -> T + Send + 'static,
) -> io::Result<T> {
    let hub = Arc::clone(hub);
    tokio::task::spawn_blocking(move || ask(&mut locked(&hub)))
        .await
        .map_err(io::Error::other)
}

async fn welcome(mut wire: Wire, hub: &Arc<Mutex<Simulator>>) -> io::Result<()> {
    let first = tokio::time::timeout(HANDSHAKE_LIMIT, wire.read()).await??;
    let Packet::Connect(connect) = first else {
        return Ok(());
    };
    // One and a half times what the client promises, as the protocol says.
    let silence = match connect.keep_alive {
        0 => SILENCE_LIMIT,
        secs => (Duration::from_secs(u64::from(secs)) * 3 / 2).min(SILENCE_LIMIT),
    };
    let unix_secs = unix_secs();
    let welcome = with(hub, move |hub| Session::open(hub, &connect, unix_secs)).await?;
    let (session, pushes, accepted) = match welcome {
        Welcome::In(session, pushes, accepted) => (session, pushes, accepted),
        Welcome::Out(refused) => return wire.write(&refused).await,
    };
    let life = Duration::from_secs(session.expires_secs.saturating_sub(unix_secs));
    let talk = async {
        wire.write(&accepted).await?;
        talk(&mut wire, &session, pushes, silence, hub).await
    };
    // The hub lets a client go whose token has expired.
    let ended = tokio::time::timeout(life, talk).await;
    let why = match ended {
        Err(_) => "its token has expired".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(())) => "another took its place, or it did not read".to_owned(),
    };
    with(hub, move |hub| session.close(hub, &why)).await
}

/// Until the client is disconnected by the hub, or by an error.
async fn talk(
    wire: &mut Wire,
    session: &Session,
    mut pushes: mpsc::Receiver<Push>,
    silence: Duration,
    hub: &Arc<Mutex<Simulator>>,
) -> io::Result<()> {
    let mut last_packet: u16 = 0;
    loop {
        tokio::select! {
            push = pushes.recv() => {
                let Some(push) = push else { return Ok(()) };
                last_packet = last_packet.checked_add(1).unwrap_or(1);
                let mut publish = Publish::new(push.topic, QoS::AtLeastOnce, push.body);
                publish.pkid = last_packet;
                wire.write(&Packet::Publish(publish)).await?;
            }
            packet = tokio::time::timeout(silence, wire.read()) => {
                let (packet, taker) = (packet??, session.clone());
                let answer = with(hub, move |hub| taker.take(hub, packet)).await?;
                if let Some(answer) = answer.map_err(io::Error::other)? {
                    wire.write(&answer).await?;
                }
            }
        }
    }
}
