//! Where `top` has its figures from: the daemon's HTTP socket, which is asked once a refresh (and
//! passes what it read through its gate), or, where nobody answers, this host itself, as `ps`
//! reads it. On a thread of its own: a key never waits for a reading.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::incidents;
use crate::cli::look::{Look, World};
use crate::config::Config;
use crate::report::{ContainerView, HostView, Incident, NotebookView, Survey};
use crate::roots::Roots;
use crate::units::{Bytes, Share};

/// The daemon answers within milliseconds; one that does not is shown as what it is.
const PATIENCE: Duration = Duration::from_secs(3);
/// 200 containers with 50 notebooks of 4 processes are 8 MiB.
const ANSWER_MAX: u64 = 32 << 20;
/// Incidents that are shown.
const INCIDENTS: usize = 200;

/// What one refresh found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    pub survey: Survey,
    /// Newest first.
    pub incidents: Vec<Incident>,
    /// Why it is not the daemon that says this. `None`: it does.
    pub unguarded: Option<String>,
}

/// The reading end.
pub struct Source {
    ask: Sender<()>,
    answers: Receiver<Result<Snapshot, String>>,
    /// A question is out, and its answer is not there yet.
    waiting: bool,
}

impl Source {
    pub fn start(config: Config) -> io::Result<Source> {
        let (ask, asked) = channel();
        let (answer, answers) = channel();
        thread::Builder::new().name("source".into()).spawn(move || {
            while asked.recv().is_ok() {
                if answer.send(read(&config)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Source { ask, answers, waiting: false })
    }

    /// Asks for figures, unless that was done already.
    pub fn refresh(&mut self) {
        self.waiting = self.waiting || self.ask.send(()).is_ok();
    }

    pub fn answer(&mut self) -> Option<Result<Snapshot, String>> {
        let answer = self.answers.try_recv().ok()?;
        self.waiting = false;
        Some(answer)
    }
}

/// One reading: from the daemon, else from the host.
///
/// # Errors
/// Neither can be read; the text says why.
pub fn read(config: &Config) -> Result<Snapshot, String> {
    let Some(socket) = &config.http.socket else {
        return read_host(config, "the daemon's `http.socket` is off".to_owned());
    };
    match ask_daemon(socket) {
        Ok(snapshot) => Ok(snapshot),
        Err(why) => read_host(config, why),
    }
}

#[derive(Deserialize)]
struct Incidents {
    incidents: Vec<Incident>,
}

fn ask_daemon(socket: &Path) -> Result<Snapshot, String> {
    let survey = get::<Survey>(socket, "/api/v1/containers")?;
    let told = get::<Incidents>(socket, &format!("/api/v1/incidents?limit={INCIDENTS}"))?;
    Ok(Snapshot { survey, incidents: told.incidents, unguarded: None })
}

fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, String> {
    let shown = socket.display();
    let body = fetch(socket, path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("nbguardd does not answer on {shown}")
        }
        io::ErrorKind::PermissionDenied => format!("{shown}: only root may ask"),
        io::ErrorKind::WouldBlock => format!("{shown}: no answer in {} s", PATIENCE.as_secs()),
        _ => format!("{shown}: {error}"),
    })?;
    serde_json::from_slice(&body).map_err(|error| format!("{shown}: {path}: {error}"))
}

/// The body of a GET. The daemon closes after each answer.
fn fetch(socket: &Path, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut text)?;
    body(&text).map_err(io::Error::other)
}

fn body(text: &[u8]) -> Result<Vec<u8>, String> {
    let end = text.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, rest) = text.split_at(end.ok_or("no HTTP answer")?);
    let body = &rest[4..];
    let head = String::from_utf8_lossy(head);
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("HTTP {}", crate::parse::escape(status.as_bytes(), 16)));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err("the answer was cut off".to_owned());
    }
    Ok(body.to_vec())
}

/// As `ps` does it, with the daemon's own readers and policy. It guards nobody.
fn read_host(config: &Config, why: String) -> Result<Snapshot, String> {
    let roots = Roots::system().map_err(|error| format!("{why}; /proc: {error}"))?;
    let mut world = World::open(roots, config).map_err(|error| format!("{why}; {error}"))?;
    let mut containers = Vec::new();
    for (found, container) in world.containers() {
        // One that is gone by now, or that we may not read, is not there.
        if let Ok(look) = world.look(&found, &container, config) {
            containers.push(view(look));
        }
    }
    let now = std::time::SystemTime::now();
    let host = &world.host;
    let survey = Survey {
        schema: 1,
        time: humantime::format_rfc3339_millis(now).to_string(),
        host: Some(HostView {
            name: hostname(),
            mode: mode(&world),
            total: host.total,
            available: host.available,
            swap_total: host.swap_total,
            swap_free: host.swap_free,
            threshold: host.total.times(config.host.threshold),
        }),
        paused: world.orders.pause(None, crate::cli::look::wall_now()).is_some(),
        containers,
        ..Survey::default()
    };
    Ok(Snapshot { survey, incidents: newest(&config.record.path), unguarded: Some(why) })
}

