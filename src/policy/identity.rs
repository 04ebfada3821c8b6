//! What a process is, by its own argv and environment, and the memory of it: read once, kept by
//! `(pid, start)`. Everything here was written by the process itself, so it is a claim: it may
//! place a process among those of its own uid and never beyond. Pure: no files, no clock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::facts::{Comm, Proc};
use crate::ids::ProcKey;

/// What argv and environ of one process said, when they were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub key: ProcKey,
    /// The real uid, as the guard's user namespace sees it.
    pub uid: u32,
    /// The pid in the innermost pid namespace: the last column of `NSpid`. The notebook server
    /// knows its kernels by these numbers.
    pub nspid: u32,
    /// The process's name at the reading: another name later means that it called exec since.
    pub comm: Comm,
    /// `false` while the process was so young that it may still have stood between fork and
    /// exec, with its parent's argv.
    pub settled: bool,
    pub claim: Claim,
    pub marks: Option<Arc<Marks>>,
}

/// What a process says it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    Kernel(Box<Kernel>),
    /// A notebook server, by its argv.
    Server,
    /// Gives a tree's shared memory back when the tree is gone: `multiprocessing`'s and loky's
    /// resource tracker, torch's shared-memory manager.
    Tracker,
    /// Runs PHP.
    Php(Box<Php>),
    Plain,
}

/// A process that runs PHP, as its own title or argv says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Php {
    pub role: PhpRole,
    /// `pool:www`, `script:/srv/job.php`, `apache`; of a master nothing. Untrusted: it groups
    /// processes of one uid, and is escaped where shown.
    pub application: Box<str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PhpRole {
    /// php-fpm's master: it serves no request and is never ended. Its claim counts where it runs
    /// under uid 0 or has pool workers, and it is in nobody's tree.
    Master,
    /// A worker of a pool: only below a master.
    Worker,
    /// Apache with PHP in it: the topmost is like a master, those below it like workers.
    Apache,
    /// The command line's PHP with its script.
    Script,
}

impl PhpRole {
    /// What stands above a worker.
    pub fn master(self) -> Option<PhpRole> {
        match self {
            PhpRole::Worker => Some(PhpRole::Master),
            PhpRole::Apache => Some(PhpRole::Apache),
            PhpRole::Master | PhpRole::Script => None,
        }
    }
}

impl Identity {
    pub fn is_tracker(&self) -> bool {
        self.claim == Claim::Tracker
    }
}

impl Claim {
    pub fn kernel(&self) -> Option<&Kernel> {
        match self {
            Claim::Kernel(kernel) => Some(kernel),
            _ => None,
        }
    }

    pub fn php(&self) -> Option<&Php> {
        match self {
            Claim::Php(php) => Some(php),
            _ => None,
        }
    }

    fn php_role(&self) -> Option<PhpRole> {
        self.php().map(|php| php.role)
    }

    /// Whether what a settled process said once outlives what it says now: one `setproctitle`
    /// must neither take a notebook out of the ranking nor make a script its own master.
    fn outlives(&self, now: &Claim) -> bool {
        match self {
            Claim::Kernel(_) => now.kernel().is_none(),
            Claim::Php(php) if php.role != PhpRole::Master => {
                !matches!(now, Claim::Kernel(_) | Claim::Php(_))
                    || now.php_role() == Some(PhpRole::Master)
            }
            _ => false,
        }
    }
}

/// A notebook kernel: a process that was given a connection file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// The connection file as it stands in argv. Never opened.
    pub connection: Box<str>,
    /// The uuid in the file's name; papermill, nbconvert and VS Code have none.
    pub kernel_id: Option<Box<str>>,
    pub evidence: Evidence,
}

/// How strongly argv speaks for a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// A known kernel's own name, or a file called `kernel-*.json`.
    Name,
    /// Only some `.json` after `-f` and an inherited mark. Other programs take `-f x.json` too,
    /// so this counts only where the parent is the one that the mark names.
    Flag,
}

/// What a kernel's launcher puts into its environment and all descendants inherit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Marks {
    /// `JPY_SESSION_NAME`: the notebook's path (jupyter_server 1.19 and later).
    pub session: Option<Box<str>>,
    /// `JPY_PARENT_PID`: the launcher, by its pid in its own namespace.
    pub parent: Option<u32>,
}

/// The identities of one domain's processes, and the workload each was last seen in.
///
/// A daemon that is placed once stays placed, also after it re-parented itself and wiped its
/// environment (rule 5 of the recognition).
#[derive(Default)]
pub struct Identities {
    /// `None` until the first reading: most containers are never looked at.
    known: Option<Box<Known>>,
}

#[derive(Default)]
struct Known {
    entries: HashMap<ProcKey, Entry>,
    marks: HashSet<Arc<Marks>>,
    turn: u32,
}

