//! Chance that can be had again: numbers that a seed decides, and how many seeds a run of the tests tries.

/// Numbers from a seed, one after another.
#[derive(Debug, Clone)]
pub struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    pub fn next(&mut self) -> u64 {
        self.drawn += 1;
        number(self.seed, "drawn", self.drawn)
    }

    /// From zero to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// What a seed decides about the `count`-th thing of a kind: the same however threads take turns between the kinds.
pub fn number(seed: u64, kind: &str, count: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&count.to_le_bytes()).update(kind.as_bytes());
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap())
}

/// How often something is tried: as the variable says, else `usual`.
pub fn how_often(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// Runs `each` for every seed; the seed of a failure is printed in a line that can be pasted back. A seed of one's own:
/// `LIFEBOAT_TEST_SEED=n`; more of them: `LIFEBOAT_TEST_SEEDS=n`. Returns how many there were.
pub fn each_seed(usual: u64, each: impl Fn(u64)) -> u64 {
    seeds(how_often("LIFEBOAT_TEST_SEEDS", usual), each)
}

/// The same for so many seeds.
pub fn seeds(count: u64, each: impl Fn(u64)) -> u64 {
    if let Ok(seed) = std::env::var("LIFEBOAT_TEST_SEED") {
        each(seed.parse().unwrap());
        return 1;
    }
    for seed in 0..count {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| each(seed)));
        if let Err(panic) = run {
            eprintln!("this seed failed: LIFEBOAT_TEST_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    count
}
