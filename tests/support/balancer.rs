//! A TCP balancer in front of several servers, each of which can be cut off from the clients.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::tcp_proxy::{CurrentMode, ProxyMode, forward, pause};

struct Server {
    address: SocketAddr,
    mode: CurrentMode,
}

struct Shared {
    servers: Vec<Server>,
    /// Where the next connection is tried first.
    next: AtomicUsize,
    is_stopped: AtomicBool,
}

/// Stops when dropped.
pub struct Balancer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    pub fn to(servers: impl Iterator<Item = SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let servers = servers.map(|address| Server { address, mode: CurrentMode::new() }).collect();
        let (next, is_stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { servers, next, is_stopped });
        let (address, context) = (listener.local_addr().unwrap(), shared.clone());
        let thread = std::thread::spawn(move || accept(&listener, &context));
        Self { address, shared, thread: Some(thread) }
    }

    /// Of the connections to one server.
    pub fn set_mode(&self, server: usize, mode: ProxyMode) {
        self.shared.servers[server].mode.set(mode);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        self.shared.servers.iter().for_each(|server| server.mode.set(ProxyMode::Stopped));
        let thread = self.thread.take();
        thread.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !shared.is_stopped.load(Ordering::Relaxed) {
        let Ok((socket, _)) = listener.accept() else {
            pause();
            continue;
        };
        threads.retain(|thread| !thread.is_finished());
        let context = shared.clone();
        threads.push(std::thread::spawn(move || serve(socket, &context)));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Forwards to the first server that accepts.
fn serve(mut near: TcpStream, shared: &Shared) {
    let first = shared.next.fetch_add(1, Ordering::Relaxed);
    for offset in 0..shared.servers.len() {
        let server = &shared.servers[(first + offset) % shared.servers.len()];
        if server.mode.is(ProxyMode::Cut) {
            continue;
        }
        if let Ok(mut far) = TcpStream::connect_timeout(&server.address, Duration::from_secs(1)) {
            far.set_nonblocking(true).unwrap();
            near.set_nonblocking(true).unwrap();
            return forward(&mut near, &mut far, &server.mode);
        }
    }
}
