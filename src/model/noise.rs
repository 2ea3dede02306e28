//! Telling noise from text: what is encrypted or compressed already gains nothing from zstd and little from small chunks.

/// Whether samples of the bytes are spread as evenly as noise: chi-square over byte values in four samples of 4 KiB, all
/// below 350 (noise has 255 +- 23; text, pages and code have thousands). Compressing such bytes costs time and gains nothing.
pub fn looks_incompressible(bytes: &[u8]) -> bool {
    const SAMPLE: usize = 4096;
    if bytes.len() < SAMPLE {
        return false;
    }
    (0..4).all(|n| {
        let start = (bytes.len() - SAMPLE) / 3 * n;
        let mut counts = [0u32; 256];
        for byte in &bytes[start..start + SAMPLE] {
            counts[usize::from(*byte)] += 1;
        }
        let expected = (SAMPLE / 256) as f64;
        let chi: f64 = counts.iter().map(|c| (f64::from(*c) - expected).powi(2) / expected).sum();
        chi < 350.0
    })
}
