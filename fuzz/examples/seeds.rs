//! Writes the seeds: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`. Real objects of the fixture repository,
//! opened where a target fuzzes what is inside the seal, and small texts as people write them.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use lifeboat::model::{CommitId, RepositoryId};
use lifeboat::pack::{FOOTER, parse_footer};
use lifeboat::repository::commit_key;
use lifeboat::seal::{FrameSealer, Keyring, SigningKey, split_signed};
use lifeboat_fuzz::{IDENTITY, KEYS, OWNER, frame_opener};

type Outcome = Result<(), Box<dyn Error>>;

fn put(target: &str, name: &str, bytes: &[u8]) -> Outcome {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

fn numbered(number: usize, bytes: &[u8]) -> Vec<u8> {
    [&(number as u32).to_le_bytes(), bytes].concat()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { all.extend(files(&path)?) } else { all.push(path) }
    }
    all.sort();
    Ok(all)
}

/// The fixture's objects name another repository and writer than the targets do.
fn renamed(text: &[u8], fixture: &str, writer: &str) -> Vec<u8> {
    let ours = OWNER.repository.to_string();
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if rest.starts_with(fixture.as_bytes()) {
            bytes.extend_from_slice(ours.as_bytes());
            rest = &rest[fixture.len()..];
        } else if rest.starts_with(writer.as_bytes()) {
            bytes.extend_from_slice(OWNER.writer.as_bytes());
            rest = &rest[writer.len()..];
        } else {
            bytes.push(rest[0]);
            rest = &rest[1..];
        }
    }
    bytes
}

fn fixture() -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/repositories/format-1/repository");
    let description = fs::read(root.join("lifeboat.json"))?;
    let parsed = lifeboat::repository::Description::parse(&description, "fixture")?;
    let id = parsed.repository.to_string();
    let folder = fs::read_dir(root.join("writers"))?.next().ok_or("no writer")??;
    let writer = folder.file_name().to_string_lossy().into_owned();
    put("objects", "description", &[b"\0".as_slice(), &description].concat())?;
    let (mut commits, mut manifests) = (Vec::new(), 0);
    for (n, path) in files(&root)?.iter().enumerate() {
        let (bytes, name) = (fs::read(path)?, path.display().to_string());
        let signed =
            |bytes: &[u8]| split_signed(bytes).map(|(_, text)| renamed(text, &id, &writer)).unwrap_or_default();
        if name.contains("/recipients-") {
            put("objects", "recipients", &[b"\x01".as_slice(), &signed(&bytes)].concat())?;
        } else if name.ends_with("writer.json") {
            put("objects", "writer", &[b"\x02".as_slice(), &signed(&bytes)].concat())?;
        } else if name.contains("/keys/secret-") {
            put("objects", "secret", &[b"\x03".as_slice(), &KEYS.opener.open(&bytes)?].concat())?;
            put("sealed", "secret", &numbered(bytes.len(), &bytes))?;
        } else if name.contains("/log/") {
            let text = KEYS.opener.open_compressed(&bytes, 1 << 20)?;
            let content = signed(&text);
            put("commit", &format!("commit-{n}"), &content)?;
            put("sealed", &format!("commit-{n}"), &numbered(text.len(), &bytes))?;
            commits.push(content);
        } else if name.contains("/packs/") {
            let footer = bytes.len() - FOOTER as usize;
            let (at, length) = parse_footer(&bytes[footer..], bytes.len() as u64)?;
            let directory = &bytes[at as usize..(at + length) as usize];
            let content = signed(&KEYS.opener.open_compressed(directory, 1 << 20)?);
            put("pack_directory", &format!("directory-{n}"), &numbered(at as usize, &content))?;
            if bytes.len() < 4096 {
                put("pack_sealed", &format!("pack-{n}"), &bytes)?;
            }
            if let Some((sealed, length)) = only_frame(&bytes, &content).filter(|(sealed, _)| sealed.len() < 4096) {
                put("sealed", &format!("frame-{n}"), &numbered(length, sealed))?;
                put("frame", &format!("frame-{n}"), &numbered(length, &KEYS.opener.open(sealed)?))?;
                let plain = frame_opener().open_frame(sealed, length)?.to_vec();
                if plain.starts_with(b"{\"manifest\":1}\n") {
                    put("manifest", &format!("manifest-{n}"), &plain)?;
                    manifests += 1;
                }
            }
        }
    }
    assert!(manifests > 0, "the fixture has manifests");
    put("ingest", "commits", &commits.join(&b'\n'))
}

