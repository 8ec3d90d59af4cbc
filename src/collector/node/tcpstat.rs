//! TCP sockets by state, and data in their queues: two dumps of sock_diag, which cost far less than `/proc/net/tcp`.

use std::ops::ControlFlow;

use nix::sys::socket::AddressFamily;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::tcp_states::TcpStates;
use crate::sys::netlink::{dump_tcp_sockets, u32_at};
use crate::util::error::Error;

/// A dump costs about a microsecond for each socket, and holds locks of the table that new connections need.
const MAX_SOCKETS: u64 = 500_000;

/// `TCP_LISTEN`.
const LISTEN: u8 = 10;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    if !host.shares_host_netns() {
        return None;
    }
    let mut states = TcpStates::default();
    let v4 = count_sockets(&mut states, AddressFamily::Inet);
    let v6 = count_sockets(&mut states, AddressFamily::Inet6);
    match (v4, v6) {
        (Ok(true), Ok(true)) => Some(Measurement::TcpStates(states)),
        // The kernel does not have the module tcp_diag.
        (Ok(false), _) | (_, Ok(false)) => None,
        (Err(error), _) | (_, Err(error)) => {
            host.fail(Error::system("read TCP sockets from sock_diag", error));
            None
        }
    }
}

/// Returns false if the kernel cannot dump sockets.
fn count_sockets(states: &mut TcpStates, family: AddressFamily) -> std::io::Result<bool> {
    let mut left = MAX_SOCKETS;
    let result = dump_tcp_sockets(family, |socket| {
        add_socket(states, socket);
        left = left.saturating_sub(1);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match result {
        Ok(()) if left == 0 => Err(std::io::ErrorKind::FileTooLarge.into()),
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Adds a `struct inet_diag_msg`: family, state, timer and retransmissions have a byte each, then follow the addresses, 48 bytes,
/// when the timer expires, and the bytes in both queues.
fn add_socket(states: &mut TcpStates, socket: &[u8]) {
    const QUEUES_OFFSET: usize = 56;
    let Some(&state) = socket.get(1) else { return };
    let index = usize::from(state).wrapping_sub(1);
    if let Some(count) = states.sockets.get_mut(index) {
        *count += 1;
    }
    // For a listening socket, the queues are numbers of connections.
    if state != LISTEN {
        let bytes = |at| u64::from(u32_at(socket, at).unwrap_or_default());
        states.receive_queued_bytes += bytes(QUEUES_OFFSET);
        states.transmit_queued_bytes += bytes(QUEUES_OFFSET + 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(state: u8, receive: u32, transmit: u32) -> Vec<u8> {
        let mut socket = vec![0; 72];
        socket[1] = state;
        socket[56..60].copy_from_slice(&receive.to_ne_bytes());
        socket[60..64].copy_from_slice(&transmit.to_ne_bytes());
        socket
    }

    #[test]
    fn counts_sockets_and_bytes_in_queues() {
        let mut states = TcpStates::default();
        for (state, receive, transmit) in
            [(1, 5, 7), (1, u32::MAX, 11), (11, 0, 0), (LISTEN, 3, 4096)]
        {
            add_socket(&mut states, &socket(state, receive, transmit));
        }
        assert_eq!(states.sockets, [2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(states.receive_queued_bytes, 5 + u64::from(u32::MAX));
        assert_eq!(states.transmit_queued_bytes, 18, "without those of the listening socket");
    }

    #[test]
    fn ignores_unknown_states_and_truncated_messages() {
        let mut states = TcpStates::default();
        for state in [0, 12, 255] {
            add_socket(&mut states, &socket(state, 0, 0));
        }
        assert_eq!(states, TcpStates::default());
        for end in 0..72 {
            add_socket(&mut TcpStates::default(), &socket(1, 1, 1)[..end]);
        }
    }

    #[test]
    fn counts_listening_socket_of_this_machine() {
        let listeners = |family| {
            let mut states = TcpStates::default();
            count_sockets(&mut states, family)
                .ok()
                .filter(|is_known| *is_known)
                .map(|_| states.sockets[9])
        };
        let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // Not every kernel has the module.
        assert_ne!(listeners(AddressFamily::Inet), Some(0));
    }
}
