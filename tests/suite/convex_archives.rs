//! Archives beyond what 16 and 32 bits can name: more members than 65,535, and one larger than 4 GiB.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;

use lifeboat::format::zip::{Member, MemberReader, Writer, members};

const MEMBERS: usize = 70_000;
const LARGE: u64 = (4 << 30) + (1 << 20);

/// Zeros, and one last byte that is none.
fn large() -> impl Read {
    std::io::repeat(0).take(LARGE - 1).chain(&b"!"[..])
}

fn name(n: usize) -> String {
    format!("t{n}/documents.jsonl")
}

fn check(file: File) {
    let all = members(&file).unwrap();
    assert_eq!(all.len(), MEMBERS + 1);
    let (file, find) = (Arc::new(file), |name: &str| all.iter().find(|member| member.name == name).unwrap());
    for n in [0, 1, 65_534, 65_535, 65_536, MEMBERS - 1] {
        let mut text = String::new();
        MemberReader::new(Arc::clone(&file), find(&name(n))).read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{{\"n\":{n}}}\n"));
    }
    let member: &Member = find("large");
    assert_eq!(member.size, LARGE);
    let (mut reader, mut block, mut read, mut last) = (MemberReader::new(file, member), vec![1; 1 << 20], 0, 1);
    loop {
        let count = reader.read(&mut block).unwrap();
        if count == 0 {
            break;
        }
        let (end, before) = block[..count].split_last().unwrap();
        assert!(before.iter().all(|byte| *byte == 0));
        (read, last) = (read + count as u64, *end);
    }
    assert_eq!((read, last), (LARGE, b'!'));
}

#[test]
fn a_server_s_archive_is_read() {
    let mut writer = deployment::zip::ZipWriter::new();
    for n in 0..MEMBERS / 2 {
        writer.add(&name(n), format!("{{\"n\":{n}}}\n").as_bytes()).unwrap();
    }
    writer.add("large", large()).unwrap();
    for n in MEMBERS / 2..MEMBERS {
        writer.add(&name(n), format!("{{\"n\":{n}}}\n").as_bytes()).unwrap();
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&writer.finish()).unwrap();
    check(file);
}

#[test]
fn our_own_is_read_by_us_and_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.zip");
    let mut writer = Writer::new(std::io::BufWriter::new(File::create(&path).unwrap()));
    for n in 0..MEMBERS {
        writer.add(&name(n), true, &mut format!("{{\"n\":{n}}}\n").as_bytes()).unwrap();
    }
    writer.add("large", true, &mut large()).unwrap();
    writer.finish().unwrap().into_inner().unwrap();
    check(File::open(&path).unwrap());
    let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nprint(len(z.infolist()), z.getinfo('large').file_size, z.read('t69999/documents.jsonl'))";
    let told = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(told.trim(), format!("{} {LARGE} b'{{\"n\":69999}}\\n'", MEMBERS + 1));
}
