//! The agent: what runs when, what follows from a run that ends badly, how it ends.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use deployment::{Deployment, Options};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::Sealed;
use crate::common::ears::Ears;
use crate::common::serving::Serving;

const CONFIG: &str = "[repository]\nurl = \"repo\"\nidentity_file = \"identity.txt\"\n[sources.data]\nkind = \"volume\"\npath = \"data\"\n";
const NIGHTLY: &str = "[agent.jobs.nightly]\nat = \"30 3 1 1 *\"\nrun = \"backup data\"\n";

fn scene(more: &str) -> Sealed {
    let sealed = Sealed::new();
    sealed.init();
    configure(&sealed, more);
    sealed
}

fn configure(sealed: &Sealed, more: &str) {
    fs::write(sealed.path("lifeboat.toml"), format!("{CONFIG}{more}")).unwrap();
}

/// Lets a job's last run be so long ago that one was missed.
fn long_ago(sealed: &Sealed, job: &str) {
    let text = format!("{{\"jobs\":{{\"{job}\":{{\"since\":\"2020-01-01T00:00:00Z\"}}}}}}");
    fs::write(sealed.path("state/lifeboat/agent.json"), text).unwrap();
}

fn agent(sealed: &Sealed) -> Serving {
    Serving::begin(sealed.command(&["agent"]), false)
}

