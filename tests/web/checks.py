"""What must hold of the status page, each check by its name. A check gets a browser and a guard
(mock.py), and fails by raising.
"""

import time

import fixtures
from browser import CONTRAST, OPERABLE, WIDER
from driver import ENTER, TAB

WIDTHS = (320, 768, 1440, 3840)
# Longer than the page waits between two questions.
ROUND = 7


def same(found, expected, what):
    assert found == expected, f"{what}: {found!r}, not {expected!r}"


# ---- of every host


def nothing_is_complained_about(browser, guard, _):
    same(browser.errors(), [], "console and policy")


def nobody_else_is_asked(browser, guard, _):
    asked = browser.requests()
    assert any(url.endswith("/api/v1/containers") for url in asked), asked
    same([url for url in asked if not url.startswith((guard.address, "data:"))], [], "asked elsewhere")


def it_fits_every_width(browser, guard, _):
    for width in WIDTHS:
        browser.look(width)
        same(browser.run(WIDER), [], f"{width} px")
    browser.look()


def bars_are_as_long_as_the_figures(browser, guard, _):
    shown = {box["id"]: box["parts"] for box in browser.run("""
        return [...document.querySelectorAll("article")].map(card => {
          const bar = card.querySelector(".bar").getBoundingClientRect();
          return {id: card.id.replace("container=", ""),
            parts: [...card.querySelectorAll(".bar > .seg")].map(seg => seg.getBoundingClientRect().width / bar.width)};
        });""")}
    boxes = browser.run("return view.data.containers")
    same(len(shown), len(boxes), "containers")
    for box in boxes:
        parts = figures_of(box)
        end = max(box["total"], sum(parts))
        same(len(shown[box["id"]]), len(parts), f"pieces of {box['name'][:40]}")
        for found, bytes_ in zip(shown[box["id"]], parts):
            assert abs(found - bytes_ / end) < 0.002, f"{box['name'][:40]}: {found} of the bar for {bytes_ / end}"


def figures_of(box):
    """The bytes that the bar must show, from the left."""
    books = [book["memory"] or 0 for book in box["notebooks"]]
    parts = [max(0, box["sum"] - sum(books)), sum(each["memory"] for each in box["servers"]), box["unattributed"]["memory"]]
    held = sum(books) + sum(parts)
    firm = max(held, box["unreclaimable"] or 0)
    parts += [firm - held, max(0, (box["usage"] or 0) - firm)]
    return books + [part for part in parts if part]


def everything_has_a_name(browser, guard, _):
    for width in (1440, 320):
        browser.look(width)
        nodes = browser.tree()
        for role in ("button", "link", "searchbox", "img", "image", "table", "main", "complementary"):
            same([node for node in nodes if node[0] == role and not node[1].strip()], [], f"{role} without a name, {width} px")
        roles = [role for role, _ in nodes]
        if browser.run("return document.querySelectorAll('table').length"):
            for role in ("table", "row", "columnheader", "rowheader", "cell"):
                assert role in roles, f"no {role} is told at {width} px"
    browser.look()


def it_can_be_read_in_light_and_dark(browser, guard, _):
    for dark in (False, True):
        browser.look(dark=dark)
        seen, low = browser.run(CONTRAST)
        assert seen > 10, f"only {seen} texts"
        same(low, [], "dark" if dark else "light")
    browser.look()


EVERY_HOST = [nothing_is_complained_about, nobody_else_is_asked, it_fits_every_width, bars_are_as_long_as_the_figures,
              everything_has_a_name, it_can_be_read_in_light_and_dark]


# ---- of one


