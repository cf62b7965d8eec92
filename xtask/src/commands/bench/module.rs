//! The module of an image against services as people write them in Python: FastAPI on uvicorn, and MLServer.
//!
//! The same quantized model, pictures, load and thread count, in turns. The services in Python run from the packages of
//! Python's index; their scripts are `xtask/benches/peers`. The module runs from its unpacked image, on this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aiot_build::BuildError;
use aiot_build::paths::Paths;
use aiot_inference::preprocess::Preparation;
use aiot_inference::{Dataset, Engine, Model, SessionOptions, Tensor};
use aiot_oci::read_layout;
use aiot_package::InputSpec;
use aiot_testkit::device::Device;
use aiot_testkit::python;
use serde_json::json;

use super::load::{Load, Requests, answers, load};
use super::measure::{Aim, Row, median, ran};

/// Models, and the aim for the time of their requests as a share of FastAPI's: of small ones the overhead counts, of
/// larger ones the inference.
const MODELS: [(&str, f64); 2] = [("delivery-digits", 1.0 / 5.0), ("surface-defects", 1.0 / 1.5)];
/// Aims as shares of FastAPI's figure, and of the engine alone for a request of the last model.
const START_AIM: f64 = 1.0 / 20.0;
const MEMORY_AIM: f64 = 1.0 / 5.0;
const SLOWEST_AIM: f64 = 1.0 / 3.0;
const ENGINE_AIM: f64 = 1.05;
/// Clients at once, and requests that they send together.
const LOADS: [(usize, usize); 2] = [(1, 500), (16, 2000)];
/// Requests before anything is timed.
const WARM_UP: usize = 50;
/// Different pictures that are sent.
const PICTURES: usize = 50;
/// Longest wait for a service to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Picture that is prepared for a net, in pixels.
const PREPARED_SIDE: usize = 224;

const FASTAPI: [&str; 7] = [
    "fastapi==0.165.0",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
    "onnxruntime==1.32.0",
    "pillow==13.0.0",
    "numpy==2.4.6",
];
const MLSERVER: [&str; 4] = [
    "mlserver==1.7.1",
    "onnxruntime==1.32.0",
    "pillow==13.0.0",
    "numpy==2.4.6",
];

/// Measures; the module's images are those of the last release.
pub fn run(paths: &Paths, runs: usize) -> Result<Vec<Row>, BuildError> {
    let temporary = tempfile::tempdir().map_err(BuildError::other)?;
    let peers = Peers {
        scripts: paths.root.join("xtask/benches/peers"),
        fastapi: python::install(&paths.downloads(), "fastapi", &FASTAPI).map_err(BuildError::Other)?,
        mlserver: python::install(&paths.downloads(), "mlserver", &MLSERVER).map_err(BuildError::Other)?,
        settings: temporary.path().to_owned(),
    };
    let mut rows = Vec::new();
    for (name, aim) in MODELS {
        let device = unpacked(paths, name)?;
        let data = paths.root.join("models").join(name).join("data/evaluation");
        rows.extend(services(&peers, &device, name, &pictures(&data)?, aim, runs)?);
        if name == MODELS[MODELS.len() - 1].0 {
            rows.push(against_engine(&device, name, &pictures(&data)?, runs)?);
            rows.extend(sizes(&device, &peers)?);
        }
    }
    rows.push(preparation(&peers, runs)?);
    Ok(rows)
}

struct Peers {
    scripts: PathBuf,
    fastapi: PathBuf,
    mlserver: PathBuf,
    settings: PathBuf,
}

