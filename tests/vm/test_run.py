"""The parser of scenarios and the verdict on facts: quick, no VM. python3 -m unittest discover tests/vm"""

import importlib.machinery
import importlib.util
import json
import pathlib
import socket
import sys
import tempfile
import threading
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "guest")]

import fastcgi  # noqa: E402
import peer_recipe  # noqa: E402
import peer_table  # noqa: E402
import scenario as scenarios  # noqa: E402
import verdict  # noqa: E402


def parse(text):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "case.toml"
        path.write_text(text)
        return scenarios.load(path)


SMALL = """
title = "t"
[[container]]
name = "lab"
memory = "640M"
[[container.notebook]]
name = "grows"
[[container.notebook]]
name = "idle"
[expect]
ended = ["grows"]
freed_at_least = "100M"
record = [{ kind = "kill", notebook = "grows", freed = { min = 10 } }]
"""


PHP = """
title = "t"
[[container]]
name = "web"
memory = "300M"
php.extension = true
[[container.pool]]
name = "shop"
[[container.pool]]
name = "reports"
workers = 4
hold = "40M"
[[container.request]]
name = "order"
pool = "shop"
code = "echo 'done';"
[[container.process]]
name = "cron"
kind = "exec"
command = "true"
[expect]
ended = ["cron"]
answered = { order = '^done$' }
workers_ended = { reports = { min = 1 }, shop = 0 }
"""


