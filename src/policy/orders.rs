//! What people ordered with `nbguard pause` and `nbguard protect`: for what it holds, until when,
//! and what is said over the control socket. Pure: wall-clock times are arguments.
//!
//! An order that has run out is judged so when somebody asks; nothing wakes up for it.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::ids::ProcKey;
use crate::parse::escape::escape;
use crate::policy::decide::View;

/// Orders kept at once. They are typed by people; a script gone wild ends here.
pub const ORDERS_MAX: usize = 256;
/// A path that was cut when it was read names nobody for sure: the kernel's id or the process
/// stands for it.
const PATH_MAX: usize = crate::parse::jupyter::MAX_SESSION - 4;
/// The longest time an order may be given for; without one it holds until it is taken back.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Text of a container that is shown.
const SHOWN: usize = 200;
/// So many characters of a container's id name it, as `nbguard ps --container` has it.
const ID_PREFIX: usize = 4;
/// … and of a kernel's uuid, of which there are more.
const KERNEL_PREFIX: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Watch and record, end nobody.
    Pause,
    /// Never end this.
    Protect,
}

/// What an order is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Subject {
    /// The whole guard.
    All,
    Container {
        id: String,
        name: String,
    },
    /// A notebook over its restarts: whatever has this path (where it has one) or else this
    /// kernel's id, in this container, under this uid. The path is the process's own word, so a
    /// neighbour under the same uid could borrow it; nobody else can.
    Notebook {
        id: String,
        name: String,
        uid: u32,
        notebook: Option<String>,
        kernel_id: Option<String>,
    },
    /// A notebook that has neither: this very process, and what belongs to it.
    Process {
        id: String,
        name: String,
        pid: u32,
        start: u64,
        process: String,
    },
}

/// Who gave an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    pub uid: u32,
    /// Who had logged in, where the kernel keeps that (`/proc/<pid>/loginuid`): behind sudo the
    /// uid is always 0.
    pub login: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    pub what: What,
    pub of: Subject,
    pub by: Origin,
    /// Seconds since 1970.
    pub at: u64,
    pub until: Option<u64>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        match self.login {
            Some(login) if login != self.uid => write!(f, " (logged in as uid {login})"),
            _ => Ok(()),
        }
    }
}

/// What an order looks at of a workload. The texts are the process's own.
#[derive(Clone, Copy, Debug)]
pub struct Whom<'a> {
    pub root: ProcKey,
    pub uid: u32,
    pub notebook: Option<&'a str>,
    pub kernel_id: Option<&'a str>,
}

impl<'a> From<&View<'a>> for Whom<'a> {
    fn from(view: &View<'a>) -> Whom<'a> {
        let View { workload, notebook, kernel_id } = *view;
        Whom { root: workload.root, uid: workload.uid, notebook, kernel_id }
    }
}

/// For people: `lab`, `lab: /home/jovyan/a.ipynb`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| escape(text.as_bytes(), SHOWN);
        match self {
            Subject::All => f.write_str("every container"),
            Subject::Container { id, name } => f.write_str(&container_name(id, name)),
            Subject::Notebook { id, name, notebook, kernel_id, .. } => {
                let container = container_name(id, name);
                match (notebook, kernel_id) {
                    (Some(path), _) => write!(f, "{container}: {}", shown(path)),
                    (None, Some(kernel)) => write!(f, "{container}: kernel {}", shown(kernel)),
                    (None, None) => f.write_str(&container),
                }
            }
            Subject::Process { id, name, pid, process, .. } => {
                write!(f, "{}: {} (pid {pid})", container_name(id, name), shown(process))
            }
        }
    }
}

/// What people call a container, escaped.
pub fn container_name(id: &str, name: &str) -> String {
    let text = if name.is_empty() { id.get(..12).unwrap_or(id) } else { name };
    escape(text.as_bytes(), SHOWN)
}

impl Subject {
    /// The container that it is in. `None` of the whole guard.
    pub fn container(&self) -> Option<&str> {
        match self {
            Subject::All => None,
            Subject::Container { id, .. }
            | Subject::Notebook { id, .. }
            | Subject::Process { id, .. } => Some(id),
        }
    }

