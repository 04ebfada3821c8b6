//! What is played: the sizes, the notebooks, the pace. Written to a file that the stand-ins read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// The stand-ins find their part here.
pub const ROLE: &str = "NBGUARD_DEMO_ROLE";
pub const PLAN: &str = "NBGUARD_DEMO_PLAN";
pub const NUMBER: &str = "NBGUARD_DEMO_NUMBER";

pub const CONTAINER: &str = "nbguard-demo";

/// One step of growth and the pause after it: 133 MiB/s, so that one can watch it.
const STEP: Bytes = Bytes::mib(4);
const PAUSE_MS: u64 = 30;
/// A guard that does nothing must not be paid for by the host.
const MOST_STEPS: u32 = 400;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub limit: Bytes,
    /// `cgroup.procs` of every hierarchy that the container is in.
    pub join: Vec<PathBuf>,
    /// A FIFO: everybody writes a line when ready.
    pub ready: PathBuf,
    /// Where connection files would be.
    pub runtime: PathBuf,
    pub python: Option<PathBuf>,
    pub server: Bytes,
    pub kernels: Vec<Kernel>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kernel {
    pub notebook: String,
    pub id: String,
    pub ballast: Bytes,
    pub growth: Option<Growth>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Growth {
    pub step: Bytes,
    pub pause_ms: u64,
    pub steps: u32,
    /// What a child of the kernel holds: it has to end with it.
    pub child: Bytes,
}

impl Plan {
    /// Three notebooks: one small, one that is the largest at first and holds still, and one
    /// that grows past it until memory runs short.
    pub fn new(python: Option<PathBuf>) -> Plan {
        // A real kernel has 70 MiB before it has done anything.
        let limit = if python.is_some() { Bytes::mib(768) } else { Bytes::mib(512) };
        let kernel = |notebook: &str, id: &str, mib, growth| Kernel {
            notebook: format!("/home/jovyan/{notebook}.ipynb"),
            id: format!("{id}-0000-4000-8000-6e6267756172"),
            ballast: Bytes::mib(mib),
            growth,
        };
        let growth = Growth {
            step: STEP,
            pause_ms: PAUSE_MS,
            steps: MOST_STEPS,
            child: if python.is_some() { Bytes::ZERO } else { Bytes::mib(16) },
        };
        Plan {
            limit,
            join: Vec::new(),
            ready: PathBuf::new(),
            runtime: PathBuf::new(),
            python,
            server: Bytes::mib(24),
            kernels: vec![
                kernel("report", "aaaaaaaa", 30, None),
                kernel("big-but-still", "bbbbbbbb", 120, None),
                kernel("growing", "cccccccc", 10, Some(growth)),
            ],
        }
    }

    /// The one that has to end, by its place in `kernels`.
    pub fn grows(&self) -> usize {
        self.kernels.iter().position(|kernel| kernel.growth.is_some()).unwrap_or(0)
    }

    /// The connection file of a kernel, as its argv names it.
    pub fn connection_file(&self, kernel: &Kernel) -> PathBuf {
        self.runtime.join(format!("kernel-{}.json", kernel.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_grows_is_the_largest_when_memory_runs_short() {
        for python in [None, Some(PathBuf::from("python3"))] {
            let real = python.is_some();
            let plan = Plan::new(python);
            let threshold = Bytes(plan.limit.0 / 10 * 9);
            let bare = Bytes::mib(if real { 70 } else { 1 });
            let still = |kernel: &&Kernel| kernel.growth.is_none();
            let others: Bytes =
                plan.kernels.iter().filter(still).map(|k| k.ballast.plus(bare)).sum();
            let largest = plan.kernels.iter().filter(still).map(|k| k.ballast.plus(bare)).max();
            let grown = threshold.less(others).less(plan.server);
            assert!(grown > Bytes(largest.unwrap().0 * 3 / 2), "{grown}");
            assert!(plan.kernels[plan.grows()].ballast < Bytes::mib(30));
        }
    }
}
