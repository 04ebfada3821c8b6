//! Carrying out what people order: pausing, protecting, and taking that back. Names are resolved
//! against what is watched; who is a notebook is read by the helper, because a process that is
//! throttled keeps its reader waiting. What is in force outlives the daemon (`act::orders`).

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use ::log::{error, info};

use super::Reactor;
use super::counters::Trouble;
use super::decision::Scratch;
use super::helper::{Asker, Question};
use super::watch::{Kind, Watch};
use crate::act;
use crate::ids::{ProcKey, WatchId};
use crate::parse::escape::escape;
use crate::policy::decide::View;
use crate::policy::episode::{Input, Wake};
use crate::policy::identity::{Identities, Wanted};
use crate::policy::orders::{
    Fit, LONGEST, Order, Orders, Origin, Reply, Request, Subject, What, Whom, container_name,
    in_container, names_container, names_notebook,
};
use crate::roots::Roots;

/// Names that an answer lists.
const CANDIDATES: usize = 16;
/// Processes of one container whose identity is asked for by a command.
const READ_MAX: usize = 4096;
/// A process's own name, escaped.
const NAME_MAX: usize = 64;

/// Seconds since 1970: orders hold by the clock on the wall.
pub(super) fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A command that waits for the helper.
pub(super) struct Pending {
    aim: Aim,
    target: String,
    lasts: Option<u64>,
    scope: Vec<WatchId>,
    /// Domains of which nobody was known before: their identities are dropped again afterwards.
    fresh: Vec<WatchId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aim {
    Protect,
    Unprotect,
}

/// A notebook that could be meant.
struct Meant {
    fit: Fit,
    subject: Subject,
    whom: String,
    pid: u32,
    /// The orders that protect it.
    protected: Option<Order>,
}

/// What an earlier daemon kept. A file that cannot be understood is put aside.
pub(super) fn kept(path: &std::path::Path, boot: &str) -> Orders {
    act::orders::read(path, boot).unwrap_or_else(|why| {
        error!("{why}; pauses and protections of before are not in force");
        // The next order would replace it.
        let _ = std::fs::rename(path, path.with_extension("broken"));
        Orders::default()
    })
}

/// Which boot this is: start times of processes count from it.
pub(super) fn boot(roots: &Roots) -> String {
    let text = std::fs::read_to_string(roots.path("/proc/sys/kernel/random/boot_id"));
    text.unwrap_or_default().trim().to_owned()
}

impl Reactor {
    /// At the start: orders about what is gone are dropped, the others told.
    pub(super) fn take_over_orders(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let there: BTreeSet<String> =
            self.containers().map(|watch| watch.found.id.clone()).collect();
        let gone = |order: &Order| order.of.container().is_some_and(|id| !there.contains(id));
        let gone = self.orders.take_back(gone);
        self.forget_over(gone);
        for order in self.orders.entries() {
            info!("still in force: {}", told(order));
        }
    }

    /// A container is gone, and what was ordered about it with it.
    pub(super) fn forget_orders_of(&mut self, container: &str) {
        // An id is the name of a directory: a user may make one of the same in his own slice, and
        // take it away again.
        if self.containers().any(|watch| watch.found.id == container) {
            return;
        }
        let about = |order: &Order| order.of.container() == Some(container);
        if self.orders.entries().iter().any(about) {
            let gone = self.orders.take_back(about);
            self.forget_over(gone);
        }
    }

    /// Drops what has run out and whoever is gone, and writes down what is left.
    fn forget_over(&mut self, mut dropped: Vec<Order>) {
        let now = wall();
        let Reactor { orders, roots, buffer, .. } = self;
        dropped.extend(orders.take_back(|order| {
            order.is_over(now)
                || matches!(order.of, Subject::Process { pid, start, .. }
                    if crate::host::procs::read_stat(roots, pid, buffer)
                        .map_or(true, |stat| stat.start != start))
        }));
        for order in &dropped {
            info!("no longer in force: {}", told(order));
        }
        if !dropped.is_empty() {
            let _ = self.save_orders();
        }
    }

    fn save_orders(&mut self) -> Result<(), String> {
        act::orders::write(&self.orders_path, &self.boot, &self.orders).map_err(|why| {
            let text = format!("{}: {why}", self.orders_path.display());
            error!("{text}; orders are in force, but would not outlive this daemon");
            self.count_trouble(Trouble::StateNotSaved);
            text
        })
    }

    fn containers(&self) -> impl Iterator<Item = &Watch> {
        let all = self.watches.iter().flatten().map(Box::as_ref);
        all.filter(|watch| watch.kind == Kind::Container)
    }

