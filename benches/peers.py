"""The tools that `engine.py` compares, and how one command of theirs is run and measured.

All encrypt; all compress with zstd at level 3 except restic, which offers no level: `auto` is its default, and the nearest.
"""
import os, re, shlex, shutil, signal, subprocess, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ROOT / "target/peers"  # by `install-peers`
BACKUPS = ("first backup", "unchanged", "day 2")
STEPS = (*BACKUPS, "restore", "check")
PREFIXES = ("LIFEBOAT_", "RESTIC_", "RUSTIC_", "BORG_", "BUPSTASH_", "XDG_")


def run(command, env, log, cwd=None):
    """Runs a command with its output in log; returns seconds, CPU seconds and peak bytes."""
    with open(log, "wb") as out:
        start = time.perf_counter()
        child = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
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


def drop_cache():
    """Writes back what is dirty and empties the page cache; whether that was permitted."""
    drop = "sync; echo 3 > /proc/sys/vm/drop_caches"
    return subprocess.run(["bash", "-c", drop], stderr=subprocess.DEVNULL).returncode == 0


def size_of(top):
    return sum(os.lstat(f"{base}/{name}").st_size for base, _, names in os.walk(top) for name in names)


def compare(wanted, restored):
    """Contents and names of two trees; a difference is an error."""
    diff = subprocess.run(["diff", "-rq", "--no-dereference", wanted, restored], capture_output=True, text=True)
    if diff.returncode:
        raise RuntimeError(f"restored tree differs:\n{(diff.stdout + diff.stderr)[:1500]}")


