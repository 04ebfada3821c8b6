//! What `top` shows: the last figures, which view, what is chosen, and what each key changes.
//! Pure: keys in, state out; it draws nothing and reads nothing.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::source::Snapshot;
use crate::report::{ContainerView, Incident};

/// Lines that PgUp and PgDn move by.
const PAGE: usize = 10;
/// A filter longer than this was pasted by mistake.
const FILTER_MAX: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum View {
    Containers,
    /// One container, by its id.
    One(String),
    Incidents,
    /// One incident, by its id.
    Incident(String),
    Help,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// What is in use that only an end gives back.
    Memory,
    /// The same as a share of the threshold.
    Threshold,
    Name,
    Pressure,
}

impl Sort {
    pub fn name(self) -> &'static str {
        match self {
            Sort::Memory => "memory",
            Sort::Threshold => "share of threshold",
            Sort::Name => "name",
            Sort::Pressure => "pressure",
        }
    }

    fn next(self) -> Sort {
        match self {
            Sort::Memory => Sort::Threshold,
            Sort::Threshold => Sort::Name,
            Sort::Name => Sort::Pressure,
            Sort::Pressure => Sort::Memory,
        }
    }
}

#[derive(Debug)]
pub struct State {
    pub snapshot: Option<Snapshot>,
    /// Why there is nothing newer.
    pub error: Option<String>,
    pub view: View,
    /// Where Help goes back to.
    before_help: View,
    pub sort: Sort,
    pub filter: String,
    /// What is typed goes into the filter.
    pub typing: bool,
    /// What is chosen stays chosen while the order changes: a container's id, an incident's.
    container: Option<String>,
    incident: Option<String>,
    /// How far the text of a view is scrolled.
    pub scroll: usize,
    pub is_held: bool,
    pub is_over: bool,
}

impl State {
    pub fn new() -> State {
        State {
            snapshot: None,
            error: None,
            view: View::Containers,
            before_help: View::Containers,
            sort: Sort::Threshold,
            filter: String::new(),
            typing: false,
            container: None,
            incident: None,
            scroll: 0,
            is_held: false,
            is_over: false,
        }
    }

    pub fn take(&mut self, answer: Result<Snapshot, String>) {
        match answer {
            Ok(snapshot) => {
                self.snapshot = Some(snapshot);
                self.error = None;
            }
            // The old figures stay, with the reason why they are old.
            Err(why) => self.error = Some(why),
        }
    }

    /// The containers that are shown, in their order.
    pub fn containers(&self) -> Vec<&ContainerView> {
        let all = self.snapshot.iter().flat_map(|snapshot| &snapshot.survey.containers);
        let words = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&words);
        let mut list: Vec<&ContainerView> = all
            .filter(|c| {
                let named =
                    |n: &crate::report::NotebookView| n.notebook.as_deref().is_some_and(has);
                words.is_empty()
                    || has(&c.name)
                    || c.id.starts_with(&words)
                    || c.notebooks.iter().any(named)
            })
            .collect();
        let by_name = |c: &ContainerView| (c.name.clone(), c.id.clone());
        list.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Memory => b.unreclaimable.cmp(&a.unreclaimable),
                Sort::Threshold => of_threshold(b).total_cmp(&of_threshold(a)),
                Sort::Name => std::cmp::Ordering::Equal,
                Sort::Pressure => pressure(b).total_cmp(&pressure(a)),
            };
            order.then_with(|| by_name(a).cmp(&by_name(b)))
        });
        list
    }

    pub fn incidents(&self) -> &[Incident] {
        self.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.incidents)
    }

    /// The place of what is chosen; of the first, if it is not there any more.
    pub fn chosen_container(&self) -> usize {
        let list = self.containers();
        list.iter().position(|c| Some(&c.id) == self.container.as_ref()).unwrap_or(0)
    }

    pub fn chosen_incident(&self) -> usize {
        let chosen = |i: &Incident| Some(&i.id) == self.incident.as_ref();
        self.incidents().iter().position(chosen).unwrap_or(0)
    }

    pub fn one(&self) -> Option<&ContainerView> {
        let View::One(id) = &self.view else { return None };
        self.snapshot.as_ref()?.survey.containers.iter().find(|c| c.id == *id)
    }

    pub fn one_incident(&self) -> Option<&Incident> {
        let View::Incident(id) = &self.view else { return None };
        self.incidents().iter().find(|incident| incident.id == *id)
    }

    pub fn press(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            if let KeyCode::Char('c' | 'd') = key.code {
                self.is_over = true;
            }
            return;
        }
        match key.code {
            _ if self.typing => self.type_in(key.code),
            KeyCode::Char('q') => self.is_over = true,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help(),
            KeyCode::Char(' ') => self.is_held = !self.is_held,
            KeyCode::Char('i') => self.show(match self.view {
                View::Incidents | View::Incident(_) => View::Containers,
                _ => View::Incidents,
            }),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => {
                self.show(View::Containers);
                self.typing = true;
            }
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => self.go_in(),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => self.go_out(),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-PAGE.cast_signed()),
            KeyCode::PageDown => self.step(PAGE.cast_signed()),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            _ => {}
        }
    }

    fn type_in(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(char) if self.filter.chars().count() < FILTER_MAX => {
                self.filter.push(char);
            }
            _ => {}
        }
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.scroll = 0;
    }

    fn help(&mut self) {
        if self.view == View::Help {
            return self.go_out();
        }
        self.before_help = std::mem::replace(&mut self.view, View::Help);
        self.scroll = 0;
    }

    fn go_in(&mut self) {
        let next = match &self.view {
            View::Containers => {
                let list = self.containers();
                list.get(self.chosen_container()).map(|c| View::One(c.id.clone()))
            }
            View::Incidents => {
                let chosen = self.incidents().get(self.chosen_incident());
                chosen.map(|incident| View::Incident(incident.id.clone()))
            }
            View::One(_) | View::Incident(_) | View::Help => None,
        };
        if let Some(next) = next {
            self.show(next);
        }
    }

    fn go_out(&mut self) {
        match &self.view {
            View::Containers => self.filter.clear(),
            View::One(_) | View::Incidents => self.show(View::Containers),
            View::Incident(_) => self.show(View::Incidents),
            View::Help => {
                let before = self.before_help.clone();
                self.show(before);
            }
        }
    }

    fn step(&mut self, by: isize) {
        match self.view {
            View::Containers => {
                let ids: Vec<String> = self.containers().iter().map(|c| c.id.clone()).collect();
                let at = moved(self.chosen_container(), by, ids.len());
                self.container = ids.get(at).cloned();
            }
            View::Incidents => {
                let at = moved(self.chosen_incident(), by, self.incidents().len());
                self.incident = self.incidents().get(at).map(|incident| incident.id.clone());
            }
            // How long the text is knows only who draws it, and corrects this.
            _ => self.scroll = self.scroll.saturating_add_signed(by),
        }
    }
}