    /// A workload as the subject of an order, so that it is followed over a restart where it can.
    pub fn of_notebook(id: &str, name: &str, process: &str, whom: &Whom<'_>) -> Subject {
        let (id, name) = (id.to_owned(), name.to_owned());
        let notebook = whom.notebook.filter(|path| path.len() <= PATH_MAX);
        if notebook.is_none() && whom.kernel_id.is_none() {
            let ProcKey { pid, start } = whom.root;
            return Subject::Process { id, name, pid, start, process: process.to_owned() };
        }
        Subject::Notebook {
            id,
            name,
            uid: whom.uid,
            notebook: notebook.map(str::to_owned),
            kernel_id: whom.kernel_id.map(str::to_owned),
        }
    }

    /// Whether this is about the workload, for itself or with its whole container.
    fn covers(&self, container: &str, whom: &Whom<'_>) -> bool {
        if self.container() != Some(container) {
            return false;
        }
        match self {
            Subject::All | Subject::Container { .. } => true,
            Subject::Notebook { uid, notebook, kernel_id, .. } => {
                let same = match notebook {
                    Some(path) => whom.notebook == Some(path.as_str()),
                    None => kernel_id.is_some() && whom.kernel_id == kernel_id.as_deref(),
                };
                same && *uid == whom.uid
            }
            Subject::Process { pid, start, .. } => {
                whom.root == ProcKey { pid: *pid, start: *start }
            }
        }
    }

    /// Whether these words are meant for this order's subject, when one is taken back.
    pub fn is_called(&self, words: &str) -> bool {
        match self {
            Subject::All => false,
            Subject::Container { id, name } => names_container(words, id, name),
            Subject::Notebook { id, name, notebook, kernel_id, .. } => {
                let words =
                    in_container(words, |of| names_container(of, id, name)).unwrap_or(words);
                names_notebook(words, notebook.as_deref(), kernel_id.as_deref()).is_some()
            }
            Subject::Process { pid, .. } => words == pid.to_string(),
        }
    }
}

/// Whether a container is meant: by its name, its id, or the beginning of its id.
pub fn names_container(words: &str, id: &str, name: &str) -> bool {
    (!name.is_empty() && words == name) || (words.len() >= ID_PREFIX && id.starts_with(words))
}

/// How well a name fits; better ones come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fit {
    /// The whole path or id.
    Whole,
    /// The end of the path, or the beginning of the id.
    Part,
}

/// Whether a notebook is meant: by its path, the last parts of it, or its kernel's id.
pub fn names_notebook(words: &str, notebook: Option<&str>, kernel_id: Option<&str>) -> Option<Fit> {
    if words.is_empty() {
        return None;
    }
    if notebook == Some(words) || kernel_id == Some(words) {
        return Some(Fit::Whole);
    }
    let end = |path: &str| path.strip_suffix(words).is_some_and(|rest| rest.ends_with('/'));
    let begin = |id: &str| words.len() >= KERNEL_PREFIX && id.starts_with(words);
    (notebook.is_some_and(end) || kernel_id.is_some_and(begin)).then_some(Fit::Part)
}

/// `lab:a.ipynb` is a notebook of `lab`. Without such a container the colon belongs to the path.
pub fn in_container(words: &str, is_container: impl Fn(&str) -> bool) -> Option<&str> {
    let (container, notebook) = words.split_once(':')?;
    is_container(container).then_some(notebook)
}

impl Order {
    pub fn is_over(&self, now: u64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Who gave it, when, and until when it holds.
    pub fn origin(&self) -> String {
        let until = self.until.map(|until| format!(" until {}", wall(until))).unwrap_or_default();
        format!("by {} at {}{until}", self.by, wall(self.at))
    }
}

/// `2026-11-22T10:00:00Z`. Times that no clock shows are cut to what can be written.
pub fn wall(seconds: u64) -> String {
    /// The end of the year 9999, where RFC 3339 ends.
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// All orders that are in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Orders {
    entries: Vec<Order>,
}

/// There are [`ORDERS_MAX`] already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl Orders {
    /// As read from the file: no more than there may be.
    pub fn new(mut entries: Vec<Order>) -> Orders {
        entries.truncate(ORDERS_MAX);
        Orders { entries }
    }

