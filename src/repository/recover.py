#!/usr/bin/env python3
"""Read a lifeboat repository (format 1) without lifeboat.

The repository must lie in a local directory; copy a bucket first (RECOVERY.md, beside this file, says how).
Needed: python3 (3.9 or newer) and the programs age, zstd and b3sum. Nothing in the repository is changed.

  recover.py --repository DIR --identity FILE list                       all snapshots
  recover.py --repository DIR --identity FILE list SNAPSHOT              what is in one snapshot
  recover.py --repository DIR --identity FILE restore SNAPSHOT --into EMPTY_DIR
  recover.py --repository DIR --identity FILE cat SNAPSHOT PATH          one file to standard output
  recover.py --repository DIR verify                                     all objects against their names, no key needed

SNAPSHOT is an id, the beginning of an id, `writer/source` or `source` (the newest one of it).
FILE is an age identity or an SSH private key that is a recipient of this repository.
--fingerprint HEX  refuse any other repository: give it if you have it, `lifeboat init` printed it
--from-packs       look for snapshots in the packs too, not only in the log (slow; when the newest are missing)

Exit: 0 all done; 1 an error, or damage found by `verify`; 3 something was not restored (each is named at the end).
Where the bytes come from is not trusted: signatures and digests are checked, and what does not match is refused.
Temporary files have no name and vanish with this program; set TMPDIR to choose their disk.
"""
import argparse, base64, collections, contextlib, errno, functools, glob, hashlib, json, os, re, shutil, signal, stat
import subprocess, sys, tempfile, time

MIB = 1 << 20
COMMIT_LIMIT, DIRECTORY_LIMIT, FRAME_LIMIT, PACK_LIMIT = 256 * MIB, 64 * MIB, 8 * MIB, 256 * MIB
SMALL_LIMIT, LINE_LIMIT, CACHE_LIMIT = MIB, 64 * MIB, 64 * MIB
# What Python raises when a value of a JSON text is missing or of another type than the format says.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


class Fatal(Exception):
    """Ends the run: one `error:` line and one `hint:` line."""


class Refused(Exception):
    """One object is damaged, missing or not to be trusted. Others may be fine."""


class NotForUs(Refused):
    """An object is not sealed to this identity."""


