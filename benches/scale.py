#!/usr/bin/env python3
"""Measures how lifeboat grows: with the bytes of a stream, with chunks, with the entries of a tree.

    benches/scale.py stream 1 5 10 25 50 --json stream.json      # GiB
    benches/scale.py chunks 1 3 10 30 --json chunks.json         # millions
    benches/scale.py tree 20000 200000 2000000 --json tree.json  # entries
    benches/scale.py report stream.json chunks.json tree.json    # tables, lines through them, and what those say of more

stream  A generator writes JSON lines into `backup -- GENERATOR`; nothing of it is kept. It repeats 8 MiB with a counter in
        every 2 KiB, so that bytes compress and no chunk comes twice. "again" is the same stream once more, "changed" the
        same with eight bytes changed in every 64 KiB (up to --changed GiB only: it stores a quarter again).
chunks  The same with chunks of some 300 bytes in place of 12 KiB: `lifeboat.json` is edited after `init`, and the host
        joins anew. So chunks grow to 100 million with 30 GB, and frames and packs by little.
tree    Directories nested, 24 files in each, half of them empty, the others 1 to 1000 bytes; "1 % changed" rewrites one file
        in a hundred. "ls" lists all of it.

Each size has a repository and a state directory of its own, deleted once it is measured. Measured per command:
  wall     command plus the `sync` after it; page cache dropped before it where permitted, unless its name says warm
  CPU      user + system of the command and its children (wait4), without the generator's, which tells its own
  peak     largest resident set of any one process of the command (wait4); the generator stays under 40 MiB
  stored   growth of the repository (sum of file sizes)
  local    what the kernel counts as written by the command (wait4, ru_oublock), without `stored`: the catalog and its WAL,
           the host's copy of the manifest
  WAL      largest size of the catalog's WAL that was seen, by looking five times a second
"rebuild" is on the host that wrote, without an identity; "rebuild bare" elsewhere, with an identity and no writer's keys.
Sizes of tables are SQLite's own count of pages (dbstat). The first error ends the run with exit status 1.
"""
import argparse, json, os, platform, re, resource, shlex, shutil, signal, sqlite3, subprocess, sys, tempfile, threading, time
from pathlib import Path

MIB, GIB, BASE = 1 << 20, 1 << 30, 8 << 20
SPACING = {"stream": 2048, "chunks": 32}  # of counters: half of the shortest chunk, so that each holds one
FINE = [64, 256, 1024]
PER_CHUNK = 300  # bytes, about, of a chunk within those bounds
UNIT = {"stream": "GiB", "chunks": "million chunks", "tree": "entries"}


def generate(size, base, spacing, changed, usage):
    """Writes size bytes to stdout, in a process of its own."""
    block, left, number = bytearray(Path(base).read_bytes()), size, 0
    if changed:
        for at, byte in enumerate(b"#changed"):
            block[1000 + at::65536] = bytes([byte]) * len(range(1000 + at, BASE, 65536))
    while left:
        for at, digit in enumerate(b"%08x" % number):
            block[at::spacing] = bytes([digit]) * len(range(at, BASE, spacing))
        part = memoryview(block)[:left]
        left, number = left - len(part), number + 1
        while part:
            part = part[os.write(1, part):]
    used = os.times()
    Path(usage).write_text(str(used.user + used.system))


def make_base(path):
    from data import documents
    text, lines = bytearray(), documents("scale")
    while len(text) < BASE:
        text += next(lines)
    path.write_bytes(text[:BASE])


def file_at(number):
    """Where a file of the tree is: directory n // 24, eight directories in each."""
    folder, at = "", number // 24
    while at:
        folder, at = f"d{at}/{folder}", (at - 1) // 8
    return folder, f"{folder}f{number}"


def make_files(top, part, parts, files):
    os.chdir(top)
    text = b"lorem ipsum dolor sit amet, consectetur adipisici elit. " * 20
    for first in range(part * 24, files, parts * 24):
        os.makedirs(file_at(first)[0] or ".", exist_ok=True)
        for number in range(first, min(first + 24, files)):
            with open(file_at(number)[1], "wb", 0) as out:
                if number % 2:
                    out.write(b"%d " % number + text[:number * 7919 % 990])


def change_files(top, files):
    for number in range(1, files, 100):
        (top / file_at(number)[1]).write_bytes(b"changed %d" % number)


def in_other_process(*jobs):
    """This process must stay small: a child's peak is counted from its parent's size."""
    children = []
    for function, *arguments in jobs:
        if not (child := os.fork()):
            status = 1
            try:
                function(*arguments)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise RuntimeError(f"{jobs[0][0].__name__} failed")