    /// `Err` is the answer that can be given at once.
    pub(super) fn carry_out_order(
        &mut self,
        request: Request,
        by: Origin,
    ) -> Result<Pending, Reply> {
        self.forget_over(Vec::new());
        match request {
            Request::List => {
                let orders = self.orders.entries().to_vec();
                Err(Reply { orders, ..Reply::done("") })
            }
            Request::Pause { container, lasts } => {
                let of = match container {
                    None => Subject::All,
                    Some(words) => self.subject_called(&words)?,
                };
                Err(self.give(What::Pause, of, by, lasts))
            }
            Request::Resume { container } => Err(self.resume(container.as_deref(), by)?),
            Request::Protect { target, lasts } => match self.the_container(&target) {
                Ok(id) => Err(self.give(What::Protect, self.subject_of(id), by, lasts)),
                Err(Some(reply)) => Err(reply),
                Err(None) => self.ask_who(Aim::Protect, target, lasts),
            },
            Request::Unprotect { target } => self.unprotect(target, by),
        }
    }

    fn subject_of(&self, id: WatchId) -> Subject {
        self.watch(id).map_or(Subject::All, |watch| Subject::Container {
            id: watch.found.id.clone(),
            name: watch.container.name.clone(),
        })
    }

    fn subject_called(&self, words: &str) -> Result<Subject, Reply> {
        match self.the_container(words) {
            Ok(id) => Ok(self.subject_of(id)),
            Err(Some(reply)) => Err(reply),
            Err(None) => {
                let names = self.containers().map(shown_container).take(CANDIDATES).collect();
                Err(Reply::which(
                    format!("no watched container is called {}", quoted(words)),
                    names,
                ))
            }
        }
    }

    /// The one container that is called so. `Err(None)`: none is.
    fn the_container(&self, words: &str) -> Result<WatchId, Option<Reply>> {
        let exact = |watch: &&Watch| watch.container.name == words || watch.found.id == words;
        let called =
            |watch: &&Watch| names_container(words, &watch.found.id, &watch.container.name);
        let mut found: Vec<&Watch> = self.containers().filter(exact).collect();
        if found.is_empty() {
            found = self.containers().filter(called).collect();
        }
        match found[..] {
            [] => Err(None),
            [watch] => Ok(watch.id),
            _ => {
                let names = found.into_iter().map(shown_container).take(CANDIDATES).collect();
                Err(Some(Reply::which(
                    format!("{} is more than one container", quoted(words)),
                    names,
                )))
            }
        }
    }

    fn give(&mut self, what: What, of: Subject, by: Origin, lasts: Option<u64>) -> Reply {
        let at = wall();
        let until = lasts.map(|seconds| at.saturating_add(seconds.min(LONGEST.as_secs())));
        let order = Order { what, of, by, at, until };
        let said = told(&order);
        if self.orders.give(order).is_err() {
            return Reply::refused("too many orders are in force; `nbguard protect --list`");
        }
        info!("ordered: {said}");
        self.saved(said)
    }

    fn saved(&mut self, said: String) -> Reply {
        match self.save_orders() {
            Ok(()) => Reply::done(said),
            Err(why) => Reply::done(format!("{said} (only until the daemon ends: {why})")),
        }
    }

    fn resume(&mut self, container: Option<&str>, by: Origin) -> Result<Reply, Reply> {
        let of = container.map(|words| self.subject_called(words)).transpose()?;
        let meant = |order: &Order| {
            order.what == What::Pause && of.as_ref().is_none_or(|of| order.of == *of)
        };
        let lifted = self.orders.take_back(meant);
        let still = self.orders.pause(of.as_ref().and_then(Subject::container), wall()).is_some();
        if lifted.is_empty() {
            return Ok(match (&of, still) {
                (None, _) => Reply::done("nothing is paused"),
                (Some(of), true) => Reply::refused(format!(
                    "{of} is not paused for itself, the whole guard is: `nbguard resume`"
                )),
                (Some(of), false) => Reply::done(format!("{of} is not paused")),
            });
        }
        let names: Vec<String> = lifted.iter().map(|order| order.of.to_string()).collect();
        let said = format!("guarded again: {}", names.join(", "));
        info!("{said}, by {by}");
        let but = if still { "; but the whole guard is paused: `nbguard resume`" } else { "" };
        let reply = self.saved(said + but);
        self.look_at_what_was_lifted(&lifted);
        Ok(reply)
    }

    fn unprotect(&mut self, target: String, by: Origin) -> Result<Pending, Reply> {
        let called = |order: &&Order| order.what == What::Protect && order.of.is_called(&target);
        let found: Vec<Order> = self.orders.entries().iter().filter(called).cloned().collect();
        match &found[..] {
            [] => self.ask_who(Aim::Unprotect, target, None),
            [order] => {
                let of = order.of.clone();
                Err(self.take_protection(&of, by))
            }
            _ => {
                let names = found.iter().map(|order| order.of.to_string()).take(CANDIDATES);
                let text = format!("{} is more than one that is protected", quoted(&target));
                Err(Reply::which(text, names.collect()))
            }
        }
    }