fn moved(from: usize, by: isize, len: usize) -> usize {
    from.saturating_add_signed(by).min(len.saturating_sub(1))
}

/// What cannot be reclaimed, as a share of the threshold.
pub fn of_threshold(container: &ContainerView) -> f64 {
    if container.threshold.0 == 0 {
        return 0.0;
    }
    container.unreclaimable.0 as f64 / container.threshold.0 as f64
}

fn pressure(container: &ContainerView) -> f64 {
    container.psi_some_avg10.unwrap_or(-1.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{busy, incident_of};
    use super::*;

    fn press(state: &mut State, keys: &str) {
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                char => KeyCode::Char(char),
            };
            state.press(KeyEvent::new(code, KeyModifiers::NONE));
        }
    }

    fn names(state: &State) -> Vec<String> {
        state.containers().iter().map(|c| c.name.clone()).collect()
    }

    fn full(count: usize) -> State {
        let mut state = State::new();
        state.take(Ok(busy(count)));
        state
    }

    #[test]
    fn each_order_is_what_it_says_and_comes_round() {
        let mut state = full(3);
        let orders: Vec<(Sort, Vec<String>)> = (0..4)
            .map(|_| {
                let seen = (state.sort, names(&state));
                press(&mut state, "s");
                seen
            })
            .collect();
        for (sort, order) in &orders {
            let expected = match sort {
                Sort::Memory | Sort::Threshold => ["c2", "c1", "c0"],
                Sort::Name | Sort::Pressure => ["c0", "c1", "c2"],
            };
            assert_eq!(order, &expected, "{sort:?}");
        }
        assert_eq!(state.sort, Sort::Threshold);
    }

    #[test]
    fn what_is_chosen_stays_chosen_when_the_order_changes_or_it_goes() {
        let mut state = full(5);
        press(&mut state, "jj");
        let chosen = names(&state)[state.chosen_container()].clone();
        press(&mut state, "ss");
        assert_eq!(names(&state)[state.chosen_container()], chosen);
        press(&mut state, "jjjjjjjjjj");
        assert_eq!(state.chosen_container(), 4);
        press(&mut state, "kkkkkkkkkk");
        assert_eq!(state.chosen_container(), 0);
        press(&mut state, "G\n");
        assert!(state.one().is_some());
        state.take(Ok(Snapshot::default()));
        assert!(state.one().is_none());
        press(&mut state, "\x1bjkgG\n");
        assert_eq!(state.view, View::Containers, "there is none to go into");
    }

    #[test]
    fn a_filter_finds_containers_and_notebooks_and_is_cleared() {
        let mut state = full(12);
        press(&mut state, "/C1\n");
        assert_eq!(names(&state).len(), 3, "c1, c10, c11");
        assert!(!state.is_over, "q");
        press(&mut state, "/q\x08\n");
        press(&mut state, "\x1b");
        assert_eq!(names(&state).len(), 12);
        press(&mut state, "/7-0.ipynb\n");
        assert_eq!(names(&state), ["c7"]);
        press(&mut state, &format!("/{}\x1b", "x".repeat(1000)));
        assert!(state.filter.is_empty() && !state.typing);
    }

    #[test]
    fn every_view_leads_back_and_only_q_and_ctrl_c_end_it() {
        let mut state = full(2);
        state.snapshot.as_mut().unwrap().incidents = vec![incident_of("1"), incident_of("2")];
        press(&mut state, "ij\n");
        assert_eq!(state.view, View::Incident("2".into()));
        press(&mut state, "?");
        assert_eq!(state.view, View::Help);
        press(&mut state, "?\x1b\x1b\x1b\x1b");
        assert_eq!(state.view, View::Containers);
        press(&mut state, " xyz\x1b\n");
        assert!(state.is_held && !state.is_over);
        press(&mut state, "q");
        assert!(state.is_over);
        let mut state = full(0);
        press(&mut state, "/");
        state.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(state.is_over);
    }

    #[test]
    fn old_figures_stay_with_the_reason() {
        let mut state = full(1);
        state.take(Err("gone".into()));
        assert_eq!((names(&state).len(), state.error.as_deref()), (1, Some("gone")));
        state.take(Ok(busy(2)));
        assert_eq!((names(&state).len(), state.error), (2, None));
    }
}
