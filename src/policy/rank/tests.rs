//! Who stands before whom, with what is known of each, and what is read to tell them apart.

use super::*;
use crate::facts::ProcMemory;
use crate::policy::world::{SERVER, World, key};
use proptest::prelude::*;

const TOP: Purpose = Purpose::Top { worth: Bytes::ZERO };
const NO_RSS: Bytes = Bytes::ZERO;

fn mib(n: u64) -> Bytes {
    Bytes::mib(n)
}

/// Every tree's interval holds the truth; every pair whose intervals do not overlap stands
/// in the true order; the first is what the test says, settled as it says.
#[track_caller]
fn check(world: &World, truth: &[(u32, Bytes)], first: u32, by: SettledBy) {
    let of = |pid: u32| truth.iter().find(|(root, _)| *root == pid).unwrap().1;
    let rows = world.ranking.rows();
    assert_eq!(rows.len(), truth.len());
    for (at, row) in rows.iter().enumerate() {
        let bytes = of(row.root.pid);
        assert!(row.held.least <= bytes && bytes <= row.held.most, "{row:?}: {bytes}");
        assert_eq!(world.ranking.place(row.workload), Some(at as u32));
        for below in &rows[at + 1..] {
            if row.held.is_above(below.held) {
                assert!(bytes >= of(below.root.pid), "{row:?} above {below:?}");
            }
            let reversed = below.held.is_above(row.held);
            assert!(!reversed || below.held == row.held, "{below:?} below {row:?}");
        }
    }
    let top = rows.iter().find(|row| row.competes).unwrap();
    let others = rows.iter().filter(|row| row.competes && row.root != top.root);
    assert_eq!((top.root.pid, Ranking::settled_by(top, others)), (first, by));
}

#[test]
fn a_hog_among_small_ones_is_settled_without_reading_anybody() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(60));
    world.kernel(30, "b").holds(30, mib(400));
    world.kernel(40, "c").holds(40, mib(50));
    world.holds(SERVER, mib(80)).group_of_sums().build().rank(TOP);
    let truth = [(20, mib(60)), (30, mib(400)), (40, mib(50))];
    check(&world, &truth, 30, SettledBy::CgroupFigures);
    assert_eq!(world.read, [] as [u32; 0]);
    world.rank(Purpose::Each);
    check(&world, &truth, 30, SettledBy::Intervals);
    assert_eq!(world.order(), [30, 20, 40]);
}

#[test]
fn a_family_is_largest_while_another_has_the_largest_process() {
    let mut world = World::new();
    world.kernel(20, "family").holds(20, mib(50));
    for pid in 21..29 {
        world.child(pid, 20).holds(pid, mib(200));
    }
    world.kernel(30, "single").holds(30, mib(700));
    world.kernel(40, "small").holds(40, mib(50)).group_of_sums().build().rank(TOP);
    let truth = [(20, mib(1650)), (30, mib(700)), (40, mib(50))];
    check(&world, &truth, 20, SettledBy::CgroupFigures);
}

/// A holds 1.5 GiB that 32 forks share, B 2.1 GiB alone: the RSS of A's tree adds up to 50.
fn readers(world: &mut World) {
    world.kernel(20, "readers").holds(20, mib(1500));
    world.pss.insert(20, mib(1500 / 30));
    for pid in 100..132 {
        world.child(pid, 20).holds(pid, mib(1502));
        world.pss.insert(pid, mib(47));
    }
    world.kernel(30, "single").holds(30, mib(2100));
    world.kernel(40, "small").holds(40, mib(60));
}

#[test]
fn copy_on_write_readers_are_counted_once() {
    let mut world = World::new();
    readers(&mut world);
    world.group(mib(1564 + 2100 + 60), Bytes::ZERO).build().rank(TOP);
    let truth = [(20, mib(1564)), (30, mib(2100)), (40, mib(60))];
    check(&world, &truth, 30, SettledBy::CgroupFigures);
    assert!(world.read.len() <= status_budget(world.procs.len()), "{:?}", world.read);
}