    fn take_protection(&mut self, of: &Subject, by: Origin) -> Reply {
        let meant = |order: &Order| order.what == What::Protect && order.of == *of;
        let lifted = self.orders.take_back(meant);
        let said = format!("no longer protected: {of}");
        info!("{said}, by {by}");
        let reply = self.saved(said);
        self.look_at_what_was_lifted(&lifted);
        reply
    }

    /// What was forbidden may be due now: one look at each container that it was about.
    fn look_at_what_was_lifted(&mut self, lifted: &[Order]) {
        let all = lifted.iter().any(|order| order.of == Subject::All);
        let about = |watch: &Watch| {
            all || watch.kind == Kind::Slice
                || lifted.iter().any(|order| order.of.container() == Some(&watch.found.id))
        };
        let ids: Vec<WatchId> =
            self.watches.iter().flatten().filter(|w| about(w)).map(|w| w.id).collect();
        for id in ids {
            self.drive(Some(id), Input::Wake(Wake::Asked));
        }
        self.drive(None, Input::Wake(Wake::Asked));
    }

    /// Which containers a target may be in, and who is in them. The helper reads what is not known.
    fn ask_who(&mut self, aim: Aim, target: String, lasts: Option<u64>) -> Result<Pending, Reply> {
        let scope: Vec<WatchId> = match target.parse::<u32>() {
            Ok(pid) => vec![self.home_of(pid).ok_or_else(|| {
                Reply::refused(format!("process {pid} is in no watched container"))
            })?],
            Err(_) => self.containers().map(|watch| watch.id).collect(),
        };
        let mut pending = Pending { aim, target, lasts, scope, fresh: Vec::new() };
        for id in pending.scope.clone() {
            self.read_who(id, &mut pending.fresh);
        }
        Ok(pending)
    }

    fn home_of(&mut self, pid: u32) -> Option<WatchId> {
        let Reactor { watches, buffer, .. } = self;
        let mut pids = Vec::new();
        let of_containers = watches.iter().flatten().filter(|watch| watch.kind == Kind::Container);
        for watch in of_containers {
            pids.clear();
            let listed = watch.group.pids(0, &mut pids, buffer);
            if listed.is_ok() && pids.iter().any(|(there, _)| *there == pid) {
                return Some(watch.id);
            }
        }
        None
    }

    fn read_who(&mut self, id: WatchId, fresh: &mut Vec<WatchId>) {
        self.scan_processes(Some(id));
        let Reactor { watches, scratch, .. } = self;
        let watch = watches.get_mut(id.slot as usize).and_then(Option::as_mut);
        let Some(domain) = watch.map(|watch| &mut watch.domain) else { return };
        let wanted = scratch.procs.iter().filter(|p| domain.identities.wanted(p) != Wanted::No);
        let keys: Vec<ProcKey> = wanted.map(|proc| proc.key).take(READ_MAX).collect();
        if domain.reading || keys.is_empty() {
            return;
        }
        if domain.identities.is_empty() {
            fresh.push(id);
        }
        domain.reading = true;
        self.helper.ask(Question::Identify { asker: Some(id), episode: None, keys });
    }

    /// A command whose question the helper may have answered. `late`: what is known must do.
    pub(super) fn go_on(
        &mut self,
        pending: Pending,
        by: Origin,
        late: bool,
    ) -> Result<Pending, Reply> {
        let reads = |id: &WatchId| self.watch(*id).is_some_and(|watch| watch.domain.reading);
        let unread = pending.scope.iter().any(reads);
        if unread && !late {
            return Ok(pending);
        }
        let mut found = match pending.target.parse::<u32>() {
            Ok(pid) => self.notebook_of(pid, &pending.scope)?,
            Err(_) => self.notebooks_called(&pending),
        };
        self.forget_fresh(&pending.fresh);
        let best = found.iter().map(|meant| meant.fit).min();
        found.retain(|meant| Some(meant.fit) == best);
        let words = quoted(&pending.target);
        match (&found[..], pending.aim) {
            ([], _) => {
                let unread = if unread { ", as far as could be read in time" } else { "" };
                Err(Reply::refused(format!(
                    "nothing that is watched is called {words}{unread}; `nbguard ps` lists \
                     containers, notebooks and pids"
                )))
            }
            ([one], Aim::Protect) => {
                Err(self.give(What::Protect, one.subject.clone(), by, pending.lasts))
            }
            ([one], Aim::Unprotect) => Err(match &one.protected {
                Some(Order { of, .. }) if *of == one.subject => self.take_protection(of, by),
                Some(order) => Reply::refused(format!(
                    "{} is protected with its container: `nbguard unprotect {}`",
                    one.whom, order.of
                )),
                None => Reply::refused(format!("{} is not protected by command", one.whom)),
            }),
            (many, _) => {
                let names = many.iter().map(|one| format!("{} {}", one.pid, one.whom));
                let names = names.take(CANDIDATES).collect();
                Err(Reply::which(format!("{words} is more than one; say which by its pid"), names))
            }
        }
    }