    pub fn entries(&self) -> &[Order] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn in_force(&self, what: What, now: u64) -> impl Iterator<Item = &Order> {
        self.entries.iter().filter(move |order| order.what == what && !order.is_over(now))
    }

    /// By which order nobody is to be ended in this container; of the host, with `None`.
    pub fn pause(&self, container: Option<&str>, now: u64) -> Option<&Order> {
        self.in_force(What::Pause, now).find(|order| match &order.of {
            Subject::All => true,
            Subject::Container { id, .. } => container == Some(id),
            Subject::Notebook { .. } | Subject::Process { .. } => false,
        })
    }

    /// By which order a whole container is protected.
    pub fn protection(&self, container: &str, now: u64) -> Option<&Order> {
        self.in_force(What::Protect, now)
            .find(|order| matches!(&order.of, Subject::Container { id, .. } if id == container))
    }

    /// By which order a workload is protected. Allocates nothing: it is asked while tasks stall.
    pub fn protects(&self, container: &str, whom: &Whom<'_>, now: u64) -> Option<&Order> {
        self.in_force(What::Protect, now).find(|order| order.of.covers(container, whom))
    }

    /// Takes an order in; an earlier one about the same is replaced.
    ///
    /// # Errors
    /// There is no room for another.
    pub fn give(&mut self, order: Order) -> Result<(), Full> {
        let same = |old: &&mut Order| old.what == order.what && old.of == order.of;
        if let Some(old) = self.entries.iter_mut().find(same) {
            *old = order;
            return Ok(());
        }
        if self.entries.len() >= ORDERS_MAX {
            return Err(Full);
        }
        self.entries.push(order);
        Ok(())
    }

    /// Takes back every order that `is_meant`; returns them.
    pub fn take_back(&mut self, mut is_meant: impl FnMut(&Order) -> bool) -> Vec<Order> {
        self.entries.extract_if(.., |order| is_meant(order)).collect()
    }
}

/// What the command says to the daemon: one line of JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    Pause {
        container: Option<String>,
        /// Seconds.
        #[serde(rename = "for")]
        lasts: Option<u64>,
    },
    Resume {
        container: Option<String>,
    },
    Protect {
        target: String,
        #[serde(rename = "for")]
        lasts: Option<u64>,
    },
    Unprotect {
        target: String,
    },
    List,
}

/// What the daemon says back: one line of JSON.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    pub ok: bool,
    /// What was done, or why not.
    pub said: String,
    /// What could have been meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
    /// What is in force, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
}

impl Reply {
    pub fn done(said: impl Into<String>) -> Reply {
        Reply { ok: true, said: said.into(), ..Reply::default() }
    }

    pub fn refused(said: impl Into<String>) -> Reply {
        Reply { said: said.into(), ..Reply::default() }
    }