/// The first frame of a pack and its plain length, as its directory says.
fn only_frame<'p>(pack: &'p [u8], content: &[u8]) -> Option<(&'p [u8], usize)> {
    let header: serde_json::Value = serde_json::from_slice(content.split(|b| *b == b'\n').next()?).ok()?;
    let frame = header.get("frames")?.get(0)?;
    let number = |key: &str| frame.get(key)?.as_u64().map(|n| n as usize);
    Some((pack.get(number("at")?..number("at")? + number("stored")?)?, number("plain")?))
}

fn bombs() -> Outcome {
    let zeros = vec![0; 8 << 20];
    put("frame", "bomb", &numbered(1 << 20, &zstd::bulk::compress(&zeros, 3)?))?;
    put("sealed", "bomb", &numbered(1 << 20, &KEYS.sealer.seal_compressed(&zeros)?))?;
    let mut bytes = vec![0; 6000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let sealed = FrameSealer::new(&KEYS.sealer)?.seal_frame(&bytes)?;
    put("frame", "raw-blocks", &numbered(bytes.len(), &KEYS.opener.open(&sealed)?))?;
    for which in 0..3 {
        let head = [1, 20, which, 30, 0, 5, 9, which];
        put("chunker", &format!("noise-{which}"), &[&head, bytes.as_slice()].concat())?;
    }
    Ok(())
}

const MANIFEST: &str = r#"{"manifest":1}
{"path":"","type":"dir","mode":493}
{"path":"a","type":"dir","mode":493,"uid":1,"gid":2,"user":"u","group":"g","mtime":[1,2],"ctime":[3,4],"inode":5}
{"path":"a/c","type":"char","device":[1,3],"xattrs":{"user.x":"v","user.y":{"b64":"/w=="}}}
{"path":"a/f","type":"file","size":9,"digest":"@","extents":[["@",4,7],[null,0,2]]}
{"path":"a/h","type":"hardlink","target":"a/f"}
{"path":{"b64":"Yf8="},"type":"symlink","target":"../x"}
{"path":"b","type":"fifo"}
"#;

const COMMITS: &str = r#"{"commit":1,"repository":"%","writer":"w","sequence":1,"parents":[],"time":"2026-11-21T12:00:00Z","first_frame":0,"program":"lifeboat 0.1.0"}
{"pack":{"id":"@","size":300,"kind":"data","recipients":"@","directory":{"at":200,"length":84},"frames":[["@",0,100,9],["@",100,100,9]]}}
{"snapshot":{"id":"01JZ8M4E5QXXXXXXXXXXXXXXXX","source":"volume","kind":"volume","host":"h","root":"/srv","began":"2026-11-21T12:00:00Z","ended":"2026-11-21T12:00:01Z","complete":true,"skipped":0,"entries":1,"files":1,"bytes":9,"added":200,"tags":["t"],"manifest":{"bytes":9,"digest":"@","extents":[["@",0,9]]},"uses":[[0,1]]}}
{"seen":{"writer":"v","sequence":3,"digest":"@"}}

{"commit":1,"repository":"%","writer":"w","sequence":1,"parents":[],"time":"2026-11-21T12:00:00Z","first_frame":0,"program":"x"}
{"pack":{"id":"!","size":200,"kind":"data","recipients":"@","directory":{"at":100,"length":84},"frames":[["!",0,100,9]]}}

{"commit":1,"repository":"%","writer":"w","sequence":2,"parents":["@","!"],"time":"2026-11-21T12:00:00Z","first_frame":2,"program":"x"}
{"renumber":{"commit":"!","first_frame":2}}
"#;

fn texts() -> Outcome {
    let digest = "00".repeat(32);
    let other = "01".repeat(32);
    put("manifest", "kinds", MANIFEST.replace('@', &digest).as_bytes())?;
    let commits = COMMITS.replace('@', &digest).replace('!', &other);
    let commits = commits.replace("%", &RepositoryId::new(*OWNER.repository.as_bytes()).to_string());
    put("ingest", "fork", commits.as_bytes())?;
    put("commit", "all-lines", commits.split("\n\n").next().unwrap_or_default().as_bytes())?;
    put("objects", "commit-key", &[b"\x04", commit_key("w", 42, &CommitId::new([9; 32])).as_bytes()].concat())?;
    let description = serde_json::to_vec(&KEYS.description)?;
    put("objects", "description-ours", &[b"\0".as_slice(), &description].concat())?;
    let master = format!(
        "{{\"repository\":\"{}\",\"secret\":\"{}\",\"admission_secret\":\"{}\"}}\n",
        OWNER.repository,
        "05".repeat(32),
        SigningKey::from_seed(&[3; 32]).expose_hex()
    );
    put("objects", "secret-ours", &[b"\x03", master.as_bytes()].concat())?;
    for (n, text) in
        ["./repo", "file:///srv/backup", "s3://acme/prod/a", "az://c/p", "gs://b", "s3://a@acme/x?y=z#f", "s3:/a@b"]
            .iter()
            .enumerate()
    {
        put("url", &format!("{n}"), text.as_bytes())?;
    }
    for (n, text) in [
        "now",
        "2026-11-20T14:05:00Z",
        "2026-11-20T14:05:00.5+01:00",
        "2026-11-20 14:05 Europe/Berlin",
        "2026-10-25 02:30 Europe/Berlin",
        "2026-03-29 02:30:10.25 America/New_York",
        "yesterday 18:00 UTC",
        "today 06:30Z",
        "1d 12h ago",
        "3 weeks 2 days ago",
        "45m",
    ]
    .iter()
    .enumerate()
    {
        put("time", &format!("{n}"), text.as_bytes())?;
    }
    let mut database = vec![0; 4096];
    database[..24].copy_from_slice(b"SQLite format 3\0\x10\0\x01\x01\0@  ");
    put("sqlite_header", "delete", &database)?;
    database[18..20].fill(2);
    put("sqlite_header", "wal", &database)?;
    configurations()
}

/// Files of real clusters; of a segment the first page, as much as is not padding.
fn postgres() -> Outcome {
    for version in [15, 16, 17, 18] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/postgres/{version}"));
        let unpacked = |name: &str| fs::File::open(root.join(name)).and_then(zstd::decode_all);
        put("pg_control", &format!("{version}"), &unpacked("pg_control.running.zst")?[..300])?;
        put("history_and_label", &format!("label-{version}"), &numbered(1, &fs::read(root.join("backup_label"))?))?;
        put("wal_segment", &format!("{version}"), &unpacked("wal.first.zst")?[..3000])?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/postgres/18");
    put("history_and_label", "map", &numbered(1, &fs::read(root.join("tablespace_map"))?))?;
    put("history_and_label", "history", &numbered(2, &fs::read(root.join("00000002.history"))?))?;
    put("history_and_label", "history-3", &numbered(3, b"# c\n1\t0/5000000\tbefore 2026\n2\t1/A0\n"))?;
    for name in ["0000000100000016000000B3", "0000000A.history", "0000000200000016000000B3.00000028.backup"] {
        put("history_and_label", name, &numbered(1, name.as_bytes()))?;
    }
    // Orders to the writer of logs: commits, then up to 8, 16, 24 or 48 bytes before the border, and a commit across it.
    for left in [1, 2, 3, 6] {
        let crossing = [0, 0, 0, 1, 1, 2, 0, 0, 7, 7, 3, 0, 0, left, 0, 90, 0, 2];
        let body = [5; 90];
        put("wal_segment", &format!("crossing-{left}"), &[&crossing[..], &body, &[2, 9, 0, 40, 0, 0, 0, 0]].concat())?;
    }
    Ok(())
}

fn configurations() -> Outcome {
    let all = r#"[repository]
url = "s3://acme/prod"
recipients = ["age1x"]
fingerprint = "00"
path_style = true
limit_upload = "20M"
concurrency = 4
[sources.data]
kind = "volume"
path = "/srv/data"
exclude = ["*.tmp", "!keep", "a/**/[b-d]{e,f}?"]
exclude_larger_than = "1.5 GiB"
one_file_system = true
[sources.dump]
kind = "command"
command = ["mysqldump", "app"]
file_name = "dump.sql"
tags = ["t"]
[sources.export]
kind = "tarball"
path = "/srv/export.tar.gz"
[groups.nightly]
sources = ["data", "dump"]
"#;
    put("config", "whole", all.as_bytes())?;
    put("config", "unknown-key", b"[repository]\nurl = \"x\"\nrecipient = 'age1'\n")?;
    put("config", "size", b"2GiB")
}

fn keys() -> Outcome {
    let identity = IDENTITY.lines().find(|line| line.starts_with("AGE-")).ok_or("no identity")?;
    let ring = Keyring::read("id", IDENTITY.as_bytes(), &mut |_| Err(String::new()))?;
    let recipient = &ring.recipients[0];
    put("keys", "identity", &[b"\0", IDENTITY.as_bytes()].concat())?;
    let ssh = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/keys");
    put("keys", "ssh", &[b"\0".as_slice(), &fs::read(ssh.join("ssh_ed25519"))?].concat())?;
    put("keys", "ssh-recipient", &[b"\x01".as_slice(), &fs::read(ssh.join("ssh_ed25519.pub"))?].concat())?;
    put("keys", "recipient", &[b"\x01", recipient.as_bytes()].concat())?;
    let text = format!(
        r#"{{"lifeboat_writer":1,"repository":"{}","fingerprint":"{zero}","writer":"w","identity":"{identity}","signing_key":"{zero}","secret_object":"{zero}","recipients_list":"{zero}","recipients":["{recipient}"],"keepers":[]}}"#,
        OWNER.repository,
        zero = "00".repeat(32),
    );
    put("keys", "writer", &[b"\x02", text.as_bytes()].concat())
}

/// A pax header before a member.
fn pax(archive: &mut tar::Builder<Vec<u8>>, records: &[(&str, &str)]) -> Outcome {
    Ok(archive.append_pax_extensions(records.iter().map(|(key, value)| (*key, value.as_bytes())))?)
}

fn member(archive: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, bytes: &[u8]) -> Outcome {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    Ok(archive.append_data(&mut header, name, bytes)?)
}

fn tarballs() -> Outcome {
    use tar::EntryType;
    let mut archive = tar::Builder::new(Vec::new());
    member(&mut archive, "d/", EntryType::Directory, b"")?;
    member(&mut archive, "d/f", EntryType::Regular, b"bytes")?;
    member(&mut archive, &format!("d/{}", "long".repeat(40)), EntryType::Regular, b"x")?;
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    for (kind, target) in [(EntryType::Symlink, "../x"), (EntryType::Link, "d/f")] {
        header.set_entry_type(kind);
        archive.append_link(&mut header, format!("l{}", kind.as_byte()), target)?;
    }
    let plain = archive.into_inner()?;
    let mut archive = tar::Builder::new(Vec::new());
    pax(&mut archive, &[("mtime", "-1.5"), ("uname", "ü"), ("uid", "70000"), ("SCHILY.xattr.user.x", "v")])?;
    member(&mut archive, "p", EntryType::Regular, b"bytes")?;
    pax(&mut archive, &[("GNU.sparse.name", "s"), ("GNU.sparse.size", "99"), ("GNU.sparse.map", "3,5,50,5")])?;
    member(&mut archive, "s0", EntryType::Regular, b"0123456789")?;
    let one = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "99")];
    pax(&mut archive, &one)?;
    let mut map = b"2\n3\n5\n50\n5\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"0123456789");
    member(&mut archive, "s1", EntryType::Regular, &map)?;
    let extended = archive.into_inner()?;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("g")?;
    header.set_size(512);
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.sparse[0].set_offset(0);
        gnu.sparse[0].set_length(512);
        gnu.sparse[1].set_offset(2048);
        gnu.sparse[1].set_length(0);
        gnu.set_real_size(2048);
    }
    header.set_cksum();
    let sparse = [header.as_bytes().as_slice(), &[7; 512], &[0; 1024]].concat();
    for (name, archive) in [("plain", &plain), ("pax", &extended), ("sparse", &sparse)] {
        put("tarball", name, &[b"\0".as_slice(), archive].concat())?;
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&plain)?;
    put("tarball", "gzip", &[b"\0".as_slice(), &gzip.finish()?].concat())?;
    put("tarball", "zstd", &[b"\0".as_slice(), &zstd::bulk::compress(&extended, 19)?].concat())?;
    put("tarball", "gzip-here", &[b"\x06".as_slice(), &plain].concat())
}

