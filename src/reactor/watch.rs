//! What the reactor keeps of each watched domain: its descriptors, its state machine, where its
//! tripwire stands and who else moved it. Arming and moving happen here, deciding does not.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;

use super::inside::{Awaited, Evidence};
use super::message::Rise;
use crate::config::{Protection, Settings};
use crate::facts::{Events, Field, Figures, Limit, Mode, Why};
use crate::host::StatFiles;
use crate::host::container::Container;
use crate::host::discover::Found;
use crate::host::group::{Group, Version};
use crate::ids::{EpisodeId, ProcKey, WatchId};
use crate::policy::activity::Activities;
use crate::policy::clean::{ENDS_MAX, ENDS_SPAN};
use crate::policy::episode::{Machine, Step, Traits, Wake};
use crate::policy::identity::Identities;
use crate::policy::rank::Baseline;
use crate::report::{ContainerCounts, Incident, Timings};
use crate::sys::psi::{self, Armed};
use crate::units::{Bytes, Moment};

/// How often a value that somebody overwrote is set again before the guard gives in.
pub const OVERWRITES: u32 = 3;
pub const OVERWRITES_IN: Duration = Duration::from_secs(3600);

/// The steps of a domain, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Steps {
    pub total: Bytes,
    pub warning: Bytes,
    /// Only where notebooks are told.
    pub last_call: Option<Bytes>,
    pub threshold: Bytes,
}

impl Steps {
    pub fn of(total: Bytes, settings: &Settings) -> Steps {
        Steps {
            total,
            warning: total.times(settings.warning).whole_pages(),
            last_call: None,
            threshold: total.times(settings.threshold).whole_pages(),
        }
    }
}

/// An episode that is open.
#[derive(Debug)]
pub struct Episode {
    pub id: EpisodeId,
    pub wake: Wake,
    pub at: Moment,
    pub wall: SystemTime,
    /// What could not be reclaimed when the signal went out.
    pub before: Bytes,
    pub timings: Timings,
    /// When the signals were out.
    pub signalled: Option<Moment>,
    /// The kill that this episode waits for.
    pub serial: Option<u32>,
    /// `oom_kill` of the domain when it opened.
    pub oom_kills: u64,
    /// The record as far as it is known: written when the tree is dead and measured.
    pub draft: Option<Box<Incident>>,
    /// The helper's answers for this episode.
    pub pss: Vec<(ProcKey, Field<Bytes>)>,
    /// PSI fired since it opened.
    pub stalled: bool,
    /// Under `idle-first`: what everybody had run when the signals were out.
    pub ticks: Vec<(ProcKey, u64)>,
}

/// The ends of `idle-first` in one shortage: each has an episode of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The episode that ended the first.
    pub first: EpisodeId,
    pub since: Moment,
    pub ends: u32,
}

impl Chain {
    /// With one more end; a new one, where the old one is over.
    pub fn with(chain: Option<Chain>, episode: EpisodeId, now: Moment) -> Chain {
        match chain.filter(|chain| chain.is_open(now)) {
            Some(chain) => Chain { ends: chain.ends + 1, ..chain },
            None => Chain { first: episode, since: now, ends: 1 },
        }
    }

    fn is_open(&self, now: Moment) -> bool {
        now.since(self.since) < ENDS_SPAN
    }

    /// Whether nobody more may end for now.
    pub fn is_spent(&self, now: Moment) -> bool {
        self.is_open(now) && self.ends >= ENDS_MAX
    }
}

/// What every domain has, container, slice or host.
pub struct Domain {
    pub machine: Machine,
    pub identities: Identities,
    /// They were read for a survey alone: given back when nobody asks any more.
    pub lent: bool,
    pub episode: Option<Box<Episode>>,
    /// Who ended under `idle-first`, and in which episode the first.
    pub chain: Option<Box<Chain>>,
    /// The look before: thrash is proved by what happened between two.
    pub last: Option<(Moment, Figures)>,
    /// What everybody held at the warning look: who has grown since is told by it.
    pub baseline: Option<Box<Baseline>>,
    /// Processes whose exit is waited for while the tripwire is lifted.
    pub followed: Vec<OwnedFd>,
    /// Descriptors of `stat`, kept from the warning look until the rise is over.
    pub stat_files: Option<Box<StatFiles>>,
    /// What the helper is to be asked for.
    pub wanted: Option<Box<Wanted>>,
    /// The helper is reading identities; it is not asked twice.
    pub reading: bool,
    /// Who was told, while usage is high.
    pub rise: Option<Box<Rise>>,
    /// Who is at work, where anybody goes by that.
    pub activities: Activities,
    /// What the notebook that held the most was running at the warning look.
    pub evidence: Option<Box<Evidence>>,
    /// The same while it is on its way.
    pub awaited: Option<Box<Awaited>>,
    /// When a survey asked what they do.
    pub asked_inside: Option<Moment>,
    /// A decision waits for what processes do.
    pub listening: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    Identities(Vec<ProcKey>),
    Pss(Vec<ProcKey>),
    Activity(Vec<ProcKey>),
}

