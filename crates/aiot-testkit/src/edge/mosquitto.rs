//! mosquitto on loopback: a port with TLS for modules, one without for the test itself.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::tools;

/// An authority and a server's certificate of it, as PEM files in a folder.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes both with `openssl`; the server is called `name`.
    ///
    /// # Panics
    /// When `openssl` fails.
    pub fn make(folder: &Path, name: &str) -> Certificates {
        let file = |ending: &str| folder.join(format!("{name}-{ending}"));
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let authority_key = file("authority.key");
        let made = Certificates {
            authority: file("authority.pem"),
            certificate: file("server.pem"),
            key: file("server.key"),
        };
        let request = |key: &Path, out: &Path, subject: &str, more: &[String]| {
            let mut command = Command::new("openssl");
            command.args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ]);
            command.args([
                "-days",
                "30",
                "-subj",
                subject,
                "-keyout",
                &path(key),
                "-out",
                &path(out),
            ]);
            tools::run(command.args(more)).expect(0);
        };
        request(&authority_key, &made.authority, "/CN=test authority", &[]);
        let more = [
            "-CA".to_owned(),
            path(&made.authority),
            "-CAkey".to_owned(),
            path(&authority_key),
            "-addext".to_owned(),
            format!("subjectAltName=DNS:{name}"),
            "-addext".to_owned(),
            "basicConstraints=critical,CA:FALSE".to_owned(),
        ];
        request(&made.key, &made.certificate, &format!("/CN={name}"), &more);
        made
    }
}

/// A port that nobody listens on.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A broker; killed when it is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    child: Option<Child>,
    folder: PathBuf,
    /// With TLS.
    pub port: u16,
    /// Without.
    pub plain_port: u16,
    starts: u32,
}

impl Mosquitto {
    /// Starts one with its files in `folder`; `lines` are added to its configuration.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(folder: &Path, port: u16, certificates: &Certificates, lines: &[&str]) -> Mosquitto {
        let mut broker = Mosquitto {
            child: None,
            folder: folder.to_owned(),
            port,
            plain_port: free_port(),
            starts: 0,
        };
        broker.again(certificates, lines);
        broker
    }

    /// Starts it again on the same ports, after [`Mosquitto::kill`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn again(&mut self, certificates: &Certificates, lines: &[&str]) {
        self.kill();
        self.starts += 1;
        let configuration = self.folder.join("mosquitto.conf");
        let mut text = format!(
            "per_listener_settings true\nuser root\npersistence false\nlog_type all\nlog_timestamp false\n\
             log_dest file {log}\nmax_inflight_messages 10\n\
             listener {plain} 127.0.0.1\nallow_anonymous true\n\
             listener {port} 127.0.0.1\ncafile {authority}\ncertfile {certificate}\nkeyfile {key}\n",
            log = self.log_path().display(),
            plain = self.plain_port,
            port = self.port,
            authority = certificates.authority.display(),
            certificate = certificates.certificate.display(),
            key = certificates.key.display(),
        );
        let lines = if lines.is_empty() {
            &["allow_anonymous true"]
        } else {
            lines
        };
        for line in lines {
            text += line;
            text.push('\n');
        }
        fs::write(&configuration, text).unwrap();
        let child = Command::new(tools::find("mosquitto").expect("looked for before"))
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        super::wait_for("mosquitto", || {
            let ended = self.child.as_mut()?.try_wait().unwrap();
            assert!(ended.is_none(), "mosquitto ended: {}", self.log());
            TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            TcpStream::connect(("127.0.0.1", self.plain_port)).ok()
        });
    }

    /// SIGKILL; nothing of it is left but its log.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("mosquitto-{}.log", self.starts))
    }

    /// What it has said since it was started last.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}
