//! `nbguard top`: containers and notebooks, live. The daemon is asked once a second; where none
//! answers the host is read as `ps` reads it, and the picture says that nobody guards it. The
//! terminal is given back as it was on every way out.

mod draw;
mod source;
mod state;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::files;
use crate::config::Config;
use draw::Theme;
use source::Source;
use state::State;

/// How often figures are read.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a signal or an answer may wait until it is noticed.
const GLANCE: Duration = Duration::from_millis(100);
/// How wide `--once` is where no terminal says it.
const WIDTH: u16 = 100;

#[derive(Args, Debug)]
pub struct TopArgs {
    /// Print the picture once, as text
    #[arg(long)]
    pub once: bool,
}

pub fn run(config: &Path, args: &TopArgs, out: &mut dyn Write) -> Outcome {
    let (config, _) = files::config(config)?;
    if args.once {
        let mut state = State::new();
        state.take(Ok(source::read(&config).map_err(Failure::wrong)?));
        write!(out, "{}", draw::text(&mut state, width()))?;
        return Ok(Exit::Ok);
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = set("TERM").is_none_or(|term| term == "dumb");
    if dumb || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::cannot(
            "top needs a terminal that can move its cursor; `nbguard ps` and `nbguard top --once` \
             print the same",
        ));
    }
    let theme = Theme { colour: set("NO_COLOR").is_none() };
    live(config, theme)
}

/// The columns of the terminal, or what `COLUMNS` says.
fn width() -> u16 {
    use std::os::fd::AsFd;
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let columns = columns.or_else(|| crate::sys::terminal::columns(io::stdout().as_fd()));
    columns.unwrap_or(WIDTH).clamp(draw::MIN.0, 1000)
}

fn live(config: Config, theme: Theme) -> Outcome {
    let words = |e: nix::errno::Errno| Failure::wrong(format!("signals: {}", e.desc()));
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        signals.add(signal);
    }
    // Noticed by the loop, so that the terminal is given back before they take effect. Before the
    // thread starts, which would take them otherwise, and die of them.
    signals.thread_block().map_err(words)?;
    let source = Source::start(config).map_err(|e| Failure::wrong(format!("a thread: {e}")))?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let fd = SignalFd::with_flags(&signals, flags).map_err(words)?;
    // Its panic hook gives the terminal back as well.
    let terminal = ratatui::try_init().map_err(|e| Failure::cannot(format!("terminal: {e}")));
    let ended = terminal.and_then(|mut terminal| turn(&mut terminal, source, theme, &fd));
    ratatui::restore();
    signals.thread_unblock().map_err(words)?;
    if let Some(signal) = ended? {
        // As if it had not been caught: whoever waits for us sees what ended us.
        let _ = raise(signal);
    }
    Ok(Exit::Ok)
}

