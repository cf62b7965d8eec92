//! A Video4Linux camera: its frames are inputs, Motion-JPEG where it has that, else YUYV. A thread of its own reads every frame, since a camera whose
//! buffers are full gives old ones; the newest is predicted when it is time for the next. A camera that goes is opened
//! again when it comes back.

mod tables;
mod yuyv;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aiot_inference::PredictError;
use aiot_package::CameraSource;
use rscam::{Camera, Config, IntervalInfo, ResolutionInfo};
use tokio::sync::watch;

use super::Origin;
use super::intake::{Taken, take};
use crate::link::{Backoff, Stop, stopped_within};
use crate::log;
use crate::serve::Service;
use tables::TABLES;

const MOTION_JPEG: &[u8; 4] = b"MJPG";
const YUYV: &[u8; 4] = b"YUYV";

/// A camera that gives no frame for so long is told.
const STALLED: Duration = Duration::from_secs(10);

/// The newest frame, or why there will be no more.
type Latest = Result<Option<Picture>, String>;

/// A frame as the camera gave it.
#[derive(Clone)]
enum Picture {
    Jpeg(Arc<[u8]>),
    Yuyv { frame: Arc<[u8]>, size: (u32, u32) },
}

impl Picture {
    /// As a file that the model's preparation reads.
    fn file(self) -> Result<Arc<[u8]>, PredictError> {
        match self {
            Picture::Jpeg(frame) => Ok(whole(&frame)),
            Picture::Yuyv { frame, size } => Ok(yuyv::file(&frame, size.0, size.1)?.into()),
        }
    }
}

pub(crate) async fn watch(service: Arc<Service>, source: CameraSource, stop: Stop) {
    let mut backoff = Backoff::new();
    loop {
        let started = Instant::now();
        let ended = match frames(source.clone()) {
            Ok(latest) => run(&service, &source, latest, &stop).await,
            Err(error) => Some(format!("its thread does not start: {error}")),
        };
        let Some(why) = ended else { return };
        log::error(&format!("camera `{}`, trying again: {why}", source.device));
        if started.elapsed() > STALLED {
            // It ran well: what ended it is new.
            backoff = Backoff::new();
        }
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
    let mut refusals = log::Seldom::new();
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
        if take(service, origin, &mut refusals, stop, move || frame.file()).await == Taken::Stopped
            || stopped_within(stop, interval.saturating_sub(started.elapsed())).await
        {
            return None;
        }
    }
}

/// Opens the camera and reads its frames on a thread of its own, until nobody wants them or it ends.
fn frames(source: CameraSource) -> io::Result<watch::Receiver<Latest>> {
    let (sender, receiver) = watch::channel(Ok(None));
    thread::Builder::new().name("camera".to_owned()).spawn(move || {
        let (camera, format) = match open(&source) {
            Ok(opened) => opened,
            Err(why) => {
                let _ = sender.send(Err(why));
                return;
            }
        };
        log::info(&format!(
            "camera `{}`: {}×{} pixels, {}",
            source.device,
            source.width,
            source.height,
            String::from_utf8_lossy(format)
        ));
        loop {
            let news = match camera.capture() {
                Ok(frame) if format == YUYV => Ok(Some(Picture::Yuyv {
                    frame: frame[..].into(),
                    size: (source.width, source.height),
                })),
                Ok(frame) => Ok(Some(Picture::Jpeg(frame[..].into()))),
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

/// Opens the camera and starts its stream, as fast as it gives frames of the declared size.
fn open(source: &CameraSource) -> Result<(Camera, &'static [u8; 4]), String> {
    let text = |error: io::Error| error.to_string();
    let mut camera = Camera::new(&source.device).map_err(text)?;
    let formats: Vec<_> = camera.formats().filter_map(Result::ok).collect();
    let found = [MOTION_JPEG, YUYV]
        .into_iter()
        .find(|wanted| formats.iter().any(|format| &format.format == *wanted));
    let Some(format) = found else {
        let given: Vec<_> = formats
            .iter()
            .map(|format| String::from_utf8_lossy(&format.format))
            .collect();
        return Err(format!(
            "it gives `{}` where Motion-JPEG or YUYV is wanted: take another camera, or put pictures into a folder \
             (`sources.directory`)",
            given.join("`, `")
        ));
    };
    let size = (source.width, source.height);
    if let Ok(ResolutionInfo::Discretes(sizes)) = camera.resolutions(format)
        && !sizes.contains(&size)
    {
        let sizes: Vec<String> = sizes
            .iter()
            .map(|(width, height)| format!("{width}×{height}"))
            .collect();
        return Err(format!(
            "it has no frames of {}×{} pixels; of its sizes declare one: {}",
            source.width,
            source.height,
            sizes.join(", ")
        ));
    }
    let interval = match camera.intervals(format, size) {
        Ok(IntervalInfo::Discretes(all)) => all
            .into_iter()
            .min_by(|a, b| (u64::from(a.0) * u64::from(b.1)).cmp(&(u64::from(b.0) * u64::from(a.1)))),
        Ok(IntervalInfo::Stepwise { min, .. }) => Some(min),
        Err(_) => None,
    };
    let config = Config {
        interval: interval.unwrap_or((1, 30)),
        resolution: size,
        format,
        ..Config::default()
    };
    camera.start(&config).map_err(|error| error.to_string())?;
    Ok((camera, format))
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
