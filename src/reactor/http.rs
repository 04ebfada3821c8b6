//! Who asks over HTTP: a few clients at a time, each with so many bytes and so much time, served
//! by the loop after everything else. Nothing here waits: what is not there yet (a survey, the
//! records) comes with a later turn, and what the other end does not take is written when it does.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, SystemTime};

use ::log::{debug, warn};
use mio::event::Event;
use mio::{Events, Interest};
use nix::sys::socket::{getsockopt, sockopt};

use super::Reactor;
use super::client::{Client, Standing, Step, Wish};
use super::counters::Trouble;
use super::door::{self, Door, Listener};
use super::helper::{Client as Ticket, Question};
use super::kept::Whose;
use super::token::{For, next_generation};
use super::watch::{Kind, Watch};
use crate::config::HttpSettings;
use crate::host::procs;
use crate::observe::answer::{self, JSON, Status};
use crate::observe::metrics::{self, Format};
use crate::observe::{api, page, tail};
use crate::parse::http::{Method, Refusal, Request, host_name, request};
use crate::policy::episode::WINDOW;
use crate::runtime::jupyter;
use crate::sys;
use crate::units::Moment;

/// Clients of each door: those of containers cannot take the host's places. A browser opens six
/// connections at once.
const CLIENTS: [(Door, usize); 3] = [(Door::Host, 4), (Door::Notebook, 6), (Door::Tcp, 6)];
/// Of them of one container.
const CLIENTS_OF_ONE: usize = 2;
/// Questions for records that are out for the host and TCP together. A question outlives whoever
/// asked it and hung up.
const RECORDS_OF_ALL: usize = 10;
/// Whoever has not told what he wants by then makes room for the next when all places are taken.
const DAWDLES: Duration = Duration::from_millis(500);
/// Let in of one door in one turn; the rest in the next.
const ACCEPTS_AT_ONCE: usize = 16;
/// Let in of one door in one second, unless it is the one that only root may open. Above this the
/// door is shut until the second is over.
const ACCEPTS_A_SECOND: u32 = 200;
/// The interface as it stands.
#[derive(Default)]
pub(super) struct Http {
    doors: [Option<Open>; 3],
    clients: Vec<Option<Box<Client>>>,
    generation: u32,
    token: Option<Vec<u8>>,
    /// What the helper has brought, and for whom.
    delivered: Vec<(Ticket, io::Result<Vec<u8>>)>,
    /// Who asked for records that the helper has not brought yet, there or gone.
    asked: Vec<(Ticket, Whose)>,
    /// As the doors were opened.
    settings: Option<HttpSettings>,
}

struct Open {
    listener: Listener,
    /// More wait than were let in.
    more: bool,
    /// How many came since.
    since: Moment,
    came: u32,
    shut: bool,
}

/// What comes of a request.
enum Served {
    Now(Status, &'static str, Vec<u8>),
    Later(Wish),
}

impl Http {
    /// What the helper brought, sent on at the end of the turn.
    pub fn deliver(&mut self, client: Ticket, body: io::Result<Vec<u8>>) {
        self.asked.retain(|(asked, _)| *asked != client);
        self.delivered.push((client, body));
    }

    /// Whether one more question for records may be put: whoever asks and hangs up does not fill
    /// the helper's queue.
    fn may_ask(&self, whose: Whose) -> bool {
        let most = if whose.is_some() { CLIENTS_OF_ONE } else { RECORDS_OF_ALL };
        self.asked.iter().filter(|(_, of)| *of == whose).count() < most
    }

    pub fn deadline(&self) -> Option<Moment> {
        let clients = self.clients.iter().flatten().map(|client| client.deadline());
        let shut = self.doors.iter().flatten().filter(|open| open.shut);
        clients.chain(shut.map(|open| open.since.plus(WINDOW))).min()
    }

    /// Somebody is still waiting to be let in.
    pub fn has_more(&self) -> bool {
        self.doors.iter().flatten().any(|open| open.more && !open.shut)
    }

    fn client(&mut self, slot: usize) -> Option<&mut Client> {
        self.clients.get_mut(slot)?.as_deref_mut()
    }

    fn slot_of(&self, ticket: Ticket) -> Option<usize> {
        let client = self.clients.get(ticket.slot as usize)?.as_ref()?;
        (client.ticket == ticket).then_some(ticket.slot as usize)
    }