/// A service that was started.
struct Service {
    child: Child,
    /// From its start to its first prediction.
    start_seconds: f64,
    requests: Requests,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    fn start(command: &mut Command, requests: Requests) -> Result<Service, BuildError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let start = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| BuildError::Other(format!("`{name}` cannot be started: {error}")))?;
        let mut service = Service {
            child,
            start_seconds: 0.0,
            requests,
        };
        while !answers(&service.requests) {
            if start.elapsed() > PATIENCE || service.child.try_wait().map_err(BuildError::other)?.is_some() {
                return Err(BuildError::Other(format!(
                    "`{name}` serves no prediction at {}",
                    service.requests.path
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        service.start_seconds = start.elapsed().as_secs_f64();
        Ok(service)
    }

    /// Resident now.
    fn memory_bytes(&self) -> Result<f64, BuildError> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).map_err(BuildError::other)?;
        super::measure::status_bytes(&status, "VmRSS:").ok_or_else(|| {
            BuildError::Other("this system does not tell how much memory is resident".to_owned())
        })
    }
}

fn free_port() -> Result<u16, BuildError> {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(BuildError::other)
}

/// The root of a model's image for this machine.
fn unpacked(paths: &Paths, name: &str) -> Result<Device, BuildError> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let workspace =
        aiot_plan::resolve(&aiot_build::workspace::read_texts(paths)?).map_err(BuildError::Config)?;
    let layout = paths.root.join("dist/images");
    let images = read_layout(&layout).map_err(BuildError::other)?;
    workspace
        .images()
        .filter(|(model, target)| model.name.as_str() == name && target.platform.architecture == architecture)
        .find_map(|(model, target)| {
            let wanted = format!("{}-{}-{}", model.name, model.version, target.name);
            images.iter().find(|(image, _)| *image == wanted)
        })
        .ok_or_else(|| {
            BuildError::Other(format!(
                "there is no image of {name} for {architecture}; `cargo xtask release` makes it"
            ))
        })
        .and_then(|(_, descriptor)| Device::open(&layout, &descriptor.digest).map_err(BuildError::Other))
}

fn pictures(data: &Path) -> Result<Vec<Vec<u8>>, BuildError> {
    let dataset = Dataset::open(data).map_err(BuildError::other)?;
    let samples = dataset.samples().iter().take(PICTURES);
    samples
        .map(|sample| std::fs::read(dataset.dir().join(&sample.file)).map_err(BuildError::other))
        .collect()
}

fn module(
    device: &Device,
    path: &str,
    bodies: &[Vec<u8>],
    content_type: &'static str,
) -> Result<Service, BuildError> {
    let port = free_port()?;
    let mut command = device.command(&["serve"]);
    command
        .env("AIOT_HTTP_ADDRESS", format!("127.0.0.1:{port}"))
        .env("AIOT_METRICS_ADDRESS", "127.0.0.1:0")
        .env("AIOT_INTRA_THREADS", "1");
    let requests = Requests {
        port,
        path: path.to_owned(),
        content_type,
        bodies: bodies.to_vec(),
    };
    Service::start(&mut command, requests)
}

impl Peers {
    fn python(&self, packages: &Path, device: &Device) -> Result<Command, BuildError> {
        let folders = [packages, &self.scripts];
        let mut command = Command::new("python3");
        command
            .env(
                "PYTHONPATH",
                std::env::join_paths(folders).map_err(BuildError::other)?,
            )
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("MODEL_DIR", device.package())
            .env("THREADS", "1");
        Ok(command)
    }

    fn fastapi(&self, device: &Device, bodies: &[Vec<u8>]) -> Result<Service, BuildError> {
        let port = free_port()?;
        let mut command = self.python(&self.fastapi, device)?;
        command
            .args(["-m", "uvicorn", "fastapi_service:service", "--host", "127.0.0.1"])
            .args(["--no-access-log", "--log-level", "warning", "--port"])
            .arg(port.to_string());
        let requests = Requests {
            port,
            path: "/v1/predict".to_owned(),
            content_type: "application/octet-stream",
            bodies: bodies.to_vec(),
        };
        Service::start(&mut command, requests)
    }

    fn mlserver(&self, device: &Device, name: &str, bodies: &[Vec<u8>]) -> Result<Service, BuildError> {
        let port = free_port()?;
        let folder = self.settings.join(name);
        // One process, as the others are.
        let settings = json!({
            "host": "127.0.0.1", "http_port": port, "grpc_port": free_port()?, "metrics_port": free_port()?,
            "parallel_workers": 0, "debug": false,
        });
        let model = json!({ "name": name, "implementation": "mlserver_model.Model" });
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join("settings.json"), settings.to_string()))
            .and_then(|()| std::fs::write(folder.join("model-settings.json"), model.to_string()))
            .map_err(BuildError::other)?;
        let mut command = self.python(&self.mlserver, device)?;
        command.args(["-m", "mlserver.cli.main", "start"]).arg(&folder);
        let requests = Requests {
            port,
            path: format!("/v2/models/{name}/infer"),
            content_type: "application/json",
            bodies: bodies.to_vec(),
        };
        Service::start(&mut command, requests)
    }
}

