//! A `lifeboat serve` or `lifeboat agent` that runs, and the requests that it gets.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A long-running process and what it said; killed with the value.
pub struct Serving {
    child: Child,
    said: Arc<Mutex<String>>,
    /// `http://127.0.0.1:PORT`, where it serves.
    pub url: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl Serving {
    /// Begins it; where it serves, waits until it does.
    pub fn begin(mut command: Command, serves: bool) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::<Mutex<String>>::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    said.lock().unwrap().push_str(&format!("{line}\n"));
                }
            });
        }
        let mut serving = Self { child, said, url: String::new() };
        if serves {
            let said = serving.wait_for("serving   http");
            let line = said.lines().find(|line| line.starts_with("serving   ")).unwrap();
            serving.url = line.trim_start_matches("serving   ").to_owned();
        }
        serving
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    pub fn wait_for(&self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let said = self.said();
            if said.contains(words) {
                return said;
            }
            assert!(begun.elapsed() < Duration::from_secs(150), "it never said `{words}`:\n{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and says with what.
    pub fn end(&mut self) -> i32 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask(path, &[])
    }

    /// A request with further lines of the head.
    pub fn ask(&self, path: &str, head: &[(&str, &str)]) -> Answer {
        let none = reqwest::redirect::Policy::none();
        let client =
            reqwest::blocking::Client::builder().redirect(none).timeout(Duration::from_secs(60)).build().unwrap();
        let mut request = client.get(format!("{}{path}", self.url));
        for (name, value) in head {
            request = request.header(*name, *value);
        }
        let answer = request.send().unwrap();
        let (code, head) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
        Answer { code, head, body: answer.text().unwrap() }
    }
}
