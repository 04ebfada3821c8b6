"""The table of guards: rows in, Markdown out. Pure. It knows no guard by name but the one it is compared with.

Where another guard is better than ours the table says so itself (`better`), figure by figure.
"""

OURS = "nbguard"
BEGIN, END = "<!-- peers: made by tests/vm/compare -->", "<!-- peers: end -->"
# What differs by less than this is chance under emulation.
NOTABLE = 1.1
NEVER = float("inf")


def comparable(scenario):
    """None, or why a scenario says nothing about other guards."""
    if any(scenario["guard"][key] for key in ("config", "arguments", "beside")):
        return "it is about a setting of nbguard"
    if scenario["fault"]:
        return "something is done to nbguard or to what it watches"
    if any(c["pool"] or c["labels"] or c["mounts"] or any("NBGUARD" in key for key in c["env"])
           for c in scenario["container"]):
        return "it is about what only nbguard knows: a label, its socket, a stack"
    if any("nbguard" in check["command"] for check in scenario["expect"]["check"]):
        return "it is about nbguard's commands"
    return None


def summary(results):
    """What README.md quotes."""
    return "\n\n".join(part for part in (
        head(results), totals(results), matrix(results), idle(results), better(results)) if part) + "\n"


def whole(results):
    """results/peers.md: the summary, and every row with every column."""
    return "# nbguard and its peers\n\n" + summary(results) + "\n" + details(results)


def head(results):
    played = {guard: sorted({row["version"] for row in results["rows"] if row["guard"] == guard} - {""})
              for guard in results["guards"]}
    guards = ", ".join(f"{guard} {' and '.join(versions)}" for guard, versions in played.items() if versions)
    return (f"Made by `tests/vm/compare` on {results['date']}: Debian {results['guest']}, kernel {kernels(results)}, "
            f"2 emulated cores, 3 GiB; {guards}; `none` is the kernel alone. How each is configured, and why: "
            "`tests/vm/guards`. One judge for all (`outcome` in `tests/vm/verdict.py`), which does not know who ran. "
            "Emulation is slow and the machine was shared: times are for the order of magnitude.")


def kernels(results):
    """Debian's kernel moves on between two sessions, and what is still of today's making is not played again."""
    played = {}
    for row in results["rows"]:
        played.setdefault(row["kernel"], set()).add(row["guard"])
    if len(played) < 2:
        return "".join(played)
    return " and ".join(f"{kernel} ({', '.join(guard for guard in results['guards'] if guard in guards)})"
                        for kernel, guards in sorted(played.items()))


def row_of(results, scenario, guard):
    return next((row for row in results["rows"] if row["scenario"] == scenario and row["guard"] == guard), None)


def shared(results):
    """The scenarios that every guard has played."""
    return [name for name in results["scenarios"]
            if all((row_of(results, name, guard) or {}).get("outcome") for guard in results["guards"])]


def totals(results):
    names = shared(results)
    if not names:
        return ""
    lines = [f"The {len(names)} scenarios that all have played ({', '.join(names)}):", "",
             "| guard | right | innocent notebooks ended | servers lost | kernel's OOM killer acted | "
             "told in the notebook | left in /dev/shm | threshold to relief, median |",
             "|---|---|---|---|---|---|---|---|"]
    for guard in results["guards"]:
        came = [row_of(results, name, guard)["outcome"] for name in names]
        asked = [one["told"] for one in came if one["told"] is not None]
        reliefs = sorted(NEVER if one["relief_ms"] is None else one["relief_ms"] for one in came)
        innocent = sum(1 for one in came if not one["others_live"])
        lines.append(
            f"| {guard} | {sum(one['right'] for one in came)} of {len(came)} | in {innocent} | "
            f"in {sum(not one['server_lives'] for one in came)} | "
            f"in {sum(one['kernel_oom_kills'] > 0 for one in came)} | "
            f"{asked.count('yes')} of {len(asked)} | {mib(sum(one['shm_lost'] for one in came))} | "
            f"{seconds(median) if (median := reliefs[len(reliefs) // 2]) != NEVER else 'never'} |")
    return "\n".join(lines)


def matrix(results):
    lines = ["Each scenario: right or wrong; the time from the threshold (90 %) to relief; "
             "`kernel`: its OOM killer acted; `told`: the notebook was told why.", "",
             "| scenario | " + " | ".join(results["guards"]) + " |",
             "|---|" + "---|" * len(results["guards"])]
    for name, title in results["scenarios"].items():
        cells = [cell(row_of(results, name, guard)) for guard in results["guards"]]
        if set(cells) != {"not run"}:
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += [""] if any(row.get("note") for row in results["rows"]) else []
    lines += sorted({f"- {row['guard']}: {row['note']}" for row in results["rows"] if row.get("note")})
    left = [name for name in results["scenarios"] if all(row_of(results, name, g) is None for g in results["guards"])]
    if left:
        lines += ["", f"Not run by anybody yet: {', '.join(left)}."]
    return "\n".join(lines)


