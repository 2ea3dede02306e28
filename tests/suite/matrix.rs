//! The damage matrix: every way of damage x every class of stored bytes x every deed. Each cell says what must come of it:
//! damage is noticed and named, or the deed is right without those bytes; never a panic, never wrong bytes.

mod scene;
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};

use scene::{Ended, Scene};
use table::{Expected, TABLE, Way};

/// What a cell came to, against what it should have.
fn judge(scene: &Scene, way: Way, row: &table::Row, deed: &str, expected: Expected) -> Result<(), String> {
    let place = scene.copy();
    let object = place.damage(row.target, way);
    let ended = match deed {
        "check" => place.check(),
        "restore" => place.restore(false),
        "bare" => place.restore(true),
        _ => place.backup(),
    };
    let text = |text: &str| text.replace("{object}", &object);
    let fits = match (&ended, expected) {
        (Ended::Well { said }, Expected::Well(_)) => said.iter().all(|said| said.trim().is_empty()),
        (Ended::Well { said }, Expected::Names(name)) => said.iter().all(|said| said.contains(&text(name))),
        (Ended::Failed { error }, Expected::Fails(name)) => error.contains(&text(name)),
        _ => false,
    };
    let clear = !ended.text().contains("a defect of lifeboat");
    if fits && clear { Ok(()) } else { Err(format!("{way:?} {:?}, {deed}: {expected:?}, but {ended:?}", row.target)) }
}

#[test]
fn every_damage_is_noticed_and_named_by_every_deed() {
    let scene = Scene::new();
    let (next, wrong) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    let cells: Vec<_> = TABLE
        .iter()
        .filter_map(|row| row.cells().map(|cells| (row, cells)))
        .flat_map(|(row, cells)| cells.map(move |(deed, expected)| (row, deed, expected)))
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((row, deed, expected)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = judge(&scene, row.way, row, deed, *expected) {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
}

#[test]
fn the_table_is_whole() {
    for target in table::Target::ALL {
        for way in Way::ALL {
            let rows = TABLE.iter().filter(|row| row.target == *target && row.way == *way).count();
            assert_eq!(rows, 1, "{way:?} {target:?}");
        }
    }
    assert_eq!(TABLE.len(), table::Target::ALL.len() * Way::ALL.len());
}
