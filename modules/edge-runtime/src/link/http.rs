//! One HTTP/1.1 request on a connection of its own, bounded in size and time: the workload API and webhooks.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Sends `request` and reads the answer. The caller bounds the time.
///
/// # Errors
/// What happened to the connection.
pub(crate) async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body()))
    };
    let read = async {
        let (status, body) = exchange.await.map_err(|error| error.to_string())?;
        let body = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| format!("the answer is cut off or too long: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(read);
    tokio::select! {
        result = &mut read => result,
        // The connection may end before its last answer is read.
        _ = connection => read.await,
    }
}