/// A small export of our own writer, one cut off, ids and paths.
fn convex() -> Outcome {
    let with = |which: u8, bytes: &[u8]| [&[which], bytes].concat();
    let mut writer = lifeboat::format::zip::Writer::new(Vec::new());
    for (name, deflate, content) in [
        ("_tables/documents.jsonl", true, &b"{\"name\":\"users\",\"id\":10001}\n"[..]),
        ("users/documents.jsonl", true, b"{\"_creationTime\":1.0,\"_id\":\"j57000820c20a1g7104gm2rc1m70ynr8\"}\n"),
        ("users/generated_schema.jsonl", true, b"\"uniform\"\n"),
        ("_storage/kg20000000000000000000000000181w.bin", false, b"bytes"),
    ] {
        writer.add(name, deflate, &mut &*content).map_err(std::io::Error::other)?;
    }
    let archive = writer.finish().map_err(std::io::Error::other)?;
    put("convex", "archive", &with(0, &archive))?;
    put("convex", "cut-off", &with(0, &archive[..archive.len() - 30]))?;
    put("convex", "id", &with(1, b"j57000820c20a1g7104gm2rc1m70ynr8"))?;
    put("convex", "path", &with(1, b"_components/a/_components/b/users/documents.jsonl"))
}

fn main() -> Outcome {
    fixture()?;
    convex()?;
    bombs()?;
    texts()?;
    keys()?;
    postgres()?;
    tarballs()
}
