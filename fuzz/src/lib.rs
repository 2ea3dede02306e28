//! What the targets share: fixed keys, a heap that is counted, and the repository that the inputs claim to belong to.

use std::sync::LazyLock;

use lifeboat::model::{Chunking, Moment, RepositoryId};
use lifeboat::pack::Owner;
use lifeboat::repository::Description;
use lifeboat::seal::{FrameOpener, Keyring, Opener, Recipient, Sealer, Secret, SigningKey};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// One mebibyte.
pub const MIB: usize = 1 << 20;
/// The text that stands for a secret in inputs: no message may show it.
pub const SECRET: &str = "hunter2hunter2";
/// The identity of the oldest fixture, so that its objects are seeds.
pub const IDENTITY: &str = include_str!("../../fixtures/repositories/format-1/identity.txt");

/// Runs `work` and asserts that the heap of Rust grew by at most `limit` bytes meanwhile.
pub fn bounded<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let result = work();
    let grown = HEAP.peak_usage().saturating_sub(before);
    assert!(grown <= limit, "the heap grew by {grown} bytes, {limit} are allowed");
    result
}

/// Keys that never change, so that a finding stays one.
pub struct Keys {
    /// Opens what the sealer seals, and the fixture.
    pub opener: Opener,
    /// Seals to the same identity.
    pub sealer: Sealer,
    /// Of the writer and of the admission key alike.
    pub signing: SigningKey,
    /// A repository that trusts them.
    pub description: Description,
}

/// The keys.
pub static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let ring = Keyring::read("identity.txt", IDENTITY.as_bytes(), &mut |_| Err("not asked".to_owned()));
    let ring = ring.expect("the fixture's identity");
    let recipients: Vec<Recipient> = ring.recipients.iter().map(|r| r.parse().expect("its recipient")).collect();
    let signing = SigningKey::from_seed(&[3; 32]);
    let description = Description {
        format: 1,
        repository: OWNER.repository,
        created: Moment::UNIX_EPOCH,
        admission_key: signing.public(),
        secret_commitment: Secret::new([5; 32]).commitment(),
        chunking: Chunking::default(),
    };
    Keys { opener: Opener::new(ring.identities), sealer: Sealer::new(recipients), signing, description }
});

/// Who the inputs say that wrote them.
pub const OWNER: Owner<'static> = Owner { repository: RepositoryId::new([7; 16]), writer: "w" };

/// Opens frames with the fixed keys.
pub fn frame_opener() -> FrameOpener<'static> {
    FrameOpener::new(&KEYS.opener).expect("zstd's working memory")
}

/// The first four bytes as a number, and the rest.
pub fn split_number(input: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = input.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number) as usize, rest))
}