class Parser(unittest.TestCase):
    def test_a_small_scenario_gets_every_default(self):
        one = parse(SMALL)
        self.assertEqual(one["name"], "case")
        self.assertEqual(one["container"][0]["memory"], 640 << 20)
        self.assertEqual(one["container"][0]["notebook"][0]["kernel"], "python3")
        self.assertEqual(one["host"], {
            "guest": None, "memory": 3 << 30, "swap": 0, "zram": 0, "cmdline": "", "cgroup_driver": "systemd"})
        self.assertEqual(one["container"][0]["server"], {"ballast": 0, "grow": 0})
        self.assertEqual(one["expect"]["lives"], "all others")

    def test_pools_and_requests_get_every_default(self):
        one = parse(PHP)
        web = one["container"][0]
        self.assertEqual(web["php"], {"extension": True, "opcache": True, "settings": {}})
        self.assertEqual([(pool["workers"], pool["hold"]) for pool in web["pool"]], [(2, 0), (4, 40 << 20)])
        self.assertTrue(scenarios.wants_php(one) and scenarios.wants_extension(one))
        self.assertFalse(scenarios.wants_php(parse(SMALL)) or scenarios.wants_extension(parse(SMALL)))

    def test_every_shipped_scenario_is_valid_and_foresees_what_the_kernel_does(self):
        found = sorted((HERE / "scenarios").glob("*.toml"))
        self.assertGreater(len(found), 20)
        for path in found:
            with self.subTest(path.name):
                scenarios.load(path)

    def test_each_letter_of_the_plan_has_a_scenario(self):
        letters = {path.name[0] for path in (HERE / "scenarios").glob("*.toml")}
        self.assertLessEqual(set("abcdefghijklmnopqrstu"), letters)

    def test_errors_name_the_file_and_the_key(self):
        cases = {
            "unknown key": (SMALL + "freed_at_most = 1\n", "case.toml: expect.freed_at_most: unknown key"),
            "nearest key": (SMALL.replace("memory =", "memry ="), "container[0].memry: unknown key, did you mean memory?"),
            "wrong size": (SMALL.replace('"640M"', '"640 apples"'), "container[0].memory: wants a size"),
            "wrong kind of value": (SMALL.replace('["grows"]', '"grows"'), "expect.ended: wants a list of texts"),
            "missing name": (SMALL.replace('name = "idle"', ""), "container[0].notebook[1].name: missing"),
            "no such notebook": (SMALL.replace('["grows"]', '["growz"]'), "expect.ended: there is no single notebook, process or request growz"),
            "a name twice": (SMALL.replace('"idle"', '"grows"'), "used twice"),
            "a fault without a time": (SMALL + '[[fault]]\naction = "kill-daemon"\n', "fault[0]: wants either at or on"),
            "an unknown action": (SMALL + '[[fault]]\nat = 1\naction = "explode"\n', "fault[0].action: wants one of"),
            "a table for a list": ("title = 't'\n[container]\nname = 'x'\n", "container: wants [[container]] tables"),
            "no container": ("title = 't'\n", "container: missing"),
            "a request without its pool": (PHP.replace('pool = "shop"', 'pool = "shup"'), "there is no pool shup for the request order"),
            "a pool twice": (PHP.replace('"reports"', '"shop"'), "container web: a pool name is used twice"),
            "notebooks beside pools": (PHP.replace("[[container.request]]", '[[container.notebook]]\nname = "n"\n[[container.request]]'), "can have no notebooks"),
            "a terminal without a server": (PHP.replace('kind = "exec"', 'kind = "terminal"'), 'cron wants kind = "exec"'),
            "no such pool": (PHP.replace("shop = 0 }", "shup = 0 }"), "expect.workers_ended: there is no single pool shup"),
            "no such request": (PHP.replace("answered = { order", "answered = { ordre"), "there is no single notebook, process or request ordre"),
            "a broken pattern": (PHP.replace("'^done$'", "'('"), "expect.answered: wants a table of patterns, '('"),
            "no such guest": (SMALL.replace('title = "t"', 'title = "t"\nhost.guest = "buzz"'), "host.guest: wants one of 'bookworm'"),
            "not TOML": ("title = \n", "case.toml: Invalid value"),
        }
        for what, (text, wanted) in cases.items():
            with self.subTest(what):
                with self.assertRaises(scenarios.ScenarioError) as caught:
                    parse(text)
                self.assertIn(wanted, str(caught.exception))

    def test_all_errors_come_in_one_run(self):
        with self.assertRaises(scenarios.ScenarioError) as caught:
            parse(SMALL.replace('"640M"', "true").replace("title", "titel"))
        self.assertEqual(len(str(caught.exception).splitlines()), 3)

    def test_a_missing_file_is_named(self):
        with self.assertRaises(scenarios.ScenarioError) as caught:
            scenarios.load("/nowhere/x.toml")
        self.assertIn("/nowhere/x.toml: No such file", str(caught.exception))

    def test_sizes_and_durations(self):
        for text, wanted in {"512M": 512 << 20, "1G": 1 << 30, "64K": 65536, "7": 7, "2GiB": 2 << 30}.items():
            self.assertEqual(scenarios.size(text), wanted)
        for text, wanted in {"200ms": 0.2, "2m": 120, "1.5s": 1.5}.items():
            self.assertAlmostEqual(scenarios.seconds(text), wanted)
        for bad in ("", "M", "1T", "-1", True, None):
            with self.assertRaises(ValueError):
                scenarios.size(bad)

    def test_hosts_that_differ_do_not_share_a_boot(self):
        other = parse(SMALL.replace('title = "t"', 'title = "t"\nhost.cmdline = "psi=0"'))
        self.assertNotEqual(scenarios.boot_key(parse(SMALL)), scenarios.boot_key(other))
        swapping = parse(SMALL.replace('title = "t"', 'title = "t"\nhost.swap = "1G"'))
        self.assertEqual(scenarios.boot_key(parse(SMALL)), scenarios.boot_key(swapping))
        older = parse(SMALL.replace('title = "t"', 'title = "t"\nhost.guest = "bookworm"'))
        self.assertNotEqual(scenarios.boot_key(parse(SMALL)), scenarios.boot_key(older))

    def test_a_scenario_about_one_guest_is_played_in_no_other(self):
        any_guest = parse(SMALL)
        self.assertEqual([scenarios.guest_of(any_guest, asked) for asked in (None, "forky")], [None, "forky"])
        older = parse(SMALL.replace('title = "t"', 'title = "t"\nhost.guest = "bookworm"'))
        self.assertEqual([scenarios.guest_of(older, asked) for asked in (None, "bookworm")], ["bookworm"] * 2)
        with self.assertRaises(scenarios.ScenarioError):
            scenarios.guest_of(older, "trixie")


