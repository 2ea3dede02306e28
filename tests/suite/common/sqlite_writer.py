"""A program with an SQLite database, as a Convex backend is one: one connection, five seconds of patience, and an end with an
error when a commit takes longer. Runs until its standard input closes; then it prints the number of its last transaction.

sqlite_writer.py log DATABASE JOURNAL_MODE FIRST      a row and a sum in each transaction, now and then VACUUM
sqlite_writer.py uploads DIRECTORY FIRST              a blob, then its row
sqlite_writer.py dead DATABASE DIRECTORY              leaves a copy as of the middle of a transaction, and holds that open
"""

import os
import select
import sqlite3
import sys
import time


def connect(path, mode="DELETE"):
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    db.execute(f"PRAGMA journal_mode = {mode}")
    db.execute("PRAGMA synchronous = OFF")  # locks are the same without it, and no test waits for the disk
    return db


def over():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def log(path, mode, first):
    db, n = connect(path, mode), int(first) - 1
    while not over():
        time.sleep(0.001)
        n += 1
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO log VALUES (?, randomblob(700))", (n,))
        db.execute("UPDATE log SET pad = randomblob(700) WHERE n = abs(random()) % ?", (n,))
        db.execute("UPDATE total SET sum = sum + ?, count = count + 1", (n,))
        db.execute("COMMIT")
        if n % 997 == 0:
            db.execute("VACUUM")
    print(n)


def uploads(root, first):
    db, n = connect(os.path.join(root, "db.sqlite3")), int(first) - 1
    while not over():
        time.sleep(0.01)
        n += 1
        with open(os.path.join(root, f"storage/files/f{n}.blob"), "w") as blob:
            blob.write(f"file {n}")
        row = f'{{"storageKey":"f{n}","storageId":"u{n}"}}'
        values = (n.to_bytes(4, "big"), 10 + n, b"\x02", row)
        db.execute("INSERT INTO documents VALUES (?, ?, ?, ?, 0, NULL)", values)
    print(n)


def dead(path, directory):
    db = connect(path)
    # A transaction too large for the cache: its pages reach the file before it is committed.
    db.execute("PRAGMA cache_size = 10")
    db.execute("BEGIN")
    db.execute("UPDATE log SET pad = randomblob(900)")
    db.execute("UPDATE total SET sum = 7")
    # By another process: a file that this one closes would take its locks along.
    for name in [path, path + "-journal"]:
        os.spawnlp(os.P_WAIT, "cp", "cp", name, directory)
    print("ready", flush=True)
    sys.stdin.read()
    db.execute("ROLLBACK")
    print(0)


if __name__ == "__main__":
    {"log": log, "uploads": uploads, "dead": dead}[sys.argv[1]](*sys.argv[2:])
