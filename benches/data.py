"""The sets of data that `engine.py` backs up, each with its first and its second day.

Everything is seeded: the same bytes at each run, but for `postgres`, where the server puts clock times and a
random identifier into some of its files. A set is made once and kept in a cache; a report names its digest.

  postgres  the data directory of a PostgreSQL 15 that was stopped cleanly, 0.5 GB: JSON documents as jsonb rows
            with three indexes (random primary key, time, workspace and time), filled by inserts. Day 2 updates 1 % of the rows
            (half anywhere, half in the newest tenth) and inserts 1 %
  convex    600 MB of JSON lines in 8 files, 300 MB incompressible in 300 files. Day 2 rewrites 1 % of the lines
            at their place (id kept, the rest new), appends 1 % and adds 3 % of incompressible files
  source    25,000 source-like files, 0.33 GB. Day 2 changes one line in 1 % of them
  tree      a quick mixture, 1.0 GB: JSON lines, incompressible files, pages that are partly zero, 12,000 source-like
            files; day 2 as in `convex` and `source`
"""
import concurrent.futures, contextlib, hashlib, itertools, json, math, multiprocessing, os, random, shutil, subprocess
import tempfile, time
from pathlib import Path

MB, PAGE, ROWS = 1_000_000, 8192, 560_000
POSTGRES = Path("/usr/lib/postgresql/15/bin")
DAY_1, DAY_2 = 1_760_000_000, 1_763_000_000


def seeded(name):
    """A generator, and a function that draws n of 2,500 words, some far more frequent than others."""
    rng, made = random.Random(f"lifeboat {name}"), random.Random("lifeboat words")
    syllables = [a + b for a in "b c d f g l m n p r s t v st tr ch".split() for b in "aeiou"]
    words = ["".join(made.choices(syllables, k=made.randint(1, 4))) for _ in range(2500)]
    weights = list(itertools.accumulate(1 / (rank + 8) for rank in range(2500)))
    return rng, lambda n: rng.choices(words, cum_weights=weights, k=n)


def documents(name, clock=DAY_1 * 1000):
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


def change_json(path, seed, grow=0.01):
    """Rewrites 1 % of the lines at their place and appends some."""
    lines, fresh = path.read_bytes().splitlines(True), documents(f"{seed} {path.name}", DAY_2 * 1000)
    for at in seeded(f"{seed} lines of {path.name}")[0].sample(range(len(lines)), math.ceil(len(lines) / 100)):
        lines[at] = lines[at][:32] + next(fresh)[32:]  # '{"_id":"' and 24 digits stay
    path.write_bytes(b"".join([*lines, *itertools.islice(fresh, math.ceil(len(lines) * grow))]))


def change_night(top, night):
    """One night of many: 1 % of all JSON lines rewritten at their place, nothing else."""
    in_workers(*((change_json, path, f"night {night}", 0) for path in sorted((top / "json").iterdir())))


def change_small(top):
    rng, paths = seeded("day 2 small")[0], sorted(top.rglob("*.rs"))
    for path in rng.sample(paths, math.ceil(len(paths) / 100)):
        lines = path.read_text().splitlines(keepends=True)
        lines[rng.randrange(len(lines))] = f"// changed on day 2: {rng.getrandbits(64):x}\n"
        path.write_text("".join(lines))


def make_mixture(top, json_size=0, blobs=0, page_size=0, small=0, small_size=0):
    jobs = []
    for name, used in (("json", json_size), ("blobs", blobs), ("pages", page_size), ("src", small)):
        if used:
            (top / name).mkdir(parents=True)
    if json_size:
        jobs += [(make_file, top / f"json/table-{n}.jsonl", json_size / 8, documents) for n in range(8)]
    if page_size:
        jobs += [(make_file, top / f"pages/base-{n}", page_size / 4, pages) for n in range(4)]
    if small:
        jobs += [(make_small, top / "src", n, 8, small, small_size / small) for n in range(8)]
    if blobs:
        jobs += [(make_blobs, top / "blobs", 0, blobs)]
    in_workers(*jobs)
    touch(top, DAY_1)


