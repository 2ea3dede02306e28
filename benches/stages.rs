//! Microbenchmarks of what each byte passes: cutting, naming, sealing a frame, opening one, reading a manifest. One thread, data
//! in memory. `cargo bench --bench stages`; the figures are in docs/benchmarks.md.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lifeboat::chunk::{Cutter, GearTable};
use lifeboat::model::{
    Chunking, Cutting, Digest, Entry, EntryKind, Extent, FileContent, FrameId, RelPath, Stamp, limits,
};
use lifeboat::repository::ManifestReader;
use lifeboat::seal::{FrameOpener, FrameSealer, Identities, Opener, Sealer, Secret, generate_identity};

const SIZE: usize = limits::FRAME_TARGET;

fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new_derive_key("lifeboat benches stages").finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines of JSON with some random words in each: compressed to a fifth, as exports are.
fn documents(size: usize) -> Vec<u8> {
    let words = ["open", "closed", "berlin", "invoice", "customer", "shipment", "pending", "message"];
    let mut text = Vec::with_capacity(size + 512);
    for (n, random) in noise(size / 4).chunks_exact(16).enumerate() {
        let word = |at: usize| words[random[at] as usize % words.len()];
        let id = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| random[at]));
        let line = format!(
            "{{\"_id\":\"{id:016x}\",\"n\":{n},\"status\":\"{}\",\"title\":\"{} {} {}\",\"amount\":{}.{:02},\"deleted\":false}}\n",
            word(8),
            word(9),
            word(10),
            word(11),
            random[12],
            random[13] % 100,
        );
        text.extend_from_slice(line.as_bytes());
        if text.len() >= size {
            break;
        }
    }
    text.truncate(size);
    text
}

fn cut_and_name(c: &mut Criterion) {
    let secret = Secret::new([7; 32]);
    let cutter = Cutter::new(GearTable::from_bytes(&secret.gear_table()), &Chunking::default());
    let (content, bytes) = (secret.content_key(), documents(SIZE));
    let mut group = c.benchmark_group("cut");
    group.throughput(Throughput::Bytes(SIZE as u64));
    for cutting in [Cutting::Fine, Cutting::Coarse, Cutting::Pages] {
        let cut = |each: &mut dyn FnMut(&[u8])| {
            let mut rest = bytes.as_slice();
            while let Some(length) = cutter.cut(cutting, rest, true) {
                let (chunk, others) = rest.split_at(length.get());
                each(chunk);
                rest = others;
            }
        };
        group.bench_function(BenchmarkId::new("alone", format!("{cutting:?}")), |b| {
            b.iter(|| cut(&mut |chunk| _ = black_box(chunk.len())));
        });
        group.bench_function(BenchmarkId::new("and name", format!("{cutting:?}")), |b| {
            b.iter(|| cut(&mut |chunk| _ = black_box(content.digest(chunk))));
        });
    }
    group.finish();
}

fn seal_and_open(c: &mut Criterion) {
    let (text, recipient) = generate_identity();
    let identities = Identities::from_age_text(&text).expect("an identity that was just made");
    let recipient = recipient.parse().expect("its recipient");
    let (sealer, opener) = (Sealer::new(vec![recipient]), Opener::new(identities));
    let mut group = c.benchmark_group("frame");
    for (name, bytes) in [("documents", documents(SIZE)), ("noise", noise(SIZE))] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut frames = FrameSealer::new(&sealer).expect("zstd");
        group.bench_function(BenchmarkId::new("seal", name), |b| {
            b.iter(|| frames.seal_frame(black_box(&bytes)).expect("memory"));
        });
        let sealed = frames.seal_frame(&bytes).expect("memory");
        let mut frames = FrameOpener::new(&opener).expect("zstd");
        group.bench_function(BenchmarkId::new("open", name), |b| {
            b.iter(|| frames.open_frame(black_box(&sealed), bytes.len()).expect("our own frame").len());
        });
    }
    group.finish();
}

fn read_manifest(c: &mut Criterion) {
    const ENTRIES: u32 = 10_000;
    let mut text = b"{\"manifest\":1}\n".to_vec();
    for n in 0..ENTRIES {
        let extents = vec![Extent { frame: Some(FrameId::new([n as u8; 32])), offset: 4096, length: 4000 }];
        let content = FileContent { size: 4000, digest: Digest::new([3; 32]), extents };
        let path = RelPath::new(format!("file-{n:06}.ts")).expect("a path");
        let mut entry = Entry::bare(path, EntryKind::File(content));
        (entry.mode, entry.mtime, entry.inode) = (0o644, Stamp(1_760_000_000, 123_456_789), Some(u64::from(n)));
        let written = entry.write_lines(&mut |line| {
            text.extend_from_slice(line);
            Ok::<_, String>(())
        });
        written.expect("memory");
    }
    let mut group = c.benchmark_group("manifest");
    group.throughput(Throughput::Elements(u64::from(ENTRIES)));
    group.bench_function("read", |b| {
        b.iter(|| {
            let mut reader = ManifestReader::new(text.as_slice(), "bench".to_owned());
            let mut count = 0;
            while let Some(entry) = reader.next_entry().expect("our own manifest") {
                count += usize::from(entry.content().is_some());
            }
            assert_eq!(count, ENTRIES as usize);
        });
    });
    group.finish();
}

criterion_group!(stages, cut_and_name, seal_and_open, read_manifest);
criterion_main!(stages);
