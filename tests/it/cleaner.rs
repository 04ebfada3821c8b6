//! `idle-first` on this machine's kernel: the daemon as a child, notebooks that work, and processes
//! that belong to nothing, some of which a deny list names.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nbguard::report::{Incident, Kind, Row};
use nbguard::units::Bytes;
use serde_json::Value;

use crate::binary;
use crate::daemon::{House, ground, is_kill, start};
use crate::ground::{Container, Folder, alone, eventually};
use crate::notebooks::{Server, Stranger, joining};
use crate::skip;

const LIMIT: Bytes = Bytes::mib(256);
/// Above 80 % of it.
const WARNED: Bytes = Bytes::mib(210);
/// A little more than `idle_for` in these tests.
const IDLE: Duration = Duration::from_millis(1_200);
/// 90 % of it, and a little, so that the kernel's batches do not hide the crossing.
const PRESSED: Bytes = Bytes::mib(236);

fn victims(house: &House) -> Vec<u32> {
    let kills = house.records().into_iter().filter(is_kill);
    kills.filter_map(|incident| Some(incident.victim?.pid)).collect()
}

fn ps(house: &House, container: &Container) -> Value {
    let out = Command::new(binary("nbguard"))
        .arg("ps")
        .arg("--config")
        .arg(house.config())
        .args(["--json", "--container", &container.name()])
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    json["containers"][0].clone()
}

#[test]
fn a_denied_hog_ends_and_the_notebook_that_works_goes_on() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "deny");
    // So are the children of notebooks called: they belong to somebody.
    house.configure("policy = \"idle-first\"\ndeny = [\"tail\"]");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 1, 0);
    let notebook = &server.notebooks[0];
    let hog = Stranger::start(&container);
    let daemon = start(&house);
    notebook.grow(Bytes::mib(40));
    hog.grow_to(&container, PRESSED);
    hog.wait_dead();
    let incident = house.record("a kill", is_kill);
    assert!(notebook.is_alive() && server.is_alive());
    assert_eq!(container.oom_kills(), 0, "the kernel's own killer acted");
    assert_eq!((incident.reason.as_str(), incident.domain.as_str()), ("deny-list", "container"));
    let victim = incident.victim.as_ref().unwrap();
    assert_eq!((victim.pid, victim.name.as_str(), victim.signalled), (hog.pid, "tail", 1));
    assert_eq!(victim.signals, ["KILL"]);
    check_cleaning(&incident, &notebook.path, hog.pid);
    assert!(incident.freed.unwrap() >= Bytes::mib(120), "{:?}", incident.freed);
    assert_eq!(victims(&house), [hog.pid], "that was enough");
    assert!(daemon.stop().success());
}

fn check_cleaning(incident: &Incident, notebook: &str, hog: u32) {
    let first = &incident.rows[0];
    assert_eq!((first.pid, first.listed.as_deref()), (hog, Some("deny tail")), "{first:?}");
    assert_eq!(first.application, None, "it works for nobody");
    let row = incident.rows.iter().find(|row| row.notebook.as_deref() == Some(notebook)).unwrap();
    assert_eq!(row.eligible, "activity-unknown", "{row:?}");
    let cleaning = incident.cleaning.as_ref().unwrap();
    assert_eq!((cleaning.resource.as_str(), cleaning.ratio), ("memory", 0.02));
    let before = cleaning.important.as_ref().unwrap();
    let after = cleaning.after.as_ref().expect("it was measured again");
    assert_eq!((before.name.as_str(), after.name.as_str()), (notebook, notebook));
    for share in [before.memory_share, after.memory_share] {
        assert!((0.1..0.5).contains(&share.unwrap()), "{cleaning:?}");
    }
    assert_eq!(cleaning.first.as_ref(), Some(&incident.id));
    assert_eq!((cleaning.number, cleaning.candidates, cleaning.needed), (1, 1, 1));
    for words in ["on the deny list", notebook, "goes on", "the ratio is 2 %"] {
        assert!(incident.sentence.contains(words), "{}", incident.sentence);
    }
}

