#!/usr/bin/env python3
"""Compares lifeboat with restic and with `tar | zstd -3 -T2 | age`, side by side in one run.

    benches/engine.py                           # 1 GB, 3 rounds, target/release/lifeboat
    benches/engine.py --scale 0.1 --rounds 1    # quick look

Data (`--set tree`, seeded: the same bytes at each run; the report has their digest): JSON lines,
incompressible files, 8 KiB pages that are partly zero, and many small source-like files. Day 2
rewrites 1 % of the JSON lines at their place (id kept, the rest new) and appends 1 %, adds 3 % of
incompressible files, and changes one line in 1 % of the small files.

Each round has new repositories and a fresh copy of the data. Within a step the tools run one after
another, their order rotating by round. Measured per command:
  wall    command plus the `sync` after it; page cache dropped before it where that is permitted
  CPU     user + system of the command and all its children (wait4), without that `sync`
  peak    largest resident set of any one process of the command (wait4). The kernel counts the
          launching process too, so no value is under the floor that the report names.
  stored  growth of the repository (sum of file sizes); local caches and state are not in it
Not timed: making data, init, keys, and `diff -r --no-dereference` of restored against source, where
a difference is an error (contents and names; not modes, owners, times). Any error: exit status 1.
"""
import argparse, hashlib, itertools, json, math, multiprocessing, os, platform, random, re, shlex
import shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

MB, PAGE = 1_000_000, 8192
TOOLS = ("lifeboat", "restic", "tar")
BACKUPS = ("first backup", "unchanged", "day 2")
STEPS = (*BACKUPS, "restore", "check")
METRICS = {"wall": ("wall s", 1, 2), "cpu": ("CPU s", 1, 2), "rss": ("peak MiB", 1 << 20, 0),
           "stored": ("stored MB", MB, 2)}  # title, unit, digits


def seeded(name):
    """A generator, and a function that draws n of 2,500 words, some far more frequent than others."""
    rng, made = random.Random(f"lifeboat {name}"), random.Random("lifeboat words")
    syllables = [a + b for a in "b c d f g l m n p r s t v st tr ch".split() for b in "aeiou"]
    words = ["".join(made.choices(syllables, k=made.randint(1, 4))) for _ in range(2500)]
    weights = list(itertools.accumulate(1 / (rank + 8) for rank in range(2500)))
    return rng, lambda n: rng.choices(words, cum_weights=weights, k=n)


