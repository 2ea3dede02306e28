//! A headless Chromium, driven over WebDriver (W3C) by chromedriver.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// A window; ends with the value.
pub struct Browser {
    driver: Child,
    http: reqwest::blocking::Client,
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.http.delete(&self.session).send();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

impl Browser {
    pub fn open() -> Option<Self> {
        if !is_there("chromedriver") || !is_there("chromium") {
            let required = std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_some();
            assert!(!required, "Chromium is not installed, and here it must be: run `./test`");
            eprintln!("SKIPPED: Chromium is not installed; `./test` installs it");
            return None;
        }
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            line.split("successfully on port ").nth(1).map(|port| port.trim_end_matches('.').to_owned())
        });
        let place = format!("http://127.0.0.1:{}/session", port.unwrap());
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(90)).build().unwrap();
        let args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer: Value = post(&http, &place, &wanted);
        let session = format!("{place}/{}", answer["sessionId"].as_str().unwrap());
        Some(Self { driver, http, session })
    }

    fn ask(&self, what: &str, body: &Value) -> Value {
        post(&self.http, &format!("{}/{what}", self.session), body)
    }

    pub fn go(&self, url: &str) {
        self.ask("url", &json!({"url": url}));
    }

    /// Width and height of the window's inside, as a telephone or a screen has them.
    pub fn size(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.develop("Emulation.setDeviceMetricsOverride", &metrics);
    }

    pub fn dark(&self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        self.develop(
            "Emulation.setEmulatedMedia",
            &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
    }

    fn develop(&self, command: &str, params: &Value) {
        self.ask("goog/cdp/execute", &json!({"cmd": command, "params": params}));
    }

    /// What a function's body returns.
    pub fn run(&self, script: &str) -> Value {
        self.ask("execute/sync", &json!({"script": script, "args": []}))
    }

    pub fn text(&self, script: &str) -> String {
        self.run(script).as_str().unwrap_or_else(|| panic!("no text: {script}")).to_owned()
    }

    /// Presses keys: `\u{E004}` is Tab, `\u{E007}` Enter.
    pub fn press(&self, keys: &str) {
        let events: Vec<Value> = keys
            .chars()
            .flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})])
            .collect();
        self.ask("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": events}]}));
    }

    /// What the page complained of: scripts, policies, things that are not there.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.ask("se/log", &json!({"type": "browser"}));
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    pub fn screenshot(&self, file: &std::path::Path) {
        let answer: Value = self.http.get(format!("{}/screenshot", self.session)).send().unwrap().json_value();
        let png = data_encoding::BASE64.decode(answer["value"].as_str().unwrap().as_bytes()).unwrap();
        std::fs::write(file, png).unwrap();
    }
}

fn post(http: &reqwest::blocking::Client, url: &str, body: &Value) -> Value {
    let answer = http.post(url).header("Content-Type", "application/json").body(body.to_string()).send().unwrap();
    let status = answer.status();
    let mut answer = answer.json_value();
    assert!(status.is_success(), "{url}: {answer}");
    answer["value"].take()
}

trait JsonValue {
    fn json_value(self) -> Value;
}

impl JsonValue for reqwest::blocking::Response {
    fn json_value(self) -> Value {
        serde_json::from_str(&self.text().unwrap()).unwrap()
    }
}
