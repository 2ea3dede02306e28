//! A small HTTP client, and the reading of ZIPs.

use std::io::{Read, Write};
use std::net::TcpStream;

use deployment::Deployment;
use rc_zip_sync::ReadZip;
use serde_json::Value as Json;

/// Sends requests with the admin key.
pub struct Client {
    address: String,
    key: String,
}

/// A client of this deployment.
pub fn client(convex: &Deployment) -> Client {
    Client { address: convex.url().replace("http://", ""), key: convex.admin_key() }
}

pub type Answer = (u16, Vec<u8>);

impl Client {
    pub fn with_key(&self, key: &str) -> Client {
        Client { address: self.address.clone(), key: key.to_owned() }
    }

    /// The whole answer as text, and how the connection ended; an empty text if there was none.
    pub fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (Vec<u8>, std::io::Result<()>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let key = match self.key.is_empty() {
            true => String::new(),
            false => format!("Authorization: Convex {}\r\n", self.key),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that closes at once has said its answer by that.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer).map(drop);
        (answer, end)
    }

    /// Status, head and body.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let (answer, _) = self.raw(method, path, headers, body);
        let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return (0, String::new(), answer) };
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    pub fn get(&self, path: &str) -> Answer {
        let (status, _, body) = self.send("GET", path, "", b"");
        (status, body)
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        let (status, _, body) = self.send("POST", path, "Content-Type: application/json\r\n", body.as_bytes());
        (status, body)
    }

    /// Status and code of a refusal.
    pub fn code(&self, answer: Answer) -> (u16, String) {
        let body: Json = serde_json::from_slice(&answer.1).unwrap_or_default();
        (answer.0, body["code"].as_str().unwrap_or_default().to_owned())
    }

    /// A JSON answer that must be a success.
    pub fn json(&self, answer: Answer) -> Json {
        assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.1));
        serde_json::from_slice(&answer.1).unwrap()
    }

    /// A system query in clean JSON.
    pub fn query(&self, path: &str, args: &str) -> Json {
        let body = format!(r#"{{"path":"{path}","args":{args}}}"#);
        let answer = self.json(self.post("/api/query", &body));
        assert_eq!(answer["status"], "success", "{answer}");
        answer["value"].clone()
    }

    /// Waits for the newest export; its timestamp.
    pub fn wait_for_export(&self) -> i64 {
        loop {
            let row = self.query("_system/cli/exports:getLatest", "{}");
            if row["state"] == "completed" {
                return row["start_ts"].as_str().unwrap().parse().unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Names and bytes of a ZIP in the order of its directory.
pub fn unzip(zip: &[u8]) -> Vec<(String, Vec<u8>)> {
    let slice: &[u8] = zip;
    let archive = slice.read_zip().unwrap();
    archive.entries().map(|entry| (entry.name.clone(), entry.bytes().unwrap())).collect()
}

/// The entries of a ZIP with their plain sizes.
pub fn sizes(zip: &[u8]) -> std::collections::BTreeMap<String, u64> {
    let slice: &[u8] = zip;
    let archive = slice.read_zip().unwrap();
    archive.entries().map(|entry| (entry.name.clone(), entry.uncompressed_size)).collect()
}