def documents(name, clock=1_760_000_000_000):
    """JSON lines as a document store exports them."""
    (rng, draw), (_, names) = seeded(name), seeded("authors")
    authors = ['{"id":"u%s","name":"%s %s","email":"%s@mail.org"}' % (n, *names(3)) for n in range(3989)]
    while True:
        bits = rng.getrandbits(128)
        clock += bits & 0xFFF
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(clock // 1000))
        text = draw(10 + (bits >> 12 & 15))
        yield (f'{{"_id":"{bits >> 32:024x}","_creationTime":{clock},"type":"message","version":{bits % 7},'
               f'"workspace":"w{bits % 211:04d}","author":{authors[bits % 3989]},'
               f'"title":"{" ".join(text[:3])}","body":"{" ".join(text[3:-2])}",'
               f'"tags":["{text[-2]}","{text[-1]}"],"status":"{("open", "open", "closed")[bits % 3]}",'
               f'"amount":{bits >> 16 & 0xFFF}.{bits % 100:02d},"currency":"EUR","score":0.{bits % 9973:04d},'
               f'"deleted":false,"updatedAt":"{stamp}.{clock % 1000:03d}Z"}}\n').encode()


def pages(name):
    """As a database keeps them: header, slots, zero gap, rows from the end; every tenth all zero."""
    rng, draw = seeded(name)
    for number in itertools.count():
        head, rows, limit = rng.randbytes(6) + number.to_bytes(10, "big"), b"", rng.randint(1500, 7000)
        while len(rows) < limit:
            text = "|".join(draw(9)).encode()
            rows = number.to_bytes(8, "little") + rng.randbytes(28) + text + bytes(-len(text) % 8) + rows
            head += (PAGE - len(rows)).to_bytes(2, "little") + len(text).to_bytes(2, "little")
        yield head + bytes(PAGE - len(rows) - len(head)) + rows if number % 10 else bytes(PAGE)


def make_file(path, size, pieces):
    content = pieces(path.name)
    with open(path, "wb") as out:
        while out.tell() < size:
            out.write(next(content))


def make_blobs(folder, first, last):
    for n in range(first, last):
        (folder / f"blob-{n:05d}.bin").write_bytes(random.Random(f"blob {n}").randbytes(MB))


def make_small(top, part, parts, count, mean):
    """Every parts-th of count source-like files: about 25 a directory, nested, sizes spread widely."""
    rng, draw = seeded(f"small {part}")
    templates = ("    let {}_{} = {}.{}({})?;", "    if {}.{} > {}_{} {{ return {}; }}", "    }}", "",
                 "// {} {} {} {} {}", "fn {}_{}({}: &{}) -> Result<{}> {{",
                 "        {}.{}(\"{}\", {}, {});", "use crate::{}::{}::{{{}, {}, {}}};")
    for n in range(part, count, parts):
        folder, at = "", n // 25
        while at:
            folder, at = f"module{at}/{folder}", (at - 1) // 4
        text, size = "", mean * rng.lognormvariate(-0.405, 0.9)  # a factor of mean 1
        while len(text) < size:
            text += rng.choice(templates).format(*draw(5)) + "\n"
        (top / folder).mkdir(parents=True, exist_ok=True)
        (top / folder / f"{draw(1)[0]}_{n}.rs").write_text(text)


def make_tree(top, scale):
    for name in ("json", "blobs", "pages"):
        (top / name).mkdir(parents=True)
    small = max(100, round(12_000 * scale))
    jobs = [(make_file, top / f"json/table-{n}.jsonl", 500 * MB * scale / 8, documents) for n in range(8)]
    jobs += [(make_file, top / f"pages/base-{n}", 150 * MB * scale / 4, pages) for n in range(4)]
    jobs += [(make_small, top / "src", n, 8, small, 100 * MB * scale / small) for n in range(8)]
    in_workers(*jobs, (make_blobs, top / "blobs", 0, max(1, round(250 * scale))))
    subprocess.check_call(["find", top, "-exec", "touch", "-d@1760000000", "{}", "+"])  # nothing looks new


def change_json(path):
    lines, fresh = path.read_bytes().splitlines(True), documents(f"new {path.name}", 1_763_000_000_000)
    count = math.ceil(len(lines) / 100)
    for at in seeded(f"day 2 {path.name}")[0].sample(range(len(lines)), count):
        lines[at] = lines[at][:32] + next(fresh)[32:]  # '{"_id":"' and 24 digits stay
    path.write_bytes(b"".join([*lines, *itertools.islice(fresh, count)]))


def change_others(top):
    rng, paths = seeded("day 2 small")[0], sorted((top / "src").rglob("*.rs"))
    for path in rng.sample(paths, math.ceil(len(paths) / 100)):
        lines = path.read_text().splitlines(keepends=True)
        lines[rng.randrange(len(lines))] = f"// changed on day 2: {rng.getrandbits(64):x}\n"
        path.write_text("".join(lines))
    blobs = len(os.listdir(top / "blobs"))
    make_blobs(top / "blobs", blobs, blobs + math.ceil(blobs * 0.03))


def change_tree(top):
    in_workers((change_others, top), *((change_json, path) for path in (top / "json").iterdir()))


def in_workers(*jobs):
    """Runs (function, arguments...) in other processes: this one must stay small, see `peak`."""
    with multiprocessing.get_context("fork").Pool() as pool:
        return [wait.get() for wait in [pool.apply_async(job[0], job[1:]) for job in jobs]]


def facts_of(top):
    lines = [f"{path.relative_to(top)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
             for path in sorted(top.rglob("*")) if path.is_file()]
    return f"{size_of(top) / MB:.1f} MB, sha256 {hashlib.sha256(repr(lines).encode()).hexdigest()[:16]}"


def size_of(top):
    return sum(os.lstat(f"{base}/{name}").st_size for base, _, names in os.walk(top) for name in names)


def captured(*command):
    return subprocess.run(command, capture_output=True, text=True)


def run(command, env, log):
    """Runs a command with its output in log; returns seconds, CPU seconds and peak bytes."""
    with open(log, "wb") as out:
        start = time.perf_counter()
        child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 start_new_session=True)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # interrupted: take the whole pipeline down
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        os.sync()
        wall = time.perf_counter() - start
    if child.returncode:
        tail = "\n    ".join(log.read_text(errors="replace").splitlines()[-12:])
        raise RuntimeError(f"exit {child.returncode} of {shlex.join(map(str, command))}\n    {tail}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * 1024}


class Tool:
    """One tool in one round: where its repository is and its command for each step."""

    def __init__(self, name, binary, folder, data):
        self.name, self.binary, self.data, self.recipient, self.newest = name, binary, data, None, None
        self.repo, self.out, self.log, self.key = (folder / n for n in ("repo", "out", "log", "key"))
        self.repo.mkdir(parents=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("LIFEBOAT_", "RESTIC_", "XDG_"))}
        self.env |= {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "RESTIC_PASSWORD": "x"}

    def init(self):
        if self.name != "restic":
            make = ("age-keygen", "-o") if self.name == "tar" else (self.binary, "key", "generate", "--output")
            run([*make, self.key], self.env, self.log)
            if not (found := re.search(r"\bage1[0-9a-z]+", self.log.read_text())):
                raise RuntimeError("no recipient printed at key generation")
            self.recipient = found[0]
        if self.name != "tar":
            run(self.command("init"), self.env, self.log)

    def command(self, step):
        if self.name == "restic":
            return [self.binary, "-r", self.repo, "--compression", "auto", *{
                "init": ["init", "--repository-version", "2"], "check": ["check", "--read-data"],
                "restore": ["restore", "latest", "--target", self.out]}.get(step, ["backup", self.data])]
        if self.name == "lifeboat":
            key = ("--identity", self.key) if step in ("restore", "check") else ("--recipient", self.recipient)
            return [self.binary, "--repo", f"file://{self.repo}", *key, *{
                "init": ["init"], "check": ["check", "--read-data"],
                "restore": ["restore", "data", "--into", self.out],
            }.get(step, ["backup", "--path", self.data, "--name", "data"])]
        if step in BACKUPS:
            self.newest = self.repo / f"{step}.tar.zst.age"
        parent, name, key, out, archive = (shlex.quote(str(p)) for p in (
            self.data.parent, self.data.name, self.key, self.out, self.newest))
        return ["bash", "-o", "pipefail", "-c",
                f"tar -C {parent} -c {name} | zstd -3 -T2 | age -r {self.recipient} > {archive}"
                if step in BACKUPS else f"age -d -i {key} {archive} | zstd -d | tar -x -C {out}"]

    def step(self, step):
        """Runs and measures one step."""
        if step == "restore":
            self.out.mkdir()
        before, drop = size_of(self.repo), "sync; echo 3 > /proc/sys/vm/drop_caches"
        dropped = subprocess.run(["bash", "-c", drop], stderr=subprocess.DEVNULL).returncode == 0
        result = run(self.command(step), self.env, self.log) | {"dropped": dropped}
        if step in BACKUPS:
            result["stored"] = size_of(self.repo) - before
        if step == "restore":  # tools keep more or less of the path
            places = (self.out / str(self.data).lstrip("/"), self.out / self.data.name, self.out)
            place = next((p for p in places if (p / "json").is_dir()), self.out)
            diff = captured("diff", "-rq", "--no-dereference", self.data, place)
            if diff.returncode:
                raise RuntimeError(f"restored tree differs:\n{(diff.stdout + diff.stderr)[:1500]}")
            shutil.rmtree(self.out)
        return result


