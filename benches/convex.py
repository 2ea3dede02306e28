#!/usr/bin/env python3
"""Measures snapshots, changes and restores of a Convex deployment: the test deployment, on loopback.

    benches/install-peers restic
    cargo build --release && cargo build --release --manifest-path tests/deployment/Cargo.toml --target-dir target
    benches/convex.py --documents 2000000 --files 5000 --changes 1000000 --rate 5000 --json convex.json

  first        the first snapshot; `own` is what remains of its time without the server's (an export and its download, done by this script),
               and `rate` the plain bytes in that time
  second       after one write for a hundred documents: bytes that lifeboat stored; that restic stored for the archive as
               `convex export` leaves it; that restic stored for the archive's members, unpacked
  stream       --rate writes a second for --seconds: how old the newest recovery point was, each time one was stored
  fold         --changes changes behind the snapshot, laid over it into an archive: seconds, and the most memory of the process
Without restic its figures are left out, and that is said.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, threading, time, urllib.request, zipfile
from datetime import datetime, timezone
from pathlib import Path


class Server:
    def __init__(self, binary, documents, files):
        command = [binary, "--port", "0", "--documents", str(documents), "--files", str(files)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        words = dict(self.process.stdout.readline().split(" ", 1) for _ in range(5))
        self.url, self.key = words["url"].strip(), words["admin_key"].strip()

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Convex {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read()

    def churn(self, writes):
        self.ask("POST", f"/test/churn?writes={writes}", {})

    def export(self, path):
        """What `convex export` does, without its WebSocket."""
        self.ask("POST", "/api/export/request/zip?includeStorage=false", {})
        while True:
            body = {"path": "_system/cli/exports:getLatest", "args": {}, "format": "convex_encoded_json"}
            state = json.loads(self.ask("POST", "/api/query", body))["value"]
            if state["state"] == "completed":
                break
            time.sleep(0.05)
        request = urllib.request.Request(f"{self.url}/api/export/zip/{state['_id']}", headers={"Authorization": f"Convex {self.key}"})
        with urllib.request.urlopen(request, timeout=600) as answer, open(path, "wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)


def timed(command, env, quiet=True):
    """Seconds, the most memory in bytes, and what it printed."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None)
    said = {}
    readers = [threading.Thread(target=lambda: said.update(out=process.stdout.read()))]
    if quiet:
        readers.append(threading.Thread(target=lambda: said.update(err=process.stderr.read())))
    for reader in readers:
        reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    for reader in readers:
        reader.join()
    if status != 0:
        sys.exit(f"{command} ended with {status}: {said.get('err', b'').decode()}")
    return seconds, usage.ru_maxrss * 1024, said["out"].decode()


def added(said):
    for line in said.splitlines():
        message = json.loads(line)
        if "data_added_packed" in message:
            return message["data_added_packed"], message
    sys.exit(f"no summary in: {said}")


class Restic:
    def __init__(self, folder):
        self.program = shutil.which("restic")
        self.env = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(folder), "RESTIC_CACHE_DIR": str(folder) + "-cache"}
        if self.program:
            subprocess.run([self.program, "init", "--repository-version", "2"], env=self.env, check=True, stdout=subprocess.DEVNULL)

    def backup(self, path):
        """Bytes that it stored."""
        if not self.program:
            return None
        before = self.size()
        timed([self.program, "backup", str(path)], self.env)
        return self.size() - before

    def size(self):
        return sum(path.stat().st_size for path in Path(self.env["RESTIC_REPOSITORY"]).rglob("*") if path.is_file())


def unpack(archive, folder):
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(archive) as members:
        members.extractall(folder)