def size_of(top):
    return sum(os.lstat(f"{base}/{name}").st_size for base, _, names in os.walk(top) for name in names)


class Lifeboat:
    """One repository with its state, and what was measured of it."""

    def __init__(self, binary, folder):
        self.binary, self.repo, self.state, self.log = binary, folder / "repo", folder / "state", folder / "log"
        self.bare, self.identity, self.usage = folder / "bare", folder / "identity", folder / "usage"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("LIFEBOAT_", "XDG_"))}
        self.env |= {"HOME": str(folder), "LIFEBOAT_STATE_DIR": str(self.state)}
        self.steps = {}
        folder.mkdir()

    def call(self, *words):
        words = [self.binary, "--repo", f"file://{self.repo}", *map(str, words)]
        subprocess.run(words, env=self.env, check=True, stdout=subprocess.DEVNULL)

    def init(self, fine):
        self.call("--quiet", "init", "--generate-identity", self.identity)
        if fine:
            path = self.repo / "lifeboat.json"
            text = re.sub(r'"fine":\[[0-9,]+\]', f'"fine":{json.dumps(fine)}', path.read_text())
            path.chmod(0o600)
            path.write_text(text)
            shutil.rmtree(self.state)
            secret = next(line for line in self.identity.read_text().splitlines() if not line.startswith("#"))
            self.identity.write_text(secret + "\n")  # without the pinned fingerprint
            self.call("--quiet", "--identity", self.identity, "init")

    def watch(self, pid, done, seen):
        """Resident bytes of a process as it runs, and the size of the WAL."""
        start = time.perf_counter()
        while not done.wait(0.2):
            try:
                resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                seen["resident"].append((round(time.perf_counter() - start, 1), resident))
                seen["wal"] = max([seen["wal"], *(p.stat().st_size for p in self.state.glob("*/catalog.db-wal"))])
            except (OSError, IndexError, ValueError):
                pass

    def step(self, name, *words, identity=False, bare=False, warm=False):
        """Runs and measures one command."""
        command = [self.binary, "--repo", f"file://{self.repo}", "--quiet", *map(str, words)]
        env = self.env | ({"LIFEBOAT_IDENTITY_FILE": str(self.identity)} if identity else {})
        env |= {"LIFEBOAT_STATE_DIR": str(self.bare)} if bare else {}
        stored = size_of(self.repo)
        if not warm:
            drop = "sync; echo 3 > /proc/sys/vm/drop_caches"
            subprocess.run(["bash", "-c", drop], stderr=subprocess.DEVNULL)
        done, seen = threading.Event(), {"resident": [], "wal": 0}
        with open(self.log, "wb") as err, open(os.devnull, "wb") as out:
            start = time.perf_counter()
            child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            watcher = threading.Thread(target=self.watch, args=(child.pid, done, seen))
            watcher.start()
            try:
                _, status, usage = os.wait4(child.pid, 0)
            finally:
                done.set()
            child.returncode = os.waitstatus_to_exitcode(status)
            bare_wall = time.perf_counter() - start
            os.sync()
            wall = time.perf_counter() - start
            watcher.join()
        if child.returncode:
            raise RuntimeError(f"exit {child.returncode} of {shlex.join(command)}\n{self.log.read_text()[-2000:]}")
        stored = size_of(self.repo) - stored
        self.steps[name] = {
            "wall": wall, "without sync": bare_wall, "cpu": usage.ru_utime + usage.ru_stime,
            "rss": usage.ru_maxrss * 1024, "floor": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "stored": stored,
            "local": max(0, usage.ru_oublock * 512 - stored), "wal": seen["wal"], "resident": tenths(seen["resident"])}
        print(f"  {name:14} {wall:8.2f} s  {usage.ru_maxrss / 1024:7.0f} MiB", file=sys.stderr, flush=True)

    def stream(self, name, size, base, spacing, changed=False):
        words = [sys.executable, Path(__file__).resolve(), "--generate", size, base, spacing, int(changed), self.usage]
        self.step(name, "backup", "--name", "source", "--", *words)
        used = float(self.usage.read_text())
        self.steps[name]["cpu"] -= used
        self.steps[name] |= {"generator": used, "bytes": size}

    def facts(self):
        """Sizes of what is kept, and how many of what."""
        path = next(self.state.glob("*/catalog.db"))
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        one = lambda sql: db.execute(sql).fetchone()[0] or 0
        facts = {
            "chunks": one("SELECT sum(length(chunks)) / 36 FROM frame_chunks"), "frames": one("SELECT count(*) FROM frame"),
            "packs": one("SELECT count(*) FROM pack"), "commits": one("SELECT count(*) FROM log_commit"),
            "directories": one("SELECT sum(directory_length) FROM pack"),
            "manifest stored": one("SELECT sum(size) FROM pack WHERE kind = 'manifest'"),
            "catalog": sum(p.stat().st_size for p in path.parent.glob("catalog.db*")),
            "manifest copy": size_of(path.parent / "manifests"), "repository": size_of(self.repo),
            "log": sum(size_of(p) for p in self.repo.glob("writers/*/log"))}
        record = json.loads(db.execute("SELECT record FROM snapshot ORDER BY ended DESC LIMIT 1").fetchone()[0])
        facts |= {"entries": record["entries"], "bytes": record["bytes"], "manifest": record["manifest"]["bytes"]}
        facts["ranges"], facts["record"] = len(record["uses"]), one("SELECT max(length(record)) FROM snapshot")
        pages = "SELECT name, sum(pgsize) FROM dbstat WHERE aggregate = 0 GROUP BY name HAVING sum(pgsize) > 65536"
        try:
            facts["tables"] = dict(db.execute(pages).fetchall())
        except sqlite3.Error:  # this Python's SQLite counts no pages
            pass
        db.close()
        return facts

    def look(self):
        """What is asked of a repository, after its backups."""
        self.step("plan", "restore", "source", "--tar", "-", "--dry-run", identity=True)
        self.step("snapshots", "snapshots")
        self.step("rebuild", "catalog", "rebuild")
        self.bare.mkdir()
        self.step("rebuild bare", "catalog", "rebuild", identity=True, bare=True)