    /// Nothing, or too much, is called so.
    pub fn which(said: impl Into<String>, candidates: Vec<String>) -> Reply {
        Reply { said: said.into(), candidates, ..Reply::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::world::World;

    const LAB: &str = "aaaaaaaaaaaa1111";

    fn container(id: &str) -> Subject {
        Subject::Container { id: id.into(), name: "lab".into() }
    }

    fn order(what: What, of: Subject) -> Order {
        Order { what, of, by: Origin::default(), at: 100, until: None }
    }

    fn notebook(path: Option<&str>, kernel: Option<&str>) -> Subject {
        Subject::Notebook {
            id: LAB.into(),
            name: "lab".into(),
            uid: 1000,
            notebook: path.map(Into::into),
            kernel_id: kernel.map(Into::into),
        }
    }

    #[test]
    fn a_pause_holds_for_all_or_for_one_and_until_its_time() {
        let mut orders = Orders::default();
        assert_eq!(orders.pause(None, 0), None);
        orders.give(order(What::Pause, container(LAB))).unwrap();
        orders.give(order(What::Protect, container("b"))).unwrap();
        for (of, paused) in [(Some(LAB), true), (Some("b"), false), (None, false)] {
            assert_eq!(orders.pause(of, 0).is_some(), paused, "{of:?}");
        }
        let all = Order { until: Some(200), ..order(What::Pause, Subject::All) };
        orders.give(all).unwrap();
        for (of, now, paused) in [(None, 199, true), (Some("b"), 199, true), (None, 200, false)] {
            assert_eq!(orders.pause(of, now).is_some(), paused, "{of:?} at {now}");
        }
        assert_eq!(orders.take_back(|o| o.is_over(200)).len(), 1);
        assert_eq!(orders.entries().len(), 2);
    }

    /// Every pair of an order and a notebook.
    #[test]
    fn a_protection_covers_what_it_names_and_nothing_else() {
        let mut world = World::new();
        world.kernel(30, "/home/a.ipynb").kernel(40, "/home/b.ipynb").kernel(50, "").build();
        let views: Vec<Whom<'_>> =
            world.forest.workloads().iter().map(|w| Whom::from(&View::of(w, &world.ids))).collect();
        let kernel = views[1].kernel_id.unwrap().to_owned();
        let other_user = match notebook(Some("/home/a.ipynb"), None) {
            Subject::Notebook { id, name, notebook, kernel_id, .. } => {
                Subject::Notebook { id, name, uid: 7, notebook, kernel_id }
            }
            _ => unreachable!(),
        };
        let process = |start| Subject::Process {
            id: LAB.into(),
            name: String::new(),
            pid: 50,
            start,
            process: String::new(),
        };
        let table = [
            (container(LAB), [true, true, true]),
            (container("other"), [false; 3]),
            (notebook(Some("/home/a.ipynb"), None), [true, false, false]),
            // The path says it: after a restart by hand the kernel has another id.
            (notebook(Some("/home/a.ipynb"), Some("gone")), [true, false, false]),
            (notebook(None, Some(&kernel)), [false, true, false]),
            (notebook(None, None), [false; 3]),
            (other_user, [false; 3]),
            (process(500), [false, false, true]),
            (process(501), [false; 3]),
        ];
        for (of, expected) in table {
            let orders = Orders::new(vec![order(What::Protect, of)]);
            let covered: Vec<bool> =
                views.iter().map(|view| orders.protects(LAB, view, 0).is_some()).collect();
            assert_eq!(covered, expected, "{orders:?}");
            assert!(views.iter().all(|view| orders.protects("other-id", view, 0).is_none()
                || orders.entries()[0].of.container() == Some("other-id")));
        }
        let paused = Orders::new(vec![order(What::Pause, container(LAB))]);
        assert_eq!(paused.protects(LAB, &views[0], 0), None, "a pause protects nobody");
    }

    #[test]
    fn a_workload_is_followed_by_its_path_else_its_kernel_else_its_process() {
        let mut world = World::new();
        world.kernel(30, "/home/a.ipynb").kernel_below(40, 7, None).build();
        let view = |at: usize| Whom::from(&View::of(&world.forest.workloads()[at], &world.ids));
        let of = |view: &Whom<'_>| Subject::of_notebook(LAB, "lab", "python3", view);
        assert_eq!(of(&view(0)).to_string(), "lab: /home/a.ipynb");
        assert!(of(&view(1)).to_string().starts_with("lab: kernel 00000000-"));
        let bare = Whom { kernel_id: None, notebook: None, ..view(1) };
        assert_eq!(of(&bare).to_string(), "lab: python3 (pid 40)");
        let endless = "x".repeat(crate::parse::jupyter::MAX_SESSION);
        let long = Whom { notebook: Some(&endless), ..bare };
        assert!(matches!(of(&long), Subject::Process { pid: 40, .. }));
        for subject in [of(&view(0)), of(&view(1)), of(&bare)] {
            let orders = Orders::new(vec![order(What::Protect, subject)]);
            let covers = |view| orders.protects(LAB, &view, 0).is_some();
            assert!(covers(view(0)) || covers(view(1)) || covers(bare));
        }
    }

    #[test]
    fn names_fit_whole_or_in_part() {
        let kernel = Some("9f3c5baa-0000-4000-8000-000000000000");
        let path = Some("/home/j/work/a.ipynb");
        for (words, fit) in [
            ("/home/j/work/a.ipynb", Some(Fit::Whole)),
            ("a.ipynb", Some(Fit::Part)),
            ("work/a.ipynb", Some(Fit::Part)),
            (".ipynb", None),
            ("ork/a.ipynb", None),
            ("b.ipynb", None),
            ("9f3c5baa-0000-4000-8000-000000000000", Some(Fit::Whole)),
            ("9f3c5baa", Some(Fit::Part)),
            ("9f3c", None),
            ("", None),
        ] {
            assert_eq!(names_notebook(words, path, kernel), fit, "{words:?}");
        }
        for (words, meant) in [("lab", true), ("aaaa", true), ("aaa", false), ("la", false)] {
            assert_eq!(names_container(words, LAB, "lab"), meant, "{words:?}");
        }
        assert!(!names_container("", LAB, ""));
    }

    #[test]
    fn an_order_is_taken_back_by_the_words_that_name_it() {
        let of = notebook(Some("/home/a.ipynb"), Some("9f3c5baa-1"));
        for (words, called) in [
            ("a.ipynb", true),
            ("/home/a.ipynb", true),
            ("lab:a.ipynb", true),
            ("aaaaaaaaaaaa:a.ipynb", true),
            ("9f3c5baa-1", true),
            ("other:a.ipynb", false),
            ("lab", false),
        ] {
            assert_eq!(of.is_called(words), called, "{words:?}");
        }
        assert!(container(LAB).is_called("lab") && !container(LAB).is_called("lab:a.ipynb"));
    }

    #[test]
    fn there_is_a_bound_and_the_same_order_counts_once() {
        let mut orders = Orders::default();
        for number in 0..ORDERS_MAX {
            orders.give(order(What::Pause, container(&number.to_string()))).unwrap();
        }
        assert_eq!(orders.give(order(What::Pause, Subject::All)), Err(Full));
        let again = Order { until: Some(7), ..order(What::Pause, container("3")) };
        orders.give(again.clone()).unwrap();
        assert!(orders.entries().contains(&again));
        assert_eq!(orders.entries().len(), ORDERS_MAX);
        let many = vec![order(What::Pause, Subject::All); ORDERS_MAX + 1];
        assert_eq!(Orders::new(many).entries().len(), ORDERS_MAX);
    }

    #[test]
    fn what_is_said_survives_the_wire_and_hostile_names_do_not_play() {
        let requests = [
            (r#"{"do":"list"}"#, Request::List),
            (r#"{"do":"pause"}"#, Request::Pause { container: None, lasts: None }),
            (
                r#"{"do":"protect","target":"a","for":7}"#,
                Request::Protect { target: "a".into(), lasts: Some(7) },
            ),
        ];
        for (line, request) in requests {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"do":"kill"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"do":"pause","containr":"x"}"#).is_err());
        let hostile = notebook(Some("a\u{1b}[2J\nb\u{202e}"), None);
        let shown = hostile.to_string();
        assert!(!shown.chars().any(char::is_control) && !shown.contains('\u{202e}'), "{shown}");
        assert_eq!(wall(u64::MAX), "9999-12-31T23:59:59Z");
        let order = Order {
            by: Origin { uid: 0, login: Some(1000) },
            until: Some(200),
            ..order(What::Pause, Subject::All)
        };
        assert_eq!(
            order.origin(),
            "by uid 0 (logged in as uid 1000) at 1970-01-01T00:01:40Z until 1970-01-01T00:03:20Z"
        );
    }
}
