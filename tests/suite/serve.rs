//! The status page: what it shows, to whom, and how it looks in a browser.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use crate::cli::Sealed;
use crate::common::browser::Browser;
use crate::common::scene::{ORACLE, Scene};
use crate::common::serving::Serving;

const CONFIG: &str = "[repository]\nurl = \"repo\"\nidentity_file = \"identity.txt\"\n[sources.data]\nkind = \"volume\"\npath = \"data\"\n\
                      [objectives.data]\nrpo = \"1h\"\nrto = \"4h\"\n[groups.nightly]\nsources = [\"data\"]\n";

fn scene(more: &str) -> Sealed {
    let sealed = Sealed::new();
    sealed.init();
    fs::write(sealed.path("lifeboat.toml"), format!("{CONFIG}{more}")).unwrap();
    sealed
}

fn serve(sealed: &Sealed, args: &[&str]) -> Serving {
    let listen = ["serve", "--listen", "127.0.0.1:0"];
    Serving::begin(sealed.command(&[&listen, args].concat()), true)
}

#[test]
fn it_shows_what_there_is_and_takes_nothing() {
    let sealed = scene("");
    let mut page = serve(&sealed, &[]);
    let empty = page.get("/");
    assert!(empty.code == 200 && empty.body.contains("nothing can be restored"), "{}", empty.body);
    sealed.expect(0, &["backup", "data"]);
    sealed.expect(0, &["drill", "data"]);
    // Programs get what is so now, whatever was shown before.
    let status: Value = loop {
        let status: Value = serde_json::from_str(&page.get("/api/status").body).unwrap();
        if status["sources"][0]["drill"].is_object() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    assert_eq!((&status["sources"][0]["state"], &status["sources"][0]["snapshots"]), (&"fine".into(), &1.into()));
    let metrics = page.get("/metrics");
    assert!(
        metrics.head.contains("version=0.0.4") && metrics.body.contains("\nlifeboat_snapshots{source=\"data\"} 1\n")
    );
    assert_eq!(page.get("/healthz").body, "ok\n");
    let shown = page.get("/");
    assert!(shown.body.contains("✓ Every source can be restored"), "{}", shown.body);
    assert!(
        shown.head.contains("default-src 'none'") && shown.head.contains("nosniff") && shown.head.contains("no-store")
    );
    let source = page.get("/source/data").body;
    for words in
        ["nightly", "✓ passed", "restore data --to latest --into /srv/restored/data --dry-run", "Size and growth"]
    {
        assert!(source.contains(words), "{words}\n{source}");
    }
    assert_eq!((page.get("/source/other").code, page.get("/../etc/passwd").code, page.get("/x").code), (404, 404, 404));
    let posted = reqwest::blocking::Client::new().post(&page.url).body("x").send().unwrap();
    assert_eq!(posted.status().as_u16(), 405);
    // A store that went away: what was known stays, and it is said that it is old.
    fs::rename(sealed.path("repo"), sealed.path("elsewhere")).unwrap();
    let old = loop {
        let answer = page.get("/healthz");
        if answer.code == 503 {
            break page.get("/").body;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    assert!(old.contains("This page is old.") && old.contains("/source/data"), "{old}");
    assert_eq!(page.end(), 0);
    let (_, err) = sealed.expect(10, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(err.contains("there is no repository"), "{err}");
}

#[test]
fn who_is_not_asked_for_sees_nothing() {
    let sealed = scene("");
    sealed.expect(0, &["backup", "data"]);
    let (_, err) = sealed.expect(2, &["serve", "--listen", "0.0.0.0:0"]);
    assert!(err.contains("can be reached from elsewhere") && err.contains("--token-file"), "{err}");
    fs::write(sealed.path("token"), "short\n").unwrap();
    let (_, err) = sealed.expect(2, &["serve", "--token-file", "token"]);
    assert!(err.contains("less than 16 characters") && !err.contains("short"), "{err}");
    fs::write(sealed.path("token"), "correct-horse-battery-staple\n").unwrap();
    let page = serve(&sealed, &["--token-file", "token"]);
    for path in ["/", "/metrics", "/api/status", "/source/data", "/style.css", "/?token=wrong"] {
        let answer = page.get(path);
        assert!(
            answer.code == 401 && !answer.body.contains("data") && !answer.body.contains("horse"),
            "{path}: {answer:?}"
        );
    }
    assert_eq!(page.get("/healthz").code, 200, "a sign of life is for everybody");
    assert_eq!(page.ask("/metrics", &[("Authorization", "Bearer correct-horse-battery-staple")]).code, 200);
    assert_eq!(page.ask("/metrics", &[("Authorization", "Bearer correct-horse-battery-stapl")]).code, 401);
    let opened = page.get("/?token=correct-horse-battery-staple");
    assert!(opened.code == 303 && opened.head.contains("HttpOnly; SameSite=Strict"), "{opened:?}");
    assert_eq!(page.ask("/", &[("Cookie", "a=b; lifeboat_token=correct-horse-battery-staple")]).code, 200);
    drop(page);
    // A page of somebody else's that resolves its own name to this machine.
    let page = serve(&sealed, &[]);
    for (host, code) in
        [("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost:1", 200), ("[::1]:80", 200)]
    {
        assert_eq!(page.ask("/", &[("Host", host)]).code, code, "{host}");
    }
    drop(page);
    let page = serve(&sealed, &["--behind-proxy"]);
    assert_eq!(page.ask("/", &[("Host", "backups.example.org")]).code, 200);
    let (_, err) = sealed.expect(1, &["serve", "--listen", page.url.trim_start_matches("http://")]);
    assert!(err.contains("could not listen on") && err.contains("Choose another one"), "{err}");
}

#[test]
fn visitors_who_say_too_much_or_nothing_hold_nobody_up() {
    let sealed = scene("");
    sealed.expect(0, &["backup", "data"]);
    let page = serve(&sealed, &[]);
    let place = page.url.trim_start_matches("http://").to_owned();
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&place).unwrap()).collect();
    let mut loud = TcpStream::connect(&place).unwrap();
    let _ = loud.write_all(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n", "x".repeat(100_000)).as_bytes());
    let mut answer = Vec::new();
    let _ = loud.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    let mut torn = TcpStream::connect(&place).unwrap();
    torn.write_all(b"GET / HTTP/1.1\r\nHost: local\xff\xfe\x00host\r\n\r\n").unwrap();
    drop(torn);
    for path in
        ["/?days=999999999999999999999", "/?days=-1", "/source/%ff%fe", "/source/data?to=%00%ff&into=%0a", "/?%=%&&="]
    {
        let answer = page.get(path);
        assert!(matches!(answer.code, 200 | 404), "{path}: {answer:?}");
    }
    drop(silent);
}

/// Every text is read against what is behind it: 4.5 to 1 at least (WCAG 2.2, 1.4.3).
const CONTRAST: &str = r"
const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
const light = (c) => { const f = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
const behind = (e) => { for (; e; e = e.parentElement) { const b = parse(getComputedStyle(e).backgroundColor); if (b[3] > 0) return b; } return [255, 255, 255, 1]; };
let bad = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest('svg') || e.tagName === 'CAPTION' || e.classList.contains('skip')) continue;
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) bad.push(e.tagName + ' ' + e.className + ' ' + ratio.toFixed(2) + ' ' + e.textContent.slice(0, 30));
}
return bad.join('\n');";

/// What somebody who does not see it needs.
const NAMES: &str = r"
let bad = [];
if (!document.documentElement.lang) bad.push('no language');
if (document.querySelectorAll('h1').length !== 1 || document.querySelectorAll('main').length !== 1) bad.push('not one heading, one main part');
for (const s of document.querySelectorAll('svg')) if (s.getAttribute('role') !== 'img' || !s.getAttribute('aria-label')) bad.push('a drawing without words');
for (const t of document.querySelectorAll('table')) { if (!t.caption) bad.push('a table without a caption');
  for (const h of t.querySelectorAll('th')) if (!h.scope) bad.push('a head without a scope: ' + h.textContent); }
for (const i of document.querySelectorAll('input')) if (!i.labels.length) bad.push('a field without a label');
for (const a of document.querySelectorAll('a')) if (!a.textContent.trim()) bad.push('a link without words');
return bad.join('\n');";

fn look(browser: &Browser, url: &str, name: &str) {
    for (width, height) in [(390, 844), (820, 1180), (1440, 900)] {
        browser.size(width, height);
        for dark in [false, true] {
            browser.dark(dark);
            browser.go(url);
            let wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
            assert!(wide[0].as_u64() <= wide[1].as_u64(), "{url} is wider than {width}: {wide}");
            assert_eq!(browser.text(CONTRAST), "", "{url} dark: {dark}");
            assert_eq!(browser.text(NAMES), "", "{url}");
            let shade = browser.text("return getComputedStyle(document.body).backgroundColor");
            assert_eq!(shade == "rgb(255, 255, 255)", !dark, "{shade}");
            // To be looked at: LIFEBOAT_TEST_SCREENSHOTS=DIR.
            if let Some(folder) = std::env::var_os("LIFEBOAT_TEST_SCREENSHOTS") {
                let shade = if dark { "dark" } else { "light" };
                browser.screenshot(&std::path::Path::new(&folder).join(format!("{name}-{width}-{shade}.png")));
            }
        }
    }
    browser.dark(false);
    assert_eq!(browser.complaints(), Vec::<String>::new(), "{url}");
}

#[test]
fn hundreds_of_runs_are_readable_on_a_telephone_and_on_a_screen() {
    let sealed = scene("[sources.never]\nkind = \"volume\"\npath = \"nowhere\"\n");
    let Some(browser) = Browser::open() else { return };
    for n in 0..120 {
        fs::write(sealed.path("data/growing"), "x".repeat(n * 3000)).unwrap();
        sealed.expect(0, &["--quiet", "backup", "data"]);
    }
    sealed.expect(0, &["drill", "data"]);
    sealed.expect(13, &["drill", "data", "--command-line", "false"]);
    // Somebody who can name a file, or make a hook fail, writes no part of the page.
    let script = "<img/src=x/onerror=alert(1)>";
    let hooks = format!("[sources.never]\nkind = \"volume\"\npath = \"nowhere\"\n[hooks]\nbefore = \"'{script}'\"\n");
    fs::write(sealed.path("lifeboat.toml"), format!("{CONFIG}{hooks}")).unwrap();
    sealed.expect(1, &["backup", "data"]);
    // Hundreds of runs more than are shown: they are lines of a file.
    let notes = sealed.path("state/lifeboat/runs.jsonl");
    let text = fs::read_to_string(&notes).unwrap();
    let old: String = text.lines().next().unwrap().to_owned() + "\n";
    fs::write(&notes, old.repeat(400) + &text).unwrap();
    let page = serve(&sealed, &[]);
    look(&browser, &format!("{}/", page.url), "overview");
    look(&browser, &format!("{}/source/data", page.url), "source");
    look(&browser, &format!("{}/source/never", page.url), "never");
    browser.go(&format!("{}/", page.url));
    assert_eq!(browser.run("return document.querySelectorAll('main img').length"), 0);
    assert!(browser.text("return document.querySelector('#runs ~ div').textContent").contains("onerror=alert(1)"));
    let sizes = browser.run("return performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource')).map(e => e.transferSize)");
    let all: u64 = sizes.as_array().unwrap().iter().filter_map(Value::as_u64).sum();
    assert!(all > 0 && all < 300 << 10, "{sizes}");
    // On a telephone a row is a card; on a screen a row.
    let head = "return getComputedStyle(document.querySelector('table.cards thead')).position";
    browser.size(390, 844);
    assert_eq!(browser.text(head), "absolute");
    browser.size(1440, 900);
    assert_eq!(browser.text(head), "static");
    // Ages grow while it is looked at.
    let age = || browser.text("return document.querySelector('.age').textContent");
    let before = age();
    while age() == before {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // With the keyboard alone: the first key leads past the head, Enter goes there.
    browser.press("\u{E004}");
    assert_eq!(browser.text("return document.activeElement.className"), "skip");
    browser.press("\u{E007}");
    assert_eq!(browser.text("return location.hash"), "#main");
}

#[test]
fn the_restore_helper_builds_commands_that_work() {
    let sealed = scene("");
    let Some(browser) = Browser::open() else { return };
    sealed.expect(0, &["backup", "data"]);
    let page = serve(&sealed, &[]);
    browser.go(&format!("{}/source/data", page.url));
    let fill = |to: &str, into: &str| {
        browser.run(&format!(
            "const [to, into] = document.querySelectorAll('input'); to.value = {}; into.value = {}; document.querySelector('form').submit()",
            serde_json::json!(to),
            serde_json::json!(into)
        ));
        let path = "return location.search && document.readyState === 'complete' ? location.search : ''";
        while !browser.text(path).contains(&url::form_urlencoded::byte_serialize(into.as_bytes()).collect::<String>()) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let into = sealed.path("it's back");
    fill("latest", into.to_str().unwrap());
    let commands = browser.run("return [...document.querySelectorAll('#restore ~ ol pre')].map(e => e.textContent)");
    let commands: Vec<&str> = commands.as_array().unwrap().iter().map(|command| command.as_str().unwrap()).collect();
    assert_eq!(commands.len(), 2);
    for (command, whole) in commands.iter().zip([false, true]) {
        let words = command.strip_prefix("lifeboat ").unwrap();
        let mut shell = sealed.command(&[]);
        let mut shell_args = Command::new("sh");
        shell_args.env_clear().envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell = shell_args;
        let line = format!("exec '{}' {words}", env!("CARGO_BIN_EXE_lifeboat"));
        let output = shell.current_dir(sealed.path("")).arg("-c").arg(line).output().unwrap();
        assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(into.join("docs").exists(), whole);
    }
    fill("2001-02-03 04:05 UTC", "/x");
    let text = || browser.text("return document.querySelector('main').textContent");
    assert!(text().contains("Nothing restores that time. The earliest that can be had"), "{}", text());
    fill("soonish", "/y");
    assert!(text().contains("`soonish` is no time that lifeboat reads"), "{}", text());
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_gap_is_drawn_and_said() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    let Some(browser) = Browser::open() else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    let lost = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.insert(10);
    scene.archive_all();
    scene.insert(10);
    scene.archive_all();
    let args =
        [&Scene::base_command(scene.folder.path())[1..], &["serve", "--listen", "127.0.0.1:0"].map(String::from)]
            .concat();
    let begin = || {
        let mut command = crate::common::postgres::as_server_user(scene.folder.path().join("lifeboat"));
        command.current_dir(scene.folder.path()).env("HOME", scene.folder.path()).args(&args);
        Serving::begin(command, true)
    };
    let page = begin();
    let body = page.get("/source/db").body;
    assert!(body.contains("<rect class=span") && !body.contains("class=gap x="), "{body}");
    assert!(body.contains("--start"), "a cluster comes back started: {body}");
    drop(page);
    scene.objects(&lost).into_iter().for_each(|object| fs::remove_file(object).unwrap());
    let page = begin();
    look(&browser, &format!("{}/source/db?days=1", page.url), "gap");
    let said = browser.text("return document.querySelector('main').textContent");
    assert!(said.contains("✗ cannot be restored") && said.contains("GAP behind"), "{said}");
    assert_eq!(browser.run("return document.querySelectorAll('rect.gap').length"), 1);
    assert!(browser.text("return document.querySelector('svg').getAttribute('aria-label')").contains("1 gap"));
}
