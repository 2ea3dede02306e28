//! A real S3 server over HTTP: SeaweedFS, installed by `./test`, started here on ports of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat::store::{Credentials, Store, open_url};

/// A running server; ends with the value.
pub struct S3Server {
    child: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's program: named by the environment, or where `./test` puts it.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("LIFEBOAT_TEST_WEED").map(PathBuf::from);
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/weed");
    named.into_iter().chain([tools]).find(|path| path.is_file())
}

/// A port whose neighbour at +10000 is free too: the server's internal calls use that. Both below the ports that the
/// kernel gives to connections, so that no other test takes them meanwhile.
fn free_port() -> u16 {
    loop {
        let port = 11_000 + (getrandom::u32().unwrap() % 10_000) as u16;
        let free = |p: u16| TcpListener::bind(("127.0.0.1", p)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

impl S3Server {
    /// Starts one, or says loudly that there is none; where `LIFEBOAT_TEST_REQUIRE` is set that is a failure.
    pub fn start() -> Option<Self> {
        let Some(program) = program() else {
            assert!(
                std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_none(),
                "the S3 server is not installed, and here it must be: run `./test`"
            );
            eprintln!("SKIPPED: no S3 server is installed; `./test` installs one");
            return None;
        };
        // Somebody may take a port between our look and the server's start: then others are tried.
        for _ in 0..4 {
            if let Some(server) = Self::try_start(&program) {
                return Some(server);
            }
        }
        panic!("the S3 server does not answer");
    }

    fn try_start(program: &std::path::Path) -> Option<Self> {
        let data = tempfile::tempdir().unwrap();
        let [port, master, volume, filer] = [(); 4].map(|()| free_port());
        let child = Command::new(program)
            .args(["server", "-s3", "-ip=127.0.0.1", "-volume.max=8"])
            .arg(format!("-dir={}", data.path().display()))
            .arg(format!("-s3.port={port}"))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child, port, _data: data };
        let started = Instant::now();
        while !server.make_bucket() {
            if started.elapsed() > Duration::from_secs(40) || server.child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(server)
    }

    fn make_bucket(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let request = "PUT /bucket HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A store below a prefix of its own.
    pub fn store(&self, prefix: &str) -> Store {
        let credentials = Credentials {
            endpoint: Some(self.endpoint()),
            region: Some("us-east-1".into()),
            allow_http: true,
            skip_signature: true,
            ..Credentials::default()
        };
        open_url(&format!("s3://bucket/{prefix}"), &credentials, super::limits(5), true).unwrap()
    }
}