struct Entry {
    identity: Identity,
    owner: Option<ProcKey>,
    turn: u32,
}

/// Identities kept for one domain. A container that holds more processes than this is under a
/// fork bomb; what is not known by identity is still placed by ancestry.
pub const MAX_IDENTITIES: usize = 16_384;

/// Whether argv and environ of a process should be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    No,
    /// Never read.
    New,
    /// Read while it may have stood before exec, or it changed its name since.
    Again,
}

impl Identities {
    pub fn get(&self, key: ProcKey) -> Option<&Identity> {
        self.entry(key).map(|entry| &entry.identity)
    }

    fn entry(&self, key: ProcKey) -> Option<&Entry> {
        self.known.as_ref()?.entries.get(&key)
    }

    /// The process that had this pid when it was last read: for telling of the dead only, since
    /// a pid alone identifies nobody.
    pub fn key_of(&self, pid: u32) -> Option<ProcKey> {
        let of_pid = self.known.as_ref()?.entries.keys().filter(|key| key.pid == pid);
        of_pid.copied().max_by_key(|key| key.start)
    }

    pub fn len(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.entries.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this process is worth a reading at a warning look. Zombies have no argv any more.
    pub fn wanted(&self, proc: &Proc) -> Wanted {
        if proc.is_zombie() {
            return Wanted::No;
        }
        match self.entry(proc.key) {
            None => Wanted::New,
            Some(entry) if !entry.identity.settled || entry.identity.comm != proc.comm => {
                Wanted::Again
            }
            Some(_) => Wanted::No,
        }
    }

    /// Takes a reading in. `false`: there is no room for another process.
    ///
    /// A settled kernel stays a kernel whatever it writes over its argv later, and a PHP script a
    /// script.
    pub fn insert(&mut self, identity: Identity) -> bool {
        self.known.get_or_insert_default().insert(identity)
    }

    /// The root of the workload this process was placed in before.
    pub fn owner(&self, key: ProcKey) -> Option<ProcKey> {
        self.entry(key).and_then(|entry| entry.owner)
    }

    /// Remembers that a process was placed below `root`. Only where its identity is known.
    pub(crate) fn remember(&mut self, key: ProcKey, root: ProcKey) {
        let entry = self.known.as_mut().and_then(|known| known.entries.get_mut(&key));
        if let Some(entry) = entry {
            entry.owner = Some(root);
        }
    }

    /// Forgets every process that is not in this scan. Frees; never allocates.
    pub fn prune(&mut self, procs: &[Proc]) {
        if let Some(known) = &mut self.known {
            known.prune(procs);
        }
    }

    /// The notebook's path, as its own environment gives it. Untrusted: escape where shown.
    pub fn notebook(&self, root: ProcKey) -> Option<&str> {
        self.get(root)?.marks.as_ref()?.session.as_deref()
    }

    /// What a process works for: a notebook's path, else its kernel's id; a pool, a script.
    /// `None`: nobody knows. Untrusted: escape where shown.
    pub fn application(&self, root: ProcKey) -> Option<&str> {
        let identity = self.get(root)?;
        match &identity.claim {
            Claim::Php(php) => Some(&php.application).filter(|name| !name.is_empty()).map(|n| &**n),
            _ => self.notebook(root).or_else(|| self.kernel_id(root)),
        }
    }

    /// The kernel's uuid, as its connection file's name gives it.
    pub fn kernel_id(&self, root: ProcKey) -> Option<&str> {
        self.get(root)?.claim.kernel()?.kernel_id.as_deref()
    }
}

impl Known {
    fn insert(&mut self, mut identity: Identity) -> bool {
        if let Some(marks) = identity.marks.take() {
            identity.marks = Some(self.shared(marks));
        }
        let turn = self.turn;
        if let Some(entry) = self.entries.get_mut(&identity.key) {
            let old = &entry.identity;
            if old.settled && old.claim.outlives(&identity.claim) {
                entry.identity.comm = identity.comm;
            } else {
                entry.identity = identity;
            }
            return true;
        }
        if self.entries.len() >= MAX_IDENTITIES {
            return false;
        }
        self.entries.insert(identity.key, Entry { identity, owner: None, turn });
        true
    }

    /// The same path stands in the environment of every process of a notebook: kept once.
    fn shared(&mut self, marks: Arc<Marks>) -> Arc<Marks> {
        if let Some(known) = self.marks.get(&marks) {
            return Arc::clone(known);
        }
        self.marks.insert(Arc::clone(&marks));
        marks
    }

    fn prune(&mut self, procs: &[Proc]) {
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        for proc in procs {
            if let Some(entry) = self.entries.get_mut(&proc.key) {
                entry.turn = turn;
            }
        }
        self.entries.retain(|_, entry| entry.turn == turn);
        self.marks.retain(|marks| Arc::strong_count(marks) > 1);
    }
}