/// Start, memory and load, in turns: a round has each service once.
fn services(
    peers: &Peers,
    device: &Device,
    name: &str,
    pictures: &[Vec<u8>],
    aim: f64,
    runs: usize,
) -> Result<Vec<Row>, BuildError> {
    let tensors = tensors(device, pictures)?;
    let mut rows = Vec::new();
    let raw = "application/octet-stream";
    let protocol = format!("/v2/models/{name}/infer");
    eprintln!("module: {name} against FastAPI");
    rows.extend(compared(
        (name, "FastAPI"),
        &|| module(device, "/v1/predict", pictures, raw),
        &|| peers.fastapi(device, pictures),
        Some(aim),
        runs,
    )?);
    eprintln!("module: {name} against MLServer");
    rows.extend(compared(
        (name, "MLServer, tensors"),
        &|| module(device, &protocol, &tensors, "application/json"),
        &|| peers.mlserver(device, name, &tensors),
        None,
        runs,
    )?);
    Ok(rows)
}

/// Requests of the Open Inference Protocol with what the pictures become.
fn tensors(device: &Device, pictures: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, BuildError> {
    let package = read_package(device)?;
    let input: InputSpec = serde_json::from_value(package["input"].clone()).map_err(BuildError::other)?;
    let preparation = Preparation::new(&input).map_err(BuildError::other)?;
    let body = |picture: &Vec<u8>| -> Result<Vec<u8>, BuildError> {
        let tensor = prepared(&preparation, picture)?;
        let body = json!({ "inputs": [{
            "name": "input", "shape": tensor.shape(), "datatype": "FP32", "data": tensor.values(),
        }] });
        Ok(body.to_string().into_bytes())
    };
    pictures.iter().map(body).collect()
}

fn read_package(device: &Device) -> Result<serde_json::Value, BuildError> {
    let bytes = std::fs::read(device.package().join("package.json")).map_err(BuildError::other)?;
    serde_json::from_slice(&bytes).map_err(BuildError::other)
}

fn prepared(preparation: &Preparation, picture: &[u8]) -> Result<Tensor, BuildError> {
    let mut tensors = preparation.prepare(picture).map_err(BuildError::other)?;
    tensors
        .next_measured()
        .map(|(_, tensor, _)| tensor)
        .ok_or_else(|| BuildError::Other("a picture without a tensor".to_owned()))
}

/// Two services by turns.
fn compared(
    (name, peer): (&str, &str),
    ours: &dyn Fn() -> Result<Service, BuildError>,
    theirs: &dyn Fn() -> Result<Service, BuildError>,
    aim: Option<f64>,
    runs: usize,
) -> Result<Vec<Row>, BuildError> {
    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    let mut loads: Vec<Vec<(Load, Load)>> = LOADS.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        let (here, there) = (ours()?, theirs()?);
        starts.push((here.start_seconds, there.start_seconds));
        for service in [&here, &there] {
            load(&service.requests, 1, WARM_UP)?;
        }
        for ((clients, count), pairs) in LOADS.iter().zip(&mut loads) {
            let ours = load(&here.requests, *clients, *count)?;
            pairs.push((ours, load(&there.requests, *clients, *count)?));
        }
        memory.push((here.memory_bytes()?, there.memory_bytes()?));
    }
    let ratio = |aim: f64| Some(Aim::Ratio(aim));
    let mut rows = vec![
        Row::pairs(
            format!("{name}: start to first prediction"),
            peer,
            &starts,
            ratio(START_AIM),
        ),
        Row::memory_pairs(
            format!("{name}: resident after load"),
            peer,
            &memory,
            ratio(MEMORY_AIM),
        ),
    ];
    for ((clients, count), pairs) in LOADS.iter().zip(&loads) {
        let of = |figure: &dyn Fn(&Load) -> f64| -> Vec<(f64, f64)> {
            pairs
                .iter()
                .map(|(here, there)| (figure(here), figure(there)))
                .collect()
        };
        let words = if *clients == 1 { "client" } else { "clients" };
        rows.push(Row::pairs(
            format!("{name}: a request, {clients} {words}"),
            peer,
            &of(&|load| load.seconds / *count as f64),
            aim.and_then(ratio),
        ));
        rows.push(Row::pairs(
            format!("{name}: p99, {clients} {words}"),
            peer,
            &of(&|load| load.quantile(0.99)),
            (*clients > 1).then_some(SLOWEST_AIM).and_then(ratio),
        ));
    }
    Ok(rows)
}

