//! Who ends and who does not: tables of figures and what is decided on them.

use super::*;
use crate::config::settings::Amount;
use crate::facts::{Events, Field, Psi};
use crate::policy::identity::Claim;
use crate::policy::world::{INIT, SERVER, World};

const TOTAL: Bytes = Bytes::mib(1000);

fn mib(n: u64) -> Bytes {
    Bytes::mib(n)
}

fn figures(unreclaimable: Bytes, cache: Bytes) -> Figures {
    Figures {
        usage: unreclaimable.plus(cache),
        swap: Field::Known(Bytes::ZERO),
        swap_max: Limit::Max,
        limit: Limit::At(TOTAL),
        high: Limit::Max,
        anon: unreclaimable,
        shmem: Bytes::ZERO,
        inactive_file: Bytes(cache.0 / 2),
        active_file: Bytes(cache.0 - cache.0 / 2),
        slab_reclaimable: Bytes::ZERO,
        refaults: 0,
        events: Events::default(),
        psi: Field::Known(Psi::default()),
    }
}

fn host(swap: Bytes) -> HostMemory {
    HostMemory {
        total: Bytes::gib(16),
        available: Bytes::gib(8),
        swap_total: swap,
        swap_free: swap,
    }
}

fn settings() -> Settings {
    Settings::default()
}

fn scale() -> Scale {
    Scale { total: TOTAL, swap: Bytes::ZERO }
}

#[test]
fn a_share_is_reached_by_what_counts_and_not_by_cache() {
    let gate = |unreclaimable, cache, swap| {
        let figures = figures(unreclaimable, cache);
        gate(&figures, None, Scale { total: TOTAL, swap }, &settings(), None)
    };
    let reaches = |gate: Gate, percent| gate.measure().unwrap().reaches(Share::percent(percent));
    for (unreclaimable, percent, reached) in
        [(770, 80, true), (769, 80, false), (820, 85, true), (819, 85, false)]
    {
        let gate = gate(mib(unreclaimable), mib(900 - unreclaimable), Bytes::ZERO);
        assert_eq!(reaches(gate, percent), reached, "{unreclaimable} of {percent} %");
    }
    assert!(!reaches(gate(mib(850), Bytes::ZERO, mib(1000)), 80), "the swap is free");
}

#[test]
fn at_the_threshold_it_is_asked_whose_end_would_be_enough_there() {
    let before = gate(&figures(mib(800), Bytes::ZERO), None, scale(), &settings(), None);
    assert!(!before.is_passed());
    let then = before.at_the_threshold();
    let measure = then.measure().unwrap();
    assert!(then.is_passed() && measure.counted == measure.mark, "{measure:?}");
    let over = gate(&figures(mib(950), Bytes::ZERO), None, scale(), &settings(), None);
    assert_eq!(over.at_the_threshold(), over);
}

fn reason(gate: Gate) -> &'static str {
    match gate {
        Gate::Passed { by, .. } => by.as_str(),
        Gate::Held { reason, .. } => reason.as_str(),
        Gate::NeedSum => "need-sum",
    }
}

#[test]
fn the_usage_gate_opens_within_its_tolerance() {
    // Unreclaimable, page cache, what the gate says. The threshold is 900, the mark 870.
    const TABLE: [(u64, u64, &str); 8] = [
        (870, 0, "usage"),
        (870, 30, "usage"),
        (1000, 0, "usage"),
        (869, 0, "relieved"),
        (869, 31, "benign-cache"),
        (100, 800, "benign-cache"),
        (100, 700, "relieved"),
        (0, 0, "relieved"),
    ];
    for (unreclaimable, cache, expected) in TABLE {
        let now = figures(mib(unreclaimable), mib(cache));
        let gate = gate(&now, None, scale(), &settings(), None);
        assert_eq!(reason(gate), expected, "{unreclaimable} + {cache}");
    }
}

#[test]
fn with_swap_both_count_against_both_limits() {
    let scale = Scale { total: TOTAL, swap: mib(1000) };
    // 90 % of 2000 less 30 is 1770.
    for (resident, swapped, expected) in
        [(900, 0, "relieved"), (900, 869, "relieved"), (900, 870, "usage-and-swap")]
    {
        let mut now = figures(mib(resident), Bytes::ZERO);
        now.swap = Field::Known(mib(swapped));
        assert_eq!(reason(gate(&now, None, scale, &settings(), None)), expected, "{swapped}");
    }
}

