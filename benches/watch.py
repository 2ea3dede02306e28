#!/usr/bin/env python3
"""What looking costs: `status`, the status page, an agent that waits.

    benches/watch.py                          # 50 sources, 10,000 snapshots; target/release/lifeboat
    benches/watch.py --nights 20              # quick look
    benches/watch.py --keep DIR               # keeps the repository there, and takes it from there the next time

  status  wall of `lifeboat status`, median of nine (goal: below 100 ms)
  page    first byte and whole size of `/` and its parts, and of one source's page, median of nine (goals: below 100 ms, below 300 KiB)
  agent   resident memory of an agent that serves the page, after ten visits and a run, and turns on the processor within 20 s of
          waiting (goals: below 40 MiB, none)

Measured one after another. The report is Markdown; figures count only from a machine that does nothing else.
"""
import argparse, os, re, statistics, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent
SOURCES = 50


def make(folder, lifeboat, nights):
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "x").write_text("x")
    lines = ['[repository]\nurl = "repo"\nstate_dir = "state"\n[serve]\nlisten = "127.0.0.1:0"\n'
             '[agent.jobs.yearly]\nat = "0 0 1 1 *"\nrun = "backup --all"\n']
    for n in range(1, SOURCES + 1):
        lines.append(f'[sources.s{n:02}]\nkind = "volume"\npath = "data"\n[objectives.s{n:02}]\nrpo = "1000d"\n')
    (folder / "lifeboat.toml").write_text("".join(lines))
    if not (folder / "repo").exists():
        subprocess.run([lifeboat, "init", "--generate-identity", "id"], cwd=folder, check=True, capture_output=True)
    for night in range(nights):
        (data / "x").write_text(str(night))
        subprocess.run([lifeboat, "-q", "backup", "--all"], cwd=folder, check=True, capture_output=True)


def median(deed, times=9):
    return statistics.median(deed() for _ in range(times))


def wall(command, folder):
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def first_byte(url):
    begun = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        answer.read(1)
        return time.perf_counter() - begun


def size(url):
    with urllib.request.urlopen(url) as answer:
        return len(answer.read())


def turns(pid):
    all = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        all += sum(int(count) for count in re.findall(r"ctxt_switches:\s+(\d+)", (task / "status").read_text()))
    return all


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--lifeboat", default=ROOT / "target/release/lifeboat", type=Path)
    args.add_argument("--nights", default=200, type=int)
    args.add_argument("--keep", type=Path)
    args = args.parse_args()
    lifeboat = args.lifeboat.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        there = folder.exists() and (folder / "repo").exists()
        make(folder, lifeboat, 0 if there else args.nights)
        status = median(lambda: wall([lifeboat, "status"], folder))
        agent = subprocess.Popen([lifeboat, "agent"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            url = agent.stdout.readline().split()[-1]
            time.sleep(2)
            first = median(lambda: first_byte(url + "/"))
            source = median(lambda: first_byte(url + "/source/s01"))
            parts = ["/", "/style.css", "/live.js", "/icon.svg"]
            whole = sum(size(url + part) for part in parts)
            one = size(url + "/source/s01")
            time.sleep(12)
            first_byte(url + "/")
            time.sleep(8)
            before = turns(agent.pid)
            time.sleep(20)
            waking = turns(agent.pid) - before
            memory = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{agent.pid}/status").read_text())[1])
        finally:
            agent.terminate()
            agent.wait()
    print("| figure | goal | now |\n|---|---|---|")
    print(f"| `status`, {SOURCES} sources, {SOURCES * args.nights:,} snapshots | 100 ms | {status * 1000:.0f} ms |")
    print(f"| page, first byte | 100 ms | {first * 1000:.1f} ms; of one source {source * 1000:.1f} ms |")
    print(f"| page with its parts | 300 KiB | {whole / 1024:.0f} KiB; of one source {one / 1024:.0f} KiB |")
    print(f"| agent, waiting, with the page | 40 MiB | {memory / 1024:.1f} MiB |")
    print(f"| its turns on the processor in 20 s | 0 | {waking} |")


if __name__ == "__main__":
    main()
