//! Pausing and protecting, from the command to who lives: the real daemon, its control socket,
//! and the commands as people type them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nbguard::report::Kind;
use nbguard::units::Bytes;
use serde_json::Value;

use crate::binary;
use crate::daemon::{House, ground, is_kill, start};
use crate::ground::{Container, alone, eventually};
use crate::notebooks::Server;
use crate::skip;

const LIMIT: Bytes = Bytes::mib(256);
/// 90 % of it, and a little.
const PRESSED: Bytes = Bytes::mib(236);
const NOBODY: u32 = 65534;

fn nbguard(house: &House, words: &[&str]) -> Output {
    let mut command = Command::new(binary("nbguard"));
    command.args(words).arg("--config").arg(house.config());
    command.stdin(Stdio::null()).env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command printed; it must have gone well.
#[track_caller]
fn done(house: &House, words: &[&str]) -> String {
    let output = nbguard(house, words);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{words:?}\n{out}{err}{}", house.log());
    out
}

/// What it complained of; it must have been refused.
#[track_caller]
fn refused(house: &House, words: &[&str]) -> String {
    let output = nbguard(house, words);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{words:?}\n{out}{err}");
    err
}

fn orders(house: &House) -> Vec<Value> {
    let text = done(house, &["protect", "--list", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    report["orders"].as_array().unwrap().clone()
}

fn socket(house: &House) -> UnixStream {
    let socket = UnixStream::connect(house.folder.path("state/control.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn answer(mut socket: &UnixStream) -> Value {
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "one line, then it is closed: {text:?}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_protected_notebook_lives_and_the_next_one_ends() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "protected");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 3, 1);
    let [small, large, growing] = &server.notebooks[..] else { unreachable!() };
    let daemon = start(&house);
    let said = done(&house, &["protect", "1.ipynb", "--for", "2h"]);
    assert!(said.contains(&large.path) && said.contains(&container.name()), "{said}");
    assert!(said.contains("by uid 0") && said.contains("until 20"), "{said}");
    house.told("ordered: protected", 0);
    small.grow(Bytes::mib(30));
    large.grow(Bytes::mib(110));
    growing.grow_to(&container, PRESSED);
    let incident = house.record("a kill", is_kill);
    growing.wait_dead();
    let victim = incident.victim.as_ref().unwrap();
    assert_eq!(victim.notebook.as_deref(), Some(growing.path.as_str()));
    assert!(large.is_alive() && small.is_alive() && server.is_alive());
    let row = incident.rows.iter().find(|row| row.pid == large.pid).unwrap();
    assert_eq!(row.eligible, "protected-by-command");
    assert!(row.because.contains("by uid 0") && row.because.contains(" until "), "{row:?}");
    let ps = done(&house, &["ps", "--container", &container.name()]);
    assert!(ps.contains("protected-by-command"), "{ps}");
    let said = done(&house, &["unprotect", &large.pid.to_string()]);
    assert!(said.contains(&large.path), "{said}");
    assert_eq!(orders(&house), Vec::<Value>::new());
    assert!(daemon.stop().success());
}

#[test]
fn paused_it_holds_and_says_by_whom_and_resumed_it_ends_the_one() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "paused");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 2, 0);
    let [small, large] = &server.notebooks[..] else { unreachable!() };
    let daemon = start(&house);
    for words in [&["pause"][..], &["pause", &container.name(), "--for", "1h"]] {
        done(&house, words);
    }
    small.grow(Bytes::mib(20));
    large.grow_to(&container, PRESSED);
    let held = house.record("a hold", |incident| incident.reason == "paused");
    assert_eq!(held.kind, Kind::Hold);
    assert!(held.sentence.contains("Paused by uid 0"), "{}", held.sentence);
    assert!(
        held.sentence.contains(&format!("Otherwise: Ends {}", large.path)),
        "{}",
        held.sentence
    );
    assert!(held.victim.is_none());
    assert!(container.high().is_none_or(|high| high == "max"), "nobody is slowed down for nothing");
    let ps = done(&house, &["ps", "--container", &container.name()]);
    assert!(ps.contains("the guard is paused, by uid 0") && ps.contains("Ends nobody"), "{ps}");
    let one = refused(&house, &["resume", "no-such-container"]);
    assert!(one.contains(&container.name()), "the candidates are named: {one}");
    let said = done(&house, &["resume", &container.name()]);
    assert!(said.contains("the whole guard is paused"), "{said}");
    assert!(large.is_alive(), "it still is");
    done(&house, &["resume"]);
    house.record("a kill", is_kill);
    large.wait_dead();
    assert!(small.is_alive() && server.is_alive());
    assert!(daemon.stop().success());
}

#[test]
fn orders_outlive_a_restart_and_a_crash_and_end_with_their_container() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "kept");
    let (first, second) = (house.container(&ground, LIMIT), house.container(&ground, LIMIT));
    let server = Server::start(&first, 2, 0);
    let daemon = start(&house);
    done(&house, &["protect", &format!("{}:0.ipynb", first.name())]);
    done(&house, &["protect", &server.notebooks[1].pid.to_string()]);
    done(&house, &["protect", &second.id]);
    done(&house, &["pause", &second.name(), "--for", "1s"]);
    let kept = |house: &House| {
        let mut list = orders(house);
        list.retain(|order| order["what"] == "protect");
        list
    };
    let before = kept(&house);
    assert_eq!(before.len(), 3, "{before:?}");
    daemon.kill();
    let daemon = start(&house);
    assert_eq!(kept(&house), before, "after a crash");
    assert!(daemon.stop().success());
    let gone = refused(&house, &["protect", "--list"]);
    assert!(gone.contains("not running") || gone.contains("does not listen"), "{gone}");
    let daemon = start(&house);
    assert_eq!(kept(&house), before, "after a restart");
    eventually("the pause runs out", || (orders(&house).len() == 3).then_some(()));
    house.told("no longer in force: paused", 0);
    second.remove();
    eventually("what is gone is dropped", || (orders(&house).len() == 2).then_some(()));
    drop(server);
    assert!(daemon.stop().success());
    first.remove();
    let from = house.log().len();
    let daemon = start(&house);
    assert_eq!(orders(&house), Vec::<Value>::new(), "{}", house.log());
    house.told("no longer in force: protected", from);
    assert!(daemon.stop().success());
}

