"""Run by `helm test` inside the api's image: a session is made, found and ended through the Service.

One of a few has to work, and to be of this release: that some fail is for gates to judge.
"""

import http.client
import json
import os
import sys
import time

API, RELEASE = os.environ["API"], os.environ["RELEASE"]
TRIES, SECONDS = 5, 30


def asked(method, path, wanted):
    connection = http.client.HTTPConnection(API, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    content = answer.read()
    print(f"{method} {path}: {answer.status}", flush=True)
    if answer.status != wanted:
        raise ValueError(f"{method} {path}: {answer.status} instead of {wanted}: {content[:200]!r}")
    return json.loads(content or b"null")


def session():
    path = f"/v1/sessions/{asked('POST', '/v1/sessions', 201)['session_id']}"
    found = asked("GET", path, 200)
    if found["release"] != RELEASE:
        raise ValueError(f"release {found['release']} answered, not {RELEASE}")
    asked("DELETE", path, 204)
    asked("GET", path, 404)


left, until = TRIES, time.monotonic() + SECONDS
while True:
    try:
        session()
        break
    except (OSError, http.client.HTTPException) as error:
        why = f"{API} does not answer: {error}"
    except (ValueError, KeyError, TypeError) as error:
        why, left = f"no session works: {error}", left - 1
    if not left or time.monotonic() > until:
        sys.exit(why)
    time.sleep(0.5)
print("passed")
