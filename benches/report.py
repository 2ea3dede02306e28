"""What `engine.py` measured, as Markdown: a table for each set, and the goals with what was reached of them."""
from statistics import median

from data import MB
from peers import BACKUPS, PEERS, STEPS

MIB = 1 << 20
METRICS = {"wall": ("wall s", 1, 2), "cpu": ("CPU s", 1, 2), "rss": ("peak MiB", MIB, 0),
           "stored": ("stored MB", MB, 2)}  # title, unit, digits
CHECKERS = ("restic", "rustic", "borg")
ALL = ("postgres", "convex", "source", "tree")

# Figure, step, metric, the tools of which the best counts, goal as a factor of it for each set.
GOALS = [
    ("first backup, wall", "first backup", "wall", PEERS, dict.fromkeys(ALL, 0.8)),
    ("first backup, wall", "first backup", "wall", ("restic",), dict.fromkeys(ALL, 0.5)),
    ("first backup, wall", "first backup", "wall", ("tar",), dict.fromkeys(ALL, 1.0)),
    ("first backup, stored", "first backup", "stored", PEERS, dict.fromkeys(ALL, 1.02)),
    ("unchanged, wall", "unchanged", "wall", PEERS, dict.fromkeys(ALL, 1.0)),
    ("day 2, stored", "day 2", "stored", PEERS, {"postgres": 0.4, "convex": 0.55}),
    ("day 2, wall", "day 2", "wall", PEERS, dict.fromkeys(ALL, 0.7)),
    ("restore, wall", "restore", "wall", PEERS, dict.fromkeys(ALL, 0.8)),
    ("check, wall", "check", "wall", CHECKERS, dict.fromkeys(ALL, 0.6)),
]
PEAK, NIGHTS, UNCHANGED = 200 * MIB, 1.3, 0.06  # bytes, factor, seconds under which nobody counts


def table(head, rows, left):
    rows = [head, ["---"] * left + ["--:"] * (len(head) - left), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def values(rounds, tool, step, metric):
    """One value for each round in which all went well."""
    return [r[tool][step][metric] for r in rounds if metric in r.get(tool, {}).get(step, {})]


def ratios(rounds, step, metric, tool, base, floor=0):
    pairs = [(r[tool][step], r[base][step]) for r in rounds if step in r.get(tool, {}) and step in r.get(base, {})]
    return [a[metric] / max(b[metric], floor) for a, b in pairs if metric in a and max(b.get(metric, 0), floor)]


def spread(numbers):
    if not numbers:
        return "—"
    return f"{median(numbers):.2f}" + (f" ({min(numbers):.2f}–{max(numbers):.2f})" if len(numbers) > 1 else "")


def verdict(reached, goal):
    return "**met**" if reached <= goal else f"missed by {(reached / goal - 1) * 100:.0f} %"


def best(rounds, step, metric, peers):
    """The peer whose median is the smallest."""
    known = {peer: values(rounds, peer, step, metric) for peer in peers}
    return min((median(numbers), peer) for peer, numbers in known.items() if numbers)[1] if any(known.values()) else None


def measures(rounds, tools):
    rows = []
    for step in STEPS:
        for tool in tools:
            cells = []
            for key, (_, unit, digits) in METRICS.items():
                found = [value / unit for value in values(rounds, tool, step, key)]
                cells.append(f"{median(found):.{digits}f}" if found else "")
            if any(cells):
                rows.append([step, tool, *cells])
    return table(["step", "tool", *(title for title, _, _ in METRICS.values())], rows, 2)


def beside(rounds, tools):
    """Wall times of lifeboat over those of each other tool. What tar does each day is a first backup."""
    rows = []
    for step in STEPS:
        cells = ["" if tool == "tar" and step in BACKUPS[1:] else spread(ratios(rounds, step, "wall", "lifeboat", tool))
                 for tool in tools if tool != "lifeboat"]
        rows.append([step, *(cell.replace("—", "") for cell in cells)])
    return table(["wall, lifeboat /", *(tool for tool in tools if tool != "lifeboat")], rows, 1)


def judged(name, result):
    """A row for each goal of a set."""
    rounds = result["rounds"]
    for figure, step, metric, peers, goals in GOALS:
        if name not in goals:
            continue
        floor = UNCHANGED if step == "unchanged" else 0
        peer = best(rounds, step, metric, peers)
        found = ratios(rounds, step, metric, "lifeboat", peer, floor) if peer else []
        if not found:
            yield [figure, name, f"≤ {goals[name]:.2f} × {' or '.join(peers)}", "—", "not measured"]
            continue
        least = " or 60 ms" if floor else ""
        yield [figure, name, f"≤ {goals[name]:.2f} × {peer}{least}", spread(found), verdict(median(found), goals[name])]
    peaks = [(max(found), step) for step in STEPS if (found := values(rounds, "lifeboat", step, "rss"))]
    if peaks:
        peak, step = max(peaks)
        yield ["peak memory, every step", name, f"≤ {PEAK // MIB} MiB", f"{peak / MIB:.0f} MiB ({step})", verdict(peak, PEAK)]
    if nights := result["nights"]:
        found = [last["wall"] / first["wall"] for first, last in zip(nights["first"], nights["last"])]
        yield [f"restore after {nights['nights']} nights, last / first", name, f"≤ {NIGHTS:.2f}", spread(found),
               verdict(median(found), NIGHTS)]


def report(info, tools):
    rows = []
    for name, result in info["sets"].items():
        rounds = result["rounds"]
        print(f"### {name}\n\nMedians of {len(rounds)} round(s). " +
              "".join(f"{day.replace('-', ' ').capitalize()}: {facts}. " for day, facts in result["data"].items()).rstrip() + "\n")
        print(measures(rounds, tools))
        if "lifeboat" in tools and len(tools) > 1:
            print("Median of the per-round ratios (min–max); under 1 lifeboat is faster.\n\n" + beside(rounds, tools))
        if nights := result["nights"]:
            each = [(m["wall"], m["stored"] / MB, m["rss"] / MIB) for m in nights["backup"]]
            walls, stored, peaks = zip(*each)
            print(f"{nights['nights']} nights: a backup took {median(walls):.2f} s, added {median(stored):.1f} MB (medians) and "
                  f"{sum(stored):.1f} MB in all, {max(peaks):.0f} MiB at most. Restore of the first: "
                  f"{spread([m['wall'] for m in nights['first']])} s, of the last: "
                  f"{spread([m['wall'] for m in nights['last']])} s.\n")
        if "lifeboat" in tools:
            rows += judged(name, result)
    if rows:
        print("### Goals\n\n" + table(["figure", "set", "goal", "measured", ""], rows, 3))
    done = [m for result in info["sets"].values() for r in result["rounds"] for steps in r.values() for m in steps.values()]
    lines = [f"**not run: {name}: {why}**" for name, why in info["absent"].items()]
    lines += [f"**ERROR** {error}" for error in info["errors"]]
    lines += ["tar: unchanged and day 2 are full new archives; it has no check"] * ("tar" in tools)
    lines += ["bupstash: has no check that reads the data"] * ("bupstash" in tools)
    lines += ["restic: compression `auto`; it offers no zstd level"] * ("restic" in tools)
    lines += [f"page cache: dropped before {sum(m['dropped'] for m in done)} of {len(done)} timed commands",
              f"peak floor: {info['floor'] / MIB:.0f} MiB; a peak near it may be lower in truth",
              *(f"{name}: {text}" for name, text in info["versions"].items()),
              f"machine: {info['machine']}", f"command: `{info['command']}`"]
    print("\n".join(f"- {line}" for line in lines))
