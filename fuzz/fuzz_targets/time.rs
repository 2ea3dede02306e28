//! Times and spans as people write them: what is shown is read back as the same instant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::cli::time::{parse_duration, read_time};
use lifeboat::model::Moment;

fuzz_target!(|text: &str| {
    let now = Moment::from_timestamp(1_795_262_400, 0).expect("a moment of 2026");
    let _ = parse_duration(text);
    match read_time(text, now) {
        Ok(found) => {
            let shown = found.shown.split(' ').next().expect("the instant comes first");
            let again = read_time(shown, now).unwrap_or_else(|e| panic!("{shown}: {e}"));
            // Shown to the microsecond.
            assert_eq!((found.moment - again.moment).num_microseconds(), Some(0), "{shown}");
        }
        Err(e) => {
            let _ = (e.to_string(), e.hint());
        }
    }
});
