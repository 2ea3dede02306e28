#!/usr/bin/env python3
"""Compares lifeboat with pgBackRest on PostgreSQL 15: base backups, restores, WAL pushed and fetched, side by side in one run.

    apt-get install postgresql-15 pgbackrest         # what is missing is named
    benches/postgres.py                              # both clusters, 3 rounds, target/release/lifeboat
    benches/postgres.py --cluster jsonb --rounds 1   # one of them
    benches/postgres.py --follow 60                  # how old the newest recovery point is under a steady load, and nothing else

Clusters, made anew in each round: `pgbench` (pgbench -i, fillfactor 90) and `jsonb` (documents as jsonb rows with three
indexes, fillfactor 90). Both tools see the same server. It archives through a script that calls the tool alone that is
measured. Both encrypt (age; AES-256) and compress with zstd at level 3; pgBackRest has process-max 2, bundles and block
increments (`--beta` in 2.45). Repositories are local directories.

  first      a base backup; wall = the command and the `sync` after it, the page cache dropped before
  second     1 % of the pages got a row changed, then CHECKPOINT; stored = growth of the repository
  restore    of the second, into an empty directory
  delta      onto the restored directory in which 1 % of the pages were overwritten
  push       64 consecutive segments, one process a call, as the server calls it; `.ready` files of all are there. Mean a call
  get        the same 64, one process a call. Mean a call
  cold       one push into a repository that was just used for nothing else

Every get is compared with the segment, every restore with the other tool's file by file (pg_control, labels and settings
apart). A difference is an error, and exit status 1.
"""
import sys
sys.dont_write_bytecode = True

import argparse, json, os, pwd, random, re, shlex, shutil, signal, subprocess, tempfile, time
from pathlib import Path
from statistics import median

from data import documents
from peers import ROOT, drop_cache, size_of
from report import table, verdict

BIN = Path("/usr/lib/postgresql/15/bin")
SEGMENTS, PAGE, MB = 64, 8192, 1e6
USER = pwd.getpwnam("postgres")
ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
GOALS = {"first": ("wall", 0.8), "second": ("wall", 0.6), "second stored": ("stored", 0.8), "restore": ("wall", 0.7),
         "delta": ("wall", 0.5), "push": ("wall", 0.5), "get": ("wall", 0.5)}