/// A request against the engine alone with the same tensor, in this process.
fn against_engine(device: &Device, name: &str, pictures: &[Vec<u8>], runs: usize) -> Result<Row, BuildError> {
    let library = device
        .command(&[])
        .get_envs()
        .find(|(variable, _)| *variable == "AIOT_ENGINE_LIBRARY")
        .and_then(|(_, value)| value.map(PathBuf::from))
        .ok_or_else(|| BuildError::Other("the image names no engine".to_owned()))?;
    let engine = Engine::load(&library).map_err(BuildError::other)?;
    let model =
        Model::open(&device.package(), &engine, &SessionOptions::default()).map_err(BuildError::other)?;
    let tensors = pictures
        .iter()
        .map(|picture| prepared(model.preparation(), picture))
        .collect::<Result<Vec<_>, _>>()?;
    let service = module(device, "/v1/predict", pictures, "application/octet-stream")?;
    load(&service.requests, 1, WARM_UP)?;
    let mut pairs = Vec::new();
    for _ in 0..runs {
        let request = load(&service.requests, 1, LOADS[0].1)?.quantile(0.5);
        let mut alone = Vec::new();
        for index in 0..LOADS[0].1 {
            let start = Instant::now();
            model
                .run(&tensors[index % tensors.len()])
                .map_err(BuildError::other)?;
            alone.push(start.elapsed().as_secs_f64());
        }
        pairs.push((request, median(&alone)));
    }
    Ok(Row::pairs(
        format!("{name}: a request, 1 client, median"),
        "the engine alone",
        &pairs,
        Some(Aim::Ratio(ENGINE_AIM)),
    ))
}

/// The unpacked image against the Python packages of the FastAPI service, which has a system and Python besides.
fn sizes(device: &Device, peers: &Peers) -> Result<Vec<Row>, BuildError> {
    let pair = (bytes(device.root())?, bytes(&peers.fastapi)?);
    Ok(vec![Row::memory_pairs(
        "image, unpacked",
        "FastAPI's Python packages alone",
        &[pair],
        Some(Aim::Ratio(MEMORY_AIM)),
    )])
}

fn bytes(folder: &Path) -> Result<f64, BuildError> {
    let mut sum = 0.0;
    for entry in std::fs::read_dir(folder).map_err(BuildError::other)? {
        let entry = entry.map_err(BuildError::other)?;
        let metadata = entry.metadata().map_err(BuildError::other)?;
        sum += if metadata.is_dir() {
            bytes(&entry.path())?
        } else if metadata.is_file() {
            metadata.len() as f64
        } else {
            0.0
        };
    }
    Ok(sum)
}

/// A JPEG of 1920×1080 to a tensor of 224×224, against Pillow and NumPy.
fn preparation(peers: &Peers, runs: usize) -> Result<Row, BuildError> {
    let (picture, theirs) = (peers.settings.join("picture.jpeg"), peers.settings.join("tensor"));
    let script = || {
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", &peers.fastapi)
            .arg(peers.scripts.join("preprocess.py"));
        command
    };
    ran(script().arg("make").arg(&picture))?;
    let input: InputSpec = serde_json::from_value(json!({ "image": {
        "width": PREPARED_SIDE, "height": PREPARED_SIDE, "colour": "rgb", "resize": "bilinear",
        "fit": "stretch", "scale": 0.003_921_569, "layout": "nchw",
    } }))
    .map_err(BuildError::other)?;
    let preparation = Preparation::new(&input).map_err(BuildError::other)?;
    let data = std::fs::read(&picture).map_err(BuildError::other)?;
    let side = PREPARED_SIDE.to_string();
    let mut pairs = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        let tensor = prepared(&preparation, &data)?;
        let ours = start.elapsed().as_secs_f64();
        let ran = ran(script().arg(&picture).args([&side, &side, "3"]).arg(&theirs))?;
        let seconds: Vec<f64> = ran.stdout.lines().filter_map(|line| line.parse().ok()).collect();
        pairs.push((ours, median(&seconds)));
        let expected = std::fs::read(&theirs).map_err(BuildError::other)?;
        let largest = tensor
            .values()
            .iter()
            .zip(expected.as_chunks().0)
            .map(|(value, bytes)| (value - f32::from_le_bytes(*bytes)).abs())
            .fold(0.0, f32::max);
        eprintln!("module: largest difference from Pillow, decoder included, {largest} of 1");
    }
    Ok(Row::pairs(
        "JPEG of 1920×1080 to 224×224",
        "Pillow and NumPy",
        &pairs,
        Some(Aim::Ratio(1.0)),
    ))
}