/// The source system's example: a1, a2, b1 and b2 are on the list, a1 and b2 run.
#[test]
fn of_a_list_exactly_those_end_that_run_each_with_a_record_of_its_own() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "all");
    let deny = "deny = [\"a1\", \"a2\", \"b1\", \"b2\"]";
    house.configure(&format!("policy = \"idle-first\"\nclear = \"all\"\n{deny}"));
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 1, 0);
    let [a1, b2, other] = ["a1", "b2", "c1"].map(|name| Stranger::called(&container, name));
    a1.grow(Bytes::mib(40));
    b2.grow(Bytes::mib(10));
    other.grow(Bytes::mib(10));
    let daemon = start(&house);
    server.notebooks[0].grow_to(&container, PRESSED);
    for ended in [&a1, &b2] {
        ended.wait_dead();
    }
    eventually("both are on record", || (victims(&house).len() == 2).then_some(()));
    assert!(other.is_alive() && server.notebooks[0].is_alive() && server.is_alive());
    let records: Vec<Incident> = house.records().into_iter().filter(is_kill).collect();
    // The first alone was enough; the other follows because all are to end.
    assert_eq!(victims(&house), [a1.pid, b2.pid], "of two as idle as each other the larger first");
    assert_ne!(records[0].id, records[1].id);
    for (number, record) in (1..).zip(&records) {
        let cleaning = record.cleaning.as_ref().unwrap();
        assert_eq!((cleaning.first.as_ref(), cleaning.number), (Some(&records[0].id), number));
        assert_eq!(record.reason, "deny-list");
    }
    assert_eq!(container.oom_kills(), 0);
    assert!(daemon.stop().success());
}

#[test]
fn a_dry_run_and_ps_say_who_would_go_in_which_order_and_why() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "would");
    house.configure("policy = \"idle-first\"\ndeny = [\"a?\"]\nallow = [\"a2\"]");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 1, 0);
    let [small, large, allowed] = ["a1", "a3", "a2"].map(|name| Stranger::called(&container, name));
    small.grow(Bytes::mib(10));
    large.grow(Bytes::mib(20));
    let daemon = house.start(&binary("nbguardd"), &["--dry-run"]);
    server.notebooks[0].grow_to(&container, PRESSED);
    let incident = house.record("what would have been done", is_kill);
    assert!(incident.dry_run);
    assert_eq!(incident.victim.as_ref().map(|victim| victim.pid), Some(large.pid));
    let pids: Vec<u32> = incident.rows.iter().map(|row| row.pid).take(2).collect();
    assert_eq!(pids, [large.pid, small.pid]);
    assert!(incident.rows[1].because.contains("goes as number 2"), "{}", incident.rows[1].because);
    assert!(small.is_alive() && large.is_alive() && allowed.is_alive());
    let seen = ps(&house, &container);
    assert_eq!(seen["would"]["end"], large.pid, "{seen:#}");
    assert_eq!(seen["would"]["reason"], "deny-list");
    assert_eq!(seen["cleaning"]["important"]["name"], server.notebooks[0].path.as_str());
    let rows = seen["rows"].as_array().unwrap();
    assert_eq!((&rows[0]["pid"], &rows[0]["listed"]), (&large.pid.into(), &"deny a?".into()));
    assert!(rows.iter().all(|row| row["pid"] != allowed.pid), "nothing makes it a workload");
    house.configure("policy = \"idle-first\"");
    let seen = ps(&house, &container);
    assert_eq!(seen["would"]["reason"], "activity-unknown", "{seen:#}");
    assert_eq!(seen["rows"].as_array().unwrap().len(), 1, "without a list they are nobody's");
    assert!(daemon.stop().success());
}

#[test]
fn where_nobody_uses_more_than_the_ratio_nobody_ends() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let house = House::new(&ground, "nobody");
    house.configure("policy = \"idle-first\"\ndeny = [\"tail\"]");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 1, 0);
    let hog = Stranger::start(&container);
    let daemon = start(&house);
    hog.grow_to(&container, PRESSED);
    let incident = house.record("a hold", |incident| incident.kind == Kind::Hold);
    assert_eq!(incident.reason, "no-application-over-ratio", "{}", incident.sentence);
    assert!(hog.is_alive() && server.is_alive());
    assert!(daemon.stop().success());
}