#[test]
fn the_total_is_the_lowest_of_limit_foreign_high_and_host() {
    let mut now = figures(mib(1), Bytes::ZERO);
    let host = host(mib(500));
    let of = |now: &Figures, foreign| Scale::of(now, foreign, &host);
    assert_eq!(of(&now, Limit::Max), Scale { total: TOTAL, swap: mib(500) });
    assert_eq!(of(&now, Limit::At(mib(700))).total, mib(700));
    now.swap_max = Limit::At(Bytes::ZERO);
    now.limit = Limit::Max;
    assert_eq!(of(&now, Limit::Max), Scale { total: Bytes::gib(16), swap: Bytes::ZERO });
}

#[test]
fn the_source_systems_comparison_takes_off_what_is_no_workload() {
    let settings = Settings { gate: GateForm::Notebooks, ..settings() };
    // Unreclaimable, the workloads' sum. With 400 of 1000 in no workload the threshold is
    // 540, and 30 less is the mark.
    for (unreclaimable, sum, expected) in [
        (910, 510, "notebooks"),
        (909, 509, "relieved"),
        (900, 500, "relieved"),
        (870, 870, "notebooks"),
    ] {
        let now = figures(mib(unreclaimable), Bytes::ZERO);
        let sum = Some(Interval::exactly(mib(sum)));
        let gate = gate(&now, None, scale(), &settings, sum);
        assert_eq!(reason(gate), expected, "{unreclaimable} {sum:?}");
    }
    let now = figures(mib(900), Bytes::ZERO);
    assert_eq!(gate(&now, None, scale(), &settings, None), Gate::NeedSum);
    let step = |outside| scale().step(Share::percent(90), GateForm::Notebooks, outside);
    assert_eq!((step(Bytes::ZERO), step(mib(400))), (mib(900), mib(940)));
    let step = scale().step(Share::percent(90), GateForm::Usage, mib(400));
    assert_eq!(step, mib(900));
}

#[test]
fn thrash_must_be_proved() {
    struct Proof {
        unreclaimable: u64,
        cache: u64,
        refaulted_mib: u64,
        stalled_ms: u64,
        after_ms: u64,
        psi: bool,
        expected: &'static str,
    }
    const THRASHING: Proof = Proof {
        unreclaimable: 820,
        cache: 80,
        refaulted_mib: 30,
        stalled_ms: 200,
        after_ms: 500,
        psi: true,
        expected: "thrash",
    };
    let table = [
        THRASHING,
        Proof { refaulted_mib: 24, expected: "benign-cache", ..THRASHING },
        Proof { stalled_ms: 124, expected: "benign-cache", ..THRASHING },
        Proof { after_ms: 49, expected: "benign-cache", ..THRASHING },
        Proof { psi: false, expected: "benign-cache", ..THRASHING },
        Proof { unreclaimable: 790, cache: 110, expected: "benign-cache", ..THRASHING },
        Proof { cache: 10, expected: "relieved", ..THRASHING },
    ];
    for (at, row) in table.iter().enumerate() {
        let then = figures(mib(row.unreclaimable), mib(row.cache));
        let mut now = then;
        now.refaults = mib(row.refaulted_mib).0 / PAGE;
        let psi = Psi { some_total_us: row.stalled_ms * 1000, ..Psi::default() };
        now.psi =
            if row.psi { Field::Known(psi) } else { Field::Unknown(crate::facts::Why::Absent) };
        let ago = Duration::from_millis(row.after_ms);
        let before = Some(Before { figures: &then, ago });
        let gate = gate(&now, before, scale(), &settings(), None);
        assert_eq!(reason(gate), row.expected, "row {at}");
    }
}

#[test]
fn a_host_is_short_when_little_is_available() {
    let mut memory = host(Bytes::ZERO);
    assert_eq!(reason(host_gate(&memory, &settings())), "relieved");
    memory.available = Bytes::gib(2);
    assert_eq!(reason(host_gate(&memory, &settings())), "host");
    (memory.swap_total, memory.swap_free) = (Bytes::gib(8), Bytes::gib(8));
    assert_eq!(reason(host_gate(&memory, &settings())), "relieved");
    memory.swap_free = Bytes::mib(512);
    assert_eq!(reason(host_gate(&memory, &settings())), "host");
}