#[test]
fn two_trees_that_share_need_pss_and_without_it_what_is_surely_held_decides() {
    let mut world = World::new();
    readers(&mut world);
    world.kernel(50, "more readers").holds(50, mib(900));
    for pid in 200..208 {
        world.child(pid, 50).holds(pid, mib(910));
        world.pss.insert(pid, mib(110));
    }
    world.pss.insert(50, mib(100));
    let anon = mib(1564 + 2100 + 60 + 980);
    world.group(anon, Bytes::ZERO).build().rank(TOP);
    let truth = [(20, mib(1564)), (30, mib(2100)), (40, mib(60)), (50, mib(980))];
    check(&world, &truth, 30, SettledBy::LowerBound);
    let list = world.ranking.finalists(&world.forest, &world.procs, NO_RSS, mib(100_000));
    let list = list.to_vec();
    assert_eq!(list[0], world.index(20), "parents first");
    assert!(!list.contains(&world.index(40)), "not in question");
    world.read_pss(&list);
    let row = world.ranking.row(0).unwrap();
    assert_eq!(row.held, Interval::exactly(mib(50 + 32 * 47)));
    assert_eq!(world.order()[0], 30);
    assert!(world.ranking.finalists(&world.forest, &world.procs, NO_RSS, anon).is_empty());
}

#[test]
fn pss_that_came_in_part_still_bounds() {
    let mut world = World::new();
    readers(&mut world);
    world.kernel(50, "more readers").holds(50, mib(900));
    world.child(51, 50).holds(51, mib(1800));
    for pid in [50, 51] {
        let memory = world.status[&pid];
        world.proc(pid).memory = Field::Known(memory);
    }
    world.build().rank(Purpose::Each);
    let before = world.ranking.row(2).unwrap().held;
    world.pss.insert(51, mib(1350));
    let index = world.index(51);
    world.read_pss(&[index]);
    let after = world.ranking.row(3).unwrap();
    assert_eq!(world.ranking.row(2).unwrap().held, before);
    let expected = Interval { least: mib(1800), most: mib(1350 + 900) };
    assert_eq!((after.root, after.held), (key(50), expected));
}

#[test]
fn a_finalists_budget_is_kept() {
    let mut world = World::new();
    readers(&mut world);
    world.groups = vec![None];
    world.build().rank(TOP);
    let budget = mib(8_000);
    let list = world.ranking.finalists(&world.forest, &world.procs, NO_RSS, budget).to_vec();
    let spent: Bytes = list.iter().map(|i| world.procs[*i as usize].rss).sum();
    assert!(!list.is_empty() && spent <= budget);
}

#[test]
fn two_that_can_hardly_be_told_apart_are_not_waited_for() {
    let finalists = |second: u64| {
        let mut world = World::new();
        for (root, held) in [(20, 300), (30, second)] {
            world.kernel(root, "x").holds(root, mib(held));
            world.child(root + 1, root).holds(root + 1, mib(3));
        }
        world.build().rank(Purpose::Each);
        world.ranking.finalists(&world.forest, &world.procs, NO_RSS, mib(10_000)).len()
    };
    assert_eq!((finalists(297), finalists(299)), (0, 0));
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(300)).child(21, 20).holds(21, mib(30));
    world.kernel(30, "b").holds(30, mib(310)).build().rank(Purpose::Each);
    let list = world.ranking.finalists(&world.forest, &world.procs, NO_RSS, mib(10_000));
    assert_eq!(list.len(), 2, "330 or 300 against 310");
}

#[test]
fn shared_memory_is_counted_once() {
    let mut world = World::new();
    world.kernel(20, "shm").maps(20, mib(50), mib(2048));
    for pid in 21..25 {
        world.child(pid, 20).maps(pid, mib(30), mib(2048));
    }
    world.kernel(30, "anon").holds(30, mib(2150));
    world.kernel(40, "small").holds(40, mib(40)).group_of_sums().build().rank(TOP);
    let truth = [(20, mib(2048 + 170)), (30, mib(2150)), (40, mib(40))];
    check(&world, &truth, 20, SettledBy::CgroupFigures);
    let held = world.ranking.row(0).unwrap().held;
    assert!(held.most <= mib(2048 + 170 + 4), "{held:?}");
}

#[test]
fn a_double_forked_child_counts_for_its_notebook() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(50)).stray(25, 20).holds(25, mib(900));
    world.kernel(30, "b").holds(30, mib(500)).group_of_sums().build().rank(TOP);
    check(&world, &[(20, mib(950)), (30, mib(500))], 20, SettledBy::CgroupFigures);
}