fn turn(
    terminal: &mut ratatui::DefaultTerminal,
    mut source: Source,
    theme: Theme,
    signals: &SignalFd,
) -> Result<Option<Signal>, Failure> {
    let words = |e: io::Error| Failure::wrong(format!("terminal: {e}"));
    let mut state = State::new();
    let mut next = Instant::now();
    let mut changed = true;
    loop {
        if Instant::now() >= next && !state.is_held {
            source.refresh();
            next = Instant::now() + REFRESH;
        }
        while let Some(answer) = source.answer() {
            state.take(answer);
            changed = true;
        }
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| draw::frame(frame, &mut state, theme)).map_err(words)?;
        }
        if event::poll(GLANCE).map_err(words)? {
            match event::read().map_err(words)? {
                Event::Key(key) if key.kind != KeyEventKind::Release => state.press(key),
                _ => {}
            }
            changed = true;
        }
        if let Ok(Some(info)) = signals.read_signal() {
            return Ok(Signal::try_from(info.ssi_signo.cast_signed()).ok());
        }
        if state.is_over {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ContainerView, HostView, Incident, NotebookView, Survey, Would};
    use crate::units::Bytes;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use source::Snapshot;

    pub fn incident_of(id: &str) -> Incident {
        crate::cli::incidents::an_incident(id, "/home/j/a.ipynb")
    }

    /// The later a container is, the fuller; the earlier, the more it stalls.
    pub fn busy(count: usize) -> Snapshot {
        let container = |at: usize| {
            let share = (at + 1) as u64;
            let notebook = |n: usize| NotebookView {
                pid: 1000 + u32::try_from(at * 10 + n).unwrap(),
                memory: Bytes::mib(share * 100 / (n as u64 + 2)),
                share: 0.1 * share as f64,
                name: "python3".into(),
                notebook: Some(format!("/home/j/{at}-{n}.ipynb")),
                eligible: if n == 0 { "yes" } else { "below-min-share" }.into(),
                because: "holds it; goes first".into(),
                ..NotebookView::default()
            };
            ContainerView {
                id: format!("{at:064x}"),
                name: format!("c{at}"),
                mode: "high+psi".into(),
                state: "quiet".into(),
                usage: Bytes::mib(share * 100),
                unreclaimable: Bytes::mib(share * 90),
                total: Bytes::gib(1),
                limit: Some(Bytes::gib(1)),
                threshold: Bytes::mib(900),
                sum: Bytes::mib(share * 80),
                psi_some_avg10: Some(50.0 / share as f64),
                notebooks: (0..5).map(notebook).collect(),
                notebooks_total: 5,
                would: Would {
                    end: Some(1000 + u32::try_from(at * 10).unwrap()),
                    sentence: "Ends it: it holds the most.".into(),
                    ..Would::default()
                },
                ..ContainerView::default()
            }
        };
        Snapshot {
            survey: Survey {
                time: "2026-11-22T10:20:30.000Z".into(),
                host: Some(HostView {
                    name: "h".into(),
                    mode: "v2".into(),
                    total: Bytes::gib(16),
                    available: Bytes::gib(8),
                    threshold: Bytes::gib(14),
                    ..HostView::default()
                }),
                containers: (0..count).map(container).collect(),
                ..Survey::default()
            },
            incidents: vec![incident_of("aaaa1111-x")],
            unguarded: None,
        }
    }

    fn drawn(state: &mut State, width: u16, height: u16, colour: bool) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw::frame(frame, state, Theme { colour })).unwrap();
        let buffer = terminal.backend().buffer();
        if !colour {
            let plain = |cell: &ratatui::buffer::Cell| {
                cell.fg == ratatui::style::Color::Reset && cell.bg == ratatui::style::Color::Reset
            };
            assert!(buffer.content().iter().all(plain), "colour where none is wanted");
        }
        let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(row).collect()
    }

    fn shown(snapshot: Snapshot, width: u16, height: u16) -> String {
        let mut state = State::new();
        state.take(Ok(snapshot));
        drawn(&mut state, width, height, true).join("\n")
    }

    fn press(state: &mut State, code: KeyCode) {
        state.press(KeyEvent::new(code, KeyModifiers::NONE));
    }

    fn type_all(state: &mut State, keys: &str) {
        for key in keys.chars() {
            press(
                state,
                match key {
                    '\n' => KeyCode::Enter,
                    '\x1b' => KeyCode::Esc,
                    char => KeyCode::Char(char),
                },
            );
        }
    }

    const SIZES: [(u16, u16); 4] = [(80, 24), (40, 10), (200, 60), (65, 12)];

    #[test]
    fn the_usual_terminal_shows_what_matters() {
        let text = shown(busy(3), 80, 24);
        for words in [
            "nbguard top  h",
            "guarded",
            "10:20:30",
            "8.0 GiB of 16.0 GiB",
            "c2",
            "270.0 MiB",
            "/home/j/2-0.ipynb",
            "goes first",
            "and 2 more",
            "quiet",
            "50.0 %",
            "last: 2026-11-22 10:00:00 ended lab",
            "q quit",
        ] {
            assert!(text.contains(words), "{words} in:\n{text}");
        }
        let bar = text.lines().find(|line| line.contains("c2 ")).unwrap();
        assert!(bar.contains("###...") && bar.contains("..| "), "{bar}");
        assert!(!text.contains("NOT GUARDED"), "{text}");
    }

    #[test]
    fn every_view_fits_every_size_with_none_one_and_two_hundred() {
        for (width, height) in SIZES {
            for count in [0, 1, 200] {
                for colour in [true, false] {
                    let mut state = State::new();
                    drawn(&mut state, width, height, colour);
                    state.take(Ok(busy(count)));
                    for keys in ["", "G", "\n", "jjj", "G", "\x1b", "i", "\n", "G", "?", "/x"] {
                        type_all(&mut state, keys);
                        let lines = drawn(&mut state, width, height, colour);
                        assert_eq!(lines.len(), usize::from(height));
                    }
                }
            }
        }
    }

    #[test]
    fn the_chosen_one_is_always_in_sight() {
        for (width, height) in SIZES {
            let mut state = State::new();
            state.take(Ok(busy(50)));
            for _ in 0..60 {
                let at = state.chosen_container();
                let name = state.containers()[at].name.clone();
                let lines = drawn(&mut state, width, height, true);
                let seen = lines.iter().any(|line| line.split(' ').next() == Some(name.as_str()));
                assert!(seen, "{name} at {width}x{height}:\n{}", lines.join("\n"));
                press(&mut state, KeyCode::Down);
            }
            assert_eq!(state.chosen_container(), 49);
        }
    }

    #[test]
    fn a_path_that_is_too_long_keeps_its_end() {
        let mut snapshot = busy(1);
        let path = format!("/home/{}/thesis.ipynb", "x".repeat(300));
        snapshot.survey.containers[0].notebooks[0].notebook = Some(path);
        let text = shown(snapshot, 80, 24);
        assert!(text.contains("~xx") && text.contains("x/thesis.ipynb "), "{text}");
    }

    #[test]
    fn too_small_a_terminal_says_so_and_nothing_breaks() {
        for (width, height) in [(39, 24), (80, 9), (1, 1), (3, 2), (20, 3)] {
            let text = shown(busy(3), width, height);
            assert!(!text.contains("c2"), "{text}");
        }
        assert!(shown(busy(1), 39, 24).contains("needs 40x10, has 39x24"));
    }

    #[test]
    fn no_container_and_no_daemon_are_told() {
        let empty = shown(busy(0), 80, 24);
        assert!(empty.contains("No containers"), "{empty}");
        let alone = Snapshot { unguarded: Some("nbguardd does not answer".into()), ..busy(1) };
        let text = shown(alone, 80, 24);
        assert!(text.contains("NOT GUARDED") && text.contains("does not answer"), "{text}");
        let mut paused = busy(1);
        paused.survey.paused = true;
        paused.survey.containers[0].paused = true;
        let text = shown(paused, 80, 24);
        assert!(text.contains("PAUSED: nobody is ended") && text.contains("paused"), "{text}");
        let mut state = State::new();
        state.take(Err("no /proc".into()));
        assert!(drawn(&mut state, 80, 24, false).join("\n").contains("no /proc"));
    }

    #[test]
    fn hostile_names_stay_in_their_cells() {
        let evil = "a\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{9b}31m\u{202e}\u{200b}\t\u{0}漢字e\u{301}";
        let mut snapshot = busy(2);
        let long = evil.repeat(200);
        for container in &mut snapshot.survey.containers {
            for text in [
                &mut container.name,
                &mut container.image,
                &mut container.mode,
                &mut container.mode_reason,
                &mut container.state,
                &mut container.engine,
                &mut container.would.sentence,
            ] {
                *text = long.clone();
            }
            for notebook in &mut container.notebooks {
                notebook.notebook = Some(long.clone());
                (notebook.name, notebook.eligible, notebook.because) =
                    (evil.into(), evil.into(), evil.into());
            }
        }
        snapshot.survey.host.as_mut().unwrap().name = evil.into();
        snapshot.survey.time = evil.into();
        snapshot.incidents[0].sentence = evil.into();
        snapshot.incidents[0].id = evil.into();
        let deceptive = |c: char| c.is_control() || ['\u{202e}', '\u{200b}'].contains(&c);
        for (width, height) in SIZES {
            let mut state = State::new();
            state.take(Ok(snapshot.clone()));
            for keys in ["", "\n", "\x1bi", "\n", "\x1b\x1b/\u{1b}"] {
                type_all(&mut state, keys);
                let text = drawn(&mut state, width, height, true).concat();
                assert!(!text.contains(deceptive), "{text:?}");
            }
            state.take(Err(evil.into()));
            let text = drawn(&mut state, width, height, true).concat();
            assert!(!text.contains(deceptive), "{text:?}");
            let once = draw::text(&mut state, width);
            assert!(!once.contains(|c| c != '\n' && deceptive(c)), "{once:?}");
        }
    }

    #[test]
    fn once_is_plain_text_with_everything() {
        let mut state = State::new();
        state.take(Ok(busy(30)));
        let text = draw::text(&mut state, 100);
        assert!((0..30).all(|at| text.contains(&format!("c{at} "))), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100 && line == line.trim_end()));
        assert!(text.contains("last: "), "{text}");
    }
}