def facts(**changes):
    """A run in which the guard ended `grows` in time and all else lives."""
    life = {"pid": 10, "born": 0, "died": 900, "by": "other"}
    base = {
        "trouble": [], "workers": [], "oom_victims": [], "checks": [], "faults": [], "timed_out": False, "lowest_available": None,
        "seen": {"high": 700, "episode": 710}, "seconds": {"total": 30.0},
        "members": {
            "lab/grows": {"kind": "notebook", "lives": [life], "alive": False, "answers": None, "cell": "running",
                          "error": None, "left_behind": 0, "ended": 1, "streams": []},
            "lab/idle": {"kind": "notebook", "lives": [dict(life, died=None)], "alive": True, "answers": True,
                         "cell": "none", "error": None, "left_behind": 0, "ended": 0, "streams": []}},
        "above": {"first_ms": 710, "lasted_ms": 240, "still": False},
        "containers": {"lab": {"events": {"high": 2, "max": 0, "oom": 0, "oom_kill": 0}, "peak": 1, "freed": 200 << 20,
                               "back": 950, "shm": 0, "shm_before": 0, "highs": [[0, 1]], "high_after_stop": "max", "removed": False,
                               "server_alive": True, "server_answers": True}},
        "guard": {"rss_kib": 2000, "wakeups": 9, "restarts": 0},
        "incidents": [{"kind": "kill", "reason": "largest", "victim": {"notebook": "/home/jovyan/grows.ipynb"}, "freed": 20,
                       "container": {"name": "lab"}, "rows": [{"notebook": "/home/jovyan/grows.ipynb"}]}],
    }
    return {**base, **changes}


