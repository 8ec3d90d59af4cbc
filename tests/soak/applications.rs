//! Two hundred applications that beat. Some fall silent until the agent says that they are late, or does not know them any
//! more, and beat again; some say goodbye and come back. What `on_overdue` must have been run for follows.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::fault_log::{DESCRIPTORS, Story};
use super::support::heartbeat::lines_of;
use super::support::rng::Rng;

pub const APPLICATIONS: usize = 200;
pub const THREADS: usize = 4;
const LOOK: Duration = Duration::from_millis(300);

/// Words of `HB_STATE`, in order, and whether the agent may have been unable to run a program.
pub type Told = BTreeMap<String, (Vec<&'static str>, bool)>;

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Beats,
    /// Silent until it is late.
    Late,
    /// Silent until it is not known any more.
    Gone,
    /// Has said goodbye.
    Away,
}

struct Application {
    id: String,
    promised: u64,
    mood: Mood,
    since: Instant,
    due: Instant,
}

/// The life of a thread's applications; `number` is the thread's. Those of the first one come on a new connection each time.
pub fn beat(server: SocketAddr, number: usize, story: &Story, mut rng: Rng) -> Told {
    let now = Instant::now();
    let mut applications: Vec<Application> = (0..APPLICATIONS / THREADS)
        .map(|at| Application {
            id: format!("app-{number}-{at}"),
            promised: 1500 + rng.below(4500),
            // It is not known yet.
            mood: Mood::Away,
            since: now,
            due: now + Duration::from_millis(rng.below(1500)),
        })
        .collect();
    let mut line = Line { server, keeps: number > 0, socket: None };
    let mut told = Told::new();
    while !story.is_over() {
        let now = Instant::now();
        for application in applications.iter_mut().filter(|application| application.due <= now) {
            application.turn(&mut line, story, &mut rng, &mut told);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    // Who is silent beats again when it is time, so that nobody has to be waited for.
    while applications.iter().any(Application::is_silent) {
        let now = Instant::now();
        let silent = applications.iter_mut().filter(|application| application.is_silent());
        for application in silent.filter(|application| application.due <= now) {
            application.turn(&mut line, story, &mut rng, &mut told);
        }
        // The others go on.
        for application in applications.iter_mut().filter(|application| application.due <= now) {
            if application.mood == Mood::Beats {
                application.beats(&mut line, story);
            }
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    for application in &applications {
        line.get(&format!("/hb_done?0&appid={}", application.id));
    }
    told
}

impl Application {
    fn is_silent(&self) -> bool {
        matches!(self.mood, Mood::Late | Mood::Gone)
    }

    fn turn(&mut self, line: &mut Line, story: &Story, rng: &mut Rng, told: &mut Told) {
        let now = Instant::now();
        match self.mood {
            Mood::Away if now - self.since < Duration::from_secs(5) => self.due = now + LOOK,
            Mood::Away => self.beats(line, story),
            Mood::Beats => match rng.below(150) {
                0 | 1 => self.becomes(Mood::Late),
                2 => self.becomes(Mood::Gone),
                3 => {
                    line.get(&format!("/hb_done?0&appid={}", self.id));
                    self.becomes(Mood::Away);
                }
                _ => self.beats(line, story),
            },
            Mood::Late | Mood::Gone => {
                let status = line.get(&format!("/status?0&appid={}", self.id));
                // Who was kept from looking may find more than it waited for.
                let words: &[_] = match status.split(' ').next() {
                    Some("WARNING") => &["WARNING", "OK"],
                    Some("CRITICAL") if status.contains("od=") => &["WARNING", "CRITICAL", "OK"],
                    Some("CRITICAL") => &["WARNING", "CRITICAL", "DROPPED", "OK"],
                    _ => &[],
                };
                let is_so = match self.mood {
                    Mood::Late => !words.is_empty(),
                    _ => words.contains(&"DROPPED"),
                };
                self.due = now + LOOK;
                if is_so {
                    let (known, unsure) = told.entry(self.id.clone()).or_default();
                    known.extend(words);
                    self.beats(line, story);
                    *unsure |= story.had(DESCRIPTORS, self.since, Instant::now());
                }
            }
        }
    }

    fn becomes(&mut self, mood: Mood) {
        (self.mood, self.since) = (mood, Instant::now());
    }

    fn beats(&mut self, line: &mut Line, story: &Story) {
        self.mood = Mood::Beats;
        let answer = line.get(&format!("/hb_ping?{}&appid={}", self.promised, self.id));
        story.count("beats", 1);
        if answer != (self.promised + 1000).to_string() {
            story.wrong(format!("{}: {answer:?} is the answer to a beat", self.id));
        }
        self.due = Instant::now() + Duration::from_millis(self.promised * 4 / 5);
    }
}

/// A connection to the port, or one for each request.
struct Line {
    server: SocketAddr,
    keeps: bool,
    socket: Option<BufReader<TcpStream>>,
}

impl Line {
    /// The body of the answer. A kept connection may have been closed after a minute without a request.
    fn get(&mut self, target: &str) -> String {
        let socket = self.socket.take().filter(|_| self.keeps);
        if let Some(mut socket) = socket
            && let Ok(body) = ask(&mut socket, target, "keep-alive")
        {
            self.socket = Some(socket);
            return body;
        }
        let socket = TcpStream::connect(self.server).unwrap();
        socket.set_read_timeout(Some(super::support::PATIENCE * 2)).unwrap();
        let mut socket = BufReader::new(socket);
        let body = ask(&mut socket, target, if self.keeps { "keep-alive" } else { "close" });
        self.socket = Some(socket);
        body.unwrap_or_else(|error| format!("{target}: {error}"))
    }
}

fn ask(
    socket: &mut BufReader<TcpStream>,
    target: &str,
    connection: &str,
) -> std::io::Result<String> {
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n");
    socket.get_mut().write_all(request.as_bytes())?;
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if socket.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(String::from_utf8(body).unwrap().trim_end().to_owned())
}

/// Compares what the program was run for with what it must have been run for.
pub fn judge(told: &Told, file: &Path, story: &Story) {
    let mut ran = BTreeMap::<String, Vec<String>>::new();
    for line in lines_of(file) {
        let (id, state) = line.split_once(' ').unwrap();
        ran.entry(id.to_owned()).or_default().push(state.to_owned());
    }
    let nothing = (Vec::new(), false);
    for id in told.keys().chain(ran.keys().filter(|id| !told.contains_key(*id))) {
        let (expected, unsure) = told.get(id).unwrap_or(&nothing);
        let found = ran.get(id).map(Vec::as_slice).unwrap_or_default();
        let mut rest = expected.iter();
        let is_part = found.iter().all(|state| rest.any(|expected| expected == state));
        let is_right = is_part && (*unsure || found.len() == expected.len());
        story.count("transitions of applications", expected.len() as u64);
        story.count("runs of on_overdue", found.len() as u64);
        if !is_right {
            story.wrong(format!("{id}: on_overdue was run for {found:?}, not {expected:?}"));
        }
    }
}
