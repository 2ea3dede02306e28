//! Writes a ZIP as the backend's exporter does (`async_zip` 0.0.18 in streaming mode), odd descriptors included.
//!
//! Every entry is deflated. Its local header knows neither size nor checksum, and the descriptor after it has 32-bit sizes of
//! 0xFFFFFFFF: only the central directory tells where entries end.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// A ZIP that grows in memory.
pub struct ZipWriter {
    out: Vec<u8>,
    central: Vec<u8>,
    entries: u64,
}

impl Default for ZipWriter {
    fn default() -> Self {
        ZipWriter::new()
    }
}

fn u16le(out: &mut Vec<u8>, n: u16) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn u32le(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn u64le(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

/// Version 20, a descriptor follows and the name is UTF-8, deflate, no time, no date.
fn common(out: &mut Vec<u8>, crc: u32) {
    u16le(out, 20);
    u16le(out, 0x0808);
    u16le(out, 8);
    u32le(out, 0);
    u32le(out, crc);
    u32le(out, u32::MAX);
    u32le(out, u32::MAX);
}

impl ZipWriter {
    /// An empty one.
    pub fn new() -> ZipWriter {
        ZipWriter { out: Vec::new(), central: Vec::new(), entries: 0 }
    }

    /// Adds an entry of these bytes.
    pub fn add(&mut self, name: &str, mut content: impl Read) -> io::Result<()> {
        let offset = self.out.len() as u64;
        let name_length = u16::try_from(name.len()).map_err(|_| io::Error::other("a name above 65535 bytes"))?;
        u32le(&mut self.out, 0x0403_4b50);
        common(&mut self.out, 0);
        u16le(&mut self.out, name_length);
        u16le(&mut self.out, 20);
        self.out.extend_from_slice(name.as_bytes());
        u16le(&mut self.out, 1);
        u16le(&mut self.out, 16);
        u64le(&mut self.out, 0);
        u64le(&mut self.out, 0);

        let start = self.out.len() as u64;
        let mut encoder = DeflateEncoder::new(std::mem::take(&mut self.out), Compression::fast());
        let mut crc = crc32fast::Hasher::new();
        let mut plain = 0u64;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = content.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            crc.update(&buffer[..n]);
            plain += n as u64;
            encoder.write_all(&buffer[..n])?;
        }
        self.out = encoder.finish()?;
        let packed = self.out.len() as u64 - start;
        let crc = crc.finalize();
        u32le(&mut self.out, 0x0807_4b50);
        u32le(&mut self.out, crc);
        u32le(&mut self.out, u32::MAX);
        u32le(&mut self.out, u32::MAX);

        u32le(&mut self.central, 0x0201_4b50);
        u16le(&mut self.central, 3 << 8 | 20);
        common(&mut self.central, crc);
        u16le(&mut self.central, name_length);
        u16le(&mut self.central, 28);
        u16le(&mut self.central, 0);
        u16le(&mut self.central, 0);
        u16le(&mut self.central, 0);
        u32le(&mut self.central, 0o100_644 << 16);
        u32le(&mut self.central, u32::MAX);
        self.central.extend_from_slice(name.as_bytes());
        u16le(&mut self.central, 1);
        u16le(&mut self.central, 24);
        u64le(&mut self.central, plain);
        u64le(&mut self.central, packed);
        u64le(&mut self.central, offset);
        self.entries += 1;
        Ok(())
    }

    /// The directory and the three records that end it.
    pub fn finish(mut self) -> Vec<u8> {
        let start = self.out.len() as u64;
        let length = self.central.len() as u64;
        self.out.append(&mut self.central);
        let end = self.out.len() as u64;
        let out = &mut self.out;
        u32le(out, 0x0606_4b50);
        u64le(out, 44);
        u16le(out, 3 << 8 | 45);
        u16le(out, 45);
        u32le(out, 0);
        u32le(out, 0);
        u64le(out, self.entries);
        u64le(out, self.entries);
        u64le(out, length);
        u64le(out, start);
        u32le(out, 0x0706_4b50);
        u32le(out, 0);
        u64le(out, end);
        u32le(out, 1);
        u32le(out, 0x0605_4b50);
        u16le(out, 0);
        u16le(out, 0);
        let count = u16::try_from(self.entries).unwrap_or(u16::MAX);
        u16le(out, count);
        u16le(out, count);
        u32le(out, u32::try_from(length).unwrap_or(u32::MAX));
        u32le(out, u32::try_from(start).unwrap_or(u32::MAX));
        u16le(out, 0);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_one_entry_are_those_of_the_exporter() {
        let mut zip = ZipWriter::new();
        zip.add("a", &b"hello"[..]).unwrap();
        let bytes = zip.finish();
        let hex = |range: std::ops::Range<usize>| data_encoding::HEXLOWER.encode(&bytes[range]);
        assert_eq!(hex(0..30), "504b03041400080808000000000000000000ffffffffffffffff01001400");
        assert_eq!(hex(30..51), "6101001000".to_owned() + &"00".repeat(16));
        let descriptor = bytes.windows(4).position(|w| w == [0x50, 0x4b, 7, 8]).unwrap();
        assert_eq!(hex(descriptor..descriptor + 16), "504b070886a61036ffffffffffffffff");
        let central = descriptor + 16;
        assert_eq!(
            hex(central..central + 46),
            "504b01021403140008080800000000008 6a61036ffffffffffffffff01001c000000000000000000a481ffffffff"
                .replace(' ', "")
        );
        assert_eq!(bytes.len(), central + 46 + 1 + 28 + 56 + 20 + 22);
    }
}
