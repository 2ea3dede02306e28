//! `man`.

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
            let page = clap_mangen::Man::new(command.clone());
            let out = Path::new("standard output");
            page.render(&mut std::io::stdout()).map_err(|e| Failure::io("write to", out, e))?;
        }
    }
    Ok(Outcome::Done)
}