/// A container of 1000 MiB in which it is decided who ends.
struct Scene {
    world: World,
    settings: Settings,
    /// Page cache and what else reclaim gives back.
    cache: Bytes,
    baseline: Option<Baseline>,
    rule: fn(&View<'_>) -> Option<Exclusion>,
    paused: bool,
    identities_come: bool,
    unread: bool,
    pss_comes: bool,
    screen: Screen,
    asked: Vec<&'static str>,
}

impl Scene {
    /// A server and three notebooks: 20, 30 and 40.
    fn new(server: u64, notebooks: [u64; 3]) -> Scene {
        let mut world = World::new();
        world.holds(SERVER, mib(server));
        for (pid, held) in [20, 30, 40].into_iter().zip(notebooks) {
            world.kernel(pid, &format!("{pid}.ipynb")).holds(pid, mib(held));
        }
        Scene {
            world,
            settings: settings(),
            cache: Bytes::ZERO,
            baseline: None,
            rule: |_| None,
            paused: false,
            identities_come: true,
            unread: false,
            pss_comes: true,
            screen: Screen::default(),
            asked: Vec::new(),
        }
    }

    fn figures(&self) -> Figures {
        let group = self.world.groups[0].unwrap();
        let mut figures = figures(group.anon.plus(group.shmem), self.cache);
        (figures.anon, figures.shmem) = (group.anon, group.shmem);
        figures
    }

    fn rank(&mut self, gate: &Gate) {
        self.world.build();
        self.screen.sift(&self.world.forest, &self.world.ids, self.rule);
        let purpose = Screen::purpose(&self.settings, scale(), gate);
        let screen = &self.screen;
        self.world.rank_among(purpose, |number| screen.competes(number));
    }

    /// The warning look, with these notebooks as they were then.
    fn warned_at(mut self, before: &[(u32, u64)]) -> Scene {
        let now = self.world.status.clone();
        for (pid, held) in before {
            self.world.holds(*pid, mib(*held));
        }
        self.world.group_of_sums();
        let settings = Settings { policy: Policy::Growing, ..self.settings.clone() };
        let settings = std::mem::replace(&mut self.settings, settings);
        self.rank(&Gate::NeedSum);
        self.settings = settings;
        let mut baseline = Baseline::default();
        baseline.take(&self.world.ranking);
        self.world.groups.clear();
        self.baseline = Some(baseline);
        for (pid, memory) in now {
            self.world.maps(pid, memory.anon, memory.shmem);
        }
        for proc in &mut self.world.procs {
            proc.memory = Field::Unknown(crate::facts::Why::NotRead);
        }
        self
    }

    fn decide(&mut self) -> Verdict {
        if self.world.groups.is_empty() {
            self.world.group_of_sums();
        }
        let figures = self.figures();
        let mut opened = gate(&figures, None, scale(), &self.settings, None);
        self.rank(&opened);
        if opened == Gate::NeedSum {
            let sum = Some(self.world.ranking.sum());
            opened = gate(&figures, None, scale(), &self.settings, sum);
        }
        for late in [false, false, true] {
            let case = Case {
                forest: &self.world.forest,
                procs: &self.world.procs,
                settings: &self.settings,
                scale: scale(),
                gate: &opened,
                baseline: self.baseline.as_ref(),
                paused: self.paused,
                late,
                unread: self.unread,
                inside: None,
            };
            let verdict = self.screen.decide(&case, &mut self.world.ranking);
            match verdict {
                Verdict::NeedIdentity => {
                    self.asked.push("identity");
                    if self.identities_come {
                        let hidden = std::mem::take(&mut self.world.hidden);
                        self.world.identities.extend(hidden);
                        self.rank(&opened);
                    }
                }
                Verdict::NeedPss => {
                    self.asked.push("pss");
                    let list = self.screen.asked().to_vec();
                    if !self.pss_comes {
                        self.world.pss.clear();
                    }
                    self.world.read_pss(&list);
                }
                verdict => return verdict,
            }
        }
        panic!("asked for more when it was late")
    }

    #[track_caller]
    fn kills(mut self, root: u32, why: KillWhy) {
        match self.decide() {
            Verdict::Kill(kill) => assert_eq!((kill.root.pid, kill.why), (root, why)),
            verdict => panic!("{verdict:?}: {:?}", self.world.ranking.rows()),
        }
    }