fn newest(record: &Path) -> Vec<Incident> {
    let mut all = incidents::recorded(record).unwrap_or_default();
    all.reverse();
    all.truncate(INCIDENTS);
    all
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn mode(world: &World) -> String {
    serde_json::to_value(world.hierarchies.mode)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn view(look: Look) -> ContainerView {
    let figures = &look.figures;
    let psi = figures.psi.known().map(|psi| psi.percent());
    let sum: Bytes = look.rows.iter().map(|row| row.memory).sum();
    let notebooks: Vec<NotebookView> = look
        .rows
        .into_iter()
        .map(|row| NotebookView {
            pid: row.pid,
            start: row.start,
            memory: row.memory,
            lower: row.lower,
            upper: row.upper,
            share: ratio(row.memory, look.total),
            name: row.name,
            notebook: row.notebook,
            kernel_id: row.kernel_id,
            uid: row.uid,
            container_pid: None,
            eligible: row.eligible,
            because: row.because,
            application: row.application,
            activity: row.activity,
            idle_s: row.idle_s,
            listed: row.listed,
            processes_total: u32::try_from(row.members.len()).unwrap_or(u32::MAX),
            processes: row.members,
        })
        .collect();
    ContainerView {
        id: look.id,
        name: look.name,
        image: look.image.unwrap_or_default(),
        engine: look.engine,
        mode: "none".to_owned(),
        mode_reason: "nbguardd is not running".to_owned(),
        state: "unguarded".to_owned(),
        usage: figures.usage,
        unreclaimable: figures.unreclaimable(),
        anon: figures.anon,
        shmem: figures.shmem,
        swap: figures.swap.known(),
        limit: figures.limit.bytes(),
        total: look.total,
        warning: look.total.times(look.settings.warning),
        threshold: look.threshold,
        high: figures.high.bytes(),
        psi_some_avg10: psi.map(|(some, _)| some),
        psi_full_avg10: psi.map(|(_, full)| full),
        sum,
        ratio: ratio(sum, look.total),
        dry_run: look.settings.dry_run,
        paused: look.paused,
        protected: look.protected,
        notebooks_total: u32::try_from(notebooks.len()).unwrap_or(u32::MAX),
        notebooks,
        servers: look.servers,
        unattributed: look.unattributed,
        would: look.would,
        ..ContainerView::default()
    }
}

fn ratio(part: Bytes, whole: Bytes) -> f64 {
    Share::of(part, whole).map_or(0.0, |share| f64::from(share.0) / 10_000.0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use std::os::unix::net::UnixListener;

    fn serve(name: &str, answers: Vec<String>) -> PathBuf {
        let path = std::env::temp_dir().join(format!("nbguard-top-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        path
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn what_the_daemon_answers_is_taken_as_it_is() {
        let survey = Survey {
            paused: true,
            containers: vec![ContainerView { name: "lab".into(), ..ContainerView::default() }],
            ..Survey::default()
        };
        let text = serde_json::to_string(&survey).unwrap();
        let path = serve("good", vec![ok(&text), ok("{\"schema\":1,\"incidents\":[]}")]);
        let snapshot = ask_daemon(&path).unwrap();
        assert_eq!((snapshot.survey, snapshot.unguarded), (survey, None));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_answer_that_is_none_is_told_and_nothing_is_taken_from_it() {
        for (name, answer, complaint) in [
            ("broken", ok("{"), "/api/v1/containers"),
            ("cut", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}".to_owned(), "cut off"),
            ("status", "HTTP/1.1 503 No\r\n\r\n".to_owned(), "HTTP 503"),
            ("silent", String::new(), "no HTTP answer"),
        ] {
            let path = serve(name, vec![answer]);
            let error = ask_daemon(&path).unwrap_err();
            assert!(error.contains(complaint), "{name}: {error}");
            std::fs::remove_file(path).unwrap();
        }
        let nobody = ask_daemon(Path::new("/nonexistent/http.sock")).unwrap_err();
        assert!(nobody.contains("does not answer"), "{nobody}");
    }
}