def change_mixture(top):
    jobs = [(change_json, path, "new") for path in sorted((top / "json").iterdir())] if (top / "json").is_dir() else []
    if (top / "src").is_dir():
        jobs.append((change_small, top / "src"))
    if (top / "blobs").is_dir():
        blobs = len(os.listdir(top / "blobs"))
        jobs.append((make_blobs, top / "blobs", blobs, blobs + math.ceil(blobs * 0.03)))
    in_workers(*jobs)
    touch(top, DAY_2, "-newermt", f"@{DAY_1 + 1}")


def touch(top, when, *which):
    """Old times on files: no tool may doubt one because it is new."""
    subprocess.check_call(["find", top, *which, "-exec", "touch", f"-d@{when}", "{}", "+"])


@contextlib.contextmanager
def server(source=None):
    """A running PostgreSQL on a new cluster, or on a copy of one: yields its directory and a function that runs SQL."""
    if not (POSTGRES / "initdb").exists():
        raise RuntimeError(f"PostgreSQL 15 is not installed: no {POSTGRES}/initdb")
    # It refuses root, and its own user may not reach the cache: hence another user, in a place open to all.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="lifeboat-postgres-", dir="/var/tmp"))
    top = folder / "data"

    def call(program, *arguments, **more):
        done = subprocess.run([*user, POSTGRES / program, *arguments], cwd=folder, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **more)
        if done.returncode:
            raise RuntimeError(f"{program}: exit {done.returncode}\n{done.stdout[-1500:]}")

    def sql(text, rows=None):
        psql = ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(folder), "-d", "postgres")
        with contextlib.ExitStack() as stack:
            more = {"stdin": stack.enter_context(open(rows))} if rows else {"stdin": subprocess.DEVNULL}
            call(*psql, "-c", text, **more)

    # Little WAL is kept (segments of 1 MB: with those of 16 MB, half of what a day adds would be WAL that no tool has seen), so
    # that the directory is data in the main; nothing runs in the background of its own accord.
    options = {"fsync": "off", "autovacuum": "off", "min_wal_size": "4MB", "max_wal_size": "64MB", "listen_addresses": "''",
               "synchronize_seqscans": "off", "max_parallel_workers_per_gather": 0, "unix_socket_directories": folder}
    try:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        if source:
            subprocess.check_call(["cp", "-a", source, top])
        else:
            call("initdb", "-D", top, "--locale=C", "--encoding=UTF8", "--auth=trust", "--wal-segsize=1")
        control = ("pg_ctl", "-D", top, "-w", "-t", "300", "-l", folder / "log")
        call(*control, "-o", " ".join(f"-c {name}={value}" for name, value in options.items()), "start")
        try:
            yield top, folder, sql
        finally:
            call(*control, "-m", "fast", "stop")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_rows(path, numbered):
    """(number, JSON line) as COPY reads them: number, id, time, document. The generated text needs no escapes."""
    with open(path, "w") as out:
        for number, line in numbered:
            text = line.decode().rstrip("\n")
            created = json.loads(text)["_creationTime"] / 1000
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(created)) + f".{round(created % 1 * 1000):03d}Z"
            key = hashlib.md5(text[8:32].encode()).hexdigest()
            out.write(f"{number}\t{key}\t{when}\t{text}\n")
    os.chmod(path, 0o644)


def make_postgres(top, scale):
    top.parent.mkdir(parents=True, exist_ok=True)
    rows = max(1000, round(ROWS * scale))
    with server() as (cluster, folder, sql):
        write_rows(folder / "rows", enumerate(itertools.islice(documents("rows"), rows)))
        # The number is how day 2 finds its rows again; what is indexed is what an application would index.
        sql("CREATE TABLE documents (number bigint, id uuid PRIMARY KEY, created timestamptz NOT NULL, doc jsonb NOT NULL);"
            "CREATE INDEX ON documents (created); CREATE INDEX ON documents ((doc->>'workspace'), created)")
        sql("COPY documents FROM STDIN", folder / "rows")
        sql("VACUUM ANALYZE")
    subprocess.check_call(["cp", "-a", cluster, top])
    shutil.rmtree(folder)