class Verdict(unittest.TestCase):
    def judge(self, seen, text=SMALL, guard="nbguard"):
        return verdict.report(parse(text), seen, {}, guard)

    def changed(self, member, **changes):
        seen = facts()
        seen["members"][member].update(changes)
        return seen

    def test_what_was_expected_passes(self):
        line = self.judge(facts())
        self.assertEqual((line["pass"], line["wrong"]), (True, []))
        self.assertEqual(line["timings"]["crossed_to_dead_ms"], 190)

    def test_each_thing_that_went_wrong_is_said(self):
        kernel = [{"pid": 10, "process": "python3", "owner": "lab/grows", "anon_mib": 1, "at": 1}]
        lab = facts()["containers"]["lab"]
        cases = {
            "lab/grows did not end": self.changed("lab/grows", ended=0, alive=True, answers=True),
            "lab/idle ended": self.changed("lab/idle", ended=1, alive=False),
            "lab/idle lives but gives no answer": self.changed("lab/idle", answers=False),
            "left 2 of its processes behind": self.changed("lab/grows", left_behind=2),
            "OOM killer acted 1 times": facts(oom_victims=kernel),
            "MiB came back, not 100": facts(containers={"lab": dict(lab, freed=1)}),
            "the server of lab is gone": facts(containers={"lab": dict(lab, server_alive=False)}),
            "memory.high of lab is 5": facts(containers={"lab": dict(lab, high_after_stop="5")}),
            "does not run any more": facts(guard=None),
            "restarted 1 times": facts(guard={"wakeups": 1, "restarts": 1}),
            "no record fits": facts(incidents=[]),
            "check 'c': exit 1": facts(checks=[{"what": "c", "exit": 1, "output": "", "wants": None}]),
            "trouble: no docker": facts(trouble=["no docker"]),
        }
        for wanted, seen in cases.items():
            with self.subTest(wanted):
                line = self.judge(seen)
                self.assertFalse(line["pass"])
                self.assertIn(wanted, "; ".join(line["wrong"]))

    def test_without_a_guard_nothing_passes_or_fails(self):
        text = SMALL + '[alone]\nended = ["grows"]\noom_kill = 0\n'
        line = self.judge(facts(incidents=[], guard=None), text, "none")
        self.assertIsNone(line["pass"])
        self.assertTrue(line["expected"])
        self.assertTrue(line["as_foreseen"])
        self.assertFalse(self.judge(facts(), text.replace("oom_kill = 0", "oom_kill = 1"), "none")["as_foreseen"])

    def test_a_scenario_that_never_came_to_its_facts_fails(self):
        line = self.judge({"trouble": ["LabError: docker"], "seconds": {"total": 1}})
        self.assertFalse(line["pass"])

    def test_what_a_notebook_was_told(self):
        warned = {"name": "stderr", "text": "holds the most", "in_cell": True}
        called = {"name": "stderr", "text": "is ended now", "in_cell": True}
        other = {"name": "stdout", "text": "its own output", "in_cell": True}
        text = SMALL.replace("[expect]", "[expect]\ntold = { grows = ['most', 'ended'], idle = [] }")
        for streams, right in (([other, warned, called], True), ([called, warned], False), ([warned], False),
                               ([warned, dict(called, in_cell=False)], False)):
            with self.subTest(streams):
                line = self.judge(self.changed("lab/grows", streams=streams), text)
                self.assertEqual(line["pass"], right, line["wrong"])
        self.assertFalse(self.judge(self.changed("lab/idle", streams=[warned]), text)["pass"])

    def test_what_became_of_requests_and_workers(self):
        life = {"pid": 10, "born": 0, "died": None, "by": None}
        member = {"lives": [life], "alive": True, "answers": None, "cell": "ok", "error": None, "left_behind": 0,
                  "ended": 0, "streams": [], "body": "done"}
        order = dict(member, kind="request")
        cron = dict(member, kind="process", alive=False, ended=1, lives=[dict(life, died=5)])
        idle = {"pool": "web/reports", "pid": 11, "born": 0, "died": 7, "by": "other", "served": None}
        lab = facts()["containers"]["lab"]

        def judged(order=order, workers=(idle,)):
            seen = facts(members={"web/order": order, "web/cron": cron}, workers=list(workers), incidents=[],
                         containers={"web": lab})
            return self.judge(seen, PHP)

        self.assertEqual(judged()["wrong"], [])
        self.assertEqual(judged()["workers_ended"], {"web/reports": [[7, None]]})
        cut = dict(order, cell="cut", alive=False, ended=1, error="status 200", lives=[dict(life, died=6)])
        for wanted, line in {
                "web/order ended": judged(cut),
                "web/order got no whole answer: cut": judged(cut),
                "web/order was answered with an error: boom": judged(dict(order, cell="error", error="boom")),
                "was answered 'half', not '^done$'": judged(dict(order, body="half")),
                "0 workers of reports ended": judged(workers=[dict(idle, died=None)]),
                "1 workers of shop ended, not 0": judged(workers=[idle, dict(idle, pool="web/shop")])}.items():
            with self.subTest(wanted):
                self.assertIn(wanted, "; ".join(line["wrong"]))

    def test_the_order_of_ends(self):
        def seen(first, second):
            both = facts()
            both["members"]["lab/grows"]["lives"][0]["died"] = first
            both["members"]["lab/idle"] = dict(both["members"]["lab/grows"], lives=[
                dict(both["members"]["lab/grows"]["lives"][0], died=second)])
            return both

        text = SMALL.replace('["grows"]', '["grows", "idle"]\nended_order = ["grows", "idle"]')
        self.assertEqual(self.judge(seen(5, 9), text)["wrong"], [])
        for first, second in ((9, 5), (None, 5)):
            self.assertIn("ended in the order", "; ".join(self.judge(seen(first, second), text)["wrong"]))

    def test_who_ran_makes_no_difference_to_the_outcome(self):
        found = {guard: self.judge(facts(), guard=guard)["outcome"] for guard in ("nbguard", "none", *peer_recipe.PEERS)}
        self.assertEqual({json.dumps(one) for one in found.values()}, {json.dumps({
            "right": True, "wrong": [], "ended": ["lab/grows"], "in_part": [], "server_lives": True, "others_live": True,
            "kernel_oom_kills": 0, "relief_ms": 240, "shm_lost": 0, "told": "no"})})

    def test_a_kill_by_the_kernel_is_right_when_it_hit_the_right_one(self):
        kernel = [{"pid": 77, "process": "hog", "owner": "lab/grows", "anon_mib": 400, "at": 1}]
        seen = facts(oom_victims=kernel)
        seen["members"]["lab/grows"].update(ended=0, alive=True, answers=False)
        one = self.judge(seen, guard="none")["outcome"]
        self.assertEqual((one["right"], one["ended"], one["in_part"], one["kernel_oom_kills"]), (True, [], ["lab/grows"], 1))

    def test_what_makes_an_outcome_wrong(self):
        idle = facts()["members"]["lab/idle"]
        lab = facts()["containers"]["lab"]
        cases = {
            "ended lab/idle": self.changed("lab/idle", ended=1, alive=False),
            "a part of lab/idle ended": facts(oom_victims=[{"pid": 5, "owner": "lab/idle"}]),
            "the server of lab was lost": facts(containers={"lab": dict(lab, server_alive=False)}),
            "lab/idle gives no answer": facts(members={**facts()["members"], "lab/idle": dict(idle, answers=False)}),
            "the memory did not come back": facts(above={"first_ms": 1, "lasted_ms": 9, "still": True}),
        }
        for text, seen in cases.items():
            one = self.judge(seen, guard="nbguard")["outcome"]
            self.assertEqual((one["right"], one["wrong"]), (False, [text]))

    def test_squeezed_below_the_threshold_is_no_relief(self):
        above = {"first_ms": 710, "lasted_ms": 50, "still": False}
        self.assertEqual(self.judge(facts(above=above))["outcome"]["relief_ms"], 190)
        self.assertIsNone(self.judge(facts(above=dict(above, still=True)))["outcome"]["relief_ms"])
        self.assertEqual(self.judge(facts(above=dict(above, first_ms=None)))["outcome"]["relief_ms"], 0)

    def test_what_could_not_be_played_is_no_outcome(self):
        nothing = self.changed("lab/grows", ended=0, alive=True)
        nothing["above"] = {"first_ms": None, "lasted_ms": 0, "still": False}
        self.assertIsNone(self.judge(nothing, guard="oomd")["outcome"])
        self.assertIsNone(self.judge(facts(trouble=["oomd.service did not start"]), guard="oomd")["outcome"])

    def test_shared_memory_is_lost_only_when_its_owner_is_gone(self):
        lab = dict(facts()["containers"]["lab"], shm=9 << 20, shm_before=1 << 20)
        self.assertEqual(self.judge(facts(containers={"lab": lab}))["outcome"]["shm_lost"], 8 << 20)
        alive = self.changed("lab/grows", ended=0, alive=True)
        alive["containers"]["lab"] = lab
        self.assertEqual(self.judge(alive)["outcome"]["shm_lost"], 0)

    def test_told_is_a_word_about_memory_and_not_the_name_of_a_module(self):
        def told(**changes):
            return self.judge(self.changed("lab/grows", **changes))["outcome"]["told"]

        def said(text):
            return [{"name": "stderr", "text": text, "in_cell": True, "at": 1}]
        self.assertEqual(told(streams=said("ended: memory ran short")), "yes")
        self.assertEqual(told(streams=said("leaked shared_memory objects")), "no")
        self.assertEqual(told(error="TerminatedWorkerError: ..."), "by an error")

    def test_record_values(self):
        record = facts()["incidents"][0]
        for wanted, fits in (({"notebook": "grows"}, True), ({"notebook": "idle"}, False), ({"freed": {"min": 20}}, True),
                             ({"freed": {"max": 19}}, False), ({"reason": "~^larg"}, True), ({"reason": "~x"}, False),
                             ({"container": "lab"}, True), ({"first_row": "grows"}, True), ({"signals": ["KILL"]}, False),
                             ({"victim.notebook": "/home/jovyan/grows.ipynb"}, True)):
            with self.subTest(wanted):
                self.assertEqual(verdict.fits(record, wanted), fits)


