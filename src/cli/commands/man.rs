//! `man`.

use std::io::Write;
use std::path::Path;

use crate::cli::Outcome;
use crate::cli::report::Failure;

/// Writes the page of the whole to stdout, or a page a command into a directory.
pub fn run(command: &clap::Command, dir: Option<&Path>) -> Result<Outcome, Failure> {
    match dir {
        Some(dir) => {
            let made = std::fs::create_dir_all(dir);
            made.map_err(|e| Failure::io("make", dir, e))?;
            clap_mangen::generate_to(command.clone(), dir).map_err(|e| Failure::io("write", dir, e))?;
        }
        None => {
            let mut page = Vec::new();
            let out = Path::new("standard output");
            clap_mangen::Man::new(command.clone()).render(&mut page).map_err(|e| Failure::io("write to", out, e))?;
            // A reader that went away (`| head`) is no failure.
            let _ = std::io::stdout().write_all(&page);
        }
    }
    Ok(Outcome::Done)
}