def change_postgres(top):
    fresh = documents("rows of day 2", DAY_2 * 1000)
    with server(top) as (cluster, folder, sql):
        sql("COPY (SELECT count(*) FROM documents) TO '%s/count'" % folder)
        rows = int((folder / "count").read_text())
        count, newest = math.ceil(rows / 100), rows - rows // 10
        rng = seeded("day 2 rows")[0]
        chosen = rng.sample(range(newest), count // 2) + rng.sample(range(newest, rows), count - count // 2)
        write_rows(folder / "updates", zip(sorted(chosen), fresh))
        write_rows(folder / "inserts", zip(range(rows, rows + count), fresh))
        sql("CREATE TEMPORARY TABLE fresh (LIKE documents); COPY fresh FROM STDIN; ANALYZE fresh;"
            "UPDATE documents SET doc = fresh.doc || jsonb_build_object('_id', documents.doc->'_id', '_creationTime', "
            "documents.doc->'_creationTime') FROM fresh WHERE documents.number = fresh.number", folder / "updates")
        sql("COPY documents FROM STDIN", folder / "inserts")
    shutil.rmtree(top)
    subprocess.check_call(["cp", "-a", cluster, top])
    shutil.rmtree(folder)


SETS = {
    "postgres": (lambda top, scale: in_workers((make_postgres, top, scale)), lambda top: in_workers((change_postgres, top))),
    "convex": (lambda top, scale: make_mixture(top, 600 * MB * scale, max(1, round(300 * scale))), change_mixture),
    "source": (lambda top, scale: make_mixture(top, small=max(100, round(25_000 * scale)), small_size=330 * MB * scale),
               change_mixture),
    "tree": (lambda top, scale: make_mixture(top, 500 * MB * scale, max(1, round(250 * scale)), 150 * MB * scale,
                                             max(100, round(12_000 * scale)), 100 * MB * scale), change_mixture),
}


def prepared(name, scale, cache):
    """The folder with `day-1`, `day-2` and `facts.json` of a set, made if the cache has none of these generators."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    folder, (make, change) = cache / f"{name}-{scale:g}-{digest}", SETS[name]
    if not (folder / "facts.json").exists():
        for stale in cache.glob(f"{name}-{scale:g}-*"):
            shutil.rmtree(stale)
        folder.mkdir(parents=True)
        make(folder / "day-1", scale)
        subprocess.check_call(["cp", "-a", folder / "day-1", folder / "day-2"])
        change(folder / "day-2")
        facts = {day: in_workers((facts_of, folder / day))[0] for day in ("day-1", "day-2")}
        (folder / "facts.json").write_text(json.dumps(facts))
    return folder


def become(top, wanted):
    """Makes top what wanted is, writing those files alone that differ in size or time, at their place."""
    def files(of):
        return {os.path.relpath(os.path.join(base, name), of) for base, _, names in os.walk(of) for name in names}

    there, needed = files(top), files(wanted)
    for name in there - needed:
        os.unlink(top / name)
    for name in sorted(needed):
        source, target = wanted / name, top / name
        new = os.lstat(source)
        if name in there:
            old = os.lstat(target)
            if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
                continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        os.chown(target, new.st_uid, new.st_gid)
        shutil.copystat(source, target)


def in_workers(*jobs):
    """Runs (function, arguments...) in other processes: the one that measures must stay small, see `peak`.

    Not a Pool: that ends its workers by a signal, which they would meet with the handler of this process, and could hang."""
    cores, fork = len(os.sched_getaffinity(0)), multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(cores, mp_context=fork) as pool:
        return [wait.result() for wait in [pool.submit(*job) for job in jobs]]


def facts_of(top):
    paths = [path for path in sorted(top.rglob("*")) if path.is_file()]
    lines = [f"{path.relative_to(top)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]
    return f"{size_of(top) / MB:.1f} MB in {len(paths):,} files, sha256 {hashlib.sha256(repr(lines).encode()).hexdigest()[:16]}"


def size_of(top):
    return sum(os.lstat(f"{base}/{name}").st_size for base, _, names in os.walk(top) for name in names)
