//! Who hears of what, and what runs around a deed.

use std::fs;

use crate::cli::Sealed;
use crate::common::ears::{Ears, MailServer};
use crate::common::tls;
use crate::convex_restore::Place;
use crate::convex_stream_cli::Following;

/// A repository and a configuration with a source `data`, and more.
fn scene(more: &str) -> Sealed {
    let sealed = Sealed::new();
    sealed.init();
    configure(&sealed, more);
    sealed
}

fn configure(sealed: &Sealed, more: &str) {
    let text = format!(
        "[repository]\nurl = \"repo\"\nidentity_file = \"identity.txt\"\n[sources.data]\nkind = \"volume\"\npath = \"data\"\n{more}"
    );
    fs::write(sealed.path("lifeboat.toml"), text).unwrap();
}

/// Makes the repository unreachable, or puts it back.
fn away(sealed: &Sealed, is_away: bool) {
    let (from, to) = if is_away { ("repo", "elsewhere") } else { ("elsewhere", "repo") };
    fs::rename(sealed.path(from), sealed.path(to)).unwrap();
}

fn lines(ears: &Ears) -> Vec<String> {
    ears.heard().into_iter().map(|heard| heard.line).collect()
}

#[test]
fn a_dead_man_switch_hears_every_start_and_every_end() {
    let ears = Ears::open();
    let sealed = scene("");
    fs::write(sealed.path("url"), ears.url("ping/secret-uuid\n")).unwrap();
    configure(&sealed, "[notify.switch]\nkind = \"ping\"\nurl_file = \"url\"\n");
    sealed.expect(0, &["backup", "--all"]);
    let heard = ears.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    let rid = heard[0].line.split("rid=").nth(1).unwrap().to_owned();
    assert_eq!(heard[0].line, format!("POST /ping/secret-uuid/start?rid={rid}"));
    assert_eq!(heard[1].line, format!("POST /ping/secret-uuid?rid={rid}"), "start and end are of one run");
    assert!(heard[1].body.starts_with("backup on ") && heard[1].body.contains(": done in "), "{}", heard[1].body);
    away(&sealed, true);
    let (_, err) = sealed.expect(10, &["backup", "--all"]);
    let heard = ears.heard();
    assert!(heard[1].line.starts_with("POST /ping/secret-uuid/10?rid="), "{heard:?}");
    assert!(heard[1].body.contains("FAILED (exit code 10): there is no repository"), "{}", heard[1].body);
    assert!(heard[1].body.contains("hint: "), "what to do comes along: {}", heard[1].body);
    assert!(!err.contains("secret-uuid"));
    away(&sealed, false);
    // Others than backups are no sign of life of the backups.
    sealed.expect(0, &["check"]);
    sealed.expect(0, &["snapshots"]);
    assert_eq!(lines(&ears), Vec::<String>::new());
}

#[test]
fn a_failure_is_told_once_and_then_that_it_is_right_again() {
    let ears = Ears::open();
    let sealed = scene(&format!(
        "[notify.team]\nkind = \"slack\"\nurl = \"{}\"\n[notify.game]\nkind = \"discord\"\nurl = \"{}\"\non = [\"failure\"]\n\
         [notify.hook]\nkind = \"webhook\"\nurl = \"{}\"\non = [\"success\"]\ncommands = [\"backup\"]\n",
        ears.url("slack/T0/secret"),
        ears.url("discord/secret"),
        ears.url("hook/secret")
    ));
    sealed.expect(0, &["backup", "data"]);
    let heard = ears.heard();
    let success = heard[0].json();
    assert_eq!((heard.len(), heard[0].line.as_str()), (1, "POST /hook/secret"), "only one wants to hear of success");
    assert_eq!(
        (&success["event"], &success["command"], &success["exit_code"]),
        (&"success".into(), &"backup".into(), &0.into())
    );
    away(&sealed, true);
    sealed.expect(10, &["backup", "data"]);
    let mut heard = ears.heard();
    heard.sort_by(|one, other| one.line.cmp(&other.line));
    assert_eq!(heard.len(), 2, "{heard:?}");
    let (game, team) = (heard[0].json(), heard[1].json());
    assert!(game["content"].as_str().unwrap().contains("FAILED (exit code 10)"), "{game}");
    assert_eq!(game["allowed_mentions"]["parse"], serde_json::json!([]), "nobody is called by what a file is named");
    assert!(team["text"].as_str().unwrap().contains("backup of data on "), "{team}");
    sealed.expect(10, &["backup", "data"]);
    assert!(ears.heard().is_empty(), "the same is not told again within hours");
    away(&sealed, false);
    sealed.expect(0, &["backup", "data"]);
    let mut heard = lines(&ears);
    heard.sort();
    assert_eq!(heard, ["POST /hook/secret", "POST /slack/T0/secret"], "who heard of the trouble hears of its end");
    sealed.expect(0, &["backup", "data"]);
    assert_eq!(lines(&ears), ["POST /hook/secret"]);
}

