#!/usr/bin/env python3
"""What a prune costs and leaves, by lifeboat and, where `target/peers/bin/rustic` is, by rustic beside it.

    benches/install-peers                     # once, for rustic
    benches/prune.py                          # everything, target/release/lifeboat
    benches/prune.py --only forget,idle       # some: forget, nights, plan, rebuild, idle
    benches/prune.py --scale 0.1              # quick look

  forget  two snapshots (the second after a day's changes), the first is forgotten: wall, CPU, peak of `prune`, and what is stored before
          and when all of it is gone. lifeboat deletes after a grace of 0 here; rustic with `--instant-delete`
  nights  thirty nights of changes to 1 % of the lines, the last 7 kept, `forget` and `prune` each night on a host without identity; what
          is stored at the end, beside a fresh repository of the same 7 (goal: at most 1.3 times)
  plan    a repository of two million chunks: `prune --dry-run` (goal: below 10 s and 200 MiB)
  rebuild a repository of one million chunks and 10,000 commits: `catalog rebuild`, and the same by a bare machine with the identity (goal: below 30 s)
  idle    `forget --all --prune` with 1,000 snapshots and nothing to do (goal: below 1 s)

Measured as in `engine.py`, one command after another. The report is Markdown; figures count only from a machine that does nothing else.
"""
import sys
sys.dont_write_bytecode = True

import argparse, os, random, shutil, subprocess, tempfile
from pathlib import Path

from peers import ROOT, run, size_of

MB = 1_000_000


class Lifeboat:
    def __init__(self, binary, folder, identity=True):
        self.binary, self.folder, self.repo, self.log = binary, folder, folder / "repo", folder / "log"
        folder.mkdir(parents=True)
        self.env = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
        self.say("init", "--generate-identity", folder / "identity")

    def say(self, *words, config=None):
        config = ["--config", config] if config else []
        return run([self.binary, *config, "--quiet", "--repo", f"file://{self.repo}", *words], self.env, self.log)

    def backup(self, data):
        return self.say("backup", "--path", data, "--name", "data")

    def oldest(self):
        import json
        said = subprocess.run([self.binary, "--json", "--repo", f"file://{self.repo}", "snapshots"], env=self.env,
                              capture_output=True, text=True, check=True).stdout
        words = [word for word in json.dumps(json.loads(said.splitlines()[0])).split('"') if len(word) == 26]
        return sorted(word for word in words if word.startswith("0"))


class Rustic:
    def __init__(self, binary, folder):
        self.binary, self.folder, self.repo, self.log = binary, folder, folder / "repo", folder / "log"
        folder.mkdir(parents=True)
        self.env = {**os.environ, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "RUSTIC_PASSWORD": "bench",
                    "RUSTIC_REPOSITORY": str(self.repo)}
        self.say("init")

    def say(self, *words):
        return run([self.binary, "--no-progress", *words], self.env, self.log)

    def backup(self, data):
        return self.say("backup", data)