class Socket:
    """Takes one connection and answers it as told."""

    def __init__(self, folder, answer):
        self.path = f"{folder}/fpm.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        threading.Thread(target=self.serve, args=[answer], daemon=True).start()

    def serve(self, answer):
        connection, _ = self.listener.accept()
        with self.listener, connection:
            self.asked = connection.recv(65536)
            connection.sendall(answer)


class FastCgi(unittest.TestCase):
    OUT = fastcgi.record(fastcgi.STDOUT, b"Status: 404 Not Found\r\nX: y\r\n\r\n17\nmissing")
    END = fastcgi.record(fastcgi.END, b"\0" * 8)

    def ask(self, answer):
        with tempfile.TemporaryDirectory() as folder:
            server = Socket(folder, answer)
            bodies = []
            found = fastcgi.ask(server.path, "/srv/x.php", "/x.php?a=" + "b" * 200, bodies.append, seconds=10)
            return found, bodies, server.asked

    def test_an_answer_with_its_end_is_whole(self):
        found, bodies, asked = self.ask(self.OUT + fastcgi.record(fastcgi.STDERR, b"warning") + self.END)
        self.assertEqual((found.whole, found.status, found.body, found.errors), (True, 404, "17\nmissing", "warning"))
        self.assertEqual(bodies, ["17\nmissing"])
        self.assertIn(b"SCRIPT_FILENAME/srv/x.php", asked)
        # More than 127 bytes: four bytes of length.
        self.assertIn(b"\x0b\x80\0\0\xd1REQUEST_URI", asked)

    def test_an_answer_without_its_end_is_not(self):
        for answer in (b"", self.OUT, self.OUT + self.END[:10], self.OUT[:-3],
                       self.OUT + fastcgi.record(fastcgi.END, b"\0\0\0\x01" + b"\0" * 4)):
            with self.subTest(len(answer)):
                self.assertFalse(self.ask(answer)[0].whole)