#[test]
fn a_reader_that_goes_away_ends_no_run() {
    let sealed = scene("[sources.more]\nkind = \"volume\"\npath = \"data\"\n[hooks]\nfinally = \"touch finally\"\n");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = sealed.command(&["backup", "--all"]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let (out, _) = sealed.expect(0, &["--json", "snapshots"]);
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&out).unwrap().len(), 2, "both sources are stored");
    assert!(sealed.path("finally").exists());
}

#[test]
fn a_graver_failure_is_told_at_once_and_that_nobody_could_look_too() {
    let ears = Ears::open();
    let sealed = scene("");
    let with = |hook: &str| {
        configure(
            &sealed,
            &format!(
                "[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\n[sources.data.hooks]\nfinally = \"{hook}\"\n",
                ears.url("hook")
            ),
        );
    };
    let codes =
        || -> Vec<serde_json::Value> { ears.heard().iter().map(|heard| heard.json()["exit_code"].clone()).collect() };
    with("false");
    sealed.expect(3, &["backup", "data"]);
    assert_eq!(codes(), [3]);
    fs::rename(sealed.path("data"), sealed.path("data.away")).unwrap();
    sealed.expect(1, &["backup", "data"]);
    assert_eq!(codes(), [1], "what was only incomplete has failed");
    sealed.expect(1, &["backup", "data"]);
    assert!(codes().is_empty());
    away(&sealed, true);
    sealed.expect(10, &["status", "--notify"]);
    assert_eq!(codes(), [10], "that nobody could look is news");
    away(&sealed, false);
    sealed.expect(0, &["status", "--notify"]);
    let heard = ears.heard();
    assert_eq!(heard.iter().map(|heard| heard.json()["event"].clone()).collect::<Vec<_>>(), ["recovered"], "{heard:?}");
}

#[test]
fn what_does_not_arrive_is_tried_again_and_changes_nothing_about_the_backup() {
    let ears = Ears::open();
    let sealed = scene(&format!(
        "[notify.hook]\nkind = \"webhook\"\nurl = \"{}\"\non = [\"success\"]\n",
        ears.url("hook/secret")
    ));
    ears.answer(&[503, 429]);
    let (_, err) = sealed.expect(0, &["backup", "data"]);
    assert_eq!((lines(&ears).len(), err.contains("was not told")), (3, false), "the third try arrived");
    ears.answer(&[404]);
    let (_, err) = sealed.expect(0, &["backup", "data"]);
    assert_eq!(lines(&ears).len(), 1, "what is refused for good is not tried again");
    assert!(err.contains("warning: `hook` was not told: `127.0.0.1:") && err.contains("404"), "{err}");
    let (out, _) = sealed.expect(3, &["status"]);
    assert!(out.contains("notify hook") && out.contains("nothing arrives through it since"), "{out}");
    let (out, _) = sealed.expect(0, &["status", "data"]);
    assert!(!out.contains("notify hook"), "of one source that alone is said: {out}");
    sealed.expect(0, &["backup", "data"]);
    let (out, _) = sealed.expect(0, &["status"]);
    assert!(!out.contains("notify hook"), "{out}");
    // An address that leads nowhere, and a file that is not there.
    configure(
        &sealed,
        "[notify.a]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/secret\"\non = [\"success\"]\n\
                        [notify.b]\nkind = \"slack\"\nurl_file = \"nowhere\"\n",
    );
    let (_, err) = sealed.expect(0, &["backup", "data"]);
    assert!(err.contains("`a` was not told: `127.0.0.1:9` could not be reached"), "{err}");
    assert!(err.contains("nothing is told through `b`: could not read `nowhere`"), "{err}");
    assert!(!err.contains("secret"), "{err}");
    for entry in fs::read_dir(sealed.path("state/lifeboat")).unwrap() {
        let path = entry.unwrap().path();
        let text = if path.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
        assert!(!text.contains("secret"), "{}", path.display());
    }
}

