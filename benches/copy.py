#!/usr/bin/env python3
"""What a copy costs: `lifeboat copy` into a second repository beside `cp -a` of the first one and `sync`.

    benches/copy.py                        # 4 GB, five rounds, target/release/lifeboat
    benches/copy.py --gigabytes 1 --rounds 3

Both write the same bytes to the same disk, in turns; each copy is flushed before the clock stops, and lifeboat flushes what it writes as it always does. Then a
second copy of a night's changes, and one with nothing to do. Medians. Figures count only from a machine that does nothing else.
"""
import sys
sys.dont_write_bytecode = True

import argparse, os, random, shutil, statistics, subprocess, tempfile, time
from pathlib import Path

from peers import ROOT, run, size_of

MB = 1_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lifeboat", type=Path, default=ROOT / "target/release/lifeboat")
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "target", prefix="bench-copy-") as folder:
        bench(options, Path(folder))


def bench(options, folder):
    data, repo, log = folder / "data", folder / "repo", folder / "log"
    data.mkdir()
    rng = random.Random(7)
    for number in range(int(options.gigabytes * 10)):
        (data / f"noise{number}").write_bytes(rng.randbytes(100 * MB))
    env = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    say = lambda *words: run([options.lifeboat, "--quiet", "--repo", f"file://{repo}", *words], env, log)
    say("init", "--generate-identity", folder / "identity")
    say("backup", "--path", data, "--name", "data")
    bytes_there = size_of(repo)
    walls, tool = {"cp": [], "lifeboat": []}, None
    for turn in range(options.rounds):
        for target in (folder / "cp", folder / f"copy{turn}"):
            shutil.rmtree(target, ignore_errors=True)
        os.sync()
        start = time.monotonic()
        subprocess.run(["cp", "-a", repo, folder / "cp"], check=True)
        os.sync()
        walls["cp"].append(time.monotonic() - start)
        shutil.rmtree(folder / "cp")
        os.sync()
        # A copy each time: one that is there would have everything.
        start = time.monotonic()
        tool = say("copy", "--to", folder / f"copy{turn}", "--create")
        os.sync()
        walls["lifeboat"].append(time.monotonic() - start)
        if turn:
            shutil.rmtree(folder / f"copy{turn - 1}")
    cp, ours = statistics.median(walls["cp"]), statistics.median(walls["lifeboat"])
    print("| what | wall | rate | CPU | peak |\n|---|---|---|---|---|")
    print(f"| `cp -a` and `sync`, {bytes_there / MB:.0f} MB | {cp:.2f} s | {bytes_there / MB / cp:.0f} MB/s | | |")
    print(f"| `lifeboat copy` and `sync` | {ours:.2f} s | {bytes_there / MB / ours:.0f} MB/s | {tool['cpu']:.2f} s | {tool['rss'] / 2**20:.0f} MiB |")
    print(f"\n{cp / ours:.2f} x the speed of `cp` (goal: 0.8); rounds cp {[round(w, 2) for w in walls['cp']]}, lifeboat {[round(w, 2) for w in walls['lifeboat']]}\n")
    (data / "noise0").write_bytes(rng.randbytes(100 * MB))
    say("backup", "--path", data, "--name", "data")
    target = folder / f"copy{options.rounds - 1}"
    for what in ("a night with 100 MB new", "nothing to do"):
        done = say("copy", "--to", target)
        print(f"| {what} | {done['wall']:.2f} s | | {done['cpu']:.2f} s | {done['rss'] / 2**20:.0f} MiB |")


if __name__ == "__main__":
    main()
