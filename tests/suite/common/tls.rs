//! Certificates of the tests, made by openssl.

use std::path::Path;
use std::process::Command;

const NEW: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// Runs openssl in a directory.
pub fn openssl(directory: &Path, words: &str) {
    let output = Command::new("openssl").current_dir(directory).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "{words}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority: `NAME.crt` and `NAME.key`.
pub fn authority(here: &Path, name: &str) {
    openssl(here, &format!("req -x509 {NEW} -keyout {name}.key -out {name}.crt -subj /CN={name} -days 2"));
}

/// `server.crt` and `server.key` for a server of that name, by an authority.
pub fn server(here: &Path, authority: &str, name: &str) {
    openssl(here, &format!("req {NEW} -keyout server.key -out server.csr -subj /CN=server"));
    std::fs::write(here.join("names"), format!("subjectAltName=DNS:{name}\n")).unwrap();
    let by = format!("-CA {authority}.crt -CAkey {authority}.key -CAcreateserial");
    openssl(here, &format!("x509 -req -in server.csr {by} -days 2 -extfile names -out server.crt"));
}