def cell(row):
    if row is None:
        return "not run"
    came = row["outcome"]
    if came is None:
        return f"could not be played: {row['trouble'][:60]}" if row["trouble"] else "could not be played"
    words = ["right" if came["right"] else f"**wrong**: {', '.join(came['wrong'])}"]
    if came["relief_ms"] is not None:
        words.append(seconds(came["relief_ms"]) if came["relief_ms"] else "never above")
    if came["kernel_oom_kills"]:
        words.append("kernel")
    if came["shm_lost"] >= 1 << 20:
        words.append(f"{mib(came['shm_lost'])} lost in /dev/shm")
    if came["told"] == "yes":
        words.append("told")
    return "; ".join(words)


def idle(results):
    found = results["idle"]
    if not found:
        return "Idle: not measured yet."
    counts = list(next(iter(found["figures"].values())))
    lines = [f"Idle for {found['seconds']} s, all guards in one boot ({found['date']}, emulated: CPU time is several "
             "times that of a real machine). The containers are groups that look like Docker's, each with a limit and a "
             f"process that sleeps.{' ' if found['note'] else ''}{found['note']}", "",
             "| guard | " + " | ".join(f"with {count}: RSS, PSS in KiB; wake-ups; CPU" for count in counts) + " |",
             "|---|" + "---|" * len(counts)]
    for guard, by_count in found["figures"].items():
        cells = ["not measured" if (one := by_count[count]) is None else
                 f"{one['rss_kib']:,}, {one['pss_kib']:,}; {one['wakeups']:,}; {one['cpu_ms']:,} ms" for count in counts]
        lines.append(f"| {guard} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def better(results):
    """Every figure in which another guard is better than ours."""
    found = []
    for name, title in results["scenarios"].items():
        ours = (row_of(results, name, OURS) or {}).get("outcome")
        for guard in results["guards"]:
            theirs = (row_of(results, name, guard) or {}).get("outcome")
            if guard != OURS and ours and theirs:
                found += [f"{guard}, {title}: {what}" for what in better_outcome(theirs, ours)]
    found += better_idle((results["idle"] or {}).get("figures", {}))
    if not found:
        return "Where another is better: nowhere in what was run."
    return "Where another is better:\n\n" + "\n".join(f"- {line}" for line in found)


def better_idle(figures):
    """One line for each guard and kind of figure: theirs, ours in brackets."""
    for guard, by_count in figures.items():
        for key, words in (("rss_kib", "KiB RSS"), ("pss_kib", "KiB PSS"), ("wakeups", "wake-ups"), ("cpu_ms", "ms of CPU")):
            where = [f"{theirs[key]:,} ({ours[key]:,}) with {count}" for count, theirs in by_count.items()
                     if guard != OURS and theirs and (ours := figures.get(OURS, {}).get(count)) and theirs[key] < ours[key]]
            if where:
                yield f"{guard}, idle, {words}, ours in brackets: {', '.join(where)} containers"


def better_outcome(theirs, ours):
    """In what one outcome is better than ours, in words."""
    if theirs["right"] and not ours["right"]:
        yield "right, where nbguard was wrong"
    if not theirs["right"]:
        return
    if ours["kernel_oom_kills"] and not theirs["kernel_oom_kills"]:
        yield "without the kernel's OOM killer"
    if None not in (theirs["relief_ms"], ours["relief_ms"]) and theirs["relief_ms"] * NOTABLE < ours["relief_ms"]:
        yield f"memory was back after {seconds(theirs['relief_ms'])}, ours {seconds(ours['relief_ms'])}"
    if theirs["shm_lost"] + (1 << 20) <= ours["shm_lost"]:
        yield f"{mib(theirs['shm_lost'])} left in /dev/shm, ours {mib(ours['shm_lost'])}"
    if theirs["told"] == "yes" and ours["told"] != "yes":
        yield "the notebook was told why"
    if theirs["in_part"] and not theirs["ended"] and ours["ended"]:
        yield f"only a part of {', '.join(theirs['in_part'])} ended, and the notebook lives on"


def details(results):
    lines = ["## Every row", "",
             "| scenario | guard | version | on | day | ended | in part | right | server | others | kernel | "
             "threshold to relief | /dev/shm | told |", "|---" * 14 + "|"]
    for row in sorted(results["rows"], key=lambda row: (row["scenario"], results["guards"].index(row["guard"]))):
        came = row["outcome"]
        start = f"| {row['scenario']} | {row['guard']} | {row['version']} | {row['kernel']} | {row['date']} | "
        if came is None:
            lines.append(start + f"{cell(row)} |" + " |" * 8)
            continue
        lines.append(start + " | ".join((
            ", ".join(came["ended"]) or "nobody", ", ".join(came["in_part"]) or "nobody",
            "yes" if came["right"] else "; ".join(came["wrong"]), "lives" if came["server_lives"] else "lost",
            "live" if came["others_live"] else "not all", str(came["kernel_oom_kills"]),
            "still" if came["relief_ms"] is None else seconds(came["relief_ms"]), mib(came["shm_lost"]),
            came["told"] or "nobody to tell")) + " |")
    return "\n".join(lines) + "\n"


def seconds(ms):
    return f"{ms / 1000:.2f} s" if ms < 10_000 else f"{ms / 1000:.0f} s"


def mib(size):
    return f"{size >> 20} MiB"


def quote(readme, results):
    """README.md with the summary between its markers."""
    before, rest = readme.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{summary(results)}{END}{after}"
