//! Guarantees that one request after another shows.

use bytes::Bytes;

use super::{Bench, Doubt, Seen};
use crate::store::{self, Tried};

/// Bytes that no other object has; the same for the same name and length.
pub(super) fn body(name: &str, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new_derive_key("lifeboat validate-store");
    hasher.update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Sorts a complaint out of what is true.
pub(super) fn must(truth: bool, otherwise: impl FnOnce() -> String) -> Result<(), Doubt> {
    if truth { Ok(()) } else { Err(Doubt::No(otherwise())) }
}

/// In words that need no table of units.
fn bytes_of(length: usize) -> String {
    match length {
        0..1024 => format!("{length} B"),
        1024..1_048_576 => format!("{} KiB", length >> 10),
        _ => format!("{} MiB", length >> 20),
    }
}

pub(super) fn write_and_read(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    let sizes = [1, 1000, 65_537, 1 << 20];
    for size in sizes {
        let (key, body) = (format!("write/{size}"), body("write", size));
        store.appender().create(&key, std::slice::from_ref(&body))?;
        let read = store.get(&key, size as u64 + 1)?;
        must(read == body, || format!("an object of {} came back with other bytes", bytes_of(size)))?;
    }
    Ok(format!("{} objects of 1 B to 1 MiB came back byte for byte", sizes.len()))
}

pub(super) fn missing(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    must(store.size("missing/none")?.is_none(), || "an object that was never put has a size".to_owned())?;
    for outcome in [store.get("missing/none", 10), store.get_range("missing/none", 0..1)] {
        match outcome {
            Err(store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(Doubt::No("an object that was never put was read".to_owned())),
        }
    }
    must(store.list("missing", None)?.is_empty(), || "an empty folder lists objects".to_owned())?;
    Ok("an object that was never put is said not to be there, and an empty folder is empty".to_owned())
}

pub(super) fn ranges(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    let whole = body("ranges", 1 << 20);
    let end = whole.len() as u64;
    store.appender().create("ranges", std::slice::from_ref(&whole))?;
    let all = [0..1, 0..4096, 1..2, 65_535..65_537, 300_000..700_001, end - 16..end, end - 1..end, 0..end];
    for range in all.clone() {
        let read = store.get_range("ranges", range.clone())?;
        let right = read == whole[range.start as usize..range.end as usize];
        must(right, || format!("bytes {} to {} came back as other bytes", range.start, range.end))?;
    }
    must(store.get_range("ranges", end - 1..end + 1).is_err(), || "a range beyond the end was served".to_owned())?;
    Ok(format!("{} ranges of a 1 MiB object came back byte for byte; one beyond its end was refused", all.len()))
}

pub(super) fn large_objects(bench: &Bench<'_>) -> Seen {
    let (store, size) = (bench.scratch.store(), bench.scale.large);
    let whole = body("large", size);
    store.appender().create("large", std::slice::from_ref(&whole))?;
    must(store.size("large")? == Some(size as u64), || "it is listed with another size".to_owned())?;
    must(store.get("large", size as u64)? == whole, || "it came back with other bytes".to_owned())?;
    let end = size as u64;
    let tail = store.get_range("large", end.saturating_sub(1 << 20)..end)?;
    must(whole.ends_with(&tail), || "its end came back as other bytes".to_owned())?;
    Ok(format!("{} went in one request and came back byte for byte, whole and its end alone", bytes_of(size)))
}

/// The names of format 1, as long as they get.
fn own_names() -> Vec<String> {
    let (writer, hex) = ("w".repeat(64), "0123456789abcdef".repeat(4));
    vec![
        "lifeboat.json".to_owned(),
        format!("keys/recipients-{hex}.json"),
        format!("writers/{writer}/writer.json"),
        format!("writers/{writer}/log/000000000001-{hex}.age"),
        format!("writers/{writer}/packs/01/{hex}"),
    ]
}

pub(super) fn names(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    let names = own_names();
    for name in &names {
        let (key, body) = (format!("names/{name}"), body(name, 100));
        store.appender().create(&key, std::slice::from_ref(&body))?;
        must(store.get(&key, 100)? == body, || format!("`{name}` came back with other bytes"))?;
    }
    let listed: Vec<_> = store.list("names", None)?.into_iter().map(|object| object.key).collect();
    let lost = names.iter().find(|name| !listed.contains(&format!("names/{name}")));
    must(lost.is_none(), || format!("a listing does not show `{}`", lost.map_or("", |name| name)))?;
    // A folder whose name is the beginning of another's.
    store.appender().create("names/writers-2/x", &[body("x", 10)])?;
    let inside = store.list("names/writers", None)?;
    must(inside.len() == 3, || "the listing of a folder shows what is in another".to_owned())?;
    let folders = store.folders("names")?;
    must(folders == ["keys", "writers", "writers-2"], || format!("its folders are {}", folders.join(", ")))?;
    let longest = names.iter().map(String::len).max().unwrap_or(0);
    Ok(format!("names as lifeboat makes them, of up to {longest} characters, were kept; folders are told apart"))
}

pub(super) fn create_if_absent(bench: &Bench<'_>) -> Seen {
    let (first, second) = (body("first", 1000), body("second", 2000));
    let tries = [("create/a", &first), ("create/a", &second), ("create/a", &first)];
    let mut answers = Vec::new();
    for (key, body) in tries {
        answers.push(bench.scratch.create(key, body)?);
    }
    if answers.contains(&Tried::Refused) {
        return Err(Doubt::Refused("the store does not know conditional puts".to_owned()));
    }
    must(answers[0] == Tried::Done, || "the first create of a name was refused".to_owned())?;
    must(answers[1..] == [Tried::Exists; 2], || "a create of a name that was there replaced it".to_owned())?;
    must(bench.scratch.store().get("create/a", 2000)? == first, || {
        "a refused create replaced it all the same".to_owned()
    })?;
    Ok("two creates of a name that was there were refused, and changed nothing".to_owned())
}

pub(super) fn odd_names(bench: &Bench<'_>) -> Seen {
    let odd = [
        "with space",
        "plus+and&equals=",
        "percent%41",
        "colon:semicolon;comma,",
        "quote'bang!at@dollar$",
        "(round)",
        ".dot",
        "~tilde~",
        "ümläut-日本",
        "Case",
        "case",
    ];
    let mut lost = Vec::new();
    for name in odd {
        if !bench.scratch.name_survives("odd", name).unwrap_or(false) {
            lost.push(format!("`{name}`"));
        }
    }
    // Names that differ in their case alone must be two objects.
    let store = bench.scratch.store();
    if store.get("odd/Case", 100).ok().as_deref() != Some(b"Case") {
        lost.push("upper and lower case".to_owned());
    }
    must(lost.is_empty(), || format!("not kept: {}", lost.join(", ")))?;
    Ok(format!("{} names with spaces, signs, letters beyond ASCII and of either case were kept", odd.len()))
}

pub(super) fn clock(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    let before = (bench.clock)();
    store.appender().create("clock/now", &[body("clock", 10)])?;
    let after = (bench.clock)();
    let Some(object) = store.list("clock", None)?.into_iter().next() else {
        return Err(Doubt::Unknown("the object was not listed".to_owned()));
    };
    // Stores tell whole seconds.
    let early = (before - object.received).num_seconds().max(0);
    let late = (object.received - after).num_seconds().max(0);
    let (seconds, side) = if late > early { (late, "ahead of") } else { (early, "behind") };
    must(seconds <= 60, || format!("the store's clock is {seconds} s {side} this host's"))?;
    Ok(match seconds {
        0 | 1 => "the store's clock agrees with this host's to the second".to_owned(),
        _ => format!("the store's clock is {seconds} s {side} this host's"),
    })
}