def call(command, cwd="/", check=True, home="/"):
    """Runs a command as the server's user; its output."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, env={**ENV, "HOME": str(home)}, user=USER.pw_uid,
                          group=USER.pw_gid, extra_groups=[], stdin=subprocess.DEVNULL, capture_output=True)
    if check and done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        raise RuntimeError(f"exit {done.returncode} of {shlex.join(map(str, command))}\n{said}")
    return done.stdout.decode(errors="replace")


def timed(command, cwd="/", home="/"):
    """Wall time of a command and the sync after it; CPU; output dropped unless it fails."""
    drop_cache()
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        child = subprocess.Popen([str(word) for word in command], cwd=cwd, env={**ENV, "HOME": str(home)}, user=USER.pw_uid,
                                 group=USER.pw_gid, extra_groups=[], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        os.sync()
        wall = time.perf_counter() - start
        if child.returncode:
            log.seek(0)
            raise RuntimeError(f"exit {child.returncode} of {shlex.join(map(str, command))}\n{log.read().decode()[-2000:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * 1024}


class Server:
    """A server with one database, and the script through which it archives."""

    def __init__(self, folder):
        self.folder, self.data, self.script = folder, folder / "data", folder / "archive-pgbackrest-or-lifeboat"
        self.where = ["-h", folder, "-p", "5499", "-U", "postgres"]
        self.archive("exit 0")
        call([BIN / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-k"])
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"""
                listen_addresses = ''\nunix_socket_directories = '{folder}'\nport = 5499\nshared_buffers = 512MB
                archive_mode = on\narchive_command = '{self.script} %p'\nwal_level = replica\nmax_wal_size = 8GB
                checkpoint_timeout = 1h\nautovacuum = off\nsynchronous_commit = off\n""")
        call([BIN / "pg_ctl", "-s", "-w", "-D", self.data, "-l", folder / "log", "start"])

    def archive(self, text):
        fresh = self.script.with_suffix(".new")
        fresh.write_text(f"#!/bin/sh\n{text}\n")
        fresh.chmod(0o755)
        fresh.replace(self.script)

    def sql(self, text):
        return call([BIN / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *self.where, "-d", "postgres", "-c", text])

    def stop(self):
        call([BIN / "pg_ctl", "-s", "-w", "-m", "immediate", "-D", self.data, "stop"], check=False)

    def fill(self, kind, scale):
        self.kind = kind
        if kind == "pgbench":
            call([BIN / "pgbench", "-i", "-q", "-F", "90", "-s", scale, *self.where, "postgres"])
            self.table = "pgbench_accounts"
        else:
            self.table = "documents"
            self.sql("CREATE TABLE documents (id bigint PRIMARY KEY, doc jsonb) WITH (fillfactor = 90)")
            rows, lines = self.folder / "rows", documents("rows")
            with open(rows, "w") as out:
                for number in range(scale * 6000):
                    line = next(lines).decode().rstrip("\n").replace("\\", "\\\\").replace("\t", "\\t")
                    out.write(f"{number}\t{line}\n")
            os.chown(rows, USER.pw_uid, USER.pw_gid)
            self.sql(f"COPY documents FROM '{rows}'")
            rows.unlink()
            self.sql("CREATE INDEX ON documents ((doc->>'_id')); CREATE INDEX ON documents ((doc->'_creationTime'))")
            self.sql("CREATE INDEX ON documents USING gin (doc jsonb_path_ops)")
        self.sql("VACUUM (FREEZE, ANALYZE)")
        self.sql("CHECKPOINT")

    def change(self):
        """A row on one page in a hundred, at random."""
        self.sql("SELECT setseed(0.5)")
        pages = int(self.sql(f"SELECT pg_relation_size('{self.table}') / {PAGE}"))
        value = "abalance = abalance + 1" if self.kind == "pgbench" else "doc = doc || jsonb_build_object('touched', 1)"
        picked = ", ".join(f"'({page},1)'" for page in sorted(random.Random(1).sample(range(pages), pages // 100)))
        self.sql(f"UPDATE {self.table} SET {value} WHERE ctid = ANY (ARRAY[{picked}]::tid[])")
        self.sql("CHECKPOINT")

    def segments(self, count, into):
        """Segments of a load, away from the server."""
        into.mkdir()
        self.archive("exit 1")
        first = self.sql("SELECT pg_walfile_name(pg_switch_wal())").strip()
        while True:
            self.sql("CHECKPOINT")  # so that pages go into the log whole, as they do now and then everywhere
            if self.kind == "pgbench":
                call([BIN / "pgbench", "-n", "-c", "4", "-t", "5000", *self.where, "postgres"])
            else:
                self.sql("""INSERT INTO documents SELECT id + (SELECT max(id) + 1 FROM documents), doc FROM documents
                            ORDER BY id LIMIT 20000""")
            there = sorted(name for name in os.listdir(self.data / "pg_wal") if re.fullmatch("[0-9A-F]{24}", name) and name > first)
            ready = [name for name in there if (self.data / "pg_wal/archive_status" / f"{name}.ready").exists()]
            if len(ready) >= count:
                break
        for name in ready[:count]:
            shutil.copy(self.data / "pg_wal" / name, into / name)
        return ready[:count]


class Tool:
    def __init__(self, folder, server):
        self.folder, self.server, self.repo = folder, server, folder / "repo"
        folder.mkdir()
        os.chown(folder, USER.pw_uid, USER.pw_gid)

    def stage(self, name, segments, pool):
        """A directory like a data directory, with segments that wait."""
        top = self.folder / name
        for part in ("global", "pg_wal/archive_status"):
            (top / part).mkdir(parents=True)
        shutil.copy(self.server.data / "PG_VERSION", top)
        shutil.copy(self.server.data / "global/pg_control", top / "global")
        for segment in segments:
            shutil.copy(pool / segment, top / "pg_wal" / segment)
            (top / "pg_wal/archive_status" / f"{segment}.ready").touch()
        subprocess.run(["chown", "-R", "postgres:postgres", top], check=True)
        return top

    def each(self, top, segments, command, done):
        """One process a segment; the mean of the calls in seconds."""
        os.sync()
        start = time.perf_counter()
        for segment in segments:
            call(command(segment), cwd=top, home=self.folder)
            done(segment)
        return (time.perf_counter() - start) / len(segments)

    def push(self, segments, pool):
        top = self.stage(f"push-{len(segments)}", segments, pool)
        status = top / "pg_wal/archive_status"
        mark = lambda s: (status / f"{s}.ready").rename(status / f"{s}.done")
        before = size_of(self.repo)
        mean = self.each(top, segments, lambda s: self.push_command(top, s), mark)
        return {"wall": mean, "stored": size_of(self.repo) - before}

    def get(self, segments, pool):
        top = self.stage("get", [], pool)
        target = top / "pg_wal/RECOVERYXLOG"

        def done(_):
            # The server gives it another name and removes it later. Renamed onto a file, ext4 would write it out at once.
            target.unlink()
        mean = self.each(top, segments, lambda s: self.get_command(top, s, "pg_wal/RECOVERYXLOG"), done)
        for segment in segments[:: len(segments) // 8 or 1]:
            call(self.get_command(top, segment, "pg_wal/RECOVERYXLOG"), cwd=top, home=self.folder)
            if target.read_bytes() != (pool / segment).read_bytes():
                raise RuntimeError(f"{segment} came back with other bytes")
        return {"wall": mean}

    def backup(self, second):
        self.server.archive(self.archive_line())
        before = size_of(self.repo)
        measures = timed(self.backup_command(second), home=self.folder)
        measures["stored"] = size_of(self.repo) - before
        self.server.archive("exit 0")
        return measures


class Lifeboat(Tool):
    name = "lifeboat"

    def __init__(self, folder, server, binary):
        super().__init__(folder, server)
        self.binary, self.target = folder / "lifeboat", folder / "restored"
        shutil.copy(binary, self.binary)
        (folder / "lifeboat.toml").write_text(f"""
