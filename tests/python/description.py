"""What /openapi.json calls valid is taken by a running reelq, and what it calls invalid is refused.

    python description.py http://127.0.0.1:8787

Ends with status 0 if the two agree about every case, else with the cases. Needs jsonschema_rs.
"""

import json
import sys
import urllib.error
import urllib.request
import uuid

import jsonschema_rs

URL = sys.argv[1]
IMAGE = "https://images.example.com/1.png"


def call(path, body, kind="application/json", **headers):
    """The status of a POST."""
    request = urllib.request.Request(URL + path, body, {"Content-Type": kind, **headers})
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


api = json.load(urllib.request.urlopen(URL + "/openapi.json", timeout=60))


def validator(schema):
    return jsonschema_rs.Draft202012Validator({**schema, "components": api["components"]})


def of_component(name):
    return validator({"$ref": f"#/components/schemas/{name}"})


wrong = []


def judge(what, is_valid, is_good, status):
    """The description, the truth and the server say the same."""
    if is_valid is not is_good or status != (200 if is_good else 400):
        shown = str(what)
        wrong.append(f"{shown[:120]}: good {is_good}, valid {is_valid}, status {status}")


def header():
    post = api["paths"]["/v1/videos"]["post"]
    (key,) = [one for one in post["parameters"] if one["name"] == "Idempotency-Key"]
    schema = validator(key["schema"])
    body = json.dumps({"prompt": "p", "image_url": IMAGE}).encode()
    run = uuid.uuid4().hex[:8]
    for text, is_good in [
        (run, True),
        (f"{run} b", True),
        (f"{run}-behind ", True),
        (f"{run}/~!, {{}}", True),
        (run + "k" * 192, True),
        (run + "k" * 193, False),
        (f"{run}\tb", False),
        (f"{run}é", False),
        (f"{run}Ã©", False),
        ("", False),
    ]:
        status = call("/v1/videos", body, **{"Idempotency-Key": text})
        judge(("Idempotency-Key", text), schema.is_valid(text), is_good, status)


def body():
    """Each case goes in as a video and, where its names are the table's, as a job."""
    kinds = [
        ("/v1/videos", of_component("NewVideo"), lambda one: one),
        ("/api/jobs", of_component("NewJob"), lambda one: [one]),
    ]
    good = [
        *({"not_before": f"{time}+23:59"} for time in ["2999-01-31T18:00:00", "2996-02-29t23:59:60.5"]),
        *({"not_before": time} for time in ["2999-12-31 00:00:00z", "2400-02-29T00:00:00Z", "1980-01-01T00:00:00Z"]),
        *({"not_before": time} for time in [0, 9_999_999, 100_000_000_000, 253_402_300_799_999, 6.0, None]),
        *({"not_before": time} for time in ["0", "9999999", "100000000000", "99999999999999"]),
        *({name: "é" * 50} for name in ["key", "batch"]),
        *({name: "k" * 200} for name in ["key", "batch"]),
        {"prompt": "é" * 25_000},
        {"prompt": "p" * 100_000},
        {"image_url": "https://e" + "é" * 2_000},
        {"image_url": "https://e" + "e" * 8_183},
        {"metadata": {"a": "m" * 60_000, "b": [1e308, -1.5, None]}},
        {"duration": 6.0},
    ]
    bad = [
        *({"not_before": f"{date}T18:00:00Z"} for date in ["2999-02-29", "2100-02-29", "2999-04-31", "2999-01-32"]),
        *({"not_before": f"2999-01-01T{time}"} for time in ["24:00:00Z", "18:00:61Z", "18:00:00", "18:00:00+26:00"]),
        *({"not_before": time} for time in [-1, 10_000_000, 253_402_300_800_000, "10000000", "tomorrow", 0.5]),
        *({name: "k" * 201} for name in ["key", "batch"]),
        *({name: "é" * 150} for name in ["key", "batch"]),
        {"prompt": "p" * 100_001},
        {"prompt": "é" * 60_000},
        {"image_url": "https://e" + "e" * 8_184},
        {"image_url": "https://e" + "é" * 5_000},
    ]
    of_videos = [
        ({"seconds": "6", "duration": None, "resolution": "720P", "size": None}, True),
        ({"seconds": None, "duration": 6, "size": "1280X720"}, True),
        ({"seconds": "6", "duration": 5}, False),
        ({"size": "720p", "resolution": "480p"}, False),
        ({"size": "1024x1792"}, False),
        ({"image": IMAGE}, False),
    ]
    for path, schema, wrap in kinds:
        cases = [(case, True) for case in good] + [(case, False) for case in bad]
        for case, is_good in cases + (of_videos if path == "/v1/videos" else []):
            job = {"prompt": "p", "image_url": IMAGE, **case}
            status = call(path, json.dumps(wrap(job)).encode())
            # One key is one job, whatever else it asks for.
            status = 200 if status == 409 else status
            judge((path, case), schema.is_valid(job), is_good, status)


def reason():
    schema = validator(api["paths"]["/api/pause"]["post"]["requestBody"]["content"]["application/json"]["schema"])
    for text, is_good in [("", True), ("é" * 250, True), ("r" * 1_000, True), ("é" * 900, False), ("r" * 1_001, False)]:
        status = call("/api/pause", json.dumps({"reason": text}).encode())
        judge(("reason", text), schema.is_valid({"reason": text}), is_good, status)


header()
body()
reason()
for line in wrong:
    print(line)
sys.exit(bool(wrong))
