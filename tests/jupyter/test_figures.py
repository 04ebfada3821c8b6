"""The server extension's parts without a server: the question to the guard, when it is asked, and
what becomes of what it says, good and hostile."""

import asyncio
import json
import logging
import pathlib
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "packaging/jupyter"))

from mock_guard import MockGuard
from nbguard_jupyter import guard, view
from nbguard_jupyter.figures import Figures

LOG = logging.getLogger("nbguard-test")
LOG.addHandler(logging.NullHandler())
LOG.propagate = False
KERNEL = "11111111-2222-3333-4444-555555555555"


def row(**changes):
    return dict({"pid": 7, "start": 1, "memory": 1 << 30, "lower": 0, "upper": 0, "share": 0.25,
                 "name": "python3", "notebook": "/home/u/a.ipynb", "kernel_id": KERNEL, "uid": 1000,
                 "container_pid": 9, "eligible": "yes", "because": "", "processes": [],
                 "processes_total": 1}, **changes)


class Case(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.guard = MockGuard(pathlib.Path(self.folder.name) / "nbguard.sock", "/nowhere")
        self.addCleanup(self.guard.stop)
        self.guard.rows = [row()]
        self.sessions = [{"path": "work/a.ipynb", "kernel": {"id": KERNEL}}]

    def figures(self, period=5.0, **more):
        async def sessions():
            return self.sessions
        return Figures(str(self.guard.path), period, view.Places("/home/u"), sessions, LOG, **more)

    def questions(self):
        return len([path for path in self.guard.asked if path == "/api/v1/containers"])


class Questions(Case):
    async def test_many_pages_are_one_question_per_period(self):
        figures = self.figures(period=0.5)
        self.guard.delay = 0.05
        await asyncio.gather(*[figures.fresh() for _ in range(50)])
        await figures.fresh()
        self.assertEqual(self.questions(), 1)
        await asyncio.sleep(0.5)
        await asyncio.gather(*[figures.fresh() for _ in range(50)])
        self.assertEqual(self.questions(), 2)

    async def test_who_stops_waiting_does_not_take_the_answer_from_others(self):
        figures = self.figures()
        self.guard.delay = 0.2
        impatient = asyncio.ensure_future(figures.fresh())
        patient = asyncio.ensure_future(figures.fresh())
        await asyncio.sleep(0.05)
        impatient.cancel()
        await patient
        self.assertEqual(figures.state, "ok")

    async def test_a_guard_that_is_gone_is_asked_ever_more_rarely_and_told_of_once(self):
        self.guard.stop()
        figures = self.figures(period=0.05)
        with self.assertLogs(LOG, "INFO") as logged:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                await figures.fresh()
                await asyncio.sleep(0.01)
        # 0.05, 0.1, 0.2, 0.4, 0.8 …
        self.assertLessEqual(figures.asked, 6)
        self.assertEqual(figures.status()["state"], "no-guard")
        self.assertIsNone(figures.status()["container"])
        self.assertEqual(len(logged.output), 1)
        self.guard.start()

    async def test_a_restarted_guard_is_found_again(self):
        figures = self.figures(period=0.1)
        await figures.fresh()
        self.guard.stop()
        await asyncio.sleep(0.1)
        await figures.fresh()
        self.assertEqual(figures.state, "no-guard")
        self.guard.start()
        await asyncio.sleep(0.1)
        await figures.fresh()
        self.assertEqual(figures.state, "ok")

    async def test_incidents_are_asked_for_when_something_happened(self):
        figures = self.figures(period=0.05)

        def asked():
            return len([path for path in self.guard.asked if path.startswith("/api/v1/incidents")])
        await figures.fresh()
        self.assertEqual(asked(), 1)
        # As if it had been quiet for long.
        figures._lively_until = 0
        await asyncio.sleep(0.05)
        await figures.fresh()
        self.assertEqual((self.questions(), asked()), (2, 1))
        self.guard.record(self.guard.rows.pop())
        await asyncio.sleep(0.05)
        await figures.fresh()
        self.assertEqual(asked(), 2)
        self.assertEqual(figures.incidents[0]["victim"]["path"], "work/a.ipynb")

    async def test_without_incidents_there_are_figures(self):
        self.guard.answer = lambda path: (500, b"{}") if "incidents" in path else None
        figures = self.figures()
        await figures.fresh()
        self.assertEqual(figures.state, "ok")
        self.assertEqual(figures.container["notebooks"][0]["memory"], 1 << 30)

    async def test_sessions_that_cannot_be_listed_cost_only_names(self):
        async def broken():
            raise RuntimeError("no database")
        figures = self.figures()
        figures.sessions = broken
        await figures.fresh()
        self.assertEqual(figures.state, "ok")
        self.assertEqual(figures.container["notebooks"][0]["path"], "a.ipynb")


class Hostile(Case):
    async def test_bad_answers_are_a_state_and_never_an_exception(self):
        deep = b'{"containers":' + b"[" * 100_000
        for answer, state in (
            ((403, b'{"error":"not watched"}'), "not-watched"),
            ((403, b"<html>"), "trouble"),
            ((500, b'{"error":5}'), "trouble"),
            ((200, b""), "trouble"),
            ((200, b"[]"), "trouble"),
            ((200, b"\xff\xfe"), "trouble"),
            ((200, b'{"containers":{}}'), "not-watched"),
            ((200, b'{"containers":[7]}'), "not-watched"),
            ((200, deep), "trouble"),
            ((200, b" " * (guard.BODY_LIMIT + 1)), "trouble"),
        ):
            with self.subTest(answer=answer[1][:40]):
                self.guard.answer = lambda path, answer=answer: answer
                figures = self.figures()
                await figures.fresh()
                self.assertEqual(figures.status()["state"], state)
                json.dumps(figures.status())

    async def test_heads_that_are_no_heads(self):
        folder = pathlib.Path(self.folder.name)
        for at, said in enumerate((b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
                                   b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
                                   b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
                                   b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000)):
            async def answer(reader, writer, said=said):
                writer.write(said)
                writer.close()
            path = str(folder / f"s{at}")
            server = await asyncio.start_unix_server(answer, path)
            with self.subTest(said=said[:30]), self.assertRaises(guard.Trouble):
                await guard.ask(path, "/api/v1/containers")
            server.close()

    async def test_a_guard_that_hangs_does_not_hold_the_loop(self):
        before, guard.ANSWER_TIME = guard.ANSWER_TIME, 0.3
        self.addCleanup(setattr, guard, "ANSWER_TIME", before)
        self.guard.delay = 1
        figures = self.figures()
        waiting = asyncio.ensure_future(figures.fresh())
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
        self.assertGreater(turns, 10)
        self.assertEqual((figures.state, figures.detail), ("trouble", "the answer took too long"))

    async def test_values_of_wrong_types_are_left_out(self):
        self.guard.rows = [row(pid="7", memory=1, share=None, name=["x"], notebook=5, kernel_id={},
                               because="é" * 5000, eligible=None)]
        figures = self.figures()
        await figures.fresh()
        shown = figures.container["notebooks"][0]
        self.assertIsNone(shown["pid"])
        self.assertIsNone(shown["kernel_id"])
        self.assertEqual(len(shown["because"]), view.TEXT)

    async def test_more_notebooks_than_anybody_reads(self):
        self.guard.rows = [row(pid=pid, kernel_id=None) for pid in range(2000)]
        figures = self.figures()
        await figures.fresh()
        self.assertEqual(len(figures.container["notebooks"]), view.NOTEBOOKS)
        self.assertEqual(figures.container["notebooks_total"], 2000)


class Views(unittest.TestCase):
    def container(self, hide_foreign=False, **changes):
        places = view.Places("/home/u")
        places.learn([{"path": "own.ipynb", "kernel": {"id": KERNEL}}])
        source = dict({"usage": 90, "unreclaimable": 50, "total": 100, "warning": 80, "threshold": 90,
                       "notebooks": [row(because="larger than /home/u/b.ipynb"), row(pid=8, kernel_id="other", notebook="/home/v/secret.ipynb")],
                       "would": {"end": 8, "reason": "largest", "sentence": "Ends secret.ipynb"}}, **changes)
        return view.container({"containers": [source]}, places, hide_foreign)

    def test_the_session_names_a_notebook_before_its_environment_does(self):
        own, other = self.container()["notebooks"]
        self.assertEqual((own["path"], own["own"]), ("own.ipynb", True))
        self.assertEqual(own["because"], "larger than b.ipynb")
        self.assertEqual((other["path"], other["own"]), (None, False))

    def test_hidden_names_are_hidden_in_sentences_too(self):
        shown = self.container(hide_foreign=True)
        self.assertIsNone(shown["would"]["sentence"])
        own = self.container(hide_foreign=True, would={"end": 7, "sentence": "Ends /home/u/own.ipynb"})
        self.assertEqual(own["would"]["sentence"], "Ends own.ipynb")

    def test_names_of_others_can_be_hidden(self):
        shown = self.container(hide_foreign=True)
        self.assertNotIn("secret", json.dumps(shown))
        self.assertEqual(len(shown["notebooks"]), 2)
        self.assertEqual(shown["would"]["end"], 8)

    def test_incidents_of_others_can_be_hidden(self):
        places = view.Places("/home/u")
        said = {"incidents": [{"id": "1", "victim": {"notebook": "/home/v/secret.ipynb"}},
                              {"id": "2", "victim": {"notebook": "/home/u/mine.ipynb"}},
                              {"id": "3", "victim": None, "sentence": "secret.ipynb holds the most"}]}
        shown = view.incidents(said, places, hide_foreign=True)
        self.assertEqual([incident["id"] for incident in shown], ["2"])

    def test_page_cache_is_no_warning(self):
        shown = self.container(usage=99)
        self.assertEqual(view.resource_usage(shown), {
            "rss": 50, "pss": 50, "limits": {"memory": {"rss": 100, "pss": 100, "warn": False}}})
        shown = self.container(unreclaimable=80)
        self.assertTrue(view.resource_usage(shown)["limits"]["memory"]["warn"])

    def test_without_a_guard_there_is_no_figure(self):
        self.assertEqual(view.resource_usage(None), {"limits": {}})
        self.assertIn("reason", view.kernel_usage(None, KERNEL, "h")["content"])

    def test_a_kernel_that_is_gone_keeps_its_place(self):
        places = view.Places("/home/u")
        places.learn([{"path": "a.ipynb", "kernel": {"id": KERNEL}}])
        places.learn([])
        self.assertEqual(places.path(KERNEL, None), "a.ipynb")
        self.assertFalse(places.own(KERNEL))
        for at in range(2 * places.REMEMBERED):
            places.learn([{"path": "b.ipynb", "kernel": {"id": str(at)}}])
        self.assertEqual(len(places.before), places.REMEMBERED)


if __name__ == "__main__":
    unittest.main()
