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


header()
for line in wrong:
    print(line)
sys.exit(bool(wrong))
