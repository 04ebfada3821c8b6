//! One frame of `top`. Pure: state in, cells out. Everything that a container chose passes through
//! `out::safe`. Without colour nothing is lost: what colour says stands in words or signs as well.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::state::{State, View, of_threshold};
use crate::cli::incidents;
use crate::cli::out::{self, CELL_MAX, LINE_MAX, Paint, safe};
use crate::report::{ContainerView, Incident, NotebookView};
use crate::units::Bytes;

/// Smaller than this nothing sensible fits.
pub const MIN: (u16, u16) = (40, 10);
/// Notebooks that the list shows of each container; Enter shows all.
const NOTEBOOKS: usize = 3;
const BAR: u16 = 24;

/// Looks, with or without colour.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    fn fg(self, colour: Color, else_: Modifier) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new().add_modifier(else_) }
    }

    fn bad(self) -> Style {
        self.fg(Color::Red, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    fn warn(self) -> Style {
        self.fg(Color::Yellow, Modifier::BOLD)
    }

    fn good(self) -> Style {
        self.fg(Color::Green, Modifier::empty())
    }

    fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// A piece of a line: where it begins, how wide it may be, and what it says.
struct Piece {
    at: u16,
    width: u16,
    text: String,
    style: Style,
    to_the_right: bool,
}

#[derive(Default)]
struct Line {
    pieces: Vec<Piece>,
    chosen: bool,
}

impl Line {
    fn of(text: impl Into<String>, style: Style) -> Line {
        Line::default().put(0, u16::MAX, text, style)
    }

    fn put(mut self, at: u16, width: u16, text: impl Into<String>, style: Style) -> Line {
        let text = text.into();
        self.pieces.push(Piece { at, width, text, style, to_the_right: false });
        self
    }

    fn right(mut self, at: u16, width: u16, text: impl Into<String>, style: Style) -> Line {
        let text = text.into();
        self.pieces.push(Piece { at, width, text, style, to_the_right: true });
        self
    }

    /// Of a path the end says more than the beginning.
    fn tail(self, at: u16, width: u16, text: String, style: Style) -> Line {
        let wide = |text: &str| ratatui::text::Span::raw(text).width();
        if wide(&text) <= usize::from(width) {
            return self.put(at, width, text, style);
        }
        let starts = text.char_indices().map(|(at, _)| &text[at..]);
        let mut fitting = starts.skip_while(|rest| wide(rest) + 1 > usize::from(width));
        let rest = format!("~{}", fitting.next().unwrap_or_default());
        self.put(at, width, rest, style)
    }

    fn draw(&self, buffer: &mut Buffer, area: Rect) {
        if self.chosen {
            buffer.set_style(area, Style::new().add_modifier(Modifier::REVERSED));
        }
        for piece in &self.pieces {
            let left = area.width.saturating_sub(piece.at);
            let width = piece.width.min(left);
            if width == 0 {
                continue;
            }
            let used = u16::try_from(ratatui::text::Span::raw(&piece.text).width());
            let used = used.unwrap_or(u16::MAX);
            let indent = if piece.to_the_right { width.saturating_sub(used) } else { 0 };
            let x = area.x + piece.at + indent;
            let fits = usize::from(width - indent);
            buffer.set_stringn(x, area.y, &piece.text, fits, piece.style);
            // What was cut says so.
            if used > width {
                buffer.set_stringn(area.x + piece.at + width - 1, area.y, "~", 1, piece.style);
            }
        }
    }
}

pub fn frame(frame: &mut Frame<'_>, state: &mut State, theme: Theme) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    if area.width < MIN.0 || area.height < MIN.1 {
        let text = format!("needs {}x{}, has {}x{}", MIN.0, MIN.1, area.width, area.height);
        for (row, text) in ["nbguard top", &text, "q quits"].into_iter().enumerate() {
            let row = u16::try_from(row).unwrap_or(u16::MAX);
            if row < area.height {
                buffer.set_stringn(area.x, area.y + row, text, area.width.into(), Style::new());
            }
        }
        return;
    }
    let head = head(state, theme, area.width);
    let (body, keep) = body(state, theme, area.width);
    let foot = foot(state, theme);
    let rows = usize::from(area.height) - head.len() - foot.len();
    let last = body.len().saturating_sub(rows);
    let from = match keep {
        // The chosen one in sight, with what belongs to it below.
        Some((first, until)) => until.saturating_sub(rows).min(first).min(last),
        None => {
            state.scroll = state.scroll.min(last);
            state.scroll
        }
    };
    let shown = body.iter().skip(from).take(rows);
    let blank = Line::default();
    let fill = std::iter::repeat_n(&blank, rows.saturating_sub(body.len() - from));
    let all = head.iter().chain(shown).chain(fill).chain(&foot);
    for (row, line) in (0..area.height).zip(all) {
        line.draw(buffer, Rect { y: area.y + row, height: 1, ..area });
    }
}

/// Everything as text, however long: for `--once`.
pub fn text(state: &mut State, width: u16) -> String {
    let theme = Theme { colour: false };
    let mut lines = head(state, theme, width);
    lines.extend(body(state, theme, width).0);
    lines.push(last_incident(state, theme));
    let mut text = String::new();
    for mut line in lines {
        line.chosen = false;
        let area = Rect { x: 0, y: 0, width, height: 1 };
        let mut buffer = Buffer::empty(area);
        line.draw(&mut buffer, area);
        let symbols: String = (0..width).map(|x| buffer[(x, 0)].symbol()).collect();
        text += symbols.trim_end();
        text.push('\n');
    }
    text
}

fn head(state: &State, theme: Theme, width: u16) -> Vec<Line> {
    let Some(snapshot) = &state.snapshot else {
        let text = state.error.as_deref().unwrap_or("reading …");
        return vec![
            Line::of("nbguard top", theme.bold()),
            Line::of(safe(text, LINE_MAX), theme.warn()),
        ];
    };
    let survey = &snapshot.survey;
    let (guard, style) = match (&snapshot.unguarded, survey.paused) {
        (Some(_), _) => ("NOT GUARDED", theme.bad()),
        (None, true) => ("PAUSED: nobody is ended", theme.warn()),
        (None, false) => ("guarded", theme.good()),
    };
    let host = survey.host.as_ref();
    let name = host.map_or(String::new(), |host| safe(&host.name, CELL_MAX));
    let time = survey.time.get(11..19).unwrap_or_default();
    let held = if state.is_held { " (held)" } else { "" };
    let mut lines = vec![
        Line::default()
            .put(0, 24, format!("nbguard top  {name}"), theme.bold())
            .put(26, width.saturating_sub(26 + 17), guard, style)
            .right(width.saturating_sub(16), 16, format!("{}{held}", safe(time, 8)), theme.dim()),
    ];
    if let Some(why) = state.error.as_ref().or(snapshot.unguarded.as_ref()) {
        lines.push(Line::of(safe(why, LINE_MAX), theme.warn()));
    }
    if let Some(host) = host {
        let used = host.total.less(host.available);
        let bar = bar(&[(used, '#')], host.total, host.threshold, BAR);
        let swap = match host.swap_total {
            Bytes::ZERO => String::new(),
            total => format!("  swap {} of {total}", total.less(host.swap_free)),
        };
        let text = format!("{used} of {}  {}{swap}", host.total, safe(&host.mode, 16));
        lines.push(
            Line::default().put(0, 5, "host", theme.dim()).put(5, BAR, bar, Style::new()).put(
                BAR + 6,
                u16::MAX,
                text,
                Style::new(),
            ),
        );
    }
    lines
}

/// The lines of the view, and which of them are to stay in sight.
fn body(state: &State, theme: Theme, width: u16) -> (Vec<Line>, Option<(usize, usize)>) {
    match &state.view {
        View::Containers => containers(state, theme, width),
        View::One(_) => (one(state.one(), theme, width), None),
        View::Incidents => incidents_list(state, theme),
        View::Incident(_) => (one_incident(state.one_incident(), theme), None),
        View::Help => (help(theme), None),
    }
}

/// Where the columns stand for a width: what does not fit is left away, from the right.
struct Columns {
    name: u16,
    memory: u16,
    share: u16,
    bar: Option<u16>,
    bar_width: u16,
    psi: Option<u16>,
    state: Option<u16>,
}

impl Columns {
    fn of(width: u16) -> Columns {
        // MEMORY and FULL are always there: 11 and 7 wide; STALL takes 8, STATE 11.
        let fixed = 11 + 7;
        let psi = if width >= 56 { 8 } else { 0 };
        let state = if width >= 66 { 11 } else { 0 };
        let bar_width = if width >= 110 { BAR } else { BAR / 2 };
        let bar = if width >= 78 { bar_width + 1 } else { 0 };
        let name = width.saturating_sub(fixed + psi + state + bar + 1).min(72);
        let (memory, share) = (name, name + 11);
        let next = share + 8;
        Columns {
            name,
            memory,
            share,
            bar: (bar > 0).then_some(next),
            bar_width,
            psi: (psi > 0).then_some(next + bar - u16::from(bar > 0)),
            state: (state > 0).then_some(next + bar + psi),
        }
    }
}

fn containers(state: &State, theme: Theme, width: u16) -> (Vec<Line>, Option<(usize, usize)>) {
    let columns = Columns::of(width);
    let list = state.containers();
    let mut lines = vec![headings(&columns, theme)];
    if list.is_empty() && state.snapshot.is_some() {
        let text = if state.filter.is_empty() { "No containers" } else { "None is called so" };
        lines.push(Line::of(text, theme.dim()));
    }
    let chosen = state.chosen_container();
    let mut keep = (0, 0);
    for (at, container) in list.into_iter().enumerate() {
        let first = lines.len();
        lines.push(Line { chosen: at == chosen, ..container_line(container, &columns, theme) });
        for notebook in container.notebooks.iter().take(NOTEBOOKS) {
            lines.push(notebook_line(notebook, container, &columns, theme));
        }
        let total = usize::try_from(container.notebooks_total).unwrap_or(usize::MAX);
        if total > NOTEBOOKS {
            lines.push(Line::of(format!("    and {} more", total - NOTEBOOKS), theme.dim()));
        }
        if at == chosen {
            keep = (first, lines.len());
        }
    }
    // With the first chosen the headings are in sight as well.
    if chosen == 0 {
        keep.0 = 0;
    }
    (lines, Some(keep))
}

fn headings(columns: &Columns, theme: Theme) -> Line {
    let style = theme.bold();
    let mut line = Line::default()
        .put(0, columns.name, "CONTAINER, NOTEBOOKS", style)
        .right(columns.memory, 11, "MEMORY", style)
        .right(columns.share, 7, "FULL", style);
    if let Some(at) = columns.bar {
        line = line.put(at, columns.bar_width, "| threshold", style);
    }
    if let Some(at) = columns.psi {
        line = line.right(at, 8, "STALL", style);
    }
    if let Some(at) = columns.state {
        line = line.put(at, 11, "STATE", style);
    }
    line
}

fn container_line(container: &ContainerView, columns: &Columns, theme: Theme) -> Line {
    let full = of_threshold(container);
    let style = match full {
        _ if full >= 1.0 => theme.bad(),
        _ if full >= 0.88 => theme.warn(),
        _ => theme.bold(),
    };
    let mut line = Line::default()
        .put(0, columns.name, called(container), theme.bold())
        .right(columns.memory, 11, container.unreclaimable.to_string(), style)
        .right(columns.share, 7, percent(full), style);
    if let Some(at) = columns.bar {
        let rest = container.unreclaimable.less(container.sum);
        let parts = [(container.sum.min(container.unreclaimable), '#'), (rest, '+')];
        let width = columns.bar_width;
        line = line.put(at, width, bar(&parts, container.total, container.threshold, width), style);
    }
    if let Some(at) = columns.psi {
        let psi =
            container.psi_some_avg10.map_or_else(|| "-".to_owned(), |psi| format!("{psi:.1} %"));
        let stalls = container.psi_some_avg10.is_some_and(|psi| psi >= 10.0);
        line = line.right(at, 8, psi, if stalls { theme.warn() } else { Style::new() });
    }
    if let Some(at) = columns.state {
        let (text, style) = standing(container, theme);
        line = line.put(at, 11, text, style);
    }
    line
}

/// What is most worth knowing of a container's state, in one word.
fn standing(container: &ContainerView, theme: Theme) -> (String, Style) {
    let calm = matches!(container.state.as_str(), "quiet" | "warned" | "unguarded");
    match container {
        _ if !calm => (safe(&container.state, 10), theme.bad()),
        c if c.paused => ("paused".to_owned(), theme.warn()),
        c if c.protected => ("protected".to_owned(), theme.warn()),
        c if c.dry_run => ("dry-run".to_owned(), theme.warn()),
        c if c.state == "warned" => ("warned".to_owned(), theme.warn()),
        c => (safe(&c.state, 10), theme.good()),
    }
}

fn notebook_line(
    notebook: &NotebookView,
    container: &ContainerView,
    columns: &Columns,
    theme: Theme,
) -> Line {
    let style = Style::new();
    let mut line = Line::default()
        .tail(2, columns.name.saturating_sub(2), notebook_name(notebook), style)
        .right(columns.memory, 11, notebook.memory.to_string(), style)
        .right(columns.share, 7, percent(notebook.share), style);
    if let Some(at) = columns.bar {
        let parts = [(notebook.memory, '#')];
        let width = columns.bar_width;
        line = line.put(at, width, bar(&parts, container.total, Bytes::ZERO, width), theme.dim());
    }
    if let Some(at) = columns.psi {
        line = line.right(at, 8, notebook.pid.to_string(), theme.dim());
    }
    if let Some(at) = columns.state {
        let first = container.would.end == Some(notebook.pid);
        let (text, style) = match notebook.eligible.as_str() {
            _ if first => ("goes first".to_owned(), theme.warn()),
            "yes" => (String::new(), style),
            "below-min-share" => ("small".to_owned(), theme.dim()),
            reason if reason.starts_with("protected") => ("protected".to_owned(), theme.good()),
            reason => (safe(reason, 10), theme.dim()),
        };
        line = line.put(at, 11, text, style);
    }
    line
}

fn called(container: &ContainerView) -> String {
    let name = if container.name.is_empty() { &container.id } else { &container.name };
    safe(name, CELL_MAX)
}

fn notebook_name(notebook: &NotebookView) -> String {
    match (&notebook.notebook, &notebook.kernel_id) {
        (Some(path), _) => safe(path, LINE_MAX),
        (None, Some(id)) => format!("kernel {}", safe(id, CELL_MAX)),
        (None, None) => format!("{} (pid {})", safe(&notebook.name, CELL_MAX), notebook.pid),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).clamp(0.0, 9999.0))
}

