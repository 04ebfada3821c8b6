// Asks the guard for its figures and shows them. Whatever comes from a container becomes text
// through h(), never markup. Widths go through el.style: the policy forbids style attributes.
"use strict";

const EVERY = 5000; // ms from an answer to the next question
const DAY = 86400000;
const FEW = 8, SOME = 20; // rows of a table, and episodes, before "show all"
const MOST = 200; // episodes that are asked for

const view = {
	data: null, got: 0, // the last answer, and when
	episodes: [], newest: null,
	trouble: "", since: 0, // of no answer
	due: 0, // when the next question is
	paused: false, filter: "",
	open: new Map(), // or closed, by key
};
const $ = id => document.getElementById(id);

// ---- Text

const known = n => typeof n === "number";
// The guard escapes controls and whatever turns text around; this is the second lock.
const brief = (text, most = 60) => {
	const all = [...String(text).replace(/[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g, "\ufffd")];
	return all.length > most ? all.slice(0, most - 1).join("") + "…" : all.join("");
};
const digits = (n, unit, point) => n.toFixed(n && n < point ? 1 : 0) + "\xa0" + unit;
const size = n => !known(n) ? "unknown" : n < 2 ** 30 ? digits(n / 2 ** 20, "MiB", 10)
	: n < 10 * 2 ** 30 ? (n / 2 ** 30).toFixed(2) + "\xa0GiB" : digits(n / 2 ** 30, "GiB", 100);
const percent = n => known(n) ? digits(n, "%", 10) : "unknown";
const span = us => us < 1e3 ? us + "\xa0µs" : us < 1e6 ? digits(us / 1e3, "ms", 100) : digits(us / 1e6, "s", 100);
const many = (n, what, s = "s") => n + "\xa0" + what + (n === 1 ? "" : s);
const clock = (time, options) => new Date(time).toLocaleString("en-GB", options);
const MINUTE = {hour: "2-digit", minute: "2-digit"};
const DATE = {weekday: "short", day: "numeric", month: "short"};
const nameOf = row => row.notebook || row.name || "unknown";

// ---- Elements

// h("p.big", {title}, "text", element, [more], null); properties may be left out.
function h(what, ...children) {
	const [name, ...classes] = what.split(".");
	const el = document.createElement(name);
	if (classes.length) el.className = classes.join(" ");
	for (const [key, value] of Object.entries(children[0]?.constructor === Object ? children.shift() : {})) {
		if (key === "left" || key === "width") el.style[key] = value.toFixed(3) + "%";
		else if (value != null) el.setAttribute(key, value);
	}
	el.append(...children.flat(9).filter(child => child || child === 0));
	return el;
}
// Isolated, so that it does not turn what stands around it.
const foreign = (text, most = 300) => h("bdi", {title: text.length > most ? brief(text, 2000) : null}, brief(text, most));

// Makes `old` look like `fresh`, and keeps what is the same: focus and selection stay.
function morph(old, fresh) {
	if (!fresh.attributes) {
		if (old.data !== fresh.data) old.data = fresh.data;
		return;
	}
	for (const name of old.getAttributeNames()) {
		if (!fresh.hasAttribute(name)) old.removeAttribute(name);
	}
	for (const {name, value} of fresh.attributes) {
		if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
	}
	if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
	fill(old, [...fresh.childNodes]);
}
function fill(old, fresh) {
	const key = node => node.dataset?.key;
	const wanted = new Set(fresh.map(key)), keyed = new Map();
	for (const child of [...old.children]) {
		if (wanted.has(key(child))) keyed.set(key(child), child);
		else if (key(child)) child.remove();
	}
	let at = old.firstChild;
	for (const next of fresh) {
		const same = key(next) ? keyed.get(key(next)) : at && !key(at) && at.nodeName === next.nodeName && at;
		if (same && same === at) at = at.nextSibling;
		else old.insertBefore(same || next, at);
		if (same) morph(same, next);
	}
	while (at) {
		const gone = at;
		at = at.nextSibling;
		gone.remove();
	}
}
function show(id, ...children) {
	const focus = document.activeElement;
	fill($(id), [...h("div", children).childNodes]);
	if (focus !== document.activeElement && focus.isConnected) focus.focus({preventScroll: true});
}

const isOpen = (key, open = false) => view.open.get(key) ?? open;
const toggle = (key, text, open, what = ".more", label) => h("button" + what, {type: "button", "data-toggle": key,
	"aria-expanded": isOpen(key, open), "aria-label": label}, text);
// What it holds is only made while it is open: there may be thousands of notebooks.
const fold = (key, text, content, open) => [toggle(key, text, open, ".fold"), isOpen(key, open) && content()];

// ---- The bar

const tone = n => "tone" + (n < 3 ? n + 1 : 4 + n % 2);
const sum = list => list.reduce((all, each) => all + (each.memory || 0), 0);
function segments(box) {
	const parts = box.notebooks.map((row, n) => ({kind: "book." + tone(n), number: n + 1, pid: row.pid, text: nameOf(row), memory: row.memory}));
	const add = (kind, text, memory) => memory > 0 && parts.push({kind, text, memory});
	add("book.tone5", "further notebooks", box.sum - sum(parts));
	add("server", "notebook server", sum(box.servers));
	add("loose", "other processes", box.unattributed.memory);
	add("kernel", "shared or in no process", box.unreclaimable - sum(parts));
	add("cache", "reclaimable cache", box.usage - sum(parts));
	return parts;
}

function bar(box, name) {
	const parts = segments(box);
	// Can be more than all: a notebook's memory counts what is swapped out.
	const end = Math.max(box.total, sum(parts)) || 1;
	const at = value => 100 * (value || 0) / end;
	const books = parts.filter(each => each.number);
	const sums = [{kind: "book.tone1", text: "notebooks", memory: books.every(each => known(each.memory)) ? sum(books) : null}, ...parts.slice(books.length)];
	const marks = [["warning", box.warning], ["threshold", box.threshold], ["limit", box.limit]].filter(([, value]) => known(value));
	const words = [`Memory of ${brief(name)}: ${size(box.usage)} of ${size(box.total)} used`,
		...books.slice(0, 5).map(each => brief(each.text) + " " + size(each.memory)),
		...marks.map(([text, value]) => text + " at " + size(value))];
	return [
		h("div.scale",
			h("div.bar", {role: "img", "aria-label": words.join(", ")}, parts.map(each =>
				h("span.seg." + each.kind + (each.pid && each.pid === box.would.end ? ".first" : ""),
					{width: at(each.memory), title: brief(each.text) + ": " + size(each.memory)},
					each.number && at(each.memory) > 1 && h("span.tag", h("b", each.number), " ", brief(each.text.split("/").pop(), 40))))),
			marks.filter(([text, value]) => text !== "limit" || value < end).map(([text, value]) =>
				h("span.mark." + text + (at(value) < 40 ? ".right" : ""), {left: at(value)}, h("span", text, " ", h("b", size(value)))))),
		h("ul.legend", sums.map(({text, kind, memory}) =>
			h("li", h("i.seg." + kind), text, " ", h("b", size(memory))))),
	];
}

// ---- A container

const HIGH = "above its warning";
const STATES = {quiet: HIGH, warned: HIGH, pressed: "short of memory", silenced: "filled by page cache",
	killing: "ending a notebook", cooling: "just relieved", lifted: "brake lifted"};
const isLoud = box => ["pressed", "deciding", "killing", "lifted"].includes(box.state);

const columns = (...names) => h("thead", h("tr", names.map((name, n) => h(n ? "th.number" : "th", {scope: "col"}, name))));
const number = text => h("td.number", text);
const processes = (list, total, caption) => h("table.inner", h("caption.sr", caption), columns("Process", "Pid", "Memory"),
	h("tbody", list.map(each => h("tr", h("td", foreign(each.name)), number(each.pid), number(size(each.memory)))),
		total > list.length && h("tr", h("td", `and ${total - list.length} more`))));

// The notebooks of a container, or the ranking of an episode.
function ranking(rows, box, key, caption, mark) {
	const all = key + "/all";
	return [h("table.books", h("caption.sr", caption), columns("Notebook", "Memory", "Share", "Processes"),
		h("tbody", (isOpen(all) ? rows : rows.slice(0, FEW)).map((row, n) => {
			const list = row.processes || row.members, total = row.processes_total || list.length, title = "es of " + brief(nameOf(row));
			const id = key + "/" + row.pid, chosen = row.pid === box.would.end, told = chosen || row.eligible !== "yes";
			return [
				h("tr", {"data-key": id}, h("th", {scope: "row"}, h("i.rank.seg.book." + tone(n), n + 1), h("div",
					h("span.name", foreign(nameOf(row))), told && h(chosen ? "em" : "em.not", chosen ? mark : "may not end"),
					(told || row.members) && foreign(row.because || row.eligible, 200),
					h("small", [row.notebook && brief(row.name), "pid " + row.pid, known(row.uid) && "uid " + row.uid,
						row.lower !== row.upper && `${size(row.lower)} to ${size(row.upper)}`].filter(Boolean).join(" · ")))),
				number(size(row.memory)), number(percent(known(row.memory) ? 100 * row.memory / box.total : null)),
				number(toggle(id, total, false, ".more", total + " process" + title))),
				isOpen(id) && h("tr.opened", {"data-key": id + "/open"}, h("td", {colspan: 4}, processes(list, total, "Process" + title))),
			];
		}))),
	rows.length > FEW && toggle(all, isOpen(all) ? "Show fewer" : "Show all " + rows.length)];
}

function others({servers, unattributed: {count, top}}, key) {
	const text = [servers.length && many(servers.length, "notebook server"), count && many(count, "other process", "es")].filter(Boolean);
	return text.length > 0 && fold(key + "/others", text.join(", ") + ": never ended",
		() => processes(servers.concat(top), servers.length + count, "Never ended"));
}

function card(box, open) {
	const key = "container=" + box.id, mood = isLoud(box) ? "loud" : box.state !== "quiet" || box.unreclaimable > box.warning ? "warm" : "calm";
	const badges = [mood !== "calm" && (STATES[box.state] || brief(box.state)), box.paused && "paused", box.protected && "protected", box.dry_run && "dry run"];
	return h("article." + mood, {"data-key": key, id: key, tabindex: -1},
		h("div.row", h("h3", h("a", {href: "#" + key}, foreign(box.name || box.id))),
			badges.filter(Boolean).map(text => h("span.badge", text)),
			h("p.big", h("b", size(box.usage)), " of ", size(box.total), !known(box.limit) && " of the host")),
		h("p.about", foreign(box.image || "image unknown"), " · ", foreign(box.mode + (box.mode_reason && ": " + box.mode_reason)),
			" · pressure ", percent(box.psi_some_avg10)),
		bar(box, box.name),
		!box.notebooks_total ? h("p", "No notebook is running here.") : [
			h("p.would", "If memory ran short now: ", foreign(box.would.sentence)),
			fold(key + "/books", many(box.notebooks_total, "notebook"),
				() => ranking(box.notebooks, box, key, "Notebooks of " + brief(box.name), "would end first"), open || mood !== "calm")],
		h("div", others(box, key)));
}

// In steps of 5 %: cards must not change places at every refresh.
const nearness = box => isLoud(box) ? 99 : Math.floor(20 * box.usage / box.threshold);
const matches = (...texts) => texts.some(text => text?.toLowerCase().includes(view.filter));
const recent = each => Date.now() - Date.parse(each.time) < DAY;

function drawContainers({containers, host, paused}) {
	const found = containers.filter(box => matches(box.name, box.id, box.image, ...box.notebooks.map(nameOf)))
		.sort((a, b) => nearness(b) - nearness(a) || a.name.localeCompare(b.name));
	$("host").textContent = host ? brief(host.name) : "this container";
	document.title = (containers.some(isLoud) ? "! " : "") + "nbguard " + $("host").textContent;
	show("head",
		host && h("div.meter", {role: "img", "aria-label": `${size(host.available)} of ${size(host.total)} are available`},
			h("span", {width: 100 - 100 * host.available / host.total}), h("i", {left: 100 * host.threshold / host.total})),
		h("p.facts", [
			...host ? [`${size(host.available)} of ${size(host.total)} available`,
				host.swap_total ? size(host.swap_free) + " swap free" : "no swap", "cgroup " + brief(host.mode)] : [],
			many(containers.reduce((all, box) => all + box.notebooks_total, 0), "notebook"),
		].map(text => h("span", text)), h("a", {href: "#episodes"}, many(view.episodes.filter(recent).length, "episode") + " in 24 h")),
		paused && h("p.alarm", "The guard is paused and ends nobody."));
	$("count").textContent = found.length < containers.length ? `${found.length} of ${containers.length}` : found.length || "";
	$("filter").hidden = !host;
	show("cards", found.map(box => card(box, containers.length < 4)), !found.length && h("p",
		containers.length ? "Nothing matches." : "No container is watched."));
}

// ---- Episodes

const KINDS = new Map([["kill", "ended"], ["hold", "held"], ["kernel-oom", "OOM kill"]]);

// All that the record says, by its names there.
const flat = (value, name) => value?.constructor === Object ? Object.entries(value).flatMap(([key, each]) => flat(each, name + " " + key)) : [[name, value]];
const told = (name, value) => value === null ? "unknown" : /psi/.test(name) ? percent(value)
	: /^figures|memory|freed/.test(name) ? size(value)
	: brief(Array.isArray(value) ? value.map(one => one.reason ? one.pid + " " + one.reason : one).join(", ") || "none" : value, 400);

function record(each, key) {
	const {schema, id, sentence, rows, servers, unattributed, stack, timings, figures, ...rest} = each, {victim, container} = rest;
	const box = {...figures, ...each, notebooks: rows, would: {end: victim?.pid}};
	return h("div.record",
		h("p", foreign(sentence, 1000), " ", container && h("a", {href: "#container=" + container.id}, "Its container")),
		bar(box, container?.name || each.host),
		rows.length > 0 && ranking(rows, box, key, "Ranking", each.dry_run ? "would have ended" : "ended"),
		others(each, key),
		h("p.steps", Object.entries(timings).filter(([, us]) => known(us)).map(([name, us]) => h("span", h("b", span(us)), name.slice(0, -3).replace(/_/g, " ")))),
		h("dl", flat({...rest, figures, id}, "").map(([name, value]) =>
			h("div", h("dt", brief(name.replace(/_/g, " "))), h("dd", h("bdi", told(name.slice(1), value)))))),
		stack.length > 0 && h("pre", {tabindex: 0, "aria-label": "Stack"}, stack.map(line => brief(line, 400) + "\n")));
}

function episode(each) {
	const key = "incident=" + each.id, box = each.container;
	return h("li", {"data-key": key, id: key, tabindex: -1}, fold(key, [
		h("time", {datetime: each.time}, clock(each.time, MINUTE)), h("i.kind." + each.kind, KINDS.get(each.kind) || brief(each.kind)),
		h("span.what", h("b", foreign(each.victim ? nameOf(each.victim) : each.kind === "hold" ? each.reason.replace(/-/g, " ") : "by the kernel")),
			box && [" in ", foreign(box.name || box.id)], each.freed > 0 && `, ${size(each.freed)} back`, each.dry_run && " (dry run)"),
	], () => record(each, key)));
}

function drawEpisodes() {
	const found = view.episodes.filter(each => matches(each.sentence, each.id, each.container?.name, each.victim && nameOf(each.victim)));
	const listed = found.filter((each, n) => n < SOME || isOpen("episodes") || isOpen("incident=" + each.id));
	const now = Date.now(), days = new Map();
	for (const each of listed) {
		const day = clock(each.time, DATE);
		days.set(day, [...days.get(day) || [], episode(each)]);
	}
	// The strip is for the eye; the list says the same.
	show("strip", [24, 18, 12, 6, 0].map(ago => h("i", {left: 100 - ago / 0.24}, h("span", ago ? clock(now - ago * DAY / 24, MINUTE) : "now"))),
		found.filter(recent).map(each => h("a.dot." + each.kind, {"data-key": each.id, tabindex: -1, title: brief(each.sentence, 300),
			href: "#incident=" + each.id, left: Math.min(100, 100 - 100 * (now - Date.parse(each.time)) / DAY)})));
	show("list", [...days].map(([day, list]) => [h("h3", {"data-key": "of " + day}, day), h("ol", {"data-key": day}, list)]),
		!found.length && h("p", view.episodes.length ? "Nothing matches." : "Nothing has happened yet."),
		listed.length < found.length && toggle("episodes", "Show all " + found.length));
}

function draw() {
	const text = view.trouble + (view.since ? ` since ${clock(view.since, {timeStyle: "medium"})}.${view.data ? " These are its last figures." : ""}` : "");
	$("trouble").hidden = !text;
	show("trouble", text);
	document.body.classList.toggle("stale", Boolean(text));
	drawAge();
	if (!view.data) return;
	drawContainers(view.data);
	drawEpisodes();
}
function drawAge() {
	const age = view.data && Math.round((performance.now() - view.got + view.data.age_ms) / 1000);
	const state = view.trouble ? "no answer" : view.paused ? "refresh paused" : view.data ? "live" : "asking";
	$("live").textContent = state + (age === null ? "" : ", figures " + (age < 2 ? "of now" : age + " s old"));
	$("live").className = state;
}

// ---- Asking

async function ask(what) {
	const token = sessionStorage.getItem("nbguard");
	const answer = await fetch("api/v1/" + what, {cache: "no-store", signal: AbortSignal.timeout(2 * EVERY),
		headers: token ? {Authorization: "Bearer " + token} : {}});
	const body = await answer.json().catch(() => ({}));
	if (!answer.ok) throw Object.assign(Error(answer.status + " " + body.error), {status: answer.status});
	return body;
}

async function refresh() {
	const began = !view.data;
	view.due = Infinity;
	try {
		const data = await ask("containers");
		// The newest tells whether there is anything new: the records are long.
		const newest = (await ask("incidents?limit=1")).incidents[0]?.id;
		if (newest !== view.newest) {
			const {incidents} = await ask("incidents?limit=" + MOST);
			const old = new Set(view.episodes.map(each => each.id));
			if (!began) $("news").textContent = incidents.filter(each => !old.has(each.id)).slice(0, 3).map(each => brief(each.sentence, 300)).join(" ");
			Object.assign(view, {episodes: incidents, newest});
		}
		Object.assign(view, {data, got: performance.now(), trouble: "", since: 0});
	} catch (error) {
		Object.assign(view, error.status === 401 ? {trouble: "The guard wants its token.", since: 0}
			: {trouble: `No answer from the guard (${brief(error.message, 200)})`, since: view.since || Date.now()});
	}
	view.due = performance.now() + EVERY;
	$("ask").hidden = !view.trouble || view.since > 0;
	draw();
	if (began && view.data) follow();
}
function tick() {
	if (document.hidden) return;
	drawAge();
	if (!view.paused && performance.now() >= view.due) refresh();
}

// ---- Hands

// #container=ID, #incident=ID: opens it, and goes there.
function follow() {
	const [key, kind] = /^(container|incident)=[^&]+$/.exec(location.hash.slice(1)) || [];
	if (!key) return;
	view.open.set(kind === "container" ? key + "/books" : key, true);
	$("filter").value = view.filter = "";
	draw();
	$(key)?.scrollIntoView();
	$(key)?.focus();
	if (!$(key)) $("news").textContent = `This ${kind} is no longer there.`;
}

addEventListener("hashchange", follow);
document.addEventListener("visibilitychange", tick);
setInterval(tick, 1000);
document.addEventListener("click", event => {
	const at = event.target.closest("button, a");
	const key = at?.dataset.toggle;
	if (key) {
		view.open.set(key, at.ariaExpanded !== "true");
		draw();
	}
	// A second click on a link changes no hash.
	if (at?.hash && at.hash === location.hash) follow();
});
$("filter").addEventListener("input", event => {
	view.filter = event.target.value.trim().toLowerCase();
	draw();
});
$("pause").addEventListener("click", event => {
	view.paused = !view.paused;
	event.target.textContent = view.paused ? "Resume" : "Pause";
	tick();
});
$("ask").addEventListener("submit", event => {
	event.preventDefault();
	sessionStorage.setItem("nbguard", $("token").value.trim());
	$("token").value = "";
	view.due = 0;
	tick();
});
tick();
