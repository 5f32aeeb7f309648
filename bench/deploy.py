"""`deploy` beside what people write by hand: seconds of whole processes, medians, and ratios to the first row.

python bench/deploy.py [--runs N] [--latency 0,50] [--scripts 10] [--also NAME=COMMAND]
"""

from __future__ import annotations

import argparse

import lab
from delay import reason_against

BASE = "tar over one ssh"


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=11, help="runs of each contestant, 11 by default")
    parser.add_argument("--latency", default="0,50", help="round trips in milliseconds, 0,50 by default")
    parser.add_argument("--scripts", type=int, default=10, help="scripts to deploy, 10 by default")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=COMMAND", help="another build of runsdeploy to compare"
    )
    parser.add_argument("--only", action="store_true", help="leave out the loops of ssh, which take long")
    given = parser.parse_args()
    print(f"{given.scripts} scripts, {given.runs} runs; seconds, median (min); ratio to `{BASE}`\n")
    print("| round trip | contestant | first run | ratio | rerun | ratio |")
    print("|---|---|---|---|---|---|")
    for milliseconds in map(float, given.latency.split(",")):
        against = reason_against() if milliseconds else ""
        if against:
            print(f"| {milliseconds:g} ms | {against} | | | | |")
        else:
            _measure(milliseconds, given)


def _measure(milliseconds: float, given: argparse.Namespace) -> None:
    with lab.lab(milliseconds / 1000) as place:
        work = lab.Work(place.directory / "work", given.scripts)
        kex = f"-o KexAlgorithms={lab.FASTEST_KEX}"
        contestants = {BASE: lab.tarred(work, place.host), "runsdeploy": lab.ours(work, place.host, lab.program())}
        for other in given.also:
            name, _, command = other.partition("=")
            contestants[name] = lab.ours(work, place.host, command)
        contestants[f"{BASE}, fastest key exchange"] = lab.tarred(work, place.host, kex)
        if not given.only:
            contestants["ssh for each script, one connection"] = lab.mastered(work, place.host)
            contestants["ssh for each script"] = lab.looped(work, place.host)
        timings = lab.race(place, work, contestants, given.runs, lambda text: lab.told(f"{milliseconds:g} ms: {text}"))
    lab.told("")
    base = timings[BASE]
    for name, timing in timings.items():
        cells = []
        for values, compared in ((timing.first, base.first), (timing.rerun, base.rerun)):
            middle = lab.median(values)
            cells += [f"{middle:.3f} ({min(values):.3f})", f"{middle / lab.median(compared):.2f}"]
        print(f"| {milliseconds:g} ms | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