    /// Names by which a browser may ask on TCP. Any other is a page of somebody else's that had
    /// its name point here.
    fn is_host(&self, host: &str) -> bool {
        let name = host_name(host).trim_end_matches('.').to_ascii_lowercase();
        let own = self.doors[Door::Tcp as usize].as_ref().and_then(|open| open.listener.address());
        let own = own.is_some_and(|own| match own {
            std::net::SocketAddr::V4(v4) => v4.ip().to_string() == name,
            std::net::SocketAddr::V6(v6) => format!("[{}]", v6.ip()) == name,
        });
        let globs = self.settings.iter().flat_map(|http| &http.hosts);
        own || matches!(name.as_str(), "localhost" | "127.0.0.1" | "[::1]")
            || globs.into_iter().any(|glob| glob.matches(&name))
    }
}

impl Reactor {
    /// Opens what the configuration names and closes what it names no more. What stays as it was
    /// stays open.
    pub(super) fn open_doors(&mut self) {
        let wanted = self.config.http.clone();
        let had = self.http.settings.replace(wanted.clone());
        self.http.token = None;
        let mut may_listen = true;
        if let Some(path) = wanted.token_file.as_ref().filter(|_| wanted.listen.is_some()) {
            match door::token(path) {
                Ok(token) => self.http.token = Some(token),
                Err(why) => {
                    // Never without the token that was asked for.
                    may_listen = false;
                    warn!("{why}: not listening on TCP");
                    self.count_trouble(Trouble::DoorNotOpened);
                }
            }
        }
        for door in Door::ALL {
            let same = had.as_ref().is_some_and(|had| match door {
                Door::Host => had.socket == wanted.socket,
                Door::Notebook => had.notebook_socket == wanted.notebook_socket,
                Door::Tcp => may_listen && had.listen == wanted.listen,
            });
            if same && self.http.doors[door as usize].is_some() {
                continue;
            }
            self.close_door(door);
            if door != Door::Tcp || may_listen {
                self.open_door(door, &wanted);
            }
        }
    }

    fn open_door(&mut self, door: Door, http: &HttpSettings) {
        let listener = match Listener::open(door, http) {
            None => return,
            Some(Ok(listener)) => listener,
            Some(Err(why)) => {
                warn!("{why}: nobody can ask there");
                return self.count_trouble(Trouble::DoorNotOpened);
            }
        };
        if let Err(error) = self.register(listener.raw(), door_token(door), Interest::READABLE) {
            warn!("a door of HTTP could not be registered: {error}");
            return self.count_trouble(Trouble::DoorNotOpened);
        }
        let open = Open { listener, more: false, since: self.now(), came: 0, shut: false };
        self.http.doors[door as usize] = Some(open);
    }

    fn close_door(&mut self, door: Door) {
        if let Some(open) = self.http.doors[door as usize].take() {
            self.deregister(open.listener.raw());
            for slot in 0..self.http.clients.len() {
                if self.http.client(slot).is_some_and(|client| client.door == door) {
                    self.drop_client(slot);
                }
            }
        }
    }

    /// At a clean stop: the sockets go, so that nobody finds one that does not answer.
    pub(super) fn close_doors(&mut self) {
        for door in Door::ALL {
            self.close_door(door);
        }
    }

    /// The clients' part of a turn, after that of the guard.
    pub(super) fn run_http(&mut self, events: &Events) {
        for event in events {
            match For::of(event.token()) {
                Some(For::Door(number)) => {
                    self.count_event(For::Door(number));
                    if let Some(Some(open)) = self.http.doors.get_mut(number as usize) {
                        open.more = true;
                    }
                }
                Some(For::Client { slot, generation }) => {
                    self.count_event(For::Client { slot, generation });
                    self.on_client(Ticket { slot, generation }, event);
                }
                _ => {}
            }
        }
        for (ticket, body) in std::mem::take(&mut self.http.delivered) {
            self.send_incidents(ticket, body);
        }
        for door in Door::ALL {
            self.let_in(door);
        }
        self.run_survey();
        self.answer_waiting();
        self.expire_clients();
    }

    fn let_in(&mut self, door: Door) {
        let now = self.now();
        let Some(open) = self.http.doors[door as usize].as_mut() else { return };
        if now.since(open.since) >= WINDOW {
            (open.since, open.came) = (now, 0);
            if std::mem::take(&mut open.shut) {
                open.more = true;
            }
        }
        for _ in 0..ACCEPTS_AT_ONCE {
            let Some(open) = self.http.doors[door as usize].as_mut() else { return };
            if !open.more || open.shut {
                return;
            }
            if open.came >= ACCEPTS_A_SECOND && door != Door::Host {
                open.shut = true;
                return;
            }
            match open.listener.accept() {
                Ok(stream) => {
                    open.came += 1;
                    self.let_one_in(door, File::from(stream), now);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => open.more = false,
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    // Out of descriptors: the next second may have some.
                    debug!("accept: {error}");
                    open.shut = true;
                }
            }
        }
    }

