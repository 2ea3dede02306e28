//! Control files: any bytes, and any content with a CRC that matches. What is accepted is disarmed in its checkpoint alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::format::pg_control::{ControlFile, DISARMED, Flaw, SIZE, disarm};
use lifeboat_fuzz::{MIB, bounded};

fuzz_target!(|input: &[u8]| {
    let _ = bounded(MIB, || ControlFile::parse(input));
    let mut file = input.to_vec();
    file.resize(SIZE, 0);
    // Where the CRC lies is told by the flaw's own reading, not by a second table of layouts here.
    if let Err(Flaw::Crc { .. }) = ControlFile::parse(&file) {
        for crc_at in [288, 292] {
            let crc = crc32c::crc32c(&file[..crc_at]);
            file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            if !matches!(ControlFile::parse(&file), Err(Flaw::Crc { .. })) {
                break;
            }
        }
    }
    let before = file.clone();
    match ControlFile::parse(&before) {
        Ok(was) => {
            disarm(&mut file).expect("it was read");
            assert_eq!(ControlFile::parse(&file), Ok(ControlFile { checkpoint: DISARMED, ..was }));
        }
        Err(flaw) => {
            assert_eq!(disarm(&mut file), Err(flaw));
            assert_eq!(file, before, "a flawed file is left alone");
        }
    }
});