/// Processes that have this one as their parent.
fn children(of: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_missed_run_is_made_up_for_once() {
    let sealed = scene("");
    let (_, err) = sealed.expect(2, &["agent"]);
    assert!(err.contains("nothing for an agent to do") && err.contains("[agent.jobs.nightly]"), "{err}");
    configure(&sealed, NIGHTLY);
    let (out, _) = sealed.expect(0, &["agent", "--dry-run"]);
    assert!(out.contains("-01-01T03:30:00Z") || out.contains("$TIME"), "{out}");
    // One that is new begins with its next time.
    sealed.expect(0, &["agent", "--once"]);
    sealed.expect(0, &["snapshots"]);
    let snapshots = || {
        let (out, _) = sealed.expect(0, &["--json", "snapshots"]);
        serde_json::from_str::<Vec<serde_json::Value>>(&out).unwrap().len()
    };
    assert_eq!(snapshots(), 0);
    long_ago(&sealed, "nightly");
    let (out, _) = sealed.expect(0, &["agent", "--dry-run"]);
    assert!(out.contains("now: missed at "), "{out}");
    let (_, err) = sealed.expect(0, &["agent", "--once"]);
    assert!(err.contains("nightly  begins, missed at ") && err.contains("nightly  ended with 0"), "{err}");
    sealed.expect(0, &["agent", "--once"]);
    assert_eq!(snapshots(), 1, "six years were missed, and one run made up for them");
    configure(&sealed, &format!("{NIGHTLY}catch_up = false\n"));
    long_ago(&sealed, "nightly");
    let (_, err) = sealed.expect(0, &["agent", "--once"]);
    assert!(err.contains("was missed, and is not made up for"), "{err}");
    assert_eq!(snapshots(), 1);
    // A run that fails is an exit code.
    configure(&sealed, "[agent.jobs.nightly]\nat = \"30 3 1 1 *\"\nrun = \"backup nothing\"\n");
    long_ago(&sealed, "nightly");
    sealed.expect(1, &["agent", "--once"]);
    // A clock that was ahead has noted a time that is far away: it counts from now on, and not only then.
    let memory = sealed.path("state/lifeboat/agent.json");
    let ahead = fs::read_to_string(&memory).unwrap().replace("since\":\"20", "since\":\"21");
    fs::write(&memory, &ahead).unwrap();
    sealed.expect(0, &["agent", "--once"]);
    assert!(!fs::read_to_string(&memory).unwrap().contains("since\":\"21"), "{ahead}");
    // What was remembered and cannot be read is begun anew.
    fs::write(sealed.path("state/lifeboat/agent.json"), "nonsense").unwrap();
    sealed.expect(0, &["agent", "--once"]);
}

#[test]
fn told_to_end_it_ends_its_runs_as_ctrl_c_would() {
    let sealed =
        scene(&format!("{NIGHTLY}[hooks]\nbefore = \"echo hanging; sleep 600\"\nfinally = \"touch finally\"\n"));
    long_ago(&sealed, "nightly");
    let mut running = agent(&sealed);
    running.wait_for("hanging");
    let (_, err) = sealed.expect(11, &["agent"]);
    assert!(err.contains("another agent runs"), "{err}");
    assert_eq!(running.end(), 0);
    let said = running.wait_for("stopped");
    assert!(said.contains("nightly  ended with 130"), "{said}");
    assert!(sealed.path("finally").exists(), "the run cleaned up after itself");
    // One that does not end is killed, and that is said.
    let stubborn = "[hooks]\nfinally = \"echo hanging; sleep 600\"\n[agent]\nstop_timeout = \"1s\"\n";
    configure(&sealed, &format!("{stubborn}{NIGHTLY}"));
    long_ago(&sealed, "nightly");
    let mut running = agent(&sealed);
    running.wait_for("hanging");
    assert_eq!(running.end(), 0);
    running.wait_for("nightly did not end within 1.0 s, and was killed");
}

#[test]
fn a_run_that_is_killed_is_told_by_the_agent() {
    let ears = Ears::open();
    let sealed = scene(&format!(
        "{NIGHTLY}[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\n[hooks]\nbefore = \"echo hanging; sleep 600\"\n",
        ears.url("hook")
    ));
    long_ago(&sealed, "nightly");
    let mut running = agent(&sealed);
    running.wait_for("hanging");
    let child = children(running.pid())[0];
    kill_process(Pid::from_raw(child as i32).unwrap(), Signal::KILL).unwrap();
    running.wait_for("nightly was killed by signal 9");
    let heard = loop {
        match ears.heard().pop() {
            Some(heard) => break heard.json(),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!((&heard["event"], &heard["subject"]), (&"failure".into(), &"run/agent/nightly/end".into()));
    // Its hook goes on without it, as any process would.
    assert_eq!(running.end(), 0);
}

#[test]
fn a_run_that_is_due_while_the_one_before_goes_on_is_passed_over() {
    let every = "[agent.jobs.often]\nat = \"* * * * *\"\nrun = \"backup data\"\n[hooks]\nbefore = \"echo hanging; sleep 600\"\n";
    let sealed = scene(every);
    long_ago(&sealed, "often");
    let mut running = agent(&sealed);
    running.wait_for("hanging");
    let said = running.wait_for("is passed over");
    assert!(said.contains("often still runs since "), "{said}");
    assert_eq!(children(running.pid()).len(), 1);
    assert_eq!(running.end(), 0);
}

#[test]
fn systemd_hears_that_it_is_ready_alive_and_ending() {
    let sealed = scene(NIGHTLY);
    let path = sealed.path("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = sealed.command(&["agent"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let mut running = Serving::begin(command, false);
    let next = || {
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap().trim().to_owned()
    };
    assert_eq!([next(), next(), next()], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    assert_eq!(running.end(), 0);
    while next() != "STOPPING=1" {}
}

/// How often the threads of a process were given the processor.
fn turns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: PathBuf| -> u64 {
        let text = fs::read_to_string(task.join("status")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
        lines.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
    };
    tasks.map(|task| of(task.unwrap().path())).sum()
}

#[test]
fn nothing_wakes_it_between_what_is_due() {
    let sealed = scene(&format!("{NIGHTLY}[serve]\nlisten = \"127.0.0.1:0\"\n"));
    let mut running = Serving::begin(sealed.command(&["agent"]), true);
    assert!(running.get("/").body.contains("Jobs of the agent"));
    // Once what a visit began is over.
    let mut before = turns(running.pid());
    let mut quiet = 0;
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(500));
        let now = turns(running.pid());
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        if quiet == 6 {
            break;
        }
    }
    assert_eq!(quiet, 6, "three seconds without a turn");
    assert!(running.get("/").body.contains("backup data"), "and it answers");
    assert_eq!(running.end(), 0);
}

#[test]
fn a_store_that_never_answers_holds_neither_jobs_nor_the_end_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sealed = scene("");
    let store = format!(
        "[repository]\nurl = \"s3://bucket/x\"\nendpoint = \"http://{}\"\nallow_http = true\nskip_signature = true\n\
         [serve]\nlisten = \"127.0.0.1:0\"\n[agent]\nstop_timeout = \"1s\"\n[agent.jobs.nightly]\nat = \"30 3 1 1 *\"\nrun = \"status\"\n",
        silent.local_addr().unwrap()
    );
    fs::write(sealed.path("lifeboat.toml"), store).unwrap();
    long_ago(&sealed, "nightly");
    let mut running = Serving::begin(sealed.command(&["agent"]), true);
    running.wait_for("nightly  begins");
    assert_eq!(running.get("/healthz").code, 503);
    assert_eq!(running.end(), 0);
}

#[test]
fn what_a_run_could_not_say_itself_is_told() {
    let ears = Ears::open();
    let notify = format!("[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\ncommands = [\"drill\"]\n", ears.url("hook"));
    let job = |run: &str| format!("{notify}[agent.jobs.nightly]\nat = \"30 3 1 1 *\"\nrun = \"{run}\"\n");
    let sealed = scene(&job("backup --al"));
    long_ago(&sealed, "nightly");
    sealed.expect(1, &["agent", "--once"]);
    let heard = ears.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].json()["title"].as_str().unwrap().contains("nightly ended with 2"), "{heard:?}");
    configure(&sealed, &job("backup data"));
    long_ago(&sealed, "nightly");
    sealed.expect(0, &["agent", "--once"]);
    let events: Vec<_> = ears.heard().iter().map(|heard| heard.json()["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["recovered"]);
    // An old failure is not one of a job that is not due.
    configure(&sealed, &job("backup nothing"));
    long_ago(&sealed, "nightly");
    sealed.expect(1, &["agent", "--once"]);
    sealed.expect(0, &["agent", "--once"]);
}

#[test]
fn what_follows_a_stream_is_begun_again() {
    let convex = Deployment::start(Options::default()).unwrap();
    convex.fill(5, 1);
    let sealed = scene(&format!(
        "[sources.app]\nkind = \"convex\"\nurl = \"{}\"\nadmin_key_file = \"key\"\n[agent]\nfollow = [\"app\"]\n",
        convex.url()
    ));
    fs::write(sealed.path("key"), convex.admin_key()).unwrap();
    let mut running = agent(&sealed);
    running.wait_for("following");
    let child = children(running.pid())[0];
    kill_process(Pid::from_raw(child as i32).unwrap(), Signal::KILL).unwrap();
    running.wait_for("follow app was killed by signal 9; begun again in 5 s");
    while children(running.pid()).is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_ne!(children(running.pid())[0], child);
    assert_eq!(running.end(), 0);
    running.wait_for("app  ended with 0");
}
