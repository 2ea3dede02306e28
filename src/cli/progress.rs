//! Progress for people (a bar on a terminal) and for programs (JSON lines), and the flag that Ctrl-C sets.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Ui;
use crate::progress::{Event, Progress};

/// The one implementation for the command line.
pub struct Console {
    ui: Ui,
    stop: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
    status: Option<Mutex<Status>>,
}

/// What status lines of `--json` say.
struct Status {
    started: Instant,
    last: Instant,
    items: u64,
    items_total: u64,
    bytes: u64,
    bytes_total: u64,
}

impl Console {
    /// Speaks as `ui` says; stops when `stop` is set. `--json` gets a status line a second on stdout.
    pub fn new(ui: Ui, stop: Arc<AtomicBool>, long_run: bool) -> Self {
        let bar = (ui.draws() && long_run).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(style(false));
            bar
        });
        let now = Instant::now();
        let status = (ui.json && !ui.quiet && long_run).then(|| {
            let (items, items_total, bytes, bytes_total) = (0, 0, 0, 0);
            Mutex::new(Status { started: now, last: now, items, items_total, bytes, bytes_total })
        });
        Self { ui, stop, bar, status }
    }

    /// Takes the bar away, so that the answer stands alone.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn aside(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| drop(writeln!(std::io::stderr().lock(), "{line}"))),
            None => drop(writeln!(std::io::stderr().lock(), "{line}")),
        }
    }
}

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{msg:20} {bar:24} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
    } else {
        "{msg:20} {spinner} {bytes}  {bytes_per_sec}  {elapsed}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Console {
    fn event(&self, event: Event<'_>) {
        match (&event, &self.bar) {
            (Event::Stage(name), Some(bar)) => {
                bar.set_style(style(false));
                bar.unset_length();
                bar.set_position(0);
                bar.reset_elapsed();
                bar.set_message((*name).to_owned());
                bar.tick();
            }
            (Event::Expect { bytes, .. }, Some(bar)) if *bytes > 0 => {
                bar.set_length(*bytes);
                bar.set_style(style(true));
            }
            (Event::Done { bytes, .. }, Some(bar)) => bar.inc(*bytes),
            _ => {}
        }
        match event {
            Event::Warning(text) if self.ui.json => self.ui.warning(text),
            Event::Warning(text) => self.aside(&format!("warning: {text}")),
            Event::Stage(name) => tracing::info!(stage = name),
            _ => {}
        }
        if let Some(status) = &self.status {
            tell_status(&mut status.lock().unwrap_or_else(std::sync::PoisonError::into_inner), &event);
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn tell_status(status: &mut Status, event: &Event<'_>) {
    match event {
        Event::Stage(_) => (status.items, status.bytes, status.items_total, status.bytes_total) = (0, 0, 0, 0),
        Event::Expect { items, bytes } => (status.items_total, status.bytes_total) = (*items, *bytes),
        Event::Done { items, bytes } => (status.items, status.bytes) = (status.items + items, status.bytes + bytes),
        _ => {}
    }
    if status.last.elapsed() < Duration::from_secs(1) {
        return;
    }
    status.last = Instant::now();
    let percent = (status.bytes_total > 0).then(|| (status.bytes as f64 / status.bytes_total as f64).min(1.0));
    let message = serde_json::json!({
        "message_type": "status",
        "seconds_elapsed": status.started.elapsed().as_secs(),
        "percent_done": percent,
        "total_files": status.items_total,
        "files_done": status.items,
        "total_bytes": status.bytes_total,
        "bytes_done": status.bytes,
    });
    let _ = writeln!(std::io::stdout().lock(), "{message}");
}