#[test]
fn a_channel_of_a_source_hears_of_its_part_alone() {
    let ears = Ears::open();
    let sealed = scene(&format!(
        "[sources.other]\nkind = \"volume\"\npath = \"nowhere\"\n[notify.data]\nkind = \"ping\"\nurl = \"{}\"\nsources = [\"data\"]\n\
         [notify.other]\nkind = \"ping\"\nurl = \"{}\"\nsources = [\"other\"]\n[notify.all]\nkind = \"ping\"\nurl = \"{}\"\n",
        ears.url("data"),
        ears.url("other"),
        ears.url("all")
    ));
    sealed.expect(1, &["backup", "--all"]);
    let mut heard: Vec<String> =
        lines(&ears).into_iter().map(|line| line.split('?').next().unwrap().to_owned()).collect();
    heard.sort();
    let expected =
        ["POST /all/1", "POST /all/start", "POST /data", "POST /data/start", "POST /other/1", "POST /other/start"];
    assert_eq!(heard, expected, "one source that fails does not hide that the other did not");
    // A run that ends before its sources has no other news for them.
    away(&sealed, true);
    sealed.expect(10, &["backup", "data"]);
    let plain = || -> Vec<String> {
        let mut heard: Vec<String> =
            lines(&ears).into_iter().map(|line| line.split('?').next().unwrap().to_owned()).collect();
        heard.sort();
        heard
    };
    assert_eq!(plain(), ["POST /all/10", "POST /all/start", "POST /data/10"], "the other one was not meant");
    sealed.expect(10, &["backup", "--all"]);
    assert_eq!(plain(), ["POST /all/10", "POST /all/start", "POST /data/10", "POST /other/10"]);
}

#[test]
fn another_source_that_fails_is_news_and_so_is_each_that_is_right_again() {
    let ears = Ears::open();
    let rules = format!(
        "[sources.other]\nkind = \"volume\"\npath = \"other\"\n[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\n",
        ears.url("team")
    );
    let sealed = scene(&rules);
    let lost = |name: &str| fs::rename(sealed.path(name), sealed.path(&format!("{name}.lost"))).unwrap();
    let found = |name: &str| fs::rename(sealed.path(&format!("{name}.lost")), sealed.path(name)).unwrap();
    let events = || -> Vec<String> {
        let said = ears.heard().into_iter().map(|heard| heard.json());
        said.map(|message| format!("{} {}", message["event"].as_str().unwrap(), message["subject"].as_str().unwrap()))
            .collect()
    };
    fs::create_dir(sealed.path("other")).unwrap();
    sealed.expect(0, &["backup", "--all"]);
    lost("data");
    sealed.expect(1, &["backup", "--all"]);
    assert_eq!(events(), ["failure run/backup/all"]);
    sealed.expect(1, &["backup", "--all"]);
    assert_eq!(events(), Vec::<String>::new());
    lost("other");
    sealed.expect(1, &["backup", "--all"]);
    assert_eq!(events(), ["failure run/backup/all"], "the second one is news");
    sealed.expect(1, &["backup", "data"]);
    assert_eq!(events(), ["failure run/backup/data"]);
    found("data");
    sealed.expect(1, &["backup", "--all"]);
    assert_eq!(events(), ["recovered run/backup/data"], "under the other name, and the whole is still not right");
    found("other");
    sealed.expect(0, &["backup", "--all"]);
    assert_eq!(events(), ["recovered run/backup/all"]);
}