const FPM: &str = "/usr/sbin/php-fpm8.2";
const CLIENT: &str = "/usr/bin/cgi-fcgi";
/// Holds so many MiB for so many milliseconds.
const SCRIPT: &str = r#"<?php
[$mib, $ms] = explode(",", $_SERVER["QUERY_STRING"]);
$held = str_repeat("x", $mib << 20);
usleep($ms * 1000);
echo "done ", strlen($held) >> 20;
"#;

/// A master with two pools of two workers each.
struct Fpm {
    master: Child,
    folder: Folder,
}

impl Fpm {
    fn start(container: &Container) -> Fpm {
        let folder = Folder::new("fpm");
        let path = |name: &str| folder.path(name).display().to_string();
        let pool = |name: &str| {
            format!(
                "[{name}]\nuser = www-data\ngroup = www-data\nlisten = {}\npm = static\n\
                 pm.max_children = 2\nphp_admin_value[memory_limit] = -1\n",
                path(&format!("{name}.sock"))
            )
        };
        let global = format!("[global]\nerror_log = {}\n", path("log"));
        fs::write(path("conf"), global + &pool("www") + &pool("batch")).unwrap();
        fs::write(path("hold.php"), SCRIPT).unwrap();
        let start = format!("exec {FPM} -F -y {}", path("conf"));
        let master = joining(container, &start).stdin(Stdio::null()).spawn().unwrap();
        let fpm = Fpm { master, folder };
        eventually("the pools are there", || {
            (["www", "batch"].iter().all(|pool| workers(container, pool).len() == 2)).then_some(())
        });
        fpm
    }