def the_keyboard_reaches_everything(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    script = f"""return [...document.querySelectorAll("{OPERABLE}")].filter(el => el.checkVisibility() && el.tabIndex >= 0).length"""
    wanted = browser.run(script)
    assert wanted > 15, wanted
    browser.run("window.reached = new Set(); window.unseen = []; document.addEventListener('focusin', event => {"
               "reached.add(event.target); const style = getComputedStyle(event.target);"
               "if (style.outlineStyle === 'none') unseen.push(event.target.outerHTML.slice(0, 100)); });")
    for _ in range(wanted + 3):
        browser.keys(TAB)
    same(browser.run("return reached.size"), wanted, "reached")
    same(browser.run("return unseen"), [], "focus that cannot be seen")
    same(browser.run("return [...reached].filter(el => el.closest('[aria-hidden]')).length"), 0, "reached, and told to nobody")


def a_key_opens_a_row_and_a_refresh_keeps_it(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    button = browser.element("tbody button.more")
    browser.type("tbody button.more", ENTER)
    assert browser.texts("tr.opened table.inner tbody tr"), "no processes"
    same(browser.run("return arguments[0].getAttribute('aria-expanded')", button), "true", "aria-expanded")
    guard.containers["containers"][2]["notebooks"][0]["memory"] += 64 * fixtures.MIB
    browser.refresh()
    assert browser.texts("tr.opened table.inner tbody tr"), "closed by the refresh"
    assert browser.run("return document.activeElement === arguments[0]", button), "the focus was lost"
    browser.keys(ENTER)
    same(browser.texts("tr.opened"), [], "still open")


def markup_stays_text(browser, guard):
    guard.play("hostile")
    browser.open(guard.address)
    browser.run("for (const key of [...document.querySelectorAll('[data-toggle]')].map(b => b.dataset.toggle)) view.open.set(key, true); draw();"
               "for (const key of [...document.querySelectorAll('[data-toggle]')].map(b => b.dataset.toggle)) view.open.set(key, true); draw();")
    assert browser.run("return document.querySelectorAll('.record').length") == len(fixtures.EVIL), "episodes are not open"
    same(browser.run("return [...document.querySelectorAll('#owned, img, iframe, object, b[id], body script')].map(el => el.outerHTML)"), [], "injected")
    same(browser.run("return [...document.querySelectorAll('*')].flatMap(el => [...el.attributes]).filter(a => a.name.startsWith('on')).length"), 0, "handlers")
    same(browser.run("return [...document.querySelectorAll('a')].filter(a => !a.getAttribute('href').startsWith('#')).length"), 0, "links elsewhere")
    title = browser.run("return document.title")
    assert "owned" not in title, title
    text = browser.run("return document.body.textContent")
    assert fixtures.EVIL[0] in text and fixtures.EVIL[3] in text and fixtures.EVIL[10] in text, "the names are not shown as they are"
    same([hex(ord(c)) for c in set(text) if c in "\u202e\u202d\u2066\u0007\u001b\u0000"], [], "controls")
    same(browser.errors(), [], "console and policy")
    for width in WIDTHS:
        browser.look(width)
        same(browser.run(WIDER), [], f"{width} px")
    browser.look()
    browser.picture("hostile-opened", most=6000)


def it_refreshes_and_stops_while_hidden(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    guard.containers["containers"][0]["usage"] = 3 * fixtures.GIB + 111 * fixtures.MIB
    browser.wait("return document.body.textContent.includes('3.11\\u00a0GiB')", seconds=ROUND)
    page = browser.window()
    browser.new_window()
    try:
        # Whatever was under way when it was hidden may end.
        time.sleep(1.5)
        guard.asked.clear()
        time.sleep(ROUND)
        same(guard.asked, [], "asked while hidden")
    finally:
        browser.close_window(then=page)
    browser.wait("return !document.hidden")
    end = time.monotonic() + 2.5
    while not guard.asked and time.monotonic() < end:
        time.sleep(0.05)
    assert guard.asked, "no refresh when it was shown again"


def pause_stops_it(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    browser.click("#pause")
    guard.asked.clear()
    time.sleep(ROUND)
    same(guard.asked, [], "asked while paused")
    same(browser.texts("#pause"), ["Resume"], "the button")
    assert "paused" in browser.texts("#live")[0], browser.texts("#live")
    browser.click("#pause")
    browser.wait("return !document.querySelector('#live').textContent.includes('paused')", seconds=3)


def a_dead_guard_is_shown(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    before = browser.texts("article .big")
    guard.broken = True
    browser.refresh()
    trouble = browser.texts("#trouble")[0]
    assert "No answer" in trouble and "since" in trouble and "last figures" in trouble, trouble
    assert browser.shown("#trouble")
    assert "no answer" in browser.texts("#live")[0]
    same(browser.texts("article .big"), before, "the last figures")
    assert "grayscale" in browser.run("return getComputedStyle(document.querySelector('main')).filter"), "not greyed"
    same(browser.run(CONTRAST)[1], [], "contrast")
    browser.picture("dead", whole=False)
    first = trouble.split("since")[1]
    browser.refresh()
    same(browser.texts("#trouble")[0].split("since")[1], first, "since when")
    guard.broken = False
    browser.refresh()
    assert not browser.shown("#trouble")


def dead_from_the_start_and_then_there(browser, guard):
    guard.play("ordinary")
    guard.broken = True
    browser.open(guard.address)
    assert "No answer" in browser.texts("#trouble")[0]
    guard.broken = False
    browser.wait("return view.data", seconds=ROUND)


def a_token_is_asked_for(browser, guard):
    guard.play("ordinary")
    guard.token = "s3cret"
    browser.open(guard.address)
    assert browser.shown("#ask") and "token" in browser.texts("#trouble")[0]
    browser.type("#token", "wrong\n")
    browser.wait("return view.due !== Infinity")
    assert browser.shown("#ask") and not browser.run("return view.data"), "a wrong one was taken"
    browser.wait("return view.due !== Infinity")
    browser.type("#token", "s3cret\n")
    browser.wait("return view.data", seconds=5)
    browser.wait("return document.querySelector('#ask').hidden")
    same(browser.run("return [sessionStorage.getItem('nbguard'), localStorage.length, location.search, document.cookie]"),
         ["s3cret", 0, "", ""], "where it is kept")
    browser.run("sessionStorage.clear()")


def an_incident_has_a_link(browser, guard):
    guard.play("ordinary")
    one = guard.incidents[2]
    browser.open(guard.address + "#incident=" + one["id"])
    record = browser.wait("return document.querySelector('.record')?.innerText")
    for told in (one["sentence"], "612\u00a0µs", one["id"], "assemble (work/genome-assembly.ipynb cell 7", "written", "2.24\u00a0GiB",
                 "work/plots.ipynb", "it holds less than the one above", "genomics"):
        assert told in record, f"{told!r} is not told"
    assert one["id"] in browser.run("return document.activeElement.id"), "the focus is elsewhere"
    browser.click(".record a[href^='#container=']")
    browser.wait("return document.activeElement.id.startsWith('container=')")
    browser.run("location.hash = 'incident=gone'")
    browser.wait("return document.querySelector('#news').textContent.includes('no longer')")


def a_new_episode_is_announced(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    same(browser.texts("#news"), [""], "announced at the start")
    same(browser.run("return document.querySelector('#news').getAttribute('role')"), "status", "the live region")
    guard.incidents.insert(0, fixtures.incident(77, 1, sentence="late.ipynb was ended: it held the most."))
    browser.refresh()
    assert "late.ipynb was ended" in browser.texts("#news")[0], browser.texts("#news")
    assert browser.run("return document.querySelectorAll('#strip .dot').length") == 5


def the_nearest_to_its_threshold_comes_first(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    same(browser.texts("article h3"), ["climate-model", "lab", "teaching-ws26"], "the order")
    guard.play("pressed")
    browser.refresh()
    same(browser.texts("article h3")[-1], "calm", "the last")


def the_filter_filters(browser, guard):
    guard.play("crowd")
    browser.open(guard.address)
    browser.type("#filter", "LAB-042")
    browser.wait("return document.querySelectorAll('article').length === 1")
    same(browser.texts("#count"), ["1 of 200"], "the count")
    same(browser.texts("#list .what"), ["work/genome-assembly.ipynb in lab-042, 2.24\u00a0GiB back"], "episodes")
    browser.clear("#filter")
    browser.type("#filter", "nothing like it")
    browser.wait("return document.querySelector('#cards').textContent === 'Nothing matches.'")


def two_hundred_containers_are_drawn_quickly(browser, guard):
    guard.play("crowd")
    browser.open(guard.address)
    took = browser.run("const t = performance.now(); for (let n = 0; n < 5; n++) draw(); return (performance.now() - t) / 5")
    nodes = browser.run("return document.querySelectorAll('*').length")
    assert took < 500, f"{took:.0f} ms"
    for _ in range(3):
        browser.refresh()
    same(browser.run("return document.querySelectorAll('*').length"), nodes, "elements after three refreshes")


def what_is_not_known_is_not_zero(browser, guard):
    guard.play("unlimited")
    browser.open(guard.address)
    card = browser.run("return [...document.querySelectorAll('article')].find(a => a.querySelector('h3').textContent === 'free-0').innerText")
    for told in ("unknown of 64.0\u00a0GiB of the host", "image unknown", "pressure unknown", "notebooks unknown"):
        assert told in card.replace("\n", " "), f"{told!r}: {card}"
    same(browser.texts("article:last-child tbody td.number")[:2], ["unknown", "unknown"], "memory and share")
    assert "\n0" not in card and " 0\u00a0" not in card, card


def an_empty_host_says_so(browser, guard):
    guard.play("empty")
    browser.open(guard.address)
    same(browser.texts("#cards"), ["No container is watched."], "containers")
    assert "Nothing has happened yet." in browser.texts("#list")[0]


def a_container_sees_itself(browser, guard):
    guard.play("alone")
    browser.open(guard.address)
    same(browser.texts("#host"), ["this container"], "host")
    assert not browser.shown("#filter")
    same(len(browser.texts("article")), 1, "containers")


def a_pause_of_the_guard_is_told(browser, guard):
    guard.play("pressed")
    browser.open(guard.address)
    assert "The guard is paused" in browser.texts("#head")[0]
    title = browser.run("return document.title")
    assert title.startswith("! "), title
    assert "ending a notebook" in browser.texts(".badge")


def a_bar_is_told_to_who_cannot_see_it(browser, guard):
    guard.play("ordinary")
    browser.open(guard.address)
    told = browser.run("return document.querySelector('[id^=\"container=\"] .bar').getAttribute('aria-label')")
    for words in ("climate-model", "10.1\u00a0GiB of 12.0\u00a0GiB", "era5/regrid.ipynb 7.42\u00a0GiB", "warning at 9.60", "threshold at 10.8", "limit at 12.0"):
        assert words in told, f"{words!r}: {told}"


def colours_can_be_forced_and_motion_refused(browser, guard):
    guard.play("pressed")
    browser.look(forced_colors="active", prefers_reduced_motion="reduce")
    browser.open(guard.address)
    same(browser.run("return getComputedStyle(document.querySelector('.seg')).transitionDuration"), "0s", "motion")
    assert browser.run("return getComputedStyle(document.querySelector('.bar .seg')).borderTopWidth") != "0px", "pieces without an edge"
    browser.picture("forced-colours", whole=False)
    browser.look(forced_colors="none", prefers_reduced_motion="no-preference")


ONCE = [the_keyboard_reaches_everything, a_key_opens_a_row_and_a_refresh_keeps_it, markup_stays_text, it_refreshes_and_stops_while_hidden,
        pause_stops_it, a_dead_guard_is_shown, dead_from_the_start_and_then_there, a_token_is_asked_for, an_incident_has_a_link,
        a_new_episode_is_announced, the_nearest_to_its_threshold_comes_first, the_filter_filters, two_hundred_containers_are_drawn_quickly,
        what_is_not_known_is_not_zero, an_empty_host_says_so, a_container_sees_itself, a_pause_of_the_guard_is_told,
        a_bar_is_told_to_who_cannot_see_it, colours_can_be_forced_and_motion_refused]