def tenths(samples):
    """The largest in each tenth of the time: whether memory goes on growing. None of a run too short to tell."""
    if len(samples) < 30:
        return None
    end, most = samples[-1][0], [0] * 10
    for at, value in samples:
        tenth = min(9, int(10 * at / end))
        most[tenth] = max(most[tenth], value)
    return most


def measure(part, size, options, scratch):
    """One size: {"size", "steps", "facts"}."""
    folder = scratch / f"{part}-{size:g}"
    boat, row = Lifeboat(str(options.lifeboat), folder), {"part": part, "size": size}
    print(f"{part} {size:g} {UNIT[part]}", file=sys.stderr, flush=True)
    boat.init(FINE if part == "chunks" else None)
    if part == "tree":
        data, files = folder / "data", round(size * 24 / 25)
        data.mkdir()
        start = time.perf_counter()
        workers = 2 * (os.cpu_count() or 1)
        in_other_process(*((make_files, data, n, workers, files) for n in range(workers)))
        print(f"  made in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        time.sleep(4)  # a file that changed this very moment is doubted
        back_up = ("backup", "--path", data, "--name", "source")
        boat.step("first", *back_up)
        row["facts"] = boat.facts()
        boat.step("again", *back_up)
        boat.step("again, warm", *back_up, warm=True)
        in_other_process((change_files, data, files))
        time.sleep(4)
        boat.step("1 % changed", *back_up)
        boat.step("ls", "ls", "-R", "source", identity=True)
    else:
        base, spacing = folder / "base", SPACING[part]
        in_other_process((make_base, base))
        length = int(size * GIB) if part == "stream" else int(size * 1e6) * PER_CHUNK
        boat.stream("first", length, base, spacing)
        row["facts"] = boat.facts()
        boat.stream("again", length, base, spacing)
        if part == "stream" and size <= options.changed:
            boat.stream("changed", length, base, spacing, changed=True)
    row["facts at the end"] = boat.facts()
    boat.look()
    row["steps"] = boat.steps
    if not options.keep:
        shutil.rmtree(folder)
    return row


def table(head, rows):
    rows = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + "\n")


def quantities(part, row):
    """What is looked at as a function of the size: name, unit, value."""
    facts, steps = row["facts"], row["steps"]
    for name, step in steps.items():
        yield f"{name}: peak", "MiB", step["rss"] / MIB
    for name, step in steps.items():
        yield f"{name}: wall", "s", step["wall"]
        yield f"{name}: CPU", "s", step["cpu"]
    yield "peak of this program, a floor under the others", "MiB", max(step["floor"] for step in steps.values()) / MIB
    for name in ("first", "again", "rebuild"):
        yield f"{name}: local writes", "MiB", steps[name]["local"] / MIB
        yield f"{name}: largest WAL", "MiB", steps[name]["wal"] / MIB
    for name in ("catalog", "directories", "log", "manifest copy", "manifest", "manifest stored", "repository"):
        yield name, "MiB", facts[name] / MIB
    for name in ("chunks", "frames", "packs", "commits"):
        yield name, "", facts[name]