impl Domain {
    pub fn new(traits: Traits, step: Step) -> Domain {
        Domain {
            machine: Machine::new(traits, step),
            identities: Identities::default(),
            lent: false,
            episode: None,
            chain: None,
            last: None,
            baseline: None,
            followed: Vec::new(),
            stat_files: None,
            wanted: None,
            reading: false,
            rise: None,
            activities: Activities::default(),
            evidence: None,
            awaited: None,
            asked_inside: None,
            listening: false,
        }
    }
}

impl Domain {
    pub fn episode_id(&self) -> Option<EpisodeId> {
        self.episode.as_ref().map(|episode| episode.id)
    }

    /// Whether the episode in which something was asked is still the one that is open.
    pub fn is_in(&self, episode: Option<EpisodeId>) -> bool {
        self.episode_id() == episode
    }

    /// Takes in what the helper found for an episode. `false`: that episode is over, and what was
    /// found then says nothing now.
    pub fn keep_pss(&mut self, of: Option<EpisodeId>, pss: Vec<(ProcKey, Field<Bytes>)>) -> bool {
        let Some(episode) = self.episode.as_mut().filter(|episode| Some(episode.id) == of) else {
            return false;
        };
        for (key, value) in pss {
            let value = match value {
                // Asked for and not had: not asked for again.
                Field::Unknown(Why::NotRead) => Field::Unknown(Why::TimedOut),
                other => other,
            };
            episode.pss.retain(|(known, _)| *known != key);
            episode.pss.push((key, value));
        }
        true
    }
}

/// What kind of group a watch is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Container,
    /// A parent slice with containers below it.
    Slice,
}

/// One watched cgroup.
pub struct Watch {
    pub id: WatchId,
    pub kind: Kind,
    pub domain: Domain,
    pub found: Found,
    /// When the guard first saw it.
    pub since: SystemTime,
    pub container: Container,
    pub settings: Rc<Settings>,
    pub protection: Rc<Protection>,
    pub group: Group,
    pub limit: Limit,
    pub steps: Steps,
    pub mode: Mode,
    /// Why the mode is not `high+psi`.
    pub mode_reason: Cow<'static, str>,
    /// Without a limit of its own: a member of the host's domain, stepping.
    pub unlimited: bool,
    /// Its limit is that of a watched slice above it, which is guarded in its place.
    pub covered: bool,
    /// Of a slice: slots of the containers whose processes it ranks. A container ranks its own.
    pub members: Vec<u32>,
    /// `memory.events` is registered with the loop.
    pub listening: bool,
    pub seen: Events,
    pub psi: Option<Armed>,
    pub v1_events: Vec<OwnedFd>,
    pub high: High,
    /// Something could not be read or armed, for a reason that may pass.
    pub lame: bool,
    pub counts: ContainerCounts,
    /// Its directory, as the inotify watches know it.
    pub inotify: [Option<nix::sys::inotify::WatchDescriptor>; 2],
}

/// Who put what into `memory.high`.
#[derive(Debug)]
pub struct High {
    /// What stood there before us.
    pub original: Limit,
    /// What we want there; `None`: not ours to write.
    pub ours: Option<Limit>,
    /// Values that the helper is still bringing to the file or to systemd: what turns up
    /// meanwhile is ours as well.
    pub in_flight: u32,
    /// Where systemd keeps the value.
    pub unit: Option<String>,
    /// The engine has finished starting the container. Before that nobody may set a property:
    /// systemd attaches the unit's device program anew, and runc, which is replacing it at that
    /// moment, fails (`BPF_PROG_ATTACH: no such file or directory`, seen with Docker 26.1).
    pub started: bool,
    /// How often the engine was asked whether it has.
    pub asked: u8,
    /// Given up: nobody can be agreed with.
    pub lost: bool,
    /// When the engine is asked again.
    pub ask_at: Moment,
    pub overwritten: u32,
    pub overwritten_since: Moment,
}

impl Watch {
    /// `memory.high` for a step of the tripwire.
    pub fn value_of(&self, step: Step) -> Limit {
        match step {
            Step::Warning => Limit::At(self.steps.warning),
            Step::LastCall => Limit::At(self.steps.last_call.unwrap_or(self.steps.threshold)),
            Step::Threshold => Limit::At(self.steps.threshold),
            Step::Lifted | Step::Absent => self.high.original,
        }
    }

    pub fn is_v1(&self) -> bool {
        self.group.version() == Version::V1
    }

    /// Where the helper leaves the newest value in the file, if it may still be on its way down to
    /// an older one.
    pub fn dir_for_helper(&self) -> Option<OwnedFd> {
        let busy = self.high.in_flight > 0;
        busy.then(|| self.group.memory_dir().try_clone_to_owned().ok()).flatten()
    }

