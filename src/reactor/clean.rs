//! What `idle-first` asks of the reactor beside figures and processes: whose deny list names whom,
//! what everybody does, who is to be asked to finish, and how many have ended. Under another
//! policy nothing of this is looked at.

use super::decision::Scratch;
use super::helper::Asker;
use super::watch::{Chain, Watch};
use super::{Reactor, domain_of, domain_of_mut};
use crate::config::{Policy, Settings};
use crate::facts::Proc;
use crate::host::procs;
use crate::ids::{EpisodeId, ProcKey};
use crate::policy::clean;
use crate::policy::decide::{By, Gate, Kill, Measure, Scale, Verdict};
use crate::policy::identity::{Identities, PhpRole};
use crate::policy::rank::{Purpose, status_budget};
use crate::policy::telling::Told;
use crate::report::{Application, Cleaning};
use crate::units::Bytes;

/// Processes whose memory is read for the applications' shares, whatever the order needs: half of
/// a container's few hundred in 5 ms (18 ms per 1,000, KERNEL.md).
const STATUS_ROOM: usize = 256;
/// Fewer clock ticks (of 10 ms) than this make no share.
const TICKS_ENOUGH: u64 = 10;
/// Nobody is chosen here.
const ANY: Verdict = Verdict::NeedPss;

/// The settings of the container that has this number in the scan.
pub(super) fn settings_at<'a>(
    number: u16,
    slots: &[u32],
    watches: &'a [Option<Box<Watch>>],
) -> Option<&'a Settings> {
    let slot = *slots.get(usize::from(number))?;
    watches.get(slot as usize)?.as_ref().map(|watch| &*watch.settings)
}

/// The signal by which this one is asked to finish its request first: a worker of php-fpm does on
/// SIGQUIT, a child of an Apache's prefork on SIGUSR1, and what started it starts another in its
/// place. (One that asks the time meanwhile is woken early, as by any signal: `usleep`.)
pub(super) fn asks_by(kill: &Kill, ids: &Identities) -> Option<i32> {
    let php = ids.get(kill.root).and_then(|identity| identity.claim.php());
    match php.filter(|_| kill.why.is_cleaners())?.role {
        PhpRole::Worker => Some(libc::SIGQUIT),
        PhpRole::Apache => Some(libc::SIGUSR1),
        PhpRole::Master | PhpRole::Script => None,
    }
}

impl Reactor {
    fn cleans(&self, who: Asker) -> bool {
        self.settings(who).is_some_and(|settings| settings.policy == Policy::IdleFirst)
    }

    /// After a scan was grouped: who is on a deny list, and what everybody does.
    pub(super) fn look_inside(&mut self, who: Asker) {
        if !self.cleans(who) {
            return;
        }
        let now = self.now();
        let Reactor { watches, host, scratch, roots, buffer, .. } = self;
        let Some(domain) = domain_of(who, watches, host) else { return };
        let slots = &scratch.slots;
        let of = |proc: &Proc| settings_at(proc.container, slots, watches);
        let is_denied = |proc: &Proc| of(proc).is_some_and(|s| clean::is_denied(proc, s));
        let is_kept = |proc: &Proc| of(proc).is_some_and(|s| clean::is_kept(proc, s));
        scratch.forest.deny(&scratch.procs, &domain.identities, is_denied, is_kept);
        if let Some(domain) = domain_of_mut(who, watches, host) {
            let activities = &mut domain.activities;
            activities.look_again(now, &scratch.procs);
            for proc in &scratch.procs {
                if activities.hangs_on_switches(proc.key) {
                    let switches = procs::read_switches(roots, proc.key.pid, buffer);
                    activities.switched(proc.key, now, switches);
                }
            }
        }
    }

    /// How many `status` files an episode may read.
    pub(super) fn status_budget(&self, who: Asker) -> usize {
        let all = self.scratch.procs.len();
        let budget = status_budget(all);
        if self.cleans(who) { budget.max(all.min(STATUS_ROOM)) } else { budget }
    }

    /// By which signal the one who was chosen gets to finish, if it does.
    pub(super) fn asked_by(&self, who: Asker) -> Option<i32> {
        let Some(Verdict::Kill(kill)) = &self.scratch.verdict else { return None };
        asks_by(kill, &self.domain(who)?.identities)
    }

    /// The signals are out: one more of those that are not essential.
    pub(super) fn note_cleaned(&mut self, who: Asker, episode: EpisodeId) {
        let Some(Verdict::Kill(kill)) = self.scratch.verdict else { return };
        if !kill.why.is_cleaners() {
            return;
        }
        let now = self.now();
        let Some(domain) = self.domain_mut(who) else { return };
        let chain = domain.chain.as_deref().copied();
        domain.chain = Some(Box::new(Chain::with(chain, episode, now)));
    }

    /// Of which shortage this end is a part.
    pub(super) fn number_end(&self, who: Asker, cleaning: &mut Cleaning) {
        if let Some(chain) = self.domain(who).and_then(|domain| domain.chain.as_deref()) {
            cleaning.first = Some(chain.first.to_string());
            cleaning.number = chain.ends;
        }
    }

    /// What everybody had run when the signals were out, for the share afterwards.
    pub(super) fn ticks_now(&self) -> Vec<(ProcKey, u64)> {
        let mut ticks: Vec<_> = self.scratch.procs.iter().map(|p| (p.key, p.ticks)).collect();
        ticks.sort_unstable_by_key(|(key, _)| *key);
        ticks
    }

    /// How much the important application has, now that somebody has ended: memory as it is, CPU
    /// since the signals.
    pub(super) fn share_after(
        &mut self,
        who: Asker,
        before: &Application,
        ticks: &[(ProcKey, u64)],
    ) -> Option<Application> {
        let total = match who {
            Some(id) => self.watch(id)?.steps.total,
            None => self.host.total(),
        };
        let scale = Scale { total, swap: Bytes::ZERO };
        let gate = Gate::Passed { by: By::Usage, measure: Measure::default() };
        self.scan(who);
        let budget = self.status_budget(who);
        self.order(who, Purpose::Each, budget, true);
        self.decide(who, true, &gate, scale)?;
        let Scratch { procs, forest, ranking, screen, .. } = &self.scratch;
        let settings = self.settings(who)?;
        let ids = &self.domain(who)?.identities;
        let told = Told { procs, ids, forest, screen, ranking, verdict: &ANY, settings: &|_| None };
        let workloads = forest.workloads();
        let app = screen.cleaning().apps(workloads).find(|app| told.name(app) == before.name)?;
        let of_app = |number: usize| {
            let first = &workloads[app.first as usize];
            let workload = &workloads[number];
            (workload.container, workload.uid) == (first.container, first.uid)
                && ids.application(workload.root) == ids.application(first.root)
        };
        let (mut part, mut whole) = (0, 0);
        for (index, proc) in procs.iter().enumerate() {
            let Ok(at) = ticks.binary_search_by_key(&proc.key, |(key, _)| *key) else { continue };
            let ran = proc.ticks.saturating_sub(ticks[at].1);
            whole += ran;
            part += if forest.owner_of(index as u32).is_some_and(of_app) { ran } else { 0 };
        }
        let cpu = (whole >= TICKS_ENOUGH).then(|| part as f64 / whole as f64);
        let cpu_share = cpu.map(|share| (share * 10_000.0).round() / 10_000.0);
        Some(Application { cpu_share, ..told.application(app, settings) })
    }
}