    /// The notebook that a process is part of.
    fn notebook_of(&mut self, pid: u32, scope: &[WatchId]) -> Result<Vec<Meant>, Reply> {
        for id in scope {
            self.see(*id);
            let Some(watch) = self.watch(*id) else { continue };
            let Scratch { procs, forest, .. } = &self.scratch;
            let Some(index) = procs.iter().position(|proc| proc.key.pid == pid) else { continue };
            let owner = u32::try_from(index).ok().and_then(|index| forest.owner_of(index));
            let Some(owner) = owner else {
                let name = escape(procs[index].comm.bytes(), NAME_MAX);
                return Err(Reply::refused(format!(
                    "process {pid} ({name}) is in {} and part of no notebook",
                    shown_container(watch)
                )));
            };
            return Ok(vec![self.meant(watch, owner, Fit::Whole)]);
        }
        Ok(Vec::new())
    }

    fn notebooks_called(&mut self, pending: &Pending) -> Vec<Meant> {
        let mut found = Vec::new();
        for id in &pending.scope {
            self.see(*id);
            let Some(watch) = self.watch(*id) else { continue };
            let named = |of: &str| names_container(of, &watch.found.id, &watch.container.name);
            let words = &pending.target;
            let inside = in_container(words, named);
            for (number, workload) in self.scratch.forest.workloads().iter().enumerate() {
                let View { notebook, kernel_id, .. } = View::of(workload, &watch.domain.identities);
                let fit = names_notebook(words, notebook, kernel_id);
                let fit = fit.or_else(|| names_notebook(inside?, notebook, kernel_id));
                if let Some(fit) = fit {
                    found.push(self.meant(watch, number, fit));
                }
            }
        }
        found
    }

    fn see(&mut self, id: WatchId) {
        self.scratch.figures = None;
        self.scan(Some(id));
    }

    fn meant(&self, watch: &Watch, number: usize, fit: Fit) -> Meant {
        let Scratch { procs, forest, .. } = &self.scratch;
        let workload = &forest.workloads()[number];
        let whom = Whom::from(&View::of(workload, &watch.domain.identities));
        let process = escape(procs[workload.root_index as usize].comm.bytes(), NAME_MAX);
        let (id, name) = (&watch.found.id, &watch.container.name);
        let subject = Subject::of_notebook(id, name, &process, &whom);
        let text = subject.to_string();
        let protected = self.orders.protects(id, &whom, wall()).cloned();
        Meant { fit, subject, whom: text, pid: whom.root.pid, protected }
    }

    /// Identities are kept of containers in which something happened.
    fn forget_fresh(&mut self, fresh: &[WatchId]) {
        for id in fresh {
            let Some(domain) = self.watch_mut(*id).map(|watch| &mut watch.domain) else { continue };
            if domain.episode.is_none() && !domain.reading {
                domain.identities = Identities::default();
            }
        }
    }

    /// What was forbidden since the first signal of this kill, in words.
    pub(super) fn forbidden_since(&self, who: Asker, serial: u32) -> Option<String> {
        if self.orders.is_empty() {
            return None;
        }
        let ending = self.endings.get(serial)?;
        let home = ending.home().or(who).and_then(|id| self.watch(id));
        let container = home.map(|watch| watch.found.id.as_str());
        if let Some(order) = self.orders.pause(container, wall()) {
            return Some(format!("paused {}", order.origin()));
        }
        let identities = &self.domain(who)?.identities;
        let first = ending.job.members().first()?.key;
        let root = identities.owner(first).unwrap_or(first);
        let whom = Whom {
            root,
            uid: identities.get(root)?.uid,
            notebook: identities.notebook(root),
            kernel_id: identities.kernel_id(root),
        };
        let order = self.orders.protects(container?, &whom, wall())?;
        Some(format!("protected {}", order.origin()))
    }
}

/// `paused: lab, by uid 0 at …`
fn told(order: &Order) -> String {
    let what = match order.what {
        What::Pause => "paused",
        What::Protect => "protected",
    };
    format!("{what}: {}, {}", order.of, order.origin())
}

fn shown_container(watch: &Watch) -> String {
    let (id, name) = (&watch.found.id, &watch.container.name);
    let short = escape(id.get(..12).unwrap_or(id).as_bytes(), NAME_MAX);
    match name.is_empty() {
        true => short,
        false => format!("{} ({short})", container_name(id, name)),
    }
}

fn quoted(words: &str) -> String {
    format!("\"{}\"", escape(words.as_bytes(), 200))
}