/// `#####++++...|..`: parts of a whole, with a mark.
fn bar(parts: &[(Bytes, char)], whole: Bytes, mark: Bytes, width: u16) -> String {
    let width = usize::from(width);
    let cells = |bytes: Bytes| match whole.0 {
        0 => 0,
        _ => ((bytes.0.min(whole.0) as f64 / whole.0 as f64) * width as f64).round() as usize,
    };
    let mut text: Vec<char> = Vec::with_capacity(width);
    let mut sum = Bytes::ZERO;
    for (bytes, sign) in parts {
        sum = sum.plus(*bytes);
        let until = cells(sum);
        text.resize(until.max(text.len()).min(width), *sign);
    }
    text.resize(width, '.');
    if mark > Bytes::ZERO {
        let at = cells(mark).min(width.saturating_sub(1));
        text[at] = '|';
    }
    text.into_iter().collect()
}

fn one(container: Option<&ContainerView>, theme: Theme, width: u16) -> Vec<Line> {
    let Some(c) = container else {
        return vec![Line::of("This container is gone", theme.warn())];
    };
    let columns = Columns::of(width);
    let plain = Style::new();
    let mut lines = vec![headings(&columns, theme), container_line(c, &columns, theme)];
    let limit =
        c.limit.map_or_else(|| format!("none, the host has {}", c.total), |l| l.to_string());
    let high = c.high.map_or_else(|| "-".to_owned(), |high| high.to_string());
    let yes = |flag: bool, word: &'static str| if flag { word } else { "" };
    let psi = |psi: Option<f64>| psi.map_or_else(|| "-".to_owned(), |psi| format!("{psi:.2} %"));
    let marks = [
        safe(&c.state, 16),
        yes(c.paused, "paused").to_owned(),
        yes(c.protected, "protected").to_owned(),
        yes(c.dry_run, "dry-run").to_owned(),
    ];
    let marks: Vec<String> = marks.into_iter().filter(|word| !word.is_empty()).collect();
    let id = c.id.get(..12).unwrap_or(&c.id);
    for (name, value) in [
        (
            "image",
            format!("{}  {}  {}", safe(&c.image, CELL_MAX), safe(&c.engine, 16), safe(id, 12)),
        ),
        ("watched", format!("{} ({})", safe(&c.mode, 24), safe(&c.mode_reason, LINE_MAX))),
        ("state", marks.join(", ")),
        (
            "limit",
            format!(
                "{limit}, warning {}, threshold {}, memory.high {high}",
                c.warning, c.threshold
            ),
        ),
        (
            "usage",
            format!(
                "{}, of it not reclaimable {} (anonymous {}, shared {}{})",
                c.usage,
                c.unreclaimable,
                c.anon,
                c.shmem,
                c.swap.map(|swap| format!(", swap {swap}")).unwrap_or_default()
            ),
        ),
        (
            "stall",
            format!(
                "some {}, full {} of the last 10 s",
                psi(c.psi_some_avg10),
                psi(c.psi_full_avg10)
            ),
        ),
        ("notebooks", format!("{} hold {}", c.notebooks_total, c.sum)),
    ] {
        lines.push(Line::default().put(0, 10, name, theme.dim()).put(11, u16::MAX, value, plain));
    }
    lines.extend(wrapped("if short", &safe(&c.would.sentence, LINE_MAX), width, theme));
    lines.push(Line::default());
    for notebook in &c.notebooks {
        lines.push(notebook_line(notebook, c, &columns, theme));
        lines.push(Line::default().put(
            4,
            u16::MAX,
            safe(&notebook.because, LINE_MAX),
            theme.dim(),
        ));
        if notebook.processes.len() > 1 {
            for process in &notebook.processes {
                lines.push(process_line(process, &columns, theme));
            }
        }
    }
    for (title, list) in
        [("servers, never ended", &c.servers), ("in no notebook", &c.unattributed.top)]
    {
        if !list.is_empty() {
            lines.push(Line::of(title, theme.dim()));
            lines.extend(list.iter().map(|process| process_line(process, &columns, theme)));
        }
    }
    lines
}

