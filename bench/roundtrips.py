"""How many network round trips a deploy takes: the slope of its wall time between two latencies.

python bench/roundtrips.py [--runs N] [--latency 20,100] [--scripts 1,10,40]
"""

from __future__ import annotations

import argparse
import sys

import lab
from delay import reason_against

ROW = dict[str, lab.Timing]
TOLERATED = 1.0
"""round trips that the number may differ by: noise of the clock, not of the protocol"""


def main() -> int:
    """Measure and print one table; 1 if the number grows with the number of scripts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7, help="runs of each, 7 by default")
    parser.add_argument("--latency", default="20,100", help="two round trips in milliseconds, 20,100 by default")
    parser.add_argument("--scripts", default="1,10,40", help="numbers of scripts, 1,10,40 by default")
    given = parser.parse_args()
    against = reason_against()
    if against:
        print(against)
        return 0
    near, far = sorted(float(each) / 1000 for each in given.latency.split(","))
    counts = [int(each) for each in given.scripts.split(",")]
    timings = {seconds: _measure(seconds, counts, given.runs) for seconds in (near, far)}
    print(f"{given.runs} runs; slope of the shortest runs between {near * 1000:g} and {far * 1000:g} ms\n")
    print("| scripts | contestant | round trips, first run | round trips, rerun |")
    print("|---|---|---|---|")
    slopes: dict[str, list[float]] = {}
    for count in counts:
        for name, timing in timings[near][count].items():
            other = timings[far][count][name]
            pairs = ((timing.first, other.first), (timing.rerun, other.rerun))
            trips = [(min(slow) - min(fast)) / (far - near) for fast, slow in pairs]
            slopes.setdefault(name, []).extend(trips)
            print(f"| {count} | {name} | {trips[0]:.1f} | {trips[1]:.1f} |")
    ours = slopes["runsdeploy"]
    grown = max(ours[-2] - ours[0], ours[-1] - ours[1])
    print(f"\n{counts[0]} to {counts[-1]} scripts: {grown:+.1f} round trips")
    return int(grown > TOLERATED)


def _measure(seconds: float, counts: list[int], runs: int) -> dict[int, ROW]:
    measured: dict[int, ROW] = {}
    with lab.lab(seconds) as place:
        for count in counts:
            work = lab.Work(place.directory / str(count), count)
            contestants = {
                "runsdeploy": lab.ours(work, place.host, lab.program()),
                "tar over one ssh": lab.tarred(work, place.host, f"-o KexAlgorithms={lab.FASTEST_KEX}"),
            }
            label = f"{seconds * 1000:g} ms, {count} scripts"
            measured[count] = lab.race(
                place, work, contestants, runs, lambda text, label=label: lab.told(f"{label}: {text}")
            )
    lab.told("")
    return measured


if __name__ == "__main__":
    sys.exit(main())
