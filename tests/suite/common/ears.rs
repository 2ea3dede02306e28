//! Who is told: a server that keeps each request and answers as it is told to, and one that takes mail.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::servers::tool_folder;

/// A request.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Method and target.
    pub line: String,
    /// What came with it.
    pub body: String,
}

impl Heard {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The server of requests.
pub struct Ears {
    port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
}

impl Ears {
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heard, answers) = (Arc::<Mutex<Vec<Heard>>>::default(), Arc::<Mutex<VecDeque<u16>>>::default());
        let (into, from) = (Arc::clone(&heard), Arc::clone(&answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (into, from) = (Arc::clone(&into), Arc::clone(&from));
                std::thread::spawn(move || {
                    if let Some(request) = read(&stream) {
                        into.lock().unwrap().push(request);
                        let status = from.lock().unwrap().pop_front().unwrap_or(200);
                        let _ =
                            write!(&stream, "HTTP/1.1 {status} x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK");
                    }
                });
            }
        });
        Self { port, heard, answers }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// The next requests are answered so; those after them with 200.
    pub fn answer(&self, statuses: &[u16]) {
        self.answers.lock().unwrap().extend(statuses);
    }

    /// What was heard since the last time.
    pub fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

fn read(stream: &TcpStream) -> Option<Heard> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let line = first.trim().strip_suffix(" HTTP/1.1")?.to_owned();
    Some(Heard { line, body: String::from_utf8(body).ok()? })
}

/// The server of mail; ends with the value.
pub struct MailServer {
    child: Child,
    pub port: u16,
    file: std::path::PathBuf,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl MailServer {
    /// `secured`: certificate, key, user and password.
    pub fn start(folder: &Path, secured: Option<[&str; 4]>) -> Option<Self> {
        let library = tool_folder("aiosmtpd", "aiosmtpd/aiosmtpd/smtp.py")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/common/mail_server.py");
        let file = folder.join("mail.jsonl");
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", library).arg(script).arg(&file).args(secured.into_iter().flatten());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Some(Self { child, port: port.trim().parse().unwrap(), file })
    }

    pub fn mails(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
