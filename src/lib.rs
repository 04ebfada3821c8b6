//! nbguard: ends the one notebook that exhausts its container's memory.
//!
//! The daemon sleeps in the kernel until a container is short of memory, finds the notebook that
//! holds the most, ends exactly that one with all its processes, and writes down why. What
//! happens on the way, and in which module:
//!
//! ```text
//!  memory.events, PSI, v1 threshold, pidfd, inotify, signal, deadline
//!        │
//!        ▼ event
//!  reactor ── one mio loop; nothing in it waits
//!        │ Input                        ▲ Input: what came of it
//!        ▼                              │
//!  policy::episode ── state machine of one container, pure
//!        │ Effect                       │
//!        ▼                              │
//!  reactor::effects ── carries it out ──┘
//!     Look      host::group → policy::decide (the gate: is it really short?)
//!     Identify  runtime::jupyter, on the helper thread (who is a notebook?)
//!     Rank      host::procs → policy::tree → policy::rank → policy::decide (who, or why nobody)
//!     Ask       the helper thread, with a deadline
//!     Kill      looks again, then act::kill: pidfds, start times, signals
//!     Tell      reactor::message → act::message: a line into the notebook's own standard error
//!     Sweep     reactor::ending: children forked meanwhile, until everybody is dead
//!     Tripwire  act::tripwire: memory.high at the warning step, at the threshold, or lifted
//!     Report    reactor::record → report, policy::explain → observe, on the writer thread
//! ```
//!
//! A container is at one of three steps. At the *warning* step `memory.high` stands at 80 % of the
//! limit: crossing it costs nobody anything, and the guard reads who is who while reading is
//! cheap. At the *last call*, 85 %, the notebook that would end is told so while it can still be
//! shown; without messages there is no such step. At the *threshold*, 90 %, crossing opens an
//! episode, in which a notebook ends, or nobody does, for a reason with a name. The PSI trigger is
//! the second witness.
//!
//! A module knows those of a lower rank, and those of its own, except in rank 3. `tests/it/layers.rs`
//! fails on an edge upwards.
//!
//! | rank | modules | may |
//! |---|---|---|
//! | 0 | [`units`] [`ids`] [`facts`] [`report`] | be values |
//! | 1 | [`policy`] [`parse`] [`config`] | turn values into values; `now` is an argument |
//! | 2 | [`sys`] [`roots`] | make one system call; know where `/proc` is. Only `sys` is unsafe |
//! | 3 | [`host`] [`runtime`] [`act`] [`trace`] [`observe`] | read; recognise; kill and move; read tracers and interpreters; format and write |
//! | 4 | [`reactor`] | wait for events, and log |
//! | 5 | [`cli`] and `src/bin` | talk to people |

#[allow(unsafe_code)]
pub mod sys;

#[forbid(unsafe_code)]
pub mod act;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod facts;
#[forbid(unsafe_code)]
pub mod host;
#[forbid(unsafe_code)]
pub mod ids;
#[forbid(unsafe_code)]
pub mod observe;
#[forbid(unsafe_code)]
pub mod parse;
#[forbid(unsafe_code)]
pub mod policy;
#[forbid(unsafe_code)]
pub mod reactor;
#[forbid(unsafe_code)]
pub mod report;
#[forbid(unsafe_code)]
pub mod roots;
#[forbid(unsafe_code)]
pub mod runtime;
#[forbid(unsafe_code)]
pub mod trace;
#[forbid(unsafe_code)]
pub mod units;