#[test]
fn what_is_called_so_twice_or_not_at_all_is_told_with_what_could_be_meant() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "names");
    let (first, second) = (house.container(&ground, LIMIT), house.container(&ground, LIMIT));
    let (one, other) = (Server::start(&first, 1, 1), Server::start(&second, 1, 0));
    let daemon = start(&house);
    let told = refused(&house, &["protect", "0.ipynb"]);
    for meant in [&first.name(), &second.name(), &one.notebooks[0].pid.to_string()] {
        assert!(told.contains(meant.as_str()), "{meant} in {told}");
    }
    let told = refused(&house, &["pause", &first.id[..12]]);
    assert!(told.contains("more than one") && told.contains(&second.name()), "{told}");
    let told = refused(&house, &["protect", "nothing.ipynb"]);
    assert!(told.contains("nothing.ipynb") && told.contains("nbguard ps"), "{told}");
    let told = refused(&house, &["protect", &one.pid().to_string()]);
    assert!(told.contains("part of no notebook"), "{told}");
    let told = refused(&house, &["protect", &std::process::id().to_string()]);
    assert!(told.contains("in no watched container"), "{told}");
    let told = refused(&house, &["unprotect", &other.notebooks[0].pid.to_string()]);
    assert!(told.contains("not protected by command"), "{told}");
    // Any process of it will do.
    let child = first.pids().into_iter().max().unwrap();
    let said = done(&house, &["protect", &child.to_string()]);
    assert!(said.contains(&one.notebooks[0].path), "{said}");
    done(&house, &["protect", &second.name()]);
    let told = refused(&house, &["unprotect", &other.notebooks[0].pid.to_string()]);
    assert!(told.contains("protected with its container"), "{told}");
    let list = done(&house, &["protect", "--list"]);
    assert!(list.contains("CONTAINER") && list.contains(&one.notebooks[0].path), "{list}");
    assert!(daemon.stop().success());
}