    /// Arms the PSI trigger. The error says what the kernel said.
    pub fn arm_psi(&mut self) -> io::Result<()> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        let open = || self.group.open_file("memory.pressure", flags);
        self.psi = Some(psi::arm(open, self.settings.trigger)?);
        Ok(())
    }

    /// Whether its id is a tenant's word: a user's in his own slice, or that of a container around
    /// it. It may be somebody else's id.
    pub fn is_tenants(&self) -> bool {
        self.found.outer.is_some() || self.found.user.is_some_and(|uid| uid != 0)
    }

    pub fn name(&self) -> &str {
        &self.container.name
    }

    pub fn dir(&self) -> PathBuf {
        self.group.dir()
    }
}

/// The watch with this id, unless its slot has another tenant by now.
pub fn of(id: WatchId, watches: &[Option<Box<Watch>>]) -> Option<&Watch> {
    watches.get(id.slot as usize)?.as_deref().filter(|watch| watch.id == id)
}

pub fn of_mut(id: WatchId, watches: &mut [Option<Box<Watch>>]) -> Option<&mut Watch> {
    watches.get_mut(id.slot as usize)?.as_deref_mut().filter(|watch| watch.id == id)
}

/// The systemd unit that owns a cgroup's `memory.high`: a scope or slice of the system manager.
/// Groups of a user's manager, and groups below a unit, are written as files.
pub fn unit_of(path: &std::path::Path, has_systemd: bool) -> Option<String> {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    let user_manager = parts.any(|part| part.starts_with("user@"));
    let name = path.file_name()?.to_str()?;
    let is_unit = name.ends_with(".scope") || name.ends_with(".slice");
    // All the way up there are only slices, else systemd does not know the group.
    let above = path.parent()?.iter().all(|part| part.to_string_lossy().ends_with(".slice"));
    (has_systemd && is_unit && above && !user_manager).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn episode(number: u8) -> Episode {
        Episode {
            id: EpisodeId([number; 16]),
            wake: Wake::High,
            at: Moment(0),
            wall: SystemTime::UNIX_EPOCH,
            before: Bytes::ZERO,
            timings: Timings::default(),
            signalled: None,
            serial: None,
            oom_kills: 0,
            draft: None,
            pss: Vec::new(),
            stalled: false,
            ticks: Vec::new(),
        }
    }

    #[test]
    fn so_many_end_within_a_minute_and_no_more() {
        let at = |second: u64| Moment(second * 1_000_000);
        let mut chain = None;
        for number in 1..=ENDS_MAX {
            assert!(chain.is_none_or(|chain: Chain| !chain.is_spent(at(5))));
            chain = Some(Chain::with(chain, EpisodeId([number as u8; 16]), at(5)));
        }
        let full = chain.unwrap();
        assert_eq!((full.first, full.ends), (EpisodeId([1; 16]), ENDS_MAX));
        assert!(full.is_spent(at(5)) && full.is_spent(at(64)) && !full.is_spent(at(65)));
        let next = Chain::with(chain, EpisodeId([99; 16]), at(65));
        assert_eq!((next.first, next.ends), (EpisodeId([99; 16]), 1));
    }

    #[test]
    fn an_answer_of_an_earlier_episode_says_nothing_in_this_one() {
        let mut domain = Domain::new(Traits::of(&Settings::default()), Step::Absent);
        let key = |pid| ProcKey { pid, start: 1 };
        let found = |pid, bytes| vec![(key(pid), Field::Known(Bytes(bytes)))];
        assert!(!domain.keep_pss(Some(EpisodeId([1; 16])), found(7, 5)));
        domain.episode = Some(Box::new(episode(1)));
        let first = domain.episode_id();
        domain.episode = Some(Box::new(episode(2)));
        assert!(!domain.is_in(first) && !domain.keep_pss(first, found(7, 5)));
        let second = domain.episode_id();
        assert!(domain.is_in(second) && domain.keep_pss(second, found(7, 6)));
        assert!(domain.keep_pss(second, vec![(key(8), Field::Unknown(Why::NotRead))]));
        let kept = &domain.episode.as_ref().unwrap().pss;
        let not_again = Field::Unknown(Why::TimedOut);
        assert_eq!(kept[..], [(key(7), Field::Known(Bytes(6))), (key(8), not_again)]);
    }

    #[test]
    fn only_scopes_and_slices_of_the_system_manager_are_set_as_properties() {
        let id = "a".repeat(64);
        for (path, unit) in [
            (format!("system.slice/docker-{id}.scope"), Some(format!("docker-{id}.scope"))),
            ("notebooks.slice".to_owned(), Some("notebooks.slice".to_owned())),
            (format!("docker/{id}"), None),
            (format!("system.slice/docker-{id}.scope/docker/{id}"), None),
            (
                format!(
                    "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"
                ),
                None,
            ),
        ] {
            assert_eq!(unit_of(Path::new(&path), true), unit, "{path}");
            assert_eq!(unit_of(Path::new(&path), false), None);
        }
    }
}