def show(text):
    """Text from the repository, made safe for a terminal."""
    with contextlib.suppress(*MALFORMED):
        text = raw(text) if isinstance(text, dict) else text
    text = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else str(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tell(text, end="\n"):
    print(("\033[K" if sys.stderr.isatty() else "") + text, end=end, file=sys.stderr, flush=True)


def progress(text, last=[0.0]):
    """One line at most every two seconds, on a terminal only; the next line overwrites it."""
    if sys.stderr.isatty() and time.monotonic() - last[0] > 2:
        last[0] = time.monotonic()
        tell(text, end="\r")


# --- Ed25519 (RFC 8032), verification only --------------------------------------------------------------------------
# Points are in extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, xy = T/Z. So only the last step divides.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def point_add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_double(p):
    a, b, c = p[0] * p[0] % P, p[1] * p[1] % P, 2 * p[2] * p[2] % P
    h, g = a + b, a - b
    e, f = h - (p[0] + p[1]) ** 2, c + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_decode(data):
    """The point that 32 bytes stand for; ValueError when they stand for none."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x + u) % P == 0:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (v * x * x - u) % P or (x == 0 and sign):
        raise ValueError("not a point")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point_decode(bytes.fromhex("58" + "66" * 31))


@functools.lru_cache(maxsize=1024)
def sums_for(key):
    """What a bit of s and a bit of k add to s*BASE - k*key. Cached, for one key signs many commits."""
    x, y, z, t = point_decode(key)
    minus_key = P - x, y, z, P - t
    return None, BASE, minus_key, point_add(BASE, minus_key)


def ed25519_verify(key, signature, *message):
    """True when the owner of `key` made `signature` over the joined parts of `message`."""
    try:
        sums = sums_for(key)
    except ValueError:
        return False
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or s >= ORDER:
        return False
    sha = hashlib.sha512(signature[:32] + key)
    for part in message:
        sha.update(part)
    k = int.from_bytes(sha.digest(), "little") % ORDER
    r = 0, 1, 1, 0
    for bit in range(252, -1, -1):  # both products at once: they share the doublings
        r = point_double(r)
        add = sums[(s >> bit & 1) + 2 * (k >> bit & 1)]
        r = point_add(r, add) if add else r
    inverse = pow(r[2], -1, P)
    x, y = r[0] * inverse % P, r[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


# --- Checked values and stock programs ------------------------------------------------------------------------------
def number(value, low, high):
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"a number is not between {low} and {high}")
    return value


def hex32(value):
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("not 64 hexadecimal digits")
    return value


def raw(value):
    """The bytes of a manifest's string: UTF-8 text, or {"b64": ...} for what is not UTF-8."""
    return base64.b64decode(value["b64"], validate=True) if isinstance(value, dict) else value.encode("utf-8")


def clean_path(value):
    """A path that stays below the directory it is joined to; b"" is that directory itself."""
    path = raw(value)
    if path and (b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/"))):
        raise Refused("its path is absolute or not clean")
    return path


def open_file(path):
    """Open a regular file, and never wait on a pipe or a device that lies in its place."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as e:
        raise Refused(f"{show(path)}: {e.strerror}")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Refused(f"{show(path)}: not a regular file")
    return file


def read_small(path):
    with open_file(path) as file:
        data = file.read(SMALL_LIMIT + 1)
    if len(data) > SMALL_LIMIT:
        raise Refused(f"{show(path)}: larger than 1 MiB")
    return data


def b3sum(*arguments, stdin=b"", fds=()):
    """Output of b3sum. Keys go to its standard input, never into a file or an argument."""
    return subprocess.run(["b3sum", *arguments], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          pass_fds=fds).stdout


def b3sum_files(paths):
    """(path, digest or None) of each file; many files in one run, for starting b3sum costs more than a small file."""
    for first in range(0, len(paths), 64):
        batch = [path for path in paths[first:first + 64] if os.path.isfile(path)]
        sums = b3sum("--no-names", "--", *batch).split() if batch else []
        if len(sums) != len(batch):  # one of them was not readable: find out which
            sums = [b3sum("--no-names", "--", path).strip() for path in batch]
        found = dict(zip(batch, sums))
        yield from ((path, found.get(path, b"").decode() or None) for path in paths[first:first + 64])


def keyed(key, parts):
    """Keyed BLAKE3 of parts that pass by. b3sum wants a FILE for this: it gets a pipe, as /dev/fd/N."""
    read, write = os.pipe()
    with open(write, "wb") as pipe, subprocess.Popen(
            ["b3sum", "--keyed", "--no-names", f"/dev/fd/{read}"], pass_fds=[read], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        os.close(read)
        process.stdin.write(key)
        process.stdin.close()
        try:
            for part in parts:
                pipe.write(part)
        finally:
            pipe.close()  # b3sum ends only then
        return process.stdout.read().decode().strip()


LINES = {"pack", "snapshot", "seen", "renumber", "lost", "segment", "forget", "pin", "unpin", "accept",  # of a commit
         "retire", "keep", "deleted", "drill"}

KEEPER_LINES = {"pack", "seen", "renumber", "retire", "keep", "deleted"}


# --- The repository -------------------------------------------------------------------------------------------------
class Writer:
    def __init__(self, name, key):
        self.name, self.eras = name, [(key, None)]  # keys, and the commits at which their time ended: see read_rulings
        self.era_count = 1   # the keys behind those are of keepers
        self.packs = {}      # id -> size
        self.frames = {}     # id -> [(pack, at, stored, plain), ...]: the same frame may lie in several packs
        self.snapshots = {}  # id -> (record, was it found in a commit?)
        self.retired = set()  # ids of packs that nothing needs any more: they may be gone
        self.forgotten = set()  # ids: not the newest of anything any more; what they need may be gone
        self.log = set()     # digests of the commits that were read
        self.left_out = set()  # and of those that do not count
        self.seen = []       # commits of other writers that this one saw
        self.problems = []   # why the log alone does not tell everything

    def add_pack(self, pack, size, frames, end):
        """Take over the frames of a pack: inside it, in order, without overlap; or none of them."""
        free, places = 0, []
        for frame, at, stored, plain in frames:
            place = hex32(pack), number(at, free, end), number(stored, 1, end - at), number(plain, 0, FRAME_LIMIT)
            places.append((hex32(frame), place))
            free = at + stored
        for frame, place in places:
            self.frames.setdefault(frame, []).append(place)
        self.packs[hex32(pack)] = size

    def add_snapshot(self, record, committed):
        if not re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", record["id"]) or not isinstance(record["source"], str):
            raise ValueError("not a snapshot record")
        self.snapshots.setdefault(record["id"], (record, committed))


WRONG_IDENTITY = Fatal("wrong identity: nothing in this repository is sealed to it",
                       "compare `age-keygen -y IDENTITY` with the `recipients` in keys/recipients-*.json")
NO_DATA = Fatal("this identity opens the log, but not the data of this snapshot",
                "a keeper's or a host's identity restores nothing; use that of one of the `recipients`")


class Repository:
    def __init__(self, root, identity, fingerprint):
        self.root, self.identity, self.writers = os.path.abspath(root), identity, {}
        self.key = None                # the content key
        self.opened = self.closed = 0  # how many sealed objects this identity opened, and how many it did not
        self.cache, self.cached = collections.OrderedDict(), 0
        try:
            text = read_small(self.path("lifeboat.json"))
            about = json.loads(text)
            if about["format"] != 1:
                raise Fatal(f"this repository has format {show(about['format'])}, and this program knows format 1",
                            "use the recover.py of the lifeboat that made it")
            self.id, self.commitment = about["repository"], hex32(about["secret_commitment"])
            self.admission = bytes.fromhex(hex32(about["admission_key"]))
        except (Refused, *MALFORMED) as e:
            raise Fatal(f"not a repository: {e}", "--repository names the directory in which lifeboat.json lies")
        found = b3sum("--no-names", stdin=text).decode().strip()
        if not fingerprint:
            tell(f"fingerprint: {found} (not checked: compare it with the one that you noted)")
        elif fingerprint.lower() != found:
            raise Fatal(f"the fingerprint of this repository is {found}, not the one given",
                        "another repository, or lifeboat.json was replaced: do not trust it, find out why")

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def glob(self, *parts):
        return sorted(glob.glob(os.path.join(glob.escape(self.root), *parts)))

    def unseal(self, sealed, limit, compressed=True):
        """`age -d | zstd -d` of an open file. Never holds more than `limit` plain bytes."""
        with tempfile.TemporaryFile() as complaints:
            def start(source, *command):
                return subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=complaints)
            running = [start(sealed, "age", "-d", "-i", self.identity)]
            if compressed:
                running.append(start(running[0].stdout, "zstd", "-d", "-q", "-c"))
                running[0].stdout.close()  # only zstd holds it now: age ends when zstd does
            with running[-1].stdout as pipe:
                plain = pipe.read(limit + 1)
            for process in running if len(plain) > limit else ():
                process.kill()
            failed = [process.wait() for process in running]
            complaints.seek(0)
            said = complaints.read(4096).decode("utf-8", "replace")
        if len(plain) > limit:
            raise Refused(f"it has more plain bytes than the {limit} that are allowed")
        if any(failed):
            if re.search("no identity matched|no matching keys", said, re.IGNORECASE):
                self.closed += 1
                raise NotForUs("it is not sealed to this identity")
            raise Refused("it does not open: " + show((said.splitlines() or ["age or zstd failed"])[0]))
        self.opened += 1
        return plain

    def unseal_range(self, file, at, length, limit):
        file.seek(at)
        with tempfile.TemporaryFile() as sealed:
            if sealed.write(file.read(length)) != length:
                raise Refused("the pack ends too early")
            sealed.seek(0)
            return self.unseal(sealed, limit)

    def signed(self, data, kind, key):
        """The content of a signed text, after its signature was checked."""
        return self.signed_by(data, kind, [key])[1]

    def signed_by(self, data, kind, keys):
        """The same, and which of the keys it was that signed."""
        head = re.match(rb'\{"signature":"([0-9a-f]{128})"\}\n', data)
        if head:
            signature, content = bytes.fromhex(head[1].decode()), data[head.end():]
            for which, key in enumerate(keys):
                if ed25519_verify(key, signature, b"lifeboat format 1 " + kind + b"\n", content):
                    return which, content
        raise Refused("its signature is not valid")

    def open_secret(self):
        """Derive the content key. It stays None for a keeper's identity, which reads logs only."""
        reasons = []
        # Those in writers/ are for a host's own identity, which opens its own log.
        for place in self.glob("keys", "secret-*.age") + self.glob("writers", "*", "secret-*.age"):
            try:
                with open_file(place) as sealed:
                    content = json.loads(self.unseal(sealed, SMALL_LIMIT, compressed=False))
                secret = bytes.fromhex(hex32(content["secret"]))
                found = b3sum("--derive-key", "lifeboat 2026-11-21 format 1 commitment", "--raw", stdin=secret).hex()
                if content["repository"] != self.id or found != self.commitment:
                    raise Refused("another secret than the one that lifeboat.json commits to: it was replaced")
                self.key = b3sum("--derive-key", "lifeboat 2026-11-21 format 1 content key", "--raw", stdin=secret)
                return
            except NotForUs:
                pass
            except Refused as e:
                reasons.append(f"{show(place)}: {e}")
            except MALFORMED:  # without its text, which may show a part of the secret
                reasons.append(f"{show(place)}: malformed")
        if reasons or not self.closed:
            raise Fatal("no secret of this repository opens: " + (reasons or ["there is none in keys/"])[0],
                        "is the identity file whole? else fetch keys/ again from the store")

    def load(self, from_packs):
        """Read all writers: their logs, and their packs where a log does not tell everything."""
        for place in self.glob("writers", "*", "writer.json"):
            name = os.path.basename(os.path.dirname(place))
            try:
                about = json.loads(self.signed(read_small(place), b"writer", self.admission))
                place_named = about["repository"], about["writer"]
                if place_named != (self.id, name) or not re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", name):
                    raise Refused("writer.json was made for another place")
                writer = self.writers[name] = Writer(name, bytes.fromhex(hex32(about["key"])))
            except (Refused, *MALFORMED) as e:
                tell(f"warning: writer {show(name)} is left out: {e}")
                continue
            self.read_rulings(writer)
            self.read_log(writer)
            if from_packs:
                writer.problems.append("--from-packs was given")
        for writer in self.writers.values():
            for name, sequence, digest in writer.seen:
                if name not in self.writers:
                    tell(f"warning: writer {show(name)} is missing: writer {writer.name} saw it")
                elif digest not in self.writers[name].log and digest not in self.writers[name].left_out:
                    self.writers[name].problems.append(f"commit {sequence} is missing: writer {writer.name} saw it")
        if self.key is None and self.closed and not self.opened:
            raise WRONG_IDENTITY
        for writer in self.writers.values():
            for problem in dict.fromkeys(writer.problems):
                tell(f"warning: writer {writer.name}: {problem}")
            if writer.problems:
                self.read_packs(writer)

    def read_rulings(self, writer):
        """A log may have been ended, or given to another host: the admission key says so. The newest ruling says all."""
        found = {}
        for path, digest in b3sum_files(self.glob("writers", writer.name, "log", "ruling-*.json")):
            try:
                if os.path.basename(path) != f"ruling-{digest}.json":
                    raise Refused("its bytes do not match its name")
                ruling = json.loads(self.signed(read_small(path), b"ruling", self.admission))
                if (ruling["repository"], ruling["writer"]) != (self.id, writer.name):
                    raise Refused("it was made for another place")
                # Keepers sign too: what they moved, and what is gone. A key that is no era's says nothing else.
                signers = ruling["eras"] + ruling.get("keepers", [])
                eras = [(bytes.fromhex(hex32(signer["key"])), signer.get("until")) for signer in signers]
                count = len(ruling["eras"])
                found[digest] = (str(ruling["created"]), digest, ruling["previous"], eras, count)
            except (Refused, *MALFORMED) as e:
                tell(f"warning: writer {writer.name}: {show(os.path.basename(path))} is left out: {e}")
        replaced = {ruling[2] for ruling in found.values()}
        newest = [ruling for digest, ruling in found.items() if digest not in replaced]
        if newest:
            writer.eras, writer.era_count = max(newest)[3:]

    def log_texts(self, writer):
        """(sequence, digest, which key signed it, content) of each commit whose name and signature are right."""
        for path, digest in b3sum_files(self.glob("writers", writer.name, "log", "*.age")):
            name = os.path.basename(path)
            progress(f"reading the log of {writer.name}: {name[:12]}")
            try:
                if not digest or not re.fullmatch(f"[0-9]{{12}}-{digest}.age", name):
                    raise Refused("its bytes do not match its name")
                with open_file(path) as sealed:
                    data = self.unseal(sealed, COMMIT_LIMIT)
                yield (int(name[:12]), digest, *self.signed_by(data, b"commit", [key for key, _ in writer.eras]))
            except (Refused, *MALFORMED) as e:
                writer.problems.append(f"commit {show(name[:12])} is refused: {e}")

    def counting(self, writer):
        """For each key a test of its commits: do they stand before those with which its time ended?"""
        if all(until is None for _, until in writer.eras):
            return [lambda sequence, digest: True for _ in writer.eras]
        parents = {}
        for _, digest, _, content in self.log_texts(writer):
            try:
                parents[digest] = [hex32(parent) for parent in json.loads(content.partition(b"\n")[0])["parents"]]
            except (Refused, *MALFORMED):  # told when it is read for good
                pass
        writer.problems.clear()  # told when they are read for good
        return [self.counting_until(parents, until) for _, until in writer.eras]

    def counting_until(self, parents, until):
        if until is None:
            return lambda sequence, digest: True
        # When the store had what stands before a missing commit a copy of it does not tell: all of that counts here.
        found, hole = set(), 0
        unread = [(number(end["sequence"], 1, 10 ** 12), hex32(end["digest"])) for end in until]
        while unread:
            sequence, digest = unread.pop()
            if digest not in parents:
                hole = max(hole, sequence)
            elif digest not in found:
                found.add(digest)
                unread += [(sequence - 1, parent) for parent in parents[digest]]
        return lambda sequence, digest: sequence < hole or digest in found

    def read_log(self, writer):
        parents, counting = [], self.counting(writer)
        for sequence, digest, key, content in self.log_texts(writer):
            if not counting[key](sequence, digest):
                writer.left_out.add(digest)
                tell(f"warning: writer {writer.name}: commit {sequence} does not count: its key had ended")
                continue
            try:
                parents += self.read_commit(writer, sequence, content, key >= writer.era_count)
                writer.log.add(digest)
            except (Refused, *MALFORMED) as e:
                writer.problems.append(f"commit {sequence:012} is refused: {e}")
        if not set(parents) <= writer.log | writer.left_out:
            writer.problems.append("the log has a hole: a commit has a parent that is missing or refused")
        told = writer.log or writer.left_out or writer.problems
        if not told and self.glob("writers", writer.name, "packs", "*"):
            writer.problems.append("the log is missing")

    def read_commit(self, writer, sequence, content, by_keeper):
        head, *lines = [json.loads(line) for line in content.split(b"\n") if line]
        if head["commit"] != 1:
            raise Refused("its version is newer than this program")
        if (head["repository"], head["writer"], head["sequence"]) != (self.id, writer.name, sequence):
            raise Refused("it was made for another place")
        for line in lines:  # all keys first: nothing is taken from a commit that is not understood
            if len(line) != 1 or not line.keys() <= LINES:
                raise Refused(f"a newer lifeboat wrote it, with {show(list(line))}: use the recover.py of that one")
            if by_keeper and not line.keys() <= KEEPER_LINES:
                raise Refused("a keeper signed it, and it says what only its writer may")
        for line in lines:
            for kind, value in line.items():  # `renumber` and `uses` number frames for deleting; reading needs ids only
                if kind == "pack":
                    size = number(value["size"], 16, PACK_LIMIT)
                    writer.add_pack(value["id"], size, value["frames"], number(value["directory"]["at"], 0, size - 16))
                elif kind == "snapshot":
                    writer.add_snapshot(value, True)
                elif kind in ("retire", "deleted"):  # frames that are needed were copied: they lie in another pack too
                    writer.retired.update(map(str, value.get("packs", ())))
                elif kind == "keep":
                    writer.retired.difference_update(map(str, value.get("packs", ())))
                elif kind == "forget":
                    writer.forgotten.add(str(value["snapshot"]))
                elif kind == "seen":
                    writer.seen.append((str(value["writer"]), show(value["sequence"]), hex32(value["digest"])))
        return [hex32(parent) for parent in head["parents"]]

    def read_packs(self, writer):
        """Packs explain themselves: read the directories of those that no commit named."""
        tell(f"warning: writer {writer.name}: now reading the packs that the log does not name; a snapshot found only "
             "there is listed with `no commit`, and may lack data")
        unread = collections.Counter()
        for path in self.glob("writers", writer.name, "packs", "??", "*"):
            if os.path.basename(path) in writer.packs:
                continue
            progress("reading " + show(path))
            try:
                self.read_directory(writer, path)
            except (Refused, *MALFORMED) as e:
                unread[show(e)] += 1
        for reason, count in unread.items():
            tell(f"warning: writer {writer.name}: {count} packs are left out: {reason}")
        if self.key is None and not self.opened and unread:
            raise WRONG_IDENTITY

    def read_directory(self, writer, path):
        with open_file(path) as file:
            size = number(os.fstat(file.fileno()).st_size, 16, PACK_LIMIT)
            file.seek(size - 16)
            footer = file.read(16)
            length, count = int.from_bytes(footer[:4], "little"), int.from_bytes(footer[4:8], "little")
            if footer[8:] != b"LBTPACK1" or length > size - 16:
                raise Refused("the footer is not that of a pack")
            end = size - 16 - length
            data = self.unseal_range(file, end, length, DIRECTORY_LIMIT)
        # No commit vouches for it: only who writes the log now does.
        now = [key for key, until in writer.eras if until is None]
        line, _, chunks = self.signed_by(data, b"directory", now)[1].partition(b"\n")
        about = json.loads(line)
        if (about["directory"], about["repository"], about["writer"]) != (1, self.id, writer.name):
            raise Refused("the directory was made for another place, or is newer than this program")
        frames = [(frame["id"], frame["at"], frame["stored"], frame["plain"]) for frame in about["frames"]]
        if len(frames) != count or len(chunks) != 36 * sum(frame["chunks"] for frame in about["frames"]):
            raise Refused("the directory does not match its footer")
        writer.add_pack(os.path.basename(path), size, frames, end)
        if about.get("snapshot"):
            writer.add_snapshot(about["snapshot"], False)

    def frame(self, writer, frame):
        """The plain bytes of a frame, after its keyed digest matched. Many small files share one: the last are kept."""
        if frame in self.cache:
            self.cache.move_to_end(frame)
            return self.cache[frame]
        for pack, at, stored, plain in writer.frames[frame]:
            try:
                with open_file(self.path("writers", writer.name, "packs", pack[:2], pack)) as file:
                    data = self.unseal_range(file, at, stored, plain)
                if len(data) != plain or keyed(self.key, [data]) != frame:
                    raise Refused("its plain bytes do not match its digest")
                break
            except Refused as e:
                problem = type(e)(f"frame {frame} in pack {pack}: {e}")
        else:
            raise problem
        self.cache[frame] = data
        self.cached += len(data)
        while self.cached > CACHE_LIMIT:
            self.cached -= len(self.cache.popitem(last=False)[1])
        return data

    def pieces(self, writer, extents, size):
        """Check a file's extents; then give its bytes as (bytes, length), or (None, length) for a hole."""
        total = 0
        for frame, offset, length in extents:
            total += number(length, 0, 1 << 62)
            if frame is not None and frame not in writer.frames:
                raise Refused(f"frame {show(frame)} is missing")
            if frame is not None and number(offset, 0, FRAME_LIMIT) + length > writer.frames[frame][0][3]:
                raise Refused("an extent ends behind the end of its frame")
        if total != number(size, 0, 1 << 62):
            raise Refused("its extents do not add up to its size")
        return ((frame and memoryview(self.frame(writer, frame))[offset:offset + length], length)
                for frame, offset, length in extents)

    def entries(self, writer, record):
        """The entries of a snapshot's manifest, after the digest of the whole manifest matched."""
        with tempfile.TemporaryFile() as file:
            def parts():
                for piece, length in self.pieces(writer, manifest["extents"], manifest["bytes"]):
                    progress("reading the list of files")
                    file.write(piece)
                    yield piece
            try:
                manifest = record["manifest"]
                if keyed(self.key, parts()) != manifest["digest"]:
                    raise Refused("it does not match its digest")
                file.seek(0)
                if json.loads(file.readline(LINE_LIMIT)) != {"manifest": 1}:
                    raise Refused("it is newer than this program")
            except NotForUs:
                raise NO_DATA
            except (Refused, *MALFORMED) as e:
                raise Fatal(f"the manifest of snapshot {record['id']} cannot be read: {show(e)}",
                            "choose another snapshot; or run `verify`, and fetch what is damaged again")
            for line in iter(lambda: file.readline(LINE_LIMIT), b""):
                try:
                    entry = json.loads(line)
                    for _ in range(number(entry.pop("more", 0), 0, 700)):  # lines with nothing but further extents
                        entry["extents"] += json.loads(file.readline(LINE_LIMIT))
                except MALFORMED:
                    entry = None
                yield entry if isinstance(entry, dict) else {"path": "(a line of the manifest that is no entry)"}

    def choose(self, wanted):
        """The snapshot that a word of the command line means."""
        every = sorted((r["id"], w.name, r["source"]) for w in self.writers.values() for r, _ in w.snapshots.values())
        newest = {(writer, source): (ident, writer, source) for ident, writer, source in every
                  if ident not in self.writers[writer].forgotten}.values()
        found = ([s for s in every if wanted.upper() == s[0] or wanted == f"{s[1]}/{s[0]}"]
                 or [s for s in newest if wanted == f"{s[1]}/{s[2]}"] or [s for s in newest if wanted == s[2]]
                 or [s for s in every if wanted and s[0].startswith(wanted.upper())])
        if len(found) != 1:
            which = ", ".join(f"{writer}/{ident}" for ident, writer, _ in found)
            raise Fatal(f"{len(found) or 'no'} snapshots are called `{show(wanted)}`",
                        f"name one of them: {which}" if found else "`list` shows all snapshots")
        ident, name, source = found[0]
        record = self.writers[name].snapshots[ident][0]
        tell(f"snapshot: {ident} of {name}/{show(source)}, ended {show(record.get('ended'))}")
        if not record.get("complete"):
            tell(f"warning: this snapshot is INCOMPLETE: {show(record.get('skipped'))} entries were skipped back then")
        return self.writers[name], record


# --- Restore --------------------------------------------------------------------------------------------------------
class Restore:
    """Everything goes through descriptors of directories that were made here, so that no symlink is ever followed."""

    def __init__(self, repository, writer, record, into):
        self.repository, self.writer, self.record = repository, writer, record
        try:
            os.makedirs(into, 0o700, exist_ok=True)
            self.root = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
            if os.listdir(self.root):
                raise OSError(errno.ENOTEMPTY, "the directory is not empty")
            os.fchmod(self.root, 0o700)  # nobody else looks in, or puts anything there, before all is done
        except OSError as e:
            raise Fatal(f"{show(into)}: {e.strerror}", "--into wants a new directory; afterwards move what you need")
        self.made = {b""}  # the directories that were made from entries of the manifest
        self.directories, self.links, self.unfinished = [], [], []
        self.failed, self.warned, self.files, self.bytes = [], [], 0, 0

    @contextlib.contextmanager
    def parent(self, path):
        """A descriptor of the directory that `path` lies in, and the name in it."""
        parent, _, name = path.rpartition(b"/")
        if parent not in self.made:
            raise Refused("it does not lie in a directory of this snapshot that was restored")
        fd = os.dup(self.root)
        try:
            for part in parent.split(b"/") if parent else ():
                above, fd = fd, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(above)
            yield fd, name
        finally:
            os.close(fd)

    def run(self):
        for entry in self.repository.entries(self.writer, self.record):
            self.attempt(self.failed, entry.get("path"), self.entry, entry)
        self.finish_files()
        for path, target in self.links:  # a link may stand before its target in the manifest: so all links come last
            self.attempt(self.failed, path, self.link, path, target)
        for path, entry in reversed(self.directories):  # deepest first: what is made in a directory changes its time
            self.attempt(self.warned, path, self.finish_directory, path, entry)

    def attempt(self, problems, path, action, *arguments):
        """Do one step. What goes wrong is noted, and the rest goes on; only a full disk ends it."""
        try:
            action(*arguments)
        except (Refused, OSError, *MALFORMED) as e:
            if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Fatal("the disk is full", "restore to a larger disk; a full TMPDIR has the same effect")
            problems.append(show(path) + ": " + show(f"malformed: {e!r}" if isinstance(e, MALFORMED) else
                                                     e.strerror if isinstance(e, OSError) else e))

    def entry(self, entry):
        kind, path = entry["type"], clean_path(entry["path"])
        if path == b"" and kind != "dir":  # a source that is one stream: its file needs a name
            path = clean_path(re.sub(r"[^\w.-]", "_", self.record["source"]).strip(".") or "stream")
        if kind == "dir":
            if path:
                with self.parent(path) as (folder, name):
                    os.mkdir(name, 0o700, dir_fd=folder)
            self.made.add(path)
            self.directories.append((path, entry))
        elif kind == "hardlink":
            self.links.append((path, clean_path(entry["target"])))
        elif kind == "socket":
            self.warned.append(show(path) + ": a socket is not restored: its program makes it anew")
        elif kind == "file":
            with self.parent(path) as (folder, name):
                self.file(path, folder, name, entry)
        elif kind in ("symlink", "fifo", "char", "block"):
            with self.parent(path) as (folder, name):
                if kind == "symlink":
                    os.symlink(raw(entry["target"]), name, dir_fd=folder)
                elif kind == "fifo":
                    os.mkfifo(name, 0o600, dir_fd=folder)
                else:
                    device = os.makedev(*(number(n, 0, 1 << 31) for n in entry["device"]))
                    os.mknod(name, 0o600 | (stat.S_IFCHR if kind == "char" else stat.S_IFBLK), device, dir_fd=folder)
                self.metadata(path, entry, name, folder)
        else:
            raise Refused(f"this program does not know the type {kind}")

    def file(self, path, folder, name, entry):
        pieces, at = self.repository.pieces(self.writer, entry.get("extents", []), entry["size"]), 0
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        try:
            for piece, length in pieces:
                while piece:
                    done = os.pwrite(fd, piece, at)
                    piece, at, length = piece[done:], at + done, length - done
                at += length  # nothing is written to a hole, so it stays one
                progress(f"restored {self.files} files, {self.bytes + at} bytes")
            os.ftruncate(fd, at)
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=folder)
            raise
        self.bytes += at
        self.unfinished.append((fd, path, entry))
        if len(self.unfinished) == 64:
            self.finish_files()

    def finish_files(self):
        """Check whole files as they lie on the disk, many with one run of b3sum; then set their metadata."""
        fds = [fd for fd, _, _ in self.unfinished]
        names = [f"/dev/fd/{fd}" for fd in fds]
        sums = b3sum("--keyed", "--no-names", *names, stdin=self.repository.key, fds=fds).split() if fds else []
        if len(sums) != len(fds):
            raise Fatal("b3sum could not read the restored files", "look for errors of the disk that is restored to")
        for (fd, path, entry), digest in zip(self.unfinished, sums):
            if digest.decode() == entry.get("digest"):
                self.metadata(path, entry, fd)
                self.files += 1
            else:
                with self.parent(path) as (folder, name):
                    os.unlink(name, dir_fd=folder)
                self.failed.append(show(path) + ": the whole file does not match its digest (`cat` still shows it)")
            os.close(fd)
        self.unfinished = []

    def link(self, path, target):
        with self.parent(target) as (folder, name), self.parent(path) as (new_folder, new_name):
            os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder, follow_symlinks=False)

    def finish_directory(self, path, entry):
        with self.parent(path) as (folder, name):
            fd = os.open(name or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        self.metadata(path, entry, fd)
        os.close(fd)

    def metadata(self, path, entry, target, folder=None):
        """Set owner, xattrs, mode and times of a descriptor, or of a name in a directory. In this order: a change of
        owner takes capabilities and setuid away, and a file that is read-only takes no xattrs."""
        where, place, follow = {}, target, {}
        if folder is not None:  # xattrs know no dir_fd: there the directory goes by its descriptor's name
            where, follow = {"dir_fd": folder, "follow_symlinks": False}, {"follow_symlinks": False}
            place = b"/proc/self/fd/%d/%s" % (folder, target)
        step = functools.partial(self.attempt, self.warned, path)

        def xattr(name, value):
            try:
                os.setxattr(place, name.encode(), raw(value), **follow)
            except OSError as e:
                raise Refused(f"xattr {name}: {e.strerror}")
        if os.geteuid() == 0 and "uid" in entry:
            step(lambda: os.chown(target, *(number(entry[n], 0, 2**32 - 2) for n in ("uid", "gid")), **where))
        step(lambda: [step(xattr, name, value) for name, value in entry.get("xattrs", {}).items()])
        if "mode" in entry and entry["type"] != "symlink":
            # With another owner than before (we are not root), setuid and setgid must not lend that one's rights.
            now = os.stat(target, **where)
            allowed = 0o7777 if (now.st_uid, now.st_gid) == (entry.get("uid"), entry.get("gid")) else 0o1777
            step(lambda: os.chmod(target, number(entry["mode"], 0, 0o7777) & allowed, dir_fd=folder))
        if "mtime" in entry:
            step(lambda: os.utime(target, ns=(entry["mtime"][0] * 10**9 + entry["mtime"][1],) * 2, **where))


# --- Commands -------------------------------------------------------------------------------------------------------
def list_snapshots(repository):
    rows = []
    for writer in repository.writers.values():
        for record, committed in writer.snapshots.values():
            state = ("complete" if record.get("complete") else "INCOMPLETE") + ("" if committed else ", no commit")
            state += ", forgotten" if record["id"] in writer.forgotten else ""
            rows.append([show(cell) for cell in (record["id"], f"{writer.name}/{record['source']}", record.get("ended"),
                                                 record.get("entries"), record.get("bytes"), state)])
    rows = [["SNAPSHOT", "WRITER/SOURCE", "ENDED", "ENTRIES", "BYTES", "STATE"]] + sorted(rows)
    wide = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        cells = [f"{cell:{'>' if column in (3, 4) else '<'}{wide[column]}}" for column, cell in enumerate(row)]
        print("  ".join(cells).rstrip())


def list_entries(repository, snapshot):
    for entry in repository.entries(*repository.choose(snapshot)):
        try:
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry["mtime"][0])) if "mtime" in entry else "-"
            target = " -> " + show(raw(entry["target"])) if "target" in entry else ""
            print(f"{show(entry['type']):8} {entry.get('mode', 0):04o} {show(entry.get('size', '-')):>14} {moment}",
                  (show(raw(entry["path"])) or ".") + target)
        except (OSError, *MALFORMED):
            tell("warning: malformed: " + show(entry)[:200])