def run_round(number, tools, scratch, options, info):
    """One round: {tool: {step: measures}}; errors and facts about the data go to info."""
    folder, data = scratch / f"round-{number}", scratch / f"round-{number}" / "data"
    folder.mkdir()
    subprocess.run(["cp", "-a", scratch / "base", data], check=True)
    turn = number % len(tools)
    running = [Tool(n, tools[n], folder / n, data) for n in (list(tools) * 2)[turn:turn + len(tools)]]
    results = {name: {} for name in tools}
    for step in ("init", *STEPS):
        if step == "day 2":
            options.change(data)
        if step in ("first backup", "day 2"):
            facts = in_workers((facts_of, data))[0]
            if info["data"].setdefault(step, facts) != facts:
                info["errors"].append(f"round {number}: data of {step} differs from round 1: {facts}")
            time.sleep(2)  # no tool may doubt a file because it changed this very moment
        for tool in list(running):
            try:
                if step == "init":
                    tool.init()
                elif (tool.name, step) != ("tar", "check"):
                    result = results[tool.name][step] = tool.step(step)
                    print(f"round {number}: {step:12} {tool.name:8} {result['wall']:8.2f} s", file=sys.stderr)
            except RuntimeError as error:
                info["errors"].append(f"round {number}, {tool.name}, {step}: {error}")
                running.remove(tool)  # its later steps would measure something else
    if not options.keep:
        shutil.rmtree(folder)
    return results