#[test]
fn a_follower_that_goes_on_is_right_again_while_it_runs() {
    let ears = Ears::open();
    let place = Place::new();
    let rules = format!("[notify.app]\nkind = \"webhook\"\nurl = \"{}\"\nsources = [\"app\"]\n", ears.url("app"));
    let text = fs::read_to_string(place.path("lifeboat.toml")).unwrap();
    fs::write(place.path("lifeboat.toml"), format!("{text}{rules}")).unwrap();
    place.convex.fill(5, 0);
    let key = fs::read(place.path("key")).unwrap();
    fs::write(place.path("key"), "convex-self-hosted|0123").unwrap();
    let output = place.command(&["follow", "app"]).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let heard = ears.heard();
    assert_eq!((heard.len(), &heard[0].json()["event"]), (1, &"failure".into()), "{heard:?}");
    fs::write(place.path("key"), key).unwrap();
    let mut following = Following::new(&place);
    following.wait("following");
    let mut heard = Vec::new();
    while heard.is_empty() {
        following.wait_for_all(&place);
        std::thread::sleep(std::time::Duration::from_millis(200));
        heard = ears.heard();
    }
    let message = heard[0].json();
    assert_eq!((&message["event"], &message["subject"]), (&"recovered".into(), &"run/follow/app".into()), "{heard:?}");
    following.end();
    assert!(ears.heard().is_empty(), "once");
}

#[test]
fn status_tells_what_is_new() {
    let ears = Ears::open();
    let notify = format!("[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\n", ears.url("hook"));
    let sealed = scene(&format!("{notify}[objectives.data]\nrpo = \"1h\"\n"));
    let events = || -> Vec<(String, String)> {
        let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        ears.heard().iter().map(|heard| (word(&heard.json()["event"]), word(&heard.json()["subject"]))).collect()
    };
    let event = |event: &str, subject: &str| (event.to_owned(), subject.to_owned());
    sealed.expect(21, &["status"]);
    assert!(events().is_empty(), "who looks by hand calls nobody");
    sealed.expect(21, &["status", "--notify"]);
    assert_eq!(events(), [event("trouble", "status/data/no-snapshot")]);
    sealed.expect(21, &["status", "--notify"]);
    assert!(events().is_empty());
    sealed.expect(0, &["backup", "data"]);
    sealed.expect(0, &["status", "--notify"]);
    assert_eq!(events(), [event("recovered", "status/data/no-snapshot")]);
    // A source that nobody looks at any more is not right again.
    configure(&sealed, &format!("{notify}[sources.gone]\nkind = \"volume\"\npath = \"nowhere\"\n"));
    sealed.expect(21, &["status", "--notify"]);
    assert_eq!(events(), [event("trouble", "status/gone/no-snapshot")]);
    configure(&sealed, &notify);
    sealed.expect(0, &["status", "--notify"]);
    assert!(events().is_empty());
    // Two things are wrong, and one of them is mended.
    configure(&sealed, &format!("{notify}[objectives.data]\nrpo = \"1s\"\ndrill_every = \"7d\"\n"));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    sealed.expect(21, &["status", "--notify"]);
    assert_eq!(events(), [event("trouble", "status/data/rpo"), event("trouble", "status/data/drill")]);
    sealed.expect(21, &["drill", "data"]);
    let _ = ears.heard();
    sealed.expect(21, &["status", "--notify"]);
    let found = events();
    assert!(!found.contains(&event("trouble", "status/data/rpo")), "{found:?}");
    configure(&sealed, &notify);
    sealed.expect(0, &["backup", "data"]);
    sealed.expect(0, &["drill", "data"]);
    let _ = ears.heard();
    sealed.expect(0, &["status", "--notify"]);
    let found = events();
    assert!(
        found.iter().all(|(event, _)| event == "recovered") && found.contains(&event("recovered", "status/data/rpo")),
        "{found:?}"
    );
}

