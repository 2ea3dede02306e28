//! `key export --paper`: an identity on a page that can be printed, with a QR code and what is needed beside it.
//!
//! The page holds the secret key: its file is new, readable by its owner alone, and loads nothing from anywhere.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::report::Failure;
use crate::ops::Kind;
use crate::plan::restore::show;
use crate::repository::Repository;

/// How a plain age identity begins.
const SECRET: &str = "AGE-SECRET-KEY-1";

/// Runs it.
pub fn export(context: &Context, paper: &Path) -> Result<Outcome, Failure> {
    let files = context.identity_files();
    let [file] = files.as_slice() else {
        return Err(Failure::usage("one identity is needed", "Name its file: `--identity FILE`."));
    };
    let text = std::fs::read_to_string(file).map_err(|e| Failure::io("read", file, e))?;
    let keys: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with(SECRET)).collect();
    let [key] = keys.as_slice() else {
        return Err(Failure::new(
            Kind::Key,
            format!("`{}` does not hold one plain age key", file.display()),
            Some("A file with a passphrase or an SSH key is printed as it is. `lifeboat key generate --output FILE` makes a plain one.".to_owned()),
        ));
    };
    // Opened with it: what is on the paper reads this repository.
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    if !repository.can_read() {
        return Err(crate::repository::Error::NeedsIdentity("a page that is proven to open the repository").into());
    }
    let page = page(context, &repository, key)?;
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(paper);
    let mut output = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("`{}` is there already", paper.display()), "Name another file. It was not touched.")
        }
        _ => Failure::io("write", paper, e),
    })?;
    output.write_all(page.as_bytes()).and_then(|()| output.sync_all()).map_err(|e| Failure::io("write", paper, e))?;
    if context.ui.json {
        context.ui.json(&serde_json::json!({"paper": paper, "fingerprint": repository.fingerprint()}))?;
    } else {
        context.ui.answer(format!("paper        {}", paper.display()))?;
        context.ui.story(
            "It holds the secret key. Print it, keep it apart from the backups, and delete the file: `shred -u`.",
        );
    }
    Ok(Outcome::Done)
}

/// A text as a QR code, as SVG without a header.
fn code(text: &str) -> Result<String, Failure> {
    let code = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::Q);
    let code = code.map_err(|e| Failure::new(Kind::Failed, format!("no QR code could be made: {e}"), None))?;
    let svg = code.render::<qrcode::render::svg::Color<'_>>().min_dimensions(280, 280).build();
    Ok(svg.find("<svg").map_or(svg.clone(), |at| svg[at..].to_owned()))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(context: &Context, repository: &Repository, key: &str) -> Result<String, Failure> {
    let (url, now) = (escaped(&context.url()?), show(context.now()));
    let (fingerprint, code) = (repository.fingerprint(), code(key)?);
    let mut page = String::new();
    let _ = write!(
        page,
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>lifeboat identity</title>
<style>
body {{ font: 11pt/1.5 serif; max-width: 17cm; margin: 1.5cm auto; color: #000; background: #fff }}
code {{ font: 10pt/1.6 monospace; overflow-wrap: anywhere }}
svg {{ width: 7cm; height: 7cm }}
dt {{ font-weight: bold; margin-top: .6em }} dd {{ margin: 0 }}
</style></head><body>
<h1>Identity of a lifeboat repository</h1>
<p><strong>Whoever has this page can read every backup.</strong> Keep it apart from them, and from the machines. Made {now}.</p>
<figure>{code}</figure>
<dl>
<dt>Secret key (what the code says)</dt><dd><code>{key}</code></dd>
<dt>Repository</dt><dd><code>{url}</code></dd>
<dt>Fingerprint of the repository</dt><dd><code>{fingerprint}</code></dd>
</dl>
<h2>To restore</h2>
<ol>
<li>Scan the code, or type the key, into a file <code>identity.txt</code>, one line. Below it, as a comment: <code># lifeboat fingerprint: {fingerprint}</code></li>
<li><code>lifeboat bootstrap --repo {url} --identity identity.txt</code> shows what can be restored, and how. The store's credentials are not on this page.</li>
<li>Without lifeboat: fetch <code>RECOVERY.md</code> from the repository. The files open with <code>age -d -i identity.txt | zstd -d</code>.</li>
</ol>
</body></html>
"#
    );
    Ok(page)
}
