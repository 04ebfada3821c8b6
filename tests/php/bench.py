"""What the tracer costs, as ratios of one run: without it, loaded and off, on, and Debian's php-xdebug
in trace mode. Each figure is the best of three processes, each the best of many rounds; the four take
turns, so that a busy machine is busy for all."""

import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ON, VALUES = 1, 4


def run(tally, php, so, trace):
    modules = subprocess.run([php, "-n", "-m"], capture_output=True, text=True).stdout.split()
    base = [php, "-n"]
    for name in ("ctype", "mbstring", "posix"):
        if name not in modules:
            base += ["-d", f"extension={name}"]
    ours = base + ["-d", f"extension={so}", "-d", f"nbguard.directory={trace}"]
    scratch = tempfile.mkdtemp(prefix="nbguard-xdebug-", dir="/dev/shm")
    xdebug = base + ["-d", "zend_extension=xdebug", "-d", "xdebug.mode=trace", "-d", "xdebug.start_with_request=yes",
                     "-d", f"xdebug.output_dir={scratch}", "-d", "xdebug.use_compression=0"]
    have_xdebug = "Xdebug" in subprocess.run(base + ["-d", "zend_extension=xdebug", "-m"], capture_output=True,
                                             text=True).stdout

    def measure(script, rounds, xdebug_rounds, values):
        ways = {
            "plain": base + [HERE / "bench" / script, "off", rounds],
            "off": ours + [HERE / "bench" / script, "off", rounds],
            "observer in place, off": ours + ["-d", "nbguard.quiet=0", HERE / "bench" / script, "off", rounds],
            "on": ours + [HERE / "bench" / script, "on", rounds, ON],
            "on, with values": ours + [HERE / "bench" / script, "on", values, ON | VALUES],
        }
        if have_xdebug:
            ways["xdebug"] = xdebug + [HERE / "bench" / script, "off", xdebug_rounds]
        best = {}
        for turn in range(5):
            for way, command in ways.items():
                if turn >= 2 and way not in ("plain", "off", "on"):
                    continue
                done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
                best[way] = min(best.get(way, float("inf")), float(done.stdout.split()[0]))
                for left in os.listdir(scratch):
                    os.unlink(f"{scratch}/{left}")
        return best

    def report(name, best, unit, scale):
        print(f"bench {name}:")
        for way, figure in best.items():
            print(f"  {way:24} {figure / scale:10.2f} {unit}  {figure / best['plain']:7.3f} x plain")

    calls = measure("call.php", 300000, 3000, 300000)
    report("an empty call of a user function", calls, "ns", 1)
    loads = {"parser": measure("parser.php", 60, 6, 20)}
    if Path("/usr/share/php/Twig/autoload.php").exists():
        loads["twig"] = measure("twig.php", 60, 2, 6)
    else:
        tally.add("bench twig", "skip", "php-twig is not here")
    for name, best in loads.items():
        report(name, best, "ms", 1e6)
        off = best["off"] / best["plain"] - 1
        tally.add(f"bench {name}: off costs at most 1 %", "pass" if off <= 0.01 else "fail", f"{off:.1%}")
        on = best["on"] / best["plain"] - 1
        tally.add(f"bench {name}: on costs at most 25 %", "pass" if on <= 0.25 else "fail", f"{on:.1%}")
    if not have_xdebug:
        return tally.add("bench xdebug", "skip", "php8.2-xdebug is not here")
    for name, best in {"call": calls, **loads}.items():
        for way in ("on", "on, with values"):
            ratio = (best["xdebug"] - best["plain"]) / max(best[way] - best["plain"], 0.1)
            tally.add(f"bench {name}: xdebug costs at least 5 times what we do, {way}",
                      "pass" if ratio >= 5 else "fail", f"{ratio:.1f} times")