#[test]
fn mail_goes_over_tls_with_a_password_to_a_server_that_is_who_it_says() {
    let sealed = scene("");
    let here = sealed.path("");
    tls::authority(&here, "ca");
    tls::server(&here, "ca", "localhost");
    let authority = sealed.path("ca.crt");
    let (cert, key) = (sealed.path("server.crt"), sealed.path("server.key"));
    let secured = [cert.to_str().unwrap(), key.to_str().unwrap(), "me@example.org", "correct horse"];
    let Some(server) = MailServer::start(&here, Some(secured)) else { return };
    fs::write(sealed.path("password"), "correct horse\n").unwrap();
    let configure_with = |password: &str| {
        configure(
            &sealed,
            &format!(
                "[notify.ops]\nkind = \"email\"\nsmtp = \"smtp://me%40example.org@localhost:{}\"\npassword_file = \"{password}\"\n\
             from = \"lifeboat <lifeboat@example.org>\"\nto = [\"Ops <ops@example.org>\", \"two@example.org\"]\n",
                server.port
            ),
        );
    };
    configure_with("password");
    let test = |trusted: bool| {
        let mut command = sealed.command(&["notify", "test"]);
        if trusted {
            command.env("SSL_CERT_FILE", &authority);
        }
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = test(false);
    assert!(
        code == 1 && said.contains("FAILED    ops") && said.contains("localhost:"),
        "nobody vouches for it: {said}"
    );
    assert!(server.mails().is_empty());
    let (code, said) = test(true);
    assert_eq!(code, 0, "{said}");
    let mail = &server.mails()[0];
    assert_eq!(
        (&mail["tls"], &mail["authenticated"], &mail["from"]),
        (&true.into(), &true.into(), &"lifeboat@example.org".into())
    );
    assert_eq!(mail["to"], serde_json::json!(["ops@example.org", "two@example.org"]));
    let text = mail["text"].as_str().unwrap();
    assert!(text.contains("Subject: lifeboat on ") && text.contains("Auto-Submitted: auto-generated"), "{text}");
    // A failing backup arrives as a mail too.
    away(&sealed, true);
    assert_eq!(sealed.command(&["backup", "data"]).env("SSL_CERT_FILE", &authority).status().unwrap().code(), Some(10));
    assert!(server.mails()[1]["text"].as_str().unwrap().contains("there is no repository"));
    fs::write(sealed.path("wrong"), "wrong horse\n").unwrap();
    configure_with("wrong");
    let (code, said) = test(true);
    assert!(code == 1 && said.contains("535") && !said.contains("wrong horse"), "{said}");
}

#[test]
fn mail_goes_to_a_server_of_ones_own_without_tls_only_where_that_is_said() {
    let sealed = scene("");
    let Some(server) = MailServer::start(&sealed.path(""), None) else { return };
    let with = |scheme: &str| {
        configure(
            &sealed,
            &format!(
                "[notify.ops]\nkind = \"email\"\nsmtp = \"{scheme}://127.0.0.1:{}\"\nfrom = \"l@example.org\"\nto = [\"o@example.org\"]\n",
                server.port
            ),
        );
    };
    with("smtp");
    let (out, _) = sealed.expect(1, &["notify", "test"]);
    assert!(out.contains("FAILED    ops"), "{out}");
    assert!(server.mails().is_empty(), "nothing went out in the clear");
    with("smtp+plain");
    sealed.expect(0, &["notify", "test", "ops"]);
    assert_eq!(server.mails().len(), 1);
}

#[test]
fn notify_test_says_of_each_channel_whether_it_took_the_message() {
    let ears = Ears::open();
    let sealed = scene("");
    let (_, err) = sealed.expect(2, &["notify", "test"]);
    assert!(err.contains("the configuration has no channel") && err.contains("docs/notifications.md"), "{err}");
    configure(
        &sealed,
        &format!(
            "[notify.a]\nkind = \"ping\"\nurl = \"{}\"\n[notify.b]\nkind = \"slack\"\nurl = \"http://127.0.0.1:9/x\"\non = [\"recovered\"]\n",
            ears.url("ping/x")
        ),
    );
    let (_, err) = sealed.expect(2, &["notify", "test", "c"]);
    assert!(err.contains("there is no channel `c`") && err.contains("a, b"), "{err}");
    let (out, err) = sealed.expect(1, &["notify", "test"]);
    assert!(out.contains("sent      a") && out.contains("FAILED    b: `127.0.0.1:9` could not be reached"), "{out}");
    assert!(!err.contains("warning"), "it is said once: {err}");
    assert_eq!(lines(&ears), ["POST /ping/x/log"], "a test changes nothing about the switch");
    sealed.expect(0, &["notify", "test", "a"]);
}

#[test]
fn hooks_run_around_a_source_and_around_the_whole() {
    let sealed = scene("");
    let log = sealed.path("log");
    let line = |name: &str| {
        format!("\"cat > {name}.json; echo {name} $LIFEBOAT_SOURCE $LIFEBOAT_EXIT_CODE >> {}\"", log.display())
    };
    let hooks = |section: &str, name: &str| {
        let mut text = format!("[{section}]\n");
        for stage in ["before", "after", "failed", "finally"] {
            text.push_str(&format!("{stage} = {}\n", line(&format!("{name}-{stage}"))));
        }
        text
    };
    let all = [hooks("sources.data.hooks", "data"), hooks("hooks", "all")].concat();
    configure(&sealed, &all);
    sealed.expect(0, &["backup", "data"]);
    let told = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
    };
    let expected =
        ["all-before", "data-before data", "data-after data 0", "data-finally data 0", "all-after 0", "all-finally 0"];
    assert_eq!(told(), expected);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(sealed.path(&format!("{name}.json"))).unwrap()).unwrap()
    };
    let (before, after) = (read("data-before"), read("all-after"));
    assert_eq!(
        (&before["command"], &before["source"], &before["stage"]),
        (&"backup".into(), &"data".into(), &"before".into())
    );
    assert_eq!((&after["exit_code"], &after["sources"][0]["source"]), (&0.into(), &"data".into()));
    assert_eq!(before["run"], after["run"]);
    // What fails is told to `failed`, and `finally` runs all the same.
    fs::rename(sealed.path("data"), sealed.path("data.away")).unwrap();
    sealed.expect(1, &["backup", "data"]);
    let expected = [
        "all-before",
        "data-before data",
        "data-failed data 1",
        "data-finally data 1",
        "all-failed 1",
        "all-finally 1",
    ];
    assert_eq!(told(), expected);
    let failed = read("all-failed");
    assert!(failed["error"].as_str().unwrap().contains("could not read"), "{failed}");
    fs::rename(sealed.path("data.away"), sealed.path("data")).unwrap();
    // They belong to backups unless they say otherwise.
    sealed.expect(0, &["check"]);
    assert!(told().is_empty());
}