#[test]
fn what_could_not_be_read_is_bounded_by_rss_and_never_zero() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(900));
    world.kernel(30, "b").holds(30, mib(500)).groups = vec![None];
    world.build();
    world.proc(20).memory = Field::Unknown(Why::TimedOut);
    world.rank(TOP);
    let row = world.ranking.row(0).unwrap();
    assert_eq!(row.held, Interval { least: Bytes::ZERO, most: Bytes(u64::MAX) });
    assert_eq!(row.figure(), mib(920));
    world.group(mib(1400), Bytes::ZERO).rank(TOP);
    let truth = [(20, mib(900)), (30, mib(500))];
    check(&world, &truth, 20, SettledBy::CgroupFigures);
}

#[test]
fn zombies_and_those_that_are_gone_hold_nothing() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(50)).child(21, 20).holds(21, mib(900));
    world.kernel(30, "b").holds(30, mib(100));
    world.proc(21).state = b'Z';
    world.group(mib(150), Bytes::ZERO).build().rank(Purpose::Each);
    check(&world, &[(20, mib(50)), (30, mib(100))], 30, SettledBy::Intervals);
    world.proc(21).state = b'S';
    world.status.remove(&21);
    world.rank(Purpose::Each);
    check(&world, &[(20, mib(50)), (30, mib(100))], 30, SettledBy::Intervals);
}

#[test]
fn what_is_swapped_out_counts() {
    let mut world = World::new();
    world.kernel(20, "swapped").holds(20, mib(100));
    world.status.insert(20, ProcMemory { anon: mib(100), shmem: NO_RSS, swap: mib(900) });
    world.kernel(30, "resident").holds(30, mib(600));
    world.kernel(40, "small").holds(40, mib(40));
    world.group(mib(740), NO_RSS).groups[0].as_mut().unwrap().swap = Field::Known(mib(900));
    world.build().rank(TOP);
    let truth = [(20, mib(1000)), (30, mib(600)), (40, mib(40))];
    check(&world, &truth, 20, SettledBy::Intervals);
}

#[test]
fn without_the_cgroups_figures_status_settles_it() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(300));
    world.kernel(30, "b").holds(30, mib(310));
    world.kernel(40, "c").holds(40, mib(100)).build().rank(TOP);
    let truth = [(20, mib(300)), (30, mib(310)), (40, mib(100))];
    check(&world, &truth, 30, SettledBy::Intervals);
}

#[test]
fn of_two_alike_the_older_stands_first() {
    let mut world = World::new();
    world.kernel(30, "b").holds(30, mib(300));
    world.kernel(20, "a").holds(20, mib(300)).group_of_sums().build().rank(TOP);
    check(&world, &[(20, mib(300)), (30, mib(300))], 20, SettledBy::Intervals);
    assert_eq!(world.order(), [20, 30]);
}

#[test]
fn figures_that_contradict_the_processes_are_not_believed() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(300)).child(21, 20).holds(21, mib(200));
    world.kernel(30, "b").holds(30, mib(100));
    for anon in [mib(1), mib(100_000)] {
        world.group(anon, Bytes::ZERO).build().rank(Purpose::Each);
        let held = world.ranking.row(0).unwrap().held;
        assert!(held.least >= mib(300) && held.most <= mib(500), "{anon}: {held:?}");
        assert_eq!(world.order(), [20, 30]);
    }
}

#[test]
fn whether_it_is_worth_it_is_read_where_it_is_open() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(110)).holds(SERVER, mib(600));
    world.group_of_sums().build().rank(TOP);
    assert_eq!(world.read, [] as [u32; 0]);
    world.rank(Purpose::Top { worth: mib(108) });
    let held = world.ranking.row(0).unwrap().held;
    assert!(!held.straddles(mib(108)) && held.least <= mib(110), "{held:?}");
}

#[test]
fn who_does_not_compete_is_ranked_but_not_first() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(900));
    world.kernel(30, "b").holds(30, mib(500));
    world.kernel(40, "c").holds(40, mib(400)).group_of_sums().build();
    world.rank_among(TOP, |number| number != 0);
    let truth = [(20, mib(900)), (30, mib(500)), (40, mib(400))];
    check(&world, &truth, 30, SettledBy::Intervals);
    assert_eq!(world.ranking.excluded().middle(), world.ranking.row(0).unwrap().held.middle());
}