    /// A request that is under way.
    fn ask(&self, pool: &str, mib: u64, ms: u64) -> Child {
        Command::new(CLIENT)
            .args(["-bind", "-connect"])
            .arg(self.folder.path(&format!("{pool}.sock")))
            .env("SCRIPT_FILENAME", self.folder.path("hold.php"))
            .env("QUERY_STRING", format!("{mib},{ms}"))
            .env("REQUEST_METHOD", "GET")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Fpm {
    fn drop(&mut self) {
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}

/// By their titles.
fn workers(container: &Container, pool: &str) -> Vec<u32> {
    let title = format!("php-fpm: pool {pool}");
    let is_one = |pid: &u32| {
        let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&text).trim_end_matches([' ', '\0']) == title
    };
    container.pids().into_iter().filter(is_one).collect()
}

fn answer(child: Child) -> String {
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

#[test]
fn a_worker_of_a_denied_pool_finishes_its_request_before_it_ends() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    if let Some(missing) = [FPM, CLIENT].into_iter().find(|path| !Path::new(path).exists()) {
        return skip(format!("no {missing}"));
    }
    let house = House::new(&ground, "fpm");
    house.configure("policy = \"idle-first\"\ndeny = [\"app:pool:batch\"]");
    let container = house.container(&ground, LIMIT);
    let fpm = Fpm::start(&container);
    let before = ["www", "batch"].map(|pool| workers(&container, pool));
    let daemon = start(&house);
    let important = fpm.ask("www", 40, 8_000);
    eventually("it holds that", || (container.usage() >= Bytes::mib(40)).then_some(()));
    let mib = PRESSED.less(container.usage()).0 >> 20;
    let asked = fpm.ask("batch", mib, 4_000);
    let incident = house.record("a kill", is_kill);
    assert!(answer(asked).ends_with(&format!("done {mib}")), "the request is whole");
    let victim = incident.victim.as_ref().unwrap();
    assert!(before[1].contains(&victim.pid), "{victim:?}");
    assert_eq!(victim.signals, ["QUIT"], "it went by itself");
    let row = incident.rows.iter().find(|row| row.pid == victim.pid).unwrap();
    assert_eq!(row.application.as_deref(), Some("pool:batch"));
    assert_eq!(row.listed.as_deref(), Some("deny app:pool:batch"));
    let important_app = incident.cleaning.as_ref().unwrap().important.as_ref().unwrap();
    assert_eq!(important_app.name, "pool:www");
    assert!(incident.freed.unwrap() >= Bytes::mib(100), "{:?}", incident.freed);
    // The pool has as many workers as before, one of them new; the other pool lost nobody.
    eventually("another is there", || (workers(&container, "batch").len() == 2).then_some(()));
    assert_eq!(workers(&container, "www"), before[0]);
    assert!(answer(important).ends_with("done 40"));
    assert_eq!((victims(&house), container.oom_kills()), (vec![victim.pid], 0));
    assert!(daemon.stop().success());
}

const APACHE: &str = "/usr/sbin/apache2";
const MODULES: &str = "/usr/lib/apache2/modules";

/// An Apache with Debian's PHP in it, and three children.
struct Apache {
    master: Child,
    folder: Folder,
    port: u16,
}

impl Apache {
    fn start(container: &Container) -> Apache {
        let folder = Folder::new("apache");
        let dir = folder.path("").display().to_string();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = format!(
            "ServerRoot {dir}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile {dir}/pid\n\
             ErrorLog {dir}/log\nUser www-data\nGroup www-data\nDocumentRoot {dir}\n\
             LoadModule mpm_prefork_module {MODULES}/mod_mpm_prefork.so\n\
             LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
             LoadModule php_module {MODULES}/libphp8.2.so\n\
             StartServers 3\nMinSpareServers 2\nMaxSpareServers 4\nMaxRequestWorkers 6\n\
             php_admin_value memory_limit -1\n\
             <FilesMatch \"\\.php$\">\nSetHandler application/x-httpd-php\n</FilesMatch>\n"
        );
        fs::write(folder.path("conf"), conf).unwrap();
        fs::write(folder.path("hold.php"), SCRIPT).unwrap();
        let start = format!("exec {APACHE} -d {dir} -f {dir}/conf -DFOREGROUND");
        let master = joining(container, &start).stdin(Stdio::null()).spawn().unwrap();
        let apache = Apache { master, folder, port };
        eventually("it has children", || (apache.children(container).len() >= 3).then_some(()));
        apache
    }

    fn children(&self, container: &Container) -> Vec<u32> {
        let is_child = |pid: &u32| {
            let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            text.starts_with(APACHE.as_bytes()) && *pid != self.master.id()
        };
        container.pids().into_iter().filter(is_child).collect()
    }

    /// A request that is under way.
    fn ask(&self, mib: u64, ms: u64) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET /hold.php?{mib},{ms} HTTP/1.0\r\n\r\n").unwrap();
        stream
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.master.id().to_string()).status();
        let _ = self.master.wait();
        assert!(self.folder.path("log").exists());
    }
}

#[test]
fn a_child_of_a_denied_apache_finishes_its_request_before_it_ends() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    let module = format!("{MODULES}/libphp8.2.so");
    if let Some(missing) = [APACHE, &module].into_iter().find(|path| !Path::new(path).exists()) {
        return skip(format!("no {missing}"));
    }
    let house = House::new(&ground, "apache");
    house.configure("policy = \"idle-first\"\ndeny = [\"app:apache\"]");
    let container = house.container(&ground, LIMIT);
    let server = Server::start(&container, 1, 0);
    let mut apache = Apache::start(&container);
    let before = apache.children(&container);
    let daemon = start(&house);
    server.notebooks[0].grow(Bytes::mib(40));
    // Well above the threshold: Apache's start gives some MiB back a moment later.
    let mib = PRESSED.plus(Bytes::mib(8)).less(container.usage()).0 >> 20;
    let mut asked = apache.ask(mib, 4_000);
    let incident = house.record("a kill", is_kill);
    let mut said = String::new();
    asked.read_to_string(&mut said).unwrap();
    assert!(said.ends_with(&format!("done {mib}")), "the request is whole: {said}");
    let victim = incident.victim.as_ref().unwrap();
    assert!(before.contains(&victim.pid), "{victim:?}");
    let row = incident.rows.iter().find(|row| row.pid == victim.pid).unwrap();
    assert_eq!(row.application.as_deref(), Some("apache"));
    assert_eq!(row.listed.as_deref(), Some("deny app:apache"));
    // One that is known to be idle goes before it, if it is caught between two requests.
    for victim in house.records().into_iter().filter(is_kill).filter_map(|kill| kill.victim) {
        assert_eq!(victim.signals, ["USR1"], "it went by itself: {victim:?}");
    }
    assert!(apache.master.try_wait().unwrap().is_none() && server.notebooks[0].is_alive());
    assert_eq!(container.oom_kills(), 0);
    assert!(daemon.stop().success());
}

