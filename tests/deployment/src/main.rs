//! Runs a deployment by hand and in benchmarks: prints its URL, name and keys, then serves until it is killed.
//! The routes below `/test/` (`control`) let scripts drive it.

use std::time::{Duration, Instant};

use clap::Parser;
use deployment::{Deployment, ExportFault, Features, ImportFault, Options};

/// A self-hosted Convex deployment for tests
#[derive(Parser)]
struct Arguments {
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 3210)]
    port: u16,
    /// Documents to begin with
    #[arg(long, default_value_t = 0)]
    documents: usize,
    /// Files to begin with
    #[arg(long, default_value_t = 0)]
    files: usize,
    /// What ids and contents come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The name of the instance
    #[arg(long, default_value = "convex-self-hosted")]
    instance_name: String,
    /// Writes in a second, until killed
    #[arg(long, default_value_t = 0)]
    changes_per_second: u32,
    /// A backend of early 2026: no Data Sync, no v1 routes, legacy ZIPs
    #[arg(long)]
    old: bool,
    /// How many seconds back revisions are readable
    #[arg(long, default_value_t = 172_800)]
    retention_s: i64,
    /// A fault of the wire: `TIMES FAILURE METHOD PATH`, as in `1 cut=1000 GET /api/export/zip`; failures are drop,
    /// do-then-drop, hang, cut=BYTES, stall=BYTES, flip=PLACE, status=408, status=503/Overloaded
    #[arg(long)]
    fault: Vec<String>,
    /// How exports go: none, stuck, starts-over, canceled, failed, polls=COUNT
    #[arg(long, default_value = "none")]
    export_fault: ExportFault,
    /// How imports go: none, stays-uploaded, stays-in-progress, fails=TEXT
    #[arg(long, default_value = "none")]
    import_fault: ImportFault,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let options = Options {
        port: arguments.port,
        seed: arguments.seed,
        instance_name: arguments.instance_name,
        features: if arguments.old { Features::early_2026() } else { Features::current() },
        retention_ns: arguments.retention_s.saturating_mul(1_000_000_000),
        ..Options::default()
    };
    let convex = Deployment::start(options)?;
    for fault in &arguments.fault {
        convex.faults().fail_as(fault).map_err(std::io::Error::other)?;
    }
    convex.faults().set_export(arguments.export_fault);
    convex.faults().set_import(arguments.import_fault);
    convex.fill(arguments.documents, arguments.files);
    println!("url {}", convex.url());
    println!("instance_name {}", convex.instance_name());
    println!("instance_secret {}", convex.instance_secret());
    println!("admin_key {}", convex.admin_key());
    println!("read_only_key {}", convex.read_only_key());
    let begin = Instant::now();
    let mut done = 0u64;
    loop {
        std::thread::sleep(Duration::from_millis(if arguments.changes_per_second > 0 { 10 } else { 60_000 }));
        let due = (begin.elapsed().as_secs_f64() * f64::from(arguments.changes_per_second)) as u64;
        convex.churn(usize::try_from(due - done).unwrap_or(0));
        done = due;
    }
}