class Tool:
    """One tool in one round: where its repository is, and its command for each step."""

    programs, steps = (), STEPS

    def __init__(self, binaries, folder, data):
        self.binary, self.folder, self.data = binaries[self.programs[0]], folder, data
        self.repo, self.out, self.log, self.key = (folder / n for n in ("repo", "out", "log", "key"))
        folder.mkdir(parents=True)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
        # Every cache and state of a tool lies in its folder, and is new in each round.
        self.env |= {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": str(folder / "cache")}

    def do(self, *command, cwd=None):
        return run([self.binary, *command], self.env, self.log, cwd)

    def step(self, step):
        """Runs and measures one step."""
        if step == "restore":
            return self.restored(self.data)
        before, dropped = size_of(self.repo), drop_cache()
        result = (self.check if step == "check" else self.backup)() | {"dropped": dropped}
        if step in BACKUPS:
            result["stored"] = size_of(self.repo) - before
        return result

    def restored(self, wanted, **which):
        """Restores, measures, and compares with what is wanted."""
        self.out.mkdir()
        dropped = drop_cache()
        result = self.restore(**which) | {"dropped": dropped}
        place = self.out  # tools keep more or less of the path
        for candidate in (self.out / str(self.data).lstrip("/"), self.out / self.data.name):
            if candidate.is_dir():
                place = candidate
                break
        compare(wanted, place)
        # Removed with the round only: ext4 steps around inodes that were freed a moment ago one by one, and the next tool would
        # pay for that.
        self.out.rename(self.folder / f"restored-{len(list(self.folder.glob('restored-*')))}")
        return result


class Lifeboat(Tool):
    programs = ("lifeboat",)

    def init(self):
        self.repo.mkdir()
        self.do("key", "generate", "--output", self.key)
        self.recipient = recipient_in(self.log)
        self.lifeboat("init", "--recipient", self.recipient)

    def lifeboat(self, *command):
        return self.do("--repo", f"file://{self.repo}", *command)

    def backup(self):
        return self.lifeboat("--recipient", self.recipient, "backup", "--path", self.data, "--name", "data")

    def restore(self, snapshot="latest"):
        return self.lifeboat("--identity", self.key, "restore", "data", "--snapshot", snapshot, "--into", self.out)

    def check(self):
        return self.lifeboat("--identity", self.key, "check", "--read-data")


class Restic(Tool):
    programs = ("restic",)

    def init(self):
        self.env["RESTIC_PASSWORD"] = "x"
        self.restic("init", "--repository-version", "2")

    def restic(self, *command):
        return self.do("-r", self.repo, "--compression", "auto", *command)

    def backup(self):
        return self.restic("backup", self.data)

    def restore(self):
        return self.restic("restore", "latest", "--target", self.out)

    def check(self):
        return self.restic("check", "--read-data")


class Rustic(Tool):
    programs = ("rustic",)

    def init(self):
        self.env["RUSTIC_PASSWORD"] = "x"
        self.rustic("init", "--set-compression", "3")

    def rustic(self, *command):
        return self.do("--no-progress", "-r", self.repo, *command)

    def backup(self):
        return self.rustic("backup", self.data)

    def restore(self):
        return self.rustic("restore", f"latest:{self.data}", self.out)

    def check(self):
        return self.rustic("check", "--read-data")


class Borg(Tool):
    programs = ("borg",)

    def init(self):
        self.env |= {"BORG_PASSPHRASE": "x", "BORG_BASE_DIR": str(self.folder / "base")}
        self.count = 0
        # Not repokey-blake2: where the processor has SHA instructions, as nearly all do by now, that is the slower one.
        self.do("init", "--encryption", "repokey", self.repo)

    def backup(self):
        self.count += 1
        return self.do("create", "--compression", "zstd,3", f"{self.repo}::{self.count}", self.data)

    def restore(self):
        return self.do("extract", f"{self.repo}::{self.count}", cwd=self.out)

    def check(self):
        return self.do("check", "--verify-data", self.repo)


class Bupstash(Tool):
    programs, steps = ("bupstash",), STEPS[:-1]

    def init(self):
        self.do("new-key", "-o", self.key)
        self.env |= {"BUPSTASH_KEY": str(self.key), "BUPSTASH_REPOSITORY": str(self.repo)}
        self.do("init")

    def backup(self):
        result = self.do("put", "--compression", "zstd:3", "--send-log", self.folder / "send-log", self.data)
        self.newest = re.search(r"\b[0-9a-f]{32}\b", self.log.read_text())[0]
        return result

    def restore(self):
        return self.do("restore", "--ownership", "--into", self.out, f"id={self.newest}")


class Tar(Tool):
    programs, steps = ("tar", "zstd", "age", "age-keygen"), STEPS[:-1]

    def init(self):
        self.repo.mkdir()
        run(["age-keygen", "-o", self.key], self.env, self.log)
        self.recipient, self.count = recipient_in(self.log), 0

    def shell(self, text, *paths):
        return run(["bash", "-o", "pipefail", "-c", text, "bash", *paths], self.env, self.log)

    def backup(self):
        self.count += 1
        self.newest = self.repo / f"{self.count}.tar.zst.age"
        return self.shell(f'tar -C "$1" -c "$2" | zstd -q -3 -T2 | age -r {self.recipient} > "$3"',
                          self.data.parent, self.data.name, self.newest)

    def restore(self):
        return self.shell('age -d -i "$1" "$2" | zstd -q -d | tar -x -C "$3"', self.key, self.newest, self.out)


TOOLS = {"lifeboat": Lifeboat, "restic": Restic, "rustic": Rustic, "borg": Borg, "bupstash": Bupstash, "tar": Tar}
PEERS = ("restic", "rustic", "borg", "bupstash")  # those that deduplicate


def recipient_in(log):
    if not (found := re.search(r"\bage1[0-9a-z]+", log.read_text())):
        raise RuntimeError("no recipient printed at key generation")
    return found[0]


def find(lifeboat, without):
    """The tools that run, {name: {program: where}}; those that do not, {name: why}; all versions."""
    tools, absent, versions = {}, {}, {}
    places = {"lifeboat": [lifeboat], "borg": [INSTALLED / "borg/bin/borg"]}
    for name, tool in TOOLS.items():
        if name in without:
            absent[name] = "left out by --without"
            continue
        paths = {}
        for program in tool.programs:
            for place in (*places.get(program, [INSTALLED / "bin" / program]), *([] if program == "lifeboat" else [program])):
                if found := shutil.which(place):
                    paths[program] = os.path.abspath(found)
                    break
        if missing := [program for program in tool.programs if program not in paths]:
            absent[name] = f"not installed: {', '.join(missing)}"
            continue
        tools[name] = paths
        for program in tool.programs[:3]:
            flag = "version" if program == "restic" else "--version"
            shown = subprocess.run([paths[program], flag], capture_output=True, text=True)
            versions[program] = (shown.stdout or shown.stderr).partition("\n")[0]
    return tools, absent, versions
