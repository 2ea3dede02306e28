//! The deployment as a client meets it.
#![allow(clippy::unwrap_used)] // a test that cannot go on fails

mod common;
mod export;
mod http;
mod import;
mod official;
mod stream;
mod tidy;
