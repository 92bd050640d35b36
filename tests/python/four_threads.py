"""Four threads insert jobs at once.

    python four_threads.py reelq.db COUNT

Each thread inserts COUNT jobs of its own, `thread-N-M`, and COUNT that all four
insert, `shared-M`; beside each a row that breaks a rule. Ends with status 0 if
no insert failed and every bad row was refused by its rule.
"""

import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

THREADS = 4
GOOD = {"prompt": "spoilt", "image_url": "https://example.com/a.jpg"}
BAD = [
    ({"prompt": "\t"}, "CHECK constraint failed: prompt must not be blank"),
    ({"image_url": "a.jpg"}, "CHECK constraint failed: image_url must be an http:// or https:// URL"),
    ({"key": ""}, "CHECK constraint failed: key must not be blank"),
    ({"batch": ""}, "CHECK constraint failed: batch must not be blank"),
    ({"duration": 16}, "CHECK constraint failed: duration must be a whole number of seconds from 1 to 15"),
    ({"size": "4k"}, "CHECK constraint failed: size must be 480p, 720p or 1080p"),
    ({"not_before": -1}, "CHECK constraint failed: not_before must be a time in Unix milliseconds"),
    ({"metadata": "[]"}, "CHECK constraint failed: metadata must be a JSON object"),
    ({"state": "done"}, "a new job must be pending"),
]


def insert(db, row):
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    with db:
        db.execute(f"INSERT INTO jobs ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING", list(row.values()))


def produce(path, count, thread, start):
    db = sqlite3.connect(path, timeout=5)
    start.wait()
    for n in range(count):
        for name in (f"thread-{thread}-{n}", f"shared-{n}"):
            insert(db, GOOD | {"key": name, "prompt": name})
        fault, rule = BAD[n % len(BAD)]
        try:
            insert(db, GOOD | fault)
        except sqlite3.IntegrityError as error:
            assert rule in str(error), f"{fault}: {error}"
        else:
            raise AssertionError(f"{fault} went in")
    db.close()


def main():
    path, count = sys.argv[1], int(sys.argv[2])
    start = Barrier(THREADS, timeout=60)
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(produce, path, count, thread, start) for thread in range(THREADS)]:
            done.result()


main()