#[test]
fn two_containers_are_bounded_each_by_its_own_figures() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(400));
    world.kernel(30, "b").holds(30, mib(700)).proc(30).container = 1;
    let group = |anon| GroupMemory { anon, shmem: NO_RSS, swap: Field::Known(NO_RSS) };
    world.groups = vec![Some(group(mib(400))), Some(group(mib(700)))];
    world.build().rank(TOP);
    check(&world, &[(20, mib(400)), (30, mib(700))], 30, SettledBy::CgroupFigures);
    let sum = world.ranking.sum();
    assert!(sum.least <= mib(1100) && mib(1100) <= sum.most, "{sum:?}");
}

#[test]
fn a_thousand_processes_stay_within_the_budget() {
    let mut world = World::new();
    for root in 0..10 {
        let pid = 1_000 * (root + 1);
        world.kernel(pid, &format!("{root}.ipynb")).holds(pid, mib(100));
        for child in 1..100 {
            world.child(pid + child, pid).holds(pid + child, mib(3));
        }
    }
    world.holds(5_000, mib(5_000)).group_of_sums().build().rank(TOP);
    assert_eq!(world.order()[0], 5_000);
    assert!(world.read.len() <= 4, "{:?}", world.read);
    world.rank(Purpose::Each);
    assert!(world.read.len() <= status_budget(world.procs.len()) + 4);
}

#[test]
fn growth_is_what_surely_came_since() {
    let mut world = World::new();
    world.kernel(20, "a").holds(20, mib(900));
    world.kernel(30, "b").holds(30, mib(100)).group_of_sums().build().rank(Purpose::Each);
    let mut base = Baseline::default();
    base.take(&world.ranking);
    world.holds(30, mib(300)).kernel(40, "new").holds(40, mib(50));
    for proc in &mut world.procs {
        proc.memory = Field::Unknown(Why::NotRead);
    }
    world.group_of_sums().build().rank(Purpose::Each);
    let growth: Vec<Bytes> = world.ranking.rows().iter().map(|row| base.growth(row)).collect();
    assert_eq!(growth, [Bytes::ZERO, mib(200), mib(50)], "a, b, new");
}

proptest! {
    /// Trees whose processes hold something of their own and share something: the intervals
    /// hold the truth before and after PSS, and PSS finds the largest.
    #[test]
    fn intervals_hold_the_truth(
        trees in proptest::collection::vec(
            (0u64..500, proptest::collection::vec(0u64..300, 1..6)), 1..6),
        server in 0u64..300,
        unread in 0usize..5,
    ) {
        let mut world = World::new();
        let mut truth = Vec::new();
        let mut anon = mib(server);
        for (at, (shared, own)) in trees.iter().enumerate() {
            let root = 100 * (at as u32 + 1);
            world.kernel(root, &format!("{at}.ipynb"));
            for (child, own_mib) in own.iter().enumerate() {
                let pid = root + child as u32;
                if child > 0 {
                    world.child(pid, root);
                }
                world.holds(pid, mib(own_mib + shared));
                let pss = Bytes(mib(*own_mib).0 + mib(*shared).0 / own.len() as u64);
                world.pss.insert(pid, pss);
            }
            let total = mib(shared + own.iter().sum::<u64>());
            truth.push((root, total));
            anon = anon.plus(total);
        }
        world.holds(SERVER, mib(server)).group(anon, Bytes::ZERO).build();
        for index in 0..unread.min(world.procs.len()) {
            world.procs[index].memory = Field::Unknown(Why::TimedOut);
        }
        world.rank(TOP);
        let of = |pid: u32| truth.iter().find(|(root, _)| *root == pid).unwrap().1;
        let sum = world.ranking.sum();
        let all: Bytes = truth.iter().map(|(_, bytes)| *bytes).sum();
        prop_assert!(sum.least <= all && all <= sum.most, "{:?} {}", sum, all);
        for row in world.ranking.rows() {
            let bytes = of(row.root.pid);
            prop_assert!(row.held.least <= bytes && bytes <= row.held.most, "{:?} {}", row, bytes);
        }
        let everybody: Vec<u32> = (0..world.procs.len() as u32).collect();
        world.read_pss(&everybody);
        // A division by the number of sharers loses a few bytes for each.
        let lost = Bytes(8);
        let most = truth.iter().map(|(_, bytes)| *bytes).max().unwrap();
        let first = world.ranking.rows()[0];
        prop_assert!(of(first.root.pid).plus(lost) >= most, "{:?}", world.ranking.rows());
    }
}