[repository]\nurl = "file://{self.repo}"\nstate_dir = "{folder}/state"\nidentity_file = "{folder}/id"
[sources.db]\nkind = "postgres"\nconnection = "host={server.folder} port=5499 user=postgres"\n""")
        self.base = [self.binary, "--config", folder / "lifeboat.toml"]
        call([self.binary, "--repo", f"file://{self.repo}", "--state-dir", folder / "state", "init", "--generate-identity", folder / "id"], home=folder)

    def archive_line(self):
        return f"exec {shlex.join(map(str, self.base))} --quiet wal push %p".replace("%p", '"$1"')

    def backup_command(self, second):
        return [*self.base, "--quiet", "backup", "db"]

    def restore_command(self, delta):
        return [*self.base, "--quiet", "restore", "db", "--immediate", "--into", self.target, *(["--delta"] if delta else [])]

    def push_command(self, top, segment):
        return [*self.base, "--quiet", "wal", "push", f"pg_wal/{segment}"]

    def get_command(self, top, segment, target):
        return [*self.base, "--quiet", "wal", "get", segment, target]


class PgBackRest(Tool):
    name = "pgbackrest"

    def __init__(self, folder, server, _):
        super().__init__(folder, server)
        self.target = folder / "restored"
        secret = "PGBACKREST_REPO1_CIPHER_PASS=a passphrase for the benchmark alone"
        self.base = ["env", secret, "/usr/bin/pgbackrest", "--no-config", "--stanza=db", f"--repo1-path={self.repo}",
                     "--repo1-cipher-type=aes-256-cbc", f"--lock-path={folder}/lock", f"--log-path={folder}", "--log-level-console=error"]
        self.zstd = ["--compress-type=zst", "--compress-level=3"]
        self.live = [f"--pg1-path={server.data}", f"--pg1-socket-path={server.folder}", "--pg1-port=5499", "--pg1-user=postgres"]
        call([*self.base, *self.live, "stanza-create"], home=folder)

    def archive_line(self):
        return f"exec {shlex.join(map(str, [*self.base, *self.zstd]))} --pg1-path={self.server.data} archive-push \"$1\""

    def backup_command(self, second):
        return [*self.base, *self.zstd, *self.live, "--process-max=2", "--start-fast", "--repo1-bundle", "--repo1-block", "--beta",
                f"--type={'incr' if second else 'full'}", "--repo1-retention-full=9", "backup"]

    def restore_command(self, delta):
        return [*self.base, f"--pg1-path={self.target}", "--process-max=2", "--type=immediate", *(["--delta"] if delta else []), "restore"]

    def push_command(self, top, segment):
        return [*self.base, *self.zstd, f"--pg1-path={top}", "archive-push", f"pg_wal/{segment}"]

    def get_command(self, top, segment, target):
        return [*self.base, f"--pg1-path={top}", "archive-get", segment, target]


def damage(directory, seed):
    """Overwrites 1 % of the pages of relations, at random, the same for both tools."""
    chance, count = random.Random(seed), 0
    for path in sorted((directory / "base").rglob("*")):
        if path.is_file() and re.fullmatch(r"\d+(\.\d+)?", path.name) and path.stat().st_size >= 100 * PAGE:
            pages = path.stat().st_size // PAGE
            with open(path, "r+b") as file:
                for page in chance.sample(range(pages), pages // 100):
                    file.seek(page * PAGE + 64)
                    file.write(chance.randbytes(512))
                    count += 1
    return count


APART = {"global/pg_control", "backup_label", "postgresql.auto.conf", "recovery.signal", "tablespace_map", "backup_manifest"}


def same(a, b):
    """Whether two restored clusters of different backups of an idle server have the same relation files."""
    for path in sorted((a / "base").rglob("*")):
        name = path.relative_to(a)
        if path.is_file() and str(name) not in APART and re.fullmatch(r"\d+(\.\d+)?", path.name):
            if not (b / name).is_file() or path.read_bytes() != (b / name).read_bytes():
                raise RuntimeError(f"{name} differs between the two restored clusters")


def round_of(kind, scale, number, scratch, binary):
    folder = scratch / f"{kind}-{number}"
    folder.mkdir()
    folder.chmod(0o755)
    os.chown(folder, USER.pw_uid, USER.pw_gid)
    server = Server(folder)
    results = {}
    try:
        server.fill(kind, scale)
        facts = {"bytes": size_of(server.data / "base")}
        tools = [which(folder / which.name, server, binary) for which in (Lifeboat, PgBackRest)]
        tools = tools if number % 2 else tools[::-1]

        def note(tool, step, measures):
            results.setdefault(tool.name, {})[step] = measures
            print(f"{kind} {number}: {step:8} {tool.name:10} {measures['wall'] * 1000:9.1f} ms", file=sys.stderr)
        for tool in tools:
            note(tool, "first", tool.backup(False))
        server.change()
        for tool in tools:
            time.sleep(2)
            note(tool, "second", tool.backup(True))
        for tool in tools:
            tool.target.mkdir(mode=0o700)
            os.chown(tool.target, USER.pw_uid, USER.pw_gid)
            note(tool, "restore", timed(tool.restore_command(False), home=tool.folder))
        same(tools[0].target, tools[1].target)
        for tool in tools:
            facts["damaged pages"] = damage(tool.target, number)
            note(tool, "delta", timed(tool.restore_command(True), home=tool.folder))
        same(tools[0].target, tools[1].target)
        for tool in tools:
            shutil.rmtree(tool.target)
        pool = folder / "pool"
        names = server.segments(SEGMENTS + 1, pool)
        for tool in tools:
            note(tool, "cold", tool.push(names[:1], pool))
            note(tool, "push", tool.push(names[1:], pool))
        for tool in tools:
            note(tool, "get", tool.get(names[1:], pool))
        results["facts"] = facts
    except RuntimeError as error:
        raise RuntimeError(f"{error}\nthe server's log ends:\n{(folder / 'log').read_text()[-1500:]}") from None
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return results


def follow(seconds, scratch, binary):
    """The age of the newest recovery point under a steady load, asked for as anybody would: `timeline --json`."""
    folder = scratch / "follow"
    folder.mkdir()
    folder.chmod(0o755)
    os.chown(folder, USER.pw_uid, USER.pw_gid)
    server = Server(folder)
    running = []
    try:
        server.fill("pgbench", 5)
        tool = Lifeboat(folder / "lifeboat", server, binary)
        spawn = lambda words: running.append(subprocess.Popen([str(w) for w in words], cwd=folder, env={**ENV, "HOME": str(folder)},
                                                              user=USER.pw_uid, group=USER.pw_gid, extra_groups=[],
                                                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        server.sql("ALTER SYSTEM SET synchronous_commit = on")
        server.sql("SELECT pg_reload_conf()")
        spawn([*tool.base, "follow", "db"])
        time.sleep(3)
        call(tool.backup_command(False), home=folder)
        spawn([BIN / "pgbench", "-n", "-c", "2", "-R", "50", "-T", str(seconds + 10), *server.where, "postgres"])
        time.sleep(5)
        ages = []
        until = time.time() + seconds
        while time.time() < until:
            asked = time.time()
            said = json.loads(call([*tool.base, "--json", "timeline", "db"], home=folder).splitlines()[-1])
            newest = said["newest"]
            moment = subprocess.run(["date", "-d", newest, "+%s.%N"], capture_output=True, text=True, check=True).stdout
            ages.append(asked - float(moment))
            time.sleep(0.7)
        ages.sort()
        print(f"newest recovery point, 50 transactions a second, asked {len(ages)} times in {seconds} s: median {median(ages):.1f} s old, "
              f"95 % {ages[int(len(ages) * 0.95)]:.1f} s, oldest {ages[-1]:.1f} s: {verdict(ages[-1], 5)}")
    finally:
        for child in running:
            child.send_signal(signal.SIGTERM)
            child.wait()
        server.stop()


def tell(kind, rounds):
    """A table for a cluster, and its goals."""
    lines = []
    for step in ("first", "second", "restore", "delta", "cold", "push", "get"):
        for name in ("lifeboat", "pgbackrest"):
            got = [r[name][step] for r in rounds]
            shown = [f"{median(g['wall'] for g in got) * 1000:.1f}", f"{median(g['cpu'] for g in got) * 1000:.0f}" if "cpu" in got[0] else "",
                     f"{median(g['stored'] for g in got) / MB:.2f}" if "stored" in got[0] else "",
                     f"{median(g['rss'] for g in got) / (1 << 20):.0f}" if "rss" in got[0] else ""]
            lines.append([step, name, *shown])
    sizes = [r["facts"]["bytes"] for r in rounds]
    print(f"\n### {kind}: {median(sizes) / MB:.0f} MB in `base`, {len(rounds)} rounds\n")
    print(table(["step", "tool", "wall ms", "CPU ms", "stored MB", "peak MiB"], lines, 2))
    goals = []
    for figure, (metric, goal) in GOALS.items():
        step = figure.split()[0]
        ratios = [r["lifeboat"][step][metric] / r["pgbackrest"][step][metric] for r in rounds]
        goals.append([figure, f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})", f"{goal}", verdict(median(ratios), goal)])
    print(table(["figure", "of pgBackRest's", "goal", ""], goals, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lifeboat", type=Path, default=ROOT / "target/release/lifeboat")
    parser.add_argument("--cluster", choices=("pgbench", "jsonb", "both"), default="both")
    parser.add_argument("--scale", type=int, default=60, help="of pgbench (15 MB each); the other cluster has about as many bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--follow", type=int, metavar="SECONDS")
    parser.add_argument("--scratch", metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("it runs servers as the user postgres, and so begins as root")
    for program in (BIN / "initdb", BIN / "pgbench", Path("/usr/bin/pgbackrest"), options.lifeboat):
        if not program.is_file():
            parser.error(f"there is no {program}: apt-get install postgresql-15 pgbackrest; cargo build --release")
    scratch = Path(tempfile.mkdtemp(prefix="lifeboat-pg-", dir=options.scratch)).resolve()
    scratch.chmod(0o755)
    try:
        if options.follow:
            return follow(options.follow, scratch, options.lifeboat)
        print(call(["/usr/bin/pgbackrest", "version"]).strip(), call([options.lifeboat, "--version"]).strip(), sep="; ")
        everything = {}
        for kind in ("pgbench", "jsonb") if options.cluster == "both" else (options.cluster,):
            rounds = [round_of(kind, options.scale, n, scratch, options.lifeboat) for n in range(1, options.rounds + 1)]
            tell(kind, rounds)
            everything[kind] = rounds
        if options.json:
            options.json.write_text(json.dumps(everything, indent=1))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