def place(part, row):
    """Where a measure stands on its line: GiB, millions of chunks as counted, or entries."""
    return row["facts"]["chunks"] / 1e6 if part == "chunks" else row["size"] if part == "stream" else row["facts"]["entries"]


def report(rows):
    from statistics import linear_regression
    for part, target, words in (("stream", 1e13 / GIB, "10 TB"), ("chunks", 100, "100 million chunks"),
                                ("tree", 100e6, "100 million entries")):
        of = sorted((r for r in rows if r["part"] == part), key=lambda r: r["size"])
        if not of:
            continue
        print(f"## {part}\n")
        heads = ["", *(f"{r['size']:,g} {UNIT[part]}" for r in of)]
        columns = [{name: value for name, _, value in quantities(part, r)} for r in of]
        names = [(name, unit) for name, unit, _ in quantities(part, of[0])]
        table(heads, [(f"{n}, {u}" if u else n, *(f"{c[n]:,.1f}" if n in c else "" for c in columns)) for n, u in names])
        table(["bytes", *heads[1:]], [
            ("of catalog a chunk", *(f"{r['facts']['catalog'] / r['facts']['chunks']:.1f}" for r in of)),
            ("of directory a chunk", *(f"{r['facts']['directories'] / r['facts']['chunks']:.1f}" for r in of)),
            ("of log a frame", *(f"{r['facts']['log'] / r['facts']['frames']:.1f}" for r in of)),
            ("written locally a chunk", *(f"{r['steps']['first']['local'] / r['facts']['chunks']:,.0f}" for r in of)),
            *((f"of table {t} a chunk", *(f"{r['facts'].get('tables', {}).get(t, 0) / r['facts']['chunks']:.1f}"
              for r in of)) for t in sorted(set().union(*(r["facts"].get("tables", {}) for r in of))))])
        table(["resident MiB by tenths of the time", *range(1, 11)], [
            (f"{name}, {r['size']:,g}", *(f"{v / MIB:.0f}" for v in step["resident"]))
            for r in of[-1:] for name, step in r["steps"].items() if step["resident"]])
        if len(of) < 3:
            continue
        lines = []
        for name, unit in names:
            points = [(place(part, r), c[name]) for r, c in zip(of, columns) if name in c]
            if len(points) < 3:
                continue
            xs, ys = zip(*points)
            slope, at_zero = linear_regression(xs, ys)
            off = [y - at_zero - slope * x for x, y in points]
            lines.append((f"{name}, {unit}" if unit else name, f"{at_zero:,.4g}", f"{slope:,.4g}",
                          " ".join(f"{v:+,.3g}" for v in off), f"{at_zero + slope * target:,.0f}"))
        table(["", "at zero", f"each {UNIT[part].rstrip('s')}", "residuals", f"at {words}"], lines)


def main():
    if sys.argv[1:2] == ["--generate"]:
        size, base, spacing, changed, usage = sys.argv[2:]
        return generate(int(size), base, int(spacing), changed == "1", usage)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("part", choices=[*UNIT, "report"])
    parser.add_argument("what", nargs="+", help="sizes; or of `report` files that --json wrote")
    parser.add_argument("--lifeboat", type=Path, default=root / "target/release/lifeboat")
    parser.add_argument("--changed", type=float, default=10, metavar="GIB", help="streams up to this one are changed too")
    parser.add_argument("--scratch", metavar="DIR", help="an existing one; a directory is made in it")
    parser.add_argument("--keep", action="store_true", help="keep repositories, states and data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measure there too")
    options = parser.parse_args()
    if options.part == "report":
        infos = [json.loads(Path(name).read_text()) for name in options.what]
        report([row for info in infos for row in info["rows"]])
        for line in sorted({f"{name}: {info[name]}" for info in infos for name in ("lifeboat", "machine", "sqlite")}):
            print(f"- {line}")
        return print("\n".join(f"- `{info['command']}`" for info in infos))
    options.lifeboat = options.lifeboat.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    version = subprocess.run([options.lifeboat, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    info = {"command": shlex.join([f"benches/{Path(sys.argv[0]).name}", *sys.argv[1:]]), "lifeboat": version, "sqlite":
            f"{sqlite3.sqlite_version} of Python, for sizes of tables", "rows": [],
            "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.platform()}"}
    scratch = Path(tempfile.mkdtemp(prefix="lifeboat-scale-", dir=options.scratch)).resolve()
    print(f"{version}; scratch: {scratch}", file=sys.stderr)
    try:
        for size in options.what:
            info["rows"].append(measure(options.part, float(size), options, scratch))
            if options.json:
                options.json.write_text(json.dumps(info, indent=1) + "\n")
        report(info["rows"])
    except RuntimeError as error:
        sys.exit(f"ERROR {error}")
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
