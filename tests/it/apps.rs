//! What processes work for, and what stayed idle: `nbguard apps` and `nbguard deny --learn` before
//! a real php-fpm, scripts, and programs that do nothing or too much.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nbguard::units::Bytes;
use serde_json::Value;

use crate::daemon::House;
use crate::ground::{Container, Ground, alone, eventually};
use crate::message::first;
use crate::{binary, schema, skip};

const FPM: &str = "/usr/sbin/php-fpm8.2";

/// Ended with all its group.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// A shell in the container that does this.
fn inside(container: &Container, script: &str) -> Group {
    use std::os::unix::process::CommandExt;
    let join: Vec<String> = container.procs().iter().map(|p| p.display().to_string()).collect();
    let script = format!("for procs in $JOIN; do echo $$ > $procs; done; {script}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("JOIN", join.join(" ")).stdin(Stdio::null());
    Group(command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn nbguard(house: &House, words: &[&str]) -> Output {
    let config = house.config();
    Command::new(binary("nbguard")).arg("--config").arg(config).args(words).output().unwrap()
}

fn apps(house: &House, container: &Container, more: &[&str]) -> Value {
    let name = container.name();
    let words = [&["apps", "--json", "--container", &name], more].concat();
    let output = nbguard(house, &words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check("apps", &report);
    report["containers"][0].clone()
}

fn find<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    container["applications"].as_array().unwrap().iter().find(|app| app["application"] == name)
}

fn fpm(dir: &Path) -> String {
    let text = format!(
        "[global]\nerror_log = {0}/log\ndaemonize = no\npid = {0}/pid\n[www]\nuser = www-data\n\
         group = www-data\nlisten = {0}/sock\npm = static\npm.max_children = 2\n",
        dir.display()
    );
    let config = dir.join("fpm.conf");
    fs::write(&config, text).unwrap();
    format!("{FPM} -n -F -y {}", config.display())
}

#[test]
fn applications_are_pools_and_scripts_with_what_they_use() {
    let _alone = alone();
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return skip(why),
    };
    if !Path::new(FPM).exists() {
        return skip(format!("there is no {FPM}"));
    }
    let house = House::new(&ground, "apps");
    let container = house.container(&ground, Bytes::mib(512));
    let _first = first(&container);
    let dir = house.folder.path("php");
    fs::create_dir_all(&dir).unwrap();
    fs::write(
        dir.join("burn.php"),
        "<?php $a = str_repeat('x', 64 << 20); while (true) { $b = strrev('x'); }",
    )
    .unwrap();
    let fpm = fpm(&dir);
    let cd = dir.display();
    let _groups = [
        inside(&container, &format!("exec {fpm}")),
        inside(&container, &format!("cd {cd}; exec php -n -d memory_limit=-1 burn.php")),
    ];
    let seen = eventually("both are there", || {
        let seen = apps(&house, &container, &[]);
        let pool = find(&seen, "pool:www")?;
        (pool["workloads"] == 2 && find(&seen, &format!("script:{cd}/burn.php")).is_some())
            .then_some(seen)
    });
    println!("{seen:#}");
    let script = find(&seen, &format!("script:{cd}/burn.php")).unwrap();
    let pool = find(&seen, "pool:www").unwrap();
    assert_eq!((&seen["resource"], &seen["ratio"]), (&"memory".into(), &0.02.into()));
    assert_eq!(seen["total"], 512 << 20);
    // 64 MiB of 512 are more than 2 %; two workers that never did anything are not.
    assert_eq!(script["over"], true);
    assert!(script["memory"].as_u64().unwrap() >= 64 << 20, "{script}");
    assert_eq!(pool["over"], false);
    assert_eq!((&pool["uid"], &pool["processes_total"]), (&33.into(), &2.into()));
    let busy = pool["processes"].as_array().unwrap().iter().any(|p| p["activity"] == "busy");
    assert!(!busy, "{pool}");
    // Its master is no application's.
    let listed: u64 = seen["applications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|app| app["processes_total"].as_u64().unwrap())
        .sum();
    assert_eq!(listed, 3, "{seen}");

    // Of the CPU time one has nearly all.
    let cpu = apps(&house, &container, &["--resource", "cpu", "--ratio", "50%"]);
    let script = find(&cpu, &format!("script:{cd}/burn.php")).unwrap();
    assert!(script["cpu_share"].as_f64().unwrap() > 0.5, "{cpu:#}");
    assert_eq!((&script["over"], &cpu["resource"]), (&true.into(), &"cpu".into()));
    assert_eq!(find(&cpu, "pool:www").unwrap()["over"], false);
    // Nobody has more than all.
    let all = apps(&house, &container, &["--resource", "cpu", "--ratio", "100%"]);
    assert_eq!(find(&all, &format!("script:{cd}/burn.php")).unwrap()["over"], false);

    let table = nbguard(&house, &["apps", "--container", &container.name()]);
    let table = String::from_utf8(table.stdout).unwrap();
    println!("{table}");
    assert!(table.contains("pool:www") && table.contains("over is more than 2 % of 512.0 MiB"));
    for bad in ["1.9%", "101%", "2", "much"] {
        let refused = nbguard(&house, &["apps", "--ratio", bad]);
        assert_eq!(refused.status.code(), Some(2), "{bad}");
    }
}

/// Calls and short sleeps, and memory; switches its own tracing on where it is asked to.
const TRACED: &str = r"<?php
require $argv[1] . '/trace.inc';
function leaf() { for ($i = 0; $i < 5000; $i++); }
$held = str_repeat('x', 24 << 20);
if ($argv[2] === 'traced') {
    t_on(ON);
}
while (true) { leaf(); usleep(1); }
";

#[test]
fn where_calls_are_recorded_cpu_time_is_theirs_and_the_row_says_so() {
    let _alone = alone();
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return skip(why),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let so = root.join("target/php-ext/modules/nbguard.so");
    if !so.exists() {
        return skip("the extension for PHP is not built: src/crates/php-ext/build.sh");
    }
    let house = House::new(&ground, "traced");
    let container = house.container(&ground, Bytes::mib(512));
    let _first = first(&container);
    let dir = house.folder.path("php");
    fs::create_dir_all(&dir).unwrap();
    let cd = dir.display();
    let inc = root.join("tests/php/phpt");
    // A directory of its own where the tracer's is, which the machine's own knows nothing of.
    let php =
        format!("php -n -d extension={} -d nbguard.directory=/run/nbguard/trace", so.display());
    let run = |name: &str| {
        fs::write(dir.join(format!("{name}.php")), TRACED).unwrap();
        let script = format!(
            "exec unshare -m sh -c 'mount -t tmpfs none /run && cd {cd} && {php} -r \"\" && \
             exec {php} {name}.php {} {name}'",
            inc.display()
        );
        inside(&container, &script)
    };
    let _groups = [run("traced"), run("plain")];
    let of = |seen: &Value, name: &str| {
        find(seen, &format!("script:{cd}/{name}.php")).map(|app| app["processes"][0].clone())
    };
    let seen = eventually("calls are recorded in one", || {
        let seen = apps(&house, &container, &["--resource", "cpu"]);
        let traced = of(&seen, "traced")?;
        (traced["cpu_source"] == "traced" && of(&seen, "plain").is_some()).then_some(seen)
    });
    println!("{seen:#}");
    let (traced, plain) = (of(&seen, "traced").unwrap(), of(&seen, "plain").unwrap());
    assert_eq!(
        (&plain["cpu_source"], &plain["interpreter_memory"]),
        (&"kernel".into(), &Value::Null)
    );
    let held = traced["interpreter_memory"].as_u64().unwrap();
    assert!(held >= 24 << 20 && held < traced["memory"].as_u64().unwrap() + (32 << 20), "{traced}");
    let script = |name: &str| find(&seen, &format!("script:{cd}/{name}.php")).unwrap();
    assert_eq!(
        (&script("traced")["cpu_source"], &script("plain")["cpu_source"]),
        (&"traced".into(), &"kernel".into())
    );
    // It is at work, and has no more than there was.
    let (part, whole) = (traced["cpu_us"].as_u64().unwrap(), seen["cpu_us"].as_u64().unwrap());
    assert!(part > 20_000 && part < whole, "{part} of {whole}");
    assert_eq!(script("traced")["over"], true);
    let table = nbguard(&house, &["apps", "--container", &container.name()]);
    let table = String::from_utf8(table.stdout).unwrap();
    println!("{table}");
    let row = table.lines().find(|line| line.contains("traced.php")).unwrap();
    assert!(row.contains(" traced ") || row.contains(" kernel "), "{row}");
}

#[test]
fn a_list_is_proposed_of_what_stayed_idle_and_is_not_used() {
    let _alone = alone();
    let ground = match Ground::find() {
        Ok(ground) => ground,
        Err(why) => return skip(why),
    };
    let house = House::new(&ground, "learn");
    let container = house.container(&ground, Bytes::mib(512));
    let _first = first(&container);
    let dir = house.folder.path("bin");
    fs::create_dir_all(&dir).unwrap();
    for (name, of) in [("idler", "/bin/sleep"), ("burner", "/bin/sh"), ("brief", "/bin/sleep")] {
        fs::copy(of, dir.join(name)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let bin = dir.display();
    let script = format!(
        "{bin}/idler 600 & {bin}/idler 600 & {bin}/burner -c 'while :; do :; done' & \
         while :; do {bin}/brief 0.5; done"
    );
    let _group = inside(&container, &script);
    let name = container.name();
    eventually("all are there", || {
        let output = nbguard(&house, &["ps", "--json", "--container", &name]);
        String::from_utf8_lossy(&output.stdout).contains("burner").then_some(())
    });
    let before = fs::read_to_string(house.config()).unwrap();
    let output = nbguard(&house, &["deny", "--learn", "3s", "--container", &name]);
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    let listed: Vec<&str> =
        text.lines().map(str::trim).filter(|line| line.starts_with('"')).collect();
    assert_eq!(listed, ["\"idler\","], "{text}");
    assert!(text.contains("2 processes (pid ") && text.contains("told by: cpu"), "{text}");
    assert_eq!(fs::read_to_string(house.config()).unwrap(), before);

    // As a drop-in it is taken, and names them.
    let drop_ins = house.folder.path("conf.d");
    fs::create_dir_all(&drop_ins).unwrap();
    fs::write(drop_ins.join("50-deny.toml"), &text).unwrap();
    let check = nbguard(&house, &["check"]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&check.stderr));

    let output = nbguard(&house, &["deny", "--learn", "1s", "--json", "--container", &name]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = &report["containers"][0]["deny"][0];
    assert_eq!((&one["pattern"], &one["processes"]), (&"idler".into(), &2.into()), "{report}");
    assert_eq!(nbguard(&house, &["deny"]).status.code(), Some(2), "it wants a time");
}
