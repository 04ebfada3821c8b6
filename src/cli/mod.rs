//! The command `nbguard`: every option defined once, here; each command in a file of its own.
//! Commands print and return how they ended. Only those that command the daemon need it.

pub mod apps;
pub mod capture;
pub mod check;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod deny;
pub mod doc;
pub mod doctor;
pub mod exit;
pub mod files;
pub mod incidents;
pub mod inside;
pub mod look;
pub mod out;
pub mod ps;
pub mod restore;
pub mod set_memory_high;
pub mod stack;
pub mod top;
pub mod trace;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use exit::{Exit, Failure, Outcome};

/// Ends the one notebook that exhausts its container's memory, before the kernel ends the
/// wrong one.
#[derive(Parser, Debug)]
#[command(
    name = "nbguard",
    bin_name = "nbguard",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = top_help()
)]
pub struct Cli {
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Clone, Debug)]
pub struct ConfigArg {
    /// The configuration; `conf.d/*.toml` beside it is read after it
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        default_value = files::DEFAULT,
        value_hint = clap::ValueHint::FilePath
    )]
    pub config: PathBuf,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check the configuration; all that is wrong in one run
    #[command(after_help = "Examples:
  nbguard check
  nbguard check ./conf/nbguard.toml
  nbguard check --json | jq '.errors[].message'")]
    Check(check::CheckArgs),

    /// See it work, on this machine: one notebook grows, the guard ends it, the others live
    #[command(after_help = "Examples:
  sudo nbguard demo
  sudo nbguard demo --python /opt/jupyter/bin/python3

It needs root and a cgroup memory controller, no Docker. It takes about ten seconds and
touches nothing but the cgroup and the folder that it makes for itself.")]
    Demo(demo::DemoArgs),

    /// Is everything there that the guard needs? And the remedy where not
    #[command(after_help = "Examples:
  sudo nbguard doctor
  sudo nbguard doctor --json | jq '.checks[] | select(.status != \"ok\")'")]
    Doctor(doctor::DoctorArgs),

    /// Every container, its notebooks in the order of their memory, and who would end
    #[command(after_help = "Examples:
  nbguard ps
  nbguard ps --container lab
  nbguard ps --json | jq '.containers[] | {name, would}'")]
    Ps(ps::PsArgs),

    /// What processes work for: applications, what they use, and who of them is at work
    #[command(after_help = "Examples:
  sudo nbguard apps
  sudo nbguard apps --container web --resource cpu --ratio 5%
  sudo nbguard apps --json | jq '.containers[].applications[] | select(.over)'

An application is a php-fpm pool, a PHP script, an Apache with PHP in it, or a notebook. A process
is busy or idle as its tracer says or its call stack shows, else by its CPU time; what nobody can
tell is unknown.")]
    Apps(apps::AppsArgs),

    /// Propose a deny list from what stays idle for a while; changes nothing
    #[command(after_help = "Examples:
  sudo nbguard deny --learn 1h
  sudo nbguard deny --learn 10m --container web | sudo tee /etc/nbguard/conf.d/50-deny.toml

What is printed is a drop-in of the configuration, with the evidence as comments. Read it before
it is used: a process that was idle for an hour may be needed once a day.")]
    Deny(deny::DenyArgs),

    /// The same, live: containers, notebooks, pressure, incidents
    #[command(after_help = "Examples:
  nbguard top
  nbguard top --once

Keys: j k or arrows choose, Enter follows one, / filters, s sorts, i shows incidents, space holds
the picture, ? helps, q quits.")]
    Top(top::TopArgs),

    /// What was ended, what was held, and why
    #[command(after_help = "Examples:
  nbguard incidents
  nbguard incidents --last 5
  nbguard incidents --since 2h --container lab --kind kill,kernel-oom
  nbguard incidents last
  nbguard incidents 3fa85f64
  nbguard incidents --follow --json | jq .sentence")]
    Incidents(incidents::IncidentsArgs),

    /// What a PHP process calls: parameters, returns and times, while it runs or by function
    #[command(after_help = "Examples:
  sudo nbguard trace 4242
  sudo nbguard trace --app pool:www --slower 50ms
  sudo nbguard trace 4242 --filter curl_* --failed
  sudo nbguard trace 4242 --summary --for 10s
  sudo nbguard trace 4242 -o slow.data && nbguard trace --read slow.data --summary
  sudo nbguard trace --list

It needs the extension nbguard in the PHP process. What is switched on is switched off at the
end, on Ctrl-C, and by the tracer itself when this command is killed: it finds no beat for longer
than --period. So --on stays in the foreground.")]
    Trace(trace::TraceArgs),

    /// Watch and record, but end nobody: everywhere, or in one container
    #[command(after_help = "Examples:
  sudo nbguard pause --for 30m
  sudo nbguard pause lab

A pause is kept over a restart of the daemon. While it lasts the tripwire of a container that
runs short is lifted, so that it is not slowed down for nothing: the kernel's OOM killer is then
the only one left to act.")]
    Pause(control::PauseArgs),

    /// End a pause
    #[command(after_help = "Examples:
  sudo nbguard resume
  sudo nbguard resume lab")]
    Resume(control::ResumeArgs),

    /// Never end this container, or this notebook
    #[command(after_help = "Examples:
  sudo nbguard protect thesis.ipynb --for 2h
  sudo nbguard protect lab:work/thesis.ipynb
  sudo nbguard protect 4242
  sudo nbguard protect lab
  sudo nbguard protect --list

