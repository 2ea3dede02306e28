//! Real servers over HTTP, as other people wrote them: SeaweedFS and moto speak S3, azurite speaks Azure's blobs. `./test`
//! installs them; each is started by the test that needs it, on ports of its own, and ends with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat::store::{Credentials, Limits, Store, open_url};

/// A running server; ends with the value.
pub struct Server {
    child: Child,
    data: tempfile::TempDir,
    port: u16,
    url: &'static str,
    credentials: Credentials,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports of a server that is about to start.
struct Ports(Vec<u16>);

/// A port whose neighbour at +10000 is free too: SeaweedFS uses that for its internal calls. Both below the ports that
/// the kernel gives to connections, so that no other test takes them meanwhile.
fn free_port() -> u16 {
    loop {
        let port = 11_000 + (getrandom::u32().unwrap() % 10_000) as u16;
        let free = |p: u16| TcpListener::bind(("127.0.0.1", p)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

/// Where `./test` installs servers; `LIFEBOAT_TEST_TOOLS` names another place.
fn tool(name: &str) -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let tools = std::env::var_os("LIFEBOAT_TEST_TOOLS").map_or(here, PathBuf::from);
    Some(tools.join(name)).filter(|path| path.is_file())
}

/// One request, and whether it was answered with `status`.
fn answers(port: u16, request: &str, status: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.split(' ').nth(1) == Some(status)
}

impl Server {
    /// SeaweedFS: S3 from a real distributed store, in Go.
    pub fn seaweedfs() -> Option<Self> {
        let program = found("SeaweedFS", "weed")?;
        let command = |data: &Path, ports: &Ports| {
            let mut command = Command::new(&program);
            // Two servers at once: two catalogs that it brings along have ports of their own, and are not needed.
            command.args(["server", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-ip=127.0.0.1", "-volume.max=8"]);
            command.arg(format!("-dir={}", data.display()));
            for (name, port) in ["s3", "master", "volume", "filer"].iter().zip(&ports.0) {
                command.arg(format!("-{name}.port={port}"));
            }
            command
        };
        let credentials = Credentials { skip_signature: true, ..plain_http() };
        Some(Self::start("s3://bucket", credentials, command, |server| answers(server.port, "PUT /bucket", "200")))
    }

    /// moto: S3 as the AWS SDK's users test against it, in Python; requests are signed.
    pub fn moto() -> Option<Self> {
        Self::moto_with(&[])
    }

    /// The same with variables in its environment.
    pub fn moto_with(variables: &[(String, String)]) -> Option<Self> {
        let program = found("moto", "moto/moto/server.py")?;
        let folder = program.ancestors().nth(2).unwrap().to_owned();
        let command = |_: &Path, ports: &Ports| {
            let mut command = Command::new("python3");
            command.envs(variables.iter().cloned());
            command.env("PYTHONPATH", &folder).args(["-m", "moto.server", "-H", "127.0.0.1", "-p"]);
            command.arg(ports.0[0].to_string());
            command
        };
        Some(Self::start("s3://bucket", plain_http(), command, |server| {
            server.secret(|c, file| c.access_key_id_file = file, "id");
            server.secret(|c, file| c.secret_access_key_file = file, "secret");
            answers(server.port, "PUT /bucket", "200")
        }))
    }

    /// azurite: Azure's blobs, from Microsoft, in JavaScript; requests are signed with its well-known key.
    pub fn azurite() -> Option<Self> {
        let program = found("azurite", "azurite/node_modules/azurite/dist/src/blob/main.js")?;
        let command = |data: &Path, ports: &Ports| {
            let mut command = Command::new("node");
            command.arg(&program).args(["--blobHost", "127.0.0.1", "--silent", "--disableTelemetry", "--location"]);
            command.arg(data).args(["--skipApiVersionCheck", "--blobPort", &ports.0[0].to_string()]);
            command
        };
        let credentials = Credentials { account: Some("devstoreaccount1".into()), ..plain_http() };
        Some(Self::start("az://bucket", credentials, command, |server| {
            server.credentials.endpoint = Some(format!("http://127.0.0.1:{}/devstoreaccount1", server.port));
            let key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
            server.secret(|c, file| c.account_key_file = file, key);
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/common/azure_container.py");
            let made = Command::new("python3").arg(script).arg(server.port.to_string()).arg(key).status();
            made.unwrap().success()
        }))
    }

    fn start(
        url: &'static str,
        credentials: Credentials,
        command: impl Fn(&Path, &Ports) -> Command,
        mut ready: impl FnMut(&mut Self) -> bool,
    ) -> Self {
        // Somebody may take a port between our look and the server's start: then others are tried.
        for _ in 0..4 {
            let data = tempfile::tempdir().unwrap();
            let ports = Ports([(); 4].map(|()| free_port()).to_vec());
            let mut command = command(data.path(), &ports);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let (child, port) = (command.spawn().unwrap(), ports.0[0]);
            let mut server = Self { child, data, port, url, credentials: credentials.clone() };
            server.credentials.endpoint = Some(format!("http://127.0.0.1:{port}"));
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(60) && server.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() && ready(&mut server) {
                    return server;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        panic!("the server for {url} does not answer");
    }

    /// Writes a secret into a file, as a configuration names one.
    fn secret(&mut self, set: impl Fn(&mut Credentials, Option<PathBuf>), text: &str) {
        let path = self.data.path().join(format!("secret-{}", blake3::hash(text.as_bytes()).to_hex()));
        std::fs::write(&path, text).unwrap();
        set(&mut self.credentials, Some(path));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its bucket.
    pub fn url(&self) -> &'static str {
        self.url
    }

    /// What a configuration says of it.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A store below a prefix of its own.
    pub fn store(&self, prefix: &str, look_first: bool) -> Store {
        open(self.url, prefix, &self.credentials, look_first)
    }
}

/// Opens a store by the URL and what a configuration would say.
pub fn open(url: &str, prefix: &str, credentials: &Credentials, look_first: bool) -> Store {
    let limits = Limits { look_first, ..super::limits(5) };
    open_url(&format!("{url}/{prefix}"), credentials, limits, true).unwrap()
}

fn plain_http() -> Credentials {
    Credentials { region: Some("us-east-1".into()), allow_http: true, ..Credentials::default() }
}

/// The server's program, or a loud word that there is none; where `LIFEBOAT_TEST_REQUIRE` is set that is a failure.
fn found(name: &str, path: &str) -> Option<PathBuf> {
    let program = tool(path);
    if program.is_none() {
        let required = std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_some();
        assert!(!required, "{name} is not installed, and here it must be: run `./test`");
        eprintln!("SKIPPED: {name} is not installed; `./test` installs it");
    }
    program
}

/// The folder below the tools that holds `path`.
pub fn tool_folder(name: &str, path: &str) -> Option<PathBuf> {
    Some(found(name, path)?.ancestors().nth(2).unwrap().to_owned())
}

/// moto with a bucket that keeps versions and locks objects, and with users who may what the policies of docs/deploy/s3 say.
pub struct Locked {
    server: Server,
    keys: serde_json::Value,
    folder: PathBuf,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/common/locked_bucket.py")
}

impl Locked {
    pub fn start() -> Option<Self> {
        let program = found("moto", "moto/moto/server.py")?;
        let folder = program.ancestors().nth(2).unwrap().to_owned();
        let command = |_: &Path, ports: &Ports| {
            let mut command = Command::new("python3");
            // As many as it takes to make the users; from then on who is not signed in is refused.
            command.env("PYTHONPATH", &folder).env("INITIAL_NO_AUTH_ACTION_COUNT", "14");
            command.arg(script()).args(["serve", &ports.0[0].to_string()]);
            command
        };
        let server = Server::start("s3://bucket", plain_http(), command, |_| true);
        let mut locked = Self { server, keys: serde_json::Value::Null, folder: folder.clone() };
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy/s3");
        locked.keys =
            serde_json::from_str(&locked.python(&["make", &locked.endpoint(), docs.to_str().unwrap()])).unwrap();
        Some(locked)
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    fn key(&self, user: &str, part: &str) -> &str {
        self.keys[user][part].as_str().unwrap()
    }

    fn python(&self, args: &[&str]) -> String {
        let output = Command::new("python3").env("PYTHONPATH", &self.folder).arg(script()).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does something as a user: see the script.
    pub fn script(&self, what: &str, user: &str) -> String {
        self.python(&[what, &self.endpoint(), self.key(user, "id"), self.key(user, "secret")])
    }

    /// Gives a command the keys of a user.
    pub fn sign_in(&self, command: &mut Command, user: &str) {
        command.env("AWS_ENDPOINT_URL", self.endpoint()).env("AWS_REGION", "us-east-1").env("AWS_ALLOW_HTTP", "1");
        command.env("AWS_ACCESS_KEY_ID", self.key(user, "id"));
        command.env("AWS_SECRET_ACCESS_KEY", self.key(user, "secret"));
    }
}