RESULTS = HERE / "results/peers.json"


def outcome(**changes):
    return {"right": True, "wrong": [], "ended": ["lab/grows"], "in_part": [], "server_lives": True, "others_live": True,
            "kernel_oom_kills": 0, "relief_ms": 500, "shm_lost": 0, "told": "no", **changes}


def results(theirs, ours):
    rows = [{"scenario": "a", "guard": guard, "version": "1", "kernel": "6.12", "date": "d", "made_of": "x",
             "outcome": one, "trouble": None}
            for guard, one in (("oomd", theirs), ("nbguard", ours)) if one]
    return {"date": "d", "guest": "trixie", "guards": ["oomd", "nbguard"],
            "scenarios": {"a": "one grows"}, "rows": rows, "idle": None}


class PeerTable(unittest.TestCase):
    def test_a_figure_that_is_better_than_ours_is_said(self):
        cases = {
            "right, where nbguard was wrong": (outcome(), outcome(right=False, wrong=["ended lab/idle"])),
            "memory was back after 0.50 s, ours 5.00 s": (outcome(), outcome(relief_ms=5000)),
            "without the kernel's OOM killer": (outcome(), outcome(kernel_oom_kills=1)),
            "0 MiB left in /dev/shm, ours 7 MiB": (outcome(), outcome(shm_lost=7 << 20)),
            "only a part of lab/grows ended": (outcome(ended=[], in_part=["lab/grows"]), outcome()),
            "the notebook was told why": (outcome(told="yes"), outcome()),
        }
        for words, (theirs, ours) in cases.items():
            text = peer_table.better(results(theirs, ours))
            self.assertIn(f"- oomd, one grows: {words}", text)
            self.assertIn("nowhere", peer_table.better(results(ours if ours["right"] else outcome(), theirs)), words)

    def test_each_guard_is_told_with_the_kernel_it_was_played_on(self):
        one = results(outcome(), outcome())
        self.assertIn(" kernel 6.12, ", peer_table.head(one))
        one["rows"][0]["kernel"] = "6.9"
        self.assertIn(" kernel 6.12 (nbguard) and 6.9 (oomd), ", peer_table.head(one))

    def test_idle_figures_are_compared_one_by_one(self):
        one = results(outcome(), outcome())
        figures = {"rss_kib": 2000, "pss_kib": 900, "threads": 1, "wakeups": 60, "cpu_ms": 10}
        one["idle"] = {"seconds": 60, "date": "d", "note": "", "figures": {
            "oomd": {"100": figures}, "nbguard": {"100": dict(figures, rss_kib=2700, wakeups=0)}}}
        self.assertEqual(peer_table.better(one).splitlines()[2:],
                         ["- oomd, idle, KiB RSS, ours in brackets: 2,000 (2,700) with 100 containers"])
        self.assertIn("| nbguard | 2,700, 900; 0; 10 ms |", peer_table.idle(one))

    def test_what_was_not_run_says_so_and_is_in_no_total(self):
        text = peer_table.summary(results(None, outcome()))
        self.assertIn("| one grows | not run | right; 0.50 s |", text)
        self.assertEqual(peer_table.totals(results(None, outcome())), "")
        self.assertIn("| oomd | 1 of 1 |", peer_table.totals(results(outcome(), outcome())))

    def test_a_scenario_on_another_host_changes_nothing(self):
        loader = importlib.machinery.SourceFileLoader("compare", str(HERE / "compare"))
        compare = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare", loader))
        loader.exec_module(compare)
        told = {"date": "d", "kernel": "6.12", "scenarios": {"a-one-grows": "one grows"}, "rows": []}
        compare.take(told, {"scenario": "z8-cgroup-v1", "guard": "nbguard", "kernel": "6.1", "outcome": None})
        self.assertEqual((told["date"], told["kernel"], told["rows"]), ("d", "6.12", []))

    def test_scenarios_about_nbguard_itself_are_left_out(self):
        left = {path.stem for path in (HERE / "scenarios").glob("*.toml")
                if peer_table.comparable(scenarios.load(path)) is not None}
        self.assertLessEqual({"q-dry-run", "k1-daemon-killed-before", "y1-php-goes-on", "v-commands", "p-protected"}, left)
        self.assertFalse(left & {"a-one-grows", "g-server-is-largest", "i1-no-limits", "r1-terminal-hog"})

    def test_readme_quotes_the_results_as_they_are(self):
        readme = (HERE.parent.parent / "README.md").read_text()
        found = json.loads(RESULTS.read_text())
        self.assertEqual(peer_table.quote(readme, found), readme)
        self.assertEqual(peer_table.whole(found), (HERE / "results/peers.md").read_text())
        known = {path.stem for path in (HERE / "scenarios").glob("*.toml")}
        self.assertLessEqual({row["scenario"] for row in found["rows"]}, known)

    def test_every_peer_has_its_configuration_in_the_tree(self):
        for guard in peer_recipe.PEERS:
            self.assertTrue(any(file.is_file() for file in (HERE / "guards" / guard).rglob("*")), guard)


if __name__ == "__main__":
    unittest.main()
