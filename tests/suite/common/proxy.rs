//! A proxy that changes what requests ask for, one connection a request: what stands between object_store's
//! client for Google and a server that speaks S3, and servers that do not know conditional puts or ranges.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happens to a conditional put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Google's words for "only if absent" become those of S3.
    GoogleToS3,
    /// Any condition is answered with 501, as some servers do.
    NotImplemented,
    /// Ranges do not reach the server: it sends whole objects.
    LosesRanges,
}

/// A proxy; it ends with the process.
pub struct Proxy {
    port: u16,
    conditional: Arc<AtomicU64>,
}

impl Proxy {
    /// Listens in front of a server on this machine.
    pub fn start(upstream: u16, rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, conditional) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&conditional);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                // A connection that breaks is the client's to try again.
                std::thread::spawn(move || pass(&client, upstream, rule, &counter));
            }
        });
        Self { port, conditional }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Conditional puts so far.
    pub fn conditional(&self) -> u64 {
        self.conditional.load(Ordering::SeqCst)
    }
}

fn pass(client: &TcpStream, upstream: u16, rule: Rule, conditional: &AtomicU64) -> std::io::Result<()> {
    let mut from = BufReader::new(client);
    let (mut head, mut length, mut is_conditional) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        let condition = lower.starts_with("x-goog-if-generation-match: 0") || lower.starts_with("if-none-match: *");
        is_conditional |= condition;
        if line.trim().is_empty() {
            break;
        }
        match condition {
            true => head.push_str("if-none-match: *\r\n"),
            false if lower.starts_with("connection:") => {}
            false if rule == Rule::LosesRanges && lower.starts_with("range:") => {}
            false => head.push_str(&line),
        }
    }
    conditional.fetch_add(u64::from(is_conditional), Ordering::SeqCst);
    let mut body = (&mut from).take(length);
    let mut to = client;
    if is_conditional && rule == Rule::NotImplemented {
        std::io::copy(&mut body, &mut std::io::sink())?;
        to.write_all(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return client.shutdown(Shutdown::Both);
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    std::io::copy(&mut body, &mut server)?;
    std::io::copy(&mut server, &mut to)?;
    client.shutdown(Shutdown::Both)
}
