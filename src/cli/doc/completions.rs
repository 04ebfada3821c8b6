//! Completions for bash, zsh and fish, from the definition of the command line and from the list of
//! the daemon's options. What is hidden from `--help` is hidden from them.

use clap::{Arg, ArgAction, Command, CommandFactory, ValueHint};
use clap_complete::Shell;

use super::Program;
use crate::cli::{Cli, daemon};

pub fn text(shell: Shell, program: Program) -> String {
    let mut command = match program {
        Program::Nbguard => shown(&Cli::command()),
        Program::Nbguardd => of_daemon(),
    };
    let name = command.get_name().to_owned();
    let mut made = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut made);
    String::from_utf8_lossy(&made).into_owned()
}

/// As the shell looks for it in its directory.
pub fn file(shell: Shell, program: Program) -> String {
    let name = match program {
        Program::Nbguard => "nbguard",
        Program::Nbguardd => "nbguardd",
    };
    match shell {
        Shell::Zsh => format!("_{name}"),
        Shell::Fish => format!("{name}.fish"),
        Shell::Elvish => format!("{name}.elv"),
        Shell::PowerShell => format!("_{name}.ps1"),
        _ => name.to_owned(),
    }
}

/// The command without what is hidden; clap_complete would offer that.
fn shown(full: &Command) -> Command {
    let arguments = full.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().map(hinted);
    let commands = full.get_subcommands().filter(|command| !command.is_hide_set()).map(shown);
    // clap wants names that last as long as the program, which ends when this is printed.
    let mut command = Command::new(&*full.get_name().to_owned().leak())
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(arguments)
        .subcommands(commands);
    if let Some(about) = full.get_about() {
        command = command.about(about.clone());
    }
    command
}

/// Only what is a file is completed with files.
fn hinted(arg: Arg) -> Arg {
    if !arg.get_action().takes_values() {
        return arg;
    }
    let takes = arg.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    let takes = takes.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    arg.value_hint(match takes.as_str() {
        "FILE" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        "PYTHON" => ValueHint::ExecutablePath,
        _ => ValueHint::Other,
    })
}

fn of_daemon() -> Command {
    let options = daemon::OPTIONS.iter().map(|option| {
        let arg = Arg::new(option.long).long(option.long).help(option.meaning);
        let arg = match option.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        match option.value {
            Some(name) => hinted(arg.value_name(name).action(ArgAction::Set)),
            None => arg.action(ArgAction::SetTrue),
        }
    });
    Command::new("nbguardd").disable_help_flag(true).disable_version_flag(true).args(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

    #[test]
    fn every_public_option_is_completed_and_no_hidden_command() {
        for shell in SHELLS {
            let made = text(shell, Program::Nbguard);
            let mut full = Cli::command();
            full.build();
            for command in full.get_subcommands() {
                let name = command.get_name();
                if command.is_hide_set() {
                    for mark in
                        [format!("nbguard,{name})"), format!("'{name}:"), format!("-a \"{name}\"")]
                    {
                        assert!(!made.contains(&mark), "{shell}: {mark}");
                    }
                    continue;
                }
                assert!(made.contains(name), "{shell}: {name}");
                for option in command.get_opts().filter(|option| !option.is_hide_set()) {
                    let long = option.get_long().unwrap_or_default();
                    assert!(made.contains(long), "{shell}: {name} --{long}");
                }
            }
            for hidden in ["set-memory-high", "only-cgroup", "--root", "-l root"] {
                assert!(!made.contains(hidden), "{shell}: {hidden}");
            }
            let made = text(shell, Program::Nbguardd);
            assert!(daemon::OPTIONS.iter().all(|option| made.contains(option.long)), "{shell}");
        }
    }
}