#[test]
fn idle_workers_end_and_the_busy_ones_of_the_important_pool_do_not() {
    let _alone = alone();
    let Some(ground) = ground() else { return };
    if let Some(missing) = [FPM, CLIENT].into_iter().find(|path| !Path::new(path).exists()) {
        return skip(format!("no {missing}"));
    }
    let house = House::new(&ground, "idle");
    house.configure("policy = \"idle-first\"\nidle_for = \"1s\"");
    let container = house.container(&ground, LIMIT);
    let fpm = Fpm::start(&container);
    let before = ["www", "batch"].map(|pool| workers(&container, pool));
    if !has_stacks(before[1][0]) {
        return skip("no stack of a worker can be had here");
    }
    let hog = Stranger::start(&container);
    let daemon = start(&house);
    let important = fpm.ask("www", 120, 20_000);
    eventually("it holds that", || (container.usage() >= Bytes::mib(120)).then_some(()));
    // The warning look: who is at work is asked of their stacks.
    hog.grow_to(&container, WARNED);
    let heard = || {
        let log = house.log();
        before[1]
            .iter()
            .all(|pid| log.lines().any(|line| line.contains(&format!("pid={pid}: stack Idle"))))
    };
    eventually("their stacks say that they are idle", || heard().then_some(()));
    let since = Instant::now();
    eventually("for long enough", || (since.elapsed() >= IDLE).then_some(()));
    hog.grow_to(&container, PRESSED);
    let incident = house.record("a kill", is_kill);
    assert_eq!(incident.reason, "idle", "{}", incident.sentence);
    let victim = incident.victim.as_ref().unwrap();
    // Throttled it may not be gone within the moment that one has which has nothing to finish.
    assert_eq!(victim.signals[0], "QUIT", "{victim:?}");
    let row = &incident.rows[0];
    assert_eq!((row.pid, row.activity.as_deref()), (victim.pid, Some("idle")), "{row:?}");
    assert!(row.idle_s >= Some(1) && row.eligible == "yes", "{row:?}");
    assert_eq!(row.application.as_deref(), Some("pool:batch"), "the important pool goes last");
    let important_app = incident.cleaning.as_ref().unwrap().important.as_ref().unwrap();
    assert_eq!(important_app.name, "pool:www");
    let holds = |row: &&Row| before[0].contains(&row.pid) && row.memory >= Bytes::mib(100);
    let busy = incident.rows.iter().find(holds).unwrap();
    assert!(["important", "activity-unknown"].contains(&busy.eligible.as_str()), "{busy:?}");
    // What is idle in the important pool may follow; its busy worker never does.
    house.record("nobody is left", |incident| incident.kind == Kind::Hold);
    assert!(victims(&house).iter().all(|pid| *pid != busy.pid));
    assert!(hog.is_alive(), "nobody named it");
    assert!(workers(&container, "www").contains(&busy.pid));
    drop(hog);
    assert!(answer(important).ends_with("done 120"));
    assert_eq!(container.oom_kills(), 0);
    assert!(daemon.stop().success());
}

fn has_stacks(pid: u32) -> bool {
    let out = Command::new(binary("nbguard")).args(["stack", "--json", &pid.to_string()]).output();
    out.is_ok_and(|out| out.status.success())
}