#[test]
fn whoever_is_slow_talkative_or_not_root_is_told_and_costs_nothing_lasting() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "control");
    let _container: Container = house.container(&ground, LIMIT);
    let mut daemon = start(&house);
    assert_eq!(orders(&house), Vec::<Value>::new());
    let before = daemon.descriptors();
    for (sent, complaint) in [
        (&b"nonsense\n"[..], "no request"),
        (b"{\"do\":\"kill\"}\n", "kill"),
        (b"\xff\xfe\n", "no request"),
        (b"{\"do\":\"protect\",\"target\":\"\"}\n", "called"),
        (b"{\"do\":\"protect\",\"target\":\"\\u001b[2J\"}\n", "\\x1b[2J"),
    ] {
        let socket = socket(&house);
        (&socket).write_all(sent).unwrap();
        let said = answer(&socket);
        assert_eq!(said["ok"], false, "{said}");
        assert!(said["said"].as_str().unwrap().contains(complaint), "{complaint} in {said}");
    }
    let long = socket(&house);
    // It may close before all of it is there.
    let _ = (&long).write_all(&vec![b'x'; 70 << 10]);
    let mut line = String::new();
    let _ = BufReader::new(&long).read_line(&mut line);
    assert!(line.is_empty() || line.contains("too long"), "{line}");
    // The last word needs no newline.
    let last = socket(&house);
    (&last).write_all(b"{\"do\":\"list\"}").unwrap();
    last.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(answer(&last)["ok"], true);

    let began = Instant::now();
    let silent: Vec<UnixStream> = (0..4).map(|_| socket(&house)).collect();
    // They are taken in the order in which they came.
    let fifth = socket(&house);
    assert!(answer(&fifth)["said"].as_str().unwrap().contains("too many"));
    for mut one in silent {
        assert_eq!(one.read(&mut [0]).unwrap(), 0, "it is closed");
    }
    assert!(began.elapsed() >= Duration::from_millis(1900), "not before its time");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("nothing is left", || (daemon.descriptors() <= before).then_some(()));
    assert!(daemon.is_running());
    done(&house, &["protect", "--list"]);

    let mut command = Command::new(binary("nbguard"));
    command
        .args(["pause", "--config"])
        .arg(house.config())
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/");
    match command.output() {
        Err(error) => skip(error),
        Ok(output) => {
            let err = text(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{err}");
            assert!(err.contains("only root"), "{err}");
        }
    }
    assert_eq!(orders(&house), Vec::<Value>::new());
    assert!(daemon.stop().success());
    assert!(!house.folder.path("state/control.sock").exists(), "it goes with the daemon");
}

/// What `top` shows is what the daemon says, where one answers.
#[test]
fn top_shows_what_the_daemon_knows() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "top");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 2, 0);
    let daemon = start(&house);
    if !house.folder.path("http.sock").exists() {
        return skip("this daemon has no HTTP socket");
    }
    server.notebooks[1].grow(Bytes::mib(60));
    done(&house, &["protect", "1.ipynb"]);
    let text = done(&house, &["top", "--once"]);
    assert!(text.contains(" guarded ") && !text.contains("NOT GUARDED"), "{text}");
    assert!(text.contains(&container.name()[..20]) && text.contains("1.ipynb"), "{text}");
    assert!(text.contains("protected"), "{text}");
    assert!(daemon.stop().success());
    let text = done(&house, &["top", "--once"]);
    assert!(text.contains("NOT GUARDED") && text.contains("does not answer"), "{text}");
}
