//! A Video4Linux camera: its Motion-JPEG frames are inputs. A thread of its own reads every frame, since a camera whose
//! buffers are full gives old ones; the newest is predicted when it is time for the next. A camera that goes is opened
//! again when it comes back.

mod tables;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aiot_package::CameraSource;
use linuxvideo::Device;
use linuxvideo::format::{PixFormat, PixelFormat};
use linuxvideo::stream::ReadStream;
use tokio::sync::watch;

use super::Origin;
use super::intake::{Taken, take};
use crate::link::{Backoff, Stop, stopped_within};
use crate::log;
use crate::serve::Service;
use tables::TABLES;

/// A camera that gives no frame for so long is told.
const STALLED: Duration = Duration::from_secs(10);

/// The newest frame, or why there will be no more.
type Latest = Result<Option<Arc<[u8]>>, String>;

pub(crate) async fn watch(service: Arc<Service>, source: CameraSource, stop: Stop) {
    let mut backoff = Backoff::new();
    loop {
        let opened = tokio::task::spawn_blocking({
            let source = source.clone();
            move || open(&source)
        })
        .await;
        let ended = match opened {
            Ok(Ok((stream, size))) => {
                log::info(&format!("camera `{}`: {size} pixels", source.device));
                backoff = Backoff::new();
                match frames(stream) {
                    Ok(latest) => run(&service, &source, latest, &stop).await,
                    Err(error) => Some(format!("its thread does not start: {error}")),
                }
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let Some(why) = ended else { return };
        log::error(&format!("camera `{}`, trying again: {why}", source.device));
        if stopped_within(&stop, backoff.next_pause()).await {
            return;
        }
    }
}

/// Predicts frames until the camera ends, which is the answer, or the module.
async fn run(
    service: &Arc<Service>,
    source: &CameraSource,
    mut latest: watch::Receiver<Latest>,
    stop: &Stop,
) -> Option<String> {
    let interval = Duration::from_millis(source.interval_ms.into());
    let mut stopped = stop.clone();
    let mut stalled = false;
    loop {
        let changed = tokio::select! {
            changed = tokio::time::timeout(STALLED, latest.changed()) => changed,
            _ = stopped.wait_for(|stop| *stop) => return None,
        };
        let Ok(changed) = changed else {
            if !std::mem::replace(&mut stalled, true) {
                log::warn(&format!(
                    "camera `{}` has given no frame for {} seconds",
                    source.device,
                    STALLED.as_secs()
                ));
            }
            continue;
        };
        stalled = false;
        if changed.is_err() {
            return Some("its thread has ended".to_owned());
        }
        let frame = match &*latest.borrow_and_update() {
            Ok(Some(frame)) => frame.clone(),
            Ok(None) => continue,
            Err(why) => return Some(why.clone()),
        };
        let started = Instant::now();
        let origin = Origin {
            kind: "camera",
            name: source.device.clone(),
            message_id: String::new(),
        };
        if take(service, origin, stop, move || Ok(frame)).await == Taken::Stopped
            || stopped_within(stop, interval.saturating_sub(started.elapsed())).await
        {
            return None;
        }
    }
}

/// Opens the camera and starts its stream; with the size of its frames in words.
fn open(source: &CameraSource) -> io::Result<(ReadStream, String)> {
    let device = Device::open(&source.device)?;
    let wanted = PixFormat::new(source.width, source.height, PixelFormat::MJPG);
    let capture = device.video_capture(wanted)?;
    let format = capture.format();
    let given = format.pixel_format();
    if given != PixelFormat::MJPG && given != PixelFormat::JPEG {
        return Err(io::Error::other(format!(
            "it gives `{given}` where Motion-JPEG is wanted: take a camera that compresses, or put pictures into a \
             folder (`sources.directory`)"
        )));
    }
    let size = format!("{}×{}", format.width(), format.height());
    Ok((capture.into_stream()?, size))
}

/// Reads frames on a thread of its own, until nobody wants them or the camera ends.
fn frames(mut stream: ReadStream) -> io::Result<watch::Receiver<Latest>> {
    let (sender, receiver) = watch::channel(Ok(None));
    thread::Builder::new().name("camera".to_owned()).spawn(move || {
        loop {
            // A frame that the driver calls damaged is no input.
            let frame = stream.dequeue(|view| Ok((!view.is_error()).then(|| whole(&view))));
            let news = match frame {
                Ok(None) => continue,
                Ok(Some(frame)) => Ok(Some(frame)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error.to_string()),
            };
            let ends = news.is_err();
            if sender.send(news).is_err() || ends {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The frame as a JPEG file: with the Huffman tables, if the camera left them out. What is no JPEG stays as it is.
fn whole(frame: &[u8]) -> Arc<[u8]> {
    let mut at = 2;
    // Segments: a marker of two bytes, then a length that counts itself.
    while let Some([0xFF, marker, high, low]) = frame.get(at..at + 4) {
        match marker {
            // Tables are there.
            0xC4 => break,
            // The picture begins.
            0xDA => return [&frame[..at], &TABLES, &frame[at..]].concat().into(),
            _ => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
        }
    }
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_put_before_the_picture_where_they_are_missing() {
        let (start, quantization) = ([0xFF, 0xD8], [0xFF, 0xDB, 0, 3, 9]);
        let picture = [0xFF, 0xDA, 0, 2, 1, 2, 3];
        let bare = [&start[..], &quantization, &picture].concat();
        let full = [&start[..], &quantization, &TABLES, &picture].concat();
        assert_eq!(whole(&bare)[..], full);
        assert_eq!(whole(&full)[..], full);
        for damaged in [&[][..], &[0xFF], &bare[..4], &bare[2..], b"no picture at all"] {
            assert_eq!(whole(damaged)[..], *damaged);
        }
    }
}
