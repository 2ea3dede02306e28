//! Times and spans as people write them: what is shown is read back as the same instant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::cli::time::{parse_duration, read_time};
use lifeboat::model::Moment;
use lifeboat::plan::restore::show;

fuzz_target!(|text: &str| {
    let now = Moment::from_timestamp(1_795_262_400, 0).expect("a moment of 2026");
    let _ = parse_duration(text);
    match read_time(text, now) {
        Ok(found) => {
            let shown = show(found.moment);
            let again = read_time(&shown, now).unwrap_or_else(|e| panic!("{shown}: {e}"));
            assert_eq!(show(again.moment), shown);
            assert!(found.shown.starts_with(&shown));
        }
        Err(e) => {
            let _ = (e.to_string(), e.hint());
        }
    }
});
