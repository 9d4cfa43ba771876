"""A worker of the protocol taskman.v1 without a line of Taskman: `python plain_worker.py URL TOKEN ID SLOTS`.

It executes runs of type `shell`, sends their output, obeys cancels, renews its leases, and comes back after an outage.
"""

import subprocess
import sys
import threading
import time

import msgspec
import websocket

url, token, worker_id, slots = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
lock = threading.RLock()
link = None  # the connection, when there is one
running = {}  # (run, attempt) -> its process, or None when it has ended
unrecorded = {}  # (run, attempt) -> the `done` that no server has acknowledged yet
unlogged = {}  # (run, attempt) -> chunks that no server has acknowledged yet
cancelled = set()


def send(*messages):
    with lock:
        try:
            if link is not None:
                link.send_binary(msgspec.msgpack.encode(messages))
        except (OSError, websocket.WebSocketException):
            pass  # the reader finds out, and what matters is sent again


def held():
    return [{"run": run, "attempt": attempt} for run, attempt in running]


def execute(job):
    key = job["run"], job["attempt"]
    params = job["params"]
    argv = params.get("argv") or [params.get("shell", "/bin/sh"), "-c", params["command"]]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**job["env"], "PATH": "/bin:/usr/bin"}
    )
    with lock:
        running[key], unlogged[key] = process, []
    for seq, line in enumerate(process.stdout, 1):
        with lock:
            unlogged[key].append([seq, int(time.time() * 1000), "out", line])
            send({"m": "log", "run": key[0], "attempt": key[1], "chunks": unlogged[key][-1:]})
    code = process.wait()
    outcome = "cancelled" if key in cancelled else "failed" if code else "succeeded"
    done = {"m": "done", "run": key[0], "attempt": key[1], "outcome": outcome, "result": {"exit_code": code}}
    with lock:
        running[key] = None
        unrecorded[key] = {**done, "reason": "exit" if outcome == "failed" else None}
        send(unrecorded[key])


def stop(key, forget):
    with lock:
        cancelled.add(key)
        if running.get(key):
            running[key].terminate()
        if forget:
            for kept in (running, unrecorded, unlogged):
                kept.pop(key, None)
            want()


def want():
    send({"m": "want", "n": max(0, slots - len(running))})


def handle(message):
    key = message.get("run"), message.get("attempt")
    if message["m"] == "assign":
        for job in message["runs"]:
            running[job["run"], job["attempt"]] = None
            threading.Thread(target=execute, args=[job], daemon=True).start()
    elif message["m"] == "cancel":
        stop(key, forget=False)
    elif message["m"] == "drop":
        stop(key, forget=True)
    elif message["m"] in ("welcome", "beat"):
        for one in message["drop"]:
            stop((one["run"], one["attempt"]), forget=True)
    elif message["m"] == "logged" and key in unlogged and not message.get("error"):
        unlogged[key] = [chunk for chunk in unlogged[key] if chunk[0] > message["seq"]]
    elif message["m"] == "recorded" and not message.get("error"):
        for kept in (running, unrecorded, unlogged):
            kept.pop(key, None)
        want()


def beat():
    while True:
        time.sleep(5)
        send({"m": "beat", "held": held(), "load": len(running)})


def connect():
    address = url.replace("http", "ws", 1) + "/api/v1/worker"
    opened = websocket.create_connection(
        address,
        timeout=15,
        subprotocols=["taskman.v1"],
        header=[f"Authorization: Bearer {token}"],
        suppress_origin=True,
    )
    hello = {"m": "hello", "id": worker_id, "slots": slots, "types": {"shell": "1.0"}, "version": "plain"}
    opened.send_binary(msgspec.msgpack.encode([{**hello, "labels": {"plain": "yes"}, "held": held()}]))
    return opened


threading.Thread(target=beat, daemon=True).start()
while True:
    try:
        opened = connect()
        for message in msgspec.msgpack.decode(opened.recv()):
            with lock:
                link = opened
                handle(message)
        with lock:
            for (run, attempt), chunks in unlogged.items():
                send({"m": "log", "run": run, "attempt": attempt, "chunks": chunks})
            send(*unrecorded.values())
            want()
        while frame := opened.recv():
            with lock:
                for message in msgspec.msgpack.decode(frame):
                    handle(message)
    except (OSError, websocket.WebSocketException):
        link = None
        time.sleep(0.5)
