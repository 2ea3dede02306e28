//! `validate-store`: each check fails where its guarantee is broken, and only that one; nothing stays behind.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::TryStreamExt;
use lifeboat::ops::validate::{Guarantee as G, Held, Scale, ValidateReport, validate};
use lifeboat::ops::{Error, Kind};
use lifeboat::progress::{CancelFlag, Silent};
use lifeboat::store::{Credentials, Store, open_url};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::common::broken::{Broken, Defect};
use crate::common::faulty::{Fails, Faulty};
use crate::common::limits;

/// Small enough for memory, large enough that every defect shows.
const SCALE: Scale = Scale { rounds: 32, racers: 8, objects: 120, large: 3 << 20 };

fn run(store: &Store) -> Result<ValidateReport, Error> {
    validate(&store.scratch("validate-1").unwrap(), SCALE, &chrono::Utc::now, &Silent)
}

fn run_broken(defect: Defect) -> ValidateReport {
    let broken = Broken::new(Arc::new(InMemory::new()), defect);
    run(&Store::new(broken, "some/prefix", "broken", limits(2)).unwrap()).unwrap()
}

/// What did not hold, as found.
fn fallen(report: &ValidateReport) -> Vec<(G, Held)> {
    report.findings.iter().filter(|f| f.held != Held::Yes).map(|f| (f.guarantee, f.held)).collect()
}

#[test]
fn a_store_that_keeps_every_guarantee_is_fit_and_is_left_empty() {
    let memory = Arc::new(InMemory::new());
    let store = Store::new(memory.clone(), "some/prefix", "memory", limits(2)).unwrap();
    store.appender().create("validate-other/mine", &[bytes::Bytes::from_static(b"mine")]).unwrap();
    let report = run(&store).unwrap();
    assert_eq!(fallen(&report), [], "{report:#?}");
    assert_eq!((report.is_fit(), report.left, report.findings.len()), (true, 0, 14));
    assert_eq!(everything(&*memory), ["some/prefix/validate-other/mine"], "its own objects are gone, nobody else's");
}

fn everything(objects: &dyn ObjectStore) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let names = objects.list(None).map_ok(|object| object.location.to_string());
    runtime.block_on(names.try_collect()).unwrap()
}

#[test]
fn a_local_directory_keeps_every_guarantee_and_no_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let report = run(&open_url(&url, &Credentials::default(), limits(2), false).unwrap()).unwrap();
    assert_eq!(fallen(&report), [], "{report:#?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_check_fails_where_its_guarantee_is_broken_and_no_other_does() {
    let no = |all: &[G]| all.iter().map(|guarantee| (*guarantee, Held::No)).collect::<Vec<_>>();
    let everything_read = [
        G::WholeObjects,
        G::WriteAndRead,
        G::ReadAfterWrite,
        G::Ranges,
        G::LargeObjects,
        G::Names,
        G::CreateIfAbsent,
        G::CreateInARace,
        G::OddNames,
    ];
    let late = [no(&[G::ListAfterWrite, G::LongListings, G::Names]), vec![(G::Clock, Held::Unknown)]].concat();
    let cases = [
        (Defect::FlipsABit, no(&everything_read), false),
        (Defect::HidesWhatIsMissing, no(&[G::Missing, G::ReadAfterWrite, G::ListAfterDelete]), false),
        (Defect::RemembersMisses, no(&[G::ReadAfterWrite]), false),
        (Defect::ListsLate, late, false),
        (Defect::CutsListings, no(&[G::LongListings]), false),
        (Defect::ShiftsRanges, no(&[G::Ranges]), false),
        (Defect::CutsLargeBodies, no(&[G::WholeObjects, G::WriteAndRead, G::Ranges, G::LargeObjects]), false),
        (Defect::ShowsHalves, no(&[G::WholeObjects]), false),
        (Defect::CutsNames, no(&[G::Names, G::OddNames]), false),
        (Defect::FoldsCase, no(&[G::OddNames]), true),
        (Defect::IgnoresConditions, no(&[G::CreateIfAbsent, G::CreateInARace]), true),
        (Defect::RefusesConditions, vec![(G::CreateIfAbsent, Held::Refused), (G::CreateInARace, Held::Refused)], true),
        (Defect::RefusesOnce, no(&[G::CreateIfAbsent]), true),
        (Defect::ForgetsConditionsInARace, no(&[G::CreateInARace]), true),
        (Defect::ListsGhosts, no(&[G::ListAfterDelete]), true),
        (Defect::RunsFast, no(&[G::Clock]), true),
    ];
    let mut broken = HashSet::new();
    for (defect, expected, fit) in cases {
        let report = run_broken(defect);
        assert_eq!((fallen(&report), report.is_fit()), (expected, fit), "{defect:?}: {report:#?}");
        broken
            .extend(fallen(&report).into_iter().filter(|(_, held)| *held == Held::No).map(|(guarantee, _)| guarantee));
    }
    assert_eq!(broken.len(), 14, "each check fails somewhere");
}

#[test]
fn where_nothing_can_be_deleted_little_is_written_and_told() {
    let report = run_broken(Defect::RefusesDeletes);
    let expected = [(G::LongListings, Held::Unknown), (G::ListAfterDelete, Held::Refused)];
    assert_eq!(fallen(&report), expected, "{report:#?}");
    assert!(report.left > 0 && report.left < 150, "{} objects are left", report.left);
    assert!(report.is_fit());
}

#[test]
fn a_store_that_cannot_be_reached_is_an_error_and_a_stop_leaves_nothing() {
    let down = Faulty::new(Arc::new(InMemory::new()), 1, Fails::Before);
    let error = run(&Store::new(down, "", "down", limits(2)).unwrap()).unwrap_err();
    assert!(error.to_string().contains("could not store `hello` in `down/validate-1` (2 tries)"), "{error}");
    let memory = Arc::new(InMemory::new());
    let scratch = Store::new(memory.clone(), "", "memory", limits(2)).unwrap().scratch("validate-1").unwrap();
    let error = validate(&scratch, SCALE, &chrono::Utc::now, &CancelFlag(true.into())).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(everything(&*memory).is_empty());
}

#[test]
fn a_prefix_that_is_written_with_escapes_is_not_left() {
    let memory = Arc::new(InMemory::new());
    let store = Store::new(memory.clone(), "with%20escape", "memory", limits(2)).unwrap();
    let scratch = store.scratch("validate-1").unwrap();
    scratch.overwrite("x", &bytes::Bytes::from_static(b"x")).unwrap();
    assert_eq!(store.list("validate-1", None).unwrap().len(), 1);
    assert_eq!((scratch.clear().unwrap(), everything(&*memory).len()), (0, 0));
}
