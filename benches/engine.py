#!/usr/bin/env python3
"""Compares lifeboat with restic, rustic, Borg, bupstash and `tar | zstd -3 -T2 | age`, side by side in one run.

    benches/install-peers                           # once; a tool that is missing is named, not measured
    benches/engine.py                               # all three sets, 5 rounds, target/release/lifeboat
    benches/engine.py --set convex --nights 30      # one set; then thirty nightly backups by lifeboat alone
    benches/engine.py --scale 0.1 --rounds 1        # quick look

The sets are described in `data.py`; they are made once, kept under target/bench-data and copied for each round.

Each round has new repositories and a fresh copy of the data. Within a step the tools run one after
another, their order rotating by round. Measured per command:
  wall    command plus the `sync` after it; page cache dropped before it where that is permitted
  CPU     user + system of the command and all its children (wait4), without that `sync`
  peak    largest resident set of any one process of the command (wait4). The kernel counts the
          launching process too, so no value is under the floor that the report names.
  stored  growth of the repository (sum of file sizes); local caches and state are not in it
Not timed: making data, init, keys, and `diff -r --no-dereference` of restored against source, where
a difference is an error (contents and names; not modes, owners, times). Any error: exit status 1.

A goal is judged on the median of the per-round ratios to one peer: the one whose median is best in that
figure. The report is Markdown, for docs/benchmarks.md.
"""
import sys
sys.dont_write_bytecode = True  # nothing but the report is left in the source tree

import argparse, json, math, os, platform, shlex, shutil, signal, subprocess, tempfile, time
from pathlib import Path

import data as sets
from peers import BACKUPS, ROOT, STEPS, TOOLS, find, run

MAIN_SETS = ("postgres", "convex", "source")


def run_round(number, tools, prepared, folder, info):
    """One round: {tool: {step: measures}}; errors go to info."""
    folder.mkdir()
    data = folder / "data"
    subprocess.run(["cp", "-a", prepared / "day-1", data], check=True)
    turn = number % len(tools)
    running = {name: TOOLS[name](tools[name], folder / name, data) for name in (list(tools) * 2)[turn:turn + len(tools)]}
    results = {name: {} for name in tools}
    for step in ("init", *STEPS):
        if step == "day 2":
            sets.in_workers((sets.become, data, prepared / "day-2"))
        if step in ("first backup", "day 2"):
            time.sleep(2)  # no tool may doubt a file because it changed this very moment
        for name, tool in list(running.items()):
            try:
                if step == "init":
                    tool.init()
                elif step in tool.steps:
                    result = results[name][step] = tool.step(step)
                    print(f"round {number}: {step:12} {name:8} {result['wall']:8.2f} s", file=sys.stderr)
            except RuntimeError as error:
                info["errors"].append(f"{prepared.name}, round {number}, {name}, {step}: {error}")
                del running[name]  # its later steps would measure something else
    return results


def run_nights(nights, times, tools, prepared, folder):
    """A first backup, then one each night; the first and the last snapshot restored in turn."""
    folder.mkdir()
    data, measures = folder / "data", {"nights": nights, "backup": [], "first": [], "last": []}
    subprocess.run(["cp", "-a", prepared / "day-1", data], check=True)
    tool = TOOLS["lifeboat"](tools["lifeboat"], folder / "lifeboat", data)
    tool.init()
    tool.step("first backup")
    for night in range(1, nights + 1):
        sets.change_night(data, night)
        time.sleep(2)
        measures["backup"].append(tool.step("day 2"))
        print(f"night {night}: {measures['backup'][-1]['wall']:.2f} s", file=sys.stderr)
    for number in range(times):
        pair = [("first", prepared / "day-1", f"latest~{nights}"), ("last", data, "latest")]
        for which, wanted, snapshot in pair if number % 2 == 0 else reversed(pair):
            measures[which].append(tool.restored(wanted, snapshot=snapshot))
            print(f"restore of the {which}: {measures[which][-1]['wall']:.2f} s", file=sys.stderr)
    return measures


def run_set(name, tools, scratch, options, info):
    """All rounds of one set, and its nights."""
    print(f"set {name}: data", file=sys.stderr)
    prepared = sets.prepared(name, options.scale, options.cache)
    result = {"data": json.loads((prepared / "facts.json").read_text()), "rounds": [], "nights": None}

    many_files = sum(1 for _ in (prepared / "day-1").rglob("*")) > 10_000

    def within(label, measure, *arguments):
        folder = scratch / f"{name}-{label}"
        try:
            return measure(*arguments, tools, prepared, folder)
        finally:
            # Not yet where it has many files: for minutes ext4 steps around the inodes that this frees, and restores pay.
            if not options.keep and not many_files:
                shutil.rmtree(folder, ignore_errors=True)

    for number in range(1, options.rounds + 1):
        result["rounds"].append(within(f"round-{number}", lambda *a: run_round(number, *a, info)))
    if options.nights and "lifeboat" in tools and (prepared / "day-1/json").is_dir():
        try:
            result["nights"] = within("nights", run_nights, options.nights, max(5, options.rounds))
        except RuntimeError as error:
            info["errors"].append(f"{name}, nights: {error}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lifeboat", type=Path, default=ROOT / "target/release/lifeboat")
    parser.add_argument("--set", default="all", metavar="SET,...", help=f"of {', '.join(sets.SETS)}; all: {', '.join(MAIN_SETS)}")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nights", type=int, default=0, help="nightly backups of a set with JSON lines, after its rounds")
    parser.add_argument("--without", choices=TOOLS, action="append", default=[], help="repeatable")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=ROOT / "target/bench-data", help="where the sets are kept")
    parser.add_argument("--scratch", metavar="DIR", help="an existing one; a directory is made in it")
    parser.add_argument("--keep", action="store_true", help="keep copies, repositories and keys")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measure there too")
    options = parser.parse_args()
    chosen = MAIN_SETS if options.set == "all" else options.set.split(",")
    if unknown := [name for name in chosen if name not in sets.SETS]:
        parser.error(f"no such set: {', '.join(unknown)}")
    if options.rounds < 1 or not 0 < options.scale < math.inf or options.nights < 0:
        parser.error("--rounds and --scale must be over 0, --nights not under it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tools, absent, versions = find(options.lifeboat, options.without)
    if not tools:
        parser.error(f"no tool can run: {absent}")
    options.cache = options.cache.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="lifeboat-engine-", dir=options.scratch)).resolve()
    print(f"scratch: {scratch}", file=sys.stderr)
    info = {"command": shlex.join(sys.argv), "absent": absent, "versions": versions, "errors": [], "sets": {},
            "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.platform()}"}
    try:
        for name in chosen:
            try:
                info["sets"][name] = run_set(name, tools, scratch, options, info)
            except RuntimeError as error:
                info["errors"].append(f"set {name}: {error}")
        info["floor"] = run(["true"], None, scratch / "log")["rss"]
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(info, indent=1) + "\n")
    from report import report  # late: this process must stay small while it measures
    report(info, list(tools))
    sys.exit(1 if info["errors"] else 0)


if __name__ == "__main__":
    main()
