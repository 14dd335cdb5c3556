"""Drivers of a few lines, run as `python fake_driver.py <mode>`: how a real one may behave, and misbehave."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

JOB, TOKEN = os.environ["SUPERBATCH_JOB"], os.environ["SUPERBATCH_TOKEN"]
BASE = f"{os.environ['SUPERBATCH_SERVICE_URL']}/internal/v1/jobs/{JOB}/attempts/{TOKEN}"
HEADERS = {
    "Authorization": f"Bearer {os.environ['SUPERBATCH_ATTEMPT_SECRET']}",
    "Content-Type": "application/json",
}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method, path="", body=None):
    """Return status and answer."""
    request = urllib.request.Request(BASE + path, method=method, headers=HEADERS)
    request.data = None if body is None else json.dumps(body).encode()
    try:
        with OPENER.open(request, timeout=30) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def publish(bundle, seq):
    """Record the row of a batch and commit it; return the status of the commit."""
    walk = {"pass_index": 0, "block": seq, "offset": 0, "put_off": []}
    row = {"seq": seq, "rule": "no_learner", "checkpoint": None, "method": "uniform", "criterion": "learnability"}
    row |= {"f": 0.5, "B": 8, "gain": 1.0, "weights": [1.0, 1.0], "walk": walk, "micro_batch": 8}
    call("POST", "/schedule", row)
    name = f"{seq:012d}-{seq + 1:012d}-{sha(str(seq))[:16]}.parquet"
    stats = {"per_source": {}, "learnability_batch": [], "learnability_super_batch": []}
    commit = {"first_seq": seq, "num_batches": 1, "f": [0.5], "B": [8], "row_attempts": [0], "list_name": name}
    commit |= {"list_key": f"jobs/{JOB}/{bundle['history_id']}/lists/{name}", "bytes": 1, "sha256": sha(name)}
    commit |= {"score_keys": [], "batch_digests": [sha(f"batch {seq}")], "generation": 0, "rule": "no_learner"}
    commit |= {"checkpoint": None, "next_walk": walk, "stats": stats | {"score_s": 0, "select_s": 0, "commit_s": 0}}
    return call("POST", "/segments", commit)[0]


def heartbeat():
    return call("POST", "/heartbeat", {"phase": "composing", "counters": {}})


def work():
    """Publish everything that is missing and finish."""
    print("environment:", *sorted(os.environ), flush=True)
    _, bundle = call("GET")
    for seq in range(bundle["next_seq"], bundle["spec"]["num_batches"]):
        assert heartbeat()[0] == 200
        assert publish(bundle, seq) == 200
    assert call("POST", "/finish", {"outcome": "SUCCEEDED"})[0] == 200


def beat():
    """Compose nothing, but hold the lease until cancelled or lost."""
    while True:
        status, answer = heartbeat()
        if status != 200 or answer["cancel"]:
            sys.exit(0)
        time.sleep(0.1)


def stubborn():
    """Hold the lease and ignore everything."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        with contextlib.suppress(OSError):
            heartbeat()
        time.sleep(0.1)


def scatter():
    """Leave children in other groups behind, which ignore SIGTERM, and hold the lease."""
    for _ in range(2):
        child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
    beat()


def scatter_and_exit():
    """Leave such children behind and crash."""
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
    sys.exit(3)


def zombie():
    """Publish one batch, then go on trying the next one whatever the answer is, and print every answer."""
    _, bundle = call("GET")
    print("published", publish(bundle, 0), flush=True)
    while True:
        print("heartbeat", heartbeat()[0], flush=True)
        if os.path.exists(os.path.join(bundle["runtime"]["scratch_dir"], "go-on")):
            for seq in range(1, 7):
                print("commit", publish(bundle, seq), flush=True)
            print("finish", call("POST", "/finish", {"outcome": "FAILED"})[0], flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    {
        "work": work,
        "exit": lambda: sys.exit(3),
        "beat": beat,
        "stubborn": stubborn,
        "scatter": scatter,
        "scatter_and_exit": scatter_and_exit,
        "zombie": zombie,
    }[sys.argv[1]]()
