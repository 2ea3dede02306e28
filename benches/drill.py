#!/usr/bin/env python3
"""Time to restore, as a drill measures it, against a plain copy.

    benches/drill.py                          # 1 GiB, PostgreSQL 15, target/release/lifeboat
    benches/drill.py --mib 200                # quick look
    benches/drill.py --dir DIR                # works there instead of the system's directory for temporary files

  copy   `cp -a` of the data directory as a base backup of the same moment has it, `sync`, then PostgreSQL replays the same log from a
         directory of plain files (`cp` as restore_command) until it accepts writes
  drill  `lifeboat drill`: phases plan, fetch, start, wait for log, replay, assert (goal: at most 1.3 x the copy)

Three rounds, one after another and interleaved; medians. The repository, its source and both restored clusters lie on one disk. The report
is Markdown; figures count only from a machine that does nothing else. As root the servers run as `postgres`.
"""
import argparse, glob, json, os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent
BIN = Path("/usr/lib/postgresql/15/bin")


def user():
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def run(command, **more):
    done = subprocess.run([*user(), *map(str, command)], capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Cluster:
    def __init__(self, data, socket):
        self.data, self.socket = data, socket

    def start(self):
        options = f"-c listen_addresses= -c unix_socket_directories={self.socket}"
        run([BIN / "pg_ctl", "-D", self.data, "-w", "-t", "3600", "-l", f"{self.data}.log", "-o", options, "start"])

    def stop(self):
        run([BIN / "pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop"])

    def sql(self, text):
        return run([BIN / "psql", "-X", "-q", "-A", "-t", "-h", self.socket, "-U", "postgres", "-d", "postgres", "-c", text]).strip()


def make(folder, lifeboat, mib):
    """A cluster of that size with its archive, a base backup in lifeboat and one of plain files, and some log behind both."""
    cluster = Cluster(folder / "data", folder)
    run([BIN / "initdb", "-D", cluster.data, "-U", "postgres", "-k", "--no-sync"])
    config = folder / "lifeboat.toml"
    config.write_text(f'[repository]\nurl = "{folder}/repo"\nidentity_file = "{folder}/id"\nstate_dir = "{folder}/state"\n'
                      f'[sources.db]\nkind = "postgres"\nconnection = "host={folder} user=postgres"\nbin_dir = "{BIN}"\n')
    config.chmod(0o644)
    (folder / "wal").mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder / "wal", "postgres", "postgres")
    archive = f"cp %p {folder}/wal/%f && {lifeboat} --quiet --config {config} wal push %p --source db"
    with open(cluster.data / "postgresql.conf", "a") as conf:
        conf.write(f"archive_mode = on\nwal_level = replica\nmax_wal_size = 4GB\narchive_command = '{archive}'\n")
    run([lifeboat, "--config", config, "init", "--generate-identity", folder / "id"], cwd=folder)
    cluster.start()
    # Half of it text, half of it hardly compressible.
    rows = mib * 1024 * 1024 // 460
    cluster.sql(f"CREATE TABLE t AS SELECT n, repeat(md5(n::text), 5) AS a, (SELECT string_agg(md5((n * 7 + k)::text), '') FROM generate_series(1, 6) k) AS b "
                f"FROM generate_series(1, {rows}) n")
    cluster.sql("CHECKPOINT")
    run([BIN / "pg_basebackup", "-h", folder, "-U", "postgres", "-D", folder / "plain", "-X", "none", "-c", "fast"])
    run([lifeboat, "--quiet", "--config", config, "backup", "db"], cwd=folder)
    cluster.sql(f"UPDATE t SET a = a || 'x' WHERE n % 12 = 0")
    cluster.sql("SELECT pg_switch_wal()")
    cluster.sql("CREATE TABLE last (n int)")
    segment = cluster.sql("SELECT pg_walfile_name(pg_switch_wal())")
    while not (folder / "wal" / segment).exists() or cluster.sql("SELECT last_archived_wal FROM pg_stat_archiver") < segment:
        time.sleep(0.2)
    return cluster, config


def copy(folder):
    """Seconds until a copy of the plain base backup accepts writes."""
    to = Cluster(folder / "copied", folder / "copied-socket")
    to.socket.mkdir()
    if os.geteuid() == 0:
        shutil.chown(to.socket, "postgres", "postgres")
    begun = time.perf_counter()
    run(["cp", "-a", folder / "plain", to.data])
    run(["sync", "-f", to.data])
    with open(to.data / "postgresql.auto.conf", "a") as conf:
        conf.write(f"restore_command = 'cp {folder}/wal/%f %p'\narchive_mode = off\n")
    run(["touch", to.data / "recovery.signal"])
    to.start()
    while to.sql("SELECT pg_is_in_recovery()") != "f":
        time.sleep(0.05)
    seconds = time.perf_counter() - begun
    to.stop()
    shutil.rmtree(to.data)
    shutil.rmtree(to.socket)
    return seconds


def drill(folder, lifeboat, config):
    said = run([lifeboat, "--json", "--config", config, "drill", "db", "--quick", "--no-record", "--scratch-dir", folder / "scratch"], cwd=folder)
    line = next(line for line in said.splitlines() if '"message_type":"drill"' in line)
    return json.loads(line)["drill"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lifeboat", type=Path, default=ROOT / "target/release/lifeboat")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lb-drill-", dir=args.dir))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    lifeboat = folder / "lifeboat"
    shutil.copy(args.lifeboat, lifeboat)
    cluster = None
    try:
        cluster, config = make(folder, lifeboat, args.mib)
        size = sum(path.stat().st_size for path in map(Path, glob.glob(f"{folder}/plain/**", recursive=True)) if path.is_file())
        segments = len(list((folder / "wal").iterdir()))
        cluster.stop()
        cluster = None
        copies, drills = [], []
        for _ in range(args.rounds):
            copies.append(copy(folder))
            drills.append(drill(folder, lifeboat, config))
        rto = statistics.median(one["rto_ms"] / 1000 for one in drills)
        plain = statistics.median(copies)
        middle = sorted(drills, key=lambda one: one["rto_ms"])[len(drills) // 2]
        print(f"Base backup of {size / 2**20:.0f} MiB, {middle['segments']} segments of log replayed ({segments} archived), {args.rounds} rounds.\n")
        print("| what | seconds |\n|---|---|")
        print(f"| copy, sync, replay | {plain:.1f} ({', '.join(f'{one:.1f}' for one in copies)}) |")
        each = ", ".join(f"{one['rto_ms'] / 1000:.1f}" for one in drills)
        print(f"| drill, RTO | {rto:.1f} ({each}) |")
        print(f"| drill / copy | {rto / plain:.2f} |")
        print("\nPhases of the middle drill: " + ", ".join(f"{part['phase']} {part['ms'] / 1000:.1f} s" for part in middle["phases"]))
    finally:
        if cluster:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