def restore(repository, snapshot, into):
    job = Restore(repository, *repository.choose(snapshot), into)
    if os.geteuid() != 0:
        tell("warning: not root: all will belong to you, without setuid and setgid; devices cannot be made")
    job.run()
    for text in job.warned:
        tell("warning: " + text)
    for text in job.failed:
        tell("not restored: " + text)
    tell(f"restored {job.files} files with {job.bytes} bytes into {show(into)}; "
         f"{len(job.failed)} entries not restored, {len(job.warned)} warnings")
    return 3 if job.failed else 0


def cat(repository, snapshot, path):
    writer, record = repository.choose(snapshot)

    def find(path, follow=True):
        """The entry of a path; for a hardlink, the one that has the content."""
        for entry in repository.entries(writer, record):
            with contextlib.suppress(*MALFORMED):  # of other entries
                if raw(entry["path"]) == path:
                    return find(raw(entry["target"]), False) if follow and entry["type"] == "hardlink" else entry
        return {"type": "nothing"}

    def parts():
        for piece, length in repository.pieces(writer, entry.get("extents", []), entry["size"]):
            while length:
                part = bytes(min(length, MIB)) if piece is None else piece
                sys.stdout.buffer.write(part)
                yield part
                length -= len(part)
    entry = find(os.fsencode(path).strip(b"/"))
    if entry.get("type") != "file":
        raise Fatal(f"{show(path)}: no file, but {show(entry.get('type'))}", f"`list {record['id']}` shows all paths")
    try:
        digest = keyed(repository.key, parts())
        sys.stdout.buffer.flush()
    except (Refused, *MALFORMED) as e:
        raise Fatal(f"{show(path)}: {show(e)}", "what was written is right, the rest is missing; try another snapshot")
    if digest != entry.get("digest"):
        raise Fatal(f"{show(path)}: the whole file does not match its digest", "its frames did: use it with care")


