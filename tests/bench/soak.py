"""Memory over what an hour brings: users, tokens that change, errors, clients that go away."""
import json
import statistics
import subprocess

import proxies
from processes import pss_kb
from settings import LOAD_CPU, PORTS, RIG, port

SAMPLES = 20
# Milliseconds between two tokens: an hour of five-second tokens in two minutes or so.
ROTATION = 200
# MB in a million requests, and MB at the end.
SLOPE_LIMIT, LEVEL_LIMIT = 0.5, 20.0


def run(requests):
    proxies.surroundings(rotate=ROTATION)
    proxies.relay("RELAY", port("soak"))
    sidecar = proxies.started("soak", litellm="RELAY")
    samples, counts = [], {}
    for number in range(1, SAMPLES + 1):
        load = [RIG, "load", "soak", f"127.0.0.1:{port('soak') + 1}", "--requests", str(requests // SAMPLES)]
        said = subprocess.run(["taskset", "-c", LOAD_CPU, *load], check=True, capture_output=True, text=True).stdout
        for name, count in json.loads(said).items():
            counts[name] = counts.get(name, 0) + count
        samples.append({"requests": number * (requests // SAMPLES), "pss": pss_kb(sidecar.pid) / 1024})
        print(f"soak {samples[-1]['requests']:>10,} requests  PSS {samples[-1]['pss']:.2f} MB", flush=True)
    # Pools and the allocator's pages settle first.
    settled = samples[SAMPLES // 10 :]
    slope = statistics.linear_regression([row["requests"] / 1e6 for row in settled], [row["pss"] for row in settled]).slope
    tokens = _tokens()
    last = samples[-1]["pss"]
    flat = slope < SLOPE_LIMIT and last < LEVEL_LIMIT and counts["unexpected"] == 0
    return {
        "samples": samples, "counts": counts, "slope": slope, "last": last, "tokens": tokens, "flat": flat,
        "slope_limit": SLOPE_LIMIT, "level_limit": LEVEL_LIMIT,
    }


def _tokens():
    """The number of the token that is in use now."""
    _, body = proxies.exchange(f"127.0.0.1:{port('soak')}", "/rig/echo")
    token = next(value for name, value in json.loads(body)["headers"] if name == "authorization")
    return int(token.rsplit("-", 1)[1])