def make(folder, scale, seed=1):
    """Lines of text in 8 files, and incompressible files."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 9))) for _ in range(2000)]
    for number in range(8):
        with open(folder / f"lines{number}.jsonl", "w") as out:
            for n in range(int(100_000 * scale)):
                out.write(f'{{"id":"{number}-{n}","text":"{" ".join(rng.choices(words, k=40))}"}}\n')
    for number in range(int(100 * scale) + 1):
        (folder / f"noise{number}").write_bytes(rng.randbytes(MB))


def change(folder, night):
    """One line in a hundred is another one."""
    rng = random.Random(1000 + night)
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text().splitlines(keepends=True)
        for n in rng.sample(range(len(lines)), max(1, len(lines) // 100)):
            lines[n] = f'{{"id":"{n}","night":{night},"text":"{rng.randbytes(120).hex()}"}}\n'
        path.write_text("".join(lines))


def show(name, what, measures, repo=None):
    stored = "" if repo is None else f"{size_of(repo) / MB:.1f} MB"
    print(f"| {name} | {what} | {measures['wall']:.2f} s | {measures['cpu']:.2f} s | {measures['rss'] / 2**20:.0f} MiB | {stored} |", flush=True)


def bench_forget(options, folder):
    data = folder / "data"
    make(data, options.scale)
    tools = {"lifeboat": Lifeboat(options.lifeboat, folder / "lifeboat")}
    if options.rustic.exists():
        tools["rustic"] = Rustic(options.rustic, folder / "rustic")
    for tool in tools.values():
        tool.backup(data)
    change(data, 1)
    for noise in list(data.glob("noise*"))[:20]:
        noise.write_bytes(os.urandom(MB))
    for name, tool in tools.items():
        show(name, "second backup", tool.backup(data), tool.repo)
    if "rustic" in tools:
        rustic = tools["rustic"]
        rustic.say("forget", "--keep-last", "1")
        show("rustic", "prune", rustic.say("prune", "--instant-delete", "--max-unused", "5%"), rustic.repo)
    lifeboat = tools["lifeboat"]
    lifeboat.say("forget", "--snapshot", lifeboat.oldest()[0])
    show("lifeboat", "prune", lifeboat.say("prune", "--grace", "0h"), lifeboat.repo)


def bench_nights(options, folder):
    data, nights, keep = folder / "data", 30, 7
    make(data, options.scale)
    tool = Lifeboat(options.lifeboat, folder / "lifeboat")
    kept, worst = [], None
    for night in range(nights):
        change(data, night)
        tool.backup(data)
        kept = (kept + [shutil.copytree(data, folder / f"night{night}")])[-keep:]
        for old in set(folder.glob("night*")) - set(kept):
            shutil.rmtree(old)
        going = tool.oldest()[:-keep]
        if going:
            tool.say("forget", *[word for one in going for word in ("--snapshot", one)])
        pruned = tool.say("prune", "--grace", "0h")
        worst = pruned if worst is None or pruned["wall"] > worst["wall"] else worst
    show("lifeboat", f"the slowest prune of {nights} nights", worst, tool.repo)
    fresh = Lifeboat(options.lifeboat, folder / "fresh")
    for one in kept:
        # One place, as in the nights: paths and names are the same.
        shutil.rmtree(data)
        shutil.copytree(one, data)
        last = fresh.backup(data)
    show("lifeboat", f"a fresh repository of the {keep}", last, fresh.repo)
    print(f"\nstored: {size_of(tool.repo) / size_of(fresh.repo):.2f} times the fresh one (goal: at most 1.3)\n")


def fill(tool, data, chunks):
    """Backs up text until there are so many chunks: 16 KiB each on average."""
    data.mkdir(parents=True)
    rng, number, made = random.Random(5), 0, 0
    while made < chunks * 16 * 1024:
        for path in data.iterdir():
            path.unlink()
        for _ in range(8):
            text = rng.randbytes(64 * MB).hex()[: 128 * MB]
            (data / f"text{number}").write_text(text)
            number, made = number + 1, made + len(text)
        tool.backup(data)
    for path in data.iterdir():
        path.unlink()


def bench_plan(options, folder):
    tool = Lifeboat(options.lifeboat, folder / "lifeboat")
    fill(tool, folder / "data", int(2_000_000 * options.scale))
    show("lifeboat", "prune --dry-run", tool.say("prune", "--dry-run"), tool.repo)


def bench_rebuild(options, folder):
    tool = Lifeboat(options.lifeboat, folder / "lifeboat")
    fill(tool, folder / "data", int(1_000_000 * options.scale))
    (one, *_) = tool.oldest()
    for n in range(int(10_000 * options.scale) // 2):
        tool.say("pin", one)
        tool.say("unpin", one)
    for _ in range(3):
        show("lifeboat", "catalog rebuild", tool.say("catalog", "rebuild"), tool.repo)
    for n in range(3):
        bare = ["--identity", tool.folder / "identity", "--state-dir", folder / f"bare{n}", "snapshots"]
        show("lifeboat", "the first look of a bare machine", tool.say(*bare), tool.repo)


def bench_idle(options, folder):
    data, config = folder / "data", folder / "lifeboat.toml"
    data.mkdir(parents=True)
    config.write_text(f'[sources.data]\nkind = "volume"\npath = "{data}"\n[retention]\nkeep_last = 5000\n')
    tool = Lifeboat(options.lifeboat, folder / "lifeboat")
    for n in range(int(1000 * options.scale)):
        (data / "file").write_text(str(n))
        tool.say("backup", "data", config=config)
    tool.say("forget", "--all", "--prune", config=config)
    show("lifeboat", "forget --all --prune, nothing to do", tool.say("forget", "--all", "--prune", config=config), tool.repo)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lifeboat", type=Path, default=ROOT / "target/release/lifeboat")
    parser.add_argument("--rustic", type=Path, default=ROOT / "target/peers/bin/rustic")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="forget,nights,plan,rebuild,idle")
    options = parser.parse_args()
    print("| tool | command | wall | CPU | peak | stored |\n|---|---|---|---|---|---|")
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory(dir=ROOT / "target", prefix="bench-prune-") as folder:
            globals()[f"bench_{name}"](options, Path(folder))


if __name__ == "__main__":
    main()