def verify(repository):
    """All objects against the digests in their names; with an identity also: is every pack of the log there?"""
    wanted, damaged = {}, []
    for folder, _, names in (step for top in ("keys", "writers") for step in os.walk(repository.path(top))):
        for name in names:
            match = re.fullmatch(r"(?:\w+-)?([0-9a-f]{64})(?:\.age|\.json)?", name)
            if match:
                wanted[os.path.join(folder, name)] = match[1]
            elif name != "writer.json":
                tell(f"warning: {show(os.path.join(folder, name))} is no object of this format")
    for count, (path, digest) in enumerate(b3sum_files(sorted(wanted))):
        progress(f"verified {count} of {len(wanted)} objects")
        if digest != wanted[path]:
            damaged.append(path)
            print("damaged: " + show(path))
    for writer in repository.writers.values():
        for pack, size in writer.packs.items():
            path = repository.path("writers", writer.name, "packs", pack[:2], pack)
            if pack in writer.retired and not os.path.isfile(path):
                continue
            if path not in damaged and (not os.path.isfile(path) or os.path.getsize(path) != size):
                damaged.append(path)
                print("missing or cut: " + show(path))
    print(f"{len(wanted)} objects are there; {len(damaged)} are damaged or missing")
    if damaged:
        raise Fatal("this copy of the repository is damaged", "fetch the files named above again, or use another copy")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", metavar="DIR", default=os.path.dirname(os.path.abspath(__file__)),
                        help="default: where this program lies")
    parser.add_argument("--identity", metavar="FILE")
    parser.add_argument("--fingerprint", metavar="HEX")
    parser.add_argument("--from-packs", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list").add_argument("snapshot", nargs="?")
    restoring, catting = commands.add_parser("restore"), commands.add_parser("cat")
    restoring.add_argument("snapshot")
    restoring.add_argument("--into", metavar="DIR", required=True)
    catting.add_argument("snapshot")
    catting.add_argument("path")
    commands.add_parser("verify")
    args = parser.parse_args()

    tools = ("b3sum", "age", "zstd") if args.identity else ("b3sum",)
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        raise Fatal("not installed: " + ", ".join(missing), "on Debian: apt-get install age zstd b3sum")
    if args.identity:
        try:
            with open_file(args.identity) as file:
                sealed = re.match(rb"age-encryption\.org/|-----BEGIN AGE ENCRYPTED", file.read(64))
        except Refused as e:
            raise Fatal(str(e), "--identity names the file of an age identity or of an SSH private key")
        if sealed:
            raise Fatal("the identity is sealed with a passphrase, and age would ask for it at every frame",
                        "open it once: (umask 077; age -d FILE > /dev/shm/identity); use that, then delete it")
    elif args.command != "verify":
        raise Fatal("no identity given", "--identity FILE: the age identity or SSH private key of a recipient")
    repository = Repository(args.repository, args.identity and os.path.abspath(args.identity), args.fingerprint)
    if args.identity:
        repository.open_secret()
        repository.load(args.from_packs)
        if repository.key is None and getattr(args, "snapshot", None):
            raise NO_DATA
    if args.command == "restore":
        return restore(repository, args.snapshot, args.into)
    if args.command == "cat":
        return cat(repository, args.snapshot, args.path)
    if args.command == "verify":
        return verify(repository)
    return list_entries(repository, args.snapshot) if args.snapshot else list_snapshots(repository)


if __name__ == "__main__":
    os.umask(0o077)
    sys.stdout.reconfigure(errors="backslashreplace")
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    try:
        sys.exit(main() or 0)
    except Fatal as e:
        tell("error: {}\nhint: {}".format(*e.args))
    except KeyboardInterrupt:
        tell("error: stopped\nhint: what was restored until now is not complete; start again with a new directory")
    except OSError as e:
        tell(f"error: {show(e)}\nhint: a full disk or TMPDIR, a missing right, or a closed pipe")
    sys.exit(1)
