#!/usr/bin/env python3
"""Measures what a capture of an SQLite database does to its writer, and what the second day adds.

    benches/sqlite.py --lifeboat target/release/lifeboat --size 2048 --commits 20 --json sqlite.json

A database of --size MiB with a rollback journal and synchronous=FULL, rows of 3 KiB of random bytes. A writer, a process of its own, commits
--commits times a second, each time one row anew; it notes how long each commit took. Before: a minute of that alone. Then the first backup, one row in a
hundred changed (--changed), and the second backup, while the writer goes on.

  longest      longest commit during that time, beside the longest without a backup
  added        bytes that the second backup stored (its own report), as a part of the database, and of what had changed
  held         the longest lock, by the backup's own report
The first error of the writer (a commit that waits longer than five seconds) ends the run with exit status 1.
"""
import argparse, json, os, sqlite3, subprocess, sys, tempfile, time
from pathlib import Path

ROW = 3000


def make(path, mib):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)")
    rows = mib * (1 << 20) // 4096
    for first in range(0, rows, 10000):
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES (?, randomblob(?))", ((n, ROW) for n in range(first, min(rows, first + 10000))))
        db.execute("COMMIT")
    db.close()
    return rows


def writer(path, rows, commits, out):
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    n, times = 0, []
    next_one = time.monotonic()
    while not os.path.exists(out + ".stop"):
        n += 1
        began = time.monotonic()
        db.execute("UPDATE t SET x = randomblob(?) WHERE n = ?", (ROW, n * 7919 % rows))
        times.append((began, time.monotonic() - began))
        next_one = max(next_one + 1 / commits, time.monotonic())
        time.sleep(max(0.0, next_one - time.monotonic()))
    Path(out).write_text(json.dumps(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lifeboat", default="target/release/lifeboat")
    parser.add_argument("--size", type=int, default=2048, help="MiB")
    parser.add_argument("--commits", type=float, default=20)
    parser.add_argument("--changed", type=float, default=0.01)
    parser.add_argument("--alone", type=float, default=60, help="seconds of the writer without a backup")
    parser.add_argument("--dir", help="where all of it lies")
    parser.add_argument("--json")
    parser.add_argument("--writer", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.writer:
        path, rows, commits, out = args.writer
        return writer(path, int(rows), float(commits), out)
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        root = os.path.abspath(root)
        at = lambda name: os.path.join(root, name)
        os.mkdir(at("volume"))
        rows, path = make(at("volume/db.sqlite3"), args.size), at("volume/db.sqlite3")
        size = os.path.getsize(path)
        env = {**os.environ, "HOME": root, "XDG_STATE_HOME": at("state")}
        program = [os.path.abspath(args.lifeboat), "--repo", at("repo"), "--json"]
        run = lambda *words: subprocess.run([*program, *words], env=env, cwd=root, check=True, capture_output=True, text=True).stdout
        run("init", "--generate-identity", at("id"))
        out = at("times")
        child = subprocess.Popen([sys.executable, __file__, "--writer", path, str(rows), str(args.commits), out])
        spans, reports = {}, []
        time.sleep(1)
        began = time.monotonic()
        time.sleep(args.alone)
        spans["alone"] = (began, time.monotonic())
        for day in ["first", "second"]:
            if day == "second":
                changer = sqlite3.connect(path, timeout=60, isolation_level=None)
                step = round(1 / args.changed)
                changer.execute("UPDATE t SET x = randomblob(?) WHERE n % ? = 0", (ROW, step))
                changer.close()
            began = time.monotonic()
            lines = run("backup", "--path", at("volume"), "--name", "data").splitlines()
            spans[day] = (began, time.monotonic())
            reports.append(json.loads(lines[-1]))
        Path(out + ".stop").touch()
        if child.wait():
            sys.exit("the writer ended with an error: a commit waited too long")
        times = json.loads(Path(out).read_text())
        longest = {name: max((took for at_, took in times if at_ >= start and at_ <= end), default=0) for name, (start, end) in spans.items()}
        result = {"size": size, "commits": len(times), "longest_commit_s": longest,
                  "backup_s": {name: end - start for name, (start, end) in spans.items() if name != "alone"},
                  "held_ms": [report["facts"]["databases"][0]["held_ms"] for report in reports],
                  "how": [report["facts"]["databases"][0]["how"] for report in reports],
                  "added": [report["data_added"] for report in reports], "stored": [report["data_added_packed"] for report in reports],
                  "added_share": reports[1]["data_added"] / size}
        print(json.dumps(result, indent=1))
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
