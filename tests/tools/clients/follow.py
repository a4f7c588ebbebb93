"""Follows a live query as a Python program would: `http` is http.client of its library, `httpx` is HTTP/2 with prior knowledge.

Sends keys that no server knows, and comes back with `from` after the connection is cut. Usage: follow.py http|httpx HOST PORT
"""

import http.client
import json
import sys
import time

how, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
QUERY = "SELECT id, health_port FROM containers WHERE service = 'followed'"
INSERT = "INSERT INTO containers (id, service, health_port) VALUES (?, 'followed', ?)"


def by_http(method, path, body):
    """Status, headers and lines of an answer."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.headers, iter(answer.readline, b"")


def by_httpx(method, path, body):
    import httpx

    client = httpx.Client(http1=False, http2=True, timeout=60)
    request = client.build_request(
        method, f"http://{host}:{port}{path}", content=body, headers={"content-type": "application/json"}
    )
    answer = client.send(request, stream=True)
    assert answer.http_version == "HTTP/2", answer.http_version
    return answer.status_code, answer.headers, answer.iter_lines()


ask = by_httpx if how == "httpx" else by_http


def execute(sql, params):
    statement = {"query": sql, "params": params, "comment": "unknown", "trace": {"id": 1}}
    status, _, lines = ask("POST", "/v1/transactions", json.dumps([statement]))
    text = "".join(line if isinstance(line, str) else line.decode() for line in lines)
    assert status == 200, (status, text)


execute(INSERT, ["a", 80])
last, query_id = 0, None
for attempt in range(50):
    try:
        if query_id is None:
            answer = ask("POST", "/v1/subscriptions", json.dumps({"query": QUERY, "unknown": [1]}))
        else:
            answer = ask("GET", f"/v1/subscriptions/{query_id}?from={last}", None)
        status, headers, lines = answer
        assert status == 200, status
        query_id = headers["corro-query-id"]
        for text in lines:
            line = json.loads(text)
            line.get("eoq", {}).pop("time", None)
            print(json.dumps(line, separators=(",", ":")), flush=True)
            if "eoq" in line:
                execute(INSERT, ["b", 81])
            if "change" in line:
                last = line["change"][3]
                if last == 1:
                    print("following", flush=True)
                if line["change"][0] == "delete":
                    sys.exit(0)
        raise ConnectionError("the stream ended")
    except Exception as error:
        if last == 0:
            raise
        print(f"again: {type(error).__name__}", file=sys.stderr)
        time.sleep(0.1)
sys.exit(1)
