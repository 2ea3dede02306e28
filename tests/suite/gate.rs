//! Trees that somebody encrypted or emptied: kept, marked, and nothing before them goes until a person has looked. Ordinary days are silent.

use std::fs;
use std::path::Path;

use crate::cli::Sealed;
use crate::common::chance::Chance;
use crate::common::tree::{age, noise};

/// Text that compresses, another one for each number.
fn prose(chance: &mut Chance, lines: usize) -> String {
    let words = ["recovery", "point", "of", "the", "ledger", "was", "written", "by", "nobody", "in", "particular"];
    let line = |chance: &mut Chance| (0..12).map(|_| *chance.pick(&words)).collect::<Vec<_>>().join(" ");
    (0..lines).map(|n| format!("{n} {}\n", line(chance))).collect()
}

struct Place {
    sealed: Sealed,
    chance: Chance,
}

impl Place {
    /// Sixty documents, and four quiet nights.
    fn new(seed: u64) -> Self {
        let sealed = Sealed::new();
        sealed.init();
        fs::remove_dir_all(sealed.path("data")).unwrap();
        fs::create_dir(sealed.path("data")).unwrap();
        let mut place = Self { sealed, chance: Chance::new(seed) };
        (0..60).for_each(|n| place.write(n));
        for night in 0..4 {
            (0..3).for_each(|n| place.write((night * 7 + n) % 60));
            assert!(!place.back_up().contains("ABNORMAL"));
        }
        place
    }

    fn write(&mut self, n: usize) {
        let text = prose(&mut self.chance, 1000);
        fs::write(self.sealed.path("data").join(format!("document-{n}.txt")), text).unwrap();
    }

    fn back_up(&self) -> String {
        age(&self.sealed.path("data"));
        self.lifeboat(0, &["backup", "--path", "data", "--name", "data"])
    }

    fn lifeboat(&self, code: i32, args: &[&str]) -> String {
        let output = self.sealed.run(&[&["--repo", "repo"], args].concat());
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        text
    }

    fn ids(&self) -> Vec<(String, bool)> {
        let listed = self.lifeboat(0, &["--json", "snapshots"]);
        let all: Vec<serde_json::Value> = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
        let id = |one: &serde_json::Value| one["id"].as_str().unwrap().to_owned();
        all.iter().map(|one| (id(one), one["abnormal"].as_array().is_some_and(|all| !all.is_empty()))).collect()
    }
}

/// What a thief leaves: noise under another name.
fn encrypt(folder: &Path) {
    for (n, entry) in fs::read_dir(folder).unwrap().flatten().enumerate() {
        let size = entry.metadata().unwrap().len() as usize;
        fs::write(format!("{}.locked", entry.path().display()), noise(size, n as u64)).unwrap();
        fs::remove_file(entry.path()).unwrap();
    }
}

#[test]
fn an_encrypted_tree_is_kept_and_pushes_nothing_out() {
    let place = Place::new(1);
    encrypt(&place.sealed.path("data"));
    let told = place.back_up();
    assert!(told.contains("this snapshot is ABNORMAL: 100 % of the files"), "{told}");
    assert!(told.contains("as encrypted data does"), "{told}");
    let ids = place.ids();
    assert_eq!(ids.iter().map(|(_, abnormal)| *abnormal).collect::<Vec<_>>(), [false, false, false, false, true]);
    // Nights go on; a policy that would keep the newest alone keeps everything.
    place.back_up();
    let told = place.lifeboat(0, &["forget", "data", "--keep-last", "1"]);
    assert!(told.contains("is abnormal, see `lifeboat accept`"), "{told}");
    assert_eq!(place.ids().len(), 6);
    let told = place.lifeboat(2, &["forget", "--snapshot", &ids[0].0]);
    assert!(told.contains("until somebody accepts it nothing is forgotten") && told.contains(&ids[4].0), "{told}");
    assert!(place.lifeboat(0, &["snapshots"]).contains("complete, ABNORMAL"));
    let told = place.lifeboat(3, &["status", "data"]);
    assert!(told.contains("is ABNORMAL") && told.contains("lifeboat accept"), "{told}");
    // What was there before comes back.
    place.lifeboat(0, &["--identity", "identity.txt", "restore", "data", "--snapshot", &ids[3].0, "--into", "back"]);
    assert!(fs::read_to_string(place.sealed.path("back/document-1.txt")).unwrap().starts_with("0 "));
    // A person says that it is right: then the policy counts.
    let told = place.lifeboat(0, &["accept", &ids[4].0]);
    assert!(told.contains("accepted") && told.contains("100 % of the files"), "{told}");
    assert!(place.lifeboat(0, &["accept", &ids[4].0]).contains("none of them was held"));
    assert!(place.lifeboat(0, &["snapshots"]).contains("complete, accepted"));
    place.lifeboat(0, &["forget", "data", "--keep-last", "1"]);
    assert_eq!(place.ids().len(), 1);
    // A catalog that is made anew knows it too.
    place.lifeboat(0, &["--identity", "identity.txt", "catalog", "rebuild"]);
    assert!(!place.lifeboat(0, &["status", "data"]).contains("ABNORMAL"));
}

#[test]
fn an_emptied_tree_is_told() {
    let place = Place::new(2);
    for n in 5..60 {
        fs::remove_file(place.sealed.path("data").join(format!("document-{n}.txt"))).unwrap();
    }
    let told = place.back_up();
    assert!(told.contains("% of the files are there that there used to be"), "{told}");
    let told = place.lifeboat(0, &["forget", "data", "--keep-last", "1"]);
    assert!(told.contains("abnormal"), "{told}");
    assert_eq!(place.ids().len(), 5);
}

#[test]
fn ordinary_days_are_silent() {
    let mut place = Place::new(3);
    let data = place.sealed.path("data");
    // A busy day, a large upload of what does not compress, a folder that moves, a third that is rewritten, all touched and none changed.
    (0..20).for_each(|n| place.write(n));
    assert!(!place.back_up().contains("ABNORMAL"), "a busy day");
    for n in 0..10 {
        fs::write(data.join(format!("film-{n}")), noise(400_000, n)).unwrap();
    }
    assert!(!place.back_up().contains("ABNORMAL"), "an upload");
    fs::create_dir(data.join("archive")).unwrap();
    for n in 0..15 {
        fs::rename(data.join(format!("document-{n}.txt")), data.join(format!("archive/document-{n}.txt"))).unwrap();
    }
    assert!(!place.back_up().contains("ABNORMAL"), "a folder was moved");
    for n in 15..60 {
        let path = data.join(format!("document-{n}.txt"));
        let text = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
    }
    assert!(!place.back_up().contains("ABNORMAL"), "all were touched");
    place.lifeboat(0, &["backup", "--path", "data", "--name", "data", "--force"]);
    assert!(place.ids().iter().all(|(_, abnormal)| !abnormal));
}
