"""The page on a real guard: containers on this machine, a notebook that grows until it ends."""

import json
import subprocess
import sys
import time

import checks
import stage

# Grows past the threshold of its container; where it stands in stage.CONTAINERS.
GROWS = ("climate-lab", 0, 700)
# Above its warning, below its threshold.
WARNED = ("genomics", 0, 265)
VICTIM = "/home/jovyan/era5/regrid.ipynb"
TOKEN = "only-for-this-test"


class Guard:
    """A stage, and what was seen of it."""

    def __init__(self, browser, binaries):
        self.browser = browser
        self.stage = stage.Stage(binaries)
        self.address = self.stage.address

    # ---- in this order

    def it_is_served_under_its_policy(self):
        self.browser.open(self.address)
        checks.nothing_is_complained_about(self.browser, self, None)
        checks.nobody_else_is_asked(self.browser, self, None)

    def it_shows_these_containers_and_no_others(self):
        self.browser.run("for (const button of document.querySelectorAll('[data-toggle$=\"/books\"]'))"
                        "view.open.set(button.dataset.toggle, true); draw()")
        checks.same(sorted(self.browser.texts("article h3")), sorted(box["name"] for box in stage.CONTAINERS), "containers")
        for box in stage.CONTAINERS:
            text = self.browser.run("return document.getElementById(arguments[0]).innerText", "container=" + self.stage.ids[box["name"]])
            for told in [box["image"]] + [book["path"] for book in box["books"]]:
                assert told in text, f"{told!r} of {box['name']} is not shown"

    def its_bars_are_as_long_as_the_figures(self):
        checks.bars_are_as_long_as_the_figures(self.browser, self, None)

    def it_fits_and_can_be_read(self):
        checks.it_fits_every_width(self.browser, self, None)
        checks.it_can_be_read_in_light_and_dark(self.browser, self, None)

    def the_kill_appears_by_itself(self):
        started = time.monotonic()
        self.stage.grow(*GROWS)
        self.stage.until(lambda: self.stage.records(), "the record")
        self.browser.wait("return view.episodes.length", seconds=8)
        seen = time.monotonic() - started
        self.record = self.stage.records()[-1]
        checks.same((self.record["kind"], self.record["victim"]["notebook"]), ("kill", VICTIM), "what happened")
        told = self.browser.texts("#list .what")[0]
        assert VICTIM in told and GROWS[0] in told, told
        assert VICTIM in self.browser.texts("#news")[0], "not announced"
        checks.same(len(self.browser.texts("#strip .dot.kill")), 1, "on the time line")
        print(f"web: on the page {seen:.1f} s after it began to grow", file=sys.stderr)

    def its_record_is_told_when_opened(self):
        self.browser.click("#list .fold")
        text = self.browser.run("return document.querySelector('.record').innerText")
        for told in (self.record["sentence"], self.record["id"], self.record["trigger"], self.record["rows"][0]["because"], "ended"):
            assert told in text, f"{told!r} is not told: {text[:1500]}"
        checks.same(len(self.browser.texts(".record .books tbody tr")), len(self.record["rows"]), "rows of the ranking")
        assert "victim" in text and "KILL" in text, text

    def the_others_live_on(self):
        # The survey after the kill: one figure is at most a second old.
        time.sleep(1)
        self.browser.refresh()
        box = next(each for each in self.browser.run("return view.data.containers") if each["name"] == GROWS[0])
        paths = {book["notebook"] for book in box["notebooks"]}
        checks.same(paths, {book["path"] for book in stage.CONTAINERS[0]["books"]} - {VICTIM}, "notebooks afterwards")

    def a_permalink_leads_to_it(self):
        self.browser.open(self.address + "#incident=" + self.record["id"])
        self.browser.wait("return document.querySelector('.record')")
        assert self.record["id"] in self.browser.run("return document.activeElement.id")

    def it_looks_as_it_should(self):
        for dark in (False, True):
            for device, width, height in (("desktop", 1440, 900), ("phone", 390, 844)):
                self.browser.look(width, height, dark)
                self.browser.picture(f"real-{device}-{'dark' if dark else 'light'}")
        self.browser.look()

    def it_says_that_the_guard_is_gone(self):
        self.stage.stop_daemon()
        self.browser.wait("return document.querySelector('#trouble').textContent.includes('No answer')", seconds=12)
        assert GROWS[0] in str(self.browser.texts("article h3")), "the last figures are gone"

    STEPS = [it_is_served_under_its_policy, it_shows_these_containers_and_no_others, its_bars_are_as_long_as_the_figures,
             it_fits_and_can_be_read, the_kill_appears_by_itself, its_record_is_told_when_opened, the_others_live_on,
             a_permalink_leads_to_it, it_looks_as_it_should, it_says_that_the_guard_is_gone]


def token(browser, binaries):
    """A browser cannot show a token before it has the page: the page itself asks for it."""
    ground = stage.Stage(binaries, stage.CONTAINERS[3:], TOKEN)
    try:
        checks.same(ground.ask("/api/v1/containers"), {"error": "a bearer token is needed"}, "without it")
        browser.open(ground.address)
        assert browser.shown("#ask")
        browser.type("#token", TOKEN + "\n")
        browser.wait("return document.querySelectorAll('article').length === 1", seconds=8)
    finally:
        browser.run("sessionStorage.clear()")
        ground.clear()


def play(tally, browser, binaries, words):
    try:
        guard = Guard(browser, binaries)
    except stage.CannotStand as why:
        tally.skip("a real guard", str(why))
        return
    except AssertionError as why:
        tally.check("a real guard: it answers", lambda: checks.same(str(why), "", "its start"))
        return
    try:
        browser.look()
        for step in Guard.STEPS:
            tally.check("a real guard: " + words(step), lambda step=step: step(guard))
    finally:
        guard.stage.clear()
    tally.check("a real guard: its token is asked for by the page", lambda: token(browser, binaries))


def picture(browser, binaries, path):
    """The README's: one container above its warning, and an episode that has just been, opened."""
    guard = Guard(browser, binaries)
    try:
        browser.look(1280, 940)
        browser.open(guard.address)
        guard.stage.grow(*GROWS)
        guard.stage.until(lambda: guard.stage.records(), "the record")
        guard.stage.grow(*WARNED)
        browser.wait("return view.episodes.length", seconds=8)
        browser.wait("return document.querySelector('article.warm')", seconds=20)
        browser.click("#list .fold")
        browser.run("document.activeElement.blur(); scrollTo(0, 0)")
        path.parent.mkdir(parents=True, exist_ok=True)
        made = browser.picture("readme", whole=False)
        subprocess.run(["pngquant", "--speed", "1", "--strip", "--force", "--output", str(path), str(made)], check=True)
    finally:
        guard.stage.clear()
    return json.dumps({"picture": str(path), "bytes": path.stat().st_size})
