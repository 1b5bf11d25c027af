"""Run by `helm test` inside the api's image: a session is made, found and ended through the Service."""

import http.client
import json
import os
import sys
import time

API, RELEASE = os.environ["API"], os.environ["RELEASE"]


def ask(method, path):
    connection = http.client.HTTPConnection(API, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def checked(method, path, wanted):
    status, answer = ask(method, path)
    print(f"{method} {path}: {status}", flush=True)
    if status != wanted:
        sys.exit(f"{wanted} was expected: {answer[:500]!r}")
    return json.loads(answer or b"null")


for _ in range(10):
    try:
        ask("GET", "/healthz")
        break
    except OSError as error:
        print(f"not there yet: {error}", flush=True)
        time.sleep(1)

made = checked("POST", "/v1/sessions", 201)
found = checked("GET", f"/v1/sessions/{made['session_id']}", 200)
if found["release"] != RELEASE:
    sys.exit(f"release {found['release']} answered, not {RELEASE}")
checked("DELETE", f"/v1/sessions/{made['session_id']}", 204)
checked("GET", f"/v1/sessions/{made['session_id']}", 404)
print("passed")