fn process_line(process: &crate::report::ProcessRecord, columns: &Columns, theme: Theme) -> Line {
    let name = format!("{} {}", process.pid, safe(&process.name, CELL_MAX));
    Line::default().put(4, columns.name.saturating_sub(4), name, theme.dim()).right(
        columns.memory,
        11,
        process.memory.to_string(),
        theme.dim(),
    )
}

/// A long text over as many lines as it needs.
fn wrapped(name: &str, text: &str, width: u16, theme: Theme) -> Vec<Line> {
    let room = usize::from(width.saturating_sub(12)).max(20);
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("it begins with one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    let head = |at: usize| if at == 0 { name } else { "" };
    lines
        .into_iter()
        .enumerate()
        .map(|(at, text)| {
            Line::default().put(0, 10, head(at), theme.dim()).put(11, u16::MAX, text, Style::new())
        })
        .collect()
}

fn incidents_list(state: &State, theme: Theme) -> (Vec<Line>, Option<(usize, usize)>) {
    let mut lines = vec![incident_columns(
        ["WHEN", "WHAT", "CONTAINER", "NOTEBOOK", "FREED", "DEAD IN"].map(str::to_owned),
        theme.bold(),
    )];
    if state.incidents().is_empty() {
        lines.push(Line::of("No incidents", theme.dim()));
    }
    let chosen = state.chosen_incident();
    for (at, incident) in state.incidents().iter().enumerate() {
        let dash = || "-".to_owned();
        let freed = incident.freed.map_or_else(dash, |freed| freed.to_string());
        let dead = incidents::dead_in(incident).map_or_else(dash, out::micros);
        let cells = [
            incidents::when(incident),
            incidents::what(incident).to_owned(),
            incidents::whose(incident),
            incidents::whom(incident),
            freed,
            dead,
        ];
        let line = incident_columns(cells, of_kind(incident, theme));
        lines.push(Line { chosen: at == chosen, ..line });
    }
    let first = if chosen == 0 { 0 } else { chosen + 1 };
    (lines, Some((first, chosen + 2)))
}

fn incident_columns(
    [when, what, container, notebook, freed, dead]: [String; 6],
    style: Style,
) -> Line {
    let plain = Style::new();
    Line::default()
        .put(0, 19, when, plain)
        .put(20, 10, what, style)
        .put(31, 15, container, plain)
        .put(47, 22, notebook, plain)
        .right(69, 10, freed, plain)
        .right(80, 10, dead, plain)
}

fn of_kind(incident: &Incident, theme: Theme) -> Style {
    match incident.kind {
        crate::report::Kind::Hold => theme.warn(),
        _ => theme.bad(),
    }
}

/// The same story as `nbguard incidents ID`.
fn one_incident(incident: Option<&Incident>, theme: Theme) -> Vec<Line> {
    match incident {
        None => vec![Line::of("This incident is not in the list any more", theme.warn())],
        Some(incident) => {
            let text = incidents::full(incident, Paint::plain());
            text.lines().map(|line| Line::of(line, Style::new())).collect()
        }
    }
}

fn help(theme: Theme) -> Vec<Line> {
    let keys = [
        ("j k, arrows", "choose; PgUp, PgDn, Home, End"),
        ("Enter", "follow one container, or one incident in full"),
        ("Esc", "back; clears the filter"),
        ("s", "sort by share of threshold, name, pressure, memory"),
        ("/", "only what is called so"),
        ("i", "incidents"),
        ("space", "hold the picture; nothing is read meanwhile"),
        ("q, Ctrl-C", "quit"),
    ];
    let mut lines = vec![Line::of("Keys", theme.bold())];
    for (key, meaning) in keys {
        let line = Line::default().put(2, 12, key, theme.bold());
        lines.push(line.put(15, u16::MAX, meaning, Style::new()));
    }
    lines.push(Line::default());
    for text in [
        "MEMORY is what only an end gives back: no page cache.",
        "FULL is its share of the threshold, of a notebook its share of the limit.",
        "Bars: # notebooks, + everybody else, | the threshold.",
        "STALL: share of the last 10 s in which tasks waited for memory; of a",
        "notebook its pid.",
    ] {
        lines.push(Line::of(text, Style::new()));
    }
    lines
}

fn last_incident(state: &State, theme: Theme) -> Line {
    match state.incidents().first() {
        None => Line::of("last: no incident", theme.dim()),
        Some(incident) => Line::of(
            format!(
                "last: {} {} {}: {}",
                incidents::when(incident),
                incidents::what(incident),
                incidents::whose(incident),
                safe(&incident.sentence, LINE_MAX)
            ),
            of_kind(incident, theme),
        ),
    }
}

fn foot(state: &State, theme: Theme) -> Vec<Line> {
    let keys = match (&state.view, state.typing) {
        (_, true) => format!("filter: {}_", safe(&state.filter, CELL_MAX)),
        (View::Containers, _) if !state.filter.is_empty() => {
            format!("filter: {}  Esc clears it  ? help  q quit", safe(&state.filter, CELL_MAX))
        }
        (View::Containers, _) => format!(
            "Enter follow  i incidents  s sort ({})  / filter  ? help  q quit",
            state.sort.name()
        ),
        (View::Incidents, _) => "Enter in full  Esc back  ? help  q quit".to_owned(),
        _ => "j k scroll  Esc back  ? help  q quit".to_owned(),
    };
    vec![last_incident(state, theme), Line::of(keys, Style::new().add_modifier(Modifier::REVERSED))]
}