def find_tools(options):
    """The tools that run, {name: binary}; those that do not, {name: why}; all versions."""
    tools, absent, versions = {}, {}, {}
    for name in TOOLS:
        binary = str(options.lifeboat.resolve()) if name == "lifeboat" else name
        needs = ("tar", "zstd", "age", "age-keygen") if name == "tar" else (binary,)
        why = ", ".join(f"{need} is not installed" for need in needs if not shutil.which(need))
        if why or name in options.without:
            absent[name] = "left out by --without" if name in options.without else why
            continue
        tools[name] = binary
        for n in needs[:3]:
            versions[n] = captured(n, "version" if n == "restic" else "--version").stdout.partition("\n")[0]
    return tools, absent, versions


def report(rounds, tools, info):
    from statistics import median  # late: this process must stay small while it measures

    def table(title, rows):
        head = ["step", title, *(m[0] for m in METRICS.values())]
        rows = [head, ["---"] * 2 + ["--:"] * len(METRICS), *rows]
        print("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")

    def cells(step, tool, base=None):  # medians, or with a base those of the ratios to it
        for key, (_, unit, digits) in METRICS.items():
            values = [r[tool][step][key] / (r[base][step][key] if base else unit) for r in rounds
                      if key in r[tool].get(step, {}) and (not base or r[base].get(step, {}).get(key))]
            text = f"{median(values):.{2 if base else digits}f}" if values else "—"
            yield f"{text} ({min(values):.2f}–{max(values):.2f})" if values and base else text

    print(f"Medians of {len(rounds)} round(s).\n")
    table("tool", [(s, t, *cells(s, t)) for s in STEPS for t in tools])
    if "lifeboat" in tools and len(tools) > 1:
        print("Median of the per-round ratios (min–max); under 1 lifeboat needs less.\n")
        table("ratio", [(s, f"lifeboat/{t}", *cells(s, "lifeboat", t)) for t in list(tools)[1:] for s in STEPS])
    dropped = [m["dropped"] for r in rounds for steps in r.values() for m in steps.values()]
    lines = [f"not run: {name}: {why}" for name, why in info["absent"].items()]
    lines += [f"ERROR {error}" for error in info["errors"]]
    lines += ["tar: unchanged and day 2 are full new archives; it has no check"] * ("tar" in tools)
    lines += [f"data of {step}: {facts}" for step, facts in info["data"].items()]
    lines += [f"page cache: dropped before {sum(dropped)} of {len(dropped)} timed commands",
              f"peak floor: {info['floor'] / (1 << 20):.0f} MiB; a peak near it may be lower in truth",
              *(f"{name}: {text}" for name, text in info["versions"].items()),
              f"machine: {info['machine']}", f"command: `{info['command']}`"]
    print("\n".join(f"- {line}" for line in lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root, sets = Path(__file__).resolve().parents[1], {"tree": (make_tree, change_tree)}
    parser.add_argument("--lifeboat", type=Path, default=root / "target/release/lifeboat")
    parser.add_argument("--set", choices=sets, default="tree")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", choices=TOOLS, action="append", default=[], help="repeatable")
    parser.add_argument("--scratch", metavar="DIR", help="an existing one; a directory is made in it")
    parser.add_argument("--keep", action="store_true", help="keep data, repositories and keys")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measure there too")
    options = parser.parse_args()
    make, options.change = sets[options.set]
    if options.rounds < 1 or not 0 < options.scale < math.inf:
        parser.error("--rounds and --scale must be over 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tools, absent, versions = find_tools(options)
    if not tools:
        parser.error(f"no tool can run: {absent}")
    scratch = Path(tempfile.mkdtemp(prefix="lifeboat-engine-", dir=options.scratch)).resolve()
    print(f"scratch: {scratch}", file=sys.stderr)
    try:
        info = {"command": shlex.join(sys.argv), "absent": absent, "versions": versions, "data": {},
                "errors": [], "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.platform()}"}
        make(scratch / "base", options.scale)
        rounds = [run_round(n + 1, tools, scratch, options, info) for n in range(options.rounds)]
        info["floor"] = run(["true"], None, scratch / "log")["rss"]
        report(rounds, tools, info)
        if options.json:
            options.json.write_text(json.dumps(info | {"rounds": rounds}, indent=1) + "\n")
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(1 if info["errors"] else 0)


if __name__ == "__main__":
    main()