    fn let_one_in(&mut self, door: Door, stream: File, now: Moment) {
        let whose = match door {
            Door::Notebook => self.peer(&stream),
            Door::Host | Door::Tcp => None,
        };
        let of_door = || self.http.clients.iter().flatten().filter(|client| client.door == door);
        let there = of_door().count();
        let of_one = of_door().filter(|client| client.whose == whose).count();
        let most = CLIENTS.iter().find(|(of, _)| *of == door).map_or(0, |(_, most)| *most);
        let crowd = door == Door::Notebook && of_one >= CLIENTS_OF_ONE;
        if crowd || (there >= most && !self.make_room(door, now)) {
            return self.count_trouble(Trouble::ClientRefused);
        }
        let free = self.http.clients.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.http.clients.push(None);
            self.http.clients.len() - 1
        });
        self.http.generation = next_generation(self.http.generation);
        let ticket = Ticket {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            generation: self.http.generation,
        };
        let what = For::Client { slot: ticket.slot, generation: ticket.generation };
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.register(stream.as_raw_fd(), what, both).is_err() {
            return self.count_trouble(Trouble::ClientRefused);
        }
        let standing = Standing::Reading(Vec::new());
        let client = Client { ticket, door, whose, stream, since: now, standing };
        self.http.clients[slot] = Some(Box::new(client));
        // What was sent with the connection is there already.
        self.take_on(slot);
    }

    /// Drops whoever has been at it the longest without saying what he wants.
    fn make_room(&mut self, door: Door, now: Moment) -> bool {
        let slowest = self
            .http
            .clients
            .iter()
            .enumerate()
            .filter_map(|(slot, client)| Some((slot, client.as_ref()?)))
            .filter(|(_, client)| client.door == door && client.is_reading())
            .filter(|(_, client)| now.since(client.since) >= DAWDLES)
            .min_by_key(|(_, client)| client.since)
            .map(|(slot, _)| slot);
        if let Some(slot) = slowest {
            self.count_trouble(Trouble::ClientLate);
            self.drop_client(slot);
        }
        slowest.is_some()
    }

    /// The watched container that the process at the other end is in, itself or by a group below.
    fn peer(&mut self, stream: &File) -> Whose {
        let peer = getsockopt(stream, sockopt::PeerCredentials).ok()?;
        let pid = u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0)?;
        // Held while it is looked up: its pid cannot become another's. Without SO_PEERPIDFD
        // (before 6.5) it could, in the time from its connect to here.
        let held = match sys::peer::pidfd(stream.as_fd()) {
            Ok(held) => held,
            Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => sys::pidfd::open(pid).ok()?,
            Err(_) => return None,
        };
        let groups = procs::cgroup_of(&self.roots, pid, &mut self.buffer).ok()?;
        // Signal 0: it lives, so what was read is its own.
        sys::pidfd::send(held.as_fd(), 0).ok()?;
        let path = match self.hierarchies.mode {
            crate::facts::HostMode::V2 => groups.v2,
            _ => groups.v1_memory,
        }?;
        let path = self.hierarchies.relative_to_memory(&path)?;
        let containers =
            self.watches.iter().flatten().filter(|watch| {
                watch.kind == Kind::Container && path.starts_with(&watch.found.path)
            });
        // The innermost: a container in a container is one of its own.
        containers.max_by_key(|watch| watch.found.path.components().count()).map(|watch| watch.id)
    }

    fn on_client(&mut self, ticket: Ticket, event: &Event) {
        let Some(slot) = self.http.slot_of(ticket) else { return };
        let gone = event.is_error() || (event.is_read_closed() && event.is_write_closed());
        if gone {
            return self.drop_client(slot);
        }
        self.take_on(slot);
    }

    fn drop_client(&mut self, slot: usize) {
        if let Some(client) = self.http.clients.get_mut(slot).and_then(Option::take) {
            self.deregister(client.stream.as_raw_fd());
        }
        if self.http.clients.iter().all(Option::is_none) {
            self.http.clients = Vec::new();
        }
    }

    /// Takes a client as far as it goes now.
    fn take_on(&mut self, slot: usize) {
        loop {
            let Some(client) = self.http.client(slot) else { return };
            let step = match &client.standing {
                Standing::Reading(_) => match client.read() {
                    Step::Go => {
                        self.read_request(slot);
                        Step::Go
                    }
                    other => other,
                },
                Standing::Waiting { .. } => Step::Stay,
                Standing::Writing { .. } => client.write(),
                Standing::Lingering(_) => client.linger(),
            };
            match step {
                Step::Go => {}
                Step::Stay => return,
                Step::Gone => return self.drop_client(slot),
            }
        }
    }

    /// Answers the request that has come, if it has come whole.
    fn read_request(&mut self, slot: usize) {
        let Some(client) = self.http.client(slot) else { return };
        let Standing::Reading(head) = &mut client.standing else { return };
        let head = std::mem::take(head);
        let (door, whose, ticket) = (client.door, client.whose, client.ticket);
        match request(&head) {
            Ok(None) => client.standing = Standing::Reading(head),
            Err(refusal) => {
                let (status, why) = refused(refusal);
                self.send(slot, status, answer::refusal(status, why, true), true);
            }
            Ok(Some(request)) => {
                let with_body = request.method == Method::Get;
                let linger = request.len < head.len();
                match self.answer(door, whose, ticket, &request) {
                    Served::Now(status, kind, body) => {
                        let bytes = answer::answer(status, kind, &body, with_body);
                        self.send(slot, status, bytes, linger);
                    }
                    Served::Later(wish) => {
                        if let Some(client) = self.http.client(slot) {
                            client.standing = Standing::Waiting { wish, with_body };
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, slot: usize, status: Status, bytes: Vec<u8>, linger: bool) {
        self.count_answer(status.code());
        if let Some(client) = self.http.client(slot) {
            client.standing = Standing::Writing { bytes, at: 0, linger };
        }
    }

    fn answer(&mut self, door: Door, whose: Whose, ticket: Ticket, ask: &Request<'_>) -> Served {
        let no = |status, why: &str| Served::Now(status, JSON, api::error(why));
        if door == Door::Tcp {
            if !ask.host.is_some_and(|host| self.http.is_host(host)) {
                return no(Status::Forbidden, "this name is not in http.hosts");
            }
            // The page holds no figures. A browser has to have it before it can show a token.
            if let Some((kind, file)) = page::file(ask.path) {
                return Served::Now(Status::Ok, kind, file.to_vec());
            }
            if let Some(token) = &self.http.token
                && !ask.token.is_some_and(|shown| door::is_same(shown, token))
            {
                return no(Status::Unauthorized, "a bearer token is needed");
            }
        }
        if door == Door::Notebook && whose.is_none_or(|id| self.watch(id).is_none()) {
            return no(Status::Forbidden, "you are in no container that is watched");
        }
        if let Some((kind, file)) = page::file(ask.path) {
            return Served::Now(Status::Ok, kind, file.to_vec());
        }
        let wish = match ask.path {
            "/api/v1/containers" => Wish::Containers,
            "/api/v1/notebooks" => Wish::Notebooks,
            "/metrics" => Wish::Metrics(Format::accepted(ask.accept)),
            "/api/v1/incidents" => return self.ask_incidents(whose, ticket, ask.limit),
            "/healthz" => {
                let (ok, health) = self.health(whose);
                let status = if ok { Status::Ok } else { Status::Unavailable };
                return Served::Now(status, JSON, api::health(&health));
            }
            _ => return no(Status::NotFound, "there is nothing of this name"),
        };
        self.ask_survey(whose);
        Served::Later(wish)
    }

    fn ask_incidents(&mut self, whose: Whose, client: Ticket, limit: u32) -> Served {
        if !self.http.may_ask(whose) {
            let body = api::error("the records are being read for others; ask again");
            return Served::Now(Status::Unavailable, JSON, body);
        }
        let path = self.config.record.path.clone();
        let of = whose;
        let whose = whose.and_then(|id| self.watch(id)).map(|watch| {
            let init = watch.container.pid1;
            let seen = watch.is_tenants().then_some(watch.since);
            (watch.found.id.clone(), init, seen)
        });
        // Records know a container by its id, which is the name of a directory. Where a tenant
        // chose it, what was written before it was there is somebody else's, and what is written
        // while another one has it may be.
        if let Some((id, _, Some(_))) = &whose {
            let same = |watch: &Watch| {
                watch.kind == Kind::Container && watch.found.id == *id && Some(watch.id) != of
            };
            if self.watches.iter().flatten().any(|watch| same(watch)) {
                let body = api::error("another container has the same id");
                return Served::Now(Status::Unavailable, JSON, body);
            }
        }
        let whose = whose.map(|(id, init, seen)| {
            let since = match seen {
                Some(seen) => Some(humantime::format_rfc3339_millis(seen).to_string()),
                None => self.since(init),
            };
            tail::Whose { id, since }
        });
        // Its thread ends with the surveys' memory, when nobody asks any more.
        self.note_asked();
        if self.helper.ask_slowly(Question::Incidents { client, path, limit, whose }) {
            self.http.asked.push((client, of));
            return Served::Later(Wish::Incidents);
        }
        let body = api::error("the records cannot be read now");
        Served::Now(Status::Unavailable, JSON, body)
    }

    /// When a container's first process started, as the records write times.
    fn since(&mut self, init: Option<u32>) -> Option<String> {
        let start = procs::start_of(&self.roots, init?, &mut self.buffer).ok()??;
        let at = SystemTime::now().checked_sub(jupyter::age(start))?;
        Some(humantime::format_rfc3339_millis(at).to_string())
    }

    fn send_incidents(&mut self, ticket: Ticket, body: io::Result<Vec<u8>>) {
        let Some(slot) = self.http.slot_of(ticket) else { return };
        let Some(client) = self.http.client(slot) else { return };
        let Standing::Waiting { wish: Wish::Incidents, with_body } = client.standing else {
            return;
        };
        let (status, body) = match body {
            Ok(body) => (Status::Ok, body),
            Err(error) => {
                debug!("the records could not be read: {error}");
                (Status::Unavailable, api::error("the records cannot be read"))
            }
        };
        self.send(slot, status, answer::answer(status, JSON, &body, with_body), false);
        self.take_on(slot);
    }

    /// Whoever waits for figures that are there now, or has waited long enough.
    fn answer_waiting(&mut self) {
        let now = self.now();
        for slot in 0..self.http.clients.len() {
            let Some(client) = self.http.client(slot) else { continue };
            let Standing::Waiting { wish, with_body } = client.standing else { continue };
            let late = client.deadline() <= now;
            let (door, whose) = (client.door, client.whose);
            if wish == Wish::Incidents || !(late || self.surveys.is_ready(whose)) {
                continue;
            }
            // Gone meanwhile: of nobody is not of all.
            if door == Door::Notebook && whose.is_none_or(|id| self.watch(id).is_none()) {
                let status = Status::Forbidden;
                let why = "your container is watched no longer";
                self.send(slot, status, answer::refusal(status, why, with_body), false);
            } else {
                let (kind, body) = self.render(wish, whose);
                let bytes = answer::answer(Status::Ok, kind, &body, with_body);
                self.send(slot, Status::Ok, bytes, false);
            }
            self.take_on(slot);
        }
    }

    fn render(&mut self, wish: Wish, whose: Whose) -> (&'static str, Vec<u8>) {
        self.with_survey(whose, |survey, reactor| match wish {
            Wish::Containers => (JSON, api::containers(survey)),
            Wish::Notebooks => (JSON, api::notebooks(survey)),
            Wish::Metrics(format) => {
                // What the guard counts is of all containers.
                let counters = whose.is_none().then(|| reactor.counted());
                let text = metrics::render(format, survey, counters.as_ref());
                (format.content_type(), text.into_bytes())
            }
            Wish::Incidents => (JSON, Vec::new()),
        })
    }

    fn expire_clients(&mut self) {
        let now = self.now();
        for slot in 0..self.http.clients.len() {
            let late = self.http.client(slot).is_some_and(|client| client.deadline() <= now);
            if late {
                self.count_trouble(Trouble::ClientLate);
                self.drop_client(slot);
            }
        }
    }
}

fn door_token(door: Door) -> For {
    For::Door(door as u32)
}

fn refused(refusal: Refusal) -> (Status, &'static str) {
    match refusal {
        Refusal::Malformed(why) => (Status::BadRequest, why),
        Refusal::Method => (Status::MethodNotAllowed, "only GET and HEAD are answered"),
        Refusal::Body => (Status::ContentTooLarge, "no body is taken"),
        Refusal::TooLarge => (Status::HeaderTooLarge, "the head is larger than 4 KiB or 32 lines"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WatchId;

    #[test]
    fn whoever_asks_for_records_and_hangs_up_does_not_fill_the_queue() {
        let mut http = Http::default();
        let whose = |slot| Some(WatchId { slot, generation: 0 });
        let ticket = |generation| Ticket { slot: 0, generation };
        for generation in 0..100 {
            if http.may_ask(whose(1)) {
                http.asked.push((ticket(generation), whose(1)));
            }
        }
        assert_eq!(http.asked.len(), CLIENTS_OF_ONE);
        assert!(http.may_ask(whose(2)) && http.may_ask(None), "the others may");
        http.deliver(ticket(0), Ok(Vec::new()));
        assert!(http.may_ask(whose(1)));
    }
}