#[test]
fn a_source_whose_hook_fails_is_not_backed_up_and_the_others_are() {
    let sealed = scene(
        "[sources.data.hooks]\nbefore = [\"exit 7\", \"touch never\"]\nfinally = \"touch finally\"\n\
         [sources.more]\nkind = \"volume\"\npath = \"data\"\n",
    );
    let (_, err) = sealed.expect(1, &["backup", "--all"]);
    assert!(err.contains("the hook `exit` (before) ended with exit code 7"), "{err}");
    assert!(!sealed.path("never").exists() && sealed.path("finally").exists());
    let (out, _) = sealed.expect(0, &["--json", "snapshots"]);
    let snapshots: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    let sources: Vec<_> = snapshots.iter().map(|one| one["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["more"]);
    // One that fails afterwards is said, and the run is not called complete.
    configure(&sealed, "[sources.data.hooks]\nfinally = [\"exit 1\", \"touch second\"]\n");
    let (_, err) = sealed.expect(3, &["backup", "data"]);
    assert!(err.contains("warning: the hook `exit` (finally) ended with exit code 1"), "{err}");
    assert!(sealed.path("second").exists(), "each has its turn");
    // What hooks print is no part of the answer.
    configure(&sealed, "[hooks]\nbefore = \"echo not json\"\n");
    let (out, err) = sealed.expect(0, &["--json", "backup", "data"]);
    assert!(!out.contains("not json") && err.contains("not json"), "{out}");
    configure(&sealed, "[hooks]\nbefore = \"sleep 600\"\ntimeout = \"1s\"\n");
    let (_, err) = sealed.expect(1, &["backup", "data"]);
    assert!(err.contains("was killed after 1 s"), "{err}");
}