A notebook stays protected when its kernel is restarted: by its path in this container and under
this user, or by its kernel's id where it has no path. Protections end with their container, and
are kept over a restart of the daemon.")]
    Protect(control::ProtectArgs),

    /// Take a protection back
    #[command(after_help = "Examples:
  sudo nbguard unprotect thesis.ipynb
  sudo nbguard unprotect lab")]
    Unprotect(control::UnprotectArgs),

    /// What a PHP or Python process is running, from outside: it is not stopped, and nothing is
    /// loaded into it
    #[command(after_help = "Examples:
  sudo nbguard stack 4242
  sudo nbguard stack 4242 --json | jq '.threads[0].frames[].function'
  sudo nbguard stack 4242 --repeat 10ms --count 100
  sudo nbguard stack 4242 --watch memory --watch '$total'

Reading another process takes CAP_SYS_PTRACE. A place is, in PHP as in its own backtraces, where
the function was called; in Python where the function stands.")]
    Stack(stack::StackArgs),

    /// Write what the guard sees of this host into a directory, for a bug report
    #[command(after_help = "Examples:
  sudo nbguard capture ./case
  sudo nbguard capture --container lab --hash-names ./case

Arguments and environments are redacted: only what tells notebooks from other processes
is kept.")]
    Capture(capture::CaptureArgs),

    /// Put back every memory.high that the guard changed, and thaw what it froze
    #[command(after_help = "Examples:
  systemctl stop nbguard && nbguard restore
  nbguard restore --state /run/nbguard/state.json")]
    Restore(restore::RestoreArgs),

    /// The daemon, from this binary (`nbguardd` is the one for service units)
    #[command(hide = true, disable_help_flag = true)]
    Daemon(daemon::Passed),

    /// Documents made from the lists they describe
    #[command(hide = true)]
    Doc(doc::DocArgs),

    /// Set MemoryHigh= of units as runtime properties (the daemon calls this)
    #[command(hide = true)]
    SetMemoryHigh(set_memory_high::SetMemoryHighArgs),
}

fn top_help() -> String {
    format!(
        "Examples:
  sudo nbguard demo                  see it work, on this machine
  sudo nbguard doctor                is everything there that it needs?
  nbguard check                      is the configuration right?
  nbguard ps                         who would end now, and why
  nbguard incidents last             what happened last, and why

{}",
        exit::help().trim_end()
    )
}

/// `nbguard`, from its arguments to its exit code.
pub fn main() -> ExitCode {
    // The demo's stand-ins are this binary under other names, and with other arguments.
    if let Some(role) = std::env::var_os(demo::ROLE) {
        return demo::actors::main(&role);
    }
    run(Cli::parse()).into()
}

fn run(cli: Cli) -> Exit {
    let stdout = io::stdout();
    let mut out = BufWriter::new(stdout.lock());
    let outcome = dispatch(cli, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            // What was printed before the failure belongs before its message.
            let _ = out.flush();
            report(&failure);
            failure.exit()
        }
    }
}

fn report(failure: &Failure) {
    if !matches!(failure, Failure::NobodyListens) {
        let _ = writeln!(io::stderr(), "nbguard: {failure}");
    }
}

fn dispatch(cli: Cli, out: &mut dyn Write) -> Outcome {
    let config = &cli.config.config;
    match cli.command {
        Command::Check(args) => check::run(config, &args, out),
        Command::Demo(args) => demo::run(&args, out),
        Command::Doc(args) => doc::run(&args, out),
        Command::Doctor(args) => doctor::run(config, &args, out),
        Command::Ps(args) => ps::run(config, &args, out),
        Command::Apps(args) => apps::run(config, &args, out),
        Command::Deny(args) => deny::run(config, &args, out),
        Command::Top(args) => top::run(config, &args, out),
        Command::Incidents(args) => incidents::run(config, &args, out),
        Command::Trace(args) => trace::run(&args, out),
        Command::Pause(args) => control::pause(config, &args, out),
        Command::Resume(args) => control::resume(config, &args, out),
        Command::Protect(args) => control::protect(config, &args, out),
        Command::Unprotect(args) => control::unprotect(config, &args, out),
        Command::Capture(args) => capture::run(config, &args, out),
        Command::Stack(args) => stack::run(&args, out),
        Command::Restore(args) => restore::run(config, &args, out),
        Command::Daemon(passed) => Ok(daemon::run(config, passed)),
        Command::SetMemoryHigh(args) => set_memory_high::run(&args, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_public_command_has_a_summary_and_an_example_that_parses() {
        let command = Cli::command();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let name = sub.get_name();
            assert!(sub.get_about().is_some(), "{name}");
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> =
                help.lines().filter_map(|line| line.trim().split("nbguard ").nth(1)).collect();
            assert!(!examples.is_empty(), "{name} has no example");
            for example in examples {
                let words = example.split(" | ").next().unwrap_or(example).split_whitespace();
                // As a shell would.
                let words = words.map(|word| word.trim_matches('\''));
                let line = std::iter::once("nbguard").chain(words.take_while(|w| *w != "&&"));
                if !example.starts_with("nbguard") && example.starts_with(name) {
                    Cli::try_parse_from(line).unwrap_or_else(|e| panic!("{example}: {e}"));
                }
            }
        }
    }

    #[test]
    fn help_carries_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        for (exit, meaning) in exit::TABLE {
            assert!(help.contains(meaning), "{exit:?}");
        }
    }
}