def snapshots(server, lifeboat, env, root, documents, results):
    server.export(root / "warm.zip")
    began = time.monotonic()
    server.export(root / "export.zip")
    of_server = time.monotonic() - began
    seconds, memory, said = timed(lifeboat + ["--json", "backup", "app"], env)
    first, summary = added(said)
    plain = sum(member.file_size for member in zipfile.ZipFile(root / "export.zip").infolist())
    own = max(seconds - of_server, 1e-9)
    results["first"] = {"seconds": round(seconds, 2), "server": round(of_server, 2), "own": round(own, 2), "plain": plain,
                        "rate_mb_s": round(plain / own / 1e6), "memory_mib": memory >> 20, "stored": first}
    zips, members = Restic(root / "restic-zip"), Restic(root / "restic-members")
    tree, archive = root / "members", root / "export.zip"
    unpack(archive, tree)
    zips.backup(archive), members.backup(tree)
    server.churn(documents // 100)
    server.export(archive)
    unpack(archive, tree)
    _, _, said = timed(lifeboat + ["--json", "backup", "app"], env)
    second, _ = added(said)
    of_zip, of_members = zips.backup(archive), members.backup(tree)
    results["second"] = {"lifeboat": second, "restic_zip": of_zip, "restic_members": of_members}
    if of_zip:
        results["second"].update(to_zip=round(second / of_zip, 3), to_members=round(second / of_members, 3))
    else:
        print("restic is not there: its figures are left out", file=sys.stderr)
    for path in [archive, root / "warm.zip"]:
        path.unlink()
    shutil.rmtree(tree)


class Follower:
    def __init__(self, lifeboat, env):
        self.process = subprocess.Popen(lifeboat + ["--json", "follow", "app"], env=env, stdout=subprocess.PIPE, text=True)
        self.lags, self.changes, self.newest, self.following = [], 0, None, threading.Event()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == "following":
                self.following.set()
            if said["event"] == "stored":
                self.newest = datetime.fromisoformat(said["newest"].replace("Z", "+00:00"))
                self.lags.append((datetime.now(timezone.utc) - self.newest).total_seconds())
                self.changes += said["changes"]

    def end(self):
        self.process.terminate()
        if self.process.wait() != 0:
            sys.exit("the follower failed")


def stream(server, lifeboat, env, rate, seconds, changes, results):
    follower = Follower(lifeboat, env)
    follower.following.wait()
    follower.lags.clear()
    began, written = time.monotonic(), 0
    oldest = 0.0
    while time.monotonic() - began < seconds:
        due = int((time.monotonic() - began) * rate)
        server.churn(due - written)
        written = due
        if follower.newest:
            oldest = max(oldest, (datetime.now(timezone.utc) - follower.newest).total_seconds())
        time.sleep(0.05)
    took = time.monotonic() - began
    lags = sorted(follower.lags)
    results["stream"] = {"writes_per_second": round(written / took), "median_lag_s": round(lags[len(lags) // 2], 2),
                         "longest_lag_s": round(lags[-1], 2), "oldest_recovery_point_s": round(oldest, 2)}
    while written < changes:
        server.churn(20_000)
        written += 20_000
    server.churn(1)
    latest = json.loads(server.ask("GET", "/test/now"))["latest"] / 1e9
    while follower.newest is None or follower.newest.timestamp() + 0.001 < latest:
        time.sleep(0.2)
    follower.end()
    return follower.changes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lifeboat", default="target/release/lifeboat")
    parser.add_argument("--deployment", default="target/release/deployment")
    parser.add_argument("--documents", type=int, default=2_000_000)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--dir", help="where all of it lies")
    parser.add_argument("--json")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        root = Path(folder)
        server = Server(args.deployment, args.documents, args.files)
        try:
            (root / "key").write_text(server.key)
            (root / "work").mkdir()
            (root / "lifeboat.toml").write_text(
                f'[sources.app]\nkind = "convex"\nurl = "{server.url}"\nadmin_key_file = "{root}/key"\nwork_dir = "{root}/work"\n')
            env = {**os.environ, "HOME": folder, "LIFEBOAT_IDENTITY_FILE": f"{root}/id", "TMPDIR": f"{root}/work"}
            lifeboat = [os.path.abspath(args.lifeboat), "--config", f"{root}/lifeboat.toml", "--repo", f"file://{root}/repo"]
            env_init = {key: value for key, value in env.items() if key != "LIFEBOAT_IDENTITY_FILE"}
            timed(lifeboat + ["init", "--generate-identity", f"{root}/id"], env_init)
            snapshots(server, lifeboat, env, root, args.documents, results)
            changes = stream(server, lifeboat, env, args.rate, args.seconds, args.changes, results)
            seconds, memory, _ = timed(lifeboat + ["restore", "app", "--to", "latest", "--into", str(root / "folded.zip")], env)
            results["fold"] = {"changes": changes, "seconds": round(seconds, 1), "memory_mib": memory >> 20,
                               "archive": (root / "folded.zip").stat().st_size}
        finally:
            server.process.kill()
    print(json.dumps(results, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