    #[track_caller]
    fn holds(mut self, reason: HoldReason) {
        match self.decide() {
            Verdict::Hold(hold) => assert_eq!(hold.reason, reason),
            verdict => panic!("{verdict:?}: {:?}", self.world.ranking.rows()),
        }
    }
}

#[test]
fn a_the_one_that_holds_most_ends() {
    Scene::new(80, [60, 700, 50]).kills(30, KillWhy::Largest);
    Scene::new(80, [400, 390, 50]).kills(20, KillWhy::Largest);
}

#[test]
fn b_a_family_of_workers_ends_as_one() {
    let mut scene = Scene::new(80, [40, 300, 50]);
    for pid in 21..25 {
        scene.world.child(pid, 20).holds(pid, mib(110));
    }
    scene.kills(20, KillWhy::Largest);
}

#[test]
fn c_readers_of_one_array_are_spared() {
    let mut scene = Scene::new(80, [300, 400, 50]);
    for pid in 100..116 {
        scene.world.child(pid, 20).holds(pid, mib(301));
    }
    scene.world.group(mib(80 + 316 + 400 + 80), Bytes::ZERO);
    scene.kills(30, KillWhy::Largest);
}

#[test]
fn d_a_child_that_got_away_counts() {
    let mut scene = Scene::new(80, [40, 300, 50]);
    scene.world.stray(25, 20).holds(25, mib(420));
    scene.kills(20, KillWhy::Largest);
}

#[test]
fn e_shared_memory_counts_once() {
    let mut scene = Scene::new(80, [40, 450, 50]);
    for pid in 21..25 {
        scene.world.child(pid, 20).maps(pid, mib(5), mib(250));
    }
    scene.world.group(mib(80 + 40 + 20 + 450 + 50), mib(250));
    scene.kills(30, KillWhy::Largest);
}

#[test]
fn f_page_cache_ends_nobody() {
    let mut scene = Scene::new(80, [60, 300, 50]);
    scene.cache = mib(450);
    scene.holds(HoldReason::BenignCache);
    Scene::new(80, [60, 300, 50]).holds(HoldReason::Relieved);
}

#[test]
fn g_the_server_may_be_the_largest() {
    Scene::new(450, [60, 300, 80]).kills(30, KillWhy::Largest);
    Scene::new(450, [60, 300, 80]).warned_at(&[(30, 200)]).kills(30, KillWhy::Largest);
    Scene::new(820, [20, 20, 20]).holds(HoldReason::BelowMinShare);
}

#[test]
fn g_a_server_that_grows_costs_no_notebook() {
    let scene = || Scene::new(700, [20, 140, 20]);
    scene().warned_at(&[(SERVER, 600)]).holds(HoldReason::MemoryInNoWorkload);
    scene().warned_at(&[(30, 60)]).kills(30, KillWhy::Largest);
    scene().kills(30, KillWhy::Largest);
}

/// Whoever calls himself a server has his memory counted as nobody's, as if he had not: it is not
/// another user's notebook that ends for it.
#[test]
fn a_server_of_another_user_costs_no_notebook_unless_it_is_the_notebooks_that_grew() {
    let scene = |uid| {
        let mut scene = Scene::new(80, [60, 140, 20]);
        scene.world.bare(50, INIT).claim(50, Claim::Server).id(50).uid = uid;
        scene.world.holds(50, mib(600));
        scene
    };
    let own = scene(0).world.id(30).uid;
    scene(own + 1).holds(HoldReason::MemoryInNoWorkload);
    scene(own + 1).warned_at(&[(50, 500)]).holds(HoldReason::MemoryInNoWorkload);
    scene(own + 1).warned_at(&[(30, 20)]).kills(30, KillWhy::Largest);
    for uid in [0, own] {
        scene(uid).kills(30, KillWhy::Largest);
    }
}

#[test]
fn p_a_server_larger_than_the_idle_ones_does_not_hide_who_is_protected() {
    let scene = Scene { rule: protect_20, ..Scene::new(80, [690, 60, 60]) };
    scene.warned_at(&[(20, 600)]).holds(HoldReason::MemoryIsProtected);
}

fn back_off_20(view: &View<'_>) -> Option<Exclusion> {
    (view.workload.root.pid == 20).then_some(Exclusion::Backoff)
}

fn protect_20(view: &View<'_>) -> Option<Exclusion> {
    (view.notebook == Some("20.ipynb")).then_some(Exclusion::ProtectedNotebook)
}

#[test]
fn j_nobody_else_ends_for_a_notebook_that_came_back() {
    let scene = || Scene { rule: back_off_20, ..Scene::new(80, [600, 120, 90]) };
    scene().holds(HoldReason::Backoff);
    scene().warned_at(&[(20, 500)]).holds(HoldReason::Backoff);
    // Another one is what grows now.
    let scene = Scene { rule: back_off_20, ..Scene::new(80, [300, 420, 90]) };
    scene.kills(30, KillWhy::Largest);
    let mut alone = Scene { rule: |_| Some(Exclusion::Backoff), ..Scene::new(80, [800, 5, 5]) };
    alone.world.unread(30).unread(40);
    alone.holds(HoldReason::Backoff);
}

#[test]
fn p_nobody_else_ends_for_a_protected_one() {
    let scene = || Scene { rule: protect_20, ..Scene::new(80, [600, 120, 90]) };
    scene().holds(HoldReason::MemoryIsProtected);
    scene().warned_at(&[(20, 500)]).holds(HoldReason::MemoryIsProtected);
    scene().warned_at(&[(30, 30)]).kills(30, KillWhy::Largest);
    let all = |_: &View<'_>| Some(Exclusion::ProtectedUser);
    Scene { rule: all, ..Scene::new(80, [600, 120, 90]) }.holds(HoldReason::AllProtected);
    let mut scene = scene();
    scene.decide();
    let reasons = [0, 1, 2].map(|number| scene.screen.exclusion(number));
    assert_eq!(reasons, [Some(Exclusion::ProtectedNotebook), None, None]);
}

#[test]
fn q_what_restrains_a_kill_says_who_it_would_have_been() {
    type Change = fn(&mut Scene);
    let table: [(Change, HoldReason); 4] = [
        (|s| s.settings.dry_run = true, HoldReason::DryRun),
        (|s| s.settings.protect = true, HoldReason::ContainerProtected),
        (|s| s.paused = true, HoldReason::Paused),
        (|s| (s.paused, s.settings.dry_run) = (true, true), HoldReason::Paused),
    ];
    for (change, reason) in table {
        let mut scene = Scene::new(80, [60, 700, 50]);
        change(&mut scene);
        let Verdict::Hold(hold) = scene.decide() else { panic!() };
        assert_eq!(hold.reason, reason);
        assert_eq!(hold.would.map(|kill| kill.root.pid), Some(30));
        assert!(!reason.is_calm());
    }
}

#[test]
fn r_a_hog_that_is_no_notebook_costs_no_notebook() {
    for notebook in [110, 150, 220, 280] {
        let hog = 870 - 30 - notebook;
        let scene = || {
            let mut scene = Scene::new(10, [10, notebook, 10]);
            scene.world.bare(50, INIT).holds(50, mib(hog));
            scene
        };
        scene().holds(HoldReason::MemoryInNoWorkload);
        scene().warned_at(&[(50, hog - 80)]).holds(HoldReason::MemoryInNoWorkload);
    }
}

#[test]
fn r_a_big_daemon_that_does_not_grow_protects_no_notebook() {
    let scene = || {
        let mut scene = Scene::new(50, [10, 350, 10]);
        scene.world.bare(50, INIT).holds(50, mib(460));
        scene
    };
    scene().warned_at(&[(30, 270)]).kills(30, KillWhy::Largest);
    scene().kills(30, KillWhy::Largest);
}

#[test]
fn r_memory_in_no_process_is_in_no_workload() {
    let mut scene = Scene::new(10, [10, 150, 10]);
    scene.world.group(mib(180), mib(700));
    scene.holds(HoldReason::MemoryInNoWorkload);
}

#[test]
fn r_what_nobody_could_read_is_asked_for_first() {
    let scene = || {
        let mut scene = Scene::new(10, [10, 200, 10]);
        scene.world.stray(50, 20).holds(50, mib(650)).hide(50);
        scene
    };
    let mut asked = scene();
    let Verdict::Kill(kill) = asked.decide() else { panic!() };
    assert_eq!((kill.root.pid, asked.asked), (20, vec!["identity"]));
    let mut scene = scene();
    scene.identities_come = false;
    scene.holds(HoldReason::IdentityUnknown);
}

/// A kernel that was refused once when its argv was read, and whose worker holds the memory.
#[test]
fn r_who_is_above_the_memory_is_asked_for_as_well() {
    let scene = || {
        let mut scene = Scene::new(10, [10, 200, 10]);
        scene.world.kernel(40, "d.ipynb").child(50, 40).holds(50, mib(650)).hide(40);
        scene
    };
    let mut asked = scene();
    let Verdict::Kill(kill) = asked.decide() else { panic!() };
    assert_eq!((kill.root.pid, asked.asked), (40, vec!["identity"]));
    let mut scene = scene();
    scene.identities_come = false;
    scene.holds(HoldReason::IdentityUnknown);
}

/// Whoever is missing may be the one who holds the most.
#[test]
fn nobody_ends_while_somebody_could_not_be_read() {
    let mut scene = Scene::new(80, [400, 390, 50]);
    scene.unread = true;
    scene.holds(HoldReason::IdentityUnknown);
    Scene::new(80, [400, 390, 50]).kills(20, KillWhy::Largest);
}

#[test]
fn nothing_is_asked_that_would_change_nothing() {
    let mut scene = Scene::new(10, [10, 800, 10]);
    scene.world.stray(50, 20).holds(50, mib(60)).hide(50);
    scene.decide();
    assert_eq!(scene.asked, [] as [&str; 0]);
}

#[test]
fn without_notebooks_there_is_nobody_to_end() {
    let mut scene = Scene::new(900, [1, 1, 1]);
    for pid in [20, 30, 40] {
        scene.world.claim(pid, Claim::Plain).marks(pid, None, None);
    }
    scene.holds(HoldReason::NoWorkloads);
}

#[test]
fn s_the_sum_over_the_notebooks_beside_a_big_server() {
    let scene = |notebooks| {
        let settings = Settings { gate: GateForm::Notebooks, ..settings() };
        Scene { settings, ..Scene::new(400, notebooks) }
    };
    scene([100, 350, 80]).kills(30, KillWhy::Largest);
    scene([80, 300, 50]).holds(HoldReason::Relieved);
    // No share is too small here.
    scene([60, 60, 60]).holds(HoldReason::Relieved);
}

#[test]
fn t_only_the_notebooks_of_the_user_who_presses() {
    let scene = |scope| {
        let mut scene = Scene::new(50, [300, 280, 250]);
        for pid in [30, 40] {
            scene.world.id(pid).uid = 1001;
        }
        scene.settings.scope = scope;
        scene
    };
    scene(Scope::Container).kills(20, KillWhy::Largest);
    let mut user = scene(Scope::User);
    user.decide();
    assert_eq!(user.screen.exclusion(0), Some(Exclusion::OtherUser));
    scene(Scope::User).kills(30, KillWhy::Largest);
}

#[test]
fn t_a_user_who_holds_the_most_and_does_not_grow_does_not_press() {
    let mut scene = Scene::new(50, [500, 230, 100]);
    for pid in [30, 40] {
        scene.world.id(pid).uid = 1001;
    }
    scene.settings.scope = Scope::User;
    scene.warned_at(&[(30, 150)]).kills(30, KillWhy::Largest);
}

#[test]
fn q_what_is_paused_or_protected_in_a_domain_of_several_ends_nobody_there() {
    fn paused(view: &View<'_>) -> Option<Exclusion> {
        (view.workload.root.pid == 30).then_some(Exclusion::Paused)
    }
    fn protected(view: &View<'_>) -> Option<Exclusion> {
        (view.workload.root.pid == 30).then_some(Exclusion::ProtectedByCommand)
    }
    type Rule = fn(&View<'_>) -> Option<Exclusion>;
    // The next one ends where that suffices; else it is said in whose way it stands.
    let table: [(Rule, [u64; 3], Result<u32, HoldReason>); 7] = [
        (paused, [400, 410, 50], Ok(20)),
        (paused, [450, 420, 20], Ok(20)),
        (protected, [450, 420, 20], Ok(20)),
        (paused, [60, 700, 50], Err(HoldReason::Paused)),
        (protected, [60, 700, 50], Err(HoldReason::MemoryIsProtected)),
        (|_| Some(Exclusion::Paused), [60, 700, 50], Err(HoldReason::Paused)),
        (|_| Some(Exclusion::ProtectedByCommand), [60, 700, 50], Err(HoldReason::AllProtected)),
    ];
    for (rule, notebooks, expected) in table {
        let mut scene = Scene { rule, ..Scene::new(80, notebooks) };
        let found = match scene.decide() {
            Verdict::Kill(kill) => Ok(kill.root.pid),
            Verdict::Hold(hold) => Err(hold.reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{notebooks:?}");
    }
}

#[test]
fn u_a_notebook_above_its_maximum_ends_though_nothing_is_short() {
    let scene = |max, notebooks| {
        let settings = Settings { notebook_max: Some(max), ..settings() };
        Scene { settings, ..Scene::new(50, notebooks) }
    };
    let share = Amount::Share(Share::percent(30));
    scene(share, [301, 50, 50]).kills(20, KillWhy::NotebookMax);
    scene(share, [300, 50, 50]).holds(HoldReason::Relieved);
    scene(Amount::Bytes(mib(40)), [41, 39, 39]).kills(20, KillWhy::NotebookMax);
    scene(share, [60, 750, 50]).kills(30, KillWhy::Largest);
    let cached = Scene { cache: mib(600), ..scene(share, [301, 50, 50]) };
    cached.kills(20, KillWhy::NotebookMax);
    let protected = Scene { rule: protect_20, ..scene(share, [301, 50, 50]) };
    protected.holds(HoldReason::Relieved);
    let paused = Scene { paused: true, ..scene(share, [301, 50, 50]) };
    paused.holds(HoldReason::Paused);
}

#[test]
fn growing_ends_the_one_that_grew() {
    let scene = || {
        let settings = Settings { policy: Policy::Growing, ..settings() };
        Scene { settings, ..Scene::new(50, [500, 250, 120]) }
    };
    scene().warned_at(&[(30, 150)]).kills(30, KillWhy::Growing);
    scene().warned_at(&[(30, 150), (40, 10)]).kills(40, KillWhy::Growing);
    // Noise is no growth, and without a warning look there is only size.
    scene().warned_at(&[(30, 245)]).kills(20, KillWhy::Largest);
    scene().kills(20, KillWhy::Largest);
}

#[test]
fn what_is_too_small_to_matter_lives() {
    let mut scene = Scene::new(700, [90, 60, 50]);
    let Verdict::Kill(kill) = scene.decide() else { panic!() };
    assert_eq!(kill.root.pid, 20, "below the share, but it suffices");
    Scene::new(840, [40, 20, 10]).holds(HoldReason::BelowMinShare);
    let mut scene = Scene::new(840, [40, 20, 10]);
    scene.decide();
    assert_eq!(scene.screen.exclusion(0), Some(Exclusion::BelowMinShare));
}

#[test]
fn overlapping_sums_are_told_apart_by_pss_or_by_what_is_surely_held() {
    let scene = || {
        let mut scene = Scene::new(10, [300, 290, 10]);
        for (root, pids) in [(20, 100..104), (30, 200..204)] {
            for pid in pids {
                scene.world.child(pid, root).holds(pid, mib(280));
                scene.world.pss.insert(pid, mib(if root == 20 { 60 } else { 100 }));
            }
        }
        scene.world.pss.insert(20, mib(80));
        scene.world.pss.insert(30, mib(70));
        scene.world.group(mib(870), Bytes::ZERO);
        scene
    };
    let mut read = scene();
    let Verdict::Kill(kill) = read.decide() else { panic!() };
    assert_eq!((kill.root.pid, kill.settled_by), (30, SettledBy::Pss));
    assert_eq!(read.asked, ["pss"]);
    let mut late = Scene { pss_comes: false, ..scene() };
    let Verdict::Kill(kill) = late.decide() else { panic!() };
    assert_eq!((kill.root.pid, kill.settled_by), (20, SettledBy::LowerBound));
}

#[test]
fn names_are_stable_and_as_serialised() {
    for reason in HoldReason::ALL {
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(json, format!("\"{}\"", reason.as_str()));
    }
    for by in [By::Usage, By::UsageAndSwap, By::Notebooks, By::Thrash, By::Host] {
        assert_eq!(serde_json::to_string(&by).unwrap(), format!("\"{}\"", by.as_str()));
    }
    let json = serde_json::to_string(&Exclusion::ProtectedByCommand).unwrap();
    assert_eq!(json, format!("\"{}\"", Exclusion::ProtectedByCommand.as_str()));
    let json = serde_json::to_string(&KillWhy::NotebookMax).unwrap();
    assert_eq!(json, format!("\"{}\"", KillWhy::NotebookMax.as_str()));
}
